"""Two ranks against one: the same batches, losses and gradients; and how both end when one fails."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import Ended, in_processes
from runs import Blow, failing, own_end, run, seeds, width, with_evaluate, with_nan
from small_runs import bert, graded, log_of, recipe_of, rows, saved, taught, weights, write

from gnomon.train import checkpoints, train
from gnomon.train.recipe.schema import LoraSettings, LossSettings, MatryoshkaSettings, Recipe, ValidationSettings
from gnomon.train.recipe.toml import to_toml

pytestmark = pytest.mark.slow

STILL = {"dropout": 0.0, "attention_dropout": 0.0, "adam_epsilon": 1e-4}
VARIANTS: dict[str, dict[str, Any]] = {
    "pairs, chunks, held-out rows": {"chunk_tokens": 30, "validation": ValidationSettings(15, steps=5)},
    "triplets, gte, widths, learnt scale, accumulated": {
        "lines": rows(60, negatives=2),
        "loss": LossSettings(directions="gte", learn_scale=True),
        "matryoshka": MatryoshkaSettings((4, 16), n_dims_per_step=1),
        "gradient_accumulation_steps": 2,
    },
    "gist": {"lines": rows(60, negatives=1), "loss": LossSettings("gist", guide="guide", temperature=0.1)},
    "graded": {"lines": graded(60), "loss": LossSettings("cosent")},
    "taught, heads": {
        "lines": taught(60),
        "loss": LossSettings("kl_and_contrast", temperature=0.1),
        "matryoshka": MatryoshkaSettings((8, 12)),
        "model": "heads",
    },
}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Recipe]:
    def recipe(output: str, lines: Any = None, model: str = "plain", **changes: Any) -> Recipe:
        folder = tmp_path / model
        if not folder.exists():
            saved(bert(wide=(12, 8) if model == "heads" else ()), folder)
        loss = changes.get("loss", LossSettings())
        if loss.guide:
            guide = tmp_path / "guide"
            saved(bert(), guide, seed=1) if not guide.exists() else None
            changes["loss"] = replace(loss, guide=str(guide))
        source = write(tmp_path / "rows.jsonl", lines or rows(60))
        return recipe_of(folder, tmp_path / output, source, save_total_limit=99, **changes)

    return recipe


def on_two(recipe: Recipe, function: Callable[..., Any] = run, *args: Any) -> None:
    folder = str(Path(recipe.output) / "model")
    assert in_processes(function, recipe, *args, world=2) == [Ended(folder)] * 2


def path_of(recipe: Recipe, step: int) -> Path:
    return checkpoints.checkpoints_by_step(Path(recipe.output) / "checkpoints")[step]


def gradients(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Of the first step: its moving averages are a tenth of it."""
    tensors = checkpoints.select_prefix(checkpoints.load(path_of(recipe, 1)).tensors, "optimizer.")
    return {name: tensor * 10 for name, tensor in tensors.items() if name.endswith(".exp_avg")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_have_the_gradient_and_the_weights_of_one(variant: str, made: Callable[..., Recipe]) -> None:
    changes = {**STILL, **VARIANTS[variant], "save_steps": 1, "max_grad_norm": 0.0}
    one, two = (made(output, **changes) for output in ("one", "two"))
    train(one, progress=False)
    on_two(two)
    alone, both = gradients(one), gradients(two)
    assert alone.keys() == both.keys()
    length = torch.cat([each.flatten() for each in alone.values()]).norm()
    for name, gradient in alone.items():
        assert (both[name] - gradient).norm() < 1e-5 * length, name
    logs = [log_of(Path(each.output)) for each in (one, two)]
    assert [line["step"] for line in logs[1]] == [*range(1, 11)], "one rank writes"
    for ours, theirs in zip(*logs, strict=True):
        for key in ("source", "rows", "tokens", "learning_rate"):
            assert theirs[key] == ours[key]
        for key in ("loss", "grad_norm"):
            assert theirs[key] == pytest.approx(ours[key], rel=2e-3), key
        if "validation" in ours:
            assert theirs["validation"] == pytest.approx(ours["validation"], abs=0.05)
    assert logs[1][0]["loss"] == pytest.approx(logs[0][0]["loss"], rel=1e-5)
    assert logs[1][0]["grad_norm"] == pytest.approx(logs[0][0]["grad_norm"], rel=1e-5)
    ends = [weights(Path(each.output) / "model") for each in (one, two)]
    start = weights(Path(one.model))
    off, way = (np.concatenate([(ends[0][name] - than[name]).ravel() for name in ends[0]]) for than in (ends[1], start))
    assert np.linalg.norm(off) < 0.01 * np.linalg.norm(way)
    tallies = [
        checkpoints.load(checkpoints.checkpoints_by_step(Path(each.output) / "checkpoints")[10]).facts["tally"]
        for each in (one, two)
    ]
    for key in ("rows", "texts", "tokens", "replaced", "missing", "truncated", "short"):
        assert tallies[0][key] == tallies[1][key], key


def test_the_ranks_have_the_same_weights_all_along(made: Callable[..., Recipe]) -> None:
    """With dropout, and with low-rank parts, whose start is drawn."""
    recipe = made("two", max_steps=4, lora=LoraSettings(), ema_decay=0.9, loss=LossSettings(learn_scale=True))
    zero, one = (ended.value for ended in in_processes(own_end, recipe, world=2))
    assert zero == one
    assert len(zero) > 20


def test_each_rank_and_step_draws_its_own_dropout(made: Callable[..., Recipe]) -> None:
    zero, one = (ended.value for ended in in_processes(seeds, made("two", max_steps=4, chunk_tokens=30), world=2))
    assert len(zero) >= 8
    assert len({*zero, *one}) == len(zero) + len(one)


def test_rank_0_judges(made: Callable[..., Recipe]) -> None:
    recipe = made("two", max_steps=4, validation=ValidationSettings(steps=2))
    on_two(recipe, with_evaluate, width)
    scores = [line["validation"]["evaluate"] for line in log_of(Path(recipe.output)) if "validation" in line]
    assert len({*scores}) == 2
    assert "by 2 processes on CPU" in (Path(recipe.output) / "model" / "README.md").read_text("utf-8")


def test_torchrun_starts_it_too(made: Callable[..., Recipe], tmp_path: Path) -> None:
    """And ends with the bits that ranks started otherwise end with."""
    recipe, other = made("torchrun", max_steps=3), made("other", max_steps=3)
    (tmp_path / "mine.toml").write_text(to_toml(recipe), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gnomon"]
    done = subprocess.run(
        [*command, "train", str(tmp_path / "mine.toml")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    on_two(other)
    found, wanted = (Path(each.output) / "model" / "model.safetensors" for each in (recipe, other))
    assert found.read_bytes() == wanted.read_bytes()


# ---- ranks that fail


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["ValueError", "RuntimeError"])
def test_the_other_ends_with_the_reason(how: str, which: int, made: Callable[..., Recipe]) -> None:
    recipe = made("two", save_steps=2)
    ended = in_processes(run, recipe, False, Blow(how, 3, rank=which), world=2)
    said = {"ValueError": "no such thing", "RuntimeError": "not enough memory"}[how]
    assert ended[which].error == f"{how}: {said}"
    assert ended[1 - which].error == (
        f"WorkerError: rank {which} stopped: {how}: {said}. All ranks have ended. Fix the cause, then use resume=True."
    )
    assert [*checkpoints.checkpoints_by_step(Path(recipe.output) / "checkpoints")] == [2]


def test_a_row_that_cannot_be_used_is_told_by_both(made: Callable[..., Recipe]) -> None:
    """Rank 0 reads the files; the other says what it found there."""
    recipe = made("two")
    path = Path(recipe.sources[0].path[0])
    path.write_text(path.read_text("utf-8") + json.dumps({"query": " ", "positive": "noon"}) + "\n", "utf-8")
    zero, one = in_processes(run, recipe, world=2)
    assert zero.error.startswith("InputError: ")
    assert "line 61" in zero.error
    assert (
        one.error == f"WorkerError: rank 0 stopped: {zero.error.rstrip('.')}. All ranks have ended. "
        "Fix the cause, then use resume=True."
    )


def test_a_function_that_cannot_judge_ends_both(made: Callable[..., Recipe]) -> None:
    zero, one = in_processes(with_evaluate, made("two"), failing, world=2)
    assert zero.error == "RuntimeError: the set is not there"
    assert one.error.startswith("WorkerError: rank 0 stopped: RuntimeError: the set is not there. All ranks")


def test_a_batch_that_ranks_cannot_share_is_refused(made: Callable[..., Recipe]) -> None:
    for ended in in_processes(run, made("two", batch_size=7), world=2):
        assert ended.error.startswith("InputError: batch_size is 7, and 2 ranks share it. It must be a multiple of 2")


def test_a_loss_that_is_nan_ends_both_and_each_saves_its_rows(made: Callable[..., Recipe]) -> None:
    recipe = made("two")
    found: list[Any] = []
    for rank, ended in enumerate(in_processes(with_nan, recipe, 4, world=2)):
        path = Path(recipe.output) / "stopped" / f"step-00000005-rank-{rank}.jsonl"
        assert ended.error.startswith("NumericError: step 5, source 'rows' (8 rows): the loss is nan.")
        assert f"rows are in {path}." in ended.error
        found += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({row["place"] for row in found}) == 8, "the two halves of a batch"


def test_a_killed_rank_ends_the_other(made: Callable[..., Recipe]) -> None:
    for rank in range(2):
        ended = in_processes(run, made(f"two{rank}"), False, Blow("SIGKILL", 3, "behind", rank), world=2)
        assert ended[rank] == Ended(signal=signal.SIGKILL)
        assert ended[1 - rank].error.startswith(f"WorkerError: rank {1 - rank} lost the connection to another rank")
