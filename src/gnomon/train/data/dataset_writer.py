"""Writes an index, block by block, in memory of one block.

B: rows of a block; N: entries of a column; K: negatives of a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnomon.train.data.dataset import (
    BOUNDS,
    HASHES,
    LOCATION,
    LOCATIONS,
    METADATA,
    NEGATIVE_BOUNDS,
    OWN_NEGATIVES,
    SCORES,
    TEXTS,
    VERSION,
    ScoreKind,
    hash_texts,
)

BUFFER = 2**20
"""Bytes of a file that are written at once."""

HASHES_PER_READ, HASHES_PER_PASS, MAX_PASSES = 2**17, 2**21, 64
"""To count different hashes: how many are read at once, and sorted (16 MiB), in how many passes at most."""

ODD = np.int64(-7046029254386353131)
"""Times a number of few bits, it is one of many bits: to compare pairs of hash and number."""


@dataclass(frozen=True)
class CheckedRows:
    """Rows that were checked."""

    file_number: int
    """Which of the source's files."""
    line_numbers: Sequence[int]
    """[B], in that file."""
    texts: dict[str, list[bytes]]
    """In UTF-8, by column; the negatives of the first row, then those of the second, and so on."""
    negative_counts: list[int] | None
    """[B], negatives of each row; None where the source has none."""
    labels: NDArray[np.float64] | None = None
    """[B]"""
    score_lists: list[list[float]] | None = None
    """[B], each of 1 + K"""
    source_lines: int | None = None
    """Rows of the file that they come from, where these are not as many."""


class DatasetWriter:
    """The files of a new index, in a folder that exists; `finish` makes it an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_rows = self.num_lines = 0
        self._least: int | None = None
        self._score_kind: ScoreKind | None = None
        self._negatives = self._own = 0
        self._files: dict[str, _File] = {}

    def add(self, rows: CheckedRows) -> None:
        if not len(rows.line_numbers):
            return
        hashes = {column: hash_texts(texts) for column, texts in rows.texts.items()}
        for column, texts in rows.texts.items():
            self._file(TEXTS.format(column)).write(b"".join(texts))
            self._append_bounds(BOUNDS.format(column), list(map(len, texts)))
            self._file(HASHES.format(column)).write(hashes[column].tobytes())
        if rows.negative_counts is not None:
            self._append_bounds(NEGATIVE_BOUNDS, rows.negative_counts)
            self._least = min(rows.negative_counts) if self._least is None else min(self._least, *rows.negative_counts)
            self._add_own(hashes, rows.negative_counts, rows.line_numbers)
        if rows.labels is not None:
            self._score_kind = "grades"
            self._file(SCORES).write(rows.labels.tobytes())
        if rows.score_lists is not None:
            self._score_kind = "lists"
            self._file(SCORES).write(np.fromiter(chain.from_iterable(rows.score_lists), np.float64).tobytes())
        places = np.empty(len(rows.line_numbers), LOCATION)
        places["file"], places["line"] = rows.file_number, rows.line_numbers
        self._file(LOCATIONS).write(places.tobytes())
        self.num_rows += len(rows.line_numbers)
        self.num_lines += len(rows.line_numbers) if rows.source_lines is None else rows.source_lines

    def _add_own(self, hashes: dict[str, NDArray[np.int64]], counts: list[int], lines: Sequence[int]) -> None:
        """Note the negatives that are the query or a positive of their row, as that stands in the file: where it has
        several positives, any of them.
        """
        places_B = np.cumsum(np.diff(lines, prepend=lines[0]) != 0) * ODD
        query_N, place_N = np.repeat(hashes["query"], counts), np.repeat(places_B, counts)
        positive_N = np.isin(hashes["negative"] + place_N, hashes["positive"] + places_B)
        own = np.flatnonzero((hashes["negative"] == query_N) | positive_N)
        if len(own):
            self._file(OWN_NEGATIVES).write((own + self._negatives).tobytes())
        self._own += len(own)
        self._negatives += len(query_N)

    def finish(self, name: str, files: Sequence[tuple[str, str]], notices: Sequence[str] = ()) -> None:
        """All of it is on the disk when this returns; the facts, which make it an index, are written last."""
        for file in self._files.values():
            file.sync()
        columns = [column for column in ("query", "positive", "negative") if TEXTS.format(column) in self._files]
        facts = {
            "version": VERSION,
            "name": name,
            "rows": self.num_rows,
            "lines": self.num_lines,
            "negatives": self._least or 0,
            "fingerprint": self._fingerprint(),
            "columns": columns,
            "distinct": {column: count_distinct(self.folder / HASHES.format(column)) for column in columns},
            "own_negatives": self._own,
            "files": files,
            "score_kind": self._score_kind,
            "notices": notices,
            "sizes": {name: file.size for name, file in self._files.items()},
        }
        written = _File(self.folder / METADATA)
        self._files[METADATA] = written
        written.write(json.dumps(facts, indent=1).encode())
        written.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> _File:
        if name not in self._files:
            self._files[name] = _File(self.folder / name)
        return self._files[name]

    def _append_bounds(self, name: str, lengths: list[int]) -> None:
        """Add to a file of bounds."""
        file = self._file(name)
        if not file.size:
            file.write(np.zeros(1, np.int64).tobytes())
        bounds = file.end + np.cumsum(lengths, dtype=np.int64)
        file.end = int(bounds[-1]) if lengths else file.end
        file.write(bounds.tobytes())

    def _fingerprint(self) -> str:
        """Hashes follow from the texts, and places say only where those lay."""
        apart = (LOCATIONS, OWN_NEGATIVES, *(HASHES.format(column) for column in ("query", "positive", "negative")))
        content = {name: file for name, file in self._files.items() if name not in apart}
        digests = sorted((name, file.digest.hexdigest()) for name, file in content.items())
        return blake2b(json.dumps([digests, self._score_kind]).encode(), digest_size=16).hexdigest()


class _File:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", BUFFER)
        self.digest = blake2b(digest_size=16)
        self.size = 0
        self.end = 0
        """The last of the bounds it holds, where it holds bounds."""

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.size += len(content)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def count_distinct(path: Path) -> int:
    """Different hashes in a file; in several passes where they are many, each of those with the same first bits."""
    bits = min(path.stat().st_size // 8 // HASHES_PER_PASS, MAX_PASSES - 1).bit_length()
    return sum(len(_distinct_with_prefix(path, part, bits)) for part in range(1 << bits))


def _distinct_with_prefix(path: Path, part: int, bits: int) -> NDArray[np.uint64]:
    found = [np.empty(0, np.uint64)]
    with path.open("rb") as file:
        while len(hashes := np.fromfile(file, np.uint64, HASHES_PER_READ)):
            found.append(_sort_distinct(hashes[hashes >> np.uint64(64 - bits) == part] if bits else hashes))
    return _sort_distinct(np.concatenate(found))


def _sort_distinct(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorts its argument. np.unique takes several times the memory."""
    hashes.sort()
    return hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
