"""Reads CSV and TSV files whose quotes may be faulty. The rules are in docs/reference/text-files.md.

Python's csv module reads every record that is well formed. Where a record is not, only its first line is bad, and
reading goes on at the next line. So a quote that nothing closes swallows no row.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from gnomon.messages import count
from gnomon.text_files.cells import (
    DEFAULT_DELIMITERS,
    build_patterns,
    check_header,
    header_error,
    is_open,
    split_cells,
    split_loose_cells,
)
from gnomon.text_files.rows import BadLine, LineSpans, NumberedRow, NumberedRows, Remarks, Row, encoding_fault

BLOCK_LINES = 1024
"""Number of lines that are parsed at once."""

CAREFUL_LINES = 16
"""Number of lines that are parsed at once after a bad line: the next lines may be bad too."""

MAX_RECORD_CHARS = 1 << 24
"""The longest record of several lines, in characters. A record of one line may be longer."""

MIN_EVIDENCE_ROWS = 8
"""If so many rows have a number in a column, a line without a number there does not look like a row."""

UNCLOSED_QUOTE = "a quote opens a cell and none closes it"
TEXT_AFTER_QUOTE = "text after the closing quote of a cell"

INNER_RETURN = re.compile(r"\r(?![\r\n]*\Z)")
"""A carriage return within a line: those at its end are a part of the line end, as \\r\\r\\n is."""


class _LineBuffer:
    """Lines that were read ahead. Parsing a record may need many lines; a bad record gives back all but its first."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._source = iter(lines)
        self._lines: list[str] = []
        self._num_used = 0
        self.line_number = 1
        """The number of the next line, from 1."""

    def peek(self, size: int) -> list[str]:
        """At most `size` of the next lines, fewer at the end of the file."""
        lacking = self._num_used + size - len(self._lines)
        if lacking > 0:
            self._lines += islice(self._source, lacking)
        return self._lines[self._num_used : self._num_used + size]

    def consume(self, num_lines: int) -> None:
        """Step over lines that were parsed."""
        self._num_used += num_lines
        self.line_number += num_lines
        if self._num_used > BLOCK_LINES and 2 * self._num_used > len(self._lines):
            del self._lines[: self._num_used]
            self._num_used = 0

    def peek_from(self, start: int) -> Iterator[str]:
        """The next lines without the first `start`, as many as a record may have."""
        size = 0
        while size <= MAX_RECORD_CHARS and (line := self._get_line(self._num_used + start)) is not None:
            yield line
            size += len(line)
            start += 1

    def _get_line(self, index: int) -> str | None:
        if index >= len(self._lines):
            self._lines += islice(self._source, BLOCK_LINES)
        return self._lines[index] if index < len(self._lines) else None


class _QuoteDoubt:
    """Notes rows of several lines that stray quotes may have made out of several rows.

    A stray quote swaps what is inside of cells and what is outside, until a quote is out of place: in a bad line, or
    within a cell that has no quotes around it. The rows of several lines before such a line are in doubt, unless a
    quoted cell after them has shown that all is well.
    """

    def __init__(self, doubtful_rows: LineSpans) -> None:
        self._doubtful_rows = doubtful_rows
        self.suspect_since = 0
        """First line of the rows of several lines that nothing has confirmed yet; 0 if there are no such rows."""

    def note_multiline_row(self, first: int, last: int, doubtful: bool) -> None:
        self.suspect_since = self.suspect_since or first
        if doubtful:
            self._doubtful_rows.add(self.suspect_since, last)

    def note_single_line(self, line: str, number: int, delimiter: str) -> None:
        if self.suspect_since and '"' in line:
            if split_cells(line, delimiter).literal:
                self._flag_span(number)
            elif '"' in line.replace('""', ""):
                self.suspect_since = 0

    def note_bad_line(self, line: str, number: int) -> None:
        if self.suspect_since and '"' in line:
            self._flag_span(number)

    def _flag_span(self, last: int) -> None:
        self._doubtful_rows.add(self.suspect_since, last)
        self.suspect_since = 0


# ---- CSV


def parse_csv(lines: Iterable[str], remarks: Remarks | None = None, delimiter: str | None = None) -> NumberedRows:
    """Yield the rows of a CSV file as dictionaries by the names of its header.

    A row may go over several lines; its number is that of its first line. Empty lines are skipped.

    Args:
        delimiter: the character between cells; None for a comma.

    Raises:
        InputError: a header that cannot be used.
    """
    return _CsvParser(lines, remarks or Remarks(), delimiter).rows()


class _Records(NamedTuple):
    """The well-formed records at the start of a block of lines."""

    ends: list[int]
    """The number of lines up to the end of each record."""
    rows: list[list[str]]
    """The cells of each record."""
    fault: str | None
    """What is wrong with the record after them; None if they reach to the end of the block."""

    @property
    def num_lines(self) -> int:
        return self.ends[-1] if self.ends else 0


class _CsvParser:
    """One pass over the lines of a CSV file, a block at a time."""

    def __init__(self, lines: Iterable[str], remarks: Remarks, delimiter: str | None) -> None:
        self._buffer = _LineBuffer(lines)
        self._remarks = remarks
        self._delimiter, self._is_chosen = delimiter or DEFAULT_DELIMITERS["csv"], delimiter is not None
        self._doubt = _QuoteDoubt(remarks.joined_rows)
        self._names: list[str] = []
        self._block_size = BLOCK_LINES

    def rows(self) -> NumberedRows:
        while block := self._buffer.peek(self._block_size):
            records = _parse_records(block, self._delimiter)
            if records.fault and self._may_go_on(block, records):
                if not records.rows and sum(map(len, block)) <= MAX_RECORD_CHARS:
                    self._block_size *= 2
                    continue
                if records.rows:
                    records = records._replace(fault=None)
            self._block_size = min(BLOCK_LINES, 4 * self._block_size)
            text = "".join(block[: records.num_lines])
            has_fault = encoding_fault(text) is not None
            has_spaced_quotes = f'{self._delimiter} "' in text or '\n "' in text
            single_lines = records.num_lines == len(records.rows)
            if self._names and single_lines and not (has_fault or has_spaced_quotes or self._doubt.suspect_since):
                yield from _build_rows(records.rows, self._names, self._buffer.line_number)  # as nearly always
                num_used = records.num_lines
            else:
                num_used = yield from self._check_records(block, records, has_fault, has_spaced_quotes)
            if records.fault and num_used == records.num_lines:
                yield self._skip_bad_line(block[num_used], self._buffer.line_number + num_used, records.fault)
                num_used += 1
            self._buffer.consume(num_used)

    def _may_go_on(self, block: Sequence[str], records: _Records) -> bool:
        """Whether the record that is not well formed may end in lines after the block."""
        return len(block) == self._block_size and is_open(block[records.num_lines :], self._delimiter)

    def _check_records(
        self, block: Sequence[str], records: _Records, has_fault: bool, has_spaced_quotes: bool
    ) -> Generator[NumberedRow, None, int]:
        """Yield rows of which some need a closer look. Returns the number of lines that are used up.

        Args:
            has_fault: some record holds characters that are not Unicode text.
            has_spaced_quotes: some cell may begin with a space and a quote.
        """
        row_like = _RowDetector(self._delimiter, len(self._names), records.rows)
        start = 0
        for end, cells in zip(records.ends, records.rows, strict=True):
            lines, number = block[start:end], self._buffer.line_number + start
            start = end
            if not cells:
                continue
            fault = encoding_fault("".join(lines)) if has_fault else None
            if not self._names:
                self._read_header(cells, number, len(lines), fault)
                row_like = _RowDetector(self._delimiter, len(self._names), records.rows)
                continue
            row, split = self._check_record(lines, cells, number, fault, row_like)
            if has_spaced_quotes and not isinstance(row, BadLine) and any(map(_has_spaced_quote, cells)):
                self._remarks.spaced_quotes.add(number)
            yield number, row
            if split:
                self._block_size = CAREFUL_LINES
                return end - len(lines) + 1
        return start

    def _read_header(self, cells: list[str], number: int, num_lines: int, fault: str | None) -> None:
        if fault:
            raise header_error(number, fault)
        self._remarks.columns = self._names = check_header(cells, "CSV", self._delimiter, self._is_chosen)
        if num_lines > 1:
            self._remarks.multiline_header.add(number, number + num_lines - 1)

    def _check_record(
        self, lines: Sequence[str], cells: list[str], number: int, fault: str | None, row_like: _RowDetector
    ) -> tuple[Row | BadLine, bool]:
        """A record as a row, or why it cannot be used; and whether its other lines must be read by themselves."""
        multiline = len(lines) > 1
        doubtful = multiline and _may_be_joined(lines, row_like)
        if fault and len(cells) == len(self._names):
            fault += _multiline_suffix(number, len(lines))
            if not doubtful:
                return BadLine(fault), False
            fault += f" (line {number} is left out, and the others are read by themselves)"
        if fault or len(cells) != len(self._names):
            self._doubt.note_bad_line(lines[0], number)
            return BadLine(fault or _describe_miscount(cells, self._names, len(lines))), multiline
        if multiline:
            self._doubt.note_multiline_row(number, number + len(lines) - 1, doubtful)
        else:
            self._doubt.note_single_line(lines[0], number, self._delimiter)
        return dict(zip(self._names, cells, strict=True)), False

    def _skip_bad_line(self, line: str, number: int, fault: str) -> NumberedRow:
        if not self._names:
            raise header_error(number, fault)
        self._doubt.note_bad_line(line, number)
        self._block_size = CAREFUL_LINES
        return number, BadLine(fault)


def _has_spaced_quote(cell: str) -> bool:
    return cell[:1] == " " and cell.lstrip(" ")[:1] == '"'


def _build_rows(rows: Iterable[list[str]], names: list[str], line_number: int) -> NumberedRows:
    """Rows of one line each; those without cells are skipped."""
    num_columns = len(names)
    for number, cells in enumerate(rows, line_number):
        if len(cells) == num_columns:
            yield number, dict(zip(names, cells, strict=False))  # they have one length
        elif cells:
            yield number, BadLine(_describe_miscount(cells, names, 1))


def _parse_records(block: list[str], delimiter: str) -> _Records:
    """Parse the records at the start of a block, up to one that is not well formed."""
    ends: list[int] = []
    rows: list[list[str]] = []
    lines, returns = _replace_returns(block, delimiter)
    limit = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, for the whole process
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            rows.append([cell.replace(returns, "\r") for cell in cells] if returns else cells)
            ends.append(reader.line_num)
    except csv.Error:
        end = ends[-1] if ends else 0
        return _Records(ends, rows, UNCLOSED_QUOTE if is_open(block[end : end + 1], delimiter) else TEXT_AFTER_QUOTE)
    finally:
        csv.field_size_limit(limit)
    return _Records(ends, rows, None)


def _replace_returns(block: list[str], delimiter: str) -> tuple[list[str], str]:
    """Replace carriage returns within lines, which the csv module refuses in cells without quotes.

    Returns:
        The lines, and the character that stands for a carriage return in them; "" if there is nothing to replace.
    """
    if not any("\r" in line and INNER_RETURN.search(line) for line in block):
        return block, ""
    characters = {delimiter, *"".join(block)}
    unused = next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in characters)
    return [INNER_RETURN.sub(unused, line) for line in block], unused


def _describe_miscount(cells: Sequence[str], names: Sequence[str], num_lines: int) -> str:
    over = f" over {num_lines:,} lines" if num_lines > 1 else ""
    return f"{count(len(cells), 'field')}{over}, and the header has {len(names)}"


def _multiline_suffix(number: int, num_lines: int) -> str:
    """What is added to the fault of a record that goes over several lines."""
    return f", in a row that its quotes extend to line {number + num_lines - 1:,}" if num_lines > 1 else ""


# ---- TSV


def parse_tsv(lines: Iterable[str], remarks: Remarks | None = None, delimiter: str | None = None) -> NumberedRows:
    """Yield the rows of a TSV file as dictionaries by the names of its header.

    Quotes that are well formed around a cell are taken off; elsewhere they are text. Empty lines are skipped.

    Args:
        delimiter: the character between cells; None for a tab.

    Raises:
        InputError: a header that cannot be used.
    """
    return _TsvParser(lines, remarks or Remarks(), delimiter).rows()


class _ParsedLine(NamedTuple):
    """The cells of a record."""

    cells: list[str]
    num_lines: int = 1
    fault: str | None = None
    """Why the record cannot be used."""


class _TsvParser:
    """One pass over the lines of a TSV file, a block at a time."""

    def __init__(self, lines: Iterable[str], remarks: Remarks, delimiter: str | None) -> None:
        self._buffer = _LineBuffer(lines)
        self._remarks = remarks
        self._delimiter, self._is_chosen = delimiter or DEFAULT_DELIMITERS["tsv"], delimiter is not None
        self._doubt = _QuoteDoubt(remarks.joined_rows)
        self._names: list[str] = []

    def rows(self) -> NumberedRows:
        while block := self._buffer.peek(BLOCK_LINES):
            text = "".join(block)
            if self._names and '"' not in text and not encoding_fault(text):  # as nearly always
                stripped = [line.rstrip("\r\n") for line in block]
                rows = [line.split(self._delimiter) if line else [] for line in stripped]
                yield from _build_rows(rows, self._names, self._buffer.line_number)
                self._buffer.consume(len(block))
            else:
                self._buffer.consume((yield from self._check_lines(block)))

    def _check_lines(self, block: Sequence[str]) -> Generator[NumberedRow, None, int]:
        """Yield rows of which some need a closer look. Returns the number of lines that are used up."""
        start = 0
        while start < len(block):
            number = self._buffer.line_number + start
            record = self._parse_record(block[start], start, number)
            is_empty = record.cells == [""] and record.num_lines == 1 and '"' not in block[start]
            start += record.num_lines
            if record.fault and not self._names:
                raise header_error(number, record.fault)
            if record.fault:
                yield number, BadLine(record.fault)
            elif is_empty:
                continue
            elif not self._names:
                self._read_header(record, number)
            elif len(record.cells) == len(self._names):
                yield number, dict(zip(self._names, record.cells, strict=True))
            else:
                yield number, BadLine(_describe_miscount(record.cells, self._names, record.num_lines))
        return start

    def _read_header(self, record: _ParsedLine, number: int) -> None:
        self._remarks.columns = self._names = check_header(record.cells, "TSV", self._delimiter, self._is_chosen)
        if record.num_lines > 1:
            self._remarks.multiline_header.add(number, number + record.num_lines - 1)

    def _parse_record(self, line: str, start: int, number: int) -> _ParsedLine:
        """The record that begins in a line, which is the next but `start` of the buffer."""
        if fault := encoding_fault(line):
            return _ParsedLine(_split_bare(line, self._delimiter), fault=fault)
        if '"' not in line:
            return _ParsedLine(_split_bare(line, self._delimiter))
        cells, unquoted, literal = split_cells(line, self._delimiter)
        if self._names and literal and is_open([line], self._delimiter):
            record = self._join_lines(start, number)
            if record:
                return record
        num_columns, bare = len(self._names), _split_bare(line, self._delimiter)
        if len(cells) != num_columns == len(bare):  # two quotes that are text stand around a delimiter
            cells, unquoted, literal = bare, False, True
        if len(cells) == num_columns:
            self._doubt.note_single_line(line, number, self._delimiter)
        else:
            self._doubt.note_bad_line(line, number)
        if unquoted:
            self._remarks.unquoted_cells.add(number)
        if literal:
            self._remarks.literal_quotes.add(number)
        return _ParsedLine(cells)

    def _join_lines(self, start: int, number: int) -> _ParsedLine | None:
        """The record of several lines that begins here by its quotes; None if its lines are rows of their own."""
        num_columns = len(self._names)
        record = _parse_multiline_record(self._buffer.peek_from(start), num_columns, self._delimiter)
        if record is None:
            return None
        lines = list(islice(self._buffer.peek_from(start), record.num_lines))
        last = number + record.num_lines - 1
        row_like = _RowDetector(self._delimiter, num_columns)
        fault, doubtful = encoding_fault("".join(record.cells)), _may_be_joined(lines, row_like)
        if fault and not doubtful:
            return record._replace(fault=fault + _multiline_suffix(number, record.num_lines))
        are_rows = num_columns > 1 and row_like(lines[0]) and row_like(lines[-1], in_quotes=True)
        if fault or are_rows:
            self._remarks.separate_rows.add(number, last)
            return None
        self._doubt.note_multiline_row(number, last, doubtful)
        self._remarks.unquoted_cells.add(number)
        return record


def _split_bare(line: str, delimiter: str) -> list[str]:
    """Cells of a line of a TSV, with quotes as text."""
    return line.rstrip("\r\n").split(delimiter)


def _parse_multiline_record(lines: Iterable[str], num_columns: int, delimiter: str) -> _ParsedLine | None:
    """The record of several lines that the quotes of the first line begin; None if they are not closed well."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)
    if reader.line_num == 1 or len(cells) != num_columns:
        return None
    return _ParsedLine(cells, reader.line_num)


# ---- both


class _RowDetector:
    """Decides whether a line looks like a row: it has all cells, and digits in the columns that hold only digits."""

    def __init__(self, delimiter: str, num_columns: int, context_rows: Sequence[Sequence[str]] = ()) -> None:
        """context_rows: rows around the line. The first may be the header."""
        self.delimiter, self.num_columns = delimiter, num_columns
        self._context_rows = context_rows

    def __call__(self, line: str, *, in_quotes: bool = False) -> bool:
        """in_quotes: the line begins within a quoted cell."""
        if line.count(self.delimiter) < self.num_columns - 1:
            return False
        ways = (split_cells(line, self.delimiter, in_quotes=in_quotes).cells, split_loose_cells(line, self.delimiter))
        return any(
            len(cells) == self.num_columns and all(cells[index].strip('"').isdigit() for index in self._numeric_columns)
            for cells in ways
        )

    @cached_property
    def _numeric_columns(self) -> list[int]:
        rows = [cells for cells in self._context_rows if len(cells) == self.num_columns][1:]
        if len(rows) <= MIN_EVIDENCE_ROWS:
            return []
        return [index for index in range(self.num_columns) if all(row[index].isdigit() for row in rows)]


def _may_be_joined(lines: Sequence[str], row_like: _RowDetector) -> bool:
    """Whether stray quotes may have made one record of these lines.

    They may have, if the first and another line look like rows of their own, or if a quote is out of place.
    """
    if row_like(lines[0]) and (row_like(lines[-1], in_quotes=True) or any(map(row_like, lines[1:-1]))):
        return True
    return build_patterns(row_like.delimiter).record.fullmatch("".join(lines)) is None
