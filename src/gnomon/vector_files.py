"""Vectors to files and back. Beside each file lies a manifest, PATH.json, which names the model and the space.

A file that is written is complete or not there. A pipe or a device is written to as it is.

B: texts; D: dimensions of a vector.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

import gnomon
from gnomon.checkpoint.hub import to_printable
from gnomon.errors import InputError, SpaceError
from gnomon.files import atomic_files, descriptor_number, is_stream
from gnomon.quantization import VectorPrecision, quantize
from gnomon.space import Space
from gnomon.text_files import TextFile, dump_json, load_arrow, remove_member

if TYPE_CHECKING:
    from gnomon.encoder import Encoder


def write_npy(file: BinaryIO, values_BD: NDArray[Any]) -> None:
    """As `np.save`, by plain writes: numpy's own reports a full disk without its cause."""
    array = np.ascontiguousarray(values_BD)
    write_npy_header(file, array.shape, array.dtype)
    file.write(array.tobytes() if array.size == 0 else memoryview(cast(Any, array)).cast("B"))


def write_npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """As `np.save`. Its length does not depend on the number of vectors: numpy leaves room for any."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(file, header)


def write_jsonl(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """One line per text: its row and "embedding", floats in the fewest digits that read back as the same float32.

    A row that was JSON is copied as it was, its numbers to the last digit. In other rows, NaN and infinity are null,
    since JSON has neither.
    """
    for index, values_D in enumerate(values_BD):
        row = row_json(texts, index)
        numbers = ", ".join(values_D.astype(str))
        file.write(f'{row[:-1].rstrip()}{"" if row == "{}" else ", "}"embedding": [{numbers}]}}\n'.encode())


def row_json(texts: TextFile, index: int) -> str:
    """A row as a JSON object without "embedding"."""
    if texts.json_rows is None:
        return dump_json({key: value for key, value in texts.row(index).items() if key != "embedding"})
    source = texts.json_rows[index]
    may_have = "embedding" in source or "\\u" in source  # a name may be spelt in escapes
    return remove_member(source, "embedding") if may_have and "embedding" in texts.row(index) else source


def write_parquet(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """The rows as a table, and a column "embedding" of lists of one length."""
    arrow = load_arrow()
    table = append_embeddings(texts.table, values_BD)
    if file.seekable():
        arrow.parquet.write_table(table, file)
        return
    sink = arrow.BufferOutputStream()  # pyarrow needs a file with a position, which a pipe is not
    arrow.parquet.write_table(table, sink)
    file.write(memoryview(sink.getvalue()))


def append_embeddings(table: Any, values_BD: NDArray[Any]) -> Any:
    """An Arrow table with vectors as its last column, "embedding"; one that was there is replaced."""
    arrow = load_arrow()
    if "embedding" in table.column_names:
        table = table.drop_columns(["embedding"])
    flat = arrow.array(np.ascontiguousarray(values_BD).reshape(-1))
    return table.append_column("embedding", arrow.FixedSizeListArray.from_arrays(flat, values_BD.shape[1]))


def infer_output_format(path: str | Path) -> str:
    """The format of an output, by its name: npy, jsonl or parquet; checks that it can be written to.

    A pipe or device whose name says no format gets jsonl, as - does.

    Raises:
        InputError: another format, no such folder, a path that is a folder. ExtraError: Parquet without pyarrow.
    """
    target = Path(path)
    form = target.suffix.lower().removeprefix(".")
    if target.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    if form not in ("npy", "jsonl", "parquet"):
        if not is_stream(path):
            raise InputError(f"{path}: vectors are written as .npy, .jsonl or .parquet, or to - (jsonl).")
        form = "jsonl"
    if is_stream(path):
        _check_stream(path)
    elif not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}; make it first.")
    elif not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent} may not be written to, so {target.name} could not be made there.")
    if form == "parquet":
        load_arrow()
    return form


def _check_stream(path: str | Path) -> None:
    number = descriptor_number(path)
    try:
        if number is not None:
            os.fstat(number)
        closed = number == 1 and cast(Any, sys.stdout) is None  # the number may have been taken since
    except OSError:
        closed = True
    if closed:
        raise InputError(f"{path} is closed, so that nothing can be written to it; give a file.")
    if number is None and not os.access(path, os.W_OK):
        raise InputError(f"{path} may not be written to.")


def ranges_path(path: str | Path) -> Path:
    """The file of the ranges of quantised vectors, beside them."""
    return Path(f"{path}.ranges.npy")


def read_ranges(path: str | Path) -> NDArray[Any]:
    """The ranges with which earlier vectors were quantised. `quantize` checks them.

    Raises:
        InputError: not a .npy file. OSError: it cannot be opened.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a .npy file of ranges ({error}).") from error


def convert_precision(
    vectors_BD: NDArray[np.float32], precision: VectorPrecision | Literal["float32"], ranges_2D: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Vectors in the precision in which they are written, and their ranges. Raises what `quantize` raises."""
    return (vectors_BD, None) if precision == "float32" else quantize(vectors_BD, precision, ranges_2D)


def check_precision(dim: int, precision: VectorPrecision | Literal["float32"], ranges_2D: NDArray[Any] | None) -> None:
    """Raise, before there are vectors, what `convert_precision` would raise for vectors of `dim` dimensions."""
    convert_precision(np.zeros((2, dim), np.float32), precision, ranges_2D)


def describe_origin(encoder: Encoder, space: Space) -> dict[str, Any]:
    """The model and space of vectors, for their manifest. Two files may be compared where `space` is equal."""
    source = encoder.checkpoint.source
    return {
        "gnomon": gnomon.__version__,
        "model": encoder.name,
        "folder": to_printable(source.folder),
        "revision": source.revision,
        "engine": encoder.engine.name,
        "space": asdict(space),
    }


def write_vectors(
    path: str | Path,
    texts: TextFile,
    values_BD: NDArray[Any],
    ranges_2D: NDArray[Any] | None,
    manifest: Mapping[str, Any],
) -> None:
    """Write vectors in the format of the path's suffix, their manifest (PATH.json) and their ranges, all or nothing.

    A pipe or device gets the vectors alone.

    Raises:
        InputError, ExtraError: as `infer_output_format`.
        OSError: a file cannot be written; then none of them is there.
    """
    form, alone = infer_output_format(path), is_stream(path)
    beside = [f"{path}.json", *([ranges_path(path)] if ranges_2D is not None else [])]
    with atomic_files(path, *([] if alone else beside)) as files:
        if form == "npy":
            write_npy(files[0], values_BD)
        elif form == "jsonl":
            write_jsonl(files[0], texts, values_BD)
        else:
            write_parquet(files[0], texts, values_BD)
        if alone:
            return
        files[1].write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        if ranges_2D is not None:
            write_npy(files[2], ranges_2D)


@dataclass(frozen=True)
class StoredVectors:
    """Vectors as a file holds them, with what its manifest says."""

    vectors_BD: NDArray[Any]
    """float32, float16, int8 or uint8; or packed bits, 8 dimensions per byte."""
    space: Space
    precision: str
    ranges_2D: NDArray[Any] | None
    """The ranges of int8 and uint8 vectors, [2, D]; None for others."""
    manifest: Mapping[str, Any]


def read_vectors(path: str | Path, space: Space | None = None) -> StoredVectors:
    """Read a file that `write_vectors` or `gnomon encode` wrote (.npy, .jsonl or .parquet), and its manifest.

    Args:
        space: the space that the vectors must have, such as `encoder.space()`; None accepts any.

    Raises:
        InputError: no manifest; a file that is not what its manifest says.
        ExtraError: Parquet without pyarrow.
        SpaceError: vectors of another space.
        OSError: a file cannot be opened.
    """
    path = os.path.realpath(path)  # the manifest lies beside the file that a link leads to
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in _READERS:
        raise InputError(f"{path}: vectors are read from .npy, .jsonl and .parquet.")
    manifest = _read_manifest(path)
    stored_space = Space.from_json(manifest["space"], f"{path}.json")
    if space is not None:
        try:
            space.check_same(stored_space)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from None
    precision = str(manifest.get("precision"))
    if precision not in _DTYPES:
        raise InputError(f"{path}.json: precision is {precision!r}. It may be {', '.join(_DTYPES)}.")
    vectors_BD = _READERS[form](Path(path), np.dtype(_DTYPES[precision]))
    packed = precision in ("binary", "ubinary")
    expected = (manifest.get("count"), -(-stored_space.dim // 8) if packed else stored_space.dim)
    if vectors_BD.shape != expected and not (expected[0] == 0 and len(vectors_BD) == 0):
        raise InputError(f"{path} holds vectors of shape {vectors_BD.shape}, and its manifest says {expected}.")
    ranges = manifest.get("ranges")
    ranges_2D = read_ranges(Path(path).parent / Path(ranges).name) if ranges else None
    return StoredVectors(vectors_BD, stored_space, precision, ranges_2D, manifest)


def _read_manifest(path: str | Path) -> dict[str, Any]:
    manifest_path = Path(f"{path}.json")
    if not manifest_path.is_file():
        raise InputError(
            f"{path} has no manifest: {manifest_path.name} is not beside it, so its model is not known. "
            "Vectors that `gnomon encode` writes to a file have one; keep the two together."
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{manifest_path} is not JSON ({error}). Encode the texts again.") from error
    if not isinstance(manifest, dict) or not isinstance(cast(Any, manifest).get("space"), dict):
        raise InputError(
            f"{manifest_path} names no space, so the model of the vectors is not known. Encode the texts again."
        )
    return cast("dict[str, Any]", manifest)


def _read_npy(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        vectors_BD = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a .npy file of vectors ({error}).") from error
    if vectors_BD.dtype != dtype:
        raise InputError(f"{path} holds {vectors_BD.dtype}, and its manifest says {dtype}.")
    return vectors_BD


def _read_jsonl(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    rows: list[Any] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line)["embedding"])
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f'{path}, line {number}: it is not a JSON object with "embedding".') from error
    try:
        return np.array(rows, dtype).reshape(len(rows), -1 if rows else 0)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: its vectors are not lists of {dtype} of one length ({error}).") from error


def _read_parquet(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    arrow = load_arrow()
    try:
        column = arrow.parquet.read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
        return np.asarray(column.flatten()).astype(dtype, copy=False).reshape(len(column), -1)
    except (arrow.ArrowInvalid, KeyError, ValueError) as error:
        raise InputError(f'{path} is not a Parquet file with a column "embedding" of vectors ({error}).') from error


_READERS: Mapping[str, Callable[[Path, np.dtype[Any]], NDArray[Any]]] = {
    "npy": _read_npy,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
"""Precision -> what a component, or 8 packed bits, are stored as."""
