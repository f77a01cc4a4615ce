"""What contrastive training counts: rows, texts and tokens, and which rows of each source were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnomon.train.counters import SavedCounters
from gnomon.train.data.collate import BatchRows, CollatedBatch
from gnomon.train.distributed import Ranks


@dataclass
class RowCounters(SavedCounters):
    """Counts over all ranks since the run began. Field names are keys in a checkpoint."""

    rows: int = 0
    texts: int = 0
    tokens: int = 0
    replaced: int = 0
    """Rows that stood in for others, because a text of those was in the batch already."""
    missing: int = 0
    """Rows that short batches lacked."""
    false_negatives: int = 0
    """Negatives that were the query or a positive of their own row."""
    truncated: int = 0
    """Texts that were longer than the model reads."""
    short: int = 0
    """Batches with fewer rows than `batch_size`."""

    def add_step(
        self, batches: Sequence[CollatedBatch], ranks: Ranks, *, batch_size: int, seconds: float
    ) -> dict[str, Any]:
        """Count the batches of a step on all ranks; returns what the log says about them."""
        tokens, texts, truncated, false_negatives = (round(count) for count in ranks.sum_numbers(*count_texts(batches)))
        rows = [batch.rows for batch in batches]
        self.rows += sum(each.total_rows for each in rows)
        self.replaced += sum(each.replaced for each in rows)
        self.missing += sum(batch_size - each.total_rows for each in rows)
        self.false_negatives += false_negatives
        self.short += sum(each.total_rows < batch_size for each in rows)
        self.tokens, self.texts, self.truncated = self.tokens + tokens, self.texts + texts, self.truncated + truncated
        return {
            "source": " ".join(dict.fromkeys(each.source_name for each in rows)),
            "rows": sum(each.total_rows for each in rows),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "batch": " ".join(each.digest for each in rows),
        }


class SeenRows:
    """Which rows of each source a run has trained on, on all ranks."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = [np.zeros(count, np.bool_) for count in rows]

    def add(self, rows: BatchRows) -> None:
        self._rows[rows.source][rows.all_rows] = True

    def counts(self) -> list[int]:
        """The number of rows that were seen, of each source."""
        return [int(source.sum()) for source in self._rows]

    def to_tensors(self) -> dict[str, Tensor]:
        """One bit per row, as "seen.N" for source number N."""
        return {f"seen.{number}": torch.from_numpy(np.packbits(source)) for number, source in enumerate(self._rows)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `to_tensors` returned; other names are skipped."""
        for number, source in enumerate(self._rows):
            bits = tensors[f"seen.{number}"].numpy()
            source[:] = np.unpackbits(bits, count=len(source)).astype(np.bool_)


def count_texts(batches: Sequence[CollatedBatch]) -> tuple[float, float, float, float]:
    """On this rank: tokens, texts, truncated texts, and negatives that are texts of their own row."""
    lengths = [len(ids) for batch in batches for ids in batch.ids]
    truncated = sum(batch.num_truncated for batch in batches)
    false_negatives = sum(batch.num_false_negatives for batch in batches)
    return float(sum(lengths)), float(len(lengths)), float(truncated), float(false_negatives)
