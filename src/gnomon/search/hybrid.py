"""Hybrid search: fuses the runs of a sparse and a dense search, and says which queries may choose the weight.

Runs are {query id: {document id: score}}; relevance labels are {query id: {document id: relevance}}.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Literal

from gnomon.errors import InputError
from gnomon.metrics import DocumentScores, RelevanceLabels, rank_documents
from gnomon.search.fusion import MIN_LABELLED_QUERIES, MR_TYDI_ALPHAS, fuse_mr_tydi, reciprocal_rank_fusion

Runs = dict[str, dict[str, float]]
FusionMethod = Literal["hybrid", "rrf"]
"""Mr. TyDi's formula over normalised scores (`fuse_mr_tydi`), or `reciprocal_rank_fusion`."""
Alpha = float | Literal["tuned", "published"]
"""The weight of dense scores in "hybrid": a number, one that is tuned, or the published one of a language."""

MAX_TUNING_QUERIES = 1000
"""So many queries of another split are enough to choose one number."""

TUNING_SPLITS = ("dev", "validation", "valid", "val", "train")
"""Splits that alpha may be tuned on; the first one that a data set has is used."""


def fuse_runs(
    sparse: Mapping[str, DocumentScores],
    dense: Mapping[str, DocumentScores],
    *,
    k: int,
    method: FusionMethod = "hybrid",
    alphas: Mapping[str, float] | None = None,
) -> Runs:
    """Fuse the runs of two searches: the k best documents of each query, the best first.

    A query that a search has no run for counts as an empty run. Equal scores are ordered by document id, descending.

    Args:
        alphas: {query id: weight of the dense scores}, for "hybrid".

    Raises:
        InputError: method "hybrid" and a query without a weight.
    """
    pairs = {query: (sparse.get(query, {}), dense.get(query, {})) for query in [*sparse, *dense]}
    if method == "rrf":
        fused = {query: reciprocal_rank_fusion(runs) for query, runs in pairs.items()}
    else:
        if alphas is None or not pairs.keys() <= alphas.keys():
            raise InputError('alphas lacks a query. Method "hybrid" needs a weight for each.')
        fused = {query: fuse_mr_tydi(*runs, alpha=alphas[query]) for query, runs in pairs.items()}
    return {query: {document: run[document] for document in rank_documents(run)[:k]} for query, run in fused.items()}


def drop_identical_ids(runs: Mapping[str, DocumentScores]) -> Runs:
    """Runs without the document that has the query's own id.

    It has to go before fusion: it would stretch the scale of both lists, and count when alpha is chosen.
    """
    return {
        query: {document: score for document, score in run.items() if document != query} for query, run in runs.items()
    }


def check_alpha(alpha: Alpha) -> None:
    """
    Raises:
        InputError: an alpha that is not a finite number of at least 0, "tuned" or "published".
    """
    if not (0 <= alpha < math.inf if isinstance(alpha, int | float) else alpha in ("tuned", "published")):
        raise InputError(f"alpha {alpha!r} is not a finite number of at least 0, 'tuned' or 'published'.")


def published_alpha(language: str) -> float:
    """The alpha that was published for a language of Mr. TyDi.

    Raises:
        InputError: a language without one.
    """
    if language not in MR_TYDI_ALPHAS:
        raise InputError(f"no alpha was published for {language!r}; there is one for {', '.join(MR_TYDI_ALPHAS)}.")
    return MR_TYDI_ALPHAS[language]


def choose_tuning_split(
    labels_of_split: Mapping[str, Mapping[str, RelevanceLabels]], evaluated: str, documents: Container[str]
) -> str | None:
    """The split to tune alpha on: never the evaluated one; None where no other has enough labels on these documents.

    A split of its own may have a corpus of its own, whose documents are not searched here.
    """
    names = (name for name in TUNING_SPLITS if name in labels_of_split and name != evaluated)
    return next((name for name in names if _has_enough_labels(labels_of_split[name], documents)), None)


def sample_tuning_queries(count: int) -> range:
    """Positions of the queries to tune on, of `count`: evenly spaced, at most MAX_TUNING_QUERIES."""
    return range(0, count, math.ceil(count / MAX_TUNING_QUERIES) or 1)


def _has_enough_labels(qrels: Mapping[str, RelevanceLabels], documents: Container[str]) -> bool:
    labelled = (
        any(relevance > 0 and document in documents for document, relevance in labels.items())
        for labels in qrels.values()
    )
    return sum(labelled) >= MIN_LABELLED_QUERIES
