"""The weights of a checkpoint as named arrays, mapped from the file, not copied: safetensors, and `.bin` without torch.

Nothing that a pickle names is imported or looked up. The few names that a state dict needs are rows of two tables here,
each stands for a record of ours, and any other is an UnsafeFileError. A pickle is read in two steps: first into records
that only say where a tensor's bytes should be, then each is checked against the file and becomes a view of it.
"""

import io
import json
import math
import mmap
import os
import pickle
import pickletools
import re
import secrets
import struct
import zipfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gnomon.errors import GnomonError, NotAModelError, UnsafeFileError, UnsupportedError, WeightsError

Arrays = dict[str, NDArray[Any]]

_SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
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

_LFS_POINTER = b"version https://git-lfs"
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library, and far above the pickle of any state dict
_TUPLE_LIMIT = 50_000  # in one pickle, some 10,000 tensors; hashing a tuple nested 100,000 deep overflows the C stack
_RANK_LIMIT = 64  # numpy's
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


# ---- one folder


def read_weights(folder: Path) -> Arrays:
    """The weights of one module's folder, safetensors before pickle, one file before shards."""
    for name, read in _WEIGHT_FILES.items():
        if (folder / name).is_file():
            return read(folder / name)
    looked_for = ", ".join(_WEIGHT_FILES)
    raise NotAModelError(f"{folder} holds no weights: looked for {looked_for}; give the folder that has one of them")


def _read_shards(index: Path, *, read: Callable[[Path], Arrays]) -> Arrays:
    shard_of = _weight_map(index)
    shards = {shard: read(_shard_path(index, shard)) for shard in sorted(set(shard_of.values()))}
    missing = [name for name, shard in shard_of.items() if name not in shards[shard]]
    if missing:
        raise WeightsError(
            f"{index} names {_some(missing)}, not in the shard it says; download the folder again, from one revision"
        )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _weight_map(index: Path) -> dict[str, str]:
    parsed = _json_object(index, index.read_bytes())
    weight_map: object = parsed.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise _damaged(index, 'a "weight_map" of tensor names to file names', type(weight_map).__name__)
    return weight_map


def _shard_path(index: Path, shard: str) -> Path:
    # judged by its words: the shards of a hub cache are symbolic links, and rightly lead out of the folder
    if ".." in re.split(r"[/\\]", shard) or PureWindowsPath(shard).anchor:
        raise UnsafeFileError(
            f"{index} names the shard {shard!r}, which leaves the model's folder; do not use this model"
        )
    path = index.parent / shard
    if not path.is_file():
        raise WeightsError(f"{path} is missing and {index.name} names it; download the folder again")
    return path


# ---- safetensors


class _Layout(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: list[int]
    begin: int
    end: int


def read_safetensors(path: Path) -> Arrays:
    """Every tensor of the file as a read-only view of one memory map, in the order of the header."""
    file = _mapped(path)
    header, start = _header(path, file)
    layouts = [_layout(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
    _check_cover(path, layouts, len(file) - start)
    return {at.name: _view(path, at.name, file, at.dtype, at.shape, start + at.begin) for at in layouts}


def _header(path: Path, file: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The parsed header, and the byte at which the data starts."""
    if len(file) < 8:
        raise _damaged(path, "8 bytes that give the length of the header", f"{len(file)} bytes")
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > _HEADER_LIMIT:
        raise _damaged(path, f"a header of at most {_HEADER_LIMIT} bytes", f"a length of {length} bytes")
    if length > len(file) - 8:
        raise _damaged(path, f"a header of {length} bytes", f"{len(file) - 8} bytes")
    return _json_object(path, file[8 : 8 + length].tobytes()), 8 + length


def _layout(path: Path, name: str, entry: object) -> _Layout:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if _are_counts(shape):
            pass
        case _:
            raise _damaged(path, f"dtype, shape and data_offsets of {name!r}", "something else")
    if kind not in _SAFETENSORS_DTYPES:
        known = ", ".join(_SAFETENSORS_DTYPES)
        raise UnsupportedError(f"{path}: {name!r} has dtype {kind!r}, which is not read; those that are: {known}")
    dtype = _SAFETENSORS_DTYPES[kind]
    if end - begin != math.prod(shape) * dtype.itemsize:
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for {name!r} ({kind}, {_shape(shape)})"
        raise _damaged(path, expected, f"{end - begin} bytes")
    return _Layout(name, dtype, shape, begin, end)


def _check_cover(path: Path, layouts: list[_Layout], data_size: int) -> None:
    """The tensors lie end to end, without hole or overlap, and fill the data, as the format demands."""
    position = 0
    for at in sorted(layouts, key=lambda at: (at.begin, at.end)):
        if at.begin != position:
            raise _damaged(path, f"{at.name!r} at byte {position} of the data", f"byte {at.begin}")
        position = at.end
    if position != data_size:
        raise _damaged(path, f"{position} bytes of tensors", f"{data_size} bytes")


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write beside `path` and rename over it.

    Equal arrays give equal bytes: the widest dtype first, so that every tensor is aligned, then by name.
    """
    kinds = {dtype: kind for kind, dtype in _SAFETENSORS_DTYPES.items()}
    little = {name: np.asarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    names = sorted(little, key=lambda name: (-little[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        array = little[name]
        if array.dtype not in kinds:
            raise UnsupportedError(
                f"{name!r} is {array.dtype}, which safetensors does not hold; it holds {', '.join(kinds.values())}"
            )
        offsets = [position, position + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        position += array.nbytes
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    _write_atomically(path, [struct.pack("<Q", len(words)) + words], (little[name] for name in names))


def _write_atomically(path: Path, head: Sequence[bytes], arrays: Iterable[NDArray[Any]]) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as out:
            out.writelines(head)
            for array in arrays:
                out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# ---- torch's .bin: what the pickle may say


class _Storage(NamedTuple):
    """A storage that a persistent id names, in elements; of them `used` from `first` on."""

    key: str
    dtype: np.dtype[Any]
    numel: int
    first: int
    used: int


class _Tensor(NamedTuple):
    """The arguments of a rebuild, unchecked: any field may be anything until `_place`."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    metadata: Any = None


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict: torch sets `_metadata` on it, which is dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Name(NamedTuple):
    """An allowed global. It is text alone, so that no opcode can change it, and a call goes to our table."""

    name: str

    def __call__(self, *args: Any) -> Any:
        return _CALLS[self.name](*args)


def _rebuild_tensor_v2(  # the arguments of torch's own
    storage: Any, offset: Any, size: Any, stride: Any, _requires_grad: Any, _hooks: Any, metadata: Any = None
) -> _Tensor:
    return _Tensor(storage, offset, size, stride, metadata)


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Any:
    return data


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> _Name:
        name = f"{module_name}.{global_name}"
        if name in _CALLS or name in _STORAGE_DTYPES:
            return _Name(name)
        raise UnsafeFileError(
            f"{self.path} asks for {name}, which is not part of a state dict; "
            "gnomon never runs code from a checkpoint: ask the publisher for model.safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Name(kind), str(key), _, int(numel), *view) if view in ([], [None]):
                first, used = 0, numel
            case ("storage", _Name(kind), str(key), _, int(numel), (_, int(first), int(used))):
                pass  # a view of another storage, as torch before 0.4 wrote it
            case _:
                raise _damaged(self.path, "the persistent id of a storage", type(pid).__name__)
        if not 0 <= first <= first + used <= numel:
            raise _damaged(
                self.path, f"part of the {numel} elements of storage {key}", f"elements {first} to {first + used}"
            )
        storage = _Storage(key, _STORAGE_DTYPES[kind], numel, first, used)
        self.storages.setdefault(key, storage)
        return storage


def _unpickle(stream: io.BytesIO | mmap.mmap, path: Path) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of the stream, and the storages that it names by key."""
    start = stream.tell()
    _check_opcodes(stream, path)
    size = stream.tell() - start
    stream.seek(start)
    unpickler = _Unpickler(stream.read(size), path)
    return unpickler.load(), unpickler.storages


def _check_opcodes(stream: io.BytesIO | mmap.mmap, path: Path) -> None:
    """Read past one pickle, and refuse what would make the real reader take memory or stack out of all proportion."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(stream):  # pyright: ignore[reportArgumentType] (an mmap too)
        assert position is not None
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _TUPLE_LIMIT or position > _HEADER_LIMIT:
            raise _damaged(path, "the pickle of a state dict", f"over {_TUPLE_LIMIT} tuples or {_HEADER_LIMIT} bytes")
        if opcode.name.endswith("PUT") and int(argument or 0) > position:
            raise _damaged(path, f"a memo index of at most {position}", f"{argument}")


# ---- torch's .bin: where the bytes are


class _Region(NamedTuple):
    """Bytes of one storage: `size` of them at `start` of the buffer."""

    buffer: NDArray[np.uint8]
    start: int
    size: int


def read_pickle(path: Path) -> Arrays:
    """The state dict in a file of torch.save, zip or legacy, as read-only views of one memory map.

    Only a compressed zip entry, which torch does not write, is copied.
    """
    file = _mapped(path)
    with _reading(path):
        if file[:4].tobytes() == b"PK\x03\x04":
            return _read_zip(path, file)
        return _read_legacy(path, file)


def _read_zip(path: Path, file: NDArray[np.uint8]) -> Arrays:
    """torch >= 1.6: NAME/data.pkl, NAME/byteorder where known, and NAME/data/KEY for each storage."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise _damaged(path, "one NAME/data.pkl, as torch.save writes", f"{len(pickles)}")
        prefix = pickles[0].removesuffix("data.pkl")
        if (
            f"{prefix}byteorder" in archive.namelist()
            and _bytes(_entry(path, file, archive, prefix, "byteorder")) != b"little"
        ):
            raise UnsupportedError(
                f"{path} is not little-endian; save it again on another machine, or as model.safetensors"
            )
        words = _bytes(_entry(path, file, archive, prefix, "data.pkl"))
        top, _ = _unpickle(io.BytesIO(words), path)
        locate = cache(partial(_entry, path, file, archive, f"{prefix}data/"))
        return {name: _place(path, name, tensor, locate) for name, tensor in _tensors(path, top).items()}


def _entry(path: Path, file: NDArray[np.uint8], archive: zipfile.ZipFile, folder: str, entry: str) -> _Region:
    """A stored entry's place in the file; a compressed one is read."""
    name = folder + entry
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise _damaged(path, f"an entry {name}", "none") from None
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedError(f"{path}: {name} is encrypted or compressed in a way that torch does not write")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        unpacked = np.frombuffer(archive.read(info), dtype=np.uint8)
        return _Region(unpacked, 0, len(unpacked))
    at = info.header_offset
    if at < 0 or file[at : at + 4].tobytes() != b"PK\x03\x04":
        raise _damaged(path, f"{name} at byte {at}", "no zip entry there")
    # the local header's name and extra field are its own: torch pads the extra field there to align the data
    name_size, extra_size = struct.unpack("<HH", _bytes(_region(path, name, file, at + 26, 4)))
    return _region(path, name, file, at + 30 + name_size + extra_size, info.file_size)


def _read_legacy(path: Path, file: NDArray[np.uint8]) -> Arrays:
    """torch < 1.6: five pickles (magic, protocol, system, the object, keys), then each key's int64 numel and bytes."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        magic, _ = _unpickle(stream, path)
        if magic != _LEGACY_MAGIC:
            raise WeightsError(f"{path} is a pickle but not one of torch.save; ask the publisher for model.safetensors")
        protocol, _ = _unpickle(stream, path)
        if protocol != _LEGACY_PROTOCOL:
            raise _damaged(path, f"protocol {_LEGACY_PROTOCOL}", type(protocol).__name__)
        system, _ = _unpickle(stream, path)
        if not system["little_endian"]:
            raise UnsupportedError(
                f"{path} is not little-endian; save it again on another machine, or as model.safetensors"
            )
        top, storages = _unpickle(stream, path)
        keys, _ = _unpickle(stream, path)
        regions = _legacy_regions(path, file, stream.tell(), keys, storages)
    locate = regions.__getitem__
    return {name: _place(path, name, tensor, locate) for name, tensor in _tensors(path, top).items()}


def _legacy_regions(
    path: Path, file: NDArray[np.uint8], position: int, keys: Any, storages: Mapping[str, _Storage]
) -> dict[str, _Region]:
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise _damaged(path, f"the keys of the {len(storages)} storages that its tensors use", "other keys")
    regions: dict[str, _Region] = {}
    for key in keys:
        (numel,) = struct.unpack("<q", _bytes(_region(path, f"the length of storage {key}", file, position, 8)))
        if numel != storages[key].numel:
            raise _damaged(path, f"{storages[key].numel} elements in storage {key}", f"{numel}")
        size = numel * storages[key].dtype.itemsize
        regions[key] = _region(path, f"storage {key}", file, position + 8, size)
        position += 8 + size
    return regions


def _tensors(path: Path, top: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict, of {"state_dict": ...} too; plain scalars and strings beside them are left out."""
    if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
        top = top["state_dict"]
    if not isinstance(top, dict):
        raise WeightsError(
            f"{path} holds {type(top).__name__}, not a dict of names and tensors; save model.state_dict()"
        )
    tensors: dict[str, _Tensor] = {}
    for name, value in top.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor | str | int | float | None):
            at = repr(name) if isinstance(name, str) else f"a key of type {type(name).__name__}"
            raise WeightsError(f"{path} holds {type(value).__name__} at {at}, not a tensor; save model.state_dict()")
        if isinstance(value, _Tensor):
            tensors[name] = value
    return tensors


def _place(path: Path, name: str, tensor: _Tensor, locate: Callable[[str], _Region]) -> NDArray[Any]:
    """The view that the record describes, after every number of it is checked against the bytes that are there."""
    storage, offset, size, stride, metadata = tensor
    if metadata:
        raise UnsupportedError(f"{path}: {name!r} has metadata (a conjugate or negative view); save a plain copy of it")
    if not isinstance(storage, _Storage) or not (_are_counts([offset]) and _are_counts(size) and _are_counts(stride)):
        raise _damaged(path, f"the storage, offset, size and strides of {name!r}", "something else")
    if not all(size):  # no element: torch leaves any offset in it
        offset = 0
    past = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if all(size) else 0
    if past > storage.used:
        raise _damaged(path, f"{past} elements for {name!r}", f"{storage.used} in storage {storage.key}")
    region = locate(storage.key)
    item = storage.dtype.itemsize
    if storage.numel * item > region.size:
        raise _damaged(path, f"{storage.numel * item} bytes in storage {storage.key}", f"{region.size} bytes")
    start = region.start + (storage.first + offset) * item
    return _view(path, name, region.buffer, storage.dtype, size, start, strides=[step * item for step in stride])


# ---- strict


def _none(_name: str) -> bool:
    return False


def strict(
    found: Arrays, wanted: Mapping[str, tuple[int, ...]], *, ignored: Callable[[str], bool] = _none, where: str
) -> Arrays:
    """The wanted arrays, in the order of `wanted`.

    One WeightsError names all that is missing, extra (unless ignored) or misshapen.
    """
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and not ignored(name)]
    misshapen = [
        f"{name} is {_shape(found[name].shape)}, wanted {_shape(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != tuple(shape)
    ]
    wrong = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in wrong.items() if names)
        raise WeightsError(
            f"{where}: the weights are not those that the config describes: {told}; "
            "check that both are of one model and revision"
        )
    return {name: found[name] for name in wanted}


# ---- shared


def _mapped(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise NotAModelError(f"{path} is not a file; give the path of the weights")
    if path.stat().st_size == 0:
        raise _damaged(path, "weights", "0 bytes")
    file = np.memmap(path, dtype=np.uint8, mode="r")
    if file[: len(_LFS_POINTER)].tobytes() == _LFS_POINTER:
        raise WeightsError(
            f"{path} is a git-lfs pointer ({len(file)} bytes), not the weights; "
            "run `git lfs pull`, or download it again"
        )
    return file


def _view(
    path: Path,
    name: str,
    buffer: NDArray[np.uint8],
    dtype: np.dtype[Any],
    shape: Sequence[int],
    offset: int,
    *,
    strides: Sequence[int] | None = None,
) -> NDArray[Any]:
    try:
        return np.ndarray(shape, dtype, buffer=buffer, offset=offset, strides=strides if all(shape) else None)  # pyright: ignore[reportArgumentType] (an array is a buffer)
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, f"{name!r} of shape {_shape(shape)}", f"{len(buffer)} bytes ({error})") from error


def _region(path: Path, what: str, file: NDArray[np.uint8], start: int, size: int) -> _Region:
    if start + size > len(file):
        raise _damaged(path, f"{size} bytes for {what} at byte {start}", f"{max(len(file) - start, 0)} bytes")
    return _Region(file, start, size)


def _bytes(region: _Region) -> bytes:
    return region.buffer[region.start : region.start + region.size].tobytes()


def _json_object(path: Path, words: bytes) -> dict[str, Any]:
    try:
        parsed: object = json.loads(words.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "JSON", f"{error}") from error
    if not isinstance(parsed, dict):
        raise _damaged(path, "a JSON object", type(parsed).__name__)
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError(f"a name twice among {_some([name for name, _ in pairs])}")
    return names


@contextmanager
def _reading(path: Path) -> Generator[None, None, None]:
    """A hostile pickle or zip can make its reader raise anything; it becomes one error that names the file."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise _damaged(path, "a file of torch.save", f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, expected: str, found: str) -> WeightsError:
    return WeightsError(
        f"{path}: expected {expected}, found {found}; the file is cut short or damaged: download it again"
    )


def _are_counts(values: object) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) <= _RANK_LIMIT
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _some(names: Sequence[str]) -> str:
    """The first eight, and how many more."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


_WEIGHT_FILES: dict[str, Callable[[Path], Arrays]] = {
    "model.safetensors": read_safetensors,
    "model.safetensors.index.json": partial(_read_shards, read=read_safetensors),
    "pytorch_model.bin": read_pickle,
    "pytorch_model.bin.index.json": partial(_read_shards, read=read_pickle),
}
