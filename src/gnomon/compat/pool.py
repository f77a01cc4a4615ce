"""`MultiProcessPool`: a model in several worker processes, as a script passes it from one method to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gnomon.encoder import Encoder
from gnomon.errors import InputError


class _Handle:
    """What stands for a process or a queue of a pool where code of sentence-transformers ends the pool."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.terminate = end

    def join(self) -> None:
        """The end of a worker is not waited for."""

    def close(self) -> None:
        """Nothing is open."""

    def cancel_join_thread(self) -> None:
        """There is no thread."""


class MultiProcessPool(dict[str, Any]):
    """A model in several worker processes. `start_multi_process_pool` returns it, and `encode` takes it.

    It has the keys of sentence-transformers' pool, so that `stop_multi_process_pool` of that package ends it too.
    """

    def __init__(self, encoder: Encoder) -> None:
        handle = _Handle(encoder.close)
        processes = [handle] * len(encoder.device.split(","))
        super().__init__(input=_Handle(encoder.close), output=_Handle(encoder.close), processes=processes)
        self.encoder = encoder


def check_pool(pool: object) -> MultiProcessPool:
    """
    Raises:
        InputError: not a pool of this package.
    """
    if not isinstance(pool, MultiProcessPool):
        raise InputError(f"pool is {type(pool).__name__}. start_multi_process_pool() of this model makes one.")
    return pool
