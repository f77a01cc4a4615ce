"""Fuses two or more rankings of the same documents into one, and chooses the weight to fuse them with.

A run is what one search found for one query: {document id: score}, in any order; higher is better. An alpha is the
weight of the dense scores.

A: alphas that are tried; C: candidate documents; K: ranks; Q: queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.metrics import DocumentScores, RelevanceLabels, dcg_of_rows, ideal_dcg, rank_documents

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
"""The published alphas, by mteb's names of the subsets (castorini/mr.tydi, scripts/hybrid.py, for v1.1)."""

ALPHAS = tuple(round(10 ** (step / 20), 3) for step in range(-20, 21))
"""Alphas to choose from: 0.1 to 10, each 12 % above the one before, with 1 in the middle."""

NEUTRAL_ALPHA = 1.0
"""The alpha without any evidence for another: both lists count alike."""

CANDIDATES_PER_RUN = 100
"""How many of the best documents of each list are looked at to choose an alpha."""

NDCG_K = 10
"""An alpha is chosen by nDCG@10."""

MIN_LABELLED_QUERIES = 20
"""With fewer labelled queries, cross-fitting would fit noise."""


def fuse_mr_tydi(sparse: DocumentScores, dense: DocumentScores, *, alpha: float) -> dict[str, float]:
    """Fuse scores as the hybrid of Mr. TyDi: {document: sparse + alpha * dense}, over the documents of both lists.

    Each score is normalised first, (x - (min + max) / 2) / (max - min) over its own list, to -0.5 to 0.5. A document
    that is missing from a list gets that list's minimum. A list of equal scores, or an empty one, contributes 0 for
    every document. (Zhang, Ma, Shi and Lin 2021, in the form of castorini/mr.tydi's scripts/hybrid.py --normalization
    --weight-on-dense. That script handles equal scores differently: it drops the dense list where the sparse scores are
    equal, and fails where the dense ones are.)

    Raises:
        InputError: an alpha that is negative or not finite.
    """
    _check_alpha(alpha)
    sparse, dense = _normalize_scores(sparse), _normalize_scores(dense)
    min_sparse, min_dense = _min_score(sparse), _min_score(dense)
    return {
        document: sparse.get(document, min_sparse) + alpha * dense.get(document, min_dense)
        for document in sparse | dense
    }


def reciprocal_rank_fusion(runs: Sequence[DocumentScores], *, k: int = 60) -> dict[str, float]:
    """Fuse ranks: {document: the sum of 1 / (k + rank) over the runs that contain it}, with ranks from 1.

    Equal scores of a run are ranked by document id, descending, as in trec_eval and mteb. (Reciprocal rank fusion of
    Cormack, Clarke and Buettcher, SIGIR 2009; k as there.)

    Raises:
        InputError: k below 0.
    """
    if k < 0:
        raise InputError(f"k is {k}; it must be at least 0.")
    fused: dict[str, float] = {}
    for run in runs:
        for rank, document in enumerate(rank_documents(run), start=1):
            fused[document] = fused.get(document, 0.0) + 1 / (k + rank)
    return fused


def tune_alpha(
    sparse: Mapping[str, DocumentScores],
    dense: Mapping[str, DocumentScores],
    qrels: Mapping[str, RelevanceLabels],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> float:
    """Choose the alpha for `fuse_mr_tydi` with the best mean nDCG@10 over the queries of `qrels`.

    Of equally good alphas, the one nearest 1 is chosen. Runs and relevance labels are by query id; a query without a
    run counts as an empty run. Scores are normalised over the whole lists, and the 100 best documents of each list are
    looked at.

    Raises:
        InputError: alphas is empty, or one of them is negative or not finite.
    """
    _check_alphas(alphas)
    return _best_alpha(list(_ndcg_per_query(sparse, dense, qrels, alphas).values()), alphas)


def cross_fit_alpha(
    sparse: Mapping[str, DocumentScores],
    dense: Mapping[str, DocumentScores],
    qrels: Mapping[str, RelevanceLabels],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> dict[str, float]:
    """Choose alphas without a split to tune on: {query id: alpha}, each chosen without that query's own labels.

    A hash of its id puts each query of `qrels`, `sparse` or `dense` into one of two folds, and each fold gets the alpha
    that `tune_alpha` chooses on the other. So a query keeps its fold whatever else is in the set. With fewer than 20
    labelled queries (those with a relevance above 0) the alpha is 1.0 for all.

    Raises:
        InputError: as `tune_alpha`.
    """
    _check_alphas(alphas)
    queries = [*dict.fromkeys([*qrels, *sparse, *dense])]
    labelled = {query: labels for query, labels in qrels.items() if any(label > 0 for label in labels.values())}
    if len(labelled) < MIN_LABELLED_QUERIES:
        return dict.fromkeys(queries, NEUTRAL_ALPHA)
    ndcg_of_query = _ndcg_per_query(sparse, dense, labelled, alphas)
    alpha_of_fold = [
        _best_alpha([ndcg_of_query[query] for query in labelled if _assign_fold(query) != fold], alphas)
        for fold in (0, 1)
    ]
    return {query: alpha_of_fold[_assign_fold(query)] for query in queries}


def _ndcg_per_query(
    sparse: Mapping[str, DocumentScores],
    dense: Mapping[str, DocumentScores],
    qrels: Mapping[str, RelevanceLabels],
    alphas: Sequence[float],
) -> dict[str, NDArray[np.float64]]:
    return {query: _ndcg_by_alpha(sparse.get(query, {}), dense.get(query, {}), qrels[query], alphas) for query in qrels}


def _ndcg_by_alpha(
    sparse: DocumentScores, dense: DocumentScores, labels: RelevanceLabels, alphas: Sequence[float]
) -> NDArray[np.float64]:
    """[A]: nDCG@10 of one query with each alpha."""
    sparse, dense = _normalize_scores(sparse), _normalize_scores(dense)
    candidates = {*rank_documents(sparse)[:CANDIDATES_PER_RUN], *rank_documents(dense)[:CANDIDATES_PER_RUN]}
    ideal = ideal_dcg(labels, NDCG_K)
    if not candidates or not ideal:
        return np.zeros(len(alphas))
    documents = sorted(candidates, reverse=True)  # so that a stable sort breaks ties as trec_eval does
    sparse_C, dense_C = _scores_of_documents(sparse, documents), _scores_of_documents(dense, documents)
    gains_C = np.array([max(labels.get(document, 0), 0) for document in documents], np.float64)
    scores_AC = (sparse_C + np.array(alphas, np.float64)[:, None] * dense_C).astype(np.float32)
    best_AK = np.argsort(-scores_AC, axis=1, kind="stable")[:, :NDCG_K]
    return dcg_of_rows(gains_C[best_AK]) / ideal


def _best_alpha(ndcg_QA: Sequence[NDArray[np.float64]], alphas: Sequence[float]) -> float:
    # fsum gives the same sum in any order of the queries, so that equal totals are exactly equal
    totals = [math.fsum(float(ndcg_A[index]) for ndcg_A in ndcg_QA) for index in range(len(alphas))]
    best = max(totals)
    ties = [alpha for alpha, total in zip(alphas, totals, strict=True) if total == best]
    return min(ties, key=lambda alpha: abs(alpha - NEUTRAL_ALPHA))


def _normalize_scores(run: DocumentScores) -> dict[str, float]:
    low, high = float(min(run.values(), default=0)), float(max(run.values(), default=0))
    if low == high:
        return dict.fromkeys(run, 0.0)
    return {document: (float(score) - (low + high) / 2) / (high - low) for document, score in run.items()}


def _min_score(run: DocumentScores) -> float:
    return min(run.values(), default=0.0)


def _scores_of_documents(run: DocumentScores, documents: Sequence[str]) -> NDArray[np.float64]:
    lowest = _min_score(run)
    return np.array([run.get(document, lowest) for document in documents], np.float64)


def _assign_fold(query: str) -> int:
    # Python's hash() of a text differs between processes
    return sha256(query.encode()).digest()[0] % 2


def _check_alphas(alphas: Sequence[float]) -> None:
    if not len(alphas):
        raise InputError("alphas is empty; give at least one to choose from.")
    for alpha in alphas:
        _check_alpha(alpha)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < math.inf:
        raise InputError(f"alpha is {alpha}; it must be a finite number of at least 0.")
