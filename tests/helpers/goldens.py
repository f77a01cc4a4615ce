"""The golden folders by name, and what "the same vectors" means."""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import Notice

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
STELLA, GTE, E5, GIST, DISTILBERT = NAMES = (
    "stella_en_400M_v5",
    "gte-large-en-v1.5",
    "multilingual-e5-small",
    "GIST-Embedding-v0",
    "multi-qa-distilbert-cos-v1",
)


def require(*, whole_module: bool = False) -> None:
    """Where the folders are missing: an error in CI, which must run these tests; a skip with its reason elsewhere."""
    if GOLDEN.is_dir():
        return
    message = f"{GOLDEN} is not here: it is in the shared folder of the project"
    if os.environ.get("CI"):
        raise FileNotFoundError(message)
    pytest.skip(message, allow_module_level=whole_module)


@cache
def load(name: str, engine: str = "onnx") -> Encoder:
    """A golden model on one thread of the processor."""
    require()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return Encoder.load(GOLDEN / name, device="cpu", engine=engine, threads=1)


def assert_same(found: Any, wanted: Any, limit: float = 1e-5) -> None:
    """Row by row, the norm of the difference over the norm of the row that is wanted; a zero row must be zero."""
    found_BD, wanted_BD = np.atleast_2d(found).astype(np.float64), np.atleast_2d(wanted).astype(np.float64)
    assert found_BD.shape == wanted_BD.shape
    off_B = np.linalg.norm(found_BD - wanted_BD, axis=-1)
    assert (off_B <= limit * np.linalg.norm(wanted_BD, axis=-1)).all(), off_B
