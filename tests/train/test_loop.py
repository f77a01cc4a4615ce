"""A run from its recipe to the folder that it leaves: what is learnt, written, logged and said.

B: rows of a batch; D: width of a vector.
"""

import json
import os
import random
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import DISTILBERT, E5, GIST, GTE, STELLA, assert_same
from little_runs import (
    BERT,
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
from sentence_transformers import SentenceTransformer
from torch import Tensor

from gnomon import Encoder, losses
from gnomon.errors import InputError, Notice, NumericError
from gnomon.evaluate.prompts import prompt_for
from gnomon.spec import SYMMETRIC, PoolingSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train import checkpoints, loop, stages, train
from gnomon.train.collate import Rows
from gnomon.train.learner import Learner
from gnomon.train.prepare import Data, open_data
from gnomon.train.ranks import Ranks
from gnomon.train.recipe import read
from gnomon.train.settings import (
    DataSource,
    LoraSettings,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    Recipe,
    ValidationSettings,
)

STILL = {"dropout": 0.0, "attention_dropout": 0.0}


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


def data_of(recipe: Recipe, model: Any = None) -> Data:
    one = model or checkpoint(bert())
    return open_data(recipe, one.spec, Tokenizer(one.tokenizer, one.spec.tokenizer), Ranks(), progress=False)


def states(recipe: Recipe) -> dict[int, checkpoints.State]:
    found = checkpoints.steps(Path(recipe.output) / "checkpoints")
    return {step: checkpoints.load(path) for step, path in found.items()}


def moments(recipe: Recipe, step: int) -> dict[str, Tensor]:
    """Of each parameter, the moving average of its gradients."""
    state = checkpoints.part(states(recipe)[step].tensors, "optimizer.")
    return {name.removesuffix(".exp_avg"): each for name, each in state.items() if name.endswith(".exp_avg")}


# ---- what a run leaves


def test_a_run_leaves_its_recipe_log_checkpoints_and_model(made: Callable[..., Recipe]) -> None:
    recipe = made(save_steps=4)
    folder = train(recipe, progress=False)
    output = Path(recipe.output)
    assert folder == output / "model"
    assert sorted(path.name for path in output.iterdir()) == ["checkpoints", "log.jsonl", "model", "recipe.toml"]
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


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("name", [DISTILBERT, E5, GIST])
def test_the_model_opens_in_sentence_transformers_with_the_same_vectors(
    name: str, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    source = write(tmp_path / "rows.jsonl", rows(40))
    folder = train(recipe_of(golden_folder(name), tmp_path / "out", source, max_steps=3), progress=False)
    ours = Encoder.load(folder, device="cpu", threads=1)
    some = [*texts(), "naïve café", "x"]
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    wanted = theirs.encode(some, show_progress_bar=False)
    assert_same(ours.encode(some, prompt=""), wanted)
    before = Encoder.load(golden_folder(name), device="cpu", threads=1).encode(some, prompt="")
    assert np.abs(before - wanted).max() > 1e-3, "it has learnt something"


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


@pytest.mark.parametrize("model2vec", [False, True])
def test_a_static_table_is_trained(model2vec: bool, made: Callable[..., Recipe], tmp_path: Path) -> None:
    model = saved(static(model2vec=model2vec), tmp_path / "static")
    recipe = made(translated(200), model=model, max_steps=60, learning_rate=0.03, batch_size=32)
    recipe = replace(recipe, validation=ValidationSettings(40))
    folder = train(recipe, progress=False)
    scores = states(recipe)[60].facts["tally"]["scores"]
    assert scores["60"]["rows"] > scores["0"]["rows"] + 0.2
    ours = Encoder.load(folder)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert_same(ours.encode([*texts()]), theirs.encode([*texts()], show_progress_bar=False))
    unknown = ours.encode("zebra")
    assert bool(unknown.any()) is not model2vec


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


def vectors_of(folder: Path, some: Rows) -> tuple[Tensor, Tensor, Tensor]:
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
        lambda q, p, n, **_: losses.info_nce(q, p, directions=losses.SYMMETRIC, partition_mode="per_direction"),
    ),
    "gte": (
        LossSettings(directions="gte", temperature=0.1),
        rows(60),
        lambda q, p, n, **_: losses.info_nce(q, p, directions=losses.GTE, temperature=0.1),
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
        lambda q, p, n, guide, **_: losses.gist(q, p, n, guide=losses.guide_blocks(*guide), temperature=0.1),
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
        LossSettings("cosine_distillation", teacher="teacher", taught="query"),
        rows(60),
        lambda q, p, n, guide, **_: losses.cosine_distillation(
            torch.cat([q, p]), torch.cat([guide[0]] * 2)[:, : q.shape[1]]
        ),
    ),
}


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
    some = data.collator.rows_at(data.sampler.batch_at(0))
    told = {"guide": vectors_of(guide, some) if guide else None}
    told["scores"] = None if some.scores is None else torch.from_numpy(some.scores).float()
    vectors = vectors_of(base, some)
    if widths is None:
        wanted = plain(*vectors, **told)
    else:
        cut = {dim: [torch.nn.functional.normalize(side[..., :dim], dim=-1) for side in vectors] for dim in widths.dims}
        wanted = 0.5 * plain(*cut[4], **told) + plain(*cut[16], **told)
    assert log[0]["loss"] == pytest.approx(wanted.item(), rel=2e-5, abs=1e-6)
    assert log[0]["grad_norm"] > 1e-3
    assert log[1]["loss"] != log[0]["loss"]


def test_prompts_of_a_source_stand_in_front(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(max_steps=1, **STILL)
    (source,) = recipe.sources
    recipe = replace(recipe, sources=(replace(source, query_prompt="where is ", document_prompt="old "),))
    folder = train(recipe, progress=False)
    data = data_of(recipe)
    some = data.collator.rows_at(data.sampler.batch_at(0))
    prompted = replace(
        some,
        queries=["where is " + text for text in some.queries],
        positives=["old " + text for text in some.positives],
    )
    q, p, _ = vectors_of(base, prompted)
    (line,) = log_of(Path(recipe.output))
    assert line["loss"] == pytest.approx(losses.info_nce(q, p).item(), rel=2e-5)
    assert Encoder.load(folder).prompts == {"query": "where is ", "document": "old "}


@pytest.mark.parametrize(
    ("prompts", "own", "declared"),
    [
        ([("q: ", "d: "), ("q: ", "d: ")], {}, {"query": "q: ", "document": "d: "}),
        ([("q: ", None), ("q: ", None)], {}, {"query": "q: "}),
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


def trained_with(prompts: list[Any], recipe: Recipe) -> Encoder:
    (source,) = recipe.sources
    sources = [
        replace(source, name=f"s{place}", query_prompt=query, document_prompt=document)
        for place, (query, document) in enumerate(prompts)
    ]
    return Encoder.load(train(replace(recipe, sources=tuple(sources)), progress=False))


@pytest.mark.parametrize(
    ("prompts", "own", "said", "declared"),
    [
        ([("q: ", "d: "), ("other: ", "d: ")], {}, ["query_prompt: 'q: ' (s0), 'other: ' (s1)"], {"document": "d: "}),
        (
            [("q: ", "d: "), (None, None)],
            {},
            ["query_prompt: 'q: ' (s0), '' (s1)", "document_prompt: 'd: ' (s0), '' (s1)"],
            {},
        ),
        (
            [("q: ", "d: "), ("q: ", None)],
            {"query": "mine: "},
            ["document_prompt: 'd: ' (s0), '' (s1)"],
            {"query": "q: "},
        ),
        ([("mine: ", "d: "), (None, "d: ")], {"query": "mine: "}, [], {"query": "mine: ", "document": "d: "}),
        (
            [("q: ", None), (None, None), ("q: ", None)],
            {"query": "mine: "},
            ["query_prompt: 'q: ' (s0), 'mine: ' (s1). "],
            {"query": "mine: "},
        ),
    ],
)
def test_c4_what_agrees_of_the_sources_prompts_is_declared_and_the_rest_is_said(
    prompts: list[Any],
    own: dict[str, str],
    said: list[str],
    declared: dict[str, str],
    made: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    recipe = made(max_steps=1, model=saved(bert(prompts=own), tmp_path / "own"))
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        assert trained_with(prompts, recipe).prompts == declared
    told = [str(each.message) for each in notices if each.category is Notice]
    assert len(told) == len(said)
    for notice, words in zip(told, said, strict=True):
        assert words in notice
        assert repr(own.get("query" if "query_prompt" in words else "document", "")) in notice.partition(". ")[2]


@pytest.mark.parametrize(
    ("own", "prompts", "default"),
    [
        ({}, {"query": "same: ", "document": "same: "}, "query"),
        (
            {"prompts": {"query": "q: "}},
            {"query": "q: ", "symmetric": "same: "},
            "symmetric",
        ),
        (
            {"prompts": {"query": "q: ", "sts": "s: "}, "query_prompt_names": {SYMMETRIC: "sts"}},
            {"query": "q: ", "sts": "s: ", "symmetric": "same: "},
            "symmetric",
        ),
        (
            {"prompts": {"query": "q: ", "sts": "same: "}, "query_prompt_names": {SYMMETRIC: "sts"}},
            {"query": "q: ", "sts": "same: "},
            "sts",
        ),
    ],
    ids=["none", "query", "another", "the same"],
)
def test_c5_one_prompt_on_both_sides_of_graded_pairs_is_the_default(
    own: dict[str, Any], prompts: dict[str, str], default: str, made: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Here and in sentence-transformers; and STS is evaluated with it."""
    recipe = made(graded(40), max_steps=2, model=saved(bert(**own), tmp_path / "own"), loss=LossSettings("cosent"))
    ours = trained_with([("same: ", "same: ")], recipe)
    assert (ours.prompts, ours.spec.default_prompt_name) == (prompts, default)
    some = [*texts()]
    wanted = ours.encode(some, prompt="same: ")
    assert np.abs(wanted - ours.encode(some, prompt="")).max() > 1e-3
    assert_same(ours.encode(some), wanted)
    theirs = SentenceTransformer(str(Path(recipe.output) / "model"), device="cpu")
    assert_same(np.asarray(theirs.encode(some)), wanted)
    assert prompt_for(ours.spec, task="STSBenchmark", kind="STS", side=None).text == "same: "
    if not own:
        assert_same(ours.encode_query(some), wanted)
        assert_same(np.asarray(theirs.encode_document(some)), wanted)


def test_c5_graded_pairs_without_a_prompt_leave_no_default(made: Callable[..., Recipe], tmp_path: Path) -> None:
    model = saved(bert(prompts={"query": "q: ", "sts": "s: "}, default_prompt_name="sts"), tmp_path / "own")
    recipe = made(graded(40), max_steps=1, model=model, loss=LossSettings("cosent"))
    ours = trained_with([("", "")], recipe)
    assert (ours.prompts, ours.spec.default_prompt_name) == ({"query": "q: ", "sts": "s: "}, None)
    kept = trained_with([(None, None)], replace(recipe, output=str(tmp_path / "kept")))
    assert (kept.prompts, kept.spec.default_prompt_name) == ({"query": "q: ", "sts": "s: "}, "sts")


def test_c5_two_prompts_of_graded_pairs_are_those_of_queries_and_documents(made: Callable[..., Recipe]) -> None:
    recipe = made(graded(40), max_steps=1, loss=LossSettings("cosent"))
    ours = trained_with([("q: ", "d: ")], recipe)
    assert (ours.prompts, ours.spec.default_prompt_name) == ({"query": "q: ", "document": "d: "}, None)


def test_c6_short_batches_are_said_at_once_and_the_card_counts_what_was_seen(made: Callable[..., Recipe]) -> None:
    """400 rows with four negatives each out of 60 documents, which are left in the loss, wherever they stand."""
    rng = np.random.default_rng(0)
    documents = [row["positive"] for row in rows(60, seed=5)]
    lines = [
        {"query": row["query"], "positive": documents[at % 60], "negatives": [documents[(at + d) % 60] for d in (1, 2)]}
        for at, row in enumerate(rows(120))
    ]
    lines = [lines[at] for at in rng.permutation(120)]
    loss = LossSettings(mask_duplicates=False)
    recipe = made(lines, batch_size=32, max_steps=None, num_train_epochs=2, loss=loss)
    with pytest.warns(
        Notice, match=r"'rows': batches hold \d+(\.\d)? rows of 32.*negatives.*2 epochs .* take \d+ "
    ) as told:
        folder = train(recipe, progress=False)
    assert len([each for each in told if "batches hold" in str(each.message)]) == 1
    log, card = log_of(Path(recipe.output)), (folder / "README.md").read_text("utf-8")
    trained = sum(line["rows"] for line in log)
    assert max(line["rows"] for line in log) < 32
    assert trained == pytest.approx(240, rel=0.1), "epochs are counted in rows"
    with warnings.catch_warnings(action="ignore"):
        drawn = [data_of(recipe).sampler.batch_at(batch) for batch in range(len(log))]
    seen = len({row for each in drawn for row in each.rows_B.tolist()})
    assert [len(each.rows_B) for each in drawn] == [line["rows"] for line in log]
    assert f"- {trained} rows were trained on, of one source in each batch: {seen} different ones of 120." in card
    assert f"- {120 - seen} rows were never seen." in card
    assert f"- {sum(each.skipped for each in drawn)} times a row was left out" in card
    assert f"- {sum(each.replaced for each in drawn)} times another row" in card
    assert f"- {len(log)} batches could not be filled" in card
    assert seen >= 100


def test_c6_rows_that_share_their_negatives_are_all_trained_on(made: Callable[..., Recipe]) -> None:
    """The loss leaves out a negative that answers the query, so nothing keeps these rows apart but their positives."""
    documents = [row["positive"] for row in rows(60, seed=5)]
    lines = [
        {"query": row["query"], "positive": documents[at % 60], "negatives": [documents[(at + d) % 60] for d in (1, 2)]}
        for at, row in enumerate(rows(120))
    ]
    recipe = made(lines, batch_size=24, max_steps=None)
    card = (train(recipe, progress=False) / "README.md").read_text("utf-8")
    assert [line["rows"] for line in log_of(Path(recipe.output))] == [24] * 5
    seen = re.search(r"- 120 rows were trained on, of one source in each batch: (\d+) different ones of 120\.", card)
    assert seen and int(seen[1]) >= 116
    assert f"- {120 - int(seen[1])} rows were never seen." in card


@pytest.mark.parametrize("duplicates", ["keep", "skip"])
def test_c3_no_held_out_query_is_trained_on_and_the_card_counts_them(
    duplicates: Any, made: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Every row stands twice, and once more in another source, whose positive it is."""
    some = rows(40)
    turned = [{"query": row["positive"], "positive": row["query"].upper()} for row in some]
    other = replace(write(tmp_path / "turned.jsonl", turned + rows(40, seed=9)), name="turned")
    recipe = made([*some, *some], duplicates=duplicates, validation=ValidationSettings(5), max_steps=40)
    recipe = replace(recipe, sources=(*recipe.sources, other))
    card = (train(recipe, progress=False) / "README.md").read_text("utf-8")
    data = data_of(recipe)
    held = {text.lower() for each in data.held_out() for text in each.rows.queries}
    assert len(held) >= 9
    trained = [data.collator.rows_at(data.sampler.batch_at(batch)) for batch in range(40)]
    assert not held & {text.lower() for each in trained for text in each.queries + each.positives}
    apart = [data.sampler.kept_apart(source) for source in (0, 1)]
    assert f"- 10 rows were held out, and {sum(apart)} more were left out since they have a query of those." in card
    assert min(apart) >= 4


def test_c14_own_negatives_are_found_by_tokens_said_and_counted(made: Callable[..., Recipe], tmp_path: Path) -> None:
    """Of 40 rows one has its query as a negative, one its positive; the model tells case apart, so a third is none."""
    lines = rows(40, negatives=2)
    lines[3]["negatives"][0] = "  ".join(lines[3]["query"].split())
    lines[7]["negatives"][1] = lines[7]["positive"]
    lines[9]["negatives"][1] = lines[9]["positive"].title()
    recipe = made(lines, max_steps=None)
    with pytest.warns(Notice, match=r"'rows': 2 negatives are.* left out of the loss.*rows40.jsonl, line 4\."):
        folder = train(recipe, progress=False)
    card = (folder / "README.md").read_text("utf-8")
    assert re.search(r"- 2 negatives were, .* own row, and were left out of the loss\.\n", card)
    recipe = replace(recipe, output=str(tmp_path / "kept"), loss=LossSettings(mask_duplicates=False))
    with pytest.warns(Notice, match=r"'rows': 2 negatives are.* trained as negatives"):
        folder = train(recipe, progress=False)
    assert "own row, and were trained as negatives." in (folder / "README.md").read_text("utf-8")


def test_c12_rows_with_several_positives_are_said(made: Callable[..., Recipe]) -> None:
    lines = [row | {"positive": [row["positive"], f"old {row['positive']}"]} for row in rows(20)]
    recipe = made(lines, max_steps=None)
    with pytest.warns(Notice, match="'rows': .*40 rows of 20"):
        folder = train(recipe, progress=False)
    assert len(log_of(Path(recipe.output))) == 5
    assert "| rows | 40 |" in (folder / "README.md").read_text("utf-8")


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


@pytest.mark.parametrize(("most", "clipped"), [(0.5, True), (0.0, False), (1e6, False)])
def test_a_gradient_is_clipped(most: float, clipped: bool, made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=1, max_grad_norm=most)
    train(recipe, progress=False)
    (line,) = log_of(Path(recipe.output))
    norm = torch.cat([each.flatten() / 0.1 for each in moments(recipe, 1).values()]).norm().item()
    assert line["grad_norm"] > 1
    assert norm == pytest.approx(most if clipped else line["grad_norm"], rel=1e-4)


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


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"chunk_tokens": 20}, 1e-3),
        ({"bf16": True}, 0.15),
        ({"length_buckets": True}, None),
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
    told = "freeze has 'layer.0', and no array's name begins so; they begin with embed, layers.0, layers.1"
    with pytest.raises(InputError, match=told):
        train(made(freeze=("layer.0",)), progress=False)
    with pytest.raises(InputError, match="every parameter is frozen"):
        train(made(freeze=("embed", "layers")), progress=False)


def test_low_rank_parts_are_merged_into_what_is_written(made: Callable[..., Recipe], base: Path) -> None:
    recipe = made(max_steps=5, lora=LoraSettings(r=2, alpha=6.0, dropout=0.1, targets=("query", "down")))
    found, before = weights(train(recipe, progress=False)), weights(base)
    state = states(recipe)[5].tensors
    assert {name.rpartition(".")[2] for name in state if name.startswith("model.")} == {"lora_a", "lora_b"}
    theirs = {"query": "attention.self.query", "down": "output.dense"}
    for layer in range(BERT.layers):
        for ours, name in theirs.items():
            a, b = (state[f"model.trunk.layers.{layer}.{ours}.lora_{which}"].numpy() for which in "ab")
            key = f"encoder.layer.{layer}.{name}.weight"
            np.testing.assert_allclose(found[key], before[key] + 3.0 * b @ a, rtol=1e-5, atol=1e-7)
            assert np.abs(b).max() > 1e-4
    changed = {name for name, array in found.items() if not np.array_equal(array, before[name])}
    assert changed == {
        f"encoder.layer.{layer}.{name}.weight" for layer in range(BERT.layers) for name in theirs.values()
    }


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


def test_a_run_in_a_thread_is_the_same(made: Callable[..., Recipe]) -> None:
    here = weights(train(made(output="here"), progress=False))
    there: list[dict[str, np.ndarray]] = []
    thread = threading.Thread(target=lambda: there.append(weights(train(made(output="there"), progress=False))))
    thread.start()
    thread.join()
    assert all(np.array_equal(there[0][name], here[name]) for name in here)


# ---- averages and validation


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
        for name, parameter in Learner(recipe, checkpoint(bert()), Ranks()).model.named_parameters()
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


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_best_step_is_kept_and_written(keep_best: bool, ema: float | None, made: Callable[..., Recipe]) -> None:
    """Of equals the first; the last n checkpoints beside it."""
    scores = iter(SCORES)
    validation = ValidationSettings(steps=2, keep_best=keep_best)
    recipe = made(save_total_limit=2, ema_decay=ema, validation=validation)
    folder = train(recipe, progress=False, evaluate=lambda _: next(scores))
    assert [*states(recipe)] == ([4, 8, 10] if keep_best else [8, 10])
    chosen = 4 if keep_best else 10
    name = "ema.trunk.embed.tokens" if ema else "model.trunk.embed.tokens"
    written = weights(folder)["embeddings.word_embeddings.weight"]
    assert np.array_equal(written, states(recipe)[chosen].tensors[name].numpy())
    card = (folder / "README.md").read_text("utf-8")
    assert ("the weights are those behind step 4, the best of them" in card) is keep_best
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


def test_scores_on_held_out_rows_stand_in_the_log_and_the_card(made: Callable[..., Recipe], base: Path) -> None:
    """Recomputed from what `Encoder` gives for the rows that were held out, before and after."""
    recipe = made(validation=ValidationSettings(24, steps=5, keep_best=False), save_steps=3)
    folder = train(recipe, progress=False)
    log = log_of(Path(recipe.output))
    assert [line["step"] for line in log if "validation" in line] == [5, 10]
    assert [*states(recipe)] == [9, 10]
    (held,) = data_of(recipe).held_out()

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


def test_a_graded_source_is_judged_by_correlation(made: Callable[..., Recipe]) -> None:
    recipe = made(graded(60), loss=LossSettings("cosent"), validation=ValidationSettings(20))
    folder = train(recipe, progress=False)
    assert "Spearman correlation of cosine and grade" in (folder / "README.md").read_text("utf-8")
    assert -1 <= log_of(Path(recipe.output))[-1]["validation"]["rows"] <= 1


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
    parts = stages.Loss.parts

    def broken(self: Any, vectors: Any, batch: Any) -> Any:
        for part in parts(self, vectors, batch):
            yield part * float("nan") if batch.step == step else part

    monkeypatch.setattr(stages.Loss, "parts", broken)


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
    assert str(raised.value).startswith(
        f"step 7, source 'rows': the loss is nan. Its rows are in {path}. The last checkpoint is {last}. A lower"
    )
    told = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    data = data_of(recipe)
    batches = [data.collator.rows_at(data.sampler.batch_at(batch)) for batch in (12, 13)]
    assert told == [row for some in batches for row in data.as_written(some)]
    assert told[0]["place"].endswith(f"line {batches[0].rows_B[0] + 1}")
    assert [*states(recipe)] == [4]
    assert all(tensor.isfinite().all() for tensor in states(recipe)[4].tensors.values())
    assert [line["step"] for line in log_of(output)] == [1, 2, 3, 4, 5, 6]
    assert not (output / "model").exists()


def test_a_learning_rate_that_is_far_too_high_is_told_as_such(made: Callable[..., Recipe]) -> None:
    recipe = made(learning_rate=1e38, max_grad_norm=0.0, max_steps=50)
    told = (
        r"^step \d+, source 'rows': the (loss|gradient's norm) is (nan|inf).*There is no checkpoint yet. A lower learn"
    )
    with pytest.raises(NumericError, match=told):
        train(recipe, progress=False)
    assert len([*(Path(recipe.output) / "stopped").iterdir()]) == 1


def test_a_gradient_that_is_not_finite_ends_it_too(
    made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "clip", lambda *_: float("inf"))
    with pytest.raises(NumericError, match="step 1, source 'rows': the gradient's norm is inf"):
        train(made(), progress=False)


# ---- a folder that holds a run


def test_a_folder_with_a_run_is_not_written_to(made: Callable[..., Recipe]) -> None:
    recipe = made(max_steps=2)
    with pytest.raises(InputError, match=r"holds no checkpoint to go on from; leave resume=True out"):
        train(recipe, progress=False, resume=True)
    train(recipe, progress=False)
    output = Path(recipe.output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    told = r"out holds a run already; resume=True goes on with it, overwrite=True begins anew, or give another output"
    with pytest.raises(InputError, match=told):
        train(recipe, progress=False)
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(InputError, match=told):
        train(recipe, progress=False)
    left = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert left == {path: content for path, content in before.items() if "checkpoints" not in path.parts}


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


# ---- Ctrl-C


def interrupted_at(steps: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """So many times Ctrl-C within a step, by its number."""
    inner = loop.Run.step

    def step(self: Any, number: int, ahead: Any) -> Any:
        for _ in range(steps.pop(number, 0)):
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, number, ahead)

    monkeypatch.setattr(loop.Run, "step", step)


@pytest.mark.parametrize("validated", [False, True])
def test_ctrl_c_saves_the_last_step_and_the_run_goes_on_from_there(
    validated: bool, made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = ValidationSettings(8, steps=3) if validated else ValidationSettings()
    whole, recipe = (made(output=name, validation=validation) for name in ("whole", "out"))
    wanted = weights(train(whole, progress=False))
    interrupted_at({4: 1}, monkeypatch)
    handler = signal.getsignal(signal.SIGINT)
    told = "this step is finished and saved, then the run stops; Ctrl-C again stops at once"
    with pytest.warns(Notice, match=told), pytest.raises(KeyboardInterrupt):
        train(recipe, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [*states(recipe)] == ([3, 5] if validated else [5])
    assert [line["step"] for line in log_of(Path(recipe.output))] == [1, 2, 3, 4, 5]
    found = weights(train(recipe, progress=False, resume=True))
    assert all(np.array_equal(array, found[name]) for name, array in wanted.items())
    keys = ("step", "loss", "batch", "grad_norm", "learning_rate", "validation")
    logs = ([{key: line.get(key) for key in keys} for line in log_of(Path(each.output))] for each in (whole, recipe))
    assert next(logs) == next(logs)


def test_a_second_ctrl_c_stops_at_once(made: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at({4: 2}, monkeypatch)
    recipe = made(save_steps=3)
    with pytest.warns(Notice, match="Ctrl-C again stops at once"), pytest.raises(KeyboardInterrupt):
        train(recipe, progress=False)
    assert [*states(recipe)] == [3]


def test_pooling_of_several_modes_and_no_normalize_is_trained(made: Callable[..., Recipe], tmp_path: Path) -> None:
    spec = bert(pooling=PoolingSpec(("cls", "max", "mean")), normalizes=False, wide=(12,))
    recipe = made(model=saved(spec, tmp_path / "other"), max_steps=3)
    folder = train(recipe, progress=False)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert_same(Encoder.load(folder).encode([*texts()]), theirs.encode([*texts()], show_progress_bar=False))
