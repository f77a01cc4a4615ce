"""Formats text for a terminal: wrapped by columns, not characters, and errors in the words of the command line."""

from __future__ import annotations

import codecs
import io
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

from gnomon.errors import GnomonError
from gnomon.files import disk_full_reason

PARAMETER_PATTERN = re.compile(r"(?<=[\s(])([a-z_]+)=('[^']*'|\[[^]]*\]|True|)(?![\w/])(?: \((--[^)]+)\))?")
"""A parameter in a message, such as skip_bad=True, dtype='int8' or a bare dim=, and its option if that follows."""


def terminal_width() -> int:
    """Number of columns of the terminal; $COLUMNS, or 80, without a terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def display_width(text: str) -> int:
    """Number of columns that a text takes: 2 for wide characters, 0 for combining ones."""
    return sum(map(_char_width, text))


def truncate_line(text: str, width: int) -> str:
    """One line of at most `width` columns, which ends in "…" if it was longer."""
    return (wrap_text(text, width, 1) or [""])[0]


def pad_line(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text with spaces up to `width` columns; with `right`, the spaces come first."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


def wrap_text(text: str, width: int, max_lines: int, *, indent: int = 0, num_verbatim: int = 0) -> list[str]:
    """At most `max_lines` lines of at most `width` columns; the last ends in "…" if text is missing.

    White space becomes single spaces, and control characters are dropped.

    Args:
        indent: number of spaces before every line but the first.
        num_verbatim: number of characters at the start that stay as they are.
    """
    rest = text[:num_verbatim] + _make_printable(text[num_verbatim:])
    lines: list[str] = []
    while rest and len(lines) < max_lines:
        room = width - (indent if lines else 0)
        end = _count_fitting(rest, room)
        if end < len(rest) and len(lines) == max_lines - 1:
            line, rest = rest[: _count_fitting(rest, room - 1)].rstrip() + "…", ""
        elif end < len(rest):
            end = max(_find_break(rest, end), 1)
            line, rest = rest[:end].rstrip(), rest[end:].lstrip()
        else:
            line, rest = rest, ""
        lines.append(" " * (indent if lines else 0) + line)
    return lines


def format_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as their widest cell."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(pad_line(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()


def format_matrix(labels: Sequence[str], scores: Sequence[Sequence[float]], width: int) -> Iterator[str]:
    """Yield the lines of a square table of scores.

    Rows have the labels and their numbers, columns only the numbers. Columns that do not fit go below, after an empty
    line.
    """
    cell = 2 + max(len(f"{score:.3f}") for row in scores for score in row)
    number = len(str(len(labels)))
    room = max(20, width - number - 2 - cell * len(labels))
    fitting = max(1, (width - number - 2 - room) // cell)
    for start in range(0, len(labels), fitting):
        columns = range(start, min(start + fitting, len(labels)))
        if start:
            yield ""
        yield " " * (number + 2 + room) + "".join(f"{column + 1:>{cell}}" for column in columns)
        for index, (label, row) in enumerate(zip(labels, scores, strict=True), 1):
            cells = "".join(f"{row[column]:>{cell}.3f}" for column in columns)
            yield f"{index:>{number}}  {pad_line(truncate_line(label, room), room)}{cells}"


def format_hits(hits: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    """Yield the lines of search results: rank, score and place, then heading, columns and the start of the text.

    The place, such as "notes/door.md:12", is not shortened, since a terminal may make a link of it.

    Args:
        hits: `score` and `text`; `place`, `heading` and `columns` where they are known and not "".
    """
    for rank, hit in enumerate(hits, 1):
        lead = f"{rank:3}  {hit['score']:6.3f}  "
        lines = [_make_safe(hit["place"])] if hit.get("place") else []
        lines += [truncate_line(hit[name], width - len(lead)) for name in ("heading", "columns") if hit.get(name)]
        lines += wrap_text(hit["text"], width - len(lead), 2)
        yield from ((" " * len(lead) if index else lead) + line for index, line in enumerate(lines or [""]))


def read_typed_lines(prompt: str) -> Iterator[str]:
    """Yield the lines that someone types after a prompt, until Ctrl-D."""
    with suppress(ImportError):
        import_module("readline")  # input() then has a line to edit, and a history
    while True:
        try:
            yield input(prompt)
        except EOFError:
            print()
            return


def prepare_streams() -> None:
    """Make standard output accept any text, and give closed streams a place to write to.

    A character that the output's encoding lacks becomes "?"; a file name that is not UTF-8 is written as its own bytes.
    The descriptors of closed streams are opened on the null device. Otherwise the next file that is opened would get
    one, and would receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if cast(Any, sys.stderr) is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # stays open as long as the process
    codecs.register_error(REPLACE_HANDLER, _replace_unencodable)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=REPLACE_HANDLER)


def supports_unicode(stream: object) -> bool:
    """Whether a stream's encoding has all characters."""
    name = getattr(stream, "encoding", None) or "ascii"
    return codecs.lookup(name).name.startswith(("utf-8", "utf-16", "utf-32"))


REPLACE_HANDLER = "gnomon-replace"
"""The name of the error handler that `prepare_streams` installs."""


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return bytes([code - 0xDC00]), error.start + 1
    return "?", error.start + 1


def _make_printable(text: str) -> str:
    """Drop characters that are not safe to print, such as escape sequences. Joiners stay, as parts of words."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable() or char in "\u200c\u200d")


def _make_safe(path: str) -> str:
    """A path with "?" for characters that are not safe to print. Bytes that are not UTF-8 are written as they are."""
    return "".join(char if char.isprintable() or 0xDC80 <= ord(char) <= 0xDCFF else "?" for char in path)


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _count_fitting(text: str, width: int) -> int:
    """How many characters of a text fit into `width` columns."""
    used = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return index
    return len(text)


def _find_break(text: str, end: int) -> int:
    """Where to break a text of which `end` characters fit: at a space or a wide character, else within the word."""
    for index in range(end, end // 2, -1):
        if text[index] == " " or _char_width(text[index]) == 2 or _char_width(text[index - 1]) == 2:
            return index
    return end


def format_error(error: Exception, options: Mapping[str, str]) -> str:
    """An error as one line, in the words of the command line.

    Args:
        options: parameter of the library -> option of the command line, which replaces it in the message.
    """
    if isinstance(error, GnomonError):
        text = PARAMETER_PATTERN.sub(lambda match: _to_option(match, options), str(error))
    elif isinstance(error, OSError):
        full = disk_full_reason(error)
        reason = error.strerror or str(error)
        text = f"{error.filename}: {reason}" if error.filename else reason
        if full and reason == os.strerror(error.errno or 0) and not error.filename:
            text = f"the output was not written: {full}"
    elif isinstance(error, UnicodeDecodeError):
        text = f"not UTF-8 text ({error})"
    elif isinstance(error, MemoryError):
        text = f"there is not enough memory for this {error}".rstrip()
    else:
        text = f"{type(error).__name__}: {error} (a fault of gnomon; gnomon --traceback COMMAND shows where)"
    return " ".join(text.split("\n"))


def _to_option(match: re.Match[str], options: Mapping[str, str]) -> str:
    name, value, option = match.groups()
    if name not in options:
        return match[0]
    value = value.strip("'").removeprefix("True")
    return option or f"{options[name]} {value}".rstrip()
