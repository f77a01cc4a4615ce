"""Counts, offsets and cuts of texts; windows that cover every token; the mean over windows against a reference."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import DISTILBERT, E5, GIST, GOLDEN, NAMES, STELLA, load
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors

from gnomon import Encoder
from gnomon.errors import InputError, ModelError, Notice
from gnomon.packed import pack
from gnomon.spec import TokenizerSpec
from gnomon.tokenizer import Tokenizer

LONG = "water boils at one hundred degrees, ice melts at none, " * 40
S2S = "Instruct: Retrieve semantically similar text.\nQuery: "
Copy = Callable[..., Path]
WORDS = [chr(ord("a") + at) for at in range(26)]

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir() and not os.environ.get("CI"), reason=f"{GOLDEN} is in the shared folder of the project"
)


def letters(limit: int | None, *, frame: str = "[C] $A [S]", **options: Any) -> Tokenizer:
    """Words of one letter, ids 2 to 27, with special tokens 0 in front and 1 behind."""
    raw = RawTokenizer(models.WordLevel({"[C]": 0, "[S]": 1} | {word: at + 2 for at, word in enumerate(WORDS)}, "a"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("[C]", 0), ("[S]", 1)])
    return Tokenizer(raw, TokenizerSpec(limit, **options))


# ---- what the model reads


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("frame", "front", "back"), [("[C] $A [S]", 1, 1), ("$A [S]", 0, 1), ("$A", 0, 0)])
@settings(deadline=None)
@given(text=st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), limit=st.integers(3, 20))
def test_truncation_keeps_the_special_tokens_and_one_side(
    side: Any, frame: str, front: int, back: int, text: str, limit: int
) -> None:
    tokenizer = letters(limit, frame=frame, truncation_side=side)
    assert (tokenizer.num_leading_special, tokenizer.num_trailing_special) == (front, back)
    (whole,), report = tokenizer.encode([text]), tokenizer.tokenize([text])
    body, room = whole[front : len(whole) - back], limit - front - back
    kept = body if len(whole) <= limit else body[-room:] if side == "left" else body[:room]
    assert tokenizer.truncate(whole).tolist() == report.ids[0].tolist() == [*[0] * front, *kept.tolist(), *[1] * back]
    assert report.counts == [len(whole)]
    assert report.truncated == ([0] if len(whole) > limit else [])
    cut = report.truncated_at[0]
    read = text if cut is None else text[cut:] if side == "left" else text[:cut]
    assert read.split() == [WORDS[at - 2] for at in kept]
    spans = [text[first:last] for first, last in report.offsets[0][front : len(kept) + front]]
    assert spans == [WORDS[at - 2] for at in kept]
    assert not report.offsets[0][:front].any()


def test_without_a_limit_nothing_is_truncated() -> None:
    tokenizer = letters(None)
    report = tokenizer.tokenize(["a " * 5000])
    assert (report.counts, report.truncated_at, len(report.ids[0])) == ([5002], [None], 5002)


def test_without_special_tokens_none_are_added() -> None:
    tokenizer = letters(4, special_tokens=False)
    assert (tokenizer.num_leading_special, tokenizer.num_trailing_special) == (0, 0)
    assert tokenizer.tokenize(["a b c d e", ""]).ids[0].tolist() == [2, 3, 4, 5]
    assert tokenizer.encode([""])[0].tolist() == []


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_without_room_is_refused(limit: int) -> None:
    with pytest.raises(ModelError, match=f"max_seq_length {limit} .*2 special tokens"):
        letters(limit)


@needs_golden
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_the_report_of_a_model(name: str, prompt: str) -> None:
    encoder, texts = load(name), ["The library opens.", "", LONG, "Café 南瓜 naïve"]
    report = encoder.tokenize(texts, prompt=prompt)
    assert report.truncated == [2]
    limit = encoder.max_seq_length
    assert len(report.ids[2]) == len(report.offsets[2]) == limit < report.counts[2]
    for text, ids_T, offsets_T2, count in zip(texts, report.ids, report.offsets, report.counts, strict=True):
        whole = prompt + text
        assert len(ids_T) == min(count, limit or count)
        assert (offsets_T2[1:-1, 0] <= offsets_T2[1:-1, 1]).all()
        assert offsets_T2.max(initial=0) <= len(whole)
        read = {at for first, last in offsets_T2 for at in range(first, last)}
        assert all(at in read or whole[at].isspace() for at in range(offsets_T2[:, 1].max()))
    cut = report.truncated_at[2] or 0
    assert report.offsets[2][:, 1].max() <= cut < len(prompt + LONG)
    again = encoder.tokenize((prompt + LONG)[:cut], prompt="")
    assert np.array_equal(again.ids[0], report.ids[2])


@needs_golden
def test_a_model_may_truncate_on_the_left(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "tokenizer_config.json", {"truncation_side": "left"})
    encoder = Encoder.load(folder, threads=1)
    text = " ".join(WORDS * 5)
    report = encoder.tokenize(text)
    cut = report.truncated_at[0]
    assert report.counts == [132]
    assert text[cut:] == " ".join((WORDS * 5)[-62:])
    assert np.array_equal(encoder.tokenize(text[cut:]).ids[0], report.ids[0])
    alone = encoder.encode(text[cut:], on_truncate="error")
    np.testing.assert_allclose(encoder.encode(text, on_truncate="silent"), alone, atol=1e-6)


@needs_golden
@pytest.mark.parametrize(("name", "rows"), [(E5, 96), (GIST, 64), (DISTILBERT, 96)])
def test_no_position_is_beyond_the_table(
    name: str, rows: int, golden_copy: Copy, edit_json: Callable[..., Any]
) -> None:
    folder = golden_copy(name)
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 10_000})
    with pytest.warns(Notice, match=f"max_seq_length 10000 .*{rows} positions"):
        encoder = Encoder.load(folder)
    assert len(encoder.encode_tokens(LONG, on_truncate="silent")[0]) == encoder.max_seq_length == rows


def test_lower_case_is_done_once_and_in_front() -> None:
    tokenizer = letters(9, lower_case=True)
    assert tokenizer.encode(["A b C"])[0].tolist() == letters(9).encode(["a b c"])[0].tolist()
    assert '"Lowercase"' in tokenizer.canonical_json()


# ---- windows


@settings(deadline=None)
@given(
    text=st.lists(st.sampled_from(WORDS), max_size=90).map(" ".join),
    prompt=st.lists(st.sampled_from(WORDS), max_size=5).map("".join),
    limit=st.integers(12, 40),
    frame=st.sampled_from(["[C] $A [S]", "$A [S]", "$A"]),
)
def test_windows_cover_every_token_and_overlap_by_an_eighth(text: str, prompt: str, limit: int, frame: str) -> None:
    tokenizer = letters(limit, frame=frame)
    prompt = " ".join(prompt) + " " if prompt else ""
    (whole,) = tokenizer.encode([prompt + text])
    windows = tokenizer.split_into_windows(whole, prompt)
    front, back = tokenizer.num_leading_special + len(prompt) // 2, tokenizer.num_trailing_special
    bodies = [ids_T[front : len(ids_T) - back].tolist() for ids_T in windows.ids]
    assert all(len(ids_T) <= limit for ids_T in windows.ids)
    for ids_T in windows.ids:
        assert ids_T[:front].tolist() == whole[:front].tolist()
        assert ids_T[len(ids_T) - back :].tolist() == whole[len(whole) - back :].tolist()
    if len(whole) <= limit:
        assert len(windows.ids) == 1
        assert windows.ids[0].tolist() == whole.tolist()
        return
    body = whole[front : len(whole) - back].tolist()
    assert sum(windows.new_token_counts) == len(body)
    assert min(windows.new_token_counts) > 0
    assert [
        token for window, new in zip(bodies, windows.new_token_counts, strict=True) for token in window[-new:]
    ] == body
    for before, after, new in zip(bodies, bodies[1:], windows.new_token_counts[1:], strict=False):
        assert len(before) == limit - front - back
        assert len(after) - new == limit // 8
        assert before[len(before) - limit // 8 :] == after[: limit // 8]


def test_a_prompt_that_merges_with_the_text_is_split_where_they_differ() -> None:
    """A prompt of "ab" and a text of "c": the letters are one word, unknown, and share no token with the prompt."""
    tokenizer = letters(12)
    (whole,) = tokenizer.encode(["ab" + "c " * 30])
    windows = tokenizer.split_into_windows(whole, "b a b")
    assert sum(windows.new_token_counts) == len(whole) - 2
    assert tokenizer.count_prompt_tokens("") == 0
    assert tokenizer.count_prompt_tokens("b a b") == 4


@needs_golden
def test_a_prompt_that_leaves_windows_no_room_is_refused() -> None:
    with pytest.raises(InputError, match=r"64 tokens.*overlap by 8.*prompt"):
        load(GIST).encode(LONG, prompt="word " * 70, on_truncate="mean")
    with pytest.raises(InputError, match="on_truncate 'mean' is not one of warn, error, silent"):
        load(GIST).encode_tokens(LONG, on_truncate="mean")  # pyright: ignore[reportArgumentType]


def reference_mean(name: str, text: str, prompt: str) -> np.ndarray:
    """The mean over windows of one text, from the tokenizer file and token states of one window at a time."""
    encoder, raw = load(name), RawTokenizer.from_file(str(GOLDEN / name / "tokenizer.json"))
    raw.no_truncation()
    raw.no_padding()
    (cls, *ids, sep), prompt_ids = raw.encode(prompt + text).ids, raw.encode(prompt).ids[1:-1]
    same = next((at for at, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids))
    prompt_ids, body = ids[:same], ids[same:]
    limit = encoder.max_seq_length or 0
    size, total, seen = limit - 2 - same, 0.0, 0
    while seen < len(body):
        start = max(0, seen - limit // 8)
        window = body[start : start + size]
        states = encoder.engine.states(pack([np.array([cls, *prompt_ids, *window, sep])])).astype(np.float64)
        pooled = states[0] if encoder.spec.pooling.modes == ("cls",) else states.mean(0)
        new = start + len(window) - seen
        total, seen = total + new * pooled, seen + new
    vector = np.asarray(total / seen)
    if name == STELLA:
        arrays = encoder.checkpoint.arrays
        vector = arrays["2_Dense_1024.weight"].astype(np.float64) @ vector + arrays["2_Dense_1024.bias"]
    return vector / np.linalg.norm(vector) if encoder.spec.normalizes else vector


@pytest.mark.slow
@needs_golden
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", ["", "query: ", S2S])
def test_the_mean_of_windows_equals_the_reference(name: str, prompt: str) -> None:
    texts = ["short", LONG, LONG[:700], LONG + LONG[::-1]]
    result = load(name).encode(texts, prompt=prompt, on_truncate="mean")
    expected = np.stack(
        [load(name).encode("short", prompt=prompt), *(reference_mean(name, text, prompt) for text in texts[1:])]
    )
    errors = np.linalg.norm(result - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert errors.max() <= 1e-5, errors
