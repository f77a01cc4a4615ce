"""Floating-point operations and memory traffic of a trunk, counted from its sizes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


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

    @property
    def inner_matrices(self) -> int:
        return 3 if self.gated else 2


def operations(shape: Shape, lengths: Sequence[int]) -> int:
    """Multiplications and additions of the matrix products for texts of so many tokens, and no padding.

    Four projections of attention and two matrices (three, where a gate is one of them) of the inner layer; scores and
    weighted sums of attention over all pairs of tokens of a text.
    """
    linear = 2 * (4 * shape.hidden**2 + shape.inner_matrices * shape.hidden * shape.inner) * sum(lengths)
    attention = 4 * shape.hidden * sum(length**2 for length in lengths)
    return shape.layers * (linear + attention)


class Peak(NamedTuple):
    """What a device reaches."""

    flops: float
    """Floating-point operations a second, of a large matrix product."""
    bandwidth: float
    """Bytes a second, read and written, of a large copy."""


def floor_seconds(shape: Shape, lengths: Sequence[int], peak: Peak, *, batches: int, size: int) -> float:
    """The roofline: seconds that each kernel of the forward pass takes at least, added up.

    A kernel takes as long as its operations at the peak rate, or as its bytes at the peak bandwidth if that is longer.
    It reads its weights once per batch, reads each input once and writes each output once.

    Args:
        batches: in how many batches the texts pass.
        size: bytes of a number.
    """
    tokens, hidden, inner, ups = sum(lengths), shape.hidden, shape.inner, shape.inner_matrices - 1

    def product(rows: int, columns: int) -> float:
        traffic = size * (batches * rows * columns + tokens * (rows + columns))
        return max(2 * tokens * rows * columns / peak.flops, traffic / peak.bandwidth)

    def elementwise(numbers: int) -> float:
        return size * tokens * numbers / peak.bandwidth

    pairs = sum(length**2 for length in lengths)
    attention = max(4 * hidden * pairs / peak.flops, elementwise(4 * hidden))
    products = product(hidden, 3 * hidden) + product(hidden, hidden) + product(hidden, ups * inner)
    norms, activation = 2 * elementwise(3 * hidden), elementwise((ups + 1) * inner)
    return shape.layers * (products + product(inner, hidden) + attention + norms + activation)
