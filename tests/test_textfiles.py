"""Texts out of files and vectors into files: values, line numbers, and what a failed write leaves behind."""

import csv
import errno
import gzip
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gnomon import textfiles
from gnomon.errors import ExtraError, InputError, Notice
from gnomon.textfiles import TextFile, new_files, read_texts, write_jsonl, write_npy, write_vectors

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
CONTENTS = {"txt": "\n".join(TEXTS).encode(), "jsonl": jsonl(ROWS), "csv": as_csv(ROWS)}


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
    write_vectors(tmp_path / "out.parquet", found, np.ones((2, 3), np.float32), None, {})
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("n").type == pa.int16()
    assert schema.field("embedding").type == pa.list_(pa.float32(), 3)


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
        ("in.json", b"[]", r"may be .txt, .jsonl, .csv \(each also .gz\) or .parquet"),
        ("in", b"a", "form= .--format. names another"),
        ("in.parquet.gz", b"", "may be .txt"),
        ("in.txt", "a".encode("utf-16"), "the file is UTF-16; convert it to UTF-8"),
        ("in.csv", b"text,text\na,b\n", "names 'text' twice"),
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
    with pytest.raises(ExtraError, match=r"pip install 'gnomon\[parquet\]'"):
        textfiles.output_form(tmp_path / "out.parquet")


# ---- writing


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_npy_has_the_bytes_of_numpys_own(dtype: type) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    for array in (values, values[:, ::2], values[:0]):
        ours, theirs = io.BytesIO(), io.BytesIO()
        write_npy(ours, array)
        np.save(theirs, np.ascontiguousarray(array))
        assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_jsonl_reads_back_as_the_same_numbers(dtype: type) -> None:
    values = (np.random.default_rng(3).normal(size=(4, 5)) * [1, 10, 1e-6, 1, 0]).astype(dtype)
    rows = [{"n": index, "text": "南", "embedding": "an old one"} for index in range(4)]
    out = io.BytesIO()
    write_jsonl(out, TextFile("in", ["南"] * 4, rows=rows), values)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(row) for row in found] == [["n", "text", "embedding"]] * 4
    assert np.array([row["embedding"] for row in found], dtype).tobytes() == values.tobytes()
    assert "南".encode() in out.getvalue()


def test_jsonl_keeps_half_a_surrogate_pair_of_another_field() -> None:
    out = io.BytesIO()
    write_jsonl(out, TextFile("in", ["a"], rows=[{"text": "a", "x": "\ud83c"}]), np.ones((1, 1), np.float32))
    assert out.getvalue() == b'{"text": "a", "x": "\\ud83c", "embedding": [1.0]}\n'


def test_parquet_holds_every_field_of_the_rows(tmp_path: Path) -> None:
    texts = TextFile("in", ["a", "b"], rows=[{"text": "a"}, {"text": "b", "n": 2}])
    values = np.array([[1, 2], [3, 4]], np.float16)
    write_vectors(tmp_path / "out.parquet", texts, values, None, {})
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows == [{"text": "a", "n": None, "embedding": [1, 2]}, {"text": "b", "n": 2, "embedding": [3, 4]}]


def test_a_field_of_mixed_types_does_not_fit_parquet() -> None:
    with pytest.raises(InputError, match=r"field 'n' does not fit a Parquet column .*write .jsonl"):
        _ = TextFile("in", ["a", "b"], rows=[{"text": "a", "n": 1}, {"text": "b", "n": "x"}]).table


def test_files_come_together_or_not_at_all(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    with pytest.raises(KeyboardInterrupt), new_files(old, new) as files:
        files[0].write(b"half")
        raise KeyboardInterrupt
    assert old.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with new_files(old, new) as files:
        files[0].write(b"after")
        assert old.read_text() == "before"
    assert old.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_new_file_has_the_rights_of_any_other_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    plain = tmp_path / "plain"
    plain.touch()
    with new_files(tmp_path / "link"):
        pass
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("form", ["npy", "jsonl", "parquet"])
def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, code: int
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    out = tmp_path / f"out.{form}"
    with pytest.raises(OSError, match=rf"out.{form} was not written: .*{tmp_path}.*Nothing was left behind") as raised:
        write_vectors(out, TextFile("in", ["a"]), np.ones((1, 2), np.float32), None, {})
    assert raised.value.errno == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "written as .npy, .jsonl or .parquet, or to -"),
        ("nowhere/out.npy", "there is no folder .*nowhere; make it first"),
        ("folder.npy", "is a folder; give the name of a file"),
    ],
)
def test_an_output_that_cannot_be_is_said_before_the_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match=message):
        textfiles.output_form(tmp_path / name)


def test_a_folder_without_rights_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may do anything
    with pytest.raises(InputError, match=r"may not be written to, so out.npy could not be made there"):
        textfiles.output_form(tmp_path / "out.npy")


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
