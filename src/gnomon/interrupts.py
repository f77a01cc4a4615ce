"""Ctrl-C that leaves no library half imported: what is left so crashes later, or says that it is not installed."""

from __future__ import annotations

import atexit
import signal
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
    if imports(frame) and hasattr(signal, "setitimer"):  # Windows has none
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # an alarm without a handler kills
        return
    raise KeyboardInterrupt


def imports(frame: FrameType | None) -> int:
    """How many calls of the import system are under way."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(_IMPORTS)
        frame = frame.f_back
    return count
