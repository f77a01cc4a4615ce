"""Functions that keep less for their gradient: what is cheap to compute is computed again for it.

The gradient is that of the same operations. T: tokens; I, O: dimensions that go in and come out; B: texts; S: tokens of
one; d: dimensions of a head. H in front of d counts heads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_with_recompute(
    compute: Callable[..., Tensor], weight_OI: Tensor, bias_O: Tensor | None, *inputs: Tensor
) -> Tensor:
    """`compute(*inputs) W^T + b`, [T, O], which keeps the inputs and not what is computed of them, [T, I]."""
    return _LinearWithRecompute.apply(compute, weight_OI, bias_O, *inputs)  # pyright: ignore[reportReturnType]


def attention_with_recompute(
    q_BHSd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None, keep_mask: Tensor | None, factor: float
) -> Tensor:
    """`(softmax(q k^T / sqrt(d) + mask) * kept * factor) v`, which keeps q, k, v and `kept`, a byte for each score.

    Args:
        mask: added to the scores.
        kept: which scores dropout keeps; None for all.
        factor: what those are multiplied by.
    """
    return _AttentionWithRecompute.apply(q_BHSd, k_BHSd, v_BHSd, mask, keep_mask, factor)  # pyright: ignore[reportReturnType]


class _LinearWithRecompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        ctx.compute, ctx.computed_as = compute, _get_autocast_state(weight.device)
        ctx.save_for_backward(weight, *inputs)
        return F.linear(compute(*inputs), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient_TO,) = gradients
        weight, *inputs = ctx.saved_tensors
        _, needs_weight, needs_bias, *needs_inputs = ctx.needs_input_grad
        with _restore_autocast(ctx.computed_as), torch.enable_grad():
            again = [each.detach().requires_grad_(needed) for each, needed in zip(inputs, needs_inputs, strict=True)]
            x_TI = ctx.compute(*again)
            with torch.no_grad():
                of_weight = gradient_TO.t() @ x_TI.detach() if needs_weight else None
                of_bias = gradient_TO.sum(0) if needs_bias else None
                of_x_TI = gradient_TO @ weight if any(needs_inputs) else None
            wanted = [each for each in again if each.requires_grad]
            found = iter(torch.autograd.grad(x_TI, wanted, of_x_TI.to(x_TI.dtype)) if of_x_TI is not None else ())
        return None, of_weight, of_bias, *(next(found) if needed else None for needed in needs_inputs)


class _AttentionWithRecompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, keep_mask: Tensor | None, factor: float
    ) -> Tensor:
        ctx.mask, ctx.factor, ctx.computed_as = mask, factor, _get_autocast_state(q.device)
        ctx.save_for_backward(q, k, v, keep_mask)
        return _attention_weights(q, k, mask, keep_mask, factor) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient_BHSd,) = gradients
        q, k, v, kept = ctx.saved_tensors
        with _restore_autocast(ctx.computed_as), torch.enable_grad():
            q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
            shares_BHSS = _attention_weights(q, k, ctx.mask, kept, ctx.factor)
            with torch.no_grad():
                of_v = shares_BHSS.detach().transpose(-1, -2) @ gradient_BHSd
                of_shares = (gradient_BHSd @ v.transpose(-1, -2)).to(shares_BHSS.dtype)
            of_q, of_k = torch.autograd.grad(shares_BHSS, (q, k), of_shares)
        return of_q, of_k, of_v, None, None, None


def _attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, keep_mask: Tensor | None, factor: float) -> Tensor:
    """What each token takes of each other one, [B, H, S, S]."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    shares = scores.softmax(-1)
    return shares if keep_mask is None else mask_and_scale(shares, keep_mask, factor)


def mask_and_scale(x: Tensor, keep_mask: Tensor, factor: float) -> Tensor:
    """`x * kept * factor`, which keeps a byte for each element for its gradient."""
    return _MaskAndScale.apply(x, keep_mask, factor)  # pyright: ignore[reportReturnType]


class _MaskAndScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep_mask: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        ctx.save_for_backward(keep_mask)
        return x * keep_mask.to(x.dtype).mul_(factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), (kept,) = gradients, ctx.saved_tensors
        return gradient * kept.to(gradient.dtype).mul_(ctx.factor), None, None


_AutocastState = tuple[str, torch.dtype, bool]
"""Kind of device, what it computes in, and whether it does."""


def _get_autocast_state(device: torch.device) -> _AutocastState:
    return device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)


@contextmanager
def _restore_autocast(autocast: _AutocastState) -> Generator[None]:
    """Inside, products are computed in what they were computed in when the function ran."""
    kind, dtype, enabled = autocast
    with torch.autocast(kind, dtype, enabled=enabled):
        yield
