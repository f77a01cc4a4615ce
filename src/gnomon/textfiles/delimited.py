"""CSV and TSV: rows of cells, some of them in quotes. The rules are in docs/text-files.md.

Python's csv module reads what is whole. Where a record is not, its first line is bad alone, and reading goes on at the
next line: a quote that nothing closes swallows no row.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from gnomon.errors import InputError
from gnomon.textfiles.rows import Bad, Parsed, Remarks, encoding_fault

BLOCK = 1024
"""Lines that are parsed at once."""

CAREFUL = 16
"""Lines that are parsed at once after one that is bad: more may be."""

LONGEST = 1 << 24
"""Characters of a record that goes over several lines; one of a single line may be longer."""

EVIDENCE = 8
"""Rows with a number in a column, after which a row without one there is none."""

INSIDE = re.compile(r'[^"]*+(?:""[^"]*+)*+')
"""What follows an opening quote, up to the closing one."""

CELLS = {
    delimiter: re.compile(rf'"({INSIDE.pattern})"(?=[{delimiter}\r\n]|\Z)|([^{delimiter}\r\n]*+)')
    for delimiter in ",\t"
}
"""Delimiter -> a cell in quotes that are well formed, or one whose quotes are text."""

NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

OPEN = "a quote opens a cell and none closes it"
AFTER = "text after the closing quote of a cell"


class _Held:
    """Lines that were read and are not used up: a record may need many, and one that is bad gives them back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._source = iter(lines)
        self._lines: list[str] = []
        self._used = 0
        self.number = 1
        """Of the next line."""

    def look(self, count: int) -> list[str]:
        """At most `count` of the next lines, fewer at the end."""
        lacking = self._used + count - len(self._lines)
        if lacking > 0:
            self._lines += islice(self._source, lacking)
        return self._lines[self._used : self._used + count]

    def use(self, count: int) -> None:
        self._used += count
        self.number += count
        if self._used > BLOCK and 2 * self._used > len(self._lines):
            del self._lines[: self._used]
            self._used = 0

    def ahead(self, start: int) -> Iterator[str]:
        """Lines from the next but `start` on, as many as a record may have."""
        size = 0
        while size <= LONGEST and (line := self._line(self._used + start)) is not None:
            yield line
            size += len(line)
            start += 1

    def _line(self, place: int) -> str | None:
        if place >= len(self._lines):
            self._lines += islice(self._source, BLOCK)
        return self._lines[place] if place < len(self._lines) else None


# ---- CSV


def parse_csv(lines: Iterable[str], remarks: Remarks | None = None) -> Parsed:
    """Rows of CSV by the names of its header. A row may go over several lines; it counts by its first. Empty lines are
    passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names, size = _Held(lines), list[str](), BLOCK
    while block := held.look(size):
        ends, rows, fault = _records(block)
        used = ends[-1] if ends else 0
        if fault and len(block) == size and _is_open(block[used:], ","):  # its end may be in lines that come
            if not rows and sum(map(len, block)) <= LONGEST:
                size *= 2
                continue
            fault = None if rows else fault
        text = "".join(block[:used])
        unclear = encoding_fault(text) is not None
        spaced = ', "' in text or '\n "' in text
        size, start = min(BLOCK, 4 * size), 0
        if names and not unclear and not spaced and used == len(rows):  # as nearly always: a record on every line
            width = len(names)
            for number, cells in enumerate(rows, held.number):
                if len(cells) == width:
                    yield number, dict(zip(names, cells, strict=False))  # they are of one length
                elif cells:
                    yield number, Bad(_miscount(cells, names, 1))
            ends, rows, start = [], [], used
        for end, cells in zip(ends, rows, strict=True):
            first, number, start = start, held.number + start, end
            lines_used = end - first
            reason = encoding_fault("".join(block[first:end])) if unclear else None
            if not names and cells:
                if reason:
                    raise _header_error(number, reason)
                names = _header(cells, ",")
                if lines_used > 1:
                    remarks.header.add(number, number + lines_used - 1)
                continue
            if reason or len(cells) != len(names):
                if cells:
                    yield number, Bad(reason or _miscount(cells, names, lines_used))
                if lines_used > 1:  # its other lines may be whole by themselves
                    start, fault, size = first + 1, None, CAREFUL
                    break
                continue
            if lines_used > 1 and _could_be_rows(block[first], block[end - 1], ",", len(names), rows):
                remarks.joined.add(number, number + lines_used - 1)
            if spaced and any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in cells):
                remarks.spaced.add(number)
            yield number, dict(zip(names, cells, strict=True))
        if fault:
            if not names:
                raise _header_error(held.number + start, fault)
            yield held.number + start, Bad(fault)
            start, size = start + 1, CAREFUL
        held.use(start)


def _records(block: list[str]) -> tuple[list[int], list[list[str]], str | None]:
    """Of the records at the start of a block the lines after them and the cells; and what is wrong with the next, if it
    is.
    """
    ends: list[int] = []
    rows: list[list[str]] = []
    limit = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, for the whole process
    reader = csv.reader(block, strict=True)
    try:
        for cells in reader:
            rows.append(cells)
            ends.append(reader.line_num)
    except csv.Error:
        used = ends[-1] if ends else 0
        return ends, rows, AFTER if reader.line_num - used == 1 and not _is_open(block[used : used + 1], ",") else OPEN
    finally:
        csv.field_size_limit(limit)
    return ends, rows, None


def _is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the record that begins in the first of these lines goes on after the last."""
    inside = False
    for line in lines:
        at = 0
        while True:
            if inside:
                at = _after(INSIDE, line, at)
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


def _miscount(cells: Sequence[str], names: Sequence[str], lines: int) -> str:
    over = f" over {lines:,} lines" if lines > 1 else ""
    return f"{len(cells)} fields{over}, and the header has {len(names)}"


# ---- TSV


def parse_tsv(lines: Iterable[str], remarks: Remarks | None = None) -> Parsed:
    """Rows of TSV by the names of its header. Quotes count where they are well formed around a cell, and are text
    elsewhere. Empty lines are passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names = _Held(lines), list[str]()
    while block := held.look(BLOCK):
        start = 0
        text = "".join(block)
        if names and '"' not in text and not encoding_fault(text):  # as nearly always
            width = len(names)
            for number, line in enumerate(block, held.number):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) == width and cells != [""]:
                    yield number, dict(zip(names, cells, strict=False))  # they are of one length
                elif cells != [""]:
                    yield number, Bad(_miscount(cells, names, 1))
            start = len(block)
        while start < len(block):
            line, number, count = block[start], held.number + start, 1
            reason = encoding_fault(line)
            if '"' not in line:
                cells = line.rstrip("\r\n").split("\t")
            else:
                cells, count = _quoted(held, start, number, len(names), remarks)
            start += count
            if reason:
                if not names:
                    raise _header_error(number, reason)
                yield number, Bad(reason)
            elif cells == [""] and count == 1 and '"' not in line:
                continue
            elif not names:
                names = _header(cells, "\t")
                if count > 1:
                    remarks.header.add(number, number + count - 1)
            elif len(cells) == len(names):
                yield number, dict(zip(names, cells, strict=True))
            else:
                yield number, Bad(_miscount(cells, names, count))
        held.use(start)


def _quoted(held: _Held, start: int, number: int, width: int, remarks: Remarks) -> tuple[list[str], int]:
    """Cells of a line that holds quotes, and how many lines they take."""
    line = next(held.ahead(start))
    cells, unquoted, literal = _cells_of(line, "\t")
    if width and literal and _is_open([line], "\t") and (found := _over_lines(held, start, width)):
        several, count = found
        last = list(islice(held.ahead(start), count))[-1]
        if width == 1 or not _could_be_rows(line, last, "\t", width, []):
            if width == 1:
                remarks.joined.add(number, number + count - 1)
            remarks.unquoted.add(number)
            return several, count
        remarks.separate.add(number, number + count - 1)
    if unquoted:
        remarks.unquoted.add(number)
    if literal:
        remarks.literal.add(number)
    return cells, 1


def _over_lines(held: _Held, start: int, width: int) -> tuple[list[str], int] | None:
    """The record of several lines that quotes make of what begins here, where its last line closes them well."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(held.ahead(start), delimiter="\t", strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)
    if reader.line_num == 1 or len(cells) != width:
        return None
    if any(encoding_fault(cell) for cell in cells):
        return None
    return cells, reader.line_num


# ---- both


def _cells_of(line: str, delimiter: str, *, inside: bool = False) -> tuple[list[str], bool, bool]:
    """Cells of one line by itself, whether quotes were taken off one, and whether another has quotes that are text.

    Args:
        inside: the line begins within a quoted cell, whose closing quote counts as text.
    """
    cells: list[str] = []
    unquoted = literal = False
    at = 0
    if inside:
        at = _after(INSIDE, line, 0) + 1
        cells, literal = line[:at].split(delimiter), True
        if line[at : at + 1] != delimiter:
            return cells, unquoted, literal
        at += 1
    while True:
        cell = CELLS[delimiter].match(line, at)
        assert cell, "the pattern matches an empty cell"
        if cell[1] is not None:
            cells.append(cell[1].replace('""', '"'))
            unquoted = True
        else:
            cells.append(cell[2])
            literal = literal or '"' in cell[2]
        at = cell.end()
        if line[at : at + 1] != delimiter:
            return cells, unquoted, literal
        at += 1


def _could_be_rows(first: str, last: str, delimiter: str, width: int, around: Sequence[Sequence[str]]) -> bool:
    """Whether the first and the last line of a record look like rows of their own, so that stray quotes may have joined
    them: each has all cells, and numbers in the columns that hold nothing else in the rows around.
    """
    if first.count(delimiter) < width - 1 or last.count(delimiter) < width - 1:
        return False
    alone = [_cells_of(first, delimiter)[0], _cells_of(last, delimiter, inside=True)[0]]
    if any(len(cells) != width for cells in alone):
        return False
    known = [cells for cells in around if len(cells) == width][1:]  # the first may be the header
    if len(known) < EVIDENCE:
        return True
    numeric = [column for column in range(width) if all(row[column].isdigit() for row in known)]
    return all(cells[column].strip('"').isdigit() for cells in alone for column in numeric)


def _header(cells: list[str], delimiter: str) -> list[str]:
    form = {",": "CSV", "\t": "TSV"}[delimiter]
    twice = [name for name in cells if cells.count(name) > 1]
    if twice:
        raise InputError(f"the header names {twice[0]!r} twice; every column needs its own name.")
    for other in NAMES:
        if other != delimiter and sum(cell.count(other) for cell in cells) > len(cells) - 1:
            if delimiter == "\t" and other == "," and len(cells) > 1:
                continue
            shown = delimiter.join(cells)
            raise InputError(  # else whole lines would be taken for texts
                f"the {form} header is {shown!r}; the fields of a {form} are parted by {NAMES[delimiter]} here, and "
                f"these look parted by {NAMES[other]}. Write the file with {NAMES[delimiter]}, or as .jsonl."
            )
    return cells


def _header_error(number: int, reason: str) -> InputError:
    return InputError(f"the header, line {number}, cannot be read: {reason}. Mend it: every row goes by its names.")


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found, "the pattern matches nothing, too"
    return found.end()
