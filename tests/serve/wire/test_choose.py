"""Who is meant, where dialects share a path."""

from typing import Any

import pytest
from wire import fields

from gnomon.serve.wire.choose import (
    choose_embeddings_dialect,
    choose_rerank_dialect,
    choose_root_operation,
    choose_tokenize_dialect,
)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"input": "a", "model": "m"}, "openai"),
        ({}, "openai"),
        ({"input": "a", "task": None, "modality": None}, "openai"),
        ({"input": [1, 2]}, "openai"),
        ({"input": "a", "prompt_name": "query", "embedding_types": ["int8"]}, "openai"),
        ({"input": "a", "task": "separation"}, "jina"),
        ({"input": "a", "late_chunking": False}, "jina"),
        ({"input": "a", "normalized": True}, "jina"),
        ({"input": "a", "embedding_type": "binary"}, "jina"),
        ({"input": "a", "encoding_type": "float"}, "jina"),
        ({"input": ["a", {"text": "b"}]}, "jina"),
        ({"input": "a", "modality": "text"}, "infinity"),
        ({"input": "a", "modality": "text", "task": "separation"}, "infinity"),
    ],
)
def test_embeddings(body: dict[str, Any], name: str) -> None:
    assert choose_embeddings_dialect(fields(body)).name == name


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ({"inputs": "a"}, "embed"),
        ({}, "embed"),
        ({"inputs": {"source_sentence": "a", "sentences": ["b"]}}, "similarity"),
        ({"query": "a", "texts": ["b"]}, "rerank"),
        ({"query": "a", "inputs": ["b"]}, "embed"),
    ],
)
def test_root(body: dict[str, Any], operation: str) -> None:
    assert choose_root_operation(fields(body)) == operation


@pytest.mark.parametrize(
    ("body", "name"), [({"inputs": "a"}, "tei"), ({"prompt": "a"}, "vllm"), ({"text": "a"}, "cohere"), ({}, "tei")]
)
def test_tokenize(body: dict[str, Any], name: str) -> None:
    assert choose_tokenize_dialect(fields(body)).name == name


@pytest.mark.parametrize(
    ("body", "path", "name"),
    [
        ({"query": "a", "texts": ["b"]}, "/rerank", "tei"),
        ({"query": "a", "texts": ["b"]}, "/v1/rerank", "tei"),
        ({"query": "a", "documents": ["b"]}, "/rerank", "infinity"),
        ({"query": "a", "documents": ["b"]}, "/v1/rerank", "jina"),
        ({"query": "a", "documents": ["b"]}, "/prefix/v2/rerank", "cohere-v2"),
    ],
)
def test_rerank(body: dict[str, Any], path: str, name: str) -> None:
    assert choose_rerank_dialect(fields(body), path).name == name
