"""Permutations that are computed place by place: each a bijection, all of them alike, the same everywhere."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.train.data.permutation import permute, random_bits, uniform

KEYS = st.tuples(st.integers(0, 2**32), st.text(max_size=3))

calm = settings(deadline=None)


@calm
@given(n=st.integers(1, 3000), key=KEYS)
def test_a_permutation_holds_each_number_once(n: int, key: tuple[int | str, ...]) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == [*range(n)]


@calm
@given(n=st.integers(1, 2**40), key=KEYS, data=st.data())
def test_any_place_may_be_asked_for(n: int, key: tuple[int | str, ...], data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20, unique=True)), np.int64)
    found = permute(places, n, key)
    assert found.dtype == np.int64
    assert len({*found.tolist()}) == len(places)
    assert all(0 <= number < n for number in found.tolist())
    assert [int(permute(places[at : at + 1], n, key)[0]) for at in range(len(places))] == found.tolist()


def test_the_places_asked_for_are_left_alone() -> None:
    places = np.arange(10)
    permute(places, 10, (1,))
    assert places.tolist() == [*range(10)]


def too_uneven(counts: np.ndarray, expected: float, freedom: int) -> float:
    """Pearson's chi-square over its mean, in standard deviations."""
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5, 7, 16, 60, 250])
def test_every_number_is_as_often_at_every_place(n: int) -> None:
    keys, places = 2000, np.arange(n)
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[places, permute(places, n, ("fixed", key))] += 1
    assert abs(too_uneven(counts, keys / n, (n - 1) ** 2)) < 4


def test_all_orders_of_a_few_come_about_as_often() -> None:
    orders = Counter(tuple(permute(np.arange(4), 4, ("fixed", key)).tolist()) for key in range(4800))
    assert len(orders) == 24
    assert 140 < min(orders.values()) <= max(orders.values()) < 260


def test_neighbours_are_strangers() -> None:
    """Of neighbouring places, neighbouring seeds and neighbouring epochs."""
    n = 100_000
    first = permute(np.arange(n), n, (42, 0, "main", 0))
    others = [permute(np.arange(n), n, key) for key in ((43, 0, "main", 0), (42, 1, "main", 0), (42, 0, "main", 1))]
    for one, other in [(first[:-1], first[1:]), *((first, other) for other in others)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(n)
        tiles = np.histogram2d(one, other, bins=20, range=[[0, n], [0, n]])[0]
        assert abs(too_uneven(tiles, len(one) / 400, 19 * 19)) < 4


def test_keys_are_told_apart_by_all_their_parts() -> None:
    keys = [(1, 23), (12, 3), (1, 2, 3), (123,), (1, "23", ""), ("", 123)]
    assert len({random_bits(np.arange(1), key).item() for key in keys}) == len(keys)


def test_numbers_are_uniform_and_in_range() -> None:
    drawn = uniform(np.arange(100_000), (7, "numbers"))
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(too_uneven(np.histogram(drawn, 100, (0, 1))[0], 1000, 99)) < 4


def test_numbers_are_these_for_ever() -> None:
    """A run is resumed by another version of numpy, on another machine: nothing here may move."""
    assert random_bits(np.arange(3), (42, "source")).tolist() == NOISE
    assert permute(np.arange(12), 12, (42, 0, "main", 0)).tolist() == TWELVE
    assert permute(np.array([0, 5_000_000, 9_999_999]), 10_000_000, (42, 0, "main", 0)).tolist() == TEN_MILLION


NOISE = [9986742511295606920, 9388183713589736085, 3971387056942705658]
TWELVE = [9, 2, 10, 6, 0, 11, 8, 1, 7, 4, 3, 5]
TEN_MILLION = [144037, 2192444, 5839047]
