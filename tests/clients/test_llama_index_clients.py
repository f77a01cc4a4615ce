"""LlamaIndex's clients for TEI and for OpenAI."""

import asyncio
from typing import Any

import pytest
from client_texts import LINES, TEXTS
from live_server import Server

pytest.importorskip("llama_index.embeddings.openai", reason="LlamaIndex's clients are not here: see `make clients`")

from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

pytestmark = [pytest.mark.slow, pytest.mark.clients]

MANY = [*TEXTS, *(f"text number {number}" for number in range(23))]


def check(server: Server, embedding: Any, sent: list[str]) -> None:
    """Batches, single texts and queries, sync and async."""
    server.assert_plain(embedding.get_text_embedding_batch(MANY), sent)
    server.assert_plain([embedding.get_text_embedding(MANY[0])], sent[:1])
    server.assert_plain([embedding.get_query_embedding(MANY[1])], sent[1:2])

    async def embed() -> list[Any]:
        return await asyncio.gather(embedding.aget_text_embedding_batch(MANY), embedding.aget_query_embedding(MANY[1]))

    batch, query = asyncio.run(embed())
    server.assert_plain(batch, sent)
    server.assert_plain([query], sent[1:2])


def test_tei(server: Server) -> None:
    check(server, TextEmbeddingsInference(model_name=server.name, base_url=server.url), MANY)


@pytest.mark.parametrize("make", [OpenAIEmbedding, OpenAILikeEmbedding])
def test_openai(server: Server, make: Any) -> None:
    options = {"model_name": server.name, "api_base": f"{server.url}/v1", "api_key": "none", "max_retries": 0}
    check(server, make(**options), MANY)


def test_line_ends_become_blanks(server: Server) -> None:
    embedding = OpenAILikeEmbedding(model_name=server.name, api_base=f"{server.url}/v1")
    server.assert_plain(embedding.get_text_embedding_batch(LINES), [text.replace("\n", " ") for text in LINES])


def test_instructions_are_prompts(e5: Server) -> None:
    embedding = TextEmbeddingsInference(
        model_name="e5", base_url=e5.url, query_instruction="query:", text_instruction="passage:"
    )
    e5.assert_documents(embedding.get_text_embedding_batch(TEXTS), TEXTS)
    e5.assert_queries([embedding.get_query_embedding(TEXTS[0])], TEXTS[:1])
