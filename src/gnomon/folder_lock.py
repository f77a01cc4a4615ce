"""A lock on an output folder, so that one run at a time writes there. It ends with the process, whatever ends that."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from gnomon.errors import InputError
from gnomon.files import describe_os_error
from gnomon.warn import warn_caller

LOCK = ".gnomon-lock"
"""The file in an output folder that is locked. It names the process that holds it, and stays when the run ends."""

_TRIES = 10

_LOCKED_BYTE = 1 << 30
"""Windows locks bytes, which nobody may read then. So a byte far after the text is locked."""


@contextmanager
def lock_folder(folder: Path) -> Generator[None]:
    """Lock `folder` for this run. A missing folder is created, and removed again if nothing was written to it.

    Raises:
        InputError: another run holds it; it is a file or a link to nothing, or cannot be written to.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _open_locked(folder)
    try:
        with _record_holder(folder, handle):
            yield
    finally:
        if created:
            _remove_if_empty(folder, created)  # while it is locked
        os.close(handle)  # which unlocks


def _open_locked(folder: Path) -> int:
    """The lock file, locked. A run that ends may remove it after this one opened it: then it is created again."""
    for _ in range(_TRIES):
        if (handle := _open(folder)) is None:
            continue
        try:
            if not _lock(handle):
                raise InputError(
                    f"output {folder} is held by another run, {_holder(handle)}. Wait until it ends, stop it, or give "
                    "another output."
                )
            if os.fstat(handle).st_nlink:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise InputError(f"output {folder} is removed again and again. Give another output.")


def _open(folder: Path) -> int | None:
    """Open the lock file; None where a run that ends just removed the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except (FileExistsError, NotADirectoryError) as error:
        for path in (folder, *folder.parents):
            if path.is_symlink() and not path.exists():
                raise InputError(
                    f"output is {folder}, and {path} is a link to {path.readlink()}, which is not there. Make that "
                    "folder, or give another output."
                ) from error
        file = next((path for path in (folder, *folder.parents) if path.is_file()), folder / LOCK)
        raise InputError(f"output is {folder}, and {file} is a file. Give the path of a folder.") from error
    except OSError as error:
        raise InputError(_describe_write_error(folder, error)) from error


def _remove_if_empty(folder: Path, created: Sequence[Path]) -> None:
    """Remove the folders that were created, if they hold the lock file only."""
    with suppress(OSError):  # the folder is not empty, or the system does not remove open files
        if [*folder.iterdir()] == [folder / LOCK]:
            (folder / LOCK).unlink()
            for path in created:
                path.rmdir()


@contextmanager
def _record_holder(folder: Path, handle: int) -> Generator[None]:
    """Inside, the lock file names the process that holds it."""
    began = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {began}".encode())
    except OSError as error:
        raise InputError(_describe_write_error(folder, error)) from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(handle, 0)


def _holder(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 1000).decode("utf-8", "replace").strip() or "which has just begun"


def _describe_write_error(folder: Path, error: OSError) -> str:
    return (
        f"output {folder} cannot be written to: {describe_os_error(error)}. Make room or change its permissions, or "
        "give another output."
    )


def _lock(handle: int) -> bool:
    """Try to lock the file; returns whether it worked. A file system without locks always allows it, with a warning."""
    try:
        _lock_at_once(handle)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warn_caller("the file system of output has no locks: make sure that no other run writes to the same folder.")
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock_at_once(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock_at_once(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
