"""The benchmark of training: arithmetic, and a toy run of each part."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
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
    answer |= {"peak_mib": 2, "device_mib": None}
    timed = run.in_steps(answer, 1)
    assert (timed["seconds"], timed["tokens_per_second"], timed["loss"]) == (3.0, 20.0, 2.0)
    assert timed["padding"] == pytest.approx(0.4)
    assert run.in_steps(answer, 0)["tokens_per_second"] == pytest.approx(69 / 8)
    assert run.in_steps(answer | {"computed": []}, 0)["padding"] == 0


def test_gnomon_stands_beside_the_fastest_of_the_others() -> None:
    slow, fast = measured([10, 10], [1, 1]), measured([20, 15], [10, 10])
    beside, ratios = tables.compare({"gnomon": measured([30, 30], [5, 5]), "slow": slow, "fast": fast})
    assert beside == "fast"
    assert ratios == {"tokens_per_second": (30 / 17.5, 1.75), "peak_mib": (0.5, 0.5)}


def test_mini_batches_are_filled_up_to_their_own_longest_text() -> None:
    mask_BS = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert [int(worker.filled(mask_BS, size)) for size in (None, 2, 1)] == [12, 8 + 2, 7]


def test_a_part_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["models", "--part", "speed", "sped"])
    message = capsys.readouterr().err
    assert "'sped'" in message and "cache" in message
    assert run.parse(["models", "--part", "memory", "speed"]).part == ["memory", "speed"]


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
    assert printed <= {*(run.ROOT / "docs" / "records" / "training-speed.md").read_text().splitlines()}


@pytest.fixture
def toy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden_copy: Callable[..., Path],
    edit_json: Callable[..., Any],
) -> Callable[..., Any]:
    """Runs parts of the program on a small model without dropout; returns the results."""
    draw = random.Random(0)
    for name in run.FILES:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            for at in range(30):
                text = " ".join(draw.choices(("fish", "sea", "boat", "net", "sail"), k=draw.randrange(2, 30)))
                file.write(json.dumps({"anchor": f"{name} {at}", "positive": f"{at} {name} {text}"}) + "\n")
    model = golden_copy(goldens.GIST)
    edit_json(model / "config.json", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})

    def start(**parts: run.Part) -> dict[str, Any]:
        small = {name: replace(part, ours=replace(part.ours, model=model.name)) for name, part in parts.items()}
        monkeypatch.setattr(run, "PARTS", small)
        files = ["--data", str(tmp_path), "--results", str(tmp_path / "results.json"), "--threads", "1"]
        run.main([str(model.parent), *files])
        return json.loads((tmp_path / "results.json").read_text())["cpu"]

    return start


@pytest.mark.slow
def test_toy_parts_without_a_peer(toy: Callable[..., Any]) -> None:
    part = replace(run.PARTS["memory"], ours=replace(run.PARTS["memory"].ours, chunk_tokens=64), batches=(4, 16))
    sizes = toy(memory=part)["memory"]["sizes"]
    assert [size["batch"] for size in sizes] == [4, 16]
    assert sizes[1]["vectors_mib"] == 4 * sizes[0]["vectors_mib"] > 0
    small, large = (size["runs"]["gnomon"][0] for size in sizes)
    assert small["peak_mib"] > 0 and large["peak_mib"] > 0
    assert sum(large["tokens"]) > sum(small["tokens"])


def assert_same_tokens_and_loss(size: dict[str, Any], *, steps: int) -> None:
    first_runs = [runs[0] for runs in size["runs"].values()]
    assert {tuple(row["tokens"]) for row in first_runs} == {tuple(first_runs[0]["tokens"])}
    assert len(first_runs[0]["tokens"]) == steps
    assert [row["loss"] for row in first_runs] == pytest.approx([first_runs[0]["loss"]] * len(first_runs), rel=1e-4)


needs_accelerate = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="sentence-transformers' trainer needs accelerate"
)


@pytest.mark.slow
@needs_accelerate
def test_toy_trainers_in_processes_read_the_same_tokens_with_the_same_loss(toy: Callable[..., Any]) -> None:
    part = run.PARTS["speed"]
    part = replace(part, ours=replace(part.ours, steps=3, warm=1), batches=(8,), rounds=1)
    (size,) = toy(speed=part)["speed"]["sizes"]
    assert_same_tokens_and_loss(size, steps=3)
    ours, theirs = (runs[0] for runs in size["runs"].values())
    assert ours["padding"] == 0 < theirs["padding"]
    assert tables.compare(size["runs"])[0] == "sentence-transformers"


@pytest.mark.slow
@needs_accelerate
@pytest.mark.filterwarnings("default")
def test_toy_comparisons_read_the_same_tokens_with_the_same_loss(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: each of their own would import the libraries again."""
    monkeypatch.setattr(run, "run_process", lambda command, _: worker.run(worker.Job(**json.loads(command[-1]))))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr(run, "PLAIN_UP_TO", 4)
    former, cached = {"gnomon, chunk_tokens 64": {"chunk_tokens": 64}}, run.CACHED | {"mini_batch": 4}
    others = {**former, "sentence-transformers": run.THEIRS, "sentence-transformers, cached": cached}
    defaults = replace(run.PARTS["defaults"], batches=(4, 8), others=others)
    defaults = replace(defaults, ours=replace(defaults.ours, length=32))
    cache = replace(run.PARTS["cache"], batches=(24,), others={"sentence-transformers, mini_batch_size 4": cached})
    results = toy(cache=cache, defaults=defaults)
    assert_same_tokens_and_loss(results["cache"]["sizes"][0], steps=1)
    trainers = ["gnomon", *former, "sentence-transformers, cached"]
    small, large = results["defaults"]["sizes"]
    assert {*small["runs"]} == {*trainers, "sentence-transformers"}
    assert [*large["runs"]] == trainers, "the plain loss takes memory with the batch"
    for size in (small, large):
        assert_same_tokens_and_loss(size, steps=2)
