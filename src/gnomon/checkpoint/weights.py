"""Reads the weights of a checkpoint as named arrays, mapped from its files and not copied.

Safetensors are read and written here. `pickles` reads `.bin` files.
"""

import codecs
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.mapped import (
    Arrays,
    Bytes,
    are_valid_sizes,
    build_damaged_error,
    format_shape,
    map_file,
    view_tensor,
)
from gnomon.checkpoint.pickles import read_pickle
from gnomon.errors import NotAModelError, UnsafeFileError, UnsupportedError, WeightsError
from gnomon.files import atomic_file
from gnomon.messages import list_some, shorten

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
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library


# ---- one folder


def read_weights(folder: Path) -> Arrays:
    """The weights in one module's folder. Safetensors are preferred to pickles, one file to shards."""
    for name, read in _WEIGHT_FILES.items():
        if (folder / name).is_file():
            return read(folder / name)
    looked_for = ", ".join(_WEIGHT_FILES)
    raise NotAModelError(f"{folder} holds no weights. It must have one of {looked_for}.")


def _read_shards(index: Path, *, read: Callable[[Path], Arrays]) -> Arrays:
    shard_of = _weight_map(index)
    shards = {shard: read(_shard_path(index, shard)) for shard in sorted(set(shard_of.values()))}
    missing = [name for name, shard in shard_of.items() if name not in shards[shard]]
    if missing:
        raise WeightsError(
            f"{index}: {list_some(missing)} not in the shards that it names. "
            "Download the folder again, from one revision."
        )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _weight_map(index: Path) -> dict[str, str]:
    parsed = _parse_json_object(index, index.read_bytes().removeprefix(codecs.BOM_UTF8))
    weight_map: object = parsed.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise build_damaged_error(index, 'a "weight_map" of tensor names to file names', type(weight_map).__name__)
    return weight_map


def _shard_path(index: Path, shard: str) -> Path:
    # the text is checked, not the target: shards in the hub cache are symbolic links that lead out of the folder
    if ".." in re.split(r"[/\\]", shard) or PureWindowsPath(shard).anchor:
        raise UnsafeFileError(
            f"{index} names the shard {shard!r}, which leaves the model's folder. Do not use this model."
        )
    path = index.parent / shard
    try:
        exists = path.is_file()
    except OSError as error:  # a name too long
        raise WeightsError(
            f"{index} names the shard {shorten(shard, 80)}, which cannot be a file: {error.strerror}"
        ) from error
    if not exists:
        raise WeightsError(f"{path} is missing, and {index.name} names it. Download the folder again.")
    return path


# ---- safetensors


class _TensorEntry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: list[int]
    begin: int
    end: int


def read_safetensors(path: Path) -> Arrays:
    """Every tensor of the file as a read-only view of one memory map, in the order of the header."""
    file = map_file(path)
    header, start = _header(path, file)
    entries = [_parse_entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
    _check_no_gaps(path, entries, len(file) - start)
    return {
        entry.name: view_tensor(path, entry.name, file, entry.dtype, entry.shape, start + entry.begin)
        for entry in entries
    }


def _header(path: Path, file: Bytes) -> tuple[dict[str, Any], int]:
    """The parsed header, and the byte at which the data starts."""
    if len(file) < 8:
        raise build_damaged_error(path, "8 bytes that give the length of the header", f"{len(file)} bytes")
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > _HEADER_LIMIT:
        raise build_damaged_error(path, f"a header of at most {_HEADER_LIMIT} bytes", f"a length of {length} bytes")
    if length > len(file) - 8:
        raise build_damaged_error(path, f"a header of {length} bytes", f"{len(file) - 8} bytes")
    return _parse_json_object(path, file[8 : 8 + length].tobytes()), 8 + length


def _parse_entry(path: Path, name: str, entry: object) -> _TensorEntry:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if are_valid_sizes(shape):
            pass
        case _:
            raise build_damaged_error(path, f"dtype, shape and data_offsets of {name!r}", "something else")
    if kind not in _SAFETENSORS_DTYPES:
        known = ", ".join(_SAFETENSORS_DTYPES)
        raise UnsupportedError(
            f"{path}: {name!r} has dtype {kind!r}, which is not supported. It may be one of {known}."
        )
    dtype = _SAFETENSORS_DTYPES[kind]
    if end - begin != math.prod(shape) * dtype.itemsize:
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for {name!r} ({kind}, {format_shape(shape)})"
        raise build_damaged_error(path, expected, f"{end - begin} bytes")
    return _TensorEntry(name, dtype, shape, begin, end)


def _check_no_gaps(path: Path, entries: list[_TensorEntry], data_size: int) -> None:
    """Check that the tensors fill the data without gap or overlap, as the format demands."""
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise build_damaged_error(path, f"{entry.name!r} at byte {position} of the data", f"byte {entry.begin}")
        position = entry.end
    if position != data_size:
        raise build_damaged_error(path, f"{position} bytes of tensors", f"{data_size} bytes")


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file of safetensors, whole or not at all.

    Equal arrays give equal bytes. The largest dtype comes first, so that every tensor is aligned; then by name.
    """
    kinds = {dtype: kind for kind, dtype in _SAFETENSORS_DTYPES.items()}
    little = {name: np.asarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    ordered = sorted(little.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, array in ordered:
        if array.dtype not in kinds:
            raise UnsupportedError(
                f"{name!r} is {array.dtype}, which safetensors cannot hold. It holds {', '.join(kinds.values())}."
            )
        offsets = [position, position + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        position += array.nbytes
    content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    with atomic_file(path, sync=True) as file:
        file.write(struct.pack("<Q", len(content)) + content)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


# ---- checks


def match_arrays(
    arrays: Arrays,
    expected_shapes: Mapping[str, tuple[int, ...]],
    *,
    is_ignored: Callable[[str], bool] = lambda _: False,
    where: str,
) -> Arrays:
    """The arrays that are expected, in the order of `expected_shapes`.

    Raises:
        WeightsError: names all arrays that are missing, extra (unless ignored) or misshapen.
    """
    missing = [name for name in expected_shapes if name not in arrays]
    extra = [name for name in arrays if name not in expected_shapes and not is_ignored(name)]
    misshapen = [
        f"{name} is {format_shape(arrays[name].shape)}, expected {format_shape(shape)}"
        for name, shape in expected_shapes.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    wrong = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if any(wrong.values()):
        problems = "; ".join(f"{len(names)} {kind}: {list_some(names)}" for kind, names in wrong.items() if names)
        raise WeightsError(
            f"{where}: the weights differ from those that the config describes: {problems}. "
            "Check that both are from one model and revision."
        )
    return {name: arrays[name] for name in expected_shapes}


def is_integral(array: NDArray[Any]) -> bool:
    """Whether an array holds whole numbers or truth values; bfloat16 and 8-bit floats do not."""
    return array.dtype.kind in "iub"


def check_floating(arrays: Arrays, where: Path) -> None:
    """Check that arrays hold floats.

    Raises:
        WeightsError: a tensor holds whole numbers, which mean nothing without scales.
    """
    if whole := [f"{name} ({array.dtype})" for name, array in arrays.items() if is_integral(array)]:
        raise WeightsError(
            f"{where}: {len(whole)} tensors hold whole numbers: {list_some(whole)}. These weights are quantised, "
            "without their scales. Get the model in float32, float16 or bfloat16."
        )


# ---- shared


def _parse_json_object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        parsed: object = json.loads(content.decode(), object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise build_damaged_error(path, "JSON", f"{error}") from error
    if not isinstance(parsed, dict):
        raise build_damaged_error(path, "a JSON object", type(parsed).__name__)
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError(f"a name appears twice among {list_some(name for name, _ in pairs)}")
    return names


_WEIGHT_FILES: dict[str, Callable[[Path], Arrays]] = {
    "model.safetensors": read_safetensors,
    "model.safetensors.index.json": partial(_read_shards, read=read_safetensors),
    "pytorch_model.bin": read_pickle,
    "pytorch_model.bin.index.json": partial(_read_shards, read=read_pickle),
}
