"""Similarities in full precision, and the factor in front of them."""

import math

import numpy as np
import pytest
import torch
from reference_losses import cosine, dot

from gnomon.errors import InputError
from gnomon.losses.similarity import anneal, pairwise_similarity, resolve_scale, similarity_matrix

BOTH = ("cosine", "dot")


def vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.parametrize("similarity", BOTH)
def test_similarities_are_those_of_the_reference(similarity: str) -> None:
    a, b = vectors(3, 5), vectors(3, 5, seed=1)
    reference = cosine if similarity == "cosine" else dot
    wanted = [[reference(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(similarity_matrix(a, b, similarity), wanted, rtol=1e-13)
    np.testing.assert_allclose(pairwise_similarity(a, b, similarity), np.diag(wanted), rtol=1e-13)
    lists = pairwise_similarity(a[:, None], b.expand(3, 3, 5), similarity)
    np.testing.assert_allclose(lists, wanted, rtol=1e-13)


@pytest.mark.parametrize("similarity", BOTH)
def test_half_precision_and_autocast_compute_in_float32(similarity: str) -> None:
    a, b = vectors(4, 64, dtype=torch.bfloat16), vectors(4, 64, seed=1, dtype=torch.bfloat16)
    wanted = similarity_matrix(a.double(), b.double(), similarity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a_, b_ in ((a, b), (a.float(), b.float())):
            found, each = similarity_matrix(a_, b_, similarity), pairwise_similarity(a_, b_, similarity)
            assert found.dtype == each.dtype == torch.float32
            torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)
            torch.testing.assert_close(each.double(), wanted.diagonal(), rtol=2e-6, atol=2e-6)


def test_a_vector_of_zeros_is_near_nothing() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    found = similarity_matrix(a, torch.ones(2, 3))
    assert found.tolist() == [[0, 0], [0, 0]]
    found.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_an_unknown_similarity() -> None:
    for similar in (similarity_matrix, pairwise_similarity):
        with pytest.raises(InputError, match=r"similarity 'manhattan'.*'cosine' or 'dot'"):
            similar(vectors(1, 2), vectors(1, 2), "manhattan")


def test_scale_is_one_over_temperature() -> None:
    assert resolve_scale(None, None, default=20.0) == 20
    assert resolve_scale(50, None, default=20.0) == 50
    assert resolve_scale(None, 0.25, default=20.0) == 4
    learnt = torch.tensor(8.0, dtype=torch.bfloat16, requires_grad=True)
    for factor, wanted in (
        (resolve_scale(learnt, None, default=1), 8),
        (resolve_scale(None, learnt, default=1), 0.125),
    ):
        assert isinstance(factor, torch.Tensor)
        assert (factor.dtype, factor.item(), factor.requires_grad) == (torch.float32, wanted, True)


def test_factors_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match=r"scale 20 and temperature 0\.05"):
        resolve_scale(20, 0.05, default=1)
    for value in (0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=rf"scale is {value}.*above 0 and finite"):
            resolve_scale(value, None, default=1)
        with pytest.raises(InputError, match=rf"temperature is {value}.*above 0 and finite"):
            resolve_scale(None, value, default=1)


def test_annealing_is_a_straight_line_that_ends() -> None:
    assert [anneal(1, 5, step=step, steps=4) for step in range(7)] == [1, 2, 3, 4, 5, 5, 5]
    assert anneal(1, 5, step=0, steps=0) == 5
    # SimLM's warm-up to 1 / 0.02 over 1,000 steps
    assert [max(1, anneal(0, 50, step=step, steps=1000)) for step in (0, 10, 500, 2000)] == [1, 1, 25, 50]
