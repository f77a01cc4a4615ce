"""Vectors into files: bytes, rows, manifests, and what a failed write leaves behind."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gnomon import Encoder, quantize
from gnomon.encode_options import EncodeOptions
from gnomon.errors import ExtraError, InputError, SpaceError
from gnomon.files import atomic_files, is_stream
from gnomon.space import Space
from gnomon.text_files import TextFile
from gnomon.vector_files import (
    check_precision,
    convert_precision,
    describe_origin,
    infer_output_format,
    ranges_path,
    read_ranges,
    read_vectors,
    write_jsonl,
    write_npy,
    write_vectors,
)


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


def test_b6_a_row_of_json_stands_as_it_was_written(tmp_path: Path) -> None:
    sources = [
        '{"text":"a","x":1e400,"p":0.10, "z":-0 }',
        '{"text": "b", "embedding": [9], "e": "\\u00e9"}',
        '{"embedding":1}',
    ]
    out = io.BytesIO()
    write_jsonl(out, TextFile("in", ["a", "b", ""], json_rows=sources), np.ones((3, 1), np.float32))
    assert out.getvalue().decode().splitlines() == [
        '{"text":"a","x":1e400,"p":0.10, "z":-0, "embedding": [1.0]}',
        '{"text": "b", "e": "\\u00e9", "embedding": [1.0]}',
        '{"embedding": [1.0]}',
    ]
    table = pa.table({"text": ["a"], "score": [float("nan")]})
    out = io.BytesIO()
    write_jsonl(out, TextFile("in", ["a"], source_table=table), np.ones((1, 1), np.float32))
    assert out.getvalue() == b'{"text": "a", "score": null, "embedding": [1.0]}\n'


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl", "out.parquet", "pipe"])
def test_b9_a_pipe_is_written_to_and_stays_one(tmp_path: Path, name: str) -> None:
    fifo, values = tmp_path / name, np.arange(6, dtype=np.float32).reshape(2, 3)
    os.mkfifo(fifo)
    texts = TextFile("in", ["a", "b"])
    assert infer_output_format(fifo) == (fifo.suffix[1:] or "jsonl")
    with ThreadPoolExecutor() as pool:
        found = pool.submit(fifo.read_bytes)
        write_vectors(fifo, texts, values, values[:2], {"model": "m"})
        content = found.result()
    write_vectors(tmp_path / f"plain.{infer_output_format(fifo)}", texts, values, None, {})
    assert content == (tmp_path / f"plain.{infer_output_format(fifo)}").read_bytes()
    assert fifo.is_fifo()
    assert not list(tmp_path.glob(f"{name}.*"))  # no manifest, no ranges, no draft


def test_b9_an_open_file_is_written_to_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        write_vectors(f"/dev/fd/{file.fileno()}", TextFile("in", ["a"]), np.ones((1, 1), np.float32), None, {})
        file.write(b"after\n")
        number = file.fileno()
    assert path.read_bytes() == b'before\n{"text": "a", "embedding": [1.0]}\nafter\n'
    with pytest.raises(InputError, match=f"/dev/fd/{number} is closed"):
        infer_output_format(f"/dev/fd/{number}")
    assert is_stream("/dev/stdout")
    assert is_stream("/proc/self/fd/1")
    assert not is_stream(path)
    assert not is_stream(tmp_path / "none")


def test_parquet_holds_every_field_of_the_rows(tmp_path: Path) -> None:
    texts = TextFile("in", ["a", "b"], rows=[{"text": "a"}, {"text": "b", "n": 2}])
    values = np.array([[1, 2], [3, 4]], np.float16)
    write_vectors(tmp_path / "out.parquet", texts, values, None, {})
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows == [{"text": "a", "n": None, "embedding": [1, 2]}, {"text": "b", "n": 2, "embedding": [3, 4]}]


def test_parquet_keeps_the_types_of_a_table(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([3, 4], pa.int16()), "embedding": ["an", "old one"], "body": ["a", "b"]})
    values = np.ones((2, 3), np.float32)
    write_vectors(tmp_path / "out.parquet", TextFile("in", ["a", "b"], source_table=table), values, None, {})
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["n", "body", "embedding"]
    assert schema.field("n").type == pa.int16()
    assert schema.field("embedding").type == pa.list_(pa.float32(), 3)


def test_parquet_without_pyarrow_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExtraError, match=r"pip install .*\[parquet\]"):
        infer_output_format(tmp_path / "out.parquet")


def test_files_come_together_or_not_at_all(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_files(old, new) as files:
        files[0].write(b"half")
        raise KeyboardInterrupt
    assert old.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with atomic_files(old, new) as files:
        files[0].write(b"after")
        assert old.read_text() == "before"
    assert old.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_new_file_has_the_rights_of_any_other_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_files(tmp_path / "link"):
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
    with pytest.raises(OSError, match=rf"out.{form} was not written: .*{tmp_path}") as raised:
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
        infer_output_format(tmp_path / name)


def test_a_folder_without_rights_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may do anything
    with pytest.raises(InputError, match=r"may not be written to, so out.npy could not be made there"):
        infer_output_format(tmp_path / "out.npy")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
def test_the_precision_is_that_of_quantize(precision: Any) -> None:
    vectors = np.random.default_rng(4).normal(size=(6, 16)).astype(np.float32)
    values, ranges = convert_precision(vectors, precision, None)
    expected = (vectors, None) if precision == "float32" else quantize(vectors, precision)
    np.testing.assert_array_equal(values, expected[0])
    assert values.dtype == expected[0].dtype
    assert (ranges is None) == (expected[1] is None)
    check_precision(16, precision, ranges)


def test_ranges_that_do_not_fit_are_said_before_the_work() -> None:
    check_precision(12, "binary", None)
    with pytest.raises(InputError, match=r"ranges have shape \(2, 3\); they must be \[2, 16\]"):
        check_precision(16, "int8", np.zeros((2, 3)))


def test_ranges_are_written_beside_and_read_back(tmp_path: Path) -> None:
    ranges = np.array([[0, 1], [2, 3]], np.float32)
    out = tmp_path / "out.npy"
    write_vectors(out, TextFile("in", ["a"]), np.ones((1, 2), np.int8), ranges, {"model": "südlich"})
    np.testing.assert_array_equal(read_ranges(ranges_path(out)), ranges)
    assert (tmp_path / "out.npy.json").read_text("utf-8") == '{\n  "model": "südlich"\n}\n'
    (tmp_path / "text").write_text("no array")
    with pytest.raises(InputError, match=r"text is not a .npy file of ranges"):
        read_ranges(tmp_path / "text")


def test_origin_says_what_vectors_are_of(golden_folder: Callable[[str], Path]) -> None:
    folder = golden_folder("GIST-Embedding-v0")
    encoder = Encoder.load(folder)
    space = encoder.space(EncodeOptions(truncate_dim=8))
    found = describe_origin(encoder, space)
    assert found.pop("gnomon")
    assert found == {
        "model": "GIST-Embedding-v0",
        "folder": str(folder),
        "revision": None,
        "engine": encoder.engine.name,
        "space": asdict(space),
    }


# ---- read_vectors


PRECISIONS = ("float32", "float16", "int8", "uint8", "binary", "ubinary")
SPACE = Space("a" * 64, 12, None, True, "cut")


def write(path: Path, precision: Any = "float32", count: int = 3) -> np.ndarray[Any, Any]:
    """Vectors of 12 dimensions as `gnomon encode` writes them."""
    vectors_BD = np.random.default_rng(0).normal(size=(count, 12)).astype(np.float32)
    values, ranges_2D = convert_precision(vectors_BD, precision, None)
    manifest = {"space": asdict(SPACE), "precision": precision, "count": count}
    manifest |= {"ranges": ranges_path(path).name if ranges_2D is not None else None}
    texts = TextFile("texts.txt", [str(index) for index in range(count)])
    write_vectors(path, texts, values, ranges_2D, manifest)
    return values


@pytest.mark.parametrize("form", ["npy", "jsonl", "parquet"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_are_read_as_they_were_written(form: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{form}"
    values = write(path, precision)
    stored = read_vectors(path, SPACE)
    np.testing.assert_array_equal(stored.vectors_BD, values)
    assert (stored.vectors_BD.dtype, stored.space, stored.precision) == (values.dtype, SPACE, precision)
    assert (stored.ranges_2D is not None) == (precision in ("int8", "uint8"))


@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_no_vectors_are_read_too(form: str, tmp_path: Path) -> None:
    write(tmp_path / f"out.{form}", count=0)
    assert len(read_vectors(tmp_path / f"out.{form}").vectors_BD) == 0


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(SPACE, fingerprint="b" * 64), "fingerprint"),
        (replace(SPACE, dim=6, cut_from=12), "cut_from"),
        (replace(SPACE, long_texts="mean"), "long_texts"),
    ],
)
def test_vectors_of_another_space_are_refused(other: Space, difference: str, tmp_path: Path) -> None:
    write(tmp_path / "out.npy")
    with pytest.raises(SpaceError, match=rf"out.npy.*{difference}"):
        read_vectors(tmp_path / "out.npy", other)
    assert read_vectors(tmp_path / "out.npy").space == SPACE


def test_a_file_without_its_manifest_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out.npy")
    (tmp_path / "out.npy.json").unlink()
    with pytest.raises(InputError, match=r"out\.npy has no manifest"):
        read_vectors(tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no space"),
        ({"space": None}, "no space"),
        ({"space": {"fingerprint": "a"}}, "space is"),
        ({"space": asdict(SPACE) | {"dim": "12"}}, "space is"),
        ({"precision": "float64"}, "'float64'"),
        ({"count": 4}, r"\(3, 12\).*\(4, 12\)"),
        ({"precision": "float16"}, "float32.*float16"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "out.npy")
    place = tmp_path / "out.npy.json"
    changed = change if isinstance(change, str) else json.dumps(json.loads(place.read_text()) | change)
    place.write_text(changed)
    with pytest.raises(InputError, match=message):
        read_vectors(tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("out.npy", "no array", "out.npy"),
        ("out.jsonl", '{"embedding": [1, 2]}\n{"text": "a"}\n', "line 2"),
        ("out.jsonl", '{"embedding": [1, 2]}\n{"embedding": [1]}\n', "one length"),
        ("out.parquet", "no table", "out.parquet"),
    ],
)
def test_a_damaged_file_of_vectors_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_vectors(tmp_path / name)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.csv.*\.npy, \.jsonl and \.parquet"):
        read_vectors(tmp_path / "out.csv")
