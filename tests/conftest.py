"""Shared by all tests: where the golden folders are, writable copies of them, and what "the same vector" means."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the network

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN_NAMES = (
    "stella_en_400M_v5",
    "gte-large-en-v1.5",
    "multilingual-e5-small",
    "GIST-Embedding-v0",
    "multi-qa-distilbert-cos-v1",
)


def _golden(name: str) -> Path:
    folder = SHARED / "golden" / name
    if not folder.is_dir():
        told = f"{folder} is not here: it is in the shared folder of the project, not in the repository"
        if os.environ.get("CI"):
            pytest.fail(f"{told}. CI must run the tests that need it.")
        pytest.skip(told)
    return folder


@pytest.fixture(params=GOLDEN_NAMES)
def golden(request: pytest.FixtureRequest) -> Path:
    """Each golden folder, to read."""
    return _golden(request.param)


@pytest.fixture(scope="session")
def golden_folder() -> Callable[[str], Path]:
    """A golden folder by name, to read."""
    return _golden


@pytest.fixture
def golden_copy(tmp_path: Path) -> Callable[..., Path]:
    """A golden folder's model by name, to change; `to` is the name of the copy, for models that are known by it."""

    def copy(name: str, to: str | None = None) -> Path:
        kept_back = shutil.ignore_patterns("expected.npz", "texts.json")
        return shutil.copytree(_golden(name), tmp_path / (to or name), ignore=kept_back)

    return copy


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., dict[str, Any]]:
    """Set keys of a JSON file (made where it is missing), and drop some; returns what it then holds."""

    def edit(path: Path, changes: dict[str, Any] | None = None, *, drop: tuple[str, ...] = ()) -> dict[str, Any]:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        content = {key: value for key, value in (content | (changes or {})).items() if key not in drop}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")
        return content

    return edit


@pytest.fixture(scope="session")
def assert_near() -> Callable[..., None]:
    """Row by row, the norm of the difference over the norm of the row that is wanted; a zero row must be zero."""

    def check(found: Any, wanted: Any, limit: float = 1e-5) -> None:
        found_BD, wanted_BD = np.atleast_2d(found).astype(np.float64), np.atleast_2d(wanted).astype(np.float64)
        assert found_BD.shape == wanted_BD.shape
        difference_B = np.linalg.norm(found_BD - wanted_BD, axis=-1)
        assert (difference_B <= limit * np.linalg.norm(wanted_BD, axis=-1)).all(), difference_B

    return check
