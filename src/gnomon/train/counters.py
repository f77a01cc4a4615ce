"""What the trainer counts since a run began: saved in checkpoints, reported in the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


class SavedCounters:
    """A dataclass of counts whose field names are keys in a checkpoint."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The counters of a checkpoint; names of others are skipped."""
        names = [field.name for field in fields(cls) if field.name in saved]  # type: ignore[arg-type]
        return cls(**{name: saved[name] for name in names})


@dataclass
class Counters(SavedCounters):
    """Counts and scores of a run. Field names are keys in a checkpoint, beside those that the objective counts."""

    without_gradient: int = 0
    """Steps whose gradient was 0."""
    idle: int = 0
    """Steps whose gradient or learning rate was 0: the model did not change."""
    seconds: float = 0.0
    """Time spent in steps."""
    first_loss: float | None = None
    last_loss: float | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Step -> name of a score -> score."""

    def add_step(self, loss: float, seconds: float) -> None:
        self.seconds += seconds
        self.first_loss, self.last_loss = loss if self.first_loss is None else self.first_loss, loss

    def rename_scores(self, names: Mapping[str, str]) -> None:
        """Scores are named by sources, and a source may have another name after a resume."""
        self.scores = {
            step: {names.get(name, name): score for name, score in scores.items()}
            for step, scores in self.scores.items()
        }
