"""A source on disk as the sampler needs it: any row at once, hashes of all texts, in memory of a few pages.

A folder holds, of each column, the texts one behind the other in UTF-8, where each begins, and their hashes; beside
them the scores, and the place of every row in the source's files. `spool` writes it.

N: entries of a column (R of query and positive); R: rows; K: negatives of a row.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError

VERSION = 1
"""Of the format of the folder, and of how sources are read."""

FACTS = "index.json"
TEXTS, BOUNDS, HASHES = "{}.texts", "{}.bounds", "{}.hashes"
"""Files of each column: UTF-8; int64 [N + 1], where each text begins and the last one ends; int64 [N]."""
OWNERS = "negatives.bounds"
"""int64 [R + 1]"""
SCORES, PLACES = "scores", "places"

PLACE = np.dtype([("file", "<i4"), ("line", "<i8")])


def text_hash(text: str) -> int:
    """Equal to `gnomon.losses.text_hashes`, without torch."""
    return int(hashes_of([text.encode("utf-8", "surrogatepass")])[0])


def hashes_of(encoded: Iterable[bytes]) -> NDArray[np.int64]:
    """[N], of texts in UTF-8."""
    digests = b"".join([blake2b(text, digest_size=8).digest() for text in encoded])
    return np.frombuffer(digests, ">i8").astype(np.int64)


@dataclass(frozen=True)
class Index:
    """The rows of one source."""

    folder: Path
    name: str
    rows: int
    negatives: int
    """K: how many each row has; where rows differ, the least; 0 for none."""
    fingerprint: str
    """Of the texts and scores in their order, wherever they lie."""
    columns: tuple[str, ...]
    """"query", "positive" and, if there are any, "negative"."""
    distinct: Mapping[str, int]
    """Different texts of each column."""
    files: tuple[tuple[str, str], ...]
    """(path, "line" or "row") of what was read."""
    score_width: int | None
    """How many scores a row has; 0 for one grade; None for no scores."""

    @classmethod
    def open(cls, folder: Path) -> Index:
        """
        Raises:
            InputError: there is no whole index here.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            version, sizes = facts.pop("version"), facts.pop("sizes")
            whole = version == VERSION and all((folder / name).stat().st_size == size for name, size in sizes.items())
            facts["columns"], facts["files"] = tuple(facts["columns"]), tuple(map(tuple, facts["files"]))
            index = cls(folder, **facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder} is no index of rows ({error!r}); delete it, and it is made anew.") from error
        if not whole:
            raise InputError(f"{folder} is not a whole index, or of another version; delete it, and it is made anew.")
        return index

    def texts(self, column: str, entries: NDArray[np.int64]) -> list[str]:
        """Texts of a column by their numbers, in the order asked. A row's query and positive have the row's number, its
        negatives those of `negative_bounds`.
        """
        text, bounds = self._texts[column], self._bounds[column]
        starts, ends = bounds[entries].tolist(), bounds[entries + 1].tolist()
        return [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def hashes(self, column: str) -> NDArray[np.int64]:
        """[N], `text_hash` of each text; mapped from the disk."""
        return self._hashes[column]

    def sizes(self, column: str) -> NDArray[np.int64]:
        """[N], bytes of each text in UTF-8; computed by every call."""
        return np.diff(self._bounds[column])

    @cached_property
    def negative_bounds(self) -> NDArray[np.int64] | None:
        """[R + 1]: the negatives of row r are the entries bounds[r] to bounds[r + 1]; None where there are none."""
        return _mapped(self.folder / OWNERS, np.int64) if "negative" in self.columns else None

    @cached_property
    def scores(self) -> NDArray[np.float64] | None:
        """[R], grades of pairs, or [R, 1 + K], scores of the positive and the negatives; None where there are none."""
        if self.score_width is None:
            return None
        flat = _mapped(self.folder / SCORES, np.float64)
        return flat.reshape(self.rows, self.score_width) if self.score_width else flat

    def place(self, row: int) -> str:
        """Where a row comes from: "pairs.jsonl.gz, line 12"."""
        file, line = self._places[row].tolist()
        path, unit = self.files[file]
        return f"{path}, {unit} {line}"

    @cached_property
    def _texts(self) -> dict[str, mmap.mmap]:
        return {name: _map(self.folder / TEXTS.format(name)) for name in self.columns}

    @cached_property
    def _bounds(self) -> dict[str, NDArray[np.int64]]:
        return {name: _mapped(self.folder / BOUNDS.format(name), np.int64) for name in self.columns}

    @cached_property
    def _hashes(self) -> dict[str, NDArray[np.int64]]:
        return {name: _mapped(self.folder / HASHES.format(name), np.int64) for name in self.columns}

    @cached_property
    def _places(self) -> NDArray[Any]:
        return _mapped(self.folder / PLACES, PLACE)


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A plain array: a memmap's slices are slow to make."""
    return np.asarray(np.memmap(path, dtype, "r"))


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
