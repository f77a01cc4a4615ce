"""Reads files and data sets of the hub as blocks of raw values. Errors name the line or row."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import numpy as np

from gnomon.errors import ExtraError, InputError, SourceError
from gnomon.install import advise_install
from gnomon.messages import did_you_mean, shorten
from gnomon.text_files import load_arrow, read_rows
from gnomon.text_files.json_lines import STRICT_DECODER, WHITESPACE
from gnomon.text_files.lines import open_text

Row = Mapping[str, Any]

BLOCK = 2048
"""Rows in memory at once."""

CHUNK = 2**22
"""Characters of a JSON list that are read at once."""

BUFFER = 2**20
"""Bytes of a Parquet column that are read at once. By default the whole file would be."""

SAMPLE, SAMPLES = 2**14, 64
"""A large file is hashed in samples: their size in bytes, and their number."""

HUB = "hf:"
"""The path of a data set of the `datasets` library begins with this."""

PATTERN = re.compile(r"[*?[]")
BLANKS = re.compile(f"[{WHITESPACE}]*")


class Block(NamedTuple):
    """Some rows of a part."""

    line_numbers: Sequence[int]
    values: dict[str, list[Any]]
    """For each column the value of each row."""


class SourcePart(Protocol):
    """A file or a data set of the hub: a part of a source."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str:
        """What `Block.line_numbers` count: "line" or "row"."""
        ...

    @property
    def all_strings(self) -> bool:
        """Whether every value is a string, as in CSV."""
        ...

    def identity(self) -> list[Any]:
        """A JSON value that changes when the content changes."""
        ...

    def count_rows(self) -> int | None:
        """The number of rows, if it is known without reading them."""
        ...

    def column_names(self) -> Sequence[str]:
        """The columns of the first row; () where they are not known, or there is no row."""
        ...

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]: ...


def list_parts(paths: Sequence[str], *, split: str, streaming: bool) -> list[SourcePart]:
    """The parts of a source: data sets of the `datasets` library, and files. Patterns give their files in order.

    Raises:
        InputError: a file is missing or has an unknown format; a pattern matches nothing.
    """
    parts: dict[str, SourcePart] = {}
    for path in paths:
        if path.startswith(HUB):
            parts[path] = HubDataset(path, split, streaming)
        else:
            parts |= {str(file): _local_file(file) for file in _find_files(path)}
    if not parts:
        raise InputError("A source has no path. Give files, patterns of them, or hf:NAME.")
    return list(parts.values())


def match_files(path: str) -> list[Path]:
    """The files that a path or pattern matches, in order."""
    known = Path(path).expanduser()
    if known.exists() or not PATTERN.search(path):
        return [known] if known.is_file() else []
    pattern = known.relative_to(known.anchor) if known.anchor else known
    return sorted(file for file in Path(known.anchor).glob(str(pattern)) if file.is_file())


def _find_files(path: str) -> list[Path]:
    files = match_files(path)
    if Path(path).expanduser().is_dir():
        raise InputError(f"{path} is a folder. Name its files, such as {Path(path) / '*.parquet'}.")
    if not files:
        problem = f"No file matches {path!r}" if PATTERN.search(path) else f"{path} does not exist"
        raise InputError(f"{problem}. Relative paths start in the current folder, {Path.cwd()}.")
    return files


# ---- files


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path
    file_format: FileFormat

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def unit(self) -> str:
        return self.file_format.unit

    @property
    def all_strings(self) -> bool:
        return self.file_format.all_strings

    def identity(self) -> list[Any]:
        """Its path, size and times, and a hash of its content: of all of it if it is small, else of samples.

        No program can set back the time of a file's last change (ctime), on systems that have it. The hash is for the
        other systems, and for a small file that is written twice within one tick of the clock.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            starts = np.linspace(0, max(0, status.st_size - SAMPLE), SAMPLES, dtype=np.int64).tolist()
            digest = sha256()
            for start in starts if status.st_size > SAMPLE * SAMPLES else range(0, status.st_size, SAMPLE):
                file.seek(start)
                digest.update(file.read(SAMPLE))
        times = [status.st_mtime_ns, status.st_ctime_ns]
        return [str(self.path.absolute()), status.st_size, *times, digest.hexdigest()]

    def count_rows(self) -> int | None:
        if self.file_format.read_blocks is not _read_parquet:
            return None
        with _open_parquet(self.path) as file:
            return file.metadata.num_rows

    def column_names(self) -> Sequence[str]:
        return self.file_format.read_columns(self.path)

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        return self.file_format.read_blocks(self.path, columns)


class FileFormat(NamedTuple):
    """How files with one ending are read."""

    read_blocks: Callable[[Path, Sequence[str]], Iterator[Block]]
    read_columns: Callable[[Path], Sequence[str]]
    unit: str
    all_strings: bool = False


def _local_file(path: Path) -> LocalFile:
    for ending, file_format in FORMATS.items():
        if path.name.lower().endswith(ending):
            return LocalFile(path, file_format)
    raise InputError(
        f"{path} has an unknown format. Rows are read from .jsonl, .csv, .tsv and MEDI's .json (each also as .gz), "
        "and from .parquet."
    )


def _read_line_rows(path: Path, columns: Sequence[str]) -> Iterator[Block]:
    return _group_into_blocks(f"{path}, line", read_rows(path), columns)


def _read_json_list(path: Path, columns: Sequence[str]) -> Iterator[Block]:
    with open_text(path) as file:
        yield from _group_into_blocks(f"{path}, row", enumerate(_read_entries(path, file), 1), columns)


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Block]:
    with _open_parquet(path) as file:
        _require_columns(str(path), columns, file.schema_arrow.names)
        start = 1
        for batch in file.iter_batches(BLOCK, columns=list(columns)):
            lines = range(start, start + batch.num_rows)
            start = lines.stop
            yield Block(lines, {name: _column_to_list(path, lines, name, batch.column(name)) for name in columns})


def _read_line_columns(path: Path) -> Sequence[str]:
    return next(([*row] for _, row in read_rows(path)), [])


def _read_list_columns(path: Path) -> Sequence[str]:
    with open_text(path) as file:
        return next(([*row] for row in _read_entries(path, file)), [])


def _read_parquet_columns(path: Path) -> Sequence[str]:
    with _open_parquet(path) as file:
        return file.schema_arrow.names


FORMATS = {
    **{f".json{packed}": FileFormat(_read_json_list, _read_list_columns, "row") for packed in ("", ".gz")},
    ".parquet": FileFormat(_read_parquet, _read_parquet_columns, "row"),
    **{f".jsonl{packed}": FileFormat(_read_line_rows, _read_line_columns, "line") for packed in ("", ".gz")},
    **{
        f".{letter}sv{packed}": FileFormat(_read_line_rows, _read_line_columns, "line", all_strings=True)
        for letter in "ct"
        for packed in ("", ".gz")
    },
}
"""Ending of a file's name -> how it is read."""


def _group_into_blocks(where: str, numbered: Iterable[tuple[int, Row]], columns: Sequence[str]) -> Iterator[Block]:
    rows = iter(numbered)
    while block := list(islice(rows, BLOCK)):
        for line, row in block:
            if not row.keys() >= set(columns):
                _require_columns(f"{where} {line}", columns, list(row))
        yield Block([line for line, _ in block], {name: [row[name] for _, row in block] for name in columns})


def _require_columns(where: str, columns: Sequence[str], known: Sequence[str]) -> None:
    for name in columns:
        if name not in known:
            names = ", ".join(map(repr, known)) or "none"
            raise InputError(
                f"{where}: no column {name!r}. The columns are {names}.{did_you_mean(name, known)} The keys query, "
                "positive and negatives of a source name its columns (sources.query=NAME)."
            )


def _read_entries(path: Path, file: IO[str]) -> Iterator[Row]:
    """The objects of a JSON list, one after the other: the whole list may not fit into memory.

    Raises:
        InputError: the file is not such a list, or has something after it.
    """
    decode = STRICT_DECODER.raw_decode
    text, start, number, size = file.read(CHUNK).lstrip(WHITESPACE), 1, 1, CHUNK
    if not text.startswith("["):
        raise InputError(f"{path} is not a JSON list of rows. If every line has one object, name the file .jsonl.")
    while True:
        entry = _next_entry(text, start, first=number == 1)
        if entry is not None and text.startswith("]", entry):
            break
        try:
            if entry is None:
                raise ValueError("a comma must separate the rows, and ] end the list")
            row, end = decode(text, entry)
        except (ValueError, RecursionError) as error:  # mostly the end of the characters that were read
            more = file.read(size)
            if not more:
                raise InputError(
                    f"{path}, row {number}: not JSON ({error}). Correct it, or download the file again."
                ) from error
            text, start, size = text[start:] + more, 0, 2 * size
            continue
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: a JSON {type(row).__name__}. Every row must be an object.")
        yield cast(Row, row)
        start, number, size = end, number + 1, CHUNK
    rest = text[entry + 1 :]
    while not (extra := rest.strip(WHITESPACE)) and (rest := file.read(CHUNK)):
        pass
    if extra:
        raise InputError(
            f"{path}: after the list of {number - 1:,} rows there is {shorten(extra)}. Join the lists into one, or "
            "write one file for each."
        )


def _next_entry(text: str, start: int, *, first: bool) -> int | None:
    """The start of a list's next entry, or of its end; None if neither may begin here."""
    start = _skip_blank(text, start)
    if first or text.startswith("]", start):
        return start
    return _skip_blank(text, start + 1) if text.startswith(",", start) else None


def _skip_blank(text: str, start: int) -> int:
    match = BLANKS.match(text, start)
    assert match, "the pattern matches the empty text, too"
    return match.end()


@contextmanager
def _open_parquet(path: Path) -> Generator[Any]:
    arrow = load_arrow()
    try:
        with path.open("rb") as raw, arrow.parquet.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as file:
            yield file
    except arrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error


def _column_to_list(path: Path, lines: range, name: str, column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        for line, value in zip(lines, column, strict=True):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, row {line}: column {name!r} is not UTF-8 text ({error}).") from error
        raise


# ---- data sets of the `datasets` library


@dataclass(frozen=True)
class HubDataset:
    """A data set of the `datasets` library."""

    path: str
    """hf:NAME or hf:NAME:CONFIG"""
    split: str
    streaming: bool

    unit = "row"
    all_strings = False

    @property
    def name(self) -> str:
        return f"{self.path} ({self.split})"

    def identity(self) -> list[Any]:
        with self._convert_errors() as library:
            builder = library.load_dataset_builder(*self._name_and_config)
        return [str(builder.cache_dir), self.split]  # its name has a hash of the files, or of their revision

    def count_rows(self) -> int | None:
        return None if self.streaming else len(self._dataset)

    def column_names(self) -> Sequence[str]:
        with self._convert_errors():
            return self._dataset.column_names or ()

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        with self._convert_errors():
            rows = self._dataset
            if rows.column_names is not None:  # they may be unknown for a stream
                _require_columns(self.name, columns, rows.column_names)
                rows = rows.select_columns(list(columns))
            start = 1
            for batch in rows.iter(BLOCK):
                _require_columns(self.name, columns, list(batch))
                lines = range(start, start + len(batch[columns[0]]))
                start = lines.stop
                yield Block(lines, {name: list(batch[name]) for name in columns})

    @property
    def _name_and_config(self) -> tuple[str, str | None]:
        name, _, config = self.path.removeprefix(HUB).partition(":")
        return name, config or None

    @cached_property
    def _dataset(self) -> Any:
        with self._convert_errors() as library:
            return library.load_dataset(*self._name_and_config, split=self.split, streaming=self.streaming)

    @contextmanager
    def _convert_errors(self) -> Generator[Any]:
        try:
            library = import_module("datasets")
        except ImportError as error:
            message = f"{self.path} needs the package datasets, which is not installed"
            raise ExtraError(f"{message}. {advise_install('train')}") from error
        try:
            yield library
        except InputError:
            raise
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error}") from error
        except (ValueError, TypeError, library.exceptions.DatasetsError) as error:
            reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise InputError(f"{self.name} cannot be read: {reason}") from error
