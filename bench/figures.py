"""Summaries of measured values, and tables of them."""

import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    at = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in QUANTILES.items()}
    return at | {"calls": len(ordered)}


def summarize_latencies(values: Sequence[float]) -> dict[str, float] | None:
    """Median, p90, p99 and highest, or None without values."""
    if not values:
        return None
    ordered = sorted(values)
    at = {f"p{share}": ordered[math.ceil(share / 100 * len(ordered)) - 1] for share in (50, 90, 99)}
    return at | {"highest": ordered[-1], "count": len(ordered)}


def turns(items: Sequence[Item], rounds: int) -> Iterator[Item]:
    """Every item once in each round, another one first each time."""
    for turn in range(rounds if items else 0):
        first = turn % len(items)
        yield from (*items[first:], *items[:first])


def spread(values: Mapping[str, float], digits: int = 2) -> str:
    """A summary as text: the median, and in brackets the lowest and the highest."""
    return f"{values['median']:.{digits}f} ({values['lowest']:.{digits}f} to {values['highest']:.{digits}f})"


def print_table(head: Sequence[object], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A Markdown table, to be read or pasted into docs/. A column of nothing but dashes is left out."""
    columns = [at for at in range(len(head)) if not rows or any(row[at] != "-" for row in rows)]
    print(f"\n{title}\n" if title else "")
    print(f"| {' | '.join(str(head[at]) for at in columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(row[at]) for at in columns)} |")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
