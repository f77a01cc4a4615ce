"""The fingerprint of a model: a hash of what it computes on token ids, of its weights, and of how text becomes ids.

Models with equal fingerprints give equal vectors. Length limits, prompts, the score function and the prefixes that a
model declares are not part of it: they are the caller's to choose, and `Space` holds those that must agree.

A field of the spec counts only where it differs from its default. So a new mechanism, added as a field whose default
means "without it", leaves the fingerprint of every older model as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.spec.model import ModelSpec, model_shapes

VERSION = 2
"""Of the form that is hashed. Version 1 hashed every field, length limits and the score function too."""

LEFT_OUT = frozenset(
    {
        "prompts",
        "default_prompt_name",
        "query_prompt_names",
        "truncate_dim",
        "matryoshka_dims",
        "similarity",
        "tokenizer.max_seq_length",
        "tokenizer.lower_case",
    }
)
"""Fields of a ModelSpec that change no vector of a text that fits. `lower_case` is in the tokenizer's own JSON."""

FINGERPRINT_DIGITS = 12
"""Digits of a fingerprint that are shown, or name a model in a path."""


def compute_fingerprint(spec: ModelSpec, arrays: Mapping[str, NDArray[Any]], tokenizer_json: str) -> str:
    """SHA-256 over canonical spec, tokenizer and weights, as 64 hexadecimal digits.

    Weights count by value, as float32 under our names: the file format, a dtype that holds equal values and the layout
    of the folder do not matter.

    Args:
        tokenizer_json: `Tokenizer.canonical_json`.
    """
    digest = hashlib.sha256(canonical_json(spec).encode())
    digest.update(tokenizer_json.encode())
    for name in sorted(model_shapes(spec)):
        array = np.ascontiguousarray(arrays[name], dtype=np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def canonical_json(spec: ModelSpec) -> str:
    """What a model computes on token ids, as JSON: the fields that count and differ from their defaults."""
    form = {"version": VERSION, "model": _to_plain(spec, "")}
    return json.dumps(form, sort_keys=True, ensure_ascii=False)


def _to_plain(value: Any, path: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        counted = {
            field.name: _to_plain(getattr(value, field.name), f"{path}{field.name}.")
            for field in fields(value)
            if f"{path}{field.name}" not in LEFT_OUT and getattr(value, field.name) != _default(field)
        }
        return {"kind": type(value).__name__, **counted}
    if isinstance(value, tuple | list):
        return [_to_plain(item, path) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_plain(item, path) for key, item in value.items()}
    return value


def _default(field: Field[Any]) -> Any:
    """A field's default; MISSING, which equals nothing, where it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()
