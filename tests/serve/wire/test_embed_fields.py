"""The fields that dialects share, as OpenAI's dialect reads them."""

from typing import Any

import pytest
from wire import parse, refusal

from gnomon.serve.requests import EmbedRequest
from gnomon.serve.wire.openai import OPENAI


def read(**body: Any) -> EmbedRequest:
    return parse(OPENAI, {"input": "a", **body})


def test_every_field_at_once() -> None:
    body = {
        "input": ["a", "b"],
        "model": "m",
        "encoding_format": "base64",
        "dimensions": 256,
        "user": "u",
        "prompt_name": "query",
        "truncate": "mean",
        "normalize": False,
        "priority": 0,
        "report": True,
        "require_fingerprint": "f00d",
        "max_tokens": 100,
        "new_field": 1,
    }
    assert parse(OPENAI, body) == EmbedRequest(
        inputs=["a", "b"],
        model="m",
        vector_types=("base64",),
        types_named=True,
        dimensions=256,
        user="u",
        prompt_name="query",
        truncate="mean",
        max_tokens=100,
        normalize=False,
        interactive=True,
        report=True,
        require_fingerprint="f00d",
        unknown_fields=("new_field",),
    )


def test_nulls_are_the_same_as_nothing() -> None:
    names = "model encoding_format dimensions output_dimension user prompt prefix prompt_name input_type truncate"
    names += " on_truncate truncation_side truncation_direction truncate_prompt_tokens max_tokens embedding_types"
    names += " embedding_type encoding_type normalize normalized priority report require_fingerprint embed_dtype"
    names += " endianness use_activation add_special_tokens request_id cache_salt strict messages"
    assert read(**dict.fromkeys(names.split())) == EmbedRequest(inputs=["a"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "p: "}, {"prompt": "p: "}),
        ({"prefix": "p: "}, {"prompt": "p: "}),
        ({"prompt": ""}, {"prompt": ""}),
        ({"prompt_name": "x"}, {"prompt_name": "x"}),
        ({"input_type": "query"}, {"input_type": "query"}),
        ({"input_type": "document"}, {"input_type": "document"}),
        ({"input_type": "passage"}, {"input_type": "document"}),
        ({"input_type": "search_query"}, {"input_type": "query"}),
        ({"input_type": "SEARCH_DOCUMENT"}, {"input_type": "document"}),
        ({"input_type": "retrieval.query"}, {"input_type": "query"}),
        ({"input_type": "retrieval.passage"}, {"input_type": "document"}),
        ({"input_type": "clustering"}, {"optional_prompt_name": "clustering"}),
    ],
)
def test_prompts(body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(**body) == EmbedRequest(inputs=["a"], **expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("prompt", "prompt_name"),
        ("prompt", "input_type"),
        ("prompt_name", "input_type"),
        ("prompt", "prefix"),
        ("prefix", "input_type"),
    ],
)
def test_only_one_field_chooses_the_prompt(first: str, second: str) -> None:
    error = refusal(OPENAI, {"input": "a", first: "query", second: "query"})
    assert (error.kind, error.param) == ("invalid", second)
    assert f"{first} and {second}" in error.message


def test_an_unknown_input_type_lists_the_known() -> None:
    error = refusal(OPENAI, {"input": "a", "input_type": "querry"})
    assert error.param == "input_type"
    assert "search_document" in error.message
    assert "Did you mean 'query'" in error.message


@pytest.mark.parametrize(
    ("body", "truncate", "max_tokens"),
    [
        ({"truncate": True}, "right", None),
        ({"truncate": False}, "error", None),
        ({"truncate": "error"}, "error", None),
        ({"truncate": "left"}, "left", None),
        ({"truncate": "mean"}, "mean", None),
        ({"truncate": "NONE"}, "error", None),
        ({"truncate": "START"}, "left", None),
        ({"truncate": "END"}, "right", None),
        ({"on_truncate": "error"}, "error", None),
        ({"on_truncate": "mean"}, "mean", None),
        ({"on_truncate": "silent"}, "right", None),
        ({"on_truncate": "warn"}, "right", None),
        ({"on_truncate": "warn", "truncation_side": "left"}, "left", None),
        ({"on_truncate": "mean", "truncate": True}, "mean", None),
        ({"truncate": True, "truncation_direction": "Left"}, "left", None),
        ({"truncate": False, "truncation_direction": "Left"}, "error", None),
        ({"truncate": "left", "truncation_side": "left"}, "left", None),
        ({"truncate_prompt_tokens": -1}, "right", None),
        ({"truncate_prompt_tokens": 7}, "right", 7),
        ({"truncate_prompt_tokens": 7, "truncation_side": "left"}, "left", 7),
        ({"truncate_prompt_tokens": 7, "truncate": False}, "error", 7),
        ({"max_tokens": 7}, None, 7),
        ({"max_tokens": 7, "truncate_prompt_tokens": 7}, "right", 7),
        ({}, None, None),
    ],
)
def test_truncation(body: dict[str, Any], truncate: str | None, max_tokens: int | None) -> None:
    assert read(**body) == EmbedRequest(inputs=["a"], truncate=truncate, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("body", "side"),
    [
        ({"truncation_side": "left"}, "left"),
        ({"truncation_direction": "Right"}, "right"),
        ({"truncation_side": "left", "max_tokens": 7}, "left"),
        ({"truncation_side": "left", "truncate": False}, None),
        ({"truncation_side": "left", "truncate": True}, None),
    ],
)
def test_a_side_alone_leaves_it_to_the_server_whether_texts_are_truncated(body: dict[str, Any], side: str) -> None:
    request = read(**body)
    assert request.truncation_side == side
    assert (request.truncate is None) == (side is not None)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"truncate": "left", "on_truncate": "mean"}, "truncate and on_truncate"),
        ({"truncate": True, "on_truncate": "error"}, "truncate and on_truncate"),
        ({"truncate": "error", "on_truncate": "warn"}, "truncate and on_truncate"),
        ({"truncate": "left", "truncation_side": "right"}, "truncate and truncation_side"),
        ({"truncation_side": "left", "truncation_direction": "right"}, "truncation_side and truncation_direction"),
        ({"max_tokens": 7, "truncate_prompt_tokens": 8}, "truncate_prompt_tokens and max_tokens"),
        ({"dimensions": 7, "output_dimension": 8}, "dimensions and output_dimension"),
        ({"normalize": True, "normalized": False}, "normalize and normalized"),
        ({"normalize": True, "use_activation": False}, "normalize and use_activation"),
        ({"embedding_types": ["float"], "embedding_type": "int8"}, "embedding_types and embedding_type"),
        ({"embedding_types": ["float", "int8"], "encoding_format": "bytes"}, "encoding_format is 'bytes'"),
    ],
)
def test_fields_that_contradict_each_other(body: dict[str, Any], names: str) -> None:
    error = refusal(OPENAI, {"input": "a", **body})
    assert error.kind == "invalid"
    assert names in error.message


@pytest.mark.parametrize(
    ("body", "dimensions"),
    [
        ({"dimensions": 256}, 256),
        ({"dimensions": 0}, None),
        ({"output_dimension": 256}, 256),
        ({"dimensions": 0, "output_dimension": 256}, 256),
        ({"dimensions": 256, "output_dimension": 256}, 256),
    ],
)
def test_dimensions(body: dict[str, Any], dimensions: int | None) -> None:
    assert read(**body).dimensions == dimensions


@pytest.mark.parametrize(
    ("body", "types", "named"),
    [
        ({}, ("float",), False),
        ({"encoding_format": "float"}, ("float",), True),
        ({"encoding_format": "base64"}, ("base64",), True),
        ({"encoding_format": "bytes"}, ("float",), True),
        ({"embedding_types": ["int8", "float", "int8"]}, ("int8", "float"), True),
        ({"embedding_types": "ubinary"}, ("ubinary",), True),
        ({"embedding_types": []}, ("float",), False),
        ({"embedding_type": "uint8"}, ("uint8",), True),
        ({"encoding_type": "binary"}, ("binary",), True),
        ({"encoding_format": "base64", "embedding_types": ["int8"]}, ("int8",), True),
        ({"encoding_format": "bytes", "embedding_types": ["int8"]}, ("int8",), True),
    ],
)
def test_types_of_vectors(body: dict[str, Any], types: tuple[str, ...], named: bool) -> None:
    request = read(**body)
    assert (request.vector_types, request.types_named) == (types, named)
    assert request.raw_type == ("application/octet-stream" if body.get("encoding_format") == "bytes" else None)


@pytest.mark.parametrize(("priority", "interactive"), [(0, True), (-1, True), (1, False), (None, None)])
def test_priority_0_is_interactive(priority: int | None, interactive: bool | None) -> None:
    assert read(priority=priority).interactive is interactive


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dimensions", -1),
        ("dimensions", [256, 1024]),
        ("dimensions", "256"),
        ("dimensions", True),
        ("model", 5),
        ("user", {}),
        ("encoding_format", "float16"),
        ("embedding_types", ["float", "int4"]),
        ("embedding_types", [1]),
        ("normalize", "yes"),
        ("truncate", 1),
        ("truncate", "middle"),
        ("on_truncate", "left"),
        ("truncation_side", "middle"),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("max_tokens", 0),
        ("priority", 0.5),
        ("priority", True),
        ("report", 1),
        ("prompt", ["a"]),
        ("prompt_name", 1),
        ("require_fingerprint", 1),
        ("embed_dtype", "float16"),
        ("endianness", "big"),
        ("add_special_tokens", False),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name: str, value: object) -> None:
    error = refusal(OPENAI, {"input": "a", name: value})
    assert error.kind == "invalid"
    assert (error.param or "").startswith(name)
    assert name in error.message


def test_strict_refuses_unknown_fields() -> None:
    assert read(dimension=5).unknown_fields == ("dimension",)
    assert "'dimension'" in refusal(OPENAI, {"input": "a", "dimension": 5, "strict": True}).message


def test_an_empty_model_name_is_none() -> None:
    assert read(model="").model is None
