"""Progress on stderr: bars in a terminal, lines in a log. tqdm is imported when the first bar is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

SCALED_TOTAL = 10_000
"""From this total on, counts of a bar are scaled. Scaled small ones have decimals: "4.00/4.00".
"""

DELAY = 2.0
"""Seconds of work before a bar is shown in a terminal: short work shows none."""


def shows_progress(show: bool | None) -> bool:
    """Whether a bar is shown: as requested; for None, only where stderr is a terminal."""
    return bool(sys.stderr and sys.stderr.isatty()) if show is None else show


def shows_lines(show: bool | None) -> bool:
    """Whether lines take the place of a bar: for None, where stderr is not a terminal but a pipe or a log of CI."""
    return show is None and sys.stderr is not None and not shows_progress(None)


def print_line(text: str) -> None:
    """Print a line of progress on stderr at once. A reader that is gone does not end the work."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """A time in its two largest units, rounded: "45 s", "4 min 10 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def progress_bar(
    total: float | None,
    description: str,
    unit: str,
    *,
    show: bool | None = None,
    leave: bool | None = None,
    initial: float = 0,
) -> Generator[Callable[[float], object]]:
    """A bar, as a function that adds to what is done.

    Args:
        total: how much there is to do, in units; None where it is not known.
        unit: what is counted, such as "texts"; "B" counts bytes.
        show: True, False, or None for work of over two seconds in a terminal.
        leave: whether the bar stays when it ends; None for one that was requested.
        initial: how much was done before.
    """
    if not shows_progress(show):
        yield lambda count: None
        return
    leave = bool(show) if leave is None else leave
    with open_bar(total, description, unit, delay=0 if show else DELAY, leave=leave, initial=initial) as bar:
        yield bar.update


def open_bar(total: float | None, description: str, unit: str, **options: Any) -> Any:
    """A tqdm bar on stderr; `options` are tqdm's own. Bytes and large counts are scaled (12k), by default."""
    from tqdm import tqdm

    spaced = unit if unit == "B" else f" {unit}"
    settings: dict[str, Any] = {"unit_scale": unit == "B" or total is None or total >= SCALED_TOTAL} | options
    return tqdm(total=total, desc=description, unit=spaced, file=sys.stderr, **settings)
