"""What waits for the engine: a `Job` per request, a `Work` per text, an `Entry` per sequence of tokens.

T: tokens of a sequence; B: texts of a job; D: dimensions of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.batching import PaddingCost
from gnomon.packed import Ids, Vectors
from gnomon.serve.prepare import PreparedText

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")

Outcome = Vectors | str
"""The vector [D] of an entry or a text, or why it has none."""


class Job:
    """The texts of one request while they are computed."""

    def __init__(self, num_texts: int, pooled_dim: int, lane: Lane, client: Hashable = None) -> None:
        self.lane: Lane = lane
        self.client = client
        self.pooled_BD: Vectors = np.empty((num_texts, pooled_dim), np.float32)
        self.num_missing = num_texts
        self.failures: dict[int, str] = {}
        """Position of a text -> why it has no vector."""
        self.works: list[Work] = []
        """What it waits for, or waited for: one per different text."""
        self.num_tokens = 0
        self.num_cached = 0
        self.num_merged = 0
        """Texts that share the computation of an equal one."""
        self.aborted = False
        """Whether it failed for a reason of the server, and not of its texts."""
        self.stores_answers = lane == "interactive"
        """Whether its vectors go into the answer cache: queries repeat, documents do not."""
        self.reads_answers = True
        """Whether vectors may come from the cache."""
        self.waiter: Any = None
        """What the caller wants to find again when the job is done."""
        self.submitted = 0.0
        self.queue_seconds = 0.0
        """Added up over its texts, as is `inference_seconds`."""
        self.inference_seconds = 0.0

    @property
    def done(self) -> bool:
        return not self.num_missing

    def add_outcome(self, row: int, outcome: Outcome) -> None:
        if isinstance(outcome, str):
            self.failures[row] = outcome
        else:
            self.pooled_BD[row] = outcome
        self.num_missing -= 1


@dataclass(eq=False, slots=True)
class Work:
    """A text to compute. Requests with equal texts under way share one."""

    text: PreparedText
    waiting: dict[Job, list[int]] = field(default_factory=dict[Job, list[int]])
    """Each job that wants the vector, and the positions of the text in it; empty once it has its outcome."""
    entries: list[Entry] = field(default_factory=list["Entry"])
    num_pending: int = 0
    """Entries that are not computed yet."""
    sum_D: NDArray[np.float64] | None = None
    """The weighted sum over the windows that are computed."""

    @property
    def is_awaited(self) -> bool:
        """Whether a job still waits for it."""
        return bool(self.waiting)

    def add_job(self, job: Job, row: int) -> None:
        """Let a job wait for it, which has the text at a position."""
        if job not in self.waiting:
            self.waiting[job] = []
            job.works.append(self)
        self.waiting[job].append(row)

    def add_window(self, number: int, vector_D: Vectors) -> Vectors | None:
        """Take the vector of one entry; returns the text's vector once all are there."""
        self.num_pending -= 1
        weights = self.text.new_token_counts
        if len(weights) == 1:
            return vector_D
        weighted_D = weights[number] * vector_D.astype(np.float64)
        self.sum_D = weighted_D if self.sum_D is None else self.sum_D + weighted_D
        return None if self.num_pending else (self.sum_D / sum(weights)).astype(np.float32)


@dataclass(eq=False, slots=True)
class Entry:
    """Token ids that wait for the engine: a text, or a window of a long one."""

    work: Work
    number: int
    """Which of the text's sequences it is."""
    length: int
    tag: float = 0.0
    """The virtual time at which it was taken."""
    order: int = 0
    """The later it came, the higher."""
    place: Any = None
    """The queue's own note of where it waits."""
    lane: Lane = "interactive"
    waits: bool = False
    """False where it is in a step, or nobody wants it any more."""

    @property
    def ids_T(self) -> Ids:
        return self.work.text.sequences[self.number]


@dataclass(frozen=True)
class Step:
    """Entries that the engine gets at once."""

    entries: list[Entry]
    lane: Lane
    """The lane of the first entry, for which the step was made."""
    version: int
    """The queue's version when it was made: work has come since then if that is another."""

    @property
    def num_tokens(self) -> int:
        return sum(entry.length for entry in self.entries)

    def cost(self, padding: PaddingCost) -> float:
        """Its tokens, with what their padding costs."""
        longest = max(entry.length for entry in self.entries)
        return self.num_tokens + padding.of_batch(longest, len(self.entries), self.num_tokens)
