"""Which fields of a row make up its text, and what their values are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from gnomon.errors import InputError
from gnomon.messages import did_you_mean, shorten_json
from gnomon.text_files.rows import Row, encoding_fault


def as_field_names(field: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The requested fields as names; None if none is requested.

    Raises:
        InputError: not names, no name at all, or one that stands twice.
    """
    if field is None or isinstance(field, str):
        return None if field is None else (field,)
    names = tuple(field)
    if not names or not all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"field is {field!r}. Give the name of a field, or a list of names.")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"field names {repeated!r} twice. Name each field once.")
    return names


def choose_fields(
    name: str, fields: Sequence[str], requested: Sequence[str] | None, nested: Sequence[str] = ()
) -> tuple[str, ...]:
    """The fields of the texts: the requested ones, else the one called "text", else the only one.

    Args:
        name: the file, for messages.
        nested: fields within other fields, by their paths.

    Raises:
        InputError: one is not there, or there are several to choose from.
    """
    names = ", ".join(map(repr, fields)) or "none"
    for field in requested or ():
        if field not in fields and field not in nested:
            raise InputError(f"{name} has no field {field!r}. It has {names}.{did_you_mean(field, [*fields, *nested])}")
    if requested:
        return tuple(requested)
    if "text" in fields or len(fields) == 1:
        return ("text",) if "text" in fields else (fields[0],)
    near = did_you_mean("text", [*fields, *nested])
    raise InputError(f"{name} has several fields: {names}. Name those of the texts with field= (--field).{near}")


def join_values(values: Iterable[str]) -> str:
    """The text of several fields: their values that are not empty, with one space between them, as BEIR joins title
    and text.
    """
    return " ".join(value for value in values if value and not value.isspace())


def nested_paths(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Paths of the fields in the objects of a row."""
    paths: list[str] = []
    for key, value in row.items():
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            paths += [f"{prefix}{key}.{name}" for name in inner] + nested_paths(inner, f"{prefix}{key}.")
    return paths


def extract_text(row: Row, field: str) -> tuple[str, str | None]:
    """The text of a row ("" for null), and None or why it cannot be used."""
    value: Any = row.get(field)
    if value is None and field not in row and "." in field:
        value, exists = _get_nested(row, field)
        row = {field: value} if exists else {}
    if value is None and field in row:
        return "", None
    reason = _text_fault(value, field, row)
    return ("" if reason else cast(str, value)), reason


def extract_joined_text(row: Row, fields: Sequence[str]) -> tuple[str, str | None]:
    """As `extract_text`, of several fields."""
    values: list[str] = []
    for field in fields:
        value, reason = extract_text(row, field)
        if reason:
            return "", reason
        values.append(value)
    return join_values(values), None


def _get_nested(row: Row, path: str) -> tuple[Any, bool]:
    """A field in the objects of a row, and whether it exists. Names may hold dots themselves."""
    if path in row:
        return row[path], True
    parts = path.split(".")
    for index in range(1, len(parts)):
        inner = row.get(".".join(parts[:index]))
        if isinstance(inner, dict):
            value, exists = _get_nested(cast(Row, inner), ".".join(parts[index:]))
            if exists:
                return value, True
    return None, False


def _text_fault(text: object, field: str, row: Mapping[str, Any]) -> str | None:
    """Why a value is not a text; None if it is."""
    if not isinstance(text, str):
        if field not in row:
            return f"no field {field!r}"
        return f"field {field!r} is {shorten_json(text, 40)}, not a string"
    fault = encoding_fault(text)
    return f"field {field!r} has {fault}" if fault and fault.startswith("half") else fault


def text_fault(row: Row, field: str) -> str | None:
    """Why a field of a row is not a text; None if it is."""
    return _text_fault(row.get(field), field, row)
