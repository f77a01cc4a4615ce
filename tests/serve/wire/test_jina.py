"""Jina's dialect: its fields, and inputs that are objects."""

from dataclasses import replace
from typing import Any

import pytest
from wire import RESULT, STAMP, parse, refusal, render

from gnomon.serve.requests import EmbedRequest
from gnomon.serve.wire.jina import JINA
from gnomon.serve.wire.openai import OPENAI


def test_a_body_with_all_fields() -> None:
    body = {
        "model": "jina-embeddings-v3",
        "task": "retrieval.query",
        "late_chunking": False,
        "truncate": True,
        "dimensions": 256,
        "normalized": False,
        "embedding_type": "binary",
        "return_multivector": False,
        "input": [{"text": "a"}, "b"],
    }
    assert parse(JINA, body) == EmbedRequest(
        inputs=["a", "b"],
        model="jina-embeddings-v3",
        input_type="query",
        truncate="right",
        dimensions=256,
        normalize=False,
        vector_types=("binary",),
        types_named=True,
    )


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("retrieval.query", {"input_type": "query"}),
        ("retrieval.passage", {"input_type": "document"}),
        ("text-matching", {"optional_prompt_name": "text-matching"}),
        ("nl2code.query", {"optional_prompt_name": "nl2code.query"}),
    ],
)
def test_tasks(task: str, expected: dict[str, Any]) -> None:
    assert parse(JINA, {"input": "a", "task": task}) == EmbedRequest(inputs=["a"], normalize=True, **expected)


def test_a_task_that_the_model_has_no_prompt_for_is_a_warning() -> None:
    request = parse(JINA, {"input": ["a", "b"], "task": "separation"})
    with_prompt = JINA.render_embed(request, RESULT, STAMP).headers
    without = JINA.render_embed(request, replace(RESULT, prompt=""), STAMP).headers
    assert "x-gnomon-warning" not in with_prompt
    assert "'separation'" in without["x-gnomon-warning"]


def test_task_and_prompt_name_exclude_each_other() -> None:
    error = refusal(JINA, {"input": "a", "task": "retrieval.query", "prompt_name": "query"})
    assert "prompt_name and task" in error.message


@pytest.mark.parametrize(
    ("body", "kind", "param", "index"),
    [
        ({"input": "a", "late_chunking": True}, "unsupported", "late_chunking", None),
        ({"input": "a", "return_multivector": True}, "unsupported", "return_multivector", None),
        ({"input": ["a", {"image": "http://x"}]}, "unsupported", "input", 1),
        ({"input": [{"text": 5}]}, "invalid", "input", 0),
        ({"input": ["a", 5]}, "invalid", "input", 1),
        ({"input": {"text": "a"}}, "invalid", "input", None),
        ({"task": "separation"}, "invalid", "input", None),
    ],
)
def test_what_is_refused(body: dict[str, Any], kind: str, param: str, index: int | None) -> None:
    error = refusal(JINA, body)
    assert (error.kind, error.param, error.index) == (kind, param, index)


def test_the_answer_is_openais() -> None:
    assert render(JINA, {"input": ["a", "b"]}) == render(OPENAI, {"input": ["a", "b"]})
    answer = render(JINA, {"input": ["a", "b"], "embedding_type": "ubinary"})
    assert [item["embedding"] for item in answer["data"]] == [[0], [160]]
    assert answer["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
