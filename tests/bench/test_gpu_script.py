"""bench/gpu.sh on the CPU: the same code with tiny models."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import run as gpu
from bench.gpu.part import Report

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu.sh"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), "--device", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})


def rows_of(results: dict[str, Any], part: str) -> dict[str, Any]:
    return {row["name"]: row for row in results["parts"][part]["rows"]}


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    done = run("--models", str(tmp_path / "models"), "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert results["passed"] and results["device"]["kind"] == "cpu" and results["versions"]["torch"]
    assert [*results["parts"]] == ["models", "attention", "engine", "training", "tests", "speed"]
    for part in ("attention", "engine", "training"):
        rows = rows_of(results, part)
        checked = [row for row in rows.values() if row["verdict"] != "skipped"]
        assert checked and all(row["figure"] <= row["limit"] for row in checked)
    assert "CUDA" in rows_of(results, "attention")["torch's varlen"]["note"]
    assert rows_of(results, "speed")["encoding, gte, float32, long-tail"]["share_of_roofline"] > 0


@pytest.mark.slow
def test_a_part_that_runs_out_of_time_is_stopped_reported_and_fails(tmp_path: Path) -> None:
    part = gpu.run_part("speed", 1.5, Namespace(device="cpu", models=tmp_path))
    assert 1.5 <= part["seconds"] < 30
    assert [row["verdict"] for row in part["rows"]] == ["out of time"]
    good = {"rows": [{"verdict": "passed"}, {"verdict": "skipped"}]}
    assert gpu.passed({"attention": good}, ["attention"])
    assert not gpu.passed({"attention": good, "speed": part}, ["attention", "speed"])
    assert not gpu.passed({"attention": good}, ["attention", "speed"]), "a part is missing"


def test_verdicts(tmp_path: Path) -> None:
    report = Report("cpu", tmp_path, tmp_path / "rows.jsonl")
    for name, figure in (("small", 0.1), ("large", 2.0), ("no number", float("nan"))):
        report.check(name, lambda figure=figure: figure, 1.0)
    report.check("broken", lambda: 1 / 0, 1.0)
    rows = [json.loads(line) for line in report.file.read_text().splitlines()]
    assert [row["verdict"] for row in rows] == ["passed", "failed", "failed", "failed"]
    assert rows[3]["note"].startswith("ZeroDivisionError")


@pytest.mark.slow
def test_a_device_that_is_not_there_is_said() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("--device", "cuda")
    assert done.returncode != 0 and "no GPU" in done.stderr
