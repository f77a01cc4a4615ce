"""What a run has seen since it began: kept in its checkpoints, told in its model's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.train.data.collate import BatchRows, CollatedBatch


@dataclass
class Counters:
    rows: int = 0
    texts: int = 0
    tokens: int = 0
    replaced: int = 0
    """Rows that stood in for others, of which a text was in the batch already."""
    missing: int = 0
    """Rows by which batches were not full."""
    own_negatives: int = 0
    """Negatives that were the query or a positive of their own row."""
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

    def add_step(
        self, batches: Sequence[CollatedBatch], loss: float, counts: Sequence[float], *, batch_size: int, seconds: float
    ) -> dict[str, Any]:
        """Take in a step; returns what the log says of its data.

        Args:
            counts: those of `counted`, of all ranks.
        """
        tokens, texts, truncated, own_negatives = (round(count) for count in counts)
        rows = [batch.rows for batch in batches]
        self.rows += sum(each.total_rows for each in rows)
        self.replaced += sum(each.replaced for each in rows)
        self.missing += sum(batch_size - each.total_rows for each in rows)
        self.own_negatives += own_negatives
        self.short += sum(each.total_rows < batch_size for each in rows)
        self.tokens, self.texts, self.truncated = self.tokens + tokens, self.texts + texts, self.truncated + truncated
        self.seconds += seconds
        self.first_loss, self.last_loss = loss if self.first_loss is None else self.first_loss, loss
        return {
            "source": " ".join(dict.fromkeys(each.source_name for each in rows)),
            "rows": sum(each.total_rows for each in rows),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "batch": " ".join(each.digest for each in rows),
        }

    def rename_sources(self, names: Mapping[str, str]) -> None:
        """Sources that have other names since: names may be those of files."""
        self.scores = {
            step: {names.get(name, name): score for name, score in scores.items()}
            for step, scores in self.scores.items()
        }


class SeenRows:
    """Which rows of each source a run has trained on, by all ranks."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = [np.zeros(count, np.bool_) for count in rows]

    def add(self, rows: BatchRows) -> None:
        self._rows[rows.source][rows.all_rows] = True

    def counts(self) -> list[int]:
        return [int(source.sum()) for source in self._rows]

    def to_bits(self) -> dict[str, NDArray[np.uint8]]:
        """A bit for each row, by flat names."""
        return {f"seen.{place}": np.packbits(source) for place, source in enumerate(self._rows)}

    def load(self, bits: Mapping[str, NDArray[np.uint8]]) -> None:
        """What `bits` gave."""
        for place, source in enumerate(self._rows):
            source[:] = np.unpackbits(bits[f"seen.{place}"], count=len(source)).astype(np.bool_)


def count_texts(batches: Sequence[CollatedBatch]) -> tuple[float, float, float, float]:
    """Of this rank: tokens, texts, texts that were cut, and negatives that were texts of their own row."""
    lengths = [len(ids) for batch in batches for ids in batch.ids]
    truncated, own = sum(batch.num_truncated for batch in batches), sum(batch.num_own_negatives for batch in batches)
    return float(sum(lengths)), float(len(lengths)), float(truncated), float(own)
