"""Count the points below and to the left of others, for losses over all pairs of pairs.

N: values; M: questions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def count_below(values_N: Tensor, ends_M: Tensor, limits_M: Tensor) -> Tensor:
    """[M]: how many of the first ends_M[m] values are below limits_M[m]. All are whole numbers from 0 to N.

    A wavelet matrix (Claude and Navarro, SPIRE 2012), built and read one bit at a time: the values are sorted by each
    bit, from the highest, and each question follows the half that its limit is in. Where the limit has a 1, all values
    of its range with a 0 are below it. N log N steps, memory of N, and nothing that waits for the device.
    """
    starts_M, counts_M = torch.zeros_like(ends_M), torch.zeros_like(ends_M)
    positions_N = torch.arange(len(values_N), device=values_N.device)
    for bit in reversed(range(len(values_N).bit_length())):
        zero_N = (values_N >> bit & 1) == 0
        zeros_before = F.pad(zero_N.cumsum(0), (1, 0))  # [N + 1]
        zeros = zeros_before[-1]
        first_M, last_M = zeros_before[starts_M], zeros_before[ends_M]
        above_M = (limits_M >> bit & 1) == 1
        counts_M = counts_M + torch.where(above_M, last_M - first_M, 0)
        starts_M = torch.where(above_M, zeros + starts_M - first_M, first_M)
        ends_M = torch.where(above_M, zeros + ends_M - last_M, last_M)
        targets_N = torch.where(zero_N, zeros_before[:-1], zeros + positions_N - zeros_before[:-1])
        values_N = torch.empty_like(values_N).scatter_(0, targets_N, values_N)
    return counts_M
