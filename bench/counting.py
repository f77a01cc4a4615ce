"""Counting: operations, padding, summaries, orders. Pure functions on numbers; nothing but the standard library."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shape:
    """A trunk's sizes."""

    hidden: int
    layers: int
    inner: int
    gated: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Shape":
        """As config.json says."""
        config = json.loads((folder / "config.json").read_text("utf-8"))
        gated = config["model_type"] in ("new", "gte")
        return cls(config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"], gated)


def operations(shape: Shape, lengths: Sequence[int]) -> int:
    """Multiplications and additions of the matrix products for texts of so many tokens, and no padding.

    Four projections of attention and two matrices (three, where a gate is one of them) of the inner layer; scores and
    weighted sums of attention over all pairs of tokens of a text.
    """
    inner = (3 if shape.gated else 2) * shape.hidden * shape.inner
    linear = 2 * (4 * shape.hidden**2 + inner) * sum(lengths)
    attention = 4 * shape.hidden * sum(length**2 for length in lengths)
    return shape.layers * (linear + attention)


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def padded(batches: Sequence[Sequence[int]]) -> int:
    """Tokens that are computed where each batch is filled up to its longest text."""
    return sum(len(batch) * max(batch) for batch in batches if batch)


def padded_in_order(lengths: Sequence[int], characters: Sequence[int], size: int) -> int:
    """Batches of `size` texts as they come."""
    return padded(cut(lengths, size))


def padded_by_characters(lengths: Sequence[int], characters: Sequence[int], size: int) -> int:
    """Batches of `size` texts, all texts sorted by their number of characters, longest first."""
    order = sorted(range(len(lengths)), key=lambda at: -characters[at])
    return padded(cut([lengths[at] for at in order], size))


def padded_by_window(lengths: Sequence[int], characters: Sequence[int], size: int, batches: int = 8) -> int:
    """Batches of `size` texts, sorted within windows of so many batches."""
    windows = zip(cut(lengths, size * batches), cut(characters, size * batches), strict=True)
    return sum(padded_by_characters(tokens, width, size) for tokens, width in windows)


def waste(real: int, computed: int) -> float:
    """Share of padding in what is computed."""
    return 1 - real / computed if computed else 0.0


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    at = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in QUANTILES.items()}
    return at | {"calls": len(ordered)}


QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The same items, another one first in each round."""
    first = turn % len(items) if items else 0
    return [*items[first:], *items[:first]]


def best_size(sizes: Sequence[int], start: int, seconds: Callable[[int], float]) -> int:
    """The fastest of a few batch sizes, walked from `start` up and then down for as long as it gets faster."""
    took = {start: seconds(start)}
    above = [size for size in sizes if size > start]
    below = [size for size in reversed(sizes) if size < start]
    for way in (above, below):
        last = start
        for size in way:
            took[size] = seconds(size)
            if took[size] >= took[last]:
                break
            last = size
    return min(took, key=lambda size: took[size])


def slope(seconds_per_text: dict[int, float]) -> float:
    """How much more a text costs at the largest number of texts than at the one before it, as a share."""
    smaller, larger = sorted(seconds_per_text)[-2:]
    return seconds_per_text[larger] / seconds_per_text[smaller] - 1
