"""Runs one loaded task with mteb, and collects what a result needs: scores, predictions, per-query scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gnomon.errors import InputError
from gnomon.evaluate.intervals import PerQueryScores
from gnomon.evaluate.mteb.quiet import silence_libraries
from gnomon.evaluate.mteb.tasks import patch_part_loading
from gnomon.evaluate.per_query import (
    SplitSubset,
    build_per_query,
    collect_per_query,
    explain_undefined,
    noise_spread,
)
from gnomon.evaluate.systems import RETRIEVAL_KINDS


@dataclass(frozen=True)
class TaskRun:
    """What mteb computed for one task."""

    kind: str
    metric: str
    result: Any
    """mteb's `TaskResult`."""
    predictions: Mapping[str, Any]
    """mteb's file of predictions; empty for retrieval."""
    per_query: Mapping[SplitSubset, PerQueryScores]

    @property
    def scores(self) -> dict[SplitSubset, float]:
        """{(split, subset): score by the metric}"""
        return {
            (split, row["hf_subset"]): row[self.metric] for split, rows in self.result.scores.items() for row in rows
        }

    @property
    def undefined(self) -> dict[SplitSubset, str]:
        """{(split, subset): why its score is not a number}"""
        return {
            split_subset: explain_undefined(self.kind, self.metric, self.predictions, split_subset)
            for split_subset, score in self.scores.items()
            if math.isnan(score)
        }

    @property
    def noise(self) -> dict[SplitSubset, float]:
        """{(split, subset): how far apart its predictions are}, where that may be rounding alone."""
        spreads = {
            split_subset: noise_spread(self.kind, self.metric, self.predictions, split_subset)
            for split_subset in self.scores
        }
        return {split_subset: spread for split_subset, spread in spreads.items() if spread}

    def to_mteb_json(self) -> str:
        """The result as mteb writes it to a file."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "task.json"
            self.result.to_disk(file)
            return file.read_text(encoding="utf-8")


def run_with_mteb(model: Any, task: Any, metric: str) -> TaskRun:
    """Evaluate a model of mteb's protocol on a loaded task.

    Raises:
        InputError: the task gave no result, or has no such metric.
    """
    import mteb

    import_module("sentence_transformers")  # mteb imports it on use: seconds that no task should be charged for
    kind = task.metadata.type
    with (
        TemporaryDirectory() as folder,
        silence_libraries(),
        patch_part_loading(task),
        collect_per_query(task, metric) as values_of_query,
    ):
        results = mteb.evaluate(
            model,
            task,
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"show_progress_bar": None},  # type: ignore[typeddict-item]  # None: our own rule
            prediction_folder=None if kind in RETRIEVAL_KINDS else folder,
        )
        if not results.task_results:
            raise InputError(f"{task.metadata.name} gave no result: {results.exceptions}.")
        result = results.task_results[0]
        _check_metric(task.metadata.name, metric, result)
        predictions = _read_predictions(Path(folder))
        per_query = build_per_query(task, kind, metric, result.scores, values_of_query, predictions)
    return TaskRun(kind, metric, result, predictions, per_query)


def _check_metric(name: str, metric: str, result: Any) -> None:
    """
    Raises:
        InputError: a split without the metric.
    """
    for rows in result.scores.values():
        for row in rows:
            if metric not in row:
                raise InputError(f"{name} has no metric {metric!r}. It has {_metric_names(row)}.")


def _read_predictions(folder: Path) -> dict[str, Any]:
    files = list(folder.glob("*.json"))
    return json.loads(files[0].read_text(encoding="utf-8")) if files else {}


def _metric_names(row: Mapping[str, Any]) -> str:
    return ", ".join(key for key, value in row.items() if isinstance(value, float) and "nauc" not in key)
