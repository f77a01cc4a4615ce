"""`WorkQueue`: what waits for the engine, and what of it makes the next step. It has no threads and no clock.

There are two lanes. Interactive work (a query) goes before bulk work, and bulk work keeps a share. Within a lane,
clients take turns by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each client has a tag, the virtual
time of its turn, and the lowest tag is served first. The requests of a client take turns within that.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import count

from gnomon.batching import PaddingCost
from gnomon.serve.work import LANES, Entry, Job, Lane, Step, Work

BULK_SHARE = 0.25
"""The share of the tokens that bulk work gets while interactive work waits, too."""

WINDOW_BUDGETS = 8
"""Entries of nearly equal length are looked for among the oldest, of so many budgets of tokens together."""

STEP_OVERHEAD_TOKENS = 16
"""The padding of a step at most, in tokens: beginning a step costs about as much. Measured: docs/records/lab-notes.md,
2026-11-30.
"""


class WorkQueue:
    """Entries that wait, in two lanes.

    Args:
        budget: tokens of a step; padding counts by its cost. An entry that is longer is a step alone.
        padding: what it costs; where it costs anything, entries of nearly equal length go together.
        max_texts: entries of a step; None for no limit.
    """

    def __init__(self, *, budget: int, padding: PaddingCost, max_texts: int | None = None) -> None:
        self.budget, self.padding, self.max_texts = budget, padding, max_texts
        self.version = 0
        self._lanes = {lane: _LaneQueue(lane) for lane in LANES}
        self._bulk_credit = 0.0
        self._orders = count()

    def num_tokens(self, lane: Lane) -> int:
        return self._lanes[lane].num_tokens

    def num_entries(self, lane: Lane) -> int:
        return self._lanes[lane].num_entries

    def num_jobs(self, lane: Lane) -> int:
        return self._lanes[lane].num_jobs

    def __bool__(self) -> bool:
        return any(lane.num_entries for lane in self._lanes.values())

    def add(self, job: Job, works: Sequence[Work]) -> None:
        """Add the works of a new job, in their order."""
        entries = [entry for work in works for entry in work.entries]
        for entry in entries:
            entry.order = next(self._orders)
        self._lanes[job.lane].open_job(job.client, entries)
        self.version += 1

    def close_job(self, job: Job) -> None:
        """A job is done or cancelled: its client has one job less."""
        self._lanes[job.lane].close_job(job.client)

    def share(self, work: Work, job: Job, job_tokens: int) -> None:
        """Another job needs a text that waits: move what of it waits to the place where it is computed sooner. That is
        the interactive lane before the bulk lane, and in one lane the client for whom fewer tokens wait.

        Args:
            job: a new one; its other texts do not wait yet.
            job_tokens: of all its texts.
        """
        lane = self._lanes[job.lane]
        tokens = lane.num_client_tokens(job.client) + job_tokens
        entries = [entry for entry in work.entries if entry.waits]
        if job.lane == "bulk" or (entries and entries[0].lane == "interactive"):
            entries = [each for each in entries if each.lane == job.lane and tokens < each.place.client.num_tokens]
        for entry in entries:
            self._lanes[entry.lane].remove(entry)
        if entries:
            lane.append(job.client, entries)
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
            if not self.padding:  # a packed engine's step is cheap until it is full
                room = None if self.max_texts is None else self.max_texts - len(entries)
                entries += self._select("bulk", self.budget - step.num_tokens, room, may_exceed=False)
        return step

    def put_back(self, step: Step) -> None:
        """Undo `next_step`: what is still awaited of it waits again, in its place."""
        for name, lane in self._lanes.items():
            lane.put_back(entry for entry in step.entries if entry.lane == name and entry.work.is_awaited)

    def clear(self) -> None:
        """Take everything out."""
        for lane in self._lanes.values():
            while lane.pop() is not None:
                pass

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
            lane.put_back([first])
            return []
        lane.virtual_time = max(lane.virtual_time, first.tag)
        room = None if max_texts is None else max_texts - 1
        chosen = (
            self._take_similar(lane, first, budget, room) if self.padding else _take_in_order(lane, first, budget, room)
        )
        return [first, *chosen]

    def _take_similar(self, lane: _LaneQueue, first: Entry, budget: int, room: int | None) -> list[Entry]:
        """Of the oldest entries, those whose length is nearest to that of the first."""
        window = sorted(lane.pop_tokens(WINDOW_BUDGETS * self.budget), key=lambda entry: entry.length)
        chosen = choose_similar(first.length, [entry.length for entry in window], budget, self.padding, room)
        lane.put_back([*window[: chosen.start], *window[chosen.stop :]])
        return window[chosen]


def choose_similar(
    length: int, lengths: Sequence[int], budget: int, padding: PaddingCost, room: int | None = None
) -> slice:
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
        cost = padding.of_batch(max(longest, other), stop - start + 2, total + other)
        return cost <= STEP_OVERHEAD_TOKENS and total + other + cost <= budget

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
            lane.put_back([entry])
            break
        total += entry.length
        chosen.append(entry)
    return chosen


class _JobQueue:
    """The entries of one job that wait."""

    def __init__(self, client: _ClientQueue) -> None:
        self.client = client
        self.entries: deque[Entry] = deque()
        self.takes_turns = False
        """Whether it is among the jobs of its client that take turns."""

    def drop_leading(self) -> None:
        """Let go of the first entries where they no longer wait here."""
        while self.entries and not (self.entries[0].waits and self.entries[0].place is self):
            self.entries.popleft()


class _ClientQueue:
    """The jobs of one client that have entries, which take turns."""

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.tag = 0.0
        """The virtual time of its next turn."""
        self.version = 0
        """That of its entry in the heap of the lane."""
        self.num_jobs = self.num_entries = self.num_tokens = 0
        self.jobs: deque[_JobQueue] = deque()

    def pop(self) -> Entry | None:
        """The next entry of the next job; None where none waits."""
        while self.jobs:
            job = self.jobs.popleft()
            job.drop_leading()
            job.takes_turns = bool(job.entries)
            if job.takes_turns:
                self.jobs.append(job)
                return job.entries.popleft()
        return None


class _LaneQueue:
    """One lane. The client with the lowest tag is served; an entry raises its client's tag by its length. An entry that
    no longer waits stays where it is until its turn.
    """

    def __init__(self, name: Lane) -> None:
        self.name: Lane = name
        self.virtual_time = 0.0
        self.num_tokens = self.num_entries = self.num_jobs = 0
        self._clients: dict[Hashable, _ClientQueue] = {}
        self._heap: list[tuple[float, int, _ClientQueue]] = []
        self._versions = count()

    def num_client_tokens(self, name: Hashable) -> int:
        """Tokens that wait for a client."""
        client = self._clients.get(name)
        return client.num_tokens if client else 0

    def open_job(self, name: Hashable, entries: Iterable[Entry]) -> None:
        """Add the entries of a new job."""
        client = self._clients.setdefault(name, _ClientQueue(name))
        client.num_jobs += 1
        self.num_jobs += 1
        self._append(client, entries)

    def close_job(self, name: Hashable) -> None:
        client = self._clients[name]
        client.num_jobs -= 1
        self.num_jobs -= 1
        self._forget_idle(client)

    def append(self, name: Hashable, entries: Iterable[Entry]) -> None:
        """Add entries that waited elsewhere to a client with a job here."""
        self._append(self._clients.setdefault(name, _ClientQueue(name)), entries)

    def pop(self) -> Entry | None:
        """The oldest entry; None where none waits."""
        while self._heap:
            _, version, client = self._heap[0]
            entry = client.pop() if version == client.version else None
            if entry is None:
                heapq.heappop(self._heap)
                if version == client.version:
                    client.version = 0
                    self._forget_idle(client)
                continue
            entry.tag = client.tag
            client.tag += entry.length
            self._place(client)
            self._count(entry, waits=False)
            return entry
        return None

    def pop_tokens(self, num_tokens: int) -> list[Entry]:
        """The oldest entries, of about so many tokens together."""
        entries = list[Entry]()
        while num_tokens > 0 and (entry := self.pop()) is not None:
            entries.append(entry)
            num_tokens -= entry.length
        return entries

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Let entries that were popped wait again, in their places."""
        for entry in sorted(entries, key=lambda entry: entry.order, reverse=True):
            job: _JobQueue = entry.place
            client = job.client = self._clients.setdefault(job.client.name, job.client)
            if not job.takes_turns:
                job.takes_turns = True
                client.jobs.appendleft(job)
            job.entries.appendleft(entry)
            client.tag -= entry.length
            self._place(client)
            self._count(entry, waits=True)

    def remove(self, entry: Entry) -> None:
        self._count(entry, waits=False)
        entry.place.drop_leading()
        self._forget_idle(entry.place.client)

    def _append(self, client: _ClientQueue, entries: Iterable[Entry]) -> None:
        job = _JobQueue(client)
        for entry in entries:
            entry.lane, entry.place = self.name, job
            job.entries.append(entry)
            self._count(entry, waits=True)
        if job.entries:
            job.takes_turns = True
            client.jobs.append(job)
            client.tag = max(client.tag, self.virtual_time)
            self._place(client)

    def _place(self, client: _ClientQueue) -> None:
        """Put a client into the heap by its tag; where it was before no longer counts."""
        client.version = next(self._versions) + 1
        heapq.heappush(self._heap, (client.tag, client.version, client))

    def _forget_idle(self, client: _ClientQueue) -> None:
        if not (client.num_jobs or client.num_entries) and self._clients.get(client.name) is client:
            del self._clients[client.name]

    def _count(self, entry: Entry, *, waits: bool) -> None:
        entry.waits = waits
        sign = 1 if waits else -1
        self.num_tokens += sign * entry.length
        self.num_entries += sign
        entry.place.client.num_entries += sign
        entry.place.client.num_tokens += sign * entry.length
