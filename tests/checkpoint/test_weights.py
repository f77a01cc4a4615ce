"""Weights from safetensors and pickles: equal to what torch loads, mapped; our error on what is damaged or hostile."""

import functools
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.checkpoint.weights import read_pickle, read_safetensors, read_weights, strict, write_safetensors
from gnomon.errors import GnomonError, NotAModelError, UnsafeFileError, UnsupportedError, WeightsError

SHARED = Path(__file__).resolve().parents[3] / "shared"
DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
TORCH_DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
ML_DTYPES = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
fuzz = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype, name
        assert array.shape == right[name].shape, name
        assert array.tobytes() == right[name].tobytes(), name


def assert_mapped(array: np.ndarray) -> None:
    assert not array.flags.writeable
    base = array
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def arrays_of(state) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    return {
        name: tensor.detach().float().numpy().astype(ml_dtypes.bfloat16)  # exact: every bfloat16 is a float32
        if tensor.dtype == torch.bfloat16
        else tensor.detach().numpy()
        for name, tensor in state.items()
    }


@functools.cache
def layer():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))


@functools.cache
def states():
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "module": layer().state_dict(),
        "parameters": dict(layer().named_parameters()),
        "views": {
            "plain": base,
            "transposed": base.T,
            "strided": base[1:4:2, 2::3],
            "tail": base[3],
            "expanded": base[:, :1].expand(4, 3),
        },
        "dtypes": {
            str(dtype): (torch.arange(6).reshape(2, 3) - 2).to(dtype) for dtype in map(torch.__dict__.get, TORCH_DTYPES)
        },
        "small": {"scalar": torch.tensor(3.5), "none": torch.zeros(0, 3), "one": torch.tensor([7])},
        "empty": {},
    }


def saved(path: Path, state, *, zipped: bool) -> Path:
    pytest.importorskip("torch").save(state, path, _use_new_zipfile_serialization=zipped)
    return path


both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


# ---- safetensors


@fuzz
@given(data=st.data())
def test_written_safetensors_read_back_equal_here_and_in_the_reference_library(tmp_path, data):
    dtype = np.dtype(data.draw(st.sampled_from([*DTYPES, *ML_DTYPES])))
    shapes = data.draw(st.dictionaries(st.text(max_size=6), st.lists(st.integers(0, 4), max_size=4), max_size=5))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    arrays = {name: rng.integers(0, 2, shape).astype(dtype) for name, shape in shapes.items()}
    path = tmp_path / "w.safetensors"
    write_safetensors(path, arrays)
    same(read_safetensors(path), arrays)
    if dtype.itemsize > 1 or dtype.kind in "iub":
        same(safetensors.numpy.load_file(path), arrays)


def test_reads_what_the_reference_library_writes_mapped_and_read_only(tmp_path):
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in DTYPES}
    arrays["bf16"] = np.arange(4).astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_weights(tmp_path)
    same(found, arrays)
    for array in found.values():
        assert_mapped(array)
    assert len({id(array.base) for array in found.values()}) == 1


def test_written_bytes_depend_on_the_values_alone_and_are_those_of_the_reference_library(tmp_path):
    arrays = {"b": np.arange(3, dtype="f4"), "é": np.ones((2, 1), "f4"), "a": np.zeros(5, "f4")}
    write_safetensors(tmp_path / "1", arrays)
    write_safetensors(tmp_path / "2", dict(reversed(arrays.items())))
    one = (tmp_path / "1").read_bytes()
    assert one == (tmp_path / "2").read_bytes() == safetensors.numpy.save(arrays, metadata={"format": "pt"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_mixed_widths_are_written_aligned(tmp_path):
    write_safetensors(tmp_path / "w", {"a": np.ones(3, "i1"), "b": np.ones(3, "f8"), "c": np.ones(3, "f2")})
    found = read_safetensors(tmp_path / "w")
    assert list(found) == ["b", "c", "a"]
    assert all(array.flags.aligned for array in found.values())


def test_big_endian_and_strided_arrays_are_written_by_value(tmp_path):
    values = np.arange(6, dtype=">f4").reshape(2, 3).T
    write_safetensors(tmp_path / "w", {"a": values})
    same(read_safetensors(tmp_path / "w"), {"a": np.asarray(values, "<f4")})


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
        (stored(b'{"a": 1, "a": 2}'), "a name twice"),
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
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"model.safetensors.*{message}.*download it again"):
        read_weights(tmp_path)


def test_unknown_safetensors_dtype_is_named(tmp_path):
    (tmp_path / "w").write_bytes(stored({"a": entry(dtype="F4")}, bytes(8)))
    with pytest.raises(UnsupportedError, match=r"'a' has dtype 'F4'.*F64, F32"):
        read_safetensors(tmp_path / "w")


@fuzz
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_prefix_of_a_safetensors_file_is_refused(tmp_path, share):
    path = tmp_path / "w"
    write_safetensors(path, {"a": np.arange(50, dtype="f4"), "b": np.arange(9)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="download it again"):
        read_safetensors(path)


@fuzz
@given(data=st.data())
def test_a_changed_byte_of_the_header_raises_nothing_but_our_errors(tmp_path, data):
    path = tmp_path / "w"
    write_safetensors(path, {"a": np.arange(50, dtype="f4"), "b": np.arange(9).reshape(3, 3)})
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 273))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        found = read_safetensors(path)
    except GnomonError:
        return
    for array in found.values():
        array.tobytes()


# ---- torch's .bin


@both_formats
@pytest.mark.parametrize("name", ["module", "parameters", "views", "dtypes", "small", "empty"])
def test_a_saved_state_dict_reads_as_torch_loads_it(tmp_path, name, zipped):
    torch = pytest.importorskip("torch")
    path = saved(tmp_path / "pytorch_model.bin", states()[name], zipped=zipped)
    found = read_weights(tmp_path)
    same(found, arrays_of(torch.load(path, weights_only=True)))
    for array in found.values():
        assert_mapped(array)


@both_formats
def test_tied_tensors_share_their_bytes(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    weight = torch.randn(4, 2)
    found = read_pickle(saved(tmp_path / "w", {"in": weight, "out": weight, "row": weight[1]}, zipped=zipped))
    assert np.shares_memory(found["in"], found["out"])
    assert np.shares_memory(found["in"], found["row"])
    np.testing.assert_array_equal(found["row"], weight[1].numpy())


@both_formats
def test_the_wrapped_state_dict_is_unwrapped_and_plain_values_are_left_out(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    state = OrderedDict(a=torch.ones(2), step=3, note="x", none=None, rate=0.5, done=True)
    path = saved(tmp_path / "w", {"state_dict": state, "epoch": 3, "args": {"lr": [1]}}, zipped=zipped)
    same(read_pickle(path), {"a": np.ones(2, "f4")})


@both_formats
@pytest.mark.parametrize(
    ("top", "message"),
    [
        ([1, 2], "holds list, not a dict"),
        ({"a": [1]}, "holds list at 'a'"),
        ({3: 1}, "holds int at a key of type int"),
        ({"a": {"b": 1}}, "holds dict at 'a'"),
    ],
)
def test_what_is_not_a_state_dict_is_named(tmp_path, top, message, zipped):
    with pytest.raises(WeightsError, match=f"{message}.*state_dict"):
        read_pickle(saved(tmp_path / "w", top, zipped=zipped))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@both_formats
def test_every_pickle_protocol_reads(tmp_path, protocol, zipped):
    torch = pytest.importorskip("torch")
    torch.save(layer().state_dict(), tmp_path / "w", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    same(read_pickle(tmp_path / "w"), arrays_of(layer().state_dict()))


@fuzz
@given(data=st.data())
@both_formats
def test_random_shapes_and_strides_read_as_torch_loads_them(tmp_path, data, zipped):
    torch = pytest.importorskip("torch")
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    base = torch.randint(0, 2, shape).to(dtype)
    view = base.permute(data.draw(st.permutations(range(len(shape)))))[data.draw(st.integers(0, 2)) :]
    same(read_pickle(saved(tmp_path / "w", {"v": view}, zipped=zipped)), arrays_of({"v": view}))


@both_formats
@fuzz
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_prefix_of_a_bin_file_is_refused(tmp_path, share, zipped):
    path = saved(tmp_path / "w", states()["views"], zipped=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="download it again"):
        read_pickle(path)


def rezipped(source: Path, target: Path, change=lambda name, content: content, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@settings(fuzz, max_examples=600)
@given(data=st.data())
def test_a_changed_byte_of_the_zipped_pickle_raises_nothing_but_our_errors(tmp_path, data):
    path = saved(tmp_path / "w", layer().state_dict(), zipped=True)

    def corrupt(name, content):
        if not name.endswith("data.pkl"):
            return content
        changed = bytearray(content)
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed)

    read_or_refused(rezipped(path, tmp_path / "changed", corrupt))


@both_formats
@settings(fuzz, max_examples=600)
@given(data=st.data())
def test_a_changed_byte_of_a_bin_file_raises_nothing_but_our_errors(tmp_path, data, zipped):
    path = saved(tmp_path / "w", layer().state_dict(), zipped=zipped)
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    read_or_refused(path)


def read_or_refused(path: Path) -> None:
    try:
        found = read_pickle(path)
    except GnomonError:
        return
    for name, array in found.items():
        assert isinstance(name, str)
        array.tobytes()


def test_compressed_entries_are_read(tmp_path):
    path = saved(tmp_path / "w", layer().state_dict(), zipped=True)
    packed = rezipped(path, tmp_path / "packed", compression=zipfile.ZIP_DEFLATED)
    found = read_pickle(packed)
    same(found, arrays_of(layer().state_dict()))
    assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize(
    ("error", "entry_name", "content", "message"),
    [
        (UnsupportedError, "byteorder", b"big", "is not little-endian"),
        (WeightsError, "data/0", None, "expected an entry .*data/0, found none"),
        (WeightsError, "data/0", b"123", "expected 60 bytes in storage 0, found 3 bytes"),
        (WeightsError, "data.pkl", None, "expected one NAME/data.pkl.*found 0"),
        (WeightsError, "data.pkl", b"", "expected a file of torch.save"),
        (WeightsError, "data.pkl", b"\x80\x02}r\xff\xff\xff\xff.", "a memo index of at most 3, found 4294967295"),
        (WeightsError, "data.pkl", b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.", "over 50000 tuples"),
    ],
)
def test_a_damaged_zip_says_what_was_expected(tmp_path, error, entry_name, content, message):
    path = saved(tmp_path / "w", layer().state_dict(), zipped=True)
    changed = rezipped(
        path, tmp_path / "changed", lambda name, old: content if name.endswith("/" + entry_name) else old
    )
    with pytest.raises(error, match=f"changed.*{message}"):
        read_pickle(changed)


@both_formats
def test_a_pointer_instead_of_a_bin_file_says_so(tmp_path, zipped):
    (tmp_path / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="git-lfs pointer"):
        read_weights(tmp_path)


# ---- hostile pickles


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Plain:
    pass


def hostile_file(path: Path, words: bytes, form: str) -> Path:
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", words)
            archive.writestr("archive/data/0", np.arange(4, dtype="f4").tobytes())
    elif form == "legacy":
        start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        data = struct.pack("<q", 4) + np.arange(4, dtype="f4").tobytes()
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in start) + words + pickle.dumps(["0"], 2) + data)
    else:
        path.write_bytes(words)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {}"),
        (eval, "open({!r}, 'w')"),
        (exec, "open({!r}, 'w')"),
        (open, "{}", "w"),
        (getattr, "{}", "x"),
    ],
    ids=["system", "eval", "exec", "open", "getattr"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_anything_else_is_refused_and_nothing_runs(tmp_path, call, form, protocol):
    function, *arguments = call
    trap = tmp_path / "ran"
    evil = Runs(function, *(argument.format(str(trap)) for argument in arguments))
    words = pickle.dumps({"a": evil}, protocol)
    path = hostile_file(tmp_path / "w", words, form)
    with pytest.raises(
        UnsafeFileError, match=rf"{re.escape(str(path))} asks for \w+\.{function.__name__},.*never runs code"
    ):
        read_pickle(path)
    assert not trap.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_an_instance_of_a_class_is_refused_by_name(tmp_path, form):
    path = hostile_file(tmp_path / "w", pickle.dumps(OrderedDict(a=Plain())), form)
    with pytest.raises(UnsafeFileError, match=r"asks for .*Plain.*ask the publisher for model.safetensors"):
        read_pickle(path)


def name(text: str) -> bytes:
    module, _, attribute = text.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def plain(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")


def storage(numel=4, *, kind="torch.FloatStorage", key="0", view=b"") -> bytes:
    return b"(" + plain("storage") + name(kind) + plain(key) + plain("cpu") + plain(numel) + view + b"tQ"


def rebuilt(where=None, offset=b"K\x00", size=b"(K\x02K\x02t", stride=b"(K\x02K\x01t", extra=b"") -> bytes:
    arguments = (storage() if where is None else where) + offset + size + stride
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"\x89N" + extra + b"tR"


def state_words(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."


HUGE = b"\x8a\x09" + (2**65).to_bytes(9, "little")
NEARLY = b"\x8a\x08" + (2**62).to_bytes(8, "little")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_hand_written_pickle_is_itself_right(tmp_path, form):
    path = hostile_file(tmp_path / "w", state_words(rebuilt()), form)
    same(read_pickle(path), {"a": np.arange(4, dtype="f4").reshape(2, 2)})


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (rebuilt(offset=b"K\x01"), "expected 5 elements for 'a', found 4 in storage 0"),
        (rebuilt(offset=b"J\xff\xff\xff\xff"), "storage, offset, size and strides of 'a'"),
        (rebuilt(stride=b"(J\xfe\xff\xff\xffK\x01t"), "storage, offset, size and strides of 'a'"),
        (rebuilt(size=b"(J\xfe\xff\xff\xffK\x01t"), "storage, offset, size and strides of 'a'"),
        (rebuilt(size=b"(" + HUGE + b"K\x01t"), "storage, offset, size and strides of 'a'"),
        (rebuilt(size=b"(" + NEARLY + NEARLY + b"t"), "elements for 'a', found 4"),
        (rebuilt(size=b"(" + NEARLY + NEARLY + b"t", stride=b"(K\x00K\x00t"), "'a' of shape"),
        (rebuilt(stride=b"(" + NEARLY + b"K\x01t"), "elements for 'a', found 4"),
        (rebuilt(size=b"K\x02"), "storage, offset, size and strides of 'a'"),
        (rebuilt(size=b"(K\x02t"), "expected a file of torch.save"),
        (rebuilt(size=b"(X\x01\x00\x00\x00xK\x02t"), "storage, offset, size and strides of 'a'"),
        (rebuilt(size=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"), "storage, offset"),
        (rebuilt(where=b"N"), "storage, offset, size and strides of 'a'|keys of the 0 storages"),
        (rebuilt(where=storage(2**40)), "found"),
        (rebuilt(where=storage(-1)), "part of the -1 elements"),
        (rebuilt(where=storage(view=b"(X\x01\x00\x00\x00vK\x03K\x02t")), "elements 3 to 5"),
        (rebuilt(where=storage(kind="collections.OrderedDict")), "expected a file of torch.save"),
        (rebuilt(where=storage(key="../9")), "expected"),
        (rebuilt(where=b"NQ"), "the persistent id of a storage, found NoneType"),
        (name("torch.FloatStorage") + b")R", "expected a file of torch.save"),
        (name("torch.FloatStorage") + b"}X\x04\x00\x00\x00nameN" + b"sb", "expected a file of torch.save"),
        (name("torch.FloatStorage") + b"N}X\x04\x00\x00\x00nameNs\x86b", "expected a file of torch.save"),
        (name("collections.OrderedDict") + b")\x81", "expected a file of torch.save"),
        (name("torch._utils._rebuild_parameter") + b")R", "expected a file of torch.save"),
        (name("collections.OrderedDict"), "holds _Name at 'a'|keys of the 0 storages"),
    ],
)
def test_odd_arguments_of_an_allowed_rebuild_are_refused(tmp_path, value, message, form):
    path = hostile_file(tmp_path / "w", state_words(value), form)
    with pytest.raises(WeightsError, match=message):
        read_pickle(path)
    same(  # and nothing of it stays: the tables are as they were
        read_pickle(hostile_file(tmp_path / "w", state_words(rebuilt()), form)),
        {"a": np.arange(4, dtype="f4").reshape(2, 2)},
    )


def test_a_conjugate_or_negative_view_is_unsupported(tmp_path):
    path = hostile_file(tmp_path / "w", state_words(rebuilt(extra=b"}X\x03\x00\x00\x00neg\x88s")), "zip")
    with pytest.raises(UnsupportedError, match="'a' has metadata"):
        read_pickle(path)


def test_a_storage_that_is_a_view_of_another_starts_where_it_says(tmp_path):
    view = b"(X\x01\x00\x00\x00vK\x01K\x02t"
    words = state_words(rebuilt(where=storage(view=view), size=b"(K\x02t", stride=b"(K\x01t"))
    same(read_pickle(hostile_file(tmp_path / "w", words, "legacy")), {"a": np.array([1, 2], "f4")})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"a": 1}], "is a pickle but not one of torch.save"),
        ([0x1950A86A20F9469CFC6C, 1000], "expected protocol 1001"),
        ([0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, ["7"]], "keys of the 0 storages"),
    ],
)
def test_a_pickle_that_is_not_of_torch_is_told_so(tmp_path, parts, message):
    (tmp_path / "w").write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(WeightsError, match=message):
        read_pickle(tmp_path / "w")


# ---- folders


def test_safetensors_come_before_pickles_and_one_file_before_shards(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.array([1.0])})
    for other in ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"):
        (tmp_path / other).write_bytes(b"broken")
    assert read_weights(tmp_path)["a"] == 1.0


def test_a_folder_without_weights_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        NotAModelError, match=f"{re.escape(str(tmp_path))} holds no weights.*model.safetensors, .*pytorch_model.bin"
    ):
        read_weights(tmp_path)
    with pytest.raises(NotAModelError, match="is not a file"):
        read_safetensors(tmp_path / "model.safetensors")


def sharded(folder: Path, kind: str) -> dict[str, np.ndarray]:
    parts = [{"a": np.arange(3, dtype="f4"), "c": np.ones((2, 2), "f4")}, {"b": np.arange(4)}]
    base = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    names = [f"{base}-0000{n}-of-00002.{kind}" for n in (1, 2)]
    for file, part in zip(names, parts, strict=True):
        if kind == "safetensors":
            write_safetensors(folder / file, part)
        else:
            torch = pytest.importorskip("torch")
            torch.save({name: torch.from_numpy(array) for name, array in part.items()}, folder / file)
    weight_map = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    (folder / f"{base}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return parts[0] | parts[1]


both_kinds = pytest.mark.parametrize("kind", ["safetensors", "bin"])


@both_kinds
def test_shards_read_as_one(tmp_path, kind):
    wanted = sharded(tmp_path, kind)
    found = read_weights(tmp_path)
    same(found, wanted)
    for array in found.values():
        assert_mapped(array)


@both_kinds
def test_a_missing_shard_is_named(tmp_path, kind):
    sharded(tmp_path, kind)
    next(tmp_path.glob("*-00002-of-*")).unlink()
    with pytest.raises(WeightsError, match=rf"-00002-of-00002.{kind} is missing and .*index.json names it"):
        read_weights(tmp_path)


def test_shards_behind_symbolic_links_read_as_in_a_hub_cache(tmp_path):
    (tmp_path / "snapshot").mkdir()
    wanted = sharded(tmp_path / "snapshot", "safetensors")
    for path in list((tmp_path / "snapshot").glob("*.safetensors")):
        path.rename(tmp_path / f"blob-{path.name}")
        path.symlink_to(f"../blob-{path.name}")
    same(read_weights(tmp_path / "snapshot"), wanted)


@both_kinds
@pytest.mark.parametrize("shard", ["../w", "/etc/passwd", "a/../../w", "..\\w", "C:\\w", "C:w", "\\\\host\\w"])
def test_a_shard_outside_the_folder_is_refused(tmp_path, kind, shard):
    base = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    (tmp_path / f"{base}.{kind}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UnsafeFileError, match=f"{re.escape(repr(shard))}, which leaves the model's folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"index\.json: expected .* found .*download it again"):
        read_weights(tmp_path)


def test_a_tensor_that_its_shard_does_not_hold_is_named(tmp_path):
    write_safetensors(tmp_path / "one", {"a": np.ones(1)})
    index = {"weight_map": {"a": "one", "b": "one"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"index\.json names b, not in the shard"):
        read_weights(tmp_path)


# ---- strict


def test_strict_picks_what_is_wanted_in_that_order():
    found = {"a": np.ones(2), "b": np.ones((2, 3)), "position_ids": np.ones(1)}
    picked = strict(found, {"b": (2, 3), "a": (2,)}, ignored=lambda name: name.endswith("position_ids"), where="m")
    assert list(picked) == ["b", "a"]
    assert picked["b"] is found["b"]


def test_strict_names_all_that_is_wrong_in_one_error():
    found = {"a": np.ones(2), "b": np.ones((2, 3))} | {f"x{n}": np.ones(1) for n in range(10)}
    with pytest.raises(WeightsError) as caught:
        strict(found, {"b": (3, 2), "c": (1,), "d": ()}, where="models/m")
    told = str(caught.value)
    assert told.startswith("models/m: ")
    assert "2 missing: c, d;" in told
    assert "11 extra: a, x0, x1, x2, x3, x4, x5, x6 and 3 more;" in told
    assert "1 misshapen: b is [2, 3], wanted [3, 2];" in told


# ---- real files


@pytest.mark.parametrize("file", ["multi-qa-distilbert-cos-v1", "stella_en_400M_v5/2_Dense_256"])
def test_golden_bin_files_read_as_torch_loads_them(file):
    folder = SHARED / "golden" / file
    if not folder.is_dir():
        pytest.skip(f"no golden files at {folder}")
    torch = pytest.importorskip("torch")
    wanted = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    assert len(wanted) > 1
    same(read_weights(folder), arrays_of(wanted))
