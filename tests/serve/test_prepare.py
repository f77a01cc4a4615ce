"""From texts to the token sequences that wait for the engine."""

import threading
from dataclasses import replace
from typing import Literal

import goldens
import numpy as np
import pytest

from gnomon import Encoder
from gnomon.encode_options import EncodeOptions
from gnomon.packed import pack
from gnomon.serve.batcher import Batcher
from gnomon.serve.prepare import Preparation
from gnomon.serve.requests import RequestError, Truncate
from gnomon.serve.work import Job

goldens.require(whole_module=True)

LONG = " ".join(f"word{number}" for number in range(400))
TEXTS = ["a cat", LONG, "stock prices fell today"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return goldens.load("multilingual-e5-small")


def prepare(
    encoder: Encoder, prompt: str = "", truncate: Truncate = "right", max_tokens: int | None = None
) -> Preparation:
    return Preparation.from_request(encoder, prompt, truncate, max_tokens, b"salt")


def test_ids_are_those_that_the_encoder_reads(encoder: Encoder) -> None:
    texts = prepare(encoder, "query: ").prepare_texts(TEXTS)
    report = encoder.tokenize(["query: " + text for text in TEXTS])
    for text, ids_T, count, at in zip(texts, report.ids, report.counts, report.truncated_at, strict=True):
        np.testing.assert_array_equal(text.sequences[0], ids_T)
        assert text.num_tokens == len(ids_T)
        assert text.num_full_tokens == count
        assert text.truncated is (at is not None)


def test_either_side_may_be_left_out(encoder: Encoder) -> None:
    whole = encoder.tokenizer.encode([LONG])[0]
    limit = encoder.max_seq_length
    assert limit
    left = prepare(encoder, truncate="left").prepare_texts([LONG])[0].sequences[0]
    right = prepare(encoder, truncate="right").prepare_texts([LONG])[0].sequences[0]
    np.testing.assert_array_equal(left, [whole[0], *whole[-(limit - 1) :]])
    np.testing.assert_array_equal(right, [*whole[: limit - 1], whole[-1]])
    five = prepare(encoder, max_tokens=5).prepare_texts(TEXTS)
    assert [text.num_tokens for text in five] == [min(5, text.num_full_tokens) for text in five]
    beyond = prepare(encoder, max_tokens=10**6).prepare_texts([LONG])[0]
    assert beyond.num_tokens == limit


def test_windows_give_the_encoders_mean(encoder: Encoder) -> None:
    texts = prepare(encoder, "query: ", "mean").prepare_texts(TEXTS)
    assert [len(text.sequences) > 1 for text in texts] == [False, True, False]
    assert not any(text.truncated for text in texts)
    done = threading.Event()

    def notify(jobs: list[Job]) -> None:
        done.set()

    batcher = Batcher(encoder.engine, budget=200, pooled_dim=encoder.spec.pooled_dim, notify=notify)
    job = batcher.make_job(3, "bulk")
    batcher.submit(job, texts)
    assert done.wait(30)
    batcher.close()
    vectors = job.pooled_BD / np.linalg.norm(job.pooled_BD, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, prompt="query: ", on_truncate="mean"), atol=2e-6)


def test_a_prompt_that_pooling_leaves_out_is_skipped(encoder: Encoder) -> None:
    spec = encoder.spec
    pooling = replace(spec.pooling, include_prompt=False)
    other = Encoder(replace(encoder.checkpoint, spec=replace(spec, pooling=pooling)), engine=encoder.engine)
    assert prepare(other, "query: ").prepare_texts(["a"])[0].skip == other.tokenizer.count_prompt_tokens("query: ") > 0
    assert prepare(other).skip == prepare(encoder, "query: ").skip == 0


def test_a_prompt_that_is_truncated_is_skipped_as_far_as_it_is_there(encoder: Encoder) -> None:
    pooling = replace(encoder.spec.pooling, include_prompt=False)
    other = Encoder(replace(encoder.checkpoint, spec=replace(encoder.spec, pooling=pooling)), engine=encoder.engine)
    whole = prepare(other, "query: ").prepare_texts(["a"])[0]
    left = prepare(other, "query: ", "left").prepare_texts([LONG, "a"])
    assert [text.skip for text in left] == [1, whole.skip]  # nothing of the prompt is left; [CLS] is left out as ever
    right = prepare(other, "query: ", "right", max_tokens=whole.skip + 2).prepare_texts([LONG])[0]
    assert right.skip == whole.skip
    with pytest.raises(RequestError, match="prompt") as caught:
        prepare(other, "query: ", "right", max_tokens=whole.skip + 1).prepare_texts([LONG])
    assert caught.value.index == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_is_skipped_as_the_encoder_skips_it(encoder: Encoder, side: Literal["left", "right"]) -> None:
    """Where a model truncates on the left by itself, too, and keeps prompts out of pooling."""
    spec = encoder.spec
    pooling, tokenizing = replace(spec.pooling, include_prompt=False), replace(spec.tokenizer, truncation_side=side)
    checkpoint = replace(encoder.checkpoint, spec=replace(spec, pooling=pooling, tokenizer=tokenizing))
    other = Encoder(checkpoint, engine=encoder.engine)
    text = prepare(other, "query: ", side).prepare_texts([LONG])[0]
    pooled_BD = other.engine.pool(pack(text.sequences, skip_B=[text.skip]))
    found = other.make_postprocessor(EncodeOptions())(pooled_BD)
    np.testing.assert_allclose(found, other.encode([LONG], prompt="query: ", on_truncate="silent"), atol=1e-6)


def test_keys_are_equal_where_the_engine_has_the_same_work(encoder: Encoder) -> None:
    def key(text: str, **how: object) -> bytes:
        return prepare(encoder, **how).prepare_texts([text])[0].key  # pyright: ignore

    assert key("a") == key("a", truncate="left") == key("a", truncate="mean")
    assert key("query: a") == key("a", prompt="query: ")
    others = [
        key("a"),
        key("b"),
        key(LONG),
        key(LONG, truncate="left"),
        key(LONG, truncate="mean"),
        key(LONG, max_tokens=5),
    ]
    assert len(set(others)) == len(others)
    salted = replace(prepare(encoder), salt=b"another model").prepare_texts(["a"])[0].key
    assert salted != key("a")
    skipping = replace(prepare(encoder), skip=1).prepare_texts(["a"])[0].key
    assert skipping != key("a")


def test_ids_of_a_client_are_completed_and_checked(encoder: Encoder) -> None:
    preparation = prepare(encoder)
    whole = encoder.tokenizer.encode(["a cat"])[0]
    np.testing.assert_array_equal(preparation.complete_ids(whole.tolist(), 0), whole)
    np.testing.assert_array_equal(preparation.complete_ids(whole[1:-1].tolist(), 0), whole)
    rows = encoder.spec.trunk.vocab_size
    for wrong in (-1, rows):
        with pytest.raises(RequestError, match=str(wrong)) as caught:
            preparation.complete_ids([5, wrong], 7)
        assert caught.value.index == 7


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"truncate": "error"}, "too_long"),
        ({"max_tokens": 2}, "invalid"),
        ({"max_tokens": 9, "truncate": "mean"}, "invalid"),
        ({"prompt": LONG, "truncate": "mean"}, "invalid"),
    ],
)
def test_what_cannot_be_prepared(encoder: Encoder, how: dict[str, object], kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(encoder, **how).prepare_texts(TEXTS, 100)  # pyright: ignore
    assert caught.value.kind == kind
    if kind == "too_long":
        assert caught.value.index == 101
