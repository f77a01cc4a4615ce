"""What a run changes in its process, and puts back: torch's settings, and what Ctrl-C does."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

from gnomon.notices import warn_caller
from gnomon.train.ranks import Ranks
from gnomon.train.settings import Recipe


@contextmanager
def torch_as(recipe: Recipe, ranks: Ranks) -> Generator[None]:
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


@contextmanager
def stopping(ranks: Ranks) -> Generator[threading.Event]:
    """Set by the first Ctrl-C, so that the step ends and is saved; the second stops at once.

    Under torchrun every rank gets it from the terminal and once more from torchrun: there the second does nothing.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(*_: Any) -> None:
        if event.is_set() and ranks.world == 1:
            raise KeyboardInterrupt
        if not event.is_set() and ranks.first:
            again = "; Ctrl-C again stops at once" if ranks.world == 1 else ""
            warn_caller(f"this step is finished and saved, then the run stops{again}.")
        event.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def give_back() -> None:
    """Return what is free in the heap to the system, where that can be asked for (glibc).

    Chunks are of many sizes, and the heap keeps what they leave. Before each chunk it would give back more, and cost an
    eighth of the time.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
