"""Bytes of a file or of standard input -> lines of text: unpacked, decoded, split at the file's own line ends."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from gnomon.errors import InputError

STDIN = "-"
"""The name that stands for standard input."""

BAR_DELAY = 2.0
"""Seconds of reading before a progress bar is shown."""

CHUNK_BYTES = 1 << 16
"""Bytes that are unpacked and decoded at once."""

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""Byte order mark -> encoding; that of UTF-32 begins like that of UTF-16."""

GZIP_MAGIC = b"\x1f\x8b"

BINARY_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"PAR1\x15": "a Parquet file",
    b"BZh91AY&SY": "packed by bzip2",
    b"\xfd7zXZ\x00": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
}
"""First bytes -> what such a file is; no text begins so."""

MAX_HEAD_BYTES = 1 << 24
"""Bytes in which the first line end is looked for."""

LINE_END = re.compile("\r?\n|\r")

FEW_NULS, MANY_NULS = 0.3, 0.7
"""Parts of bytes that are NUL: less than in any letter's place, and more than in text that happens to hold some."""

SAMPLE_BYTES = 4096
"""Bytes that show whether a file without a byte order mark is UTF-16 or UTF-32."""


@contextmanager
def open_lines(path: str | Path) -> Generator[Iterator[str]]:
    """Lines of a file or of standard input with their ends, as `open_text`; a bar after two seconds in a terminal."""
    with _open_with_raw(path) as (text, raw):
        if str(path) == STDIN:
            yield iter(text)
        else:
            with _show_progress(text, raw) as lines:
                yield lines


@contextmanager
def open_text(path: str | Path) -> Generator[io.TextIOWrapper]:
    """A file or standard input, as text.

    What is gzip by its first bytes is unpacked. A byte order mark goes. Bytes that are not UTF-8 become surrogates,
    which `encoding_fault` finds.

    Raises:
        InputError: standard input is closed; the file is not whole, or not text. OSError: it cannot be opened.
    """
    with _open_with_raw(path) as (text, _):
        yield text


@contextmanager
def _open_with_raw(path: str | Path) -> Generator[tuple[io.TextIOWrapper, BinaryIO]]:
    """The text, and the file as it is."""
    from_stdin = str(path) == STDIN
    name = "standard input" if from_stdin else str(path)
    with ExitStack() as stack:
        raw = require_stdin() if from_stdin else stack.enter_context(Path(path).open("rb", CHUNK_BYTES))
        try:
            unpacked, head = _unpack(name, raw)
            encoding, errors = _detect_encoding(name, head)
            text = io.TextIOWrapper(
                unpacked, encoding, errors, newline=_detect_newline(head.decode(encoding, "replace"))
            )
            stack.callback(text.detach)  # it would close standard input
            yield text, raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name} is not a whole gzip file ({error}); fetch or pack it again.") from error
        except UnicodeDecodeError as error:
            what = error.encoding.upper()
            raise InputError(f"{name} is not whole {what} ({error.reason}); fetch or write it again.") from error


def require_stdin() -> BinaryIO:
    """Standard input.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:  # pyright: ignore[reportUnnecessaryComparison]: with <&- it is None
        raise InputError("standard input is closed, and texts are read from it; give a file, or pipe them in.")
    return cast(BinaryIO, sys.stdin.buffer)


def _unpack(name: str, raw: BinaryIO) -> tuple[BinaryIO, bytes]:
    """The content from its first byte on, without a byte order mark, and the first bytes with it."""
    file, head = _peek_head(raw)
    if head.startswith(GZIP_MAGIC) or name.lower().endswith(".gz"):
        file, head = _peek_head(cast(BinaryIO, gzip.GzipFile(fileobj=file)))
        if head.startswith(GZIP_MAGIC):
            raise InputError(f"{name} is packed by gzip twice; unpack it once.")
    file.read(len(next((mark for mark in BYTE_ORDER_MARKS if head.startswith(mark)), b"")))
    return file, head


def _peek_head(raw: BinaryIO) -> tuple[BinaryIO, bytes]:
    """What is to be read, from its first byte on, and its first bytes."""
    head = _read_head(raw)
    if raw.seekable() and isinstance(raw, io.BufferedReader) and raw.tell() == len(head):
        raw.seek(0)  # a file: without a layer between it is read faster
        return raw, head
    return cast(BinaryIO, io.BufferedReader(_HeadThenRest(head, raw), CHUNK_BYTES)), head


def _read_head(raw: BinaryIO) -> bytes:
    """First bytes, enough to know a byte order mark and the first line end."""
    parts = [b""]
    size = 0
    while size < MAX_HEAD_BYTES and (size < 4 or not _has_line(parts[-1])) and (more := _read_some(raw, SAMPLE_BYTES)):
        parts = [b"".join(parts) + more] if size < SAMPLE_BYTES else [*parts, more]
        size += len(more)
    return b"".join(parts)


def _has_line(part: bytes) -> bool:
    """Whether a line ends in it before its last byte, which may be the first half of a line end."""
    return b"\n" in part or b"\r" in part[:-1]


def _detect_newline(head: str) -> str:
    """How lines end, as `open` calls it: at LF, after a CR or not; or at CR too, where that ends the first line.

    In a file whose first line ends in LF or CRLF, a CR by itself is text: pandas leaves it without quotes in a cell.
    """
    first = LINE_END.search(head)
    return "" if first is None or first[0] == "\r" else "\n"


def _read_some(raw: BinaryIO, size: int) -> bytes:
    """What is there, rather than all of `size`: a pipe may be slow."""
    return cast(Any, raw).read1(size)


class _HeadThenRest(io.RawIOBase):
    """Bytes that were read already, and the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest, self.ended = head, rest, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = len(buffer)
        if self.head:
            some, self.head = self.head[:size], self.head[size:]
        else:
            some = b"" if self.ended else _read_some(self.rest, size)
            self.ended = not some  # a terminal would go on after its Ctrl-D
        buffer[: len(some)] = some
        return len(some)


def _detect_encoding(name: str, head: bytes) -> tuple[str, str]:
    """Encoding, and how faults of it are carried on."""
    if what := next((what for start, what in BINARY_MAGIC.items() if head.startswith(start)), None):
        raise InputError(f"{name} is {what}, and not the text that its name or --format says; unpack or convert it.")
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    if encoding is None and (likely := _detect_wide_encoding(head[:SAMPLE_BYTES])):
        raise InputError(
            f"{name} looks like {likely} without a byte order mark; convert it to UTF-8 (iconv -f {likely} -t UTF-8)."
        )
    return (encoding, "surrogatepass") if encoding and encoding != "utf-8" else ("utf-8", "surrogateescape")


def _detect_wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 by its NUL bytes: those of Latin letters, or else of every line end."""
    for name, step, empty, full in (
        ("UTF-32LE", 4, (2, 3), 0),
        ("UTF-32BE", 4, (0, 1), 3),
        ("UTF-16LE", 2, (1,), 0),
        ("UTF-16BE", 2, (0,), 1),
    ):
        nuls = [sample[place::step].count(0) / max(len(sample[place::step]), 1) for place in range(step)]
        if len(sample) > step and nuls[full] < FEW_NULS and all(nuls[place] > MANY_NULS for place in empty):
            return name
    ends = [place for place, byte in enumerate(sample) if byte == 10]
    for name, odd, step in (("UTF-16LE", 0, 1), ("UTF-16BE", 1, -1)):
        if len(ends) > 1 and all(end % 2 == odd and sample[end + step : end + step + 1] == b"\0" for end in ends):
            return name
    return None


@contextmanager
def _show_progress(lines: Iterable[str], raw: BinaryIO) -> Generator[Iterator[str]]:
    if not (sys.stderr and sys.stderr.isatty()):
        yield iter(lines)
        return
    from tqdm import tqdm

    size = os.fstat(raw.fileno()).st_size or None
    with tqdm(total=size, desc="reading", unit="B", unit_scale=True, delay=BAR_DELAY, leave=False) as bar:

        def watched() -> Iterator[str]:
            seen = 0
            for number, line in enumerate(lines):
                yield line
                if number % 1000 == 0 and size:
                    bar.update(raw.tell() - seen)
                    seen = raw.tell()

        yield watched()
