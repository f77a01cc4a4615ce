"""Parquet: a column of texts, and the table that it stands in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gnomon.errors import ExtraError, InputError


def load_arrow() -> Any:
    """pyarrow with its Parquet part, imported on use."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExtraError("Parquet files need pyarrow, which is not installed: pip install 'gnomon[parquet]'") from error
    return import_module("pyarrow")


def read_column(
    path: Path, choose: Callable[[list[str], list[str]], str], on_bad_row: Callable[[int, str], None]
) -> tuple[list[str | None], Sequence[int], Any]:
    """The texts of a column, None for null, the numbers of their rows from 1, and the table. Rows that are not UTF-8,
    in whichever column, are given to `bad` and left out.

    Args:
        choose: the column among those that there are, or a field in one of them: "body.text".
        bad: (number of a row, why it cannot be used)

    Raises:
        InputError: not a Parquet file; a column that holds no strings. ExtraError: pyarrow is not installed.
    """
    arrow = load_arrow()
    try:
        with path.open("rb") as file:
            table = arrow.parquet.read_table(file)
    except arrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error
    name = choose(table.column_names, _nested_paths(arrow, table.schema))
    column = _get_column(table, name)
    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    if str(kind) not in ("string", "large_string", "string_view"):
        raise InputError(f"{path}: column {name!r} holds {column.type}; texts must be strings.")
    faults = _find_faults(arrow, table)
    if not faults:
        return column.to_pylist(), range(1, len(column) + 1), table
    for row, reason in faults.items():
        on_bad_row(row + 1, reason)
    whole = [row for row in range(len(table)) if row not in faults]
    return column.take(whole).to_pylist(), [row + 1 for row in whole], table.take(whole)


def _find_faults(arrow: Any, table: Any) -> dict[int, str]:
    """Row -> why it is no Unicode text, in whichever column."""
    try:
        table.validate(full=True)
    except arrow.ArrowException:
        return dict(_find_bad_rows(table, 0, len(table)))
    return {}


def _find_bad_rows(table: Any, start: int, stop: int) -> Iterator[tuple[int, str]]:
    for name in table.column_names:
        try:
            table.column(name).slice(start, stop - start).to_pylist()
        except UnicodeDecodeError as error:
            if stop - start == 1:
                yield start, f"column {name!r} is not UTF-8 (byte 0x{error.object[error.start]:02x})"
            else:
                middle = (start + stop) // 2
                yield from _find_bad_rows(table, start, middle)
                yield from _find_bad_rows(table, middle, stop)
            return


def _nested_paths(arrow: Any, fields: Any, prefix: str = "") -> list[str]:
    """Paths of the fields in columns of structs."""
    found: list[str] = []
    for each in fields:
        path = f"{prefix}{each.name}."
        if arrow.types.is_struct(each.type):
            inner = [each.type.field(place) for place in range(each.type.num_fields)]
            found += [path + field.name for field in inner] + _nested_paths(arrow, inner, path)
    return found


def _get_column(table: Any, name: str) -> Any:
    if name in table.column_names:
        return table.column(name)
    compute = import_module("pyarrow.compute")
    top = next(each for each in table.column_names if name.startswith(f"{each}."))
    return compute.struct_field(table.column(top), name.removeprefix(f"{top}.").split("."))
