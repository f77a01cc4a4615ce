"""The weights of a checkpoint as named arrays, mapped from the file, not copied: one file or shards, and `strict`.

Safetensors are read and written here; `.bin` files are read by `pickles`.
"""

import codecs
import json
import math
import os
import re
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
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
            f"{index} names {_format_names(missing)}, not in the shard it says; download the folder again, from one revision"
        )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _weight_map(index: Path) -> dict[str, str]:
    parsed = _parse_json_object(index, index.read_bytes().removeprefix(codecs.BOM_UTF8))
    weight_map: object = parsed.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise build_damaged_error(index, 'a "weight_map" of tensor names to file names', type(weight_map).__name__)
    return weight_map


def _shard_path(index: Path, shard: str) -> Path:
    # judged by its words: the shards of a hub cache are symbolic links, and rightly lead out of the folder
    if ".." in re.split(r"[/\\]", shard) or PureWindowsPath(shard).anchor:
        raise UnsafeFileError(
            f"{index} names the shard {shard!r}, which leaves the model's folder; do not use this model"
        )
    path = index.parent / shard
    try:
        found = path.is_file()
    except OSError as error:  # a name too long
        raise WeightsError(f"{index} names the shard {shard[:80]!r}, which no file can be: {error.strerror}") from error
    if not found:
        raise WeightsError(f"{path} is missing and {index.name} names it; download the folder again")
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
    layouts = [_parse_entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
    _check_no_gaps(path, layouts, len(file) - start)
    return {at.name: view_tensor(path, at.name, file, at.dtype, at.shape, start + at.begin) for at in layouts}


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
        raise UnsupportedError(f"{path}: {name!r} has dtype {kind!r}, which is not read; those that are: {known}")
    dtype = _SAFETENSORS_DTYPES[kind]
    if end - begin != math.prod(shape) * dtype.itemsize:
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for {name!r} ({kind}, {format_shape(shape)})"
        raise build_damaged_error(path, expected, f"{end - begin} bytes")
    return _TensorEntry(name, dtype, shape, begin, end)


def _check_no_gaps(path: Path, entries: list[_TensorEntry], data_size: int) -> None:
    """The tensors lie end to end, without hole or overlap, and fill the data, as the format demands."""
    position = 0
    for at in sorted(entries, key=lambda at: (at.begin, at.end)):
        if at.begin != position:
            raise build_damaged_error(path, f"{at.name!r} at byte {position} of the data", f"byte {at.begin}")
        position = at.end
    if position != data_size:
        raise build_damaged_error(path, f"{position} bytes of tensors", f"{data_size} bytes")


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write beside `path` and rename over it.

    Equal arrays give equal bytes: the widest dtype first, so that every tensor is aligned, then by name.
    """
    kinds = {dtype: kind for kind, dtype in _SAFETENSORS_DTYPES.items()}
    little = {name: np.asarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    ordered = sorted(little.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, array in ordered:
        if array.dtype not in kinds:
            raise UnsupportedError(
                f"{name!r} is {array.dtype}, which safetensors does not hold; it holds {', '.join(kinds.values())}"
            )
        offsets = [position, position + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        position += array.nbytes
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    _write_atomically(path, struct.pack("<Q", len(words)) + words, (array for _, array in ordered))


def _write_atomically(path: Path, header: bytes, arrays: Iterable[NDArray[Any]]) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as out:
            out.write(header)
            for array in arrays:
                out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


# ---- strict


def match_arrays(
    arrays: Arrays,
    expected_shapes: Mapping[str, tuple[int, ...]],
    *,
    is_ignored: Callable[[str], bool] = lambda _: False,
    where: str,
) -> Arrays:
    """The wanted arrays, in the order of `wanted`.

    One WeightsError names all that is missing, extra (unless ignored) or misshapen.
    """
    missing = [name for name in expected_shapes if name not in arrays]
    extra = [name for name in arrays if name not in expected_shapes and not is_ignored(name)]
    misshapen = [
        f"{name} is {format_shape(arrays[name].shape)}, wanted {format_shape(shape)}"
        for name, shape in expected_shapes.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    wrong = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {kind}: {_format_names(names)}" for kind, names in wrong.items() if names)
        raise WeightsError(
            f"{where}: the weights are not those that the config describes: {told}; "
            "check that both are of one model and revision"
        )
    return {name: arrays[name] for name in expected_shapes}


def is_integral(array: NDArray[Any]) -> bool:
    """Whether it holds whole numbers or truth values; bfloat16 and the floats of 8 bits do not."""
    return array.dtype.kind in "iub"


def check_floating(arrays: Arrays, where: Path) -> None:
    """Raises WeightsError where a tensor to compute with holds whole numbers: without scales they mean nothing."""
    if whole := [f"{name} ({array.dtype})" for name, array in arrays.items() if is_integral(array)]:
        raise WeightsError(
            f"{where}: {len(whole)} tensors hold whole numbers: {_format_names(whole)}. Weights are floats; these are "
            "quantised, without their scales. Get the model in float32, float16 or bfloat16."
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
        raise ValueError(f"a name twice among {_format_names([name for name, _ in pairs])}")
    return names


def _format_names(names: Sequence[str]) -> str:
    """The first eight, and how many more."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


_WEIGHT_FILES: dict[str, Callable[[Path], Arrays]] = {
    "model.safetensors": read_safetensors,
    "model.safetensors.index.json": partial(_read_shards, read=read_safetensors),
    "pytorch_model.bin": read_pickle,
    "pytorch_model.bin.index.json": partial(_read_shards, read=read_pickle),
}
