"""Delimiters, and the cells of one line of a CSV or TSV. The rules are in docs/reference/text-files.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from gnomon.errors import InputError
from gnomon.messages import shorten
from gnomon.text_files.rows import encoding_fault

QUOTED_BODY = re.compile(r'[^"]*+(?:""[^"]*+)*+')
"""The text between an opening quote and the closing one; a doubled quote is text."""

DEFAULT_DELIMITERS = {"csv": ",", "tsv": "\t"}
"""Format -> its delimiter where none is given."""

DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

DELIMITER_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|"}
"""What may be given in place of a delimiter that a shell would take as its own, or that is hard to type."""


def parse_delimiter(value: str) -> str:
    """The character that parts the cells, given as itself or as one of `DELIMITER_WORDS`.

    Raises:
        InputError: not one character, or one that cannot part cells.
    """
    delimiter = DELIMITER_WORDS.get(value, value)
    if len(delimiter) != 1 or delimiter in '"\r\n' or encoding_fault(delimiter):
        raise InputError(
            f"delimiter is {shorten(value)}. It must be one character, but no quote and no line end. Give the "
            f"character, or one of the words {', '.join(DELIMITER_WORDS)}."
        )
    return delimiter


class _Patterns(NamedTuple):
    """What cells and records look like where one delimiter parts the cells."""

    cell: re.Pattern[str]
    """A cell of one line: in well-formed quotes (group 1), or with quotes that are text (group 2)."""
    loose_cell: re.Pattern[str]
    """A cell of one line whose writer did not double the quotes in quoted cells: `"a 5" disk"`."""
    record: re.Pattern[str]
    """A record whose quotes are all around cells, or doubled within them."""


@cache
def build_patterns(delimiter: str) -> _Patterns:
    end, body = re.escape(delimiter), QUOTED_BODY.pattern
    quoted_or_bare = rf'"{body}"|[^"{end}\r\n]*+'
    return _Patterns(
        cell=re.compile(rf'"({body})"(?={end}|\Z)|([^{end}]*+)'),
        loose_cell=re.compile(rf'".*?"(?={end}|\Z)|[^{end}]*+', re.DOTALL),
        record=re.compile(rf"(?:{quoted_or_bare})(?:{end}(?:{quoted_or_bare}))*+[\r\n]*"),
    )


def is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the record that begins in the first of these lines goes on after the last."""
    in_quotes = False
    for line in lines:
        index = 0
        while True:
            if in_quotes:
                index = _match_end(QUOTED_BODY, line, index)
                if index == len(line):
                    break
                index, in_quotes = index + 1, False
                if line[index : index + 1] != delimiter:
                    return False  # it ends here, or text follows
                index += 1
            if line.startswith('"', index):
                index, in_quotes = index + 1, True
                continue
            index = line.find(delimiter, index) + 1
            if not index:
                return False
    return in_quotes


class _Cells(NamedTuple):
    """Cells of one line by itself."""

    cells: list[str]
    unquoted: bool
    """Whether quotes were taken off a cell."""
    literal: bool
    """Whether a cell has quotes that are text."""


def split_cells(line: str, delimiter: str, *, in_quotes: bool = False) -> _Cells:
    """Split one line by itself.

    Args:
        in_quotes: the line begins within a quoted cell, whose closing quote counts as text.
    """
    line = line.rstrip("\r\n")
    cells: list[str] = []
    unquoted = literal = False
    start = 0
    if in_quotes:
        start = _match_end(QUOTED_BODY, line, 0) + 1
        cells, literal = line[:start].split(delimiter), True
        if line[start : start + 1] != delimiter:
            return _Cells(cells, unquoted, literal)
        start += 1
    for cell in _match_cells(build_patterns(delimiter).cell, line, delimiter, start):
        if cell[1] is not None:
            cells.append(cell[1].replace('""', '"'))
            unquoted = True
        else:
            cells.append(cell[2])
            literal = literal or '"' in cell[2]
    return _Cells(cells, unquoted, literal)


def split_loose_cells(line: str, delimiter: str) -> list[str]:
    """Cells of one line by itself, with their quotes, if its writer doubles no quotes."""
    pattern = build_patterns(delimiter).loose_cell
    return [cell[0] for cell in _match_cells(pattern, line.rstrip("\r\n"), delimiter)]


def _match_cells(pattern: re.Pattern[str], line: str, delimiter: str, start: int = 0) -> Iterator[re.Match[str]]:
    """Match cell after cell from an index on, up to one that no delimiter follows."""
    while True:
        cell = pattern.match(line, start)
        assert cell, "the pattern matches an empty cell"
        yield cell
        start = cell.end()
        if line[start : start + 1] != delimiter:
            return
        start += 1


def check_header(cells: list[str], form: str, delimiter: str, is_chosen: bool) -> list[str]:
    """
    Args:
        is_chosen: the caller gave the delimiter. Where it parts several cells, the caller is believed.

    Raises:
        InputError: a name that stands twice; a header that looks parted by another delimiter.
    """
    repeated = next((name for name in cells if cells.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"the header names {repeated!r} twice. Every column needs its own name; rename one.")
    if is_chosen and len(cells) > 1:
        return cells
    for other, other_name in DELIMITER_NAMES.items():
        if other == delimiter or sum(cell.count(other) for cell in cells) < len(cells):
            continue
        if delimiter == "\t" and other == "," and len(cells) > 1:
            continue
        name = DELIMITER_NAMES.get(delimiter, repr(delimiter))
        value = "'tab'" if other == "\t" else repr(other)
        fields = f"Fields of {'this' if is_chosen else 'a'} {form}"
        raise InputError(  # else whole lines would count as texts
            f"the header is {shorten(delimiter.join(cells), 200)}. {fields} are separated by {name}, and these look "
            f"separated by {other_name}. Give delimiter={value} (--delimiter {value}) to encode, search or read_texts, "
            f"or write the file with {name} or as .jsonl."
        )
    return cells


def header_error(number: int, reason: str) -> InputError:
    return InputError(f"the header, line {number}, cannot be read: {reason}. It names the columns; correct it.")


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    assert match, "the pattern matches nothing, too"
    return match.end()
