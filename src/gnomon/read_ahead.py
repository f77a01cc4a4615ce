"""Items that a thread makes while the caller works on the ones before them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

WAIT_AT_END = 1.0
"""Seconds that an iteration that is given up waits for its thread. The thread may hang in a read of a slow pipe."""


SIGNAL_SECONDS = 1.0
"""A wait for an item ends after so long, and begins again. Where Ctrl-C comes right before a wait, it is noticed at its
end."""


def read_ahead(items: Iterator[T], thread_name: str) -> Generator[T]:
    """The items in their order; a thread makes the next one while the caller works on the last one.

    An error of `items` is raised in its turn: after the items before it.
    """
    results: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    permits, given_up = threading.Semaphore(1), threading.Event()

    def make_items() -> None:
        try:
            while permits.acquire() and not given_up.is_set():
                results.put((next(items),))
        except StopIteration:
            results.put(None)
        except BaseException as error:
            results.put(error)

    # a daemon, since Python waits at its end for every other thread, and this one may wait for input
    thread = threading.Thread(target=make_items, name=thread_name, daemon=True)
    thread.start()
    try:
        while (result := _wait_for(results)) is not None:
            if isinstance(result, BaseException):
                raise result
            permits.release()
            yield result[0]
    finally:
        given_up.set()
        permits.release()
        thread.join(WAIT_AT_END)


def _wait_for(results: SimpleQueue[T]) -> T:
    while True:
        try:
            return results.get(timeout=SIGNAL_SECONDS)
        except Empty:
            continue
