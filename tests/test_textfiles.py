"""Texts out of files: values, fields, and the numbers of broken lines."""

import csv
import gzip
import io
import json
import re
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import ExtraError, InputError, Notice
from gnomon.textfiles import TextFile, lines, read_rows, read_texts, unfit
from gnomon.textfiles.delimited import parse_csv, parse_tsv
from gnomon.textfiles.rows import Bad, Remarks

TEXTS = ["one", "", '  zwei, "drei" ', "南瓜\u2028の家常\x0b做法", "e\u0301 \U0001f383"]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_tsv(rows: list[dict]) -> bytes:
    """As pandas and csv.writer write it, without a header: a cell with a quote in it stands in quotes."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(row.values() for row in rows)
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
    path.write_bytes(as_csv([{"text": text, "n": "1"}, {"text": "b", "n": "2"}]))
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
        (None, r"several fields: 'title', 'body'; .*\(--field\)"),
        ("txt", "no field 'txt'; it has 'title', 'body'"),
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
    ("jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not JSON \(Expecting value, character 9\)"),
    ("jsonl", b'{"text": "a"}\n\n["b"]\n', "line 3: a JSON list; every line must be an object"),
    ("jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: field 'text' is 3, not a string"),
    ("jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no field 'text'"),
    ("jsonl", b'{"text": "a"}\n{"text": "\\ud83c"}\n', r"line 2: field 'text' has half a surrogate pair, \\ud83c"),
    ("jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"line 2: not UTF-8 \(byte 0xe9\)"),
    ("jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "line 2: not JSON"),
    ("csv", b'id,text\n1,"a\nb"\n2,c,d\n', "line 4: 3 fields, and the header has 2"),
    ("csv", b'id,text\n1,a\n2,"b\n', "line 3: a quote opens a cell and none closes it"),
    ("csv", b'id,text\n1,a\n2,"b"c\n', "line 3: text after the closing quote of a cell"),
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "in.txt holds no texts"),
        ("in.jsonl", b"\n\n", "in.jsonl holds no texts"),
        ("in.csv", b"text\n", "in.csv holds no texts"),
        ("in.json", b"[]", r"may be .txt, .jsonl, .csv, .tsv \(each also .gz\) or .parquet"),
        ("in", b"a", "form= .--format. names another"),
        ("in.parquet.gz", b"", "may be .txt"),
        ("in.txt", "alpha\n".encode("utf-16-be"), "looks like UTF-16BE without a byte order mark; convert it to UTF-8"),
        ("in.txt", "alpha\n".encode("utf-32-le"), "looks like UTF-32LE without a byte order mark"),
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
    monkeypatch.setattr(lines, "BAR_DELAY", 0)
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


def test_in_tsv_an_empty_cell_is_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_bytes(b"id\ttext\n\t\n1\t\n")
    assert [row for _, row in read_rows(path)] == [{"id": "", "text": ""}, {"id": "1", "text": ""}]


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
        "tsv": as_tsv([{"one": "one", "two": "two"}, *rows]),
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
        ({"text": "\ud83c"}, "field 'text' has half a surrogate pair, \\ud83c, which is not Unicode text"),
    ],
)
def test_unfit_says_why_a_field_is_no_text(row: dict, reason: str | None) -> None:
    assert unfit(row, "text") == reason


# ---- kinds of file that people meet


HUNDRED = [f"{number},row {number}" for number in range(1, 101)]


def with_lines(changes: dict[int, str], rows: list[str] = HUNDRED) -> bytes:
    """CSV of these rows, some lines of it changed; the header is line 1."""
    written = ["id,text", *rows]
    for line, text in changes.items():
        written[line - 1] = text
    return ("\n".join(written) + "\n").encode()


STRAY: dict[str, tuple[dict[int, str], list[int]]] = {
    "one that nothing closes": ({3: '2,"an open quote'}, [3]),
    "inches": ({11: '10,"inch 5"" disk'}, [11]),
    "two": ({11: '10,"a', 51: '50,"b'}, [11, 51]),
    "one before a quoted row": ({3: '2,"open a', 51: '50,"closed b"'}, [3]),
}
"""A stray quote -> the lines that are changed, and those that cannot be used."""


@pytest.mark.parametrize(("changes", "bad"), STRAY.values(), ids=STRAY.keys())
def test_b1_a_stray_quote_costs_its_own_line_and_no_other(
    tmp_path: Path, changes: dict[int, str], bad: list[int]
) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(with_lines(changes))
    with pytest.raises(InputError, match=rf"line {bad[0]}: a quote opens a cell and none closes it"):
        read_texts(path, field="text")
    kept = {line: f"row {line - 1}" for line in range(2, 102) if line not in bad}
    kept |= {line: text.split('"')[1] for line, text in changes.items() if line not in bad}
    told = f"{len(bad)} line{'s' if bad[1:] else ''} left out, {len(kept)} texts kept"
    with pytest.warns(Notice, match=told):
        found = read_texts(path, field="text", skip_bad=True)
    assert found.texts == [kept[line] for line in sorted(kept)]
    assert found.skipped == len(bad)


def test_b1_rows_that_stray_quotes_may_have_joined_are_told_of(tmp_path: Path) -> None:
    """Two quotes that meet well: nothing in the file says which reading is meant."""
    path = tmp_path / "in.csv"
    path.write_bytes(b'text,note\na,x "\n"b,c\nd",e\nf,g\n')
    with pytest.warns(Notice, match=r"1 row may be several that stray quotes joined \(lines 3 to 4\)"):
        assert read_texts(path).texts == ["a", "b,c\nd", "f"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"alpha\rbeta\rgamma\r", ["alpha", "beta", "gamma"]),
        ("alpha\nbeta\n".encode("utf-16"), ["alpha", "beta"]),
        (b"\xff\xfe\0\0" + "alpha\r\nbeta".encode("utf-32-le"), ["alpha", "beta"]),
        ("\ufeffalpha\nbeta".encode(), ["alpha", "beta"]),
    ],
)
def test_b2_any_line_end_and_any_marked_encoding(tmp_path: Path, content: bytes, texts: list[str]) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    assert read_texts(path).texts == texts


def test_b2_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\0l\0p\0h\0a\0\n\0b\0e\0t\0a\0\n\0")
    with pytest.raises(InputError, match="looks like UTF-16LE"):
        read_texts(path)


def test_b3_tsv_of_pandas_is_read_as_it_was_written(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "in.tsv"
    texts = ['She said "hi" to me', "plain", "tab\there", "two\nlines"]
    pandas.DataFrame({"id": range(4), "text": texts}).to_csv(path, sep="\t", index=False)
    assert read_texts(path, field="text").texts == texts
    assert [row["text"] for _, row in read_rows(path)] == texts


def test_b3_a_quote_that_is_text_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_bytes(b'id\ttext\n1\t5" disk\n2\t"open\n3\tsay "hi"\n')
    assert read_texts(path, field="text").texts == ['5" disk', '"open', 'say "hi"']


def test_b4_a_first_line_that_may_be_a_text_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"the first real text\nsecond\nthird\n")
    with pytest.warns(Notice, match="the first line, 'the first real text', is taken as the header"):
        assert read_texts(path).texts == ["second", "third"]
    assert read_texts(path, field="the first real text").texts == ["second", "third"]


EMPTY = {
    "csv": (b"text,n\na,1\n,2\n ,3\nb,4\n", [3, 4]),
    "tsv": (b"text\tn\na\t1\n\t2\n \t3\nb\t4\n", [3, 4]),
    "jsonl": (b'{"text": "a"}\n{"text": null}\n{"text": " "}\n{"text": "b"}\n', [2, 3]),
    "txt": (b"a\n\n \nb\n", [2, 3]),
}


@pytest.mark.parametrize("form", [*EMPTY, "parquet"])
def test_b5_an_empty_text_is_a_text_in_every_format_and_counted(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": ["a", None, " ", "b"]}), path)
        places = [2, 3]
    else:
        content, places = EMPTY[form]
        path.write_bytes(content)
    found = read_texts(path)
    assert [text.strip() for text in found.texts] == ["a", "", "", "b"]
    assert found.describe_empty() is not None
    assert f"2 of 4 texts of {path} are empty" in str(found.describe_empty())
    assert list(found.empty.values()) == places
    with pytest.warns(Notice, match="2 (line|row)s left out, 2 texts kept .*the text is empty"):
        left = read_texts(path, skip_bad=True)
    assert (left.texts, left.skipped, left.empty) == (["a", "b"], 2, {})


def test_b6_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    row = '{"text":"c","big":123456789012345678901234567890,"p":0.1234567890123456789,"far":1e400}'
    path.write_text(row + "\n")
    assert read_texts(path).sources == [row]
    for number in ("NaN", "Infinity", "-Infinity"):
        path.write_text(f'{{"text":"a","score":{number}}}\n')
        with pytest.raises(InputError, match=rf"line 1: not JSON \({number}"):
            read_texts(path)


@pytest.mark.parametrize(
    ("name", "content", "field", "message"),
    [
        ("in.csv", b"id;title, long;text\n1;x;hello, world\n", None, "parted by commas here, .* parted by semicolons"),
        ("in.csv", b"id , text \n1, a\n", "text", r"no field 'text'; it has 'id ', ' text '\. Did you mean ' text '\?"),
        ("in.jsonl", b'{"body":{"text":"a"}}\n', "body.txt", r"Did you mean 'body\.text'\?"),
        ("in.txt", b"PK\x03\x04...", None, "a zip archive or an Excel workbook"),
    ],
)
def test_b10_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, field: str | None, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name, field=field)


def test_b10_nested_fields_are_read_and_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(gzip.compress(b'{"id":1,"body":{"text":"alpha"}}\n{"id":2,"body":{"text":"beta"}}\n'))
    assert read_texts(path, field="body.text").texts == ["alpha", "beta"]
    pq.write_table(pa.Table.from_pylist([{"body": {"text": "alpha"}}]), tmp_path / "in.parquet")
    assert read_texts(tmp_path / "in.parquet", field="body.text").texts == ["alpha"]


# ---- random files with faults: every row is kept as it was written, or told of


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
    "\u2028",
    "\x85",
    "\x0b\x0c",
    "\0",
]
WILD = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("long " * 2000)
FAULTS = {"open": '{n},"stray', "after": '{n},"a"b', "few": "{n}", "many": "{n},a,b,c", "bytes": "{n},\udcff"}
"""A fault -> its line, of which {n} is the number of the row."""


@st.composite
def faulty_csv(draw: st.DrawFn) -> tuple[str, dict[int, dict[str, str]], set[int]]:
    """(content, rows by their first lines, lines with a fault)"""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    out = io.StringIO(newline="")
    # with another end, csv.writer leaves cells bare that hold the other characters of a line end
    styles = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL] if end == "\r\n" else [csv.QUOTE_ALL]
    writer = csv.writer(out, lineterminator=end, quoting=draw(st.sampled_from(styles)))
    writer.writerow(["id", "text"])
    rows: dict[int, dict[str, str]] = {}
    faults: set[int] = set()
    for number in range(draw(st.integers(1, 12))):
        line = 1 + len(split_lines(out.getvalue()))
        if len(faults) < 3 and draw(st.integers(0, 3)) == 0:
            out.write(FAULTS[draw(st.sampled_from([*FAULTS]))].format(n=number) + end)
            faults.add(line)
        else:
            text = draw(WILD)
            writer.writerow([str(number), text])
            rows[line] = {"id": str(number), "text": text}
    return out.getvalue(), rows, faults


def split_lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline=""))


@settings(max_examples=300, deadline=None)
@given(faulty_csv())
def test_b1_every_row_of_a_csv_with_faults_is_kept_or_told_of(case: tuple[str, dict[int, dict], set[int]]) -> None:
    content, rows, faults = case
    remarks = Remarks()
    kept: dict[int, dict] = {}
    bad: set[int] = set()
    for line, row in parse_csv(split_lines(content), remarks):
        if isinstance(row, Bad):
            bad.add(line)
        else:
            kept[line] = row
    assert remarks.joined.count <= 3  # as many as `longest` names
    joined = {line for first, last in remarks.joined.longest for line in range(first, last + 1)}
    for line, row in rows.items():
        assert kept.get(line) == row or line in joined, line
    for line in faults:
        assert line in bad or line in joined, line
    # nothing is invented: what is kept was written there, or is told of
    for line, row in kept.items():
        assert rows.get(line) == row or line in joined, line
    assert bad <= faults | joined
    if not joined:
        assert len(kept) + len(bad) == len(rows) + len(faults)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=faulty_csv(), packed=st.booleans(), mark=st.booleans())
def test_b1_counts_of_a_csv_with_faults_are_true(
    tmp_path: Path, case: tuple[str, dict[int, dict], set[int]], packed: bool, mark: bool
) -> None:
    """With --skip-bad as without: the first fault is the error, and what is left out is counted."""
    content, _, _ = case
    remarks = Remarks()
    parsed = list(parse_csv(split_lines(content), remarks))
    data = (b"\xef\xbb\xbf" if mark else b"") + content.encode("utf-8", "surrogateescape")
    path = tmp_path / "in.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    bad = [line for line, row in parsed if isinstance(row, Bad)]
    texts = [row["text"] for _, row in parsed if not isinstance(row, Bad)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        if bad:
            with pytest.raises(InputError, match=rf"line {bad[0]}: "):
                read_texts(path, field="text")
        elif texts:
            assert read_texts(path, field="text").texts == texts
        filled = [text for text in texts if text.strip()]
        if not filled:
            return
        found = read_texts(path, field="text", skip_bad=True)
    assert found.texts == filled
    assert found.skipped == len(bad) + len(texts) - len(filled)
    assert len(found.texts) + found.skipped == len(parsed)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["raw", "quoted", "few", "many", "bytes"]), WILD), min_size=1, max_size=10))
def test_b3_every_row_of_a_tsv_with_faults_is_kept_or_told_of(lines_of: list[tuple[str, str]]) -> None:
    """Raw cells, in which quotes are text, beside cells in quotes."""
    written, rows, faults = ["id\ttext\n"], dict[int, dict](), set[int]()
    for number, (kind, text) in enumerate(lines_of):
        line = 1 + len(split_lines("".join(written)))
        if kind in ("few", "many", "bytes"):
            written.append({"few": f"{number}\n", "many": f"{number}\ta\tb\n", "bytes": f"{number}\t\udcff\n"}[kind])
            faults.add(line)
            continue
        cell = '"' + text.replace('"', '""') + '"'
        if kind == "raw":  # as a hand writes it: what would be quoted by a rule is left out
            cell = text = re.sub(r"[\t\r\n]", " ", text).replace('"', "") + (' 5" x' if number % 2 else "")
        written.append(f"{number}\t{cell}\n")
        rows[line] = {"id": str(number), "text": text}
    remarks = Remarks()
    parsed = list(parse_tsv(split_lines("".join(written)), remarks))
    assert {line: row for line, row in parsed if not isinstance(row, Bad)} == rows
    assert {line for line, row in parsed if isinstance(row, Bad)} == faults


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(WILD | st.none(), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    form=st.sampled_from(["jsonl", "txt"]),
)
def test_b1_every_line_of_jsonl_and_txt_with_faults_is_kept_or_told_of(
    tmp_path: Path, texts: list[str | None], end: str, form: str
) -> None:
    """None stands for a line that cannot be used."""
    if form == "txt":
        texts = [None if text is None else re.sub(r"[\r\n\0]", " ", text) for text in texts]
    bad = {"jsonl": '{"text": "a"', "txt": "\udcff"}[form]
    rows = [bad if text is None else text if form == "txt" else json.dumps({"text": text}) for text in texts]
    path = tmp_path / f"in.{form}"
    path.write_bytes((end.join(rows) + end).encode("utf-8", "surrogateescape"))
    kept = [text for text in texts if text is not None and text.strip()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        if None in texts:
            with pytest.raises(InputError, match=rf"line {texts.index(None) + 1}: "):
                read_texts(path)
        else:
            assert read_texts(path).texts == texts
        if kept:
            found = read_texts(path, skip_bad=True)
            assert found.texts == kept
            assert found.skipped == len(texts) - len(kept)
