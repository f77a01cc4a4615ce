"""docs/reference/server-api.md says what the code does."""

import re
from typing import get_args

import pytest
from pages import DOCS
from wire import content

from gnomon.serve.requests import ErrorKind, RequestError
from gnomon.serve.wire import embed_fields
from gnomon.serve.wire.cohere import COHERE_V1, COHERE_V2
from gnomon.serve.wire.infinity import INFINITY, MAX_CHARACTERS
from gnomon.serve.wire.jina import JINA, KEYS
from gnomon.serve.wire.ollama import OLLAMA
from gnomon.serve.wire.openai import OPENAI
from gnomon.serve.wire.tei import TEI

PAGE = (DOCS / "reference" / "server-api.md").read_text("utf-8")
ROWS = {row[0]: row for row in (re.split(r" *\| *", line.strip("| ")) for line in PAGE.splitlines() if "|" in line)}


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_errors(kind: ErrorKind) -> None:
    error = RequestError("wrong", kind)
    _, _, status, tei, infinity, code, error_type = ROWS[kind]
    for dialect in (OPENAI, JINA, COHERE_V1, COHERE_V2, OLLAMA):
        assert dialect.render_error(error).status == int(status)
    assert TEI.render_error(error).status == int(tei)
    assert INFINITY.render_error(error).status == int(infinity)
    assert f"`{content(OPENAI.render_error(error))['error']['code']}`" == code
    assert f"`{content(TEI.render_error(error))['error_type']}`" == error_type


def test_words_of_fields() -> None:
    words = [*embed_fields.INPUT_TYPES, *embed_fields.VECTOR_TYPES, *embed_fields.ON_TRUNCATE, *KEYS]
    words += embed_fields.ENCODING_FORMATS
    assert [word for word in words if f"`{word}`" not in PAGE] == []
    assert [word for word in embed_fields.TRUNCATE if f"`{word}`" not in PAGE and f"`{word.upper()}`" not in PAGE] == []
    assert f"{MAX_CHARACTERS:,} characters" in PAGE
