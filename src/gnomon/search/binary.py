"""Search over one bit per component: the nearest vectors by Hamming distance, the first of them rescored.

Q: queries; N: vectors of the corpus; D: dimension; B: bytes of packed signs, D / 8 rounded up; K: results per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import modules
from gnomon.errors import InputError
from gnomon.quantization import quantize, unpack_signs
from gnomon.search.exact import top_k, top_k_indices

NUM_RESCORED = 40
"""Results per query that are rescored: four times the ten that nDCG@10 looks at, as is usual."""


@dataclass(frozen=True)
class BinaryIndex:
    """An index of packed signs, eight components per byte.

    A search has two passes. The first finds the nearest vectors by Hamming distance. The second orders the first
    `num_rescored` of them by the cosine of the query's own numbers with the signs. (Yamada, Asai and Hajishirzi 2021,
    arXiv 2106.00882.)
    """

    bits_NB: NDArray[np.uint8]
    """As `quantize(vectors, "ubinary")` returns them."""
    dim: int
    """Components per vector; the last byte may have room for more."""

    def __post_init__(self) -> None:
        shape = self.bits_NB.shape
        if self.bits_NB.dtype != np.uint8 or len(shape) != 2 or shape[1] != -(-self.dim // 8):
            raise InputError(
                f"bits have shape {shape} and type {self.bits_NB.dtype}. Packed signs of dim {self.dim} are uint8 of "
                f'shape [N, {-(-self.dim // 8)}]. quantize(vectors, "ubinary") packs them.'
            )

    @classmethod
    def from_vectors(cls, vectors_ND: ArrayLike) -> BinaryIndex:
        """Pack the signs of float vectors."""
        vectors = np.asarray(vectors_ND, np.float32)
        return cls(quantize(vectors, "ubinary").values, vectors.shape[-1])

    def __len__(self) -> int:
        return len(self.bits_NB)

    def select(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> BinaryIndex:
        """An index of these rows, in this order."""
        return BinaryIndex(self.bits_NB[np.asarray(rows, np.int64)], self.dim)

    def top_k(
        self, queries_QD: ArrayLike, k: int, *, num_rescored: int = NUM_RESCORED
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k best rows for each float query: (scores [Q, K], rows [Q, K]), the best first.

        The scores of the first `num_rescored` results are cosines. Those of all others are the share of signs that
        agree, from -1 to 1: they follow the rescored results even where their numbers are higher. Equal scores are in
        the order of the first pass, which orders equal distances by row. K is k, or N if that is less.

        Raises:
            InputError: queries of another dimension, k below 1.
        """
        queries = np.asarray(queries_QD, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries have shape {queries.shape}; they must be [Q, {self.dim}], as the index is.")
        packed = quantize(queries, "ubinary").values
        # as many candidates for a small k as for a large one, so that the first results are the same
        distances_QM, rows_QM = top_k(packed, self.bits_NB, max(k, num_rescored) if k > 0 else k, score="hamming")
        scores_QM = (self.dim + 2 * distances_QM) / np.float32(self.dim)
        for query_D, scores_M, rows_M in zip(queries, scores_QM, rows_QM, strict=True):
            signs = unpack_signs(self.bits_NB[rows_M[:num_rescored]], self.dim)
            cosines = modules.similarity("cosine", query_D[None], signs)[0]
            order = top_k_indices(cosines, len(cosines)) if len(cosines) else np.arange(0)
            scores_M[: len(order)], rows_M[: len(order)] = cosines[order], rows_M[order]
        return scores_QM[:, :k], rows_QM[:, :k]
