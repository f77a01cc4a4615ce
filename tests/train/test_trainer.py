"""A run from its recipe to the folder that it leaves: what is learnt, written, logged and said.

B: rows of a batch; D: width of a vector.
"""

import errno
import importlib
import json
import os
import random
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import DISTILBERT, E5, GIST, GTE, STELLA, assert_same
from small_runs import (
    BERT,
    WORDS,
    bert,
    checkpoint,
    graded,
    log_of,
    recipe_of,
    rows,
    saved,
    static,
    taught,
    texts,
    translated,
    weights,
    write,
)
from torch import Tensor

from gnomon import Encoder, losses
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.errors import InputError, Notice, NumericError
from gnomon.spec import PoolingSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train import checkpoints, train, trainer
from gnomon.train.data.collate import BatchRows
from gnomon.train.data.prepare import TrainingData, open_training_data
from gnomon.train.data.sampler import SampledBatch, Sampler
from gnomon.train.distributed import Ranks
from gnomon.train.objectives import batch_loss, contrastive
from gnomon.train.recipe.schema import (
    DataSource,
    LoraSettings,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    Recipe,
    ValidationSettings,
)
from gnomon.train.recipe.toml import read
from gnomon.train.state import TrainingState

STILL = {"dropout": 0.0, "attention_dropout": 0.0}


def in_sentence_transformers(folder: Path) -> Any:
    """The model as the other library opens it, whose import takes seconds."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(bert(), tmp_path / "base")


@pytest.fixture
def made(tmp_path: Path, base: Path) -> Callable[..., Recipe]:
    """A recipe over pairs, or over other rows, with changes."""

    def recipe(lines: list[dict[str, Any]] | None = None, output: str = "out", **changes: Any) -> Recipe:
        source = write(tmp_path / f"rows{len(lines or ())}.jsonl", lines or rows(80))
        named = replace(source, name="rows")
        return recipe_of(changes.pop("model", base), tmp_path / output, named, **changes)

    return recipe


def data_of(recipe: Recipe, model: Any = None) -> TrainingData:
    one = model or checkpoint(bert())
    return open_training_data(recipe, one.spec, Tokenizer(one.tokenizer, one.spec.tokenizer), Ranks(), progress=False)


def states(recipe: Recipe) -> dict[int, checkpoints.SavedState]:
    found = checkpoints.checkpoints_by_step(Path(recipe.output) / "checkpoints")
    return {step: checkpoints.load(path) for step, path in found.items()}


def moments(recipe: Recipe, step: int) -> dict[str, Tensor]:
    """Of each parameter, the moving average of its gradients."""
    state = checkpoints.select_prefix(states(recipe)[step].tensors, "optimizer.")
    return {name.removesuffix(".exp_avg"): each for name, each in state.items() if name.endswith(".exp_avg")}


# ---- what a run leaves


@pytest.mark.slow
def test_a_run_leaves_its_recipe_log_checkpoints_and_model(made: Callable[..., Recipe]) -> None:
    recipe = made(save_steps=4)
    folder = train(recipe, progress=False)
    output = Path(recipe.output)
    assert folder == output / "model"
    assert sorted(path.name for path in output.iterdir()) == [
        ".gnomon-lock",
        "checkpoints",
        "log.jsonl",
        "model",
        "recipe.toml",
        "written.sha256",
    ]
    assert read(str(output / "recipe.toml"), []) == recipe
    assert [*states(recipe)] == [8, 10]
    log = log_of(output)
    assert [line["step"] for line in log] == [*range(1, 11)]
    drawn = data_of(recipe)
    for batch, line in enumerate(log):
        some = drawn.collator.collate(drawn.sampler.batch_at(batch))
        assert line["batch"] == some.rows.digest
        assert line["tokens"] == sum(map(len, some.ids))
        assert (line["rows"], line["source"]) == (8, "rows")
        assert line["learning_rate"] == pytest.approx(1e-3 * (10 - batch) / 10)
        assert line["tokens_per_second"] > 0
    card = (folder / "README.md").read_text("utf-8")
    assert f"The loss was {log[0]['loss']:.4f} at first and {log[-1]['loss']:.4f} at last." in card
    assert f"- {sum(line['tokens'] for line in log):,} tokens" in card
    assert "- 80 rows were trained on, of one source in each batch: 80 different ones of 80." in card
    assert "- 0 rows were never seen." in card


def test_some_steps_are_logged(made: Callable[..., Recipe]) -> None:
    """The first, every so many, those that are judged, and the last."""
    recipe = made(logging_steps=4, validation=ValidationSettings(8, steps=6))
    train(recipe, progress=False)
    assert [line["step"] for line in log_of(Path(recipe.output))] == [1, 4, 6, 8, 10]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("name", [DISTILBERT, E5, GIST])
def test_the_model_opens_in_sentence_transformers_with_the_same_vectors(
    name: str, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    source = write(tmp_path / "rows.jsonl", rows(40))
    folder = train(recipe_of(golden_folder(name), tmp_path / "out", source, max_steps=3), progress=False)
    ours = Encoder.load(folder, device="cpu", threads=1)
    some = [*texts(), "naïve café", "x"]
    theirs = in_sentence_transformers(folder)
    wanted = theirs.encode(some, show_progress_bar=False)
    assert_same(ours.encode(some, prompt=""), wanted)
    before = Encoder.load(golden_folder(name), device="cpu", threads=1).encode(some, prompt="")
    assert np.abs(before - wanted).max() > 1e-3, "it has learnt something"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("name", [STELLA, GTE])
def test_models_with_code_of_their_own_are_trained_too(
    name: str, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    """And written so that every array but those that were learnt stands as it did."""
    source = write(tmp_path / "rows.jsonl", rows(40))
    widths = MatryoshkaSettings((256, 1024)) if name == STELLA else None
    recipe = recipe_of(golden_folder(name), tmp_path / "out", source, max_steps=2, matryoshka=widths)
    folder = train(recipe, progress=False)
    ours, before = (Encoder.load(each, device="cpu", threads=1) for each in (folder, golden_folder(name)))
    assert (ours.dims, ours.prompts) == (before.dims, before.prompts)
    off = np.abs(ours.encode([*texts()], prompt="") - before.encode([*texts()], prompt=""))
    assert 1e-4 < off.max() < 10
    if name == STELLA:
        theirs = weights(golden_folder(name))
        found = weights(folder)
        changed = {key for key, array in found.items() if key in theirs and not np.array_equal(array, theirs[key])}
        heads = {key.partition("/")[0] for key in found if "Dense" in key and key in changed}
        assert heads == {"2_Dense_1024"}, "512 was not asked for; 256 has no safetensors there"


@pytest.mark.slow
@pytest.mark.parametrize("model2vec", [False, True])
def test_a_static_table_is_trained(model2vec: bool, made: Callable[..., Recipe], tmp_path: Path) -> None:
    model = saved(static(model2vec=model2vec), tmp_path / "static")
    recipe = made(translated(200), model=model, max_steps=60, learning_rate=0.03, batch_size=32)
    recipe = replace(recipe, validation=ValidationSettings(40))
    folder = train(recipe, progress=False)
    scores = states(recipe)[60].facts["tally"]["scores"]
    assert scores["60"]["rows"] > scores["0"]["rows"] + 0.2
    ours = Encoder.load(folder)
    theirs = in_sentence_transformers(folder)
    assert_same(ours.encode([*texts()]), theirs.encode([*texts()], show_progress_bar=False))
    unknown = ours.encode("zebra")
    assert bool(unknown.any()) is not model2vec


@pytest.mark.slow
def test_a_model_learns(made: Callable[..., Recipe]) -> None:
    """What it learnt of some pairs holds for others, which were held out."""
    recipe = made(translated(300), max_steps=50, batch_size=32, learning_rate=1e-2, **STILL)
    recipe = replace(recipe, validation=ValidationSettings(60))
    train(recipe, progress=False)
    log = log_of(Path(recipe.output))
    before = states(recipe)[50].facts["tally"]["scores"]["0"]["rows"]
    assert log[-1]["validation"]["rows"] > before + 0.2
    assert log[-1]["loss"] < log[0]["loss"] - 0.5


# ---- what the loss of a step is


def vectors_of(folder: Path, some: BatchRows) -> tuple[Tensor, Tensor, Tensor]:
    encoder = Encoder.load(folder, device="cpu", threads=1)
    sides = (some.queries, some.positives, some.negatives)
    q, p, n = (torch.from_numpy(encoder.encode(side, prompt="")) if side else torch.zeros(0) for side in sides)
    return q, p, n


def by_row(p: Tensor, n: Tensor) -> Tensor:
    return torch.cat([p[:, None], n.view(len(p), -1, p.shape[1])], dim=1)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T


TAUGHT: Any = {"temperature": 0.1, "teacher_temperature": 0.2, "similarity": "cosine"}

LOSSES: dict[str, tuple[LossSettings, list[dict[str, Any]], Callable[..., Tensor]]] = {
    "pairs": (LossSettings(), rows(60), lambda q, p, n, **_: losses.info_nce(q, p)),
    "triplets": (
        LossSettings(scale=10.0),
        rows(60, negatives=2),
        lambda q, p, n, **_: losses.info_nce(q, p, n, scale=10.0),
    ),
    "symmetric": (
        LossSettings(directions="symmetric"),
        rows(60),
        lambda q, p, n, **_: losses.info_nce(
            q, p, directions=losses.SYMMETRIC_DIRECTIONS, partition_mode="per_direction"
        ),
    ),
    "gte": (
        LossSettings(directions="gte", temperature=0.1),
        rows(60),
        lambda q, p, n, **_: losses.info_nce(q, p, directions=losses.GTE_DIRECTIONS, temperature=0.1),
    ),
    "graded": (
        LossSettings("cosent"),
        graded(60),
        lambda q, p, n, scores, **_: losses.cosent(q, p, scores),
    ),
    "cosine_regression": (
        LossSettings("cosine_regression"),
        graded(60),
        lambda q, p, n, scores, **_: losses.cosine_regression(q, p, scores),
    ),
    "kl_and_contrast": (
        LossSettings("kl_and_contrast", temperature=0.1, teacher_temperature=2.0),
        taught(60),
        lambda q, p, n, scores, **_: losses.kl_and_contrast(
            q, by_row(p, n), scores, temperature=0.1, teacher_temperature=2.0
        ),
    ),
    "distill_kl": (
        LossSettings("distill_kl", scale=3.0),
        taught(60),
        lambda q, p, n, scores, **_: losses.distill_kl(q, by_row(p, n), scores, scale=3.0),
    ),
    "margin_mse": (
        LossSettings("margin_mse"),
        taught(60),
        lambda q, p, n, scores, **_: losses.margin_mse(q, by_row(p, n), scores),
    ),
    "gist": (
        LossSettings("gist", guide="guide", temperature=0.1),
        rows(60, negatives=1),
        lambda q, p, n, guide, **_: losses.gist(q, p, n, guide=losses.compute_guide_blocks(*guide), temperature=0.1),
    ),
    "kl_and_contrast, a teacher": (
        LossSettings("kl_and_contrast", teacher="teacher", temperature=0.1, teacher_temperature=0.2),
        rows(60, negatives=1),
        lambda q, p, n, guide, **_: (
            0.5 * losses.distill_kl(q, torch.cat([p, n]), cosines(guide[0], torch.cat(guide[1:])), **TAUGHT)
            + 0.5 * losses.distill_kl(p, q, cosines(guide[1], guide[0]), **TAUGHT)
            + 0.2 * losses.info_nce(q, p, n, temperature=0.1)
        ),
    ),
    "cosine_distillation": (
        LossSettings("cosine_distillation", teacher="teacher"),
        rows(60, negatives=1),
        lambda q, p, n, guide, **_: losses.cosine_distillation(torch.cat([q, p, n]), torch.cat(guide)[:, : q.shape[1]]),
    ),
    "cosine_distillation, of the query": (
        LossSettings("cosine_distillation", teacher="teacher", distillation_target="query"),
        rows(60),
        lambda q, p, n, guide, **_: losses.cosine_distillation(
            torch.cat([q, p]), torch.cat([guide[0]] * 2)[:, : q.shape[1]]
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("widths", [None, MatryoshkaSettings((4, 16), (0.5, 1.0))], ids=["", "widths"])
@pytest.mark.parametrize("chunk_tokens", [None, 40])
@pytest.mark.parametrize("name", LOSSES)
def test_the_first_loss_is_that_of_the_encoders_vectors(
    name: str, chunk_tokens: int | None, widths: Any, made: Callable[..., Recipe], base: Path, tmp_path: Path
) -> None:
    """The whole way, against `gnomon.losses` on what `Encoder` gives for the rows of the first batch."""
    settings, lines, plain = LOSSES[name]
    key = "guide" if settings.guide else "teacher" if settings.teacher else None
    guide = saved(bert(), tmp_path / "guide", seed=1) if key else None
    settings = replace(settings, **{key: str(guide)}) if key else settings
    recipe = made(lines, loss=settings, chunk_tokens=chunk_tokens, matryoshka=widths, max_steps=2, **STILL)
    folder = train(recipe, progress=False)
    if guide:
        card = (folder / "README.md").read_text("utf-8")
        assert f"the {key} `guide`, by gnomon" in card
        assert f"Fingerprint of the {key}: {Encoder.load(guide).fingerprint[:16]}." in card
    log = log_of(Path(recipe.output))
    data = data_of(recipe)
    some = data.collator.read_rows(data.sampler.batch_at(0))
    loss_inputs = {"guide": vectors_of(guide, some) if guide else None}
    loss_inputs["scores"] = None if some.scores is None else torch.from_numpy(some.scores).float()
    vectors = vectors_of(base, some)
    if widths is None:
        wanted = plain(*vectors, **loss_inputs)
    else:
        cut = {dim: [torch.nn.functional.normalize(side[..., :dim], dim=-1) for side in vectors] for dim in widths.dims}
        wanted = 0.5 * plain(*cut[4], **loss_inputs) + plain(*cut[16], **loss_inputs)
    assert log[0]["loss"] == pytest.approx(wanted.item(), rel=2e-5, abs=1e-6)
    assert log[0]["grad_norm"] > 1e-3
    assert log[1]["loss"] != log[0]["loss"]


def test_prompts_of_a_source_stand_in_front(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(max_steps=1, **STILL)
    (source,) = recipe.sources
    recipe = replace(recipe, sources=(replace(source, query_prompt="where is ", document_prompt="old "),))
    folder = train(recipe, progress=False)
    data = data_of(recipe)
    some = data.collator.read_rows(data.sampler.batch_at(0))
    prompted = replace(
        some,
        queries=["where is " + text for text in some.queries],
        positives=["old " + text for text in some.positives],
    )
    q, p, _ = vectors_of(base, prompted)
    (line,) = log_of(Path(recipe.output))
    assert line["loss"] == pytest.approx(losses.info_nce(q, p).item(), rel=2e-5)
    assert Encoder.load(folder).prompts == {"query": "where is ", "document": "old "}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "own", "declared"),
    [
        ([("q: ", "d: "), ("q: ", "d: ")], {}, {"query": "q: ", "document": "d: "}),
        ([("q: ", None), ("q: ", None)], {}, {"query": "q: "}),
        ([("q: ", None), ("q: ", "")], {}, {"query": "q: "}),
        ([(None, None), (None, None)], {}, {}),
        ([("q: ", "d: "), ("q: ", "d: ")], {"query": "mine: "}, {"query": "q: ", "document": "d: "}),
        ([(None, "d: ")], {"query": "mine: "}, {"query": "mine: ", "document": "d: "}),
        ([(None, "d: ")], {"query": "mine: ", "passage": "p: "}, {"query": "mine: ", "passage": "d: "}),
        ([("", None)], {"query": "mine: "}, {}),
        ([(None, None)], {"query": "mine: "}, {"query": "mine: "}),
    ],
)
def test_prompts_that_all_sources_give_are_declared(
    prompts: list[Any], own: dict[str, str], declared: dict[str, str], made: Callable[..., Recipe], tmp_path: Path
) -> None:
    model = saved(bert(prompts=own), tmp_path / "own")
    recipe = made(max_steps=1, model=model)
    (source,) = recipe.sources
    sources = [
        replace(source, name=f"s{place}", query_prompt=query, document_prompt=document)
        for place, (query, document) in enumerate(prompts)
    ]
    assert Encoder.load(train(replace(recipe, sources=tuple(sources)), progress=False)).prompts == declared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "own", "declared", "message"),
    [
        (
            [("q: ", "d: "), ("other: ", "d: ")],
            {},
            {"document": "d: "},
            ["queries: 'q: ' .s0., 'other: ' .s1.. .*without"],
        ),
        ([("q: ", "d: "), ("q: ", None)], {}, {"query": "q: "}, ["documents: 'd: ' .s0., '' .s1."]),
        ([("q: ", "d: "), (None, None)], {}, {}, ["queries: 'q: '", "documents: 'd: '"]),
        (
            [("q: ", "d: "), (None, "d: ")],
            {"query": "mine: "},
            {"query": "mine: ", "document": "d: "},
            ["queries: 'q: ' .s0., 'mine: ' .s1.. .*keeps its own, 'mine: '"],
        ),
    ],
)
def test_c4_prompts_that_agree_in_part_are_kept_in_part_and_the_rest_is_told(
    prompts: list[Any],
    own: dict[str, str],
    declared: dict[str, str],
    message: list[str],
    made: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    recipe = made(max_steps=1, model=saved(bert(prompts=own), tmp_path / "own"))
    (source,) = recipe.sources
    sources = tuple(
        replace(source, name=f"s{place}", query_prompt=query, document_prompt=document)
        for place, (query, document) in enumerate(prompts)
    )
    with pytest.warns(Notice) as caught:
        folder = train(replace(recipe, sources=sources), progress=False)
    assert Encoder.load(folder).prompts == declared
    assert len(caught) == len(message)
    for notice, wanted in zip(caught, message, strict=True):
        assert re.search(f"different prompts for {wanted}", str(notice.message))


def test_c4_a_source_that_is_not_drawn_has_no_say(made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=1)
    (source,) = recipe.sources
    sources = (replace(source, query_prompt="q: ", weight=1.0), replace(source, name="idle", weight=0.0))
    assert Encoder.load(train(replace(recipe, sources=sources), progress=False)).prompts == {"query": "q: "}


@pytest.mark.slow
def test_c5_one_prompt_on_both_sides_of_graded_pairs_is_the_default_prompt(
    tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    """The texts of the trained model are read as they were in training, by both libraries."""
    source = replace(write(tmp_path / "rows.jsonl", graded(40)), query_prompt="same: ", document_prompt="same: ")
    recipe = recipe_of(golden_folder(DISTILBERT), tmp_path / "out", source, max_steps=3, loss=LossSettings("cosent"))
    folder = train(recipe, progress=False)
    ours = Encoder.load(folder, device="cpu", threads=1)
    theirs = in_sentence_transformers(folder)
    some = [*texts()]
    wanted = theirs.encode(["same: " + text for text in some], prompt="")
    assert np.abs(wanted - theirs.encode(some, prompt="")).max() > 1e-3
    for model in (ours, theirs):
        for encode in (model.encode, model.encode_query, model.encode_document):
            assert_same(encode(some), wanted)
    read = data_of(recipe, read_folder(resolve_source(recipe.model))).collator
    first = read.collate(SampledBatch(0, 0, np.arange(4)))
    assert [ids.tolist() for ids in first.ids[:4]] == [
        ids.tolist() for ids in ours.tokenize(first.rows.queries, prompt_name=ours.spec.default_prompt_name).ids
    ]


@pytest.mark.slow
def test_c4_a_model_that_was_trained_without_its_prompts_uses_none(
    tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    """Though its card names a model of whose prompts this library knows."""
    source = replace(write(tmp_path / "rows.jsonl", rows(40)), query_prompt="", document_prompt="")
    recipe = recipe_of(golden_folder(E5), tmp_path / "out", source, max_steps=1, card="multilingual-e5-small")
    with warnings.catch_warnings(action="ignore"):
        folder = train(recipe, progress=False)
    card = (folder / "README.md").read_text("utf-8")
    (folder / "README.md").write_text(
        card.replace("---\n", "---\nbase_model: intfloat/multilingual-e5-small\n", 1), "utf-8"
    )
    encoder = Encoder.load(folder, device="cpu", threads=1)
    some = [*texts()]
    wanted = encoder.encode(some, prompt="")
    assert_same(encoder.encode_query(some), wanted)
    assert_same(encoder.encode_document(some), wanted)
    assert_same(encoder.encode(some), wanted)
    assert_same(in_sentence_transformers(folder).encode_query(some), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "own", "declared", "default"),
    [
        ([("s: ", "s: ")], {}, {"query": "s: ", "document": "s: ", "default": "s: "}, "default"),
        ([("a: ", "b: ")], {}, {"query": "a: ", "document": "b: "}, None),
        ([("s: ", None)], {}, {"query": "s: "}, None),
        ([(None, None)], {"query": "q: "}, {"query": "q: "}, None),
        (
            [("s: ", "s: ")],
            {"query": "q: ", "default": "mine: "},
            {"query": "q: ", "default": "mine: ", "document": "s: ", "symmetric": "s: "},
            "symmetric",
        ),
    ],
)
def test_c5_prompts_of_graded_pairs(
    prompts: list[Any],
    own: dict[str, str],
    declared: dict[str, str],
    default: str | None,
    tmp_path: Path,
) -> None:
    model = saved(bert(prompts=own), tmp_path / "own")
    source = write(tmp_path / "rows.jsonl", graded(40))
    sources = [
        replace(source, name=f"s{place}", query_prompt=query, document_prompt=document)
        for place, (query, document) in enumerate(prompts)
    ]
    loss = LossSettings("cosent")
    encoder = Encoder.load(train(recipe_of(model, tmp_path / "out", *sources, max_steps=1, loss=loss), progress=False))
    assert (dict(encoder.prompts), encoder.spec.default_prompt_name) == (declared, default)


@pytest.mark.slow
def test_widths_are_declared_in_the_folder(made: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = made(max_steps=2, matryoshka=MatryoshkaSettings((16, 8, 4)))
    assert Encoder.load(train(recipe, progress=False)).dims == (4, 8, 16)
    heads = saved(bert(wide=(16, 8, 4)), tmp_path / "heads")
    recipe = made(max_steps=2, matryoshka=MatryoshkaSettings((8, 16)), model=heads, output="out2")
    encoder = Encoder.load(train(recipe, progress=False))
    assert encoder.dims == (4, 8, 16)
    changed = {
        key: not np.array_equal(array, weights(heads)[key])
        for key, array in weights(Path(recipe.output) / "model").items()
    }
    assert changed["2_Dense_8/linear.weight"]
    assert changed["2_Dense_16/linear.weight"]
    assert not changed["2_Dense_4/linear.weight"]


def test_a_shorter_length_is_trained_and_written(made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=2, max_seq_length=6)
    folder = train(recipe, progress=False)
    assert Encoder.load(folder).max_seq_length == 6
    assert all(line["tokens"] <= 16 * 6 for line in log_of(Path(recipe.output)))
    tally = states(recipe)[2].facts["tally"]
    assert tally["truncated"] > 0
    assert f"- {tally['truncated']} of 32 texts" in (folder / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_two_sources_are_mixed_as_asked(made: Callable[..., Recipe], tmp_path: Path) -> None:
    """Pairs and triplets, one source a batch; the card tells both shares."""
    pairs = replace(write(tmp_path / "a.jsonl", rows(60)), weight=3.0)
    triplets = replace(write(tmp_path / "b.jsonl", rows(60, negatives=1, seed=1)), weight=1.0)
    recipe = replace(made(max_steps=40), sources=(pairs, triplets), validation=ValidationSettings(10))
    folder = train(recipe, progress=False)
    log = log_of(Path(recipe.output))
    counts = {name: sum(line["source"] == name for line in log) for name in ("a", "b")}
    assert counts["a"] + counts["b"] == 40
    assert 20 <= counts["a"] <= 38
    assert {*log[-1]["validation"]} == {"a", "b"}
    card = (folder / "README.md").read_text("utf-8")
    seen = min(50, 8 * counts["a"])
    assert f"| a | 60 | {seen} | 10 | 75.00% | {counts['a'] / 40:.2%} |" in card
    assert f"| b | 60 | {min(50, 8 * counts['b'])} | 10 | 25.00% | {counts['b'] / 40:.2%} |" in card
    texts_of = {"a": 16, "b": 24}
    assert states(recipe)[40].facts["tally"]["texts"] == sum(counts[name] * texts_of[name] for name in counts)


def test_a_data_config_says_which_lines_and_how_often(made: Callable[..., Recipe], tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", rows(60))
    write(tmp_path / "b.jsonl", rows(60, seed=1))
    config = [{"name": "a.jsonl", "weight": 1, "lines": 20}, {"name": "b.jsonl", "weight": 1, "lines": 30}]
    (tmp_path / "data_config.json").write_text(json.dumps(config), "utf-8")
    sources = tuple(DataSource((str(tmp_path / f"{name}.jsonl"),)) for name in "ab")
    mixture = MixtureSettings(data_config=str(tmp_path / "data_config.json"))
    recipe = replace(made(max_steps=4), sources=sources, mixture=mixture)
    card = (train(recipe, progress=False) / "README.md").read_text("utf-8")
    assert re.search(r"\| a \| 20 \| (8|1[0-9]|20) \| 0 \| 50.00%", card)
    assert re.search(r"\| b \| 30 \| \d+ \| 0 \| 50.00%", card)


# ---- the gradient and the optimizer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*nothing was learned:gnomon.errors.Notice")
def test_the_gradient_of_a_step_is_the_mean_of_its_batches(made: Callable[..., Recipe]) -> None:
    """Seen in the first moments, with dropout; a learning rate of next to nothing keeps the weights where they are."""
    changes = {"learning_rate": 1e-30, "max_grad_norm": 0.0, "save_steps": 1, "lr_scheduler_type": "constant"}
    one = made(max_steps=2, output="one", **changes)
    both = made(max_steps=1, output="both", gradient_accumulation_steps=2, **changes)
    train(one, progress=False)
    train(both, progress=False)
    first, second, mean = moments(one, 1), moments(one, 2), moments(both, 1)
    for name in mean:
        g0 = first[name] / 0.1
        g1 = (second[name] - 0.9 * first[name]) / 0.1
        torch.testing.assert_close(mean[name] / 0.1, (g0 + g1) / 2, rtol=1e-3, atol=1e-5)
        assert name.endswith("key.bias") or not torch.allclose(g0, g1, rtol=0.1)
    (line,), lines = log_of(Path(both.output)), log_of(Path(one.output))
    assert line["loss"] == pytest.approx((lines[0]["loss"] + lines[1]["loss"]) / 2)
    assert line["batch"] == f"{lines[0]['batch']} {lines[1]['batch']}"
    assert (line["rows"], line["tokens"]) == (16, lines[0]["tokens"] + lines[1]["tokens"])


@pytest.mark.slow
@pytest.mark.parametrize(("most", "clipped"), [(0.5, True), (0.0, False), (1e6, False)])
def test_a_gradient_is_clipped(most: float, clipped: bool, made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=1, max_grad_norm=most)
    train(recipe, progress=False)
    (line,) = log_of(Path(recipe.output))
    norm = torch.cat([each.flatten() / 0.1 for each in moments(recipe, 1).values()]).norm().item()
    assert line["grad_norm"] > 1
    assert norm == pytest.approx(most if clipped else line["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_each_step_moves_by_the_learning_rate_of_the_schedule(made: Callable[..., Recipe]) -> None:
    """Without its averages a step of Adam is the learning rate, by the sign of the gradient."""
    adam = {"adam_beta1": 0.0, "adam_beta2": 0.0, "adam_epsilon": 1e-30}
    recipe = made(max_steps=5, warmup_steps=2, learning_rate=1e-3, save_steps=1, save_total_limit=9, **adam)
    train(recipe, progress=False)
    name = "trunk.layers.1.down.weight"
    found = [torch.from_numpy(checkpoint(bert()).arrays[name.removeprefix("trunk.")])]
    found += [state.tensors[f"model.{name}"] for state in states(recipe).values()]
    moved = [(after - before).abs().max().item() for before, after in pairwise(found)]
    assert moved == pytest.approx([0, 5e-4, 1e-3, 2e-3 / 3, 1e-3 / 3], rel=1e-3)
    assert moved == pytest.approx([line["learning_rate"] for line in log_of(Path(recipe.output))], rel=1e-3)


def test_each_layer_moves_by_its_learning_rate(made: Callable[..., Recipe], base: Path) -> None:
    """The first step of Adam is the learning rate, by the sign of the gradient."""
    recipe = made(max_steps=1, layer_decay=0.5, adam_epsilon=1e-30, learning_rate=1e-3, **STILL)
    found, before = weights(train(recipe, progress=False)), weights(base)
    moved = {name: np.abs(array - before[name]).max() for name, array in found.items()}
    for name, rate in {
        "encoder.layer.1.output.dense.weight": 1e-3,
        "encoder.layer.0.output.dense.weight": 5e-4,
        "embeddings.word_embeddings.weight": 2.5e-4,
    }.items():
        assert moved[name] == pytest.approx(rate, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"chunk_tokens": 20}, 1e-3),
        ({"bf16": True}, 0.15),
        ({"group_by_length": True}, None),
        ({"gradient_checkpointing": True}, 0.0),
        ({"deterministic": False}, 0.0),
    ],
    ids=str,
)
def test_how_it_is_computed_changes_little(
    changes: dict[str, Any], limit: float | None, made: Callable[..., Recipe], base: Path
) -> None:
    """Relative to how far the weights went."""
    still = {} if limit == 0 else STILL
    still |= {"adam_epsilon": 1e-4}  # or parameters without a gradient follow what is left by rounding
    plain = weights(train(made(output="plain", **still), progress=False))
    other = weights(train(made(output="other", **changes, **still), progress=False))
    before = weights(base)
    off, way = (np.concatenate([(plain[name] - than[name]).ravel() for name in plain]) for than in (other, before))
    assert np.linalg.norm(way) > 0.1
    share = np.linalg.norm(off) / np.linalg.norm(way)
    assert share > 0.1 if limit is None else share <= limit
    if limit:
        assert share > 0, "it does something"


def test_a_frozen_part_keeps_its_bits_and_the_rest_learns(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(freeze=("embed", "layers.0."), max_steps=3, weight_decay=0.1)
    found, before = weights(train(recipe, progress=False)), weights(base)
    same = {name for name, array in found.items() if np.array_equal(array, before[name])}
    assert same == {name for name in found if "embeddings" in name or "layer.0." in name}
    assert not [name for name in states(recipe)[3].tensors if "embed" in name or "layers.0." in name]


def test_freezing_nothing_that_is_there_is_refused(made: Callable[..., Recipe]) -> None:
    message = "freeze has 'layer.0'.* embed, layers.0, layers.1"
    with pytest.raises(InputError, match=message):
        train(made(freeze=("layer.0",)), progress=False)
    with pytest.raises(InputError, match="every parameter is frozen"):
        train(made(freeze=("embed", "layers")), progress=False)


def test_low_rank_parts_are_merged_into_what_is_written(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(max_steps=5, lora=LoraSettings(r=2, alpha=6.0, dropout=0.1, targets=("query", "down")))
    found, before = weights(train(recipe, progress=False)), weights(base)
    state = states(recipe)[5].tensors
    assert {name.rpartition(".")[2] for name in state if name.startswith("model.")} == {"lora_a", "lora_b"}
    theirs = {"query": "attention.self.query", "down": "output.dense"}
    for layer in range(BERT.num_layers):
        for ours, name in theirs.items():
            a, b = (state[f"model.trunk.layers.{layer}.{ours}.lora_{which}"].numpy() for which in "ab")
            key = f"encoder.layer.{layer}.{name}.weight"
            np.testing.assert_allclose(found[key], before[key] + 3.0 * b @ a, rtol=1e-5, atol=1e-7)
            assert np.abs(b).max() > 1e-4
    changed = {name for name, array in found.items() if not np.array_equal(array, before[name])}
    assert changed == {
        f"encoder.layer.{layer}.{name}.weight" for layer in range(BERT.num_layers) for name in theirs.values()
    }


@pytest.mark.slow
def test_the_callers_random_numbers_change_nothing_and_are_not_changed(made: Callable[..., Recipe]) -> None:
    """With LoRA, whose start is drawn."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        state = torch.get_rng_state()
        recipe = made(output=f"out{seed}", lora=LoraSettings(), max_steps=3)
        found.append(weights(train(recipe, progress=False)))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    other = weights(train(made(output="other", lora=LoraSettings(), max_steps=3, seed=7), progress=False))
    assert not all(np.array_equal(found[0][name], other[name]) for name in other)


def test_torchs_settings_are_put_back(made: Callable[..., Recipe]) -> None:
    torch.set_num_threads(2)
    handler = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def look(_: Encoder) -> float:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        return 0.0

    train(made(max_steps=1), progress=False, evaluate=look)
    assert {*seen} == {(1, True)}
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGINT) is handler
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gnomon")]
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_run_in_a_thread_is_the_same(made: Callable[..., Recipe]) -> None:
    here = weights(train(made(output="here"), progress=False))
    there: list[dict[str, np.ndarray]] = []
    thread = threading.Thread(target=lambda: there.append(weights(train(made(output="there"), progress=False))))
    thread.start()
    thread.join()
    assert all(np.array_equal(there[0][name], here[name]) for name in here)


# ---- averages and validation


@pytest.mark.slow
def test_the_moving_average_is_what_is_written_and_judged(made: Callable[..., Recipe], base: Path) -> None:
    judged: list[np.ndarray] = []

    def look(encoder: Encoder) -> float:
        judged.append(encoder.encode([*texts()]))
        return float(len(judged))

    recipe = made(ema_decay=0.7, max_steps=4, save_steps=1, save_total_limit=9, validation=ValidationSettings(steps=2))
    folder = train(recipe, progress=False, evaluate=look)
    found = states(recipe)
    average = {
        f"model.{name}": parameter
        for name, parameter in TrainingState(recipe, checkpoint(bert()), Ranks()).model.named_parameters()
    }
    for step in range(1, 5):
        decay = min(0.7, step / (9 + step))
        average = {name: decay * mean + (1 - decay) * found[step].tensors[name] for name, mean in average.items()}
        for name, mean in average.items():
            torch.testing.assert_close(
                found[step].tensors[name.replace("model.", "ema.", 1)], mean, rtol=1e-5, atol=1e-7
            )
    written = weights(folder)["embeddings.word_embeddings.weight"]
    assert np.array_equal(written, found[4].tensors["ema.trunk.embed.tokens"].numpy())
    assert not np.array_equal(written, found[4].tensors["model.trunk.embed.tokens"].numpy())
    assert len(judged) == 3, "before, at step 2 and at step 4"
    assert_same(judged[0], Encoder.load(base).encode([*texts()]))
    assert_same(judged[2], Encoder.load(folder).encode([*texts()]))


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.7])
def test_a_share_of_the_first_weights_is_in_what_is_written_and_judged(
    ema: float | None, made: Callable[..., Recipe], base: Path
) -> None:
    judged: list[np.ndarray] = []

    def look(encoder: Encoder) -> float:
        judged.append(encoder.encode([*texts()]))
        return float(len(judged))

    validation = ValidationSettings(steps=1)
    recipe = made(base_weight=0.75, ema_decay=ema, max_steps=2, validation=validation, freeze=("layers.0.",))
    folder = train(recipe, progress=False, evaluate=look)
    first, written = weights(base), weights(folder)
    learnt = states(recipe)[2].tensors[f"{'ema' if ema else 'model'}.trunk.embed.tokens"].numpy()
    tokens = "embeddings.word_embeddings.weight"
    np.testing.assert_allclose(written[tokens], 0.75 * first[tokens] + 0.25 * learnt, rtol=1e-5, atol=1e-7)
    assert np.abs(written[tokens] - first[tokens]).max() > 1e-4
    frozen = "encoder.layer.0.attention.self.query.weight"
    assert np.array_equal(written[frozen], first[frozen])
    assert_same(judged[0], Encoder.load(base).encode([*texts()]))
    assert_same(judged[2], Encoder.load(folder).encode([*texts()]))


SCORES = [0.1, 0.3, 0.9, 0.9, 0.2, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_c16_the_best_step_is_kept_and_written(keep_best: bool, ema: float | None, made: Callable[..., Recipe]) -> None:
    """Of equals the last (C16), which has learned from more rows; the last n checkpoints beside it."""
    scores = iter(SCORES)
    validation = ValidationSettings(steps=2, keep_best=keep_best)
    recipe = made(save_total_limit=2, ema_decay=ema, validation=validation)
    folder = train(recipe, progress=False, evaluate=lambda _: next(scores))
    assert [*states(recipe)] == ([6, 8, 10] if keep_best else [8, 10])
    chosen = 6 if keep_best else 10
    name = "ema.trunk.embed.tokens" if ema else "model.trunk.embed.tokens"
    written = weights(folder)["embeddings.word_embeddings.weight"]
    assert np.array_equal(written, states(recipe)[chosen].tensors[name].numpy())
    card = (folder / "README.md").read_text("utf-8")
    assert ("the weights are those behind step 6, the best of them" in card) is keep_best
    assert "score of the function that was given" in card
    assert f"| evaluate | 0.1000 | {'0.9000' if keep_best else '0.5000'} |" in card
    log = log_of(Path(recipe.output))
    assert {line["step"]: line["validation"]["evaluate"] for line in log if "validation" in line} == dict(
        zip((2, 4, 6, 8, 10), SCORES[1:], strict=True)
    )


def test_a_score_that_is_no_number_is_never_the_best(made: Callable[..., Recipe]) -> None:
    scores = iter([0.0, float("nan"), 0.5, 0.2])
    recipe = made(max_steps=3, validation=ValidationSettings(steps=1))
    train(recipe, progress=False, evaluate=lambda _: next(scores))
    assert states(recipe)[3].facts["best"] == [2, 0.5]


@pytest.mark.slow
def test_scores_on_held_out_rows_stand_in_the_log_and_the_card(made: Callable[..., Recipe], base: Path) -> None:
    """Recomputed from what `Encoder` gives for the rows that were held out, before and after."""
    recipe = made(validation=ValidationSettings(24, steps=5, keep_best=False), save_steps=3)
    folder = train(recipe, progress=False)
    log = log_of(Path(recipe.output))
    assert [line["step"] for line in log if "validation" in line] == [5, 10]
    assert [*states(recipe)] == [9, 10]
    (held,) = data_of(recipe).collate_held_out()

    def mrr(model: Path) -> float:
        q, p, _ = (side.numpy() for side in vectors_of(model, held.rows))
        similarity = q @ p.T
        rank = 1 + (similarity > similarity.diagonal()[:, None]).sum(1)
        return float(np.where(rank <= 10, 1 / rank, 0).mean())

    assert log[-1]["validation"]["rows"] == pytest.approx(mrr(folder), rel=1e-6)
    assert mrr(folder) != pytest.approx(mrr(base), rel=1e-3)
    assert f"| rows | {mrr(base):.4f} | {mrr(folder):.4f} |" in (folder / "README.md").read_text("utf-8")
    seen = {row for batch in range(10) for row in data_of(recipe).sampler.batch_at(batch).rows_B.tolist()}
    assert not seen & {*held.rows.rows_B.tolist()}


@pytest.mark.slow
def test_a_graded_source_is_judged_by_correlation(made: Callable[..., Recipe]) -> None:
    recipe = made(graded(60), loss=LossSettings("cosent"), validation=ValidationSettings(20))
    folder = train(recipe, progress=False)
    assert "Spearman correlation of cosine and grade" in (folder / "README.md").read_text("utf-8")
    assert -1 <= log_of(Path(recipe.output))[-1]["validation"]["rows"] <= 1


@pytest.mark.slow
def test_a_learnt_scale_is_learnt_logged_and_bounded(made: Callable[..., Recipe]) -> None:
    """The random model is better off with a lower one than 3; no step takes it below 1."""
    recipe = made(loss=LossSettings(learn_scale=True, scale=3.0), learning_rate=0.5, ema_decay=0.9)
    train(recipe, progress=False)
    scales = [line["scale"] for line in log_of(Path(recipe.output))]
    assert 1 < scales[0] < 3
    assert min(scales) == 1
    state = states(recipe)[10].tensors
    assert state["loss.log_scale"].exp().item() == pytest.approx(scales[-1])


# ---- a loss that is not finite


def broken_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = batch_loss.BatchLoss.compute_parts

    def broken(self: Any, vectors: Any, inputs: Any) -> Any:
        for part in parts(self, vectors, inputs):
            yield part * float("nan") if inputs.step == step else part

    monkeypatch.setattr(batch_loss.BatchLoss, "compute_parts", broken)


def test_a_full_disk_does_not_hide_why_a_run_stopped(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(0, monkeypatch)

    def full(self: Any, step: int, batches: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rows.jsonl")

    monkeypatch.setattr(trainer.Trainer, "_save_rows", full)
    with pytest.raises(NumericError, match=r"the loss is nan.*could not be saved \(the disk is full \(rows\.jsonl\)\)"):
        train(made(rows(20)), progress=False)


@pytest.mark.slow
def test_a_loss_that_is_nan_ends_the_run_and_its_rows_are_saved(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(6, monkeypatch)
    recipe = made(rows(50, negatives=1), save_steps=4, gradient_accumulation_steps=2)
    output = Path(recipe.output)
    with pytest.raises(NumericError) as raised:
        train(recipe, progress=False)
    path = output / "stopped" / "step-00000007-rank-0.jsonl"
    last = output / "checkpoints" / "step-00000004"
    assert str(raised.value).startswith("step 7, source 'rows' (16 rows): the loss is nan.")
    assert f" rows are in {path}. The last checkpoint is {last}. A lower" in str(raised.value)
    saved_rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    data = data_of(recipe)
    batches = [data.collator.read_rows(data.sampler.batch_at(batch)) for batch in (12, 13)]
    assert saved_rows == [row for some in batches for row in data.to_records(some)]
    assert saved_rows[0]["place"].endswith(f"line {batches[0].rows_B[0] + 1}")
    assert [*states(recipe)] == [4]
    assert all(tensor.isfinite().all() for tensor in states(recipe)[4].tensors.values())
    assert [line["step"] for line in log_of(output)] == [1, 2, 3, 4, 5, 6]
    assert not (output / "model").exists()


def test_a_learning_rate_that_is_far_too_high_is_told_as_such(made: Callable[..., Recipe]) -> None:
    recipe = made(learning_rate=1e38, max_grad_norm=0.0, max_steps=50)
    message = r"^step \d+, source 'rows'.*: the (loss|gradient's norm) is (nan|inf).*no checkpoint.*learning_rate"
    with pytest.raises(NumericError, match=message):
        train(recipe, progress=False)
    assert len([*(Path(recipe.output) / "stopped").iterdir()]) == 1


def test_a_gradient_that_is_not_finite_ends_it_too(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingState, "clip_gradient", lambda *_: float("inf"))
    with pytest.raises(NumericError, match=r"step 1, source 'rows'.*: the gradient's norm is inf"):
        train(made(), progress=False)


# ---- a folder that holds a run


def test_a_folder_with_a_run_is_not_written_to(made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=2)
    with pytest.raises(InputError, match=r"holds no checkpoint to go on from; leave resume=True out"):
        train(recipe, progress=False, resume=True)
    train(recipe, progress=False)
    output = Path(recipe.output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    message = r"out holds a run already.*resume=True.*overwrite=True"
    with pytest.raises(InputError, match=message):
        train(recipe, progress=False)
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(InputError, match=message):
        train(recipe, progress=False)
    left = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert left == {path: content for path, content in before.items() if "checkpoints" not in path.parts}


@pytest.mark.slow
def test_overwriting_begins_anew(made: Callable[..., Recipe]) -> None:
    train(made(max_steps=6, save_steps=2), progress=False)
    recipe = made(max_steps=4, save_steps=2, seed=1)
    folder = train(recipe, progress=False, overwrite=True)
    assert [*states(recipe)] == [2, 4]
    assert [line["step"] for line in log_of(Path(recipe.output))] == [1, 2, 3, 4]
    fresh = made(max_steps=4, save_steps=2, seed=1, output="fresh")
    wanted = weights(train(fresh, progress=False))
    assert all(np.array_equal(array, wanted[name]) for name, array in weights(folder).items())
    assert read(str(Path(recipe.output) / "recipe.toml"), []) == recipe


@pytest.mark.slow
def test_a_run_that_ended_before_a_checkpoint_is_begun_anew(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made()
    with monkeypatch.context() as inside:
        broken_at(2, inside)
        with pytest.raises(NumericError):
            train(recipe, progress=False)
    train(recipe, progress=False)
    assert [line["step"] for line in log_of(Path(recipe.output))] == [*range(1, 11)]


def test_going_on_with_a_run_that_is_done_writes_its_model_again(made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=3)
    folder = train(recipe, progress=False)
    before = (folder / "model.safetensors").read_bytes()
    log = (Path(recipe.output) / "log.jsonl").read_bytes()
    shutil.rmtree(folder)
    assert train(recipe, progress=False, resume=True) == folder
    assert (folder / "model.safetensors").read_bytes() == before
    assert (Path(recipe.output) / "log.jsonl").read_bytes() == log


# ---- signals


def interrupted_at(steps: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals within a step, by its number."""
    inner = trainer.Trainer.step

    def step(self: Any, number: int, ahead: Any) -> Any:
        for each in steps.pop(number, ()):
            os.kill(os.getpid(), each)
        return inner(self, number, ahead)

    monkeypatch.setattr(trainer.Trainer, "step", step)


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Signals do what they do in a terminal, where the tests run under nohup, too."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


STOPS: dict[str, tuple[int, type[BaseException], Any]] = {
    "Ctrl-C": (signal.SIGINT, KeyboardInterrupt, None),
    "SIGTERM": (signal.SIGTERM, SystemExit, 143),
    "SIGHUP": (signal.SIGHUP, SystemExit, 129),
}
"""Name -> signal, what is raised, exit status."""


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("validated", [False, True])
def test_c9_a_signal_saves_the_last_step_and_the_run_goes_on_from_there(
    validated: bool, name: str, made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, error, status = STOPS[name]
    validation = ValidationSettings(8, steps=3) if validated else ValidationSettings()
    whole, recipe = (made(output=where, validation=validation) for where in ("whole", "out"))
    wanted = weights(train(whole, progress=False))
    interrupted_at({4: (number,)}, monkeypatch)
    handler = signal.getsignal(number)
    message = f"this step is finished and saved, then the run stops; {name} again stops at once"
    with pytest.warns(Notice, match=message), pytest.raises(error) as raised:
        train(recipe, progress=False)
    assert getattr(raised.value, "code", None) == status
    assert signal.getsignal(number) is handler
    best = [step for step, _ in [states(recipe)[5].facts["best"] or (5, 0)]]
    assert [*states(recipe)] == sorted({*best, 5})
    assert [line["step"] for line in log_of(Path(recipe.output))] == [1, 2, 3, 4, 5]
    found = weights(train(recipe, progress=False, resume=True))
    assert all(np.array_equal(array, found[name]) for name, array in wanted.items())
    keys = ("step", "loss", "batch", "grad_norm", "learning_rate", "validation")
    logs = ([{key: line.get(key) for key in keys} for line in log_of(Path(each.output))] for each in (whole, recipe))
    assert next(logs) == next(logs)


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_c9_a_second_signal_stops_at_once(
    name: str, made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, error, _ = STOPS[name]
    interrupted_at({4: (number, number)}, monkeypatch)
    recipe = made(save_steps=3)
    with pytest.warns(Notice, match=f"{name} again stops at once"), pytest.raises(error):
        train(recipe, progress=False)
    assert [*states(recipe)] == [3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "where"), [(contrastive, "open_training_data"), (trainer, "TrainingState")], ids=["data", "state"]
)
def test_c9_a_signal_while_the_run_is_loaded_stops_it_at_once(
    module: Any, where: str, made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = getattr(module, where)

    def interrupted(*args: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args, **named)

    recipe = made()
    with monkeypatch.context() as patch:
        patch.setattr(module, where, interrupted)
        with pytest.raises(SystemExit) as raised:
            train(recipe, progress=False)
    assert raised.value.code == 143
    assert not Path(recipe.output).exists()
    train(recipe, progress=False)


def a_module(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("name", STOPS)
def test_c9_a_signal_within_an_import_is_raised_when_that_is_over(
    name: str, made: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is whole, and the run ends before its first step."""
    number, error, status = STOPS[name]
    a_module(
        tmp_path, f"lazy_{name.replace('-', '_')}", f"import os\nos.kill(os.getpid(), {number})\nx = 1", monkeypatch
    )
    found: list[int] = []

    def interrupted(*_: Any) -> Any:
        found.append(importlib.import_module(f"lazy_{name.replace('-', '_')}").x)
        while True:  # until it is raised
            signal.pause()

    recipe = made()
    monkeypatch.setattr(contrastive, "open_training_data", interrupted)
    with pytest.raises(error) as raised:
        train(recipe, progress=False)
    assert (getattr(raised.value, "code", None), found) == (status, [1])
    assert not states(recipe)


def test_c9_a_run_within_an_import_stops_at_once(
    made: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script does that trains where it is imported: only imports that the run began are waited for."""
    inner, recipe = contrastive.open_training_data, made()

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr(contrastive, "open_training_data", interrupted)
    monkeypatch.setattr(trainer, "trains_now", lambda: train(recipe, progress=False), raising=False)
    a_module(tmp_path, "trains", "from gnomon.train import trainer\ntrainer.trains_now()", monkeypatch)
    with pytest.raises(SystemExit) as raised:
        importlib.import_module("trains")
    assert raised.value.code == 143
    assert inner is not contrastive.open_training_data


@pytest.mark.parametrize("error", [None, AttributeError("partially initialized module"), RecursionError()])
def test_c9_a_signal_whose_exception_is_lost_stops_the_run_all_the_same(
    error: Exception | None, made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swallowed, or turned into another error: by what was under way."""
    inner, recipe = contrastive.open_training_data, made()

    def interrupted(*args: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            if error is not None:
                raise error from None
        return inner(*args)

    monkeypatch.setattr(contrastive, "open_training_data", interrupted)
    with pytest.raises(SystemExit) as raised:
        train(recipe, progress=False)
    assert raised.value.code == 143
    assert raised.value.__cause__ is error
    assert not states(recipe)


def test_c9_an_error_of_the_step_in_which_a_signal_came_is_told(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the signal waits for the step, and that fails by itself."""
    broken_at(4, monkeypatch)
    interrupted_at({4: (signal.SIGTERM,)}, monkeypatch)
    with pytest.warns(Notice, match="SIGTERM again"), pytest.raises(NumericError, match="step 5"):
        train(made(), progress=False)


def test_c9_a_signal_within_a_checkpoint_lets_it_be_whole(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = checkpoints.fsync_folder

    def interrupted(folder: Path) -> None:
        if folder.name.startswith(".step-00000004"):
            os.kill(os.getpid(), signal.SIGTERM)
        sync(folder)

    monkeypatch.setattr(checkpoints, "fsync_folder", interrupted)
    recipe = made(save_steps=4)
    with pytest.warns(Notice, match="SIGTERM again"), pytest.raises(SystemExit):
        train(recipe, progress=False)
    assert [*states(recipe)] == [4, 5]


@pytest.mark.slow
def test_c9_a_signal_while_the_model_is_written_lets_it_be_whole(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = trainer.save_folder

    def interrupted(*args: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*args)

    monkeypatch.setattr(trainer, "save_folder", interrupted)
    with pytest.warns(Notice, match="the model is written, then the run stops; SIGTERM again stops at once"):
        folder = train(made(), progress=False)
    assert Encoder.load(folder).encode("noon").any()


@pytest.mark.slow
def test_c9_what_nohup_has_ignored_stays_ignored(made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupted_at({4: (signal.SIGHUP,)}, monkeypatch)
        assert train(made(), progress=False)
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- runs that can learn nothing


@pytest.mark.parametrize("changes", [{"warmup_steps": 1}, {"warmup_ratio": 1.0}])
def test_c7_a_learning_rate_of_0_in_every_step_is_refused(changes: dict[str, Any], made: Callable[..., Recipe]) -> None:
    with pytest.raises(InputError, match="the learning rate is 0 in every step: warmup_steps is 1 of 1"):
        train(made(max_steps=1, **changes), progress=False)


def test_c7_one_step_with_a_share_of_warm_up_learns(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(max_steps=1, warmup_ratio=0.1)
    found, before = weights(train(recipe, progress=False)), weights(base)
    assert log_of(Path(recipe.output))[0]["learning_rate"] == 1e-3
    assert np.abs(found["embeddings.word_embeddings.weight"] - before["embeddings.word_embeddings.weight"]).max() > 1e-4


ONE_QUERY = [row | {"query": "noon"} for row in rows(40)]
ONE_POSITIVE = [row | {"positive": "noon"} for row in rows(40)]
ONE_GRADE = [row | {"score": 0.5} for row in graded(40)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        (ONE_GRADE, {"loss": LossSettings("cosent")}, "score of source 'rows' is 0.5.*cosent"),
        (ONE_QUERY, {"duplicates": "keep"}, "row of source 'rows' has the same query"),
        (ONE_QUERY, {"duplicates": "keep", "loss": LossSettings(directions="symmetric")}, "has the same query"),
        (ONE_POSITIVE, {"duplicates": "keep"}, "row of source 'rows' has the same positive"),
    ],
)
def test_c7_rows_that_can_teach_nothing_are_refused(
    lines: list[dict[str, Any]], changes: dict[str, Any], message: str, made: Callable[..., Recipe]
) -> None:
    with pytest.raises(InputError, match=rf"{message}.*nothing can be learned"):
        train(made(lines, **changes), progress=False)


def test_c7_a_source_is_left_out_where_there_are_others(made: Callable[..., Recipe]) -> None:
    one = made(ONE_GRADE, loss=LossSettings("cosent"))
    for recipe in (one, replace(one, sources=(one.sources[0], replace(one.sources[0], name="same")))):
        with pytest.raises(InputError, match="Give rows whose scores differ") as raised:
            train(recipe, progress=False)
        assert ("leave the source out" in str(raised.value)) is (recipe is not one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "changes"),
    [
        (ONE_QUERY, {"loss": LossSettings(mask_duplicates=False)}),
        (ONE_QUERY, {"loss": LossSettings(directions="gte")}),
        (ONE_POSITIVE, {"loss": LossSettings(directions="gte")}),
        ([row | {"query": "noon"} for row in rows(40, negatives=1)], {}),
        (ONE_GRADE, {"loss": LossSettings("cosine_regression")}),
    ],
)
def test_c7_rows_that_teach_something_are_not(
    lines: list[dict[str, Any]], changes: dict[str, Any], made: Callable[..., Recipe]
) -> None:
    recipe = made(lines, duplicates="keep", max_steps=2, **changes)
    train(recipe, progress=False)
    assert all(line["grad_norm"] > 1e-6 for line in log_of(Path(recipe.output)))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cosine_distillation", "distill_kl"])
def test_c7_a_model_that_is_its_own_teacher_is_refused(loss: Any, made: Callable[..., Recipe], base: Path) -> None:
    """By whatever path, without dropout; with it, or with other prompts or a shorter length, there is something."""
    other = shutil.copytree(base, base.parent / "again")
    recipe = made(loss=LossSettings(loss, teacher=str(other)), max_steps=2, **STILL)
    with pytest.raises(InputError, match=rf"loss.teacher is .*the model itself.*dropout.*{loss}") as raised:
        train(recipe, progress=False)
    hint, value = {
        "cosine_distillation": ("loss.distillation_target='query'", {"distillation_target": "query"}),
        "distill_kl": ("loss.teacher_temperature", {"teacher_temperature": 0.5}),
    }[loss]
    assert hint in str(raised.value)
    train(replace(recipe, loss=replace(recipe.loss, **value), output=f"{recipe.output}-hint"), progress=False)
    prompted = tuple(replace(source, query_prompt="where is ") for source in recipe.sources)
    for number, changes in enumerate(({"dropout": 0.1}, {"max_seq_length": 4}, {"sources": prompted})):
        one = replace(recipe, output=f"{recipe.output}{number}", **changes)
        train(one, progress=False)
        assert log_of(Path(one.output))[0]["grad_norm"] > 1e-3


@pytest.mark.slow
def test_c7_a_step_without_a_gradient_is_told_and_counted(made: Callable[..., Recipe], tmp_path: Path) -> None:
    """A source of two queries, whose batches of two rows are of one at times; two more sources always teach."""
    halves = [row | {"query": f"{('noon', 'light')[at % 2]}"} for at, row in enumerate(rows(40))]
    two = replace(write(tmp_path / "two.jsonl", halves), name="two")
    recipe = made(duplicates="keep", batch_size=2, max_steps=12)
    recipe = replace(recipe, sources=(two,))
    with pytest.warns(Notice, match=r"source 'two' \(2 rows\): the gradient is 0.*info_nce") as seen:
        folder = train(recipe, progress=False)
    assert len(seen) == 1
    without = [line["step"] for line in log_of(Path(recipe.output)) if line["grad_norm"] == 0]
    assert 2 <= len(without) <= 10
    assert str(seen[0].message).startswith(f"step {without[0]}, ")
    card = (folder / "README.md").read_text("utf-8")
    assert f"- In {len(without)} of them the gradient was 0: their rows taught nothing." in card


@pytest.mark.slow
def test_c7_a_run_that_learned_nothing_writes_no_model(made: Callable[..., Recipe], base: Path, tmp_path: Path) -> None:
    """A guide that leaves every negative out; the model of the earlier run stays."""
    earlier = weights(train(made(), progress=False))
    guide = saved(bert(), tmp_path / "guide", seed=1)
    gist = LossSettings("gist", guide=str(guide), margin=5.0)
    recipe = made(loss=gist, max_steps=3)
    message = r"nothing was learned in 3 steps: the gradient or the learning rate of each was 0 .*gist.* The guide may"
    with pytest.warns(Notice, match=r"the gradient is 0.*gist"), pytest.raises(NumericError, match=message):
        train(recipe, progress=False, overwrite=True)
    found = weights(Path(recipe.output) / "model")
    assert all(np.array_equal(array, found[name]) for name, array in earlier.items())


def test_c7_a_model_that_is_as_it_was_is_told(made: Callable[..., Recipe], base: Path) -> None:
    with pytest.warns(Notice, match=r"nothing was learned.*learning_rate"):
        folder = train(made(max_steps=2, learning_rate=1e-30), progress=False)
    assert all(np.array_equal(array, weights(folder)[name]) for name, array in weights(base).items())


@pytest.mark.slow
def test_pooling_of_several_modes_and_no_normalize_is_trained(made: Callable[..., Recipe], tmp_path: Path) -> None:
    spec = bert(pooling=PoolingSpec(("cls", "max", "mean")), normalizes=False, wide=(12,))
    recipe = made(model=saved(spec, tmp_path / "other"), max_steps=3)
    folder = train(recipe, progress=False)
    theirs = in_sentence_transformers(folder)
    assert_same(Encoder.load(folder).encode([*texts()]), theirs.encode([*texts()], show_progress_bar=False))


# ---- what is held out, left out and counted


def seen_by(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[BatchRows]:
    """The rows of every batch that a run trains on."""
    found: list[BatchRows] = []
    add = contrastive.ContrastiveObjective.training_step

    def noted(self: Any, model: Any, batch: Any) -> float:
        found.append(batch.rows)
        return add(self, model, batch)

    monkeypatch.setattr(contrastive.ContrastiveObjective, "training_step", noted)
    train(recipe, progress=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("duplicates", ["keep", "skip"])
def test_c3_no_held_out_query_is_trained_on_from_any_source(
    duplicates: Any, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that stand twice, in other case, and the other way round in a second source."""
    some = rows(40)
    first = write(tmp_path / "first.jsonl", [*some, *some])
    turned = [{"query": row["positive"], "positive": row["query"].upper() + " "} for row in some]
    second = write(tmp_path / "second.jsonl", [*turned, *rows(40, seed=5)])
    recipe = recipe_of(
        base, tmp_path / "out", first, second, duplicates=duplicates, validation=ValidationSettings(10), max_steps=60
    )
    data = data_of(recipe)
    held = {text.lower().strip() for each in data.collate_held_out() for text in each.rows.queries}
    assert len(held) > 12
    trained = seen_by(recipe, monkeypatch)
    texts_ = {text.lower().strip() for each in trained for text in (*each.queries, *each.positives)}
    assert len(trained) == 60 and not held & texts_
    card = (tmp_path / "out" / "model" / "README.md").read_text("utf-8")
    apart = [data.sampler.count_excluded(source) for source in range(2)]
    assert min(apart) > 0
    assert f"- 20 rows were held out, and {sum(apart)} more were left out since they have a query of those." in card


@pytest.mark.slow
def test_c6_short_batches_are_told_of_and_epochs_count_rows(tmp_path: Path, base: Path) -> None:
    """Twelve of 96 rows have a positive of their own, all others the same one."""
    lines = [row | {"positive": "noon"} if at >= 12 else row for at, row in enumerate(rows(96))]
    source = write(tmp_path / "few.jsonl", lines)
    recipe = recipe_of(base, tmp_path / "out", source, batch_size=12, max_steps=None, logging_steps=1)
    data = data_of_quietly(recipe)
    mean = sum(len(data.sampler.batch_at(batch).rows_B) for batch in range(8)) / 8
    steps = -int(-96 // mean)
    assert 6 < mean < 11 and steps > 8
    with pytest.warns(Notice, match=rf"'few': batches have {mean:.3g} rows .* 12\..* takes {steps:,} such"):
        train(recipe, progress=False)
    log = log_of(tmp_path / "out")
    drawn = [data.sampler.batch_at(batch) for batch in range(steps)]
    rows_ = sum(len(each.rows_B) for each in drawn)
    assert (len(log), sum(line["rows"] for line in log)) == (steps, rows_)
    assert abs(rows_ - 96) <= 12
    card = (tmp_path / "out" / "model" / "README.md").read_text("utf-8")
    seen = len({row for each in drawn for row in each.rows_B.tolist()})
    replaced, missing = sum(each.replaced for each in drawn), 12 * steps - rows_
    assert f"- {rows_} rows were trained on, of one source in each batch: {seen} different ones of 96." in card
    assert f"- {96 - seen} rows were never seen." in card
    assert f"- {replaced + missing} rows could not stand where they were due" in card
    assert f": {replaced} were replaced by other rows, {missing} by none." in card
    assert f"- {sum(len(each.rows_B) < 12 for each in drawn)} batches were short" in card


def data_of_quietly(recipe: Recipe, model: Any = None) -> TrainingData:
    with warnings.catch_warnings(action="ignore"):
        return data_of(recipe, model)


@pytest.mark.slow
def test_c6_the_first_short_batch_is_told_of_once(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batches that are drawn beforehand were full."""
    monkeypatch.setattr(Sampler, "mean_batch_rows", lambda self, source: 8.0)
    lines = [row | {"positive": f"noon {WORDS[min(at, 7)]}"} for at, row in enumerate(rows(40))]
    recipe = recipe_of(base, tmp_path / "out", write(tmp_path / "few.jsonl", lines))
    with pytest.warns(Notice, match=r"'few': batches have \d rows .* 8\.") as caught:
        train(recipe, progress=False)
    assert len(caught) == 1


@pytest.mark.slow
def test_c6_what_was_seen_is_counted_over_a_resume(tmp_path: Path, base: Path) -> None:
    source = write(tmp_path / "some.jsonl", rows(100))
    recipe = recipe_of(base, tmp_path / "out", source, max_steps=9, save_steps=3)
    with pytest.raises(RuntimeError, match="no more"), pytest.MonkeyPatch.context() as patch:
        step = trainer.Trainer.step

        def stops(self: Any, number: int, ahead: Any) -> Any:
            if number == 5:
                raise RuntimeError("no more")
            return step(self, number, ahead)

        patch.setattr(trainer.Trainer, "step", stops)
        train(recipe, progress=False)
    card = (train(recipe, resume=True, progress=False) / "README.md").read_text("utf-8")
    assert "- 72 rows were trained on, of one source in each batch: 72 different ones of 100." in card
    assert "- 28 rows were never seen." in card


def test_c11_queries_that_are_all_held_out_name_validation_rows(tmp_path: Path, base: Path) -> None:
    lines = [row | {"query": f"q {WORDS[at % 10]}"} for at, row in enumerate(rows(200))]
    source = write(tmp_path / "few.jsonl", lines)
    with pytest.raises(InputError, match=r"'few' has 200 rows: 40 .*validation.rows.* 160 more .* 0 left") as error:
        train(recipe_of(base, tmp_path / "out", source, validation=ValidationSettings(40)), progress=False)
    assert "batch_size" in str(error.value)


def test_c12_rows_with_several_positives_are_told_of(tmp_path: Path, base: Path) -> None:
    lines = [{"query": row["query"], "pos": [row["positive"], f"{row['positive']} noon"]} for row in rows(20)]
    source = replace(write(tmp_path / "flag.jsonl", lines), positive="pos")
    with pytest.warns(Notice, match=r"'flag': 20 rows make 40.*positives"):
        train(recipe_of(base, tmp_path / "out", source, max_steps=2), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
def test_c14_negatives_that_are_their_rows_own_texts_are_counted_and_masked(
    mask: bool, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    """An uncased model reads PARIS as Paris: a loss that leaves them out is that of other negatives."""
    lines = [row | {"negatives": [row["negatives"][0]]} for row in rows(8, negatives=1)]
    for at, own in enumerate(("query", "positive")):
        lines[at]["negatives"] = [lines[at][own].upper() + " "]
    source = write(tmp_path / "rows.jsonl", lines)
    loss = LossSettings(mask_duplicates=mask)
    recipe = recipe_of(golden_folder(DISTILBERT), tmp_path / "out", source, max_steps=1, loss=loss, **STILL)
    fate = "left out of the loss" if mask else "trained as negatives"
    with pytest.warns(Notice, match=rf"'rows': 2 negatives .*{fate}.* The first is in .*rows.jsonl, line 1"):
        folder = train(recipe, progress=False)
    card = (folder / "README.md").read_text("utf-8")
    assert re.search(rf"- 2 negatives were, .* own row, and were {fate}", card)
    some = data_of_quietly(recipe).collator.read_rows(SampledBatch(0, 0, np.arange(8)))
    encoder = Encoder.load(recipe.model, device="cpu", threads=1)
    q, p, n = (
        torch.from_numpy(encoder.encode(side, prompt="")) for side in (some.queries, some.positives, some.negatives)
    )
    apart = torch.zeros(8, 16, dtype=torch.bool)
    if mask:
        apart[0, 8] = apart[1, 9] = True
    (line,) = log_of(tmp_path / "out")
    assert line["loss"] == pytest.approx(losses.info_nce(q, p, n, doc_mask_BC=apart).item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("duplicates", ["skip", "keep"])
def test_c12_c14_a_negative_that_is_another_positive_of_its_row_is_counted_and_masked(
    duplicates: Any, mask: bool, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    """Of 40 rows with two positives each, whose first negative is the second positive in other letters."""
    lines = [
        {"query": f"q {word}", "pos": [f"alpha {word}", f"beta {word}"], "n": [f"BETA {word}", f"gamma {word}"]}
        for word in WORDS[:40]
    ]
    source = replace(write(tmp_path / "rows.jsonl", lines), positive="pos", negatives=("n",))
    model, loss = golden_folder(DISTILBERT), LossSettings(mask_duplicates=mask)
    recipe = recipe_of(model, tmp_path / "out", source, max_steps=10, loss=loss, duplicates=duplicates, **STILL)
    fate = "left out of the loss" if mask else "trained as negatives"
    with warnings.catch_warnings(record=True, action="always") as caught:
        folder = train(recipe, progress=False)
    message = [str(each.message) for each in caught if "80 negatives" in str(each.message)]
    assert len(message) == 1
    assert re.match(rf"Source 'rows': 80 negatives .*{fate}.* in .*rows.jsonl, line 1\.", message[0])
    card = (folder / "README.md").read_text("utf-8")
    assert "- 80 rows were trained on, of one source in each batch: 80 different ones of 80." in card
    assert re.search(rf"- 80 negatives were, .* own row, and were {fate}", card)
    data = data_of_quietly(recipe, read_folder(resolve_source(recipe.model)))
    batch = data.collator.collate(data.sampler.batch_at(0))
    some = batch.rows
    assert batch.false_negatives_N.tolist() == [True, False] * 8
    encoder = Encoder.load(recipe.model, device="cpu", threads=1)
    q, p, n = (
        torch.from_numpy(encoder.encode(side, prompt="")) for side in (some.queries, some.positives, some.negatives)
    )
    answers = [each.casefold() for each in (*some.positives, *some.negatives)]
    apart = torch.tensor(
        [[mask and text in (f"alpha {q[2:]}", f"beta {q[2:]}") for text in answers] for q in some.queries]
    )
    first = log_of(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(losses.info_nce(q, p, n, doc_mask_BC=apart).item(), rel=1e-4)


def test_c12_c14_a_cased_model_tells_other_positives_apart(tmp_path: Path, base: Path) -> None:
    lines = [{"query": row["query"], "pos": [row["positive"], row["query"]]} for row in rows(8)]
    for at, row in enumerate(lines):
        row["n"] = [row["pos"][1].title() if at else row["pos"][0]]
    source = replace(write(tmp_path / "rows.jsonl", lines), positive="pos", negatives=("n",))
    data = data_of_quietly(recipe_of(base, tmp_path / "out", source))
    index = data.datasets[0]
    assert (index.rows, index.false_negatives) == (16, 16)
    assert data.collator.find_false_negatives(0, index.false_negative_entries).tolist() == [True] * 2 + [False] * 14


def test_c14_a_cased_model_tells_them_apart(tmp_path: Path, base: Path) -> None:
    """The words of the little model are lower case: in capitals they are unknown to it, and all alike."""
    lines = rows(8, negatives=1)
    lines[0]["negatives"] = [lines[0]["positive"].title()]
    recipe = recipe_of(base, tmp_path / "out", write(tmp_path / "rows.jsonl", lines), max_steps=1)
    data = data_of(recipe)
    assert data.datasets[0].false_negatives == 1
    card = (train(recipe, progress=False) / "README.md").read_text("utf-8")
    assert "own row" not in card


def test_c15_a_run_reads_a_file_again_whose_content_changed(tmp_path: Path, base: Path) -> None:
    """Of the same size and the same time."""
    lines = rows(40)
    source = write(tmp_path / "rows.jsonl", lines)
    recipe = recipe_of(base, tmp_path / "out", source, max_steps=1)
    before = data_of(recipe).fingerprints
    path = tmp_path / "rows.jsonl"
    status = path.stat()
    write(path, [*lines[1:], lines[0]])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = data_of(recipe)
    assert after.fingerprints != before
    assert after.datasets[0].texts("query", np.array([0])) == [lines[1]["query"]]
