"""Sources as indexes: read and checked once, then found again by what was read, and how."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from gnomon.errors import InputError, Notice
from gnomon.files import DISK_FULL_REASONS
from gnomon.messages import did_you_mean
from gnomon.train.data.columns import ColumnMapping
from gnomon.train.data.dataset import VERSION, Dataset
from gnomon.train.data.dataset_writer import DatasetWriter
from gnomon.train.data.sources import HUB, Block, SourcePart, list_parts, match_files
from gnomon.train.recipe.schema import DataSource
from gnomon.warn import warn_caller

READING = ("query", "positive", "negatives", "num_negatives", "score", "instruction", "instructions", "task_types")
"""Settings that say which rows are read and how; by the others an index does not change."""

MAX_LISTED = 20
"""Task types that a message lists."""

BAR_DELAY = 2.0
"""Seconds of reading before a progress bar is shown."""


def open_dataset(
    source: DataSource, cache_dir: Path | None, *, max_lines: int | None = None, progress: bool | None = None
) -> Dataset:
    """The index of a source; made where `cache_dir` has none yet, or the files have changed since.

    Processes may ask for it at once: one makes it and the others wait. One that is killed leaves no index.

    Args:
        cache_dir: None for ~/.cache/gnomon/train.
        lines: at most so many rows are read, those of other task types too.
        progress: a bar on stderr; None in a terminal only.

    Raises:
        InputError: a file, column or value that cannot be used, by its line or row; no rows.
        ExtraError: pyarrow or datasets is needed, and not installed. SourceError: a data set cannot be reached.
        OSError: a file cannot be opened, or there is no room for the index.
    """
    parts = list_parts(source.path, split=source.split, streaming=source.streaming)
    source = replace(_apply_medi_columns(source, parts), name=source.name or default_name(source))
    if source.num_negatives is not None and not source.negatives:
        raise InputError(f"{source.name}: num_negatives is {source.num_negatives}, and negatives names no columns.")
    folder = (cache_dir or _default_cache()) / _key(source, parts, max_lines)
    index = _open_if_complete(folder)
    if index is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        with FileLock(_lock(folder)):
            index = _open_if_complete(folder) or _build(source, parts, folder, max_lines, progress)
    for notice in index.notices:  # given in each run, not only in the one that reads the files
        warn_caller(notice)
    return replace(index, name=source.name)


def default_name(source: DataSource) -> str:
    """The first file's name without its end; of a data set its own and its configuration's."""
    first = source.path[0]
    if first.startswith(HUB):
        name, _, config = first.removeprefix(HUB).partition(":")
        return "-".join(filter(None, (name.rpartition("/")[2], config)))
    name = min(match_files(first), default=Path(first)).name
    return (name[:-3] if name.lower().endswith(".gz") else name).rpartition(".")[0]


def _apply_medi_columns(source: DataSource, parts: Sequence[SourcePart]) -> DataSource:
    """MEDI's names of columns, where its rows are read and no others were given."""
    default = DataSource(())
    given = any(getattr(source, name) != getattr(default, name) for name in ("query", "positive", "negatives"))
    if not given and parts[0].name.lower().endswith((".json", ".json.gz")):
        with suppress(InputError):  # of a list of other rows
            next(parts[0].read_blocks(["pos"]), None)
            return replace(source, positive="pos", negatives=("neg",))
    return source


def _default_cache() -> Path:
    try:
        return Path.home() / ".cache" / "gnomon" / "train"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep indexes in; cache_dir names another.") from error


def _key(source: DataSource, parts: Sequence[SourcePart], lines: int | None) -> str:
    reading = {name: getattr(source, name) for name in READING}
    how = [VERSION, unicodedata.unidata_version, reading, lines]  # by Unicode's tables texts are folded
    read: list[Any] = [*how, [part.identity() for part in parts]]
    return sha256(json.dumps(read).encode()).hexdigest()[:32]


def _open_if_complete(folder: Path) -> Dataset | None:
    with suppress(InputError):
        return Dataset.open(folder)
    return None


# ---- the first build


def _build(
    source: DataSource, parts: Sequence[SourcePart], folder: Path, lines: int | None, progress: bool | None
) -> Dataset:
    roles = ColumnMapping(source)
    with _draft(folder, source.name) as draft, _collect_warnings() as notices:
        spool = DatasetWriter(draft)
        try:
            for file, part, block in _show_progress(
                _blocks(parts, roles.columns, lines), parts, lines, source.name, progress
            ):
                spool.add(roles.map_block(file, part, block))
            _check_task_types(source, roles, limited=lines is not None and spool.num_rows > 0)
            if not spool.num_rows:
                raise InputError(f"{source.name} ({', '.join(part.name for part in parts)}) holds no rows.")
            if _key(source, parts, lines) != folder.name:
                raise InputError(f"a file of {source.name} changed while it was read; start again.")
            spool.finish(source.name, [(part.name, part.unit) for part in parts], notices)
        finally:
            spool.close()
    return Dataset.open(folder)


@contextmanager
def _collect_warnings() -> Generator[list[str]]:
    """Notices inside come on a list in place of being shown. Where an error ends it, they are shown."""
    told: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            show = warnings.showwarning

            def collect(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
                if issubclass(category, Notice):
                    told.append(str(message))
                else:
                    show(message, category, *place, **more)

            warnings.showwarning = collect
            yield told
    except BaseException:
        for message in told:
            warn_caller(message)
        raise


def _blocks(
    parts: Sequence[SourcePart], columns: Sequence[str], lines: int | None
) -> Iterator[tuple[int, SourcePart, Block]]:
    """(number of the part, part, block), of at most `lines` rows together."""
    for number, part in enumerate(parts):
        for block in part.read_blocks(columns):
            if lines is not None:
                block = Block(
                    block.line_numbers[:lines], {name: values[:lines] for name, values in block.values.items()}
                )
                lines -= len(block.line_numbers)
            yield number, part, block
            if lines == 0:
                return


def _show_progress(
    blocks: Iterator[tuple[int, SourcePart, Block]],
    parts: Sequence[SourcePart],
    lines: int | None,
    name: str,
    progress: bool | None,
) -> Iterator[tuple[int, SourcePart, Block]]:
    """A bar of the rows on stderr."""
    known = [part.count_rows() for part in parts]
    total = None if None in known else sum(filter(None, known))
    total = total if lines is None or total is None else min(total, lines)
    hidden = None if progress is None else not progress  # None: tqdm asks whether stderr is a terminal
    with tqdm(
        total=total,
        desc=f"reading {name}",
        unit=" rows",
        unit_scale=True,
        delay=0 if progress else BAR_DELAY,
        disable=hidden,
    ) as bar:
        for file, part, block in blocks:
            yield file, part, block
            bar.update(len(block.line_numbers))


def _check_task_types(source: DataSource, mapping: ColumnMapping, *, limited: bool) -> None:
    """Each task type that was asked for has rows, unless not all of them were read."""
    there = [name for name, _ in mapping.task_types.most_common()]
    for name in source.task_types:
        if name not in there and not limited and there:
            listed = ", ".join(there[:MAX_LISTED]) + (
                f" and {len(there) - MAX_LISTED} more" if len(there) > MAX_LISTED else ""
            )
            raise InputError(
                f"{source.name}: no row has task_type {name!r}; there are {listed}.{did_you_mean(name, there)}"
            )


# ---- folders: whole or not there


@contextmanager
def _draft(folder: Path, name: str) -> Generator[Path]:
    """A folder that takes the name of `folder` once it is whole, and is deleted otherwise; under the folder's lock."""
    draft = folder.with_suffix(".draft")
    for old in (draft, folder):
        shutil.rmtree(old, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        _fsync_folder(draft)
        draft.rename(folder)
        _fsync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL_REASONS:
            told = f"no room for the index of {name}: {DISK_FULL_REASONS[error.errno]} ({folder.parent})"
            raise OSError(error.errno, f"{told}; cache_dir names another folder") from error
        raise


def _remove_stale(cache: Path) -> None:
    """Drafts of processes that were killed: nobody holds their locks."""
    for draft in cache.glob("*.draft"):
        with suppress(Timeout), FileLock(_lock(draft), timeout=0):
            shutil.rmtree(draft, ignore_errors=True)


def _lock(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _fsync_folder(folder: Path) -> None:
    """Names of files are on the disk; where a system cannot open folders there is nothing to do."""
    with suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
