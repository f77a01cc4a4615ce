"""An engine for tests of the server: vectors that a test can compute, held back, poisoned or failing at will.

B: texts of a batch; D: dimensions of a vector, always 4.
"""

import threading
from collections.abc import Callable

import numpy as np

from gnomon.batching import FULL_PADDING, PaddingCost
from gnomon.engines.protocol import Engine
from gnomon.packed import Ids, Packed, Vectors, split_per_text

DIM = 4


def expect(ids_T: Ids) -> Vectors:
    """The vector of a text: its sum, its length, its first id, and one."""
    return np.array([ids_T.sum(), len(ids_T), ids_T[0], 1], np.float32)


class FakeEngine(Engine):
    """Computes `expect`. `gate` holds steps back while it is not set; `fail` may raise for a batch."""

    name = identity = "fake"

    def __init__(self, *, padding: PaddingCost = FULL_PADDING) -> None:
        self.padding = padding
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        """Released as each step begins."""
        self.batches: list[list[int]] = []
        """The lengths of the texts of each batch."""
        self.seen: list[int] = []
        """The first id of each text that was computed."""
        self.fail: Callable[[list[Ids]], None] = lambda ids: None

    def budget(self, total_tokens: int) -> int:
        return 100

    def pool(self, packed: Packed) -> Vectors:
        ids = split_per_text(packed.ids_T, packed)  # pyright: ignore
        self.entered.release()
        assert self.gate.wait(20)
        self.batches.append([len(each) for each in ids])
        self.fail(ids)  # pyright: ignore
        self.seen += [int(each[0]) for each in ids]
        return np.stack([expect(each) for each in ids])  # pyright: ignore

    def states(self, packed: Packed) -> Vectors:
        return np.repeat(packed.ids_T[:, None], DIM, axis=1).astype(np.float32)
