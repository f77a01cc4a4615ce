"""A run that is killed and goes on ends where it would have ended, to the bit; and what does not go on is told."""

import random
import re
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import assert_same
from rank_processes import Ended, in_process, in_processes
from runs import Blow, digests, run
from small_runs import bert, log_of, recipe_of, rows, saved, static, taught, weights, write

from gnomon.errors import InputError, Notice
from gnomon.train import checkpoints, train
from gnomon.train.recipe.schema import LoraSettings, LossSettings, MatryoshkaSettings, Recipe, ValidationSettings
from gnomon.train.recipe.toml import read

pytestmark = pytest.mark.slow

STEPS, SAVED = 12, 4
TOLD = ("step", "loss", "grad_norm", "learning_rate", "batch", "source", "tokens", "scale", "validation")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain, with dropout": {},
    "average, blend, learnt scale": {
        "ema_decay": 0.8,
        "base_weight": 0.3,
        "loss": LossSettings(learn_scale=True),
        "chunk_tokens": 40,
        "warmup_ratio": 0.3,
        "lr_scheduler_type": "cosine",
    },
    "two sources, accumulated, widths drawn": {
        "gradient_accumulation_steps": 2,
        "matryoshka": MatryoshkaSettings((4, 8, 16), n_dims_per_step=1),
        "group_by_length": True,
    },
    "low rank, frozen, checkpointed": {
        "lora": LoraSettings(dropout=0.2),
        "freeze": ("layers.1.query.lora_b",),
        "gradient_checkpointing": True,
    },
    "best of held-out rows": {"validation": ValidationSettings(10, steps=3), "save_total_limit": 1},
    "bf16, a teacher": {"bf16": True, "loss": LossSettings("kl_and_contrast", temperature=0.1)},
    "learns from a model": {"loss": LossSettings("kl_and_contrast", teacher="bert", temperature=0.1)},
    "static": {"model": "static"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the models."""
    made = tmp_path_factory.mktemp("runs")
    saved(bert(), made / "bert")
    saved(static(), made / "static")
    return made


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Callable[..., Recipe]:
    """A variant with an output of its own."""
    models = {name: folder / name for name in ("bert", "static")}
    pairs = write(folder / "pairs.jsonl", rows(90))
    triplets = replace(write(folder / "triplets.jsonl", rows(60, negatives=3, seed=1)), num_negatives=2)
    scored = replace(write(folder / "scored.jsonl", taught(60)), num_negatives=1)

    def made(variant: str, output: str, **more: Any) -> Recipe:
        changes = {"max_steps": STEPS, "save_steps": SAVED, **VARIANTS[variant], **more}
        sources = [pairs]
        if "two sources" in variant:
            sources = [replace(pairs, weight=2.0), replace(triplets, weight=1.0)]
        elif "teacher" in variant:
            sources = [scored]
        if (loss := changes.get("loss", LossSettings())).teacher:
            changes["loss"] = replace(loss, teacher=str(models[loss.teacher]))
        model = models[changes.pop("model", "bert")]
        where = folder / f"{variant} {output}".replace(" ", "-").replace(",", "")
        return recipe_of(model, where, *sources, **changes)

    return made


def story(recipe: Recipe) -> list[dict[str, Any]]:
    """What the log says, but for times."""
    return [{key: line.get(key) for key in TOLD} for line in log_of(Path(recipe.output))]


def assert_same_end(found: Recipe, wanted: Recipe) -> None:
    """The same bits: the model, the log's losses and batches, and all that the last checkpoint holds."""
    ours, theirs = (Path(each.output) for each in (found, wanted))
    for path in (theirs / "model").rglob("*.safetensors"):
        assert (ours / path.relative_to(theirs)).read_bytes() == path.read_bytes()
    assert story(found) == story(wanted)
    one, other = (
        checkpoints.load(checkpoints.checkpoints_by_step(each / "checkpoints")[STEPS]) for each in (ours, theirs)
    )
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert np.array_equal(tensor.float().numpy(), other.tensors[name].float().numpy()), name
    tallies = [state.facts["tally"] | {"seconds": 0} for state in (one, other)]
    assert tallies[0] == tallies[1]
    assert one.facts["best"] == other.facts["best"]


def go(recipe: Recipe, *, world: int, resume: bool = False) -> None:
    """A run in processes of its own, to its end."""
    assert in_processes(run, recipe, resume, world=world) == [Ended(str(Path(recipe.output) / "model"))] * world


def blows(variant: str) -> list[Blow]:
    """Three kills at random steps, later and later, each at another place."""
    draw = random.Random(variant)
    steps, places = draw.sample(range(SAVED, STEPS), 3), ("before", "behind", "within")
    each = [(step, place) for step, place in zip(steps, places, strict=True)]
    each[2] = (each[2][0] // SAVED * SAVED + SAVED - 1, "within")  # a step that is saved
    return [Blow("SIGKILL", step, place) for step, place in sorted(each)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_again_and_again_it_ends_with_the_same_bits(variant: str, recipe: Callable[..., Recipe]) -> None:
    wanted, found = recipe(variant, "whole"), recipe(variant, "killed")
    train(wanted, progress=False)
    for turn, blow in enumerate(blows(variant)):
        assert in_process(run, found, turn > 0, blow) == Ended(signal=signal.SIGKILL), blow
        assert checkpoints.latest(Path(found.output) / "checkpoints"), blow
    go(found, world=1, resume=True)
    assert_same_end(found, wanted)


@pytest.mark.parametrize(
    "variant",
    [
        "plain, with dropout",
        "average, blend, learnt scale",
        "two sources, accumulated, widths drawn",
        "learns from a model",
    ],
)
def test_two_ranks_killed_end_with_the_same_bits(variant: str, recipe: Callable[..., Recipe]) -> None:
    """One rank is killed; the other ends by itself, with what happened."""
    wanted, found = recipe(variant, "whole on two"), recipe(variant, "killed on two")
    go(wanted, world=2)
    for turn, blow in enumerate(blows(variant)[:2]):
        rank = 0 if blow.place == "within" else turn % 2
        ended = in_processes(run, found, turn > 0, replace(blow, rank=rank), world=2)
        assert ended[rank] == Ended(signal=signal.SIGKILL), blow
        assert "lost the connection to another rank, which ended without a word" in ended[1 - rank].error
    go(found, world=2, resume=True)
    assert_same_end(found, wanted)


def test_the_next_batches_are_the_same_in_a_fresh_process(recipe: Callable[..., Recipe]) -> None:
    """Of two sources; on two ranks each batch's halves are those of the whole."""
    one = recipe("two sources, accumulated, widths drawn", "batches")
    here = digests(one, 7, 100)
    assert len({*here}) == 100
    assert in_process(digests, one, 7, 100).value == here
    assert in_process(digests, one, 57, 50).value == here[50:]
    for rank in range(2):
        assert in_process(digests, one, 7, 100, rank, 2).value == digests(one, 7, 100, rank, 2)


@pytest.mark.parametrize(("signal_", "error"), [("SIGINT", "KeyboardInterrupt: "), ("SIGTERM", "SystemExit: 143")])
def test_c9_a_signal_to_one_rank_stops_both_behind_a_checkpoint(
    signal_: str, error: str, recipe: Callable[..., Recipe]
) -> None:
    wanted, found = (recipe("plain, with dropout", f"{name} on two {signal_}") for name in ("whole", "stopped"))
    go(wanted, world=2)
    ended = in_processes(run, found, False, Blow(signal_, 5, rank=1), world=2)
    assert [each.error for each in ended] == [error] * 2
    assert [*checkpoints.checkpoints_by_step(Path(found.output) / "checkpoints")] == [4, 6]
    go(found, world=2, resume=True)
    assert_same_end(found, wanted)


# ---- what does not go on


@pytest.fixture
def stopped(folder: Path, tmp_path: Path) -> Recipe:
    """A run of four steps of six, with files of its own."""
    model = shutil.copytree(folder / "bert", tmp_path / "bert")
    source = replace(write(tmp_path / "pairs.jsonl", rows(60)), name="pairs")
    one = recipe_of(model, tmp_path / "out", source, max_steps=6, save_steps=2, dropout=0.0, attention_dropout=0.0)
    train(one, progress=False)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "out" / "model")
    return one


def test_another_recipe_is_refused_with_what_differs(stopped: Recipe) -> None:
    other = replace(stopped, learning_rate=2e-3, loss=LossSettings(scale=10.0), seed=43)
    with pytest.raises(InputError) as raised:
        train(other, progress=False, resume=True)
    message = str(raised.value)
    assert message.startswith(f"{Path(stopped.output) / 'checkpoints' / 'step-00000004'} is of another run: ")
    for difference in (
        "learning_rate: was 0.001, is 0.002",
        "loss.scale: was None, is 10.0",
        "seed: was 42, is 43",
    ):
        assert difference in message
    assert "overwrite=True" in message
    assert "model" not in message.partition(" is of another run: ")[2]
    assert train(stopped, progress=False, resume=True)


@pytest.mark.parametrize("how", ["moved", "relative", "link"])
def test_c10_the_base_model_may_lie_elsewhere(
    how: str, stopped: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known by its fingerprint; the recipe in the output then says where it was last."""
    whole = replace(stopped, output=str(tmp_path / "whole"))
    wanted = (train(whole, progress=False) / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "elsewhere"
    place.symlink_to(stopped.model) if how == "link" else Path(stopped.model).rename(place)
    moved = replace(stopped, model="elsewhere" if how == "relative" else str(place))
    assert (train(moved, progress=False, resume=True) / "model.safetensors").read_bytes() == wanted
    assert read(Path(stopped.output) / "recipe.toml") == moved


def test_c10_a_teacher_may_lie_elsewhere(tmp_path: Path) -> None:
    model, teacher = saved(bert(), tmp_path / "bert"), saved(bert(), tmp_path / "teacher", seed=3)
    loss = LossSettings("cosine_distillation", teacher=str(teacher))
    one = recipe_of(model, tmp_path / "out", write(tmp_path / "pairs.jsonl", rows(60)), loss=loss)
    one = replace(one, max_steps=4, save_steps=2)
    wanted = (train(one, progress=False) / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000004")
    moved = replace(one, loss=replace(loss, teacher=str(teacher.rename(tmp_path / "moved"))))
    assert (train(moved, progress=False, resume=True) / "model.safetensors").read_bytes() == wanted
    other = replace(loss, teacher=str(saved(bert(), tmp_path / "other", seed=4)))
    with pytest.raises(InputError, match="is of another run: guide or teacher: was"):
        train(replace(one, loss=other), progress=False, resume=True)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 9}, "max_seq_length: was 20, is 9"),
        ("config.json", {"hidden_dropout_prob": 0.3}, r"dropout: was \[0.1, 0.1\], is \[0.3, 0.1\]"),
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}, "prompts: was {}, is {'query': 'q: '}"),
    ],
)
def test_c10_what_is_no_part_of_the_fingerprint_is_compared_too(
    file: str, changes: dict[str, Any], message: str, stopped: Recipe, edit_json: Callable[..., Any]
) -> None:
    edit_json(Path(stopped.model) / file, changes)
    with pytest.raises(InputError, match=rf"is of another run: .*the model's {message}"):
        train(stopped, progress=False, resume=True)


def test_another_model_is_refused(stopped: Recipe) -> None:
    saved(bert(), Path(stopped.model).parent / "other", seed=5)
    shutil.rmtree(stopped.model)
    (Path(stopped.model).parent / "other").rename(stopped.model)
    with pytest.raises(
        InputError, match=r"is of another run: model: its weights or tokenizer were \w{12}, are \w{12}\."
    ):
        train(stopped, progress=False, resume=True)


@pytest.mark.parametrize("changed", [rows(60, seed=3), rows(61), rows(59)], ids=["others", "one more", "one fewer"])
def test_other_data_are_refused(changed: list[dict[str, Any]], stopped: Recipe) -> None:
    write(Path(stopped.sources[0].path[0]), changed)
    with pytest.raises(
        InputError, match=r"is of another run: source 'pairs': its rows differ\. Resume with what it was"
    ):
        train(stopped, progress=False, resume=True)


@pytest.mark.parametrize("name", ["pairs", ""])
def test_data_that_were_moved_are_the_same(name: str, tmp_path: Path, folder: Path) -> None:
    """Also where the source is called after its file."""
    source = replace(write(tmp_path / "pairs.jsonl", rows(60)), name=name)
    one = recipe_of(folder / "bert", tmp_path / "out", source, max_steps=4, save_steps=2)
    wanted = (train(one, progress=False) / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000004")
    there = Path(source.path[0]).rename(tmp_path / "moved.jsonl")
    moved = replace(one, sources=(replace(source, path=(str(there),)),))
    assert (train(moved, progress=False, resume=True) / "model.safetensors").read_bytes() == wanted


def test_c10_the_card_has_the_score_before_under_the_new_name_of_the_file(tmp_path: Path, folder: Path) -> None:
    """Of two sources that are called after their files, in one order; one file is renamed."""
    sources = tuple(
        replace(write(tmp_path / f"{name}.jsonl", rows(40, seed=at)), name="") for at, name in enumerate("ab")
    )
    validation = ValidationSettings(8, keep_best=False)
    one = recipe_of(folder / "bert", tmp_path / "out", *sources, max_steps=4, save_steps=2, validation=validation)
    card = (train(one, progress=False) / "README.md").read_text("utf-8")
    wanted = re.findall(r"^\| [ab] \| (0\.\d+) \| (0\.\d+) \|$", card, re.MULTILINE)
    assert len(wanted) == 2
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000004")
    there = (tmp_path / "b.jsonl").rename(tmp_path / "moved.jsonl")
    moved = replace(one, sources=(sources[0], replace(sources[1], path=(str(there),))))
    card = (train(moved, progress=False, resume=True) / "README.md").read_text("utf-8")
    assert re.findall(r"^\| (?:a|moved) \| (0\.\d+) \| (0\.\d+) \|$", card, re.MULTILINE) == wanted


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_best_checkpoint_that_is_gone_is_told_of_where_it_matters(
    keep_best: bool, tmp_path: Path, folder: Path
) -> None:
    source = write(tmp_path / "pairs.jsonl", rows(40))
    validation = ValidationSettings(8, steps=1, keep_best=keep_best)
    one = recipe_of(folder / "bert", tmp_path / "out", source, max_steps=4, save_steps=2, validation=validation)
    scores = iter([0.0, 1.0, 0.5, 0.5, 0.5])
    train(one, progress=False, evaluate=lambda _: next(scores))
    for step in (1, 4):
        shutil.rmtree(tmp_path / "out" / "checkpoints" / f"step-{step:08}", ignore_errors=True)
    with warnings.catch_warnings(record=True, action="always") as caught:
        train(one, progress=False, resume=True, evaluate=lambda _: 0.5)
    messages = [str(each.message) for each in caught]
    assert len(messages) == keep_best
    assert all(re.search("best checkpoint, of step 1, is gone", message) for message in messages)


def test_what_changes_no_weight_may_change(stopped: Recipe, tmp_path: Path) -> None:
    whole = replace(stopped, output=str(tmp_path / "whole"))
    wanted = weights(train(whole, progress=False))
    other = replace(stopped, save_steps=1, logging_steps=2, save_total_limit=9)
    found = weights(train(other, progress=False, resume=True))
    assert all(np.array_equal(array, found[name]) for name, array in wanted.items())
    assert [*checkpoints.checkpoints_by_step(Path(stopped.output) / "checkpoints")] == [4, 5, 6]


def test_what_changes_the_last_digits_is_told(stopped: Recipe, tmp_path: Path) -> None:
    wanted = weights(train(replace(stopped, output=str(tmp_path / "whole")), progress=False))
    message = "chunk_tokens: was [0-9]+, is 20.*random numbers"
    with pytest.warns(Notice, match=message):
        found = weights(train(replace(stopped, chunk_tokens=20), progress=False, resume=True))
    assert not all(np.array_equal(array, found[name]) for name, array in wanted.items())


def test_another_number_of_ranks_is_told_and_ends_near(stopped: Recipe, tmp_path: Path) -> None:
    """Without dropout, which draws for each rank, it is a matter of rounding."""
    wanted = weights(train(replace(stopped, output=str(tmp_path / "whole")), progress=False))
    two = replace(stopped, output=str(tmp_path / "two"))
    go(two, world=2)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000006")
    with pytest.warns(Notice, match=r"ranks: was 2, is 1.*random numbers"):
        found = weights(train(two, progress=False, resume=True))
    embeddings = "embeddings.word_embeddings.weight"
    assert_same(found[embeddings], wanted[embeddings], 1e-3)
