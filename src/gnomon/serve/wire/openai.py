"""OpenAI's dialect, which Azure's and vLLM's clients speak too, with the extra fields of vLLM and our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnomon.serve.requests import (
    Answer,
    DecodeRequest,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    RequestError,
    Token,
    TokenizeRequest,
)
from gnomon.serve.wire.dialect import Dialect, Stamp, TokenizeDialect
from gnomon.serve.wire.embed_fields import finish, read_alike, read_embed
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import read_id_lists, read_inputs, read_model
from gnomon.serve.wire.vectors import (
    embed_headers,
    header_text,
    json_answer,
    milliseconds,
    write_report,
    write_vectors,
)

NO_EFFECT = ("request_id", "cache_salt")
"""vLLM's fields that change no vector."""
VLLM_FIELDS = ("embed_dtype", "endianness", "add_special_tokens", "use_activation")


def parse_embed(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid"; "unsupported" for the form of chats.
    """
    if fields.has("messages"):
        message = "messages is vLLM's form of chats. This server embeds texts. Send input."
        raise RequestError(message, "unsupported", param="messages")
    return finish(fields, read_openai(fields, read_embed(fields, read_inputs(fields, "input"))))


def read_openai(fields: Fields, request: EmbedRequest) -> EmbedRequest:
    """The request with vLLM's fields."""
    fields.ignore(*NO_EFFECT)
    if not any(map(fields.has, VLLM_FIELDS)):
        return request
    fields.choice("embed_dtype", {"float32": "float32"})
    fields.choice("endianness", {"native": "little", "little": "little"})
    if fields.flag("add_special_tokens") is False:
        raise fields.error("add_special_tokens", False, "true, since the model was trained with special tokens")
    activation = fields.flag("use_activation")
    names = {"normalize": request.normalize, "use_activation": activation}
    return replace(request, normalize=read_alike(fields, names))


def render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    return render_list(request, result, stamp, "embd-")


def render_list(request: EmbedRequest, result: EmbedResult, stamp: Stamp, prefix: str) -> Answer:
    """The list of embeddings of OpenAI, Jina and infinity, whose ids differ in their first letters.

    Where the request names several types, `embedding` has the first and `embeddings` has them all, by type.
    """
    first, *others = request.vector_types
    columns = {name: write_vectors(result, name) for name in (first, *others)}
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(columns[first])
    ]
    if others:
        for index, item in enumerate(data):
            item["embeddings"] = {name: column[index] for name, column in columns.items()}
    tokens = result.num_tokens
    body = {
        "object": "list",
        "data": data,
        "model": result.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "id": prefix + stamp.id,
        "created": stamp.created,
        **write_report(request, result),
    }
    headers = {
        **embed_headers(request, result),
        "openai-model": header_text(result.model),
        "openai-processing-ms": milliseconds(result.timings.total),
    }
    return json_answer(body, headers=headers)


def write_model(model: ModelInfo, name: str) -> dict[str, Any]:
    """A model of the list, by its name or by one of its aliases."""
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "gnomon",
        "root": model.name,
        "max_model_len": model.max_tokens,
        "dimensions": list(model.dimensions),
        "dim": model.dim,
        "prompts": dict(model.prompts),
        "default_prompt_name": model.default_prompt_name,
        "input_types": dict(model.input_types),
        "fingerprint": model.fingerprint,
        "stats": dict(model.stats),
        "backend": model.engine,
        "capabilities": ["embed"],
    }


def render_models(models: Iterable[ModelInfo]) -> Answer:
    """GET /v1/models: every name and alias. It has the keys of infinity's list too."""
    data = [write_model(model, name) for model in models for name in (model.name, *model.aliases)]
    return json_answer({"object": "list", "data": data})


def render_model(model: ModelInfo, name: str) -> Answer:
    """GET /v1/models/NAME."""
    return json_answer(write_model(model, name))


# ---- vLLM's tokens


def parse_tokenize(fields: Fields) -> TokenizeRequest:
    """vLLM's form: `prompt` is the text.

    Raises:
        RequestError: "invalid".
    """
    text = fields.text("prompt")
    if text is None:
        raise fields.missing("prompt", "a text")
    special = fields.flag("add_special_tokens")
    request = TokenizeRequest(
        texts=[text],
        model=read_model(fields),
        prompt_name=fields.text("prompt_name"),
        add_special_tokens=special is not False,
        with_token_texts=fields.flag("return_token_strs") or False,
    )
    return finish(fields, request)


def render_tokenize(request: TokenizeRequest, tokens: Sequence[Sequence[Token]], model: ModelInfo) -> Answer:
    (first,) = tokens
    body: Mapping[str, Any] = {
        "count": len(first),
        "max_model_len": model.max_tokens,
        "tokens": [token.id for token in first],
        "token_strs": [token.text for token in first] if request.with_token_texts else None,
    }
    return json_answer(body)


def parse_detokenize(fields: Fields) -> DecodeRequest:
    """POST /detokenize.

    Raises:
        RequestError: "invalid".
    """
    ids = read_id_lists(fields, "tokens")
    if len(ids) > 1:
        raise fields.error("tokens", ids, "the token ids of one text")
    request = DecodeRequest(ids=ids, model=read_model(fields), skip_special_tokens=False)
    return finish(fields, request)


def render_detokenize(texts: Sequence[str]) -> Answer:
    return json_answer({"prompt": texts[0]})


OPENAI = Dialect("openai", "input", parse_embed, render_embed, render_openai_error)
VLLM_TOKENIZE = TokenizeDialect("vllm", parse_tokenize, render_tokenize, render_openai_error)
