"""Vectors into files, and beside them what they are of. A file that is written is complete or it is not there.

B: texts; D: width of a vector.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

import gnomon
from gnomon.checkpoint.hub import readable
from gnomon.errors import InputError
from gnomon.quantization import VectorPrecision, quantize
from gnomon.textfiles import Row, TextFile, load_arrow

if TYPE_CHECKING:
    from gnomon.encoder import Encoder
    from gnomon.space import Space

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "it grew too large"}


def write_npy(file: BinaryIO, values_BD: NDArray[Any]) -> None:
    """As `np.save`, by plain writes: numpy's own reports a full disk without its cause."""
    array = np.ascontiguousarray(values_BD)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.tobytes() if array.size == 0 else memoryview(cast(Any, array)).cast("B"))


def write_jsonl(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """A line for each text: its row and "embedding", floats in the fewest digits that read back as the same float32."""
    for index, values_D in enumerate(values_BD):
        row = {key: value for key, value in texts.row(index).items() if key != "embedding"}
        numbers = ", ".join(values_D.astype(str))
        file.write(f'{_json(row)[:-1]}{", " if row else ""}"embedding": [{numbers}]}}\n'.encode())


def write_parquet(file: BinaryIO, texts: TextFile, values_BD: NDArray[Any]) -> None:
    """The rows as a table, and a column "embedding" of lists of one length."""
    arrow = load_arrow()
    table = texts.table
    if "embedding" in table.column_names:
        table = table.drop_columns(["embedding"])
    flat = arrow.array(np.ascontiguousarray(values_BD).reshape(-1))
    table = table.append_column("embedding", arrow.FixedSizeListArray.from_arrays(flat, values_BD.shape[1]))
    arrow.parquet.write_table(table, file)


def output_form(path: str | Path) -> str:
    """The format of an output, by its name: npy, jsonl or parquet; checks that its folder can be written to.

    Raises:
        InputError: another format, no such folder, a path that is a folder. ExtraError: Parquet without pyarrow.
    """
    target = Path(path)
    form = target.suffix.lower().removeprefix(".")
    if form not in ("npy", "jsonl", "parquet"):
        raise InputError(f"{path}: vectors are written as .npy, .jsonl or .parquet, or to - (jsonl).")
    if target.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}; make it first.")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent} may not be written to, so {target.name} could not be made there.")
    if form == "parquet":
        load_arrow()
    return form


def ranges_of(path: str | Path) -> Path:
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


def in_precision(
    vectors_BD: NDArray[np.float32], precision: VectorPrecision | Literal["float32"], ranges_2D: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Vectors as they are to be written, and their ranges; raises as `quantize`."""
    return (vectors_BD, None) if precision == "float32" else quantize(vectors_BD, precision, ranges_2D)


def check_precision(
    width: int, precision: VectorPrecision | Literal["float32"], ranges_2D: NDArray[Any] | None
) -> None:
    """Raise, before there are vectors, what `in_precision` would raise for those of a width."""
    in_precision(np.zeros((2, width), np.float32), precision, ranges_2D)


def origin(encoder: Encoder, space: Space) -> dict[str, Any]:
    """What vectors are of, for their manifest: two files may be compared where `space` is equal."""
    source = encoder.checkpoint.source
    return {
        "gnomon": gnomon.__version__,
        "model": encoder.name,
        "folder": readable(source.folder),
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

    Raises:
        InputError, ExtraError: as `output_form`. OSError: it cannot be written; nothing is left behind.
    """
    form = output_form(path)
    beside = [ranges_of(path)] if ranges_2D is not None else []
    with new_files(path, f"{path}.json", *beside) as files:
        if form == "npy":
            write_npy(files[0], values_BD)
        elif form == "jsonl":
            write_jsonl(files[0], texts, values_BD)
        else:
            write_parquet(files[0], texts, values_BD)
        files[1].write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        if ranges_2D is not None:
            write_npy(files[2], ranges_2D)


@contextmanager
def new_files(*paths: str | Path) -> Generator[list[BinaryIO]]:
    """Files to write. They take the places of old ones together, once all are complete; else nothing is left behind.

    Raises:
        OSError: they cannot be written; a full disk is named, with what was not written.
    """
    # a link is written through, as by open()
    targets = [Path(os.path.realpath(path)) for path in paths]
    drafts = [target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp") for target in targets]
    try:
        with said_if_full(targets[0]), ExitStack() as stack:
            files = [cast(BinaryIO, stack.enter_context(draft.open("xb"))) for draft in drafts]
            yield files
            for file in files:
                file.flush()
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
    finally:
        for draft in drafts:
            with suppress(OSError):
                draft.unlink()


@contextmanager
def said_if_full(target: Path) -> Generator[None]:
    """An error of a full disk says which, and what is not there."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        told = f"{target} was not written: {FULL[error.errno]} ({target.parent}). Nothing was left behind."
        raise OSError(error.errno, told) from error


def _json(row: Row) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair in a field beside the text
        return json.dumps(row, default=str)
    return text
