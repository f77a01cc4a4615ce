"""Writes a data set block by block, with the memory of one block.

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
    FALSE_NEGATIVES,
    HASHES,
    LOCATION,
    LOCATIONS,
    METADATA,
    NEGATIVE_BOUNDS,
    SCORES,
    TEXTS,
    VERSION,
    ScoreKind,
    hash_texts,
)

BUFFER = 2**20
"""Bytes that are written to a file at once."""

HASHES_PER_READ, HASHES_PER_PASS, MAX_PASSES = 2**17, 2**21, 64
"""For counting different hashes: how many are read at once, how many are sorted per pass (16 MiB), and how many passes
there are at most.
"""

ODD = np.int64(-7046029254386353131)
"""A small number times this has many bits: for comparing pairs of a hash and a number."""


@dataclass(frozen=True)
class CheckedRows:
    """Rows whose values were checked, as they are written."""

    file_number: int
    """The file of the source that they come from."""
    line_numbers: Sequence[int]
    """[B], their lines in that file."""
    texts: dict[str, list[bytes]]
    """In UTF-8, by column. Negatives come row after row."""
    negative_counts: list[int] | None
    """[B], negatives of each row; None for a source without negatives."""
    labels: NDArray[np.float64] | None = None
    """[B]"""
    score_lists: list[list[float]] | None = None
    """[B], each with 1 + K scores"""
    source_lines: int | None = None
    """How many rows of the file they come from, where the number differs."""


class DatasetWriter:
    """Writes the files of a new data set into a folder that exists. `finish` completes it."""

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
            self._add_false_negatives(hashes, rows.negative_counts, rows.line_numbers)
        if rows.labels is not None:
            self._score_kind = "labels"
            self._file(SCORES).write(rows.labels.tobytes())
        if rows.score_lists is not None:
            self._score_kind = "lists"
            self._file(SCORES).write(np.fromiter(chain.from_iterable(rows.score_lists), np.float64).tobytes())
        locations = np.empty(len(rows.line_numbers), LOCATION)
        locations["file"], locations["line"] = rows.file_number, rows.line_numbers
        self._file(LOCATIONS).write(locations.tobytes())
        self.num_rows += len(rows.line_numbers)
        self.num_lines += len(rows.line_numbers) if rows.source_lines is None else rows.source_lines

    def _add_false_negatives(
        self, hashes: dict[str, NDArray[np.int64]], counts: list[int], lines: Sequence[int]
    ) -> None:
        """Write the numbers of negatives that are the query or a positive of their own row. Where a row of the file has
        several positives, each of them counts.
        """
        lines_B = np.cumsum(np.diff(lines, prepend=lines[0]) != 0) * ODD
        query_N, line_N = np.repeat(hashes["query"], counts), np.repeat(lines_B, counts)
        positive_N = np.isin(hashes["negative"] + line_N, hashes["positive"] + lines_B)
        own = np.flatnonzero((hashes["negative"] == query_N) | positive_N)
        if len(own):
            self._file(FALSE_NEGATIVES).write((own + self._negatives).tobytes())
        self._own += len(own)
        self._negatives += len(query_N)

    def finish(self, name: str, files: Sequence[tuple[str, str]], messages: Sequence[str] = ()) -> None:
        """Write the metadata last, which completes the data set. All of it is on the disk when this returns."""
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
            "false_negatives": self._own,
            "files": files,
            "score_kind": self._score_kind,
            "notices": messages,
            "sizes": {name: file.size for name, file in self._files.items()},
        }
        metadata = _File(self.folder / METADATA)
        self._files[METADATA] = metadata
        metadata.write(json.dumps(facts, indent=1).encode())
        metadata.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> _File:
        if name not in self._files:
            self._files[name] = _File(self.folder / name)
        return self._files[name]

    def _append_bounds(self, name: str, lengths: list[int]) -> None:
        """Continue a file of bounds with texts of these lengths."""
        file = self._file(name)
        if not file.size:
            file.write(np.zeros(1, np.int64).tobytes())
        bounds = file.end + np.cumsum(lengths, dtype=np.int64)
        file.end = int(bounds[-1]) if lengths else file.end
        file.write(bounds.tobytes())

    def _fingerprint(self) -> str:
        """A hash of the texts and scores. Text hashes follow from the texts, and locations are not content."""
        not_content = (
            LOCATIONS,
            FALSE_NEGATIVES,
            *(HASHES.format(column) for column in ("query", "positive", "negative")),
        )
        content = {name: file for name, file in self._files.items() if name not in not_content}
        digests = sorted((name, file.digest.hexdigest()) for name, file in content.items())
        # labels by the name that they had when the first fingerprints were made
        kind = "grades" if self._score_kind == "labels" else self._score_kind
        return blake2b(json.dumps([digests, kind]).encode(), digest_size=16).hexdigest()


class _File:
    """A file that is written from start to end, with its digest."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", BUFFER)
        self.digest = blake2b(digest_size=16)
        self.size = 0
        self.end = 0
        """The last of its bounds, for a file of bounds."""

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
    """Count the different hashes in a file. Many are counted in several passes, one per value of their first bits."""
    bits = min(path.stat().st_size // 8 // HASHES_PER_PASS, MAX_PASSES - 1).bit_length()
    return sum(len(_distinct_with_prefix(path, part, bits)) for part in range(1 << bits))


def _distinct_with_prefix(path: Path, part: int, bits: int) -> NDArray[np.uint64]:
    distinct = [np.empty(0, np.uint64)]
    with path.open("rb") as file:
        while len(hashes := np.fromfile(file, np.uint64, HASHES_PER_READ)):
            distinct.append(_sort_distinct(hashes[hashes >> np.uint64(64 - bits) == part] if bits else hashes))
    return _sort_distinct(np.concatenate(distinct))


def _sort_distinct(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The different values in order; sorts its argument. np.unique takes several times the memory."""
    hashes.sort()
    return hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
