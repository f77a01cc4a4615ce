"""Turns what people pass as texts into a list of str, or raises an error that says which text is wrong and why."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from gnomon.errors import InputError
from gnomon.messages import shorten

Texts = str | Iterable[str]
"""One text, or any ordered collection of texts: list, generator, numpy array, pandas or Arrow column."""


MISSING_VALUE_TYPES = ("NAType", "NaTType")
"""Types of pandas' missing values, by name: pandas need not be installed."""


def as_texts(texts: Any) -> list[str]:
    """The texts as a list; one str is a list of one.

    Raises:
        InputError: not texts; names the first position that is not a str.
    """
    items: list[Any] = [texts] if isinstance(texts, str) else _to_list(texts)
    for position, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError(f"text {position} is {_describe(item)}; every text must be a str{_hint(item)}.")
        check_encodable(item, f"text {position}")
    return items


def check_encodable(text: str, what: str) -> None:
    """Check that a text is Unicode.

    Raises:
        InputError: half a surrogate pair, which is not a character but the mark of text that was decoded wrongly.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has half a surrogate pair, {text[error.start]!r}, at character {error.start}. That is not "
            "Unicode text. Decode its source again, or use .encode('utf-8', 'replace').decode()."
        ) from None


def as_whole_number(value: Any, name: str, maximum: int) -> int:
    """The value as an int from 1 to `maximum`; integers of numpy are accepted.

    Raises:
        InputError: anything else; names the parameter.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 < number <= maximum:
        raise InputError(f"{name} is {value!r}; it must be a whole number from 1 to {maximum}.")
    return number


def _to_list(texts: Any) -> list[Any]:
    if hasattr(texts, "columns"):  # a pandas, polars or Arrow table
        raise InputError(f"texts is a table ({type(texts).__name__}); give one of its columns.")
    if isinstance(texts, (bytes, Mapping, AbstractSet)) or not isinstance(texts, Iterable):
        raise InputError(f"texts is {_describe(texts)}; give a str, or a list or column of str{_hint(texts)}.")
    if getattr(texts, "ndim", 1) != 1:
        raise InputError(f"texts is an array of {getattr(texts, 'ndim', 0)} dimensions; give one of 1.")
    to_list = getattr(texts, "to_pylist", None) or getattr(texts, "tolist", None)  # Arrow; numpy and pandas
    return to_list() if to_list else list(texts)


def _describe(item: object) -> str:
    return f"{type(item).__name__} {shorten(item, 43)}"


def _hint(item: object) -> str:
    if isinstance(item, bytes):
        return ": decode it first, .decode('utf-8')"
    if item is None or type(item).__name__ in MISSING_VALUE_TYPES or (isinstance(item, float) and item != item):
        return ": drop missing values, or replace them by ''"
    return ""
