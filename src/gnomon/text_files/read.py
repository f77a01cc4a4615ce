"""Reads the texts or the rows of a file. An error names the line that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from gnomon.errors import InputError, Notice
from gnomon.messages import check_choice, count, join_words, list_some, shorten
from gnomon.text_files.cells import DEFAULT_DELIMITERS, parse_delimiter
from gnomon.text_files.delimited import parse_csv, parse_tsv
from gnomon.text_files.fields import as_field_names, choose_fields, extract_joined_text, extract_text, nested_paths
from gnomon.text_files.json_lines import STRICT_DECODER, parse_jsonl, parse_with_source
from gnomon.text_files.lines import STDIN, open_lines
from gnomon.text_files.parquet import load_arrow, read_column
from gnomon.text_files.rows import MAX_LISTED, NOT_UTF8, BadLine, NumberedRows, Remarks, Row, encoding_fault
from gnomon.warn import warn_caller

EMPTY_TEXT = "the text is empty"


@dataclass
class TextFile:
    """The texts of a file, in its order."""

    name: str
    texts: list[str]
    skipped: int = 0
    """Number of lines or rows that were left out."""
    rows: list[Row] | None = field(default=None, repr=False)
    """The row of each text in a CSV or TSV; None for other formats."""
    source_table: Any = field(default=None, repr=False)
    """The Arrow table of a Parquet file."""
    json_rows: list[str] | None = field(default=None, repr=False)
    """The row of each text in JSON lines, as it stands in the file; None for other formats."""
    empty_texts: dict[int, int] = field(default_factory=dict[int, int], repr=False)
    """Index -> line or row of each empty text: null, "", or white space alone."""
    unit: str = "line"
    """What the numbers of lines count: "line", or "row" in a Parquet file."""
    lines: list[int] = field(default_factory=list[int], repr=False)
    """The number of the line where each text's row begins, from 1; of the row in a Parquet file."""

    def row(self, index: int) -> Row:
        """All fields of the row of one text; {"text": ...} in a plain text file."""
        if self.rows is not None:
            return self.rows[index]
        if self.json_rows is not None:
            return STRICT_DECODER.decode(self.json_rows[index])
        if self.source_table is not None:
            return self.source_table.slice(index, 1).to_pylist()[0]
        return {"text": self.texts[index]}

    def id_and_title(self, index: int) -> dict[str, Any]:
        """The id and title of one text, if its row has them."""
        row = self.row(index)
        fields = {"id": row.get("_id", row.get("id")), "title": row.get("title")}
        return {name: value for name, value in fields.items() if value not in (None, "")}

    def describe_empty(self) -> str | None:
        """How many texts are empty, and on which lines; None if no text is."""
        if not self.empty_texts:
            return None
        units, are = (self.unit, "is") if len(self.empty_texts) == 1 else (f"{self.unit}s", "are")
        numbers = list_some(self.empty_texts.values(), MAX_LISTED)
        return (
            f"{len(self.empty_texts):,} of {count(len(self.texts), 'text')} of {self.name} {are} empty "
            f"({units} {numbers})"
        )

    @cached_property
    def table(self) -> Any:
        """The rows as an Arrow table.

        Raises:
            ExtraError: pyarrow is not installed. InputError: the values of a field do not fit one column.
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
                    f"{self.name}: field {name!r} does not fit a Parquet column ({error}). Write .jsonl instead."
                ) from error
        return arrow.table(columns)


def read_texts(
    path: str | Path,
    *,
    form: str | None = None,
    field: str | Sequence[str] | None = None,
    skip_bad: bool = False,
    delimiter: str | None = None,
) -> TextFile:
    """Read the texts of a .txt file (one per line), .jsonl, .csv or .tsv (with a header), or .parquet.

    All but .parquet may be packed by gzip. "-" is standard input. null counts as the empty text.

    Args:
        form: "txt", "jsonl", "csv" or "tsv", where the name does not show it. Standard input is "txt" by default.
        field: the field or column of the texts; "body.text" is the field "text" in the object "body". None means the
            only field, or the one called "text". Of several, a text is the values that are not empty, in this order,
            with one space between them.
        skip_bad: leave out lines that cannot be used and empty texts, with a Notice that counts them.
        delimiter: the character between the cells of a CSV or TSV, or "comma", "semicolon", "tab" or "bar". None means
            commas in a CSV, and tabs in a TSV.

    Raises:
        InputError: an unknown format or field; a line that cannot be used, by its number; a file without texts; a
            delimiter that is not one character, or for another format.
        ExtraError: a .parquet file, and pyarrow is not installed. OSError: the file cannot be opened.
    """
    name = "standard input" if str(path) == STDIN else str(path)
    requested = as_field_names(field)
    form = form or infer_format(path)
    if delimiter is not None:
        delimiter = _check_delimiter(name, form, delimiter)
    if form == "parquet":
        return _read_parquet(name, Path(path), requested, skip_bad)
    check_choice(form, f"{name}: format", PARSERS)
    if form == "txt" and requested is not None:
        fields = join_words([*map(repr, requested)])
        raise InputError(f"{name} is plain text and has no field {fields}. Leave field out, or name the format.")
    remarks = Remarks()
    texts = _TextCollector(name, form, requested, skip_bad)
    with open_lines(path) as lines, _warn_at_end(remarks, name):
        if form == "jsonl":
            for line, row, source in parse_with_source(lines):
                texts.add(line, row, source)
        else:
            parsed = PARSERS[form](lines, remarks, delimiter)
            for line, row in _name_in_errors(name, parsed):
                texts.add(line, row)
    return texts.build(remarks.columns)


def _check_delimiter(name: str, form: str, delimiter: str) -> str:
    if form not in DEFAULT_DELIMITERS:
        raise InputError(
            f"{name} is read as {form}, which has no delimiter, and delimiter is {shorten(delimiter)}. It belongs to "
            "CSV and TSV; leave it out, or name the format with form= (--format)."
        )
    return parse_delimiter(delimiter)


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of a .jsonl, .csv or .tsv file, which may be packed by gzip. CSV and TSV have a header.

    Raises:
        InputError: another format; a line that cannot be read, by its number. OSError: the file cannot be opened.
    """
    form = infer_format(path)
    if form not in ("jsonl", "csv", "tsv"):
        raise InputError(f"{path}: rows are read from .jsonl, .csv and .tsv, each also as .gz.")
    remarks = Remarks()
    with open_lines(path) as lines, _warn_at_end(remarks, str(path)):
        for line, row in _name_in_errors(str(path), PARSERS[form](lines, remarks, None)):
            if isinstance(row, BadLine):
                raise InputError(f"{path}, line {line}: {row.reason}. Correct it, or take it out.")
            yield line, row


def read_stdin_lines(*, skip_bad: bool = False) -> Iterator[str]:
    """Yield the lines of standard input as they come, without their line ends.

    Args:
        skip_bad: leave out a line that is not UTF-8, with a Notice.

    Raises:
        InputError: standard input is closed; a line that is not UTF-8, by its number.
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


def infer_format(path: str | Path) -> str:
    """The format of a file, by its name.

    Raises:
        InputError: a folder, or a name with another ending.
    """
    if str(path) == STDIN:
        return "txt"
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder. Give a file of texts.")
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    form = suffixes[-1].removeprefix(".") if suffixes else ""
    if form in PARSERS or (form == "parquet" and str(path).lower().endswith(".parquet")):
        return form
    raise InputError(
        f"{path}: the name does not show the format. Names end in .txt, .jsonl, .csv, .tsv (each also .gz) or "
        ".parquet; for another name give form= (--format)."
    )


# ---- texts


class _TextCollector:
    """Takes the text out of each row, and counts the rows that cannot be used."""

    def __init__(self, name: str, form: str, requested: tuple[str, ...] | None, skip_bad: bool) -> None:
        self._form, self._requested = form, requested
        self._file = TextFile(name, [], unit="row" if form == "parquet" else "line")
        if form in ("csv", "tsv"):
            self._file.rows = []
        if form == "jsonl":
            self._file.json_rows = []
        self._bad_rows = _BadRowCounter(name, self._file.unit, skip_bad)
        self._fields: tuple[str, ...] = ()
        """The fields of the texts; chosen by the first row."""
        self._is_only_field, self._only_field_line = False, 0
        """Whether the field was chosen because its row has no other, and the line of that row."""
        self._is_unicode = form in ("csv", "tsv")  # their parsers have checked

    def add(self, line: int, row: Row | BadLine, source: str = "") -> None:
        """source: the row as it stands in a file of JSON lines."""
        if isinstance(row, BadLine):
            self._bad_rows.add(line, row.reason)
            return
        fields = self._fields or self._set_fields(row, line)
        if self._is_only_field and len(row) > 1:
            self._raise_ambiguous(row, line)
        text: Any = row.get(fields[0]) if len(fields) == 1 else None
        if type(text) is not str or not (self._is_unicode or text.isascii()):  # the others need no check
            text, reason = extract_text(row, fields[0]) if len(fields) == 1 else extract_joined_text(row, fields)
            if reason:
                self._bad_rows.add(line, reason)
                return
        if not text or text.isspace():
            if self._bad_rows.skip:
                self._bad_rows.add(line, EMPTY_TEXT)
                return
            self._file.empty_texts[len(self._file.texts)] = line
        self._file.texts.append(text)
        self._file.lines.append(line)
        if self._file.rows is not None:
            self._file.rows.append(row)
        if self._file.json_rows is not None:
            self._file.json_rows.append(source)

    def _set_fields(self, row: Row, line: int) -> tuple[str, ...]:
        """Choose the fields of the texts by the first row."""
        self._fields = self._choose_fields(row)
        self._is_only_field = self._requested is None and self._form == "jsonl" and self._fields != ("text",)
        self._only_field_line = line
        return self._fields

    def _raise_ambiguous(self, row: Row, line: int) -> NoReturn:
        """A row has other fields beside the field that was the only one: which of them is the text?"""
        raise InputError(
            f"{self._file.name}: line {self._only_field_line} has only the field {self._fields[0]!r}, and line {line} "
            f"has {list_some(map(repr, row))}. Name the field of the texts with field= (--field)."
        )

    def build(self, columns: Sequence[str] = ()) -> TextFile:
        """columns: the names in the header of a CSV or TSV."""
        if columns and not self._file.texts and not self._bad_rows.count:
            raise InputError(
                f"{self._file.name} holds no texts: its only line, {list_some(map(repr, columns))}, is the header. If "
                "it is a text, put a header above it."
            )
        self._bad_rows.warn(len(self._file.texts))
        self._file.skipped = self._bad_rows.count
        return self._file

    def _choose_fields(self, row: Row) -> tuple[str, ...]:
        if self._form == "txt":
            return ("text",)
        nested = nested_paths(row) if self._form == "jsonl" else []
        fields = choose_fields(self._file.name, list(row), self._requested, nested)
        if self._form in ("csv", "tsv") and self._requested is None and fields != ("text",):
            warn_caller(
                f"{self._file.name}: the first line, {shorten(fields[0])}, is read as the header and not as a text. If "
                "it is a text, put a header above it. If it is not, name it as the field (--field)."
            )
        return fields


class _BadRowCounter:
    """Counts rows that cannot be used, or raises at the first."""

    def __init__(self, name: str, unit: str, skip: bool) -> None:
        self.name, self.unit, self.skip = name, unit, skip
        self.count = 0
        self._first: list[str] = []

    def add(self, number: int, reason: str) -> None:
        if not self.skip:
            wrong_encoding = self.unit == "line" and reason.startswith(NOT_UTF8)
            advice = "Convert the file (iconv -f LATIN1 -t UTF-8, if it is Latin-1)" if wrong_encoding else "Correct it"
            raise InputError(
                f"{self.name}, {self.unit} {number}: {reason}. {advice}, or leave such {self.unit}s out with "
                "skip_bad=True (--skip-bad)."
            )
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append(f"{self.unit} {number}: {reason}")

    def warn(self, num_texts: int) -> None:
        """Raise if no texts are left; else give a Notice of the rows that were left out."""
        reasons = list_some(self._first, MAX_LISTED, total=self.count, separator="; ")
        if not num_texts:
            raise InputError(f"{self.name} holds no texts{f' that can be used ({reasons})' if reasons else ''}.")
        if self.count:
            left_out, texts = count(self.count, self.unit), count(num_texts, "text")
            warn_caller(Notice(f"{self.name}: {left_out} left out, {texts} kept ({reasons})."))


def _read_parquet(name: str, path: Path, requested: tuple[str, ...] | None, skip_bad: bool) -> TextFile:
    bad_rows = _BadRowCounter(name, "row", skip_bad)
    texts, numbers, table = read_column(
        path, lambda fields, nested: choose_fields(name, fields, requested, nested), bad_rows.add
    )
    lines = [*numbers]
    empty_texts = {index: lines[index] for index, text in enumerate(texts) if not text.strip()}
    if skip_bad and empty_texts:
        for number in empty_texts.values():
            bad_rows.add(number, EMPTY_TEXT)
        full = [index for index in range(len(texts)) if index not in empty_texts]
        texts, lines = [texts[index] for index in full], [lines[index] for index in full]
        empty_texts, table = {}, table.take(full)
    bad_rows.warn(len(texts))
    return TextFile(name, texts, bad_rows.count, None, table, empty_texts=empty_texts, unit="row", lines=lines)


# ---- formats


def parse_txt(
    lines: Iterable[str], remarks: Remarks | None = None, delimiter: str | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield {"text": line} for every line, an empty one too. It has no delimiter."""
    returns = (remarks or Remarks()).carriage_returns
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\n").removesuffix("\r")
        if "\r" in text:
            returns.add(number)
        yield number, {"text": text}


PARSERS: dict[str, Callable[[Iterable[str], Remarks | None, str | None], NumberedRows]] = {
    "txt": parse_txt,
    "jsonl": parse_jsonl,
    "csv": parse_csv,
    "tsv": parse_tsv,
}
"""Format -> its parser. The first line of a CSV or TSV is its header."""


@contextmanager
def _warn_at_end(remarks: Remarks, name: str) -> Generator[None]:
    """Give the remarks as warnings at the end, also before an error: a stray quote may be the cause of a bad line."""
    try:
        yield
    except InputError:
        remarks.warn(name)
        raise
    remarks.warn(name)


def _name_in_errors(name: str, parsed: NumberedRows) -> NumberedRows:
    """Put the name of the file before the parser's own errors, such as one about the header."""
    try:
        yield from parsed
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
