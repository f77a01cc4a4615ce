"""Which rows a batch holds: a function of the data, the settings and the batch's number, and of nothing else.

Each source is a stream without end: epoch after epoch, each in a random order of its own. A batch is the next piece of
one source's stream; what stands where is computed (`order`), so no batch needs those in front of it. Rows that cannot
stand in their batch together move to others of the same window of the stream.

B: rows of a batch; K: negatives that are taken of a row; S: spare rows.
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
from gnomon.train.data.dataset import Dataset
from gnomon.train.data.permutation import Key, permute, random_bits, uniform

RowNumbers = NDArray[np.int64]

SAMPLING_VERSION = 2
"""Of the rule by which rows are drawn: a run goes on under the rule that it began with."""

BLOCK = 65_536
"""Batches whose sources are drawn at once."""
WINDOW = 16
"""Batches whose rows are sorted by length together, and among which rows move."""
MIN_SPARE_ROWS = 64
"""Rows at least that stand in for those that no batch of a window takes; a batch has as many as its own rows, if more.
"""
SCANNED = 1 << 22
"""Hashes that are searched at once."""
PROBED = 4096
"""Rows of a source, about, whose batches `Sampler.filled` draws."""


@dataclass(frozen=True)
class SampledBatch:
    """Rows of one batch, over all ranks."""

    batch_number: int
    """The batch's number."""
    source: int
    rows_B: RowNumbers
    replaced: int = 0
    """Spare rows in place of those that cannot stand in it, since a text of theirs is there already."""


class Sampler:
    """Draws the source of each batch by weight, and its rows from the source's stream.

    Texts are compared by their hashes (`index.fold`). No batch holds a row with the query of a held-out row of any
    source, in whatever column it stands.

    Args:
        weights: of the sources, as `mixture.weights_of` gives them.
        duplicates: "skip" for batches in which no query or positive stands in two rows: the row moves to the next batch
            of its window that has room for it. Where none has, it is left out, and the next of some spare rows that
            only this batch has is taken. Where these do not suffice, the batch is shorter.
        masked: the loss leaves out a negative that answers a query; otherwise "skip" also keeps rows apart of which the
            one has the other's query or positive as a negative.
        length_buckets: batches of texts of about one length, by bytes of query and positive.
        held_out: how many rows of each source are never drawn, but given by `held_out_rows`.
        num_negatives: of each source, how many negatives of a row are in a batch; None for all.
        world: ranks that share a batch.

    Raises:
        InputError: a source that cannot fill a batch; a batch that the ranks cannot share.
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
        length_buckets: bool = False,
        num_held_out: int = 0,
        num_negatives: Sequence[int | None] | None = None,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise InputError(
                f"batch_size is {batch_size}; {world_size} ranks share it, so let it be a multiple of {world_size}."
            )
        shares = np.asarray(weights, np.float64)
        self.batch_size, self.seed, self.skip_duplicates, self.loss_masks_duplicates = (
            batch_size,
            seed,
            duplicates == "skip",
            loss_masks_duplicates,
        )
        self.length_buckets = length_buckets
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
        """Of each source the last window, and what its rows moved to; not state, but work saved."""

    def batch_at(self, batch: int) -> SampledBatch:
        source = self.source_at(batch)
        drawn = self._draw(batch, source, int(self.count_batches_per_source(batch)[source]))
        if len(drawn.rows_B) < self.world_size:
            raise InputError(
                f"batch {batch} of source {self.datasets[source].name!r} has {len(drawn.rows_B)} rows without a text "
                f"twice, and {self.world_size} {'rank' if self.world_size == 1 else 'ranks'} to share it; take out what many "
                "rows have in common, or let duplicates be 'keep'."
            )
        return drawn

    def mean_batch_rows(self, source: int) -> float:
        """Rows of a batch of this source, the mean of its first ones; batch_size, where duplicates leave none short."""
        if not self.skip_duplicates:
            return float(self.batch_size)
        epoch = -(-self._streams[source].num_rows // self.batch_size)
        turns = min(epoch, max(4, PROBED // self.batch_size))
        counts = [
            len(self._draw(turn, source, turn).rows_B) // self.world_size * self.world_size for turn in range(turns)
        ]
        return sum(counts) / turns

    def rows_per_epoch(self, source: int) -> int:
        """Rows of an epoch of a source: those that are not held out, and have no query that is."""
        return self._streams[source].num_rows

    def count_excluded(self, source: int) -> int:
        """Rows that are never drawn, since they have the query of a held-out row of some source."""
        return self.datasets[source].rows - self._streams[source].num_rows - len(self.held_out_rows(source))

    def source_at(self, batch: int) -> int:
        return int(self._draw_sources(batch // BLOCK)[batch % BLOCK])

    def count_batches_per_source(self, batches: int) -> NDArray[np.int64]:
        """How many of the first batches each source gives."""
        block, rest = divmod(batches, BLOCK)
        for done in range(len(self._before) - 1, block):
            self._before[done + 1] = self._before[done] + self._count_per_source(self._draw_sources(done))
        return self._before[block] + (self._count_per_source(self._draw_sources(block)[:rest]) if rest else 0)

    def held_out_rows(self, source: int) -> RowNumbers:
        """Rows that are held out, in no order."""
        return self._streams[source].held_out_rows

    def _draw(self, batch: int, source: int, source_batch_number: int) -> SampledBatch:
        """A source's batch number `turn`, which is number `batch` of all."""
        rows_B = self._scheduled_rows(source, source_batch_number)
        if not self.skip_duplicates or (self.loss_masks_duplicates and self._all_texts_differ(source, rows_B)):
            return SampledBatch(batch, source, rows_B)
        kept = self._take_new_rows(source, rows_B, _BatchTexts())
        if len(kept) < len(rows_B):
            window, place = divmod(source_batch_number, self._streams[source].window(self.batch_size))
            kept = self._window_batches(source, window)[place]
        texts = _BatchTexts()
        if not self.loss_masks_duplicates:
            kept = self._take_new_rows(source, np.array(kept, np.int64), texts, batch=batch)
        replaced: list[int] = []
        if len(kept) < self.batch_size:
            if self.loss_masks_duplicates:
                self._take_new_rows(source, np.array(kept, np.int64), texts)
            count = max(MIN_SPARE_ROWS, self.batch_size)
            spare_S = self._streams[source].rows_at(source_batch_number * count, count, "spare")
            replaced = self._take_new_rows(source, spare_S, texts, batch=None if self.loss_masks_duplicates else batch)
            replaced = replaced[: self.batch_size - len(kept)]
        return SampledBatch(batch, source, np.array(kept + replaced, np.int64), len(replaced))

    def _count_per_source(self, sources: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(sources, minlength=len(self.datasets))

    def _draw_sources(self, block: int) -> NDArray[np.int64]:
        """The source of each batch of a block."""
        at, sources = self._block
        if at != block:
            drawn = uniform(np.arange(block * BLOCK, (block + 1) * BLOCK), (self.seed, "source"))
            sources = np.searchsorted(self._until, drawn, side="right")
            self._block = (block, sources)
        return sources

    def _stream_rows(self, source: int, turn: int, batches: int) -> RowNumbers:
        """So many batches of a source's stream, end to end."""
        count = batches * self.batch_size
        return self._streams[source].rows_at(turn * count, count, "main")

    def _scheduled_rows(self, source: int, turn: int) -> RowNumbers:
        """A batch's own piece of the stream."""
        return self._bucket_at(source, turn) if self.length_buckets else self._stream_rows(source, turn, 1)

    def _bucket_at(self, source: int, turn: int) -> RowNumbers:
        window, place = divmod(turn, self._streams[source].window(self.batch_size))
        at, buckets = self._bucket_cache.get(source, (-1, []))
        if at != window:
            buckets = self._build_buckets(source, window)
            self._bucket_cache[source] = (window, buckets)
        return buckets[place]

    def _build_buckets(self, source: int, window: int) -> list[RowNumbers]:
        """The batches of a window: rows of about one length, in the stream's order again, so that the shares of the
        ranks are alike.
        """
        count = self._streams[source].window(self.batch_size)
        rows = self._stream_rows(source, window, count)
        order = np.argsort(self._streams[source].sizes(rows), kind="stable").reshape(count, -1)
        turns = permute(np.arange(count), count, (self.seed, "bucket", source, window))
        return [rows[np.sort(order[at])] for at in turns.tolist()]

    def _window_batches(self, source: int, window: int) -> list[list[int]]:
        """Of each batch of a window, the rows that it takes; some may be in no batch."""
        at, places = self._window_cache.get(source, (-1, []))
        if at != window:
            places = self._resolve_duplicates(source, window)
            self._window_cache[source] = (window, places)
        return places

    def _resolve_duplicates(self, source: int, window: int) -> list[list[int]]:
        count = self._streams[source].window(self.batch_size)
        own = [self._scheduled_rows(source, turn) for turn in range(window * count, (window + 1) * count)]
        texts = [_BatchTexts() for _ in own]
        kept = [self._take_new_rows(source, rows_B, known) for rows_B, known in zip(own, texts, strict=True)]
        for place, (rows_B, stay) in enumerate(zip(own, map(deque, kept), strict=True)):
            # those that stay are some of them in the same order; a row may stand twice where one epoch ends
            moves = [not (stay and row == stay[0] and stay.popleft() == row) for row in rows_B.tolist()]
            moving = rows_B[moves]
            for row, (pair, _) in zip(moving.tolist(), self._text_hashes(source, moving), strict=True):
                others = ((place + further) % count for further in range(1, count))
                room = (other for other in others if len(kept[other]) < self.batch_size)
                taker = next((other for other in room if texts[other].add_if_new(pair)), None)
                if taker is not None:
                    kept[taker].append(row)
        return kept

    def _all_texts_differ(self, source: int, rows_B: RowNumbers) -> bool:
        """Whether all queries and positives are different texts."""
        sides = [self.datasets[source].hashes(side)[rows_B] for side in ("query", "positive")]
        return len(np.unique(np.concatenate(sides))) == 2 * len(rows_B)

    def _take_new_rows(
        self, source: int, rows_B: RowNumbers, batch_texts: _BatchTexts, *, batch: int | None = None
    ) -> list[int]:
        """The rows of which no text is known; they add theirs, one row after the other.

        Args:
            batch: whose negatives count too; None for queries and positives alone.
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
        """Of each row the hashes of query and positive, and those of its negatives in a batch."""
        index = self.datasets[source]
        pairs = np.column_stack([index.hashes("query")[rows_B], index.hashes("positive")[rows_B]]).tolist()
        if batch is None or index.negative_bounds is None:
            return zip(pairs, repeat([]), strict=False)
        negatives_BK = select_negatives(index, rows_B, self.num_negatives[source], seed=self.seed, batch=batch)
        return zip(pairs, index.hashes("negative")[negatives_BK].tolist(), strict=True)


class _BatchTexts:
    """Hashes of what a batch holds."""

    def __init__(self) -> None:
        self.pairs: set[int] = set()
        self.negatives: set[int] = set()

    def add_if_new(self, pair: Sequence[int], negatives: Sequence[int] = ()) -> bool:
        """Add a row's texts, unless its query or positive is there, or one of its negatives is another's."""
        if not self.pairs.isdisjoint(pair):
            return False
        if not (self.negatives.isdisjoint(pair) and self.pairs.isdisjoint(negatives)):
            return False
        self.pairs.update(pair)
        self.negatives.update(negatives)
        return True


def select_negatives(
    index: Dataset, rows_B: RowNumbers, number: int | None, *, seed: int, batch: int
) -> NDArray[np.int64]:
    """[B, K]: entries of the column of negatives, each row's in its order; all of them (None), or K = `number`, drawn
    by seed and batch.
    """
    bounds, number = index.negative_bounds, index.negatives if number is None else number
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
    """A rank's rows of a batch: as many as every other rank's. What is left over of a short batch is no one's."""
    size = len(rows_B) // world_size
    return rows_B[rank * size : (rank + 1) * size]


class _Stream:
    """The rows of a source that may be drawn, epoch after epoch."""

    def __init__(self, dataset: Dataset, key: Key, held_out: int) -> None:
        self.dataset, self._key = dataset, key
        self.held_out_rows = permute(np.arange(min(held_out, dataset.rows)), dataset.rows, (*key, "validation"))
        self._sizes: NDArray[np.int32] | None = None
        self.exclude(self.held_out_rows)

    def exclude(self, rows: RowNumbers) -> None:
        """Draw none of these rows, nor the held-out ones."""
        out = np.union1d(self.held_out_rows, rows)
        self.num_rows = self.dataset.rows - len(out)
        self._exclusion_offsets = out - np.arange(len(out))
        """Of each row that is left out, how many before it are not."""

    def rows_at(self, start: int, count: int, name: str) -> RowNumbers:
        """What stands at `start` and the places after it, in the stream of this name."""
        epochs, places = np.divmod(np.arange(start, start + count), self.num_rows)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = permute(places[here], self.num_rows, (*self._key, name, epoch))
        return self._to_rows(rows)

    def count_distinct(self, column: str, *, least: int) -> int:
        """Different texts of a column of the rows that may be drawn; at least `least` are not counted exactly."""
        surely = self.dataset.distinct[column] - len(self._exclusion_offsets)
        if surely >= least or not len(self._exclusion_offsets):
            return self.dataset.distinct[column]
        return len(np.unique(self.dataset.hashes(column)[self._to_rows(np.arange(self.num_rows))]))

    def window(self, batch_size: int) -> int:
        """Batches of a window: no more than an epoch has, or equal rows would meet in one batch."""
        return max(1, min(WINDOW, self.num_rows // batch_size))

    def sizes(self, rows: RowNumbers) -> NDArray[np.int32]:
        """Bytes of query and positive."""
        if self._sizes is None:
            self._sizes = self.dataset.sizes("query").astype(np.int32)
            self._sizes += self.dataset.sizes("positive").astype(np.int32)
        return self._sizes[rows]

    def _to_rows(self, places: RowNumbers) -> RowNumbers:
        """The rows at these places of all that may be drawn."""
        return places + np.searchsorted(self._exclusion_offsets, places, side="right")


def _build_streams(indexes: Sequence[Dataset], used: NDArray[np.bool_], seed: int, held_out: int) -> list[_Stream]:
    """Of each source, without the rows that have a held-out query of any source that is used."""
    streams = [_Stream(index, (seed, source), held_out) for source, index in enumerate(indexes)]
    taking_part = [stream for stream, uses in zip(streams, used.tolist(), strict=True) if uses]
    if held_out:
        queries = [stream.dataset.hashes("query")[stream.held_out_rows] for stream in taking_part]
        hashes = np.unique(np.concatenate(queries))
        for stream in taking_part:
            stream.exclude(rows_with(stream.dataset, hashes))
    return streams


def rows_with(index: Dataset, hashes: NDArray[np.int64]) -> RowNumbers:
    """The rows that have a text with one of these hashes, in any column."""
    low = np.zeros(1 << 16, np.bool_)
    low[hashes & 0xFFFF] = True
    found = [np.zeros(0, np.int64)]
    for column in index.columns:
        column_N = index.hashes(column)
        for start in range(0, len(column_N), SCANNED):
            some = column_N[start : start + SCANNED]
            likely = np.flatnonzero(low[some & 0xFFFF])
            entries = start + likely[np.isin(some[likely], hashes)]
            found.append(index.rows_of_negatives(entries) if column == "negative" else entries)
    return np.unique(np.concatenate(found))


def _check_fills(stream: _Stream, batch_size: int, *, skip: bool, others: bool) -> None:
    index, held, left = stream.dataset, len(stream.held_out_rows), stream.num_rows
    also = index.rows - held - left
    but = f", and {held} of them are held out (validation.rows)" if held else ""
    but += f"; {also} more have a query that is held out" if also else ""
    smaller = "validation.rows or batch_size" if held else "batch_size"
    if left < batch_size:
        raise InputError(
            f"source {index.name!r} has {index.rows} rows{but}{f', {left} are left' if held else ''}; a batch takes "
            f"{batch_size}: {'leave the source out, ' if others else ''}give it more rows, or let {smaller} be smaller."
        )
    for column in ("query", "positive") if skip else ():
        if (distinct := stream.count_distinct(column, least=batch_size)) < batch_size:
            raise InputError(
                f"source {index.name!r} has {index.rows} rows{but}; what is left has {distinct} different texts in its "
                f"column {column}; a batch takes {batch_size}, and none twice: let {smaller} be smaller, or duplicates "
                "be 'keep'."
            )
