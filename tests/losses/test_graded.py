"""CoSENT and cosine regression against their references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import cosent as reference_cosent
from reference_losses import cosine_regression as reference_regression

from gnomon.errors import InputError
from gnomon.losses import cosent, cosine_regression


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.sampled_from([-1.0, 0.0, 0.2, 0.5, 1.0, 5.0]), min_size=1, max_size=8),
    seed=st.integers(0, 999),
    equal=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 20.0, 1e5]),
    similarity=st.sampled_from(["cosine", "dot"]),
)
def test_they_are_the_reference(labels: list[float], seed: int, equal: bool, scale: float, similarity: str) -> None:
    a, b = vectors(len(labels), 3, seed=seed), vectors(len(labels), 3, seed=seed + 1)
    if equal:
        a[:] = a[0]
        b[:] = b[0]
    graded = torch.tensor(labels, dtype=torch.float64)
    found = cosent(a, b, graded, scale=scale, similarity=similarity)  # pyright: ignore
    wanted = reference_cosent(a.tolist(), b.tolist(), labels, scale=scale, similarity=similarity)
    rounding = 1e-11 + 1e-13 * scale  # of the similarities, which the factor multiplies
    assert found.item() == pytest.approx(wanted, rel=1e-11, abs=rounding)
    assert cosine_regression(a, b, graded).item() == pytest.approx(
        reference_regression(a.tolist(), b.tolist(), labels), rel=1e-12, abs=1e-15
    )


def test_without_an_order_there_is_nothing_to_learn() -> None:
    a, b = vectors(3, 4).requires_grad_(), vectors(3, 4, seed=1)
    for labels in (torch.ones(3), torch.ones(3, dtype=torch.bool)):
        loss = cosent(a, b, labels)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, a)[0].abs().max() == 0
    assert cosent(a[:1], b[:1], torch.ones(1)).item() == 0


def test_whole_and_boolean_labels() -> None:
    a, b = vectors(4, 3), vectors(4, 3, seed=1)
    wanted = cosent(a, b, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert cosent(a, b, torch.tensor([0, 1, 1, 0])) == cosent(a, b, torch.tensor([0, 1, 1, 0]).bool()) == wanted
    wanted = cosine_regression(a, b, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert cosine_regression(a, b, torch.tensor([0, 1, 1, 0]).bool()) == wanted


def test_gradients() -> None:
    a, b = (vectors(5, 4, seed=seed).requires_grad_() for seed in (0, 1))
    labels = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0], dtype=torch.float64)
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, s: cosent(x, y, labels, scale=s), (a, b, scale))
    assert torch.autograd.gradcheck(lambda x, y: cosine_regression(x, y, labels), (a, b))


def test_half_precision_and_extreme_factors() -> None:
    a, b = (vectors(6, 32, seed=seed).bfloat16().requires_grad_() for seed in (0, 1))
    labels = torch.arange(6.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosent(a, b, labels), cosine_regression(a, b, labels)
    for each, loss in zip(found, (cosent, cosine_regression), strict=True):
        assert each.dtype == torch.float32
        assert each.item() == pytest.approx(loss(a.double(), b.double(), labels).item(), rel=1e-5)
    far = cosent(a, b, labels, scale=1e9)
    assert far.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(far, (a, b)))


def test_what_cannot_be_used() -> None:
    a, b = vectors(3, 4), vectors(3, 4, seed=1)
    for loss in (cosent, cosine_regression):
        with pytest.raises(InputError, match=r"labels_B .*\[3, 1\].* 3 and 3 vectors.*one label per pair"):
            loss(a, b, torch.ones(3, 1))
        with pytest.raises(InputError, match="3 and 2 vectors"):
            loss(a, b[:2], torch.ones(3))
        with pytest.raises(InputError, match="at least one pair"):
            loss(a[:0], b[:0], torch.ones(0))
