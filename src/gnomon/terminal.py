"""What a terminal shows: text in columns, not characters, and errors in the words of the command line."""

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

PARAMETER_PATTERN = re.compile(r"(?<=[\s(])([a-z_]+)=('[^']*'|\[[^]]*\]|True|)(?![\w/])(?: \((--[^)]+)\))?")
"""A parameter in a message, such as skip_bad=True, dtype='int8' or a bare dim=; and its option, where that follows."""


def terminal_width() -> int:
    """Width of the terminal; $COLUMNS, or 80, where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def display_width(text: str) -> int:
    """Columns that a text takes: 2 for wide characters, 0 for combining ones."""
    return sum(map(_char_width, text))


def truncate_line(text: str, width: int) -> str:
    """One line of at most `width` columns, with "…" where it was cut."""
    return (wrap_text(text, width, 1) or [""])[0]


def pad_line(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def wrap_text(text: str, width: int, max_lines: int, *, indent: int = 0, num_verbatim: int = 0) -> list[str]:
    """At most `lines` lines of at most `width` columns, cut with "…"; spaces are folded and control characters dropped.

    Args:
        indent: columns in front of every line but the first.
        raw: characters at the start that are kept as they are.
    """
    rest = text[:num_verbatim] + _make_printable(text[num_verbatim:])
    out: list[str] = []
    while rest and len(out) < max_lines:
        room = width - (indent if out else 0)
        end = _count_fitting(rest, room)
        if end < len(rest) and len(out) == max_lines - 1:
            line, rest = rest[: _count_fitting(rest, room - 1)].rstrip() + "…", ""
        elif end < len(rest):
            at = max(_find_break(rest, end), 1)
            line, rest = rest[:at].rstrip(), rest[at:].lstrip()
        else:
            line, rest = rest, ""
        out.append(" " * (indent if out else 0) + line)
    return out


def format_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose columns are as wide as their widest cell."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(pad_line(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()


def format_matrix(labels: Sequence[str], scores: Sequence[Sequence[float]], width: int) -> Iterator[str]:
    """Lines of a square table. Rows and columns carry the numbers of the labels; columns that do not fit beside a label
    go below, behind an empty line.
    """
    cell = 2 + max(len(f"{score:.3f}") for row in scores for score in row)
    number = len(str(len(labels)))
    room = max(20, width - number - 2 - cell * len(labels))
    fitting = max(1, (width - number - 2 - room) // cell)
    for start in range(0, len(labels), fitting):
        shown = range(start, min(start + fitting, len(labels)))
        if start:
            yield ""
        yield " " * (number + 2 + room) + "".join(f"{column + 1:>{cell}}" for column in shown)
        for index, (label, row) in enumerate(zip(labels, scores, strict=True), 1):
            cells = "".join(f"{row[column]:>{cell}.3f}" for column in shown)
            yield f"{index:>{number}}  {pad_line(truncate_line(label, room), room)}{cells}"


def format_hits(hits: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    """Lines of what a search found: rank, score, id and title where there are any, and the start of the text."""
    for rank, hit in enumerate(hits, 1):
        lead = f"{rank:3}  {hit['score']:6.3f}  "
        heading = ": ".join(str(hit[name]) for name in ("id", "title") if name in hit)
        lines = [truncate_line(heading, width - len(lead))] if heading else []
        lines += wrap_text(hit["text"], width - len(lead), 2)
        yield from ((" " * len(lead) if at else lead) + line for at, line in enumerate(lines or [""]))


def read_typed_lines(prompt: str) -> Iterator[str]:
    """Lines that are typed after a prompt, until Ctrl-D."""
    with suppress(ImportError):
        import_module("readline")  # input() then has a line to edit, and a history
    while True:
        try:
            yield input(prompt)
        except EOFError:
            print()
            return


def prepare_streams() -> None:
    """Make standard output take any text: what its encoding lacks becomes "?", and a file name its own bytes.

    The numbers of closed streams are taken, so that no file gets one and receives what libraries print; what goes to
    standard error, where that is closed, goes nowhere.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    if cast(Any, sys.stderr) is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # open as long as the process
    codecs.register_error(REPLACE_HANDLER, _replace_unencodable)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=REPLACE_HANDLER)


def supports_unicode(stream: object) -> bool:
    """Whether a stream's encoding has every character."""
    name = getattr(stream, "encoding", None) or "ascii"
    return codecs.lookup(name).name.startswith(("utf-8", "utf-16", "utf-32"))


REPLACE_HANDLER = "gnomon-replace"
"""Name of the error handler of `prepare_streams`."""


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return bytes([code - 0xDC00]), error.start + 1
    return "?", error.start + 1


def _make_printable(text: str) -> str:
    """Safe to print: a text may hold the escape sequences of a terminal. Joiners are parts of words."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable() or char in "\u200c\u200d")


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _count_fitting(text: str, width: int) -> int:
    """How many characters fit."""
    used = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return index
    return len(text)


def _find_break(text: str, end: int) -> int:
    """Where to break a text of which `end` characters fit: behind a space, or at a wide character, else in the word."""
    for at in range(end, end // 2, -1):
        if text[at] == " " or _char_width(text[at]) == 2 or _char_width(text[at - 1]) == 2:
            return at
    return end


def format_error(error: Exception, options: Mapping[str, str]) -> str:
    """An error as one line.

    Args:
        options: parameter of the library -> option of the command line, in whose words its errors are told.
    """
    if isinstance(error, GnomonError):
        text = PARAMETER_PATTERN.sub(lambda found: _to_option(found, options), str(error))
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
        text = f"{error.filename}: {reason}" if error.filename else reason
    elif isinstance(error, UnicodeDecodeError):
        text = f"not UTF-8 text ({error})"
    elif isinstance(error, MemoryError):
        text = f"there is not enough memory for this {error}".rstrip()
    else:
        text = f"{type(error).__name__}: {error} (a fault of gnomon; gnomon --traceback VERB shows where)"
    return " ".join(text.split("\n"))


def _to_option(match: re.Match[str], options: Mapping[str, str]) -> str:
    name, value, told = match.groups()
    if name not in options:
        return match[0]
    value = value.strip("'").removeprefix("True")
    return told or f"{options[name]} {value}".rstrip()
