"""Warnings that point at the caller's own line, from however deep inside this package."""

from __future__ import annotations

import inspect
import warnings
from functools import cache

from gnomon.errors import Notice


def warn_caller(message: str | Notice) -> None:
    """Issue a warning that points at the last line outside this package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gnomon":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, Notice, stacklevel=level)


@cache
def warn_once(message: str) -> None:
    """Issue a warning once per process."""
    warn_caller(message)
