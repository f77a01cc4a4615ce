"""How certain a score is: bootstrap intervals for one model, and paired tests for two.

Both resample the values that a score consists of. Spearman's correlation and average precision depend on the order of
the predictions only, so they are computed from levels: whole numbers in the same order (`gnomon.metrics.tied_ranks`).
A resample is then counted, not sorted.

R: resamples; N: units (queries, pairs, texts or experiments).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.metrics import average_precision_of_ranks, spearman_of_ranks, tied_ranks

Statistic = Literal["mean", "spearman", "average_precision"]
RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
SEED = 20_240_501

TEST_RESAMPLES = 9999
"""Resamples of a test. Its p-value is at least 1 / 10,000, small enough for Holm's correction over 500 tasks."""

BLOCK_CELLS = 1 << 15
"""Numbers per block, resamples times units, so that its arrays stay in the processor's cache."""

EQUAL_TOLERANCE = 1e-12
"""Smaller differences come from rounding."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class PerQueryScores:
    """The values that one score consists of. The score is `statistic(values)` or `statistic(gold, values)`."""

    unit: str
    """ "query", "pair", "text" or "experiment"."""
    statistic: Statistic
    values: Sequence[float]
    """[N]: for "mean" the nDCG of a query or the accuracy of an experiment; else what the model predicted."""
    gold: Sequence[float] | None = None
    """[N]: human scores of pairs (spearman), labels 0 and 1 (average_precision)."""
    ids: Sequence[str] | None = None
    """[N]: names of the units, where they have any; a paired test matches units by them."""

    def compute_score(self) -> float:
        """NaN where the statistic is not defined: spearman of constants, average precision without a label 1."""
        return float(_compute_statistic(self, np.arange(len(self.values))[None])[0])

    @cached_property
    def statistic_arguments(self) -> tuple[NDArray[np.generic], ...]:
        """Arguments of the statistic, [N] each; what the model predicted comes last."""
        if self.statistic == "mean":
            return (np.asarray(self.values, np.float64),)
        assert self.gold is not None
        gold_N = tied_ranks(self.gold) if self.statistic == "spearman" else np.asarray(self.gold, np.float64)
        return gold_N, tied_ranks(self.values)


@dataclass(frozen=True)
class PairedTest:
    """The difference of two models on the same units."""

    difference: float
    """The score of the second minus that of the first."""
    interval: Interval
    """The 95 % interval of the difference."""
    p_value: float
    """Two-sided; at least 1 / 10,000."""


def bootstrap_interval(
    score_sets: Sequence[PerQueryScores], *, level: float = CONFIDENCE_LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """Interval of a score that is the mean of one statistic or of several, each over units of its own.

    The percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3): the units of
    each statistic are drawn anew, with replacement, and the interval holds the middle `level` of the scores. Resamples
    in which a statistic is not defined are left out. For few units the interval is too narrow; for one, both ends are
    equal.

    Returns:
        The same interval for the same units; NaN at both ends where no resample has a score.
    """
    values_R = np.mean([_resample(scores, resamples, index) for index, scores in enumerate(score_sets)], axis=0)
    return _percentile_interval(values_R, level)


def run_paired_test(a: Sequence[PerQueryScores], b: Sequence[PerQueryScores]) -> PairedTest:
    """Test whether two models differ, by scores over the same units: `b` minus `a`, as means over statistics.

    The interval is the percentile bootstrap's, with the same units drawn for both models.

    The p-value is that of the paired randomisation test (Noreen 1989, Computer-Intensive Methods for Testing
    Hypotheses; for retrieval Smucker, Allan & Carterette 2007; for statistics that are not means Yeh 2000). If the
    models were equal, it would not matter which of them gave which value. So at each unit, with probability 1/2, the
    two values are swapped, and p is (1 + the number of swaps that differ by as much) / (1 + the number of swaps).

    For means it is the sign-flip test, which is valid for any number of units; a bootstrap test is not valid for few,
    such as the 10 experiments of a classification. Predictions are swapped as ranks, because one model's may lie from
    0.7 to 1 and the other's from -1 to 1. Fewer than 6 units in all never give a p below 0.05.

    Units are matched by ids where both sides have them, else by position.

    Raises:
        InputError: the two were not evaluated on the same data by the same statistic, or a score is not defined.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"{len(a)} and {len(b)} scores cannot be paired. Give the same number of each, at least one.")
    pairs = [_align(first, second) for first, second in zip(a, b, strict=True)]
    difference = float(
        np.mean([_score_or_raise(second, "second") - _score_or_raise(first, "first") for first, second in pairs])
    )
    resampled_R = np.mean([_resample_difference(*pair, index) for index, pair in enumerate(pairs)], axis=0)
    swapped_R = np.mean([_swap_difference(*pair, index) for index, pair in enumerate(pairs)], axis=0)
    at_least_as_large = np.count_nonzero(np.abs(swapped_R) >= abs(difference) - EQUAL_TOLERANCE)
    p_value = (1 + at_least_as_large) / (1 + np.count_nonzero(~np.isnan(swapped_R)))
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
    return STATISTICS[scores.statistic](*[values_N[rows_RN] for values_N in scores.statistic_arguments])


def _mean(values_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    return values_RN.mean(axis=1)


STATISTICS: dict[Statistic, Callable[..., NDArray[np.float64]]] = {
    "mean": _mean,
    "spearman": spearman_of_ranks,
    "average_precision": average_precision_of_ranks,
}


# ---- pairs


def _align(a: PerQueryScores, b: PerQueryScores) -> tuple[PerQueryScores, PerQueryScores]:
    """The same units in the same order."""
    if (a.unit, a.statistic) != (b.unit, b.statistic):
        both = f"the {a.statistic} of a {a.unit} and the {b.statistic} of a {b.unit}"
        raise InputError(f"{both} cannot be compared. Compare results of one task and one version of gnomon.")
    by_id = a.ids is not None and b.ids is not None
    if len(a.values) != len(b.values) or (by_id and Counter(a.ids) != Counter(b.ids)):
        raise InputError(_different_data_message(a, b))
    if by_id:
        a, b = _sort_by_id(a), _sort_by_id(b)
    if list(a.gold or ()) != list(b.gold or ()):
        raise InputError(
            "the two were evaluated on different data: their gold values differ. Evaluate one of them again."
        )
    return a, b


def _sort_by_id(scores: PerQueryScores) -> PerQueryScores:
    assert scores.ids is not None
    order = sorted(range(len(scores.ids)), key=scores.ids.__getitem__)
    return replace(
        scores,
        values=[scores.values[index] for index in order],
        gold=None if scores.gold is None else [scores.gold[index] for index in order],
        ids=[scores.ids[index] for index in order],
    )


def _different_data_message(a: PerQueryScores, b: PerQueryScores) -> str:
    counts = f"{len(a.values):,} and {len(b.values):,} of unit {a.unit!r}"
    if a.ids is None or b.ids is None:
        return f"the two were evaluated on different data: {counts}. Evaluate one of them again."
    first, second = Counter(a.ids), Counter(b.ids)
    side, missing = ("first", first - second) if first - second else ("second", second - first)
    shared = f"{(first & second).total():,} are shared, and {next(iter(missing))!r} is in the {side} only"
    return f"the two were evaluated on different data: of {counts}, {shared}. Evaluate one of them again."


def _score_or_raise(scores: PerQueryScores, side: str) -> float:
    score = scores.compute_score()
    if np.isnan(score):
        raise InputError(
            f"the {scores.statistic} of the {side} is not defined: its values or its gold values are all equal, or NaN."
        )
    return score
