"""Lengths and a token budget -> batches of indices. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BATCH_OVERHEAD_TOKENS = 64
"""Tokens in whose time a runtime begins and ends a batch, about: padding beyond this is dearer than another batch."""


def build_batches(lengths: Sequence[int], token_budget: int, *, padded: bool = True) -> list[list[int]]:
    """Cut texts into batches of nearly equal length.

    Texts are taken from the longest to the shortest (ties in their order), so the largest batch comes first and memory
    does not grow later. A batch holds at most `budget` tokens; a text longer than the budget is a batch alone. Where
    there is padding, a batch ends in front of a text from which on it would be filled up with more than BATCH_COST.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch, at least 1.
        padded: whether a batch is as many tokens as its longest text times its texts, or the sum of its texts.
    """
    found: list[list[int]] = []
    room = 0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    for place, index in enumerate(order):
        length = max(1, lengths[index])
        cost = max(1, lengths[found[-1][0]]) if padded and found else length
        padding = (cost - length) * min(room // cost, len(order) - place)
        if cost > room or padding > BATCH_OVERHEAD_TOKENS:
            found.append([])
            room, cost = token_budget, length
        found[-1].append(index)
        room -= cost
    return found
