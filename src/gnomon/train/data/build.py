"""Opens a source as a data set on disk: its files are read and checked once, and the result is cached."""

from __future__ import annotations

import json
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

from gnomon.errors import InputError, Notice
from gnomon.files import atomic_folder, disk_full_reason
from gnomon.messages import did_you_mean, list_some
from gnomon.progress import progress_bar
from gnomon.train.data.columns import ColumnMapping, resolve_columns, warn_of_unused_columns
from gnomon.train.data.dataset import VERSION, Dataset
from gnomon.train.data.dataset_writer import DatasetWriter
from gnomon.train.data.sources import HUB, Block, SourcePart, list_parts, match_files
from gnomon.train.recipe.schema import DataSource
from gnomon.warn import warn_caller

READ_SETTINGS = (
    "query",
    "positive",
    "negatives",
    "num_negatives",
    "score",
    "instruction",
    "instructions",
    "task_types",
)
"""Settings of a source that say which rows are read, and how. The others do not change the data set."""

MAX_LISTED = 20
"""Task types that a message lists."""

Numbered = tuple[int, SourcePart, Block]
"""The number of a part, the part, and one block of its rows."""


def open_dataset(
    source: DataSource, cache_dir: Path | None, *, max_lines: int | None = None, progress: bool | None = None
) -> Dataset:
    """Open the data set of a source. It is built where `cache_dir` has none yet, or where the files have changed.

    Several processes may do this at once: one builds and the others wait. A process that is killed leaves no data set.

    Args:
        cache_dir: None for ~/.cache/gnomon/train.
        max_lines: read at most this many rows, counting those of other task types.
        progress: whether a bar is shown on stderr; None for a terminal only.

    Raises:
        InputError: a file, column or value cannot be used, with its line or row; the source has no rows.
        ExtraError: pyarrow or datasets is needed, and not installed. SourceError: a data set cannot be reached.
        OSError: a file cannot be opened, or the disk has too little room.
    """
    parts = list_parts(source.path, split=source.split, streaming=source.streaming)
    source = replace(_apply_medi_columns(source, parts), name=source.name or default_name(source))
    if source.num_negatives is not None and not source.negatives:
        raise InputError(
            f"{source.name}: num_negatives is {source.num_negatives}, and negatives names no columns. Name them, or "
            "leave num_negatives out."
        )
    folder = (cache_dir or _default_cache_dir()) / _cache_key(source, parts, max_lines)
    dataset = _open_if_complete(folder)
    if dataset is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_drafts(folder.parent)
        with FileLock(_lock_path(folder)):
            dataset = _open_if_complete(folder) or _build(source, parts, folder, max_lines, progress)
    for message in dataset.warnings:  # in every run, not only in the one that reads the files
        warn_caller(message)
    return replace(dataset, name=source.name)


def default_name(source: DataSource) -> str:
    """The first file's name without its ending, or the name of a data set of the hub with its configuration."""
    first = source.path[0]
    if first.startswith(HUB):
        name, _, config = first.removeprefix(HUB).partition(":")
        return "-".join(filter(None, (name.rpartition("/")[2], config)))
    name = min(match_files(first), default=Path(first)).name
    return (name[:-3] if name.lower().endswith(".gz") else name).rpartition(".")[0]


def _apply_medi_columns(source: DataSource, parts: Sequence[SourcePart]) -> DataSource:
    """Take MEDI's column names where the file holds its rows and the source names no columns."""
    default = DataSource(())
    names_columns = any(getattr(source, name) != getattr(default, name) for name in ("query", "positive", "negatives"))
    if not names_columns and parts[0].name.lower().endswith((".json", ".json.gz")):
        with suppress(InputError):  # a list of other rows
            next(parts[0].read_blocks(["pos"]), None)
            return replace(source, positive="pos", negatives=("neg",))
    return source


# ---- the cache


def _default_cache_dir() -> Path:
    try:
        return Path.home() / ".cache" / "gnomon" / "train"
    except RuntimeError as error:
        raise InputError("The user has no home folder for the cache of data sets. Set cache_dir.") from error


def _cache_key(source: DataSource, parts: Sequence[SourcePart], max_lines: int | None) -> str:
    settings = {name: getattr(source, name) for name in READ_SETTINGS}
    # texts are folded by Unicode's tables
    content = [VERSION, unicodedata.unidata_version, settings, max_lines, [part.identity() for part in parts]]
    return sha256(json.dumps(content).encode()).hexdigest()[:32]


def _open_if_complete(folder: Path) -> Dataset | None:
    with suppress(InputError):
        return Dataset.open(folder)
    return None


def _draft_path(folder: Path) -> Path:
    return folder.with_suffix(".draft")


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _remove_stale_drafts(cache: Path) -> None:
    """Delete the drafts that killed processes left: no process holds their locks."""
    for draft in cache.glob("*.draft"):
        with suppress(Timeout), FileLock(_lock_path(draft), timeout=0):
            shutil.rmtree(draft, ignore_errors=True)


# ---- the build


def _build(
    source: DataSource, parts: Sequence[SourcePart], folder: Path, max_lines: int | None, progress: bool | None
) -> Dataset:
    """Read the parts into a new folder. The caller holds the folder's lock."""
    names = parts[0].column_names()
    resolved = resolve_columns(source, names)
    mapping = ColumnMapping(resolved)
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    with (
        _explain_disk_full(folder.parent, source.name),
        atomic_folder(folder, draft=_draft_path(folder), sync=True) as draft,
        _collect_warnings() as messages,
    ):
        writer = DatasetWriter(draft)
        try:
            if resolved != source:  # columns were chosen by their names
                warn_of_unused_columns(resolved, names)
            blocks = _iterate_blocks(parts, mapping.columns, max_lines)
            for number, part, block in _show_progress(blocks, parts, max_lines, source.name, progress):
                writer.add(mapping.map_block(number, part, block))
            _check_task_types(source, mapping, limited=max_lines is not None and writer.num_rows > 0)
            if not writer.num_rows:
                raise InputError(f"{source.name} ({', '.join(part.name for part in parts)}) has no rows.")
            if _cache_key(source, parts, max_lines) != folder.name:
                raise InputError(f"A file of {source.name} changed while it was read. Start again.")
            writer.finish(source.name, [(part.name, part.unit) for part in parts], messages)
        finally:
            writer.close()
    return Dataset.open(folder)


@contextmanager
def _explain_disk_full(cache: Path, name: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if reason := disk_full_reason(error):
            message = f"The data set of {name} was not written to {cache}: {reason}. Set cache_dir to another folder."
            raise OSError(error.errno, message) from error
        raise


@contextmanager
def _collect_warnings() -> Generator[list[str]]:
    """Collect warnings (`Notice`) in a list instead of showing them. If an error is raised, they are shown first."""
    messages: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            show = warnings.showwarning

            def collect(message: Warning | str, category: type[Warning], *origin: Any, **more: Any) -> None:
                if issubclass(category, Notice):
                    messages.append(str(message))
                else:
                    show(message, category, *origin, **more)

            warnings.showwarning = collect
            yield messages
    except BaseException:
        for message in messages:
            warn_caller(message)
        raise


def _iterate_blocks(parts: Sequence[SourcePart], columns: Sequence[str], max_lines: int | None) -> Iterator[Numbered]:
    """The blocks of all parts, at most `max_lines` rows together."""
    for number, part in enumerate(parts):
        for block in part.read_blocks(columns):
            if max_lines is not None:
                first = {name: values[:max_lines] for name, values in block.values.items()}
                block = Block(block.line_numbers[:max_lines], first)
                max_lines -= len(block.line_numbers)
            yield number, part, block
            if max_lines == 0:
                return


def _show_progress(
    blocks: Iterator[Numbered], parts: Sequence[SourcePart], max_lines: int | None, name: str, progress: bool | None
) -> Iterator[Numbered]:
    """The same blocks, with a bar that counts their rows."""
    counts = [part.count_rows() for part in parts]
    total = None if None in counts else sum(filter(None, counts))
    total = total if max_lines is None or total is None else min(total, max_lines)
    with progress_bar(total, f"reading {name}", "rows", show=progress, leave=True) as update:
        for number, part, block in blocks:
            yield number, part, block
            update(len(block.line_numbers))


def _check_task_types(source: DataSource, mapping: ColumnMapping, *, limited: bool) -> None:
    """Each task type of the recipe has rows, unless only some of the rows were read."""
    known = [name for name, _ in mapping.task_types.most_common()]
    for name in source.task_types:
        if name not in known and not limited and known:
            raise InputError(
                f"{source.name}: no row has task_type {name!r}. There are {list_some(known, MAX_LISTED)}."
                f"{did_you_mean(name, known)}"
            )
