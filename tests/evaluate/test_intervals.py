"""Statistics against scipy and scikit-learn; intervals and tests against loops, exact enumeration and known cases."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.evaluate import intervals
from gnomon.evaluate.intervals import SEED, Interval, PerQueryScores, bootstrap_interval, run_paired_test

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score

STATISTICS = ("mean", "spearman", "average_precision")


def slow(statistic: str, gold: np.ndarray | None, values: np.ndarray) -> float:
    """The reference implementation: one resample, by the packages that mteb takes its scores from."""
    if statistic == "mean":
        return sum(values.tolist()) / len(values)
    if statistic == "spearman":
        return float("nan") if min(np.ptp(gold), np.ptp(values)) == 0 else float(spearmanr(gold, values).statistic)
    return float("nan") if not gold.any() else float(average_precision_score(gold, values))


def build(
    statistic: str, count: int, seed: int, *, shift: float = 0.0, noise: float = 1.0, ties: int = 0
) -> PerQueryScores:
    """Units whose gold depends on `count` alone; `ties`: how many distinct predictions there are, at most."""
    random, fixed = np.random.default_rng(seed), np.random.default_rng(count)
    gold = (fixed.random(count) < 0.4) * 1.0 if statistic == "average_precision" else fixed.integers(0, 6, count) * 1.0
    values = random.normal(shift, noise, count) + (0 if statistic == "mean" else gold)
    values = np.round(values) % ties if ties else values
    return PerQueryScores("query", statistic, values.tolist(), None if statistic == "mean" else gold.tolist())


def slow_score(units: PerQueryScores, rows: np.ndarray) -> float:
    gold = None if units.gold is None else np.array(units.gold)[rows]
    return slow(units.statistic, gold, np.array(units.values)[rows])


# ---- statistics


@pytest.mark.parametrize("statistic", STATISTICS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 5]))
def test_the_statistic_of_any_resample_is_that_of_scipy_and_sklearn(
    statistic: str, count: int, seed: int, ties: int
) -> None:
    units = build(statistic, count, seed, ties=ties)
    rows_RN = np.random.default_rng(seed).integers(count, size=(7, count))
    found_R = intervals._compute_statistic(units, rows_RN)
    np.testing.assert_allclose(found_R, [slow_score(units, rows_N) for rows_N in rows_RN], rtol=0, atol=1e-12)
    np.testing.assert_allclose(units.compute_score(), slow_score(units, np.arange(count)), rtol=0, atol=1e-12)


def test_the_statistic_of_a_subset_of_the_units() -> None:
    units = PerQueryScores("pair", "average_precision", [0.9, 0.8, 0.7, 0.1], [0, 1, 0, 1])
    assert intervals._compute_statistic(units, np.array([[0, 1, 1, 1], [1, 1, 1, 0]])).tolist() == [0.75, 0.75]
    # 0.9: 0 of 1; 0.8: 1 of 2, recall 1/2; 0.7; 0.1: 2 of 4, recall 1/2
    assert units.compute_score() == 0.5


def test_equal_predictions_are_one_threshold() -> None:
    assert PerQueryScores("pair", "average_precision", [0.5] * 4, [1, 0, 0, 0]).compute_score() == 0.25
    assert PerQueryScores("pair", "average_precision", [1.0, 0.5, 0.5, 0.5], [0, 1, 0, 0]).compute_score() == 0.25


def test_a_perfect_order_is_exactly_1() -> None:
    assert (
        PerQueryScores("pair", "spearman", list(np.exp(np.arange(301.0) / 50)), list(range(301))).compute_score() == 1.0
    )
    assert PerQueryScores("pair", "spearman", [3.0, 2.0, 1.0], [1, 2, 3]).compute_score() == -1.0


@pytest.mark.parametrize(
    "units",
    [
        PerQueryScores("pair", "spearman", [0.1, 0.1, 0.1], [1, 2, 3]),
        PerQueryScores("pair", "spearman", [0.1, 0.2, 0.3], [2, 2, 2]),
        PerQueryScores("pair", "spearman", [0.1], [2]),
        PerQueryScores("pair", "average_precision", [0.1, 0.2], [0, 0]),
    ],
)
def test_what_is_not_defined_is_nan(units: PerQueryScores) -> None:
    assert np.isnan(units.compute_score())
    assert np.isnan([bootstrap_interval([units]).low, bootstrap_interval([units]).high]).all()


# ---- intervals


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("ties", [0, 3])
def test_the_interval_is_that_of_a_loop_over_resamples(statistic: str, ties: int) -> None:
    several = [build(statistic, count, count, ties=ties) for count in (25, 9)]
    scores_SR = []
    for at, units in enumerate(several):
        random, count = np.random.default_rng([SEED, at]), len(units.values)
        scores_SR.append([slow_score(units, random.integers(count, size=count)) for _ in range(120)])
    scores = np.mean(scores_SR, axis=0)
    low, high = np.nanquantile(scores, [0.05, 0.95])
    found = bootstrap_interval(several, level=0.9, resamples=120)
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_blocks_do_not_show(statistic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = build(statistic, 23, 1), build(statistic, 23, 2)
    monkeypatch.setattr(intervals, "TEST_RESAMPLES", 500)
    whole = bootstrap_interval([a]), run_paired_test([a], [b])
    monkeypatch.setattr(intervals, "BLOCK_CELLS", 100)
    assert (bootstrap_interval([a]), run_paired_test([a], [b])) == whole


def test_an_interval_of_95_percent_holds_the_true_mean_so_often() -> None:
    samples = np.random.default_rng(7).normal(3, 2, (300, 40))
    found = [
        bootstrap_interval([PerQueryScores("query", "mean", sample.tolist())], resamples=400) for sample in samples
    ]
    held = np.mean([each.low <= 3 <= each.high for each in found])
    assert 0.90 <= held <= 0.98
    # of a normal mean it is 2 * 1.96 standard errors wide
    assert np.mean([each.high - each.low for each in found]) == pytest.approx(2 * 1.96 * 2 / 40**0.5, rel=0.06)


def test_a_wider_level_holds_a_narrower() -> None:
    units = [build("spearman", 50, 3)]
    wide, narrow = bootstrap_interval(units, level=0.99), bootstrap_interval(units, level=0.5)
    assert wide.low < narrow.low < units[0].compute_score() < narrow.high < wide.high


def test_one_unit_gives_an_interval_whose_ends_are_equal() -> None:
    assert bootstrap_interval([PerQueryScores("query", "mean", [0.25])]) == Interval(0.25, 0.25)


def test_resamples_without_a_score_are_left_out() -> None:
    units = PerQueryScores("pair", "average_precision", [0.1, 0.9], [0, 1])
    # only the positive, or both: each 1; a quarter of the resamples has no positive
    assert bootstrap_interval([units]) == Interval(1.0, 1.0)
    assert 0.2 < np.isnan(intervals._resample(units, 1000, 0)).mean() < 0.3


def test_each_statistic_is_resampled_on_its_own() -> None:
    one = PerQueryScores("experiment", "mean", [0.0, 1.0] * 50)
    alone, both = bootstrap_interval([one]), bootstrap_interval([one, replace(one, values=[5.0, 6.0] * 50)])
    # the mean of two independent means is narrower by the root of 2, which one draw for both would not be
    assert (both.high - both.low) / (alone.high - alone.low) == pytest.approx(0.5**0.5, rel=0.1)
    assert both.low < 3.0 < both.high


# ---- tests


def slow_paired_test(
    a: list[PerQueryScores], b: list[PerQueryScores], count: int, swaps: int
) -> tuple[list[float], list[float]]:
    """The reference implementation: differences of `count` resamples, and of `swaps` swaps, one by one."""
    resampled, swapped = np.zeros((len(a), count)), np.zeros((len(a), swaps))
    for at, (first, second) in enumerate(zip(a, b, strict=True)):
        size = len(first.values)
        random = np.random.default_rng([SEED, at])
        for index in range(count):
            rows = random.integers(size, size=size)
            resampled[at, index] = slow_score(second, rows) - slow_score(first, rows)
        random = np.random.default_rng([SEED, at])
        for index in range(swaps):
            swapped[at, index] = slow_swap(first, second, random.integers(2, size=size).tolist())
    return resampled.mean(axis=0).tolist(), swapped.mean(axis=0).tolist()


def slow_swap(a: PerQueryScores, b: PerQueryScores, swaps: tuple[int, ...]) -> float:
    both = np.array([a.values, b.values])
    if a.statistic != "mean":
        both = np.floor(rankdata(both, axis=1))
    first = np.array([both[swap, at] for at, swap in enumerate(swaps)])
    second = np.array([both[1 - swap, at] for at, swap in enumerate(swaps)])
    gold = None if a.gold is None else np.array(a.gold)
    return slow(a.statistic, gold, second) - slow(a.statistic, gold, first)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("ties", [0, 4])
def test_paired_is_a_loop_over_resamples_and_swaps(statistic: str, ties: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a = [build(statistic, count, count, ties=ties) for count in (20, 11)]
    b = [build(statistic, count, 9, shift=0.6, noise=2.0, ties=ties) for count in (20, 11)]
    monkeypatch.setattr(intervals, "RESAMPLES", 60)
    monkeypatch.setattr(intervals, "TEST_RESAMPLES", 99)
    found = run_paired_test(a, b)
    resampled, swapped = slow_paired_test(a, b, 60, 99)
    difference = np.mean([second.compute_score() - first.compute_score() for first, second in zip(a, b, strict=True)])
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.p_value == (1 + sum(abs(each) >= abs(difference) - 1e-9 for each in swapped)) / 100
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    np.testing.assert_allclose([found.interval.low, found.interval.high], [low, high], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_p_value_is_near_that_of_all_swaps(statistic: str) -> None:
    a, b = build(statistic, 8, 1), build(statistic, 8, 5, shift=0.5, noise=2.0)
    difference = b.compute_score() - a.compute_score()
    every = [slow_swap(a, b, swaps) for swaps in product((0, 1), repeat=8)]
    exact = np.mean(np.abs(every) >= abs(difference) - 1e-9)
    assert 0.02 < exact < 0.98
    assert run_paired_test([a], [b]).p_value == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("count", "p_value"), [(1, 1.0), (2, 1 / 2), (5, 1 / 16), (10, 1 / 512)])
def test_few_units_that_all_agree_give_the_sign_test(count: int, p_value: float) -> None:
    a = PerQueryScores("experiment", "mean", [0.5] * count)
    b = replace(a, values=[0.5 + 0.1 * 2**-at for at in range(count)])
    assert run_paired_test([a], [b]).p_value == pytest.approx(p_value, abs=0.012 if count < 10 else 0.001)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_identical_units_differ_by_0_with_p_1(statistic: str) -> None:
    units = build(statistic, 37, 4)
    found = run_paired_test([units], [replace(units)])
    assert (found.difference, found.interval, found.p_value) == (0.0, Interval(0.0, 0.0), 1.0)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_clear_difference_has_the_least_p(statistic: str) -> None:
    a, b = build(statistic, 200, 1, noise=30.0), build(statistic, 200, 2, shift=20.0, noise=0.3)
    found = run_paired_test([a], [b])
    assert found.p_value == 1 / 10_000
    assert 0 < found.interval.low < found.difference < found.interval.high


@pytest.mark.slow
@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_is_uniform_where_the_models_are_alike(statistic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "TEST_RESAMPLES", 399)
    monkeypatch.setattr(intervals, "RESAMPLES", 1)
    p_values = [
        run_paired_test([build(statistic, 40, seed, noise=3.0)], [build(statistic, 40, 1000 + seed, noise=3.0)]).p_value
        for seed in range(300)
    ]
    for level in (0.05, 0.2, 0.5, 0.8):
        # four standard errors of a share of 300
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=4 * (level * (1 - level) / 300) ** 0.5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_other_way_round_only_the_sign_differs(statistic: str) -> None:
    a, b = build(statistic, 30, 1), build(statistic, 30, 2, shift=0.3)
    there, back = run_paired_test([a], [b]), run_paired_test([b], [a])
    assert back.difference == -there.difference
    assert back.p_value == there.p_value
    np.testing.assert_allclose([back.interval.low, back.interval.high], [-there.interval.high, -there.interval.low])


@pytest.mark.parametrize("statistic", ["spearman", "average_precision"])
def test_only_the_order_of_predictions_counts(statistic: str) -> None:
    a, b = build(statistic, 30, 1), build(statistic, 30, 2, noise=2.0)
    scaled = replace(b, values=[float(np.exp(value / 9)) + 100 for value in b.values])
    assert run_paired_test([a], [scaled]) == run_paired_test([a], [b])


def test_swaps_without_a_score_are_left_out() -> None:
    a = PerQueryScores("pair", "spearman", [0.1, 0.2], [1, 2])
    # one swap of two makes both predictions equal; none, or two, differ by as much
    found = run_paired_test([a], [replace(a, values=[0.2, 0.1])])
    assert (found.difference, found.p_value) == (-2.0, 1.0)


def test_each_score_weighs_the_same() -> None:
    a = [PerQueryScores("query", "mean", [0.0] * 90), PerQueryScores("query", "mean", [0.0] * 10)]
    b = [replace(a[0], values=[0.1] * 90), replace(a[1], values=[0.5] * 10)]
    assert run_paired_test(a, b).difference == pytest.approx(0.3)


# ---- matching


@pytest.mark.parametrize("statistic", STATISTICS)
def test_units_are_matched_by_id(statistic: str) -> None:
    ids = [f"q{at}" for at in range(30)]
    a, b = (replace(build(statistic, 30, seed), ids=ids) for seed in (1, 2))
    order = np.random.default_rng(0).permutation(30).tolist()
    gold = None if b.gold is None else [b.gold[at] for at in order]
    shuffled = replace(b, values=[b.values[at] for at in order], gold=gold, ids=[ids[at] for at in order])
    assert run_paired_test([a], [shuffled]) == run_paired_test([a], [b])


def test_units_without_ids_are_matched_by_place() -> None:
    a, b = PerQueryScores("query", "mean", [0.0, 1.0], ids=["x", "y"]), PerQueryScores("query", "mean", [0.0, 1.0])
    assert run_paired_test([a], [b]).interval == Interval(0.0, 0.0)
    assert run_paired_test([a], [replace(b, ids=["y", "x"])]).interval == Interval(-1.0, 1.0)


ONE = PerQueryScores("query", "mean", [0.1, 0.2, 0.3], ids=["q1", "q2", "q3"])
PAIRS = PerQueryScores("pair", "spearman", [0.1, 0.2, 0.3], [1, 2, 3])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([ONE], [ONE, ONE], "1 and 2 scores cannot be paired"),
        ([], [], "0 and 0 scores cannot be paired"),
        ([ONE], [PAIRS], "the mean of a query and the spearman of a pair cannot be compared"),
        ([ONE], [replace(ONE, unit="text")], "the mean of a query and the mean of a text cannot be compared"),
        (
            [ONE],
            [replace(ONE, ids=["q1", "q3", "q4"])],
            "different data: of 3 and 3 of unit 'query', 2 are shared, and 'q2' is in the first only",
        ),
        (
            [ONE],
            [PerQueryScores("query", "mean", [0.0] * 4, ids=["q3", "q9", "q2", "q1"])],
            "of 3 and 4 of unit 'query', 3 are shared, and 'q9' is in the second only",
        ),
        (
            [ONE],
            [PerQueryScores("query", "mean", [0.0] * 2)],
            "different data: 3 and 2 of unit 'query'",
        ),
        ([PAIRS], [replace(PAIRS, gold=[1, 2, 4])], "different data: their gold values differ"),
        ([PAIRS], [replace(PAIRS, values=[1, 1, 1])], "the spearman of the second is not defined"),
        ([replace(PAIRS, gold=[1, 1, 1])], [replace(PAIRS, gold=[1, 1, 1])], "the spearman of the "),
    ],
)
def test_what_cannot_be_paired_is_reported(a: list[PerQueryScores], b: list[PerQueryScores], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run_paired_test(a, b)
    assert message in str(caught.value)
