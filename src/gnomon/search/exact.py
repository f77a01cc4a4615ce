"""Exact nearest neighbours in memory: every score is computed, a block at a time.

Q: queries; N: vectors of the corpus; D: dimension; K: results per query; C: vectors of a block; M: candidates.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import modules
from gnomon.errors import InputError, NumericError
from gnomon.messages import check_choice
from gnomon.spec import SimilarityName

ScoreName = SimilarityName | Literal["hamming"]

PACKED_DTYPES = ("uint8", "int8")
"""The dtypes of packed signs: `quantize` returns uint8 for "ubinary" and int8 for "binary"."""

QUERIES_PER_BLOCK = 256
"""Queries that are scored at once."""

VALUES_PER_BLOCK = 1 << 22
"""Numbers in a block of scores or vectors: 16 MB."""


def top_k(
    queries_QD: ArrayLike, corpus_ND: ArrayLike, k: int, *, score: ScoreName = "cosine"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k best rows of a corpus for each query: (scores [Q, K], rows [Q, K]).

    The best row comes first; equal scores are ordered by row. K is k, or N if that is less.

    Args:
        score: the score function of the model (`encoder.spec.similarity`). Or "hamming", the number of signs that
            differ, for vectors whose signs are packed eight to a byte (`quantize` to "ubinary" or "binary"). Higher
            scores are nearer, so distances are negative.

    Raises:
        InputError: shapes that do not fit, a k below 1, an unknown score, int8 or uint8 vectors with another score than
            "hamming".
        NumericError: NaN in a score.
    """
    queries, corpus = np.asarray(queries_QD), np.asarray(corpus_ND)
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise InputError(f"queries {queries.shape} and corpus {corpus.shape} do not fit; give [Q, D] and [N, D].")
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1.")
    check_choice(score, "score", (*get_args(SimilarityName), "hamming"))
    if score == "hamming":
        _check_packed(queries, corpus)
    else:
        modules.check_not_quantized(queries, corpus)
        queries = queries.astype(np.float32, copy=False)
    count = min(k, len(corpus))
    scores_QK, rows_QK = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries) if count else 0, QUERIES_PER_BLOCK):
        block = slice(start, start + QUERIES_PER_BLOCK)
        scores_QK[block], rows_QK[block] = _top_k_for_block(queries[block], corpus, count, score)
    return scores_QK, rows_QK


def _check_packed(queries: NDArray[np.generic], corpus: NDArray[np.generic]) -> None:
    if queries.dtype != corpus.dtype or str(corpus.dtype) not in PACKED_DTYPES:
        raise InputError(
            f'score "hamming" compares packed signs, uint8 or int8 on both sides; these are {queries.dtype} and '
            f'{corpus.dtype}. quantize(vectors, "ubinary") packs them.'
        )


def _hamming(queries_QD: NDArray[np.generic], corpus_CD: NDArray[np.generic]) -> NDArray[np.float32]:
    """Scores [Q, C]: minus the number of signs that differ. The offset of int8 flips the same bit on both sides."""
    differing_QCD = np.bitwise_xor(queries_QD.view(np.uint8)[:, None], corpus_CD.view(np.uint8)[None])
    return -np.bitwise_count(differing_QCD).sum(axis=-1, dtype=np.float32)


def _top_k_for_block(
    queries_QD: NDArray[np.generic], corpus_ND: NDArray[np.generic], k: int, score: ScoreName
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    num_queries = len(queries_QD)
    best_QK, rows_QK = np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64)
    cells = num_queries * corpus_ND.shape[1] if score == "hamming" else max(num_queries, corpus_ND.shape[1])
    step = max(1, VALUES_PER_BLOCK // max(cells, 1))
    for start in range(0, len(corpus_ND), step):
        block_CD = corpus_ND[start : start + step]
        if score == "hamming":
            scores_QC = _hamming(queries_QD, block_CD)
        else:
            scores_QC = modules.similarity(score, queries_QD.astype(np.float32), block_CD.astype(np.float32))
        if np.isnan(scores_QC).any():
            raise NumericError(f"a score of rows {start} to {start + len(block_CD) - 1} is NaN; the vectors hold NaN.")
        new_QC = np.broadcast_to(np.arange(start, start + len(block_CD)), scores_QC.shape)
        # rows of earlier blocks come first, so that a stable sort breaks ties by row
        scores_QM, rows_QM = np.hstack([best_QK, scores_QC]), np.hstack([rows_QK, new_QC])
        order_QK = np.stack([top_k_indices(scores_M, k) for scores_M in scores_QM])
        best_QK, rows_QK = np.take_along_axis(scores_QM, order_QK, 1), np.take_along_axis(rows_QM, order_QK, 1)
    return best_QK, rows_QK


def top_k_indices(scores_M: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the k best scores, the best first; equal scores are ordered by index. K is k, or M if that is less."""
    candidates = np.arange(len(scores_M))
    if len(scores_M) > k:  # a partition alone would choose among equal scores at random
        candidates = np.flatnonzero(scores_M >= np.partition(scores_M, -k)[-k])
    return candidates[np.argsort(-scores_M[candidates], kind="stable")[:k]]
