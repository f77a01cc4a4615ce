"""Which part of its tasks a run evaluates, and by which metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gnomon.evaluate.systems import RETRIEVAL_KINDS


@dataclass(frozen=True)
class Scope:
    """The splits, subsets and metric of a run, where they are not all subsets and each task's main score."""

    split: str
    """The split of local data; mteb's tasks name their own."""
    subsets: tuple[str, ...]
    """The requested names; a task has some of them, or no subsets at all."""
    metric: str | None

    def subsets_of(self, task: Any) -> list[str]:
        """The requested subsets that a task has; empty where the task is run whole."""
        return [subset for subset in self.subsets if subset in task.hf_subsets]

    def split_of(self, task: Any) -> str | None:
        return self.split if is_local(task) else None

    def metric_of(self, task: Any) -> str:
        """The requested metric, where the task's kind has it; else the task's main score."""
        applies = task.metadata.type in RETRIEVAL_KINDS and not task.is_aggregate
        return self.metric if self.metric and applies else task.metadata.main_score

    def variant(self, task: Any) -> str:
        """What is not the default for a task, in a few words; "" for nothing."""
        split, metric = self.split_of(task) or "test", self.metric_of(task)
        parts = [
            f"split {split}" if split != "test" else "",
            " ".join(self.subsets_of(task)),
            f"by {metric}" if metric != task.metadata.main_score else "",
        ]
        return ", ".join(filter(None, parts))


# ---- facts about a task of mteb


def is_local(task: Any) -> bool:
    """Whether a task is built from local data."""
    return str(getattr(task.metadata, "dataset", {}).get("path", "")).startswith("local/")


def task_parts(task: Any) -> list[Any]:
    """The tasks that have the data: the parts of an aggregate, or the task itself."""
    return list(task.tasks) if task.is_aggregate else [task]


def ignores_identical_ids(task: Any) -> bool:
    """Whether the document with a query's own id is left out of its results, in any part of a task."""
    return any(getattr(part, "ignore_identical_ids", False) for part in task_parts(task))


def data_revision(task: Any) -> str:
    return str(task.metadata.dataset["revision"])
