"""What every reader of a text format yields: numbered rows, bad lines, and remarks on what was read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gnomon.messages import list_some
from gnomon.notices import warn_caller

Row = dict[str, Any]

MAX_LISTED = 3
"""Number of lines that a message lists."""


class BadLine(NamedTuple):
    """Why a line cannot be used."""

    reason: str


NumberedRow = tuple[int, Row | BadLine]
"""(line number, row)"""

NumberedRows = Iterator[NumberedRow]

LineSpan = tuple[int, int]
"""First and last line."""


@dataclass
class LineNumbers:
    """Counts lines of one sort and remembers the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list[int])

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(line)

    def __str__(self) -> str:
        """For a message: "lines 2, 5, 9 and 4 more"."""
        return f"line{'' if self.count == 1 else 's'} {list_some(self.first, MAX_LISTED, total=self.count)}"


@dataclass
class LineSpans:
    """Counts rows of several lines and remembers the longest: one that a stray quote made stands out."""

    count: int = 0
    longest: list[LineSpan] = field(default_factory=list[LineSpan])
    _last_first: int = 0

    def add(self, first: int, last: int) -> None:
        """Add a span. A longer one with the same first line replaces the span that was added last."""
        if first == self._last_first:
            self.longest = [span for span in self.longest if span[0] != first]
        else:
            self.count += 1
        self._last_first = first
        self.longest = sorted([*self.longest, (first, last)], key=lambda span: span[0] - span[1])[:MAX_LISTED]

    def __str__(self) -> str:
        """For a message: "lines 2 to 9, 12 to 14"."""
        spans = (f"{first} to {last}" for first, last in self.longest)
        return f"lines {list_some(spans, MAX_LISTED, total=self.count)}"


@dataclass
class Remarks:
    """The choices that a reader made where a file can be read in two ways.

    They are not errors. There is one warning per file and sort.
    """

    columns: list[str] = field(default_factory=list[str])
    """The names in the header of a CSV or TSV."""
    joined_rows: LineSpans = field(default_factory=LineSpans)
    """Rows over several lines that may really be several rows."""
    separate_rows: LineSpans = field(default_factory=LineSpans)
    """Lines of a TSV that were read as rows of their own, though quotes could join them into one."""
    multiline_header: LineSpans = field(default_factory=LineSpans)
    """A header that goes over several lines."""
    unquoted_cells: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a TSV where quotes around cells were taken off."""
    literal_quotes: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a TSV where quotes are text, as no writer of quoted cells leaves them."""
    spaced_quotes: LineNumbers = field(default_factory=LineNumbers)
    """Lines of a CSV with a space before a quote, which makes the quote text."""
    carriage_returns: LineNumbers = field(default_factory=LineNumbers)
    """Lines of plain text that hold a carriage return."""

    def warn(self, name: str) -> None:
        """Give one Notice for each sort of remark on the file `name`."""
        if self.multiline_header.count:
            warn_caller(
                f"{name}: the header goes over {self.multiline_header}, as its quotes say. {MISSING_QUOTE_HINT}"
            )
        if self.joined_rows.count:
            warn_caller(
                f"{name}: stray quotes may have joined several rows into one, in {self.joined_rows}. They were read as "
                f"the quotes say. {MISSING_QUOTE_HINT}"
            )
        if self.separate_rows.count:
            warn_caller(
                f"{name}: a quote opens in the first line and closes in the last of {self.separate_rows}. Each line "
                "was read as a row, with quotes as text. Write the file as .jsonl to leave no doubt."
            )
        if self.unquoted_cells.count and self.literal_quotes.count:
            warn_caller(
                f"{name}: quotes around cells were taken off in {self.unquoted_cells}, and quotes are text in "
                f"{self.literal_quotes}. Write the file as .jsonl if they should be text everywhere."
            )
        if self.spaced_quotes.count:
            warn_caller(
                f"{name}: there is a space before a quote in {self.spaced_quotes}, which makes the quote text. Remove "
                "the space if the quotes belong around the cell."
            )
        if self.carriage_returns.count:
            warn_caller(
                f"{name}: there is a carriage return in {self.carriage_returns}. It was read as text, since the file's "
                "lines end in LF. If it should end a line, convert the file (dos2unix, or tr '\\r' '\\n')."
            )


MISSING_QUOTE_HINT = "If that is wrong, a quote is missing or extra in the first of these lines."


NOT_UTF8 = "not UTF-8"
"""How the fault of text in another encoding begins."""


def encoding_fault(text: str) -> str | None:
    """Why a decoded text is not Unicode text; None if it is."""
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
