"""langchain-openai and langchain-community: token ids, and what is sent instead."""

import asyncio
from pathlib import Path

import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("langchain_openai", reason="langchain-openai is not here: `make clients` runs this")

import openai
from langchain_community.embeddings import InfinityEmbeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings

pytestmark = [pytest.mark.slow, pytest.mark.clients]


@pytest.fixture
def table(tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's vocabulary without the network."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))


def make_embeddings(server: Server, **options: object) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(base_url=f"{server.url}/v1", api_key="none", model=server.name, max_retries=0, **options)  # pyright: ignore


def test_texts_are_sent_without_the_check_of_length(server: Server) -> None:
    embeddings = make_embeddings(server, check_embedding_ctx_length=False, chunk_size=3)
    server.assert_plain(embeddings.embed_documents(TEXTS), TEXTS)
    server.assert_plain([embeddings.embed_query(TEXTS[0])], TEXTS[:1])

    async def embed() -> tuple[list[list[float]], list[float]]:
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), embeddings.aembed_query(TEXTS[0]))

    documents, query = asyncio.run(embed())
    server.assert_plain(documents, TEXTS)
    server.assert_plain([query], TEXTS[:1])


def test_token_ids_are_refused_with_the_way_out(server: Server, table: None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        make_embeddings(server).embed_documents(TEXTS)
    assert caught.value.code == "token_ids_not_text"
    assert all(part in caught.value.message for part in ("check_embedding_ctx_length=False", "--token-ids cl100k"))


def test_token_ids_of_cl100k_are_the_texts(cl100k: Server, table: None) -> None:
    """LangChain's vectors are float64 and normalised again, which changes nothing."""
    embeddings = make_embeddings(cl100k)
    cl100k.assert_plain(embeddings.embed_documents(TEXTS), TEXTS)
    cl100k.assert_plain([embeddings.embed_query(TEXTS[2])], [TEXTS[2]])
    plain = make_embeddings(cl100k, check_embedding_ctx_length=False)
    cl100k.assert_plain(plain.embed_documents(TEXTS), TEXTS)


def test_an_empty_text_is_an_error_with_its_position(minilm: Server) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]"):
        make_embeddings(minilm, check_embedding_ctx_length=False).embed_documents(["a", ""])


def test_dimensions(stella: Server) -> None:
    for dim in stella.encoder.dims:
        embeddings = make_embeddings(stella, check_embedding_ctx_length=False, dimensions=dim)
        stella.assert_plain(embeddings.embed_documents(TEXTS), TEXTS, dim=dim)


def test_azure(minilm: Server) -> None:
    embeddings = AzureOpenAIEmbeddings(
        azure_endpoint=minilm.url,
        api_key="none",  # pyright: ignore
        api_version="2024-10-21",
        model="minilm",
        check_embedding_ctx_length=False,
    )
    minilm.assert_plain(embeddings.embed_documents(TEXTS), TEXTS)


def test_infinity_of_langchain_community(server: Server) -> None:
    embeddings = InfinityEmbeddings(model=server.name, infinity_api_url=server.url)
    texts = [*TEXTS, *(f"text number {number}" for number in range(300))]
    server.assert_plain(embeddings.embed_documents(texts), texts)
    server.assert_plain([embeddings.embed_query(TEXTS[0])], TEXTS[:1])
