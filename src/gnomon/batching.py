"""Sorts texts into batches by length and a token budget. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BATCH_OVERHEAD_TOKENS = 64
"""What it costs a runtime to start and end a batch, in tokens. More padding than this costs more than another batch."""


def build_batches(lengths: Sequence[int], token_budget: int, *, padded: bool = True) -> list[list[int]]:
    """Split texts into batches with nearly equal lengths; each batch is a list of indices.

    Texts are taken from the longest to the shortest (ties in their order), so the largest batch comes first and memory
    does not grow later. A batch holds at most `token_budget` tokens; a text longer than that is a batch alone. With
    padding, a batch ends before a text from which on it would need more than `BATCH_OVERHEAD_TOKENS` of padding.

    Args:
        lengths: number of tokens of each text.
        token_budget: tokens per batch, at least 1.
        padded: whether a batch costs its longest text times its number of texts, or the sum of its texts.
    """
    batches: list[list[int]] = []
    room = 0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    for rank, index in enumerate(order):
        length = max(1, lengths[index])
        cost = max(1, lengths[batches[-1][0]]) if padded and batches else length
        padding = (cost - length) * min(room // cost, len(order) - rank)
        if cost > room or padding > BATCH_OVERHEAD_TOKENS:
            batches.append([])
            room, cost = token_budget, length
        batches[-1].append(index)
        room -= cost
    return batches
