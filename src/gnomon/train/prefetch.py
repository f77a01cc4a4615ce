"""Batches that a thread prepares before their step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """`make` of start, start + 1, ... up to `stop`, in this order. A thread computes up to `depth` items ahead.

    An error is raised where its result is requested, and ends the iteration. Use it in a `with`: the end of the
    block waits for the item in progress, and begins no other.
    """

    def __init__(self, make: Callable[[int], T], start: int, stop: int, *, depth: int = 4) -> None:
        self._items, self._depth = (make(number) for number in range(start, stop)), depth
        self._thread = ThreadPoolExecutor(1, "gnomon-batches")
        self._pending: deque[Future[T]] = deque()
        self._fill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self._pending:  # closed
            raise StopIteration
        first = self._pending.popleft()
        self._fill()
        return first.result()

    def close(self) -> None:
        self._pending.clear()
        self._depth = 0
        self._thread.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        """Have `depth` items in progress or done."""
        while len(self._pending) < self._depth:
            self._pending.append(self._thread.submit(next, self._items))
