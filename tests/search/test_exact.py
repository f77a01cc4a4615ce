"""Exact search against a sort of every score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon import modules
from gnomon.errors import InputError, NumericError
from gnomon.quantization import quantize
from gnomon.search import exact
from gnomon.search.exact import top_k

SCORES = ("cosine", "dot", "euclidean", "manhattan")


def sorted_by_score(queries: np.ndarray, corpus: np.ndarray, k: int, score: str) -> tuple[list, list]:
    """The reference implementation: Python's sort of (-score, row)."""
    scores = modules.similarity(score, queries, corpus).tolist()
    best = [sorted(range(len(corpus)), key=lambda row, of=of: (-of[row], row))[:k] for of in scores]
    return [[of[row] for row in rows] for of, rows in zip(scores, best, strict=True)], best


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([6, 40]))
def test_any_block_size_gives_the_sorted_order(score: str, q: int, n: int, k: int, seed: int, cells: int) -> None:
    random = np.random.default_rng(seed)
    # -1, 0 and 1 in four components: full of ties, and of products that are exact in any order
    queries, corpus = (random.integers(-1, 2, (count, 4)).astype(np.float32) for count in (q, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "VALUES_PER_BLOCK", cells)
        patch.setattr(exact, "QUERIES_PER_BLOCK", 4)
        scores_QK, rows_QK = top_k(queries, corpus, k, score=score)
    scores, rows = sorted_by_score(queries, corpus, k, score)
    if score == "cosine":  # rounded by the length of a block: near, and in an order that these scores allow
        np.testing.assert_allclose(scores_QK, scores, atol=1e-6)
        assert all(len(set(found)) == min(k, n) for found in rows_QK.tolist())
    else:
        assert scores_QK.tolist() == scores
        assert rows_QK.tolist() == rows


def test_equal_scores_come_by_row_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "VALUES_PER_BLOCK", 8)
    corpus = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0]], np.float32).repeat(3, axis=0)
    scores, rows = top_k([[1.0, 0.0]], corpus, 5)
    assert rows.tolist() == [[3, 4, 5, 9, 10]]
    assert scores.tolist() == [[1.0] * 5]


def test_k_is_truncated_to_the_corpus() -> None:
    scores, rows = top_k(np.eye(2), np.eye(2), 9, score="dot")
    assert rows.tolist() == [[0, 1], [1, 0]]
    assert scores.tolist() == [[1, 0], [1, 0]]
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


def test_an_empty_corpus_or_no_query_gives_no_results() -> None:
    assert top_k(np.eye(3), np.empty((0, 3)), 4)[1].shape == (3, 0)
    assert top_k(np.empty((0, 3)), np.eye(3), 2)[0].shape == (0, 2)


def test_a_float16_corpus_is_read_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "VALUES_PER_BLOCK", 64)
    corpus = np.random.default_rng(5).normal(size=(50, 8)).astype(np.float16)
    scores, rows = top_k(corpus[[7, 31]].astype(np.float32), corpus, 1)
    assert rows.tolist() == [[7], [31]]
    np.testing.assert_allclose(scores, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("queries", "corpus", "k", "score", "message"),
    [
        (np.eye(2), np.eye(3), 1, "dot", r"queries \(2, 2\) and corpus \(3, 3\) do not fit"),
        (np.ones(3), np.eye(3), 1, "dot", r"queries \(3,\)"),
        (np.eye(3), np.eye(3), 0, "dot", "k is 0; it must be at least 1"),
        (np.eye(3), np.eye(3), 1, "jaccard", "'jaccard' is not one of cosine, dot, euclidean, manhattan"),
    ],
)
def test_what_cannot_be_searched_is_reported(queries, corpus, k: int, score: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        top_k(queries, corpus, k, score=score)


def test_nan_is_an_error_and_never_a_result() -> None:
    corpus = np.eye(3)
    corpus[1, 1] = np.nan
    with pytest.raises(NumericError, match="rows 0 to 2 is NaN"):
        top_k(np.eye(3), corpus, 1)


# ---- quantized vectors


@pytest.mark.parametrize("precision", ["ubinary", "binary"])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1), st.sampled_from([6, 400]))
def test_b13_hamming_of_packed_signs_counts_the_signs_that_differ(
    precision: str, q: int, n: int, k: int, seed: int, cells: int
) -> None:
    random = np.random.default_rng(seed)
    queries, corpus = (random.normal(size=(count, 24)).astype(np.float32) for count in (q, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "VALUES_PER_BLOCK", cells)
        packed = (quantize(vectors, precision).values for vectors in (queries, corpus))
        scores_QK, rows_QK = top_k(*packed, k, score="hamming")
    differing = [[int(((query > 0) != (row > 0)).sum()) for row in corpus] for query in queries]
    for scores_K, rows_K, counts in zip(scores_QK.tolist(), rows_QK.tolist(), differing, strict=True):
        assert rows_K == sorted(range(n), key=lambda row, of=counts: (of[row], row))[:k]
        assert scores_K == [-counts[row] for row in rows_K]


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_b13_a_score_of_quantized_vectors_is_refused(precision: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    packed = quantize(vectors, precision).values
    with pytest.raises(InputError, match=rf"vectors of {packed.dtype} are quantized.*hamming"):
        top_k(packed, packed, 2)


def test_b13_hamming_takes_packed_signs_alone() -> None:
    floats, bits = np.zeros((2, 8), np.float32), np.zeros((2, 8), np.uint8)
    for queries, corpus in ((floats, floats), (bits, floats), (bits, bits.astype(np.int8))):
        with pytest.raises(InputError, match=r"uint8 or int8 on both sides; these are .*ubinary"):
            top_k(queries, corpus, 1, score="hamming")
