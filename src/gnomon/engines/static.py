"""A table of token vectors: lookup and mean, in numpy. No runtime needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.engines import Vectors
from gnomon.packed import Packed
from gnomon.spec import StaticSpec


class StaticEngine:
    """The mean of the token vectors; a text without tokens is the zero vector."""

    name = "static table, numpy"
    token_budget = 65536

    def __init__(self, spec: StaticSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.unk_id = spec.unk_id
        self.table = arrays["embed.tokens"]

    def pool(self, packed: Packed, prompt_tokens: int = 0) -> Vectors:
        counted_T = packed.ids_T != self.unk_id if self.unk_id is not None else np.ones(len(packed.ids_T), bool)
        states_TD = self.states(packed) * counted_T[:, None]
        text_T = np.repeat(np.arange(len(packed.lengths_B)), packed.lengths_B)
        sums_BD = np.zeros((len(packed.lengths_B), self.table.shape[1]))
        np.add.at(sums_BD, text_T, states_TD)
        counts_B = np.bincount(text_T, weights=counted_T, minlength=len(sums_BD))
        return (sums_BD / np.maximum(counts_B, 1)[:, None]).astype(np.float32)

    def states(self, packed: Packed) -> Vectors:
        return np.asarray(self.table[packed.ids_T], dtype=np.float32)
