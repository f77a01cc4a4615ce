"""Which prompts a trained model is written with."""

from typing import Any

import pytest
from small_runs import bert

from gnomon.spec import SYMMETRIC
from gnomon.train.prompts import SourcePrompts, apply_prompts

E5: dict[str, Any] = {
    "prompts": {"query": "query: ", "passage": "passage: "},
    "query_prompt_names": {SYMMETRIC: "query"},
}
STELLA: dict[str, Any] = {
    "prompts": {"s2p": "find: ", "s2s": "same: "},
    "query_prompt_names": {"": "s2p", "sts": "s2s", SYMMETRIC: "s2s"},
}


def pairs(query: str, document: str, source: str = "a") -> SourcePrompts:
    return SourcePrompts(source, query, document, has_labels=False)


def graded(query: str, document: str | None = None, source: str = "b") -> SourcePrompts:
    return SourcePrompts(source, query, query if document is None else document, has_labels=True)


@pytest.mark.parametrize(
    ("own", "used", "prompts"),
    [
        (E5, [pairs("query: ", "passage: ")], E5["prompts"]),
        (E5, [pairs("Q: ", "passage: ")], {"query": "Q: ", "passage": "passage: "}),
        (E5, [graded("query: ")], E5["prompts"]),
        (E5, [graded("query: "), pairs("query: ", "D: ")], {"query": "query: ", "passage": "D: "}),
        (STELLA, [pairs("Q: ", "")], {"s2p": "Q: ", "s2s": "same: "}),
        (STELLA, [pairs("find: ", ""), graded("same: ")], STELLA["prompts"]),
        ({}, [pairs("", "")], {}),
        ({}, [graded("")], {}),
    ],
)
def test_c4_prompts_are_those_of_training_under_the_models_names(
    own: dict[str, Any], used: list[SourcePrompts], prompts: dict[str, str]
) -> None:
    spec = bert(**own)
    found, notices = apply_prompts(spec, used)
    assert (found.prompts, notices) == (prompts, [])
    assert (found.default_prompt_name, found.query_prompt_names) == (None, spec.query_prompt_names)


def test_c5_a_default_prompt_takes_no_other_tasks_name() -> None:
    spec, _ = apply_prompts(bert(**E5), [graded("S: ")])
    assert spec.prompts == E5["prompts"] | {"default": "S: "}
    assert (spec.default_prompt_name, spec.symmetric_prompt_name) == ("default", "default")
    assert (spec.query_prompt_name(), spec.document_prompt_name) == ("query", "passage")
    spec, _ = apply_prompts(bert(**STELLA), [graded("S: ")])
    assert spec.prompts == {"s2p": "find: ", "s2s": "same: ", "default": "S: ", "document": "S: "}
    assert spec.query_prompt_name("sts") == "s2s" and spec.symmetric_prompt_name == "default"
    spec, _ = apply_prompts(bert(prompts={"sts": "s: "}, default_prompt_name="sts"), [graded("S: "), pairs("", "")])
    assert (spec.prompts, spec.default_prompt_name) == ({"sts": "S: "}, "sts")
    spec, _ = apply_prompts(bert(prompts={"sts": "s: "}, default_prompt_name="sts"), [graded("")])
    assert spec.symmetric_prompt_name is None


def test_c5_graded_pairs_whose_prompts_differ_are_told_of() -> None:
    spec, notices = apply_prompts(bert(), [graded("S: "), graded("T: ", source="c"), pairs("q: ", "")])
    assert (spec.prompts, spec.default_prompt_name) == ({"query": "q: ", "document": ""}, None)
    (notice,) = notices
    assert "'S: ' (b), 'T: ' (c)" in notice
    spec, notices = apply_prompts(bert(), [graded("a: ", "b: "), pairs("a: ", "b: ")])
    assert (spec.prompts, notices) == ({"query": "a: ", "document": "b: "}, [])
