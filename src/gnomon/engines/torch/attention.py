"""Forms of attention over packed texts. All compute softmax(q k^T / sqrt(d)) v within each text; one is chosen for a
device, a dtype and a head size.

q has rows of its own (`q_spans`): all tokens, or the one token of each text that is pooled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.engines.torch import recompute
from gnomon.engines.torch.batch import Spans
from gnomon.engines.torch.dropout import draw_keep_mask
from gnomon.engines.torch.padding import MAX_PADDED_LENGTH
from gnomon.warn import warn_once

Attention = Callable[[Tensor, Tensor, Tensor, Spans, Spans, float], Tensor]
"""(q_QHd, k_THd, v_THd, q_spans, k_spans, dropout) -> [Q, H, d]. H here counts heads."""

HALF_DTYPES = (torch.float16, torch.bfloat16)


def plain(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans, dropout: float) -> Tensor:
    """Padded, masked, spelled out: the reference implementation for the others."""
    q_BHSd, k_BHSd, v_BHSd = _pad_texts(q, q_spans), _pad_texts(k, k_spans), _pad_texts(v, k_spans)
    lengths_B = k_spans.bounds.diff()
    padding_BS = torch.arange(k_spans.max_length, device=k.device) >= lengths_B[:, None]
    scores = q_BHSd @ k_BHSd.transpose(-1, -2) * q.shape[-1] ** -0.5
    shares = scores.masked_fill(padding_BS[:, None, None], -torch.inf).softmax(-1)
    mixed_BSHd = (F.dropout(shares, dropout) @ v_BHSd).transpose(1, 2)
    return mixed_BSHd[_token_mask(q_spans)]


def grouped(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans, dropout: float) -> Tensor:
    """Dense attention for each run of texts of equal length: views of the packed rows, no padding, no mask."""
    texts = [run.num_texts for run in k_spans.equal_length_runs]
    rows = [run.num_texts * run.length for run in k_spans.equal_length_runs]
    # q has all rows of a text, or one
    q_rows = rows if q_spans is k_spans else texts
    dense = (
        _eager_attention if dropout and q.device.type == "cpu" else _sdpa_attention
    )  # torch's own has no dropout there
    # split, not slices: the gradient of a slice is as large as all rows, and filled with zeros
    sides = zip(q.split(q_rows), k.split(rows), v.split(rows), texts, strict=True)
    parts = [dense(*run, dropout) for run in sides]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def bucketed(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans, dropout: float) -> Tensor:
    """Dense attention for texts of about one length, padded to it: for gradients in half precision on a CPU.

    There torch's own gradient of short texts is slow, and a product of a new shape has its kernel compiled first, which
    takes as long as many products. Longer texts are not padded, and are torch's own.
    """
    buckets, all_rows = k_spans.buckets, q_spans is k_spans
    places = buckets.slots_per_bucket
    queries = (buckets.pad(q) if all_rows else q).split(places if all_rows else buckets.texts_per_bucket)
    keys, values = (buckets.pad(side).split(places) for side in (k, v))
    sides = zip(queries, keys, values, buckets.texts_per_bucket, strict=True)
    parts = [
        _eager_attention(*side, dropout, mask)
        if dropout or length <= MAX_PADDED_LENGTH
        else _sdpa_attention(*side, dropout)
        for side, length, mask in zip(sides, buckets.padded_lengths, buckets.masks, strict=True)
    ]
    mixed = torch.cat(parts)
    return buckets.unpad(mixed) if all_rows else mixed


def _sdpa_attention(q: Tensor, k: Tensor, v: Tensor, num_texts: int, dropout: float) -> Tensor:
    """Attention of texts of equal length, end to end, by torch's own kernels."""
    q_BHSd, k_BHSd, v_BHSd = (_unflatten_texts(values, num_texts) for values in (q, k, v))
    return _flatten_texts(F.scaled_dot_product_attention(q_BHSd, k_BHSd, v_BHSd, dropout_p=dropout))


def _eager_attention(
    q: Tensor, k: Tensor, v: Tensor, num_texts: int, dropout: float, mask: Tensor | None = None
) -> Tensor:
    """The same, spelled out: for dropout, and for gradients in half precision. A mask [B, 1, 1, S] is added."""
    q_BHSd, k_BHSd, v_BHSd = (_unflatten_texts(values, num_texts) for values in (q, k, v))
    keep_mask, factor = draw_keep_mask((*q_BHSd.shape[:-1], k_BHSd.shape[-2]), dropout) if dropout else (None, 1.0)
    return _flatten_texts(recompute.attention_with_recompute(q_BHSd, k_BHSd, v_BHSd, mask, keep_mask, factor))


def _unflatten_texts(values: Tensor, num_texts: int) -> Tensor:
    return values.unflatten(0, (num_texts, -1)).transpose(1, 2)


def _flatten_texts(values_BHSd: Tensor) -> Tensor:
    return values_BHSd.transpose(1, 2).flatten(0, 1)


def varlen(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans, dropout: float) -> Tensor:
    """torch's own FlashAttention over packed rows. CUDA, half precision, without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    assert not dropout
    mixed = varlen_attn(q, k, v, q_spans.bounds, k_spans.bounds, q_spans.max_length, k_spans.max_length)
    assert isinstance(mixed, Tensor)
    return mixed


def flash(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans, dropout: float) -> Tensor:
    """The flash-attn package, for a torch without a kernel of its own, and for training with attention dropout."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        q, k, v, q_spans.bounds, k_spans.bounds, q_spans.max_length, k_spans.max_length, dropout_p=dropout
    )


def choose_attention(
    device: torch.device, dtype: torch.dtype, head_size: int, *, dropout: float = 0.0, needs_gradient: bool = False
) -> Attention:
    """The fastest form that computes this; on a GPU, a warning says why its kernels cannot.

    Args:
        needs_gradient: whether its gradient is needed.
    """
    if device.type != "cuda":
        return bucketed if needs_gradient and device.type == "cpu" and dtype in HALF_DTYPES else grouped
    reason = varlen_unsupported_reason(device, dtype, head_size)
    if reason is None:
        if has_varlen() and not dropout:
            return varlen
        if has_flash_attn():
            return flash
        lack = "torch's own takes no attention dropout" if has_varlen() else "this torch brings none"
        reason = f"{lack}, and flash-attn is not installed"
    warn_once(f"the variable-length attention kernels are not used: {reason}. The result is the same, and slower.")
    return grouped


def varlen_unsupported_reason(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Why a GPU cannot run the variable-length kernels, in words; None if it can.

    Source of the limits: FlashAttention 2 (Ampere or newer, half precision, head sizes up to 256 in steps of 8).
    """
    if dtype not in HALF_DTYPES:
        return f"they compute in float16 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_size % 8 or head_size > 256:
        return f"heads of {head_size} are not a multiple of 8 up to 256"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    return None


@cache
def has_varlen() -> bool:
    """Whether this torch brings the kernel: 2.10 and newer, where it is built with FlashAttention."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    built_with = getattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    return bool(built_with())


@cache
def has_flash_attn() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _pad_texts(values: Tensor, spans: Spans) -> Tensor:
    """[B, H, S, d], zeros after each text."""
    out = values.new_zeros((len(spans.lengths), spans.max_length, *values.shape[1:]))
    out[_token_mask(spans)] = values
    return out.transpose(1, 2)


def _token_mask(spans: Spans) -> Tensor:
    """[B, S]: where a token is."""
    return torch.arange(spans.max_length, device=spans.bounds.device) < spans.bounds.diff()[:, None]
