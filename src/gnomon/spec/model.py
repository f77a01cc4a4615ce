"""A whole model: trunk, pooling, the modules after it, and how its texts are prompted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from gnomon.errors import InputError
from gnomon.spec.trunk import Activation, StaticSpec, TrunkSpec, trunk_shapes

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]

POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)
"""All modes. Where a model has several, their vectors are concatenated in this order, as in sentence-transformers."""


@dataclass(frozen=True)
class PoolingSpec:
    """How the token states of a text become one vector."""

    modes: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    """False leaves the prompt's tokens, and the special tokens before them, out of the pooling."""


@dataclass(frozen=True)
class DenseSpec:
    """`activation(W x + b)`. With `residual`, x is added, or a projection of x where the dimensions differ."""

    name: str
    """Prefix of the names of its arrays: `{name}.weight`, `{name}.bias`, `{name}.residual`."""
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
"""Names that models give to the prompt of a document; the first that the model has is used."""

SYMMETRIC = "symmetric"
"""The task of texts that are neither queries nor documents: STS, clustering, classification, pairs, bitext."""


@dataclass(frozen=True)
class TokenizerSpec:
    """What the model's folder says about tokenizing, beside the tokenizer's own files."""

    max_seq_length: int | None
    """Tokens that the model reads of a text, special tokens included; None for no limit."""
    special_tokens: bool = True
    """Whether special tokens, such as [CLS] and [SEP], are added to a text."""
    lower_case: bool = False
    """Whether text is lower-cased before the tokenizer's own normalizer."""
    truncation_side: Literal["right", "left"] = "right"
    """The side at which a long text is truncated."""


@dataclass(frozen=True)
class ModelSpec:
    """A whole model: trunk, pooling, the modules after pooling, and its prompts and dimensions."""

    trunk: TrunkSpec | StaticSpec
    pooling: PoolingSpec
    modules: tuple[ModuleSpec, ...]
    """Dense and Normalize modules after pooling, in their order."""
    tokenizer: TokenizerSpec
    dim_modules: tuple[DenseSpec, ...] = ()
    """Dense layers that may replace the last Dense of `modules`, one per dimension (stella's `2_Dense_{dim}`)."""
    matryoshka_dims: tuple[int, ...] = ()
    """Dimensions to which the model says that its vectors may be truncated."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Prompts by name, each put before a text."""
    default_prompt_name: str | None = None
    query_prompt_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of the prompts of `encode_query` by task, where they are not called "query". The task "" is the default."""
    similarity: SimilarityName = "cosine"
    truncate_dim: int | None = None
    """Dimensions to which the model truncates its vectors by default; None for all."""

    @property
    def pooled_dim(self) -> int:
        """Dimensions of a pooled vector, before the modules."""
        return self.trunk.hidden_size * len(self.pooling.modes)

    @property
    def full_dim(self) -> int:
        """Dimensions of the vectors that come out of the modules."""
        return compute_output_dim(self.modules, self.pooled_dim)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors that `encode` gives by default."""
        return min(self.full_dim, self.truncate_dim or self.full_dim)

    @property
    def dims(self) -> tuple[int, ...]:
        """Every value that `dim=` accepts, ascending."""
        of_modules = {dense.out_features for dense in self.dim_modules}
        prefixes = {dim for dim in self.matryoshka_dims if dim <= self.full_dim}
        return tuple(sorted({self.dim, self.full_dim, *of_modules, *prefixes}))

    @property
    def document_prompt_name(self) -> str | None:
        """The name of the prompt for documents; None where the model has none."""
        return next((name for name in DOCUMENT_PROMPT_NAMES if name in self.prompts), None)

    def query_prompt_name(self, task: str | None = None) -> str | None:
        """The name of the prompt for queries; None where the model has none.

        Raises:
            InputError: the model has no prompt for the task.
        """
        if task is None:
            return "query" if "query" in self.prompts else self.query_prompt_names.get("")
        by_task = {**{name: name for name in self.prompts}, **self.query_prompt_names}
        if not task or task not in by_task:
            known = ", ".join(name for name in by_task if name) or "none"
            raise InputError(f"task {task!r} is not one of this model's tasks: {known}.")
        return by_task[task]

    @property
    def symmetric_prompt_name(self) -> str | None:
        """The name of the prompt for texts that are neither queries nor documents; None where the model has none."""
        return self.query_prompt_names.get(SYMMETRIC, self.default_prompt_name)

    def prompt_text(self, name: str | None) -> str:
        """The prompt of a name; "" for None."""
        return "" if name is None else self.prompts[name]

    @property
    def normalizes(self) -> bool:
        """Whether the model's vectors have unit length."""
        return bool(self.modules) and isinstance(self.modules[-1], NormalizeSpec)


def compute_output_dim(modules: Sequence[ModuleSpec], pooled_dim: int) -> int:
    """Dimensions of the vectors that come out of these modules."""
    return next((module.out_features for module in reversed(modules) if isinstance(module, DenseSpec)), pooled_dim)


def dense_shapes(dense: DenseSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every array of a Dense module."""
    shapes: dict[str, tuple[int, ...]] = {f"{dense.name}.weight": (dense.out_features, dense.in_features)}
    if dense.bias:
        shapes[f"{dense.name}.bias"] = (dense.out_features,)
    if dense.residual and dense.in_features != dense.out_features:
        shapes[f"{dense.name}.residual"] = (dense.out_features, dense.in_features)
    return shapes


def dense_modules(spec: ModelSpec) -> tuple[DenseSpec, ...]:
    """Every Dense module of a model once: those of `modules`, then those of `dim_modules`."""
    dense = tuple(module for module in spec.modules if isinstance(module, DenseSpec))
    return dense + tuple(module for module in spec.dim_modules if module not in dense)


def model_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every array of a model."""
    shapes = trunk_shapes(spec.trunk)
    for dense in dense_modules(spec):
        shapes |= dense_shapes(dense)
    return shapes
