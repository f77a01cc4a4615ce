"""The batcher's threads, with an engine that a test holds back, poisons and breaks."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from fake_engine import DIM, FakeEngine, expect

from gnomon.batching import FULL_PADDING, NO_PADDING, PaddingCost
from gnomon.errors import DeviceMemoryError, WorkerError
from gnomon.packed import Ids, Packed, Vectors
from gnomon.serve import batcher as batcher_module
from gnomon.serve import step_runner
from gnomon.serve.answer_cache import ENTRY_BYTES, AnswerCache
from gnomon.serve.batcher import MAX_FAILED_STEPS, Batcher, Health
from gnomon.serve.prepare import PreparedText
from gnomon.serve.requests import RequestError
from gnomon.serve.step_runner import pack_entries
from gnomon.serve.work import Entry, Job, Lane, Work

NAN_ID = 666


def make_text(first: int, length: int = 10, skip: int = 0) -> PreparedText:
    ids_T = np.arange(first, first + length)
    return PreparedText((ids_T,), (1,), skip, length, False, f"{first} {length} {skip}".encode())


def make_windows(*firsts: int, weights: tuple[int, ...]) -> PreparedText:
    sequences = tuple(np.arange(first, first + 5) for first in firsts)
    return PreparedText(sequences, weights, 0, 5 * len(firsts), False, f"windows {firsts}".encode())


def set_waiters(jobs: list[Job]) -> None:
    for job in jobs:
        job.waiter.set()


@contextmanager
def batcher_over(engine: FakeEngine, **options: object) -> Iterator[Batcher]:
    batcher = Batcher(engine, budget=100, pooled_dim=DIM, notify=set_waiters, **options)  # pyright: ignore
    try:
        yield batcher
    finally:
        engine.gate.set()
        batcher.close()


def submit(batcher: Batcher, texts: list[PreparedText], lane: Lane = "bulk", client: str = "a") -> Job:
    job = batcher.make_job(len(texts), lane, client)
    job.waiter = threading.Event()
    batcher.submit(job, texts)
    return job


def wait(job: Job) -> Job:
    assert job.waiter.wait(20)
    return job


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.001)


def assert_expected(job: Job, texts: list[PreparedText]) -> None:
    assert not job.failures
    np.testing.assert_array_equal(job.pooled_BD, [expect(text.sequences[0]) for text in texts])


@pytest.mark.parametrize("padding", [FULL_PADDING, PaddingCost(0.1, 0.01), NO_PADDING])
def test_every_text_has_its_vector_in_its_place(padding: PaddingCost) -> None:
    engine = FakeEngine(padding=padding)
    texts = [make_text(number, length=1 + number * 7 % 40) for number in range(300)]
    with batcher_over(engine) as batcher:
        jobs = [submit(batcher, texts[start::7], client=str(start)) for start in range(7)]
        for start, job in enumerate(jobs):
            assert_expected(wait(job), texts[start::7])
    assert sorted(engine.seen) == list(range(300))
    assert all(max(batch) * len(batch) <= 100 for batch in engine.batches if padding == FULL_PADDING)
    assert all(sum(batch) <= 100 for batch in engine.batches)


def test_the_windows_of_a_long_text_are_averaged_by_their_weights() -> None:
    text = make_windows(0, 100, 200, weights=(5, 3, 2))
    with batcher_over(FakeEngine()) as batcher:
        job = wait(submit(batcher, [make_text(1), text]))
    wanted = sum(weight * expect(ids_T) for weight, ids_T in zip((5, 3, 2), text.sequences, strict=True)) / 10
    np.testing.assert_allclose(job.pooled_BD[1], wanted)


def test_equal_texts_under_way_are_computed_once() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    texts = [make_text(1), make_text(2), make_text(1)]
    with batcher_over(engine) as batcher:
        first = submit(batcher, texts)
        assert engine.entered.acquire(timeout=20)
        second = submit(batcher, [make_text(2), make_text(3)], client="b")
        engine.gate.set()
        assert_expected(wait(first), texts)
        assert_expected(wait(second), [make_text(2), make_text(3)])
        assert batcher.counters.merged == 2
    assert sorted(engine.seen) == [1, 2, 3]


def test_another_prompt_length_is_another_text() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        job = submit(batcher, [make_text(1), make_text(1, skip=3)])
        engine.gate.set()
        wait(job)
    assert engine.seen == [1, 1]


def test_a_query_goes_before_bulk_work_that_was_there() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        bulk = submit(batcher, [make_text(number, 40) for number in range(0, 400, 40)])
        assert engine.entered.acquire(timeout=20)
        query = submit(batcher, [make_text(1000)], "interactive", "b")
        engine.gate.set()
        wait(query)
        wait(bulk)
    assert engine.seen.index(1000) == 2  # after the step that ran, of two texts


def test_a_step_that_was_prepared_early_takes_in_what_came_since() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        jobs = [submit(batcher, [make_text(0)])]
        assert engine.entered.acquire(timeout=20)
        jobs += [submit(batcher, [make_text(number)]) for number in range(1, 6)]
        engine.gate.set()
        for job in jobs:
            wait(job)
    assert engine.batches == [[10], [10] * 5]


def test_what_a_gone_client_waited_for_is_not_computed() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        gone = submit(batcher, [make_text(number, 60) for number in range(100, 200)], client="b")
        shared = submit(batcher, [make_text(150, 60)], client="c")
        batcher.cancel(gone)
        batcher.cancel(gone)
        assert batcher.num_waiting("bulk") in [(1, 60), (0, 0)]  # a step may have been prepared
        engine.gate.set()
        assert_expected(wait(shared), [make_text(150, 60)])
        assert not gone.waiter.is_set()
        assert batcher.counters.cancelled == 1
        assert set(engine.seen) <= {0, 150}
        assert_expected(wait(submit(batcher, [make_text(101, 60)])), [make_text(101, 60)])
    assert not batcher._registry.jobs
    assert not batcher._registry.works


def test_cancelling_equal_texts_looks_at_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six jobs of 2,048 rows with two texts: a cancel looks at two, however many rows wait for them."""
    engine = FakeEngine()
    engine.gate.clear()
    looks = list[Work]()
    is_awaited = Work.is_awaited.fget
    with batcher_over(engine) as batcher:
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        texts = [make_text(100), make_text(200)] * 1024
        jobs = [submit(batcher, texts, client=str(number)) for number in range(6)]
        assert [len(job.works) for job in jobs] == [2] * 6

        def look(work: Work) -> bool:
            looks.append(work)
            return is_awaited(work)  # pyright: ignore

        wait_until(lambda: batcher._prepared is not None)  # now no thread looks
        monkeypatch.setattr(Work, "is_awaited", property(look))
        for job in jobs[:-1]:
            batcher.cancel(job)
        assert len(looks) == 2 * 5
        works = jobs[-1].works
        assert [work.waiting for work in works] == [
            {jobs[-1]: [*range(0, 2048, 2)]},
            {jobs[-1]: [*range(1, 2048, 2)]},
        ]
        monkeypatch.undo()
        engine.gate.set()
        assert_expected(wait(jobs[-1]), texts)
        assert not any(work.waiting for work in works)
    assert engine.seen == [0, 100, 200]


def test_a_job_that_is_cancelled_at_its_end_is_no_error() -> None:
    with batcher_over(FakeEngine()) as batcher:
        job = wait(submit(batcher, [make_text(1)]))
        batcher.cancel(job)
        assert batcher.counters.cancelled == 0


def test_a_text_that_fails_fails_alone() -> None:
    engine = FakeEngine()
    engine.gate.clear()

    def fail(ids: list[Ids]) -> None:
        if any(each[0] == NAN_ID for each in ids):
            raise RuntimeError("poison")

    engine.fail = fail
    texts = [make_text(1), make_text(NAN_ID), make_text(3)]
    with batcher_over(engine) as batcher:
        poisoned = submit(batcher, texts)
        other = submit(batcher, [make_text(4)], client="b")
        engine.gate.set()
        wait(poisoned)
        assert poisoned.failures == {1: "RuntimeError: poison"}
        np.testing.assert_array_equal(poisoned.pooled_BD[[0, 2]], [expect(texts[row].sequences[0]) for row in (0, 2)])
        assert_expected(wait(other), [make_text(4)])
        assert batcher.check_health().state == "ok"
        assert_expected(wait(submit(batcher, [make_text(5)])), [make_text(5)])


def test_one_text_that_fails_is_found_by_halves() -> None:
    engine = FakeEngine()
    engine.gate.clear()

    def fail(ids: list[Ids]) -> None:
        if any(each[0] == NAN_ID for each in ids):
            raise RuntimeError("poison")

    engine.fail = fail
    texts = [make_text(NAN_ID if number == 21 else number, length=1) for number in range(64)]
    with batcher_over(engine) as batcher:
        submit(batcher, [make_text(1000, 100)])
        assert engine.entered.acquire(timeout=20)
        job = submit(batcher, texts)
        engine.gate.set()
        assert wait(job).failures == {21: "RuntimeError: poison"}
        others = [row for row in range(64) if row != 21]
        np.testing.assert_array_equal(job.pooled_BD[others], [expect(texts[row].sequences[0]) for row in others])
    sizes = [len(batch) for batch in engine.batches[1:]]
    assert sorted(sizes) == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64]


class Clock:
    """Time that a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_a_step_that_is_tried_in_parts_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the engine takes 3 of the 5 seconds that a step may take."""
    engine, clock = FakeEngine(), Clock(monkeypatch)
    states = list[str]()

    def fail(ids: list[Ids]) -> None:
        clock.now += 3
        states.append(batcher.check_health().state)
        if any(each[0] == NAN_ID for each in ids):
            raise RuntimeError("poison")

    engine.fail = fail
    texts = [make_text(number, 1) for number in (1, 2, 3, NAN_ID, 4, 5, 6, 7)]
    with batcher_over(engine) as batcher:
        assert wait(submit(batcher, texts)).failures == {3: "RuntimeError: poison"}
    assert states == ["ok"] * 7


def test_a_part_of_a_step_that_is_stuck_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second per token is expected: 400 seconds are much for a text of 10 tokens, and little for two of 50."""
    engine, clock = FakeEngine(padding=NO_PADDING), Clock(monkeypatch)
    healths = list[Health]()

    def fail(ids: list[Ids]) -> None:
        batcher.seconds_per_token = 1.0
        clock.now += 400
        healths.append(batcher.check_health())
        clock.now -= 400
        if len(ids) > 1:
            raise RuntimeError("not together")

    engine.fail = fail
    texts = [make_text(1, 10), make_text(2, 50)]
    with batcher_over(engine) as batcher:
        assert_expected(wait(submit(batcher, texts)), texts)
    assert [health.state for health in healths] == ["ok", "stuck", "ok"]
    assert "10 tokens" in healths[1].reason


def give_nan(engine: FakeEngine, first_ids: set[int] | None = None) -> None:
    """Let an engine give NaN for texts that begin with some ids; None for all texts."""
    pool = engine.pool

    def pool_with_nan(packed: Packed) -> Vectors:
        vectors_BD = pool(packed)
        firsts_B = packed.ids_T[packed.bounds[:-1]].tolist()
        vectors_BD[[first_ids is None or first in first_ids for first in firsts_B], 1] = np.nan
        return vectors_BD

    engine.pool = pool_with_nan


def test_nan_is_an_error_of_its_text_alone() -> None:
    engine = FakeEngine()
    give_nan(engine, {NAN_ID})
    with batcher_over(engine, cache=AnswerCache(10**6)) as batcher:
        job = wait(submit(batcher, [make_text(1), make_text(NAN_ID)], "interactive"))
        assert list(job.failures) == [1]
        assert "NaN" in job.failures[1]
        assert batcher.counters.nonfinite == 1
        again = wait(submit(batcher, [make_text(NAN_ID)], "interactive"))
        assert list(again.failures) == [0]  # it is not in the cache


def test_a_batch_that_does_not_fit_into_memory_is_halved() -> None:
    engine = FakeEngine()
    engine.gate.clear()

    def fail(ids: list[Ids]) -> None:
        if len(ids) > 2:
            raise DeviceMemoryError("no room")

    engine.fail = fail
    texts = [make_text(number) for number in range(9)]
    with batcher_over(engine) as batcher:
        job = submit(batcher, texts)
        engine.gate.set()
        assert_expected(wait(job), texts)
    assert max(len(batch) for batch in engine.batches if len(batch) <= 2) == 2


def test_an_engine_that_fails_for_good_is_opened_anew() -> None:
    broken, whole = FakeEngine(), FakeEngine()

    def fail(ids: list[Ids]) -> None:
        raise RuntimeError("the device is gone")

    broken.fail = fail
    opened = threading.Event()

    def reopen() -> FakeEngine:
        assert opened.wait(20)
        return whole

    with batcher_over(broken, reopen=reopen) as batcher:
        for number in range(MAX_FAILED_STEPS):
            assert wait(submit(batcher, [make_text(number)])).failures == {0: "RuntimeError: the device is gone"}
        wait_until(lambda: batcher.check_health().state == "failed")
        assert "the device is gone" in batcher.check_health().reason
        waiting = submit(batcher, [make_text(9)])
        opened.set()
        assert_expected(wait(waiting), [make_text(9)])
        assert batcher.check_health().state == "ok"
        assert batcher.counters.restarts == 1
        assert batcher.engine is whole


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("poison", ["nan", "error"])
def test_texts_that_fail_one_after_another_are_no_failure_of_the_engine(poison: str, warm: bool) -> None:
    engine = FakeEngine()

    def fail(ids: list[Ids]) -> None:
        if any(each[0] == NAN_ID for each in ids):
            raise RuntimeError("poison")

    if poison == "nan":
        give_nan(engine, {NAN_ID})
    else:
        engine.fail = fail
    with batcher_over(engine) as batcher:
        if warm:
            wait(submit(batcher, [make_text(7, skip=2)]))
        for length in range(1, 3 * MAX_FAILED_STEPS):
            job = wait(submit(batcher, [make_text(NAN_ID, length), make_text(NAN_ID, length + 1)]))
            assert list(job.failures) == [0, 1]
            assert not job.aborted
            assert batcher.check_health().state == "ok"
        assert_expected(wait(submit(batcher, [make_text(1)])), [make_text(1)])
        assert batcher.counters.restarts == 0
        assert batcher.counters.nonfinite == (2 * (3 * MAX_FAILED_STEPS - 1) if poison == "nan" else 0)
    tried = [first for first in engine.seen if first != NAN_ID]
    assert set(tried[:-1]) == {7 if warm else 0}  # a text that is known to be good, or the first token


@pytest.mark.parametrize("warm", [True, False])
def test_an_engine_that_gives_nan_for_every_text_is_opened_anew(warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that is opened instead gives NaN, too."""
    monkeypatch.setattr(batcher_module, "REOPEN_SECONDS", (0.001, 0.001))
    broken, again, whole = FakeEngine(), FakeEngine(), FakeEngine()
    give_nan(again)
    engines = iter([again, whole])
    with batcher_over(broken, reopen=lambda: next(engines)) as batcher:
        if warm:
            wait(submit(batcher, [make_text(7)]))
        give_nan(broken)
        for number in range(MAX_FAILED_STEPS):
            assert batcher.engine is broken
            assert "NaN" in wait(submit(batcher, [make_text(number)])).failures[0]
        assert_expected(wait(submit(batcher, [make_text(9)])), [make_text(9)])
        assert batcher.engine is whole
        assert batcher.check_health().state == "ok"
        assert batcher.counters.restarts == 1
    assert again.seen == [7 if warm else 0]


def test_a_step_is_given_up_where_the_engine_computes_nothing_any_more() -> None:
    engine = FakeEngine()

    def fail(ids: list[Ids]) -> None:
        raise RuntimeError("the device is gone")

    with batcher_over(engine) as batcher:
        wait(submit(batcher, [make_text(7)]))
        engine.fail = fail
        texts = [make_text(number, length=1) for number in range(64)]
        job = wait(submit(batcher, texts))
        assert job.failures == dict.fromkeys(range(64), "RuntimeError: the device is gone")
        assert batcher.counters.failed_texts == 64
    assert [len(batch) for batch in engine.batches] == [1, 64, 32, 16, 8, 4, 2, 1, 1]  # the last is the text of before


def test_a_thread_outlives_what_is_not_an_exception() -> None:
    engine = FakeEngine()

    def fail(ids: list[Ids]) -> None:
        if ids[0][0] == NAN_ID:
            raise SystemExit(3)

    engine.fail = fail
    with batcher_over(engine) as batcher:
        assert wait(submit(batcher, [make_text(NAN_ID)])).failures == {0: "SystemExit: 3"}
        assert_expected(wait(submit(batcher, [make_text(1)])), [make_text(1)])


def test_a_step_that_is_stuck_shows_and_its_jobs_can_be_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        job, waiting = submit(batcher, [make_text(1)]), submit(batcher, [make_text(2, 90)], client="b")
        assert engine.entered.acquire(timeout=20)
        assert batcher.check_health().state == "ok"
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 100)
        assert batcher.check_health().state == "stuck"
        monkeypatch.undo()
        batcher.fail_all("the engine is stuck")
        assert wait(job).failures == wait(waiting).failures == {0: "the engine is stuck"}
        engine.gate.set()
        assert_expected(wait(submit(batcher, [make_text(3)])), [make_text(3)])


def test_a_long_text_with_a_window_that_fails_fails_once() -> None:
    engine = FakeEngine()
    give_nan(engine, {NAN_ID})
    with batcher_over(engine) as batcher:
        wait(submit(batcher, [make_text(1)]))
        texts = [
            make_windows(2, NAN_ID, 3, weights=(1, 1, 1)),
            make_text(5),
            make_windows(2, NAN_ID, 3, weights=(1, 1, 1)),
        ]
        job = wait(submit(batcher, texts))
        assert list(job.failures) == [0, 2]
        np.testing.assert_array_equal(job.pooled_BD[1], expect(texts[1].sequences[0]))
        assert job.num_merged == batcher.counters.merged == 1
        assert job.num_missing == 0


def test_close_fails_what_waits() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    batcher = Batcher(engine, budget=100, pooled_dim=DIM, notify=set_waiters)
    jobs = [submit(batcher, [make_text(number, 90)]) for number in range(3)]
    batcher.close()
    engine.gate.set()
    assert all(wait(job).failures == {0: "the model was unloaded"} for job in jobs)
    with pytest.raises(RequestError) as caught:
        submit(batcher, [make_text(1)])
    assert caught.value.kind == "unavailable"
    for thread in batcher._threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_job_that_was_refused_can_be_cancelled() -> None:
    batcher = Batcher(FakeEngine(), budget=100, pooled_dim=DIM, notify=set_waiters)
    batcher.close()
    job = batcher.make_job(1, "bulk", "a client that was never here")
    with pytest.raises(RequestError):
        batcher.submit(job, [make_text(1)])
    batcher.cancel(job)
    assert batcher.counters.cancelled == 0


def test_queries_are_answered_from_the_cache_and_documents_are_not_put_there() -> None:
    engine = FakeEngine()
    cache = AnswerCache(10**6)
    with batcher_over(engine, cache=cache) as batcher:
        wait(submit(batcher, [make_text(1), make_text(2)], "interactive"))
        wait(submit(batcher, [make_text(3)], "bulk"))
        again = submit(batcher, [make_text(2), make_text(3), make_text(1)], "interactive")
        assert_expected(wait(again), [make_text(2), make_text(3), make_text(1)])
        assert again.num_cached == 2
        assert sorted(engine.seen) == [1, 2, 3, 3]
        job = batcher.make_job(1, "interactive")
        job.waiter, job.reads_answers, job.stores_answers = threading.Event(), False, False
        batcher.submit(job, [make_text(1)])
        wait(job)
        assert engine.seen[-1] == 1


def test_the_cache_stays_within_its_bytes() -> None:
    size = 4 * DIM + ENTRY_BYTES
    cache = AnswerCache(10 * size)
    for number in range(100):
        cache.put(b"%d" % number, np.full(DIM, number, np.float32))
        cache.get(b"95")
        cache.get(b"0")
    assert len(cache) == 10
    assert cache.num_bytes == 10 * size
    kept = [number for number in range(100) if cache.get(b"%d" % number) is not None]
    assert kept == [0, *range(91, 100)]  # the first is used again and again
    np.testing.assert_array_equal(cache.get(b"95"), np.full(DIM, 95))
    nothing = AnswerCache(0)
    nothing.put(b"1", np.zeros(DIM, np.float32))
    assert nothing.get(b"1") is None


def test_the_cache_does_not_hold_the_whole_batch() -> None:
    cache = AnswerCache(10**6)
    batch_BD = np.ones((100, DIM), np.float32)
    cache.put(b"1", batch_BD[3])
    vector_D = cache.get(b"1")
    assert vector_D is not None
    assert vector_D.base is None


def test_too_much_work_is_refused_with_the_time_to_wait() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine, max_queue_tokens=1000) as batcher:
        batcher.seconds_per_token = 0.01
        batcher.check_room(10**9, 1, "bulk", 60)  # nothing waits: one request may be of any size
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        submit(batcher, [make_text(1000 * number, 90) for number in range(1, 12)])
        wait_until(lambda: batcher.num_waiting("bulk")[1] > 0)
        with pytest.raises(RequestError, match="texts") as caught:
            batcher.check_room(1000, 10, "bulk", 60)
        assert caught.value.kind == "overloaded"
        waiting = batcher.num_waiting("bulk")[1]
        assert caught.value.retry_after == pytest.approx(waiting * 0.01)
        batcher.check_room(5, 1, "bulk", 60)


def test_what_cannot_be_done_in_time_is_refused() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        batcher.seconds_per_token = 0.01
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        submit(batcher, [make_text(1000 * number, 100) for number in range(1, 40)])
        batcher.check_room(1900, 20, "bulk", 120)
        with pytest.raises(RequestError):
            batcher.check_room(2000, 20, "bulk", 20)
        batcher.check_room(100, 1, "interactive", 60)


def test_queries_that_cannot_be_answered_in_time_are_refused() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        batcher.seconds_per_token = 1e-4  # 10,000 tokens per second: of 8 seconds, 40,000 may wait
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        submit(batcher, [make_text(10_000 * number, 100) for number in range(1, 400)], "interactive")
        batcher.check_room(100, 1, "interactive", 8)
        batcher.check_room(1000, 1, "interactive", 60)  # who waits longer may
        with pytest.raises(RequestError) as caught:
            batcher.check_room(1000, 1, "interactive", 8)
        assert 0.05 <= caught.value.retry_after < 1  # pyright: ignore


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_was_ended_from_outside_is_started_anew() -> None:
    engine = FakeEngine()
    with batcher_over(engine) as batcher:
        assert_expected(wait(submit(batcher, [make_text(1)])), [make_text(1)])
        for thread in batcher._threads:
            ident, error = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
            assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, error) == 1
        with batcher._changed:
            batcher._changed.notify_all()
        for thread in [*batcher._threads]:
            thread.join(20)
        assert batcher.check_health().state == "ok"
        assert_expected(wait(submit(batcher, [make_text(2)])), [make_text(2)])
        assert batcher.counters.restarts == 2


def test_many_threads_may_submit_and_cancel() -> None:
    engine = FakeEngine()
    with batcher_over(engine, cache=AnswerCache(10_000)) as batcher:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(60):
                numbers = random.integers(0, 50, size=random.integers(1, 9))
                texts = [make_text(int(number), 5 + int(number)) for number in numbers]
                lane: Lane = "interactive" if random.random() < 0.5 else "bulk"
                job = submit(batcher, texts, lane, str(seed))
                if random.random() < 0.3:
                    batcher.cancel(job)
                else:
                    assert_expected(wait(job), texts)

        failures: list[BaseException] = []

        def run(seed: int) -> None:
            try:
                work(seed)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        wait_until(lambda: not batcher.num_running())
        assert not batcher._registry.jobs
        assert not batcher._registry.works
        assert batcher.num_waiting("bulk") == batcher.num_waiting("interactive") == (0, 0)
        assert not batcher._queue.num_jobs("bulk")
        assert not batcher._queue.num_jobs("interactive")


def test_bulk_work_goes_on_while_queries_never_cease() -> None:
    engine = FakeEngine()
    with batcher_over(engine) as batcher:
        over = threading.Event()

        def ask(jobs: list[Job]) -> None:
            for job in jobs:
                job.waiter.set()
                if job.lane == "interactive" and not over.is_set():
                    submit(batcher, [make_text(10_000 + len(engine.seen), 40)], "interactive", "b")

        batcher.notify = ask
        for number in range(20):
            submit(batcher, [make_text(1000 * number, 40)], "interactive", str(number))
        bulk = [
            submit(batcher, [make_text(100_000 + 100 * number + row, 30) for row in range(4)]) for number in range(5)
        ]
        for job in bulk:
            wait(job)
        over.set()


def test_what_fails_around_a_step_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()

    def fail(*args: object) -> None:
        raise ZeroDivisionError

    with batcher_over(engine, on_step=fail) as batcher:
        for number in range(5):
            assert_expected(wait(submit(batcher, [make_text(number)])), [make_text(number)])
        assert all(thread.is_alive() for thread in batcher._threads)
    engine = FakeEngine()
    failing = threading.Event()

    def pack_or_fail(entries: Sequence[Entry]) -> Packed:
        if failing.is_set():
            raise MemoryError
        return pack_entries(entries)

    for module in (batcher_module, step_runner):
        monkeypatch.setattr(module, "pack_entries", pack_or_fail)
    with batcher_over(engine) as batcher:
        engine.gate.clear()
        jobs = [
            submit(batcher, [make_text(1000 * number, 90)]) for number in range(3)
        ]  # two may fail, the engine is ok
        failing.set()
        engine.gate.set()
        assert {0: "MemoryError: "} in [wait(job).failures for job in jobs]
        failing.clear()
        assert_expected(wait(submit(batcher, [make_text(7)])), [make_text(7)])


def test_a_lone_text_whose_worker_died_is_tried_once_more() -> None:
    engine = FakeEngine()
    deaths = iter([True, False, True, True])

    def fail(ids: list[Ids]) -> None:
        if next(deaths, False):
            raise WorkerError("the worker was killed by signal 9")

    engine.fail = fail
    with batcher_over(engine) as batcher:
        assert_expected(wait(submit(batcher, [make_text(1)])), [make_text(1)])
        assert wait(submit(batcher, [make_text(2)])).failures == {0: "the worker was killed by signal 9"}


def test_bulk_work_that_waits_keeps_no_query_out() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with batcher_over(engine) as batcher:
        batcher.seconds_per_token = 1e-3
        submit(batcher, [make_text(0, 100)])
        assert engine.entered.acquire(timeout=20)
        submit(batcher, [make_text(100_000 * number, 50_000) for number in range(1, 30)])
        batcher.check_room(10, 1, "interactive", 60)
        with pytest.raises(RequestError):
            batcher.check_room(10_000, 16, "bulk", 60)


def test_nan_is_explained_once_per_step_and_outside_the_lock() -> None:
    engine = FakeEngine()
    explained, held = list[int](), list[bool]()

    def pool_nan(packed):  # pyright: ignore
        return np.full((len(packed.lengths_B), DIM), np.nan, np.float32)

    with batcher_over(engine) as batcher:

        def explain(packed) -> str:  # pyright: ignore
            explained.append(1)
            held.append(batcher._changed.acquire(blocking=False) is False)
            if not held[-1]:
                batcher._changed.release()
            return "overflow"

        engine.pool, engine.explain_nonfinite = pool_nan, explain  # pyright: ignore
        job = wait(submit(batcher, [make_text(1), make_text(2), make_text(3)]))
        assert len(job.failures) == 3
        assert len(explained) == batcher.counters.steps
        assert not any(held)
