"""Scores between vectors, as in sentence_transformers.util: cosine, dot product, and negated distances.

B, C: vectors; D: dimension. Scores are computed in float32, or in float64 for vectors of float64.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon import modules
from gnomon.compat.tensors import Tensor, device_of, to_array, to_tensor
from gnomon.errors import InputError
from gnomon.spec import SimilarityName

Score = Callable[[Any, Any], Tensor]


def _as_matrix(vectors: Any, name: str) -> NDArray[Any]:
    """Vectors [B, D] as float32 or float64; one vector [D] counts as [1, D].

    Raises:
        InputError: another number of axes; what `to_array` refuses.
    """
    array = np.atleast_2d(to_array(vectors, name))
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}. Give vectors [B, D], or one vector [D].")
    return array.astype(np.float64 if str(array.dtype) in ("float64", "int64") else np.float32, copy=False)


def _check_dims(a_BD: NDArray[Any], b_CD: NDArray[Any]) -> None:
    if a_BD.shape[1] != b_CD.shape[1]:
        raise InputError(
            f"the vectors have {a_BD.shape[1]} and {b_CD.shape[1]} dimensions. Only vectors of one model and one "
            "truncate_dim can be compared."
        )


def score_all(name: SimilarityName, a: Any, b: Any) -> Tensor:
    """Scores [B, C] of all pairs of vectors [B, D] and [C, D]."""
    a_BD, b_CD = _as_matrix(a, "embeddings1"), _as_matrix(b, "embeddings2")
    _check_dims(a_BD, b_CD)
    return to_tensor(modules.similarity(name, a_BD, b_CD), device_of(a, b))


def score_pairs(name: SimilarityName, a: Any, b: Any) -> Tensor:
    """Scores [B] of row i of one with row i of the other; a single score of two vectors [D]."""
    a_BD, b_BD = _as_matrix(a, "embeddings1"), _as_matrix(b, "embeddings2")
    _check_dims(a_BD, b_BD)
    if len(a_BD) != len(b_BD) and 1 not in (len(a_BD), len(b_BD)):
        raise InputError(f"there are {len(a_BD)} and {len(b_BD)} vectors. Pairs need as many on both sides.")
    a_BD, b_BD = np.broadcast_arrays(a_BD, b_BD)
    scores_B = modules.similarity_pairwise(name, a_BD, b_BD)
    is_one_pair = np.ndim(a) == np.ndim(b) == 1
    return to_tensor(scores_B.reshape(()) if is_one_pair else scores_B, device_of(a, b))


def cos_sim(a: Any, b: Any) -> Tensor:
    """Cosine similarity [B, C] of all pairs."""
    return score_all("cosine", a, b)


pytorch_cos_sim = cos_sim


def dot_score(a: Any, b: Any) -> Tensor:
    """Dot products [B, C] of all pairs."""
    return score_all("dot", a, b)


def euclidean_sim(a: Any, b: Any) -> Tensor:
    """Negated Euclidean distances [B, C] of all pairs."""
    return score_all("euclidean", a, b)


def manhattan_sim(a: Any, b: Any) -> Tensor:
    """Negated Manhattan distances [B, C] of all pairs."""
    return score_all("manhattan", a, b)


def pairwise_cos_sim(a: Any, b: Any) -> Tensor:
    """Cosine similarity [B] of row i with row i."""
    return score_pairs("cosine", a, b)


def pairwise_dot_score(a: Any, b: Any) -> Tensor:
    """Dot products [B] of row i with row i."""
    return score_pairs("dot", a, b)


def pairwise_euclidean_sim(a: Any, b: Any) -> Tensor:
    """Negated Euclidean distances [B] of row i with row i."""
    return score_pairs("euclidean", a, b)


def pairwise_manhattan_sim(a: Any, b: Any) -> Tensor:
    """Negated Manhattan distances [B] of row i with row i."""
    return score_pairs("manhattan", a, b)


class SimilarityFunction(Enum):
    """The names of the score functions, as in sentence-transformers."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # noqa: PIE796
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Score:
        """The function that scores all pairs."""
        return _FUNCTIONS[SimilarityFunction(similarity_function)][0]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: str | SimilarityFunction) -> Score:
        """The function that scores row i with row i."""
        return _FUNCTIONS[SimilarityFunction(similarity_function)][1]

    @staticmethod
    def possible_values() -> list[str]:
        return [member.value for member in SimilarityFunction]


_FUNCTIONS: dict[SimilarityFunction, tuple[Score, Score]] = {
    SimilarityFunction.COSINE: (cos_sim, pairwise_cos_sim),
    SimilarityFunction.DOT: (dot_score, pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (euclidean_sim, pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (manhattan_sim, pairwise_manhattan_sim),
}
