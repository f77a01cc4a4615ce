"""No row is lost, merged, shifted or decorated without a message: random files whose generator knows what it wrote.

Every row of the generator has one fault at most. A row without one must come as it was written, in whatever company;
one with a fault must be left out by its own line, or come as the rules of docs/reference/text-files.md read its quotes.
"""

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError, Notice
from gnomon.text_files import PARSERS, BadLine, Remarks, delimited, read_rows, read_texts, rows
from gnomon.text_files import lines as lines_module
from gnomon.text_files.lines import open_lines

ENDS = ("\n", "\r\n", "\r")
END = re.compile("\r\n|\r|\n")
ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\ufeff"
"""What Python's splitlines takes for line ends, and more that is text."""
PLAIN = st.text(st.sampled_from("ab 1.é日🎃'\\" + ODD), max_size=6)
RICH = st.text(st.sampled_from('ab 1é日,\t;"\n\r' + ODD), max_size=8)


STRAY = ("open", "close", "middle", "after")
"""Faults that put a quote out of place."""


@dataclass
class Written:
    """A row as it stands in the file."""

    text: str
    values: tuple[str, ...] | None
    """What must be read; None for a row that must be left out."""
    first: int = 0
    last: int = 0


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def written_cell(cell: str, delimiter: str, always: bool) -> str:
    """As csv.writer and pandas write one."""
    return quoted(cell) if always or any(char in cell for char in '"\r\n' + delimiter) else cell


@st.composite
def tables(draw: Callable[..., Any], delimiter: str) -> tuple[list[str], list[Written], bytes]:
    """Names of the columns, rows, and the bytes of the file.

    Stray quotes are as many as they like, or cells may begin with a line end or a delimiter, where one stray quote can
    shift what is quoted: two may make up for one another there, as the docs say.
    """
    width = draw(st.integers(1, 4))
    tagged = draw(st.integers(0, width - 1))
    names = [f"c{column}" for column in range(width)]
    lead = draw(st.sampled_from(["", "d"]))
    faults = ["none", "none", "open", "close", "middle", "after", "fewer", "more", "byte", "blank"]
    found: list[Written] = []
    shifts, strays = draw(st.booleans()), 0
    for number in range(draw(st.integers(1, 9))):
        fault = draw(st.sampled_from(faults))
        if (fault == "fewer" and width == 1) or (fault == "blank" and width == 1):
            fault = "none"
        # a faulty row is of one line: the others of its lines would be read as rows
        kind = RICH if fault in ("none", "blank") else PLAIN
        cells = [draw(kind) for _ in names]
        if fault in STRAY:
            if shifts and strays:
                fault = "none"
            strays += 1
        elif not shifts:
            cells = [cell.lstrip("\r\n" + delimiter) for cell in cells]
        cells[tagged] = f"{lead}{number}" if width > 1 else f"{lead}{number}{cells[tagged]}"
        always = draw(st.booleans())
        out = [written_cell(cell, delimiter, always and fault in ("none", "blank")) for cell in cells]
        values: tuple[str, ...] | None = tuple(cells)
        at = draw(st.integers(0, width - 1))
        text = cells[at]
        if fault == "open":
            out[at], values = f'"{text}', None
        elif fault == "close":
            out[at] = cells[at] = (text or "x") + '"'
            values = tuple(cells)
        elif fault == "middle":
            out[at] = cells[at] = f'a{text}"b'
            values = tuple(cells)
        elif fault == "after":
            out[at], values = f'"{text}"b', None
        elif fault == "fewer":
            out, values = out[1:] if tagged else out[:-1], None
        elif fault == "more":
            out, values = [*out, "z"], None
        elif fault == "byte":
            out[at], values = text + "\udcff", None
        if delimiter == "\t" and fault in ("open", "after"):
            cells[at], values = out[at], (*cells[:at], out[at], *cells[at + 1 :])
        row = delimiter.join(out)
        if not row:  # an empty line, which is passed over
            row = quoted("")
        found.append(Written(row + (draw(st.sampled_from(ENDS)) if fault == "blank" else ""), values))
    return assembled(draw, names, found, delimiter)


def assembled(draw: Callable[..., Any], names: list[str], found: list[Written], delimiter: str) -> Any:
    end = draw(st.sampled_from(ENDS))
    whole = delimiter.join(names)
    line = 2
    for row in found:
        row.first = line
        line += len(END.findall(row.text + end)) if end == "\r" else (row.text + end).count("\n")
        row.last = line - 1
        whole += end + row.text
    whole += end if draw(st.booleans()) else ""
    mark = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    return names, found, mark + whole.encode("utf-8", "surrogateescape")


@contextmanager
def small_blocks(block: int) -> Iterator[None]:
    """So that rows lie across the blocks in which files are read; and all spans are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_LINES", block)
        patch.setattr(delimited, "CAREFUL_LINES", min(block, 2))
        patch.setattr(rows, "MAX_LISTED", 10**6)
        yield


@contextmanager
def file_of(content: bytes, form: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"in.{form}"
        path.write_bytes(content)
        yield path


def check(form: str, names: list[str], written: list[Written], content: bytes, block: int) -> None:
    remarks = Remarks()
    with small_blocks(block), file_of(content, form) as path:
        try:
            with open_lines(path) as lines:
                parsed = list(PARSERS[form](lines, remarks))
        except InputError as error:
            assert "looks like UTF-16" in str(error)  # a file of hardly more than NULs
            return
        kept = {line: tuple(row.values()) for line, row in parsed if not isinstance(row, BadLine)}
        bad = {line for line, row in parsed if isinstance(row, BadLine)}
        assert len(kept) + len(bad) == len(parsed), "a line comes once"
        spans = [*remarks.joined_rows.longest, *remarks.separate_rows.longest]
        named = [*spans]  # lines that a message names, and the other lines of the rows that begin in them
        named += [(row.first, row.last) for row in written for first, last in spans if first <= row.first <= last]

        def is_told(line: int) -> bool:
            return any(first <= line <= last for first, last in named)

        for row in written:
            if row.values is not None and kept.get(row.first) == row.values:
                continue
            assert is_told(row.first) or (row.values is None and row.first in bad and row.first not in kept), row
        own = {row.first: row for row in written}
        for line, values in kept.items():
            assert is_told(line) or (line in own and own[line].values == values), (line, values)
        for line in bad:
            assert is_told(line) or any(row.values is None and row.first <= line <= row.last for row in written), line
        check_commands(path, names[-1], [values[-1] for values in kept.values()], bad)


def check_commands(path: Path, field: str, kept: list[str], bad: set[int]) -> None:
    """The same through the doors that the commands use, with and without skip_bad."""
    full = list(filter(str.strip, kept))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        if full:
            found = read_texts(path, field=field, skip_bad=True)
            assert (found.texts, found.skipped) == (full, len(kept) - len(full) + len(bad))
        else:
            with pytest.raises(InputError, match="no texts that can be used"):
                read_texts(path, field=field, skip_bad=True)
        if bad:
            for read in (read_rows, lambda path: read_texts(path, field=field)):
                with pytest.raises(InputError, match=f"line {min(bad)}: "):
                    list(read(path))
        else:
            found = read_texts(path, field=field)
            assert (found.texts, found.skipped) == (kept, 0)
            assert list(found.empty_texts) == [place for place, text in enumerate(kept) if not text.strip()]
            assert len(list(read_rows(path))) == len(kept)


@settings(max_examples=400, deadline=None)
@given(tables(","), st.integers(1, 12))
def test_csv_rows_that_are_kept_and_reported_are_all(table: Any, block: int) -> None:
    check("csv", *table, block)


@settings(max_examples=400, deadline=None)
@given(tables("\t"), st.integers(1, 12))
def test_tsv_rows_that_are_kept_and_reported_are_all(table: Any, block: int) -> None:
    check("tsv", *table, block)


@st.composite
def json_lines(draw: Callable[..., Any]) -> tuple[list[str], list[Written], bytes]:
    found: list[Written] = []
    for number in range(draw(st.integers(1, 9))):
        text = draw(RICH)
        line = json.dumps({"n": number, "text": text}, ensure_ascii=draw(st.booleans()))
        fault = draw(st.sampled_from(["none", "none", "short", "NaN", "list", "byte", "blank", "quote"]))
        values: Any = (number, text)
        if fault == "short":
            line, values = line[:-1], None
        elif fault == "NaN":
            line, values = line.replace(f": {number},", draw(st.sampled_from([": NaN,", ": -Infinity,"])), 1), None
        elif fault == "list":
            line, values = f"[{line}]", None
        elif fault == "byte":
            line, values = line[:-2] + '\udcff"}', None
        elif fault == "quote":
            line, values = line.replace('"n"', 'n"', 1), None
        elif fault == "blank":
            line += draw(st.sampled_from(ENDS)) + " "
        found.append(Written(line, values))
    _, found, content = assembled(draw, ["{", '"n": 0, "text": "first"}'], found, "")
    return ["n", "text"], [Written("", (0, "first"), 1, 1), *found], content


@settings(max_examples=200, deadline=None)
@given(json_lines(), st.integers(1, 12))
def test_jsonl_rows_that_are_kept_and_reported_are_all(table: Any, block: int) -> None:
    check("jsonl", *table, block)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(PLAIN, st.booleans()), min_size=1, max_size=9), st.sampled_from(ENDS), st.booleans())
def test_txt_lines_that_are_kept_and_reported_are_all(lines: list[tuple[str, bool]], end: str, last: bool) -> None:
    written = [f"{number}{text}" + ("\udcff" if broken else "") for number, (text, broken) in enumerate(lines)]
    good = [line for line in written if "\udcff" not in line]
    content = (end.join(written) + (end if last else "")).encode("utf-8", "surrogateescape")
    with file_of(content, "txt") as path, warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        assume(not lines_module._detect_wide_encoding(content))  # a file of hardly more than NULs
        if not good:
            with pytest.raises(InputError, match="no texts that can be used"):
                read_texts(path, skip_bad=True)
            return
        found = read_texts(path, skip_bad=True)
        assert (found.texts, found.skipped) == (good, len(written) - len(good))
        if good == written:
            assert read_texts(path).texts == written
        else:
            place = next(place for place, line in enumerate(written, 1) if "\udcff" in line)
            with pytest.raises(InputError, match=f"line {place}: not UTF-8 .byte 0xff."):
                read_texts(path)
