"""Ctrl-C that leaves no library half imported: what is left so crashes later, or says that it is not installed."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable
from types import FrameType

RETRY_SECONDS = 0.05
"""Seconds until a signal that came within an import is looked at again."""

_IMPORT_FILE_PREFIX = "<frozen importlib"
"""How Python calls the files of its own import system."""

_interrupted = False


def install_handler() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt as always, but an import is ended first. For the main thread."""
    signal.signal(signal.SIGINT, _handle_interrupt)


def was_interrupted() -> bool:
    """Whether there was an interrupt: libraries may have turned it into an error of their own."""
    return _interrupted


def _handle_interrupt(signum: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    if not (count_import_frames(frame) and call_handler_later(_handle_interrupt, signum)):
        raise KeyboardInterrupt


def call_handler_later(handler: Callable[[int, FrameType | None], object], signum: int) -> bool:
    """Call a handler of a signal once more in a moment. False where the system has no timer for it (Windows)."""
    if not hasattr(signal, "setitimer"):
        return False
    signal.signal(signal.SIGALRM, lambda _, frame: handler(signum, frame))
    signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
    atexit.register(cancel_handler_call)  # an alarm without a handler ends the process
    return True


def cancel_handler_call() -> None:
    """What `later` promised is not done."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def count_import_frames(frame: FrameType | None) -> int:
    """How many calls of the import system are under way."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(_IMPORT_FILE_PREFIX)
        frame = frame.f_back
    return count
