"""Dropout. On a CPU four elements share a draw of 64 bits: with a draw each, it is a tenth of a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 16
"""A probability is rounded to a multiple of 1 / STEPS."""


def dropped(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x / (1 - p), each element 0 with probability p; x itself where p is 0 or nothing is trained."""
    if not training or not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    share = min(max(round(p * STEPS), 1), STEPS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= share - STEPS // 2
    return x * kept.to(x.dtype).mul_(STEPS / (STEPS - share))
