"""What the server's checks make of themselves: an engine that misbehaves, and bodies for the fuzz."""

import json
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import find, given
from hypothesis import strategies as st

from bench.serving.bodies import make_bodies
from bench.serving.checks_fuzz import ROUTES
from bench.serving.faulty_server import DIE, END, HANG, POISON, RAISE, FaultyEngine, holds
from experiments.serving_upstream.run import is_about_text
from gnomon.packed import Packed, pack

WORDS = {POISON: [91, 92], RAISE: [93], DIE: [94, 94], HANG: [95], END: [96]}
"""Their token ids."""


def batch(*texts: list[int]) -> Packed:
    return pack([np.array(ids, np.int64) for ids in texts])


def make_engine(largest: int | None = None) -> tuple[FaultyEngine, FakeEngine]:
    inner = FakeEngine()
    return FaultyEngine(inner, WORDS.__getitem__, largest), inner


def test_only_the_row_of_a_poisonous_text_is_nan() -> None:
    engine, inner = make_engine()
    texts = batch([1, 2], [1, 91, 92, 2], [91, 2, 92])
    vectors_BD = engine.pool(texts)
    assert np.isnan(vectors_BD).all(axis=1).tolist() == [False, True, False]
    assert np.array_equal(vectors_BD[[0, 2]], inner.pool(texts)[[0, 2]])


def test_a_text_that_raises_fails_its_batch_alone() -> None:
    engine, _ = make_engine()
    with pytest.raises(RuntimeError, match="cannot be computed"):
        engine.pool(batch([1], [93]))
    assert engine.pool(batch([1])).shape == (1, 4)


def test_a_dead_engine_stays_dead() -> None:
    engine, _ = make_engine()
    for texts in ([1, 94, 94], [1]):
        with pytest.raises(RuntimeError, match="lost"):
            engine.pool(batch(texts))


def test_memory_is_short_above_the_largest_batch() -> None:
    engine, _ = make_engine(largest=3)
    assert engine.pool(batch([1], [2, 3])).shape == (2, 4)
    with pytest.raises(MemoryError):
        engine.pool(batch([1, 2], [3, 4]))


def test_a_word_is_found_at_both_ends() -> None:
    assert holds([1, 2, 3], [1, 2]) and holds([1, 2, 3], [2, 3]) and not holds([1, 3, 2], [2, 3])


@given(data=st.data())
def test_bodies_are_bytes(data: st.DataObject) -> None:
    _, required = data.draw(st.sampled_from(list(ROUTES.values())))
    assert isinstance(data.draw(make_bodies(required)), bytes)


def read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


@pytest.mark.parametrize("name", ROUTES)
def test_some_bodies_are_right_and_some_are_not_json(name: str) -> None:
    required = ROUTES[name][1]

    def is_right(body: bytes) -> bool:
        fields = read(body)
        return isinstance(fields, dict) and all(fields.get(field) for field in required)

    assert find(make_bodies(required), is_right)
    assert read(find(make_bodies(required), lambda body: read(body) is None)) is None


@pytest.mark.parametrize(
    ("name", "is_text"),
    [
        ("test_authentication::test_authentication", True),
        ("test_torch_audio::test_audio_single_text_only", True),
        ("test_torch_audio::test_meta", False),
        ("test_sentence_transformers::test_load_model", False),
        ("test_api_with_dummymodel::test_openapi_same_as_docs_file", False),
    ],
)
def test_which_of_infinitys_tests_are_about_texts(name: str, is_text: bool) -> None:
    assert is_about_text(name) is is_text
