"""Batches of texts of nearly equal length, within a budget of tokens. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BATCH_OVERHEAD_TOKENS = 64
"""The time that a runtime takes to begin and end a batch, in tokens. More padding than this costs more than a batch."""


def build_batches(lengths: Sequence[int], token_budget: int, *, padded: bool = True) -> list[list[int]]:
    """Group texts into batches of nearly equal length; returns the indices of each batch.

    Texts are taken from the longest to the shortest, equal lengths in their order. So the largest batch comes first,
    and memory does not grow later. A batch holds at most `token_budget` tokens; a text longer than that is a batch
    alone. With padding, a batch also ends where the next text would need more than BATCH_OVERHEAD_TOKENS of it.

    Args:
        lengths: tokens of each text.
        token_budget: tokens of a batch, at least 1.
        padded: whether a batch costs its longest text times the number of its texts, or the sum of its texts.
    """
    batches: list[list[int]] = []
    room = 0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    for position, index in enumerate(order):
        length = max(1, lengths[index])
        cost = max(1, lengths[batches[-1][0]]) if padded and batches else length
        padding = (cost - length) * min(room // cost, len(order) - position)
        if cost > room or padding > BATCH_OVERHEAD_TOKENS:
            batches.append([])
            room, cost = token_budget, length
        batches[-1].append(index)
        room -= cost
    return batches
