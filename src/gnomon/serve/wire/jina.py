"""Jina's dialect: OpenAI's, with inputs that may be objects, and Jina's own fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, Inputs, RequestError
from gnomon.serve.wire.dialect import Dialect, Stamp
from gnomon.serve.wire.embed_fields import finish, read_embed
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import read_inputs, sort_out
from gnomon.serve.wire.openai import read_openai, render_list

KEYS = ("task", "late_chunking", "return_multivector", "normalized", "embedding_type", "encoding_type")
"""Fields that OpenAI's clients do not send."""


def is_jina(fields: Fields) -> bool:
    """Whether a body is in Jina's dialect: by its fields, or by inputs that are objects."""
    items = fields.value("input")
    return any(map(fields.has, KEYS)) or (isinstance(items, list) and any(isinstance(item, dict) for item in items))


def parse_embed(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid"; "unsupported" for images, late chunking and vectors of tokens.
    """
    for name in ("late_chunking", "return_multivector"):
        if fields.flag(name):
            message = f"{name} is true. This server makes one vector per text. Leave it out, or set it to false."
            raise RequestError(message, "unsupported", param=name)
    request = read_embed(fields, read_objects(fields, "input"), type_fields=("input_type", "task"))
    request = read_openai(fields, request)
    if request.normalize is None:
        request = replace(request, normalize=True)  # Jina's default
    return finish(fields, request)


def read_objects(fields: Fields, name: str) -> Inputs:
    """Inputs of which some may be objects: `{"text": ...}`.

    Raises:
        RequestError: "invalid"; "unsupported" for objects without a text.
    """
    items = fields.value(name)
    if not isinstance(items, list):
        return read_inputs(fields, name)
    if items and type(items[0]) is not int:
        fields.check_number(name, items)
    return sort_out(fields, name, [_read_object(fields, name, item, index) for index, item in enumerate(items)])


def _read_object(fields: Fields, name: str, item: Any, index: int) -> Any:
    if not isinstance(item, dict):
        return item
    if item.get("text") is None:
        message = f"{name}[{index}] is an object without text. This server embeds texts alone. Send its text."
        raise RequestError(message, "unsupported", param=name, index=index)
    if not isinstance(item["text"], str):
        raise fields.error(name, item["text"], "a text", index=index)
    return item["text"]


def render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    return render_list(request, result, stamp, "embd-")


JINA = Dialect("jina", "input", parse_embed, render_embed, render_openai_error)
