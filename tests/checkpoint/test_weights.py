"""Safetensors read and written, folders and shards, and `strict`; our error on what is damaged or hostile."""

import json
import os
import re
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.checkpoint.weights import match_arrays, read_safetensors, read_weights, write_safetensors
from gnomon.errors import GnomonError, NotAModelError, UnsafeFileError, UnsupportedError, WeightsError

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
ML_DTYPES = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
# few examples, for a write waits for the disk
fuzz = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---- safetensors


@fuzz
@given(data=st.data())
def test_written_safetensors_read_back_equal_here_and_in_the_reference_library(tmp_path, assert_same, data):
    dtype = np.dtype(data.draw(st.sampled_from([*DTYPES, *ML_DTYPES])))
    shapes = data.draw(st.dictionaries(st.text(max_size=6), st.lists(st.integers(0, 4), max_size=4), max_size=5))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    arrays = {name: rng.integers(0, 2, shape).astype(dtype) for name, shape in shapes.items()}
    path = tmp_path / "w.safetensors"
    write_safetensors(path, arrays)
    assert_same(read_safetensors(path), arrays)
    if dtype.itemsize > 1 or dtype.kind in "iub":  # the library's numpy side has no float8
        assert_same(safetensors.numpy.load_file(path), arrays)


def test_reads_what_the_reference_library_writes_mapped_and_read_only(tmp_path, assert_same, assert_mapped):
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in DTYPES}
    arrays["bf16"] = np.arange(4).astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    result = read_weights(tmp_path)
    assert_same(result, arrays)
    assert_mapped(result)
    assert len({id(array.base) for array in result.values()}) == 1


def test_written_bytes_depend_on_the_values_alone_and_are_those_of_the_reference_library(tmp_path):
    arrays = {"b": np.arange(3, dtype="f4"), "é": np.ones((2, 1), "f4"), "a": np.zeros(5, "f4")}
    write_safetensors(tmp_path / "1", arrays)
    write_safetensors(tmp_path / "2", dict(reversed(arrays.items())))
    one = (tmp_path / "1").read_bytes()
    assert one == (tmp_path / "2").read_bytes() == safetensors.numpy.save(arrays, metadata={"format": "pt"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_mixed_dtypes_are_written_aligned(tmp_path):
    write_safetensors(tmp_path / "w", {"a": np.ones(3, "i1"), "b": np.ones(3, "f8"), "c": np.ones(3, "f2")})
    result = read_safetensors(tmp_path / "w")
    assert list(result) == ["b", "c", "a"]
    assert all(array.flags.aligned for array in result.values())


def test_big_endian_and_strided_arrays_are_written_by_value(tmp_path, assert_same):
    values = np.arange(6, dtype=">f4").reshape(2, 3).T
    write_safetensors(tmp_path / "w", {"a": values})
    assert_same(read_safetensors(tmp_path / "w"), {"a": np.asarray(values, "<f4")})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w"
    write_safetensors(path, {"a": np.ones(2)})
    before = path.read_bytes()
    with pytest.raises(UnsupportedError, match="'b' is complex128"):
        write_safetensors(path, {"b": np.ones(2, complex)})

    def full(_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, {"a": np.zeros(2)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- damaged safetensors


def stored(header: object, data: bytes = b"") -> bytes:
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + data


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes"),
        (b"abc", "expected 8 bytes that give the length of the header, found 3 bytes"),
        (struct.pack("<Q", 2**63), "at most 100000000 bytes, found a length of 9223372036854775808 bytes"),
        (struct.pack("<Q", 50) + b"{}", "expected a header of 50 bytes, found 2 bytes"),
        (stored(b"{nope"), "expected JSON"),
        (stored(b"\xff\xff"), "expected JSON"),
        (stored(b"[" * 200_000), "expected JSON"),
        (stored(b"[1]"), "expected a JSON object, found list"),
        (stored(b'{"a": 1, "a": 2}'), "a name appears twice"),
        (stored({"a": 5}), "dtype, shape and data_offsets of 'a'"),
        (stored({"a": entry(shape=(-2,))}, bytes(8)), "dtype, shape and data_offsets of 'a'"),
        (stored({"a": entry(shape=(1,) * 65)}, bytes(8)), "dtype, shape and data_offsets of 'a'"),
        (stored({"a": entry()}, bytes(5)), "expected 8 bytes of tensors, found 5 bytes"),
        (stored({"a": entry()}, bytes(9)), "expected 8 bytes of tensors, found 9 bytes"),
        (stored({"a": entry(shape=(3,))}, bytes(8)), r"expected 12 bytes for 'a' \(F32, \[3\]\), found 8 bytes"),
        (stored({"a": entry(), "b": entry()}, bytes(8)), "expected 'b' at byte 8 of the data, found byte 0"),
        (stored({"a": entry(), "b": entry(12, 20)}, bytes(20)), "expected 'b' at byte 8 of the data, found byte 12"),
        (stored({"a": entry(-8, 0)}, bytes(8)), "expected 'a' at byte 0 of the data, found byte -8"),
        (stored({"a": entry(0, 2**62, "U8", (2**62,))}, b""), "bytes of tensors, found 0 bytes"),
        (stored({"a": entry(0, 0, "U8", (0, 2**62, 2**62))}, b""), "found .* bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"git-lfs pointer \(.*git lfs pull"),
    ],
)
def test_damaged_safetensors_say_what_was_expected_and_found(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=f"model.safetensors.*{message}.*[Dd]ownload it again"):
        read_weights(tmp_path)


def test_unknown_safetensors_dtype_is_named(tmp_path):
    (tmp_path / "w").write_bytes(stored({"a": entry(dtype="F4")}, bytes(8)))
    with pytest.raises(UnsupportedError, match=r"'a' has dtype 'F4'.*F64, F32"):
        read_safetensors(tmp_path / "w")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "w"
    write_safetensors(path, {"a": np.arange(50, dtype="f4"), "b": np.arange(9).reshape(3, 3)})
    return path.read_bytes()


def test_every_prefix_of_a_safetensors_file_is_refused(tmp_path, whole):
    path = tmp_path / "w"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"[Dd]ownload it again"):
            read_safetensors(path)


@settings(fuzz, max_examples=150)
@given(data=st.data())
def test_a_changed_byte_of_the_header_raises_nothing_but_our_errors(tmp_path, whole, data):
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 50 * 4 - 9 * 8 - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "w").write_bytes(changed)
    try:
        result = read_safetensors(tmp_path / "w")
    except GnomonError:
        return
    for array in result.values():
        array.tobytes()


# ---- folders


def test_safetensors_come_before_pickles_and_one_file_before_shards(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.array([1.0])})
    for other in ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"):
        (tmp_path / other).write_bytes(b"broken")
    assert read_weights(tmp_path)["a"] == 1.0


def test_a_pickle_is_read_where_there_is_nothing_else(tmp_path, assert_same):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert_same(read_weights(tmp_path), {"a": np.ones(2, "f4")})


def test_a_folder_without_weights_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        NotAModelError, match=f"{re.escape(str(tmp_path))} holds no weights.*model.safetensors, .*pytorch_model.bin"
    ):
        read_weights(tmp_path)
    with pytest.raises(NotAModelError, match="is not a file"):
        read_safetensors(tmp_path / "model.safetensors")


STEMS = {"safetensors": "model", "bin": "pytorch_model"}
both_kinds = pytest.mark.parametrize("kind", STEMS)


def sharded(folder: Path, kind: str) -> dict[str, np.ndarray]:
    shards = {
        f"{STEMS[kind]}-00001-of-00002.{kind}": {"a": np.arange(3, dtype="f4"), "c": np.ones((2, 2), "f4")},
        f"{STEMS[kind]}-00002-of-00002.{kind}": {"b": np.arange(4)},
    }
    for file, arrays in shards.items():
        if kind == "safetensors":
            write_safetensors(folder / file, arrays)
        else:
            torch = pytest.importorskip("torch")
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / file)
    write_index(folder, kind, {name: file for file, arrays in shards.items() for name in arrays})
    return {name: array for arrays in shards.values() for name, array in arrays.items()}


def write_index(folder: Path, kind: str, weight_map: dict[str, str]) -> None:
    (folder / f"{STEMS[kind]}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@both_kinds
def test_shards_read_as_one(tmp_path, kind, assert_same, assert_mapped):
    expected = sharded(tmp_path, kind)
    result = read_weights(tmp_path)
    assert_same(result, expected)
    assert_mapped(result)


@both_kinds
def test_a_missing_shard_is_named(tmp_path, kind):
    sharded(tmp_path, kind)
    next(tmp_path.glob("*-00002-of-*")).unlink()
    with pytest.raises(WeightsError, match=rf"-00002-of-00002.{kind} is missing.*index.json names it"):
        read_weights(tmp_path)


def test_shards_that_are_symbolic_links_are_read_as_in_a_hub_cache(tmp_path, assert_same):
    (tmp_path / "snapshot").mkdir()
    expected = sharded(tmp_path / "snapshot", "safetensors")
    for path in list((tmp_path / "snapshot").glob("*.safetensors")):
        path.rename(tmp_path / f"blob-{path.name}")
        path.symlink_to(f"../blob-{path.name}")
    assert_same(read_weights(tmp_path / "snapshot"), expected)


@both_kinds
@pytest.mark.parametrize("shard", ["../w", "/etc/passwd", "a/../../w", "..\\w", "C:\\w", "C:w", "\\\\host\\w"])
def test_a_shard_outside_the_folder_is_refused(tmp_path, kind, shard):
    write_index(tmp_path, kind, {"a": shard})
    with pytest.raises(UnsafeFileError, match=f"{re.escape(repr(shard))}, which leaves the model's folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"index\.json: expected .* found .*[Dd]ownload it again"):
        read_weights(tmp_path)


def test_a_tensor_that_its_shard_does_not_hold_is_named(tmp_path):
    write_safetensors(tmp_path / "one", {"a": np.ones(1)})
    write_index(tmp_path, "safetensors", {"a": "one", "b": "one"})
    with pytest.raises(WeightsError, match=r"index\.json: b not in the shard"):
        read_weights(tmp_path)


# ---- strict


def test_strict_picks_what_is_wanted_in_that_order():
    result = {"a": np.ones(2), "b": np.ones((2, 3)), "position_ids": np.ones(1)}
    picked = match_arrays(
        result, {"b": (2, 3), "a": (2,)}, is_ignored=lambda name: name.endswith("position_ids"), where="m"
    )
    assert list(picked) == ["b", "a"]
    assert picked["b"] is result["b"]


def test_strict_names_all_that_is_wrong_in_one_error():
    result = {"a": np.ones(2), "b": np.ones((2, 3))} | {f"x{n}": np.ones(1) for n in range(10)}
    with pytest.raises(WeightsError) as caught:
        match_arrays(result, {"b": (3, 2), "c": (1,), "d": ()}, where="models/m")
    message = str(caught.value)
    assert message.startswith("models/m: ")
    assert "2 missing: c, d;" in message
    assert "11 extra: a, x0, x1, x2, x3, x4, x5, x6 and 3 more;" in message
    assert "1 misshapen: b is [2, 3], expected [3, 2]" in message
