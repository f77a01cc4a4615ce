"""Writes errors: each kind's status, type and code in each dialect, and the headers that say whether to try again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gnomon.serve.requests import Answer, RequestError
from gnomon.serve.wire.vectors import json_answer


class Condition(NamedTuple):
    """A kind of error as OpenAI's clients read it."""

    status: int
    type: str
    code: str


_REQUEST, _KEY, _SERVER = "invalid_request_error", "authentication_error", "server_error"

OPENAI: Mapping[str, Condition] = {
    "malformed": Condition(400, _REQUEST, "malformed_body"),
    "invalid": Condition(400, _REQUEST, "invalid_value"),
    "empty": Condition(400, _REQUEST, "empty_input"),
    "too_many": Condition(400, _REQUEST, "too_many_inputs"),
    "too_long": Condition(400, _REQUEST, "context_length_exceeded"),
    "bad_dimensions": Condition(400, _REQUEST, "invalid_dimensions"),
    "unknown_prompt": Condition(400, _REQUEST, "prompt_not_found"),
    "unknown_model": Condition(404, _REQUEST, "model_not_found"),
    "unsupported": Condition(400, _REQUEST, "unsupported"),
    "token_ids": Condition(400, _REQUEST, "token_ids_not_text"),
    "fingerprint": Condition(409, _REQUEST, "fingerprint_mismatch"),
    "unauthorized": Condition(401, _KEY, "invalid_api_key"),
    "forbidden": Condition(403, _KEY, "forbidden"),
    "not_found": Condition(404, _REQUEST, "not_found"),
    "method_not_allowed": Condition(405, _REQUEST, "method_not_allowed"),
    "too_large": Condition(413, _REQUEST, "body_too_large"),
    "overloaded": Condition(429, "rate_limit_error", "server_overloaded"),
    "unavailable": Condition(503, _SERVER, "unavailable"),
    "timeout": Condition(504, _SERVER, "timeout"),
    "engine": Condition(500, _SERVER, "engine_error"),
    "internal": Condition(500, _SERVER, "internal_error"),
}
"""Azure's, Jina's and vLLM's clients read the same."""

TEI: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "Validation"),
    "invalid": (422, "Validation"),
    "empty": (400, "Empty"),
    "too_many": (422, "Validation"),
    "too_long": (422, "Validation"),
    "bad_dimensions": (422, "Validation"),
    "unknown_prompt": (422, "Validation"),
    "unknown_model": (404, "Validation"),
    "unsupported": (424, "Backend"),
    "token_ids": (422, "Validation"),
    "fingerprint": (409, "Validation"),
    "unauthorized": (401, "Unauthorized"),
    "forbidden": (403, "Unauthorized"),
    "not_found": (404, "Validation"),
    "method_not_allowed": (405, "Validation"),
    "too_large": (413, "Validation"),
    "overloaded": (429, "Overloaded"),
    "unavailable": (503, "Unhealthy"),
    "timeout": (504, "Backend"),
    "engine": (424, "Backend"),
    "internal": (500, "Backend"),
}
"""Status and error_type."""

INFINITY_DETAILS: Mapping[str, str] = {
    "malformed": "json_invalid",
    "invalid": "value_error",
    "empty": "too_short",
    "too_many": "too_long",
}
"""Kinds that infinity answers with 422 and a list of details, and the type of the detail."""

INFINITY_STATUS: Mapping[str, int] = {"unknown_model": 400}
"""Where infinity's status differs from OpenAI's."""


def render_openai_error(error: RequestError) -> Answer:
    """A body that the clients of OpenAI, Azure, vLLM, Jina and infinity all read."""
    condition = OPENAI[error.kind]
    message = write_message(error, "input")
    body = {
        "error": {
            "message": message,
            "type": condition.type,
            "param": _write_param(error),
            "code": error.code or condition.code,
        },
        "message": message,
        "detail": message,
    }
    return _answer(error, condition.status, body)


def render_tei_error(error: RequestError) -> Answer:
    status, error_type = TEI[error.kind]
    return _answer(error, status, {"error": write_message(error, "inputs"), "error_type": error_type})


def render_infinity_error(error: RequestError) -> Answer:
    """422 with a list of details for faults of the body, as FastAPI writes them; infinity's own shape for others."""
    message = write_message(error, "input")
    if error.kind in INFINITY_DETAILS:
        place = ["body", *([error.param] if error.param else []), *([error.index] if error.index is not None else [])]
        return _answer(error, 422, {"detail": [{"loc": place, "msg": message, "type": INFINITY_DETAILS[error.kind]}]})
    status = INFINITY_STATUS.get(error.kind, OPENAI[error.kind].status)
    return _answer(error, status, {"error": {"message": message, "type": None, "param": None, "code": status}})


def render_cohere_error(error: RequestError) -> Answer:
    return _answer(error, OPENAI[error.kind].status, {"message": write_message(error, "texts")})


def render_ollama_error(error: RequestError) -> Answer:
    return _answer(error, OPENAI[error.kind].status, {"error": write_message(error, "input")})


def write_message(error: RequestError, field: str) -> str:
    """The message, with the index of the input where it does not name it. Half surrogate pairs become "?"."""
    message = error.message.encode("utf-8", "replace").decode()
    if error.index is None or f"[{error.index}]" in message:
        return message
    return f"{field}[{error.index}]: {message}"


def _write_param(error: RequestError) -> str | None:
    if error.index is None:
        return error.param
    return f"{error.param or 'input'}[{error.index}]"


def _answer(error: RequestError, status: int, body: Mapping[str, Any]) -> Answer:
    return json_answer(body, status=status, headers=_retry_headers(error, status))


def _retry_headers(error: RequestError, status: int) -> dict[str, str]:
    """429 is left to the clients, which wait and try again."""
    headers: dict[str, str] = {}
    if status in (503, 504):
        headers["x-should-retry"] = "true"
    elif error.kind == "engine" or (status < 500 and status != 429):
        headers["x-should-retry"] = "false"  # the same request would fail again
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
