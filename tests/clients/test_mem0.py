"""mem0's embedder for OpenAI and its compatible servers."""

from pathlib import Path
from typing import Any

import pytest
from client_texts import LINES, TEXTS
from live_server import Server

pytest.importorskip("mem0", reason="mem0ai is not here: `make clients` runs this")

pytestmark = [pytest.mark.slow, pytest.mark.clients]


@pytest.fixture
def make_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """mem0 writes to a folder of the user when it is imported."""
    monkeypatch.setenv("MEM0_DIR", str(tmp_path))
    from mem0.configs.embeddings.base import BaseEmbedderConfig
    from mem0.embeddings.openai import OpenAIEmbedding

    def make(url: str, model: str | None, **options: Any) -> Any:
        return OpenAIEmbedding(BaseEmbedderConfig(model=model, api_key="none", openai_base_url=f"{url}/v1", **options))

    return make


@pytest.mark.parametrize("name", ["tei", None])
def test_any_name_of_the_model(server: Server, make_embedding: Any, name: str | None) -> None:
    """ "tei" is what mem0 sends to an address of Hugging Face; without a name it sends one of OpenAI's."""
    embedding = make_embedding(server.url, name)
    server.assert_plain([embedding.embed(TEXTS[0], "search")], TEXTS[:1])
    texts = [*TEXTS, *(f"text number {number}" for number in range(200))]
    server.assert_plain(embedding.embed_batch(texts), texts)
    server.assert_plain(embedding.embed_batch(LINES), [text.replace("\n", " ") for text in LINES])


def test_dimensions(stella: Server, make_embedding: Any) -> None:
    dim = stella.encoder.dims[0]
    vectors = make_embedding(stella.url, "stella", embedding_dims=dim).embed_batch(TEXTS)
    stella.assert_plain(vectors, TEXTS, dim=dim)
