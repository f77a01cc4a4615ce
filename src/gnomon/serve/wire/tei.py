"""The dialect of text-embeddings-inference (TEI), which Hugging Face's `InferenceClient` speaks too.

B: inputs; T: tokens of a text; H: hidden size; D: dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gnomon.serve.requests import (
    Answer,
    DecodeRequest,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    RequestError,
    SimilarityRequest,
    StatesResult,
    Token,
    TokenizeRequest,
)
from gnomon.serve.wire.dialect import Dialect, Stamp, TokenizeDialect
from gnomon.serve.wire.embed_fields import finish, read_dimensions, read_embed, read_truncation, refuse_several_types
from gnomon.serve.wire.errors import render_tei_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import read_id_lists, read_inputs, read_model, read_texts
from gnomon.serve.wire.vectors import embed_headers, json_answer, result_headers, tei_headers, write_vectors

NO_LIMIT = 2**31 - 1
"""`max_input_length` of a model that reads texts of any length: TEI's clients expect a number."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The facts of the server that `/info` lists, by TEI's names."""

    max_concurrent_requests: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None


def parse_embed(fields: Fields) -> EmbedRequest:
    """`/embed`. An object `parameters` may hold all fields but `inputs`.

    Raises:
        RequestError: "invalid".
    """
    fields = _merge_parameters(fields)
    if fields.has_null("normalize"):
        raise fields.error("normalize", None, "true or false")
    request = _read_embed(fields)
    read_dimensions(fields, minimum=1)
    if request.normalize is None:
        request = replace(request, normalize=True)  # TEI's default
    return finish(fields, request)


def parse_embed_all(fields: Fields) -> EmbedRequest:
    """`/embed_all`: as `/embed`, without `normalize` and `dimensions`.

    Raises:
        RequestError: "invalid".
    """
    fields = _merge_parameters(fields)
    for name in ("normalize", "dimensions", "output_dimension"):
        if fields.has(name):
            message = (
                f"{name} was sent. /embed_all has states of tokens, which are as the model makes them. Leave it out."
            )
            raise RequestError(message, "invalid", param=name)
    request = _read_embed(fields)
    if request.vector_types != ("float",) or request.raw_type:
        message = "a type of vectors was named. /embed_all answers with numbers alone. Leave the type out."
        raise RequestError(message, "invalid", param="encoding_format")
    return finish(fields, request)


def _merge_parameters(fields: Fields) -> Fields:
    merged = fields.merge("parameters")
    merged.ignore("options")  # of Hugging Face's hosted service: wait_for_model, use_cache
    return merged


def _read_embed(fields: Fields) -> EmbedRequest:
    request = read_embed(fields, read_inputs(fields, "inputs"))
    if request.report:
        message = "report is true. This route answers with a bare list. Use /v1/embeddings for a report."
        raise RequestError(message, "invalid", param="report")
    refuse_several_types(request)
    return request


def render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    """A bare list with one vector per input."""
    del stamp  # the answer has no place for it
    headers = {**tei_headers(result), **embed_headers(request, result)}
    return json_answer(write_vectors(result, request.vector_types[0]), headers=headers)


def render_states(result: StatesResult) -> Answer:
    """The states of tokens, [T, H] of each input."""
    return json_answer([np.ascontiguousarray(states_TH) for states_TH in result.states], headers=_headers(result))


def _headers(result: EmbedResult | StatesResult) -> dict[str, str]:
    return {**tei_headers(result), **result_headers(result)}


# ---- similarity, tokens


def is_similarity(fields: Fields) -> bool:
    """Whether `inputs` is the object that `/similarity` takes."""
    return isinstance(fields.value("inputs"), dict)


def parse_similarity(fields: Fields) -> SimilarityRequest:
    """
    Raises:
        RequestError: "invalid".
    """
    inputs = fields.nested("inputs")
    if inputs is None:
        raise fields.missing("inputs", "an object with source_sentence and sentences")
    source, sentences = inputs.text("source_sentence"), inputs.texts("sentences")
    if source is None:
        raise inputs.missing("source_sentence", "a text")
    if sentences is None:
        raise inputs.missing("sentences", "a list of texts")
    options = _merge_parameters(fields)
    options.ignore("inputs")
    truncation = read_truncation(options)
    request = SimilarityRequest(
        source=source,
        texts=sentences,
        model=read_model(options),
        prompt_name=options.text("prompt_name"),
        truncate=truncation.truncate,
        truncation_side=truncation.side,
    )
    return finish(options, request)


def render_similarity(scores: Sequence[float], result: EmbedResult) -> Answer:
    """The cosines, in the order of the sentences; `result` is that of source and sentences together."""
    return json_answer([float(score) for score in scores], headers=_headers(result))


def parse_tokenize(fields: Fields) -> TokenizeRequest:
    """
    Raises:
        RequestError: "invalid".
    """
    request = TokenizeRequest(
        texts=read_texts(fields, "inputs"),
        model=read_model(fields),
        prompt_name=fields.text("prompt_name"),
        add_special_tokens=fields.flag("add_special_tokens") is not False,
    )
    return finish(fields, request)


def render_tokenize(request: TokenizeRequest, tokens: Sequence[Sequence[Token]], model: ModelInfo) -> Answer:
    """A list of tokens per text."""
    del request, model  # the answer has no place for them
    return json_answer([[vars(token) for token in row] for row in tokens])


def parse_decode(fields: Fields) -> DecodeRequest:
    """
    Raises:
        RequestError: "invalid".
    """
    request = DecodeRequest(
        ids=read_id_lists(fields, "ids"),
        model=read_model(fields),
        skip_special_tokens=fields.flag("skip_special_tokens") is not False,
    )
    return finish(fields, request)


def render_decode(texts: Sequence[str]) -> Answer:
    return json_answer(list(texts))


# ---- info


def render_info(model: ModelInfo, limits: Limits, models: Sequence[str] = ()) -> Answer:
    """`/info` of the first model: TEI's keys, then our own; `models` lists the names of all."""
    body: Mapping[str, Any] = {
        "model_id": model.source,
        "model_sha": model.revision,
        "model_dtype": model.dtype,
        "served_model_name": model.name,
        "model_type": {"embedding": {"pooling": model.pooling}},
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_input_length": NO_LIMIT if model.max_tokens is None else model.max_tokens,
        "max_batch_tokens": limits.max_batch_tokens,
        "max_batch_requests": limits.max_batch_requests,
        "max_client_batch_size": limits.max_client_batch_size,
        "auto_truncate": limits.auto_truncate,
        "tokenization_workers": limits.tokenization_workers,
        "version": limits.version,
        "sha": limits.sha,
        "docker_label": limits.docker_label,
        "fingerprint": model.fingerprint,
        "dimensions": list(model.dimensions),
        "dim": model.dim,
        "prompts": dict(model.prompts),
        "default_prompt_name": model.default_prompt_name,
        "input_types": dict(model.input_types),
        "engine": model.engine,
        "device": model.device,
        "aliases": list(model.aliases),
        "models": list(models or (model.name,)),
    }
    return json_answer(body)


TEI = Dialect("tei", "inputs", parse_embed, render_embed, render_tei_error)
TEI_TOKENIZE = TokenizeDialect("tei", parse_tokenize, render_tokenize, render_tei_error)
