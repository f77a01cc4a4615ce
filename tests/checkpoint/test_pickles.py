"""Files of torch.save read as torch loads them, mapped; a damaged or hostile one is our error and none of it runs."""

import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.checkpoint.pickles import read_pickle
from gnomon.errors import GnomonError, UnsafeFileError, UnsupportedError, WeightsError

TORCH_DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
fuzz = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module", params=[True, False], ids=["zip", "legacy"])
def zipped(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def layer(torch):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))


def saved(path: Path, state, *, zipped: bool, protocol: int = 2) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def arrays_of(state) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    return {
        name: tensor.detach().float().numpy().astype(ml_dtypes.bfloat16)  # exact: every bfloat16 is a float32
        if tensor.dtype == torch.bfloat16
        else tensor.detach().numpy()
        for name, tensor in state.items()
    }


# ---- as torch loads them


@pytest.fixture(scope="module")
def states(torch, layer):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "module": layer.state_dict(),
        "parameters": dict(layer.named_parameters()),
        "views": {
            "plain": base,
            "transposed": base.T,
            "strided": base[1:4:2, 2::3],
            "tail": base[3],
            "expanded": base[:, :1].expand(4, 3),
        },
        "dtypes": {name: (torch.arange(6).reshape(2, 3) - 2).to(getattr(torch, name)) for name in TORCH_DTYPES},
        "small": {"scalar": torch.tensor(3.5), "none": torch.zeros(0, 3), "one": torch.tensor([7])},
        "empty": {},
    }


@pytest.mark.parametrize("name", ["module", "parameters", "views", "dtypes", "small", "empty"])
def test_a_saved_state_dict_reads_as_torch_loads_it(tmp_path, torch, states, name, zipped, assert_same, assert_mapped):
    path = saved(tmp_path / "w", states[name], zipped=zipped)
    result = read_pickle(path)
    assert_same(result, arrays_of(torch.load(path, weights_only=True)))
    assert_mapped(result)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_reads(tmp_path, layer, protocol, zipped, assert_same):
    path = saved(tmp_path / "w", layer.state_dict(), zipped=zipped, protocol=protocol)
    assert_same(read_pickle(path), arrays_of(layer.state_dict()))


@settings(fuzz, max_examples=100)
@given(data=st.data())
def test_random_shapes_and_strides_read_as_torch_loads_them(tmp_path, torch, data, zipped, assert_same):
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    base = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    view = base.permute(data.draw(st.permutations(range(len(shape)))))[data.draw(st.integers(0, 2)) :]
    assert_same(read_pickle(saved(tmp_path / "w", {"v": view}, zipped=zipped)), arrays_of({"v": view}))


def test_tied_tensors_share_their_bytes(tmp_path, torch, zipped):
    weight = torch.randn(4, 2)
    result = read_pickle(saved(tmp_path / "w", {"in": weight, "out": weight, "row": weight[1]}, zipped=zipped))
    assert np.shares_memory(result["in"], result["out"])
    assert np.shares_memory(result["in"], result["row"])
    np.testing.assert_array_equal(result["row"], weight[1].numpy())


def test_the_wrapped_state_dict_is_unwrapped_and_plain_values_are_left_out(tmp_path, torch, zipped, assert_same):
    state = OrderedDict(a=torch.ones(2), step=3, note="x", none=None, rate=0.5, done=True)
    path = saved(tmp_path / "w", {"state_dict": state, "epoch": 3, "args": {"lr": [1]}}, zipped=zipped)
    assert_same(read_pickle(path), {"a": np.ones(2, "f4")})


@pytest.mark.parametrize("folder", ["multi-qa-distilbert-cos-v1", "stella_en_400M_v5/2_Dense_256"])
def test_golden_files_read_as_torch_loads_them(golden, torch, folder, assert_same):
    path = golden(folder) / "pytorch_model.bin"
    expected = torch.load(path, weights_only=True, map_location="cpu")
    assert len(expected) > 1
    assert_same(read_pickle(path), arrays_of(expected))


# ---- not a state dict, or damaged


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


def test_a_pointer_instead_of_a_bin_file_says_so(tmp_path):
    (tmp_path / "w").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="git-lfs pointer"):
        read_pickle(tmp_path / "w")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"a": 1}], "is a pickle but not from torch.save"),
        ([0x1950A86A20F9469CFC6C, 1000], "expected protocol 1001"),
        ([0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}], "is not little-endian"),
        ([0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, ["7"]], "keys of the 0 storages"),
    ],
)
def test_a_damaged_legacy_file_says_what_was_expected(tmp_path, parts, message):
    (tmp_path / "w").write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises((WeightsError, UnsupportedError), match=message):
        read_pickle(tmp_path / "w")


def rezipped(source: Path, change: Callable[[str, bytes], bytes | None], compression=zipfile.ZIP_STORED) -> Path:
    """A copy beside the source, each entry changed, or left out for None."""
    target = source.with_name("changed")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_compressed_entries_are_refused(tmp_path, layer):
    path = saved(tmp_path / "w", layer.state_dict(), zipped=True)
    with pytest.raises(UnsupportedError, match=r"compressed or encrypted"):
        read_pickle(rezipped(path, lambda _, content: content, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("error", "entry", "content", "message"),
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
def test_a_damaged_zip_says_what_was_expected(tmp_path, layer, error, entry, content, message):
    path = saved(tmp_path / "w", layer.state_dict(), zipped=True)
    changed = rezipped(path, lambda name, old: content if name == entry else old)
    with pytest.raises(error, match=f"changed.*{message}"):
        read_pickle(changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, layer, zipped) -> Path:
    return saved(tmp_path_factory.mktemp("whole") / "w", layer.state_dict(), zipped=zipped)


def test_every_prefix_of_a_bin_file_is_refused(tmp_path, whole):
    content = whole.read_bytes()
    for length in range(0, len(content), 11):
        (tmp_path / "w").write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"[Dd]ownload it again"):
            read_pickle(tmp_path / "w")


def with_a_changed_byte(data: st.DataObject, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


def read_or_refused(path: Path) -> None:
    try:
        result = read_pickle(path)
    except GnomonError:
        return
    for name, array in result.items():
        assert isinstance(name, str)
        array.tobytes()


@fuzz
@given(data=st.data())
def test_a_changed_byte_of_a_bin_file_raises_nothing_but_our_errors(tmp_path, whole, data):
    (tmp_path / "w").write_bytes(with_a_changed_byte(data, whole.read_bytes()))
    read_or_refused(tmp_path / "w")


@fuzz
@given(data=st.data())
@pytest.mark.parametrize("zipped", [True], indirect=True, ids=["zip"])
def test_a_changed_byte_of_the_zipped_pickle_raises_nothing_but_our_errors(whole, data):
    read_or_refused(
        rezipped(whole, lambda name, content: with_a_changed_byte(data, content) if name == "data.pkl" else content)
    )


# ---- hostile pickles


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Plain:
    pass


FOUR = np.arange(4, dtype="f4")


def hostile_file(path: Path, words: bytes, form: str) -> Path:
    """The pickle in a file of that form, beside one storage "0" that holds FOUR."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", words)
            archive.writestr("archive/data/0", FOUR.tobytes())
    elif form == "legacy":
        start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(start + words + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + FOUR.tobytes())
    else:
        path.write_bytes(words)
    return path


all_forms = pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
both_forms = pytest.mark.parametrize("form", ["zip", "legacy"])


@all_forms
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ["touch {}"]),
        (eval, ["open({!r}, 'w')"]),
        (exec, ["open({!r}, 'w')"]),
        (open, ["{}", "w"]),
        (getattr, ["{}", "x"]),
    ],
)
def test_a_pickle_that_calls_anything_else_is_refused_and_nothing_runs(tmp_path, function, arguments, form, protocol):
    trap = tmp_path / "ran"
    evil = Runs(function, *(argument.format(str(trap)) for argument in arguments))
    path = hostile_file(tmp_path / "w", pickle.dumps({"a": evil}, protocol), form)
    message = rf"{re.escape(str(path))} needs \w+\.{function.__name__},.*never runs code"
    with pytest.raises(UnsafeFileError, match=message):
        read_pickle(path)
    assert not trap.exists()


@all_forms
def test_an_instance_of_a_class_is_refused_by_name(tmp_path, form):
    path = hostile_file(tmp_path / "w", pickle.dumps(OrderedDict(a=Plain())), form)
    with pytest.raises(UnsafeFileError, match=r"Plain.*ask the publisher for model.safetensors"):
        read_pickle(path)


# ---- pickles written opcode by opcode: {"a": rebuilt(storage(...), ...)}


def plain(value: int | str) -> bytes:
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tuple_of(*values: int | str) -> bytes:
    return b"(" + b"".join(map(plain, values)) + b"t"


def name(text: str) -> bytes:
    module, _, attribute = text.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage(numel: int = 4, *, kind: str = "torch.FloatStorage", key: str = "0", view: bytes = b"") -> bytes:
    return b"(" + plain("storage") + name(kind) + plain(key) + plain("cpu") + plain(numel) + view + b"tQ"


STORAGE, SHAPE, STRIDES = storage(), tuple_of(2, 2), tuple_of(2, 1)


def rebuilt(
    where: bytes = STORAGE, *, offset: int = 0, size: bytes = SHAPE, stride: bytes = STRIDES, extra: bytes = b""
) -> bytes:
    arguments = where + plain(offset) + size + stride + b"\x89N" + extra
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def state_words(value: bytes) -> bytes:
    return b"\x80\x02}" + plain("a") + value + b"s."


@both_forms
def test_the_hand_written_pickle_is_itself_right(tmp_path, form, assert_same):
    path = hostile_file(tmp_path / "w", state_words(rebuilt()), form)
    assert_same(read_pickle(path), {"a": FOUR.reshape(2, 2)})


NUMBERS = "storage, offset, size and strides of 'a'"
NOT_TORCH = "expected a file of torch.save"
NO_STORAGE = "keys of the 0 storages"  # how a legacy file says it


@both_forms
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (rebuilt(offset=1), "expected 5 elements for 'a', found 4 in storage 0"),
        (rebuilt(offset=-1), NUMBERS),
        (rebuilt(stride=tuple_of(-2, 1)), NUMBERS),
        (rebuilt(size=tuple_of(-2, 1)), NUMBERS),
        (rebuilt(size=tuple_of(2**65, 1)), NUMBERS),
        (rebuilt(size=tuple_of(2**62, 2**62)), "elements for 'a', found 4"),
        (rebuilt(size=tuple_of(2**62, 2**62), stride=tuple_of(0, 0)), "'a' of shape"),
        (rebuilt(stride=tuple_of(2**62, 1)), "elements for 'a', found 4"),
        (rebuilt(size=plain(2)), NUMBERS),
        (rebuilt(size=tuple_of(2)), NOT_TORCH),
        (rebuilt(size=tuple_of("x", 2)), NUMBERS),
        (rebuilt(size=tuple_of(*[1] * 65), stride=tuple_of(*[1] * 65)), NUMBERS),
        (rebuilt(b"N"), f"{NUMBERS}|{NO_STORAGE}"),
        (rebuilt(storage(2**40)), "found"),
        (rebuilt(storage(-1)), "part of the -1 elements"),
        (rebuilt(storage(view=tuple_of("v", 3, 2))), "elements 3 to 5"),
        (rebuilt(storage(kind="collections.OrderedDict")), NOT_TORCH),
        (rebuilt(storage(key="../9")), "expected"),
        (rebuilt(b"NQ"), "the persistent id of a storage, found NoneType"),
        (name("torch.FloatStorage") + b")R", NOT_TORCH),
        (name("torch.FloatStorage") + b"}" + plain("name") + b"Nsb", NOT_TORCH),
        (name("torch.FloatStorage") + b"N}" + plain("name") + b"Ns\x86b", NOT_TORCH),
        (name("collections.OrderedDict") + b")\x81", NOT_TORCH),
        (name("torch._utils._rebuild_parameter") + b")R", NOT_TORCH),
        (name("collections.OrderedDict"), f"holds _AllowedGlobal at 'a'|{NO_STORAGE}"),
    ],
)
def test_odd_arguments_of_an_allowed_rebuild_are_refused(tmp_path, value, message, form, assert_same):
    with pytest.raises(WeightsError, match=message):
        read_pickle(hostile_file(tmp_path / "w", state_words(value), form))
    # and nothing of it stays: the tables are as they were
    path = hostile_file(tmp_path / "w", state_words(rebuilt()), form)
    assert_same(read_pickle(path), {"a": FOUR.reshape(2, 2)})


def test_a_conjugate_or_negative_view_is_unsupported(tmp_path):
    path = hostile_file(tmp_path / "w", state_words(rebuilt(extra=b"}" + plain("neg") + b"\x88s")), "zip")
    with pytest.raises(UnsupportedError, match="'a' has metadata"):
        read_pickle(path)


def test_a_storage_that_is_a_view_of_another_starts_where_it_says(tmp_path, assert_same):
    where = storage(view=tuple_of("v", 1, 2))
    words = state_words(rebuilt(where, size=tuple_of(2), stride=tuple_of(1)))
    assert_same(read_pickle(hostile_file(tmp_path / "w", words, "legacy")), {"a": np.array([1, 2], "f4")})
