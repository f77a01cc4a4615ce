"""JSON lines: an object on every line, by the letter of the standard; and values as JSON that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NoReturn, cast

from gnomon.text_files.rows import BadLine, NumberedRows, Remarks, Row, encoding_fault

WHITESPACE = " \t\r\n"
"""White space of JSON."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON; write null, or leave the field out")


def _parse_int(digits: str) -> int | Decimal:
    """Python's int refuses numbers of thousands of digits."""
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


def _build_row(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r} twice, and readers of JSON differ in which of them they take")
    return row


STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_int, object_pairs_hook=_build_row)
"""Python's own reads NaN and Infinity too, which other readers of JSON refuse, and the last of members of one name."""


def parse_jsonl(lines: Iterable[str], remarks: Remarks | None = None) -> NumberedRows:
    """Rows of JSON lines. Empty lines are passed over."""
    return ((number, row) for number, row, _ in parse_with_source(lines))


def parse_with_source(lines: Iterable[str]) -> Iterator[tuple[int, Row | BadLine, str]]:
    """(line number, row, the row as it was written)."""
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
            what = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield number, BadLine(f"not JSON ({what}); every line is an object by itself"), text
            continue
        if isinstance(row, dict):
            yield number, cast(Row, row), text
        else:
            yield number, BadLine(f"a JSON {type(row).__name__}; every line must be an object"), text


def remove_member(text: str, name: str) -> str:
    """The JSON text of an object without a member; every other one as it was written."""
    members: list[str] = []
    at = _skip_whitespace(text, 1)
    while text[at] != "}":
        key, end = json.decoder.scanstring(text, at + 1)  # pyright: ignore[reportAttributeAccessIssue]
        value = _skip_whitespace(text, _skip_whitespace(text, end) + 1)
        _, end = STRICT_DECODER.raw_decode(text, value)
        if key != name:
            members.append(text[at:end])
        at = _skip_whitespace(text, end)
        if text[at] == ",":
            at = _skip_whitespace(text, at + 1)
    return "{" + ", ".join(members) + "}"


def _skip_whitespace(text: str, at: int) -> int:
    """The place of the next character that is not white space."""
    while text[at] in WHITESPACE:
        at += 1
    return at


def dump_json(value: Any, *, ascii_only: bool = False) -> str:
    """A value as valid JSON: NaN and infinity are null, half a surrogate pair is an escape."""
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
        return {key: _replace_non_finite(each) for key, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(each) for each in cast("list[Any]", value)]
    return value
