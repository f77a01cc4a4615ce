"""Pooling as arithmetic on lengths: every mode but max is a weighted sum of token states. One table row a mode.

B: texts; S: tokens of the longest; M: linear modes. Definitions: sentence-transformers 6.2, Pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gnomon.packed import Packed
from gnomon.spec import PoolingMode, PoolingSpec

PoolingWeights = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""(positions_S, first_B, lengths_B) -> weights_BS whose product with the states is the pooled vector."""


def first_pooled(pooling: PoolingSpec, packed: Packed, prompt_tokens: int) -> NDArray[np.int64]:
    """[B]: the first token that is pooled; where the prompt is the whole text, the first token of all."""
    if pooling.include_prompt:
        return np.zeros(len(packed.lengths_B), np.int64)
    return np.where(packed.lengths_B > prompt_tokens, prompt_tokens, 0)


def _one_hot(place: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]) -> PoolingWeights:
    def weights(
        positions_S: NDArray[np.int64], first_B: NDArray[np.int64], lengths_B: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return (positions_S == place(first_B, lengths_B)[:, None]).astype(np.float64)

    return weights


def _span(
    shape: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
) -> PoolingWeights:
    """Weights of the tokens first..length, shaped by (1-based positions, 1 where the token counts)."""

    def weights(
        positions_S: NDArray[np.int64], first_B: NDArray[np.int64], lengths_B: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        counts_BS = ((positions_S >= first_B[:, None]) & (positions_S < lengths_B[:, None])).astype(np.float64)
        return shape(positions_S.astype(np.float64) + 1, counts_BS)

    return weights


POOLING_WEIGHTS: dict[PoolingMode, PoolingWeights] = {
    "cls": _one_hot(lambda first_B, lengths_B: first_B),
    "lasttoken": _one_hot(lambda first_B, lengths_B: lengths_B - 1),
    "mean": _span(lambda places_S, counts_BS: counts_BS / counts_BS.sum(-1, keepdims=True)),
    "mean_sqrt_len_tokens": _span(lambda places_S, counts_BS: counts_BS * counts_BS.sum(-1, keepdims=True) ** -0.5),
    "weightedmean": _span(
        lambda places_S, counts_BS: counts_BS * places_S / (counts_BS * places_S).sum(-1, keepdims=True)
    ),
}


def pooled_row(pooling: PoolingSpec, packed: Packed, prompt_tokens: int) -> NDArray[np.int64]:
    """[B]: the one token of a pooling by cls or lasttoken alone."""
    first_B = first_pooled(pooling, packed, prompt_tokens)
    return first_B if pooling.modes == ("cls",) else packed.lengths_B - 1


def pooling_weights(pooling: PoolingSpec, packed: Packed, prompt_tokens: int) -> NDArray[np.float32]:
    """[B, M, S] weights of the linear modes, in their order."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    first_B = first_pooled(pooling, packed, prompt_tokens)
    rows = [POOLING_WEIGHTS[mode](positions_S, first_B, packed.lengths_B) for mode in pooling.modes if mode != "max"]
    return np.stack(rows, axis=1).astype(np.float32)


def pooling_mask(pooling: PoolingSpec, packed: Packed, prompt_tokens: int) -> NDArray[np.float32]:
    """[B, S, 1]: 0 where a token may be the maximum, minus infinity elsewhere."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    first_B = first_pooled(pooling, packed, prompt_tokens)
    counts_BS = (positions_S >= first_B[:, None]) & (positions_S < packed.lengths_B[:, None])
    return np.where(counts_BS, 0, -np.inf).astype(np.float32)[..., None]


def padding_mask(packed: Packed) -> NDArray[np.float32]:
    """[B, 1, 1, S]: 0 where a token is, minus infinity where padding is."""
    positions_S = np.arange(int(packed.lengths_B.max()))
    return np.where(positions_S < packed.lengths_B[:, None], 0, -np.inf).astype(np.float32)[:, None, None]
