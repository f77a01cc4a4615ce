"""Packed signs against two reference implementations: floats of +1 and -1, and a loop over components.

Q: queries; N: documents; D: dimension; K: results per query.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon import modules
from gnomon.errors import InputError
from gnomon.search import BinaryIndex
from gnomon.search.exact import top_k_indices


def draw(seed: int, count: int, dim: int, num_queries: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(queries [Q, D], documents [N, D])"""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(num_queries, dim)).astype(np.float32),
        rng.normal(size=(count, dim)).astype(np.float32),
    )


def search_float_signs(
    query_D: np.ndarray, documents_ND: np.ndarray, k: int, num_rescored: int
) -> tuple[np.ndarray, np.ndarray]:
    """The form of gnomon's first versions: signs as float32 +1 and -1, matrix products, 3 added to rescored results."""
    bits_ND = np.where(documents_ND > 0, np.float32(1), np.float32(-1))
    signs_D = np.where(query_D > 0, np.float32(1), np.float32(-1))
    scores_N = (bits_ND @ signs_D / len(query_D)).astype(np.float32)
    order_K = top_k_indices(scores_N, max(k, num_rescored))
    first = order_K[:num_rescored]
    scores_N[first] = 3 + modules.similarity("cosine", query_D[None], bits_ND[first])[0]
    order_K = order_K[top_k_indices(scores_N[order_K], k)]
    return scores_N[order_K], order_K


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    dim=st.sampled_from([1, 7, 8, 16, 33, 384]),
    k=st.integers(1, 70),
    num_rescored=st.sampled_from([1, 5, 40]),
)
def test_packed_signs_equal_float_signs(seed: int, count: int, dim: int, k: int, num_rescored: int) -> None:
    queries_QD, documents_ND = draw(seed, count, dim)
    index = BinaryIndex.from_vectors(documents_ND)
    assert index.bits_NB.nbytes == count * math.ceil(dim / 8)
    scores_QK, rows_QK = index.top_k(queries_QD, k, num_rescored=num_rescored)
    assert scores_QK.shape == rows_QK.shape == (3, min(k, count))
    assert scores_QK.dtype == np.float32
    for query_D, scores_K, rows_K in zip(queries_QD, scores_QK, rows_QK, strict=True):
        expected_K, expected_rows_K = search_float_signs(query_D, documents_ND, k, num_rescored)
        scores_K[:num_rescored] += 3
        assert scores_K.tolist() == expected_K.tolist()  # to the last bit
        # rescored results whose sums with 3 are equal are ordered by the cosine itself
        if len(set(expected_K[:num_rescored])) == len(expected_K[:num_rescored]):
            assert rows_K.tolist() == expected_rows_K.tolist()


def search_by_loops(query_D: np.ndarray, documents_ND: np.ndarray, num_rescored: int) -> list[tuple[int, float]]:
    """[(row, score)] of all documents, one component at a time."""
    agreeing = [sum((q > 0) == (d > 0) for q, d in zip(query_D, row_D, strict=True)) for row_D in documents_ND]
    order = sorted(range(len(documents_ND)), key=lambda row: (-agreeing[row], row))
    norm = math.sqrt(sum(float(q) ** 2 for q in query_D)) * math.sqrt(len(query_D))
    cosine = [
        sum(float(q) * (1 if d > 0 else -1) for q, d in zip(query_D, row_D, strict=True)) / norm
        for row_D in documents_ND
    ]
    first = sorted(order[:num_rescored], key=lambda row: (-cosine[row], order.index(row)))
    rest = [(row, 2 * agreeing[row] / len(query_D) - 1) for row in order[num_rescored:]]
    return [(row, cosine[row]) for row in first] + rest


@pytest.mark.parametrize("num_rescored", [1, 5, 40])
def test_the_scores_are_cosines_then_shares_of_equal_signs(num_rescored: int) -> None:
    queries_QD, documents_ND = draw(1, 50, 16)
    scores_QK, rows_QK = BinaryIndex.from_vectors(documents_ND).top_k(queries_QD, 50, num_rescored=num_rescored)
    for query_D, scores_K, rows_K in zip(queries_QD, scores_QK, rows_QK, strict=True):
        expected = search_by_loops(query_D, documents_ND, num_rescored)
        assert rows_K.tolist() == [row for row, _ in expected]
        assert scores_K == pytest.approx([score for _, score in expected], abs=1e-6)


def test_a_small_k_gives_the_first_results_of_a_large_one() -> None:
    queries_QD, documents_ND = draw(2, 200, 32)
    index = BinaryIndex.from_vectors(documents_ND)
    scores_QK, rows_QK = index.top_k(queries_QD, 200)
    for k in (1, 10, 39, 40, 41, 100):
        few_scores_QK, few_rows_QK = index.top_k(queries_QD, k)
        assert np.array_equal(few_scores_QK, scores_QK[:, :k])
        assert np.array_equal(few_rows_QK, rows_QK[:, :k])


def test_selected_rows_are_searched_alone() -> None:
    queries_QD, documents_ND = draw(3, 20, 12)
    rows = [7, 0, 19, 3]
    selected = BinaryIndex.from_vectors(documents_ND).select(rows)
    expected = BinaryIndex.from_vectors(documents_ND[rows])
    assert len(selected) == 4
    for found, wanted in zip(selected.top_k(queries_QD, 9), expected.top_k(queries_QD, 9), strict=True):
        assert np.array_equal(found, wanted)


def test_an_empty_index_and_no_queries() -> None:
    queries_QD, documents_ND = draw(4, 5, 12)
    index = BinaryIndex.from_vectors(documents_ND)
    assert [found.shape for found in index.select([]).top_k(queries_QD, 3)] == [(3, 0), (3, 0)]
    assert [found.shape for found in index.top_k(queries_QD[:0], 3)] == [(0, 3), (0, 3)]


def test_values_that_cannot_be_used() -> None:
    queries_QD, documents_ND = draw(5, 5, 12)
    index = BinaryIndex.from_vectors(documents_ND)
    with pytest.raises(InputError, match=r"\(3, 8\).*12"):
        index.top_k(queries_QD[:, :8], 3)
    with pytest.raises(InputError, match="k is 0"):
        index.top_k(queries_QD, 0)
    for bits_NB, dim in ((index.bits_NB, 17), (index.bits_NB.view(np.int8), 12), (index.bits_NB[0], 12)):
        with pytest.raises(InputError, match=rf"{bits_NB.dtype}.*dim {dim}\b"):
            BinaryIndex(bits_NB, dim)
