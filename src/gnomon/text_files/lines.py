"""Turns a file or standard input into lines of text: unpacked, decoded, and split at the file's own line ends."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from gnomon.errors import InputError
from gnomon.progress import progress_bar, shows_progress

STDIN = "-"
"""The name that stands for standard input."""

CHUNK_BYTES = 1 << 16
"""Number of bytes that are unpacked and decoded at once."""

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
"""First bytes -> what such a file is. No text begins so."""

MAX_HEAD_BYTES = 1 << 24
"""The first line end is looked for in so many bytes."""

LINE_END = re.compile("\r?\n|\r")

FEW_NULS, MANY_NULS = 0.3, 0.7
"""Shares of NUL bytes: fewer than the first at bytes that hold letters, more than the second at the others."""

SAMPLE_BYTES = 4096
"""So many bytes show whether a file without a byte order mark is UTF-16 or UTF-32."""


@contextmanager
def open_lines(path: str | Path, *, show_progress: bool = True, in_thread: bool = False) -> Generator[Iterator[str]]:
    """Open a file or standard input as lines with their line ends, as `open_text` does.

    Args:
        show_progress: show a bar for more than two seconds of work in a terminal.
        in_thread: the lines are read in a thread that nothing waits for at the end of the process. Standard input is
            read without Python's own buffer then.
    """
    with _open_with_raw(path, in_thread) as (text, raw):
        if str(path) == STDIN or not show_progress:
            yield iter(text)
        else:
            with _show_progress(text, raw) as lines:
                yield lines


@contextmanager
def open_text(path: str | Path) -> Generator[io.TextIOWrapper]:
    """Open a file or standard input as text.

    A file that is gzip by its first bytes is unpacked. A byte order mark is dropped. Bytes that are not UTF-8 become
    surrogates, which `encoding_fault` finds.

    Raises:
        InputError: standard input is closed; the file is damaged, or not text. OSError: it cannot be opened.
    """
    with _open_with_raw(path) as (text, _):
        yield text


@contextmanager
def _open_with_raw(path: str | Path, in_thread: bool = False) -> Generator[tuple[io.TextIOWrapper, BinaryIO]]:
    """Open a file or standard input as text, and give its raw bytes too."""
    from_stdin = str(path) == STDIN
    name = "standard input" if from_stdin else str(path)
    with ExitStack() as stack:
        raw = _open_stdin(in_thread) if from_stdin else stack.enter_context(Path(path).open("rb", CHUNK_BYTES))
        try:
            unpacked, head = _unpack(name, raw)
            encoding, errors = _detect_encoding(name, head)
            text = io.TextIOWrapper(
                unpacked, encoding, errors, newline=_detect_newline(head.decode(encoding, "replace"))
            )
            stack.callback(text.detach)  # it would close standard input
            yield text, raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name} is not a complete gzip file ({error}). Fetch it or pack it again.") from error
        except UnicodeDecodeError as error:
            encoding = error.encoding.upper()
            raise InputError(f"{name} is not valid {encoding} ({error.reason}). Fetch it or write it again.") from error


def require_stdin() -> BinaryIO:
    """The bytes of standard input.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:  # pyright: ignore[reportUnnecessaryComparison]: with <&- it is None
        raise InputError("standard input is closed, and texts are read from it. Give a file, or pipe the texts in.")
    return cast(BinaryIO, sys.stdin.buffer)


def _open_stdin(in_thread: bool) -> BinaryIO:
    """The bytes of standard input. Python ends badly where a thread still holds the lock of its buffer."""
    stdin = require_stdin()
    try:
        return open(stdin.fileno(), "rb", CHUNK_BYTES, closefd=False) if in_thread else stdin
    except (OSError, ValueError):  # no file beneath: a test's
        return stdin


def _unpack(name: str, raw: BinaryIO) -> tuple[BinaryIO, bytes]:
    """The content from its first byte on, without a byte order mark, and the first bytes with it."""
    file, head = _peek_head(raw)
    if head.startswith(GZIP_MAGIC) or name.lower().endswith(".gz"):
        file, head = _peek_head(cast(BinaryIO, gzip.GzipFile(fileobj=file)))
        if head.startswith(GZIP_MAGIC):
            raise InputError(f"{name} is packed by gzip twice. Unpack it once.")
    file.read(len(next((mark for mark in BYTE_ORDER_MARKS if head.startswith(mark)), b"")))
    return file, head


def _peek_head(raw: BinaryIO) -> tuple[BinaryIO, bytes]:
    """A file that begins at the first byte again, and its first bytes."""
    head = _read_head(raw)
    if raw.seekable() and isinstance(raw, io.BufferedReader) and raw.tell() == len(head):
        raw.seek(0)  # a file is read faster without a layer between
        return raw, head
    return cast(BinaryIO, io.BufferedReader(_HeadThenRest(head, raw), CHUNK_BYTES)), head


def _read_head(raw: BinaryIO) -> bytes:
    """Read the first bytes: enough to find a byte order mark and the first line end."""
    parts = [b""]
    size = 0
    while size < MAX_HEAD_BYTES and (size < 4 or not _has_line(parts[-1])) and (more := _read_some(raw, SAMPLE_BYTES)):
        parts = [b"".join(parts) + more] if size < SAMPLE_BYTES else [*parts, more]
        size += len(more)
    return b"".join(parts)


def _has_line(part: bytes) -> bool:
    """Whether a line ends before the last byte, which may be the first half of a line end."""
    return b"\n" in part or b"\r" in part[:-1]


def _detect_newline(head: str) -> str:
    """How the lines of a file end, as the `newline` of `open`.

    If the first line ends in LF or CRLF, lines end at LF, and a CR by itself is text: pandas leaves one in a cell
    without quotes. If the first line ends in CR, lines end at CR too.
    """
    first = LINE_END.search(head)
    return "" if first is None or first[0] == "\r" else "\n"


def _read_some(raw: BinaryIO, size: int) -> bytes:
    """Read what is there, at most `size` bytes. It does not wait for all of them: a pipe may be slow."""
    return cast(Any, raw).read1(size)


class _HeadThenRest(io.RawIOBase):
    """A file of bytes that were read already, followed by the rest."""

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
    """The encoding of a file, and the error handler that carries its faults on."""
    if kind := next((kind for start, kind in BINARY_MAGIC.items() if head.startswith(start)), None):
        raise InputError(f"{name} is {kind}, and not the text that its name or --format says. Unpack or convert it.")
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    if encoding is None and (likely := _detect_wide_encoding(head[:SAMPLE_BYTES])):
        raise InputError(
            f"{name} looks like {likely} without a byte order mark. Convert it to UTF-8 (iconv -f {likely} -t UTF-8)."
        )
    return (encoding, "surrogatepass") if encoding and encoding != "utf-8" else ("utf-8", "surrogateescape")


def _detect_wide_encoding(sample: bytes) -> str | None:
    """Recognise UTF-16 or UTF-32 by NUL bytes: those of Latin letters, or else those of every line end."""
    for name, step, empty, full in (
        ("UTF-32LE", 4, (2, 3), 0),
        ("UTF-32BE", 4, (0, 1), 3),
        ("UTF-16LE", 2, (1,), 0),
        ("UTF-16BE", 2, (0,), 1),
    ):
        nuls = [sample[offset::step].count(0) / max(len(sample[offset::step]), 1) for offset in range(step)]
        if len(sample) > step and nuls[full] < FEW_NULS and all(nuls[offset] > MANY_NULS for offset in empty):
            return name
    ends = [index for index, byte in enumerate(sample) if byte == 10]
    for name, odd, step in (("UTF-16LE", 0, 1), ("UTF-16BE", 1, -1)):
        if len(ends) > 1 and all(end % 2 == odd and sample[end + step : end + step + 1] == b"\0" for end in ends):
            return name
    return None


@contextmanager
def _show_progress(lines: Iterable[str], raw: BinaryIO) -> Generator[Iterator[str]]:
    """The lines, with a progress bar over the bytes of the file."""
    if not shows_progress(None):
        yield iter(lines)
        return
    size = os.fstat(raw.fileno()).st_size or None
    with progress_bar(size, "reading", "B") as update:
        yield _count_bytes(lines, raw, update) if size else iter(lines)


def _count_bytes(lines: Iterable[str], raw: BinaryIO, update: Callable[[float], object]) -> Iterator[str]:
    """Yield lines, and report every thousand of them how many bytes of the file were read."""
    num_read = 0
    for number, line in enumerate(lines):
        yield line
        if number % 1000 == 0:
            update(raw.tell() - num_read)
            num_read = raw.tell()
