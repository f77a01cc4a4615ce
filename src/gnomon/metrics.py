"""The metrics of rankings and the correlations that gnomon computes itself: for your own runs, for the weights of
fusions and for intervals. The scores that `gnomon evaluate` reports are mteb's.

A run is what one search found for one query: {document id: score}; higher is better. Equal scores are ranked by
document id, descending, as in trec_eval and mteb.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.errors import InputError

DocumentScores = Mapping[str, float]
RelevanceLabels = Mapping[str, int]
"""The relevance labels of one query: {document id: relevance}. A document without a label has relevance 0."""


def rank_documents(run: DocumentScores) -> list[str]:
    """Document ids from the best score to the worst; equal scores by id, descending."""
    return sorted(run, key=lambda document: (run[document], document), reverse=True)


def dcg(relevances: Iterable[int]) -> float:
    """Discounted cumulative gain of relevances in the order of their ranks: the sum of relevance / log2(rank + 1).

    Negative relevances count as 0.
    """
    return sum(max(relevance, 0) / math.log2(rank + 1) for rank, relevance in enumerate(relevances, start=1))


def dcg_of_rows(gains_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R]: discounted cumulative gain of each row of gains, which are in the order of their ranks and at least 0."""
    return (gains_RK / np.log2(np.arange(2, gains_RK.shape[1] + 2))).sum(axis=1)


def ideal_dcg(labels: RelevanceLabels, k: int) -> float:
    """The largest DCG that k documents can reach."""
    return dcg(sorted(labels.values(), reverse=True)[:k])


def ndcg_at(run: DocumentScores, labels: RelevanceLabels, k: int) -> float:
    """nDCG of the k best documents, as trec_eval's ndcg_cut.

    The ideal ranking is that of all relevant documents, found or not; 0.0 where none is relevant. As in trec_eval,
    scores are compared as 32-bit floats.

    Raises:
        InputError: a k below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1.")
    scores = np.fromiter(run.values(), np.float32, len(run)).tolist()
    best = rank_documents(dict(zip(run, scores, strict=True)))[:k]
    ideal = ideal_dcg(labels, k)
    return dcg(labels.get(document, 0) for document in best) / ideal if ideal else 0.0


def reciprocal_rank_at(run: DocumentScores, labels: RelevanceLabels, k: int) -> float:
    """1 / rank of the first relevant document among the k best, and 0 where none of them is relevant."""
    ranks = (rank for rank, document in enumerate(rank_documents(run)[:k], 1) if labels.get(document, 0) > 0)
    return 1 / next(ranks, math.inf)


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Spearman's correlation: Pearson's correlation of ranks, equal values at their average rank.

    NaN where one side does not vary.
    """
    x, y = tied_ranks(x_N), tied_ranks(y_N)
    return float(spearman_of_ranks(x[None], y[None])[0])


# ---- many resamples at once. R: resamples; N: values of each


def tied_ranks(values_N: ArrayLike) -> NDArray[np.int64]:
    """Average ranks from 0, that of the lowest value, to N - 1, rounded down: equal where the values are."""
    _, index_N, counts = np.unique(np.asarray(values_N, np.float64), return_inverse=True, return_counts=True)
    return (counts.cumsum() - 1 - counts // 2)[index_N]


def spearman_of_ranks(x_RN: NDArray[np.int64], y_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    """[R]: Spearman's correlation of ranks: whole numbers from 0 to N - 1 in the order of the values (`tied_ranks`).

    One row of `x_RN` may serve all rows of `y_RN`. NaN where one does not vary.
    """
    x, y = _centered_ranks(x_RN), _centered_ranks(y_RN)
    scale_R = np.sqrt(_row_dots(x, x) * _row_dots(y, y))
    # ranks are multiples of 1/2, so that the scale of constants is exactly 0
    return np.clip(_divide_or_nan(_row_dots(x, y), scale_R), -1, 1)


def average_precision_of_ranks(gold_RN: NDArray[np.float64], values_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    """[R]: the precision at each distinct value, weighted by the recall that it adds, as in scikit-learn.

    NaN where no gold is positive.
    """
    falling_RN = values_RN.shape[1] - 1 - values_RN
    right_RN = _sum_per_rank(falling_RN, np.broadcast_to(gold_RN, values_RN.shape))
    precision_RN = right_RN.cumsum(axis=1) / np.maximum(_sum_per_rank(falling_RN).cumsum(axis=1), 1)
    return _divide_or_nan(_row_dots(precision_RN, right_RN), right_RN.sum(axis=1))


def _sum_per_rank(ranks_RN: NDArray[np.int64], weights_RN: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """[R, N]: how many values have each rank, or the sum of their weights."""
    weights = None if weights_RN is None else weights_RN.ravel()
    return np.bincount(_flat_ranks(ranks_RN), weights, ranks_RN.size).astype(np.float64).reshape(ranks_RN.shape)


def _centered_ranks(ranks_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    totals_RN = _sum_per_rank(ranks_RN)
    centered_RN = totals_RN.cumsum(axis=1) - totals_RN / 2 - ranks_RN.shape[1] / 2
    return centered_RN.ravel()[_flat_ranks(ranks_RN)].reshape(ranks_RN.shape)


def _flat_ranks(ranks_RN: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks, each row's after those of the row before."""
    rows, size = ranks_RN.shape
    return (ranks_RN + size * np.arange(rows)[:, None]).ravel()


def _row_dots(x_RN: NDArray[np.float64], y_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("rn,rn->r", x_RN, y_RN)


def _divide_or_nan(x_R: NDArray[np.float64], y_R: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(x_R, y_R, out=np.full(y_R.shape, np.nan), where=y_R > 0)
