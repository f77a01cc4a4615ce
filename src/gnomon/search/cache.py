"""Caches the vectors of searched texts on disk, so that each model encodes a text once.

The file is an SQLite database. Vectors lie in blocks, as they were encoded. A block is read and checked (CRC-32) as a
whole, and dropped as a whole where room is needed: the one that was used longest ago first. Reading and adding never
fail: what goes wrong is a warning, and the search goes on without the cache.

N: texts; D: dimension; R: rows of a block.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gnomon.files import describe_os_error
from gnomon.packed import Vectors
from gnomon.warn import warn_caller

FILE_NAME = "gnomon-search.sqlite"
DEFAULT_BYTES = 1 << 30

LOCK_SECONDS = 5.0
"""So long another process may hold the file."""
HASH_BYTES = 16
PAGE_BYTES = 16384
"""Large values are read four times as fast as with the 4,096 of SQLite."""
SPARE_PAGES = 4
"""A block needs at most so many pages more than its bytes fill."""

VERSION = 1
"""Of the tables. A file of another version is started anew."""
TABLES = {
    "blocks": "space TEXT NOT NULL, used INTEGER NOT NULL, bytes INTEGER NOT NULL, texts INTEGER NOT NULL",
    "contents": "crc INTEGER NOT NULL, hashes BLOB NOT NULL, truncated BLOB NOT NULL, vectors BLOB NOT NULL",
}
"""`blocks` is small and is rewritten at each use; `contents` is not."""

DAMAGED_CODES = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA}
"""What SQLite reports of a damaged file; SQLITE_ERROR, where a table is missing."""
REASONS = {
    sqlite3.SQLITE_BUSY: "another process holds it",
    sqlite3.SQLITE_LOCKED: "another process holds it",
    sqlite3.SQLITE_READONLY: "it may not be written",
    sqlite3.SQLITE_FULL: "the disk is full",
}

T = TypeVar("T")
Located = dict[int, tuple[list[int], list[int]]]
"""Block -> its rows, and the positions of their texts."""


class CachedVectors(NamedTuple):
    """What the cache has of some texts."""

    present_N: NDArray[np.bool_]
    vectors_ND: Vectors
    """Rows of texts that are not present hold nothing of use."""
    truncated_N: NDArray[np.bool_]
    """Which texts were longer than the model reads."""


@dataclass(frozen=True)
class CacheSize:
    """How large the cache is."""

    num_bytes: int
    """Size of the file."""
    num_texts: int
    num_spaces: int
    """Number of models, prompts and engines that the vectors are from."""


def cache_folder() -> Path:
    """The folder of the cache: that for caches of the user's system."""
    from platformdirs import user_cache_path

    return user_cache_path("gnomon", appauthor=False)


class CorpusCache:
    """Vectors by space and text, in one file that several processes may use at once.

    Args:
        folder: where the file is; by default `cache_folder()`.
        max_bytes: how large it may grow; by default 1 GiB. Blocks that this object has read or added are
            not dropped to make room: what does not fit beside them is not cached, with a warning.
        lock_seconds: so long it waits for another process.
    """

    def __init__(
        self, folder: Path | None = None, *, max_bytes: int | None = None, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self.path = (cache_folder() if folder is None else folder) / FILE_NAME
        self.max_bytes = DEFAULT_BYTES if max_bytes is None else max_bytes
        self._lock_seconds = lock_seconds
        self._connection: sqlite3.Connection | None = None
        self._stamp = 0
        """The `used` of the blocks that this object uses: larger than that of all blocks when it began."""
        self._reads = self._writes = True
        """Whether the file is still read and written; not after an error."""

    def __enter__(self) -> CorpusCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def get(self, space: str, texts: Sequence[str], dim: int) -> CachedVectors:
        """Look up different texts.

        Args:
            space: what the vectors depend on beside the text: model, prompt, engine.
        """
        present_N, truncated_N = np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.bool_)
        vectors_ND = np.zeros((len(texts), dim), np.float32)
        used: list[int] = []
        damaged: list[int] = []

        def read(connection: sqlite3.Connection) -> None:
            for block, (rows, positions) in _locate(connection, space, texts).items():
                content = _read_block(connection, block, dim)
                if content is None:
                    damaged.append(block)
                    continue
                rows, positions = _as_index(rows), _as_index(positions)
                vectors_ND[positions], truncated_N[positions] = content[0][rows], content[1][rows]
                present_N[positions] = True
                used.append(block)

        def touch(connection: sqlite3.Connection) -> None:
            stamps = [(self._stamp, block) for block in used]
            connection.executemany("UPDATE blocks SET used = ? WHERE id = ?", stamps)
            for block in damaged:
                _delete_block(connection, block)

        self._run(read, None)
        if used or damaged:
            with suppress(sqlite3.Error, OSError):  # a cache that is read-only is of use all the same
                self._transact(touch, writes=True)
        return CachedVectors(present_N, vectors_ND, truncated_N)

    def add(self, space: str, texts: Sequence[str], vectors_ND: Vectors, truncated: Sequence[int]) -> bool:
        """Add the vectors of different texts as one block; returns whether it was stored.

        Args:
            truncated: positions of the texts that were longer than the model reads.
        """
        hashes = b"".join(map(_hash_text, texts))
        flags = np.isin(np.arange(len(texts)), truncated).tobytes()
        data = np.ascontiguousarray(vectors_ND, np.float32).tobytes()
        size = len(hashes) + len(flags) + len(data)

        def write(connection: sqlite3.Connection) -> bool:
            if not self._make_room(connection, size):
                return False
            row = (space, self._stamp, size, len(texts))
            block = connection.execute(
                "INSERT INTO blocks(space, used, bytes, texts) VALUES (?, ?, ?, ?)", row
            ).lastrowid
            content = (block, _checksum(hashes, flags, data), hashes, flags, data)
            connection.execute("INSERT INTO contents VALUES (?, ?, ?, ?, ?)", content)
            return True

        is_stored = self._run(write, False, writes=True)
        if not is_stored and self._writes:
            self._writes = False
            warn_caller(
                f"the cache {self.path} is full ({self.max_bytes:,} bytes): this corpus does not fit into it. The rest "
                "is encoded again next time. Let it grow: max_bytes= (the variable GNOMON_CACHE_SIZE, such as 4G)."
            )
        return is_stored

    def size(self) -> CacheSize:
        """How large the cache is.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.path.exists():
            return CacheSize(0, 0, 0)
        count = "SELECT COALESCE(SUM(texts), 0), COUNT(DISTINCT space) FROM blocks"
        num_texts, num_spaces = self._run_or_raise(lambda connection: connection.execute(count).fetchone())
        return CacheSize(self.path.stat().st_size, num_texts, num_spaces)

    def clear(self) -> None:
        """Remove all vectors; a damaged file is removed itself. Another process may go on using the file.

        Raises:
            OSError: the file cannot be written.
        """
        if not self.path.exists():
            return

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM blocks")
            connection.execute("DELETE FROM contents")

        self._run_or_raise(delete, writes=True)
        self._run_or_raise(_shrink, writes=True)

    # ---- transactions

    def _run(self, action: Callable[[sqlite3.Connection], T], default: T, *, writes: bool = False) -> T:
        """The result of a transaction; after an error a warning, and `default` from then on."""
        if not (self._writes if writes else self._reads):
            return default
        try:
            return self._transact(action, writes)
        except (sqlite3.Error, OSError) as error:
            self._disable(error, writes)
            return default

    def _run_or_raise(self, action: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        try:
            return self._transact(action, writes)
        except sqlite3.Error as error:
            raise OSError(0, _describe(error), str(self.path)) from error

    def _disable(self, error: sqlite3.Error | OSError, writes: bool) -> None:
        self._writes = False
        if writes:
            warn_caller(
                f"vectors are not cached in {self.path}: {_describe(error)}. The search goes on; the next one would "
                "encode the same texts again."
            )
            return
        self._reads = False
        warn_caller(f"the cache {self.path} is not used: {_describe(error)}. The search goes on without it.")

    def _transact(self, action: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        """Run a transaction; where the file is damaged, start it anew and run it once more."""
        try:
            return self._transact_once(action, writes)
        except sqlite3.Error as error:
            if _primary_code(error) not in DAMAGED_CODES:
                raise
            self.close()
            for name in (FILE_NAME, f"{FILE_NAME}-journal"):
                self.path.with_name(name).unlink(missing_ok=True)
            warn_caller(f"the cache {self.path} was damaged ({error}). It was emptied, and texts are encoded again.")
            return self._transact_once(action, writes)

    def _transact_once(self, action: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            result = action(connection)
            connection.commit()
        except BaseException:  # Ctrl-C too: nothing of the transaction is left
            with suppress(sqlite3.Error):
                connection.rollback()
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=self._lock_seconds, isolation_level=None)
            try:
                _prepare_tables(connection)
                (self._stamp,) = connection.execute("SELECT COALESCE(MAX(used), 0) + 1 FROM blocks").fetchone()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _make_room(self, connection: sqlite3.Connection, size: int) -> bool:
        """Delete blocks, the one used longest ago first, until one of `size` bytes fits; False if it cannot."""
        needed = size + SPARE_PAGES * PAGE_BYTES
        old = "FROM blocks WHERE used < ?"
        (most,) = connection.execute(f"SELECT COALESCE(SUM(bytes), 0) {old}", (self._stamp,)).fetchone()
        if self.max_bytes - _used_bytes(connection) + most < needed:
            return False
        blocks = connection.execute(f"SELECT id {old} ORDER BY used, id", (self._stamp,)).fetchall()
        while self.max_bytes - _used_bytes(connection) < needed and blocks:
            _delete_block(connection, blocks.pop(0)[0])
        if _pragma(connection, "page_count") * PAGE_BYTES > self.max_bytes:  # the limit was larger before
            _shrink(connection)
        return self.max_bytes - _used_bytes(connection) >= needed


# ---- tables


def _prepare_tables(connection: sqlite3.Connection) -> None:
    """
    Raises:
        sqlite3.Error: the file is not a database, or is of another version.
    """
    connection.execute("PRAGMA synchronous = NORMAL")
    if _pragma(connection, "user_version") == VERSION:
        return
    for setting in (f"page_size = {PAGE_BYTES}", "auto_vacuum = INCREMENTAL"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN IMMEDIATE")
    try:  # where tables of another version are, it fails
        if _pragma(connection, "user_version") != VERSION:  # else another process was quicker
            for table, columns in TABLES.items():
                connection.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, {columns})")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.commit()
    except BaseException:
        with suppress(sqlite3.Error):
            connection.rollback()
        raise


def _locate(connection: sqlite3.Connection, space: str, texts: Sequence[str]) -> Located:
    """Where texts are. Of several blocks with a text, the newest is taken."""
    position_of = {_hash_text(text): position for position, text in enumerate(texts)}
    located: Located = {}
    blocks = connection.execute(
        "SELECT id, hashes FROM contents JOIN blocks USING (id) WHERE space = ? ORDER BY id DESC", (space,)
    )
    for block, hashes in blocks:
        for row, start in enumerate(range(0, len(hashes), HASH_BYTES)):
            position = position_of.pop(hashes[start : start + HASH_BYTES], None)
            if position is not None:
                rows, positions = located.setdefault(block, ([], []))
                rows.append(row)
                positions.append(position)
        if not position_of:
            break
    return located


def _as_index(numbers: list[int]) -> slice | NDArray[np.int64]:
    """An index of numpy. A slice where it can be: values are then copied once, and not one by one."""
    array = np.array(numbers, np.int64)
    return slice(numbers[0], numbers[-1] + 1) if (np.diff(array) == 1).all() else array


def _read_block(connection: sqlite3.Connection, block: int, dim: int) -> tuple[Vectors, NDArray[np.bool_]] | None:
    """(vectors [R, D], which texts were truncated [R]) of a block; None if it is damaged."""
    crc, hashes, flags, data = connection.execute(
        "SELECT crc, hashes, truncated, vectors FROM contents WHERE id = ?", (block,)
    ).fetchone()
    if crc != _checksum(hashes, flags, data) or len(data) != len(flags) * dim * 4:
        return None
    return np.frombuffer(data, np.float32).reshape(-1, dim), np.frombuffer(flags, np.bool_)


def _delete_block(connection: sqlite3.Connection, block: int) -> None:
    for table in ("blocks", "contents"):
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (block,))


def _used_bytes(connection: sqlite3.Connection) -> int:
    return (_pragma(connection, "page_count") - _pragma(connection, "freelist_count")) * PAGE_BYTES


def _shrink(connection: sqlite3.Connection) -> None:
    """Give the pages that are not used back to the disk."""
    for _ in range(_pragma(connection, "freelist_count")):
        connection.execute("PRAGMA incremental_vacuum(1)")  # from Python, each call frees one page


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _hash_text(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def _checksum(hashes: bytes, flags: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(flags, zlib.crc32(hashes)))


def _primary_code(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)  # not there where Python itself raised it
    return None if code is None else code & 0xFF


def _describe(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return describe_os_error(error)
    return REASONS.get(_primary_code(error) or 0, str(error))
