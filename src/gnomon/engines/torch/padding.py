"""`PaddedBuckets`: packed texts as rectangles, texts of about one length in each, and back again.

T: rows of all texts; P: places in all rectangles; B: texts of one; S: its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_PADDED_LENGTH = 256
"""Longer texts are a bucket by themselves, or with others of the same length."""

MIN_LENGTH_STEP = 16
"""Lengths of one bucket lie within an eighth of the next power of two, or within this where that is less."""


@dataclass(frozen=True)
class PaddedBuckets:
    """Where each row of packed texts goes."""

    texts_per_bucket: list[int]
    """Number of texts in each bucket."""
    padded_lengths: list[int]
    """Length to which the texts of each bucket are padded."""
    rows_P: Tensor
    """The row in each place; any at an empty one."""
    slots_T: Tensor
    """The place of each row."""
    empty_slots_E: Tensor
    """Places without a row."""
    masks: list[Tensor | None]
    """[B, 1, 1, S]: minus infinity at empty places of a bucket, 0 elsewhere; None where it has none."""

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device) -> PaddedBuckets:
        """Neighbours of about one length are a bucket, so texts come best in order of length."""
        bounds = [at for at in range(1, len(lengths)) if _bucket_length(lengths[at]) != _bucket_length(lengths[at - 1])]
        groups = np.split(np.asarray(lengths), bounds)
        reals = [np.arange(lengths_B.max()) < lengths_B[:, None] for lengths_B in groups]
        real_P = np.concatenate([real_BS.ravel() for real_BS in reals])
        # an empty slot has the row before it
        rows_P, places_T, empty_E = np.cumsum(real_P) - 1, np.flatnonzero(real_P), np.flatnonzero(~real_P)
        return cls(
            texts_per_bucket=[len(real_BS) for real_BS in reals],
            padded_lengths=[real_BS.shape[1] for real_BS in reals],
            rows_P=torch.from_numpy(rows_P).to(device),
            slots_T=torch.from_numpy(places_T).to(device),
            empty_slots_E=torch.from_numpy(empty_E).to(device),
            masks=[None if real_BS.all() else _padding_mask(real_BS).to(device) for real_BS in reals],
        )

    @property
    def slots_per_bucket(self) -> list[int]:
        """Number of slots in each bucket, padding included."""
        return [texts * length for texts, length in zip(self.texts_per_bucket, self.padded_lengths, strict=True)]

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] -> [P, ...], zero at empty places; x itself where none is empty."""
        if not len(self.empty_slots_E):
            return x
        return _MoveRows.apply(x, self.rows_P, self.empty_slots_E, self.slots_T, None)  # pyright: ignore[reportReturnType]

    def unpad(self, x: Tensor) -> Tensor:
        """[P, ...] -> [T, ...]: the way back."""
        if not len(self.empty_slots_E):
            return x
        return _MoveRows.apply(x, self.slots_T, None, self.rows_P, self.empty_slots_E)  # pyright: ignore[reportReturnType]


class _MoveRows(torch.autograd.Function):
    """Rows of x in another order. Its gradient is the move back, where torch's own would add row by row."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, empty: Tensor | None, index_back: Tensor, empty_back: Tensor | None
    ) -> Tensor:
        ctx.reverse = index_back, empty_back
        return _move_rows(x, index, empty)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _move_rows(gradients[0], *ctx.reverse), None, None, None, None


def _move_rows(x: Tensor, index: Tensor, empty: Tensor | None) -> Tensor:
    out = x.index_select(0, index)
    return out if empty is None else out.index_fill_(0, empty, 0)


def _bucket_length(length: int) -> int:
    """The most that a text of the same bucket may have."""
    step = max(MIN_LENGTH_STEP, (1 << (length - 1).bit_length()) // 8) if length <= MAX_PADDED_LENGTH else 1
    return -(-length // step) * step


def _padding_mask(real_BS: NDArray[np.bool_]) -> Tensor:
    return torch.where(torch.from_numpy(real_BS), 0.0, -torch.inf)[:, None, None]
