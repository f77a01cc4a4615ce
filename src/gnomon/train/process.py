"""What a run changes in its process and restores: torch's settings and signal handlers."""

from __future__ import annotations

import ctypes
import inspect
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from torch.utils import deterministic

from gnomon.interrupts import call_handler_later, cancel_handler_call, count_import_frames
from gnomon.train.distributed import Ranks
from gnomon.train.recipe.schema import Recipe
from gnomon.warn import warn_caller


@contextmanager
def torch_settings(recipe: Recipe, ranks: Ranks) -> Generator[None]:
    """Inside, torch has the settings of a run; they are restored afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    setting: Any = deterministic
    filled = setting.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        try:
            torch.manual_seed(recipe.seed)  # so that random initial weights are equal on every rank
            if recipe.threads:
                torch.set_num_threads(recipe.threads)
            if recipe.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=True)
                setting.fill_uninitialized_memory = False  # slow, and training reads no such memory
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            setting.fill_uninitialized_memory = filled


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a run: Ctrl-C; those of schedulers, containers and `kill`; that of a terminal that closes."""


class StopRequest:
    """Whether a signal has requested that the run stops.

    Inside `delay_until_saved`, the first signal waits until the work in progress is saved, and the second stops the run
    at once. Elsewhere the first one stops it at once, since nothing has to be saved. Under torchrun every rank gets a
    signal twice, from the terminal and from torchrun; so a second one does nothing there.

    An exception inside an import would leave a module half initialised, and then be lost or become another error. So a
    signal during an import is raised when the import is complete.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._requested, self._immediate, self._first = 0, 0, ""
        self._outside = count_import_frames(inspect.currentframe())
        self._closed = False

    @contextmanager
    def delay_until_saved(self, pending_work: str) -> Generator[None]:
        """Inside, a first signal does not interrupt the work.

        Args:
            pending_work: what is completed before the run stops, for the message.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came earlier, and its exception was lost.
        """
        if self._immediate:
            raise signal_exception(self._immediate)
        self._first = pending_work
        try:
            yield
        finally:
            self._first = ""

    def poll_all_ranks(self) -> int:
        """The signal that any rank has received; 0 for none. Every rank returns the same."""
        counts = self.ranks.sum_numbers(*(float(self._requested == number) for number in SIGNALS))
        return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), 0)

    def handle_signal(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of the signals."""
        if self._closed:
            return
        if not self._first or (self._requested and self.ranks.world_size == 1):
            self._requested = self._immediate = number  # set first: the exception may be lost
            if not (count_import_frames(frame) > self._outside and call_handler_later(self.handle_signal, number)):
                raise signal_exception(number)
        elif not self._requested:
            self._requested = number
            self._warn_user(number)

    def close(self) -> None:
        """From here on, signals do nothing."""
        self._closed = True
        cancel_handler_call()

    @contextmanager
    def raise_signal_for_errors(self) -> Generator[None]:
        """Inside, an error after a signal that stops the run at once becomes the exception of that signal."""
        try:
            yield
        except Exception as error:
            if self._immediate:
                raise signal_exception(self._immediate) from error
            raise

    def _warn_user(self, number: int) -> None:
        if not self.ranks.is_first:
            return
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        again = f"; {name} again stops at once" if self.ranks.world_size == 1 else ""
        with suppress(OSError, RuntimeError):  # the terminal is gone, or the signal came during a write to it
            warn_caller(f"{self._first}, then the run stops{again}.")


def signal_exception(number: int) -> BaseException:
    """KeyboardInterrupt for Ctrl-C; SystemExit for other signals, with the status by which shells report them."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def handle_stop_signals(ranks: Ranks) -> Generator[StopRequest]:
    """Inside, signals stop the run as `StopRequest` says. Only the main thread can handle signals."""
    stop = StopRequest(ranks)
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            ignored = number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN  # nohup
            if not ignored and signal.getsignal(number) is not None:
                before[number] = signal.signal(number, stop.handle_signal)
    try:
        with stop.raise_signal_for_errors():
            yield stop
    finally:
        stop.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def malloc_trim() -> None:
    """Return free memory of the heap to the system, where the C library can do that (glibc).

    Chunks have many sizes, and the heap holds on to what they free. A call before each chunk would return more, but
    cost an eighth of the time.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
