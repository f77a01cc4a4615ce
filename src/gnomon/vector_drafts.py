"""Files of vectors that grow group by group, and can go back to an earlier length: what `encode` writes into.

What was appended is on the disk after `sync`. `finish` gives a complete file. A draft of float32 vectors can become a
file of another precision then, for 8 bits that need the ranges of all vectors.

B: vectors; D: dimensions of a vector, or bytes of packed bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.files import fsync_folder
from gnomon.text_files import TextFile, load_arrow
from gnomon.vector_files import append_embeddings, write_jsonl, write_npy_header

Convert = Callable[[NDArray[Any]], NDArray[Any]]
"""From float32 vectors to those of the final precision."""

CONVERTED_ROWS = 4096
"""Vectors that are converted at once."""

EMBEDDING_KEY = b'"embedding": ['


class Draft(Protocol):
    """A file of vectors that grows."""

    def append(self, texts: TextFile, values_BD: NDArray[Any]) -> None: ...

    def sync(self) -> int:
        """Have all of it on the disk. Returns the size, by which the draft is opened again."""
        ...

    def finish(self, count: int, convert: Convert | None) -> Path | None:
        """A complete file of all `count` vectors, on the disk. Doing it twice gives the same. None for a stream."""
        ...

    def close(self) -> None: ...


class _GrowingFile:
    """A file that is appended to."""

    def __init__(self, path: Path, size: int) -> None:
        """
        Args:
            size: bytes that are kept of an earlier file; 0 begins a new one.

        Raises:
            InputError: the file is shorter than that.
        """
        self.path = path
        self.file = path.open("r+b" if size else "w+b")
        if self.file.seek(0, os.SEEK_END) < size:
            self.file.close()
            raise InputError(
                f"{path} is shorter than it was, so it is damaged. Start anew with overwrite=True (--overwrite)."
            )
        self.file.truncate(size)
        self.file.seek(size)

    def sync(self) -> int:
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


class NpyDraft(_GrowingFile):
    """A .npy file. Its header is written again at the end, with the number of vectors; it has room for any number."""

    def __init__(self, folder: Path, size: int, dim: int, dtype: np.dtype[Any]) -> None:
        super().__init__(folder / "vectors.npy", size)
        self.dim, self.dtype = dim, dtype
        if not size:
            write_npy_header(self.file, (0, dim), dtype)

    def append(self, texts: TextFile, values_BD: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values_BD, self.dtype).tobytes())

    def finish(self, count: int, convert: Convert | None) -> Path:
        self.file.seek(0)
        write_npy_header(self.file, (count, self.dim), self.dtype)
        if convert is None:
            self.sync()
            return self.path
        self.file.flush()
        path = self.path.with_name("final.npy")
        with path.open("wb") as file:
            for index, values_BD in enumerate(map(convert, self._blocks(count))):
                if not index:
                    write_npy_header(file, (count, values_BD.shape[1]), values_BD.dtype)
                file.write(values_BD.tobytes())
            _sync_file(file)
        return path

    def _blocks(self, count: int) -> Iterator[NDArray[Any]]:
        """The vectors after the header, where the file stands."""
        for start in range(0, count, CONVERTED_ROWS):
            num_rows = min(CONVERTED_ROWS, count - start)
            yield np.frombuffer(self.file.read(num_rows * self.dim * self.dtype.itemsize), self.dtype).reshape(
                num_rows, self.dim
            )


class JsonlDraft(_GrowingFile):
    """A .jsonl file: the rows with their vectors."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__(folder / "vectors.jsonl", size)

    def append(self, texts: TextFile, values_BD: NDArray[Any]) -> None:
        write_jsonl(self.file, texts, values_BD)

    def finish(self, count: int, convert: Convert | None) -> Path:
        if convert is None:
            self.sync()
            return self.path
        self.file.seek(0)
        path = self.path.with_name("final.jsonl")
        with path.open("wb") as file:
            for start in range(0, count, CONVERTED_ROWS):
                lines = [self.file.readline() for _ in range(min(CONVERTED_ROWS, count - start))]
                _write_converted_lines(file, lines, convert)
            _sync_file(file)
        return path


def _write_converted_lines(file: BinaryIO, lines: list[bytes], convert: Convert) -> None:
    """Lines of `write_jsonl` with other numbers."""
    starts = [line.rindex(EMBEDDING_KEY) + len(EMBEDDING_KEY) for line in lines]
    numbers = [line[start:].rstrip(b"]}\n").split(b", ") for line, start in zip(lines, starts, strict=True)]
    values_BD = convert(np.array(numbers).astype(np.float32))
    for line, start, values_D in zip(lines, starts, values_BD, strict=True):
        file.write(line[:start] + ", ".join(values_D.astype(str)).encode() + b"]}\n")


class StreamDraft:
    """A pipe or a device that gets each group at once, as .jsonl."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, texts: TextFile, values_BD: NDArray[Any]) -> None:
        write_jsonl(self._file, texts, values_BD)
        self._file.flush()

    def sync(self) -> int:
        return 0

    def finish(self, count: int, convert: Convert | None) -> Path | None:
        """Nothing is left to do: every group was written when it came."""

    def close(self) -> None:
        """Who opened it closes it."""


class ParquetDraft:
    """A Parquet file for each group. They become the row groups of one file at the end."""

    def __init__(self, folder: Path, size: int) -> None:
        """
        Args:
            size: files that are kept of an earlier draft; 0 begins a new one.
        """
        self._arrow = load_arrow()
        self._folder, self._num_parts = folder, size
        self._schema: Any = None
        """The schema of the rows without their vectors, that fits all groups."""
        for number in range(size):
            part = self._part(number)
            if not part.is_file():
                raise InputError(f"{part} is missing. Start anew with overwrite=True (--overwrite).")
            self._add_schema(_drop_embedding(self._read(self._arrow.parquet.read_schema, part)))

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"

    def append(self, texts: TextFile, values_BD: NDArray[Any]) -> None:
        """
        Raises:
            InputError: a field has another type than in the groups before, and none holds both.
        """
        table = append_embeddings(texts.table, values_BD)
        self._add_schema(_drop_embedding(table.schema))
        with self._part(self._num_parts).open("wb") as file:
            self._arrow.parquet.write_table(table, file)
            _sync_file(file)
        self._num_parts += 1

    def _add_schema(self, schema: Any) -> None:
        self._schema = unify_schemas(self._schema, schema)

    def sync(self) -> int:
        fsync_folder(self._folder)
        return self._num_parts

    def finish(self, count: int, convert: Convert | None) -> Path:
        path, writer = self._folder / "final.parquet", None
        with path.open("wb") as file:
            try:
                for number in range(self._num_parts):
                    table = self._read_part(number, convert)
                    writer = writer or self._arrow.parquet.ParquetWriter(file, table.schema)
                    writer.write_table(table)
            finally:
                if writer:
                    writer.close()
            _sync_file(file)
        return path

    def _read_part(self, number: int, convert: Convert | None) -> Any:
        """The rows of a group, in the columns of all groups."""
        table = self._read(self._arrow.parquet.read_table, self._part(number))
        embeddings = table.column("embedding").combine_chunks()
        values_BD = np.asarray(embeddings.flatten()).reshape(len(table), -1)
        rows = self._fit(table.drop_columns(["embedding"]))
        rows = rows.replace_schema_metadata(self._schema.metadata)
        return append_embeddings(rows, convert(values_BD) if convert else values_BD)

    def _read(self, read: Callable[[Path], Any], part: Path) -> Any:
        """What `read` gives of a part.

        Raises:
            InputError: it is damaged.
        """
        try:
            return read(part)
        except self._arrow.ArrowException as error:
            raise InputError(f"{part} is damaged ({error}). Start anew with overwrite=True (--overwrite).") from error

    def _fit(self, rows: Any) -> Any:
        """Rows of a group with the columns and types of all groups."""
        try:
            rows = self._arrow.concat_tables([self._schema.empty_table(), rows], promote_options="permissive")
            return rows if rows.schema == self._schema else rows.cast(self._schema)
        except self._arrow.ArrowException as error:
            raise InputError(f"a field does not fit one Parquet column ({error}). Write .jsonl instead.") from error

    def close(self) -> None:
        """Nothing is open between two groups."""


def unify_schemas(schema: Any, other: Any) -> Any:
    """The schema of a table that holds the rows of both; `schema` may be None.

    Raises:
        InputError: a field has two types, and no type holds both.
    """
    if schema is None or schema == other:
        return other
    arrow = load_arrow()
    try:
        return arrow.unify_schemas([schema, other], promote_options="permissive")
    except arrow.ArrowException as error:
        types = [
            f"{name!r} is {schema.field(name).type} and later {other.field(name).type}"
            for name in schema.names
            if name in other.names and schema.field(name).type != other.field(name).type
        ]
        raise InputError(
            f"a field has two types that do not fit one Parquet column ({'; '.join(types) or error}). "
            "Write .jsonl instead."
        ) from error


def _drop_embedding(schema: Any) -> Any:
    return schema.remove(schema.get_field_index("embedding"))


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
