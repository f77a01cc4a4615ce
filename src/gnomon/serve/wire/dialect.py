"""`Dialect`: what the application needs of a dialect that embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, ModelInfo, RequestError, Token, TokenizeRequest
from gnomon.serve.wire.fields import Fields


@dataclass(frozen=True)
class Stamp:
    """What an answer holds beside its vectors. It is an argument, so that writers of answers are pure functions."""

    id: str
    """A unique text, without a dialect's prefix."""
    created: int
    """Unix time, in seconds."""


@dataclass(frozen=True)
class Dialect:
    """How one kind of clients asks for vectors, and what it reads."""

    name: str
    input_field: str
    """What the dialect calls its inputs: the argument `field` of `check_inputs`."""
    parse_embed: Callable[[Fields], EmbedRequest]
    """Raises RequestError."""
    render_embed: Callable[[EmbedRequest, EmbedResult, Stamp], Answer]
    render_error: Callable[[RequestError], Answer]


@dataclass(frozen=True)
class TokenizeDialect:
    """How one kind of clients asks for tokens."""

    name: str
    parse: Callable[[Fields], TokenizeRequest]
    """Raises RequestError."""
    render: Callable[[TokenizeRequest, Sequence[Sequence[Token]], ModelInfo], Answer]
    """The tokens of each text, and the model that they are for."""
    render_error: Callable[[RequestError], Answer]
