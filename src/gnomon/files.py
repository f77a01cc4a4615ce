"""Files and folders that are whole or not there, what a full disk says, and small JSON caches.

What must be whole or not there is written through this module. A file is written beside its place under the name
`.NAME.XXXXXXXX.tmp` and then renamed, which replaces an older file in one step. What a killed process left
is recognised by that name (`is_temporary_path`). A checkpoint and a run of training are replaced by several renames,
with a rule for each state between them: `train/checkpoints.py` and `train/output_folder.py` hold these.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

DISK_FULL_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it grew too large",
}
"""What `errno` says when there is no room, in words."""

DESCRIPTOR_PATH = re.compile(r"/dev/(?:(stdin|stdout|stderr)|fd/(\d+))|/proc/self/fd/(\d+)")
"""Paths of open files by their numbers."""


# ---- errors


def disk_full_reason(error: OSError) -> str | None:
    """In words, why there was no room to write; None for any other error."""
    return DISK_FULL_REASONS.get(error.errno or 0)


def describe_os_error(error: OSError) -> str:
    """Why a file could not be written, for a message: "the disk is full", or the system's own words, and the file."""
    reason = disk_full_reason(error) or error.strerror or str(error)
    return f"{reason} ({error.filename})" if error.filename else reason


@contextmanager
def explain_disk_full(target: Path) -> Generator[None]:
    """
    Raises:
        OSError: as it was raised inside; that of a full disk names `target` and the folder.
    """
    try:
        yield
    except OSError as error:
        reason = disk_full_reason(error)
        if reason is None:
            raise
        message = f"{target} was not written: {reason} ({target.parent}). No part of it was left."
        raise OSError(error.errno, message) from error


# ---- files


@contextmanager
def atomic_files(*paths: str | Path, sync: bool = False) -> Generator[list[BinaryIO]]:
    """Files to write, open as binary. They replace the old ones together once all are complete; else nothing is left.

    A link is written through, as by `open`. A pipe or a device is written to as it is (`is_stream`).

    Args:
        sync: have each file on the disk before it takes its name, so that it survives a power failure.

    Raises:
        OSError: a file cannot be written; a full disk is named, with the file.
    """
    targets = [None if is_stream(path) else Path(os.path.realpath(path)) for path in paths]
    drafts = [target and temporary_path(target) for target in targets]
    try:
        with explain_disk_full(targets[0] or Path(paths[0])), ExitStack() as stack:
            opened = (
                draft.open("xb") if draft else open_stream(path) for path, draft in zip(paths, drafts, strict=True)
            )
            files = [stack.enter_context(file) for file in opened]
            yield files
            for file, target in zip(files, targets, strict=True):
                file.flush()
                if sync and target:
                    os.fsync(file.fileno())
        for draft, target in zip(drafts, targets, strict=True):
            if draft and target:
                draft.replace(target)
    finally:
        for draft in filter(None, drafts):
            with suppress(OSError):
                draft.unlink()


@contextmanager
def atomic_file(path: str | Path, *, sync: bool = False) -> Generator[BinaryIO]:
    """One file, as `atomic_files` has several."""
    with atomic_files(path, sync=sync) as (file,):
        yield file


def write_text_atomically(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Write a file of text in UTF-8, whole or not at all."""
    with atomic_file(path, sync=sync) as file:
        file.write(text.encode())


def temporary_path(path: Path) -> Path:
    """A new name beside `path` for a file or folder that is not complete: hidden, and never in use twice."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary_path(path: Path, name: str) -> bool:
    """Whether a path is a `temporary_path` of a file or folder called `name`."""
    return re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.tmp", path.name) is not None


# ---- folders


@contextmanager
def atomic_folder(
    path: Path, *, overwrite: bool = False, draft: Path | None = None, sync: bool = False
) -> Generator[Path]:
    """A folder to fill. It takes the name `path` once it is complete, or is deleted.

    Args:
        overwrite: replace what is at `path`; the old folder is deleted last. Without it, `path` must not exist or be
            an empty folder.
        draft: the name while it is filled, beside `path`; None for a new one. What is there is deleted, so the caller
            must hold a lock.
        sync: have the name on the disk when this ends, so that it survives a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if draft is None:
        draft = temporary_path(path)
    else:
        shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        if sync:
            fsync_folder(draft)
        if overwrite:
            replace_folder(draft, path)
        else:
            draft.rename(path)
        if sync:
            fsync_folder(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Rename a complete folder to `target`; an older folder of that name is deleted last."""
    if not target.exists():
        new.rename(target)
        return
    old = temporary_path(target)
    target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk. Where a system cannot open folders there is nothing to do."""
    if os.name != "posix":
        return
    with suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Have the files below a folder, and the names of them, on the disk."""
    for inner, _, names in os.walk(folder):
        for name in names:
            with Path(inner, name).open("r+b") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(inner))


# ---- pipes and devices


def is_stream(path: str | Path) -> bool:
    """Whether a path is a pipe, a device, or an open file by its number (/dev/stdout, /dev/fd/63).

    It is written to as it is: nothing can be written beside it, and there is nothing to replace.
    """
    if descriptor_number(path) is not None:
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:  # not there
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor_number(path: str | Path) -> int | None:
    """The number of the open file that a path stands for; None for any other path."""
    match = DESCRIPTOR_PATH.fullmatch(str(path))
    if not match:
        return None
    return {"stdin": 0, "stdout": 1, "stderr": 2}[match[1]] if match[1] else int(match[2] or match[3])


def open_stream(path: str | Path) -> BinaryIO:
    """A pipe, a device or an open file by its number, open to write."""
    number = descriptor_number(path)
    if number is None:
        return cast(BinaryIO, Path(path).open("wb"))
    return os.fdopen(os.dup(number), "wb")  # opened by its name, a file would be emptied


# ---- caches


def read_json_cache(path: Path) -> dict[str, Any]:
    """The object in a small file of measured values; empty where there is no such file, or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json_cache(path: Path, values: dict[str, Any]) -> None:
    """Write a small file of measured values. Nothing is raised where it cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(values, indent=1, sort_keys=True))
