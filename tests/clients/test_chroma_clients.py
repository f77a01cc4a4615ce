"""Chroma's own functions for OpenAI, for servers of Hugging Face, and for Cohere."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("chromadb", reason="chromadb is not here: `make clients` runs this")

import chromadb
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer, OpenAIEmbeddingFunction

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


COHERE = """
import json, sys
from chromadb.utils.embedding_functions import CohereEmbeddingFunction
vectors = CohereEmbeddingFunction(model_name=sys.argv[1])(json.loads(sys.argv[2]))
print(json.dumps([vector.tolist() for vector in vectors]))
"""


def test_cohere(server: Server) -> None:
    """Through /v1/embed, with the prompt of documents. cohere reads CO_API_URL when it is imported."""
    texts = [*TEXTS, *(f"text number {number}" for number in range(100))]
    command = [sys.executable, "-c", COHERE, server.name, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CO_API_URL": server.url})
    assert done.returncode == 0, done.stderr[-3000:]
    server.assert_documents(json.loads(done.stdout), texts)


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
