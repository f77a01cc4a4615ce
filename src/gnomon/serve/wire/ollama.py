"""Ollama's dialect: `/api/embed`, the older `/api/embeddings`, `/api/tags` and `/api/version`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, ModelInfo
from gnomon.serve.wire.dialect import Dialect, Stamp
from gnomon.serve.wire.embed_fields import finish, read_embed, refuse_several_types
from gnomon.serve.wire.errors import render_ollama_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import read_texts
from gnomon.serve.wire.vectors import embed_headers, json_answer, write_report, write_vectors

NO_EFFECT = ("options", "keep_alive")
LATEST = ":latest"
"""Clients may add it to a model's name."""


def parse_embed(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid".
    """
    return _finish(fields, read_embed(fields, read_texts(fields, "input")))


def parse_embed_old(fields: Fields) -> EmbedRequest:
    """`/api/embeddings`, where `prompt` is the text.

    Raises:
        RequestError: "invalid".
    """
    text = fields.text("prompt")
    if text is None:
        raise fields.missing("prompt", "a text")
    return _finish(fields, read_embed(fields, [text], prompt_fields=("prefix",)))


def _finish(fields: Fields, request: EmbedRequest) -> EmbedRequest:
    fields.ignore(*NO_EFFECT)
    refuse_several_types(request)
    model = request.model.removesuffix(LATEST) if request.model else None
    return finish(fields, replace(request, model=model))


def render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    """Times are nanoseconds."""
    del stamp  # the answer has no place for it
    body = {
        "model": result.model,
        "embeddings": write_vectors(result, request.vector_types[0]),
        "total_duration": round(result.timings.total * 1e9),
        "load_duration": 0,
        "prompt_eval_count": result.num_tokens,
        **write_report(request, result),
    }
    return json_answer(body, headers=embed_headers(request, result))


def render_embed_old(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    del stamp  # the answer has no place for it
    (vector,) = write_vectors(result, request.vector_types[0])
    body = {"embedding": vector, **write_report(request, result)}
    return json_answer(body, headers=embed_headers(request, result))


def render_tags(models: Iterable[ModelInfo]) -> Answer:
    """GET /api/tags: every name and alias of the models."""
    return json_answer(
        {"models": [_write_tag(model, name) for model in models for name in (model.name, *model.aliases)]}
    )


def _write_tag(model: ModelInfo, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "size": 0,  # the model's size is not known here, and clients expect a number
        "digest": model.fingerprint,
        "details": {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": model.dtype,
        },
    }


def render_version(version: str) -> Answer:
    """GET /api/version."""
    return json_answer({"version": version})


OLLAMA = Dialect("ollama", "input", parse_embed, render_embed, render_ollama_error)
OLLAMA_OLD = Dialect("ollama-old", "prompt", parse_embed_old, render_embed_old, render_ollama_error)
