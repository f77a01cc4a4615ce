"""The experiment on growth: the tables of the published results, and a toy run."""

import json
import sys
from pathlib import Path

import pytest

from bench.process import ROOT
from experiments.growth import run as growth

GOLDEN = ROOT.parent / "shared" / "golden" / "GIST-Embedding-v0"


def test_the_published_page_holds_the_tables_of_the_published_results(capsys: pytest.CaptureFixture[str]) -> None:
    growth.print_tables(json.loads(Path(growth.__file__).with_name("results.json").read_text()))
    rows = {line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")}
    assert len(rows) == 2 + len(growth.COUNTS) + len(growth.LENGTHS)
    assert rows <= {*(ROOT / "docs" / "records" / "benchmarks.md").read_text().splitlines()}


@pytest.mark.slow
def test_a_toy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not here: it is in the shared folder of the project, not in the repository")
    monkeypatch.setattr(growth, "COUNTS", (5, 10, 20, 40))
    monkeypatch.setattr(growth, "LENGTHS", (16, 32, 100_000))
    monkeypatch.setattr(growth, "SYSTEMS", ("gnomon onnx", "infinity"))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # draws nothing
    options = ["--work", str(tmp_path), "--results", str(tmp_path / "results.json"), "--threads", "1"]
    growth.main(["--here", *options, "--models", str(GOLDEN), str(GOLDEN)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [*results["texts"]["seconds_per_text"]] == ["5", "10", "20", "40"]
    assert results["texts"]["memory"]["highest"] >= results["texts"]["memory"]["before"] > 1
    assert results["texts"]["mean_tokens"] > 4
    assert [*results["lengths"]["tokens_per_second"]] == ["16", "32"], "longer ones than the model reads are left out"
    rows = results["lengths"]["tokens_per_second"].values()
    assert all([*row] == ["gnomon onnx"] and row["gnomon onnx"]["median"] > 0 for row in rows)
