"""`Packed`: the one batch type. Token ids of several texts end to end, without padding.

T: tokens of all texts; B: texts; S: tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Texts end to end."""

    ids_T: Ids
    positions_T: Ids
    """0, 1, 2, ... within each text."""
    bounds: Ids
    """[B + 1]: text b is ids_T[bounds[b]:bounds[b + 1]]."""

    @property
    def lengths_B(self) -> Ids:
        return np.diff(self.bounds)

    def to_padded(self, pad_id: int = 0) -> Ids:
        """The ids as [B, S], filled up with `pad_id` on the right."""
        lengths_B = self.lengths_B
        ids_BS = np.full((len(lengths_B), int(lengths_B.max(initial=0))), pad_id, dtype=np.int64)
        ids_BS[np.arange(ids_BS.shape[1]) < lengths_B[:, None]] = self.ids_T
        return ids_BS


def pack(ids_per_text: Sequence[Ids]) -> Packed:
    """Token ids of texts, end to end, in their order."""
    bounds = np.zeros(len(ids_per_text) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in ids_per_text], out=bounds[1:])
    ids_T = np.concatenate(ids_per_text) if ids_per_text else np.zeros(0, np.int64)
    positions_T = np.arange(len(ids_T)) - np.repeat(bounds[:-1], np.diff(bounds))
    return Packed(ids_T, positions_T, bounds)


def slice_texts(packed: Packed, start: int, stop: int) -> Packed:
    """The texts start..stop - 1 of a batch; nothing is copied but the bounds."""
    tokens = slice(int(packed.bounds[start]), int(packed.bounds[stop]))
    return Packed(packed.ids_T[tokens], packed.positions_T[tokens], packed.bounds[start : stop + 1] - tokens.start)


def split_per_text(values_T: NDArray[np.float32], packed: Packed) -> list[NDArray[np.float32]]:
    """Per-token values [T, ...] as one array a text."""
    return [values_T[start:stop] for start, stop in zip(packed.bounds[:-1], packed.bounds[1:], strict=True)]
