"""What mteb's scores are made of: a value a query, pair, text or experiment, for intervals and paired tests.

Nothing is scored here that mteb does not score: each is checked against mteb's own number, and left out where it
differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gnomon.evaluate.intervals import Units

Split = tuple[str, str]
"""(split, subset)"""
Values = dict[str, float]
"""{query: value}"""

AGREE = 1e-5
"""mteb rounds the scores of retrieval to five digits."""

NOISE = 1e-5
"""Scores of pairs that differ by less may have another order with another engine."""

STS_SCORES = {
    "cosine": "cosine_scores",
    "manhattan": "manhattan_distances",
    "euclidean": "euclidean_distances",
    "": "similarity_scores",
}
"""First part of a metric of STS -> mteb's name of the scores that it correlates."""

TREC = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}
"""mteb's name of a metric -> trec_eval's"""


@contextmanager
def watched(task: Any, metric: str) -> Generator[dict[Split, Values]]:
    """{(split, subset): {query: value}} of a retrieval task, filled while mteb runs it; empty for other tasks.

    `task_specific_scores` is mteb's hook for scores of one's own: it is given every query's.
    """
    seen: dict[Split, Values] = {}
    if not hasattr(task, "task_specific_scores"):
        yield seen
        return
    inner: Callable[..., dict[str, float]] = task.task_specific_scores

    def hook(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        seen[hf_split, hf_subset] = _of_queries(metric, scores, qrels, results)
        return inner(scores, qrels, results, hf_split, hf_subset)

    task.task_specific_scores = hook
    try:
        yield seen
    finally:
        del task.task_specific_scores


def _of_queries(metric: str, scores: Any, qrels: Any, results: Any) -> Values:
    family, _, cut = metric.rpartition("_at_")
    if family == "mrr":
        return {query: reciprocal_rank_at(run, qrels[query], int(cut)) for query, run in results.items()}
    name = f"{TREC.get(family, family)}_{cut}"
    return {query: found[name] for query, found in scores.items() if name in found}


def reciprocal_rank_at(run: Mapping[str, float], relevant: Mapping[str, int], k: int) -> float:
    """1 / the rank of the first relevant document among the first k, else 0; ties by document id, descending."""
    first = sorted(run.items(), key=lambda item: (item[1], item[0]), reverse=True)[:k]
    ranks = (rank for rank, (document, _) in enumerate(first, 1) if relevant.get(document, 0) > 0)
    return 1 / next(ranks, math.inf)


def units_of(
    task: Any,
    kind: str,
    metric: str,
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    queries: Mapping[Split, Values],
    predictions: Mapping[str, Any],
) -> dict[Split, Units]:
    """The units of every split and subset whose score they give.

    Args:
        scores: mteb's: {split: [{"hf_subset": ..., metric: value}]}.
        queries: of `watched`. predictions: mteb's file of them: {subset: {split: ...}}.
    """
    found: dict[Split, Units] = {}
    for split, listed in scores.items():
        for row in listed:
            place = (split, row["hf_subset"])
            units = _units(task, kind, metric, row, queries.get(place), _predicted(predictions, place), place)
            if units is not None and len(units.values) and abs(units.score() - row[metric]) <= AGREE:
                found[place] = units
    return found


def why_undefined(kind: str, metric: str, predictions: Mapping[str, Any], place: Split) -> str:
    """Why mteb has no number for a score."""
    predicted = _predicted(predictions, place)
    values = _of_sts(metric, predicted) if kind == "STS" else []
    if values and min(values) == max(values):
        what = f"the model gives all {len(values):,} pairs the score {values[0]:.4g}"
        return f"{what}; a correlation needs scores that differ"
    if kind == "Summarization" and predicted and not predicted["human_scores"]:
        what = "the summaries of each text have one score, by the model or by people"
        return f"{what}; a correlation needs scores that differ"
    return f"{metric} is not a number on this data, as mteb computes it"


def spread_of_noise(kind: str, metric: str, predictions: Mapping[str, Any], place: Split) -> float | None:
    """How far apart the scores of graded pairs are, where that may be rounding alone; else None."""
    values = _of_sts(metric, _predicted(predictions, place)) if kind == "STS" else []
    spread = max(values) - min(values) if values else 0.0
    return spread if 0 < spread <= NOISE * max(map(abs, values)) else None


def _of_sts(metric: str, predicted: Any) -> list[float]:
    front, _, _ = metric.rpartition("_")
    return predicted.get(STS_SCORES.get(front)) or [] if predicted else []


def _predicted(predictions: Mapping[str, Any], place: Split) -> Any:
    split, subset = place
    if "parallel" in predictions:  # bitext whose pairs of languages are columns of one table
        return {subset: predictions["parallel"][split][subset]}
    return predictions.get(subset, {}).get(split)


def _units(
    task: Any, kind: str, metric: str, row: Mapping[str, Any], queries: Values | None, predicted: Any, place: Split
) -> Units | None:
    if queries:
        return Units("query", "mean", list(queries.values()), ids=list(queries))
    if "scores_per_experiment" in row:
        return Units("experiment", "mean", [each[metric] for each in row["scores_per_experiment"]])
    if metric == "v_measure" and "v_measures" in row:
        levels = row["v_measures"]
        values = levels.values() if isinstance(levels, dict) else [levels]
        return Units("experiment", "mean", [float(value) for level in values for value in level])
    reader = READERS.get(kind)
    return reader(task, metric, predicted, place) if reader and predicted else None


def _of_pairs(task: Any, metric: str, predicted: Any, place: Split) -> Units | None:
    """Graded pairs: the correlation of their scores with people's."""
    name = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}.get(metric)
    data = _data(task, place)
    if name is None or data is None:
        return None
    return Units("pair", "spearman", predicted[name], gold=[float(score) for score in data["score"]])


def _of_labels(task: Any, metric: str, predicted: Any, place: Split) -> Units | None:
    """Pairs alike or not: the average precision; `max_ap` is that of the best of mteb's five ways to score a pair."""
    data = _data(task, place)
    names = {
        "similarity_ap": "similarity_scores",
        "cosine_ap": "cosine_scores",
        "dot_ap": "dot_scores",
    }
    if data is None or metric not in ("max_ap", *names):
        return None
    if len(data) == 1 and isinstance(data[0][task.label_column_name], list):  # mteb's older form: one row holds all
        data = data[0]
    gold = [float(label) for label in data[task.label_column_name]]
    if metric != "max_ap":
        return Units("pair", "average_precision", predicted[names[metric]], gold=gold)
    ways = [predicted[name] for name in names.values()]
    ways += [[-value for value in predicted[name]] for name in ("manhattan_distances", "euclidean_distances")]
    return max((Units("pair", "average_precision", way, gold=gold) for way in ways), key=Units.score)


def _of_bitext(task: Any, metric: str, predicted: Any, place: Split) -> Units | None:
    """Each sentence is a class of its own, so that mteb's weighted F1 is the mean of theirs."""
    if not isinstance(predicted, dict) or len(predicted) != 1:
        return None
    nearest = [int(each["corpus_id"]) for each in next(iter(predicted.values()))]
    hits = [float(found == place) for place, found in enumerate(nearest)]
    if metric == "accuracy":
        return Units("pair", "mean", hits)
    if metric != "f1":
        return None
    times = np.bincount(nearest, minlength=len(nearest))
    return Units("pair", "mean", [2 * hit / (1 + int(times[place])) for place, hit in enumerate(hits)])


def _of_summaries(task: Any, metric: str, predicted: Any, place: Split) -> Units | None:
    """Texts with several summaries: the mean of their correlations; texts graded all alike do not count."""
    from scipy.stats import spearmanr

    name = {"cosine_spearman": "cosine_scores", "dot_spearman": "dot_scores", "spearman": "similarity_scores"}.get(
        metric
    )
    if name is None or name not in predicted:
        return None
    pairs = zip(predicted[name], predicted["human_scores"], strict=True)
    correlate: Callable[..., Any] = spearmanr
    values = {
        str(at): float(correlate(human, found).statistic)
        for at, (found, human) in enumerate(pairs)
        if np.ptp(human) and np.ptp(found)
    }
    return Units("text", "mean", list(values.values()), ids=list(values))


READERS: dict[str, Callable[[Any, str, Any, Split], Units | None]] = {
    "STS": _of_pairs,
    "PairClassification": _of_labels,
    "BitextMining": _of_bitext,
    "Summarization": _of_summaries,
}


def _data(task: Any, place: Split) -> Any:
    """mteb's data of a split, where it is still loaded."""
    split, subset = place
    dataset = task.dataset
    if dataset is None:
        return None
    of_subset = dataset if subset not in dataset and subset == "default" else dataset[subset]
    return of_subset[split]
