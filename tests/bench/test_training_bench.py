"""The benches of training and of GIST: arithmetic, planting, counting, pages, and a toy run of each."""

import gzip
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import gist
import training
import training_page
import training_worker

WORDS = st.lists(st.text("abcXYZ", min_size=1, max_size=8), min_size=1, max_size=5).map(" ".join)


def seen(speeds: Sequence[float], peaks: Sequence[float]) -> list[dict[str, Any]]:
    """What `in_steps` tells of some rounds."""
    rows = zip(speeds, peaks, strict=True)
    return [
        {
            "seconds": 100 / speed,
            "tokens_per_second": speed,
            "padding": 0.25,
            "loss": 1.5,
            "tokens": [60, 40],
            "start_mib": 10,
            "peak_mib": peak,
            "whole_mib": peak,
            "device_mib": None,
        }
        for speed, peak in rows
    ]


# ---- training.py: arithmetic


def test_only_steps_behind_the_warming_up_count() -> None:
    told = {"tokens": [9, 20, 40], "computed": [9, 40, 60], "marks": [0.0, 5.0, 6.0, 8.0], "losses": [2.0, 1.0, 0.5]}
    told |= {"start_mib": 1, "peak_mib": 2, "whole_mib": 3, "device_mib": None}
    timed = training.in_steps(told, 1)
    assert (timed["seconds"], timed["tokens_per_second"], timed["loss"]) == (3.0, 20.0, 2.0)
    assert timed["padding"] == pytest.approx(0.4)
    assert training.in_steps(told, 0)["tokens_per_second"] == pytest.approx(69 / 8)
    assert training.in_steps(told | {"computed": []}, 0)["padding"] == 0


def test_ratios_are_of_medians_and_of_rounds() -> None:
    found = training.beside([1.0, 4.0, 3.0], [1.0, 2.0, 6.0])
    assert found == {"of_medians": 3 / 2, "of_rounds": 1.0}


def test_gnomon_stands_beside_the_fastest_of_the_others() -> None:
    runs = {"gnomon": seen([30, 30], [5, 5]), "slow": seen([10, 10], [1, 1]), "fast": seen([20, 15], [10, 10])}
    found = training.compared(runs)
    assert found["beside"] == "fast" and "device_mib" not in found
    assert found["tokens_per_second"] == {"of_medians": 30 / 17.5, "of_rounds": 1.75}
    assert found["peak_mib"] == {"of_medians": 0.5, "of_rounds": 0.5}


def test_vectors_of_queries_and_positives_are_float32() -> None:
    assert training.vectors_mib(28_672, 384) == 84.0


def test_length_facts() -> None:
    told = training.length_facts([*range(1, 12)])
    assert told == {"texts": 11, "mean": 6, "median": 6, "90 %": 10, "lowest": 1, "highest": 11}


def test_a_part_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training.parse(["models", "--part", "speed,sped"])
    assert "sped: not one of speed, cache, memory" in capsys.readouterr().err
    assert training.parse(["models", "--part", "memory,speed", "--device", "cpu"]).part == ("speed", "memory")


def test_mini_batches_are_filled_up_to_their_own_longest_text() -> None:
    mask_BS = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert int(training_worker.filled(mask_BS, None)) == 12
    assert int(training_worker.filled(mask_BS, 2)) == 8 + 2
    assert int(training_worker.filled(mask_BS, 1)) == 7


def test_a_run_is_as_it_was_behind_the_watching() -> None:
    from gnomon.train.loop import Run

    step = Run.step
    with pytest.raises(KeyError), training_worker.watched(training_worker.Seen("cpu")):
        assert Run.step is not step
        raise KeyError
    assert Run.step is step


def test_the_page_says_what_was_measured() -> None:
    runs = {"gnomon": seen([30.0], [500.0]), "sentence-transformers": seen([20.0], [1000.0])}
    told = {"minutes": 1.0, "load_before": 0.5, "measured": "today", "threads": 1, "machine": "an abacus"}
    part = {
        "model": "M",
        "batch": 64,
        "steps": 3,
        "warm": 1,
        "lengths": training.length_facts([3, 4, 256]),
        "runs": runs,
    }
    curve = [
        {**seen([10.0], [peak])[0], "batch": size, "vectors_mib": size / 4} for size, peak in ((4, 90), (16, 99.6))
    ]
    results = {
        "cpu": {
            "device": {"kind": "cpu", "name": "CPU", "cores": 2},
            "python": "3",
            "versions": {"torch": "2"},
            "speed": part | told | training.compared(runs),
            "memory": told | {"model": "M", "chunk_tokens": 4096, "length": 32, "curve": curve},
        }
    }
    page = "\n".join(training_page.page(results))
    assert (
        "## CPU, 2 cores\n" in page
        and "today on an abacus, with 1 thread, " in page
        and "3 steps in a process, the last 2 timed" in page
    )
    assert "Texts of 3 to 256 tokens" in page
    assert "tokens a second 1.50 (1.50), peak memory 0.50 (0.50)" in page
    assert "| 16 | 100 | 10.0 | 100 | 10 | 4.0 | 3.0 |" in page
    assert "on the GPU" not in page.partition("## CPU")[2]


# ---- gist.py: planting


@given(front=WORDS, back=WORDS)
def test_swapped_twice_is_the_query(front: str, back: str) -> None:
    assert gist.swapped(gist.swapped(f"{front}: {back}")) == f"{front}: {back}"


@given(front=WORDS, back=WORDS, body=st.lists(WORDS, min_size=1, max_size=6))
def test_copies_of_a_row_are_all_different(front: str, back: str, body: list[str]) -> None:
    row = {"anchor": f"{front}: {back}", "positive": " ".join(f"{text}." for text in body)}
    if not gist.can_be_copied(row):
        return
    rows = gist.plant([row], 1)
    assert [each["same_as"] for each in rows] == ["0"] * 4
    assert [bool(each["query_rule"]) for each in rows] == [False, True, True, True]
    for key in ("anchor", "positive", "query_rule", "positive_rule"):
        assert len({each[key] for each in rows}) == 4, key


def test_a_share_of_the_rows_is_copies(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.writelines(
            json.dumps({"anchor": f"Part {at}: Section", "positive": f"One {at}. Two {at}. Three {at}."}) + "\n"
            for at in range(50)
        )
    rows = gist.planted_rows(file, 40, 0.3)
    assert len(rows) == 40 and sum(bool(row["query_rule"]) for row in rows) == 12
    assert rows == gist.planted_rows(file, 40, 0.3)
    assert len({row["anchor"] for row in rows}) == 40


# ---- gist.py: counting


def test_masked_candidates_are_counted_by_block() -> None:
    """Two rows that say the same and one that does not; the guide finds the first document nearer to both queries."""
    queries_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    positives_BD = torch.tensor([[1.0, 0.1], [1.0, 0.5], [0.0, 1.0]])
    rows = [
        {"same_as": "0", "query_rule": "", "positive_rule": ""},
        {"same_as": "0", "query_rule": "lower case", "positive_rule": "first sentence last"},
        {"same_as": "2", "query_rule": "", "positive_rule": ""},
    ]
    batch: Any = type("Batch", (), {"rows_B": np.arange(3)})
    guided = gist.Guided(rows=[batch], vectors=[(queries_BD, positives_BD, None)])
    documents, queries, positives = gist.masked(guided, rows, 0.0)
    assert (documents.planted, documents.planted_masked, documents.others, documents.others_masked) == (2, 1, 4, 0)
    assert (queries.planted, queries.planted_masked, queries.others_masked) == (2, 2, 0)
    assert (positives.planted, positives.planted_masked) == (2, 1)
    assert documents.by_rule["lower case"] == documents.by_rule["first sentence last"] == (2, 1)
    assert documents.by_rule["as a question"] == (0, 0)
    assert gist.masked(guided, rows, 0.2)[0].planted_masked == 2
    json.dumps([each.told() for each in (documents, queries, positives)])


def test_reciprocal_ranks() -> None:
    queries_BD = np.eye(3)
    documents_BD = np.array([[2.0, 0.0, 0.0], [0.0, 0.1, 3.0], [0.0, 0.0, 1.0]])
    assert gist.reciprocal_ranks(queries_BD, documents_BD).tolist() == [1.0, 1.0, 1.0]
    assert gist.reciprocal_ranks(queries_BD[[0, 2, 2]], documents_BD).tolist() == [1.0, 0.5, 1.0]
    far = np.ones((12, 1)) * [[0.0, 1.0]] + np.eye(12, 2)[::-1]
    assert gist.reciprocal_ranks(np.tile([1.0, 0.0], (12, 1)), far)[0] == 0.0, "behind the tenth"


def test_forwards_of_the_guide_are_counted_where_its_engine_runs_them() -> None:
    encoder = goldens.load(goldens.GIST)
    guided = gist.Guided(forwards=[0])
    whole = encoder.engine.pool_each
    gist.count_forwards(encoder.engine, guided)
    try:
        encoder.encode(["one", "two", "one", "three"])
    finally:
        del encoder.engine.pool_each
    assert encoder.engine.pool_each == whole
    assert guided.forwards == [3], "equal texts are encoded once"


# ---- toy runs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw = random.Random(0)
    for name in training.FILES:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            for at in range(30):
                text = " ".join(draw.choices(("fish", "sea", "boat", "net", "sail"), k=draw.randrange(2, 30)))
                file.write(
                    json.dumps({"anchor": f"{name} {at}", "positive": f"{at} {name} {text}", "lang": "en"}) + "\n"
                )
    return tmp_path


@pytest.fixture
def toy(data: Path, golden_copy: Callable[..., Path], edit_json: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Runs the program on a small model without dropout; returns the results."""
    model = golden_copy(goldens.GIST)
    edit_json(model / "config.json", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    written = ["--data", str(data), "--results", str(data / "training.json"), "--page", str(data / "page.md")]
    models = ["--speed-model", model.name, "--cache-model", model.name]

    def run(*options: str) -> dict[str, Any]:
        training.main([str(model.parent), "--device", "cpu", "--threads", "1", *models, *written, *options])
        assert (data / "page.md").read_text().startswith("# Training: speed and memory")
        return json.loads((data / "training.json").read_text())["cpu"]

    return run


@pytest.mark.slow
def test_a_toy_memory_curve(toy: Callable[..., dict[str, Any]]) -> None:
    curve = toy("--part", "memory", "--batches", "4,16", "--memory-chunk-tokens", "64")["memory"]["curve"]
    assert [row["batch"] for row in curve] == [4, 16]
    assert curve[1]["vectors_mib"] == 4 * curve[0]["vectors_mib"] > 0
    assert all(row["peak_mib"] >= row["start_mib"] > 0 for row in curve)
    assert sum(curve[1]["tokens"]) > sum(curve[0]["tokens"])


@pytest.mark.slow
def test_toy_defaults_are_measured_by_batch_with_each_trainer(toy: Callable[..., dict[str, Any]], data: Path) -> None:
    pytest.importorskip("accelerate", reason="sentence-transformers' trainer needs accelerate")
    sizes = ["--default-batches", "4,8", "--default-steps", "2", "--default-length", "32", "--plain-up-to", "4"]
    found = toy("--part", "defaults", "--former-chunk-tokens", "64", *sizes)["defaults"]
    small, large = found["sizes"]
    ours = ["gnomon", "gnomon, chunk_tokens 64"]
    assert [*small["runs"]] == [*ours, "sentence-transformers", "sentence-transformers, cached"]
    assert [*large["runs"]] == [*ours, "sentence-transformers, cached"], "its plain loss takes memory with the batch"
    for size in (small, large):
        losses = [runs[0]["loss"] for runs in size["runs"].values()]
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-4)
        assert len({tuple(runs[0]["tokens"]) for runs in size["runs"].values()}) == 1
        assert all(runs[0]["peak_mib"] > 0 for runs in size["runs"].values())
    rows = [line for line in (data / "page.md").read_text().split("\n") if line.startswith(("| 4 |", "| 8 |"))]
    assert [line.split(" | ")[1] for line in rows] == [*small["runs"], *large["runs"]]


@pytest.mark.slow
def test_toy_comparisons_see_the_same_tokens_and_the_same_loss(toy: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("accelerate", reason="sentence-transformers' trainer needs accelerate")
    sizes = ["--batch", "8", "--steps", "3", "--warm", "1", "--rounds", "1"]
    sizes += ["--cache-batch", "24", "--cache-rounds", "1", "--mini-batches", "4"]
    found = toy("--part", "speed,cache", *sizes)
    for part, steps in ((found["speed"], 3), (found["cache"], 1)):
        ours, theirs = (rounds[0] for rounds in part["runs"].values())
        assert ours["tokens"] == theirs["tokens"] and len(ours["tokens"]) == steps
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["padding"] == 0 < theirs["padding"]
        assert part["beside"].startswith("sentence-transformers")
