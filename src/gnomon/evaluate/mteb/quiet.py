"""Silences mteb and its libraries, and keeps them off the network."""

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
    """Within, no request is made, as under HF_HUB_OFFLINE=1."""
    settings: list[Any] = [import_module("datasets.config"), import_module("huggingface_hub.constants")]
    before = [module.HF_HUB_OFFLINE for module in settings]
    for module in settings:
        module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE or enabled
    try:
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value


@contextmanager
def silence_libraries() -> Generator[None]:
    """Within, mteb and its libraries show no bars, logs or warnings; the warnings of gnomon stay."""
    import datasets

    tqdm: Any = import_module("tqdm.auto").tqdm  # mteb's; gnomon's own bars come from tqdm.std
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
