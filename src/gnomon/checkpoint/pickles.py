"""Reads the state dict in a `.bin` file of torch.save without torch, as arrays mapped from the file and not copied.

Nothing that a pickle names is imported or looked up. Two tables here hold the few names that a state dict needs; each
stands for a record of ours. Any other name is an UnsafeFileError. A pickle is read in two steps: first into records
that only say where a tensor's bytes should be, then each record is checked against the file and becomes a view of it.
"""

import io
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.mapped import Arrays, Bytes, are_valid_sizes, build_damaged_error, map_file, view_tensor
from gnomon.errors import GnomonError, UnsafeFileError, UnsupportedError, WeightsError

_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}

_ZIP_ENTRY = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PICKLE_LIMIT = 100_000_000  # bytes; far above the pickle of any state dict, since the tensors' data is outside it
_TUPLE_LIMIT = 50_000  # enough for some 10,000 tensors; hashing a tuple nested 100,000 deep overflows the C stack


def read_pickle(path: Path) -> Arrays:
    """The state dict in a file of torch.save, zip or legacy, as read-only views of one memory map.

    Only a compressed zip entry, which torch does not write, is copied.
    """
    file = map_file(path)
    with _wrap_errors(path):
        read = _read_zip if file[:4].tobytes() == _ZIP_ENTRY else _read_legacy
        top, bytes_of = read(path, file)
        return {
            name: _build_array(path, name, tensor, bytes_of) for name, tensor in _collect_tensors(path, top).items()
        }


@contextmanager
def _wrap_errors(path: Path) -> Generator[None, None, None]:
    """A hostile pickle or zip can make its reader raise anything; it becomes one error that names the file."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise build_damaged_error(path, "a file of torch.save", f"{type(error).__name__}: {error}") from error


# ---- what the pickle may say


class _Storage(NamedTuple):
    """A storage that a persistent id names. Sizes are in elements; `num_used` elements from `first` on are used."""

    key: str
    dtype: np.dtype[Any]
    numel: int
    first: int
    num_used: int


class _Tensor(NamedTuple):
    """The arguments of a rebuild. Any field may be anything until `_build_array` checks it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    metadata: Any = None


class _StateDict(dict[Any, Any]):
    """Stands for OrderedDict: torch sets `_metadata` on it, which is dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _AllowedGlobal(NamedTuple):
    """An allowed global. It is only text, so that no opcode can change it; a call goes to our table."""

    name: str

    def __call__(self, *args: Any) -> Any:
        return _ALLOWED_CALLS[self.name](*args)


def _rebuild_tensor_v2(  # the arguments of torch's own
    storage: Any, offset: Any, size: Any, stride: Any, _requires_grad: Any, _hooks: Any, metadata: Any = None
) -> _Tensor:
    return _Tensor(storage, offset, size, stride, metadata)


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Any:
    return data


_ALLOWED_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _StateDict,
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> _AllowedGlobal:
        name = f"{module_name}.{global_name}"
        if name in _ALLOWED_CALLS or name in _STORAGE_DTYPES:
            return _AllowedGlobal(name)
        raise UnsafeFileError(
            f"{self.path} needs {name}, which is not part of a state dict. "
            "gnomon never runs code from a checkpoint; ask the publisher for model.safetensors."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _AllowedGlobal(kind), str(key), _, int(numel), *rest) if rest in ([], [None]):
                first, used = 0, numel
            case ("storage", _AllowedGlobal(kind), str(key), _, int(numel), (_, int(first), int(used))):
                pass  # a view of another storage, as torch before 0.4 wrote it
            case _:
                raise build_damaged_error(self.path, "the persistent id of a storage", type(pid).__name__)
        if not 0 <= first <= first + used <= numel:
            raise build_damaged_error(
                self.path, f"part of the {numel} elements of storage {key}", f"elements {first} to {first + used}"
            )
        storage = _Storage(key, _STORAGE_DTYPES[kind], numel, first, used)
        self.storages.setdefault(key, storage)
        return storage


def _unpickle(path: Path, stream: io.BytesIO | mmap.mmap) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of the stream, and the storages that it names by key."""
    start = stream.tell()
    _check_opcodes(path, stream)
    size = stream.tell() - start
    stream.seek(start)
    unpickler = _Unpickler(stream.read(size), path)
    return unpickler.load(), unpickler.storages


def _check_opcodes(path: Path, stream: io.BytesIO | mmap.mmap) -> None:
    """Read past one pickle, and refuse what would make the real reader use far too much memory or stack."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(stream):  # pyright: ignore[reportArgumentType] (an mmap too)
        assert position is not None
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _TUPLE_LIMIT or position > _PICKLE_LIMIT:
            raise build_damaged_error(
                path, "the pickle of a state dict", f"over {_TUPLE_LIMIT} tuples or {_PICKLE_LIMIT} bytes"
            )
        if opcode.name.endswith("PUT") and int(argument or 0) > position:
            raise build_damaged_error(path, f"a memo index of at most {position}", f"{argument}")


# ---- where the bytes are: each reader returns the unpickled object, and the bytes of each storage by its key


def _read_zip(path: Path, file: Bytes) -> tuple[Any, dict[str, Bytes]]:
    """torch >= 1.6: NAME/data.pkl, NAME/byteorder where known, and NAME/data/KEY for each storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise build_damaged_error(path, "one NAME/data.pkl, as torch.save writes", f"{len(pickles)}")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_byte_order(path, little=_read_entry(path, file, archive, f"{root}byteorder").tobytes() == b"little")
        content = _read_entry(path, file, archive, pickles[0]).tobytes()
        top, storages = _unpickle(path, io.BytesIO(content))
        return top, {key: _read_entry(path, file, archive, f"{root}data/{key}") for key in storages}


def _read_entry(path: Path, file: Bytes, archive: zipfile.ZipFile, name: str) -> Bytes:
    """An entry's part of the file. torch never compresses; a compressed entry could unpack to any size."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise build_damaged_error(path, f"an entry {name}", "none") from None
    if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
        raise UnsupportedError(
            f"{path}: {name} is compressed or encrypted, which torch.save never does. Save it again."
        )
    start = info.header_offset
    header = _slice_file(path, f"the header of {name}", file, start, 30).tobytes()
    if not header.startswith(_ZIP_ENTRY):
        raise build_damaged_error(path, f"{name} at byte {start}", "no zip entry there")
    # the local header's name and extra field are its own: torch pads the extra field there to align the data
    name_size, extra_size = struct.unpack("<HH", header[26:])
    return _slice_file(path, name, file, start + len(header) + name_size + extra_size, info.file_size)


def _read_legacy(path: Path, file: Bytes) -> tuple[Any, dict[str, Bytes]]:
    """torch < 1.6: five pickles (magic, protocol, system, the object, keys), then each key's int64 numel and bytes."""
    # a map to read from, not the file: it reads to its end at most, whatever length an opcode claims
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        magic, _ = _unpickle(path, stream)
        if magic != _LEGACY_MAGIC:
            raise WeightsError(f"{path} is a pickle but not from torch.save. Ask the publisher for model.safetensors.")
        protocol, _ = _unpickle(path, stream)
        if protocol != _LEGACY_PROTOCOL:
            raise build_damaged_error(path, f"protocol {_LEGACY_PROTOCOL}", type(protocol).__name__)
        system, _ = _unpickle(path, stream)
        _check_byte_order(path, little=system["little_endian"])
        top, storages = _unpickle(path, stream)
        keys, _ = _unpickle(path, stream)
        return top, _locate_legacy_storages(path, file, stream.tell(), keys, storages)


def _locate_legacy_storages(
    path: Path, file: Bytes, position: int, keys: Any, storages: Mapping[str, _Storage]
) -> dict[str, Bytes]:
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise build_damaged_error(path, f"the keys of the {len(storages)} storages that its tensors use", "other keys")
    bytes_of: dict[str, Bytes] = {}
    for key in keys:
        storage = storages[key]
        (numel,) = struct.unpack("<q", _slice_file(path, f"the length of storage {key}", file, position, 8).tobytes())
        if numel != storage.numel:
            raise build_damaged_error(path, f"{storage.numel} elements in storage {key}", f"{numel}")
        size = numel * storage.dtype.itemsize
        bytes_of[key] = _slice_file(path, f"storage {key}", file, position + 8, size)
        position += 8 + size
    return bytes_of


def _slice_file(path: Path, what: str, file: Bytes, start: int, size: int) -> Bytes:
    if not 0 <= start <= start + size <= len(file):
        raise build_damaged_error(path, f"{size} bytes for {what} at byte {start}", f"a file of {len(file)} bytes")
    return file[start : start + size]


def _check_byte_order(path: Path, *, little: bool) -> None:
    if not little:
        raise UnsupportedError(
            f"{path} is not little-endian. Save it again on another machine, or as model.safetensors."
        )


# ---- from records to arrays


def _collect_tensors(path: Path, root: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict or of {"state_dict": ...}. Plain scalars and strings beside them are left out."""
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    if not isinstance(root, dict):
        raise WeightsError(
            f"{path} holds {type(root).__name__}, not a dict of names and tensors. Save model.state_dict()."
        )
    tensors: dict[str, _Tensor] = {}
    for name, value in root.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor | str | int | float | None):
            key = repr(name) if isinstance(name, str) else f"a key of type {type(name).__name__}"
            raise WeightsError(f"{path} holds {type(value).__name__} at {key}, not a tensor. Save model.state_dict().")
        if isinstance(value, _Tensor):
            tensors[name] = value
    return tensors


def _build_array(path: Path, name: str, tensor: _Tensor, storage_bytes: Mapping[str, Bytes]) -> NDArray[Any]:
    """The view that a record describes, after each of its numbers was checked against the bytes of its storage."""
    storage, offset, size, stride, metadata = tensor
    if metadata:
        raise UnsupportedError(
            f"{path}: {name!r} has metadata (a conjugate or negative view). Save a plain copy of it."
        )
    if not isinstance(storage, _Storage) or not (
        are_valid_sizes([offset]) and are_valid_sizes(size) and are_valid_sizes(stride)
    ):
        raise build_damaged_error(path, f"the storage, offset, size and strides of {name!r}", "something else")
    if all(size):
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    else:  # no elements: torch leaves any offset in it
        offset = end = 0
    if end > storage.num_used:
        raise build_damaged_error(path, f"{end} elements for {name!r}", f"{storage.num_used} in storage {storage.key}")
    buffer, item = storage_bytes[storage.key], storage.dtype.itemsize
    if storage.numel * item > len(buffer):
        raise build_damaged_error(
            path, f"{storage.numel * item} bytes in storage {storage.key}", f"{len(buffer)} bytes"
        )
    start = (storage.first + offset) * item
    return view_tensor(path, name, buffer, storage.dtype, size, start, strides=[step * item for step in stride])
