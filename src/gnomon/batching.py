"""Lengths and a token budget -> batches of indices. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut texts into batches of nearly equal length.

    Texts are taken from the longest to the shortest (ties in their order), so the largest batch comes first and memory
    does not grow later. A batch holds at most `budget` tokens, counted with its padding; a text longer than the budget
    is a batch alone.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch, at least 1.
    """
    found: list[list[int]] = []
    room = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if not room:
            room = max(1, budget // max(1, lengths[index]))
            found.append([])
        found[-1].append(index)
        room -= 1
    return found
