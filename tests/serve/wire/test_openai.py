"""OpenAI's dialect: answers, lists of models, vLLM's tokens."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from wire import BASE64, INFO, RESULT, STAMP, TOKENS, VECTORS, content, fields, parse, refusal, render

from gnomon.serve.requests import DecodeRequest, EmbedRequest, RequestError, TokenizeRequest
from gnomon.serve.wire.openai import (
    OPENAI,
    VLLM_TOKENIZE,
    parse_detokenize,
    render_detokenize,
    render_model,
    render_models,
)

FLOATS = [[0.1, -0.2, 0.3], [1.0, 0.0, -0.5]]
"""As orjson writes float32: the shortest digits that give the same float32."""


def test_the_body_of_openai_python() -> None:
    body = {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}
    assert parse(OPENAI, body) == EmbedRequest(inputs=["a", "b"], model="m", vector_types=("base64",), types_named=True)


def test_the_body_of_dify() -> None:
    assert parse(OPENAI, {"input": ["ping"]}) == EmbedRequest(inputs=["ping"])


def test_token_ids_pass() -> None:
    assert parse(OPENAI, {"input": [[15339, 1917], [2]]}).inputs == [[15339, 1917], [2]]


def test_an_answer_in_floats() -> None:
    assert render(OPENAI, {"input": ["a", "b"]}) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": FLOATS[0]},
            {"object": "embedding", "index": 1, "embedding": FLOATS[1]},
        ],
        "model": "org/model",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "id": "embd-0123abcd",
        "created": 1_790_000_000,
    }


def test_an_answer_in_base64_is_the_same_bit_for_bit() -> None:
    data = render(OPENAI, {"input": ["a", "b"], "encoding_format": "base64"})["data"]
    assert [item["embedding"] for item in data] == BASE64
    decoded = [np.frombuffer(base64.b64decode(text), "<f4") for text in BASE64]
    assert np.array_equal(decoded, VECTORS)


def test_several_types() -> None:
    first, second = render(OPENAI, {"input": ["a", "b"], "embedding_types": ["int8", "ubinary", "float"]})["data"]
    assert first["embedding"] == [1, -128, 127]
    assert first["embeddings"] == {"int8": [1, -128, 127], "ubinary": [0], "float": FLOATS[0]}
    assert second["embeddings"] == {"int8": [0, 2, 3], "ubinary": [160], "float": FLOATS[1]}


def test_a_report_is_there_on_request() -> None:
    answer = render(OPENAI, {"input": ["a", "b"], "report": True})
    assert answer["report"] == [
        {"tokens": 4, "full_tokens": 4, "truncated_at": None},
        {"tokens": 8, "full_tokens": 11, "truncated_at": 29},
    ]
    assert "report" not in render(OPENAI, {"input": ["a", "b"]})
    answer = render(OPENAI, {"input": [[1], [2]], "report": True}, replace(RESULT, report=None))
    assert answer["report"] == [
        {"tokens": 4, "full_tokens": 4, "truncated": False},
        {"tokens": 8, "full_tokens": 11, "truncated": True},
    ]


def test_headers() -> None:
    answer = OPENAI.render_embed(EmbedRequest(inputs=["a", "b"]), RESULT, STAMP)
    assert answer.headers == {
        "x-gnomon-fingerprint": "f00d",
        "x-gnomon-truncated": "1",
        "x-gnomon-tokens": "12",
        "x-queue-time": "2",
        "x-inference-time": "8",
        "openai-model": "org/model",
        "openai-processing-ms": "13",
    }


def test_a_model_that_headers_cannot_hold_is_encoded() -> None:
    result = replace(RESULT, model="modèle\r\nx: y")
    assert OPENAI.render_embed(EmbedRequest(inputs=["a"]), result, STAMP).headers["openai-model"] == (
        "mod%C3%A8le%0D%0Ax: y"
    )


def test_chats_are_refused() -> None:
    error = refusal(OPENAI, {"messages": [{"role": "user", "content": "a"}]})
    assert (error.kind, error.param) == ("unsupported", "messages")


def test_fields_of_vllm_without_an_effect_are_known() -> None:
    body = {"input": "a", "request_id": "r", "cache_salt": "s", "embed_dtype": "float32", "endianness": "little"}
    assert parse(OPENAI, body) == EmbedRequest(inputs=["a"])
    assert parse(OPENAI, {"input": "a", "use_activation": True}).normalize is True


# ---- models


def test_the_list_of_models_has_names_and_aliases() -> None:
    answer = content(render_models([INFO]))
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["org/model", "text-embedding-3-small"]
    assert answer["data"][0] == {
        "id": "org/model",
        "object": "model",
        "created": 1_790_000_000,
        "owned_by": "gnomon",
        "root": "org/model",
        "max_model_len": 512,
        "dimensions": [64, 128, 256],
        "prompts": {"query": "query: "},
        "default_prompt_name": None,
        "dim": 256,
        "input_types": {"query": "query", "document": None},
        "fingerprint": "f00d",
        "stats": {"queue_texts": 3.0},
        "backend": "onnx",
        "capabilities": ["embed"],
    }
    assert content(render_model(INFO, "text-embedding-3-small")) == answer["data"][1]
    assert content(render_models([])) == {"object": "list", "data": []}


# ---- vLLM's tokens


def test_tokenize() -> None:
    body = {"model": "m", "prompt": "hello", "return_token_strs": True}
    request = VLLM_TOKENIZE.parse(fields(body))
    assert request == TokenizeRequest(texts=["hello"], model="m", with_token_texts=True)
    answer = content(VLLM_TOKENIZE.render(request, TOKENS, INFO))
    assert answer == {"count": 2, "max_model_len": 512, "tokens": [101, 7592], "token_strs": ["[CLS]", "hello"]}
    plain = VLLM_TOKENIZE.parse(fields({"prompt": "hello", "add_special_tokens": False}))
    assert plain.add_special_tokens is False
    assert content(VLLM_TOKENIZE.render(plain, TOKENS, INFO))["token_strs"] is None
    with pytest.raises(RequestError, match="prompt is missing"):
        VLLM_TOKENIZE.parse(fields({}))


def test_detokenize() -> None:
    request = parse_detokenize(fields({"tokens": [101, 7592]}))
    assert request == DecodeRequest(ids=[[101, 7592]], skip_special_tokens=False)
    assert content(render_detokenize(["hello"])) == {"prompt": "hello"}
    with pytest.raises(RequestError, match="one text"):
        parse_detokenize(fields({"tokens": [[1], [2]]}))
