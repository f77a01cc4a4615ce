"""A source on disk as the sampler needs it: any row at once, hashes of all texts, in memory of a few pages.

A folder holds, of each column, the texts one after the other in UTF-8, where each begins, and their hashes; beside
them the scores, and the place of every row in the source's files. `spool` writes it.

N: entries of a column (R of query and positive); R: rows; B: some rows; K: negatives of a row.
"""

from __future__ import annotations

import json
import mmap
import string
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError

VERSION = 3
"""Of the format of the folder, and of how sources are read."""

METADATA = "index.json"
TEXTS, BOUNDS, HASHES = "{}.texts", "{}.bounds", "{}.hashes"
"""Files of each column: UTF-8; int64 [N + 1], where each text begins and the last one ends; int64 [N]."""
NEGATIVE_BOUNDS = "negatives.bounds"
"""int64 [R + 1]"""
SCORES, LOCATIONS = "scores", "places"
OWN_NEGATIVES = "negatives.own"
"""int64: negatives that are the query or the positive of their own row."""

ScoreKind = Literal["grades", "lists"]
"""One number for each pair; or a list for each row, the positive's score first, then the negatives'."""

LOCATION = np.dtype([("file", "<i4"), ("line", "<i8")])


_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_BLANK = bytes([*range(33), 127])
_BLANKS = ("Cc", "Cf", "Zs", "Zl", "Zp")
_MARKS = ("Mn", "Me", *_BLANKS)
"""Unicode's categories of control characters and of white space; those and accents."""


def fold(text: bytes) -> bytes:
    """A text in UTF-8 without what many tokenizers do not read: case, accents, white space and control characters.

    Texts that an uncased model reads alike fold alike, and so do a few that no model confuses ("a b", "ab"). Accents
    stay in a text that has nothing else.
    """
    if text.isascii():
        return text.translate(_LOWER, _BLANK) or text
    decoded = unicodedata.normalize("NFKD", text.decode("utf-8", "surrogatepass"))
    kept = _remove_categories(_MARKS, decoded) or _remove_categories(_BLANKS, decoded) or decoded
    return kept.casefold().encode("utf-8", "surrogatepass")


def _remove_categories(categories: tuple[str, ...], text: str) -> str:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes[_outside_categories(categories)[codes]].tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _outside_categories(categories: tuple[str, ...]) -> NDArray[np.bool_]:
    """Of each character, by its code, whether it is of none of these categories."""
    return np.array([unicodedata.category(chr(code)) not in categories for code in range(sys.maxunicode + 1)])


def hash_text(text: str) -> int:
    return int(hash_texts([text.encode("utf-8", "surrogatepass")])[0])


def hash_texts(encoded: Sequence[bytes]) -> NDArray[np.int64]:
    """[N], of texts in UTF-8: equal where they fold alike."""
    if not encoded:
        return np.zeros(0, np.int64)
    # ASCII at once, which is faster; the byte 0xff is in no text
    folded = b"\xff".join(encoded).translate(_LOWER, _BLANK).split(b"\xff")
    for at, text in enumerate(encoded):
        if not text.isascii() or not folded[at]:
            folded[at] = fold(text)
    return hash_bytes(folded)


def hash_bytes(contents: Iterable[bytes]) -> NDArray[np.int64]:
    """[N]: 8 bytes of blake2b of each."""
    digests = b"".join([blake2b(content, digest_size=8).digest() for content in contents])
    return np.frombuffer(digests, ">i8").astype(np.int64)


@dataclass(frozen=True)
class Dataset:
    """The rows of one source."""

    folder: Path
    name: str
    rows: int
    lines: int
    """Rows as they stand in the source's files; one with several positives makes several rows here."""
    negatives: int
    """K: how many each row has; where rows differ, the least; 0 for none."""
    fingerprint: str
    """Of the texts and scores in their order, wherever they lie."""
    columns: tuple[str, ...]
    """"query", "positive" and, if there are any, "negative"."""
    distinct: Mapping[str, int]
    """Different texts of each column, by their hashes."""
    own_negatives: int
    """How many negatives are, by their hashes, the query or the positive of their own row."""
    files: tuple[tuple[str, str], ...]
    """(path, "line" or "row") of what was read."""
    score_kind: ScoreKind | None
    """None for no scores."""
    notices: tuple[str, ...]
    """What the readers of the files had to say."""

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """
        Raises:
            InputError: there is no whole index here.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            version, sizes = facts.pop("version"), facts.pop("sizes")
            whole = version == VERSION and all((folder / name).stat().st_size == size for name, size in sizes.items())
            facts["columns"], facts["files"] = tuple(facts["columns"]), tuple(map(tuple, facts["files"]))
            facts["notices"] = tuple(facts["notices"])
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
        return _map_array(self.folder / NEGATIVE_BOUNDS, np.int64) if "negative" in self.columns else None

    @cached_property
    def own_negative_entries(self) -> NDArray[np.int64]:
        """Of the column of negatives, those that `own_negatives` counts."""
        return _map_array(self.folder / OWN_NEGATIVES, np.int64) if self.own_negatives else np.zeros(0, np.int64)

    def rows_of_negatives(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that each of these entries of the column of negatives belongs to."""
        assert self.negative_bounds is not None
        return np.searchsorted(self.negative_bounds, entries, side="right") - 1

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """[R], of pairs; None where they have none."""
        return self._scores if self.score_kind == "grades" else None

    def score_lists(self, rows_B: NDArray[np.int64], negatives_BK: NDArray[np.int64]) -> NDArray[np.float64]:
        """[B, 1 + K], scores of each row's positive and of these negatives of it, by their entries."""
        assert self.negative_bounds is not None, "lists of scores, and no negatives"
        # the lists stand one after the other: in front of a negative's score stand those of all negatives before it,
        # and of the positives of all rows up to its own
        positives_B1 = (self.negative_bounds[rows_B] + rows_B)[:, None]
        return self._scores[np.concatenate([positives_B1, negatives_BK + rows_B[:, None] + 1], axis=1)]

    def location(self, row: int) -> str:
        """Where a row comes from: "pairs.jsonl.gz, line 12"."""
        file, line = self._locations[row].tolist()
        path, unit = self.files[file]
        return f"{path}, {unit} {line}"

    @cached_property
    def _texts(self) -> dict[str, mmap.mmap]:
        return {name: _map_bytes(self.folder / TEXTS.format(name)) for name in self.columns}

    @cached_property
    def _bounds(self) -> dict[str, NDArray[np.int64]]:
        return {name: _map_array(self.folder / BOUNDS.format(name), np.int64) for name in self.columns}

    @cached_property
    def _hashes(self) -> dict[str, NDArray[np.int64]]:
        return {name: _map_array(self.folder / HASHES.format(name), np.int64) for name in self.columns}

    @cached_property
    def _scores(self) -> NDArray[np.float64]:
        return _map_array(self.folder / SCORES, np.float64)

    @cached_property
    def _locations(self) -> NDArray[Any]:
        return _map_array(self.folder / LOCATIONS, LOCATION)


def _map_array(path: Path, dtype: Any) -> NDArray[Any]:
    """A plain array: a memmap's slices are slow to make."""
    return np.asarray(np.memmap(path, dtype, "r"))


def _map_bytes(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
