"""`WorkQueue`: what waits for the engine, and what of it makes the next step. It has no threads and no clock.

There are two lanes. Interactive work (a query) goes before bulk work, and bulk work keeps a share. Within a lane,
clients take turns by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each entry has a tag, the virtual
time at which its turn comes, and the lowest tag is served first.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import count

from gnomon.serve.work import LANES, Entry, Job, Lane, Step, Work

BULK_SHARE = 0.25
"""The share of the tokens that bulk work gets while interactive work waits, too."""

WINDOW_BUDGETS = 8
"""Entries of nearly equal length are looked for among the oldest, of so many budgets of tokens together."""

TURN_TOKENS = 512
"""A client's next request begins so many tokens of virtual time after the one before, or fewer if that is smaller. So
clients take turns, and not requests: many small requests of one client wait for each other.
"""


STEP_OVERHEAD_TOKENS = 16
"""The padding of a step at most, in tokens: beginning a step costs about as much. Measured: docs/records/lab-notes.md,
2026-11-30.
"""

MIN_COMPACTED = 1024
"""A heap with fewer entries than this is not rebuilt for those that no longer wait."""


class WorkQueue:
    """Entries that wait, in two lanes.

    Args:
        budget: tokens of a step; padding counts where `padded`. An entry that is longer is a step alone.
        padded: whether a step costs its longest entry times their number; then entries of nearly equal length go
            together.
        max_texts: entries of a step; None for no limit.
    """

    def __init__(self, *, budget: int, padded: bool, max_texts: int | None = None) -> None:
        self.budget, self.padded, self.max_texts = budget, padded, max_texts
        self.version = 0
        self._lanes = {lane: _LaneQueue(lane) for lane in LANES}
        self._bulk_credit = 0.0
        self._orders = count()

    def num_tokens(self, lane: Lane) -> int:
        return self._lanes[lane].num_tokens

    def num_entries(self, lane: Lane) -> int:
        return self._lanes[lane].num_entries

    def num_jobs(self, lane: Lane) -> int:
        return self._lanes[lane].num_jobs.total()

    def __bool__(self) -> bool:
        return any(lane.num_entries for lane in self._lanes.values())

    def add(self, job: Job, works: Sequence[Work]) -> None:
        """Add the works of a new job, in their order."""
        lane = self._lanes[job.lane]
        entries = [entry for work in works for entry in work.entries]
        tags = lane.open_job(job.client, [entry.length for entry in entries])
        for entry, tag in zip(entries, tags, strict=True):
            entry.lane, entry.tag, entry.order = job.lane, tag, next(self._orders)
            lane.push(entry)
        self.version += 1

    def close_job(self, job: Job) -> None:
        """A job is done or cancelled: its client has one job less."""
        self._lanes[job.lane].close_job(job.client)

    def promote(self, work: Work) -> None:
        """Move what of a work waits in the bulk lane to the interactive lane: a query wants the same text."""
        for entry in work.entries:
            if entry.waits and entry.lane == "bulk":
                self._lanes["bulk"].remove(entry)
                lane = self._lanes["interactive"]
                entry.lane, entry.tag, entry.order = "interactive", lane.virtual_time, next(self._orders)
                lane.push(entry)
        self.version += 1

    def remove(self, work: Work) -> None:
        """Take out what of a work still waits."""
        for entry in work.entries:
            if entry.waits:
                self._lanes[entry.lane].remove(entry)

    def next_step(self) -> Step | None:
        """Take the entries of the next step out; None where nothing waits."""
        lane = self._choose_lane()
        if lane is None:
            return None
        entries = self._select(lane, self.budget, self.max_texts)
        step = Step(entries, lane, self.version)
        if lane == "bulk":
            self._bulk_credit = 0.0
        elif self._lanes["bulk"].num_entries:
            self._bulk_credit += step.num_tokens * BULK_SHARE / (1 - BULK_SHARE)
            if not self.padded:  # a packed engine's step is cheap until it is full
                room = None if self.max_texts is None else self.max_texts - len(entries)
                entries += self._select("bulk", self.budget - step.num_tokens, room, may_exceed=False)
        return step

    def put_back(self, step: Step) -> None:
        """Undo `next_step`: what is still awaited of it waits again, in its place."""
        for entry in step.entries:
            if entry.work.is_awaited:
                self._lanes[entry.lane].push(entry)

    def drain(self) -> Iterator[Entry]:
        """Take everything out."""
        for lane in self._lanes.values():
            while (entry := lane.pop()) is not None:
                yield entry

    def _choose_lane(self) -> Lane | None:
        interactive, bulk = (self._lanes[lane].num_entries for lane in LANES)
        if not bulk:
            self._bulk_credit = 0.0
            return "interactive" if interactive else None
        return "bulk" if not interactive or self._bulk_credit >= self.budget else "interactive"

    def _select(self, name: Lane, budget: int, max_texts: int | None, *, may_exceed: bool = True) -> list[Entry]:
        """The oldest entry of a lane, and what goes with it."""
        lane = self._lanes[name]
        first = lane.pop() if max_texts is None or max_texts > 0 else None
        if first is None:
            return []
        if not may_exceed and first.length > budget:
            lane.push(first)
            return []
        lane.virtual_time = max(lane.virtual_time, first.tag)
        room = None if max_texts is None else max_texts - 1
        chosen = (
            self._take_similar(lane, first, budget, room) if self.padded else _take_in_order(lane, first, budget, room)
        )
        return [first, *chosen]

    def _take_similar(self, lane: _LaneQueue, first: Entry, budget: int, room: int | None) -> list[Entry]:
        """Of the oldest entries, those whose length is nearest to that of the first."""
        window = lane.pop_tokens(WINDOW_BUDGETS * self.budget)
        window.sort(key=lambda entry: entry.length)
        chosen = choose_similar(first.length, [entry.length for entry in window], budget, room)
        for entry in (*window[: chosen.start], *window[chosen.stop :]):
            lane.push(entry)
        return window[chosen]


def choose_similar(length: int, lengths: Sequence[int], budget: int, room: int | None = None) -> slice:
    """Which of some sorted lengths go into a padded batch with `length`: those nearest to it, as long as the padding of
    the batch costs less than a step by itself (`STEP_OVERHEAD_TOKENS`), and the batch stays within the budget.

    Args:
        lengths: ascending.
        room: at most so many.
    """
    start = stop = bisect_left(lengths, length)
    longest, total = length, length
    limit = len(lengths) if room is None else room

    def fits(other: int) -> bool:
        cost = max(longest, other) * (stop - start + 2)
        return cost <= budget and cost - total - other <= STEP_OVERHEAD_TOKENS

    while stop - start < limit:
        shorter = length - lengths[start - 1] if start > 0 and fits(lengths[start - 1]) else None
        longer = lengths[stop] - length if stop < len(lengths) and fits(lengths[stop]) else None
        if shorter is None and longer is None:
            break
        if longer is None or (shorter is not None and shorter <= longer):
            start -= 1
            total += lengths[start]
        else:
            total += lengths[stop]
            longest = lengths[stop]
            stop += 1
    return slice(start, stop)


def _take_in_order(lane: _LaneQueue, first: Entry, budget: int, room: int | None) -> list[Entry]:
    """The oldest entries after the first, as many as the budget has room for."""
    chosen: list[Entry] = []
    total = first.length
    while room is None or len(chosen) < room:
        entry = lane.pop()
        if entry is None:
            break
        if total + entry.length > budget:
            lane.push(entry)
            break
        total += entry.length
        chosen.append(entry)
    return chosen


class _LaneQueue:
    """One lane: a heap of entries by their tags. An entry that no longer waits stays in the heap until it is popped."""

    def __init__(self, name: Lane) -> None:
        self.name: Lane = name
        self.virtual_time = 0.0
        self.num_tokens = self.num_entries = 0
        self.num_jobs: Counter[Hashable] = Counter()
        self._next_starts: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Entry]] = []

    def open_job(self, client: Hashable, lengths: Sequence[int]) -> list[float]:
        """The tags of a new job's entries. The jobs of a client share its turns evenly."""
        start = max(self.virtual_time, self._next_starts.get(client, 0.0))
        self.num_jobs[client] += 1
        share = self.num_jobs[client]
        tags, position = list[float](), start
        for length in lengths:
            tags.append(position)
            position += length * share
        self._next_starts[client] = start + min(sum(lengths), TURN_TOKENS)
        return tags

    def close_job(self, client: Hashable) -> None:
        self.num_jobs[client] -= 1
        if not self.num_jobs[client]:
            del self.num_jobs[client], self._next_starts[client]

    def push(self, entry: Entry) -> None:
        entry.waits = True
        self.num_tokens += entry.length
        self.num_entries += 1
        heapq.heappush(self._heap, (entry.tag, entry.order, entry))

    def pop(self) -> Entry | None:
        """The oldest entry; None where none waits."""
        while self._heap:
            entry = heapq.heappop(self._heap)[2]
            if self._holds(entry):
                self._forget(entry)
                return entry
        return None

    def pop_tokens(self, num_tokens: int) -> list[Entry]:
        """The oldest entries, of about so many tokens together."""
        entries = list[Entry]()
        while num_tokens > 0 and (entry := self.pop()) is not None:
            entries.append(entry)
            num_tokens -= entry.length
        return entries

    def remove(self, entry: Entry) -> None:
        self._forget(entry)
        if len(self._heap) > 2 * self.num_entries + MIN_COMPACTED:
            self._heap = [each for each in self._heap if self._holds(each[2])]
            heapq.heapify(self._heap)

    def _holds(self, entry: Entry) -> bool:
        return entry.waits and entry.lane == self.name

    def _forget(self, entry: Entry) -> None:
        entry.waits = False
        self.num_tokens -= entry.length
        self.num_entries -= 1
