"""Scores on held-out rows against their definitions, text by text.

R: held-out rows; C: documents; D: width of a vector.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import in_threads
from scipy.stats import spearmanr
from small_runs import bert, checkpoint, graded, recipe_of, rows, write

from gnomon.packed import pack
from gnomon.spec import PoolingSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.data.prepare import open_training_data
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.objectives.validation import mean_reciprocal_rank, score_held_out
from gnomon.train.recipe.schema import LossSettings, ValidationSettings

HELD_OUT = 21


def held_out(tmp_path: Path, spec: Any, lines: list[dict[str, Any]], **changes: Any) -> list[CollatedBatch]:
    source = write(tmp_path / "rows.jsonl", lines)
    changes = {"loss": LossSettings("cosent")} | changes if source.score else changes
    recipe = recipe_of(tmp_path, tmp_path / "out", source, validation=ValidationSettings(HELD_OUT), **changes)
    tokenizer = Tokenizer(checkpoint(spec).tokenizer, spec.tokenizer)
    return open_training_data(recipe, spec, tokenizer, Ranks(), progress=False).collate_held_out()


def vectors_of(model: Model, collated: CollatedBatch) -> np.ndarray:
    """One text at a time, normalised."""
    prompts = [collated.prompt_tokens[0]] * HELD_OUT + [collated.prompt_tokens[1]] * len(collated.ids)
    if model.spec.pooling.include_prompt:
        prompts = [0] * len(prompts)
    with torch.no_grad():
        found = [
            model.apply_modules(model(pack([ids_T], skip_B=[count])))
            for ids_T, count in zip(collated.ids, prompts, strict=False)
        ]
    vectors_CD = np.concatenate([widths[model.spec.full_dim].numpy() for widths in found]).astype(np.float64)
    return vectors_CD / np.linalg.norm(vectors_CD, axis=1, keepdims=True)


def mrr(queries: np.ndarray, docs: np.ndarray, own: list[str], texts: list[str]) -> float:
    """By sorting; other copies of a query's document are taken out, and equals stand in front of it."""
    total = 0.0
    for row, query_D in enumerate(queries):
        mine = float(docs[row] @ query_D)
        others = [float(doc_D @ query_D) for doc_D, text in zip(docs, texts, strict=True) if text != own[row]]
        rank = 1 + sum(other >= mine for other in others)
        total += 1 / rank if rank <= 10 else 0
    return total / len(queries)


PROMPTED = bert(
    pooling=PoolingSpec(("mean",), include_prompt=False), prompts={"query": "where is the ", "document": "old "}
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [bert(), bert(wide=(8, 4), normalizes=False), PROMPTED], ids=["plain", "head", "prompts"]
)
@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("chunk_tokens", [30, 1 << 20])
def test_the_score_of_pairs_is_the_mean_reciprocal_rank(
    spec: Any, negatives: int, chunk_tokens: int, tmp_path: Path
) -> None:
    lines = rows(60, negatives=negatives)
    for line in lines[::7]:
        line["positive"] = lines[3]["positive"]
    (collated,) = held_out(tmp_path, spec, lines, duplicates="keep")
    texts = collated.rows.positives + collated.rows.negatives
    assert len(collated.rows.queries) == HELD_OUT
    assert len(texts) == HELD_OUT * (1 + negatives)
    model = Model(checkpoint(spec), dropout=0.5).train()
    found = score_held_out(model, [collated], chunk_tokens=chunk_tokens, ranks=Ranks())
    vectors = vectors_of(model.eval(), collated)
    wanted = mrr(vectors[:HELD_OUT], vectors[HELD_OUT:], collated.rows.positives, texts)
    assert found == {"rows": pytest.approx(wanted, rel=1e-9)}
    assert 0.02 < wanted < 0.95, "a score that a mistake could change"


@pytest.mark.parametrize("ties", [False, True])
def test_the_score_of_graded_pairs_is_spearmans_correlation(ties: bool, tmp_path: Path) -> None:
    lines = graded(60)
    for line in lines if ties else []:
        line["score"] = round(line["score"] * 3)
    (collated,) = held_out(tmp_path, bert(), lines)
    model = Model(checkpoint(bert()))
    found = score_held_out(model, [collated], chunk_tokens=50, ranks=Ranks())
    vectors = vectors_of(model.eval(), collated)
    similarities = (vectors[:HELD_OUT] * vectors[HELD_OUT:]).sum(1)
    wanted = spearmanr(similarities, collated.rows.scores).statistic
    assert found == {"rows": pytest.approx(wanted, abs=1e-9)}


def test_a_correlation_with_equal_grades_is_none(tmp_path: Path) -> None:
    lines = [line | {"score": 1.0} for line in rows(40)]
    (collated,) = held_out(tmp_path, bert(), lines, loss=LossSettings("cosine_regression"))
    assert score_held_out(Model(checkpoint(bert())), [collated], chunk_tokens=50, ranks=Ranks()) == {"rows": 0.0}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_the_work_and_have_the_same_score(world: int, tmp_path: Path) -> None:
    """Their shares are not equal: 42 texts over five ranks."""
    (collated,) = held_out(tmp_path, bert(), rows(60))
    other = replace(collated, rows=replace(collated.rows, source_name="other"), ids=collated.ids[::-1])
    alone = score_held_out(Model(checkpoint(bert())), [collated, other], chunk_tokens=50, ranks=Ranks())
    encoded: dict[int, int] = {}

    def rank(ranks: Ranks) -> dict[str, float]:
        model = Model(checkpoint(bert()))
        model.register_forward_hook(
            lambda _, given, __: encoded.update({ranks.rank: encoded.get(ranks.rank, 0) + len(given[0].lengths_B)})
        )
        return score_held_out(model, [collated, other], chunk_tokens=50, ranks=ranks)

    for found in in_threads(rank, world):
        assert found == pytest.approx(alone, rel=1e-6)
        assert [*found] == ["rows", "other"]
    assert sum(encoded.values()) == 2 * len(collated.ids)
    assert max(encoded.values()) <= 2 * -(-len(collated.ids) // world)


@settings(max_examples=80, deadline=None)
@given(
    own=st.lists(st.integers(0, 5), min_size=1, max_size=16),
    more=st.lists(st.integers(0, 9), max_size=5),
    seed=st.integers(0, 99),
)
def test_a_rank_counts_equals_in_front_and_copies_not_at_all(own: list[int], more: list[int], seed: int) -> None:
    """With vectors of few values, so that many are equal."""
    rng = np.random.default_rng(seed)
    vectors = {text: rng.integers(-1, 2, 3).astype(np.float64) for text in {*own, *more}}
    queries_RD = rng.integers(-1, 2, (len(own), 3)).astype(np.float64)
    docs_CD = np.array([vectors[text] for text in own + more])
    found = mean_reciprocal_rank(
        torch.from_numpy(queries_RD), torch.from_numpy(docs_CD), np.array(own, np.int64), np.array(own + more, np.int64)
    )
    wanted = mrr(queries_RD, docs_CD, [str(text) for text in own], [str(text) for text in own + more])
    assert found == pytest.approx(wanted, rel=1e-12)


def test_many_queries_are_ranked_some_at_a_time() -> None:
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(2500, 4))
    queries = docs + rng.normal(scale=0.3, size=docs.shape)
    texts = np.arange(2500)
    found = mean_reciprocal_rank(torch.from_numpy(queries), torch.from_numpy(docs), texts, texts)
    scores = queries @ docs.T
    rank = 1 + (scores > scores.diagonal()[:, None]).sum(1)
    assert found == pytest.approx(np.where(rank <= 10, 1 / rank, 0).mean(), rel=1e-12)
