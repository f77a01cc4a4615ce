"""The rows of a source on disk, mapped into memory: any text, hash or score at once.

For each column the folder has the texts one after the other in UTF-8, the offset of each, and their hashes. Beside them
are the scores, and the line of every row in the source's files. `dataset_writer` writes the folder.

N: entries of a column (R for query and positive); R: rows; B: some rows; K: negatives of a row.
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

VERSION = 4
"""The version of the folder's format and of how sources are read."""

METADATA = "index.json"
TEXTS, BOUNDS, HASHES = "{}.texts", "{}.bounds", "{}.hashes"
"""Files of each column: UTF-8; int64 [N + 1], the start of each text and the end of the last; int64 [N]."""
NEGATIVE_BOUNDS = "negatives.bounds"
"""int64 [R + 1]"""
SCORES, LOCATIONS = "scores", "places"
FALSE_NEGATIVES = "negatives.false"
"""int64, numbers of the negatives that are the query or a positive of their own row."""

ScoreKind = Literal["labels", "lists"]
"""One label per pair, or a list per row: the positive's score, then those of the negatives."""

LOCATION = np.dtype([("file", "<i4"), ("line", "<i8")])


_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_BLANK = bytes([*range(33), 127])
_BLANKS = ("Cc", "Cf", "Zs", "Zl", "Zp")
_MARKS = ("Mn", "Me", *_BLANKS)
"""Unicode's categories: control characters and white space; these and accents."""


def fold(text: bytes) -> bytes:
    """Remove from a text in UTF-8 what many tokenizers ignore: case, accents, white space and control characters.

    Texts that are equal for an uncased model become equal, and so do a few that differ for every model ("a b", "ab").
    Accents stay in a text that has nothing else.
    """
    if text.isascii():
        return text.translate(_LOWER, _BLANK) or text
    decoded = unicodedata.normalize("NFKD", text.decode("utf-8", "surrogatepass"))
    folded = _remove_categories(_MARKS, decoded) or _remove_categories(_BLANKS, decoded) or decoded
    return folded.casefold().encode("utf-8", "surrogatepass")


def _remove_categories(categories: tuple[str, ...], text: str) -> str:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes[_outside_categories(categories)[codes]].tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _outside_categories(categories: tuple[str, ...]) -> NDArray[np.bool_]:
    """For each character, by its code: whether it is outside of these categories."""
    return np.array([unicodedata.category(chr(code)) not in categories for code in range(sys.maxunicode + 1)])


def hash_text(text: str) -> int:
    return int(hash_texts([text.encode("utf-8", "surrogatepass")])[0])


def hash_texts(encoded: Sequence[bytes]) -> NDArray[np.int64]:
    """[N], hashes of texts in UTF-8. Texts that are equal after `fold` have equal hashes."""
    if not encoded:
        return np.zeros(0, np.int64)
    # ASCII all together, which is faster; UTF-8 never has the byte 0xff
    folded = b"\xff".join(encoded).translate(_LOWER, _BLANK).split(b"\xff")
    for number, text in enumerate(encoded):
        if not text.isascii() or not folded[number]:
            folded[number] = fold(text)
    return hash_bytes(folded)


def hash_bytes(contents: Iterable[bytes]) -> NDArray[np.int64]:
    """[N], the first 8 bytes of blake2b of each."""
    digests = b"".join([blake2b(content, digest_size=8).digest() for content in contents])
    return np.frombuffer(digests, ">i8").astype(np.int64)


@dataclass(frozen=True)
class Dataset:
    """The rows of one source, read from a folder."""

    folder: Path
    name: str
    rows: int
    lines: int
    """Rows of the source's files. One with several positives makes several rows here."""
    negatives: int
    """K: negatives per row, or the smallest number where rows differ; 0 without negatives."""
    fingerprint: str
    """A hash of the texts and scores in their order, wherever the files are."""
    columns: tuple[str, ...]
    """"query", "positive" and, if there are any, "negative"."""
    distinct: Mapping[str, int]
    """How many different texts each column has, by their hashes."""
    false_negatives: int
    """How many negatives are, by their hashes, the query or a positive of their own row."""
    files: tuple[tuple[str, str], ...]
    """(path, "line" or "row") of each file."""
    score_kind: ScoreKind | None
    """None without scores."""
    warnings: tuple[str, ...]
    """Warnings about the files, for every run that uses them."""

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """
        Raises:
            InputError: the folder is not a complete data set of this version.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            version, sizes = facts.pop("version"), facts.pop("sizes")
            complete = version == VERSION and all(
                (folder / name).stat().st_size == size for name, size in sizes.items()
            )
            facts["columns"], facts["files"] = tuple(facts["columns"]), tuple(map(tuple, facts["files"]))
            facts["warnings"] = tuple(facts.pop("notices"))
            dataset = cls(folder, **facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder} is not a data set ({error!r}). Delete it, and it is built again.") from error
        if not complete:
            raise InputError(f"{folder} is not complete, or has another version. Delete it, and it is built again.")
        return dataset

    def texts(self, column: str, entries: NDArray[np.int64]) -> list[str]:
        """Texts of a column by their numbers, in the given order. A row's query and positive have the row's number;
        `negative_bounds` has the numbers of its negatives.
        """
        text, bounds = self._texts[column], self._bounds[column]
        starts, ends = bounds[entries].tolist(), bounds[entries + 1].tolist()
        return [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def hashes(self, column: str) -> NDArray[np.int64]:
        """[N], `hash_text` of each text, mapped from the disk."""
        return self._hashes[column]

    def sizes(self, column: str) -> NDArray[np.int64]:
        """[N], bytes of each text in UTF-8, computed by every call."""
        return np.diff(self._bounds[column])

    @cached_property
    def negative_bounds(self) -> NDArray[np.int64] | None:
        """[R + 1]: the negatives of row r are the entries bounds[r] to bounds[r + 1]. None without negatives."""
        return _map_array(self.folder / NEGATIVE_BOUNDS, np.int64) if "negative" in self.columns else None

    @cached_property
    def false_negative_entries(self) -> NDArray[np.int64]:
        """The entries of the column of negatives that `false_negatives` counts."""
        return _map_array(self.folder / FALSE_NEGATIVES, np.int64) if self.false_negatives else np.zeros(0, np.int64)

    def rows_of_negatives(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that each of these entries of the column of negatives belongs to."""
        assert self.negative_bounds is not None
        return np.searchsorted(self.negative_bounds, entries, side="right") - 1

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """[R], the label of each pair; None without labels."""
        return self._scores if self.score_kind == "labels" else None

    def score_lists(self, rows_B: NDArray[np.int64], negatives_BK: NDArray[np.int64]) -> NDArray[np.float64]:
        """[B, 1 + K], scores of each row's positive and of these entries of its negatives."""
        assert self.negative_bounds is not None, "lists of scores need negatives"
        # the lists are stored one after the other: before a negative's score come those of all negatives before it,
        # and of the positives of all rows up to its own
        positives_B1 = (self.negative_bounds[rows_B] + rows_B)[:, None]
        return self._scores[np.concatenate([positives_B1, negatives_BK + rows_B[:, None] + 1], axis=1)]

    def location(self, row: int) -> str:
        """The file and line of a row: "pairs.jsonl.gz, line 12"."""
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
    """A mapped file as a plain array: slices of a memmap are slow."""
    return np.asarray(np.memmap(path, dtype, "r"))


def _map_bytes(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
