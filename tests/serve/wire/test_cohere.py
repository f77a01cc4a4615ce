"""Cohere's dialect, as its clients of both versions send and read it."""

from dataclasses import replace
from typing import Any

import pytest
from wire import BASE64, INFO, RESULT, STAMP, TOKENS, content, fields, parse, refusal, render

from gnomon.serve.requests import EmbedRequest, RequestError, TokenizeRequest
from gnomon.serve.wire.cohere import COHERE_TOKENIZE, COHERE_V1, COHERE_V2

FLOATS = [[0.1, -0.2, 0.3], [1.0, 0.0, -0.5]]
META = {"billed_units": {"input_tokens": 12}, "tokens": {"input_tokens": 12}, "warnings": []}


def test_a_body_of_version_2() -> None:
    body = {
        "model": "m",
        "input_type": "search_query",
        "texts": ["a", "b"],
        "max_tokens": 100,
        "output_dimension": 256,
        "embedding_types": ["float", "int8", "ubinary"],
        "truncate": "START",
        "priority": 1,
    }
    assert parse(COHERE_V2, body) == EmbedRequest(
        inputs=["a", "b"],
        model="m",
        input_type="query",
        max_tokens=100,
        dimensions=256,
        vector_types=("float", "int8", "ubinary"),
        truncate="left",
        interactive=False,
        types_named=True,
        by_type=True,
    )


def test_a_body_of_version_1() -> None:
    body = {"model": "m", "input_type": "search_document", "texts": ["a"]}
    assert parse(COHERE_V1, body) == EmbedRequest(inputs=["a"], model="m", input_type="document")
    assert parse(COHERE_V1, body | {"embedding_types": ["float"]}).by_type is True


@pytest.mark.parametrize(("word", "truncate"), [("NONE", "error"), ("START", "left"), ("END", "right"), (None, None)])
def test_truncate(word: str | None, truncate: str | None) -> None:
    assert parse(COHERE_V2, {"texts": ["a"], "truncate": word}).truncate == truncate


def test_inputs_of_parts() -> None:
    text = {"type": "text", "text": "b"}
    body = {"inputs": [{"content": [{"type": "text", "text": "a"}, text]}, {"content": [text]}, {"content": "c"}]}
    assert parse(COHERE_V2, body).inputs == ["a\nb", "b", "c"]


@pytest.mark.parametrize(
    ("body", "kind", "param", "index"),
    [
        ({}, "invalid", "texts", None),
        ({"texts": ["a"], "inputs": []}, "invalid", "inputs", None),
        ({"images": ["data:"]}, "unsupported", "images", None),
        ({"texts": ["a"], "input_type": "image"}, "unsupported", "input_type", None),
        ({"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "unsupported", "inputs", 0),
        ({"inputs": "a"}, "invalid", "inputs", None),
        ({"inputs": [{"content": "a"}, "b"]}, "invalid", "inputs", 1),
        ({"inputs": [{"content": ["b"]}]}, "invalid", "inputs", 0),
        ({"inputs": [{"content": [{"type": "text"}]}]}, "invalid", "inputs", 0),
        ({"texts": ["a", 5]}, "invalid", "texts", 1),
        ({"texts": ["a"], "input_type": "querry"}, "invalid", "input_type", None),
        ({"texts": ["a"], "embedding_types": ["int4"]}, "invalid", "embedding_types", None),
        ({"texts": ["a"], "truncate": "MIDDLE"}, "invalid", "truncate", None),
    ],
)
@pytest.mark.parametrize("dialect", [COHERE_V1, COHERE_V2], ids=lambda dialect: dialect.name)
def test_what_is_refused(dialect: Any, body: dict[str, Any], kind: str, param: str, index: int | None) -> None:
    error = refusal(dialect, body)
    assert (error.kind, error.param, error.index) == (kind, param, index)
    assert dialect.render_error(error).status == 400


def test_vectors_by_type() -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    assert render(COHERE_V2, {"texts": ["a", "b"], "embedding_types": types}) == {
        "id": "0123abcd",
        "response_type": "embeddings_by_type",
        "embeddings": {
            "float": FLOATS,
            "int8": [[1, -128, 127], [0, 2, 3]],
            "uint8": [[255, 0, 7], [1, 2, 3]],
            "binary": [[-128], [32]],
            "ubinary": [[0], [160]],
            "base64": BASE64,
        },
        "texts": ["a", "b"],
        "meta": {"api_version": {"version": "2"}, **META},
    }


def test_version_2_has_types_always_and_version_1_where_they_are_named() -> None:
    assert render(COHERE_V2, {"texts": ["a", "b"]})["embeddings"] == {"float": FLOATS}
    assert render(COHERE_V1, {"texts": ["a", "b"], "embedding_types": ["int8"]})["embeddings"] == {
        "int8": [[1, -128, 127], [0, 2, 3]]
    }
    assert render(COHERE_V1, {"texts": ["a", "b"]}) == {
        "id": "0123abcd",
        "response_type": "embeddings_floats",
        "embeddings": FLOATS,
        "texts": ["a", "b"],
        "meta": {"api_version": {"version": "1"}, **META},
    }


def test_the_servers_own_type_is_named_in_version_1() -> None:
    request = replace(parse(COHERE_V1, {"texts": ["a", "b"]}), vector_types=("int8",))
    answer = content(COHERE_V1.render_embed(request, RESULT, STAMP))
    assert (answer["response_type"], list(answer["embeddings"])) == ("embeddings_by_type", ["int8"])


def test_a_use_without_a_prompt_is_a_warning() -> None:
    body = {"texts": ["a", "b"], "input_type": "clustering"}
    assert parse(COHERE_V2, body).optional_prompt_name == "clustering"
    assert render(COHERE_V2, body)["meta"]["warnings"] == []
    (warning,) = render(COHERE_V2, body, replace(RESULT, prompt=""))["meta"]["warnings"]
    assert "'clustering'" in warning


def test_a_report_is_there_on_request() -> None:
    answer = render(COHERE_V2, {"texts": ["a", "b"], "report": True})
    assert [row["truncated_at"] for row in answer["report"]] == [None, 29]


def test_tokenize() -> None:
    request = COHERE_TOKENIZE.parse(fields({"text": "hello", "model": "m"}))
    assert request == TokenizeRequest(texts=["hello"], model="m", add_special_tokens=False)
    assert content(COHERE_TOKENIZE.render(request, [TOKENS[0][1:]], INFO)) == {
        "tokens": [7592],
        "token_strings": ["hello"],
        "meta": {"api_version": {"version": "1"}},
    }
    with pytest.raises(RequestError, match="text is 5"):
        COHERE_TOKENIZE.parse(fields({"text": 5}))
