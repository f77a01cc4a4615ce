"""What keeps less for its gradient has the gradient of the plain operations, and does keep less."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnomon.engines.torch import recompute
from gnomon.engines.torch.dropout import draw_keep_mask


def drawn(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_()


def gradients(compute: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Value and gradients, of a sum in which every element has a weight of its own."""
    value = compute(*inputs)
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return value, *torch.autograd.grad((value * weights).sum(), [each for each in inputs if each.requires_grad])


def kept_bytes(compute: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Of the tensors that are kept for the gradient, beside the inputs."""
    given = {each.untyped_storage().data_ptr() for each in inputs}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = compute(*inputs)
    assert value.requires_grad
    return sum(kept.values())


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None, factor: float) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    shares = (scores if mask is None else scores + mask).softmax(-1)
    return (shares if kept is None else shares * kept * factor) @ v


@settings(max_examples=40, deadline=None)
@given(
    texts=st.integers(1, 3),
    queries=st.integers(1, 5),
    keys=st.integers(1, 6),
    p=st.sampled_from([0.0, 0.1, 0.6]),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_has_the_gradient_of_the_plain_form(
    texts: int, queries: int, keys: int, p: float, masked: bool, seed: int
) -> None:
    q, k, v = (drawn(texts, 2, rows, 4, seed=seed + at) for at, rows in enumerate((queries, keys, keys)))
    mask = torch.zeros(texts, 1, 1, keys, dtype=torch.float64)
    mask[..., 1:] = -torch.inf if masked else 0
    torch.manual_seed(seed)
    kept, factor = draw_keep_mask((texts, 2, queries, keys), p) if p else (None, 1.0)
    found = gradients(
        lambda *sides: recompute.attention_with_recompute(*sides, mask if masked else None, kept, factor), q, k, v
    )
    wanted = gradients(lambda *sides: plain_attention(*sides, mask if masked else None, kept, factor), q, k, v)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_linear_layer_of_what_is_computed_again(bias: bool, frozen: tuple[int, ...]) -> None:
    """Also where the weight or an input learns nothing."""
    sides = [drawn(3, 5, seed=1), drawn(7, 5, seed=2), drawn(7, 5, seed=3)]
    for place in frozen:
        sides[place].requires_grad_(False)
    offset = drawn(3, seed=4) if bias else None

    def gated(up: Tensor, gate: Tensor) -> Tensor:
        return up * F.gelu(gate)

    inputs = [*sides, *([offset] if offset is not None else [])]
    if not any(each.requires_grad for each in inputs):
        return
    found = gradients(lambda w, up, gate, b=None: recompute.linear_with_recompute(gated, w, b, up, gate), *inputs)
    wanted = gradients(lambda w, up, gate, b=None: F.linear(gated(up, gate), w, b), *inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_under_autocast_the_gradient_is_computed_as_the_value_was() -> None:
    weight, x = (
        drawn(*shape, seed=seed).float().detach().requires_grad_() for shape, seed in (((4, 8), 1), ((6, 8), 2))
    )

    def plain(w: Tensor, z: Tensor) -> Tensor:
        return F.linear(F.gelu(z), w)

    def again(w: Tensor, z: Tensor) -> Tensor:
        return recompute.linear_with_recompute(F.gelu, w, None, z)

    for compute in (plain, again):
        with torch.autocast("cpu", torch.bfloat16):
            value = compute(weight, x)
        assert value.dtype == torch.bfloat16
    results = []
    for compute in (plain, again):
        with torch.autocast("cpu", torch.bfloat16):
            value = compute(weight, x)
        results.append((value, *torch.autograd.grad(value.float().square().sum(), (weight, x))))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), rtol=2e-2, atol=2e-2)


def test_less_is_kept() -> None:
    q, k, v = (drawn(4, 2, 64, 8, seed=seed) for seed in range(3))
    scores = 4 * 2 * 64 * 64
    kept, factor = draw_keep_mask((4, 2, 64, 64), 0.1)
    small = kept_bytes(lambda *sides: recompute.attention_with_recompute(*sides, None, kept, factor), q, k, v)
    large = kept_bytes(lambda *sides: plain_attention(*sides, None, kept, factor), q, k, v)
    assert small == scores  # a byte for each
    assert large >= 2 * 8 * scores
    weight, x = drawn(3, 5, seed=1), drawn(7, 5, seed=2)
    assert kept_bytes(lambda w, z: recompute.linear_with_recompute(F.gelu, w, None, z), weight, x) == 0
    assert kept_bytes(lambda w, z: F.linear(F.gelu(z), w), weight, x) == 8 * x.numel()
