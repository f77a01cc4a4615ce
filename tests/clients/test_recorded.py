"""Requests of Dify and Open WebUI as they were recorded, sent by a plain HTTP client."""

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from client_texts import TEXTS
from live_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def send(url: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """Status and content of an answer. http.client sends the headers as they are, empty ones too."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    sent = {"Content-Type": "application/json", **(headers or {})}
    connection.request(method, path, None if body is None else json.dumps(body), sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if content else None


def vectors_of(content: Any) -> list[list[float]]:
    assert [item["index"] for item in content["data"]] == [*range(len(content["data"]))]
    return [item["embedding"] for item in content["data"]]


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}, {"Authorization": "Bearer None"}])
def test_dify_for_tei(server: Server, headers: dict[str, str]) -> None:
    status, info = send(server.url, "GET", "/info", headers=headers)
    assert status == 200 and next(iter(info["model_type"])) == "embedding"
    assert info["max_client_batch_size"] >= 1 and info["max_input_length"] == server.encoder.max_seq_length
    status, content = send(server.url, "POST", "/v1/embeddings", {"input": TEXTS}, headers)
    assert status == 200 and content["usage"]["total_tokens"] > 0
    server.assert_plain(vectors_of(content), TEXTS)
    status, tokens = send(server.url, "POST", "/tokenize", {"inputs": TEXTS}, headers)
    assert status == 200
    assert [len(row) for row in tokens] == server.encoder.tokenize(TEXTS, prompt="").counts


def test_dify_for_tei_reranks_nothing_here(server: Server) -> None:
    body = {"query": "which animal purrs?", "texts": TEXTS, "return_text": True}
    status, content = send(server.url, "POST", "/rerank", body)
    assert status == 424 and content["error_type"] == "Backend"


def test_dify_for_servers_like_openai(server: Server) -> None:
    """Prefix, a blank and the text; an empty header; "ping" to check the settings."""
    headers = {"Authorization": ""}
    status, content = send(server.url, "POST", "/v1/embeddings", {"input": "ping", "model": server.name}, headers)
    assert status == 200
    server.assert_plain(vectors_of(content), ["ping"])
    body = {"input": ["passage: " + text for text in TEXTS], "model": server.name, "encoding_format": "float"}
    status, content = send(server.url, "POST", "/v1/embeddings", body, headers)
    assert status == 200
    server.assert_plain(vectors_of(content), ["passage: " + text for text in TEXTS])


@pytest.mark.parametrize("field", ["prefix", "prompt"])
def test_open_webui(e5: Server, field: str) -> None:
    """The prompt is in a field whose name is a setting there."""
    headers = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "a"}
    for prompt, check in (("query: ", e5.assert_queries), ("passage: ", e5.assert_documents)):
        body = {"input": TEXTS, "model": "e5", field: prompt}
        status, content = send(e5.url, "POST", "/v1/embeddings", body, headers)
        assert status == 200
        check(vectors_of(content), TEXTS)


def test_open_webui_for_ollama(e5: Server) -> None:
    body = {"input": TEXTS, "model": "e5:query"}
    status, content = send(e5.url, "POST", "/api/embed", body, {"Authorization": "Bearer "})
    assert status == 200
    e5.assert_queries(content["embeddings"], TEXTS)


def test_null_in_every_optional_field(server: Server) -> None:
    body = {"input": TEXTS, "model": None, "encoding_format": None, "dimensions": None, "user": None}
    status, content = send(server.url, "POST", "/v1/embeddings", body)
    assert status == 200
    server.assert_plain(vectors_of(content), TEXTS)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/embeddings/", "//v1/embeddings", "/embeddings"])
def test_addresses_as_clients_build_them(minilm: Server, path: str) -> None:
    status, content = send(minilm.url, "POST", path, {"input": "a", "model": "minilm"})
    assert status == 200
    minilm.assert_plain(vectors_of(content), ["a"])
