"""cohere: the clients of both versions of its API."""

import numpy as np
import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("cohere", reason="cohere is not here: `make clients` runs this")

import cohere
from cohere.errors import BadRequestError, NotFoundError, UnauthorizedError

pytestmark = [pytest.mark.slow, pytest.mark.clients]


@pytest.fixture
def client(server: Server) -> cohere.ClientV2:
    return cohere.ClientV2(base_url=server.url, api_key="none")


def test_input_types_are_prompts(server: Server, client: cohere.ClientV2) -> None:
    for input_type, check in (("search_query", server.assert_queries), ("search_document", server.assert_documents)):
        answer = client.embed(
            model=server.name, input_type=input_type, texts=TEXTS, embedding_types=["float", "ubinary"]
        )
        check(answer.embeddings.float_, TEXTS)
        bits = np.packbits(np.asarray(answer.embeddings.float_) > 0, axis=-1)
        assert answer.embeddings.ubinary == bits.tolist()
        assert answer.embeddings.int8 is None and answer.id
    answer = client.embed(model=server.name, input_type="classification", texts=TEXTS, embedding_types=["float"])
    server.assert_plain(answer.embeddings.float_, TEXTS)


def test_binary_is_ubinary_minus_128(server: Server, client: cohere.ClientV2) -> None:
    answer = client.embed(
        model=server.name, input_type="clustering", texts=TEXTS, embedding_types=["binary", "ubinary"]
    )
    np.testing.assert_array_equal(np.asarray(answer.embeddings.binary), np.asarray(answer.embeddings.ubinary) - 128)
    assert answer.embeddings.float_ is None


def test_inputs_in_parts(server: Server, client: cohere.ClientV2) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    answer = client.embed(model=server.name, input_type="search_query", inputs=inputs, embedding_types=["float"])
    server.assert_queries(answer.embeddings.float_, TEXTS)


def test_int8_without_ranges_is_refused(server: Server, client: cohere.ClientV2) -> None:
    with pytest.raises(BadRequestError, match="ranges"):
        client.embed(model=server.name, input_type="search_query", texts=["a"], embedding_types=["int8"])


def test_truncation(minilm: Server) -> None:
    client = cohere.ClientV2(base_url=minilm.url, api_key="none")
    options = {"model": "minilm", "input_type": "search_document", "embedding_types": ["float"]}
    long = TEXTS[-1]
    with pytest.raises(BadRequestError, match="256"):
        client.embed(texts=["a", long], truncate="NONE", **options)
    end = client.embed(texts=[long], truncate="END", **options).embeddings.float_
    start = client.embed(texts=[long], truncate="START", **options).embeddings.float_
    minilm.assert_plain(end, [long])
    assert not np.allclose(start, end, atol=1e-3), "START drops the start of the text, END its end"


def test_output_dimension(stella: Server) -> None:
    client = cohere.ClientV2(base_url=stella.url, api_key="none")
    for dim in stella.encoder.dims:
        answer = client.embed(
            model="stella",
            input_type="search_document",
            texts=TEXTS,
            embedding_types=["float"],
            output_dimension=dim,
        )
        stella.assert_documents(answer.embeddings.float_, TEXTS, dim=dim)


def test_version_1(server: Server) -> None:
    """Its client splits 200 texts into three requests, all at once."""
    client = cohere.Client(base_url=server.url, api_key="none")
    texts = [f"text number {number}" for number in range(200)]
    answer = client.embed(texts=texts, model=server.name, input_type="search_document")
    server.assert_documents(answer.embeddings, texts)
    typed = client.embed(texts=TEXTS, model=server.name, input_type="search_query", embedding_types=["float"])
    server.assert_queries(typed.embeddings.float_, TEXTS)


def test_errors(two_models: str) -> None:
    options = {"input_type": "search_query", "texts": ["a"], "embedding_types": ["float"]}
    client = cohere.ClientV2(base_url=two_models, api_key="a-key-that-is-secret")
    with pytest.raises(NotFoundError, match="gpt-7"):
        client.embed(model="gpt-7", **options)
    with pytest.raises(BadRequestError, match=r"texts\[1\]"):
        client.embed(model="minilm", **options | {"texts": ["a", ""]})
    with pytest.raises(UnauthorizedError, match="key"):
        cohere.ClientV2(base_url=two_models, api_key="wrong").embed(model="minilm", **options)
