"""The benchmark's arithmetic, its mixes of texts, its report from a few results, and one quick run of all stages."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import bulk
import counting
import environments
import plan
import report
import stages
import tables
import texts
from contenders import CONTENDERS, named

ROOT = Path(bulk.__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED} is not here: it is in the shared folder of the project, not in the repository")
    return SHARED


# arithmetic


def test_operations_of_a_plain_and_a_gated_trunk() -> None:
    plain = counting.Shape(hidden=2, layers=3, inner=5)
    gated = counting.Shape(hidden=2, layers=3, inner=5, gated=True)
    linear, attention = 2 * (4 * 4 + 2 * 2 * 5), 4 * 2
    assert counting.operations(plain, [1]) == 3 * (linear + attention)
    assert counting.operations(plain, [3, 1]) == 3 * (4 * linear + (9 + 1) * attention)
    assert counting.operations(gated, [1]) == 3 * (linear + 2 * 2 * 5 + attention)


def test_operations_of_bge_base_are_about_two_for_each_of_its_85_million_linear_weights() -> None:
    assert counting.operations(counting.Shape(768, 12, 3072), [1] * 1000) == pytest.approx(2 * 85e6 * 1000, rel=0.01)


def test_padding_of_each_way_of_making_batches() -> None:
    lengths, characters = [1, 9, 2, 8], [4, 40, 5, 39]
    assert counting.padded_in_order(lengths, characters, 2) == 2 * 9 + 2 * 8
    assert counting.padded_by_characters(lengths, characters, 2) == 2 * 9 + 2 * 2
    assert counting.padded_by_window(lengths, characters, 2, batches=1) == 2 * 9 + 2 * 8
    assert counting.padded_by_window(lengths, characters, 2, batches=8) == 2 * 9 + 2 * 2
    assert counting.padded_in_order(lengths, characters, 1) == sum(lengths)
    assert counting.waste(20, 34) == pytest.approx(14 / 34)


def test_summary_and_quantiles() -> None:
    assert counting.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    assert counting.quantiles([float(at) for at in range(100, 0, -1)]) == {
        "p50": 50,
        "p95": 95,
        "p99": 99,
        "calls": 100,
    }


def test_each_round_begins_with_another_one() -> None:
    assert [counting.rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert counting.rotated([], 3) == []


def test_the_search_for_a_batch_size_stops_where_it_gets_slower() -> None:
    asked: list[int] = []

    def seconds(size: int) -> float:
        asked.append(size)
        return abs(size - 16)

    assert counting.best_size((8, 16, 32, 64, 128), 32, seconds) == 16
    assert asked == [32, 64, 16, 8]


def test_slope_compares_the_two_largest_counts() -> None:
    assert counting.slope({10: 5.0, 1000: 1.1, 100: 1.0}) == pytest.approx(0.1)


# texts


def test_any_first_part_of_a_blend_has_nearly_its_shares() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    order = texts.blend(shares, 100)
    for count in range(1, 101):
        for kind, share in shares.items():
            assert abs(order[:count].count(kind) - share * count) <= 1


@pytest.mark.slow
def test_mixes_have_the_lengths_that_they_promise(shared: Path) -> None:
    source = texts.Texts(shared / "data")
    words = {name: [len(text.split()) for text in source.mix(name, 200)] for name in texts.MIXES}
    assert max(words["short"]) <= 14
    assert 60 <= min(words["paragraphs"]) <= max(words["paragraphs"]) <= 220
    assert sorted(words["long-tail"])[100] < 30 < 250 <= max(words["long-tail"])
    assert {200, 6500} == {min(words["long"]), max(words["long"])}
    assert set(words["uniform-512"]) == {700}


@pytest.mark.slow
def test_texts_differ_and_are_the_same_each_time(shared: Path) -> None:
    source, again = texts.Texts(shared / "data"), texts.Texts(shared / "data")
    for name in texts.MIXES:
        assert len(set(source.mix(name, 300))) == 300
        assert source.mix(name, 20) == again.mix(name, 20)
    brief = source.brief(5000)
    assert len(set(brief)) == 5000
    assert all(len(text.split()) <= 9 for text in brief)


def test_missing_texts_are_told() -> None:
    with pytest.raises(SystemExit, match="--shared"):
        texts.Texts(Path("nowhere"))


# who takes part, and with how much


def test_every_contender_has_an_environment_and_both_devices_have_the_default() -> None:
    assert {row.environment for row in CONTENDERS.values()} < set(environments.STEPS)
    for device in ("cpu", "cuda"):
        assert tables.DEFAULT in named(device)
    assert list(named("cpu", "^gnomon onnx$")) == ["gnomon onnx"]


def test_a_contender_that_is_not_installed_here_is_left_out_with_the_reason() -> None:
    here = environments.Environments(Path("work"), here=True)
    assert here.missing(CONTENDERS["infinity"]) == "infinity_emb not installed"
    assert environments.Environments(Path("work")).missing(CONTENDERS["infinity"]) is None


def test_a_tuned_contender_with_the_usual_batch_size_is_the_default_over_again() -> None:
    entrants = {name: CONTENDERS[name] for name in ("sentence-transformers", "sentence-transformers tuned")}
    assert list(bulk.same_as_default(entrants, dict.fromkeys(entrants, 32))) == ["sentence-transformers tuned"]
    assert not bulk.same_as_default(entrants, {"sentence-transformers": 32, "sentence-transformers tuned": 16})
    assert stages.untuned(list(entrants)) == ["sentence-transformers"]


def test_a_plan_for_folders_and_scales() -> None:
    usual = plan.plan("cpu", rounds=3, scale=0.5, models=[], has_minilm=True, quick=False)
    assert usual.cells[0].texts * 2 == plan.CPU[0].texts
    without = plan.plan("cuda", rounds=3, scale=1, models=[], has_minilm=False, quick=False)
    assert plan.MINILM not in (*without.models, without.growth.texts_model)
    own = plan.plan("cpu", rounds=3, scale=1, models=["some/folder"], has_minilm=True, quick=True)
    assert own.models == [own.growth.texts_model] == [own.growth.lengths_model] == ["some/folder"]


# report


def summary(value: float) -> dict[str, float]:
    return {"median": value, "lowest": value * 0.9, "highest": value * 1.1}


def run(dtype: str, seconds: float, distance: float, size: int | None = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "size": size,
        "seconds": summary(seconds),
        "peak_mib": 100.0,
        "device_mib": None,
        "waste": 0.25,
        "distance": distance,
        "cosine": 0.99,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    runs = {
        "gnomon onnx": run("float32", 2.0, 1e-6),
        "gnomon onnx int8": run("int8", 1.0, 0.2),
        "sentence-transformers": run("float32", 4.0, 1e-6, 32),
        "fastembed": run("float32", 1.0, 0.5, 16),
        "infinity": run("float32", 3.0, 1e-6, 16),
    }
    cell = {
        "texts": 10,
        "tokens": 1000,
        "longest": 256,
        "operations": 10**12,
        "rates": {"float32": {"torch": summary(0.8e12), "numpy": summary(1e12)}},
        "runs": runs,
        "skipped": {"naive transformers": "torch not installed"},
    }
    texts_growth = {
        "contender": "gnomon onnx",
        "model": "M",
        "mean_tokens": 12.5,
        "seconds_per_text": {"100": summary(0.001), "1000": summary(0.00102)},
        "deviation": 0.02,
        "memory": {"before": 90.0, "tenth": 100.0, "highest": 101.0, "end": 101.0, "curve": [90.0, 100.0, 101.0]},
    }
    lengths_growth = {"model": "M", "tokens_per_second": {"16": {"gnomon onnx": summary(500.0)}, "32": {}}}
    model = {"random": True, "layers": 3, "hidden": 2, "inner": 5, "gated": False, "limit": 256, "weights_mib": 80.0}
    phases = ("seconds", "import", "load", "first vector", "processor seconds", "peak_mib")
    return {
        "device": {"kind": "cpu", "name": "A processor", "threads": 2},
        "date": "2026-01-02",
        "here": False,
        "tokenizer": "all-MiniLM-L6-v2",
        "quick": False,
        "python": "3.11.0",
        "versions": {"st": "sentence-transformers 6.2.0, torch 2.13.0"},
        "models": {"M": model},
        "bulk": {"M": {"long-tail": cell}},
        "latency": {"M": {"sentence-transformers": {"p50": 0.01, "p95": 0.02, "p99": 0.03, "calls": 100}}},
        "cold": {"gnomon onnx": {name: summary(0.3) for name in phases}},
        "growth": {"texts": texts_growth, "lengths": lengths_growth},
        "sizes": {"gnomon": 243.0},
        "took": {"bulk, M, long-tail": {"measured": "2026-01-02", "seconds": 60.0, "rounds": 3, "scale": 1.0}},
    }


@pytest.mark.slow
def test_the_report_says_what_the_results_say(tmp_path: Path, results: dict[str, Any]) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(results))
    report.write(tmp_path, tmp_path / "docs", Path(sys.executable))
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert page.isascii()
    assert (
        "| M, long-tail | float32 | gnomon onnx | 2.00 | 2.00 (sentence-transformers) | 1.50 (infinity) | 50% |" in page
    )
    assert (
        "| gnomon onnx | 2.00 (1.80 to 2.20) | 2.00 | 500 | 5.0 | 500 | 50% | 25% | 100 | 1.0e-06 | 0.990000 |" in page
    )
    assert "| fastembed (16) |" in page and "5.0e-01 (computes something else)" in page
    assert "Not measured: naive transformers: torch not installed." in page
    assert "float32 torch 800, numpy 1,000" in page
    assert "Among 1,000 a text takes +2.0% beside 100." in page
    assert "- st: sentence-transformers 6.2.0, torch 2.13.0" in page


@pytest.mark.slow
def test_a_result_that_is_not_there_is_a_dash(tmp_path: Path, results: dict[str, Any]) -> None:
    cell = results["bulk"]["M"]["long-tail"]
    del cell["runs"]["sentence-transformers"], cell["runs"]["gnomon onnx"]["distance"], results["cold"]
    del results["growth"], results["latency"], results["sizes"]
    (tmp_path / "some-gpu.json").write_text(json.dumps(results | {"device": results["device"] | {"kind": "cuda"}}))
    report.write(tmp_path, tmp_path / "docs", Path(sys.executable))
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| gnomon onnx | 2.00 (1.80 to 2.20) | - | - | 500 |" in page
    assert "Cold start" not in page


# all of it, quickly


@pytest.fixture
def quick_run(tmp_path: Path, shared: Path) -> Callable[..., dict[str, Any]]:
    def run(*options: str) -> dict[str, Any]:
        for module in ("torch", "transformers", "sentence_transformers"):
            pytest.importorskip(module, reason=f"{module} is not installed: the run has nobody to compare with")
        places = {"--work": "work", "--results": "results", "--docs": "docs"}
        folders = [text for option, name in places.items() for text in (option, str(tmp_path / name))]
        model = str(shared / "golden" / "GIST-Embedding-v0")
        command = [sys.executable, str(ROOT / "bench" / "run.py"), "--here", "--quick", "--models", model]
        done = subprocess.run([*command, *folders, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "results" / "cpu.json").read_text())

    return run


@pytest.mark.slow
def test_a_quick_run_of_all_stages(tmp_path: Path, quick_run: Callable[..., dict[str, Any]]) -> None:
    who = "gnomon onnx|gnomon torch|sentence-transformers|naive transformers|infinity"
    quick_run("--contenders", f"^({who})$", "--only", "bulk,latency,growth")
    results = quick_run("--contenders", "^gnomon", "--only", "cold,sizes")  # the rest of the file stays
    cell = results["bulk"]["GIST-Embedding-v0"]["long-tail"]
    assert set(cell["runs"]) == set(who.split("|")) - {"infinity"} == set(results["latency"]["GIST-Embedding-v0"])
    assert cell["skipped"] == {"infinity": "infinity_emb not installed"}
    for name, row in cell["runs"].items():
        assert row["distance"] < 1e-5, name
        assert row["peak_mib"] > 1
    assert cell["runs"]["gnomon torch"]["waste"] == 0 <= cell["runs"]["gnomon onnx"]["waste"] < 1
    assert results["cold"]["gnomon onnx"]["seconds"]["median"] > 0
    assert list(results["growth"]["texts"]["seconds_per_text"]) == ["5", "10", "20", "40"]
    assert "GIST-Embedding-v0, long-tail" in (tmp_path / "docs" / "benchmarks.md").read_text()
