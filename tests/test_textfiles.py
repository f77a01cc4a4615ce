"""Texts out of files: values, fields, and the numbers of broken lines."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon import textfiles
from gnomon.errors import ExtraError, InputError, Notice
from gnomon.textfiles import TextFile, read_rows, read_texts, unfit

TEXTS = ["one", "", '  zwei, "drei" ', "南瓜\u2028の家常\x0b做法", "e\u0301 \U0001f383"]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


ROWS = [{"_id": f"d{index}", "text": text} for index, text in enumerate(TEXTS)]
CONTENTS = {
    "txt": "\n".join(TEXTS).encode(),
    "jsonl": jsonl(ROWS),
    "csv": as_csv(ROWS),
    "tsv": "".join("\t".join(row) + "\n" for row in (ROWS[0], *(row.values() for row in ROWS))).encode(),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", CONTENTS)
def test_texts_come_as_they_were_written(tmp_path: Path, form: str, packed: bool) -> None:
    path = tmp_path / f"in.{form}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(CONTENTS[form]) if packed else CONTENTS[form])
    found = read_texts(path)
    assert found.texts == TEXTS
    assert [found.row(index) for index in range(5)] == ([{"text": text} for text in TEXTS] if form == "txt" else ROWS)


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([3, 4], pa.int16()), "body": pa.array(["a", "b"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "in.parquet")
    found = read_texts(tmp_path / "in.parquet", field="body")
    assert found.texts == ["a", "b"]
    assert found.row(1) == {"n": 4, "body": "b"}
    assert found.table.schema == table.schema


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nfour")
    assert read_texts(path).texts == ["one", "two", "", "four"]


def test_a_long_csv_cell_and_one_of_several_lines(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "long " * 40_000 + "\nsecond line"
    path = tmp_path / "in.csv"
    path.write_bytes(as_csv([{"text": text}, {"text": "b"}]))
    assert read_texts(path).texts == [text, "b"]
    assert csv.field_size_limit() == limit


def test_an_empty_line_of_jsonl_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n\n  \n{"text": "b"}\n\n')
    assert read_texts(path).texts == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "field", "found"),
    [({"body": "a"}, None, "a"), ({"n": 1, "text": "a"}, None, "a"), ({"a": "x", "b": "y"}, "b", "y")],
)
def test_the_field_is_the_one_named_or_the_only_one_or_text(
    tmp_path: Path, row: dict, field: str | None, found: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([row]))
    assert read_texts(path, field=field).texts == [found]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (None, r"several fields: title, body; name the text's, field= \(--field\)"),
        ("txt", "no field 'txt'; it has title, body"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_field_that_is_not_clear_lists_the_fields(tmp_path: Path, form: str, field: str | None, message: str) -> None:
    row = {"title": "a", "body": "b"}
    path = tmp_path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_bytes(jsonl([row]) if form == "jsonl" else as_csv([row]))
    with pytest.raises(InputError, match=message):
        read_texts(path, field=field)


BROKEN = [
    ("txt", b"a\nb\n\xff\xfe\n", r"in.txt, line 3: not UTF-8 \(byte 0xff\)"),
    ("jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not JSON \(Expecting value, character 10\)"),
    ("jsonl", b'{"text": "a"}\n\n["b"]\n', "line 3: a JSON list; every line must be an object"),
    ("jsonl", b'{"text": "a"}\n{"text": null}\n', "line 2: field 'text' is null, not a string"),
    ("jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no field 'text'"),
    ("jsonl", b'{"text": "a"}\n{"text": "\\ud83c"}\n', r"line 2: field 'text' has half a surrogate pair, \\ud83c"),
    ("jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"line 2: not UTF-8 \(byte 0xe9\)"),
    ("jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "line 2: not JSON"),
    ("csv", b'id,text\n1,"a\nb"\n2,c,d\n', "line 4: 3 fields, and the header has 2"),
    ("csv", b'id,text\n1,a\n2,"b\n3,c\n', "line 3: not CSV"),
    ("tsv", b"id\ttext\n1\ta\n2\tb\tc\n", "line 3: 3 fields, and the header has 2"),
    ("tsv", b"id\ttext\n1\ta\n2\tcaf\xe9\n", r"line 3: not UTF-8 \(byte 0xe9\)"),
]


@pytest.mark.parametrize(("form", "content", "message"), BROKEN)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    path = tmp_path / f"in.{form}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message + r".*\(--skip-bad\)"):
        read_texts(path)


@pytest.mark.parametrize(("form", "content", "message"), BROKEN)
def test_skip_bad_leaves_it_out_and_says_so(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    path = tmp_path / f"in.{form}"
    path.write_bytes(content)
    with pytest.warns(Notice, match="1 line left out.*" + message.removeprefix("in.txt, ")):
        found = read_texts(path, skip_bad=True)
    assert found.skipped == 1
    assert found.texts == (["a", "b"] if form == "txt" else ["a\nb"] if b"a\nb" in content else ["a"])


def test_only_the_first_broken_lines_are_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n" * 5 + b'{"text": "a"}\n')
    with pytest.warns(Notice, match="5 lines left out, 1 text kept .line 1: .*; line 2: .*; line 3: .*; and 2 more"):
        read_texts(path, skip_bad=True)


def test_a_null_of_parquet_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"], "n": [1, 2, 3]}), path)
    with pytest.raises(InputError, match="row 2: the text is null"):
        read_texts(path)
    with pytest.warns(Notice, match="1 row left out, 2 texts kept"):
        found = read_texts(path, skip_bad=True)
    assert (found.texts, found.skipped, found.row(1)) == (["a", "c"], 1, {"text": "c", "n": 3})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "in.txt holds no texts"),
        ("in.jsonl", b"\n\n", "in.jsonl holds no texts"),
        ("in.csv", b"text\n", "in.csv holds no texts"),
        ("in.json", b"[]", r"may be .txt, .jsonl, .csv, .tsv \(each also .gz\) or .parquet"),
        ("in", b"a", "form= .--format. names another"),
        ("in.parquet.gz", b"", "may be .txt"),
        ("in.txt", "a".encode("utf-16"), "the file is UTF-16; convert it to UTF-8"),
        ("in.csv", b"text,text\na,b\n", "names 'text' twice"),
        ("in.tsv", b"text\ttext\na\tb\n", "names 'text' twice"),
        ("in.tsv", b"text\n", "in.tsv holds no texts"),
        ("in.csv", b"id;text\n1;a\n", "header is 'id;text'; the fields of a CSV are parted by commas"),
        ("in.txt.gz", b"plain", "not a whole gzip file"),
        ("in.txt.gz", gzip.compress(b"a\nb\n" * 500)[:-12], "not a whole gzip file"),
        ("in.parquet", b"plain", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name)


def test_nothing_but_broken_lines_is_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n")
    with pytest.raises(InputError, match=r"no texts that can be used \(line 1: not JSON"):
        read_texts(path, skip_bad=True)


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="column 'text' holds int64; texts must be strings"):
        read_texts(tmp_path / "in.parquet")


def test_form_reads_a_file_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(jsonl([{"text": "a"}]))
    assert read_texts(tmp_path / "in.json", form="jsonl").texts == ["a"]
    with pytest.raises(InputError, match="plain text and has no field 'text'"):
        read_texts(tmp_path / "in.json", form="txt", field="text")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExtraError, match=r"pip install 'gnomon\[parquet\]'"):
        read_texts(tmp_path / "in.parquet")


def test_a_field_of_mixed_types_does_not_fit_parquet() -> None:
    with pytest.raises(InputError, match=r"field 'n' does not fit a Parquet column .*write .jsonl"):
        _ = TextFile("in", ["a", "b"], rows=[{"text": "a", "n": 1}, {"text": "b", "n": "x"}]).table


def test_labels_are_the_id_and_title_that_a_row_has() -> None:
    rows = [{"_id": "d1", "id": 7, "title": "T", "text": "a"}, {"id": 0, "title": "", "text": "b"}]
    texts = TextFile("in", ["a", "b"], rows=rows)
    assert [texts.labels(index) for index in range(2)] == [{"id": "d1", "title": "T"}, {"id": 0}]
    assert TextFile("in", ["a"]).labels(0) == {}


@pytest.mark.parametrize("packed", [False, True])
def test_reading_shows_a_bar_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packed: bool
) -> None:
    path = tmp_path / ("in.txt.gz" if packed else "in.txt")
    content = b"line\n" * 2500
    path.write_bytes(gzip.compress(content) if packed else content)
    assert len(read_texts(path).texts) == 2500
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(textfiles, "BAR_DELAY", 0)
    assert len(read_texts(path).texts) == 2500
    assert "reading:" in capsys.readouterr().err


# ---- rows


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_rows_come_with_the_numbers_of_their_lines(tmp_path: Path, form: str, packed: bool) -> None:
    path = tmp_path / f"in.{form.upper()}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(CONTENTS[form]) if packed else CONTENTS[form])
    first = 1 if form == "jsonl" else 2
    assert list(read_rows(path)) == [(first + place, row) for place, row in enumerate(ROWS)]


def test_a_row_over_several_lines_and_an_empty_line_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"a\r\nb"\r\n\r\n2,c\r\n')
    assert list(read_rows(path)) == [(2, {"id": "1", "text": "a\r\nb"}), (5, {"id": "2", "text": "c"})]
    path = tmp_path / "in.tsv"
    path.write_bytes(b"\xef\xbb\xbf\r\nid\ttext\r\n\r\n1\ta\r\n")
    assert list(read_rows(path)) == [(4, {"id": "1", "text": "a"})]


def test_in_tsv_quotes_are_text_and_a_cell_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_bytes(b'id\ttext\n"1\t"say ""hi""", he said\n\t\n')
    assert [row for _, row in read_rows(path)] == [
        {"id": '"1', "text": '"say ""hi""", he said'},
        {"id": "", "text": ""},
    ]


@pytest.mark.parametrize(("form", "content", "message"), [each for each in BROKEN if "not JSON" in each[2]])
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    path = tmp_path / f"in.{form}"
    path.write_bytes(content)
    rows = read_rows(path)
    with pytest.raises(InputError, match=rf"in.{form}, {message}.*Mend it, or take it out"):
        list(rows)


def test_rows_are_not_of_plain_text_or_parquet(tmp_path: Path) -> None:
    for name in ("in.txt", "in.parquet"):
        with pytest.raises(InputError, match=r"rows are read from .jsonl, .csv and .tsv, each also as .gz"):
            list(read_rows(tmp_path / name))
    with pytest.raises(InputError, match="format of texts is known by the name's end"):
        list(read_rows(tmp_path / "in.json"))


def test_the_rows_before_a_broken_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    rows = read_rows(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(InputError, match="line 2: not JSON"):
        next(rows)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_any_rows_are_read_back(tmp_path: Path, cells: list[tuple[str, str]]) -> None:
    rows = [{"one": one, "two": two} for one, two in cells]
    written = {
        "jsonl": jsonl(rows),
        "tsv": ("one\ttwo\n" + "".join(f"{one}\t{two}\n" for one, two in cells)).encode(),
        "csv": as_csv([{"one": "one", "two": "two"}, *rows])[len(b"one,two\r\n") :],
    }
    for form, content in written.items():
        path = tmp_path / f"in.{form}"
        path.write_bytes(content)
        assert [row for _, row in read_rows(path)] == rows, form


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, None),
        ({"text": ""}, None),
        ({"body": "a"}, "no field 'text'"),
        ({"text": None}, "field 'text' is null, not a string"),
        ({"text": float("nan")}, "field 'text' is NaN, not a string"),
        ({"text": ["a"]}, "field 'text' is [\"a\"], not a string"),
        ({"text": "\udce9"}, "not UTF-8 (byte 0xe9)"),
        ({"text": "\ud83c"}, "field 'text' has half a surrogate pair, \\ud83c, and is not Unicode text"),
    ],
)
def test_unfit_says_why_a_field_is_no_text(row: dict, reason: str | None) -> None:
    assert unfit(row, "text") == reason
