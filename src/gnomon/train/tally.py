"""What a run has seen since it began: kept in its checkpoints, told in its model's card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.train.collate import Collated


@dataclass
class Tally:
    rows: int = 0
    texts: int = 0
    tokens: int = 0
    skipped: int = 0
    truncated: int = 0
    short: int = 0
    """Batches that were not full."""
    without_gradient: int = 0
    """Steps whose gradient was 0."""
    idle: int = 0
    """Steps whose gradient or learning rate was 0: they taught nothing."""
    seconds: float = 0.0
    """In steps."""
    first_loss: float | None = None
    last_loss: float | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Step -> source -> score."""

    def add(
        self, batches: Sequence[Collated], loss: float, counts: Sequence[float], *, batch_size: int, seconds: float
    ) -> dict[str, Any]:
        """Take in a step; returns what the log says of its data.

        Args:
            counts: those of `counted`, of all ranks.
        """
        tokens, texts, truncated = (round(count) for count in counts)
        rows = [batch.rows for batch in batches]
        self.rows += sum(each.total for each in rows)
        self.skipped += sum(each.skipped for each in rows)
        self.short += sum(each.total < batch_size for each in rows)
        self.tokens, self.texts, self.truncated = self.tokens + tokens, self.texts + texts, self.truncated + truncated
        self.seconds += seconds
        self.first_loss, self.last_loss = loss if self.first_loss is None else self.first_loss, loss
        return {
            "source": " ".join(dict.fromkeys(each.name for each in rows)),
            "rows": sum(each.total for each in rows),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "batch": " ".join(each.digest for each in rows),
        }


def counted(batches: Sequence[Collated]) -> tuple[float, float, float]:
    """Tokens, texts, and texts that were cut, of this rank."""
    lengths = [len(ids) for batch in batches for ids in batch.ids]
    return float(sum(lengths)), float(len(lengths)), float(sum(batch.truncated for batch in batches))
