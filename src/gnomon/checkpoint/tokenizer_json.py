"""Loads a tokenizer.json. An error says which parts need a newer version of the tokenizers library."""

from __future__ import annotations

import codecs
import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gnomon.errors import UnsupportedError

FORMAT_VERSION = "1.0"
"""The only version of the format so far."""

SECTIONS: dict[str, Any] = {
    "normalizer": normalizers,
    "pre_tokenizer": pre_tokenizers,
    "post_processor": processors,
    "decoder": decoders,
    "model": models,
}
"""Section of the file -> the module whose classes are the types that it may name."""


def load_tokenizer_json(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    It is read as bytes, since the library refuses a byte order mark and a path that is not UTF-8.

    Raises:
        UnsupportedError: the file names what the installed library does not know.
        Exception: the library's own, for any other file that it cannot read.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return Tokenizer.from_buffer(content)  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:
        if unknown := _unknown_parts(content):
            raise UnsupportedError(
                f"{path} has {', '.join(unknown)}, which tokenizers {tokenizers.__version__} does not know. "
                "Upgrade it: pip install -U tokenizers."
            ) from error
        raise


@contextmanager
def utf8_folder(folder: Path) -> Generator[Path]:
    """The folder under a path that the library can open: its own, or a temporary link where that is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as temporary:
            link = Path(temporary) / "model"
            link.symlink_to(folder.absolute(), target_is_directory=True)
            yield link
    else:
        yield folder


def _unknown_parts(content: bytes) -> list[str]:
    """Versions and types that the installed library does not know; empty where the file is not JSON."""
    try:
        settings: Any = json.loads(content)
    except (ValueError, RecursionError):
        return []
    if not isinstance(settings, dict):
        return []
    version: Any = settings.get("version")
    unknown = [f"version {version!r}"] if isinstance(version, str) and version != FORMAT_VERSION else []
    for section, module in SECTIONS.items():
        kinds = _types_in(settings.get(section), deep=section != "model")  # a vocabulary may hold the word "type"
        unknown += [f"a {section} of type {kind!r}" for kind in kinds if not hasattr(module, kind)]
    return unknown


def _types_in(part: Any, *, deep: bool) -> Generator[str]:
    if isinstance(part, dict):
        kind: Any = part.get("type")
        if isinstance(kind, str):
            yield kind
    if deep and isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _types_in(inner, deep=True)
