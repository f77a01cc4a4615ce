"""A file -> its texts, or its rows. What cannot be used is named by its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from gnomon.errors import InputError, Notice
from gnomon.messages import did_you_mean
from gnomon.text_files.delimited import parse_csv, parse_tsv
from gnomon.text_files.json_lines import STRICT_DECODER, parse_jsonl, parse_with_source
from gnomon.text_files.lines import STDIN, open_lines
from gnomon.text_files.parquet import load_arrow, read_column
from gnomon.text_files.rows import MAX_LISTED, NOT_UTF8, BadLine, NumberedRows, Remarks, Row, encoding_fault, pluralize
from gnomon.warn import warn_caller

EMPTY_TEXT = "the text is empty"


@dataclass
class TextFile:
    """Texts of a file, in its order."""

    name: str
    texts: list[str]
    skipped: int = 0
    """Lines or rows that were left out."""
    rows: list[Row] | None = field(default=None, repr=False)
    """What each text came in; None for a plain text file, JSON lines and a Parquet file."""
    source_table: Any = field(default=None, repr=False)
    """The Arrow table of a Parquet file."""
    json_rows: list[str] | None = field(default=None, repr=False)
    """The JSON of each text's row, as it was written in a file of JSON lines."""
    empty_texts: dict[int, int] = field(default_factory=dict[int, int], repr=False)
    """Index -> line or row of each text that is empty: null, "", or white space alone."""
    unit: str = "line"
    """What numbers of places count: "line", or "row" of a Parquet file."""

    def row(self, index: int) -> Row:
        """All fields of one text's row; {"text": ...} of a plain text file."""
        if self.rows is not None:
            return self.rows[index]
        if self.json_rows is not None:
            return STRICT_DECODER.decode(self.json_rows[index])
        if self.source_table is not None:
            return self.source_table.slice(index, 1).to_pylist()[0]
        return {"text": self.texts[index]}

    def id_and_title(self, index: int) -> dict[str, Any]:
        """id and title of one text, where its row has them."""
        row = self.row(index)
        found = {"id": row.get("_id", row.get("id")), "title": row.get("title")}
        return {name: value for name, value in found.items() if value not in (None, "")}

    def describe_empty(self) -> str | None:
        """How many texts are empty, and where; None where none is."""
        if not self.empty_texts:
            return None
        places = list(self.empty_texts.values())
        listed = ", ".join(map(str, places[:MAX_LISTED])) + (
            f" and {len(places) - MAX_LISTED:,} more" if places[MAX_LISTED:] else ""
        )
        units, are = (self.unit, "is") if len(places) == 1 else (f"{self.unit}s", "are")
        return f"{len(places):,} of {pluralize(len(self.texts), 'text')} of {self.name} {are} empty ({units} {listed})"

    @cached_property
    def table(self) -> Any:
        """The rows as an Arrow table.

        Raises:
            ExtraError: pyarrow is not installed. InputError: a field of values that do not fit one column.
        """
        arrow = load_arrow()
        if self.source_table is not None:
            return self.source_table
        if self.rows is None and self.json_rows is None:
            return arrow.table({"text": arrow.array(self.texts, arrow.large_string())})
        rows = [self.row(index) for index in range(len(self.texts))]
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(key for row in rows for key in row):
            try:
                columns[name] = arrow.array([row.get(name) for row in rows])
            except (arrow.ArrowException, OverflowError) as error:
                raise InputError(
                    f"{self.name}: field {name!r} does not fit a Parquet column ({error}); write .jsonl instead."
                ) from error
        return arrow.table(columns)


def read_texts(
    path: str | Path, *, form: str | None = None, field: str | None = None, skip_bad: bool = False
) -> TextFile:
    """Read texts of .txt (one per line), .jsonl, .csv or .tsv (with a header), each also packed by gzip, or .parquet.

    "-" is standard input. null counts as the empty text.

    Args:
        form: "txt", "jsonl", "csv" or "tsv", where the name does not show it; standard input is txt by default.
        field: the field or column of the text; "body.text" is the field "text" in the object "body". None for the only
            one, or the one called "text".
        skip_bad: leave out lines that cannot be used and empty texts, with a Notice that counts them.

    Raises:
        InputError: an unknown format or field; a line that cannot be used, by its number; no text at all.
        ExtraError: a .parquet file, and pyarrow is not installed. OSError: the file cannot be opened.
    """
    name = "standard input" if str(path) == STDIN else str(path)
    found = form or infer_format(path)
    if found == "parquet":
        return _read_parquet(name, Path(path), field, skip_bad)
    if found == "txt" and field is not None:
        raise InputError(f"{name} is plain text and has no field {field!r}; leave it out, or say what format it has.")
    if found not in PARSERS:
        raise InputError(f"format {found!r} is not one of {', '.join(PARSERS)}.")
    remarks = Remarks()
    texts = _TextCollector(name, found, field, skip_bad)
    with open_lines(path) as lines, _warn_at_end(remarks, name):
        if found == "jsonl":
            for line, row, source in parse_with_source(lines):
                texts.add(line, row, source)
        else:
            for line, row in _name_in_errors(name, PARSERS[found](lines, remarks)):
                texts.add(line, row)
    return texts.build(remarks.columns)


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of .jsonl, .csv or .tsv, the last two with a header; each also packed by gzip.

    Raises:
        InputError: another format; a line that cannot be read, by its number. OSError: the file cannot be opened.
    """
    form = infer_format(path)
    if form not in ("jsonl", "csv", "tsv"):
        raise InputError(f"{path}: rows are read from .jsonl, .csv and .tsv, each also as .gz.")
    remarks = Remarks()
    with open_lines(path) as lines, _warn_at_end(remarks, str(path)):
        for line, row in _name_in_errors(str(path), PARSERS[form](lines, remarks)):
            if isinstance(row, BadLine):
                raise InputError(f"{path}, line {line}: {row.reason}. Mend it, or take it out.")
            yield line, row


def read_stdin_lines(*, skip_bad: bool = False) -> Iterator[str]:
    """Lines of standard input as they come, without their ends.

    Args:
        skip_bad: leave out a line that is not UTF-8, with a Notice.

    Raises:
        InputError: it is closed; a line that is not UTF-8, by its number.
    """
    remarks = Remarks()
    with open_lines(STDIN) as lines:
        for number, row in parse_txt(lines, remarks):
            if not (fault := encoding_fault(row["text"])):
                yield row["text"]
            elif skip_bad:
                warn_caller(f"standard input, line {number}: {fault}. It is left out.")
            else:
                raise InputError(
                    f"standard input, line {number}: {fault}. Write it in UTF-8, or leave such lines out with "
                    "skip_bad=True (--skip-bad)."
                )
    remarks.warn("standard input")


def text_fault(row: Row, field: str) -> str | None:
    """Why a field of a row is no text, or None."""
    return _text_fault(row.get(field), field, row)


def infer_format(path: str | Path) -> str:
    """The format of an input, by its name."""
    if str(path) == STDIN:
        return "txt"
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; give a file of texts.")
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    form = suffixes[-1].removeprefix(".") if suffixes else ""
    if form in PARSERS or (form == "parquet" and str(path).lower().endswith(".parquet")):
        return form
    raise InputError(
        f"{path}: the format of texts is known by the name's end; it may be .txt, .jsonl, .csv, .tsv (each also .gz) "
        "or .parquet. form= (--format) names another file's."
    )


# ---- texts


class _TextCollector:
    """Takes the text out of each row, and counts what cannot be used."""

    def __init__(self, name: str, form: str, requested: str | None, skip_bad: bool) -> None:
        self._form, self._requested = form, requested
        self._file = TextFile(name, [], unit="row" if form == "parquet" else "line")
        if form in ("csv", "tsv"):
            self._file.rows = []
        if form == "jsonl":
            self._file.json_rows = []
        self._bad_rows = _BadRowCounter(name, self._file.unit, skip_bad)
        self._field: str | None = None
        self._is_only_field, self._only_field_line = False, 0
        """Whether the field was chosen since it is the only one of its row, and that row's line."""
        self._is_unicode = form in ("csv", "tsv")  # their readers have seen to it

    def add(self, line: int, row: Row | BadLine, source: str = "") -> None:
        if isinstance(row, BadLine):
            self._bad_rows.add(line, row.reason)
            return
        if self._field is None:
            self._field = self._choose_field(row)
            self._is_only_field = self._requested is None and self._form == "jsonl" and self._field != "text"
            self._only_field_line = line
        if self._is_only_field and len(row) > 1:  # a row with other fields: which of them has the text?
            raise InputError(
                f"{self._file.name} has a row with the field {self._field!r} alone, line {self._only_field_line}, and one with "
                f"{', '.join(map(repr, row))}, line {line}; name the text's, field= (--field)."
            )
        text: Any = row.get(self._field)
        if type(text) is not str or not (self._is_unicode or text.isascii()):  # the others need no look
            text, reason = _extract_text(row, self._field)
            if reason:
                self._bad_rows.add(line, reason)
                return
        if not text or text.isspace():
            if self._bad_rows.skip:
                self._bad_rows.add(line, EMPTY_TEXT)
                return
            self._file.empty_texts[len(self._file.texts)] = line
        self._file.texts.append(text)
        if self._file.rows is not None:
            self._file.rows.append(row)
        if self._file.json_rows is not None:
            self._file.json_rows.append(source)

    def build(self, columns: Sequence[str] = ()) -> TextFile:
        """columns: that the header of a CSV or TSV names."""
        if columns and not self._file.texts and not self._bad_rows.count:
            names = ", ".join(map(repr, columns))
            raise InputError(
                f"{self._file.name} holds no texts: its only line, {names}, is taken as the header. If it is a text, "
                "put a header above it."
            )
        self._bad_rows.warn(len(self._file.texts))
        self._file.skipped = self._bad_rows.count
        return self._file

    def _choose_field(self, row: Row) -> str:
        if self._form == "txt":
            return "text"
        nested = _nested_paths(row) if self._form == "jsonl" else []
        field = choose_field(self._file.name, list(row), self._requested, nested)
        if self._form in ("csv", "tsv") and self._requested is None and field != "text":
            warn_caller(
                f"{self._file.name}: the first line, {field!r}, is taken as the header and not as a text. If it is a "
                "text, put a header above it; if it is not, name it as the field (--field)."
            )
        return field


class _BadRowCounter:
    """Counts what cannot be used, or raises at the first."""

    def __init__(self, name: str, unit: str, skip: bool) -> None:
        self.name, self.unit, self.skip = name, unit, skip
        self.count = 0
        self.first: list[str] = []

    def add(self, place: int, reason: str) -> None:
        if not self.skip:
            encoded = self.unit == "line" and reason.startswith(NOT_UTF8)
            cure = "Convert the file (iconv -f LATIN1 -t UTF-8, if it is Latin-1)" if encoded else "Mend it"
            raise InputError(
                f"{self.name}, {self.unit} {place}: {reason}. {cure}, or leave such {self.unit}s out with "
                "skip_bad=True (--skip-bad)."
            )
        self.count += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(f"{self.unit} {place}: {reason}")

    def warn(self, num_kept: int) -> None:
        """Raise if nothing is left; a Notice of what was left out."""
        more = f"; and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        listed = "; ".join(self.first) + more
        if not num_kept:
            raise InputError(f"{self.name} holds no texts{f' that can be used ({listed})' if listed else ''}.")
        if self.count:
            out, texts = pluralize(self.count, self.unit), pluralize(num_kept, "text")
            warn_caller(Notice(f"{self.name}: {out} left out, {texts} kept ({listed})."))


def choose_field(name: str, fields: Sequence[str], requested: str | None, nested: Sequence[str] = ()) -> str:
    """The field of the text: the one that is wanted, the one called "text", or the only one.

    Args:
        nested: fields in other fields, by their paths.

    Raises:
        InputError: it is not there, or there are several.
    """
    there = ", ".join(map(repr, fields)) or "none"
    if requested is not None:
        if requested not in fields and requested not in nested:
            near = did_you_mean(requested, [*fields, *nested])
            raise InputError(f"{name} has no field {requested!r}; it has {there}.{near}")
        return requested
    if "text" in fields or len(fields) == 1:
        return "text" if "text" in fields else fields[0]
    near = did_you_mean("text", [*fields, *nested])
    raise InputError(f"{name} has several fields: {there}; name the text's, field= (--field).{near}")


def _nested_paths(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Paths of the fields in the objects of a row."""
    found: list[str] = []
    for key, value in row.items():
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            found += [f"{prefix}{key}.{name}" for name in inner] + _nested_paths(inner, f"{prefix}{key}.")
    return found


def _extract_text(row: Row, field: str) -> tuple[str, str | None]:
    """The text, "" for null; and why it is none."""
    value: Any = row.get(field)
    if value is None and field not in row and "." in field:
        value, there = _get_nested(row, field)
        row = {field: value} if there else {}
    if value is None and field in row:
        return "", None
    reason = _text_fault(value, field, row)
    return ("" if reason else cast(str, value)), reason


def _get_nested(row: Row, path: str) -> tuple[Any, bool]:
    """A field in the objects of a row, and whether it is there. Names may hold dots themselves."""
    if path in row:
        return row[path], True
    parts = path.split(".")
    for count in range(1, len(parts)):
        inner = row.get(".".join(parts[:count]))
        if isinstance(inner, dict):
            value, there = _get_nested(cast(Row, inner), ".".join(parts[count:]))
            if there:
                return value, True
    return None, False


def _text_fault(text: object, field: str, row: Mapping[str, Any]) -> str | None:
    """Why a value is no text, or None."""
    if not isinstance(text, str):
        if field not in row:
            return f"no field {field!r}"
        return f"field {field!r} is {json.dumps(text, default=str)[:40]}, not a string"
    fault = encoding_fault(text)
    return f"field {field!r} has {fault}" if fault and fault.startswith("half") else fault


def _read_parquet(name: str, path: Path, requested: str | None, skip_bad: bool) -> TextFile:
    bad = _BadRowCounter(name, "row", skip_bad)
    found, rows, table = read_column(
        path, lambda fields, nested: choose_field(name, fields, requested, nested), bad.add
    )
    empty = [index for index, text in enumerate(found) if text is None or not text.strip()]
    texts = [text or "" for text in found]
    places = {index: rows[index] for index in empty}
    if skip_bad and empty:
        for index in empty:
            bad.add(rows[index], EMPTY_TEXT)
        kept = [index for index in range(len(texts)) if index not in places]
        texts, places, table = [texts[index] for index in kept], {}, table.take(kept)
    bad.warn(len(texts))
    return TextFile(name, texts, bad.count, None, table, empty_texts=places, unit="row")


# ---- formats


def parse_txt(lines: Iterable[str], remarks: Remarks | None = None) -> Iterator[tuple[int, Row]]:
    """Every line is a text, an empty one too."""
    returns = (remarks or Remarks()).carriage_returns
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\n").removesuffix("\r")
        if "\r" in text:
            returns.add(number)
        yield number, {"text": text}


PARSERS: dict[str, Callable[[Iterable[str], Remarks | None], NumberedRows]] = {
    "txt": parse_txt,
    "jsonl": parse_jsonl,
    "csv": parse_csv,
    "tsv": parse_tsv,
}
"""Format -> its reader. The first line of a CSV or TSV is its header."""


@contextmanager
def _warn_at_end(remarks: Remarks, name: str) -> Generator[None]:
    """Gives the remarks as notices at the end. Before an error too: a stray quote may be the cause of a bad line."""
    try:
        yield
    except InputError:
        remarks.warn(name)
        raise
    remarks.warn(name)


def _name_in_errors(name: str, parsed: NumberedRows) -> NumberedRows:
    """Errors that concern a whole file name it."""
    try:
        yield from parsed
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
