"""haystack-ai: its embedders for OpenAI."""

import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("haystack", reason="haystack-ai is not here: `make clients` runs this")

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def test_documents_and_texts(server: Server) -> None:
    """Several batches: usage is their sum."""
    options = {"api_base_url": f"{server.url}/v1", "api_key": Secret.from_token("none"), "model": server.name}
    embedder = OpenAIDocumentEmbedder(batch_size=3, progress_bar=False, **options)  # pyright: ignore
    result = embedder.run([Document(content=text, id=str(number)) for number, text in enumerate(TEXTS)])
    server.assert_plain([document.embedding for document in result["documents"]], TEXTS)
    tokens = sum(len(ids) for ids in server.encoder.tokenize(TEXTS, prompt="").ids)
    assert result["meta"]["usage"]["prompt_tokens"] == tokens
    server.assert_plain([OpenAITextEmbedder(**options).run(TEXTS[2])["embedding"]], [TEXTS[2]])  # pyright: ignore


def test_a_prefix_is_a_prompt(e5: Server) -> None:
    embedder = OpenAITextEmbedder(
        api_base_url=f"{e5.url}/v1", api_key=Secret.from_token("none"), model="e5", prefix="query: "
    )
    e5.assert_queries([embedder.run(TEXTS[0])["embedding"]], TEXTS[:1])
