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
from gnomon.text_files.rows import Bad, Parsed, Remarks, Spans, counted, encoding_fault

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

CELLS = {end: re.compile(rf'"({INSIDE.pattern})"(?={end}|\Z)|([^{end}]*+)') for end in ",\t"}
"""Delimiter -> a cell of one line: in quotes that are well formed, or with quotes that are text."""

RECORDS = {
    end: re.compile(rf"(?:{cell})(?:{end}(?:{cell}))*+[\r\n]*")
    for end, cell in ((end, rf'"{INSIDE.pattern}"|[^"{end}\r\n]*+') for end in ",\t")
}
"""Delimiter -> a record without a quote in a cell that has none around it."""

NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

LOOSE_CELLS = {end: re.compile(rf'".*?"(?={end}|\Z)|[^{end}]*+', re.DOTALL) for end in ",\t"}
"""Delimiter -> a cell of one line whose writer put quotes around some cells and doubled none: `"a 5" disk, new"`."""

OPEN = "a quote opens a cell and none closes it"
AFTER = "text after the closing quote of a cell"

RETURN = re.compile(r"\r(?![\r\n]*\Z)")
"""A carriage return within a line: those at its end are a part of the line end, as \\r\\r\\n is."""


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


class _Doubt:
    """Whether quotes join what the file's writer kept apart: notes rows over several lines that may be several rows.

    Where they do, a stray quote shifts what is inside of cells and what is outside, until a quote is out of place: in a
    line that is bad, or within a cell that has no quotes around it. The rows over several lines before such a line are
    in doubt, unless a cell in quotes has shown since that all is well.
    """

    def __init__(self, joined: Spans) -> None:
        self._joined = joined
        self.since = 0
        """First line of the rows over several lines that nothing has confirmed; 0 where there are none."""

    def of_several(self, first: int, last: int, doubtful: bool) -> None:
        self.since = self.since or first
        if doubtful:
            self._joined.add(self.since, last)

    def of_one(self, line: str, number: int, delimiter: str) -> None:
        if self.since and '"' in line:
            if _cells_of(line, delimiter)[2]:
                self._note(number)
            elif '"' in line.replace('""', ""):
                self.since = 0

    def of_bad(self, line: str, number: int) -> None:
        if self.since and '"' in line:
            self._note(number)

    def _note(self, last: int) -> None:
        self._joined.add(self.since, last)
        self.since = 0


# ---- CSV


def parse_csv(lines: Iterable[str], remarks: Remarks | None = None) -> Parsed:
    """Rows of CSV by the names of its header. A row may go over several lines; it counts by its first. Empty lines are
    passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names, size, doubt = _Held(lines), list[str](), BLOCK, _Doubt(remarks.joined)
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
        if names and used == len(rows) and not (unclear or spaced or doubt.since):  # as nearly always
            width = len(names)
            for number, cells in enumerate(rows, held.number):
                if len(cells) == width:
                    yield number, dict(zip(names, cells, strict=False))  # they are of one length
                elif cells:
                    yield number, Bad(_miscount(cells, names, 1))
            ends, rows, start = [], [], used
        row_like = _RowLike(",", len(names), rows)
        for end, cells in zip(ends, rows, strict=True):
            first, number, start = start, held.number + start, end
            lines_used = end - first
            if not cells:
                continue
            reason = encoding_fault("".join(block[first:end])) if unclear else None
            if not names:
                if reason:
                    raise _header_error(number, reason)
                remarks.columns = names = _header(cells, ",")
                row_like = _RowLike(",", len(names), rows)
                if lines_used > 1:
                    remarks.header.add(number, number + lines_used - 1)
                continue
            lines_of_row = block[first:end]
            doubtful = lines_used > 1 and _may_be_joined(lines_of_row, row_like)
            if reason and len(cells) == len(names):
                reason += _further(number, lines_used)
                if not doubtful:
                    yield number, Bad(reason)
                    continue
                reason += f" (line {number} is left out, and the others are read by themselves)"
            if reason or len(cells) != len(names):
                doubt.of_bad(block[first], number)
                yield number, Bad(reason or _miscount(cells, names, lines_used))
                if lines_used > 1:  # its other lines may be whole by themselves
                    start, fault, size = first + 1, None, CAREFUL
                    break
                continue
            if lines_used > 1:
                doubt.of_several(number, number + lines_used - 1, doubtful)
            else:
                doubt.of_one(block[first], number, ",")
            if spaced and any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in cells):
                remarks.spaced.add(number)
            yield number, dict(zip(names, cells, strict=True))
        if fault:
            if not names:
                raise _header_error(held.number + start, fault)
            doubt.of_bad(block[start], held.number + start)
            yield held.number + start, Bad(fault)
            start, size = start + 1, CAREFUL
        held.use(start)


def _records(block: list[str]) -> tuple[list[int], list[list[str]], str | None]:
    """Of the records at the start of a block the lines after them and the cells; and what is wrong with the next, if it
    is.
    """
    ends: list[int] = []
    rows: list[list[str]] = []
    lines, returns = _without_returns(block)
    limit = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, for the whole process
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            rows.append([cell.replace(returns, "\r") for cell in cells] if returns else cells)
            ends.append(reader.line_num)
    except csv.Error:
        used = ends[-1] if ends else 0
        return ends, rows, OPEN if _is_open(block[used : used + 1], ",") else AFTER
    finally:
        csv.field_size_limit(limit)
    return ends, rows, None


def _without_returns(block: list[str]) -> tuple[list[str], str]:
    """The lines with another character for each carriage return that ends no line, which the csv module would refuse in
    a cell without quotes; and that character, "" where there is no such return.
    """
    if not any("\r" in line and RETURN.search(line) for line in block):
        return block, ""
    there = set("".join(block))
    unused = next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in there)
    return [RETURN.sub(unused, line) for line in block], unused


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
    return f"{counted(len(cells), 'field')}{over}, and the header has {len(names)}"


def _further(number: int, lines: int) -> str:
    """What is added to the fault of a record that goes over several lines."""
    return f", in a row that its quotes let go on to line {number + lines - 1:,}" if lines > 1 else ""


# ---- TSV


def parse_tsv(lines: Iterable[str], remarks: Remarks | None = None) -> Parsed:
    """Rows of TSV by the names of its header. Quotes count where they are well formed around a cell, and are text
    elsewhere. Empty lines are passed over.

    Raises:
        InputError: a header that cannot be used.
    """
    remarks = remarks or Remarks()
    held, names, doubt = _Held(lines), list[str](), _Doubt(remarks.joined)
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
            if reason or '"' not in line:
                cells = line.rstrip("\r\n").split("\t")
            else:
                cells, count, reason = _quoted(held, start, number, len(names), remarks, doubt)
            start += count
            if reason:
                if not names:
                    raise _header_error(number, reason)
                yield number, Bad(reason)
            elif cells == [""] and count == 1 and '"' not in line:
                continue
            elif not names:
                remarks.columns = names = _header(cells, "\t")
                if count > 1:
                    remarks.header.add(number, number + count - 1)
            elif len(cells) == len(names):
                yield number, dict(zip(names, cells, strict=True))
            else:
                yield number, Bad(_miscount(cells, names, count))
        held.use(start)


def _quoted(
    held: _Held, start: int, number: int, width: int, remarks: Remarks, doubt: _Doubt
) -> tuple[list[str], int, str | None]:
    """Cells of a line that holds quotes, how many lines they take, and why they cannot be used."""
    line = next(held.ahead(start))
    cells, unquoted, literal = _cells_of(line, "\t")
    if width and literal and _is_open([line], "\t") and (found := _over_lines(held, start, width)):
        several, count = found
        lines = list(islice(held.ahead(start), count))
        row_like = _RowLike("\t", width)
        fault, doubtful = encoding_fault("".join(several)), _may_be_joined(lines, row_like)
        apart = width > 1 and row_like(lines[0]) and row_like(lines[-1], inside=True)
        if fault and not doubtful:
            return several, count, fault + _further(number, count)
        if not (fault or apart):
            doubt.of_several(number, number + count - 1, doubtful)
            remarks.unquoted.add(number)
            return several, count, None
        remarks.separate.add(number, number + count - 1)
    bare = line.rstrip("\r\n").split("\t")
    if len(cells) != width == len(bare):  # two quotes that are text stand around a tab
        cells, unquoted, literal = bare, False, True
    if len(cells) == width:
        doubt.of_one(line, number, "\t")
    else:
        doubt.of_bad(line, number)
    if unquoted:
        remarks.unquoted.add(number)
    if literal:
        remarks.literal.add(number)
    return cells, 1, None


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
    return cells, reader.line_num


# ---- both


def _cells_of(line: str, delimiter: str, *, inside: bool = False) -> tuple[list[str], bool, bool]:
    """Cells of one line by itself, whether quotes were taken off one, and whether another has quotes that are text.

    Args:
        inside: the line begins within a quoted cell, whose closing quote counts as text.
    """
    line = line.rstrip("\r\n")
    cells: list[str] = []
    unquoted = literal = False
    at = 0
    if inside:
        at = _after(INSIDE, line, 0) + 1
        cells, literal = line[:at].split(delimiter), True
        if line[at : at + 1] != delimiter:
            return cells, unquoted, literal
        at += 1
    for cell in _matched(CELLS[delimiter], line, delimiter, at):
        if cell[1] is not None:
            cells.append(cell[1].replace('""', '"'))
            unquoted = True
        else:
            cells.append(cell[2])
            literal = literal or '"' in cell[2]
    return cells, unquoted, literal


def _loose_cells_of(line: str, delimiter: str) -> list[str]:
    """Cells of one line by itself, with their quotes, as a writer who doubles none would mean them."""
    return [cell[0] for cell in _matched(LOOSE_CELLS[delimiter], line.rstrip("\r\n"), delimiter)]


def _matched(pattern: re.Pattern[str], line: str, delimiter: str, at: int = 0) -> Iterator[re.Match[str]]:
    """Cell after cell, from a place on, up to one that no delimiter follows."""
    while True:
        cell = pattern.match(line, at)
        assert cell, "the pattern matches an empty cell"
        yield cell
        at = cell.end()
        if line[at : at + 1] != delimiter:
            return
        at += 1


class _RowLike:
    """Whether a line looks like a row: it has all cells, and numbers in the columns that hold nothing else around."""

    def __init__(self, delimiter: str, width: int, around: Sequence[Sequence[str]] = ()) -> None:
        self.delimiter, self.width = delimiter, width
        self._around = around

    def __call__(self, line: str, *, inside: bool = False) -> bool:
        """inside: the line begins within a quoted cell."""
        if line.count(self.delimiter) < self.width - 1:
            return False
        ways = (_cells_of(line, self.delimiter, inside=inside)[0], _loose_cells_of(line, self.delimiter))
        return any(
            len(cells) == self.width and all(cells[at].strip('"').isdigit() for at in self._numeric) for cells in ways
        )

    @cached_property
    def _numeric(self) -> list[int]:
        known = [cells for cells in self._around if len(cells) == self.width][1:]  # the first may be the header
        return [at for at in range(self.width) if all(row[at].isdigit() for row in known)] if known[EVIDENCE:] else []


def _may_be_joined(lines: Sequence[str], row_like: _RowLike) -> bool:
    """Whether stray quotes may have made one record of these lines: the first and another look like rows of their own,
    or a quote is out of place.
    """
    if row_like(lines[0]) and (row_like(lines[-1], inside=True) or any(map(row_like, lines[1:-1]))):
        return True
    return RECORDS[row_like.delimiter].fullmatch("".join(lines)) is None


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
