"""How many tokens pass the model at once: the recipe's `chunk_tokens`, or what fits into memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnomon.spec import ModelSpec, StaticSpec
from gnomon.train.recipe.schema import Recipe

PASS_BYTES = 2 << 30
"""Memory that the activations of one pass may take on a CPU, where a recipe does not give chunk_tokens."""

PASS_SHARE = 0.15
"""The share of a GPU's memory that takes the place of PASS_BYTES there."""

CPU_CHUNK = 4096
"""Tokens of a chunk on a CPU, where a batch does not fit into one pass. Larger chunks were slower and take more memory
(docs/records/training-speed.md).
"""

ACTIVATIONS_PER_UNIT = 22
"""float32 numbers that a layer needs for its gradient, per token and hidden unit, with dropout. Of these 14 are stored,
for texts of 128 tokens; the others are working memory.
"""

STATIC_TOKENS = 65_536
"""Tokens of a chunk for a static table, which stores one row per token and nothing else."""


@dataclass(frozen=True)
class Chunking:
    """A batch of at most `one_pass_tokens` passes the model at once; a larger one in chunks of `chunk_tokens`."""

    one_pass_tokens: int
    chunk_tokens: int

    def chunk_tokens_for(self, tokens: int) -> int:
        """The tokens of a chunk, for a batch with this many tokens."""
        return self.one_pass_tokens if tokens <= self.one_pass_tokens else self.chunk_tokens


def choose_chunking(recipe: Recipe, spec: ModelSpec, device: torch.device) -> Chunking:
    """The recipe's chunk_tokens, or a default that fits into memory.

    A batch whose activations fit into PASS_BYTES, or into a GPU's share, passes at once. A larger batch passes in small
    chunks on a CPU, and in chunks of that size on a GPU.
    """
    if recipe.chunk_tokens:
        return Chunking(recipe.chunk_tokens, recipe.chunk_tokens)
    if isinstance(spec.trunk, StaticSpec):
        return Chunking(STATIC_TOKENS, STATIC_TOKENS)
    pass_bytes = PASS_BYTES
    if device.type == "cuda":
        pass_bytes = int(PASS_SHARE * torch.cuda.get_device_properties(device).total_memory)
    bytes_per_token = ACTIVATIONS_PER_UNIT * 4 * spec.trunk.hidden_size * spec.trunk.num_layers
    tokens = max(512, pass_bytes // bytes_per_token)
    return Chunking(tokens, tokens if device.type == "cuda" else min(tokens, CPU_CHUNK))
