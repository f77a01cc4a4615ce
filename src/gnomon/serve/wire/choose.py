"""Chooses the dialect of a body by its fields, where dialects share a path."""

from __future__ import annotations

from typing import Literal

from gnomon.serve.wire.cohere import COHERE_TOKENIZE, COHERE_V2
from gnomon.serve.wire.dialect import Dialect, TokenizeDialect
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.infinity import INFINITY
from gnomon.serve.wire.jina import JINA, is_jina
from gnomon.serve.wire.openai import OPENAI, VLLM_TOKENIZE
from gnomon.serve.wire.tei import TEI, TEI_TOKENIZE, is_similarity

RootOperation = Literal["embed", "similarity", "rerank"]


def choose_embeddings_dialect(fields: Fields) -> Dialect:
    """The dialect of a body for `/embeddings`, with or without `/v1`."""
    if fields.has("modality"):
        return INFINITY
    return JINA if is_jina(fields) else OPENAI


def choose_root_operation(fields: Fields) -> RootOperation:
    """What a body for `/`, `/invocations` or a pipeline of Hugging Face wants; its dialect is TEI's."""
    if is_similarity(fields):
        return "similarity"
    return "rerank" if fields.has("query") and fields.has("texts") else "embed"


def choose_tokenize_dialect(fields: Fields) -> TokenizeDialect:
    """The dialect of a body for `/tokenize`, with or without `/v1`: TEI's where no field names another."""
    if fields.has("prompt"):
        return VLLM_TOKENIZE
    return COHERE_TOKENIZE if fields.has("text") else TEI_TOKENIZE


def choose_rerank_dialect(fields: Fields, path: str) -> Dialect:
    """The dialect of a body for `/rerank`, `/v1/rerank` or `/v2/rerank`, of which only `render_error` is used: TEI's
    `texts`; or the `documents` of infinity, Jina and Cohere.
    """
    if fields.has("texts"):
        return TEI
    if path.endswith("/v2/rerank"):
        return COHERE_V2
    return JINA if path.endswith("/v1/rerank") else INFINITY
