"""Every engine gives the published values of all five layouts; the graph's in a process that cannot import torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[1] / "shared" / "golden"
NO_TORCH = """
import runpy, sys
for name in ("torch", "transformers", "sentence_transformers"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

if not GOLDEN.is_dir():
    message = f"{GOLDEN} is not here: it is in the shared folder of the project"
    if os.environ.get("CI"):
        raise FileNotFoundError(message)
    pytest.skip(message, allow_module_level=True)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_every_value_of_the_golden_models_is_met(engine: str, tmp_path: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    made = run("-c", NO_TORCH, HERE / "make_candidates.py", tmp_path, "--engine", engine)
    assert made.returncode == 0, made.stderr
    judge(tmp_path)


@pytest.mark.parametrize("attention", ["fast", "plain"])
def test_every_value_is_met_by_the_torch_engine(attention: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = ["--plain"] if attention == "plain" else []
    made = run(HERE / "make_candidates.py", tmp_path, "--engine", "torch", *options)
    assert made.returncode == 0, made.stderr
    judge(tmp_path)


def judge(candidates: Path) -> None:
    judged = run(GOLDEN / "check_golden.py", candidates)
    assert judged.returncode == 0, judged.stdout
    assert judged.stdout.strip().endswith("PASS")
    assert judged.stdout.count("  ok") >= 50


def test_the_judge_fails_on_a_changed_value(tmp_path: Path) -> None:
    """The check above can fail."""
    judged = run(GOLDEN / "check_golden.py", tmp_path)
    assert judged.returncode == 1
    assert "MISSING" in judged.stdout
