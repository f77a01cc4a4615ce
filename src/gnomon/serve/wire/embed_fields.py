"""Reads the fields of embed requests that dialects share, under all the names that clients send them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

from gnomon.serve.requests import (
    DecodeRequest,
    EmbedRequest,
    Inputs,
    InputType,
    RequestError,
    Side,
    SimilarityRequest,
    TokenizeRequest,
    Truncate,
    VectorType,
)
from gnomon.serve.wire.fields import Fields, is_whole_number, refuse_conflict
from gnomon.serve.wire.inputs import read_model

INPUT_TYPES: Mapping[str, InputType | None] = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "retrieval.document": "document",
    "classification": None,
    "clustering": None,
    "text-matching": None,
    "separation": None,
}
"""OpenAI clients', NVIDIA's, Cohere's and Jina's words. None: the model's own prompt of this name, if it has one."""

TRUNCATE: Mapping[str, Truncate] = {
    "error": "error",
    "left": "left",
    "right": "right",
    "mean": "mean",
    "none": "error",
    "start": "left",
    "end": "right",
}
ON_TRUNCATE: Mapping[str, Truncate | Literal[""]] = {"error": "error", "mean": "mean", "silent": "", "warn": ""}
"""As in `Encoder.encode`; "" truncates on the side that is chosen elsewhere."""
TRUNCATION_FIELDS = (
    "truncate",
    "on_truncate",
    "truncation_side",
    "truncation_direction",
    "truncate_prompt_tokens",
    "max_tokens",
)
SIDES: Mapping[str, Side] = {"left": "left", "right": "right"}

VECTOR_TYPES: Mapping[str, VectorType] = {
    "float": "float",
    "base64": "base64",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}
ENCODING_FORMATS: Mapping[str, Literal["float", "base64", "bytes"]] = {
    "float": "float",
    "base64": "base64",
    "bytes": "bytes",
}
"""vLLM has "bytes"."""
OCTETS = "application/octet-stream"


AnyRequest = TypeVar("AnyRequest", EmbedRequest, SimilarityRequest, TokenizeRequest, DecodeRequest)


class Truncation(NamedTuple):
    truncate: Truncate | None = None
    max_tokens: int | None = None
    side: Side | None = None
    """The side to leave out, where `truncate` is None."""


class Types(NamedTuple):
    types: tuple[VectorType, ...]
    named: bool
    raw_type: str | None = None


def read_embed(
    fields: Fields,
    inputs: Inputs,
    *,
    prompt_fields: Sequence[str] = ("prompt", "prefix"),
    type_fields: Sequence[str] = ("input_type",),
) -> EmbedRequest:
    """A request from the fields that dialects share.

    Args:
        fields: of the body.
        inputs: what to embed, read before.
        prompt_fields: names of a prompt that is put before each text.
        type_fields: names of the field that chooses one of the model's prompts by its use.

    Raises:
        RequestError: "invalid"; names the field, or the fields that exclude each other.
    """
    request = read_prompt(fields, EmbedRequest(inputs=inputs), prompt_fields, type_fields)
    truncation, types = read_truncation(fields), read_types(fields)
    priority = fields.value("priority")
    if priority is not None and not is_whole_number(priority):
        raise fields.error("priority", priority, "a whole number, 0 for interactive work")
    return replace(
        request,
        model=read_model(fields),
        truncate=truncation.truncate,
        truncation_side=truncation.side,
        max_tokens=truncation.max_tokens,
        user=fields.text("user"),
        dimensions=read_dimensions(fields),
        normalize=read_alike(fields, {name: fields.flag(name) for name in ("normalize", "normalized")}),
        vector_types=types.types,
        types_named=types.named,
        raw_type=types.raw_type,
        interactive=None if priority is None else priority <= 0,
        report=fields.flag("report") or False,
        require_fingerprint=fields.text("require_fingerprint"),
    )


def finish(fields: Fields, request: AnyRequest) -> AnyRequest:
    """The request with the fields that no reader knew."""
    unknown = fields.unknown()
    return replace(request, unknown_fields=unknown) if unknown else request


def refuse_several_types(request: EmbedRequest) -> None:
    """
    Raises:
        RequestError: "invalid": an answer has room for one type of vectors, and more were named.
    """
    if len(request.vector_types) > 1:
        message = f"{len(request.vector_types)} types of vectors were named. This route answers with one. Name one."
        raise RequestError(message, "invalid", param="embedding_types")


def read_prompt(
    fields: Fields, request: EmbedRequest, prompt_fields: Sequence[str], type_fields: Sequence[str]
) -> EmbedRequest:
    """The request with its prompt, prompt name or input type."""
    names = [*prompt_fields, "prompt_name", *type_fields]
    present = [name for name in names if fields.has(name)]
    if not present:
        return request
    refuse_conflict(present, rule="Each of them chooses the prompt.")
    (name,) = present
    value = fields.text(name)
    assert value is not None
    if name in type_fields:
        return _with_input_type(fields, request, name, value)
    return replace(request, prompt_name=value) if name == "prompt_name" else replace(request, prompt=value)


def _with_input_type(fields: Fields, request: EmbedRequest, name: str, word: str) -> EmbedRequest:
    """`task` may be a name that only the model knows; other fields have known values alone."""
    known = word.lower() in INPUT_TYPES or name != "task"
    input_type = fields.look_up(name, word, INPUT_TYPES) if known else None
    if input_type:
        return replace(request, input_type=input_type)
    return replace(request, optional_prompt_name=word.lower() if known else word)


def read_dimensions(fields: Fields, *, minimum: int = 0) -> int | None:
    """`dimensions` or `output_dimension`; 0 means none."""
    names = ("dimensions", "output_dimension")
    return read_alike(fields, {name: fields.whole_number(name, minimum=minimum) or None for name in names})


def read_truncation(fields: Fields) -> Truncation:
    """What happens to long texts, and the number of tokens from which a text is long."""
    if not any(map(fields.has, TRUNCATION_FIELDS)):
        return Truncation()
    side = read_alike(
        fields, {name: fields.choice(name, SIDES) for name in ("truncation_side", "truncation_direction")}
    )
    flag, word = _read_truncate(fields), None
    if not isinstance(flag, bool):
        flag, word = None, flag
    on_truncate = fields.choice("on_truncate", ON_TRUNCATE)
    way = read_alike(fields, {"truncate": "error" if flag is False else word, "on_truncate": on_truncate or None})
    if way == "error" and (flag or on_truncate == ""):
        refuse_conflict(["truncate", "on_truncate"], rule="One of them truncates and the other does not.")
    if side and way in ("left", "right"):
        read_alike(fields, {"truncate": way, "truncation_side": side})
    limit, max_tokens = _read_prompt_tokens(fields), fields.whole_number("max_tokens", minimum=1)
    if way is None and (flag or on_truncate == "" or limit is not None):
        way = side or "right"  # vLLM truncates where truncate_prompt_tokens is there
    max_tokens = read_alike(fields, {"truncate_prompt_tokens": limit or None, "max_tokens": max_tokens})
    return Truncation(way, max_tokens, side if way is None else None)


def _read_truncate(fields: Fields) -> bool | Truncate | None:
    value = fields.value("truncate")
    return value if isinstance(value, bool) else fields.choice("truncate", TRUNCATE)


def _read_prompt_tokens(fields: Fields) -> int | None:
    """vLLM's `truncate_prompt_tokens`: 0 here for its -1, the model's own length."""
    value = fields.whole_number("truncate_prompt_tokens", minimum=-1)
    if value == 0:
        raise fields.error("truncate_prompt_tokens", 0, "a number of tokens, at least 1, or -1 for the model's own")
    return 0 if value == -1 else value


def read_alike(fields: Fields, values: Mapping[str, Any]) -> Any:
    """The value of a field with several names, of which one or equal ones are there.

    Raises:
        RequestError: "invalid", where they differ.
    """
    sent = {name: value for name, value in values.items() if value is not None}
    if len(set(sent.values())) > 1:
        refuse_conflict(map(fields.path, sent), rule="They mean the same and differ.")
    return next(iter(sent.values()), None)


def read_types(fields: Fields) -> Types:
    """Types of vectors. `embedding_types` goes before `encoding_format`, which OpenAI's clients always send.

    An `encoding_format` alone names float32, of which OpenAI's clients decode the base64.
    """
    names = [name for name in ("embedding_types", "embedding_type", "encoding_type") if fields.has(name)]
    refuse_conflict(names, rule="They mean the same.")
    words = (fields.texts(names[0]) or []) if names else []
    known: list[VectorType] = [fields.look_up(names[0], word, VECTOR_TYPES) for word in words]
    types: tuple[VectorType, ...] = tuple(dict.fromkeys(known))
    format_ = fields.choice("encoding_format", ENCODING_FORMATS)
    if format_ == "bytes":
        if len(types) > 1:
            message = f"encoding_format is 'bytes' and {names[0]} has {len(types)} types. Bytes hold one. Name one."
            raise RequestError(message, "invalid", param="encoding_format")
        return Types(types or ("float",), True, OCTETS)
    return Types(types or (format_ or "float",), bool(types or format_))
