"""Errors: status and shape of every kind in every dialect, and the headers that clients act on."""

from typing import Any, get_args

import pytest
from wire import content

from gnomon.serve.requests import ErrorKind, RequestError
from gnomon.serve.wire.cohere import COHERE_V1, COHERE_V2
from gnomon.serve.wire.dialect import Dialect
from gnomon.serve.wire.errors import INFINITY_DETAILS, OPENAI, TEI
from gnomon.serve.wire.infinity import INFINITY
from gnomon.serve.wire.jina import JINA
from gnomon.serve.wire.ollama import OLLAMA, OLLAMA_OLD
from gnomon.serve.wire.openai import OPENAI as OPENAI_DIALECT
from gnomon.serve.wire.tei import TEI as TEI_DIALECT

DIALECTS = [OPENAI_DIALECT, JINA, INFINITY, TEI_DIALECT, COHERE_V1, COHERE_V2, OLLAMA, OLLAMA_OLD]

# kind: status of OpenAI, Jina, Cohere and Ollama; type; code; TEI's status and error_type; infinity's status
TABLE = """
malformed           400 invalid_request_error malformed_body           400 Validation    422
invalid             400 invalid_request_error invalid_value            422 Validation    422
empty               400 invalid_request_error empty_input              400 Empty         422
too_many            400 invalid_request_error too_many_inputs          422 Validation    422
too_long            400 invalid_request_error context_length_exceeded  422 Validation    400
bad_dimensions      400 invalid_request_error invalid_dimensions       422 Validation    400
unknown_prompt      400 invalid_request_error prompt_not_found         422 Validation    400
unknown_model       404 invalid_request_error model_not_found          404 Validation    400
unsupported         400 invalid_request_error unsupported              424 Backend       400
token_ids           400 invalid_request_error token_ids_not_text       422 Validation    400
fingerprint         409 invalid_request_error fingerprint_mismatch     409 Validation    409
unauthorized        401 authentication_error  invalid_api_key          401 Unauthorized  401
forbidden           403 authentication_error  forbidden                403 Unauthorized  403
not_found           404 invalid_request_error not_found                404 Validation    404
method_not_allowed  405 invalid_request_error method_not_allowed       405 Validation    405
too_large           413 invalid_request_error body_too_large           413 Validation    413
overloaded          429 rate_limit_error      server_overloaded        429 Overloaded    429
unavailable         503 server_error          unavailable              503 Unhealthy     503
timeout             504 server_error          timeout                  504 Backend       504
engine              500 server_error          engine_error             424 Backend       500
internal            500 server_error          internal_error           500 Backend       500
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_every_kind_is_in_every_table() -> None:
    kinds = set(get_args(ErrorKind))
    assert {row[0] for row in ROWS} == kinds
    assert OPENAI.keys() == TEI.keys() == kinds
    assert INFINITY_DETAILS.keys() < kinds


@pytest.mark.parametrize(("kind", "status", "type_", "code", "tei", "tei_type", "infinity"), ROWS)
def test_status_and_shape(
    kind: Any, status: str, type_: str, code: str, tei: str, tei_type: str, infinity: str
) -> None:
    error = RequestError("dimensions 7 is wrong.", kind, param="dimensions")
    expected: dict[Dialect, tuple[str, Any]] = {
        dialect: (
            status,
            {
                "error": {"message": error.message, "type": type_, "param": "dimensions", "code": code},
                "message": error.message,
                "detail": error.message,
            },
        )
        for dialect in (OPENAI_DIALECT, JINA)
    }
    expected |= dict.fromkeys((COHERE_V1, COHERE_V2), (status, {"message": error.message}))
    expected |= dict.fromkeys((OLLAMA, OLLAMA_OLD), (status, {"error": error.message}))
    expected[TEI_DIALECT] = (tei, {"error": error.message, "error_type": tei_type})
    own = {"error": {"message": error.message, "type": None, "param": None, "code": int(infinity)}}
    kinds = {"malformed": "json_invalid", "invalid": "value_error", "empty": "too_short", "too_many": "too_long"}
    detail = {"loc": ["body", "dimensions"], "msg": error.message, "type": kinds.get(kind)}
    expected[INFINITY] = (infinity, {"detail": [detail]} if infinity == "422" else own)
    for dialect, (number, body) in expected.items():
        answer = dialect.render_error(error)
        assert (str(answer.status), content(answer)) == (number, body), dialect.name


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_index_of_an_input_is_in_the_message(dialect: Dialect) -> None:
    error = RequestError("text is too long.", "too_long", index=17)
    assert f"{'texts' if 'cohere' in dialect.name else dialect.input_field}[17]: text is too long." in str(
        content(dialect.render_error(error))
    ).replace("input[17]", f"{dialect.input_field}[17]")
    with_index = RequestError("input[17] is empty.", "empty", param="input", index=17)
    assert "[17]: " not in dialect.render_error(with_index).body.decode()


def test_the_index_is_in_openais_param_and_infinitys_place() -> None:
    error = RequestError("input[17] is empty.", "empty", param="input", index=17)
    assert content(OPENAI_DIALECT.render_error(error))["error"]["param"] == "input[17]"
    assert content(INFINITY.render_error(error))["detail"][0]["loc"] == ["body", "input", 17]
    unnamed = RequestError("too long", "too_long", index=2)
    assert content(OPENAI_DIALECT.render_error(unnamed))["error"]["param"] == "input[2]"


def test_a_code_of_its_own_goes_before_that_of_the_kind() -> None:
    error = RequestError("slow down", "overloaded", code="rate_limit_exceeded")
    assert content(OPENAI_DIALECT.render_error(error))["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_clients_know_whether_to_try_again(dialect: Dialect, kind: Any) -> None:
    headers = dialect.render_error(RequestError("wrong", kind)).headers
    again = {"overloaded": None, "internal": None, "unavailable": "true", "timeout": "true"}
    assert headers.get("x-should-retry") == again.get(kind, "false")
    assert headers.get("www-authenticate") == ("Bearer" if kind == "unauthorized" else None)
    assert "retry-after" not in headers


def test_the_wait_is_in_seconds_and_milliseconds() -> None:
    error = RequestError("the queue is full", "overloaded", retry_after=0.3004)
    headers = OPENAI_DIALECT.render_error(error).headers
    assert headers == {"retry-after": "1", "retry-after-ms": "301"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_message_that_json_cannot_hold_is_written_all_the_same(dialect: Dialect) -> None:
    answer = dialect.render_error(RequestError("model '\ud800' is unknown", "unknown_model"))
    assert "model '?' is unknown" in answer.body.decode()


def test_what_does_not_exist_here_is_refused_in_each_dialect() -> None:
    error = RequestError("a reranker is needed. This server embeds.", "unsupported")
    answers = {dialect.name: dialect.render_error(error) for dialect in DIALECTS}
    assert {name: answer.status for name, answer in answers.items()} == {
        "openai": 400,
        "jina": 400,
        "infinity": 400,
        "tei": 424,
        "cohere-v1": 400,
        "cohere-v2": 400,
        "ollama": 400,
        "ollama-old": 400,
    }
    assert content(answers["tei"])["error_type"] == "Backend"
