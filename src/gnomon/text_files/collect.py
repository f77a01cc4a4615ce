"""`TextFile`: the texts of a file or of a group of its rows, and what collects them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, cast

from gnomon.errors import InputError, Notice
from gnomon.messages import count, list_some, shorten
from gnomon.text_files.fields import choose_fields, extract_joined_text, extract_text, nested_paths
from gnomon.text_files.json_lines import STRICT_DECODER
from gnomon.text_files.parquet import load_arrow
from gnomon.text_files.rows import MAX_LISTED, NOT_UTF8, BadLine, Row
from gnomon.warn import warn_caller

EMPTY_TEXT = "the text is empty"


class GroupLimits(NamedTuple):
    """Where a group of texts ends: before the text that would be too much. A larger text is a group by itself."""

    max_texts: int
    max_chars: int
    """Characters of the texts with the other fields of their rows (in a Parquet file, of the texts alone)."""


GROUP_LIMITS = GroupLimits(8192, 1 << 20)
"""Enough short texts to sort them into batches of nearly equal length; of long ones, not more than a small computer
encodes in a few minutes, since a group is what is lost when work is stopped."""


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

    def describe_empty(self) -> str | None:
        """How many texts are empty, and on which lines; None if no text is."""
        first = [*self.empty_texts.values()][:MAX_LISTED]
        return describe_empty(self.name, self.unit, len(self.empty_texts), first, len(self.texts))

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


def describe_empty(name: str, unit: str, num_empty: int, first: Sequence[int], num_texts: int) -> str | None:
    """How many texts of a file are empty, and on which lines, of which `first` are the first; None if no text is."""
    if not num_empty:
        return None
    units, are = (unit, "is") if num_empty == 1 else (f"{unit}s", "are")
    numbers = list_some(first, MAX_LISTED, total=num_empty)
    return f"{num_empty:,} of {count(num_texts, 'text')} of {name} {are} empty ({units} {numbers})"


class TextCollector:
    """Takes the text out of each row, groups the texts, and counts the rows that cannot be used."""

    def __init__(
        self,
        name: str,
        form: str,
        requested: tuple[str, ...] | None,
        skip_bad: bool,
        limits: GroupLimits | None,
        *,
        quiet: bool = False,
    ) -> None:
        self._name, self._form, self._requested, self._limits, self._quiet = name, form, requested, limits, quiet
        self.bad_rows = BadRowCounter(name, "row" if form == "parquet" else "line", skip_bad)
        self.full_groups: list[TextFile] = []
        """A group that is full, until the caller takes it."""
        self._file = self._open_group()
        self._num_chars = self._num_texts = 0
        self._tables: list[Any] = []
        """Tables of the rows of the group."""
        self._fields: tuple[str, ...] = ()
        """The fields of the texts; chosen by the first row."""
        self._is_only_field, self._only_field_line = False, 0
        """Whether the field was chosen because its row has no other, and the line of that row."""
        self._is_unicode = form in ("csv", "tsv")  # their parsers have checked

    def _open_group(self) -> TextFile:
        return TextFile(
            self._name,
            [],
            rows=[] if self._form in ("csv", "tsv") else None,
            json_rows=[] if self._form == "jsonl" else None,
            unit=self.bad_rows.unit,
        )

    def _close_group(self) -> TextFile:
        """The group as it is; a new one begins."""
        group = self._file
        group.skipped = self.bad_rows.count
        if self._tables:
            group.source_table = load_arrow().concat_tables(self._tables)
        self._num_texts += len(group.texts)
        self._file, self._num_chars, self._tables = self._open_group(), 0, []
        return group

    def _does_not_fit(self, num_chars: int) -> bool:
        """Whether a text with its row, of so many characters, begins the next group."""
        if self._limits is None or not self._file.texts:
            return False
        return len(self._file.texts) >= self._limits.max_texts or self._num_chars + num_chars > self._limits.max_chars

    def add(self, line: int, row: Row | BadLine, source: str = "") -> None:
        """source: the row as it stands in a file of JSON lines."""
        if isinstance(row, BadLine):
            self.bad_rows.add(line, row.reason)
            return
        fields = self._fields or self._set_fields(row, line)
        if self._is_only_field and len(row) > 1:
            self._raise_ambiguous(row, line)
        text: Any = row.get(fields[0]) if len(fields) == 1 else None
        if type(text) is not str or not (self._is_unicode or text.isascii()):  # the others need no check
            text, reason = extract_text(row, fields[0]) if len(fields) == 1 else extract_joined_text(row, fields)
            if reason:
                self.bad_rows.add(line, reason)
                return
        if self.bad_rows.skip and (not text or text.isspace()):
            self.bad_rows.add(line, EMPTY_TEXT)
            return
        if self._limits:
            num_chars = len(source) or sum(map(len, cast("dict[str, str]", row).values()))
            if self._does_not_fit(num_chars):
                self.full_groups.append(self._close_group())
            self._num_chars += num_chars
        self._append(line, text)
        if self._file.rows is not None:
            self._file.rows.append(row)
        if self._file.json_rows is not None:
            self._file.json_rows.append(source)

    def add_table(self, texts: Sequence[str], numbers: Sequence[int], table: Any) -> Iterator[None]:
        """Take rows of a Parquet file. Pauses wherever a group is full."""
        if self.bad_rows.skip and not all(map(str.strip, texts)):
            full = [index for index, text in enumerate(texts) if text.strip()]
            for number in sorted({*numbers} - {numbers[index] for index in full}):
                self.bad_rows.add(number, EMPTY_TEXT)
            texts, numbers, table = [texts[i] for i in full], [numbers[i] for i in full], table.take(full)
        start = 0
        for index, (text, number) in enumerate(zip(texts, numbers, strict=True)):
            if self._does_not_fit(len(text)):
                self._tables.append(table.slice(start, index - start))
                self.full_groups.append(self._close_group())
                yield
                start = index
            self._num_chars += len(text)
            self._append(number, text)
        self._tables.append(table.slice(start))

    def _append(self, line: int, text: str) -> None:
        if not text or text.isspace():
            self._file.empty_texts[len(self._file.texts)] = line
        self._file.texts.append(text)
        self._file.lines.append(line)

    def choose_columns(self, fields: list[str], nested: list[str]) -> tuple[str, ...]:
        """The columns of the texts in a Parquet file."""
        return choose_fields(self._name, fields, self._requested, nested)

    def _set_fields(self, row: Row, line: int) -> tuple[str, ...]:
        """Choose the fields of the texts by the first row."""
        self._fields = self._choose_fields(row)
        self._is_only_field = self._requested is None and self._form == "jsonl" and self._fields != ("text",)
        self._only_field_line = line
        return self._fields

    def _raise_ambiguous(self, row: Row, line: int) -> NoReturn:
        """A row has other fields beside the field that was the only one: which of them is the text?"""
        raise InputError(
            f"{self._name}: line {self._only_field_line} has only the field {self._fields[0]!r}, and line {line} "
            f"has {list_some(map(repr, row))}. Name the field of the texts with field= (--field)."
        )

    def finish(self, columns: Sequence[str] = ()) -> TextFile:
        """The last group, with a Notice of the lines that were left out.

        Args:
            columns: the names in the header of a CSV or TSV.

        Raises:
            InputError: there are no texts.
        """
        group = self._close_group()
        if columns and not self._num_texts and not self.bad_rows.count:
            raise InputError(
                f"{self._name} holds no texts: its only line, {list_some(map(repr, columns))}, is the header. If "
                "it is a text, put a header above it."
            )
        self.bad_rows.warn(self._num_texts, quiet=self._quiet)
        return group

    def _choose_fields(self, row: Row) -> tuple[str, ...]:
        if self._form == "txt":
            return ("text",)
        nested = nested_paths(row) if self._form == "jsonl" else []
        fields = choose_fields(self._name, list(row), self._requested, nested)
        if self._form in ("csv", "tsv") and self._requested is None and fields != ("text",) and not self._quiet:
            warn_caller(
                f"{self._name}: the first line, {shorten(fields[0])}, is read as the header and not as a text. If "
                "it is a text, put a header above it. If it is not, name it as the field (--field)."
            )
        return fields


class BadRowCounter:
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

    def warn(self, num_texts: int, *, quiet: bool) -> None:
        """Raise if no texts are left; else, unless `quiet`, give a Notice of the rows that were left out."""
        reasons = list_some(self._first, MAX_LISTED, total=self.count, separator="; ")
        if not num_texts:
            raise InputError(f"{self.name} holds no texts{f' that can be used ({reasons})' if reasons else ''}.")
        if self.count and not quiet:
            left_out, texts = count(self.count, self.unit), count(num_texts, "text")
            warn_caller(Notice(f"{self.name}: {left_out} left out, {texts} kept ({reasons})."))
