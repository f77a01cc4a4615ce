"""Two or more rankings of the same documents -> one, and the weight to fuse them with.

A run is what one search found for one query: {document id: score}, in any order, higher is better.

A: weights that are tried; C: candidates, documents that are looked at; K: ranks; Q: queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError

Run = Mapping[str, float]
RelevanceLabels = Mapping[str, int]
"""The judgements of one query: {document id: grade}; a document that is not in it has grade 0."""

MR_TYDI_ALPHAS: Mapping[str, float] = {
    "arabic": 0.77,
    "bengali": 0.71,
    "english": 1.0,
    "finnish": 0.77,
    "indonesian": 0.90,
    "japanese": 0.99,
    "korean": 1.0,
    "russian": 0.93,
    "swahili": 0.56,
    "telugu": 0.73,
    "thai": 0.84,
}
"""The published weights, by mteb's names of the subsets (castorini/mr.tydi, scripts/hybrid.py, for v1.1)."""

ALPHAS = tuple(round(10 ** (step / 20), 3) for step in range(-20, 21))
"""Weights to choose from: 0.1 to 10, each 12 % above the one before, with 1 in their middle."""

NEUTRAL_ALPHA = 1.0
"""The weight where nothing speaks for another: both lists count alike."""

CANDIDATES_PER_RUN = 100
"""Best documents of each list that are looked at to choose a weight."""

NDCG_K = 10
"""Ranks of the nDCG that chooses a weight."""

MIN_LABELLED_QUERIES = 20
"""Judged queries below which cross-fitting would fit noise."""


def fuse_mr_tydi(sparse: Run, dense: Run, *, alpha: float) -> dict[str, float]:
    """The hybrid of Mr. TyDi: {document: sparse + alpha * dense}, over the documents of both lists.

    Each score is normalised first, (x - (min + max) / 2) / (max - min) over its list as given, to -0.5 to 0.5; a
    document that is missing from a list gets that list's minimum. Where a list is of equal scores, or empty, it says
    nothing: all its values, and those of the documents that it lacks, are 0. (Zhang, Ma, Shi and Lin 2021, in the form
    of castorini/mr.tydi's scripts/hybrid.py --normalization --weight-on-dense, which stumbles over equal scores: it
    drops the dense list where the sparse scores are equal, and fails where the dense ones are.)

    Raises:
        InputError: an alpha that is negative or not finite.
    """
    _check_alpha(alpha)
    of_sparse, of_dense = _normalize_scores(sparse), _normalize_scores(dense)
    least_sparse, least_dense = _min_score(of_sparse), _min_score(of_dense)
    return {
        document: of_sparse.get(document, least_sparse) + alpha * of_dense.get(document, least_dense)
        for document in of_sparse | of_dense
    }


def reciprocal_rank_fusion(runs: Sequence[Run], *, k: int = 60) -> dict[str, float]:
    """Reciprocal rank fusion: {document: the sum over the runs that hold it of 1 / (k + rank)}, ranks from 1.

    Equal scores of a run are ranked by document id, descending, as in trec_eval and mteb. (Cormack, Clarke and
    Buettcher, SIGIR 2009; their k.)

    Raises:
        InputError: a k below 0.
    """
    if k < 0:
        raise InputError(f"k is {k}; it must be at least 0.")
    fused: dict[str, float] = {}
    for run in runs:
        for rank, document in enumerate(_rank_documents(run), start=1):
            fused[document] = fused.get(document, 0.0) + 1 / (k + rank)
    return fused


def ndcg_at(run: Run, labels: RelevanceLabels, k: int = NDCG_K) -> float:
    """nDCG of the k best, as trec_eval's ndcg_cut: gains are the grades, negative ones 0, over log2(rank + 1).

    The ideal ranking is that of all relevant documents, found or not; 0.0 where none is relevant. As in trec_eval,
    scores are compared as 32-bit floats and equal ones ranked by document id, descending.

    Raises:
        InputError: a k below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1.")
    scores = np.fromiter(run.values(), np.float32, len(run)).tolist()
    best = _rank_documents(dict(zip(run, scores, strict=True)))[:k]
    ideal = _ideal_dcg(labels, k)
    return _dcg(labels.get(document, 0) for document in best) / ideal if ideal else 0.0


def tune_alpha(
    sparse: Mapping[str, Run],
    dense: Mapping[str, Run],
    qrels: Mapping[str, RelevanceLabels],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> float:
    """The weight for `mr_tydi` with the best mean nDCG@10 over the queries of `relevant`; of equals, that nearest 1.

    Runs and judgements are by query id; a query that a search has no run for counts as an empty run. Scores are
    normalised over the whole lists, and the 100 best documents of each list are looked at.

    Raises:
        InputError: no alphas; an alpha that is negative or not finite.
    """
    _check_alphas(alphas)
    return _best_alpha(list(_ndcg_per_query(sparse, dense, qrels, alphas).values()), alphas)


def cross_fit_alpha(
    sparse: Mapping[str, Run],
    dense: Mapping[str, Run],
    qrels: Mapping[str, RelevanceLabels],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> dict[str, float]:
    """{query id: weight for `mr_tydi`}, each chosen without that query's judgements, for sets with no split to tune on.

    A hash of its id puts every query of `relevant`, `sparse` or `dense` into one of two folds, and each fold gets the
    weight that `tune_alpha` chooses on the other: a query keeps its fold whatever else is in the set. With fewer than
    20 judged queries (a grade above 0) the weight is 1.0 for all.

    Raises:
        InputError: as `tune_alpha`.
    """
    _check_alphas(alphas)
    queries = [*dict.fromkeys([*qrels, *sparse, *dense])]
    judged = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if len(judged) < MIN_LABELLED_QUERIES:
        return dict.fromkeys(queries, NEUTRAL_ALPHA)
    trials = _ndcg_per_query(sparse, dense, judged, alphas)
    chosen = [
        _best_alpha([trials[query] for query in judged if _assign_fold(query) != fold], alphas) for fold in (0, 1)
    ]
    return {query: chosen[_assign_fold(query)] for query in queries}


def _ndcg_per_query(
    sparse: Mapping[str, Run], dense: Mapping[str, Run], qrels: Mapping[str, RelevanceLabels], alphas: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    return {query: _ndcg_by_alpha(sparse.get(query, {}), dense.get(query, {}), qrels[query], alphas) for query in qrels}


def _ndcg_by_alpha(sparse: Run, dense: Run, labels: RelevanceLabels, alphas: Sequence[float]) -> NDArray[np.float64]:
    """[A]: nDCG@10 of one query by each weight."""
    of_sparse, of_dense = _normalize_scores(sparse), _normalize_scores(dense)
    candidates = {*_rank_documents(of_sparse)[:CANDIDATES_PER_RUN], *_rank_documents(of_dense)[:CANDIDATES_PER_RUN]}
    ideal = _ideal_dcg(labels, NDCG_K)
    if not candidates or not ideal:
        return np.zeros(len(alphas))
    documents = sorted(candidates, reverse=True)  # so that a stable sort breaks ties as trec_eval does
    sparse_C, dense_C = _scores_of_documents(of_sparse, documents), _scores_of_documents(of_dense, documents)
    gains_C = np.array([max(labels.get(document, 0), 0) for document in documents], np.float64)
    scores_AC = (sparse_C + np.array(alphas, np.float64)[:, None] * dense_C).astype(np.float32)
    best_AK = np.argsort(-scores_AC, axis=1, kind="stable")[:, :NDCG_K]
    return (gains_C[best_AK] / np.log2(np.arange(2, best_AK.shape[1] + 2))).sum(axis=1) / ideal


def _best_alpha(ndcg_QA: Sequence[NDArray[np.float64]], alphas: Sequence[float]) -> float:
    # fsum: the sum of the same values in another order is the same, and a tie is a tie
    totals = [math.fsum(float(ndcg_A[place]) for ndcg_A in ndcg_QA) for place in range(len(alphas))]
    most = max(totals)
    ties = [alpha for alpha, total in zip(alphas, totals, strict=True) if total == most]
    return min(ties, key=lambda alpha: abs(alpha - NEUTRAL_ALPHA))


def _normalize_scores(run: Run) -> dict[str, float]:
    low, high = float(min(run.values(), default=0)), float(max(run.values(), default=0))
    if low == high:
        return dict.fromkeys(run, 0.0)
    return {document: (float(score) - (low + high) / 2) / (high - low) for document, score in run.items()}


def _min_score(run: Run) -> float:
    return min(run.values(), default=0.0)


def _scores_of_documents(run: Run, documents: Sequence[str]) -> NDArray[np.float64]:
    least = _min_score(run)
    return np.array([run.get(document, least) for document in documents], np.float64)


def _rank_documents(run: Run) -> list[str]:
    return sorted(run, key=lambda document: (run[document], document), reverse=True)


def _ideal_dcg(labels: RelevanceLabels, k: int) -> float:
    return _dcg(sorted(labels.values(), reverse=True)[:k])


def _dcg(labels: Iterable[int]) -> float:
    return sum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(labels, start=1))


def _assign_fold(query: str) -> int:
    # hash() differs from process to process
    return sha256(query.encode()).digest()[0] % 2


def _check_alphas(alphas: Sequence[float]) -> None:
    if not len(alphas):
        raise InputError("alphas is empty; give at least one weight to choose.")
    for alpha in alphas:
        _check_alpha(alpha)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < math.inf:
        raise InputError(f"alpha is {alpha}; it must be a finite number of at least 0.")
