"""What the tests of dialects share: bodies to fields, a result with known values, and JSON of answers."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, ModelInfo, RequestError, Timings, Token
from gnomon.serve.wire.dialect import Dialect, Stamp
from gnomon.serve.wire.fields import Fields, parse_body
from gnomon.tokenizer import TokenReport

VECTORS = np.array([[0.1, -0.2, 0.3], [1.0, 0.0, -0.5]], np.float32)
BASE64 = ["zczMPc3MTL6amZk+", "AACAPwAAAAAAAAC/"]
"""Of the rows, written by hand from struct.pack("<3f", ...)."""
STAMP = Stamp("0123abcd", 1_790_000_000)
TIMINGS = Timings(total=0.0126, tokenization=0.001, queue=0.0021, inference=0.0085)

RESULT = EmbedResult(
    model="org/model",
    fingerprint="f00d",
    vectors_BD=VECTORS,
    quantized={
        "int8": np.array([[1, -128, 127], [0, 2, 3]], np.int8),
        "uint8": np.array([[255, 0, 7], [1, 2, 3]], np.uint8),
        "binary": np.array([[-128], [32]], np.int8),
        "ubinary": np.array([[0], [160]], np.uint8),
    },
    token_counts=[4, 8],
    full_token_counts=[4, 11],
    truncated=[1],
    num_characters=43,
    timings=TIMINGS,
    prompt="query: ",
    report=TokenReport([], [], [4, 11], [None, 29]),
)

INFO = ModelInfo(
    name="org/model",
    aliases=("text-embedding-3-small",),
    source="org/model-on-hub",
    revision="abc123",
    fingerprint="f00d",
    dimensions=(64, 128, 256),
    dim=256,
    max_tokens=512,
    prompts={"query": "query: "},
    default_prompt_name=None,
    input_types={"query": "query", "document": None},
    pooling="mean",
    dtype="float32",
    device="cpu",
    engine="onnx",
    created=1_790_000_000,
    stats={"queue_texts": 3.0},
)

TOKENS = [[Token(101, "[CLS]", True, None, None), Token(7592, "hello", False, 0, 5)]]


def fields(body: object) -> Fields:
    return parse_body(json.dumps(body).encode())


def parse(dialect: Dialect, body: object) -> EmbedRequest:
    return dialect.parse_embed(fields(body))


def refusal(dialect: Dialect, body: object) -> RequestError:
    """The error of a body."""
    with pytest.raises(RequestError) as caught:
        parse(dialect, body)
    return caught.value


def content(answer: Answer) -> Any:
    assert answer.content_type == "application/json"
    return json.loads(answer.body)


def render(dialect: Dialect, body: object, result: EmbedResult = RESULT) -> Any:
    """The answer to a body, as a client reads it."""
    answer = dialect.render_embed(parse(dialect, body), result, STAMP)
    assert answer.status == 200
    return content(answer)


def one_input(result: EmbedResult = RESULT) -> EmbedResult:
    """The result of its first input alone."""
    first = {name: values[:1] for name, values in result.quantized.items()}
    return replace(result, vectors_BD=result.vectors_BD[:1], quantized=first, token_counts=[4], truncated=[])
