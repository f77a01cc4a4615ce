"""Handles Ctrl-C so that it does not interrupt an import.

A library that is half imported crashes later, or seems not to be installed.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable
from types import FrameType

EXIT_STATUS = 130
"""Of a process that Ctrl-C ended, as shells report SIGINT."""

RETRY_SECONDS = 0.05
"""A signal that came during an import is handled again after so many seconds."""

_IMPORT_FILE_PREFIX = "<frozen importlib"
"""How the names of the files of Python's import system begin."""

_interrupted = False


def install_handler() -> None:
    """Let Ctrl-C raise KeyboardInterrupt only after an import has ended. Call it in the main thread."""
    signal.signal(signal.SIGINT, _handle_interrupt)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed. Libraries may have turned it into an error of their own."""
    return _interrupted


def _handle_interrupt(signum: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    if not (count_import_frames(frame) and call_handler_later(_handle_interrupt, signum)):
        raise KeyboardInterrupt


def call_handler_later(handler: Callable[[int, FrameType | None], object], signum: int) -> bool:
    """Call a signal handler again after a moment. Returns False if the system has no timer for it (Windows)."""
    if not hasattr(signal, "setitimer"):
        return False
    signal.signal(signal.SIGALRM, lambda _, frame: handler(signum, frame))
    signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
    atexit.register(cancel_handler_call)  # an alarm without a handler ends the process
    return True


def cancel_handler_call() -> None:
    """Cancel the call that `call_handler_later` has scheduled."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def count_import_frames(frame: FrameType | None) -> int:
    """How many calls of the import system are on the stack."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(_IMPORT_FILE_PREFIX)
        frame = frame.f_back
    return count
