"""Any body gives a request or a `RequestError`, in every dialect; and any request gives an answer that can be read.

To try more: `pytest -m "" --times-examples=50 tests/serve/wire/test_wire_fuzz.py` is 5,000 bodies per dialect.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import RESULT, STAMP, fields

from gnomon.serve.requests import EmbedRequest, RequestError
from gnomon.serve.wire import choose, tei
from gnomon.serve.wire.cohere import COHERE_TOKENIZE, COHERE_V1, COHERE_V2
from gnomon.serve.wire.dialect import Dialect
from gnomon.serve.wire.fields import Fields, parse_body
from gnomon.serve.wire.infinity import INFINITY
from gnomon.serve.wire.inputs import check_inputs
from gnomon.serve.wire.jina import JINA
from gnomon.serve.wire.ollama import OLLAMA, OLLAMA_OLD
from gnomon.serve.wire.openai import OPENAI, VLLM_TOKENIZE, parse_detokenize

DIALECTS = [OPENAI, JINA, INFINITY, tei.TEI, COHERE_V1, COHERE_V2, OLLAMA, OLLAMA_OLD]
OPERATIONS: list[Callable[[Fields], object]] = [
    tei.parse_embed_all,
    tei.parse_similarity,
    tei.parse_decode,
    tei.TEI_TOKENIZE.parse,
    COHERE_TOKENIZE.parse,
    VLLM_TOKENIZE.parse,
    parse_detokenize,
]

NAMES = """input inputs texts text images prompt prefix prompt_name input_type task model dimensions output_dimension
truncate on_truncate truncation_side truncation_direction truncate_prompt_tokens max_tokens encoding_format
embedding_types embedding_type encoding_type normalize normalized use_activation priority report require_fingerprint
user parameters options modality late_chunking return_multivector messages embed_dtype endianness add_special_tokens
strict ids tokens source_sentence sentences content type skip_special_tokens query documents x""".split()
WORDS = """query document search_query clustering retrieval.query left right Left mean error none NONE START END warn
silent float base64 int8 uint8 binary ubinary bytes float32 text image little""".split()

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=4)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=3)
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6)
NEARLY_RIGHT = st.builds(
    lambda inputs, more: dict.fromkeys(("input", "inputs", "texts", "prompt"), inputs) | more,
    TEXTS,
    st.dictionaries(st.sampled_from(NAMES), LEAVES, max_size=3),
)


def check_parsed(dialect: Dialect, body: Fields) -> None:
    """A request that is well formed, whose answer can be read; or an error whose answer can be read."""
    try:
        request = dialect.parse_embed(body)
        check_inputs(request, 100, "error", dialect.input_field)
    except RequestError as error:
        answer = dialect.render_error(error)
        assert 400 <= answer.status < 500
        assert json.loads(answer.body)
        return
    assert isinstance(request, EmbedRequest)
    assert all(isinstance(each, str | list) for each in request.inputs)
    assert [request.prompt, request.prompt_name, request.input_type].count(None) >= 2
    assert len(set(request.vector_types)) == len(request.vector_types) >= 1
    assert request.dimensions is None or request.dimensions > 0
    assert request.max_tokens is None or request.max_tokens > 0
    rows = len(request.inputs)
    values = {name: np.zeros((rows, 1), np.int8) for name in ("int8", "uint8", "binary", "ubinary")}
    result = type(RESULT)(
        "m", "f", np.zeros((rows, 2), np.float32), values, [1] * rows, [1] * rows, [], 1, RESULT.timings
    )
    assert json.loads(dialect.render_embed(request, result, STAMP).body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(body=BODIES | NEARLY_RIGHT)
def test_any_object(dialect: Dialect, body: dict[str, Any]) -> None:
    check_parsed(dialect, fields(body))


@given(raw=st.binary(max_size=60) | st.builds(lambda body: json.dumps(body).encode()[:-1], BODIES))
def test_any_bytes(raw: bytes) -> None:
    try:
        body = parse_body(raw)
    except RequestError as error:
        for dialect in DIALECTS:
            assert dialect.render_error(error).status in (400, 422)
        return
    for dialect in DIALECTS:
        check_parsed(dialect, body)


@given(body=BODIES | NEARLY_RIGHT)
def test_any_object_has_a_dialect(body: dict[str, Any]) -> None:
    assert choose.choose_embeddings_dialect(fields(body)) in DIALECTS
    assert choose.choose_rerank_dialect(fields(body), "/rerank") in DIALECTS
    assert choose.choose_root_operation(fields(body)) in ("embed", "similarity", "rerank")
    assert choose.choose_tokenize_dialect(fields(body)).name in ("tei", "vllm", "cohere")


@pytest.mark.parametrize("parse", OPERATIONS, ids=lambda parse: f"{parse.__module__.split('.')[-1]}-{parse.__name__}")
@given(body=BODIES | NEARLY_RIGHT)
def test_other_operations(parse: Callable[[Fields], object], body: dict[str, Any]) -> None:
    try:
        parse(fields(body))
    except RequestError as error:
        assert error.kind in ("invalid", "unsupported")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_values_nested_a_thousand_deep(dialect: Dialect) -> None:
    lists, objects = b"[" * 1000 + b"]" * 1000, b'{"input":' * 1000 + b"1" + b"}" * 1000
    for name in map(str.encode, NAMES):
        for value in (lists, objects, b"[%s]" % objects, b'{"%s":%s}' % (name, objects)):
            check_parsed(dialect, parse_body(b'{"input": "a", "inputs": "a", "texts": "a", "%s": %s}' % (name, value)))
