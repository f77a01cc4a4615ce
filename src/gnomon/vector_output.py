"""The output of `encode` while it is written: what is done is kept beside it, and its name appears when it is complete.

OUTPUT.partial/ holds a draft of the vectors and `state.json`, which says how much of the draft counts. After every
group of texts the draft is had on the disk, and then the state is replaced. So whatever stops the work, a power failure
too, the state names what is there. A lock in the folder lets one process at a time write.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.files import (
    atomic_file,
    disk_full_reason,
    fsync_folder,
    is_stream,
    open_stream,
    write_text_atomically,
)
from gnomon.folder_lock import LOCK, lock_folder
from gnomon.messages import count
from gnomon.vector_files import infer_output_format, ranges_path, write_npy

STDOUT = "-"
STATE = "state.json"
OWN_NAMES = re.compile(
    rf"{re.escape(LOCK)}|\.?{re.escape(STATE)}(\.\w+\.tmp)?|(vectors|final)\.(npy|jsonl|parquet)|part-\d+\.parquet"
)
"""What this module and `vector_drafts` write into a folder."""


@dataclass(frozen=True)
class EncodeState:
    """What is done of an output."""

    settings: Mapping[str, Any]
    """What the vectors depend on, beside the texts. Work goes on with equal settings only."""
    overwrites: bool = False
    """Whether the output may replace an older one."""
    num_groups: int = 0
    num_texts: int = 0
    num_truncated: int = 0
    skipped: int = 0
    size: int = 0
    """Size of the draft, as its `sync` returned it."""
    digest: str = ""
    """SHA-256 over the texts, group by group; it shows that the input is the same."""
    low: list[float] = field(default_factory=list[float])
    """The lowest value of each component, where the ranges of all vectors are needed."""
    high: list[float] = field(default_factory=list[float])
    final: str | None = None
    """The name of the complete file in the folder, before it gets its place."""


@dataclass
class VectorOutput:
    """Where vectors are written, locked for this process. `open_output` makes one."""

    path: str | Path
    form: str
    """npy, jsonl or parquet."""
    folder: Path
    """Holds the draft."""
    streams: bool
    """Whether it is standard output, a pipe or a device: nothing is kept of it, and no manifest is written."""
    overwrites: bool = False
    state: EncodeState | None = None
    """What an attempt before has kept; None if there is nothing."""

    @property
    def num_kept(self) -> int:
        """Texts whose vectors are kept if the work stops now, as the folder says."""
        state = None if self.streams else _read_state(self.folder)
        return state.num_texts if state else 0

    def save(self, state: EncodeState) -> None:
        """Keep what is done. The draft must be on the disk."""
        if not self.streams:
            write_text_atomically(self.folder / STATE, json.dumps(asdict(state), ensure_ascii=False), sync=True)
            fsync_folder(self.folder)

    def publish(self, final: Path, manifest: Mapping[str, Any], ranges_2D: NDArray[Any] | None) -> None:
        """Give a complete file its place, with its manifest and its ranges beside it. May be done again, if stopped."""
        if self.streams:
            with self.open_stream() as target, final.open("rb") as file:
                shutil.copyfileobj(file, target, 1 << 20)
            return
        place = Path(os.path.realpath(self.path))
        if not (final.exists() or place.exists()):
            raise InputError(f"{final} is missing, and so is {place}. Start anew with overwrite=True (--overwrite).")
        # without a manifest no file of vectors is read: an old one must not describe the new vectors
        for beside in (Path(f"{self.path}.json"), ranges_path(self.path)):
            beside.unlink(missing_ok=True)
        if ranges_2D is not None:
            with atomic_file(ranges_path(self.path), sync=True) as file:
                write_npy(file, ranges_2D)
        if final.exists():
            self._place(final, place)
            fsync_folder(place.parent)
        write_text_atomically(f"{self.path}.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", sync=True)
        fsync_folder(place.parent)
        (self.folder / STATE).unlink(missing_ok=True)
        _remove_own(self.folder)

    def _place(self, final: Path, place: Path) -> None:
        """Move a complete file to its place.

        Raises:
            InputError: a file appeared there during the work, and may not be replaced.
        """
        if self.overwrites or (self.state and self.state.overwrites):
            final.replace(place)
            return
        try:
            os.link(final, place)
        except FileExistsError:
            if not final.samefile(place):  # else it was stopped after the next line
                raise InputError(
                    f"{place} appeared during the work, and is not replaced. The vectors are kept in {self.folder}. "
                    "Move that file away, and go on with resume=True (--resume)."
                ) from None
        except OSError:  # a file system without links
            final.replace(place)
            return
        final.unlink()

    @contextmanager
    def open_stream(self) -> Generator[BinaryIO]:
        """The pipe or device, open to write."""
        if str(self.path) == STDOUT:
            yield cast(BinaryIO, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with open_stream(self.path) as file:
                yield file


@contextmanager
def open_output(path: str | Path, *, overwrite: bool = False, resume: bool = False) -> Generator[VectorOutput]:
    """Lock an output. What is kept of it lies in PATH.partial/.

    Args:
        path: "-" for standard output, or as `infer_output_format` takes it.
        overwrite: replace an older output once this one is complete, and discard what is kept of another attempt.
        resume: go on with what is kept.

    Raises:
        InputError: it is there already, or a part of it, and neither argument says what to do; another process writes
            it; it cannot be written to.
        OSError: the disk is full; names the output.
    """
    if overwrite and resume:
        raise InputError(
            "resume=True (--resume) goes on with what is there, and overwrite=True (--overwrite) starts anew. Give one."
        )
    form = "jsonl" if str(path) == STDOUT else infer_output_format(path)
    if str(path) == STDOUT or is_stream(path):
        if resume:
            raise InputError(
                f"{path} is not a file, so nothing of it is kept, and resume=True (--resume) has nothing to go on "
                "with. Give the name of a file."
            )
        with tempfile.TemporaryDirectory(prefix="gnomon-") as folder, _name_full_disk(path):
            yield VectorOutput(path, form, Path(folder), streams=True)
        return
    path = os.path.realpath(path)  # a link is written through, and the manifest lies beside the file itself
    folder = partial_folder(path)
    _check_own(folder)
    if not folder.exists():
        if resume and Path(path).exists():
            raise InputError(
                f"{path} is complete, so there is nothing to resume. Give another output, or start anew with "
                "overwrite=True (--overwrite)."
            )
        _check_free(path, overwrite)
    with lock_folder(folder):
        try:
            state = _find_state(path, folder, overwrite, resume)
            output = VectorOutput(path, form, folder, streams=False, overwrites=overwrite, state=state)
            with _name_full_disk(path):
                yield output
        finally:
            if not (folder / STATE).exists():
                _remove_own(folder)


def _find_state(path: str | Path, folder: Path, overwrite: bool, resume: bool) -> EncodeState | None:
    """What is kept and may be gone on with; anything else in the folder is removed.

    Raises:
        InputError: as `open_output`.
    """
    state = _read_state(folder)
    if state and not (overwrite or resume):
        raise InputError(
            f"{folder} holds a part of the output, {count(state.num_texts, 'text')}. Go on with resume=True "
            "(--resume), or start anew with overwrite=True (--overwrite)."
        )
    if overwrite or not state:
        _clear(folder)  # also what was left where the work was stopped at its very end
        _check_free(path, overwrite)
        return None
    if not state.final:  # what is there since then was not allowed to be replaced
        _check_free(path, state.overwrites)
    return state


def partial_folder(path: str | Path) -> Path:
    """The folder that holds what is done of an output, beside the file itself where `path` is a link."""
    return Path(f"{os.path.realpath(path)}.partial")


def _check_free(path: str | Path, overwrite: bool) -> None:
    """
    Raises:
        InputError: the output, its manifest or its ranges are there, and may not be replaced.
    """
    for each in (Path(path), Path(f"{path}.json"), ranges_path(path)):
        if each.exists() and not overwrite:
            raise InputError(
                f"{each} is there already. It would be replaced. Give another output, or allow it with overwrite=True "
                "(--overwrite)."
            )


def _read_state(folder: Path) -> EncodeState | None:
    try:
        return EncodeState(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{folder / STATE} is damaged ({error}), so it is not known what is done. Remove {folder}, and start anew."
        ) from error


def _check_own(folder: Path) -> None:
    """
    Raises:
        InputError: the folder holds something that gnomon did not write, which would be deleted.
    """
    foreign = [path for path in folder.iterdir() if not OWN_NAMES.fullmatch(path.name)] if folder.is_dir() else []
    if foreign:
        raise InputError(f"{foreign[0]} is not of gnomon, and its folder is needed for the work. Move it away.")


def _clear(folder: Path) -> None:
    """Remove what gnomon wrote into the folder, but for the lock. The state goes first, since the rest hangs on it."""
    (folder / STATE).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != LOCK and OWN_NAMES.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _remove_own(folder: Path) -> None:
    """Remove the folder and what gnomon wrote into it. Anything else stays."""
    with suppress(OSError):
        _clear(folder)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def _name_full_disk(path: str | Path) -> Generator[None]:
    """
    Raises:
        OSError: as it was raised inside; that of a full disk names the output and its folder.
    """
    try:
        yield
    except OSError as error:
        reason = disk_full_reason(error)
        if reason is None:
            raise
        if str(path) == STDOUT:
            raise OSError(error.errno, f"standard output was not written: {reason}.") from error
        raise OSError(error.errno, f"{path} was not written: {reason} ({Path(path).parent}).") from error


class Ranges:
    """The lowest and the highest value of each component, over groups of vectors."""

    def __init__(self, state: EncodeState) -> None:
        self._low_D, self._high_D = np.array(state.low, np.float32), np.array(state.high, np.float32)

    def add(self, vectors_BD: NDArray[np.float32]) -> None:
        if len(vectors_BD):
            low_D, high_D = vectors_BD.min(axis=0), vectors_BD.max(axis=0)
            self._low_D = np.minimum(self._low_D, low_D) if len(self._low_D) else low_D
            self._high_D = np.maximum(self._high_D, high_D) if len(self._high_D) else high_D

    def as_array(self) -> NDArray[np.float32]:
        """[2, D]."""
        return np.stack([self._low_D, self._high_D])

    def as_state(self) -> dict[str, list[float]]:
        return {"low": self._low_D.tolist(), "high": self._high_D.tolist()}
