"""Requests, results and errors of the server, in no dialect. `wire/` reads and writes them as each dialect does.

B: inputs of a request; D: dimensions of a vector; T: tokens of one text; H: hidden size of the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnomon.errors import GnomonError
from gnomon.packed import Ids, Vectors
from gnomon.tokenizer import TokenReport

InputType = Literal["query", "document"]
"""Chooses the model's own prompt, as `Encoder.encode_query` and `encode_document` do."""

VectorType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
"""How a vector is written: as numbers, as the base64 of its float32 bytes, or quantised."""

Truncate = Literal["error", "left", "right", "mean"]
"""What happens to a text that is longer than the model reads: an error; its start or its end is left out; or it is read
in overlapping windows, whose vectors are averaged."""

LOADING_RETRY_SECONDS = 5.0
"""When to try again while a model is loaded, or its engine is opened anew."""

Side = Literal["left", "right"]

Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids of texts."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What all requests that send texts have in common. Fields at None leave the choice to the server or the model."""

    inputs: Inputs
    model: str | None = None
    prompt: str | None = None
    """Put before every text. At most one of `prompt`, `prompt_name`, `input_type` and `optional_prompt_name` is given.
    """
    prompt_name: str | None = None
    input_type: InputType | None = None
    truncate: Truncate | None = None
    truncation_side: Side | None = None
    """The side that is left out where `truncate` leaves it to the server whether texts are truncated."""
    max_tokens: int | None = None
    """Read at most so many tokens of each text, special tokens included, where the model reads more."""
    user: str | None = None
    """Whom the request is made for: waiting requests take turns by it."""
    unknown_fields: tuple[str, ...] = ()
    """Fields of the body that the dialect does not have. They were ignored."""


@dataclass(frozen=True, kw_only=True)
class EmbedRequest(TextRequest):
    """A request for one vector per input."""

    dimensions: int | None = None
    """One of the model's dimensions: a head of that size, or a prefix that the model declares."""
    normalize: bool | None = None
    """False for vectors before the model's own normalisation. True and None for unit length: clients of the other
    servers expect it, and compare vectors by their dot product.
    """
    vector_types: tuple[VectorType, ...] = ("float",)
    """The types of vectors in the answer, without repetition."""
    interactive: bool | None = None
    """True: goes before bulk work; False: is bulk work; None: decided by its size."""
    report: bool = False
    """Whether the answer describes each input: its tokens, and where it was truncated."""
    require_fingerprint: str | None = None
    """The fingerprint that the model must have."""
    optional_prompt_name: str | None = None
    """A prompt that is used where the model has it, and left out where it has not."""
    types_named: bool = False
    """Whether the body chose `vector_types`, or an encoding_format; otherwise the operator's own type is used."""
    raw_type: str | None = None
    """The content type of an answer in bytes, where the body wants one."""
    by_type: bool = False
    """Whether the answer has vectors by their type (Cohere)."""


@dataclass(frozen=True)
class Timings:
    """Seconds. Those of texts are means over the texts of a request."""

    total: float
    tokenization: float
    queue: float
    """From the end of tokenization until the engine began with the text."""
    inference: float


@dataclass(frozen=True)
class EmbedResult:
    """The vectors of a request, and how they came about."""

    model: str
    """The name of the model that made them: the one that the request used, if the model has it, or its first."""
    fingerprint: str
    vectors_BD: Vectors
    """float32, contiguous, finite, in the order of the inputs."""
    quantized: Mapping[VectorType, Any]
    """For each requested quantised type, its array: int8 or uint8 [B, D], binary or ubinary [B, D / 8]."""
    token_counts: Sequence[int]
    """Tokens that the model read of each input, special tokens and the prompt included."""
    full_token_counts: Sequence[int]
    """Tokens of each whole input, before truncation."""
    truncated: Sequence[int]
    """Positions of the inputs that were truncated, ascending."""
    num_characters: int
    timings: Timings
    prompt: str = ""
    """What was put before each text."""
    report: TokenReport | None = None
    """For a request of texts with `report`."""

    @property
    def num_tokens(self) -> int:
        return sum(self.token_counts)


@dataclass(frozen=True)
class StatesResult:
    """The token states of a request."""

    model: str
    fingerprint: str
    states: Sequence[Vectors]
    """[T, H] of each input, float32, contiguous."""
    token_counts: Sequence[int]
    truncated: Sequence[int]
    num_characters: int
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    """A request for tokens."""

    texts: Sequence[str]
    model: str | None = None
    prompt_name: str | None = None
    add_special_tokens: bool = True
    with_token_texts: bool = False
    """Whether the answer has the text of each token (vLLM)."""
    unknown_fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    id: int
    text: str
    special: bool
    start: int | None
    """Its first character in prompt + text; None for special tokens."""
    stop: int | None


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """A request for the texts of token ids."""

    ids: Sequence[Sequence[int]]
    model: str | None = None
    skip_special_tokens: bool = True
    unknown_fields: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SimilarityRequest:
    """A request for the cosines of one text with others."""

    source: str
    texts: Sequence[str]
    model: str | None = None
    prompt_name: str | None = None
    truncate: Truncate | None = None
    truncation_side: Side | None = None
    unknown_fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a served model."""

    name: str
    aliases: tuple[str, ...]
    source: str
    """The folder, hub id or package that it was loaded from, as the operator wrote it."""
    revision: str | None
    fingerprint: str
    dimensions: tuple[int, ...]
    """Every value that `dimensions` takes, ascending."""
    dim: int
    """Dimensions of a vector by default."""
    max_tokens: int | None
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    input_types: Mapping[InputType, str | None]
    """The name of the prompt that each input type means; None for no prompt."""
    pooling: str
    dtype: str
    device: str
    engine: str
    created: int
    """Unix time of its loading, in seconds."""
    stats: Mapping[str, float] = field(default_factory=dict[str, float])
    """queue_tokens, queue_texts, running_texts, batch_tokens, tokens_per_second."""


ErrorKind = Literal[
    "malformed",  # the body is not JSON, or is not UTF-8, or holds a lone surrogate
    "invalid",  # a field is missing, of another type, or has a value that is not allowed
    "empty",  # no inputs, or an empty text
    "too_many",  # more inputs than one request may have
    "too_long",  # a text is longer than the model reads, and truncation was not wanted
    "bad_dimensions",  # dimensions that the model does not have
    "unknown_prompt",
    "unknown_model",
    "unsupported",  # another kind of model is needed: a reranker, a classifier, images
    "token_ids",  # token ids where texts are expected
    "fingerprint",  # the model has another fingerprint than was required
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "too_large",  # the body
    "overloaded",  # the queue is full, or requests under way take too much memory
    "unavailable",  # loading, draining, or failed
    "timeout",
    "engine",  # the engine failed on this request's texts
    "internal",
]


class RequestError(GnomonError):
    """A request that gets no vectors. Each dialect has its own status and shape for each kind.

    Args:
        message: what is wrong, the rule, and what to do.
        kind: the condition.
        param: the field of the body that it is about: "input", "dimensions".
        index: the position of the input that it is about, from 0.
        retry_after: seconds after which the same request may succeed.
        code: a word for programs, where `kind` is not exact enough: "token_ids_not_text".
    """

    def __init__(
        self,
        message: str,
        kind: ErrorKind,
        *,
        param: str | None = None,
        index: int | None = None,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.index = message, param, index
        self.kind: ErrorKind = kind
        self.retry_after, self.code = retry_after, code


@dataclass(frozen=True)
class Answer:
    """An answer as it is sent."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


__all__ = [
    "Answer",
    "DecodeRequest",
    "EmbedRequest",
    "EmbedResult",
    "ErrorKind",
    "Ids",
    "InputType",
    "Inputs",
    "ModelInfo",
    "RequestError",
    "Side",
    "SimilarityRequest",
    "StatesResult",
    "TextRequest",
    "Timings",
    "Token",
    "TokenizeRequest",
    "Truncate",
    "VectorType",
]
