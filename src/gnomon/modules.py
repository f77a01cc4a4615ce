"""What follows pooling, in numpy: Dense, Normalize and similarity.

A Dense module is one matrix product, so vectors of all dimensions together cost next to nothing.

B: texts; D: dimension of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.packed import Vectors
from gnomon.spec import Activation, DenseSpec, ModelSpec, ModuleSpec, NormalizeSpec, SimilarityName

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Vectors) -> Vectors:
    return (0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))).astype(np.float32)


def _gelu_tanh(x: Vectors) -> Vectors:
    return (0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))).astype(np.float32)


def _sigmoid(x: Vectors) -> Vectors:
    return (0.5 * (1.0 + np.tanh(0.5 * x))).astype(np.float32)


ACTIVATIONS: dict[Activation, Callable[[Vectors], Vectors]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
}


def modules_for_dim(spec: ModelSpec, dim: int | None) -> tuple[tuple[ModuleSpec, ...], int | None]:
    """The modules that give vectors with `dim` components, and how many of these to keep (None: all).

    Args:
        dim: one of `spec.dims`; None for the model's own modules, truncated to its `truncate_dim`.
    """
    full = spec.full_dim
    if dim is None:
        return spec.modules, spec.dim if spec.dim < full else None
    own_dense = next((dense for dense in spec.dim_modules if dense.out_features == dim), None)
    if own_dense is not None and dim != full:
        last = max(i for i, module in enumerate(spec.modules) if isinstance(module, DenseSpec))
        return (*spec.modules[:last], own_dense, *spec.modules[last + 1 :]), None
    return spec.modules, dim if dim < full else None


def apply_modules(modules: tuple[ModuleSpec, ...], arrays: Mapping[str, NDArray[Any]], pooled_BD: Vectors) -> Vectors:
    """Run modules over pooled vectors, in order."""
    vectors_BD = pooled_BD
    for module in modules:
        is_dense = isinstance(module, DenseSpec)
        vectors_BD = _apply_dense(module, arrays, vectors_BD) if is_dense else normalize(vectors_BD)
    return vectors_BD


@dataclass(frozen=True)
class Postprocessor:
    """Turns pooled vectors into the vectors of a call: modules, truncation to a prefix, normalisation."""

    modules: tuple[ModuleSpec, ...]
    prefix_dim: int | None
    """Keep so many first dimensions; None for all."""
    normalize: bool
    """Whether vectors are normalised at the end, beside what the modules do."""
    dim: int
    """Dimensions of the result."""
    arrays: Mapping[str, NDArray[Any]]

    def __call__(self, pooled_BD: Vectors) -> Vectors:
        vectors_BD = apply_modules(self.modules, self.arrays, pooled_BD)
        if self.prefix_dim is not None:
            vectors_BD = vectors_BD[:, : self.prefix_dim]
        return normalize(vectors_BD) if self.normalize else vectors_BD

    def without_normalization(self) -> Postprocessor:
        """The same without normalisation at the end, the model's own included."""
        own = bool(self.modules) and isinstance(self.modules[-1], NormalizeSpec)
        return replace(self, modules=self.modules[:-1] if own else self.modules, normalize=False)


def normalize(vectors_BD: Vectors) -> Vectors:
    """Scale vectors to unit length; a zero vector stays zero. As torch's F.normalize: x / max(||x||, 1e-12)."""
    norms_B1 = np.linalg.norm(vectors_BD, axis=-1, keepdims=True)
    return vectors_BD / np.maximum(norms_B1, 1e-12)


def similarity(name: SimilarityName, a_BD: Vectors, b_CD: Vectors) -> Vectors:
    """Scores [B, C] of all pairs; higher is more similar. Distances are negated, as in sentence-transformers."""
    if name == "cosine":
        return normalize(a_BD) @ normalize(b_CD).T
    if name == "dot":
        return a_BD @ b_CD.T
    scores_BC = np.empty((len(a_BD), len(b_CD)), np.result_type(a_BD, b_CD))
    for row, a_D in enumerate(a_BD):
        scores_BC[row] = -np.linalg.norm(b_CD - a_D, ord=2 if name == "euclidean" else 1, axis=-1)
    return scores_BC


def similarity_pairwise(name: SimilarityName, a_BD: Vectors, b_BD: Vectors) -> Vectors:
    """Scores [B] of row i of one with row i of the other, as in `similarity`."""
    if name in ("euclidean", "manhattan"):
        return -np.linalg.norm(a_BD - b_BD, ord=2 if name == "euclidean" else 1, axis=-1)
    if name == "cosine":
        a_BD, b_BD = normalize(a_BD), normalize(b_BD)
    return np.einsum("bd,bd->b", a_BD, b_BD)


def _apply_dense(dense: DenseSpec, arrays: Mapping[str, NDArray[Any]], x_BD: Vectors) -> Vectors:
    y_BD = x_BD @ _float32(arrays[f"{dense.name}.weight"]).T
    if dense.bias:
        y_BD = y_BD + _float32(arrays[f"{dense.name}.bias"])
    y_BD = ACTIVATIONS[dense.activation](y_BD)
    if not dense.residual:
        return y_BD
    projected = x_BD if dense.in_features == dense.out_features else x_BD @ _float32(arrays[f"{dense.name}.residual"]).T
    return y_BD + projected


def _float32(array: NDArray[Any]) -> Vectors:
    return np.asarray(array, dtype=np.float32)


def check_not_quantized(*vectors: NDArray[Any]) -> None:
    """Check that vectors can be compared by their values.

    Raises:
        InputError: int8 or uint8 vectors; their numbers are steps within ranges, or eight signs per byte.
    """
    for array in vectors:
        if str(array.dtype) in ("int8", "uint8"):
            raise InputError(
                f"vectors of {array.dtype} are quantized; their scores differ from those of float vectors. Compare "
                'float vectors, or packed signs by gnomon.search.exact.top_k(..., score="hamming").'
            )
