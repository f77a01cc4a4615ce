"""What the trunk of a model computes: a transformer, or a table of token vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "identity"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embeddings. Component i of an attention head is paired with component i + head_size / 2."""

    theta: float
    ntk_factor: float | None = None
    """Fixed NTK scaling, for texts of every length; None for no scaling."""

    def frequencies(self, head_size: int) -> NDArray[np.float64]:
        """Radians per position, [head_size / 2]. Scaled as NTKScalingRotaryEmbedding in the code of gte-v1.5."""
        exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
        if self.ntk_factor is None:
            return self.theta**-exponents
        return (self.theta * self.ntk_factor) ** -exponents / self.ntk_factor ** (2 / head_size)


@dataclass(frozen=True)
class TrunkSpec:
    """A bidirectional transformer encoder with its LayerNorms after each sum (post-norm), such as BERT."""

    vocab_size: int
    """Rows of the token embedding table."""
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    """Rows of the position embedding table; 0 where there is no table (rotary positions)."""
    position_offset: int = 0
    """Row of the position table for the first token: 0 in BERT, padding id + 1 in RoBERTa."""
    pad_id: int | None = None
    """Set where a padding id inside a text takes row `pad_id` and is not counted as a position (RoBERTa)."""
    num_token_types: int = 0
    """Rows of the token type embedding table; 0 where there is no table. Single texts use row 0 for every token."""
    activation: Activation = "gelu"
    gated: bool = False
    """A feed-forward of `down(up * activation(gate))`, with a bias in `down` alone; else `down(activation(up))`."""
    norm_eps: float = 1e-12
    rope: RopeSpec | None = None

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_tokens(self) -> int | None:
        """The longest text that the position table allows, in tokens; None where there is no table."""
        return self.max_positions - self.position_offset if self.max_positions else None


@dataclass(frozen=True)
class MlmSpec:
    """The masked-language-model head: `decoder(norm(activation(dense(states))))`, logits over the vocabulary.

    Vectors do not depend on it, and the fingerprint leaves it out.
    """

    activation: Activation
    tied: bool
    """Whether the decoder's weight is the token embedding table. Its bias is always its own."""
    norm_eps: float


@dataclass(frozen=True)
class StaticSpec:
    """A table of token vectors; the vector of a text is their mean (StaticEmbedding, model2vec)."""

    vocab_size: int
    """Rows of the table."""
    hidden_size: int
    model2vec: bool = False
    """Whether unknown tokens are left out of the mean, as in model2vec; sentence-transformers counts them."""
    unk_id: int | None = None
    """The unknown token's id, where it is left out."""


def trunk_shapes(trunk: TrunkSpec | StaticSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every array of a trunk. Linear weights are [out, in], as in checkpoints."""
    if isinstance(trunk, StaticSpec):
        return {"embed.tokens": (trunk.vocab_size, trunk.hidden_size)}
    hidden, inner = trunk.hidden_size, trunk.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"embed.tokens": (trunk.vocab_size, hidden)}
    if trunk.max_positions:
        shapes["embed.positions"] = (trunk.max_positions, hidden)
    if trunk.num_token_types:
        shapes["embed.types"] = (trunk.num_token_types, hidden)
    shapes |= _weight_and_bias("embed.norm", (hidden,))
    for index in range(trunk.num_layers):
        layer = f"layers.{index}"
        for name in ("query", "key", "value", "out"):
            shapes |= _weight_and_bias(f"{layer}.{name}", (hidden, hidden))
        shapes |= _weight_and_bias(f"{layer}.attn_norm", (hidden,)) | _weight_and_bias(f"{layer}.mlp_norm", (hidden,))
        if trunk.gated:
            shapes |= {f"{layer}.up.weight": (inner, hidden), f"{layer}.gate.weight": (inner, hidden)}
        else:
            shapes |= _weight_and_bias(f"{layer}.up", (inner, hidden))
        shapes |= _weight_and_bias(f"{layer}.down", (hidden, inner))
    return shapes


def _weight_and_bias(name: str, weight_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight_shape, f"{name}.bias": weight_shape[:1]}
