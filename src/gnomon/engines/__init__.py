"""Engines: token ids in, vectors out. Each knows a spec and arrays, and nothing of where they came from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gnomon.packed import Packed

Vectors = NDArray[np.float32]


class Engine(Protocol):
    """What encode, serve, search and evaluate see of a runtime. Safe to call from several threads."""

    name: str
    token_budget: int
    """Tokens of a batch that runs well, padding counted."""

    def pool(self, packed: Packed, prompt_tokens: int) -> Vectors:
        """Pooled vectors [B, width] in front of the heads; `prompt_tokens` are left out where the model leaves the
        prompt out.
        """
        ...

    def states(self, packed: Packed) -> Vectors:
        """Token states [T, H] of the last layer."""
        ...
