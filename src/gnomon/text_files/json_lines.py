"""Reads JSON lines strictly, one object per line, and writes JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NoReturn, cast

from gnomon.text_files.rows import BadLine, NumberedRows, Remarks, Row, encoding_fault

WHITESPACE = " \t\r\n"
"""The white space of JSON."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null, or leave the field out")


def _parse_int(digits: str) -> int | Decimal:
    """A whole number; a Decimal where it has thousands of digits, which Python's int refuses."""
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


def _build_row(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {repeated!r} twice, and readers of JSON differ in which one they take")
    return row


STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_int, object_pairs_hook=_build_row)
"""Stricter than Python's own: it refuses NaN, Infinity and two members of one name, as other readers of JSON do."""


def parse_jsonl(lines: Iterable[str], remarks: Remarks | None = None, delimiter: str | None = None) -> NumberedRows:
    """Yield the rows of JSON lines. Empty lines are skipped. They have no delimiter."""
    return ((number, row) for number, row, _ in parse_with_source(lines))


def parse_with_source(lines: Iterable[str]) -> Iterator[tuple[int, Row | BadLine, str]]:
    """Yield (line number, row, the row as it stands in the file)."""
    for number, line in enumerate(lines, 1):
        text = line.strip(WHITESPACE)
        if not text:
            continue
        if fault := encoding_fault(text):
            yield number, BadLine(fault), text
            continue
        try:
            row = STRICT_DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            fault = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield number, BadLine(f"not JSON ({fault}); every line is an object by itself"), text
            continue
        if isinstance(row, dict):
            yield number, cast(Row, row), text
        else:
            yield number, BadLine(f"a JSON {type(row).__name__}; every line must be an object"), text


def remove_member(text: str, name: str) -> str:
    """Drop a member from the JSON text of an object. The others stay as they were written."""
    members: list[str] = []
    index = _skip_whitespace(text, 1)
    while text[index] != "}":
        key, end = json.decoder.scanstring(text, index + 1)  # pyright: ignore[reportAttributeAccessIssue]
        value = _skip_whitespace(text, _skip_whitespace(text, end) + 1)
        _, end = STRICT_DECODER.raw_decode(text, value)
        if key != name:
            members.append(text[index:end])
        index = _skip_whitespace(text, end)
        if text[index] == ",":
            index = _skip_whitespace(text, index + 1)
    return "{" + ", ".join(members) + "}"


def _skip_whitespace(text: str, index: int) -> int:
    """The index of the next character that is not white space."""
    while text[index] in WHITESPACE:
        index += 1
    return index


def dump_json(value: Any, *, ascii_only: bool = False) -> str:
    """A value as valid JSON. NaN and infinity become null, and half a surrogate pair becomes an escape."""
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, default=str, allow_nan=False)
    except ValueError:
        value = _replace_non_finite(value)
        text = json.dumps(value, ensure_ascii=ascii_only, default=str)
    return json.dumps(value, default=str) if encoding_fault(text) else text


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_non_finite(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(inner) for inner in cast("list[Any]", value)]
    return value
