"""Random text files with faults: every row that was written is kept as it was, or its line is reported, or a notice
names its lines. What was written is known here, so that nothing is taken from the readers.
"""

import csv
import gzip
import io
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError, Notice
from gnomon.text_files import read_rows, read_texts
from gnomon.text_files.delimited import parse_csv, parse_tsv
from gnomon.text_files.rows import BadLine, LineSpans, Remarks

ENDS = ["\n", "\r\n", "\r"]
ODD = [
    "",
    " ",
    '"',
    '""',
    "a,b",
    "x\ty",
    "two\nlines",
    "cr\rin it",
    "both\r\nof them",
    "\nfirst",
    "last\n",
    '",\n',
    "\u2028",
    "\x85",
    "\x0b\x0c",
    "\0",
    "7,x",
    "\n7,x",
    "\n7\tx",
]
WILD = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("long " * 200)
COLUMNS = [["text"], ["id", "text"], ["id", "text", "note"]]


def split_lines(text: str, end: str) -> list[str]:
    """As a file is read whose first line ends so: a CR by itself is text where lines end otherwise."""
    return list(io.StringIO(text, newline="" if end == "\r" else "\n"))


@dataclass
class Record:
    """What was written in some lines, from 1."""

    first: int
    last: int
    row: dict[str, str] | None
    """None: a fault."""


@dataclass
class Written:
    """A file, and what is in it."""

    columns: list[str]
    end: str
    lines: int = 0
    content: str = ""
    records: list[Record] = field(default_factory=list[Record])

    def write(self, text: str, row: dict[str, str] | None) -> None:
        first = self.lines + 1
        self.lines += len(split_lines(text, self.end))
        self.content += text
        self.records.append(Record(first, self.lines, row))


class AllSpans(LineSpans):
    """A notice names the longest; here all are kept."""

    def add(self, first: int, last: int) -> None:
        self.count += 1
        self.longest.append((first, last))


def quoted_row(cells: list[str], delimiter: str, end: str, quoting: Any) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerow(cells)
    return out.getvalue()


CSV_FAULTS = {
    "open": '"stray',
    "after": '"a"b',
    "loose": '"a, 5""',
    "loose at the start": '""a, b"',
    "many": "a,b,c,d",
    "bytes": "\udcff",
    "bytes in a cell": '"two\nli\udcffnes"',
}
TSV_FAULTS = {
    "loose": '"a\t5""',
    "loose at the start": '""a\tb"',
    "many": "a\tb\tc\td",
    "bytes": "\udcff",
    "bytes in a cell": '"two\nli\udcffnes"',
}


@st.composite
def delimited(draw: st.DrawFn, delimiter: str) -> Written:
    """CSV or TSV. A row is in quotes, as a writer makes it, or bare, as a hand does."""
    columns = draw(st.sampled_from(COLUMNS))
    file = Written(columns, draw(st.sampled_from(ENDS)))
    # with another end, csv.writer leaves cells bare that hold the other characters of a line end
    styles = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL] if file.end == "\r\n" else [csv.QUOTE_ALL]
    quoting = draw(st.sampled_from(styles))
    file.write(quoted_row(columns, delimiter, file.end, quoting), None)
    file.records.clear()
    faults = CSV_FAULTS if delimiter == "," else TSV_FAULTS
    kinds = ["quoted", "quoted", "bare", "bare", "fault"]
    for number in range(draw(st.integers(1, 14))):
        lead = [str(number)] if "id" in columns else []
        kind = draw(st.sampled_from(kinds))
        if kind == "quoted":
            cells = lead + [draw(WILD) for _ in columns[len(lead) :]]
            file.write(quoted_row(cells, delimiter, file.end, quoting), dict(zip(columns, cells, strict=True)))
        elif kind == "bare":
            cells = lead + [draw(bare(delimiter)) for _ in columns[len(lead) :]]
            file.write(delimiter.join(cells) + file.end, dict(zip(columns, cells, strict=True)))
        elif lead and draw(st.booleans()) and draw(st.booleans()):
            file.write(str(number) + file.end, None)  # too few cells
        else:
            cells = [*lead, faults[draw(st.sampled_from([*faults]))], *(["n"] * (len(columns) - len(lead) - 1))]
            file.write(delimiter.join(cells) + file.end, None)
    return file


def bare(delimiter: str) -> st.SearchStrategy[str]:
    """A cell without quotes around it. In CSV quotes within it are text; in TSV those at its ends are, too, unless they
    are well formed around it.
    """
    plain = WILD.map(lambda text: "x" + re.sub(r'[,"\t\r\n]', " ", text))
    inner = plain.map(lambda text: text + ' 5" disk') | plain.map(lambda text: text + '"') | plain
    return inner if delimiter == "," else inner | plain.map(lambda text: '"' + text)


@dataclass
class Read:
    kept: dict[int, dict[str, Any]]
    bad: list[int]
    named: set[int]
    """Lines that a notice names as one row that may be several, or several that may be one."""


def parsed(parse: Callable[..., Any], content: str) -> Read:
    remarks = Remarks(joined_rows=AllSpans(), separate_rows=AllSpans())
    kept: dict[int, dict[str, Any]] = {}
    bad: list[int] = []
    end = re.search(r"\r\n|\r|\n", content)
    assert end, "there is a header"
    for line, row in parse(split_lines(content, end[0]), remarks):
        if isinstance(row, BadLine):
            bad.append(line)
        else:
            assert line not in kept
            kept[line] = row
    spans = [*remarks.joined_rows.longest, *remarks.separate_rows.longest]
    return Read(kept, bad, {line for first, last in spans for line in range(first, last + 1)})


def check_rows(file: Written, read: Read, *, may_report: bool) -> None:
    """`may_report`: a row that is as it should be may be reported, and so counted, where quotes seem to join it with a
    line that cannot be used.
    """
    doubtful: set[int] = set()  # lines of records that cannot be used as they stand, or that a notice names
    for record in file.records:
        lines = set(range(record.first, record.last + 1))
        if lines & read.named or record.row is None:
            doubtful |= lines
        if record.row is None:
            assert record.first in read.bad or lines & read.named, record
        else:
            reported = may_report and record.first in read.bad
            doubtful |= lines if reported else set()
            assert read.kept.get(record.first) == record.row or lines & read.named or reported, record
    # nothing is invented
    rows = {record.first: record.row for record in file.records}
    for line, row in read.kept.items():
        assert rows.get(line) == row or line in doubtful, line
    assert set(read.bad) <= doubtful
    if not doubtful:
        assert len(read.kept) == len(file.records)


@settings(max_examples=250, deadline=None)
@given(delimited(","))
def test_b1_every_row_of_a_csv_with_faults_is_kept_or_reported(file: Written) -> None:
    check_rows(file, parsed(parse_csv, file.content), may_report=False)


@settings(max_examples=250, deadline=None)
@given(delimited("\t"))
def test_b3_every_row_of_a_tsv_with_faults_is_kept_or_reported(file: Written) -> None:
    check_rows(file, parsed(parse_tsv, file.content), may_report=True)


def packed(content: str, *, mark: bool, gz: bool) -> bytes:
    data = (b"\xef\xbb\xbf" if mark else b"") + content.encode("utf-8", "surrogateescape")
    return gzip.compress(data, 1) if gz else data


def check_counts(path: Path, texts: list[tuple[int, str]], bad: list[int]) -> None:
    """Without --skip-bad the first bad line is the error; with it, all that is not kept is counted."""
    filled = [text for _, text in texts if text.strip()]
    count = len(bad) + len(texts) - len(filled)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if bad:
            with pytest.raises(InputError, match=rf", line {bad[0]}: "):
                read_texts(path, field=None if path.suffix == ".txt" else "text")
        elif texts:
            found = read_texts(path, field=None if path.suffix == ".txt" else "text")
            assert found.texts == [text for _, text in texts]
            assert list(found.empty_texts.values()) == [line for line, text in texts if not text.strip()]
        if not filled:
            with pytest.raises(InputError, match="holds no texts"):
                read_texts(path, field=None if path.suffix == ".txt" else "text", skip_bad=True)
            return
        caught.clear()
        found = read_texts(path, field=None if path.suffix == ".txt" else "text", skip_bad=True)
    assert (found.texts, found.skipped) == (filled, count)
    said = [str(each.message) for each in caught if "left out" in str(each.message)]
    assert len(said) == (count > 0)
    if count:
        assert f"{count:,} line{'s' if count > 1 else ''} left out, {len(filled)} text" in said[0]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["csv", "tsv"]), mark=st.booleans(), gz=st.booleans())
def test_b1_counts_of_delimited_files_with_faults_are_true(
    tmp_path: Path, data: st.DataObject, form: str, mark: bool, gz: bool
) -> None:
    file = data.draw(delimited("," if form == "csv" else "\t"))
    path = tmp_path / f"in.{form}"
    path.write_bytes(packed(file.content, mark=mark, gz=gz))
    read = parsed(parse_csv if form == "csv" else parse_tsv, file.content)
    check_rows(file, read, may_report=form == "tsv")
    check_counts(path, [(line, row["text"]) for line, row in sorted(read.kept.items())], read.bad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        if read.bad:
            with pytest.raises(InputError, match=rf", line {read.bad[0]}: "):
                list(read_rows(path))
        else:
            assert dict(read_rows(path)) == read.kept


JSON_FAULTS = [
    '{"text": "a"',
    '{"text": "a"} x',
    '["a"]',
    '{"other": "a"}',
    '{"text": 1}',
    '{"text": "a", "n": NaN}',
    '{"text": "\\ud83c"}',
    '{"text": "\udcff"}',
    "text",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["jsonl", "txt"]), mark=st.booleans(), gz=st.booleans())
def test_b1_every_line_of_jsonl_and_txt_with_faults_is_kept_or_reported(
    tmp_path: Path, data: st.DataObject, form: str, mark: bool, gz: bool
) -> None:
    end = data.draw(st.sampled_from(ENDS))
    texts: list[tuple[int, str]] = []
    bad: list[int] = []
    lines = ['{"text": "x"}' if form == "jsonl" else "x"]  # the first names the field
    texts.append((1, "x"))
    for line in range(2, data.draw(st.integers(2, 14))):
        if data.draw(st.integers(0, 3)) == 0:
            lines.append(data.draw(st.sampled_from(JSON_FAULTS)) if form == "jsonl" else "a\udcffb")
            bad.append(line)
            continue
        text = data.draw(WILD)
        if form == "txt":
            text = re.sub(r"[\r\n\0]", " ", text)  # NUL at every second place is another encoding
        written = json.dumps({"text": text}, ensure_ascii=data.draw(st.booleans())) if form == "jsonl" else text
        lines.append(written)
        texts.append((line, text))
    path = tmp_path / f"in.{form}"
    path.write_bytes(packed(end.join(lines) + end, mark=mark, gz=gz))
    check_counts(path, texts, bad)
