"""The contract between the trainer and an objective: one that is not contrastive runs through the same trainer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import bert, log_of, recipe_of, rows, saved, weights, write
from torch import Tensor, nn

from gnomon import Encoder
from gnomon.errors import InputError, NumericError
from gnomon.packed import pack
from gnomon.train import checkpoints
from gnomon.train.model import Model
from gnomon.train.objectives.objective import FactChanges, RunFacts, TrainingContext
from gnomon.train.recipe.schema import Recipe, ValidationSettings
from gnomon.train.trainer import Trainer, run_training

STEPS = 12


class FixedVectors:
    """Mean squared error between a scaled vector of a word and a fixed random vector. It reads no source."""

    prefetch_depth, has_validation, parameters_learning_rate, data_summary = 2, True, 1e-2, "four words"
    zero_gradient_hint, not_finite_hint = "The vectors may be equal.", "Check the vectors."

    def __init__(self, context: TrainingContext, *, seed: int = 0) -> None:
        self.recipe, self.spec, self.total_steps, self.seed = context.recipe, context.base.spec, STEPS, seed
        self.ids = context.tokenizer.encode(["noon", "light", "wall", "garden"])
        rng = np.random.default_rng(seed)
        self.targets = torch.from_numpy(rng.normal(size=(4, self.spec.full_dim))).float()
        self.scale, self.batches = nn.Parameter(torch.ones(())), 0

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"loss.scale": self.scale}

    def batch_at(self, number: int) -> list[int]:
        return [number % 4, (number + 1) % 4]

    def training_step(self, model: Model, batch: list[int]) -> float:
        torch.manual_seed(batch[0])
        pooled = model(pack([self.ids[number] for number in batch]))
        (vectors,) = model.apply_modules(pooled).values()
        loss = (self.scale * vectors - self.targets[batch]).square().mean()
        loss.backward()
        return loss.item()

    def after_update(self) -> None:
        with torch.no_grad():
            self.scale.clamp_(max=1.5)

    def record(self, batches: Sequence[list[int]], *, seconds: float) -> dict[str, Any]:
        self.batches += len(batches)
        return {"batches": self.batches}

    def validate(self, model: Model) -> dict[str, float]:
        return {"scale": float(self.scale.detach())}

    def describe(self, batches: Sequence[list[int]]) -> str:
        return f"words {batches}"

    def to_records(self, batch: list[int]) -> Iterator[dict[str, Any]]:
        return ({"word": number} for number in batch)

    def facts(self) -> dict[str, Any]:
        return {"seed of the vectors": self.seed}

    def compare(self, saved: Mapping[str, Any]) -> FactChanges:
        changed = saved["seed of the vectors"] != self.seed
        return FactChanges([f"seed of the vectors: was {saved['seed of the vectors']}"] if changed else [])

    def counters(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def to_tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        self.batches = counters["batches"]

    def model_card(self, run: RunFacts) -> str:
        return f"# fixed vectors\n\n{run.total_steps} steps, first loss {run.counters.first_loss:.4f}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    source = write(tmp_path / "rows.jsonl", rows(10))
    validation = ValidationSettings(steps=4, keep_best=False)
    base = saved(bert(), tmp_path / "base")
    changes = {"save_steps": 4, "validation": validation, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
    return recipe_of(base, tmp_path / "out", source, **changes)


def run(recipe: Recipe, objective: Any = FixedVectors, *, resume: bool = False) -> Path:
    return run_training(recipe, objective, resume=resume, overwrite=False, progress=False, evaluate=None)


def test_an_objective_that_is_not_contrastive_trains_a_model(recipe: Recipe) -> None:
    folder = run(recipe)
    log = log_of(Path(recipe.output))
    assert [line["step"] for line in log] == [*range(1, STEPS + 1)]
    losses = [line["loss"] for line in log]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.01
    assert log[-1]["batches"] == 2 * STEPS
    assert [line["step"] for line in log if "validation" in line] == [4, 8, 12]
    first_line = (Path(recipe.output) / "log.jsonl").read_text("utf-8").partition("\n")[0]
    assert json.loads(first_line) == {"step": 0, "validation": {"scale": 1.0}}, "it is there before the first step"
    assert not (Path(recipe.output) / "stopped").exists()
    assert Encoder.load(folder).name == Path(recipe.output).name == "out"
    card = (folder / "README.md").read_text("utf-8")
    assert card.endswith(f"{STEPS} steps, first loss {log[0]['loss']:.4f}\n")
    before, after = (Encoder.load(each).encode("noon") for each in (recipe.model, folder))
    assert np.abs(before - after).max() > 1e-3
    state = checkpoints.load(Path(recipe.output) / "checkpoints" / f"step-{STEPS:08}")
    assert state.tensors["loss.scale"] != 1
    assert state.facts["seed of the vectors"] == 0
    assert (state.facts["tally"]["batches"], state.facts["tally"]["first_loss"]) == (2 * STEPS, log[0]["loss"])


def test_its_run_resumes_to_the_same_weights(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights(run(replace(recipe, output=str(tmp_path / "whole"))))
    step = Trainer.step

    def stops(self: Trainer, number: int, prefetched: Any) -> dict[str, Any]:
        if number == 6:
            raise RuntimeError("stopped")
        return step(self, number, prefetched)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(Trainer, "step", stops)
        run(recipe)
    with pytest.raises(InputError, match="seed of the vectors: was 0"):
        run(recipe, lambda context: FixedVectors(context, seed=1), resume=True)
    resumed = weights(run(recipe, resume=True))
    assert all(np.array_equal(array, resumed[name]) for name, array in whole.items())
    tally = checkpoints.load(Path(recipe.output) / "checkpoints" / f"step-{STEPS:08}").facts["tally"]
    assert tally["batches"] == 2 * STEPS


def test_a_loss_that_is_not_finite_names_its_batch(recipe: Recipe) -> None:
    class Broken(FixedVectors):
        def training_step(self, model: Model, batch: list[int]) -> float:
            return super().training_step(model, batch) * float("nan")

    with pytest.raises(NumericError, match=r"step 1, words \[\[0, 1\], \[1, 2\]\]: the loss is nan.*Check the vectors"):
        run(recipe, Broken)
    (path,) = (Path(recipe.output) / "stopped").iterdir()
    assert [json.loads(line)["word"] for line in path.read_text("utf-8").splitlines()] == [0, 1, 1, 2]


def test_the_trainer_imports_nothing_that_knows_a_query() -> None:
    """Neither data nor losses: what it imports of training says so by the names of its modules."""
    import gnomon.train.trainer as module

    source = Path(module.__file__).read_text("utf-8")
    for name in ("contrastive", "gradcache", "teacher", "collate", "sampler", "prepare", "prompts", "model_card"):
        assert f"{name} import" not in source, name
    assert asdict(FactChanges()) == {"conflicts": (), "rounding": (), "renamed_scores": {}}
