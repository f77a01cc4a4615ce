"""Fields, delimiters and line numbers of the texts in a file."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.text_files import BadLine, Remarks, read_rows, read_texts
from gnomon.text_files.delimited import parse_csv, parse_tsv

ROWS = [
    {"id": 1, "title": "Red lamp", "body": "It is red."},
    {"id": 2, "title": "", "body": "No title."},
    {"id": 3, "title": "No body", "body": " "},
    {"id": 4, "title": "", "body": ""},
]
JOINED = ["Red lamp It is red.", "No title.", "No body", ""]


def as_jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_cells(rows: list[dict], delimiter: str) -> str:
    lines = [list(rows[0]), *(map(str, row.values()) for row in rows)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


# ---- fields


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_several_fields_are_joined_in_the_order_given(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text(as_jsonl(ROWS) if form == "jsonl" else as_cells(ROWS, {"csv": ",", "tsv": "\t"}[form]))
    found = read_texts(path, field=["title", "body"])
    assert found.texts == JOINED
    assert list(found.empty_texts) == [3]
    assert read_texts(path, field=("body", "title")).texts[0] == "It is red. Red lamp"
    assert read_texts(path, field=["title"]).texts == read_texts(path, field="title").texts
    assert read_texts(path, field=["title", "body"], skip_bad=True).texts == JOINED[:3]


def test_null_and_nested_fields_are_joined_too(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(as_jsonl([{"a": None, "b": {"c": "x"}}, {"a": "é", "b": {"c": "y"}}]))
    assert read_texts(path, field=["a", "b.c"]).texts == ["x", "é y"]
    table = pa.table({"a": [None, "é"], "b": [{"c": "x"}, {"c": "y"}]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert read_texts(tmp_path / "in.parquet", field=["a", "b.c"]).texts == ["x", "é y"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (["title", "boddy"], "in.jsonl has no field 'boddy'.*Did you mean 'body'"),
        (["title", "title"], "names 'title' twice"),
        ([], r"field is \[\]"),
        ([1], r"field is \[1\]"),
        (["title", "id"], "line 1: field 'id' is 1, not a string"),
    ],
)
def test_fields_that_cannot_be_joined_are_errors(tmp_path: Path, field: list, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(as_jsonl(ROWS))
    with pytest.raises(InputError, match=message):
        read_texts(path, field=field)


def test_a_row_without_one_of_the_fields_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(as_jsonl([{"title": "a", "body": "b"}, {"title": "a"}]))
    with pytest.raises(InputError, match=r"in\.jsonl, line 2: no field 'body'"):
        read_texts(path, field=["title", "body"])


# ---- lines


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
def test_each_text_has_the_number_of_its_line(tmp_path: Path) -> None:
    def lines_of(name: str, content: str, skip_bad: bool = False) -> list[int]:
        (tmp_path / name).write_text(content)
        found = read_texts(tmp_path / name, skip_bad=skip_bad)
        assert len(found.lines) == len(found.texts)
        return list(found.lines)

    assert lines_of("in.txt", "a\n\nc") == [1, 2, 3]
    assert lines_of("gaps.txt", "a\n\nc", skip_bad=True) == [1, 3]
    assert lines_of("in.csv", 'text,n\n\n"a\nb",1\nc,2\n') == [3, 5]
    assert lines_of("in.tsv", "text\tn\na\t1\nb\n", skip_bad=True) == [2]
    assert lines_of("in.jsonl", '\n{"text": "a"}\n\n{"text": "b"}\n') == [2, 4]
    pq.write_table(pa.table({"text": ["a", "", "c"]}), tmp_path / "in.parquet")
    assert read_texts(tmp_path / "in.parquet").lines == [1, 2, 3]
    assert read_texts(tmp_path / "in.parquet", skip_bad=True).lines == [1, 3]


# ---- delimiters


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("value", "character"),
    [(";", ";"), ("semicolon", ";"), ("|", "|"), ("bar", "|"), ("\\t", "\t"), ("tab", "\t"), ("comma", ","), ("^", "^")]
    + [(character, character) for character in "].\\*- é\x1f"],
)
def test_a_delimiter_is_a_character_or_a_word(tmp_path: Path, form: str, value: str, character: str) -> None:
    path = tmp_path / f"in.{form}"
    rows = [["text", "n"], ['"a, ;|\t b""c"', "1"], ["plain", "2"], ['""', "3"]]
    path.write_text("".join(character.join(row) + "\n" for row in rows), newline="")
    found = read_texts(path, delimiter=value)
    assert found.texts == ['a, ;|\t b"c', "plain", ""]
    assert found.row(0) == {"text": 'a, ;|\t b"c', "n": "1"}


@pytest.mark.parametrize("value", ["", ";;", '"', "\n", "\r", "tabs", "\udc80"])
def test_a_delimiter_that_cannot_part_cells_is_an_error(tmp_path: Path, value: str) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"delimiter is .*one character.* semicolon"):
        read_texts(tmp_path / "in.csv", delimiter=value)


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl.gz", "in.parquet"])
def test_a_delimiter_for_another_format_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is read as {name.split('.')[1]}.* delimiter is ';'"):
        read_texts(tmp_path / name, delimiter=";")


def test_a_header_parted_by_another_delimiter_names_the_option_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id;text\n1;a\n2;b, c\n")
    with pytest.raises(InputError, match=r"in\.csv.*delimiter=';' \(--delimiter ';'\)"):
        read_texts(path)
    assert read_texts(path, delimiter=";").texts == ["a", "b, c"]
    with pytest.raises(InputError, match=r"Fields of this CSV .* '#', .* semicolons"):
        read_texts(path, delimiter="#")
    path.write_text("id\ttext\n1\ta\n")
    with pytest.raises(InputError, match=r"tabs.* delimiter='tab' \(--delimiter 'tab'\)"):
        read_texts(path)
    path.write_text("a,b,c;d,e,f\nx;y\n")
    assert read_texts(path, delimiter=";", field="d,e,f").texts == ["y"]  # the caller is believed


@pytest.mark.parametrize(("parse", "usual"), [(parse_csv, ","), (parse_tsv, "\t")])
@given(
    body=st.lists(st.text(st.sampled_from('ab1 ,\t"é\udce9\n\r'), max_size=14), max_size=14), columns=st.integers(2, 3)
)
def test_the_rules_of_quotes_hold_for_every_delimiter(
    parse: Callable, usual: str, body: list[str], columns: int
) -> None:
    """The reference is the usual delimiter: the file with both characters exchanged reads as the rows exchanged."""
    swap = str.maketrans({usual: ";", ";": usual})

    def read(content: str, delimiter: str | None) -> tuple[list, Remarks]:
        remarks = Remarks()
        lines = re.findall(r"[^\n]*\n|[^\n]+", content)
        rows = [
            (number, row.reason if isinstance(row, BadLine) else list(row.values()))
            for number, row in parse(lines, remarks, delimiter)
        ]
        return rows, remarks

    content = usual.join("xyz"[:columns]) + "\n" + "\n".join(body)
    expected, expected_remarks = read(content, None)
    found, remarks = read(content.translate(swap), ";")
    exchanged = [(line, row if isinstance(row, str) else [c.translate(swap) for c in row]) for line, row in found]
    assert exchanged == expected
    assert remarks == expected_remarks


# ---- messages


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.txt", "a\nb\n".encode("utf-16-le")),
        ("in.txt", "a\nb\n".encode("utf-16-be")),
        ("in.txt", "abc\n".encode("utf-32-le")),
        ("in.txt", "日本\n本日\n日\n".encode("utf-16-le")),
        ("in.txt", b"\xff\xfea\x00\n"),
        ("in.csv", b"id;text\n1;a\n"),
        ("in.tsv", b"id,text\n1,a\n"),
        ("in.csv", b'id,"text\n1,a\n'),
        ("in.csv", b'text,n\n"a,1\n'),
        ("in.tsv", b"text\tn\na\n"),
        ("in.jsonl", b"[1]\n"),
        ("in.jsonl", b"\xe9\n"),
        ("in.csv.gz", b"text\na\n"),
        ("in.csv.gz", gzip.compress(b"text\n" + b"a\n" * 9999, mtime=0)[:-9]),
        ("in.parquet", b"PAR1"),
        ("in.csv", b"PK\x03\x04"),
    ],
)
def test_every_message_of_reading_has_the_files_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_texts(path)
    if name.split(".")[1] in ("csv", "tsv", "jsonl"):
        with pytest.raises(InputError, match=re.escape(str(path))):
            list(read_rows(path))
