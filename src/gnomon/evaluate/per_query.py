"""The values that mteb's scores consist of, one per query, pair, text or experiment: for intervals and paired tests.

Each set of values is checked against mteb's own score, and left out where it gives another.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gnomon.evaluate.intervals import PerQueryScores
from gnomon.metrics import reciprocal_rank_at, spearman

SplitSubset = tuple[str, str]
"""(split, subset)"""
QueryValues = dict[str, float]
"""{query: value}"""

SCORE_TOLERANCE = 1e-5
"""mteb rounds retrieval scores to five digits."""

NOISE_TOLERANCE = 1e-5
"""Scores of pairs that differ by less may be in another order with another engine."""

STS_PREDICTIONS = {
    "cosine": "cosine_scores",
    "manhattan": "manhattan_distances",
    "euclidean": "euclidean_distances",
    "": "similarity_scores",
}
"""First part of a metric of STS -> mteb's name of the scores that it correlates."""

TREC_EVAL_NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}
"""mteb's name of a metric -> trec_eval's"""


@contextmanager
def collect_per_query(task: Any, metric: str) -> Generator[dict[SplitSubset, QueryValues]]:
    """{(split, subset): {query: value}} of a retrieval task, filled while mteb runs it; empty for other tasks.

    `task_specific_scores` is mteb's hook for custom scores: it receives the scores of every query.
    """
    seen: dict[SplitSubset, QueryValues] = {}
    if not hasattr(task, "task_specific_scores"):
        yield seen
        return
    inner: Callable[..., dict[str, float]] = task.task_specific_scores

    def hook(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        seen[hf_split, hf_subset] = _query_values(metric, scores, qrels, results)
        return inner(scores, qrels, results, hf_split, hf_subset)

    task.task_specific_scores = hook
    try:
        yield seen
    finally:
        del task.task_specific_scores


def _query_values(metric: str, scores: Any, qrels: Any, results: Any) -> QueryValues:
    family, _, k = metric.rpartition("_at_")
    if family == "mrr":
        return {query: reciprocal_rank_at(run, qrels[query], int(k)) for query, run in results.items()}
    name = f"{TREC_EVAL_NAMES.get(family, family)}_{k}"
    return {query: values[name] for query, values in scores.items() if name in values}


def build_per_query(
    task: Any,
    kind: str,
    metric: str,
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    queries: Mapping[SplitSubset, QueryValues],
    predictions: Mapping[str, Any],
) -> dict[SplitSubset, PerQueryScores]:
    """The per-query scores of every split and subset where they give mteb's own score.

    Args:
        scores: mteb's, as {split: [{"hf_subset": ..., metric: value}]}.
        queries: values from `collect_per_query`.
        predictions: mteb's file of predictions, {subset: {split: ...}}.
    """
    per_query: dict[SplitSubset, PerQueryScores] = {}
    for split, rows in scores.items():
        for row in rows:
            split_subset = (split, row["hf_subset"])
            predicted = _select_predictions(predictions, split_subset)
            values = _build_for_subset(task, kind, metric, row, queries.get(split_subset), predicted, split_subset)
            if values is not None and len(values.values) and _agrees(values.compute_score(), row[metric]):
                per_query[split_subset] = values
    return per_query


def _agrees(score: float, mteb_score: float) -> bool:
    return abs(score - mteb_score) <= SCORE_TOLERANCE


def explain_undefined(kind: str, metric: str, predictions: Mapping[str, Any], split_subset: SplitSubset) -> str:
    """Why a score of mteb is not a number."""
    predicted = _select_predictions(predictions, split_subset)
    values = _sts_predictions(metric, predicted) if kind == "STS" else []
    if values and min(values) == max(values):
        what = f"the model gives all {len(values):,} pairs the score {values[0]:.4g}"
        return f"{what}; a correlation needs scores that differ"
    if kind == "Summarization" and predicted and not predicted["human_scores"]:
        what = "the summaries of each text have one score, by the model or by people"
        return f"{what}; a correlation needs scores that differ"
    return f"{metric} is not a number on this data, as mteb computes it"


def noise_spread(kind: str, metric: str, predictions: Mapping[str, Any], split_subset: SplitSubset) -> float | None:
    """The spread of the scores of scored pairs, where it may be rounding alone; else None."""
    values = _sts_predictions(metric, _select_predictions(predictions, split_subset)) if kind == "STS" else []
    spread = max(values) - min(values) if values else 0.0
    return spread if 0 < spread <= NOISE_TOLERANCE * max(map(abs, values)) else None


def _sts_predictions(metric: str, predicted: Any) -> list[float]:
    similarity, _, _ = metric.rpartition("_")
    return predicted.get(STS_PREDICTIONS.get(similarity)) or [] if predicted else []


def _select_predictions(predictions: Mapping[str, Any], split_subset: SplitSubset) -> Any:
    split, subset = split_subset
    if "parallel" in predictions:  # bitext whose pairs of languages are columns of one table
        return {subset: predictions["parallel"][split][subset]}
    return predictions.get(subset, {}).get(split)


def _build_for_subset(
    task: Any,
    kind: str,
    metric: str,
    row: Mapping[str, Any],
    queries: QueryValues | None,
    predicted: Any,
    split_subset: SplitSubset,
) -> PerQueryScores | None:
    if queries:
        return PerQueryScores("query", "mean", list(queries.values()), ids=list(queries))
    if "scores_per_experiment" in row:
        return PerQueryScores("experiment", "mean", [each[metric] for each in row["scores_per_experiment"]])
    if metric == "v_measure" and "v_measures" in row:
        levels = row["v_measures"]
        values = levels.values() if isinstance(levels, dict) else [levels]
        return PerQueryScores("experiment", "mean", [float(value) for level in values for value in level])
    reader = BUILDERS.get(kind)
    return reader(task, metric, predicted, split_subset) if reader and predicted else None


def _build_for_scored_pairs(task: Any, metric: str, predicted: Any, split_subset: SplitSubset) -> PerQueryScores | None:
    """Scored pairs: the correlation of the model's scores with people's."""
    name = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}.get(metric)
    data = _loaded_data(task, split_subset)
    if name is None or data is None:
        return None
    return PerQueryScores("pair", "spearman", predicted[name], gold=[float(score) for score in data["score"]])


def _build_for_labelled_pairs(
    task: Any, metric: str, predicted: Any, split_subset: SplitSubset
) -> PerQueryScores | None:
    """Labelled pairs: the average precision. `max_ap` is the best of mteb's five ways to score a pair."""
    data = _loaded_data(task, split_subset)
    names = {
        "similarity_ap": "similarity_scores",
        "cosine_ap": "cosine_scores",
        "dot_ap": "dot_scores",
    }
    if data is None or metric not in ("max_ap", *names):
        return None
    if len(data) == 1 and isinstance(
        data[0][task.label_column_name], list
    ):  # an older format of mteb: one row holds all pairs
        data = data[0]
    gold = [float(label) for label in data[task.label_column_name]]
    if metric != "max_ap":
        return PerQueryScores("pair", "average_precision", predicted[names[metric]], gold=gold)
    ways = [predicted[name] for name in names.values()]
    ways += [[-value for value in predicted[name]] for name in ("manhattan_distances", "euclidean_distances")]
    return max(
        (PerQueryScores("pair", "average_precision", way, gold=gold) for way in ways), key=PerQueryScores.compute_score
    )


def _build_for_bitext(task: Any, metric: str, predicted: Any, split_subset: SplitSubset) -> PerQueryScores | None:
    """Bitext: each sentence is a class of its own, so mteb's weighted F1 is the mean of the classes' F1."""
    if not isinstance(predicted, dict) or len(predicted) != 1:
        return None
    nearest = [int(each["corpus_id"]) for each in next(iter(predicted.values()))]
    hits = [float(row == expected) for expected, row in enumerate(nearest)]
    if metric == "accuracy":
        return PerQueryScores("pair", "mean", hits)
    if metric != "f1":
        return None
    times = np.bincount(nearest, minlength=len(nearest))
    return PerQueryScores("pair", "mean", [2 * hit / (1 + int(times[row])) for row, hit in enumerate(hits)])


def _build_for_summaries(task: Any, metric: str, predicted: Any, split_subset: SplitSubset) -> PerQueryScores | None:
    """Texts with several summaries: the mean correlation. Texts whose summaries have equal scores do not count."""
    name = {"cosine_spearman": "cosine_scores", "dot_spearman": "dot_scores", "spearman": "similarity_scores"}.get(
        metric
    )
    if name is None or name not in predicted:
        return None
    pairs = zip(predicted[name], predicted["human_scores"], strict=True)
    values = {
        str(index): spearman(human_scores, model_scores)
        for index, (model_scores, human_scores) in enumerate(pairs)
        if np.ptp(human_scores) and np.ptp(model_scores)
    }
    return PerQueryScores("text", "mean", list(values.values()), ids=list(values))


BUILDERS: dict[str, Callable[[Any, str, Any, SplitSubset], PerQueryScores | None]] = {
    "STS": _build_for_scored_pairs,
    "PairClassification": _build_for_labelled_pairs,
    "BitextMining": _build_for_bitext,
    "Summarization": _build_for_summaries,
}


def _loaded_data(task: Any, split_subset: SplitSubset) -> Any:
    """mteb's data of a split and subset; None where it is no longer loaded."""
    split, subset = split_subset
    dataset = task.dataset
    if dataset is None:
        return None
    splits = dataset if subset not in dataset and subset == "default" else dataset[subset]
    return splits[split]
