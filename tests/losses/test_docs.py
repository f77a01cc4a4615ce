"""docs/reference/losses.md: its example runs, and it names every function."""

import re
from pathlib import Path

import torch

from gnomon import losses

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "losses.md").read_text("utf-8")


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    assert names["mask"].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert names["queries_BD"].grad is not None


def test_every_public_name_is_in_it() -> None:
    assert [name for name in losses.__all__ if not re.search(rf"\b{name}\b", TEXT)] == []
