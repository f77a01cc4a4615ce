"""Texts out of files: values, fields, and the numbers of broken lines."""

import csv
import gzip
import io
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon import progress
from gnomon.errors import ExtraError, InputError, Notice
from gnomon.install import install_command
from gnomon.text_files import (
    TextFile,
    delimited,
    dump_json,
    read_rows,
    read_stdin_lines,
    read_texts,
    remove_member,
    text_fault,
)

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
    path.write_bytes(as_csv([{"n": "1", "text": text}, {"n": "2", "text": "b"}]))
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
        (None, r"several fields: 'title', 'body'.*field= \(--field\)"),
        ("bodi", "no field 'bodi'.*'title', 'body'. Did you mean 'body'?"),
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
    ("jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not JSON \(Expecting value, character \d+\)"),
    ("jsonl", b'{"text": "a"}\n\n["b"]\n', "line 3: a JSON list; every line must be an object"),
    ("jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: field 'text' is 3, not a string"),
    ("jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no field 'text'"),
    ("jsonl", b'{"text": "a"}\n{"text": "\\ud83c"}\n', r"line 2: field 'text' has half a surrogate pair, \\ud83c"),
    ("jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"line 2: not UTF-8 \(byte 0xe9\)"),
    ("jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "line 2: not JSON"),
    ("csv", b'id,text\n1,"a\nb"\n2,c,d\n', "line 4: 3 fields, and the header has 2"),
    ("csv", b'id,text\n1,a\n2,"b\n3,c\n', "line 3: a quote opens a cell and none closes it"),
    ("csv", b'id,text\n1,a\n2,"b" c\n', "line 3: text after the closing quote"),
    ("csv", b"id,text\n1,a\n\xe9,b\n", r"line 3: not UTF-8 \(byte 0xe9\)"),
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
    assert found.texts == (
        ["a", "b"] if form == "txt" else ["a\nb"] if b"a\nb" in content else ["a", "c"] if b"3,c" in content else ["a"]
    )


def test_only_the_first_broken_lines_are_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n" * 5 + b'{"text": "a"}\n')
    with pytest.warns(Notice, match="5 lines left out, 1 text kept .line 1: .*; line 2: .*; line 3: .*; and 2 more"):
        read_texts(path, skip_bad=True)


def test_a_row_of_parquet_that_is_not_utf8_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe9", b"c"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": texts, "n": [1, 2, 3]}), path)
    with pytest.raises(InputError, match=r"row 2: column 'text' is not UTF-8 .byte 0xe9."):
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
        ("in.json", b"[]", r"in.json: .*\.txt, \.jsonl, \.csv, \.tsv \(each also \.gz\) or \.parquet"),
        ("in", b"a", r"form= \(--format\)"),
        ("in.parquet.gz", b"", r"in\.parquet\.gz: .*\.parquet;"),
        ("in.csv", b'id,"text\n1,a\n', "the header, line 1, cannot be read: a quote opens a cell and none closes it"),
        ("in.csv", b"id,te\xe9t\n1,a\n", "the header, line 1, cannot be read: not UTF-8"),
        ("in.csv", b"PK\x03\x04rest", "is a zip archive or an Excel workbook"),
        ("in.txt", "a".encode("utf-16") + b"b", "not .* UTF-16-LE"),
        ("in.txt", gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "packed by gzip twice"),
        ("in.csv", b"text,text\na,b\n", "names 'text' twice"),
        ("in.tsv", b"text\ttext\na\tb\n", "names 'text' twice"),
        ("in.tsv", b"text\n", "in.tsv holds no texts"),
        ("in.csv", b"id;text\n1;a\n", "'id;text'.* CSV .* commas, .* semicolons"),
        ("in.txt.gz", b"plain", "not .* gzip file"),
        ("in.txt.gz", gzip.compress(b"a\nb\n" * 500, mtime=0)[:-12], "not .* gzip file"),
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
    with pytest.raises(ExtraError, match=re.escape(install_command("parquet"))):
        read_texts(tmp_path / "in.parquet")


def test_a_field_of_mixed_types_does_not_fit_parquet() -> None:
    with pytest.raises(InputError, match=r"field 'n' does not fit a Parquet column .*.jsonl"):
        _ = TextFile("in", ["a", "b"], rows=[{"text": "a", "n": 1}, {"text": "b", "n": "x"}]).table


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
    monkeypatch.setattr(progress, "DELAY", 0)
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


def test_in_tsv_quotes_that_are_not_around_a_cell_are_text_and_a_cell_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_bytes(b'id\ttext\n"1\t5" disk, "he" said\n\t\n')
    assert [row for _, row in read_rows(path)] == [
        {"id": '"1', "text": '5" disk, "he" said'},
        {"id": "", "text": ""},
    ]


@pytest.mark.parametrize(("form", "content", "message"), [each for each in BROKEN if "not JSON" in each[2]])
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    path = tmp_path / f"in.{form}"
    path.write_bytes(content)
    rows = read_rows(path)
    with pytest.raises(InputError, match=rf"in.{form}, {message}.*out"):
        list(rows)


def test_rows_are_not_of_plain_text_or_parquet(tmp_path: Path) -> None:
    for name in ("in.txt", "in.parquet"):
        with pytest.raises(InputError, match=r"rows are read from .jsonl, .csv and .tsv, each also as .gz"):
            list(read_rows(tmp_path / name))
    with pytest.raises(InputError, match=r"in\.json: .*--format"):
        list(read_rows(tmp_path / "in.json"))


def test_the_rows_before_a_broken_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    rows = read_rows(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(InputError, match="line 2: not JSON"):
        next(rows)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\t\r\n"'), max_size=12)


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
        ({"text": "\ud83c"}, "field 'text' has half a surrogate pair, \\ud83c, which is not Unicode text"),
    ],
)
def test_unfit_says_why_a_field_is_no_text(row: dict, reason: str | None) -> None:
    assert text_fault(row, "text") == reason


# ---- what people met: each with the number of its case


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def numbered(changes: dict[int, str], count: int = 1000) -> str:
    return "id,text\n" + "".join(f"{number},{changes.get(number, f'row {number}')}\n" for number in range(1, count + 1))


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({2: '"an open quote'}, [2]),
        ({2: '"open a', 500: '"closed b"'}, [2]),
        ({10: '"inch 5"" disk'}, [10]),
        ({10: '"a', 50: '"b'}, [10, 50]),
        ({10: '"a" b', 11: "c,d", 1000: '"'}, [10, 11, 1000]),
    ],
)
def test_b1_a_bad_record_costs_its_own_line_alone(tmp_path: Path, changes: dict[int, str], bad: list[int]) -> None:
    path = write(tmp_path / "in.csv", numbered(changes))
    with pytest.warns(Notice, match=f"{len(bad)} lines? left out, {1000 - len(bad)} texts kept .line {bad[0] + 1}: "):
        found = read_texts(path, skip_bad=True)
    good = [number for number in range(1, 1001) if number not in bad]
    assert [row["id"] for row in found.rows or []] == list(map(str, good))
    assert found.texts == [changes.get(number, f"row {number}").strip('"') for number in good]
    for read in (read_texts, lambda path: list(read_rows(path))):
        with pytest.raises(InputError, match=f"line {bad[0] + 1}: "):
            read(path)


def test_b1_rows_that_stray_quotes_may_have_joined_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", numbered({2: '"open', 500: 'closed"', 700: '"two\nlines, ""all\nright"""'}))
    with pytest.warns(Notice, match="in.csv: stray quotes .* lines 3 to 501"):
        found = read_texts(path)
    assert len(found.texts) == 1000 - 498
    assert found.texts[1].startswith("open\n3,row 3\n")
    assert 'two\nlines, "all\nright"' in found.texts
    with pytest.warns(Notice, match="lines 3 to 501"):
        assert len(list(read_rows(path))) == 1000 - 498


def test_b1_a_cell_of_several_lines_that_looks_like_no_rows_is_kept_without_a_word(tmp_path: Path) -> None:
    cells = ["one\r\ntwo", "a, b\n\nc, d", 'say ""\n"hi"', "x\n" * 3000, "Dear John,\nwhere, when\nbye, now"]
    rows = [{"id": str(number), "text": text} for number, text in enumerate([*"abcdefgh", *cells])]
    path = write(tmp_path / "in.csv", as_csv(rows))
    assert [row for _, row in read_rows(path)] == rows


def test_b1_a_stray_quote_that_shifts_what_is_quoted_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", 'id,text\n0,"open\n"\nx",1\n2,b\n')  # of rows 0 and ("\nx", 1)
    with pytest.warns(Notice, match="stray quotes .* lines 2 to 4"):
        assert read_texts(path).texts == ["open\n", "1", "b"]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        # quotes around a cell with a comma, none doubled, and another quote later
        ("in.csv", 'id,text\n1,"the screen, 5""\n2,b\n3,12"\n', "lines 2 to 4"),
        ("in.csv", 'id,text\n1,"open\n2,b\n3,""open, x row"\n4,c\n', "lines 2 to 4"),
        ("in.csv", 'id,text\na,"open\nb,text\n"\n', "lines 2 to 4"),
        ("in.csv", 'text\n"the screen, 5""\nsecond\nthird 5"\n', "lines 2 to 4"),
        ("in.tsv", 'text\n"the screen\t5""\nsecond\nthird 5"\n', "lines 2 to 4"),
    ],
)
def test_b1_rows_that_quotes_without_doubled_ones_join_are_named(
    tmp_path: Path, name: str, content: str, lines: str
) -> None:
    with pytest.warns(Notice, match=f"stray quotes .* {lines}. "):
        read_texts(write(tmp_path / name, content))


def test_b1_a_tsv_with_quotes_without_doubled_ones_is_read_line_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "in.tsv", 'id\ttext\n1\t"the screen\t5""\n2\tb\n3\t12"\n')
    with pytest.warns(Notice) as warnings:
        assert read_texts(path, skip_bad=True).texts == ["b", '12"']
    assert "a quote opens in the first line and closes in the last of lines 2 to 4" in str(warnings[0].message)
    assert "1 line left out, 2 texts kept (line 2: 3 fields, and the header has 2)" in str(warnings[1].message)


def test_b1_a_bad_byte_leaves_the_whole_of_its_row_out(tmp_path: Path) -> None:
    for name, end in (("in.csv", ","), ("in.tsv", "\t")):
        path = write(
            tmp_path / name, f'id{end}text\n1{end}"x\n\udcff\ny"\n2{end}ok\n'.encode("utf-8", "surrogateescape")
        )
        with pytest.warns(Notice, match="1 line left out, 1 text kept .line 2: not UTF-8 .*line 4"):
            assert read_texts(path, skip_bad=True).texts == ["ok"]
    # what may be several rows is read by lines, and the message says so
    path = write(path.with_suffix(".csv"), b'text\n"x\n\xff\ny"\nok\n')
    with pytest.warns(Notice, match=r"line 2: .* line 4 \(line 2 is left out, and the others are read by themselv"):
        assert read_texts(path, skip_bad=True).texts == ['y"', "ok"]


@pytest.mark.parametrize("lead", ["\n", "\r\n\r\n", "\ufeff\n"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_b1_empty_lines_before_the_first_row_are_passed_over(tmp_path: Path, lead: str, form: str) -> None:
    content = {"csv": "id,text\n1,a\n", "tsv": "id\ttext\n1\ta\n", "jsonl": '{"text": "a"}\n'}[form]
    assert read_texts(write(tmp_path / f"in.{form}", lead + content)).texts == ["a"]
    if "\r" not in lead:
        with pytest.raises(InputError, match="holds no texts"):
            read_texts(write(tmp_path / f"in.{form}", lead))


def test_b1_how_far_a_row_may_go_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_RECORD_CHARS", 1000)
    monkeypatch.setattr(delimited, "BLOCK_LINES", 8)
    path = write(tmp_path / "in.csv", "id,text\n" + '1,"' + "2,b\n" * 500 + 'end"\n')
    with pytest.warns(Notice, match="2 lines left out, 499 texts kept .line 2: a quote opens .* line 502: "):
        read_texts(path, skip_bad=True)
    long = write(tmp_path / "long.csv", 'id,text\n1,"' + "x" * 5000 + '"\n')  # of one line: as long as it likes
    assert read_texts(long).texts == ["x" * 5000]


def test_b1_a_space_before_a_quote_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", 'id,text\n1, "hello"\n2,"said, ""so"""\n')
    with pytest.warns(Notice, match="space before a quote in line 2"):
        assert read_texts(path).texts == [' "hello"', 'said, "so"']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("form", ["txt", "csv", "tsv", "jsonl"])
def test_b2_every_line_end_and_every_byte_order_mark(tmp_path: Path, end: str, encoding: str, form: str) -> None:
    texts = ["alpha", "be\u2028ta\x85", "日本"]
    rows = [json.dumps({"text": text}, ensure_ascii=False) if form == "jsonl" else text for text in texts]
    content = end.join([*(["text"] if form in ("csv", "tsv") else []), *rows, ""])
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert read_texts(write(tmp_path / f"in.{form}", mark + content.encode(encoding))).texts == texts


def test_b2_a_carriage_return_in_a_line_is_text_where_lines_end_in_lf(tmp_path: Path) -> None:
    with pytest.warns(Notice, match="carriage return in line 2. .* as text"):
        assert read_texts(write(tmp_path / "in.txt", "x\r\na\rb\r\nc")).texts == ["x", "a\rb", "c"]
    assert read_texts(write(tmp_path / "in.txt", "x\ra\rb\r\nc\n\n")).texts == ["x", "a", "b", "c", ""]
    assert read_texts(write(tmp_path / "in.tsv", "id\ttext\n1\ta\rb\n")).texts == ["a\rb"]
    assert read_texts(write(tmp_path / "in.csv", 'id,text\n1,"a\rb"\n2,a\rb\n3,"x, y"\n')).texts == ["a\rb"] * 2 + [
        "x, y"
    ]
    doubled = write(tmp_path / "in.csv", 'id,text\r\r\n1,a\r\r\n2,"b"\r\r\n')  # Windows' text mode, twice
    assert read_texts(doubled).texts == ["a", "b"]
    long = "x" * 100_000  # the first line end is far from the first bytes
    assert read_texts(write(tmp_path / "in.txt", f"{long}\rb")).texts == [long, "b"]


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
@pytest.mark.parametrize("text", ["alpha\nbeta\n", "текст\nещё текст\nи ещё\n"])
def test_b2_utf16_and_utf32_without_a_mark_are_an_error(tmp_path: Path, encoding: str, text: str) -> None:
    path = write(tmp_path / "in.txt", text.encode(encoding))
    with pytest.raises(InputError, match=f"looks like {encoding} without a byte order mark.*iconv -f {encoding}"):
        read_texts(path)
    assert read_texts(write(path, "nul\x00\nnul \x00\n")).texts == ["nul\x00", "nul \x00"]


def test_b3_tsv_written_by_pandas_is_read_as_written(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    texts = ['She said "hi" to me', "plain", "two\nlines", "a\ttab", '"', '""', "", " x ", "cr\rhere", '"whole"']
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts})
    for quoting in (0, 1, 2):  # minimal, all, non-numeric
        frame.to_csv(tmp_path / "in.tsv", sep="\t", index=False, quoting=quoting)
        assert read_texts(tmp_path / "in.tsv").texts == texts
        assert [row["text"] for _, row in read_rows(tmp_path / "in.tsv")] == texts
    with pytest.warns(Notice, match="stray quotes .* lines 4 to 5"):  # in one column, any line could be a row
        path = write(tmp_path / "in.tsv", 'text\n"She said ""hi"" to me"\nplain\n"two\nlines"\n')
        assert read_texts(path).texts == ['She said "hi" to me', "plain", "two\nlines"]


def test_b3_in_a_tsv_by_hand_quotes_mean_themselves(tmp_path: Path) -> None:
    texts = ['5" disk', 'he said "no"', '"open', 'closed"', '"a" b', "plain"]
    path = write(tmp_path / "in.tsv", "n\ttext\n" + "".join(f"{place}\t{text}\n" for place, text in enumerate(texts)))
    with pytest.warns(Notice, match="a quote opens in the first line and closes in the last of lines 4 to 5"):
        assert read_texts(path).texts == texts
    path = write(tmp_path / "in.tsv", 'n\ttext\n1\t"all of it"\n2\t5" disk\n')
    with pytest.warns(Notice, match="taken off in line 2, and quotes are text in line 3"):
        assert read_texts(path).texts == ["all of it", '5" disk']


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_b4_a_first_line_that_may_be_a_text_is_reported(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / f"in.{form}", "the first real text\nsecond\nthird\n")
    with pytest.warns(Notice, match="the first line, 'the first real text', is read as the header"):
        assert read_texts(path).texts == ["second", "third"]
    assert read_texts(path, field="the first real text").texts == ["second", "third"]
    assert read_texts(path, form="txt").texts == ["the first real text", "second", "third"]


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("blank", [None, "", "  "])
def test_b5_an_empty_text_is_the_same_in_every_format(tmp_path: Path, form: str, blank: str | None) -> None:
    texts, path = ["a", blank, blank, "b"], tmp_path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "n": [1, 2, 3, 4]}), path)
    elif form == "jsonl":
        write(path, jsonl([{"text": text, "n": place} for place, text in enumerate(texts)]))
    else:
        delimiter = {"txt": "", "csv": ",1", "tsv": "\t1"}[form]
        header = [] if form == "txt" else ["text" + delimiter]
        write(path, "".join(f"{line}\n" for line in [*header, *((text or "") + delimiter for text in texts)]))
    found = read_texts(path)
    kept = blank if blank == "  " else ""
    assert (found.texts, list(found.empty_texts), found.skipped) == (["a", kept, kept, "b"], [1, 2], 0)
    first = 3 if form in ("csv", "tsv") else 2
    assert f"2 of 4 texts of {path} are empty ({found.unit}s {first}, {first + 1})" == found.describe_empty()
    with pytest.warns(Notice, match=f"2 {found.unit}s left out, 2 texts kept .{found.unit} {first}: the text is empty"):
        full = read_texts(path, skip_bad=True)
    assert (full.texts, full.skipped, full.empty_texts) == (["a", "b"], 2, {})


def test_b6_what_is_no_json_is_refused_and_numbers_stay_as_they_were_written(tmp_path: Path) -> None:
    numbers = '{"text":"a","x":1e400,"big":123456789012345678901234567890,"p":0.10,"z":-0, "u":"\\u00e9"}'
    path = write(tmp_path / "in.jsonl", f'  {numbers} \n{{"text":"b","score":NaN}}\n{{"text":"c","score":-Infinity}}\n')
    with pytest.raises(InputError, match=r"line 2: not JSON \(NaN"):
        read_texts(path)
    with pytest.warns(Notice, match="2 lines left out.*line 3: not JSON .-Infinity"):
        found = read_texts(path, skip_bad=True)
    assert found.json_rows == [numbers]
    assert found.row(0)["big"] == 123456789012345678901234567890


def test_b6_a_member_goes_and_the_others_stay_as_they_were_written() -> None:
    text = '{ "a" : 1.50, "embedding":[1, {"embedding": 2}] , "b":"\\"}{,","\\u0065mbedding":3, "c": -0}'
    assert remove_member(text, "embedding") == '{"a" : 1.50, "b":"\\"}{,", "c": -0}'
    assert remove_member('{"embedding": 1}', "embedding") == "{}"


def test_b6_values_are_valid_json() -> None:
    value = {"a": [float("nan"), 1.5, (float("inf"),)], "b": "é", "c": "\ud83c"}
    assert dump_json(value) == dump_json(value, ascii_only=True)
    assert json.loads(dump_json(value)) == {"a": [None, 1.5, [None]], "b": "é", "c": "\ud83c"}
    assert dump_json("é") == '"é"'
    assert dump_json("é", ascii_only=True) == '"\\u00e9"'


def test_b10_a_field_in_a_field(tmp_path: Path) -> None:
    rows = [{"id": 1, "body": {"text": "alpha"}}, {"id": 2, "body": {"text": "beta"}}, {"body.text": "own", "body": 3}]
    path = write(tmp_path / "in.jsonl", jsonl(rows))
    assert read_texts(path, field="body.text").texts == ["alpha", "beta", "own"]
    with pytest.raises(InputError, match=r"no field 'body.txt'.*'id', 'body'. Did you mean 'body.text'\?"):
        read_texts(path, field="body.txt")
    write(path, jsonl([rows[0], {"body": {"title": "x"}}]))
    with pytest.raises(InputError, match=r"line 2: no field 'body\.text'"):
        read_texts(path, field="body.text")
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "in.parquet")
    found = read_texts(tmp_path / "in.parquet", field="body.text")
    assert (found.texts, found.row(0)) == (["alpha", "beta"], rows[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id , text \n1, a\n", "several fields: 'id ', ' text '. .* Did you mean ' text '?"),
        (
            "id;title, long;text\n1;x;hello, world\n",
            "'id;title, long;text'.* commas.* semicolons",
        ),
        ("id|text\n1|a\n", "by bars"),
    ],
)
def test_b10_a_header_of_another_kind_is_shown(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_texts(write(tmp_path / "in.csv", content))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_b10_gzip_is_known_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    content = gzip.compress("a\nb".encode(encoding))
    assert read_texts(write(tmp_path / "in.txt", content)).texts == ["a", "b"]
    for stdin in (content, b"a\nb"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert read_texts("-").texts == ["a", "b"]


def test_b8_standard_input_that_is_closed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        read_texts("-")
    assert read_texts(write(tmp_path / "in.txt", "a")).texts == ["a"]


def test_the_field_of_json_lines_is_that_of_all_rows(tmp_path: Path) -> None:
    rows = [{"id": "doc-1"}, {"id": "doc-2", "text": "hello"}]
    path = write(tmp_path / "in.jsonl", jsonl(rows))
    with pytest.raises(InputError, match=r"line 1 .*'id', .*line 2 .*'id', 'text'.*--field"):
        read_texts(path)
    assert read_texts(path, field="id").texts == ["doc-1", "doc-2"]
    assert read_texts(write(path, jsonl([{"t": "a"}, {"t": "b"}]))).texts == ["a", "b"]


def test_a_member_that_stands_twice_is_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", '{"text": "a", "text": "b"}\n{"text": "c"}\n')
    with pytest.raises(InputError, match=r"line 1: not JSON .it has 'text' twice"):
        read_texts(path)


def test_b6_a_number_of_any_length_stays_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", '{"text": "a", "n": ' + "1" * 5000 + "}\n")
    found = read_texts(path)
    assert found.json_rows == [path.read_text("utf-8").strip()]
    assert found.row(0)["n"] == Decimal("1" * 5000)


def test_b4_a_header_alone_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no texts: its only line, 'one text', is the header"):
        read_texts(write(tmp_path / "in.csv", "one text\n"))


def test_a_bad_byte_in_any_column_of_parquet_is_a_broken_row(tmp_path: Path) -> None:
    pieces = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"b", b"\xe9"], pa.binary()).buffers())
    path = tmp_path / "in.parquet"
    inner = pa.StructArray.from_arrays([pieces], ["deep"])
    pq.write_table(pa.table({"text": ["x", "y", "z"], "other": pieces, "in": inner}), path)
    with pytest.raises(InputError, match=r"row 3: column 'other' is not UTF-8 .byte 0xe9.\. .* leave such rows"):
        read_texts(path, field="text")
    with pytest.warns(Notice, match="1 row left out, 2 texts kept"):
        found = read_texts(path, field="text", skip_bad=True)
    assert (found.texts, found.table.num_rows) == (["x", "y"], 2)


def test_lines_of_stdin_come_one_by_one_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("fünf\r\n\nb\n".encode() + b"\xe9\n")))
    found = read_stdin_lines()
    assert [next(found) for _ in range(3)] == ["fünf", "", "b"]
    with pytest.raises(InputError, match="standard input, line 4: not UTF-8"):
        next(found)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xe9\nb\rc\n")))
    with pytest.warns(Notice) as warnings:
        assert list(read_stdin_lines(skip_bad=True)) == ["a", "b\rc"]
    bad_line, carriage_return = (str(warning.message) for warning in warnings)
    assert bad_line.startswith("standard input, line 2: not UTF-8 (byte 0xe9).")
    assert carriage_return.startswith("standard input: ") and "carriage return in line 3" in carriage_return
