"""litellm: its providers openai, infinity, hosted_vllm and huggingface."""

import asyncio
import json
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("litellm", reason="litellm is not here: `make clients` runs this")

import litellm

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def vectors_of(answer: Any) -> list[list[float]]:
    return [item["embedding"] for item in answer.data]


@pytest.mark.parametrize("provider", ["openai", "infinity", "hosted_vllm"])
@pytest.mark.parametrize("key", ["none", None])
def test_providers(server: Server, provider: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, infinity sends "Bearer None"; the SDK of OpenAI needs one."""
    if provider == "openai" and key is None:
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    options = {"model": f"{provider}/{server.name}", "api_base": f"{server.url}/v1", "api_key": key}
    answer = litellm.embedding(input=TEXTS, **options)
    server.assert_plain(vectors_of(answer), TEXTS)
    assert answer.usage.prompt_tokens == sum(len(ids) for ids in server.encoder.tokenize(TEXTS, prompt="").ids)
    server.assert_plain(vectors_of(asyncio.run(litellm.aembedding(input=TEXTS[:1], **options))), TEXTS[:1])


@pytest.mark.parametrize("provider", ["infinity", "openai", "hosted_vllm"])
def test_dimensions(stella: Server, provider: str) -> None:
    """infinity's provider calls them output_dimension."""
    for dim in stella.encoder.dims:
        answer = litellm.embedding(
            model=f"{provider}/stella:document",
            input=TEXTS,
            dimensions=dim,
            api_base=f"{stella.url}/v1",
            api_key="none",
            allowed_openai_params=["dimensions"],
        )
        stella.assert_documents(vectors_of(answer), TEXTS, dim=dim)


def test_errors(minilm: Server) -> None:
    for provider in ("openai", "hosted_vllm"):
        with pytest.raises(litellm.BadRequestError, match=r"input\[1\]"):
            litellm.embedding(
                model=f"{provider}/minilm", input=["a", ""], api_base=f"{minilm.url}/v1", api_key="none", num_retries=0
            )


def test_huggingface(server: Server) -> None:
    """With `input_type` it does not look the model up on the hub."""
    answer = litellm.embedding(
        model="huggingface/tei", input=TEXTS, api_base=f"{server.url}/embed", api_key="none", input_type="embed"
    )
    server.assert_plain(vectors_of(answer), TEXTS)


@pytest.mark.parametrize("path", ["/embed", "/", "/similarity"])
def test_huggingface_with_sentence_transformers_in_the_name(server: Server, path: str) -> None:
    """Recorded: litellm looks such a model up on the hub, then sends the form of sentence similarity."""
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    headers = {"content-type": "application/json", "Authorization": "Bearer none"}
    with urlopen(Request(server.url + path, json.dumps(body).encode(), headers)) as answer:
        scores = json.loads(answer.read())
    vectors_BD = server.encode_plain(TEXTS)
    np.testing.assert_allclose(scores, vectors_BD[1:] @ vectors_BD[0], atol=1e-5)
