"""What a run changes in its process, and puts back: torch's settings, and what signals do."""

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
    """torch's own settings for a run; as they were behind it."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    setting: Any = deterministic
    filled = setting.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        try:
            torch.manual_seed(recipe.seed)  # what is drawn when the model is made is the same on every rank
            if recipe.threads:
                torch.set_num_threads(recipe.threads)
            if recipe.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=True)
                setting.fill_uninitialized_memory = False  # slow, and nothing here reads such memory
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            setting.fill_uninitialized_memory = filled


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What stops a run: Ctrl-C; what schedulers, containers and `kill` send; a terminal that is closed."""


class StopRequest:
    """Whether a signal has asked the run to stop.

    Inside `saving` the first signal waits until what has begun is saved, and the second stops at once. Elsewhere there
    is nothing to save, and the first stops at once. Under torchrun every rank gets a signal from the terminal and once
    more from torchrun: there the second does nothing.

    A module that is being imported is left half made by an exception, which then ends as some other error or as none:
    a signal within an import is raised when that is over.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._requested, self._immediate, self._first = 0, 0, ""
        self._outside = count_import_frames(inspect.currentframe())
        self._closed = False

    @contextmanager
    def delay_until_saved(self, pending_work: str) -> Generator[None]:
        """Args: first: what is done before the run stops, for the notice.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came before, and whatever was under way has swallowed it.
        """
        if self._immediate:
            raise signal_exception(self._immediate)
        self._first = pending_work
        try:
            yield
        finally:
            self._first = ""

    def poll_all_ranks(self) -> int:
        """The signal that some rank has got, the same on every rank; 0 for none."""
        counts = self.ranks.sum_numbers(*(float(self._requested == number) for number in SIGNALS))
        return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), 0)

    def handle_signal(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of the signals."""
        if self._closed:
            return
        if not self._first or (self._requested and self.ranks.world_size == 1):
            self._requested = self._immediate = number  # first: the exception may be swallowed
            if not (count_import_frames(frame) > self._outside and call_handler_later(self.handle_signal, number)):
                raise signal_exception(number)
        elif not self._requested:
            self._requested = number
            self._warn_user(number)

    def close(self) -> None:
        """No signal is raised from here on."""
        self._closed = True
        cancel_handler_call()

    @contextmanager
    def raise_signal_for_errors(self) -> Generator[None]:
        """An error inside, after a signal that stops the run at once, is what that signal means."""
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
        with suppress(OSError, RuntimeError):  # the terminal is gone; the signal came within a write to it
            warn_caller(f"{self._first}, then the run stops{again}.")


def signal_exception(number: int) -> BaseException:
    """KeyboardInterrupt for Ctrl-C; SystemExit for other signals, with the status by which shells report them."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def handle_stop_signals(ranks: Ranks) -> Generator[StopRequest]:
    """Inside, signals stop the run as `Stop` says; in the main thread alone, which gets them."""
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
    """Return what is free in the heap to the system, where that can be asked for (glibc).

    Chunks are of many sizes, and the heap keeps what they leave. Before each chunk it would give back more, and cost an
    eighth of the time.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
