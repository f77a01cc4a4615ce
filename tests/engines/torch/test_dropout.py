"""Dropout of four elements a draw: each element for itself, with its probability, from the seed alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.engines.torch.dropout import PROBABILITY_STEPS, apply_dropout

SHAPES = st.lists(st.integers(0, 7), min_size=1, max_size=3)


def drawn(x: torch.Tensor, p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return apply_dropout(x, p)


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    x = torch.ones(4)
    before = torch.get_rng_state()
    assert apply_dropout(x, 0.5, training=False) is x
    assert apply_dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None)
@given(shape=SHAPES, p=st.floats(0.01, 0.99), seed=st.integers(0, 1 << 62), turned=st.booleans())
def test_an_element_is_zero_or_scaled(shape: list[int], p: float, seed: int, turned: bool) -> None:
    """Any shape, also with no element and with a last draw that is used in part; views that are not contiguous too."""
    x = torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).view(shape)
    x = x.transpose(0, -1) if turned else x
    found = drawn(x, p, seed)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    kept = found != 0
    factor = PROBABILITY_STEPS / (PROBABILITY_STEPS - round(p * PROBABILITY_STEPS))
    torch.testing.assert_close(found[kept], x[kept] * factor, rtol=1e-15, atol=0)
    assert factor == pytest.approx(1 / (1 - p), rel=1e-3)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for_in_every_lane(p: float) -> None:
    """Five standard deviations, of all and of each of the four elements that share a draw."""
    count = 1_000_000
    gone = drawn(torch.ones(count), p) == 0
    for lane in (gone, *gone.view(-1, 4).T):
        assert abs(lane.double().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / len(lane))


def test_elements_of_one_draw_are_independent() -> None:
    """Every pair of lanes, and neighbours across draws: both dropped as often as the product of their chances."""
    p, count = 0.3, 1_000_000
    gone = (drawn(torch.ones(count), p) == 0).view(-1, 4)
    pairs = [gone[:, a] & gone[:, b] for a in range(4) for b in range(a)] + [gone[1:, 0] & gone[:-1, 3]]
    both = p * p
    for pair in pairs:
        assert abs(pair.double().mean().item() - both) < 5 * math.sqrt(both * (1 - both) / len(pair))


def test_the_mean_stays() -> None:
    assert drawn(torch.ones(4_000_000, dtype=torch.float64), 0.1).mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("p", "share"), [(1e-9, 1), (1 - 1e-9, PROBABILITY_STEPS - 1)])
def test_at_either_end_some_are_dropped_and_some_are_kept(p: float, share: int) -> None:
    found = drawn(torch.ones(4_000_000), p)
    gone = (found == 0).sum().item()
    assert abs(gone - len(found) * share / PROBABILITY_STEPS) < 5 * math.sqrt(len(found) / PROBABILITY_STEPS)
    assert torch.isfinite(found).all()


def test_a_seed_gives_its_elements_again_in_every_dtype() -> None:
    x = torch.ones(1001)
    first = drawn(x, 0.2, 7)
    assert torch.equal(drawn(x, 0.2, 7), first)
    assert not torch.equal(drawn(x, 0.2, 8), first)
    assert not torch.equal(apply_dropout(x, 0.2), first), "the second draw is another"
    for kind in (torch.float64, torch.bfloat16):
        found = drawn(x.to(kind), 0.2, 7)
        assert found.dtype == kind
        assert torch.equal(found != 0, first != 0)


def test_the_gradient_passes_where_elements_do() -> None:
    x = torch.randn(1001, dtype=torch.float64, requires_grad=True)
    found = drawn(x, 0.3)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), found.detach(), rtol=1e-14, atol=0)
