"""What waits for the engine, and what of it makes a step."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.batching import FULL_PADDING, NO_PADDING, PaddingCost
from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.job_registry import JobRegistry
from gnomon.serve.prepare import PreparedText
from gnomon.serve.work import LANES, Entry, Job, Step, Work
from gnomon.serve.work_queue import BULK_SHARE, STEP_OVERHEAD_TOKENS, WorkQueue, choose_similar


def make_works(lengths: list[int], job: Job) -> list[Work]:
    works = []
    for row, length in enumerate(lengths):
        text = PreparedText((np.zeros(length, np.int64),), (1,), 0, length, False, b"")
        work = Work(text, num_pending=1)
        work.entries = [Entry(work, 0, length)]
        work.add_job(job, row)
        works.append(work)
    return works


def cancel(job: Job, queue: WorkQueue) -> None:
    for work in job.works:
        del work.waiting[job]
        queue.remove(work)
    queue.close_job(job)


def add_job(queue: WorkQueue, lengths: list[int], lane: str = "bulk", client: str = "a") -> Job:
    job = Job(len(lengths), 4, lane, client)  # pyright: ignore
    queue.add(job, make_works(lengths, job))
    return job


def jobs_of(step: Step | None) -> list[Job]:
    assert step is not None
    return [next(iter(entry.work.waiting)) for entry in step.entries]


def test_nothing_waits() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    assert queue.next_step() is None
    assert not queue


def test_a_step_has_the_oldest_text_and_those_of_nearly_its_length() -> None:
    queue = WorkQueue(budget=1000, padding=FULL_PADDING)
    add_job(queue, [100, 10, 101, 99, 11, 300])
    step = queue.next_step()
    assert step is not None
    assert step.entries[0].length == 100
    assert sorted(entry.length for entry in step.entries) == [99, 100, 101]
    following = queue.next_step()
    assert following is not None
    assert following.entries[0].length == 10
    assert sorted(entry.length for entry in following.entries) == [10, 11]
    last = queue.next_step()
    assert last is not None
    assert [entry.length for entry in last.entries] == [300]
    assert not queue
    assert queue.num_tokens("bulk") == queue.num_entries("bulk") == 0


def test_a_packed_step_takes_texts_in_their_order() -> None:
    queue = WorkQueue(budget=220, padding=NO_PADDING)
    add_job(queue, [100, 10, 101, 99])
    steps = []
    while (step := queue.next_step()) is not None:
        steps.append([entry.length for entry in step.entries])
    assert steps == [[100, 10, 101], [99]]


def test_a_text_longer_than_the_budget_is_a_step_alone() -> None:
    for padding in (FULL_PADDING, NO_PADDING):
        queue = WorkQueue(budget=50, padding=padding)
        add_job(queue, [120, 20, 20])
        assert [entry.length for entry in queue.next_step().entries] == [120]  # pyright: ignore
        assert [entry.length for entry in queue.next_step().entries] == [20, 20]  # pyright: ignore


def test_the_number_of_texts_in_a_step_is_limited() -> None:
    for padding in (FULL_PADDING, NO_PADDING):
        queue = WorkQueue(budget=1000, padding=padding, max_texts=3)
        add_job(queue, [10] * 7)
        sizes = [len(step.entries) for step in iter(queue.next_step, None)]
        assert sizes == [3, 3, 1]


@pytest.mark.parametrize("padding", [FULL_PADDING, PaddingCost(0.125, 1 / 256)])
@given(st.integers(1, 300), st.lists(st.integers(1, 300), max_size=8), st.integers(10, 2000), st.integers(0, 9))
def test_the_choice_of_similar_lengths_is_allowed_and_cannot_grow(
    padding: PaddingCost, length: int, lengths: list[int], budget: int, room: int
) -> None:
    lengths.sort()
    part = choose_similar(length, lengths, budget, padding, room)
    chosen = lengths[part]

    def allowed(others: list[int]) -> bool:
        batch = [length, *others]
        extra = padding.share(max(batch)) * (max(batch) * len(batch) - sum(batch))
        return len(others) <= room and (not others or (sum(batch) + extra <= budget and extra <= STEP_OVERHEAD_TOKENS))

    assert allowed(chosen)
    neighbours = [*lengths[max(0, part.start - 1) : part.start], *lengths[part.stop : part.stop + 1]]
    assert not any(allowed([*chosen, other]) for other in neighbours)


@pytest.mark.parametrize("padding", [FULL_PADDING, PaddingCost(0.125, 1 / 256)])
@given(st.integers(1, 60), st.lists(st.integers(1, 60), max_size=12), st.integers(10, 2000), st.integers(0, 9))
def test_the_choice_is_that_of_trying_the_nearest_lengths_first(
    padding: PaddingCost, length: int, lengths: list[int], budget: int, room: int
) -> None:
    """The reference tries each text by itself, from the nearest length on; of two as near, the shorter. One that does
    not fit ends its side: a shorter one may fit where padding costs little, but it would leave a gap.
    """
    lengths.sort()
    batch, ended = [length], set[bool]()
    for other in sorted(lengths, key=lambda other: (abs(other - length), other > length)):
        longest, total = max(*batch, other), sum(batch) + other
        extra = padding.share(longest) * (longest * (len(batch) + 1) - total)
        fits = len(batch) <= room and total + extra <= budget and extra <= STEP_OVERHEAD_TOKENS
        is_longer = other >= length
        if fits and is_longer not in ended:
            batch.append(other)
        else:
            ended.add(is_longer)
    assert lengths[choose_similar(length, lengths, budget, padding, room)] == sorted(batch[1:])


def test_interactive_work_goes_first_and_bulk_work_keeps_its_share() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    add_job(queue, [50] * 400, "bulk")
    add_job(queue, [50] * 400, "interactive", "b")
    tokens: Counter[str] = Counter()
    first = queue.next_step()
    assert first is not None
    assert first.lane == "interactive"
    for _ in range(200):
        step = queue.next_step()
        assert step is not None
        tokens[step.lane] += step.num_tokens
    assert tokens["bulk"] / tokens.total() == pytest.approx(BULK_SHARE, abs=0.02)


def test_a_packed_step_is_filled_with_bulk_work() -> None:
    queue = WorkQueue(budget=100, padding=NO_PADDING)
    add_job(queue, [40] * 3, "bulk")
    add_job(queue, [30], "interactive", "b")
    step = queue.next_step()
    assert step is not None
    assert [(entry.lane, entry.length) for entry in step.entries] == [("interactive", 30), ("bulk", 40)]
    padded = WorkQueue(budget=100, padding=FULL_PADDING)
    add_job(padded, [30] * 3, "bulk")
    add_job(padded, [30], "interactive", "b")
    assert len(padded.next_step().entries) == 1  # pyright: ignore


def test_requests_of_a_client_share_its_turns() -> None:
    """One client with 8 requests, and one with a single one, of equal size: each gets half."""
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    for _ in range(8):
        add_job(queue, [50] * 200, client="many")
    for _ in range(8):  # so that shares are those of a busy time
        queue.next_step()
    single = add_job(queue, [50] * 200, client="single")
    served: Counter[bool] = Counter()
    for _ in range(80):
        for job in jobs_of(queue.next_step()):
            served[job is single] += 1
    share = served[True] / served.total()
    assert share > 0.15  # a fair share is between 1/9, by requests, and 1/2, by clients
    assert served[False] > 0


def test_a_client_with_many_small_requests_does_not_hold_up_another() -> None:
    queue = WorkQueue(budget=20, padding=FULL_PADDING)
    for _ in range(100):
        add_job(queue, [20], "interactive", "many")
    late = add_job(queue, [20], "interactive", "single")
    position = next(number for number in range(101) if late in jobs_of(queue.next_step()))
    assert position <= 1


def test_large_requests_of_one_client_take_turns() -> None:
    queue = WorkQueue(budget=50, padding=FULL_PADDING)
    first = add_job(queue, [50] * 1000, client="a")
    second = add_job(queue, [50] * 10, client="a")
    served = [jobs_of(queue.next_step())[0] for _ in range(60)]
    assert served.count(second) == 10
    assert served.count(first) == 50


def test_a_step_that_is_put_back_comes_again() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    add_job(queue, [30, 31, 90])
    step = queue.next_step()
    assert step is not None
    queue.put_back(step)
    assert queue.num_tokens("bulk") == 151
    again = queue.next_step()
    assert again is not None
    assert again.entries == step.entries


def test_work_that_nobody_waits_for_is_left_out() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    gone, stays = add_job(queue, [10] * 5000, client="a"), add_job(queue, [10] * 5, client="b")
    cancel(gone, queue)
    assert queue.num_entries("bulk") == 5
    assert set(jobs_of(queue.next_step())) == {stays}
    assert not queue
    assert not gone.works[0].entries[0].place.entries  # the queue lets go of what nobody waits for


def test_a_work_knows_who_waits_for_it() -> None:
    first, second = Job(3, 4, "bulk"), Job(1, 4, "bulk")
    work = Work(PreparedText((np.zeros(5, np.int64),), (1,), 0, 5, False, b""), num_pending=1)
    assert not work.is_awaited
    for job, row in [(first, 0), (second, 0), (first, 2)]:
        work.add_job(job, row)
    assert first.works == second.works == [work]
    assert work.waiting == {first: [0, 2], second: [0]}
    assert work.is_awaited


def test_a_step_without_anybody_waiting_is_not_put_back() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    job = add_job(queue, [10, 10])
    step = queue.next_step()
    assert step is not None
    for work in job.works:
        del work.waiting[job]
    queue.put_back(step)
    assert not queue


def test_bulk_work_that_a_query_needs_is_promoted() -> None:
    queue = WorkQueue(budget=10, padding=FULL_PADDING)
    bulk = add_job(queue, [10] * 20)
    query = add_job(queue, [10], "interactive", "b")
    wanted = bulk.works[15]
    queue.share(wanted, query, 20)
    assert queue.num_entries("interactive") == 2
    assert queue.num_entries("bulk") == 19
    order = [step.entries[0] for step in iter(queue.next_step, None)]
    assert order.index(wanted.entries[0]) <= 2
    assert len(order) == 21


def test_a_text_that_two_clients_need_waits_for_the_one_with_less_to_do() -> None:
    queue = WorkQueue(budget=10, padding=FULL_PADDING)
    many = add_job(queue, [10] * 200, client="many")
    single = add_job(queue, [10], client="single")
    queue.share(many.works[150], single, 20)
    queue.share(many.works[151], single, 2000)  # its job has more to do than is left of the other
    order = [step.entries[0] for step in iter(queue.next_step, None)]
    assert len(order) == len(set(order)) == 201
    assert order.index(many.works[150].entries[0]) <= 4
    assert order.index(many.works[151].entries[0]) == 152


def test_a_client_whose_texts_are_all_under_way_for_another_has_its_share() -> None:
    """Every text of the small client waits in the jobs of the large one already."""
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    registry = JobRegistry(queue, AnswerCache(0))
    texts = [PreparedText((np.full(10, number),), (1,), 0, 10, False, str(number).encode()) for number in range(1000)]
    many, single = Job(1000, 1, "bulk", "many"), Job(50, 1, "bulk", "single")
    registry.add(many, texts)
    registry.add(single, texts[-50:])
    assert single.num_merged == 50
    num_steps = 0
    while not single.done:
        step = queue.next_step()
        assert step is not None
        registry.deliver(step, [np.zeros(1, np.float32) for _ in step.entries], 0.0, 0.0)
        num_steps += 1
    assert num_steps < 15  # alone it takes 5, and half of the steps are those of the other
    assert not many.done


def test_a_client_that_comes_again_is_not_forgotten_for_its_first_visit() -> None:
    queue = WorkQueue(budget=10, padding=FULL_PADDING)
    for _ in range(3):
        first = add_job(queue, [10], client="a")
        assert jobs_of(queue.next_step()) == [first]
        queue.close_job(first)
        second = add_job(queue, [10], client="a")
        other = add_job(queue, [10], client="b")
        assert set(jobs_of(queue.next_step()) + jobs_of(queue.next_step())) == {second, other}
        assert queue.next_step() is None
        queue.close_job(second)
        queue.close_job(other)
        assert not queue.num_jobs("bulk")


def test_a_client_is_forgotten_with_the_last_of_what_was_promoted_for_it() -> None:
    queue = WorkQueue(budget=100, padding=FULL_PADDING)
    query, bulk = add_job(queue, [4], "interactive", "b"), add_job(queue, [5, 9])
    queue.share(bulk.works[1], query, 13)
    cancel(query, queue)
    assert list(queue._lanes["interactive"]._clients) == ["b"]
    cancel(bulk, queue)
    assert not any(lane._clients for lane in queue._lanes.values())


@given(st.data())
def test_nothing_is_lost_and_nothing_is_served_twice(data: st.DataObject) -> None:
    """Against a set: jobs come, are cancelled, end, are shared and put back in any order."""
    queue = WorkQueue(
        budget=data.draw(st.integers(10, 60)),
        padding=data.draw(st.sampled_from([FULL_PADDING, PaddingCost(0.1, 0.01), NO_PADDING])),
    )
    waiting: dict[Entry, Job] = {}
    open_jobs: list[Job] = []
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["add", "step", "put back", "cancel", "share"]))
        if action == "add":
            lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
            job = add_job(queue, lengths, data.draw(st.sampled_from(LANES)), data.draw(st.sampled_from("abc")))
            open_jobs.append(job)
            waiting |= {entry: job for work in job.works for entry in work.entries}
        elif action in ("step", "put back"):
            step = queue.next_step()
            assert (step is None) == (not waiting)
            if step is not None and action == "put back":
                queue.put_back(step)
            elif step is not None:
                for entry in step.entries:
                    del waiting[entry]
        elif open_jobs:
            job = data.draw(st.sampled_from(open_jobs))
            if action == "cancel":
                cancel(job, queue)
                open_jobs.remove(job)
                waiting = {entry: each for entry, each in waiting.items() if each is not job}
            else:
                other = data.draw(st.sampled_from(open_jobs))
                queue.share(data.draw(st.sampled_from(job.works)), other, data.draw(st.integers(0, 60)))
        assert queue.num_entries("bulk") + queue.num_entries("interactive") == len(waiting)
        assert queue.num_tokens("bulk") + queue.num_tokens("interactive") == sum(entry.length for entry in waiting)
    while (step := queue.next_step()) is not None:
        for entry in step.entries:
            del waiting[entry]
    assert not waiting
    for job in open_jobs:
        queue.close_job(job)
    assert not queue.num_jobs("bulk")
    assert not queue.num_jobs("interactive")
    assert not any(lane._clients for lane in queue._lanes.values())
