"""Maps a file of weights into memory, read-only, and makes arrays as views of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import NotAModelError, WeightsError

Arrays = dict[str, NDArray[Any]]
Bytes = NDArray[np.uint8]

_LFS_POINTER = b"version https://git-lfs"
_RANK_LIMIT = 64  # numpy's


def map_file(path: Path) -> Bytes:
    """The bytes of a file as a read-only memory map.

    Raises:
        NotAModelError: not a file.
        WeightsError: an empty file, or a git-lfs pointer.
    """
    if not path.is_file():
        raise NotAModelError(f"{path} is not a file; give the path of the weights")
    if path.stat().st_size == 0:
        raise build_damaged_error(path, "weights", "0 bytes")
    file = np.memmap(path, dtype=np.uint8, mode="r")
    if file[: len(_LFS_POINTER)].tobytes() == _LFS_POINTER:
        raise WeightsError(
            f"{path} is a git-lfs pointer ({len(file)} bytes), not the weights. "
            "Run `git lfs pull`, or download it again."
        )
    return file


def view_tensor(
    path: Path,
    name: str,
    buffer: Bytes,
    dtype: np.dtype[Any],
    shape: Sequence[int],
    offset: int,
    *,
    strides: Sequence[int] | None = None,
) -> NDArray[Any]:
    """A view of the tensor `name` at byte `offset`, strides in bytes.

    Raises:
        WeightsError: the tensor passes the end of the buffer.
    """
    try:
        return np.ndarray(shape, dtype, buffer=buffer, offset=offset, strides=strides if all(shape) else None)  # pyright: ignore[reportArgumentType] (an array is a buffer)
    except (ValueError, TypeError, OverflowError) as error:
        raise build_damaged_error(
            path, f"{name!r} of shape {format_shape(shape)}", f"{len(buffer)} bytes ({error})"
        ) from error


def are_valid_sizes(values: object) -> bool:
    """Whether a value read from a file can be a shape: a list or tuple of sizes that are not negative."""
    return (
        isinstance(values, list | tuple)
        and len(values) <= _RANK_LIMIT
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def format_shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def build_damaged_error(path: Path, expected: str, actual: str) -> WeightsError:
    return WeightsError(
        f"{path}: expected {expected}, found {actual}; the file is truncated or damaged. Download it again."
    )
