"""How sure a score is: bootstrap intervals of one model, and paired tests of two, over what a score is made of.

Spearman's correlation and average precision depend on the order of the predictions only, so both are computed from
levels: whole numbers in the same order. A resample is then counted, not sorted.

R: resamples; N: units, and levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.errors import InputError

Statistic = Literal["mean", "spearman", "average_precision"]
RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
SEED = 20_240_501

TEST_RESAMPLES = 9999
"""Resamples of a test: its p is at least 1 / 10,000, which leaves Holm's correction room for 500 tasks."""

BLOCK_CELLS = 1 << 15
"""Numbers of a block, resamples times units: its arrays stay in the processor's cache."""

EQUAL_TOLERANCE = 1e-12
"""Differences of less come from rounding."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class PerQueryScores:
    """What one score is made of: `statistic(values)`, or `statistic(gold, values)`."""

    unit: str
    """ "query", "pair", "text" or "experiment"."""
    statistic: Statistic
    values: Sequence[float]
    """[N]: a query's nDCG, an experiment's accuracy; of the other statistics, what the model predicted."""
    gold: Sequence[float] | None = None
    """[N]: human scores of pairs (spearman), labels 0 and 1 (average_precision)."""
    ids: Sequence[str] | None = None
    """[N]: names of the units, where they have any; two models are compared by them."""

    def compute_score(self) -> float:
        """NaN where the statistic is not defined: spearman of constants, average precision without a label 1."""
        return float(_compute_statistic(self, np.arange(len(self.values))[None])[0])

    @cached_property
    def statistic_arguments(self) -> tuple[NDArray[np.generic], ...]:
        """Arguments of the statistic, [N] each; what the model predicted comes last."""
        if self.statistic == "mean":
            return (np.asarray(self.values, np.float64),)
        assert self.gold is not None
        gold_N = _rank_levels(self.gold) if self.statistic == "spearman" else np.asarray(self.gold, np.float64)
        return gold_N, _rank_levels(self.values)


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same units."""

    difference: float
    """The second's score less the first's."""
    interval: Interval
    """95 % of the difference."""
    p_value: float
    """Two-sided; at least 1 / 10,000."""


def bootstrap_interval(
    score_sets: Sequence[PerQueryScores], *, level: float = CONFIDENCE_LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """Interval of a score that is the mean of one statistic or of several, each over units of its own.

    The percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3): the units of
    each statistic are drawn anew, with replacement, and the interval holds the middle `level` of the scores. Resamples
    in which a statistic is not defined are left out. Of few units it comes out too narrow; of one it has no width.

    Returns:
        The same for the same units; NaN at both ends where no resample has a score.
    """
    values_R = np.mean([_resample(each, resamples, at) for at, each in enumerate(score_sets)], axis=0)
    return _percentile_interval(values_R, level)


def run_paired_test(a: Sequence[PerQueryScores], b: Sequence[PerQueryScores]) -> PairedTest:
    """Whether two models differ, by scores made of the same units: `b` less `a`, as the means over statistics.

    The interval is the percentile bootstrap's, the same units drawn for both models. The p-value is that of the paired
    randomisation test (Noreen 1989, Computer-Intensive Methods for Testing Hypotheses; for retrieval Smucker, Allan &
    Carterette 2007; for statistics that are not means Yeh 2000): if the models were alike, it would not matter which of
    them said what, so at each unit, with probability 1/2, they change places. p is (1 + the swaps that differ by as
    much) / (1 + all swaps). Of means it is the sign-flip test, which is right for any number of units; a bootstrap test
    is not for few, such as the 10 experiments of a classification. Predictions change places as ranks, for one model's
    may lie from 0.7 to 1 and the other's from -1 to 1. Fewer than 6 units in all never give a p below 0.05.

    Units are matched by ids where both sides have them, else by position.

    Raises:
        InputError: the two were not measured on the same data, by the same statistic; or a score is not defined.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"{len(a)} and {len(b)} scores cannot be paired; give as many of each, and at least one.")
    pairs = [_align(first, second) for first, second in zip(a, b, strict=True)]
    difference = float(
        np.mean([_score_or_raise(second, "second") - _score_or_raise(first, "first") for first, second in pairs])
    )
    resampled_R = np.mean([_resample_difference(*pair, at) for at, pair in enumerate(pairs)], axis=0)
    swapped_R = np.mean([_swap_difference(*pair, at) for at, pair in enumerate(pairs)], axis=0)
    as_much = np.count_nonzero(np.abs(swapped_R) >= abs(difference) - EQUAL_TOLERANCE)
    p_value = (1 + as_much) / (1 + np.count_nonzero(~np.isnan(swapped_R)))
    return PairedTest(difference, _percentile_interval(resampled_R, CONFIDENCE_LEVEL), float(p_value))


# ---- resamples


def _resample(scores: PerQueryScores, resamples: int, seed: int) -> NDArray[np.float64]:
    count = len(scores.values)
    return np.concatenate(
        [_compute_statistic(scores, rows_RN) for rows_RN in _draw_blocks(count, count, resamples, seed)]
    )


def _resample_difference(a: PerQueryScores, b: PerQueryScores, seed: int) -> NDArray[np.float64]:
    count = len(a.values)
    blocks = _draw_blocks(count, count, RESAMPLES, seed)
    return np.concatenate([_compute_statistic(b, rows_RN) - _compute_statistic(a, rows_RN) for rows_RN in blocks])


def _swap_difference(a: PerQueryScores, b: PerQueryScores, seed: int) -> NDArray[np.float64]:
    (*gold, a_N), (*_, b_N), statistic = a.statistic_arguments, b.statistic_arguments, STATISTICS[a.statistic]
    gold_1N = [gold_N[None] for gold_N in gold]
    blocks: list[NDArray[np.float64]] = []
    for swaps_RN in _draw_blocks(2, len(a.values), TEST_RESAMPLES, seed):
        first_R = statistic(*gold_1N, np.where(swaps_RN, b_N, a_N))
        blocks.append(statistic(*gold_1N, np.where(swaps_RN, a_N, b_N)) - first_R)
    return np.concatenate(blocks)


def _draw_blocks(below: int, count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """`resamples` rows of `count` numbers from 0 to `below` - 1, in blocks."""
    random = np.random.default_rng([SEED, seed])
    step = max(1, BLOCK_CELLS // count)
    for start in range(0, resamples, step):
        yield random.integers(below, size=(min(step, resamples - start), count))


def _percentile_interval(values_R: NDArray[np.float64], level: float) -> Interval:
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# ---- statistics


def _compute_statistic(scores: PerQueryScores, rows_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    """[R]: the statistic of the units of each row; NaN where it is not defined."""
    return STATISTICS[scores.statistic](*[each_N[rows_RN] for each_N in scores.statistic_arguments])


def _mean(values_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    return values_RN.mean(axis=1)


def _spearman(gold_RN: NDArray[np.int64], values_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's correlation of ranks, equal values at their average rank; one row of gold may serve all resamples."""
    x_RN, y_RN = _centered_ranks(gold_RN), _centered_ranks(values_RN)
    scale_R = np.sqrt(_row_dots(x_RN, x_RN) * _row_dots(y_RN, y_RN))
    # ranks are multiples of 1/2, so that the scale of constants is exactly 0
    return np.clip(_divide_or_nan(_row_dots(x_RN, y_RN), scale_R), -1, 1)


def _average_precision(gold_RN: NDArray[np.float64], values_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    """The precision at each distinct value, weighted by the recall that it adds, as scikit-learn takes it."""
    falling_RN = values_RN.shape[1] - 1 - values_RN
    right_RN = _sum_per_level(falling_RN, np.broadcast_to(gold_RN, values_RN.shape))
    precision_RN = right_RN.cumsum(axis=1) / np.maximum(_sum_per_level(falling_RN).cumsum(axis=1), 1)
    return _divide_or_nan(_row_dots(precision_RN, right_RN), right_RN.sum(axis=1))


STATISTICS: dict[Statistic, Callable[..., NDArray[np.float64]]] = {
    "mean": _mean,
    "spearman": _spearman,
    "average_precision": _average_precision,
}


def _rank_levels(values_N: ArrayLike) -> NDArray[np.int64]:
    """Average ranks from 0 to N - 1, rounded down: equal where the values are, else in their order."""
    _, place_N, counts = np.unique(np.asarray(values_N, np.float64), return_inverse=True, return_counts=True)
    return (counts.cumsum() - 1 - counts // 2)[place_N]


def _sum_per_level(levels_RN: NDArray[np.int64], weights_RN: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """[R, N]: how many units are at each level, or the sum of their weights."""
    weights = None if weights_RN is None else weights_RN.ravel()
    return np.bincount(_flat_levels(levels_RN), weights, levels_RN.size).reshape(levels_RN.shape)


def _centered_ranks(levels_RN: NDArray[np.int64]) -> NDArray[np.float64]:
    totals_RN = _sum_per_level(levels_RN)
    ranks_RN = totals_RN.cumsum(axis=1) - totals_RN / 2 - levels_RN.shape[1] / 2
    return ranks_RN.ravel()[_flat_levels(levels_RN)].reshape(levels_RN.shape)


def _flat_levels(levels_RN: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels, each row's behind those of the row before."""
    rows, width = levels_RN.shape
    return (levels_RN + width * np.arange(rows)[:, None]).ravel()


def _row_dots(x_RN: NDArray[np.float64], y_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("rn,rn->r", x_RN, y_RN)


def _divide_or_nan(x_R: NDArray[np.float64], y_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where the divisor is 0."""
    return np.divide(x_R, y_R, out=np.full(y_R.shape, np.nan), where=y_R > 0)


# ---- pairs


def _align(a: PerQueryScores, b: PerQueryScores) -> tuple[PerQueryScores, PerQueryScores]:
    """Both in one order."""
    if (a.unit, a.statistic) != (b.unit, b.statistic):
        said = f"the {a.statistic} of a {a.unit} and the {b.statistic} of a {b.unit}"
        raise InputError(f"{said} cannot be compared; compare results of one task, made by one version of gnomon.")
    by_id = a.ids is not None and b.ids is not None
    if len(a.values) != len(b.values) or (by_id and Counter(a.ids) != Counter(b.ids)):
        raise InputError(_different_data_message(a, b))
    if by_id:
        a, b = _sort_by_id(a), _sort_by_id(b)
    if list(a.gold or ()) != list(b.gold or ()):
        raise InputError("the two were measured on different data: their gold values differ. Run one of them anew.")
    return a, b


def _sort_by_id(scores: PerQueryScores) -> PerQueryScores:
    assert scores.ids is not None
    order = sorted(range(len(scores.ids)), key=scores.ids.__getitem__)
    gold = None if scores.gold is None else [scores.gold[at] for at in order]
    return replace(scores, values=[scores.values[at] for at in order], gold=gold, ids=[scores.ids[at] for at in order])


def _different_data_message(a: PerQueryScores, b: PerQueryScores) -> str:
    counts = f"{len(a.values):,} and {len(b.values):,} of unit {a.unit!r}"
    if a.ids is None or b.ids is None:
        return f"the two were measured on different data: {counts}. Run one of them anew."
    first, second = Counter(a.ids), Counter(b.ids)
    side, missing = ("first", first - second) if first - second else ("second", second - first)
    shared = f"{(first & second).total():,} are shared, and {next(iter(missing))!r} is in the {side} only"
    return f"the two were measured on different data: of {counts}, {shared}. Run one of them anew."


def _score_or_raise(scores: PerQueryScores, side: str) -> float:
    score = scores.compute_score()
    if np.isnan(score):
        raise InputError(
            f"the {scores.statistic} of the {side} is not defined: its values, or its gold, are all equal or NaN."
        )
    return score
