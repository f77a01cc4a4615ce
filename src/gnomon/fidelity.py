"""Measures how close int8 vectors are to float32 ones on a small set of texts, and caches the result in a file."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnomon import files, modules
from gnomon.checkpoint.folder import Checkpoint
from gnomon.encoder import Encoder
from gnomon.engines.select import EngineOptions, int8_saturates
from gnomon.errors import InputError
from gnomon.spec import StaticSpec, compute_fingerprint
from gnomon.tokenizer import Tokenizer


@dataclass(frozen=True)
class Fidelity:
    """The cosines between the int8 and the float32 vectors of the same texts."""

    lowest: float
    mean: float
    texts: int
    precision: str
    """ "int8" or "uint8": what dtype="int8" uses on this processor."""
    cached: bool = False


def read_texts() -> list[str]:
    """The 64 built-in texts: short and long, in several languages and scripts, with code and numbers among them."""
    return resources.files("gnomon").joinpath("data/fidelity.txt").read_text(encoding="utf-8").splitlines()


def measure_fidelity(
    checkpoint: Checkpoint, *, threads: int | None = None, cache_folder: Path | None = None
) -> Fidelity:
    """Measure a model, or read an earlier measurement.

    Args:
        cache_folder: has one file per model, processor and version of the runtime; None measures anew.

    Raises:
        InputError: a static model, which has no int8 engine.
    """
    if isinstance(checkpoint.spec.trunk, StaticSpec):
        raise InputError("dtype 'int8' changes nothing in a static model: it is a table of vectors. Leave dtype out.")
    path = cache_folder / f"{_cache_key(checkpoint)}.json" if cache_folder else None
    if path and (cached := _read_cached(path)):
        return cached
    exact, rough = (_encode_texts(checkpoint, dtype, threads) for dtype in ("float32", "int8"))
    cosines = (modules.normalize(exact) * modules.normalize(rough)).sum(axis=-1)
    fidelity = Fidelity(float(cosines.min()), float(cosines.mean()), len(cosines), _int8_precision())
    if path:
        files.write_json_cache(path, asdict(fidelity))
    return fidelity


def _read_cached(path: Path) -> Fidelity | None:
    """The earlier measurement; None without one, or if the file is damaged."""
    try:
        return replace(Fidelity(**files.read_json_cache(path)), cached=True)
    except TypeError:
        return None


def _encode_texts(checkpoint: Checkpoint, dtype: str, threads: int | None) -> NDArray[np.float32]:
    return Encoder(checkpoint, EngineOptions(dtype=dtype, threads=threads)).encode(
        read_texts(), prompt="", on_truncate="silent"
    )


def _int8_precision() -> str:
    return "uint8" if int8_saturates() else "int8"


def _cache_key(checkpoint: Checkpoint) -> str:
    tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.spec.tokenizer)
    parts = (
        compute_fingerprint(checkpoint.spec, checkpoint.arrays, tokenizer.canonical_json()),
        hashlib.sha256("\n".join(read_texts()).encode()).hexdigest(),
        platform.machine(),
        platform.processor(),
        _int8_precision(),
        metadata.version("onnxruntime"),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
