"""Caches vectors by text, so that a second task, and a second start, encode nothing again.

A partition holds the vectors of one model, dimension and prompt. Every run that adds to it writes files of its own, so
runs at the same time do no harm. What one call adds is there whole or not at all, whenever a run is killed: the next
run then computes the same texts together, and so gets the same vectors to the last bit.

N: texts; D: dimension.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gnomon.files import describe_os_error, write_text_atomically
from gnomon.packed import Vectors
from gnomon.warn import warn_caller

RECORD_DTYPE = np.dtype([("text", "V16"), ("cut", "u1"), ("more", "<u4"), ("check", "<u4")])
"""The fields in order: the hash of a text; whether it was truncated; how many records of the same `add` follow; the
CRC-32 of the hash and the vector."""


class VectorCache:
    """Partitions in a folder; without a folder they are in memory, as long as this object lives."""

    def __init__(self, folder: Path | None) -> None:
        self._disk = _CacheFolder(None if folder is None else folder.absolute())
        self._partitions: dict[str, CachePartition] = {}

    @property
    def folder(self) -> Path | None:
        """Where vectors are written; None without a folder, and after writing failed."""
        return self._disk.folder

    def partition(self, description: Mapping[str, Any], dim: int) -> CachePartition:
        """The partition for a description (model, prompt, engine) and a dimension; equal descriptions share it."""
        text = json.dumps(
            dict(description) | {"width": dim, "record": RECORD_DTYPE.itemsize}, sort_keys=True, ensure_ascii=True
        )
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        if name not in self._partitions:
            self._partitions[name] = CachePartition(self._disk, name, dim, text)
        return self._partitions[name]

    def close(self) -> None:
        for partition in self._partitions.values():
            partition.close()
        self._partitions.clear()


class _CacheFolder:
    """The folder that all partitions write to, until writing fails."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def disable(self, error: OSError) -> None:
        """Continue without a folder, and warn of it."""
        folder, self.folder = self.folder, None
        warn_caller(
            f"vectors are no longer cached in {folder}: {describe_os_error(error)}. The run goes on; a second start "
            "would encode what follows again."
        )


@dataclass(frozen=True)
class _Block:
    """The vectors of one `add`, or of one file."""

    vectors_ND: Vectors
    records_N: NDArray[Any]
    checked_N: NDArray[np.bool_]
    """Rows whose checksum was verified."""

    def is_intact(self, row: int) -> bool:
        if not self.checked_N[row]:
            record = self.records_N[row]
            self.checked_N[row] = _checksum(bytes(record["text"]), self.vectors_ND[row]) == record["check"]
        return bool(self.checked_N[row])


class CachePartition:
    """Vectors of one dimension, by text."""

    def __init__(self, disk: _CacheFolder, name: str, dim: int, description: str) -> None:
        self.dim, self.description = dim, description
        self._disk, self._name = disk, name
        self._location: dict[bytes, tuple[_Block, int]] = {}
        """Hash of a text -> (block, row)"""
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        for keys in sorted((disk.folder / name).glob("*.keys")) if disk.folder else ():
            self._load(keys)

    def __len__(self) -> int:
        return len(self._location)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts whose vectors are not here, or are damaged: each once, in their order."""
        return [text for text in dict.fromkeys(texts) if not self._contains(_hash_text(text))]

    def add(self, texts: Sequence[str], vectors_ND: Vectors, truncated: Sequence[int]) -> None:
        """Add the vectors of different texts; texts that are here already stay as they are.

        Args:
            truncated: positions of the texts that were longer than the model reads.
        """
        hashes = [_hash_text(text) for text in texts]
        new = [row for row, key in enumerate(hashes) if key not in self._location]
        if not new:
            return
        vectors_ND = np.ascontiguousarray(vectors_ND[new], np.float32)
        records_N = np.zeros(len(new), RECORD_DTYPE)
        records_N["text"] = np.frombuffer(b"".join(hashes[row] for row in new), "V16")
        records_N["cut"] = np.isin(new, truncated)
        records_N["more"] = np.arange(len(new))[::-1]
        records_N["check"] = [_checksum(hashes[row], vector_D) for row, vector_D in zip(new, vectors_ND, strict=True)]
        written_ND = self._write(records_N, vectors_ND)
        self._index_block(
            _Block(vectors_ND if written_ND is None else written_ND, records_N, np.ones(len(new), np.bool_))
        )

    def get(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """(vectors [N, D], how many texts were truncated), of texts that are not `missing`."""
        vectors_ND = np.empty((len(texts), self.dim), np.float32)
        num_truncated = 0
        for index, text in enumerate(texts):
            block, row = self._location[_hash_text(text)]
            vectors_ND[index] = block.vectors_ND[row]
            num_truncated += int(block.records_N["cut"][row])
        return vectors_ND, num_truncated

    def close(self) -> None:
        for file in self._files or ():
            with suppress(OSError):  # a full disk was already reported
                file.close()
        self._files = None

    def _contains(self, key: bytes) -> bool:
        location = self._location.get(key)
        if location is None:
            return False
        block, row = location
        if not block.is_intact(row):
            del self._location[key]
            return False
        return True

    def _index_block(self, block: _Block) -> None:
        self._location |= {bytes(key): (block, row) for row, key in enumerate(block.records_N["text"])}

    def _load(self, keys: Path) -> None:
        """Read what an earlier run, or one at the same time, added; an unfinished `add` is skipped."""
        vectors = keys.with_suffix(".vectors")
        try:
            raw = keys.read_bytes()
            count = min(len(raw) // RECORD_DTYPE.itemsize, vectors.stat().st_size // (4 * self.dim))
            ends = np.flatnonzero(np.frombuffer(raw, RECORD_DTYPE, count)["more"] == 0)
            if not len(ends):
                return
            records_N = np.frombuffer(raw, RECORD_DTYPE, int(ends[-1]) + 1)
            vectors_ND = np.memmap(vectors, np.float32, "r", shape=(len(records_N), self.dim))
        except OSError:  # nothing is lost: it is computed again
            return
        self._index_block(_Block(vectors_ND, records_N, np.zeros(len(records_N), np.bool_)))

    def _write(self, records_N: NDArray[Any], vectors_ND: Vectors) -> Vectors | None:
        """Write vectors and records; returns the vectors mapped from the file, None where nothing was written.

        The vectors are written first, so that a record is there only where its vector is.
        """
        if self._disk.folder is None:
            return None
        try:
            if self._files is None:
                self._files = self._open(self._disk.folder / self._name)
            keys, vectors = self._files
            start = vectors.tell()
            for file, content in ((vectors, vectors_ND), (keys, records_N)):
                file.write(content.tobytes())
                file.flush()
            return np.memmap(vectors.name, np.float32, "r", offset=start, shape=vectors_ND.shape)
        except OSError as error:
            self.close()
            self._disk.disable(error)
        except BaseException:  # Ctrl-C between the two files: they no longer match
            self.close()
            raise
        return None

    def _open(self, folder: Path) -> tuple[BinaryIO, BinaryIO]:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / "what.json", self.description + "\n")
        stem = folder / f"{time.time_ns():020}-{os.getpid()}"
        return stem.with_suffix(".keys").open("xb"), stem.with_suffix(".vectors").open("xb")


def _hash_text(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _checksum(key: bytes, vector_D: Vectors) -> int:
    return zlib.crc32(vector_D.tobytes(), zlib.crc32(key))
