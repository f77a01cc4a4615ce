"""Vectors as JSON, base64 and bytes: the same float32 in each, bit for bit."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from wire import RESULT, VECTORS

from gnomon.serve.requests import EmbedRequest
from gnomon.serve.wire.vectors import (
    answer_raw,
    choose_raw_type,
    header_text,
    json_answer,
    warn_of_unknown,
    warning_header,
    write_vectors,
)

REQUEST = EmbedRequest(inputs=["a", "b"])
MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@given(MATRICES)
def test_json_and_base64_hold_the_same_float32(vectors_BD: NDArray[np.float32]) -> None:
    result = replace(RESULT, vectors_BD=vectors_BD)
    floats = json.loads(json_answer(write_vectors(result, "float")).body)
    assert np.array(floats, np.float64).astype(np.float32).tobytes() == vectors_BD.tobytes()
    decoded = [np.frombuffer(base64.b64decode(text, validate=True), "<f4") for text in write_vectors(result, "base64")]
    assert np.concatenate(decoded).tobytes() == vectors_BD.tobytes()


def test_part_of_a_matrix_is_written_like_a_matrix() -> None:
    """A prefix of each row is not contiguous in memory, which orjson does not take."""
    prefix = replace(RESULT, vectors_BD=VECTORS[:, :2])
    assert json.loads(json_answer(write_vectors(prefix, "float")).body) == [[0.1, -0.2], [1.0, 0.0]]
    assert write_vectors(prefix, "base64") == ["zczMPc3MTL4=", "AACAPwAAAAA="]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, None),
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("text/html, */*;q=0.8", None),
        ("application/octet-stream", "application/octet-stream"),
        ("Application/X-NPY", "application/x-npy"),
        ("text/html, application/x-npy;q=0.9, */*", "application/x-npy"),
        ("application/json, application/octet-stream", None),
        ("application/octet-stream; q=0, application/x-npy", "application/x-npy"),
        ("application/octet-streams", None),
    ],
)
def test_the_first_type_that_the_client_accepts(accept: str | None, expected: str | None) -> None:
    assert choose_raw_type(accept) == expected


def test_bytes_are_the_rows() -> None:
    answer = answer_raw(REQUEST, RESULT, "application/octet-stream")
    assert answer is not None
    assert answer.content_type == "application/octet-stream"
    assert answer.body == VECTORS.astype("<f4").tobytes()
    assert answer.headers["x-gnomon-shape"] == "2,3"
    assert answer.headers["x-gnomon-dtype"] == "float32"
    assert answer.headers["x-gnomon-model"] == "org/model"
    assert answer.headers["x-gnomon-truncated"] == "1"


def test_a_file_of_numpy() -> None:
    answer = answer_raw(REQUEST, RESULT, "application/x-npy")
    assert answer is not None
    assert answer.content_type == "application/x-npy"
    values = np.load(io.BytesIO(answer.body), allow_pickle=False)
    assert values.dtype == np.float32
    assert np.array_equal(values, VECTORS)


def test_bytes_are_of_the_first_type() -> None:
    answer = answer_raw(replace(REQUEST, vector_types=("binary", "float")), RESULT, "application/octet-stream")
    assert answer is not None
    assert answer.body == b"\x80\x20"
    assert (answer.headers["x-gnomon-dtype"], answer.headers["x-gnomon-shape"]) == ("int8", "2,1")


def test_the_body_may_ask_for_bytes_and_json_is_left_to_the_dialect() -> None:
    wanted = replace(REQUEST, raw_type="application/octet-stream")
    answer = answer_raw(wanted, RESULT, "application/json")
    assert answer is not None
    assert answer.content_type == "application/octet-stream"
    assert answer_raw(REQUEST, RESULT, "*/*") is None


@given(st.text())
def test_headers_hold_printable_ascii(text: str) -> None:
    value = header_text(text)
    assert value.isascii()
    assert value.isprintable()


def test_a_warning_names_five_fields_as_headers_may_hold_them() -> None:
    assert warning_header(warn_of_unknown(())) == {}
    names = ["a\r\nx-evil: 1", "\u00e9\ud800", "n" * 100_000, "d", "e", "f", "g"]
    (warning,) = warning_header(warn_of_unknown(names)).values()
    assert len(warning) < 200
    assert warning.isascii()
    assert warning.isprintable()
    assert r"'a\r\nx-evil: 1'" in warning
    assert "'d', 'e' and 2 more." in warning
    assert "'f'" not in warning
