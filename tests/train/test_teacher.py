"""A guide or teacher: vectors of that model itself, of all ranks, one forward a text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import E5, assert_same
from rank_processes import in_threads
from small_runs import bert, checkpoint, recipe_of, rows, saved, write

from gnomon import Encoder
from gnomon.errors import InputError
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.prepare import open_training_data
from gnomon.train.distributed import Ranks
from gnomon.train.objectives.teacher import TeacherModel
from gnomon.train.recipe.schema import LossSettings, MatryoshkaSettings


def made(tmp_path: Path, guide: Path, negatives: int) -> tuple[Any, Any]:
    """A recipe with a guide, and the data of a model that reads other tokens than the guide does."""
    source = write(tmp_path / "rows.jsonl", rows(30, negatives=negatives))
    recipe = recipe_of(tmp_path, tmp_path / "out", source, loss=LossSettings("gist", guide=str(guide)))
    base = checkpoint(bert())
    return recipe, open_training_data(
        recipe, base.spec, Tokenizer(base.tokenizer, base.spec.tokenizer), Ranks(), progress=False
    )


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("negatives", [0, 2])
def test_its_vectors_are_its_encoders(negatives: int, tmp_path: Path, golden_folder: Callable[[str], Path]) -> None:
    """With the guide's own tokenizer and prompts, which are not the model's."""
    guide = golden_folder(E5)
    recipe, data = made(tmp_path, guide, negatives)
    some = data.collator.read_rows(data.sampler.batch_at(0))
    queries, positives, others = TeacherModel(recipe, Ranks(), bert())(some)
    encoder = Encoder.load(guide, device="cpu", threads=1)
    assert_same(queries, encoder.encode_query(some.queries))
    assert_same(positives, encoder.encode_document(some.positives))
    assert others.shape == (8 * negatives, queries.shape[1])
    if negatives:
        assert_same(others, encoder.encode_document(some.negatives))
    assert {side.dtype for side in (queries, positives, others)} == {torch.float32}
    assert not queries.requires_grad


@pytest.mark.parametrize(
    ("bf16", "can", "role", "wanted"),
    [
        (True, True, "teacher", "torch, cpu, bfloat16"),
        (True, True, "guide", "torch, cpu, bfloat16"),
        (True, False, "teacher", "onnxruntime, float32"),
        (False, True, "teacher", "onnxruntime, float32"),
    ],
)
def test_it_computes_in_bfloat16_where_the_model_does(
    bf16: bool, can: bool, role: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: can, raising=False)
    source = write(tmp_path / "rows.jsonl", rows(30))
    model = str(saved(bert(), tmp_path / "model", seed=1))
    loss = LossSettings("gist", guide=model) if role == "guide" else LossSettings("distill_kl", teacher=model)
    recipe = recipe_of(tmp_path, tmp_path / "out", source, loss=loss, bf16=bf16)
    assert wanted in TeacherModel(recipe, Ranks(), bert()).encoder.engine.name


def test_prompts_of_the_guide_are_used(tmp_path: Path) -> None:
    guide = saved(bert(prompts={"query": "where is the ", "document": "old "}), tmp_path / "guide", seed=1)
    recipe, data = made(tmp_path, guide, 0)
    some = data.collator.read_rows(data.sampler.batch_at(0))
    queries, positives, _ = TeacherModel(recipe, Ranks(), bert())(some)
    encoder = Encoder.load(guide, device="cpu", threads=1)
    assert_same(queries, encoder.encode(["where is the " + text for text in some.queries], prompt=""))
    assert_same(positives, encoder.encode(["old " + text for text in some.positives], prompt=""))


@pytest.mark.parametrize("negatives", [0, 2])
def test_each_rank_encodes_its_own_and_has_all(negatives: int, tmp_path: Path) -> None:
    guide = saved(bert(), tmp_path / "guide", seed=1)
    recipe, data = made(tmp_path, guide, negatives)
    draw = data.sampler.batch_at(3)
    whole = TeacherModel(recipe, Ranks(), bert())(data.collator.read_rows(draw))
    counts: list[int] = []

    def rank(ranks: Ranks) -> Any:
        own = TeacherModel(recipe, ranks, bert())
        inner = own.encoder.encode_query
        own.encoder.encode_query = lambda texts, **how: counts.append(len(texts)) or inner(texts, **how)
        return own(data.collator.read_rows(draw, ranks.rank, ranks.world_size))

    for found in in_threads(rank):
        for side, wanted in zip(found, whole, strict=True):
            assert side.shape == wanted.shape
            if len(side):
                assert_same(side, wanted)
    assert counts == [4, 4]


def test_long_texts_are_cut_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guide = saved(bert(), tmp_path / "guide", seed=1)
    recipe, data = made(tmp_path, guide, 0)
    some = data.collator.read_rows(data.sampler.batch_at(0))
    some.positives[0] = "noon " * 400
    _, positives, _ = TeacherModel(recipe, Ranks(), bert())(some)
    assert positives.isfinite().all()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("prompts", [{}, {"query": "where is the ", "document": "old "}])
def test_translations_learn_the_vector_of_their_query(prompts: dict[str, str], tmp_path: Path) -> None:
    """As a document, where that is another prompt; on each rank its own rows', and no translation is encoded."""
    teacher = saved(bert(prompts=prompts), tmp_path / "teacher", seed=1)
    recipe, data = made(tmp_path, teacher, 0)
    recipe = replace(
        recipe, loss=LossSettings("cosine_distillation", teacher=str(teacher), distillation_target="query")
    )
    draw = data.sampler.batch_at(3)
    asked = data.collator.read_rows(draw).queries
    encoder = Encoder.load(teacher, threads=1)
    seen: list[list[str]] = []

    def rank(ranks: Ranks) -> Any:
        own = TeacherModel(recipe, ranks, bert())
        inner = own.encoder.encode_document
        own.encoder.encode_document = lambda texts, **how: seen.append(texts) or inner(texts, **how)
        return own(data.collator.read_rows(draw, ranks.rank, ranks.world_size))

    for queries, positives, negatives in in_threads(rank):
        assert_same(queries, encoder.encode_query(asked))
        assert_same(positives, encoder.encode_document(asked))
        assert negatives.shape == (0, queries.shape[1])
    assert sorted(text for texts in seen for text in texts) == (sorted(asked) if prompts else [])


def test_a_model_that_cuts_its_vectors_teaches_all_of_them(tmp_path: Path) -> None:
    spec = replace(bert(), truncate_dim=4)
    teacher = saved(spec, tmp_path / "teacher", seed=1)
    recipe, data = made(tmp_path, teacher, 0)
    recipe = replace(recipe, loss=LossSettings("cosine_distillation", teacher=str(teacher)))
    some = data.collator.read_rows(data.sampler.batch_at(0))
    queries, _, _ = TeacherModel(recipe, Ranks(), spec)(some)
    assert queries.shape[1] == spec.full_dim > 4
    assert_same(queries, Encoder.load(teacher, threads=1).encode_query(some.queries, dim=spec.full_dim))


def test_heads_of_their_own_have_no_teacher(tmp_path: Path) -> None:
    recipe, _ = made(tmp_path, saved(bert(), tmp_path / "teacher", seed=1), 0)
    loss = LossSettings("cosine_distillation", teacher=recipe.loss.guide)
    recipe = replace(recipe, loss=loss, matryoshka=MatryoshkaSettings((6, 16)))
    with pytest.raises(InputError, match=r"cosine_distillation.*matryoshka"):
        TeacherModel(recipe, Ranks(), bert(wide=(16, 6)))


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
def test_a_teacher_of_another_width_is_refused(tmp_path: Path, golden_folder: Callable[[str], Path]) -> None:
    recipe, _ = made(tmp_path, golden_folder(E5), 0)
    recipe = replace(recipe, loss=LossSettings("cosine_distillation", teacher=recipe.loss.guide))
    message = r"teacher's vectors have \d+ components and the model's have \d+; loss cosine_distillation"
    with pytest.raises(InputError, match=message):
        TeacherModel(recipe, Ranks(), bert())
