"""Cohere's dialect, versions 1 and 2 of its `embed`, and its `tokenize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, ModelInfo, RequestError, Token, TokenizeRequest
from gnomon.serve.wire.dialect import Dialect, Stamp, TokenizeDialect
from gnomon.serve.wire.embed_fields import finish, read_embed
from gnomon.serve.wire.errors import render_cohere_error
from gnomon.serve.wire.fields import Fields, refuse_conflict
from gnomon.serve.wire.inputs import read_model, read_texts
from gnomon.serve.wire.vectors import collect_warnings, embed_headers, json_answer, write_report, write_vectors


def parse_embed_v1(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid"; "unsupported" for images.
    """
    request = read_embed(fields, _read_inputs(fields))
    return finish(fields, replace(request, by_type=fields.has("embedding_types")))


def parse_embed_v2(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid"; "unsupported" for images.
    """
    return finish(fields, replace(read_embed(fields, _read_inputs(fields)), by_type=True))


def _read_inputs(fields: Fields) -> list[str]:
    """One of `texts` and `inputs`."""
    refuse_conflict((name for name in ("texts", "inputs", "images") if fields.has(name)), rule="Each holds the inputs.")
    if fields.has("images") or (fields.text("input_type") or "").lower() == "image":
        message = "images were sent. This server embeds texts alone. Send texts."
        raise RequestError(message, "unsupported", param="images" if fields.has("images") else "input_type")
    if not fields.has("inputs"):
        return read_texts(fields, "texts")
    items = fields.value("inputs")
    if not isinstance(items, list):
        raise fields.error("inputs", items, "a list of objects with content")
    fields.check_number("inputs", items)
    return [_read_content(fields, item, index) for index, item in enumerate(items)]


def _read_content(fields: Fields, item: Any, index: int) -> str:
    """The text of an input: its parts, joined by line ends."""
    parts = item.get("content") if isinstance(item, dict) else None
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list):
        raise fields.error("inputs", item, "an object whose content is a list of parts", index=index)
    return "\n".join(_read_part(fields, part, index) for part in parts)


def _read_part(fields: Fields, part: Any, index: int) -> str:
    if not isinstance(part, dict):
        raise fields.error("inputs", part, "made of parts that are objects", index=index)
    if part.get("type", "text") != "text":
        message = f"inputs[{index}] has a part that is not a text. This server embeds texts alone. Leave the part out."
        raise RequestError(message, "unsupported", param="inputs", index=index)
    text = part.get("text")
    if not isinstance(text, str):
        raise fields.error("inputs", text, "made of parts with a text", index=index)
    return text


def render_embed_v1(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    return _render_embed(request, result, stamp, "1")


def render_embed_v2(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    return _render_embed(request, result, stamp, "2")


def _render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp, version: str) -> Answer:
    by_type = request.by_type or request.vector_types != ("float",)
    body = {
        "id": stamp.id,
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "embeddings": (
            {name: write_vectors(result, name) for name in request.vector_types}
            if by_type
            else write_vectors(result, "float")
        ),
        "texts": list(request.inputs),
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"input_tokens": result.num_tokens},
            "tokens": {"input_tokens": result.num_tokens},
            "warnings": collect_warnings(request, result),
        },
        **write_report(request, result),
    }
    return json_answer(body, headers=embed_headers(request, result))


def parse_tokenize(fields: Fields) -> TokenizeRequest:
    """`/v1/tokenize`: the tokens of one text, without special tokens.

    Raises:
        RequestError: "invalid".
    """
    text = fields.text("text")
    if text is None:
        raise fields.missing("text", "a text")
    request = TokenizeRequest(texts=[text], model=read_model(fields), add_special_tokens=False)
    return finish(fields, request)


def render_tokenize(request: TokenizeRequest, tokens: Sequence[Sequence[Token]], model: ModelInfo) -> Answer:
    del request, model  # the answer has no place for them
    (first,) = tokens
    return json_answer(
        {
            "tokens": [token.id for token in first],
            "token_strings": [token.text for token in first],
            "meta": {"api_version": {"version": "1"}},
        }
    )


COHERE_V1 = Dialect("cohere-v1", "texts", parse_embed_v1, render_embed_v1, render_cohere_error)
COHERE_V2 = Dialect("cohere-v2", "texts", parse_embed_v2, render_embed_v2, render_cohere_error)
COHERE_TOKENIZE = TokenizeDialect("cohere", parse_tokenize, render_tokenize, render_cohere_error)
