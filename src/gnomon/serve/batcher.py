"""`Batcher`: the threads between requests and the engine.

For each slot of the engine (one, or one per device) there is a thread that runs a step, and one thread more that
prepares the next. Nothing waits for a batch to fill: a text that comes while the engine is idle runs at once, and
batches form while the engine is busy.

B: entries of a step; D: dimensions of a pooled vector.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.engines.protocol import Engine
from gnomon.packed import Packed
from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.job_registry import JobRegistry
from gnomon.serve.logs import log
from gnomon.serve.prepare import PreparedText
from gnomon.serve.queue_limits import QueueLimits, QueueLoad
from gnomon.serve.requests import RequestError
from gnomon.serve.step_runner import StepResult, StepRunner, describe_error, pack_entries
from gnomon.serve.work import Entry, Job, Lane, Step
from gnomon.serve.work_queue import WorkQueue

MAX_FAILED_STEPS = 3
"""After so many steps in a row in which the engine computed nothing, not even a text that it had computed before, it is
opened anew.
"""

REOPEN_SECONDS = 1.0, 30.0
"""The first and the longest pause between two tries to open it."""

STUCK_SECONDS, STUCK_FACTOR = 5.0, 10.0
"""A step is stuck once it takes longer than both so many seconds, and so many times its estimate."""

RATE_WEIGHT_SECONDS = 2.0
"""The measured speed follows the steps of about so many seconds."""

FIRST_SECONDS_PER_TOKEN = 1e-3
"""The speed before the first step."""

HealthState = Literal["ok", "failed", "stuck", "closed"]


@dataclass(frozen=True)
class Health:
    """Whether the engine computes."""

    state: HealthState = "ok"
    reason: str = ""


@dataclass
class BatcherCounters:
    """What has happened since the start."""

    steps: int = 0
    padded_tokens: float = 0.0
    """Tokens of steps, with what their padding costs."""
    merged: int = 0
    """Texts that shared the computation of an equal one."""
    cancelled: int = 0
    nonfinite: int = 0
    failed_texts: int = 0
    restarts: int = 0


@dataclass
class Running:
    """A step that a thread runs."""

    step: Step
    part: Step
    """What of it the engine has now: all of it, or less after that has failed."""
    began: float
    """When the engine got that."""


class Batcher:
    """Computes the texts of jobs with an engine, in steps.

    Args:
        budget: tokens of a step; padding counts by its cost.
        pooled_dim: dimensions of the engine's vectors.
        notify: called from a thread with the jobs that were just done. It must not block.
        reopen: opens the engine anew after it has failed.
        slots: steps that the engine can run side by side.
        max_queue_tokens: at most so many tokens wait; None for limits by the measured speed.
        on_step: called from a thread after each step with its number of entries, tokens and seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        budget: int,
        pooled_dim: int,
        notify: Callable[[list[Job]], None],
        cache: AnswerCache | None = None,
        reopen: Callable[[], Engine] | None = None,
        slots: int = 1,
        max_texts: int | None = None,
        max_queue_tokens: int | None = None,
        max_queue_texts: int | None = None,
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self.pooled_dim = pooled_dim
        self.counters = BatcherCounters()
        self.seconds_per_token = FIRST_SECONDS_PER_TOKEN
        self.notify, self._reopen, self._on_step = notify, reopen, on_step
        self._runner = StepRunner(engine, self._begin_part)
        self._slots = slots
        self._limits = QueueLimits(max_queue_tokens, max_queue_texts)
        self._queue = WorkQueue(budget=budget, padding=engine.padding, max_texts=max_texts)
        self._registry = JobRegistry(self._queue, cache if cache is not None else AnswerCache(0))
        self._changed = threading.Condition()
        self._num_free = slots
        self._prepared: tuple[Step, Packed | None] | None = None
        self._preparing = False
        self._running: dict[int, Running] = {}
        """Thread -> its step."""
        self._num_failed_steps = 0
        self._state: HealthState = "ok"
        self._reason = ""
        self._threads = [self._start_thread(number) for number in range(slots + 1)]

    @property
    def engine(self) -> Engine:
        return self._runner.engine

    # ---- requests

    def make_job(self, num_texts: int, lane: Lane, client: Any = None) -> Job:
        return Job(num_texts, self.pooled_dim, lane, client)

    def check_room(self, num_tokens: int, num_texts: int, lane: Lane, timeout: float) -> None:
        """Check that a request of so many tokens may wait. One request may always, while nothing else does.

        Args:
            timeout: seconds after which the client gives up.

        Raises:
            RequestError: too much waits; it says when to try again.
        """
        with self._changed:
            load = QueueLoad.of(self._queue)
        rate = self.tokens_per_second
        self._limits.check(load, num_tokens, num_texts, lane, tokens_per_second=rate, timeout=timeout)

    def submit(self, job: Job, texts: Sequence[PreparedText]) -> None:
        """Queue the texts of a job. Texts that are cached, or under way for another job, are not computed again.

        Raises:
            RequestError: it is closed.
        """
        with self._changed:
            if self._state == "closed":
                raise RequestError("the model is being unloaded. Try again.", "unavailable", retry_after=1.0)
            job.submitted = time.monotonic()
            self._registry.add(job, texts)
            self.counters.merged += job.num_merged
            self._changed.notify()
        if job.done:
            self.notify([job])

    def cancel(self, job: Job) -> None:
        """Nobody waits for a job any more: what of it has not begun is dropped. A job that is done, was cancelled
        before, or was refused by `submit` has nothing to drop.
        """
        with self._changed:
            self.counters.cancelled += self._registry.cancel(job)

    # ---- the engine's threads

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (action := self._choose_action()):
                    self._changed.wait()
                if action == "end":
                    return
                step, packed = self._take_step() if action == "run" else (self._queue.next_step(), None)
                if step is None:
                    continue
                if action == "run":
                    self._begin(step)
                else:
                    self._preparing = True
                if self._queue:
                    self._changed.notify()  # another thread prepares what follows
            if action == "run":
                self._run_step(step, packed)
            else:
                self._prepare_step(step)

    def _prepare_step(self, step: Step) -> None:
        packed: Packed | None = None
        try:
            packed = pack_entries(step.entries)
        except BaseException:  # it shows again when the step runs
            log(logging.ERROR, "a step could not be prepared")
        with self._changed:
            self._preparing, self._prepared = False, (step, packed)
            self._changed.notify_all()

    def _run_step(self, step: Step, packed: Packed | None) -> None:
        began = time.monotonic()
        result = self._runner.run(step.entries, packed)
        seconds = time.monotonic() - began
        with self._changed:
            self._num_free += 1
            self._running.pop(threading.get_ident())
            self._changed.notify()
            done = self._registry.deliver(step, result.outcomes, began, seconds)
            if result.seconds is not None:
                self._note_speed(step, result.seconds)
            self._count_step(step, result)
        try:
            if done:
                self.notify(done)
            if self._on_step is not None:
                self._on_step(len(step.entries), step.num_tokens, seconds)
        except Exception as error:
            log(logging.ERROR, "the end of a step could not be reported", error=repr(error))

    def _choose_action(self) -> Literal["run", "prepare", "end"] | None:
        """What the calling thread can do now; None where it must wait. A step that is being prepared is waited for, so
        that no other goes before it.
        """
        if self._state != "ok":
            return "end" if self._state == "closed" else None
        if self._num_free:
            return "run" if self._prepared or (self._queue and not self._preparing) else None
        return "prepare" if self._queue and not (self._prepared or self._preparing) else None

    def _take_step(self) -> tuple[Step | None, Packed | None]:
        """The step to run now: the prepared one, or another where what came since goes first, or fits into it."""
        if self._prepared is None:
            return self._queue.next_step(), None
        step, packed = self._prepared
        self._prepared = None
        overtaken = step.lane == "bulk" and self._queue.num_entries("interactive") > 0
        grows = self._queue.version != step.version and 2 * step.num_tokens < self._queue.budget
        if not overtaken and not grows and all(entry.work.is_awaited for entry in step.entries):
            return step, packed
        self._queue.put_back(step)
        return self._queue.next_step(), None

    def _begin(self, step: Step) -> None:
        self._num_free -= 1
        self._running[threading.get_ident()] = Running(step, step, time.monotonic())

    def _begin_part(self, entries: list[Entry]) -> None:
        """The engine gets a part of the calling thread's step: its time is counted from now."""
        with self._changed:
            running = self._running[threading.get_ident()]
            running.part, running.began = replace(running.step, entries=entries), time.monotonic()

    def _note_speed(self, step: Step, seconds: float) -> None:
        tokens = step.cost(self.engine.padding)
        weight = min(1.0, seconds / RATE_WEIGHT_SECONDS)
        if self.counters.steps == 0:
            weight = 1.0
        self.seconds_per_token += weight * (seconds / max(tokens, 1) - self.seconds_per_token)

    def _count_step(self, step: Step, result: StepResult) -> None:
        counters = self.counters
        counters.steps += 1
        counters.padded_tokens += step.cost(self.engine.padding)
        counters.nonfinite += result.num_nonfinite
        failed = [outcome for outcome in result.outcomes if isinstance(outcome, str)]
        counters.failed_texts += len(failed)
        self._num_failed_steps = self._num_failed_steps + 1 if result.engine_failed else 0
        if self._num_failed_steps >= MAX_FAILED_STEPS and self._state == "ok":
            self._state, self._reason = "failed", f"{self._num_failed_steps} steps failed in a row: {failed[0]}"
            threading.Thread(target=self._repair, name="gnomon-repair", daemon=True).start()

    # ---- health

    @property
    def tokens_per_second(self) -> float:
        return self._slots / self.seconds_per_token

    @property
    def is_ok(self) -> bool:
        """Whether it takes work, as far as is known without a look at the threads and steps."""
        return self._state == "ok"

    def num_waiting(self, lane: Lane) -> tuple[int, int]:
        """Texts and tokens that wait in a lane."""
        with self._changed:
            return self._queue.num_entries(lane), self._queue.num_tokens(lane)

    def oldest_seconds(self, lane: Lane) -> float:
        """How long the oldest job of a lane is under way."""
        with self._changed:
            oldest = self._registry.oldest(lane)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def num_running(self) -> int:
        with self._changed:
            return sum(len(running.step.entries) for running in self._running.values())

    def check_health(self) -> Health:
        """The state of the engine; a step that is stuck shows here. A thread that has ended is started anew."""
        with self._changed:
            self._revive_threads()
            if self._state == "ok":
                for running in self._running.values():
                    estimate = self.seconds_per_token * running.part.cost(self.engine.padding)
                    seconds = time.monotonic() - running.began
                    if seconds > max(STUCK_SECONDS, STUCK_FACTOR * estimate):
                        reason = f"a step of {running.part.num_tokens:,} tokens runs for {seconds:.0f} seconds"
                        return Health("stuck", f"{reason}; {estimate:.2f} were expected")
            return Health(self._state, self._reason)

    def _revive_threads(self) -> None:
        """Threads end only where something ends them from outside."""
        for number, thread in enumerate(self._threads):
            if self._state != "closed" and not thread.is_alive():
                log(logging.ERROR, "a thread of the engine has ended, and is started anew")
                self.counters.restarts += 1
                self._threads[number] = self._start_thread(number)

    def _start_thread(self, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=f"gnomon-engine_{number}", daemon=True)
        thread.start()
        return thread

    def fail_all(self, reason: str) -> None:
        """Let every job that waits, or is being computed, fail."""
        with self._changed:
            done = self._registry.fail_all(reason)
            self._prepared = None
        if done:
            self.notify(done)

    def close(self) -> None:
        """End the threads once their steps are done; what waits fails. The engine is the caller's to close."""
        with self._changed:
            self._state, self._reason = "closed", "the model was unloaded"
            self._changed.notify_all()
        self.fail_all("the model was unloaded")

    def _repair(self) -> None:
        """Open the engine anew, and try it, until it computes."""
        pause, longest = REOPEN_SECONDS
        while self._state == "failed":
            try:
                engine = self.engine if self._reopen is None else self._reopen()
                self._runner.test(engine)
            except BaseException as error:
                self._reason = f"the engine does not compute: {describe_error(error)}"
                time.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            with self._changed:
                if self._state == "failed":
                    self._runner.engine, self._state, self._reason = engine, "ok", ""
                    self._num_failed_steps = 0
                    self.counters.restarts += 1
                self._changed.notify_all()
