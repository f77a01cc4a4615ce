"""Reads a column of texts from a Parquet file, with the table around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gnomon.errors import ExtraError, InputError
from gnomon.install import advise_install
from gnomon.text_files.fields import join_values


def load_arrow() -> Any:
    """Import pyarrow with its Parquet part.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExtraError(f"Parquet files need pyarrow, which is not installed. {advise_install('parquet')}") from error
    return import_module("pyarrow")


BATCH_ROWS = 1024
"""Rows that are decoded at once."""


def iter_columns(
    path: Path, choose: Callable[[list[str], list[str]], tuple[str, ...]], on_bad_row: Callable[[int, str], None]
) -> Iterator[tuple[list[str], Sequence[int], Any]]:
    """Read a column of texts, or several joined, in batches of rows. Rows that are not UTF-8 are left out.

    Args:
        choose: called with the names of the columns and the paths of the fields in them ("body.text"); returns those
            of the texts.
        on_bad_row: called with the number of each row that is left out, and why it cannot be used.

    Yields:
        The texts, "" for null; the numbers of their rows, from 1; the table of these rows.

    Raises:
        InputError: not a Parquet file; a column that holds no strings. ExtraError: pyarrow is not installed.
    """
    arrow = load_arrow()
    try:
        with path.open("rb") as file:
            source = arrow.parquet.ParquetFile(file)
            names = choose(source.schema_arrow.names, _nested_paths(arrow, source.schema_arrow))
            num_rows = 0
            for batch in source.iter_batches(BATCH_ROWS):
                yield _read_batch(arrow, path, arrow.Table.from_batches([batch]), names, num_rows, on_bad_row)
                num_rows += len(batch)
            if not num_rows:
                yield _read_batch(arrow, path, source.schema_arrow.empty_table(), names, 0, on_bad_row)
    except arrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error


def _read_batch(
    arrow: Any, path: Path, table: Any, names: Sequence[str], first: int, on_bad_row: Callable[[int, str], None]
) -> tuple[list[str], Sequence[int], Any]:
    columns = [_get_text_column(arrow, path, table, name) for name in names]
    faults = _find_faults(arrow, table)
    numbers: Sequence[int] = range(first + 1, first + len(table) + 1)
    if faults:
        for row, reason in faults.items():
            on_bad_row(numbers[row], reason)
        good_rows = [row for row in range(len(table)) if row not in faults]
        numbers, table = [numbers[row] for row in good_rows], table.take(good_rows)
        columns = [column.take(good_rows) for column in columns]
    values = [[value or "" for value in column.to_pylist()] for column in columns]
    return values[0] if len(values) == 1 else [join_values(row) for row in zip(*values, strict=True)], numbers, table


def _get_text_column(arrow: Any, path: Path, table: Any, name: str) -> Any:
    column = _get_column(table, name)
    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    if str(kind) not in ("string", "large_string", "string_view"):
        raise InputError(f"{path}: column {name!r} holds {column.type}; texts must be strings.")
    return column


def _find_faults(arrow: Any, table: Any) -> dict[int, str]:
    """Index of each row that is not Unicode text in some column -> why."""
    try:
        table.validate(full=True)
    except arrow.ArrowException:
        return dict(_find_bad_rows(table, 0, len(table)))
    return {}


def _find_bad_rows(table: Any, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """Yield the bad rows in a range, found by halving it."""
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
    paths: list[str] = []
    for field in fields:
        path = f"{prefix}{field.name}."
        if arrow.types.is_struct(field.type):
            inner = [field.type.field(index) for index in range(field.type.num_fields)]
            paths += [path + field.name for field in inner] + _nested_paths(arrow, inner, path)
    return paths


def _get_column(table: Any, name: str) -> Any:
    if name in table.column_names:
        return table.column(name)
    compute = import_module("pyarrow.compute")
    top = next(column for column in table.column_names if name.startswith(f"{column}."))
    return compute.struct_field(table.column(top), name.removeprefix(f"{top}.").split("."))
