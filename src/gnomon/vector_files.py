"""Vectors into files, and beside them what they are of. A file that is written is complete or it is not there; a pipe
or a device is written to as it is.

B: texts; D: width of a vector.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

import gnomon
from gnomon.checkpoint.hub import to_printable
from gnomon.errors import InputError
from gnomon.files import atomic_files, descriptor_number, is_stream
from gnomon.quantization import VectorPrecision, quantize
from gnomon.text_files import TextFile, dump_json, load_arrow, remove_member

if TYPE_CHECKING:
    from gnomon.encoder import Encoder
    from gnomon.space import Space


def write_npy(file: BinaryIO, values_BD: NDArray[Any]) -> None:
    """As `np.save`, by plain writes: numpy's own reports a full disk without its cause."""
    array = np.ascontiguousarray(values_BD)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.tobytes() if array.size == 0 else memoryview(cast(Any, array)).cast("B"))


def write_jsonl(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """A line for each text: its row and "embedding", floats in the fewest digits that read back as the same float32.

    A row that was JSON stands as it was written, its numbers to the last digit. NaN and infinity, which JSON has not,
    are null in the others.
    """
    for index, values_D in enumerate(values_BD):
        row = _row_json(texts, index)
        numbers = ", ".join(values_D.astype(str))
        file.write(f'{row[:-1].rstrip()}{"" if row == "{}" else ", "}"embedding": [{numbers}]}}\n'.encode())


def _row_json(texts: TextFile, index: int) -> str:
    """A row as a JSON object without "embedding"."""
    if texts.json_rows is None:
        return dump_json({key: value for key, value in texts.row(index).items() if key != "embedding"})
    source = texts.json_rows[index]
    may_have = "embedding" in source or "\\u" in source  # a name may be spelt in escapes
    return remove_member(source, "embedding") if may_have and "embedding" in texts.row(index) else source


def write_parquet(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """The rows as a table, and a column "embedding" of lists of one length."""
    arrow = load_arrow()
    table = texts.table
    if "embedding" in table.column_names:
        table = table.drop_columns(["embedding"])
    flat = arrow.array(np.ascontiguousarray(values_BD).reshape(-1))
    table = table.append_column("embedding", arrow.FixedSizeListArray.from_arrays(flat, values_BD.shape[1]))
    if file.seekable():
        arrow.parquet.write_table(table, file)
        return
    sink = arrow.BufferOutputStream()  # it asks a file where it is, which a pipe does not know
    arrow.parquet.write_table(table, sink)
    file.write(memoryview(sink.getvalue()))


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
    """The ranges that earlier vectors were quantised with; `quantize` checks what they are.

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
    """Vectors as they are to be written, and their ranges; raises as `quantize`."""
    return (vectors_BD, None) if precision == "float32" else quantize(vectors_BD, precision, ranges_2D)


def check_precision(dim: int, precision: VectorPrecision | Literal["float32"], ranges_2D: NDArray[Any] | None) -> None:
    """Raise, before there are vectors, what `in_precision` would raise for those of a width."""
    convert_precision(np.zeros((2, dim), np.float32), precision, ranges_2D)


def describe_origin(encoder: Encoder, space: Space) -> dict[str, Any]:
    """What vectors are of, for their manifest: two files may be compared where `space` is equal."""
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
    """Write `path`, by its name's end, and beside it what it holds (PATH.json) and the ranges, if any; all or nothing.

    A pipe or device gets the vectors alone.

    Raises:
        InputError, ExtraError: as `output_form`. OSError: it cannot be written; nothing is left behind.
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
