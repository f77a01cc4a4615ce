"""Batches: every text once, within the budget, longest first."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.batching import BATCH_OVERHEAD_TOKENS, FULL_PADDING, NO_PADDING, PaddingCost, build_batches

lengths_and_budget = (st.lists(st.integers(0, 600), max_size=80), st.integers(1, 2048))
SOME_PADDING = PaddingCost(0.1, 1 / 400)
each_cost = pytest.mark.parametrize("padding", [FULL_PADDING, SOME_PADDING, NO_PADDING])


@each_cost
@given(*lengths_and_budget)
def test_every_index_once(padding: PaddingCost, lengths: list[int], budget: int) -> None:
    assert sorted(chain.from_iterable(build_batches(lengths, budget, padding))) == list(range(len(lengths)))


@given(*lengths_and_budget)
def test_batches_with_padding_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    for batch in build_batches(lengths, budget):
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(*lengths_and_budget)
def test_batches_without_padding_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    for batch in build_batches(lengths, budget, NO_PADDING):
        assert batch
        assert len(batch) == 1 or sum(max(1, lengths[index]) for index in batch) <= budget


@each_cost
@given(*lengths_and_budget)
def test_longest_first_and_ties_in_their_order(padding: PaddingCost, lengths: list[int], budget: int) -> None:
    order = list(chain.from_iterable(build_batches(lengths, budget, padding)))
    assert order == sorted(range(len(lengths)), key=lambda index: -lengths[index])


@given(*lengths_and_budget)
def test_no_batch_could_take_its_neighbours_first_text(lengths: list[int], budget: int) -> None:
    """As few batches as the order allows, but where padding would cost more than another batch."""
    result = build_batches(lengths, budget)
    for place, (batch, following) in enumerate(pairwise(result)):
        longest, longest_after = (max(1, lengths[texts[0]]) for texts in (batch, following))
        joining = min(budget // longest - len(batch), sum(map(len, result[place + 1 :])))
        assert joining <= 0 or (longest - longest_after) * joining > BATCH_OVERHEAD_TOKENS
        assert lengths[following[0]] <= lengths[batch[-1]]


@given(*lengths_and_budget)
def test_no_batch_without_padding_could_take_its_neighbours_first_text(lengths: list[int], budget: int) -> None:
    for batch, following in pairwise(build_batches(lengths, budget, NO_PADDING)):
        assert sum(max(1, lengths[index]) for index in [*batch, following[0]]) > budget


@given(*lengths_and_budget)
def test_texts_of_equal_length_are_split_alike_either_way(lengths: list[int], budget: int) -> None:
    same = [lengths[0]] * len(lengths) if lengths else []
    assert build_batches(same, budget, NO_PADDING) == build_batches(same, budget)


@given(*lengths_and_budget)
def test_without_padding_there_are_no_more_batches(lengths: list[int], budget: int) -> None:
    assert len(build_batches(lengths, budget, NO_PADDING)) <= len(build_batches(lengths, budget))


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(1, 2048))
def test_memory_does_not_grow_after_the_first_batch(lengths: list[int], budget: int) -> None:
    padded = [len(batch) * lengths[batch[0]] for batch in build_batches(lengths, budget)]
    assert all(lengths[batch[0]] <= max(lengths) for batch in build_batches(lengths, budget))
    assert max(padded) <= max(budget, max(lengths))


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([5], 1, [[0]]),
        ([5, 9, 5], 10, [[1], [0, 2]]),
        ([3, 3, 3, 3], 6, [[0, 1], [2, 3]]),
        ([0, 0, 0], 2, [[0, 1], [2]]),
        ([100, 1, 1], 10, [[0], [1, 2]]),
    ],
)
def test_examples(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    assert build_batches(lengths, budget) == expected


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([5], 1, [[0]]),
        ([5, 9, 5], 14, [[1, 0], [2]]),
        ([9, 1, 1, 1, 1], 11, [[0, 1, 2], [3, 4]]),
        ([0, 0, 0], 2, [[0, 1], [2]]),
        ([100, 1, 1], 10, [[0], [1, 2]]),
        ([4, 3, 3], 10, [[0, 1, 2]]),
    ],
)
def test_examples_without_padding(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    assert build_batches(lengths, budget, NO_PADDING) == expected


@each_cost
@given(*lengths_and_budget)
def test_batches_cost_no_more_than_the_budget(padding: PaddingCost, lengths: list[int], budget: int) -> None:
    for batch in build_batches(lengths, budget, padding):
        counts = [max(1, lengths[index]) for index in batch]
        extra = sum((max(counts) - count) * padding.share(max(counts)) for count in counts)
        assert padding.of_batch(max(counts), len(counts), sum(counts)) == pytest.approx(extra)
        assert len(batch) == 1 or sum(counts) + extra <= budget + 1e-6


def test_padding_costs_more_beside_a_long_text() -> None:
    assert SOME_PADDING.share(20) == pytest.approx(0.15)
    assert SOME_PADDING.share(1000) == 1
    assert (NO_PADDING.share(1000), FULL_PADDING.share(1)) == (0, 1)
    assert (bool(NO_PADDING), bool(SOME_PADDING), bool(FULL_PADDING)) == (False, True, True)
    lengths = [20, *[10] * 30]
    assert len(build_batches(lengths, 1024)) == 2
    assert len(build_batches(lengths, 1024, SOME_PADDING)) == 1
    assert len(build_batches([256, *[10] * 30], 1024, SOME_PADDING)) == 2


def test_a_long_text_does_not_fill_up_short_ones() -> None:
    """One of 256 tokens and three of 10: 4 x 256 tokens in one batch, 286 in two."""
    assert build_batches([10, 256, 10, 10], 1024) == [[1], [0, 2, 3]]
    assert build_batches([250, 256, 250], 1024) == [[1, 0, 2]]  # 12 tokens of padding are cheaper than a batch
