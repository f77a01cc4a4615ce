"""`Buckets`: packed texts as rectangles, texts of about one length in each, and back again.

T: rows of all texts; P: places in all rectangles; B: texts of one; S: its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHORT = 256
"""Longer texts are a bucket by themselves, or with others of the same length."""

NARROWEST = 16
"""Widths of lengths that are one bucket: an eighth of the next power of two, and no less than this."""


@dataclass(frozen=True)
class Buckets:
    """Where each row of packed texts goes."""

    texts: list[int]
    """Of each bucket."""
    lengths: list[int]
    """To which its texts are padded."""
    rows_P: Tensor
    """The row in each place; any at an empty one."""
    places_T: Tensor
    """The place of each row."""
    empty_E: Tensor
    """Places without a row."""
    masks: list[Tensor | None]
    """[B, 1, 1, S]: minus infinity at empty places of a bucket, 0 elsewhere; None where it has none."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Buckets:
        """Neighbours of about one length are a bucket, so texts come best in order of length."""
        bounds = [at for at in range(1, len(lengths)) if _bucket(lengths[at]) != _bucket(lengths[at - 1])]
        groups = np.split(np.asarray(lengths, np.int64), bounds)
        starts = np.cumsum([0, *lengths])
        rows, masks, first = [np.zeros(0, np.int64)], list[Tensor | None](), 0
        reals = [np.zeros(0, bool)]
        for lengths_B in groups:
            places_S = np.arange(lengths_B.max(initial=0))
            real_BS = places_S < lengths_B[:, None]
            begin_B = starts[first : first + len(lengths_B)]
            rows.append((begin_B[:, None] + np.minimum(places_S, lengths_B[:, None] - 1)).ravel())
            reals.append(real_BS.ravel())
            masks.append(None if real_BS.all() else _mask(real_BS, device))
            first += len(lengths_B)
        rows_P, real_P = np.concatenate(rows), np.concatenate(reals)
        return cls(
            texts=[len(group) for group in groups],
            lengths=[int(group.max(initial=0)) for group in groups],
            rows_P=torch.from_numpy(rows_P).to(device),
            places_T=torch.from_numpy(np.flatnonzero(real_P)).to(device),
            empty_E=torch.from_numpy(np.flatnonzero(~real_P)).to(device),
            masks=masks,
        )

    @property
    def places(self) -> list[int]:
        """Of each bucket."""
        return [texts * length for texts, length in zip(self.texts, self.lengths, strict=True)]

    def spread(self, x: Tensor) -> Tensor:
        """[T, ...] -> [P, ...], zero at empty places; x itself where none is empty."""
        if not len(self.empty_E):
            return x
        return _Moved.apply(x, self.rows_P, self.empty_E, self.places_T, None)  # pyright: ignore[reportReturnType]

    def packed(self, x: Tensor) -> Tensor:
        """[P, ...] -> [T, ...]: the way back."""
        if not len(self.empty_E):
            return x
        return _Moved.apply(x, self.places_T, None, self.rows_P, self.empty_E)  # pyright: ignore[reportReturnType]


class _Moved(torch.autograd.Function):
    """Rows of x in another order. Its gradient is the move back, where torch's own would add row by row."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, empty: Tensor | None, index_back: Tensor, empty_back: Tensor | None
    ) -> Tensor:
        ctx.back = index_back, empty_back
        return _moved(x, index, empty)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _moved(gradients[0], *ctx.back), None, None, None, None


def _moved(x: Tensor, index: Tensor, empty: Tensor | None) -> Tensor:
    out = x.index_select(0, index)
    return out if empty is None else out.index_fill_(0, empty, 0)


def _bucket(length: int) -> tuple[int, int]:
    """What texts of one bucket share."""
    width = max(NARROWEST, (1 << (length - 1).bit_length()) // 8) if length <= SHORT else 1
    return width, -(-length // width)


def _mask(real_BS: np.ndarray[Any, np.dtype[np.bool_]], device: torch.device) -> Tensor:
    mask_BS = np.where(real_BS, np.float32(0), np.float32(-np.inf))
    return torch.from_numpy(mask_BS)[:, None, None].to(device)
