"""Fusing the runs of two searches, and which split may choose the weight. (test_search.py: through mteb's protocol.)"""

import math
from typing import Any

import pytest

from gnomon.errors import InputError
from gnomon.search import hybrid
from gnomon.search.fusion import MIN_LABELLED_QUERIES, MR_TYDI_ALPHAS, fuse_mr_tydi, reciprocal_rank_fusion
from gnomon.search.hybrid import (
    check_alpha,
    choose_tuning_split,
    drop_identical_ids,
    fuse_runs,
    published_alpha,
    sample_tuning_queries,
)

SPARSE = {"q0": {"a": 3.0, "b": 2.0, "c": 1.0}, "q1": {"b": 1.0}}
DENSE = {"q0": {"b": 0.9, "d": 0.8}, "q1": {"a": 0.3, "b": 0.5}}


def test_each_query_is_fused_with_its_own_alpha() -> None:
    fused = fuse_runs(SPARSE, DENSE, k=9, alphas={"q0": 0.5, "q1": 3.0})
    for query, alpha in (("q0", 0.5), ("q1", 3.0)):
        assert fused[query] == fuse_mr_tydi(SPARSE[query], DENSE[query], alpha=alpha)
        assert list(fused[query].values()) == sorted(fused[query].values(), reverse=True)


def test_reciprocal_ranks_need_no_alpha() -> None:
    fused = fuse_runs(SPARSE, DENSE, k=2, method="rrf")
    assert fused["q1"] == reciprocal_rank_fusion([SPARSE["q1"], DENSE["q1"]])
    assert list(fused["q0"]) == ["b", "a"]


@pytest.mark.parametrize("method", ["hybrid", "rrf"])
def test_a_query_without_a_run_counts_as_an_empty_run(method: Any) -> None:
    alphas = {"q0": 1.0, "q1": 1.0}
    fused = fuse_runs({"q0": SPARSE["q0"]}, {"q1": DENSE["q1"]}, k=2, method=method, alphas=alphas)
    assert {query: [*run] for query, run in fused.items()} == {"q0": ["a", "b"], "q1": ["b", "a"]}


@pytest.mark.parametrize("alphas", [None, {"q0": 1.0}])
def test_a_query_without_an_alpha_is_refused(alphas: Any) -> None:
    with pytest.raises(InputError, match="alphas"):
        fuse_runs(SPARSE, DENSE, k=2, alphas=alphas)


def test_equal_scores_are_truncated_by_id_descending() -> None:
    runs = {"q": {"b": 1.0, "a": 1.0, "d": 1.0, "c": 1.0}}
    assert list(fuse_runs(runs, runs, k=2, alphas={"q": 1.0})["q"]) == ["d", "c"]


def test_only_the_document_with_the_id_of_its_query_is_dropped() -> None:
    runs = {"d1": {"d1": 9.0, "d2": 1.0}, "d2": {"d1": 2.0}}
    assert drop_identical_ids(runs) == {"d1": {"d2": 1.0}, "d2": {"d1": 2.0}}


@pytest.mark.parametrize("alpha", ["dev", "", "0.5", -0.1, math.nan, math.inf, None])
def test_other_alphas_are_refused(alpha: Any) -> None:
    with pytest.raises(InputError) as caught:
        check_alpha(alpha)
    assert f"alpha {alpha!r}" in str(caught.value)
    for allowed in (0, 0.5, "tuned", "published"):
        check_alpha(allowed)


def test_published_alphas_are_by_language() -> None:
    assert published_alpha("swahili") == MR_TYDI_ALPHAS["swahili"]
    with pytest.raises(InputError, match=r"'default'.*arabic"):
        published_alpha("default")


def labels(count: int = MIN_LABELLED_QUERIES, document: str = "d", relevance: int = 1) -> dict[str, dict[str, int]]:
    return {f"q{index}": {document: relevance} for index in range(count)}


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        ({"test": labels(), "train": labels(), "dev": labels()}, "dev"),
        ({"test": labels(), "train": labels(), "val": labels()}, "val"),
        ({"test": labels(), "dev": labels(document="elsewhere"), "train": labels()}, "train"),
        ({"test": labels(), "dev": labels(relevance=0)}, None),
        ({"test": labels(), "dev": labels(MIN_LABELLED_QUERIES - 1)}, None),
        ({"test": labels(), "other": labels()}, None),
        ({"test": labels()}, None),
        ({}, None),
    ],
)
def test_which_split_is_tuned_on(splits: Any, chosen: str | None) -> None:
    assert choose_tuning_split(splits, "test", {"d"}) == chosen


def test_the_evaluated_split_is_never_tuned_on() -> None:
    assert choose_tuning_split({"dev": labels()}, "dev", {"d"}) is None
    assert choose_tuning_split({"dev": labels(), "train": labels()}, "dev", {"d"}) == "train"


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30, 1000])
def test_tuning_queries_are_evenly_spaced_and_few(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "MAX_TUNING_QUERIES", 8)
    sample = sample_tuning_queries(count)
    assert len(sample) == count if count <= 8 else 4 < len(sample) <= 8
    assert all(0 <= index < count for index in sample)
