"""`JobRegistry`: which jobs wait for which texts. It has no threads, no clock and no lock.

D: dimensions of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.prepare import PreparedText
from gnomon.serve.work import Entry, Job, Lane, Outcome, Step, Work
from gnomon.serve.work_queue import WorkQueue


class JobRegistry:
    """The jobs under way. Jobs with equal texts share the work.

    Args:
        queue: gets the works that no other job began.
        cache: where vectors may come from, and go to.
    """

    def __init__(self, queue: WorkQueue, cache: AnswerCache) -> None:
        self.queue, self.cache = queue, cache
        self.jobs: set[Job] = set()
        self.works: dict[bytes, Work] = {}
        """Key of a text -> its work, while a job waits for it."""

    def oldest(self, lane: Lane) -> float | None:
        """When the oldest job of a lane was submitted."""
        return min((job.submitted for job in self.jobs if job.lane == lane), default=None)

    def add(self, job: Job, texts: Sequence[PreparedText]) -> None:
        """Let a job wait for its texts. It is done at once where all of them are cached."""
        num_tokens = sum(text.num_tokens for text in texts)
        works = [self._add_text(job, row, text, num_tokens) for row, text in enumerate(texts)]
        new = [work for work in works if work is not None]
        if not job.done:
            self.jobs.add(job)
            self.queue.add(job, new)

    def cancel(self, job: Job) -> bool:
        """Drop what only this job waits for; returns whether it was under way."""
        if job not in self.jobs:
            return False
        self._close_job(job)
        for work in job.works:
            work.waiting.pop(job, None)
            if not work.is_awaited:
                self.queue.remove(work)
                self._forget(work)
        job.works.clear()
        return True

    def deliver(self, step: Step, outcomes: Sequence[Outcome], began: float, seconds: float) -> list[Job]:
        """Hand the outcomes of a step to the jobs that wait for them; returns those that are done.

        Args:
            began: when the step began, as `Job.submitted`.
            seconds: how long it took.
        """
        done: list[Job] = []
        for entry, outcome in zip(step.entries, outcomes, strict=True):
            done += self._deliver_entry(entry, outcome, began, seconds)
        return done

    def fail_all(self, reason: str) -> list[Job]:
        """Let every job fail, for a reason that is not its own; returns them."""
        self.queue.clear()
        jobs = [*self.jobs]
        for job in jobs:
            job.aborted = True
        for work in [*self.works.values()]:
            self._finish(work, reason)
        return jobs

    def _add_text(self, job: Job, row: int, text: PreparedText, job_tokens: int) -> Work | None:
        """Let a job of so many tokens wait for a text; returns its work where that is new."""
        cached_D = self.cache.get(text.key) if job.reads_answers else None
        if cached_D is not None:
            job.add_outcome(row, cached_D)
            job.num_cached += 1
            return None
        work = self.works.get(text.key)
        is_new = work is None
        if work is None:
            work = self.works[text.key] = Work(text, num_pending=len(text.sequences))
            work.entries = [Entry(work, number, len(ids_T)) for number, ids_T in enumerate(text.sequences)]
        else:
            job.num_merged += 1
            self.queue.share(work, job, job_tokens)
        work.add_job(job, row)
        return work if is_new else None

    def _deliver_entry(self, entry: Entry, outcome: Outcome, began: float, seconds: float) -> list[Job]:
        work = entry.work
        if not work.is_awaited:
            return []
        if isinstance(outcome, str):
            self.queue.remove(work)  # its other windows
            result: Outcome = outcome
        else:
            vector_D = work.add_window(entry.number, outcome)
            if vector_D is None:
                return []
            if any(job.stores_answers for job in work.waiting):
                self.cache.put(work.text.key, vector_D)
            result = vector_D
        for job, rows in work.waiting.items():
            job.queue_seconds += len(rows) * max(0.0, began - job.submitted)
            job.inference_seconds += len(rows) * seconds
        return self._finish(work, result)

    def _finish(self, work: Work, outcome: Outcome) -> list[Job]:
        """Give the jobs that wait for a work their outcome; returns those that are done."""
        self._forget(work)
        jobs, work.waiting = work.waiting, {}
        for job, rows in jobs.items():
            for row in rows:
                job.add_outcome(row, outcome)
        done = [job for job in jobs if job.done]
        for job in done:
            self._close_job(job)
        return done

    def _close_job(self, job: Job) -> None:
        self.jobs.discard(job)
        self.queue.close_job(job)

    def _forget(self, work: Work) -> None:
        """Let no later job wait for a work."""
        if self.works.get(work.text.key) is work:
            del self.works[work.text.key]
