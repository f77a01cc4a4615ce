"""Ctrl-C that leaves no library half imported: what is left so crashes later, or says that it is not installed."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable
from types import FrameType

AGAIN = 0.05
"""Seconds until a signal that came within an import is looked at again."""

_IMPORTS = "<frozen importlib"
"""How Python calls the files of its own import system."""

_came = False


def watch() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt as always, but an import is ended first. For the main thread."""
    signal.signal(signal.SIGINT, _interrupt)


def came() -> bool:
    """Whether there was an interrupt: libraries may have turned it into an error of their own."""
    return _came


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    if not (imports(frame) and later(_interrupt, number)):
        raise KeyboardInterrupt


def later(handler: Callable[[int, FrameType | None], object], number: int) -> bool:
    """Call a handler of a signal once more in a moment. False where the system has no timer for it (Windows)."""
    if not hasattr(signal, "setitimer"):
        return False
    signal.signal(signal.SIGALRM, lambda _, frame: handler(number, frame))
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    atexit.register(forget)  # an alarm without a handler ends the process
    return True


def forget() -> None:
    """What `later` promised is not done."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def imports(frame: FrameType | None) -> int:
    """How many calls of the import system are under way."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(_IMPORTS)
        frame = frame.f_back
    return count
