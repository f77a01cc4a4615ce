"""The dialect of text-embeddings-inference, and what `InferenceClient` sends."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wire import BASE64, INFO, RESULT, STAMP, TIMINGS, TOKENS, content, fields, parse, refusal, render

from gnomon.serve.requests import DecodeRequest, EmbedRequest, RequestError, SimilarityRequest, StatesResult
from gnomon.serve.requests import TokenizeRequest as Tokenize
from gnomon.serve.wire.tei import (
    TEI,
    TEI_TOKENIZE,
    Limits,
    parse_decode,
    parse_embed_all,
    parse_similarity,
    render_decode,
    render_info,
    render_similarity,
    render_states,
)

FLOATS = [[0.1, -0.2, 0.3], [1.0, 0.0, -0.5]]


def test_a_body_with_all_fields() -> None:
    body = {
        "inputs": ["a", "b"],
        "truncate": True,
        "truncation_direction": "Left",
        "prompt_name": "query",
        "normalize": False,
        "dimensions": 128,
    }
    assert parse(TEI, body) == EmbedRequest(
        inputs=["a", "b"], truncate="left", prompt_name="query", normalize=False, dimensions=128
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([5, 6], [[5, 6]]), ([[5, 6], [7]], [[5, 6], [7]])],
)
def test_forms_of_inputs(inputs: object, expected: list[Any]) -> None:
    """Vectors are normalised where the body says nothing, as in TEI."""
    assert parse(TEI, {"inputs": inputs}) == EmbedRequest(inputs=expected, normalize=True)


def test_parameters_stand_beside_the_inputs() -> None:
    body = {"inputs": "a", "parameters": {"normalize": False, "truncation_direction": "left", "x": 1}, "options": {}}
    wanted = EmbedRequest(inputs=["a"], normalize=False, truncation_side="left", unknown_fields=("x",))
    assert parse(TEI, body) == wanted
    assert parse(TEI, {"inputs": "a", "parameters": {}}) == EmbedRequest(inputs=["a"], normalize=True)
    error = refusal(TEI, {"inputs": "a", "truncate": True, "parameters": {"truncate": False}})
    assert "parameters.truncate" in error.message
    assert "parameters" in refusal(TEI, {"inputs": "a", "parameters": 5}).message


@pytest.mark.parametrize(("truncate", "expected"), [(None, None), (True, "right"), (False, "error"), ("mean", "mean")])
def test_truncate(truncate: object, expected: str | None) -> None:
    assert parse(TEI, {"inputs": "a", "truncate": truncate}).truncate == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": {"a": 1}}, "inputs"),
        ({"inputs": "a", "normalize": None}, "normalize"),
        ({"inputs": "a", "dimensions": 0}, "dimensions"),
        ({"inputs": "a", "truncation_direction": "up"}, "truncation_direction"),
        ({"inputs": "a", "report": True}, "report"),
        ({"inputs": "a", "embedding_types": ["float", "int8"]}, "embedding_types"),
        ({"inputs": ["a", [1]]}, "inputs"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    error = refusal(TEI, body)
    assert (error.kind, error.param) == ("invalid", param)
    assert TEI.render_error(error).status == 422


def test_the_answer_is_a_bare_list() -> None:
    assert render(TEI, {"inputs": ["a", "b"]}) == FLOATS
    assert render(TEI, {"inputs": ["a", "b"], "encoding_format": "base64"}) == BASE64
    assert render(TEI, {"inputs": ["a", "b"], "embedding_types": ["int8"]}) == [[1, -128, 127], [0, 2, 3]]


def test_headers() -> None:
    assert TEI.render_embed(EmbedRequest(inputs=["a", "b"]), RESULT, STAMP).headers == {
        "x-compute-type": "gpu+optimized",
        "x-compute-time": "13",
        "x-compute-characters": "43",
        "x-compute-tokens": "12",
        "x-total-time": "13",
        "x-tokenization-time": "1",
        "x-queue-time": "2",
        "x-inference-time": "8",
        "x-gnomon-fingerprint": "f00d",
        "x-gnomon-truncated": "1",
        "x-gnomon-tokens": "12",
    }


def test_states_of_tokens() -> None:
    request = parse_embed_all(fields({"inputs": ["a", "b"], "truncate": False, "prompt_name": "query"}))
    assert request == EmbedRequest(inputs=["a", "b"], truncate="error", prompt_name="query")
    states = [np.array([[0.1, 0.2], [0.3, 0.4]], np.float32), np.array([[1.5, -1.0]], np.float32)]
    answer = render_states(StatesResult("m", "f00d", states, [2, 1], [1], 3, TIMINGS))
    assert content(answer) == [[[0.1, 0.2], [0.3, 0.4]], [[1.5, -1.0]]]
    assert answer.headers["x-compute-tokens"] == "3"
    assert answer.headers["x-gnomon-truncated"] == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("normalize", True), ("dimensions", 5), ("encoding_format", "base64"), ("embedding_type", "int8")],
)
def test_states_have_no_such_option(name: str, value: object) -> None:
    with pytest.raises(RequestError, match="embed_all") as caught:
        parse_embed_all(fields({"inputs": "a", name: value}))
    assert caught.value.kind == "invalid"


# ---- similarity, tokens


def test_similarity() -> None:
    body = {
        "inputs": {"source_sentence": "a", "sentences": ["b", "c"]},
        "parameters": {"truncate": True, "truncation_direction": "left", "prompt_name": "query"},
    }
    assert parse_similarity(fields(body)) == SimilarityRequest(
        source="a", texts=["b", "c"], prompt_name="query", truncate="left"
    )
    del body["parameters"]
    assert parse_similarity(fields(body)) == SimilarityRequest(source="a", texts=["b", "c"])
    answer = render_similarity(np.array([0.5, -0.25], np.float32), RESULT)  # pyright: ignore
    assert content(answer) == [0.5, -0.25]
    assert answer.headers["x-compute-tokens"] == "12"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "inputs is missing"),
        ({"inputs": "a"}, "inputs is 'a', a text"),
        ({"inputs": {"sentences": ["b"]}}, "inputs.source_sentence is missing"),
        ({"inputs": {"source_sentence": "a"}}, "inputs.sentences is missing"),
        ({"inputs": {"source_sentence": "a", "sentences": ["b", 5]}}, r"inputs.sentences\[1\] is 5"),
        ({"inputs": {"source_sentence": "a", "sentences": ["b"], "x": 1}, "strict": True}, "inputs.x"),
    ],
)
def test_similarity_says_what_is_wrong(body: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        parse_similarity(fields(body))


def test_tokenize() -> None:
    request = TEI_TOKENIZE.parse(fields({"inputs": "hello", "prompt_name": "query"}))
    assert request == Tokenize(texts=["hello"], prompt_name="query")
    assert TEI_TOKENIZE.parse(fields({"inputs": ["a"], "add_special_tokens": False})).add_special_tokens is False
    assert content(TEI_TOKENIZE.render(request, TOKENS, INFO)) == [
        [
            {"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None},
            {"id": 7592, "text": "hello", "special": False, "start": 0, "stop": 5},
        ]
    ]


def test_decode() -> None:
    assert parse_decode(fields({"ids": [1, 2]})) == DecodeRequest(ids=[[1, 2]])
    request = parse_decode(fields({"ids": [[1, 2], [3]], "skip_special_tokens": False}))
    assert request == DecodeRequest(ids=[[1, 2], [3]], skip_special_tokens=False)
    assert content(render_decode(["a", "b"])) == ["a", "b"]


# ---- info

LIMITS = Limits(
    max_concurrent_requests=512,
    max_batch_tokens=16384,
    max_batch_requests=None,
    max_client_batch_size=2048,
    auto_truncate=True,
    tokenization_workers=2,
    version="0.9",
)


def test_info() -> None:
    info = content(render_info(INFO, LIMITS))
    tei = {
        "model_id": "org/model-on-hub",
        "model_sha": "abc123",
        "model_dtype": "float32",
        "served_model_name": "org/model",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": 512,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": 2048,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "version": "0.9",
        "sha": None,
        "docker_label": None,
    }
    ours = {
        "fingerprint": "f00d",
        "dimensions": [64, 128, 256],
        "dim": 256,
        "prompts": {"query": "query: "},
        "default_prompt_name": None,
        "input_types": {"query": "query", "document": None},
        "engine": "onnx",
        "device": "cpu",
        "aliases": ["text-embedding-3-small"],
        "models": ["org/model"],
    }
    assert info == tei | ours
    assert next(iter(info["model_type"])) == "embedding", "dify reads the first key"


def test_info_of_a_model_without_a_limit_has_a_number() -> None:
    assert content(render_info(replace(INFO, max_tokens=None), LIMITS))["max_input_length"] == 2**31 - 1
