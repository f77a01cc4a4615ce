"""A table of token vectors: lookup and mean, in numpy. No runtime needed.

T: tokens of all texts; B: texts; D: dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.batching import NO_PADDING
from gnomon.engines.protocol import Engine, closed_error
from gnomon.packed import Packed, Vectors
from gnomon.spec import StaticSpec

VALUES_PER_BLOCK = 1 << 16
"""Numbers of the table that are looked up at once: half a megabyte in float64, so that they stay in a core's cache."""


class StaticEngine(Engine):
    """The mean of the token vectors; a text without tokens is the zero vector.

    All tokens of a text count: these models have no pooling that leaves out a prompt, and no token types.
    """

    name = identity = "static table, numpy"
    padding = NO_PADDING
    token_budget = 65536

    def __init__(self, spec: StaticSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.unk_id = spec.unk_id
        self._table: NDArray[Any] | None = arrays["embed.tokens"]

    @property
    def table(self) -> NDArray[Any]:
        table = self._table
        if table is None:
            raise closed_error()
        return table

    def budget(self, total_tokens: int) -> int:
        return self.token_budget

    def pool(self, packed: Packed) -> Vectors:
        table, ids_T, bounds = self.table, packed.ids_T, packed.bounds
        if self.unk_id is not None:
            counted_T = ids_T != self.unk_id
            ids_T, bounds = ids_T[counted_T], np.concatenate([[0], np.cumsum(counted_T)])[bounds]
        lengths_B = np.diff(bounds)
        filled = np.flatnonzero(lengths_B)  # reduceat would give an empty text its neighbour's token
        sums_BD = np.zeros((len(lengths_B), table.shape[1]))
        block = max(1, VALUES_PER_BLOCK // table.shape[1])
        for texts in _group_texts(filled, bounds, block):
            starts, end = bounds[texts], bounds[texts[-1] + 1]
            # a text of more tokens than that is alone, and its parts are added one after the other
            for first in range(starts[0], end, block):
                states_TD = table[ids_T[first : min(first + block, end)]].astype(np.float64)
                sums_BD[texts] += np.add.reduceat(states_TD, starts - first if first == starts[0] else [0])
        sums_BD /= np.maximum(lengths_B, 1)[:, None]
        return sums_BD.astype(np.float32)

    def states(self, packed: Packed) -> Vectors:
        return np.asarray(self.table[packed.ids_T], dtype=np.float32)

    def close(self) -> None:
        super().close()
        self._table = None


def _group_texts(texts_B: NDArray[np.int64], bounds: NDArray[np.int64], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Neighbours among these texts, with at most so many tokens together, or one text of more."""
    ends_B = bounds[texts_B + 1]
    index = 0
    while index < len(texts_B):
        start = bounds[texts_B[index]]
        stop = max(index + 1, int(np.searchsorted(ends_B, start + max_tokens, side="right")))
        yield texts_B[index:stop]
        index = stop
