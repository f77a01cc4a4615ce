"""What several test files here use, as fixtures: a test file cannot import its neighbour."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    def folder_of(name: str) -> Path:
        folder = GOLDEN / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not here: it is in the shared folder of the project, not in the repository")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Arrays, Arrays], None]:
    """Names, dtypes, shapes and bits are equal."""

    def check(left: Arrays, right: Arrays) -> None:
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert array.dtype == right[name].dtype, name
            assert array.shape == right[name].shape, name
            assert array.tobytes() == right[name].tobytes(), name

    return check


@pytest.fixture(scope="session")
def assert_mapped() -> Callable[[Arrays], None]:
    """Every array is a read-only view of a file."""

    def check(arrays: Arrays) -> None:
        for array in arrays.values():
            assert not array.flags.writeable
            base = array
            while base is not None and not isinstance(base, np.memmap):
                base = base.base
            assert isinstance(base, np.memmap)

    return check
