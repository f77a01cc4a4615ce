"""infinity's dialect, as its own tests and litellm send it."""

from typing import Any

import pytest
from wire import BASE64, parse, refusal, render

from gnomon.serve.requests import EmbedRequest
from gnomon.serve.wire.infinity import INFINITY


def test_the_body_of_litellm() -> None:
    body = {"model": "m", "input": ["a"], "output_dimension": 256, "modality": "text"}
    assert parse(INFINITY, body) == EmbedRequest(inputs=["a"], model="m", dimensions=256)


def test_the_defaults_of_its_schema_are_nothing() -> None:
    body = {
        "input": " a ",
        "model": "default/not-specified",
        "encoding_format": "float",
        "dimensions": 0,
        "user": None,
        "modality": "text",
    }
    assert parse(INFINITY, body) == EmbedRequest(inputs=[" a "], types_named=True)


def test_the_answer() -> None:
    answer = render(INFINITY, {"input": ["a", "b"], "modality": "text", "encoding_format": "base64"})
    assert answer["id"] == "infinity-0123abcd"
    assert [item["embedding"] for item in answer["data"]] == BASE64
    assert answer["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


def test_an_input_may_have_122_880_characters() -> None:
    body: dict[str, Any] = {"input": ["a", "b" * 122_880], "modality": "text"}
    assert len(parse(INFINITY, body).inputs) == 2
    body["input"][1] += "b"
    error = refusal(INFINITY, body)
    assert (error.kind, error.param, error.index) == ("invalid", "input", 1)
    assert "122,881" in error.message
    assert INFINITY.render_error(error).status == 422


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        ({"modality": "image", "input": "http://x"}, "unsupported", "modality"),
        ({"modality": "audio", "input": "http://x"}, "unsupported", "modality"),
        ({"modality": "video", "input": "http://x"}, "invalid", "modality"),
        ({"modality": "text"}, "invalid", "input"),
        ({"modality": "text", "input": [[1, 2]]}, "invalid", "input"),
    ],
)
def test_what_is_refused(body: dict[str, Any], kind: str, param: str) -> None:
    error = refusal(INFINITY, body)
    assert (error.kind, error.param) == (kind, param)
