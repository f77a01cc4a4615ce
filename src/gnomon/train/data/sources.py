"""Files and data sets as blocks of raw values; what cannot be read is named by its line or row."""

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
from gnomon.messages import did_you_mean
from gnomon.text_files import load_arrow, read_rows
from gnomon.text_files.json_lines import STRICT_DECODER, WHITESPACE
from gnomon.text_files.lines import open_text

Row = Mapping[str, Any]

BLOCK = 2048
"""Rows that are in memory at once."""

CHUNK = 2**22
"""Characters of a JSON list that are read at once."""

BUFFER = 2**20
"""Bytes of a Parquet column that are read at once; by default the whole file would be."""

SAMPLE, SAMPLES = 2**14, 64
"""Bytes of a file that are hashed in one place, and in how many places."""

HUB = "hf:"
"""What the name of a data set of the `datasets` library begins with."""

PATTERN = re.compile(r"[*?[]")
BLANKS = re.compile(f"[{WHITESPACE}]*")


class Block(NamedTuple):
    line_numbers: Sequence[int]
    values: dict[str, list[Any]]
    """[rows], by column."""


class SourcePart(Protocol):
    """A file, or a data set."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str:
        """What its numbers count: "line" or "row"."""
        ...

    @property
    def all_strings(self) -> bool:
        """Whether every value is a string, as in CSV."""
        ...

    def identity(self) -> list[Any]:
        """JSON that is equal as long as the content is."""
        ...

    def count_rows(self) -> int | None:
        """How many rows it has, where that is known without reading it."""
        ...

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]: ...


def list_parts(paths: Sequence[str], *, split: str, streaming: bool) -> list[SourcePart]:
    """What a source is read from: data sets of the `datasets` library, or files, patterns spelt out in their order.

    Raises:
        InputError: a file that is not there, or of an unknown format; a pattern that nothing matches.
    """
    parts: dict[str, SourcePart] = {}
    for path in paths:
        if path.startswith(HUB):
            parts[path] = HubDataset(path, split, streaming)
        else:
            parts |= {str(found): _local_file(found) for found in _find_files(path)}
    if not parts:
        raise InputError("a source needs a path: files, patterns of them, or hf:NAME.")
    return list(parts.values())


def match_files(path: str) -> list[Path]:
    """The files that a path or pattern means, in their order; none is no error."""
    known = Path(path).expanduser()
    if known.exists() or not PATTERN.search(path):
        return [known] if known.is_file() else []
    pattern = known.relative_to(known.anchor) if known.anchor else known
    return sorted(found for found in Path(known.anchor).glob(str(pattern)) if found.is_file())


def _find_files(path: str) -> list[Path]:
    found = match_files(path)
    if Path(path).expanduser().is_dir():
        raise InputError(f"{path} is a folder; name its files, such as {Path(path) / '*.parquet'}.")
    if not found:
        what = f"no file matches {path!r}" if PATTERN.search(path) else f"{path} is not there"
        raise InputError(f"{what}; a path begins in the current folder, {Path.cwd()}.")
    return found


# ---- files


@dataclass(frozen=True)
class LocalFile:
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
        """Its place, size and times, and a hash of samples of it: of all of it, where it is small.

        No program can set back the time of the last change of a file (ctime) where the system keeps one. Samples are
        for those that do not, and for a small file that is written twice within one tick of the clock.
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

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        return self.file_format.read_blocks(self.path, columns)


class FileFormat(NamedTuple):
    read_blocks: Callable[[Path, Sequence[str]], Iterator[Block]]
    unit: str
    all_strings: bool = False


def _local_file(path: Path) -> LocalFile:
    for end, form in FORMS.items():
        if path.name.lower().endswith(end):
            return LocalFile(path, form)
    raise InputError(
        f"{path}: rows are read from .jsonl, .csv, .tsv and MEDI's .json (each also as .gz), and .parquet."
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


FORMS = {
    **{f".json{packed}": FileFormat(_read_json_list, "row") for packed in ("", ".gz")},
    ".parquet": FileFormat(_read_parquet, "row"),
    **{f".jsonl{packed}": FileFormat(_read_line_rows, "line") for packed in ("", ".gz")},
    **{
        f".{cut}sv{packed}": FileFormat(_read_line_rows, "line", all_strings=True)
        for cut in "ct"
        for packed in ("", ".gz")
    },
}
"""End of a file's name -> how it is read."""


def _group_into_blocks(place: str, numbered: Iterable[tuple[int, Row]], columns: Sequence[str]) -> Iterator[Block]:
    rows = iter(numbered)
    while taken := list(islice(rows, BLOCK)):
        for line, row in taken:
            if not row.keys() >= set(columns):
                _require_columns(f"{place} {line}", columns, list(row))
        yield Block([line for line, _ in taken], {name: [row[name] for _, row in taken] for name in columns})


def _require_columns(place: str, columns: Sequence[str], there: Sequence[str]) -> None:
    for name in columns:
        if name not in there:
            listed = ", ".join(map(repr, there)) or "none"
            raise InputError(
                f"{place}: no column {name!r}; there are {listed}.{did_you_mean(name, there)} The keys query, positive "
                "and negatives of a source name its columns (sources.query=NAME)."
            )


def _read_entries(path: Path, file: IO[str]) -> Iterator[Row]:
    """Entries of a JSON list of objects, one after the other: the whole of it may not fit in memory.

    Raises:
        InputError: something else than such a list, or something after it.
    """
    decode = STRICT_DECODER.raw_decode
    text, at, number, size = file.read(CHUNK).lstrip(WHITESPACE), 1, 1, CHUNK
    if not text.startswith("["):
        raise InputError(f"{path} is no JSON list of rows; a file with an object on every line is named .jsonl.")
    while True:
        between = _after_entry(text, at, first=number == 1)
        if between is not None and text.startswith("]", between):
            break
        try:
            if between is None:
                raise ValueError("a comma parts the rows, and ] ends the list")
            row, end = decode(text, between)
        except (ValueError, RecursionError) as error:  # at the end of what was read, mostly
            more = file.read(size)
            if not more:
                raise InputError(f"{path}, row {number}: not JSON ({error}). Mend it, or fetch it again.") from error
            text, at, size = text[at:] + more, 0, 2 * size
            continue
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: a JSON {type(row).__name__}; every row must be an object.")
        yield cast(Row, row)
        at, number, size = end, number + 1, CHUNK
    rest = text[between + 1 :]
    while not (found := rest.strip(WHITESPACE)) and (rest := file.read(CHUNK)):
        pass
    if found:
        raise InputError(
            f"{path}: something follows the list of {number - 1:,} rows ({found[:20]!r}). Make one list of it, or a "
            "file for each."
        )


def _after_entry(text: str, at: int, *, first: bool) -> int | None:
    """Where the next entry of a list, or its end, begins; None where neither may."""
    at = _skip_blank(text, at)
    if first or text.startswith("]", at):
        return at
    return _skip_blank(text, at + 1) if text.startswith(",", at) else None


def _skip_blank(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    assert found, "the pattern matches nothing, too"
    return found.end()


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
        with self._errors() as library:
            builder = library.load_dataset_builder(*self._names)
        return [str(builder.cache_dir), self.split]  # it holds a hash of the files, or of their revision

    def count_rows(self) -> int | None:
        return None if self.streaming else len(self._dataset)

    def read_blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        with self._errors():
            rows = self._dataset
            if rows.column_names is not None:  # of a stream they may not be known
                _require_columns(self.name, columns, rows.column_names)
                rows = rows.select_columns(list(columns))
            start = 1
            for batch in rows.iter(BLOCK):
                _require_columns(self.name, columns, list(batch))
                lines = range(start, start + len(batch[columns[0]]))
                start = lines.stop
                yield Block(lines, {name: list(batch[name]) for name in columns})

    @property
    def _names(self) -> tuple[str, str | None]:
        name, _, config = self.path.removeprefix(HUB).partition(":")
        return name, config or None

    @cached_property
    def _dataset(self) -> Any:
        with self._errors() as library:
            return library.load_dataset(*self._names, split=self.split, streaming=self.streaming)

    @contextmanager
    def _errors(self) -> Generator[Any]:
        try:
            library = import_module("datasets")
        except ImportError as error:
            needs = f"{self.path} needs the package datasets, which is not installed"
            raise ExtraError(f'{needs}: pip install "gnomon[train]"') from error
        try:
            yield library
        except InputError:
            raise
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error}") from error
        except (ValueError, TypeError, library.exceptions.DatasetsError) as error:
            why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise InputError(f"{self.name} cannot be read: {why}") from error
