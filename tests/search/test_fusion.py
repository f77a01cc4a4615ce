"""Fusion and the choice of its weight: by hand, against reference implementations and mteb."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.metrics import ndcg_at
from gnomon.search.fusion import (
    ALPHAS,
    MR_TYDI_ALPHAS,
    cross_fit_alpha,
    fuse_mr_tydi,
    reciprocal_rank_fusion,
    tune_alpha,
)

IDS = st.sampled_from(["a", "b", "c", "d", "e", "f", "é", "中", "\uff5e", "\U0001f600"])
# few values: full of ties
RUNS = st.dictionaries(IDS, st.sampled_from([-2.5, -1.0, 0.0, 0.25, 1.0, 1 + 1e-12, 7.5]))


def test_mr_tydi_by_hand() -> None:
    fused = fuse_mr_tydi({"a": 30.0, "b": 20.0, "c": 10.0}, {"b": 0.9, "d": 0.8, "a": 0.5}, alpha=0.5)
    expected = {"a": 0.5 - 0.25, "b": 0 + 0.25, "c": -0.5 - 0.25, "d": -0.5 + 0.5 * 0.25}
    assert fused == pytest.approx(expected)
    assert list(fused) == ["a", "b", "c", "d"]


def test_equal_scores_and_an_empty_list_say_nothing() -> None:
    scores = {"a": 3.0, "b": 1.0}
    assert fuse_mr_tydi(scores, {"b": 0.7}, alpha=2) == fuse_mr_tydi(scores, {}, alpha=2) == {"a": 0.5, "b": -0.5}
    assert fuse_mr_tydi({"c": 9.0, "d": 9.0}, scores, alpha=2) == {"a": 1.0, "b": -1.0, "c": -1.0, "d": -1.0}
    assert fuse_mr_tydi({}, {}, alpha=1) == {}


def reference_mr_tydi(sparse: dict[str, float], dense: dict[str, float], alpha: float) -> dict[str, float]:
    """Zhang et al.'s formula, a document at a time."""

    def value(run: dict[str, float], document: str) -> float:
        if not run or max(run.values()) == min(run.values()):
            return 0.0
        low, high = min(run.values()), max(run.values())
        return (run.get(document, low) - (low + high) / 2) / (high - low)

    return {each: value(sparse, each) + alpha * value(dense, each) for each in {*sparse, *dense}}


@settings(deadline=None)
@given(RUNS, RUNS, st.sampled_from([0, 0.56, 1, 3.0]))
def test_mr_tydi_equals_its_reference(sparse: dict[str, float], dense: dict[str, float], alpha: float) -> None:
    assert fuse_mr_tydi(sparse, dense, alpha=alpha) == reference_mr_tydi(sparse, dense, alpha)


def test_numpy_scores_are_fused_in_double_precision() -> None:
    sparse, dense = {"a": np.float32(0.1), "b": np.float32(0.7), "c": np.float32(0.2)}, {"a": 1.0, "b": 2.0}
    fused = fuse_mr_tydi(sparse, dense, alpha=0.9)
    assert all(type(score) is float for score in fused.values())
    assert fused == fuse_mr_tydi({key: float(score) for key, score in sparse.items()}, dense, alpha=0.9)


@pytest.mark.slow
def test_the_published_weights_are_of_mtebs_subsets() -> None:
    assert set(MR_TYDI_ALPHAS) == {
        *("arabic", "bengali", "english", "finnish", "indonesian", "japanese"),
        *("korean", "russian", "swahili", "telugu", "thai"),
    }
    assert (MR_TYDI_ALPHAS["swahili"], MR_TYDI_ALPHAS["japanese"], MR_TYDI_ALPHAS["thai"]) == (0.56, 0.99, 0.84)
    module = pytest.importorskip("mteb.tasks.retrieval.multilingual.mr_tidy_retrieval")
    assert set(MR_TYDI_ALPHAS) == set(module.MrTidyRetrieval.metadata.eval_langs)


def test_reciprocal_rank_by_hand() -> None:
    fused = reciprocal_rank_fusion([{"a": 5, "b": 4}, {"b": 0.3, "c": 0.1, "d": 0.1}, {}])
    assert fused == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61, "d": 1 / 62, "c": 1 / 63})
    assert reciprocal_rank_fusion([{"a": 1.0}], k=0) == {"a": 1.0}
    assert reciprocal_rank_fusion([]) == {}


@pytest.mark.slow
@settings(deadline=None)  # the first call imports mteb
@given(st.lists(RUNS, max_size=4), st.integers(0, 70))
def test_reciprocal_rank_is_mtebs(runs: list[dict[str, float]], k: int) -> None:
    theirs = pytest.importorskip("mteb.models.hybrid_wrappers").fuse_rrf
    assert reciprocal_rank_fusion(runs, k=k) == pytest.approx(dict(theirs(runs, [1.0] * len(runs), rrf_k=k)))


def brute_force(sparse: dict, dense: dict, relevant: dict, alphas: tuple[float, ...]) -> float:
    def mean(alpha: float) -> float:
        fused = {query: fuse_mr_tydi(sparse.get(query, {}), dense.get(query, {}), alpha=alpha) for query in relevant}
        return math.fsum(ndcg_at(fused[query], relevant[query], 10) for query in relevant)

    best = max(map(mean, alphas))
    return min((alpha for alpha in alphas if mean(alpha) > best - 1e-9), key=lambda alpha: abs(alpha - 1))


QUERIES = st.sampled_from(["q1", "q2", "q3", "q4"])


@settings(max_examples=150, deadline=None)
@given(*[st.dictionaries(QUERIES, RUNS)] * 2, st.dictionaries(QUERIES, st.dictionaries(IDS, st.integers(0, 1))))
def test_tuning_finds_what_trying_all_finds(sparse: dict, dense: dict, relevant: dict) -> None:
    alphas = (0.1, 0.4, 0.8, 1.0, 1.1, 3.0)
    assert tune_alpha(sparse, dense, relevant, alphas=alphas) == brute_force(sparse, dense, relevant, alphas)


def noisy_runs(stands_out: list[tuple[float, float]], documents: int = 150) -> tuple[dict, dict, dict]:
    """Runs of noise, in which each query's relevant document stands out by so much in (sparse, dense)."""
    scores_Q2N = np.random.default_rng(11).normal(size=(len(stands_out), 2, documents))
    scores_Q2N[:, :, 0] += stands_out
    ids = [f"d{row * 7919 % documents}" for row in range(documents)]
    runs = [[dict(zip(ids, scores.tolist(), strict=True)) for scores in scores_2N] for scores_2N in scores_Q2N]
    sparse, dense = ({f"q{place}": both[list_] for place, both in enumerate(runs)} for list_ in (0, 1))
    return sparse, dense, {query: {ids[0]: 1} for query in sparse}


@pytest.mark.parametrize(
    ("stands_out", "low", "high"), [((2.5, 0.0), 0.1, 0.4), ((2.5, 2.5), 0.5, 2.0), ((0.0, 2.5), 2.5, 10.0)]
)
def test_tuning_trusts_the_better_list(stands_out: tuple[float, float], low: float, high: float) -> None:
    sparse, dense, relevant = noisy_runs([stands_out] * 30)
    alpha = tune_alpha(sparse, dense, relevant)
    assert low <= alpha <= high
    # lists of 150, of which 100 are looked at
    assert alpha == brute_force(sparse, dense, relevant, ALPHAS)


def test_tuning_breaks_ties_as_trec_eval_does() -> None:
    alike = {f"d{row}": 1.0 for row in range(10, 50)}
    # by id in the sparse list, where d40 is the 10th; the dense one has it 31st
    against = {document: -float(place) for place, document in enumerate(alike)}
    assert tune_alpha({"q": alike}, {"q": against}, {"q": {"d40": 1}}, alphas=[0, 1]) == 0
    assert tune_alpha({"q": alike}, {"q": against}, {"q": {"d39": 1}}, alphas=[0, 1]) == 1  # the 11th: neither finds it
    near = {"a": 1 + 1e-12, "b": 1.0, "c": 0.0}  # a and b are equal as 32-bit floats
    assert tune_alpha({"q": near}, {"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}}, alphas=[0, 1]) == 0


def test_equally_good_weights_give_the_one_nearest_1() -> None:
    sparse, dense, relevant = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 2.0, "a": 1.0}}, {"q": {"b": 1}}
    assert tune_alpha(sparse, dense, relevant, alphas=[0.5, 0.9, 1.2, 1.5, 7]) == 1.2  # any above 1 puts b first
    assert tune_alpha(sparse, dense, relevant, alphas=[0.25, 0.5]) == 0.5
    assert tune_alpha({}, {}, {}) == tune_alpha({}, {}, relevant) == 1.0


def test_the_grid() -> None:
    assert (ALPHAS[0], ALPHAS[-1], ALPHAS[len(ALPHAS) // 2]) == (0.1, 10.0, 1.0)
    assert all(1.11 < high / low < 1.135 for low, high in pairwise(ALPHAS))


ODD = {1, 4, 6, 7, 8, 12, 15, 16, 18, 20, 21, 26, 27, 28, 29}
"""Of q0 to q29, those whose id has a SHA-256 with an odd first byte: the second fold."""


def two_folds() -> tuple[dict, dict, dict]:
    """Runs of 30 queries: dense is good in the second fold, sparse in the first."""
    return noisy_runs([(0.0, 2.5) if place in ODD else (2.5, 0.0) for place in range(30)])


def test_each_fold_is_fitted_on_the_other() -> None:
    sparse, dense, relevant = two_folds()
    first = {query: relevant[query] for place, query in enumerate(relevant) if place not in ODD}
    second = {query: relevant[query] for query in relevant if query not in first}
    on_first, on_second = tune_alpha(sparse, dense, first), tune_alpha(sparse, dense, second)
    assert on_first < 0.5 < 2 < on_second
    assert cross_fit_alpha(sparse, dense, relevant) == {q: on_second if q in first else on_first for q in relevant}


def test_no_query_chooses_its_own_weight() -> None:
    sparse, dense, relevant = two_folds()
    fitted = cross_fit_alpha(sparse, dense, relevant, alphas=[0.1, 10])
    for query in relevant:
        worst = min(sparse[query], key=sparse[query].__getitem__)
        turned = cross_fit_alpha(sparse, dense, relevant | {query: {worst: 9}}, alphas=[0.1, 10])
        assert turned[query] == fitted[query]


def test_queries_without_labels_get_the_weight_of_their_fold() -> None:
    sparse, dense, relevant = two_folds()
    labelled = {query: labels for query, labels in relevant.items() if query not in ("q3", "q4")}
    fitted = cross_fit_alpha(sparse | {"q3": {}}, dense, labelled)
    assert set(fitted) == set(relevant)
    assert (fitted["q3"], fitted["q4"]) == (fitted["q0"], fitted["q1"])
    assert fitted["q3"] != fitted["q4"]


def test_few_labelled_queries_get_1() -> None:
    sparse, dense, relevant = two_folds()
    few = {query: labels if place < 19 else {"d0": 0} for place, (query, labels) in enumerate(relevant.items())}
    assert cross_fit_alpha(sparse, dense, few) == dict.fromkeys(relevant, 1.0)
    assert set(cross_fit_alpha(sparse, dense, few | {"q19": {"d0": 1}}).values()) != {1.0}


def test_values_that_cannot_be_used() -> None:
    for alpha in (-0.5, math.nan, math.inf):
        with pytest.raises(InputError, match=f"alpha is {alpha}"):
            fuse_mr_tydi({}, {}, alpha=alpha)
        for choose in (tune_alpha, cross_fit_alpha):
            with pytest.raises(InputError, match=f"alpha is {alpha}"):
                choose({}, {}, {}, alphas=[1.0, alpha])
    for choose in (tune_alpha, cross_fit_alpha):
        with pytest.raises(InputError, match="alphas is empty"):
            choose({}, {}, {}, alphas=[])
    with pytest.raises(InputError, match="k is -1"):
        reciprocal_rank_fusion([], k=-1)
