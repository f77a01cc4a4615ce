"""Whether a model can answer a request, before that costs any work."""

from __future__ import annotations

from gnomon.messages import shorten
from gnomon.serve.models import NamedModel, ServedModel
from gnomon.serve.requests import LOADING_RETRY_SECONDS, EmbedRequest, RequestError

MAX_PROMPT_CHARACTERS = 32_768
"""A prompt stands before every text, so that it costs many times its length."""

PROMPT_FIELDS = "prompt", "prompt_name", "input_type", "input_type"
"""The fields of bodies that choose a prompt."""


def check_prompt(prompt: str) -> None:
    """
    Raises:
        RequestError: it is too long to stand before every text.
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(
            f"the prompt has {len(prompt):,} characters, and it may have {MAX_PROMPT_CHARACTERS:,}. Shorten it.",
            "invalid",
            param="prompt",
        )


def check_named_prompt(request: EmbedRequest, named: NamedModel) -> None:
    """
    Raises:
        RequestError: the ending of the model's name chooses another prompt than a field of the request.
    """
    if named.input_type is None and named.prompt_name is None:
        return
    fields = request.prompt, request.prompt_name, request.input_type, request.optional_prompt_name
    if named.input_type is not None and request.input_type is not None:
        differ = named.input_type != request.input_type  # also where the model has no prompts
    else:
        chosen = named.model.resolve_prompt(None, named.prompt_name, named.input_type)
        differ = named.model.resolve_prompt(*fields) != chosen
    if differ:
        (name,) = (name for name, value in zip(PROMPT_FIELDS, fields, strict=True) if value is not None)
        raise RequestError(
            f"model {shorten(request.model)} chooses a prompt by its ending, and {name} chooses another one. Each "
            "request has one prompt. Send one of them.",
            "invalid",
            param=name,
        )


def check_engine(model: ServedModel) -> None:
    """
    Raises:
        RequestError: the model's engine does not compute now.
    """
    if model.batcher.is_ok:
        return
    health = model.batcher.check_health()
    if health.state != "ok":
        raise RequestError(
            f"the engine of {model.name} is {health.state}: {health.reason}.",
            "unavailable",
            retry_after=LOADING_RETRY_SECONDS,
        )


def check_fingerprint(request: EmbedRequest, model: ServedModel) -> None:
    """
    Raises:
        RequestError: the request requires another fingerprint than the model has.
    """
    if request.require_fingerprint not in (None, model.fingerprint):
        raise RequestError(
            f"the model {model.name!r} has the fingerprint {model.fingerprint}, and "
            f"{shorten(request.require_fingerprint, 70)} is "
            "required. Its vectors cannot be compared with yours: encode anew, or name the other model.",
            "fingerprint",
            param="require_fingerprint",
        )
