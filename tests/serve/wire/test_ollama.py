"""Ollama's dialect: both routes of vectors, tags and the version."""

from dataclasses import replace
from typing import Any

import pytest
from wire import INFO, RESULT, STAMP, content, one_input, parse, refusal, render

from gnomon.serve.requests import EmbedRequest
from gnomon.serve.wire.ollama import OLLAMA, OLLAMA_OLD, render_tags, render_version

FLOATS = [[0.1, -0.2, 0.3], [1.0, 0.0, -0.5]]


def test_a_body_with_all_fields() -> None:
    body = {
        "model": "m:latest",
        "input": ["a", "b"],
        "truncate": True,
        "options": {"num_ctx": 512},
        "keep_alive": "5m",
        "dimensions": 256,
    }
    assert parse(OLLAMA, body) == EmbedRequest(inputs=["a", "b"], model="m", truncate="right", dimensions=256)
    assert parse(OLLAMA, {"model": "m", "input": "a"}) == EmbedRequest(inputs=["a"], model="m")


def test_the_old_route_takes_one_text_as_its_prompt() -> None:
    body = {"model": "m", "prompt": "a", "prefix": "query: ", "options": {}}
    assert parse(OLLAMA_OLD, body) == EmbedRequest(inputs=["a"], model="m", prompt="query: ")
    assert parse(OLLAMA_OLD, {"prompt": "a", "input_type": "query"}).input_type == "query"


@pytest.mark.parametrize(
    ("dialect", "body", "param"),
    [
        (OLLAMA, {"model": "m"}, "input"),
        (OLLAMA, {"input": ["a", 5]}, "input"),
        (OLLAMA, {"input": [1, 2]}, "input"),
        (OLLAMA, {"input": "a", "embedding_types": ["float", "int8"]}, "embedding_types"),
        (OLLAMA_OLD, {"model": "m"}, "prompt"),
        (OLLAMA_OLD, {"prompt": ["a"]}, "prompt"),
    ],
)
def test_what_is_refused(dialect: Any, body: dict[str, Any], param: str) -> None:
    error = refusal(dialect, body)
    assert (error.kind, error.param) == ("invalid", param)


def test_answers() -> None:
    assert render(OLLAMA, {"input": ["a", "b"]}) == {
        "model": "org/model",
        "embeddings": FLOATS,
        "total_duration": 12_600_000,
        "load_duration": 0,
        "prompt_eval_count": 12,
    }
    assert render(OLLAMA_OLD, {"prompt": "a"}, one_input()) == {"embedding": FLOATS[0]}
    headers = OLLAMA.render_embed(EmbedRequest(inputs=["a", "b"]), RESULT, STAMP).headers
    assert headers["x-gnomon-truncated"] == "1"


def test_tags() -> None:
    answer = content(render_tags([replace(INFO, created=0)]))
    assert [model["name"] for model in answer["models"]] == ["org/model", "text-embedding-3-small"]
    assert answer["models"][0] == {
        "name": "org/model",
        "model": "org/model",
        "modified_at": "1970-01-01T00:00:00Z",
        "size": 0,
        "digest": "f00d",
        "details": {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": "float32",
        },
    }


def test_version() -> None:
    assert content(render_version("0.9")) == {"version": "0.9"}
