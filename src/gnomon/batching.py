"""Lengths and a token budget -> batches of indices. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batches(lengths: Sequence[int], budget: int, *, padded: bool = True) -> list[list[int]]:
    """Cut texts into batches of nearly equal length.

    Texts are taken from the longest to the shortest (ties in their order), so the largest batch comes first and memory
    does not grow later. A batch holds at most `budget` tokens; a text longer than the budget is a batch alone.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch, at least 1.
        padded: whether a batch is as many tokens as its longest text times its texts, or the sum of its texts.
    """
    found: list[list[int]] = []
    room = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        cost = max(1, lengths[found[-1][0] if padded and found else index])
        if cost > room:
            found.append([])
            room, cost = budget, max(1, lengths[index])
        found[-1].append(index)
        room -= cost
    return found
