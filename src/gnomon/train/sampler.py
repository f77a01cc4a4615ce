"""Which rows a batch holds: a function of the data, the settings and the batch's number, and of nothing else.

Each source is a stream without end: epoch after epoch, each in a random order of its own. A batch is the next piece of
one source's stream; what stands where is computed (`order`), so no batch needs those in front of it.

B: rows of a batch; K: negatives that are taken of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.errors import InputError
from gnomon.train.index import Index
from gnomon.train.order import Key, noise, permuted, uniform

RowNumbers = NDArray[np.int64]

BLOCK = 65_536
"""Batches whose sources are drawn at once."""
BUCKETED = 16
"""Batches whose rows are sorted by length together."""
SPARES = 64
"""Rows at least that stand in for those that a batch leaves out; a batch has as many as its own rows, if more."""


@dataclass(frozen=True)
class Draw:
    """Rows of one batch, over all ranks."""

    step: int
    """The batch's number."""
    source: int
    rows_B: RowNumbers
    skipped: int
    """Rows that were left out, and others put in their place, since a text of theirs was in the batch."""


class Sampler:
    """Draws the source of each batch by weight, and its rows from the source's stream.

    Args:
        weights: of the sources, as `mixture.weights_of` gives them.
        duplicates: "skip" for batches in which no text stands in two rows: a row with a text that is there already is
            left out, and the next of a window of spare rows that only this batch has is taken. Where the window does
            not suffice, the batch is shorter.
        length_buckets: batches of texts of about one length, by bytes of query and positive.
        held_out: how many rows of each source are never drawn, but given by `held_out_rows`.
        num_negatives: of each source, how many negatives of a row are in a batch; None for all.
        world: ranks that share a batch.

    Raises:
        InputError: a source that cannot fill a batch; a batch that the ranks cannot share.
    """

    def __init__(
        self,
        indexes: Sequence[Index],
        weights: ArrayLike,
        *,
        batch_size: int,
        seed: int,
        duplicates: Literal["skip", "keep"] = "skip",
        length_buckets: bool = False,
        held_out: int = 0,
        num_negatives: Sequence[int | None] | None = None,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise InputError(f"batch_size is {batch_size}; {world} ranks share it, so let it be a multiple of {world}.")
        shares = np.asarray(weights, np.float64)
        for index, share_ in zip(indexes, shares, strict=True):
            if share_:
                _check_fills(index, batch_size, held_out, skip=duplicates == "skip")
        self.batch_size, self.seed, self.skips = batch_size, seed, duplicates == "skip"
        self.length_buckets = length_buckets
        self.indexes, self.world = [*indexes], world
        self.num_negatives = [*num_negatives] if num_negatives else [None] * len(indexes)
        self._streams = [_Stream(index, seed, source, held_out) for source, index in enumerate(indexes)]
        until = np.cumsum(shares)
        self._until = until / until[-1]  # ends with 1 exactly, which no draw reaches
        self._before = {0: np.zeros(len(shares), np.int64)}
        self._block = (-1, np.zeros(0, np.int64))
        self._windows: dict[int, tuple[int, list[RowNumbers]]] = {}
        """The last window of each source; not state, but work saved."""

    def batch_at(self, batch: int) -> Draw:
        source = self.source_at(batch)
        turn = int(self.realised(batch)[source])
        rows_B = self._bucket(source, turn) if self.length_buckets else self._piece(source, turn, 1)
        if not self.skips:
            return Draw(batch, source, rows_B, 0)
        taken = set(self._streams[source].held_out_queries)
        kept = self._new_ones(source, batch, rows_B, taken)
        skipped = self.batch_size - len(kept)
        if skipped:
            count = max(SPARES, self.batch_size)
            spare_S = self._streams[source].rows_at(turn * count, count, "spare")
            kept += self._new_ones(source, batch, spare_S, taken)[:skipped]
        if len(kept) < self.world:
            raise InputError(
                f"batch {batch} of source {self.indexes[source].name!r} has {len(kept)} rows without a text twice, and "
                f"{self.world} {'rank' if self.world == 1 else 'ranks'} to share it; take out what many rows have in "
                "common, or let duplicates be 'keep'."
            )
        return Draw(batch, source, np.array(kept, np.int64), skipped)

    def source_at(self, batch: int) -> int:
        return int(self._sources(batch // BLOCK)[batch % BLOCK])

    def realised(self, batches: int) -> NDArray[np.int64]:
        """How many of the first batches each source gives."""
        block, rest = divmod(batches, BLOCK)
        for done in range(len(self._before) - 1, block):
            self._before[done + 1] = self._before[done] + self._counted(self._sources(done))
        return self._before[block] + (self._counted(self._sources(block)[:rest]) if rest else 0)

    def held_out_rows(self, source: int) -> RowNumbers:
        """Rows that no batch holds."""
        return self._streams[source].held_out_rows()

    def _counted(self, sources: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(sources, minlength=len(self.indexes))

    def _sources(self, block: int) -> NDArray[np.int64]:
        """The source of each batch of a block."""
        at, sources = self._block
        if at != block:
            drawn = uniform(np.arange(block * BLOCK, (block + 1) * BLOCK), (self.seed, "source"))
            sources = np.searchsorted(self._until, drawn, side="right")
            self._block = (block, sources)
        return sources

    def _piece(self, source: int, turn: int, batches: int) -> RowNumbers:
        """So many batches of a source's stream, end to end."""
        count = batches * self.batch_size
        return self._streams[source].rows_at(turn * count, count, "main")

    def _bucket(self, source: int, turn: int) -> RowNumbers:
        window, place = divmod(turn, self._streams[source].bucketed(self.batch_size))
        at, buckets = self._windows.get(source, (-1, []))
        if at != window:
            buckets = self._buckets(source, window)
            self._windows[source] = (window, buckets)
        return buckets[place]

    def _buckets(self, source: int, window: int) -> list[RowNumbers]:
        """The batches of a window: rows of about one length, in the stream's order again, so that the shares of the
        ranks are alike.
        """
        count = self._streams[source].bucketed(self.batch_size)
        rows = self._piece(source, window, count)
        order = np.argsort(self._streams[source].sizes(rows), kind="stable").reshape(count, -1)
        turns = permuted(np.arange(count), count, (self.seed, "bucket", source, window))
        return [rows[np.sort(order[at])] for at in turns.tolist()]

    def _new_ones(self, source: int, batch: int, rows_B: RowNumbers, taken: set[int]) -> list[int]:
        """The rows of which no text is taken; they take theirs, one row after the other."""
        index = self.indexes[source]
        columns = [index.hashes("query")[rows_B], index.hashes("positive")[rows_B]]
        negatives_BK = negatives_of(index, rows_B, self.num_negatives[source], seed=self.seed, batch=batch)
        if negatives_BK.size:
            columns.append(index.hashes("negative")[negatives_BK])
        kept: list[int] = []
        for row, texts in zip(rows_B.tolist(), np.column_stack(columns).tolist(), strict=True):
            if taken.isdisjoint(texts):
                taken.update(texts)
                kept.append(row)
        return kept


def negatives_of(index: Index, rows_B: RowNumbers, number: int | None, *, seed: int, batch: int) -> NDArray[np.int64]:
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
    drawn = entries[np.lexsort((noise(entries, (seed, "negatives", batch)), owners))]
    return np.sort(drawn[firsts_B[:, None] + np.arange(number)], axis=1)


def share(rows_B: RowNumbers, rank: int, world: int) -> RowNumbers:
    """A rank's rows of a batch: as many as every other rank's. What is left over of a short batch is no one's."""
    size = len(rows_B) // world
    return rows_B[rank * size : (rank + 1) * size]


class _Stream:
    """The rows of a source that are not held out, epoch after epoch."""

    def __init__(self, index: Index, seed: int, source: int, held_out: int) -> None:
        self.index, self.seed, self.source, self.held_out = index, seed, source, held_out
        self.length = index.rows - held_out
        self._sizes: NDArray[np.int32] | None = None

    def rows_at(self, start: int, count: int, name: str) -> RowNumbers:
        """What stands at `start` and the places behind it, in the stream of this name."""
        epochs, places = np.divmod(np.arange(start, start + count), self.length)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = permuted(places[here], self.length, self._key(name, epoch))
        return self._split(rows + self.held_out) if self.held_out else rows

    def bucketed(self, batch_size: int) -> int:
        """Batches of a window: no more than an epoch has, or equal rows would meet in one batch."""
        return max(1, min(BUCKETED, self.length // batch_size))

    def held_out_rows(self) -> RowNumbers:
        return self._split(np.arange(self.held_out))

    @cached_property
    def held_out_queries(self) -> frozenset[int]:
        """Hashes: a row with one of these texts would teach what is judged."""
        return frozenset(self.index.hashes("query")[self.held_out_rows()].tolist()) if self.held_out else frozenset()

    def sizes(self, rows: RowNumbers) -> NDArray[np.int32]:
        """Bytes of query and positive."""
        if self._sizes is None:
            self._sizes = self.index.sizes("query").astype(np.int32)
            self._sizes += self.index.sizes("positive").astype(np.int32)
        return self._sizes[rows]

    def _split(self, places: RowNumbers) -> RowNumbers:
        """The rows in the order whose first ones are held out."""
        return permuted(places, self.index.rows, self._key("validation"))

    def _key(self, *what: int | str) -> Key:
        return (self.seed, self.source, *what)


def _check_fills(index: Index, batch_size: int, held_out: int, *, skip: bool) -> None:
    left = index.rows - held_out
    if left < batch_size:
        but = f", and {held_out} of them are held out" if held_out else ""
        raise InputError(
            f"source {index.name!r} has {index.rows} rows{but}; a batch takes {batch_size}: "
            "leave the source out, give it more rows, or let batch_size be smaller."
        )
    for column in index.columns if skip else ():
        if index.distinct[column] < batch_size:
            raise InputError(
                f"source {index.name!r} has {index.distinct[column]} different texts in its column {column}; a batch "
                f"takes {batch_size}, and none twice: let batch_size be smaller, or duplicates be 'keep'."
            )
