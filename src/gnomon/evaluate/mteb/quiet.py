"""mteb and its libraries, without what they say to developers, and without the network where that was asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partialmethod
from importlib import import_module
from typing import Any

from gnomon.errors import Notice


@contextmanager
def offline(enabled: bool) -> Generator[None]:
    """As under HF_HUB_OFFLINE=1: no request is made."""
    places: list[Any] = [import_module("datasets.config"), import_module("huggingface_hub.constants")]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or enabled
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was


@contextmanager
def silence_libraries() -> Generator[None]:
    """Without what mteb and its libraries say to developers: bars of their own, logs, warnings."""
    import datasets

    tqdm: Any = import_module("tqdm.auto").tqdm  # mteb's; the encoder's own bar is of tqdm.std
    loggers = {name: logging.getLogger(name).level for name in ("mteb", "huggingface_hub")}
    bars, make_bar = datasets.is_progress_bar_enabled(), tqdm.__init__
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    tqdm.__init__ = partialmethod(make_bar, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Notice)
            yield
    finally:
        tqdm.__init__ = make_bar
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            datasets.enable_progress_bars()
