"""nDCG, reciprocal rank, Spearman's correlation and average precision, against trec_eval, mteb, scipy, scikit-learn."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.metrics import (
    average_precision_of_ranks,
    dcg,
    dcg_of_rows,
    ndcg_at,
    rank_documents,
    reciprocal_rank_at,
    spearman,
    spearman_of_ranks,
    tied_ranks,
)

IDS = st.sampled_from(["a", "b", "c", "d", "e", "f", "é", "中", "\uff5e", "\U0001f600"])
# few values: full of ties
RUNS = st.dictionaries(IDS, st.sampled_from([-2.5, -1.0, 0.0, 0.25, 1.0, 1 + 1e-12, 7.5]))
LABELS = st.dictionaries(IDS, st.integers(-1, 3))


def test_equal_scores_are_ranked_by_id_descending() -> None:
    assert rank_documents({"b": 1.0, "a": 2.0, "d": 1.0, "c": 1.0}) == ["a", "d", "c", "b"]


# ---- nDCG


def test_ndcg_by_hand() -> None:
    run = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert ndcg_at(run, {"b": 1}, 10) == 1 / math.log2(3)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg_at(run, {"b": 3, "c": 1, "z": 2}, 10) == pytest.approx((3 / math.log2(3) + 1 / 2) / ideal)
    assert ndcg_at(run, {"b": 1}, 1) == ndcg_at(run, {}, 10) == ndcg_at({}, {"b": 1}, 10) == 0
    assert ndcg_at(run, {"a": 0}, 10) == 0
    assert ndcg_at({"a": 1.0, "b": 1.0}, {"b": 1}, 10) == 1
    falling = {f"d{rank}": -float(rank) for rank in range(1, 20)}
    assert ndcg_at(falling, {"d10": 1}, 10) == 1 / math.log2(11)
    assert ndcg_at(falling, {"d11": 1}, 10) == 0
    with pytest.raises(InputError, match="k is 0"):
        ndcg_at({}, {}, 0)


@settings(max_examples=300, deadline=None)
@given(RUNS, LABELS.filter(bool), st.sampled_from([1, 3, 10]))
def test_ndcg_is_trec_evals(run: dict[str, float], labels: dict[str, int], k: int) -> None:
    evaluator = pytest.importorskip("pytrec_eval").RelevanceEvaluator({"q": labels}, {f"ndcg_cut.{k}"})
    assert ndcg_at(run, labels, k) == pytest.approx(evaluator.evaluate({"q": run})["q"][f"ndcg_cut_{k}"], abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_dcg_of_rows_is_that_of_each_row(gains: list[list[int]]) -> None:
    np.testing.assert_allclose(dcg_of_rows(np.array(gains, np.float64)), [dcg(row) for row in gains], atol=1e-12)


# ---- reciprocal rank


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    scores=st.dictionaries(IDS, st.sampled_from([0.0, 0.5, 1.0])),
    labels=st.dictionaries(IDS, st.integers(0, 2), max_size=4),
    k=st.sampled_from([1, 3, 10]),
)
def test_reciprocal_ranks_are_mtebs(scores: Mapping[str, float], labels: Mapping[str, int], k: int) -> None:
    pytest.importorskip("mteb")
    from mteb._evaluators.retrieval_metrics import mrr

    theirs = mrr({"q": dict(labels)}, {"q": dict(scores)}, [1, 3, 10])[f"MRR@{k}"][0]
    assert reciprocal_rank_at(scores, labels, k) == theirs


def test_reciprocal_ranks_by_hand() -> None:
    run = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert reciprocal_rank_at(run, {"c": 2, "b": 0}, 3) == 1 / 3
    assert reciprocal_rank_at(run, {"c": 2}, 2) == reciprocal_rank_at(run, {}, 3) == reciprocal_rank_at({}, {}, 3) == 0


# ---- correlation and average precision


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]))
def test_spearman_is_scipys(count: int, seed: int, distinct: int) -> None:
    spearmanr = pytest.importorskip("scipy.stats").spearmanr
    x_N, y_N = np.random.default_rng(seed).integers(0, distinct, (2, count)) / 7
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        assert np.isnan(spearman(x_N, y_N))
    else:
        assert spearman(x_N, y_N) == pytest.approx(float(spearmanr(x_N, y_N).statistic), abs=1e-12)


def test_a_perfect_order_is_exactly_1() -> None:
    assert spearman(np.exp(np.arange(301.0) / 50), range(301)) == 1.0
    assert spearman([3.0, 2.0, 1.0], [1, 2, 3]) == -1.0


@pytest.mark.parametrize(("x", "y"), [([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [2] * 3), ([1], [2])])
def test_the_correlation_of_constants_is_nan(x: list[float], y: list[float]) -> None:
    assert np.isnan(spearman(x, y))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]))
def test_average_precision_is_scikit_learns(count: int, seed: int, distinct: int) -> None:
    average_precision_score = pytest.importorskip("sklearn.metrics").average_precision_score
    random = np.random.default_rng(seed)
    gold_N, values_N = (random.random(count) < 0.4) * 1.0, random.integers(0, distinct, count) / 7
    (score,) = average_precision_of_ranks(gold_N[None], tied_ranks(values_N)[None])
    if not gold_N.any():
        assert np.isnan(score)
    else:
        assert score == pytest.approx(float(average_precision_score(gold_N, values_N)), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_many_resamples_are_each_on_their_own(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x_RN, y_RN = random.integers(0, min(count, 5), (2, 6, count))
    gold_RN = (random.random((6, count)) < 0.5) * 1.0
    np.testing.assert_array_equal(
        spearman_of_ranks(x_RN, y_RN),
        [spearman_of_ranks(x_N[None], y_N[None])[0] for x_N, y_N in zip(x_RN, y_RN, strict=True)],
    )
    ranks_RN = np.stack([tied_ranks(y_N) for y_N in y_RN])
    np.testing.assert_array_equal(
        average_precision_of_ranks(gold_RN, ranks_RN),
        [
            average_precision_of_ranks(gold_N[None], levels_N[None])[0]
            for gold_N, levels_N in zip(gold_RN, ranks_RN, strict=True)
        ],
    )


def test_levels_are_equal_where_values_are() -> None:
    assert tied_ranks([0.5, 0.1, 0.5, 0.9]).tolist() == [1, 0, 1, 3]
    assert tied_ranks([]).tolist() == []
