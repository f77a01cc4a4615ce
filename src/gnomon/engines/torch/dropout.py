"""Dropout. On a CPU four elements share a draw of 64 bits: with a draw each, it is a tenth of a training step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.engines.torch.recompute import mask_and_scale

PROBABILITY_STEPS = 1 << 16
"""A probability is rounded to a multiple of 1 / PROBABILITY_STEPS."""


def apply_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x / (1 - p), each element 0 with probability p; x itself where p is 0 or nothing is trained."""
    if not training or not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return mask_and_scale(x, *draw_keep_mask(x.shape, p))


def draw_keep_mask(shape: Sequence[int], p: float) -> tuple[Tensor, float]:
    """Which elements are kept, on a CPU, and what those are multiplied by."""
    zeros = min(max(round(p * PROBABILITY_STEPS), 1), PROBABILITY_STEPS - 1)
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    keep_mask = bits.view(torch.int16)[:count].view(*shape) >= zeros - PROBABILITY_STEPS // 2
    return keep_mask, PROBABILITY_STEPS / (PROBABILITY_STEPS - zeros)
