"""The benchmark of training: arithmetic, and a toy run of each part."""

import gzip
import json
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import goldens
import pytest
import torch

from bench.training import run, tables, worker
from gnomon.train.trainer import Trainer


def measured(speeds: list[float], peaks: list[float]) -> list[dict[str, Any]]:
    pairs = zip(speeds, peaks, strict=True)
    return [{"tokens_per_second": speed, "peak_mib": peak, "device_mib": None} for speed, peak in pairs]


def test_only_steps_after_the_warming_up_count() -> None:
    answer = {"tokens": [9, 20, 40], "computed": [9, 40, 60], "marks": [0.0, 5.0, 6.0, 8.0], "losses": [2.0, 1.0, 0.5]}
    answer |= {"start_mib": 1, "peak_mib": 2, "whole_mib": 3, "device_mib": None}
    timed = run.in_steps(answer, 1)
    assert (timed["seconds"], timed["tokens_per_second"], timed["loss"]) == (3.0, 20.0, 2.0)
    assert timed["padding"] == pytest.approx(0.4)
    assert run.in_steps(answer, 0)["tokens_per_second"] == pytest.approx(69 / 8)
    assert run.in_steps(answer | {"computed": []}, 0)["padding"] == 0


def test_gnomon_stands_beside_the_fastest_of_the_others() -> None:
    slow, fast = measured([10, 10], [1, 1]), measured([20, 15], [10, 10])
    found = run.compare({"gnomon": measured([30, 30], [5, 5]), "slow": slow, "fast": fast})
    assert found["beside"] == "fast" and "device_mib" not in found
    assert found["tokens_per_second"] == {"of_medians": 30 / 17.5, "of_rounds": 1.75}
    assert found["peak_mib"] == {"of_medians": 0.5, "of_rounds": 0.5}


def test_mini_batches_are_filled_up_to_their_own_longest_text() -> None:
    mask_BS = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert [int(worker.filled(mask_BS, size)) for size in (None, 2, 1)] == [12, 8 + 2, 7]


def test_a_part_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["models", "--part", "speed,sped"])
    assert "sped: not one of speed, cache, memory" in capsys.readouterr().err
    assert run.parse(["models", "--part", "memory,speed"]).part == ["speed", "memory"]


def test_a_run_is_as_it_was_after_the_watching() -> None:
    step = Trainer.step
    with pytest.raises(KeyError), worker.watched(worker.Seen("cpu")):
        assert Trainer.step is not step
        raise KeyError
    assert Trainer.step is step


def test_the_published_page_holds_the_tables_of_the_published_results(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_all(json.loads(Path(tables.__file__).with_name("results.json").read_text()))
    printed = {line for line in capsys.readouterr().out.splitlines() if "| gnomon" in line}
    assert len(printed) > 5
    assert printed <= {*(run.ROOT / "docs" / "training-speed.md").read_text().splitlines()}


@pytest.fixture
def toy(tmp_path: Path, golden_copy: Callable[..., Path], edit_json: Callable[..., Any]) -> Callable[..., Any]:
    """Runs the program on a small model without dropout; returns the results."""
    draw = random.Random(0)
    for name in run.FILES:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            for at in range(30):
                text = " ".join(draw.choices(("fish", "sea", "boat", "net", "sail"), k=draw.randrange(2, 30)))
                file.write(json.dumps({"anchor": f"{name} {at}", "positive": f"{at} {name} {text}"}) + "\n")
    model = golden_copy(goldens.GIST)
    edit_json(model / "config.json", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})

    def start(*options: str) -> dict[str, Any]:
        files = ["--data", str(tmp_path), "--results", str(tmp_path / "results.json"), "--threads", "1"]
        names = ["--speed-model", model.name, "--cache-model", model.name]
        run.main([str(model.parent), *files, *names, *options])
        return json.loads((tmp_path / "results.json").read_text())["cpu"]

    return start


@pytest.mark.slow
def test_toy_parts_without_a_peer(toy: Callable[..., Any]) -> None:
    curve = toy("--part", "memory", "--memory-batches", "4,16", "--memory-chunk-tokens", "64")["memory"]["curve"]
    assert [row["batch"] for row in curve] == [4, 16]
    assert curve[1]["vectors_mib"] == 4 * curve[0]["vectors_mib"] > 0
    assert all(row["peak_mib"] >= row["start_mib"] > 0 for row in curve)
    assert sum(curve[1]["tokens"]) > sum(curve[0]["tokens"])


def assert_same_tokens_and_loss(part: dict[str, Any], *, steps: int) -> None:
    first_runs = [runs[0] for runs in part["runs"].values()]
    assert {tuple(row["tokens"]) for row in first_runs} == {tuple(first_runs[0]["tokens"])}
    assert len(first_runs[0]["tokens"]) == steps
    assert [row["loss"] for row in first_runs] == pytest.approx([first_runs[0]["loss"]] * len(first_runs), rel=1e-4)


needs_accelerate = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="sentence-transformers' trainer needs accelerate"
)


@pytest.mark.slow
@needs_accelerate
def test_toy_trainers_in_processes_read_the_same_tokens_with_the_same_loss(toy: Callable[..., Any]) -> None:
    speed = toy("--part", "speed", "--batch", "8", "--steps", "3", "--warm", "1", "--rounds", "1")["speed"]
    assert_same_tokens_and_loss(speed, steps=3)
    ours, theirs = (runs[0] for runs in speed["runs"].values())
    assert ours["padding"] == 0 < theirs["padding"]
    assert speed["beside"] == "sentence-transformers"


@pytest.mark.slow
@needs_accelerate
@pytest.mark.filterwarnings("default")
def test_toy_comparisons_read_the_same_tokens_with_the_same_loss(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: each of their own would import the libraries again."""
    monkeypatch.setattr(run, "run_process", lambda command, _: worker.run(worker.Job(**json.loads(command[-1]))))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    sizes = ["--cache-batch", "24", "--cache-rounds", "1", "--mini-batches", "4", "--former-chunk-tokens", "64"]
    sizes += ["--default-batches", "4,8", "--default-length", "32", "--plain-up-to", "4"]
    results = toy("--part", "cache,defaults", *sizes)
    assert_same_tokens_and_loss(results["cache"], steps=1)
    trainers = ["gnomon", "gnomon, chunk_tokens 64", "sentence-transformers, cached"]
    small, large = results["defaults"]["sizes"]
    assert {*small["runs"]} == {*trainers, "sentence-transformers"}
    assert [*large["runs"]] == trainers, "the plain loss takes memory with the batch"
    for size in (small, large):
        assert_same_tokens_and_loss(size, steps=2)
