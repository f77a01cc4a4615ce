"""The cards' rules: which prompt goes where, for each kind of task and model. (test_encoder.py: that it arrives.)"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from goldens import DISTILBERT, E5, GIST, GTE, NAMES, STELLA, load, require

from gnomon import Encoder
from gnomon.errors import InputError
from gnomon.evaluate.prompts import Prompt, PromptSide, check_prompt_keys, choose_prompt
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec

S2P = "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
S2S = "Instruct: Retrieve semantically similar text.\nQuery: "
SEARCH = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
SYMMETRIC = (
    "STS",
    "PairClassification",
    "Classification",
    "MultilabelClassification",
    "Regression",
    "Clustering",
    "BitextMining",
    "Summarization",
    "ZeroShotClassification",
)
NONE = ("", "", "")
CARDS: dict[str, tuple[str, str, str]] = {
    STELLA: (S2P, "", S2S),
    E5: ("query: ", "passage: ", "query: "),
    GTE: NONE,
    GIST: NONE,
    DISTILBERT: NONE,
}
"""What a model's card puts in front of queries, of documents, and of the texts of symmetric tasks."""

STS: dict[str, Any] = {"task": "STS12", "kind": "STS", "side": None}
SEARCHED: dict[str, Any] = {"task": "NFCorpus", "kind": "Retrieval", "side": "query"}


def model(prompts: dict[str, str] | None = None, **said: Any) -> ModelSpec:
    return ModelSpec(StaticSpec(4, 2), PoolingSpec(), (), TokenizerSpec(None), prompts=prompts or {}, **said)


@pytest.mark.slow
def test_every_kind_of_text_task_is_here() -> None:
    mteb = pytest.importorskip("mteb")
    text = mteb.get_tasks(modalities=["text"], exclusive_modality_filter=True, exclude_superseded=False)
    kinds = {task.metadata.type for task in [*text, *mteb.mocks.MOCK_TASK_TEST_GRID]}
    # filed under images: each is a task of text retrieval whose kind was named for what it may hold
    assert kinds - {"Any2AnyRetrieval"} == {*SEARCH, *SYMMETRIC}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [*SEARCH, *SYMMETRIC])
def test_the_cards_rules(name: str, kind: str) -> None:
    require()
    spec = load(name).spec
    queries, documents, texts = CARDS[name]
    sides: dict[PromptSide | None, tuple[str, str]] = (
        {"query": ("queries", queries), "document": ("documents", documents)}
        if kind in SEARCH
        else {None: ("texts", texts)}
    )
    for side, (of, text) in sides.items():
        found = choose_prompt(spec, task="ATask", kind=kind, side=side)
        assert (found.of, found.text) == (of, text)
        assert (found.name is None) == (text == "")
        assert found.name is None or spec.prompts[found.name] == text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["PairClassification", "STS"])
def test_pairs_may_have_sides(name: str, kind: str) -> None:
    """As mteb's TERRa.V2, whose first text is a query and whose second is a document."""
    require()
    for side, text in zip(("query", "document"), CARDS[name], strict=False):
        assert choose_prompt(load(name).spec, task="TERRa.V2", kind=kind, side=side).text == text  # pyright: ignore


def test_stella_names_what_it_uses() -> None:
    require()
    of_queries, of_texts = choose_prompt(load(STELLA).spec, **SEARCHED), choose_prompt(load(STELLA).spec, **STS)
    assert (of_queries, of_texts) == (Prompt("queries", "s2p_query", S2P), Prompt("texts", "s2s_query", S2S))


@pytest.mark.parametrize(
    ("prompts", "said", "wanted"),
    [
        ({"query": "q: ", "document": "d: "}, {}, ("q: ", "d: ", "")),
        ({"query": "q: ", "passage": "p: "}, {}, ("q: ", "p: ", "")),
        ({"corpus": "c: "}, {}, ("", "c: ", "")),
        ({"a": "a: "}, {"default_prompt_name": "a"}, ("", "", "a: ")),
        ({"query": "q: ", "a": "a: "}, {"default_prompt_name": "a"}, ("q: ", "", "a: ")),
        ({"a": "a: "}, {"query_prompt_names": {"": "a"}}, ("a: ", "", "")),
        ({"web": "w: "}, {}, ("", "", "")),
        ({}, {}, ("", "", "")),
    ],
)
def test_a_model_without_a_card(prompts: dict[str, str], said: dict[str, Any], wanted: tuple[str, str, str]) -> None:
    """Its prompts of queries and documents by their names, its default prompt on symmetric tasks, else none."""
    spec = model(prompts, **said)
    sides: tuple[PromptSide | None, ...] = ("query", "document", None)
    assert tuple(choose_prompt(spec, task="T", kind="K", side=side).text for side in sides) == wanted


def test_the_models_own_prompt_of_a_kind_or_task_goes_first() -> None:
    spec = model(
        {"query": "q: ", "Retrieval": "r: ", "Retrieval-query": "rq: ", "NFCorpus": "n: ", "STS": "s: ", "a": "a: "},
        default_prompt_name="a",
    )
    assert choose_prompt(spec, **STS) == Prompt("texts", "STS", "s: ")
    assert choose_prompt(spec, task="X", kind="Clustering", side=None).text == "a: "
    assert choose_prompt(spec, **SEARCHED).text == "n: "
    assert choose_prompt(spec, **SEARCHED | {"task": "X"}).text == "rq: "
    assert choose_prompt(spec, **SEARCHED | {"task": "X", "side": "document"}).text == "r: "
    assert choose_prompt(spec, **SEARCHED | {"task": "X", "kind": "Reranking"}).text == "q: "


def test_given_prompts_take_the_place_of_all_by_the_narrowest_key() -> None:
    spec = model({"query": "q: ", "NFCorpus-query": "own: "})
    keys = ["NFCorpus-query", "NFCorpus", "Retrieval-query", "Retrieval", "query"]
    given = {key: f"{key}: " for key in keys}
    for key in keys:
        assert choose_prompt(spec, **SEARCHED, overrides=given) == Prompt("queries", key, f"{key}: ")
        del given[key]
    assert choose_prompt(spec, **SEARCHED, overrides=given).text == "own: "
    # a side's prompt is none of symmetric tasks; an empty one is a prompt
    assert choose_prompt(spec, **STS, overrides={"query": "x: ", "document": "y: "}).text == ""
    assert choose_prompt(spec, **SEARCHED, overrides={"query": ""}) == Prompt("queries", "query", "")
    assert choose_prompt(spec, **STS, overrides={"STS12": "x: ", "STS": "y: "}).text == "x: "


def test_given_prompts_leave_the_others_as_they_are() -> None:
    require()
    spec = load(E5).spec
    assert choose_prompt(spec, **SEARCHED, overrides={"document": "d: "}).text == "query: "
    assert choose_prompt(spec, **SEARCHED | {"side": "document"}, overrides={"document": "d: "}).text == "d: "


def test_the_folder_of_a_tuned_e5_keeps_the_rule(golden_copy: Callable[..., Path]) -> None:
    """The folder holds no prompts: a card that is named gives them, under any folder's name."""
    require()
    with pytest.warns(UserWarning):
        spec = Encoder.load(golden_copy(E5, to="tuned"), card="multilingual-e5-small", threads=1).spec
    assert choose_prompt(spec, **STS).text == "query: "
    assert spec.symmetric_prompt_name == "query"
    assert replace(spec, query_prompt_names={}).symmetric_prompt_name is None


@pytest.mark.parametrize(
    "keys",
    [
        ["query", "document"],
        ["NFCorpus", "NFCorpus-query", "NFCorpus-document"],
        ["Retrieval", "Retrieval-query", "STS", "STS12"],
        [],
    ],
)
def test_keys_that_are_known(keys: list[str]) -> None:
    check_prompt_keys(dict.fromkeys(keys, "x: "), tasks=["NFCorpus", "STS12"], kinds=["Retrieval", "STS"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"querry": "x"}, r"the prompt 'querry'.*Retrieval, STS.*Did you mean 'query'\?"),
        ({"passage": "x"}, "the prompt 'passage'"),
        ({"NFCorpus-queries": "x"}, r"Did you mean 'NFCorpus-query'\?"),
        ({"Clustering": "x"}, "the prompt 'Clustering'"),
        ({"sts": "x"}, r"the prompt 'sts'.*Did you mean 'STS'\?"),
        ({"query": 5}, "the prompt 'query' is 5; it must be a text"),
        ({"query": None}, "the prompt 'query' is None; it must be a text"),
        ({"query": "q\ud800"}, "the prompt 'query' has half a surrogate pair"),
    ],
)
def test_keys_and_prompts_that_are_wrong(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_prompt_keys(given, tasks=["NFCorpus", "STS12"], kinds=["Retrieval", "STS"])
