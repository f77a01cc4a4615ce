"""Texts out of files: plain, JSON lines, CSV, TSV, Parquet; what cannot be used is named by its line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from gnomon.errors import ExtraError, InputError, Notice

Row = dict[str, Any]

STDIN = "-"
"""The name that stands for standard input."""

SHOWN = 3
"""Broken lines that a message spells out."""

BAR_DELAY = 2.0
"""Seconds of reading before a progress bar is shown."""


class Bad(NamedTuple):
    """Why a line cannot be used."""

    reason: str


Parsed = Iterator[tuple[int, Row | Bad]]
"""(line number, row)"""


@dataclass
class TextFile:
    """Texts of a file, in its order."""

    name: str
    texts: list[str]
    skipped: int = 0
    """Broken lines that were left out."""
    rows: list[Row] | None = field(default=None, repr=False)
    """What each text came in; None for a plain text file and a Parquet file."""
    source_table: Any = field(default=None, repr=False)
    """The Arrow table of a Parquet file."""

    def row(self, index: int) -> Row:
        """All fields of one text's row; {"text": ...} of a plain text file."""
        if self.rows is not None:
            return self.rows[index]
        if self.source_table is not None:
            return self.source_table.slice(index, 1).to_pylist()[0]
        return {"text": self.texts[index]}

    def labels(self, index: int) -> dict[str, Any]:
        """id and title of one text, where its row has them."""
        row = self.row(index)
        found = {"id": row.get("_id", row.get("id")), "title": row.get("title")}
        return {name: value for name, value in found.items() if value not in (None, "")}

    @cached_property
    def table(self) -> Any:
        """The rows as an Arrow table.

        Raises:
            ExtraError: pyarrow is not installed. InputError: a field of values that do not fit one column.
        """
        arrow = load_arrow()
        if self.source_table is not None:
            return self.source_table
        if self.rows is None:
            return arrow.table({"text": arrow.array(self.texts, arrow.large_string())})
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(key for row in self.rows for key in row):
            try:
                columns[name] = arrow.array([row.get(name) for row in self.rows])
            except (arrow.ArrowException, OverflowError) as error:
                raise InputError(
                    f"{self.name}: field {name!r} does not fit a Parquet column ({error}); write .jsonl instead."
                ) from error
        return arrow.table(columns)


# ---- reading


def read_texts(
    path: str | Path, *, form: str | None = None, field: str | None = None, skip_bad: bool = False
) -> TextFile:
    """Read texts of .txt (one a line), .jsonl, .csv or .tsv (with a header), each also as .gz, or .parquet.

    "-" is standard input.

    Args:
        form: "txt", "jsonl", "csv" or "tsv", where the name does not show it; standard input is txt by default.
        field: the field or column of the text; None for the only one, or the one called "text".
        skip_bad: leave out lines that cannot be used, with a Notice that counts them.

    Raises:
        InputError: an unknown format or field; a line that cannot be used, by its number; no text at all.
        ExtraError: a .parquet file, and pyarrow is not installed. OSError: the file cannot be opened.
    """
    name = "standard input" if str(path) == STDIN else str(path)
    found = form or form_of(path)
    if found == "parquet":
        texts = _read_parquet(Path(path), field)
    elif found == "txt" and field is not None:
        raise InputError(f"{name} is plain text and has no field {field!r}; leave it out, or say what format it has.")
    elif found not in PARSERS:
        raise InputError(f"format {found!r} is not one of {', '.join(PARSERS)}.")
    else:
        with _opened(path) as lines:
            return _gather(name, PARSERS[found](lines), field, skip_bad, keep_rows=found != "txt")
    return _without_nulls(texts, skip_bad)


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of .jsonl, .csv or .tsv, the last two with a header; each also as .gz.

    Raises:
        InputError: another format; a line that cannot be read, by its number. OSError: the file cannot be opened.
    """
    form = form_of(path)
    if form not in ("jsonl", "csv", "tsv"):
        raise InputError(f"{path}: rows are read from .jsonl, .csv and .tsv, each also as .gz.")
    with _opened(path) as lines:
        for line, row in PARSERS[form](lines):
            if isinstance(row, Bad):
                raise InputError(f"{path}, line {line}: {row.reason}. Mend it, or take it out.")
            yield line, row


def unfit(row: Row, field: str) -> str | None:
    """Why a field of a row is no text, or None."""
    return _unfit(row.get(field), field, row)


def form_of(path: str | Path) -> str:
    """The format of an input, by its name."""
    if str(path) == STDIN:
        return "txt"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    form = suffixes[-1].removeprefix(".") if suffixes else ""
    if form in PARSERS or (form == "parquet" and str(path).lower().endswith(".parquet")):
        return form
    raise InputError(
        f"{path}: the format of texts is known by the name's end; it may be .txt, .jsonl, .csv, .tsv (each also .gz) "
        "or .parquet. form= (--format) names another file's."
    )


def _gather(name: str, parsed: Parsed, wanted: str | None, skip_bad: bool, *, keep_rows: bool) -> TextFile:
    texts: list[str] = []
    rows: list[Row] = []
    bad = _BadRows(name, "line", skip_bad)
    chosen = wanted
    checked = False
    for line, row in parsed:
        if isinstance(row, Bad):
            bad.add(line, row.reason)
            continue
        if not checked:
            chosen, checked = _field(name, list(row), wanted), True
        text = row.get(cast(str, chosen))
        if reason := _unfit(text, cast(str, chosen), row):
            bad.add(line, reason)
            continue
        texts.append(cast(str, text))
        if keep_rows:
            rows.append(row)
    bad.tell(len(texts))
    return TextFile(name, texts, bad.count, rows if keep_rows else None)


class _BadRows:
    """Counts what cannot be used, or raises at the first."""

    def __init__(self, name: str, unit: str, skip: bool) -> None:
        self.name, self.unit, self.skip = name, unit, skip
        self.count = 0
        self.first: list[str] = []

    def add(self, place: int, reason: str) -> None:
        if not self.skip:
            raise InputError(
                f"{self.name}, {self.unit} {place}: {reason}. Mend it, or leave such {self.unit}s out with "
                "skip_bad=True (--skip-bad)."
            )
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{self.unit} {place}: {reason}")

    def tell(self, kept: int) -> None:
        """Raise if nothing is left; a Notice of what was left out."""
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        listed = "; ".join(self.first) + more
        if not kept:
            raise InputError(f"{self.name} holds no texts{f' that can be used ({listed})' if listed else ''}.")
        if self.count:
            told = f"{self.name}: {_counted(self.count, self.unit)} left out, {_counted(kept, 'text')} kept ({listed})."
            warnings.warn(told, Notice, stacklevel=4)


def _counted(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _field(name: str, fields: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in fields:
            raise InputError(f"{name} has no field {wanted!r}; it has {', '.join(fields) or 'none'}.")
        return wanted
    if "text" in fields or len(fields) == 1:
        return "text" if "text" in fields else fields[0]
    raise InputError(f"{name} has several fields: {', '.join(fields) or 'none'}; name the text's, field= (--field).")


def _unfit(text: object, field: str, row: Mapping[str, Any]) -> str | None:
    """Why a value is no text, or None."""
    if not isinstance(text, str):
        if field not in row:
            return f"no field {field!r}"
        return f"field {field!r} is {json.dumps(text)[:40]}, not a string"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that `surrogateescape` carried here
            return f"not UTF-8 (byte 0x{code - 0xDC00:02x})"
        return f"field {field!r} has half a surrogate pair, \\u{code:04x}, and is not Unicode text"
    return None


def _txt(lines: Iterable[bytes]) -> Parsed:
    for number, line in _decoded(lines):
        yield number, {"text": line.removesuffix("\n").removesuffix("\r")}


def _jsonl(lines: Iterable[bytes]) -> Parsed:
    """Empty lines are passed over."""
    for number, line in _decoded(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line.rstrip("\r\n"))
        except (ValueError, RecursionError) as error:
            what = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield number, Bad(f"not JSON ({what})")
            continue
        kind = type(row).__name__
        yield number, cast(Row, row) if isinstance(row, dict) else Bad(f"a JSON {kind}; every line must be an object")


def _csv(lines: Iterable[bytes]) -> Parsed:
    """A row may go over several lines; it counts by its first. Empty lines are passed over."""
    limit = csv.field_size_limit(sys.maxsize)  # 131,072 characters otherwise, for the whole process
    try:
        reader = csv.reader((line for _, line in _decoded(lines)), strict=True)
        header: list[str] = []
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, Bad(f"not CSV ({error})")
                continue
            if not header:
                header = _header(cells)
            elif len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            elif cells:
                yield number, Bad(f"{len(cells)} fields, and the header has {len(header)}")
    finally:
        csv.field_size_limit(limit)


def _tsv(lines: Iterable[bytes]) -> Parsed:
    """A row a line: a tab parts fields and nothing quotes it. Empty lines are passed over."""
    header: list[str] = []
    for number, line in _decoded(lines):
        cells = line.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if not header:
            header = _header(cells)
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        else:
            yield number, Bad(f"{len(cells)} fields, and the header has {len(header)}")


def _header(cells: list[str]) -> list[str]:
    twice = [name for name in cells if cells.count(name) > 1]
    if twice:
        raise InputError(f"the header names {twice[0]!r} twice; every column needs its own name.")
    if len(cells) == 1 and (";" in cells[0] or "\t" in cells[0]):  # else whole lines would be taken for texts
        raise InputError(f"the CSV header is {cells[0]!r}; the fields of a CSV are parted by commas here.")
    return cells


PARSERS: dict[str, Callable[[Iterable[bytes]], Parsed]] = {"txt": _txt, "jsonl": _jsonl, "csv": _csv, "tsv": _tsv}
"""Format -> its reader. The first line of a CSV or TSV is its header."""


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Numbered lines; bytes that are not UTF-8 become surrogates, which `_unfit` finds. A byte order mark goes."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise InputError("the file is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8).")
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, line.decode("utf-8", "surrogateescape")


@contextmanager
def _opened(path: str | Path) -> Generator[Iterator[bytes]]:
    """Lines of a file or of standard input, unpacked if it is .gz; a bar after two seconds in a terminal."""
    with ExitStack() as stack:
        if str(path) == STDIN:
            yield iter(sys.stdin.buffer)
            return
        raw = stack.enter_context(Path(path).open("rb"))
        packed = str(path).lower().endswith(".gz")
        file = stack.enter_context(gzip.open(raw)) if packed else raw
        try:
            yield stack.enter_context(_bar(file, raw))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path} is not a whole gzip file ({error}); fetch or pack it again.") from error


@contextmanager
def _bar(file: Iterable[bytes], raw: BinaryIO) -> Generator[Iterator[bytes]]:
    if not sys.stderr.isatty():
        yield iter(file)
        return
    from tqdm import tqdm

    size = os.fstat(raw.fileno()).st_size or None
    with tqdm(total=size, desc="reading", unit="B", unit_scale=True, delay=BAR_DELAY, leave=False) as bar:

        def counted() -> Iterator[bytes]:
            seen = 0
            for number, line in enumerate(file):
                yield line
                if number % 1000 == 0 and size:
                    bar.update(raw.tell() - seen)
                    seen = raw.tell()

        yield counted()


def load_arrow() -> Any:
    """pyarrow with its Parquet part, imported on use."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExtraError("Parquet files need pyarrow, which is not installed: pip install 'gnomon[parquet]'") from error
    return import_module("pyarrow")


def _read_parquet(path: Path, wanted: str | None) -> TextFile:
    arrow = load_arrow()
    try:
        with path.open("rb") as file:
            table = arrow.parquet.read_table(file)
    except arrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error
    name = _field(str(path), table.column_names, wanted)
    values = table.column(name)
    kind = values.type.value_type if arrow.types.is_dictionary(values.type) else values.type
    if str(kind) not in ("string", "large_string", "string_view"):
        raise InputError(f"{path}: column {name!r} holds {values.type}; texts must be strings.")
    return TextFile(str(path), values.to_pylist(), source_table=table)


def _without_nulls(file: TextFile, skip_bad: bool) -> TextFile:
    missing = [index for index, text in enumerate(file.texts) if cast("str | None", text) is None]
    bad = _BadRows(file.name, "row", skip_bad)
    for index in missing:
        bad.add(index + 1, "the text is null")
    bad.tell(len(file.texts) - len(missing))
    if not missing:
        return file
    gone = set(missing)
    kept = [index for index in range(len(file.texts)) if index not in gone]
    return TextFile(file.name, [file.texts[index] for index in kept], bad.count, None, file.source_table.take(kept))
