"""CSV and TSV: rows of cells, some of them in quotes. The rules are in docs/text-files.md.

Python's csv module reads what is whole. Where a record is not, its first line is bad alone, and reading goes on at the
next line: a quote that nothing closes swallows no row.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

from gnomon.errors import InputError
from gnomon.text_files.rows import BadLine, LineSpans, NumberedRows, Remarks, encoding_fault, pluralize

BLOCK_LINES = 1024
"""Lines that are parsed at once."""

CAREFUL_LINES = 16
"""Lines that are parsed at once after one that is bad: more may be."""

MAX_RECORD_CHARS = 1 << 24
"""Characters of a record that goes over several lines; one of a single line may be longer."""

MIN_EVIDENCE_ROWS = 8
"""Rows with a number in a column, after which a row without one there is none."""

QUOTED_BODY = re.compile(r'[^"]*+(?:""[^"]*+)*+')
"""What follows an opening quote, up to the closing one."""

CELL_PATTERNS = {end: re.compile(rf'"({QUOTED_BODY.pattern})"(?={end}|\Z)|([^{end}]*+)') for end in ",\t"}
"""Delimiter -> a cell of one line: in quotes that are well formed, or with quotes that are text."""

RECORD_PATTERNS = {
    end: re.compile(rf"(?:{cell})(?:{end}(?:{cell}))*+[\r\n]*")
    for end, cell in ((end, rf'"{QUOTED_BODY.pattern}"|[^"{end}\r\n]*+') for end in ",\t")
}
"""Delimiter -> a record without a quote in a cell that has none around it."""

DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

LOOSE_CELL_PATTERNS = {end: re.compile(rf'".*?"(?={end}|\Z)|[^{end}]*+', re.DOTALL) for end in ",\t"}
"""Delimiter -> a cell of one line whose writer put quotes around some cells and doubled none: `"a 5" disk, new"`."""

UNCLOSED_QUOTE = "a quote opens a cell and none closes it"
TEXT_AFTER_QUOTE = "text after the closing quote of a cell"

INNER_RETURN = re.compile(r"\r(?![\r\n]*\Z)")
"""A carriage return within a line: those at its end are a part of the line end, as \\r\\r\\n is."""


class _LineBuffer:
    """Lines that were read and are not used up: a record may need many, and one that is bad gives them back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._source = iter(lines)
        self._lines: list[str] = []
        self._used = 0
        self.line_number = 1
        """Of the next line."""

    def peek(self, count: int) -> list[str]:
        """At most `count` of the next lines, fewer at the end."""
        lacking = self._used + count - len(self._lines)
        if lacking > 0:
            self._lines += islice(self._source, lacking)
        return self._lines[self._used : self._used + count]

    def consume(self, count: int) -> None:
        self._used += count
        self.line_number += count
        if self._used > BLOCK_LINES and 2 * self._used > len(self._lines):
            del self._lines[: self._used]
            self._used = 0

    def peek_from(self, start: int) -> Iterator[str]:
        """Lines from the next but `start` on, as many as a record may have."""
        size = 0
        while size <= MAX_RECORD_CHARS and (line := self._get_line(self._used + start)) is not None:
            yield line
            size += len(line)
            start += 1

    def _get_line(self, place: int) -> str | None:
        if place >= len(self._lines):
            self._lines += islice(self._source, BLOCK_LINES)
        return self._lines[place] if place < len(self._lines) else None


class _QuoteDoubt:
    """Whether quotes join what the file's writer kept apart: notes rows over several lines that may be several rows.

    Where they do, a stray quote shifts what is inside of cells and what is outside, until a quote is out of place: in a
    line that is bad, or within a cell that has no quotes around it. The rows over several lines before such a line are
    in doubt, unless a cell in quotes has shown since that all is well.
    """

    def __init__(self, joined: LineSpans) -> None:
        self._joined = joined
        self.suspect_since = 0
        """First line of the rows over several lines that nothing has confirmed; 0 where there are none."""

    def note_multiline_row(self, first: int, last: int, doubtful: bool) -> None:
        self.suspect_since = self.suspect_since or first
        if doubtful:
            self._joined.add(self.suspect_since, last)

    def note_single_line(self, line: str, number: int, delimiter: str) -> None:
        if self.suspect_since and '"' in line:
            if _split_cells(line, delimiter)[2]:
                self._flag_span(number)
            elif '"' in line.replace('""', ""):
                self.suspect_since = 0

    def note_bad_line(self, line: str, number: int) -> None:
        if self.suspect_since and '"' in line:
            self._flag_span(number)

    def _flag_span(self, last: int) -> None:
        self._joined.add(self.suspect_since, last)
        self.suspect_since = 0


# ---- CSV


def parse_csv(lines: Iterable[str], remarks: Remarks | None = None) -> NumberedRows:
    """Rows of CSV by the names of its header. A row may go over several lines; it counts by its first. Empty lines are
    passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names, size, doubt = _LineBuffer(lines), list[str](), BLOCK_LINES, _QuoteDoubt(remarks.joined_rows)
    while block := held.peek(size):
        ends, rows, fault = _parse_records(block)
        used = ends[-1] if ends else 0
        if fault and len(block) == size and _is_open(block[used:], ","):  # its end may be in lines that come
            if not rows and sum(map(len, block)) <= MAX_RECORD_CHARS:
                size *= 2
                continue
            fault = None if rows else fault
        text = "".join(block[:used])
        unclear = encoding_fault(text) is not None
        spaced = ', "' in text or '\n "' in text
        size, start = min(BLOCK_LINES, 4 * size), 0
        if names and used == len(rows) and not (unclear or spaced or doubt.suspect_since):  # as nearly always
            width = len(names)
            for number, cells in enumerate(rows, held.line_number):
                if len(cells) == width:
                    yield number, dict(zip(names, cells, strict=False))  # they are of one length
                elif cells:
                    yield number, BadLine(_describe_miscount(cells, names, 1))
            ends, rows, start = [], [], used
        row_like = _RowDetector(",", len(names), rows)
        for end, cells in zip(ends, rows, strict=True):
            first, number, start = start, held.line_number + start, end
            lines_used = end - first
            if not cells:
                continue
            reason = encoding_fault("".join(block[first:end])) if unclear else None
            if not names:
                if reason:
                    raise _header_error(number, reason)
                remarks.columns = names = _check_header(cells, ",")
                row_like = _RowDetector(",", len(names), rows)
                if lines_used > 1:
                    remarks.multiline_header.add(number, number + lines_used - 1)
                continue
            lines_of_row = block[first:end]
            doubtful = lines_used > 1 and _may_be_joined(lines_of_row, row_like)
            if reason and len(cells) == len(names):
                reason += _multiline_suffix(number, lines_used)
                if not doubtful:
                    yield number, BadLine(reason)
                    continue
                reason += f" (line {number} is left out, and the others are read by themselves)"
            if reason or len(cells) != len(names):
                doubt.note_bad_line(block[first], number)
                yield number, BadLine(reason or _describe_miscount(cells, names, lines_used))
                if lines_used > 1:  # its other lines may be whole by themselves
                    start, fault, size = first + 1, None, CAREFUL_LINES
                    break
                continue
            if lines_used > 1:
                doubt.note_multiline_row(number, number + lines_used - 1, doubtful)
            else:
                doubt.note_single_line(block[first], number, ",")
            if spaced and any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in cells):
                remarks.spaced_quotes.add(number)
            yield number, dict(zip(names, cells, strict=True))
        if fault:
            if not names:
                raise _header_error(held.line_number + start, fault)
            doubt.note_bad_line(block[start], held.line_number + start)
            yield held.line_number + start, BadLine(fault)
            start, size = start + 1, CAREFUL_LINES
        held.consume(start)


def _parse_records(block: list[str]) -> tuple[list[int], list[list[str]], str | None]:
    """Of the records at the start of a block the lines after them and the cells; and what is wrong with the next, if it
    is.
    """
    ends: list[int] = []
    rows: list[list[str]] = []
    lines, returns = _replace_returns(block)
    limit = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, for the whole process
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            rows.append([cell.replace(returns, "\r") for cell in cells] if returns else cells)
            ends.append(reader.line_num)
    except csv.Error:
        used = ends[-1] if ends else 0
        return ends, rows, UNCLOSED_QUOTE if _is_open(block[used : used + 1], ",") else TEXT_AFTER_QUOTE
    finally:
        csv.field_size_limit(limit)
    return ends, rows, None


def _replace_returns(block: list[str]) -> tuple[list[str], str]:
    """The lines with another character for each carriage return that ends no line, which the csv module would refuse in
    a cell without quotes; and that character, "" where there is no such return.
    """
    if not any("\r" in line and INNER_RETURN.search(line) for line in block):
        return block, ""
    there = set("".join(block))
    unused = next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in there)
    return [INNER_RETURN.sub(unused, line) for line in block], unused


def _is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the record that begins in the first of these lines goes on after the last."""
    inside = False
    for line in lines:
        at = 0
        while True:
            if inside:
                at = _match_end(QUOTED_BODY, line, at)
                if at == len(line):
                    break
                at, inside = at + 1, False
                if line[at : at + 1] != delimiter:
                    return False  # it ends here, or text follows
                at += 1
            if line.startswith('"', at):
                at, inside = at + 1, True
                continue
            at = line.find(delimiter, at) + 1
            if not at:
                return False
    return inside


def _describe_miscount(cells: Sequence[str], names: Sequence[str], lines: int) -> str:
    over = f" over {lines:,} lines" if lines > 1 else ""
    return f"{pluralize(len(cells), 'field')}{over}, and the header has {len(names)}"


def _multiline_suffix(number: int, lines: int) -> str:
    """What is added to the fault of a record that goes over several lines."""
    return f", in a row that its quotes let go on to line {number + lines - 1:,}" if lines > 1 else ""


# ---- TSV


def parse_tsv(lines: Iterable[str], remarks: Remarks | None = None) -> NumberedRows:
    """Rows of TSV by the names of its header. Quotes count where they are well formed around a cell, and are text
    elsewhere. Empty lines are passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names, doubt = _LineBuffer(lines), list[str](), _QuoteDoubt(remarks.joined_rows)
    while block := held.peek(BLOCK_LINES):
        start = 0
        text = "".join(block)
        if names and '"' not in text and not encoding_fault(text):  # as nearly always
            width = len(names)
            for number, line in enumerate(block, held.line_number):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) == width and cells != [""]:
                    yield number, dict(zip(names, cells, strict=False))  # they are of one length
                elif cells != [""]:
                    yield number, BadLine(_describe_miscount(cells, names, 1))
            start = len(block)
        while start < len(block):
            line, number, count = block[start], held.line_number + start, 1
            reason = encoding_fault(line)
            if reason or '"' not in line:
                cells = line.rstrip("\r\n").split("\t")
            else:
                cells, count, reason = _parse_quoted_line(held, start, number, len(names), remarks, doubt)
            start += count
            if reason:
                if not names:
                    raise _header_error(number, reason)
                yield number, BadLine(reason)
            elif cells == [""] and count == 1 and '"' not in line:
                continue
            elif not names:
                remarks.columns = names = _check_header(cells, "\t")
                if count > 1:
                    remarks.multiline_header.add(number, number + count - 1)
            elif len(cells) == len(names):
                yield number, dict(zip(names, cells, strict=True))
            else:
                yield number, BadLine(_describe_miscount(cells, names, count))
        held.consume(start)


def _parse_quoted_line(
    buffer: _LineBuffer, start: int, number: int, num_columns: int, remarks: Remarks, doubt: _QuoteDoubt
) -> tuple[list[str], int, str | None]:
    """Cells of a line that holds quotes, how many lines they take, and why they cannot be used."""
    line = next(buffer.peek_from(start))
    cells, unquoted, literal = _split_cells(line, "\t")
    if (
        num_columns
        and literal
        and _is_open([line], "\t")
        and (found := _parse_multiline_record(buffer, start, num_columns))
    ):
        several, count = found
        lines = list(islice(buffer.peek_from(start), count))
        row_like = _RowDetector("\t", num_columns)
        fault, doubtful = encoding_fault("".join(several)), _may_be_joined(lines, row_like)
        apart = num_columns > 1 and row_like(lines[0]) and row_like(lines[-1], inside=True)
        if fault and not doubtful:
            return several, count, fault + _multiline_suffix(number, count)
        if not (fault or apart):
            doubt.note_multiline_row(number, number + count - 1, doubtful)
            remarks.unquoted_cells.add(number)
            return several, count, None
        remarks.separate_rows.add(number, number + count - 1)
    bare = line.rstrip("\r\n").split("\t")
    if len(cells) != num_columns == len(bare):  # two quotes that are text stand around a tab
        cells, unquoted, literal = bare, False, True
    if len(cells) == num_columns:
        doubt.note_single_line(line, number, "\t")
    else:
        doubt.note_bad_line(line, number)
    if unquoted:
        remarks.unquoted_cells.add(number)
    if literal:
        remarks.literal_quotes.add(number)
    return cells, 1, None


def _parse_multiline_record(buffer: _LineBuffer, start: int, num_columns: int) -> tuple[list[str], int] | None:
    """The record of several lines that quotes make of what begins here, where its last line closes them well."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(buffer.peek_from(start), delimiter="\t", strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)
    if reader.line_num == 1 or len(cells) != num_columns:
        return None
    return cells, reader.line_num


# ---- both


def _split_cells(line: str, delimiter: str, *, inside: bool = False) -> tuple[list[str], bool, bool]:
    """Cells of one line by itself, whether quotes were taken off one, and whether another has quotes that are text.

    Args:
        inside: the line begins within a quoted cell, whose closing quote counts as text.
    """
    line = line.rstrip("\r\n")
    cells: list[str] = []
    unquoted = literal = False
    at = 0
    if inside:
        at = _match_end(QUOTED_BODY, line, 0) + 1
        cells, literal = line[:at].split(delimiter), True
        if line[at : at + 1] != delimiter:
            return cells, unquoted, literal
        at += 1
    for cell in _match_cells(CELL_PATTERNS[delimiter], line, delimiter, at):
        if cell[1] is not None:
            cells.append(cell[1].replace('""', '"'))
            unquoted = True
        else:
            cells.append(cell[2])
            literal = literal or '"' in cell[2]
    return cells, unquoted, literal


def _split_loose_cells(line: str, delimiter: str) -> list[str]:
    """Cells of one line by itself, with their quotes, as a writer who doubles none would mean them."""
    return [cell[0] for cell in _match_cells(LOOSE_CELL_PATTERNS[delimiter], line.rstrip("\r\n"), delimiter)]


def _match_cells(pattern: re.Pattern[str], line: str, delimiter: str, at: int = 0) -> Iterator[re.Match[str]]:
    """Cell after cell, from a place on, up to one that no delimiter follows."""
    while True:
        cell = pattern.match(line, at)
        assert cell, "the pattern matches an empty cell"
        yield cell
        at = cell.end()
        if line[at : at + 1] != delimiter:
            return
        at += 1


class _RowDetector:
    """Whether a line looks like a row: it has all cells, and numbers in the columns that hold nothing else around."""

    def __init__(self, delimiter: str, num_columns: int, context_rows: Sequence[Sequence[str]] = ()) -> None:
        self.delimiter, self.num_columns = delimiter, num_columns
        self._context_rows = context_rows

    def __call__(self, line: str, *, inside: bool = False) -> bool:
        """inside: the line begins within a quoted cell."""
        if line.count(self.delimiter) < self.num_columns - 1:
            return False
        ways = (_split_cells(line, self.delimiter, inside=inside)[0], _split_loose_cells(line, self.delimiter))
        return any(
            len(cells) == self.num_columns and all(cells[at].strip('"').isdigit() for at in self._numeric_columns)
            for cells in ways
        )

    @cached_property
    def _numeric_columns(self) -> list[int]:
        known = [cells for cells in self._context_rows if len(cells) == self.num_columns][
            1:
        ]  # the first may be the header
        return (
            [at for at in range(self.num_columns) if all(row[at].isdigit() for row in known)]
            if known[MIN_EVIDENCE_ROWS:]
            else []
        )


def _may_be_joined(lines: Sequence[str], row_like: _RowDetector) -> bool:
    """Whether stray quotes may have made one record of these lines: the first and another look like rows of their own,
    or a quote is out of place.
    """
    if row_like(lines[0]) and (row_like(lines[-1], inside=True) or any(map(row_like, lines[1:-1]))):
        return True
    return RECORD_PATTERNS[row_like.delimiter].fullmatch("".join(lines)) is None


def _check_header(cells: list[str], delimiter: str) -> list[str]:
    form = {",": "CSV", "\t": "TSV"}[delimiter]
    twice = [name for name in cells if cells.count(name) > 1]
    if twice:
        raise InputError(f"the header names {twice[0]!r} twice; every column needs its own name.")
    for other in DELIMITER_NAMES:
        if other != delimiter and sum(cell.count(other) for cell in cells) > len(cells) - 1:
            if delimiter == "\t" and other == "," and len(cells) > 1:
                continue
            shown = delimiter.join(cells)
            raise InputError(  # else whole lines would be taken for texts
                f"the {form} header is {shown!r}; the fields of a {form} are parted by {DELIMITER_NAMES[delimiter]} here, and "
                f"these look parted by {DELIMITER_NAMES[other]}. Write the file with {DELIMITER_NAMES[delimiter]}, or as .jsonl."
            )
    return cells


def _header_error(number: int, reason: str) -> InputError:
    return InputError(f"the header, line {number}, cannot be read: {reason}. Mend it: every row goes by its names.")


def _match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found, "the pattern matches nothing, too"
    return found.end()
