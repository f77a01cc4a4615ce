"""Inputs in all their forms, and the checks of their number."""

import json
from typing import Any

import pytest
from wire import fields

from gnomon.serve.requests import EmbedRequest, RequestError
from gnomon.serve.wire.cohere import COHERE_V1, COHERE_V2
from gnomon.serve.wire.dialect import Dialect
from gnomon.serve.wire.fields import parse_body
from gnomon.serve.wire.infinity import INFINITY
from gnomon.serve.wire.inputs import check_inputs, check_texts, read_id_lists, read_inputs, read_texts
from gnomon.serve.wire.jina import JINA
from gnomon.serve.wire.ollama import OLLAMA
from gnomon.serve.wire.openai import OPENAI
from gnomon.serve.wire.tei import TEI


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([], []),
        (["a", ""], ["a", ""]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        ([[]], [[]]),
    ],
)
def test_forms_of_inputs(value: object, inputs: list[Any]) -> None:
    assert read_inputs(fields({"input": value}), "input") == inputs


@pytest.mark.parametrize(
    ("value", "message", "index"),
    [
        (None, "input is missing", None),
        (5, "input is 5, a number.", None),
        (True, "input is true, a boolean.", None),
        ({"text": "a"}, "input is an object.", None),
        (["a", "b", "c", 5], "input[3] is 5, a number. It must be a text.", 3),
        (["a", None], "input[1] is null.", 1),
        (["a", [1]], "input[1] is a list of 1. It must be a text.", 1),
        ([True, "a"], "input[0] is true, a boolean.", 0),
        ([0.5], "input[0] is 0.5, a number. It must be a text.", 0),
        ([{"text": "a"}], "input[0] is an object.", 0),
        ([5, "a"], "input[1] is 'a', a text. Token ids are whole numbers", None),
        ([5, True], "input[1] is true", None),
        ([5, -1], "input[1] is -1, a number.", None),
        ([2**31], "input[0] is 2147483648", None),
        ([[5], "a"], "input[1] is 'a', a text. It must be a list of token ids", 1),
        ([[5], [6, 0.5]], "input[1][1] is 0.5, a number.", 1),
        ([["a"]], "input[0][0] is 'a', a text.", 0),
    ],
)
def test_an_input_of_another_type_is_named(value: object, message: str, index: int | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_inputs(fields({"input": value}), "input")
    error = caught.value
    assert error.message.startswith(message)
    assert (error.kind, error.param, error.index) == ("invalid", "input", index)


def test_texts_must_be_there() -> None:
    assert read_texts(fields({"texts": ["a"]}), "texts") == ["a"]
    with pytest.raises(RequestError, match="texts is missing"):
        read_texts(fields({"texts": None}), "texts")


def test_ids_of_one_text_or_several() -> None:
    assert read_id_lists(fields({"ids": [1, 2]}), "ids") == [[1, 2]]
    assert read_id_lists(fields({"ids": [[1], []]}), "ids") == [[1], []]
    assert read_id_lists(fields({"ids": []}), "ids") == [[]]
    for value in (None, "a", [[1], 2], ["a"], [[1], ["b"]]):
        with pytest.raises(RequestError, match="ids"):
            read_id_lists(fields({"ids": value}), "ids")


@pytest.mark.parametrize(
    ("inputs", "kind", "param", "index", "words"),
    [
        ([], "empty", "texts", None, ["0 texts"]),
        (["a"] * 2049, "too_many", "texts", None, ["2,049", "2,048"]),
        (["a", "", "c", ""], "empty", "texts", 1, ["texts[1]", "--empty embed"]),
        ([[1], []], "empty", "texts", 1, ["texts[1]"]),
    ],
)
def test_numbers_of_inputs(inputs: list[Any], kind: str, param: str, index: int | None, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        check_inputs(EmbedRequest(inputs=inputs), 2048, "error", "texts")
    error = caught.value
    assert (error.kind, error.param, error.index) == (kind, param, index)
    assert [word for word in words if word not in error.message] == []


def test_what_the_server_allows_passes() -> None:
    check_inputs(EmbedRequest(inputs=["a"] * 2048), 2048, "error")
    check_inputs(EmbedRequest(inputs=[" ", "\0"]), 2, "error")
    check_texts(["", "a"], 2, "embed")
    with pytest.raises(RequestError, match="0 texts"):
        check_texts([], 2, "embed")


@pytest.mark.parametrize(
    ("dialect", "body", "name"),
    [
        (OPENAI, {"input": ["a", "b", 1]}, "input"),
        (OPENAI, {"input": [[1], [2], ["x"]]}, "input"),
        (INFINITY, {"input": ["a", "b", 1], "modality": "text"}, "input"),
        (JINA, {"input": [{"text": "a"}, "b", {}], "task": "query"}, "input"),
        (TEI, {"inputs": ["a", "b", 1]}, "inputs"),
        (TEI, {"inputs": ["a", "b", 1], "parameters": {"normalize": True}}, "inputs"),
        (COHERE_V1, {"texts": ["a", "b", 1]}, "texts"),
        (COHERE_V2, {"inputs": [{"content": "a"}, {}, {}]}, "inputs"),
        (OLLAMA, {"input": ["a", "b", 1]}, "input"),
    ],
)
def test_too_many_inputs_are_refused_before_they_are_looked_at(dialect: Dialect, body: Any, name: str) -> None:
    with pytest.raises(RequestError, match=r"holds 3 .* 2") as caught:
        dialect.parse_embed(parse_body(json.dumps(body).encode(), max_inputs=2))
    assert (caught.value.kind, caught.value.param) == ("too_many", name)


def test_the_ids_of_one_text_are_one_input() -> None:
    body = parse_body(b'{"input": [1, 2, 3]}', max_inputs=1)
    assert OPENAI.parse_embed(body).inputs == [[1, 2, 3]]
