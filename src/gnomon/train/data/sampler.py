"""Draws the rows of a batch, as a function of the data, the settings and the batch's number only.

Each source is an endless stream: epoch after epoch, each in its own random order. A batch is the next piece of one
source's stream. Any position is computed directly (`permutation`), so a batch does not need those before it. Rows that
cannot be in one batch together move to other batches of the same window of the stream.

B: rows of a batch; K: negatives drawn per row; S: spare rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.errors import InputError
from gnomon.messages import count
from gnomon.train.data.dataset import Dataset
from gnomon.train.data.permutation import Key, permute, random_bits, uniform

RowNumbers = NDArray[np.int64]

SAMPLING_VERSION = 2
"""The version of the rule that draws rows. A run that is resumed must have the version that it began with."""

BATCHES_PER_BLOCK = 65_536
"""Batches whose sources are drawn at once."""
BATCHES_PER_WINDOW = 16
"""Batches whose rows are sorted by length together, and among which rows move."""
MIN_SPARE_ROWS = 64
"""A batch has this many spare rows, or as many as its own rows if those are more. They replace rows that no batch of a
window takes.
"""
HASHES_PER_SCAN = 1 << 22
"""Hashes that are searched at once."""
PROBED_ROWS = 4096
"""About this many rows of a source are drawn by `Sampler.mean_batch_rows`."""


@dataclass(frozen=True)
class SampledBatch:
    """Rows of one batch, over all ranks."""

    batch_number: int
    source: int
    rows_B: RowNumbers
    replaced: int = 0
    """How many spare rows replace rows that have a text of another row."""


class Sampler:
    """Draws the source of each batch by weight, and its rows from the source's stream.

    Texts are compared by their hashes (`dataset.fold`). No batch has a row with the query of a held-out row of any
    source, in any column.

    Args:
        weights: shares of the sources, from `mixture.compute_weights`.
        duplicates: "skip" for batches in which no two rows share a query or positive. Such a row moves to the next
            batch of its window with room for it. If there is no such batch, the row is left out, and one of this
            batch's spare rows replaces it. If these do not suffice, the batch is shorter.
        loss_masks_duplicates: the loss leaves out a negative that answers a query. Otherwise "skip" also separates rows
            of which one has the other's query or positive as a negative.
        group_by_length: batches of texts of similar length, by bytes of query and positive.
        num_held_out: how many rows of each source are never drawn, but returned by `held_out_rows`.
        num_negatives: for each source, how many negatives of a row are in a batch; None for all.
        world_size: ranks that share a batch.

    Raises:
        InputError: a source cannot fill a batch, or the ranks cannot share a batch.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: ArrayLike,
        *,
        batch_size: int,
        seed: int,
        duplicates: Literal["skip", "keep"] = "skip",
        loss_masks_duplicates: bool = True,
        group_by_length: bool = False,
        num_held_out: int = 0,
        num_negatives: Sequence[int | None] | None = None,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise InputError(
                f"batch_size is {batch_size}, and {world_size} ranks share it. It must be a multiple of {world_size}."
            )
        shares = np.asarray(weights, np.float64)
        self.batch_size, self.seed, self.skip_duplicates, self.loss_masks_duplicates = (
            batch_size,
            seed,
            duplicates == "skip",
            loss_masks_duplicates,
        )
        self.group_by_length = group_by_length
        self.datasets, self.world_size = [*datasets], world_size
        self.num_negatives = [*num_negatives] if num_negatives else [None] * len(datasets)
        self._streams = _build_streams(datasets, shares > 0, seed, num_held_out)
        for stream, share_ in zip(self._streams, shares, strict=True):
            if share_:
                _check_fills(stream, batch_size, skip=self.skip_duplicates, others=len(datasets) > 1)
        until = np.cumsum(shares)
        self._until = until / until[-1]  # ends with 1 exactly, which no draw reaches
        self._before = {0: np.zeros(len(shares), np.int64)}
        self._block = (-1, np.zeros(0, np.int64))
        self._bucket_cache: dict[int, tuple[int, list[RowNumbers]]] = {}
        self._window_cache: dict[int, tuple[int, list[list[int]]]] = {}
        """For each source the last window, and where its rows moved. Only a cache."""

    def batch_at(self, batch: int) -> SampledBatch:
        """Draw the rows of the batch with this number."""
        source = self.source_at(batch)
        drawn = self._draw(batch, source, int(self.count_batches_per_source(batch)[source]))
        if len(drawn.rows_B) < self.world_size:
            raise InputError(
                f"Batch {batch} of source {self.datasets[source].name!r} has {count(len(drawn.rows_B), 'row')} without "
                f"a repeated text, for {count(self.world_size, 'rank')}. Remove what many rows have in common, or set "
                "duplicates='keep'."
            )
        return drawn

    def mean_batch_rows(self, source: int) -> float:
        """Rows per batch of this source: the mean of its first batches, or batch_size if duplicates shorten none."""
        if not self.skip_duplicates:
            return float(self.batch_size)
        epoch = -(-self._streams[source].num_rows // self.batch_size)
        source_batches = min(epoch, max(4, PROBED_ROWS // self.batch_size))
        counts = [
            len(self._draw(source_batch, source, source_batch).rows_B) // self.world_size * self.world_size
            for source_batch in range(source_batches)
        ]
        return sum(counts) / source_batches

    def rows_per_epoch(self, source: int) -> int:
        """Rows of a source that may be drawn: not held out, and without a held-out query."""
        return self._streams[source].num_rows

    def count_excluded(self, source: int) -> int:
        """Rows that are never drawn, since they have the query of a held-out row of any source."""
        return self.datasets[source].rows - self._streams[source].num_rows - len(self.held_out_rows(source))

    def source_at(self, batch: int) -> int:
        return int(self._draw_sources(batch // BATCHES_PER_BLOCK)[batch % BATCHES_PER_BLOCK])

    def count_batches_per_source(self, batches: int) -> NDArray[np.int64]:
        """How many of the first batches come from each source."""
        block, rest = divmod(batches, BATCHES_PER_BLOCK)
        for earlier in range(len(self._before) - 1, block):
            self._before[earlier + 1] = self._before[earlier] + self._count_per_source(self._draw_sources(earlier))
        return self._before[block] + (self._count_per_source(self._draw_sources(block)[:rest]) if rest else 0)

    def held_out_rows(self, source: int) -> RowNumbers:
        """Rows that are held out, in random order."""
        return self._streams[source].held_out_rows

    def _draw(self, batch: int, source: int, source_batch: int) -> SampledBatch:
        """Draw a batch by its number within its source; `batch` is its number among all batches."""
        rows_B = self._scheduled_rows(source, source_batch)
        if not self.skip_duplicates or (self.loss_masks_duplicates and self._all_texts_differ(source, rows_B)):
            return SampledBatch(batch, source, rows_B)
        rows = self._take_new_rows(source, rows_B, _BatchTexts())
        if len(rows) < len(rows_B):
            window, position = divmod(source_batch, self._streams[source].window(self.batch_size))
            rows = self._window_batches(source, window)[position]
        texts = _BatchTexts()
        if not self.loss_masks_duplicates:
            rows = self._take_new_rows(source, np.array(rows, np.int64), texts, batch=batch)
        spares: list[int] = []
        if len(rows) < self.batch_size:
            if self.loss_masks_duplicates:
                self._take_new_rows(source, np.array(rows, np.int64), texts)
            num_spares = max(MIN_SPARE_ROWS, self.batch_size)
            spare_S = self._streams[source].rows_at(source_batch * num_spares, num_spares, "spare")
            spares = self._take_new_rows(source, spare_S, texts, batch=None if self.loss_masks_duplicates else batch)
            spares = spares[: self.batch_size - len(rows)]
        return SampledBatch(batch, source, np.array(rows + spares, np.int64), len(spares))

    def _count_per_source(self, sources: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(sources, minlength=len(self.datasets))

    def _draw_sources(self, block: int) -> NDArray[np.int64]:
        """The source of each batch of a block."""
        cached_block, sources = self._block
        if cached_block != block:
            drawn = uniform(
                np.arange(block * BATCHES_PER_BLOCK, (block + 1) * BATCHES_PER_BLOCK), (self.seed, "source")
            )
            sources = np.searchsorted(self._until, drawn, side="right")
            self._block = (block, sources)
        return sources

    def _stream_rows(self, source: int, source_batch: int, batches: int) -> RowNumbers:
        """Rows of this many batches of a source's stream, one after the other."""
        num_rows = batches * self.batch_size
        return self._streams[source].rows_at(source_batch * num_rows, num_rows, "main")

    def _scheduled_rows(self, source: int, source_batch: int) -> RowNumbers:
        """A batch's piece of the stream, before rows move."""
        if self.group_by_length:
            return self._bucket_at(source, source_batch)
        return self._stream_rows(source, source_batch, 1)

    def _bucket_at(self, source: int, source_batch: int) -> RowNumbers:
        window, position = divmod(source_batch, self._streams[source].window(self.batch_size))
        cached_window, buckets = self._bucket_cache.get(source, (-1, []))
        if cached_window != window:
            buckets = self._build_buckets(source, window)
            self._bucket_cache[source] = (window, buckets)
        return buckets[position]

    def _build_buckets(self, source: int, window: int) -> list[RowNumbers]:
        """The batches of a window with rows of similar length. Within a batch they are in the stream's order again, so
        that the ranks' shares are similar.
        """
        num_batches = self._streams[source].window(self.batch_size)
        rows = self._stream_rows(source, window, num_batches)
        order = np.argsort(self._streams[source].sizes(rows), kind="stable").reshape(num_batches, -1)
        shuffled = permute(np.arange(num_batches), num_batches, (self.seed, "bucket", source, window))
        return [rows[np.sort(order[bucket])] for bucket in shuffled.tolist()]

    def _window_batches(self, source: int, window: int) -> list[list[int]]:
        """The rows of each batch of a window, after rows have moved. Some rows may be in no batch."""
        cached_window, batches = self._window_cache.get(source, (-1, []))
        if cached_window != window:
            batches = self._resolve_duplicates(source, window)
            self._window_cache[source] = (window, batches)
        return batches

    def _resolve_duplicates(self, source: int, window: int) -> list[list[int]]:
        num_batches = self._streams[source].window(self.batch_size)
        scheduled = [
            self._scheduled_rows(source, source_batch)
            for source_batch in range(window * num_batches, (window + 1) * num_batches)
        ]
        texts = [_BatchTexts() for _ in scheduled]
        batches = [self._take_new_rows(source, rows_B, known) for rows_B, known in zip(scheduled, texts, strict=True)]
        for number, (rows_B, staying) in enumerate(zip(scheduled, map(deque, batches), strict=True)):
            # the rows that stay are in the same order; where an epoch ends, a batch may have a row twice
            moves = [not (staying and row == staying[0] and staying.popleft() == row) for row in rows_B.tolist()]
            moving = rows_B[moves]
            for row, (pair, _) in zip(moving.tolist(), self._text_hashes(source, moving), strict=True):
                others = ((number + step) % num_batches for step in range(1, num_batches))
                with_room = (other for other in others if len(batches[other]) < self.batch_size)
                taker = next((other for other in with_room if texts[other].add_if_new(pair)), None)
                if taker is not None:
                    batches[taker].append(row)
        return batches

    def _all_texts_differ(self, source: int, rows_B: RowNumbers) -> bool:
        """Whether all queries and positives are different texts."""
        sides = [self.datasets[source].hashes(side)[rows_B] for side in ("query", "positive")]
        return len(np.unique(np.concatenate(sides))) == 2 * len(rows_B)

    def _take_new_rows(
        self, source: int, rows_B: RowNumbers, batch_texts: _BatchTexts, *, batch: int | None = None
    ) -> list[int]:
        """The rows that share no text with `batch_texts` or an earlier row. Their texts are added.

        Args:
            batch: compare the negatives that this batch draws, too; None for queries and positives only.
        """
        texts = self._text_hashes(source, rows_B, batch)
        return [
            row
            for row, (pair, others) in zip(rows_B.tolist(), texts, strict=True)
            if batch_texts.add_if_new(pair, others)
        ]

    def _text_hashes(
        self, source: int, rows_B: RowNumbers, batch: int | None = None
    ) -> Iterable[tuple[list[int], list[int]]]:
        """For each row the hashes of its query and positive, and of the negatives that a batch draws."""
        dataset = self.datasets[source]
        pairs = np.column_stack([dataset.hashes("query")[rows_B], dataset.hashes("positive")[rows_B]]).tolist()
        if batch is None or dataset.negative_bounds is None:
            return zip(pairs, repeat([]), strict=False)
        negatives_BK = select_negatives(dataset, rows_B, self.num_negatives[source], seed=self.seed, batch=batch)
        return zip(pairs, dataset.hashes("negative")[negatives_BK].tolist(), strict=True)


class _BatchTexts:
    """Hashes of the texts of a batch."""

    def __init__(self) -> None:
        self.pairs: set[int] = set()
        self.negatives: set[int] = set()

    def add_if_new(self, pair: Sequence[int], negatives: Sequence[int] = ()) -> bool:
        """Add a row's texts, unless the batch has its query or positive, or one of its negatives as one of these."""
        if not self.pairs.isdisjoint(pair):
            return False
        if not (self.negatives.isdisjoint(pair) and self.pairs.isdisjoint(negatives)):
            return False
        self.pairs.update(pair)
        self.negatives.update(negatives)
        return True


def select_negatives(
    dataset: Dataset, rows_B: RowNumbers, number: int | None, *, seed: int, batch: int
) -> NDArray[np.int64]:
    """[B, K]: numbers of each row's negatives, in their order: all of them (None), or K = `number`, drawn by seed and
    batch.
    """
    bounds, number = dataset.negative_bounds, dataset.negatives if number is None else number
    if bounds is None:
        return np.zeros((len(rows_B), 0), np.int64)
    starts_B, counts_B = bounds[rows_B], bounds[rows_B + 1] - bounds[rows_B]
    if (counts_B == number).all():
        return starts_B[:, None] + np.arange(number)
    firsts_B = np.cumsum(counts_B) - counts_B
    owners = np.repeat(np.arange(len(rows_B)), counts_B)
    entries = (starts_B - firsts_B)[owners] + np.arange(len(owners))
    drawn = entries[np.lexsort((random_bits(entries, (seed, "negatives", batch)), owners))]
    return np.sort(drawn[firsts_B[:, None] + np.arange(number)], axis=1)


def shard(rows_B: RowNumbers, rank: int, world_size: int) -> RowNumbers:
    """A rank's rows of a batch. All ranks have the same number; what a short batch leaves over is dropped."""
    size = len(rows_B) // world_size
    return rows_B[rank * size : (rank + 1) * size]


class _Stream:
    """The endless stream of a source's rows, epoch after epoch."""

    def __init__(self, dataset: Dataset, key: Key, held_out: int) -> None:
        self.dataset, self._key = dataset, key
        self.held_out_rows = permute(np.arange(min(held_out, dataset.rows)), dataset.rows, (*key, "validation"))
        self._sizes: NDArray[np.int32] | None = None
        self.exclude(self.held_out_rows)

    def exclude(self, rows: RowNumbers) -> None:
        """Never draw these rows, nor the held-out ones."""
        excluded = np.union1d(self.held_out_rows, rows)
        self.num_rows = self.dataset.rows - len(excluded)
        self._exclusion_offsets = excluded - np.arange(len(excluded))
        """For each row that is excluded, how many rows before it are not."""

    def rows_at(self, start: int, count: int, name: str) -> RowNumbers:
        """The next `count` rows from `start` on, in the stream with this name."""
        epochs, positions = np.divmod(np.arange(start, start + count), self.num_rows)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = permute(positions[here], self.num_rows, (*self._key, name, epoch))
        return self._to_rows(rows)

    def count_distinct(self, column: str, *, least: int) -> int:
        """Different texts of a column in the rows that may be drawn. From `least` on the number is not exact."""
        lower_bound = self.dataset.distinct[column] - len(self._exclusion_offsets)
        if lower_bound >= least or not len(self._exclusion_offsets):
            return self.dataset.distinct[column]
        return len(np.unique(self.dataset.hashes(column)[self._to_rows(np.arange(self.num_rows))]))

    def window(self, batch_size: int) -> int:
        """Batches per window: not more than an epoch has, or the same row would be in a batch twice."""
        return max(1, min(BATCHES_PER_WINDOW, self.num_rows // batch_size))

    def sizes(self, rows: RowNumbers) -> NDArray[np.int32]:
        """Bytes of query and positive of each row."""
        if self._sizes is None:
            self._sizes = self.dataset.sizes("query").astype(np.int32)
            self._sizes += self.dataset.sizes("positive").astype(np.int32)
        return self._sizes[rows]

    def _to_rows(self, positions: RowNumbers) -> RowNumbers:
        """The rows at these positions among all that may be drawn."""
        return positions + np.searchsorted(self._exclusion_offsets, positions, side="right")


def _build_streams(datasets: Sequence[Dataset], used: NDArray[np.bool_], seed: int, held_out: int) -> list[_Stream]:
    """The stream of each source, without the rows that have a held-out query of any source in use."""
    streams = [_Stream(dataset, (seed, source), held_out) for source, dataset in enumerate(datasets)]
    taking_part = [stream for stream, uses in zip(streams, used.tolist(), strict=True) if uses]
    if held_out:
        queries = [stream.dataset.hashes("query")[stream.held_out_rows] for stream in taking_part]
        hashes = np.unique(np.concatenate(queries))
        for stream in taking_part:
            stream.exclude(rows_with(stream.dataset, hashes))
    return streams


def rows_with(dataset: Dataset, hashes: NDArray[np.int64]) -> RowNumbers:
    """The rows that have a text with one of these hashes, in any column."""
    low = np.zeros(1 << 16, np.bool_)
    low[hashes & 0xFFFF] = True
    rows = [np.zeros(0, np.int64)]
    for column in dataset.columns:
        column_N = dataset.hashes(column)
        for start in range(0, len(column_N), HASHES_PER_SCAN):
            chunk = column_N[start : start + HASHES_PER_SCAN]
            likely = np.flatnonzero(low[chunk & 0xFFFF])
            entries = start + likely[np.isin(chunk[likely], hashes)]
            rows.append(dataset.rows_of_negatives(entries) if column == "negative" else entries)
    return np.unique(np.concatenate(rows))


def _check_fills(stream: _Stream, batch_size: int, *, skip: bool, others: bool) -> None:
    """Raise InputError for a source with too few rows, or too few different texts, for a batch."""
    dataset, held_out = stream.dataset, len(stream.held_out_rows)
    rows = _describe_rows(stream)
    smaller = "validation.rows or batch_size" if held_out else "batch_size"
    if stream.num_rows < batch_size:
        raise InputError(
            f"Source {dataset.name!r} has {rows}, and a batch takes {batch_size}. Give it more rows"
            f"{', leave it out,' if others else ''} or lower {smaller}."
        )
    for column in ("query", "positive") if skip else ():
        if (distinct := stream.count_distinct(column, least=batch_size)) < batch_size:
            raise InputError(
                f"Source {dataset.name!r} has {rows}, with {distinct} different texts in the column {column}. A batch "
                f"takes {batch_size}, and none twice: lower {smaller}, or set duplicates='keep'."
            )


def _describe_rows(stream: _Stream) -> str:
    """The number of rows, and why some of them may not be drawn."""
    held_out, left = len(stream.held_out_rows), stream.num_rows
    text = count(stream.dataset.rows, "row")
    if held_out:
        text += f": {held_out} held out (validation.rows)"
        if with_held_out_query := stream.dataset.rows - held_out - left:
            text += f", {with_held_out_query} more with a query of these"
        text += f", {left} left"
    return text
