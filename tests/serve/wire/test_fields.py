"""Bodies: gzip, JSON, typed fields, and what every fault of them says."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import fields

from gnomon.serve.requests import RequestError
from gnomon.serve.wire.fields import Fields, decompress, is_whole_number, parse_body


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", "malformed", ["empty"]),
        (b" \n", "malformed", ["empty"]),
        (b"{", "malformed", ["line 1, column 2", "character 1"]),
        (b'{"a": \n nope}', "malformed", ["line 2"]),
        (b'{"a": NaN}', "malformed", ["character 6"]),
        (b'{"a": 1e999}', "malformed", ["infinity"]),
        (b"[" * 5000, "malformed", ["JSON"]),
        (b'{"a": "\\ud800"}', "malformed", ["surrogate", "character 7"]),
        (b'{"a": "\\udc00"}', "malformed", ["surrogate"]),
        (b'{"a": "\\ud800\\u0041"}', "malformed", ["surrogate"]),
        (b'{"a": "\xff"}', "malformed", ["UTF-8", "byte 7"]),
        (b'{"a": "\xed\xa0\x80"}', "malformed", ["UTF-8", "byte 7"]),
        (b'{"a": "\x00"}', "malformed", ["control character"]),
        ("{}".encode("utf-16"), "malformed", ["UTF-8", "byte 0"]),
        (b"[1, 2]", "invalid", ["a list of 2", "object"]),
        (b'"text"', "invalid", ["'text', a text"]),
        (b"null", "invalid", ["null"]),
        (b"5", "invalid", ["5, a number"]),
    ],
)
def test_a_broken_body_is_an_error_with_its_place(raw: bytes, kind: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(raw)
    assert caught.value.kind == kind
    assert [word for word in words if word not in caught.value.message] == []


def test_what_json_allows_is_read() -> None:
    """A byte order mark, a name twice (the last one counts), NUL as an escape, whole pairs of surrogates, depth."""
    body = b'\xef\xbb\xbf{"a": 1, "a": "\\ud83c\\udf83 \\u0000", "deep": ' + b"[" * 500 + b"]" * 500 + b"}"
    parsed = parse_body(body)
    assert parsed.text("a") == "🎃 \0"
    with pytest.raises(RequestError, match=r"deep is a list of 1\."):
        parsed.text("deep")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP ", "deflate"])
def test_compressed_bodies_expand_up_to_the_limit(encoding: str) -> None:
    body = b"0123456789" * 100
    raw = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    assert decompress(raw, 1000, encoding) == body
    with pytest.raises(RequestError, match="999 bytes") as caught:
        decompress(raw, 999, encoding)
    assert caught.value.kind == "too_large"


def test_a_body_without_an_encoding_stays_as_it_is() -> None:
    assert decompress(b"{}", 1, "identity") == b"{}"
    assert decompress(b"{}", 1, "") == b"{}"


@pytest.mark.parametrize(
    ("raw", "encoding", "kind", "word"),
    [
        (b"{}", "gzip", "malformed", "not valid gzip"),
        (b"", "gzip", "malformed", "too early"),
        (gzip.compress(b"{}" * 50, mtime=0)[:-4], "gzip", "malformed", "too early"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", "malformed", "after its end"),
        (gzip.compress(b"{}", mtime=0) * 2, "gzip", "malformed", "after its end"),
        (b"{}", "br", "invalid", "'br'"),
    ],
)
def test_a_damaged_stream_is_an_error(raw: bytes, encoding: str, kind: str, word: str) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        decompress(raw, 1000, encoding)
    assert caught.value.kind == kind


def test_a_bomb_is_not_expanded() -> None:
    raw = gzip.compress(bytes(50_000_000))
    assert len(raw) < 60_000
    with pytest.raises(RequestError) as caught:
        decompress(raw, 1_000_000)
    assert caught.value.kind == "too_large"


# ---- typed fields

BODY = {
    "text": "a",
    "number": 5,
    "whole": 256.0,
    "half": 0.5,
    "flag": True,
    "list": ["a", "b"],
    "mixed": ["a", "b", "c", 5],
    "object": {"inner": 1, "more": None},
    "null": None,
}


def test_fields_are_read_by_their_types() -> None:
    body = fields(BODY)
    assert body.text("text") == "a"
    assert body.whole_number("number", minimum=5) == 5
    whole = body.whole_number("whole", minimum=1)
    assert whole == 256
    assert type(whole) is int
    assert body.flag("flag") is True
    assert body.texts("list") == ["a", "b"]
    assert body.texts("text") == ["a"]
    assert body.choice("text", {"a": 1.5}) == 1.5
    inner = body.nested("object")
    assert isinstance(inner, Fields)
    assert inner.whole_number("inner", minimum=0) == 1


@pytest.mark.parametrize("name", ["null", "absent"])
def test_null_is_the_same_as_absent(name: str) -> None:
    body = fields(BODY)
    values = [body.text(name), body.flag(name), body.texts(name), body.choice(name, {}), body.nested(name)]
    assert values == [None] * 5
    assert body.whole_number(name, minimum=1) is None
    assert not body.has(name)
    assert body.has_null(name) == (name == "null")


@pytest.mark.parametrize(
    ("reader", "name", "message"),
    [
        ("text", "number", "number is 5, a number. It must be a text."),
        ("text", "flag", "flag is true, a boolean. It must be a text."),
        ("text", "list", "list is a list of 2. It must be a text."),
        ("flag", "number", "number is 5, a number. It must be true or false."),
        ("flag", "text", "text is 'a', a text. It must be true or false."),
        ("texts", "number", "number is 5, a number. It must be a text or a list of texts."),
        ("texts", "object", "object is an object. It must be a text or a list of texts."),
        ("texts", "mixed", "mixed[3] is 5, a number. It must be a text."),
        ("nested", "list", "list is a list of 2. It must be an object."),
    ],
)
def test_a_wrong_type_is_named(reader: str, name: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        getattr(fields(BODY), reader)(name)
    error = caught.value
    assert (error.message, error.kind, error.param) == (message, "invalid", name)
    assert error.index == (3 if name == "mixed" else None)


@pytest.mark.parametrize("name", ["flag", "half", "text", "list"])
def test_a_whole_number_is_one(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is .* whole number, at least 1"):
        fields(BODY).whole_number(name, minimum=1)
    with pytest.raises(RequestError, match=r"number is 5, .* at least 6"):
        fields(BODY).whole_number("number", minimum=6)


@pytest.mark.parametrize(
    ("value", "whole"), [(1, True), (-3.0, True), (1e300, False), (True, False), (0.5, False), ("1", False)]
)
def test_whole_numbers(value: object, whole: bool) -> None:
    assert is_whole_number(value) == whole


def test_an_unknown_word_has_its_choices() -> None:
    with pytest.raises(RequestError, match=r"x is 'floot'. It must be one of float, base64. Did you mean 'float'\?"):
        fields({"x": "floot"}).choice("x", {"float": 1, "base64": 2})
    assert fields({"x": "FLOAT"}).choice("x", {"float": 1}) == 1


def test_a_long_text_is_shortened() -> None:
    with pytest.raises(RequestError) as caught:
        fields({"x": "a" * 1_000_000}).flag("x")
    assert len(caught.value.message) < 150


def test_unknown_fields_are_those_that_no_reader_knows() -> None:
    body = fields({"a": "x", "b": 1, "c": 2, "null": None, "o": {"p": 1, "q": 2}, "strict": False})
    body.text("a")
    inner = body.nested("o")
    assert inner is not None
    inner.value("p")
    assert body.unknown() == ("b", "c", "o.q")
    body.ignore("b")
    assert body.unknown() == ("c", "o.q")


def test_strict_makes_unknown_fields_an_error() -> None:
    with pytest.raises(RequestError, match="'dimension', 'x'") as caught:
        fields({"dimension": 1, "x": 2, "strict": True}).unknown()
    assert (caught.value.kind, caught.value.param) == ("invalid", "dimension")
    assert fields({"strict": True}).unknown() == ()
    with pytest.raises(RequestError, match="strict"):
        fields({"strict": "yes"}).unknown()


def test_an_object_inside_stands_beside_the_rest() -> None:
    body = fields({"a": 1, "b": None, "parameters": {"a": 1, "b": True, "c": 3}, "strict": False})
    merged = body.merge("parameters")
    assert merged.value("a") == 1
    assert merged.value("b") is True
    assert merged.unknown() == ("c",)
    with pytest.raises(RequestError, match=r"a and parameters.a") as caught:
        fields({"a": 1, "parameters": {"a": 2}}).merge("parameters")
    assert caught.value.param == "a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=80) | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    try:
        assert isinstance(parse_body(raw), Fields)
    except RequestError as error:
        assert error.kind in ("malformed", "invalid")


@given(st.binary(max_size=80), st.sampled_from(["gzip", "deflate"]))
def test_no_stream_raises_anything_else(raw: bytes, encoding: str) -> None:
    try:
        assert len(decompress(raw, 100, encoding)) <= 100
    except RequestError as error:
        assert error.kind in ("malformed", "too_large")
