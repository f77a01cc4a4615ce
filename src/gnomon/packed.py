"""`Packed`: the one batch type. Token ids of several texts, one text after the other, without padding.

T: tokens of all texts; B: texts; S: tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Packed:
    """A batch of texts as token ids, one text after the other."""

    ids_T: Ids
    positions_T: Ids
    """0, 1, 2, ... within each text."""
    bounds: Ids
    """[B + 1]: text b is ids_T[bounds[b]:bounds[b + 1]]."""
    skip_B: Ids | None = None
    """How many first tokens of each text pooling leaves out (a prompt's); None leaves out none."""
    types_T: Ids | None = None
    """Token types: the row of the token type table for each token; None is row 0 for all."""

    @property
    def lengths_B(self) -> Ids:
        return np.diff(self.bounds)


def pack(
    ids_per_text: Sequence[Ids],
    *,
    skip_B: Sequence[int] | Ids | None = None,
    types_per_text: Sequence[Ids] | None = None,
) -> Packed:
    """One batch from the token ids of texts, in their order. The other arguments are fields of `Packed`."""
    bounds = np.zeros(len(ids_per_text) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in ids_per_text], out=bounds[1:])
    ids_T = _concatenate(ids_per_text)
    positions_T = np.arange(len(ids_T)) - np.repeat(bounds[:-1], np.diff(bounds))
    skips = None if skip_B is None else np.asarray(skip_B, dtype=np.int64)
    types_T = None if types_per_text is None else _concatenate(types_per_text)
    assert skips is None or len(skips) == len(ids_per_text)
    assert types_T is None or len(types_T) == len(ids_T)
    return Packed(ids_T, positions_T, bounds, skips, types_T)


def slice_texts(packed: Packed, start: int, stop: int) -> Packed:
    """The texts start..stop - 1 of a batch; nothing is copied but the bounds."""
    tokens = slice(int(packed.bounds[start]), int(packed.bounds[stop]))
    return Packed(
        packed.ids_T[tokens],
        packed.positions_T[tokens],
        packed.bounds[start : stop + 1] - tokens.start,
        None if packed.skip_B is None else packed.skip_B[start:stop],
        None if packed.types_T is None else packed.types_T[tokens],
    )


def split_per_text(values_T: NDArray[np.float32], packed: Packed) -> list[NDArray[np.float32]]:
    """Per-token values [T, ...] as one array per text."""
    return [values_T[start:stop] for start, stop in zip(packed.bounds[:-1], packed.bounds[1:], strict=True)]


def padded_tokens(packed: Packed) -> Ids:
    """[B, S]: the token, of the T, at each place of the padded batch; where a text has ended, its last one."""
    places_S = np.arange(int(packed.lengths_B.max(initial=0)))
    return np.minimum(packed.bounds[:-1, None] + places_S, packed.bounds[1:, None] - 1)


def padded_places(packed: Packed) -> Ids:
    """[T]: the place of each token among the B * S of the padded batch."""
    lengths_B = packed.lengths_B
    longest = int(lengths_B.max(initial=0))
    return packed.positions_T + np.repeat(np.arange(len(lengths_B)) * longest, lengths_B)


def _concatenate(arrays: Sequence[Ids]) -> Ids:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
