"""A table of token vectors: lookup and mean, in numpy. No runtime needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.engines import Engine, Vectors
from gnomon.packed import Packed
from gnomon.spec import StaticSpec


class StaticEngine(Engine):
    """The mean of the token vectors; a text without tokens is the zero vector."""

    name = "static table, numpy"
    pads = False
    token_budget = 65536

    def __init__(self, spec: StaticSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.unk_id = spec.unk_id
        self.table = arrays["embed.tokens"]

    def budget(self, tokens: int) -> int:
        return self.token_budget

    def pool(self, packed: Packed, prompt_tokens: int = 0) -> Vectors:
        counted_T = packed.ids_T != self.unk_id if self.unk_id is not None else np.ones(len(packed.ids_T), bool)
        lengths_B = packed.lengths_B
        states_TD = self.states(packed).astype(np.float64) * counted_T[:, None]
        sums_BD = np.zeros((len(lengths_B), self.table.shape[1]))
        filled = lengths_B > 0  # reduceat would give an empty text its neighbour's token
        if filled.any():
            starts = packed.bounds[:-1][filled]
            sums_BD[filled] = np.add.reduceat(states_TD, starts)
            counts_B = np.zeros(len(lengths_B))
            counts_B[filled] = np.add.reduceat(counted_T.astype(np.float64), starts)
            sums_BD /= np.maximum(counts_B, 1)[:, None]
        return sums_BD.astype(np.float32)

    def states(self, packed: Packed) -> Vectors:
        return np.asarray(self.table[packed.ids_T], dtype=np.float32)
