"""Pooling as arithmetic on lengths: every mode but max is a weighted sum of token states. One table row per mode.

B: texts; S: tokens of the longest; M: linear modes; T: tokens of all texts. Definitions: sentence-transformers 6.2,
Pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.packed import Packed
from gnomon.spec import PoolingMode, PoolingSpec

IntArray = NDArray[np.int64]
PoolingWeightFunction = Callable[[IntArray, IntArray, IntArray], NDArray[Any]]
"""(position of a token, first pooled position of its text, tokens of its text) -> the token's weight in the vector.

The three broadcast: [S] with [B, 1] for padded tokens, [T] each for packed ones.
"""


def first_pooled_token(packed: Packed) -> IntArray:
    """[B]: the first token of each text that is pooled. A text that would lose all of its tokens is pooled whole."""
    if packed.skip_B is None:
        return np.zeros(len(packed.lengths_B), np.int64)
    return np.where(packed.lengths_B > packed.skip_B, packed.skip_B, 0)


def _is_pooled(position: IntArray, first: IntArray, length: IntArray) -> NDArray[np.bool_]:
    return (position >= first) & (position < length)


POOLING_WEIGHTS: dict[PoolingMode, PoolingWeightFunction] = {
    "cls": lambda position, first, length: position == first,
    "lasttoken": lambda position, first, length: position == length - 1,
    "mean": lambda position, first, length: _is_pooled(position, first, length) / (length - first),
    "mean_sqrt_len_tokens": lambda position, first, length: (
        _is_pooled(position, first, length) / np.sqrt(length - first)
    ),
    # by 1-based positions, whose sum over the pooled tokens is the divisor
    "weightedmean": lambda position, first, length: (
        _is_pooled(position, first, length) * (position + 1) * 2 / (length * (length + 1) - first * (first + 1))
    ),
}


def pooled_token_index(pooling: PoolingSpec, packed: Packed) -> IntArray:
    """[B]: the one token of a pooling by cls or lasttoken alone."""
    first_B = first_pooled_token(packed)
    return first_B if pooling.modes == ("cls",) else packed.lengths_B - 1


def pools_one_token(pooling: PoolingSpec) -> bool:
    """Whether the vector is the state of one token, so that the last layer need not compute the others."""
    return pooling.modes in (("cls",), ("lasttoken",))


def padded_pooling_weights(pooling: PoolingSpec, packed: Packed) -> NDArray[np.float32]:
    """[B, M, S] weights of the linear modes, in their order, over padded tokens."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    first_B1 = first_pooled_token(packed)[:, None]
    modes = [POOLING_WEIGHTS[mode] for mode in pooling.modes if mode != "max"]
    weights = [mode(positions_S, first_B1, packed.lengths_B[:, None]) for mode in modes]
    return np.stack(weights, axis=1).astype(np.float32)


def packed_pooling_weights(pooling: PoolingSpec, packed: Packed) -> NDArray[np.float32]:
    """[M, T] weights of the linear modes, in their order, over packed tokens."""
    lengths_B = packed.lengths_B
    first_T, length_T = (np.repeat(values_B, lengths_B) for values_B in (first_pooled_token(packed), lengths_B))
    modes = [POOLING_WEIGHTS[mode] for mode in pooling.modes if mode != "max"]
    weights = [mode(packed.positions_T, first_T, length_T) for mode in modes]
    return np.array(weights, dtype=np.float32).reshape(len(modes), len(packed.ids_T))


def max_pooling_mask(packed: Packed) -> NDArray[np.float32]:
    """[B, S, 1]: 0 where a token may be the maximum, minus infinity elsewhere."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    first_B1 = first_pooled_token(packed)[:, None]
    pooled_BS = _is_pooled(positions_S, first_B1, packed.lengths_B[:, None])
    return np.where(pooled_BS, 0, -np.inf).astype(np.float32)[..., None]


def padding_mask(packed: Packed) -> NDArray[np.float32]:
    """[B, 1, 1, S]: 0 where a token is, minus infinity where padding is."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    return np.where(positions_S < packed.lengths_B[:, None], 0, -np.inf).astype(np.float32)[:, None, None]
