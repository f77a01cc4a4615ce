"""What every reader of a format yields: numbered rows, lines that cannot be used, and remarks on what was read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gnomon.warn import warn_caller

Row = dict[str, Any]

MAX_LISTED = 3
"""Lines that a message spells out."""


class BadLine(NamedTuple):
    """Why a line cannot be used."""

    reason: str


NumberedRows = Iterator[tuple[int, Row | BadLine]]
"""(line number, row)"""

LineSpan = tuple[int, int]
"""First and last line."""


@dataclass
class LineNumbers:
    """How many lines there are of a sort, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list[int])

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(line)

    def __str__(self) -> str:
        more = f" and {self.count - MAX_LISTED:,} more" if self.count > MAX_LISTED else ""
        return f"line{'' if self.count == 1 else 's'} {', '.join(map(str, self.first))}{more}"


@dataclass
class LineSpans:
    """How many rows go over several lines, and the longest of them: one that a stray quote made stands out."""

    count: int = 0
    longest: list[LineSpan] = field(default_factory=list[LineSpan])
    _first: int = 0

    def add(self, first: int, last: int) -> None:
        """A span; a longer one with the same first line takes the place of what was added last."""
        if first == self._first:
            self.longest = [span for span in self.longest if span[0] != first]
        else:
            self.count += 1
        self._first = first
        self.longest = sorted([*self.longest, (first, last)], key=lambda span: span[0] - span[1])[:MAX_LISTED]

    def __str__(self) -> str:
        more = f" and {self.count - MAX_LISTED:,} more" if self.count > MAX_LISTED else ""
        return f"lines {', '.join(f'{first} to {last}' for first, last in self.longest)}{more}"


@dataclass
class Remarks:
    """Choices that a reader made where a file can be read in two ways. Not errors: each kind is one notice per file."""

    columns: list[str] = field(default_factory=list[str])
    """Names in the header of a CSV or TSV."""
    joined_rows: LineSpans = field(default_factory=LineSpans)
    """Lines with rows over several lines that may be several rows each."""
    separate_rows: LineSpans = field(default_factory=LineSpans)
    """Lines of a TSV that were read as rows, though quotes could join them into one."""
    multiline_header: LineSpans = field(default_factory=LineSpans)
    """A header that goes over several lines."""
    unquoted_cells: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a TSV with cells whose quotes were taken off."""
    literal_quotes: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a TSV with quotes that are text, which no writer of quoted cells leaves."""
    spaced_quotes: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a CSV with a space before a quote, which makes the quote text."""
    carriage_returns: LineNumbers = field(default_factory=LineNumbers)
    """Lines of plain text that hold a carriage return."""

    def warn(self, name: str) -> None:
        """A Notice for each sort of remark."""
        if self.multiline_header.count:
            warn_caller(
                f"{name}: the header goes over {self.multiline_header}, as its quotes say. {MISSING_QUOTE_HINT}"
            )
        if self.joined_rows.count:
            warn_caller(
                f"{name}: stray quotes may have made one row of several, in {self.joined_rows}. They were read as the "
                f"quotes say. {MISSING_QUOTE_HINT}"
            )
        if self.separate_rows.count:
            warn_caller(
                f"{name}: a quote opens in the first and closes in the last of {self.separate_rows}. Each line was read as "
                "a row, with quotes as text. Write the file as .jsonl to leave no doubt."
            )
        if self.unquoted_cells.count and self.literal_quotes.count:
            warn_caller(
                f"{name}: quotes around cells were taken off in {self.unquoted_cells}, and quotes are text in "
                f"{self.literal_quotes}. Write the file as .jsonl if they should be text everywhere."
            )
        if self.spaced_quotes.count:
            warn_caller(
                f"{name}: a space stands before a quote in {self.spaced_quotes}, which makes the quote text. Take the space "
                "out if the quotes belong around the cell."
            )
        if self.carriage_returns.count:
            warn_caller(
                f"{name}: a carriage return stands in {self.carriage_returns}, and is text there: the file's lines end in LF. "
                "If it should end a line, convert the file (dos2unix, or tr '\\r' '\\n')."
            )


MISSING_QUOTE_HINT = "If that is wrong, a quote is missing or too many in the first of these lines."


def pluralize(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


NOT_UTF8 = "not UTF-8"
"""What is said of text with bytes of another encoding."""


def encoding_fault(text: str) -> str | None:
    """Why decoded text is not Unicode text, or None."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that `surrogateescape` carried here
            return f"{NOT_UTF8} (byte 0x{code - 0xDC00:02x})"
        return f"half a surrogate pair, \\u{code:04x}, which is not Unicode text"
    return None
