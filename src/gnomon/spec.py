"""What a model computes, in our own words: frozen dataclasses that the lowerings read.

Foreign names (Hugging Face, sentence-transformers, model2vec) are translated into these by `checkpoint/`; the engines
know nothing else. Names of the arrays that go with a spec are listed by `arrays_of`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "identity"]
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]

POOLING_MODES: tuple[PoolingMode, ...] = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""All modes, in the order in which sentence-transformers concatenates several."""


@dataclass(frozen=True)
class RopeSpec:
    """Rotary positions: component i of a head is paired with component i + head_size / 2."""

    theta: float
    ntk_factor: float | None = None
    """Fixed NTK scaling, for every length (short texts too); None for none."""

    def frequencies(self, head_size: int) -> NDArray[np.float64]:
        """Radians per position, [head_size / 2]. Source of the scaled form: NTKScalingRotaryEmbedding of the gte-v1.5
        code.
        """
        exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
        if self.ntk_factor is None:
            return self.theta**-exponents
        return (self.theta * self.ntk_factor) ** -exponents / self.ntk_factor ** (2 / head_size)


@dataclass(frozen=True)
class TrunkSpec:
    """A post-norm bidirectional transformer encoder."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    """Rows of the position table; 0 for none (rotary)."""
    position_offset: int = 0
    """Row of the first token: 0 for BERT, padding id + 1 for RoBERTa."""
    pad_id: int | None = None
    """Set where padding ids inside a text take row `pad_id` and do not count (RoBERTa); None elsewhere."""
    num_token_types: int = 0
    """Rows of the token type table; row 0 is added to every token. 0 for none."""
    activation: Activation = "gelu"
    gated: bool = False
    """Feed-forward of `down(up * activation(gate))`, without a bias inside, in place of `down(activation(up))`."""
    norm_eps: float = 1e-12
    rope: RopeSpec | None = None

    @property
    def rows(self) -> int:
        """Rows of the token embedding table."""
        return self.vocab_size

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_tokens(self) -> int | None:
        """The longest text that the position table allows, in tokens; None where there is no table."""
        return self.max_positions - self.position_offset if self.max_positions else None


@dataclass(frozen=True)
class MlmSpec:
    """The masked-language-model head of a trunk: `decoder(norm(activation(dense(states))))`, logits over the tokens.

    It is no part of the vectors, nor of the fingerprint.
    """

    activation: Activation
    tied: bool
    """The decoder's weight is the token table; its bias is its own."""
    norm_eps: float


@dataclass(frozen=True)
class StaticSpec:
    """A table of token vectors whose mean is the text's vector (StaticEmbedding, model2vec)."""

    vocab_size: int
    hidden_size: int
    model2vec: bool = False
    """Unknown tokens are left out of the mean, as model2vec does; sentence-transformers counts them."""
    unk_id: int | None = None
    """The unknown token's id, where it is left out."""


@dataclass(frozen=True)
class PoolingSpec:
    modes: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    """False leaves the prompt's tokens (the first special token with them) out of the pooling."""


@dataclass(frozen=True)
class DenseSpec:
    """`activation(W x + b)`, plus x (or a projection of x, where the widths differ) if `residual`."""

    name: str
    """Prefix of its arrays: `{name}.weight`, `{name}.bias`, `{name}.residual`."""
    in_features: int
    out_features: int
    bias: bool = True
    activation: Activation = "identity"
    residual: bool = False


@dataclass(frozen=True)
class NormalizeSpec:
    """x / max(||x||, 1e-12)."""


ModuleSpec = DenseSpec | NormalizeSpec

DOCUMENT_PROMPT_NAMES = ("document", "passage", "corpus")
"""Names under which models keep the prompt of a document; the first that is there is used."""

SYMMETRIC = "symmetric"
"""The task of texts that are all of one sort: STS, clustering, classification, pairs, bitext."""

USAGE_FIELDS = ("prompts", "default_prompt_name", "query_prompt_names", "truncate_dim", "matryoshka_dims")
"""Fields of a ModelSpec that say how it wants to be asked."""


@dataclass(frozen=True)
class TokenizerSpec:
    max_seq_length: int | None
    """Tokens that the model reads, special tokens included; None for no limit."""
    special_tokens: bool = True
    lower_case: bool = False
    """Lower-case in front of the tokenizer's own normaliser."""
    truncation_side: Literal["right", "left"] = "right"


@dataclass(frozen=True)
class ModelSpec:
    """A whole model: trunk, pooling, the chain of heads, and how it wants to be asked."""

    trunk: TrunkSpec | StaticSpec
    pooling: PoolingSpec
    modules: tuple[ModuleSpec, ...]
    tokenizer: TokenizerSpec
    dim_modules: tuple[DenseSpec, ...] = ()
    """Dense layers that can stand in for the last Dense of `heads`, one for each width (stella's `2_Dense_{dim}`)."""
    matryoshka_dims: tuple[int, ...] = ()
    """Prefix widths that the model declares."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt_name: str | None = None
    query_prompt_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Prompt of `encode_query` by task, where it is not called "query"; the task "" is the default."""
    similarity: SimilarityName = "cosine"
    truncate_dim: int | None = None

    @property
    def pooled_dim(self) -> int:
        return self.trunk.hidden_size * len(self.pooling.modes)

    @property
    def full_dim(self) -> int:
        """Width of the vectors that come out of the heads."""
        dense = [head for head in self.modules if isinstance(head, DenseSpec)]
        return dense[-1].out_features if dense else self.pooled_dim

    @property
    def dim(self) -> int:
        """Width of the vectors that `encode` gives when not told otherwise."""
        return min(self.full_dim, self.truncate_dim or self.full_dim)

    @property
    def dims(self) -> tuple[int, ...]:
        """Every width that `dim=` accepts, ascending."""
        wide = {head.out_features for head in self.dim_modules}
        prefixes = {dim for dim in self.matryoshka_dims if dim <= self.full_dim}
        return tuple(sorted({self.dim, self.full_dim, *wide, *prefixes}))

    @property
    def document_prompt_name(self) -> str | None:
        """The name of the prompt of documents, or None."""
        return next((name for name in DOCUMENT_PROMPT_NAMES if name in self.prompts), None)

    def query_prompt_name(self, task: str | None = None) -> str | None:
        """The name of the prompt of queries, or None.

        Raises:
            InputError: a task that the model has no prompt for.
        """
        if task is None:
            return "query" if "query" in self.prompts else self.query_prompt_names.get("")
        by_task = {**{name: name for name in self.prompts}, **self.query_prompt_names}
        if not task or task not in by_task:
            known = ", ".join(name for name in by_task if name) or "none"
            raise InputError(f"task {task!r} is not known to this model; it has {known}.")
        return by_task[task]

    @property
    def symmetric_prompt_name(self) -> str | None:
        """The name of the prompt of texts that are neither queries nor documents, or None."""
        return self.query_prompt_names.get(SYMMETRIC, self.default_prompt_name)

    @property
    def normalizes(self) -> bool:
        return bool(self.modules) and isinstance(self.modules[-1], NormalizeSpec)

    def canonical_json(self) -> str:
        """What the model computes, as JSON, for the fingerprint; how it is asked (prompts, widths) is left out."""
        computed = {key: value for key, value in asdict(self).items() if key not in USAGE_FIELDS}
        del computed["tokenizer"]["lower_case"]  # the tokenizer itself says it
        return json.dumps(computed, sort_keys=True, ensure_ascii=False)


def trunk_shapes(trunk: TrunkSpec | StaticSpec) -> dict[str, tuple[int, ...]]:
    """Our name and the shape of every array of a trunk. Linear weights are [out, in], as published."""
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


def dense_shapes(dense: DenseSpec) -> dict[str, tuple[int, ...]]:
    """Our name and the shape of every array of a Dense head."""
    shapes: dict[str, tuple[int, ...]] = {f"{dense.name}.weight": (dense.out_features, dense.in_features)}
    if dense.bias:
        shapes[f"{dense.name}.bias"] = (dense.out_features,)
    if dense.residual and dense.in_features != dense.out_features:
        shapes[f"{dense.name}.residual"] = (dense.out_features, dense.in_features)
    return shapes


def dense_modules(spec: ModelSpec) -> tuple[DenseSpec, ...]:
    """Every Dense of a model, each once: the chain, then the stand-ins."""
    chain = tuple(head for head in spec.modules if isinstance(head, DenseSpec))
    return chain + tuple(head for head in spec.dim_modules if head not in chain)


def model_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Our name and the shape of every array of a model."""
    shapes = trunk_shapes(spec.trunk)
    for head in dense_modules(spec):
        shapes |= dense_shapes(head)
    return shapes


def compute_fingerprint(spec: ModelSpec, arrays: Mapping[str, NDArray[Any]], tokenizer_json: str) -> str:
    """SHA-256 over canonical weights, spec and tokenizer, as hex.

    Weights count by value, as float32 under our names: the file format, its dtype of equal values and the folder's
    dialect do not matter.
    """
    digest = hashlib.sha256(spec.canonical_json().encode())
    digest.update(tokenizer_json.encode())
    for name in sorted(model_shapes(spec)):
        array = np.ascontiguousarray(arrays[name], dtype=np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _weight_and_bias(name: str, weight_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight_shape, f"{name}.bias": weight_shape[:1]}
