"""The inference benchmark: arithmetic, mixes of texts, tables of the published results, one quick run of all stages."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import goldens
import pytest

from bench import figures, flops, process, texts
from bench.inference import environments, models, plan, processes, stages, systems, tables

ROOT = process.ROOT
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED} is not here: it is in the shared folder of the project, not in the repository")
    return SHARED


def test_operations_of_a_plain_and_a_gated_trunk() -> None:
    plain, gated = (flops.Shape(hidden=2, layers=3, inner=5, gated=gated) for gated in (False, True))
    linear, attention = 2 * (4 * 4 + 2 * 2 * 5), 4 * 2
    assert flops.operations(plain, [3, 1]) == 3 * (4 * linear + (9 + 1) * attention)
    assert flops.operations(gated, [1]) == 3 * (linear + 2 * 2 * 5 + attention)
    bge_base = flops.Shape(768, 12, 3072)
    assert flops.operations(bge_base, [1] * 1000) == pytest.approx(2 * 85e6 * 1000, rel=0.01)


def test_the_roofline_is_that_of_compute_or_of_memory() -> None:
    shape, lengths = flops.Shape(768, 12, 3072), [128] * 64
    compute = flops.floor_seconds(shape, lengths, flops.Peak(1e12, 1e30), batches=1, size=2)
    assert compute == pytest.approx(flops.operations(shape, lengths) / 1e12)
    memory = flops.floor_seconds(shape, lengths, flops.Peak(1e30, 1e9), batches=1, size=2)
    weights = 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert flops.floor_seconds(shape, lengths, flops.Peak(1e30, 1e9), batches=3, size=2) == pytest.approx(
        memory + 2 * 2 * weights / 1e9
    )


def test_padding_of_each_way_of_making_batches() -> None:
    lengths, characters = [1, 9, 2, 8], [4, 40, 5, 39]
    assert systems.padded_in_order(lengths, characters, 2) == 2 * 9 + 2 * 8
    assert systems.padded_by_characters(lengths, characters, 2) == 2 * 9 + 2 * 2
    assert systems.padded_by_window(lengths, characters, 2, batches=1) == 2 * 9 + 2 * 8
    assert systems.padded_by_window(lengths, characters, 2, batches=8) == 2 * 9 + 2 * 2


def test_quantiles_and_turns() -> None:
    values = [float(at) for at in range(100, 0, -1)]
    assert figures.quantiles(values) == {"p50": 50, "p95": 95, "p99": 99, "calls": 100}
    assert "".join(figures.turns("abc", 4)) == "abc" + "bca" + "cab" + "abc"
    assert [*figures.turns([], 3)] == []


def test_a_column_of_dashes_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    figures.print_table(("name", "cuda", "cpu"), [("a", "-", 1), ("b", "-", "-")])
    assert capsys.readouterr().out.split("\n")[1:] == ["| name | cpu |", "|---|---|", "| a | 1 |", "| b | - |", ""]


def test_the_search_for_a_batch_size_stops_where_it_gets_slower() -> None:
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return abs(size - 16)

    assert stages.best_size((8, 16, 32, 64, 128), 32, seconds) == 16
    assert tried == [32, 64, 16, 8]


def test_a_tuned_system_with_the_usual_batch_size_is_the_default_over_again() -> None:
    names = ["sentence-transformers", "sentence-transformers tuned"]
    assert [*stages.same_as_default(dict.fromkeys(names, 32))] == names[1:]
    assert not stages.same_as_default(dict(zip(names, (32, 16), strict=True)))
    assert stages.untuned(names) == names[:1]


def test_every_system_has_an_environment_and_both_devices_have_the_default() -> None:
    assert {row.environment for row in systems.SYSTEMS.values()} < {*environments.STEPS}
    assert all(systems.DEFAULT in systems.systems_named(device) for device in ("cpu", "cuda"))
    assert systems.systems_named("cpu", "^gnomon onnx$") == ["gnomon onnx"]


def models_in(work: Path, *, here: bool) -> models.Models:
    return models.Models(environments.Environments(work, here), Path("fallback"))


def test_systems_that_cannot_open_a_folder_are_left_out_with_the_reason(golden_copy: Callable[..., Path]) -> None:
    model = models.Model("gist", golden_copy(goldens.GIST), random=False)
    workers = processes.Workers(processes.Bench(models_in(Path("work"), here=True), 1, "cpu"), model)
    assert workers.attempt("fastembed", "encode") is workers.attempt("fastembed", "encode") is None
    assert "'onnx'" in workers.skipped["fastembed"]
    gte = models.Model("gte", golden_copy(goldens.GTE), random=False)
    with pytest.raises(process.WorkerError, match="'new'"):
        workers.bench.command("infinity", gte)


def test_cells_for_folders_and_scales() -> None:
    assert plan.choose_cells("cpu", scale=0.5)[0].texts * 2 == plan.CELLS["cpu"][0].texts
    assert {cell.model for cell in plan.choose_cells("cpu", models=["some/folder"], quick=True)} == {"some/folder"}


def test_another_model_stands_in_for_one_that_is_not_available(tmp_path: Path) -> None:
    missing, installable = (models_in(tmp_path, here=here) for here in (True, False))
    assert missing.available_model(plan.MINILM) == models.STAND_IN and missing.tokenizer() == Path("fallback")
    assert installable.available_model(plan.MINILM) == plan.MINILM and missing.available_model("other") == "other"
    (tmp_path / "models" / plan.MINILM).mkdir(parents=True)
    assert missing.available_model(plan.MINILM) == plan.MINILM
    assert missing.tokenizer() == missing.open(plan.MINILM).folder == tmp_path / "models" / plan.MINILM


def test_any_first_part_of_a_blend_has_nearly_its_shares() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    order = [*itertools.islice(texts.blend(shares), 100)]
    for count in range(1, 101):
        for kind, share in shares.items():
            assert abs(order[:count].count(kind) - share * count) <= 1


def test_texts_of_a_mix_differ_and_have_its_lengths(shared: Path) -> None:
    source, again = texts.Texts(shared / "data"), texts.Texts(shared / "data")
    words = {name: [len(text.split()) for text in source.mix(name, 200)] for name in texts.MIXES}
    assert max(words["short"]) <= 14
    assert 60 <= min(words["paragraphs"]) <= max(words["paragraphs"]) <= 220
    assert sorted(words["long-tail"])[100] < 30 < 250 <= max(words["long-tail"])
    assert {200, 6500} == {min(words["long"]), max(words["long"])}
    assert {*words["uniform-512"]} == {700}
    for name in texts.MIXES:
        assert len({*source.mix(name, 300)}) == 300
        assert source.mix(name, 20) == again.mix(name, 20)
    brief = source.brief(5000)
    assert len({*brief}) == 5000 and all(len(text.split()) <= 9 for text in brief)


def test_missing_texts_are_reported() -> None:
    with pytest.raises(SystemExit, match=r"nowhere.*--shared"):
        texts.Texts(Path("nowhere"))


def test_a_result_that_is_not_there_is_a_dash() -> None:
    row = {"seconds": {"median": 2.0, "lowest": 1.8, "highest": 2.2}, "size": 16, "dtype": "float32", "waste": 0.25}
    row |= {"peak_mib": 100, "device_mib": None}
    cell = {"runs": {}, "rates": {}, "tokens": 1000, "texts": 10, "operations": 1e9}
    line = tables.bulk_row("fastembed", row, cell)
    assert (line[0], line[2], line[6], line[-2:]) == ("fastembed (16)", "-", "-", ("-", "-"))
    far = tables.bulk_row("fastembed", row | {"distance": 0.5, "cosine": 0.9}, cell)
    assert far[-2:] == ("5.0e-01 (computes something else)", "0.900000")


def test_the_published_page_holds_the_tables_of_the_published_results(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_all(json.loads((ROOT / "bench" / "inference" / "results" / "cpu.json").read_text()))
    printed = {line for line in capsys.readouterr().out.splitlines() if line.startswith("| gnomon ")}
    page = {*(ROOT / "docs" / "records" / "benchmarks.md").read_text().splitlines()}
    rows = {line for line in printed if "onnxruntime" not in line}  # the page lists versions in another form
    assert len(rows) > 40 and rows <= page


@pytest.mark.slow
def test_a_quick_run_of_all_stages(tmp_path: Path, shared: Path) -> None:
    for module in ("torch", "transformers", "sentence_transformers"):
        pytest.importorskip(module, reason=f"{module} is not installed: the run has nothing to compare with")
    model = str(shared / "golden" / "GIST-Embedding-v0")
    command = [sys.executable, "-m", "bench.inference.run", "--here", "--quick", "--models", model, "--threads", "1"]
    command += ["--work", str(tmp_path / "work"), "--results", str(tmp_path)]

    def run(*options: str) -> dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]:
        done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "| GIST-Embedding-v0, long-tail | float32 | gnomon" in done.stdout
        return json.loads((tmp_path / "cpu.json").read_text())

    who = "gnomon onnx|gnomon torch|sentence-transformers|infinity"
    run("--systems", f"^({who})$", "--only", "bulk", "latency")
    results = run("--systems", "^gnomon onnx$", "--only", "cold", "sizes")  # the rest of the file stays
    cell = results["bulk"]["GIST-Embedding-v0"]["long-tail"]
    assert {*cell["runs"]} == {*who.split("|")} - {"infinity"} == {*results["latency"]["GIST-Embedding-v0"]}
    assert [*cell["skipped"]] == ["infinity"] and "infinity_emb" in cell["skipped"]["infinity"]  # type: ignore[operator]
    assert all(row["distance"] < 1e-5 and row["peak_mib"] > 1 for row in cell["runs"].values())  # type: ignore[index,operator]
    assert cell["runs"]["gnomon torch"]["waste"] == 0 <= cell["runs"]["gnomon onnx"]["waste"] < 1  # type: ignore[index,operator]
    assert results["cold"]["gnomon onnx"]["seconds"]["median"] > 0  # type: ignore[operator]
