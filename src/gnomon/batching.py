"""Batches of texts of nearly equal length, within a budget of tokens. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BATCH_OVERHEAD_TOKENS = 64
"""The time that a runtime takes to begin and end a batch, in tokens. More padding than this costs more than a batch."""


@dataclass(frozen=True)
class PaddingCost:
    """What a token of padding costs a runtime, in tokens: `base`, and `per_token` for each token of the batch's longest
    text; 1 at most.
    """

    base: float = 0.0
    per_token: float = 0.0

    def __bool__(self) -> bool:
        return self != NO_PADDING

    def share(self, longest: int) -> float:
        return min(1.0, self.base + self.per_token * longest)

    def of_batch(self, longest: int, num_texts: int, num_tokens: int) -> float:
        """What the padding of a batch costs, in tokens."""
        return self.share(longest) * (longest * num_texts - num_tokens)


NO_PADDING = PaddingCost()
FULL_PADDING = PaddingCost(1.0)


def build_batches(lengths: Sequence[int], token_budget: int, padding: PaddingCost = FULL_PADDING) -> list[list[int]]:
    """Group texts into batches of nearly equal length; returns the indices of each batch.

    Texts are taken from the longest to the shortest, equal lengths in their order. So the largest batch comes first,
    and memory does not grow later. A batch holds at most `token_budget` tokens; a text longer than that is a batch
    alone. A batch also ends where the padding of the next texts would cost more than BATCH_OVERHEAD_TOKENS.

    Args:
        lengths: tokens of each text.
        token_budget: tokens of a batch, at least 1.
        padding: what it costs.
    """
    batches: list[list[int]] = []
    room = 0.0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    for position, index in enumerate(order):
        length = max(1, lengths[index])
        longest = max(1, lengths[batches[-1][0]]) if batches else length
        padding_cost = padding.of_batch(longest, 1, length)
        cost = length + padding_cost
        if cost > room or padding_cost * min(room // cost, len(order) - position) > BATCH_OVERHEAD_TOKENS:
            batches.append([])
            room, cost = token_budget, length
        batches[-1].append(index)
        room -= cost
    return batches
