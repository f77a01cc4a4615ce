"""Chroma's own functions for OpenAI, for servers of Hugging Face, and for Cohere."""

from typing import Any

import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("chromadb", reason="chromadb is not here: `make clients` runs this")

import chromadb
from chromadb.utils.embedding_functions import (
    CohereEmbeddingFunction,
    HuggingFaceEmbeddingServer,
    OpenAIEmbeddingFunction,
)

pytestmark = [pytest.mark.slow, pytest.mark.clients]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("OPENAI", "COHERE"):
        monkeypatch.setenv(f"CHROMA_{provider}_API_KEY", "none")


def test_openai(server: Server) -> None:
    function = OpenAIEmbeddingFunction(api_base=f"{server.url}/v1", model_name=server.name)
    server.assert_plain(function(TEXTS), TEXTS)


def test_dimensions_go_with_names_of_openai_alone(start: Any, stella: Server) -> None:
    """It sends them only if the model's name has text-embedding-3 in it: an alias makes it work."""
    url = start("stella,text-embedding-3-stella")
    dim = stella.encoder.dims[0]
    assert dim != stella.encoder.dim
    for name, sent in (("text-embedding-3-stella:document", dim), ("stella:document", None)):
        function = OpenAIEmbeddingFunction(api_base=f"{url}/v1", model_name=name, dimensions=dim)
        stella.assert_documents(function(TEXTS), TEXTS, dim=sent)


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_huggingface(server: Server, path: str) -> None:
    server.assert_plain(HuggingFaceEmbeddingServer(url=server.url + path)(TEXTS), TEXTS)


def test_cohere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through /v1/embed, with the prompt of documents."""
    pytest.importorskip("PIL", reason="Chroma's function for Cohere needs pillow")
    monkeypatch.setenv("CO_API_URL", server.url)
    function = CohereEmbeddingFunction(model_name=server.name)
    texts = [*TEXTS, *(f"text number {number}" for number in range(100))]
    server.assert_documents(function(texts), texts)


def test_a_collection(e5: Server) -> None:
    """Documents with their prompt; the query is embedded by another name of the model."""
    options = {"api_base": f"{e5.url}/v1"}
    client = chromadb.EphemeralClient()
    collection = client.create_collection(
        "animals", embedding_function=OpenAIEmbeddingFunction(model_name="e5:document", **options)
    )
    try:
        collection.add(ids=["dog", "cat"], documents=["Dogs bark.", "Cats purr."])
        query = OpenAIEmbeddingFunction(model_name="e5:query", **options)(["which animal purrs?"])
        found = collection.query(query_embeddings=query, n_results=2)
        scores = e5.encoder.encode_document(["Cats purr.", "Dogs bark."]) @ e5.encoder.encode_query(
            "which animal purrs?"
        )
        assert found["ids"] == [["cat", "dog"]]
        assert found["distances"] == [pytest.approx((1 - scores).tolist(), abs=1e-5)]
    finally:
        client.delete_collection("animals")
