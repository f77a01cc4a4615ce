"""`QueueLimits`: how much work may wait. What is more than that is refused, with the time after which to try again."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.serve.requests import RequestError
from gnomon.serve.work import LANES, Lane
from gnomon.serve.work_queue import WorkQueue

DEADLINE_SHARE = 0.5
"""Work is refused where it is expected to take more than this share of the time that its client waits: what comes
later, and a slower time, need room too.
"""

MIN_INTERACTIVE_TOKENS, MIN_BULK_TOKENS = 4096, 1_000_000
"""So many tokens may wait in a lane however slow the engine is."""


@dataclass(frozen=True)
class QueueLoad:
    """What waits."""

    tokens: dict[Lane, int]
    num_texts: int
    num_jobs: dict[Lane, int]

    @classmethod
    def of(cls, queue: WorkQueue) -> QueueLoad:
        return cls(
            tokens={lane: queue.num_tokens(lane) for lane in LANES},
            num_texts=sum(queue.num_entries(lane) for lane in LANES),
            num_jobs={lane: queue.num_jobs(lane) for lane in LANES},
        )


@dataclass(frozen=True)
class QueueLimits:
    """At most so many tokens and texts wait.

    Args:
        max_tokens: None for a limit by the measured speed.
        max_texts: None for no limit.
    """

    max_tokens: int | None = None
    max_texts: int | None = None

    def check(
        self,
        load: QueueLoad,
        num_tokens: int,
        num_texts: int,
        lane: Lane,
        *,
        tokens_per_second: float,
        timeout: float,
    ) -> None:
        """Check that a request of so many tokens may wait. One request may always, while nothing else does.

        Args:
            timeout: seconds after which the client gives up.

        Raises:
            RequestError: too much waits; it says when to try again.
        """
        total = sum(load.tokens.values())
        if not total:
            return
        in_time = DEADLINE_SHARE * timeout * tokens_per_second
        if lane == "interactive":  # bulk work that waits does not matter: queries go before it
            limits = [(load.tokens[lane] + num_tokens, self.max_tokens or max(in_time, MIN_INTERACTIVE_TOKENS))]
        else:  # it is done by its turns, or once all that waits is done
            limits = [(total + num_tokens, self.max_tokens or max(in_time, MIN_BULK_TOKENS))]
            limits.append((min(total + num_tokens, num_tokens * (load.num_jobs[lane] + 1)), in_time))
        excess = max(needed - limit for needed, limit in limits)
        if self.max_texts is not None and load.num_texts + num_texts > self.max_texts:
            excess = max(excess, total / 2)
        if excess > 0:
            raise RequestError(
                f"the server is busy: {load.num_texts:,} texts with {total:,} tokens wait, for about "
                f"{total / tokens_per_second:.1f} seconds of work, and this request has {num_tokens:,} tokens. "
                "Try again later.",
                "overloaded",
                retry_after=min(max(excess / tokens_per_second, 0.05), 60.0),
            )
