"""Shared by all tests: where the golden folders are, writable copies of them, and what "the same vector" means."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the network

import pytest
from goldens import GOLDEN, NAMES, assert_same, require


def _golden(name: str) -> Path:
    require()
    return GOLDEN / name


@pytest.fixture(params=NAMES)
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
    """What "the same vectors" means: `goldens.assert_same`."""
    return assert_same
