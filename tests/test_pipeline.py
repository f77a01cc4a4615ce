"""Texts in windows: the same vectors as in one, one notice a call, and what becomes of batches that fail.

B: texts; D: width of a vector; T: tokens of one text.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from goldens import GIST, NAMES, STELLA, assert_same, load, require
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from gnomon import Encoder, pipeline, progress
from gnomon.batching import FULL_PADDING, NO_PADDING, PaddingCost, build_batches
from gnomon.encode_options import EncodeOptions
from gnomon.engines.protocol import Engine, Failure, Vectors
from gnomon.engines.static import StaticEngine
from gnomon.errors import InputError, NumericError, TruncationError, TruncationNotice, WorkerError
from gnomon.packed import Ids, Packed, pack, split_per_text
from gnomon.pipeline import EncodePipeline, EncodeRequest
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec
from gnomon.tokenizer import Tokenizer

LONG = "water boils at one hundred degrees, ice melts at none, " * 12
LONGER = "the library opens at nine and closes at five, " * 40
TEXTS = ["The library opens at nine.", "", "quick sort", "Привет, 南瓜 ❤️", "a", " ", "a paragraph " * 12, LONG, LONGER]
CALLS = ("encode", "encode_query", "encode_document", "encode_dims", "encode_tokens")
AT_ONCE = (1, 2, 3, 100)

pytestmark = pytest.mark.filterwarnings("ignore:.* has prompts :gnomon.errors.Notice")
require(whole_module=True)


def in_blocks(count: int, run: Callable[[], Any]) -> Any:
    """Run with blocks of so many texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TEXTS_PER_BLOCK", count)
        return run()


class Spy(Engine):
    """An engine around another: small batches, taken `ahead` of the vectors that are given, some of which fail.

    Args:
        fails: batches that hold a text of one of these ids give a Failure, which counts them.
    """

    def __init__(self, engine: Engine, *, tokens: int = 150, ahead: int = 0, fails: Sequence[Ids] = ()) -> None:
        self.engine, self.tokens, self.ahead = engine, tokens, ahead
        self.name, self.identity, self.padding = engine.name, engine.identity, engine.padding
        self.bad = {tuple(ids_T.tolist()) for ids_T in fails}
        self.batches: list[list[tuple[int, ...]]] = []
        self.asked: list[int] = []
        self.failed: list[list[tuple[int, ...]]] = []

    def budget(self, tokens: int) -> int:
        self.asked.append(tokens)
        return self.tokens

    def pool(self, packed: Packed) -> Vectors:
        self.batches.append([tuple(ids_T.tolist()) for ids_T in split_per_text(packed.ids_T, packed)])  # pyright: ignore
        return self.engine.pool(packed)

    def states(self, packed: Packed) -> Vectors:
        self.batches.append([tuple(ids_T.tolist()) for ids_T in split_per_text(packed.ids_T, packed)])  # pyright: ignore
        return self.engine.states(packed)

    def pool_batches(self, batches: Iterable[Packed]) -> Iterator[Vectors | Failure]:
        waiting: list[Vectors | Failure] = []
        for packed in batches:
            pooled_BD = self.pool(packed)
            failed = self.bad.intersection(self.batches[-1])
            if failed:
                self.failed.append(self.batches[-1])
            waiting.append(Failure("on cuda:7: it burnt") if failed else pooled_BD)
            if len(waiting) > self.ahead:
                yield waiting.pop(0)
        yield from waiting


def over(name: str, **how: Any) -> tuple[Encoder, Spy]:
    """A model over a spy of its own."""
    source = load(name)
    encoder = Encoder.__new__(Encoder)
    vars(encoder).update(vars(source))
    spy = Spy(source.engine, **how)
    encoder._engine = spy
    encoder._pipeline = EncodePipeline(source.spec, source._tokenizer, spy)
    return encoder, spy


# ---- the same vectors


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), [*((name, "onnx") for name in NAMES), (STELLA, "torch"), (GIST, "torch")])
@settings(max_examples=6, deadline=None)
@given(
    texts=st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=60)), min_size=1, max_size=12),
    count=st.integers(1, 4),
)
def test_windows_change_no_vector(name: str, engine: str, texts: list[str], count: int) -> None:
    encoder = load(name, engine)
    for on_truncate in ("silent", "mean"):
        whole = encoder.encode(texts, on_truncate=on_truncate)
        assert_same(in_blocks(count, lambda how=on_truncate: encoder.encode(texts, on_truncate=how)), whole)
    dims = encoder.encode_dims(texts, on_truncate="mean")
    for dim, vectors_BD in in_blocks(count, lambda: encoder.encode_dims(texts, on_truncate="mean")).items():
        assert_same(vectors_BD, dims[dim])
    states = encoder.encode_tokens(texts, on_truncate="silent")
    found = in_blocks(count, lambda: encoder.encode_tokens(texts, on_truncate="silent"))
    assert [len(states_TH) for states_TH in found] == [len(states_TH) for states_TH in states]
    assert_same(np.concatenate(found), np.concatenate(states))


@pytest.mark.parametrize("ahead", [0, 1, 3, 1000])
@pytest.mark.parametrize("count", AT_ONCE)
def test_an_engine_may_take_batches_ahead(count: int, ahead: int) -> None:
    """Vectors find their texts wherever the engine stands, also in another window."""
    encoder, spy = over(GIST, ahead=ahead)
    texts = [*TEXTS, *TEXTS[::-1], LONG[:900], "b"]
    for on_truncate in ("silent", "mean"):
        found = in_blocks(count, lambda how=on_truncate: encoder.encode(texts, on_truncate=how))
        assert_same(found, np.stack([load(GIST).encode(text, on_truncate=on_truncate) for text in texts]))
    assert len(spy.batches) > 2


@pytest.mark.slow
@pytest.mark.parametrize("count", AT_ONCE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_the_mean_of_long_texts_equals_its_slow_reference(name: str, count: int, prompt: str) -> None:
    """Piece by piece: full windows that step on by their size less an eighth of the limit, weighted by new tokens."""
    encoder, tokenizer = load(name), load(name)._tokenizer
    texts = [LONGER, "a", LONG, "", LONGER[3:], LONG]

    def reference(text: str) -> np.ndarray:
        ids_T, limit = tokenizer.encode([prompt + text])[0], encoder.max_seq_length
        assert limit
        front = len(tokenizer.encode([prompt])[0]) - tokenizer.num_trailing_special
        skip_B = [front if prompt and not encoder.spec.pooling.include_prompt else 0]
        if len(ids_T) <= limit:
            return encoder.engine.pool(pack([ids_T], skip_B=skip_B))
        back = ids_T[len(ids_T) - tokenizer.num_trailing_special :]
        inner_T, size = (
            ids_T[front : len(ids_T) - tokenizer.num_trailing_special],
            limit - front - tokenizer.num_trailing_special,
        )
        total, read, start = np.zeros(1), 0, 0
        while read < len(inner_T):
            end = min(start + size, len(inner_T))
            piece_T = np.concatenate([ids_T[:front], inner_T[start:end], back])
            total = total + (end - read) * encoder.engine.pool(pack([piece_T], skip_B=skip_B))[0]
            start, read = start + size - limit // 8, end
        return total[None] / len(inner_T)

    assert any(encoder.tokenize(text).truncated for text in texts)
    wanted = [encoder.make_postprocessor(EncodeOptions())(reference(text).astype(np.float32))[0] for text in texts]
    found = in_blocks(count, lambda: encoder.encode(texts, prompt=prompt, on_truncate="mean"))
    assert_same(found, np.stack(wanted))


@pytest.mark.parametrize("count", AT_ONCE)
def test_every_text_and_every_piece_is_computed_once(count: int) -> None:
    encoder, spy = over(GIST)
    texts = ["a", "a", LONGER, "b", LONGER, "", ""]
    in_blocks(count, lambda: encoder.encode(texts, on_truncate="mean"))
    pieces = [tuple(ids_T.tolist()) for text in dict.fromkeys(texts) for ids_T in _pieces(encoder, text)]
    assert sorted(ids for batch in spy.batches for ids in batch) == sorted(pieces)


def _pieces(encoder: Encoder, text: str) -> list[Ids]:
    return encoder._tokenizer.split_into_windows(encoder._tokenizer.encode([text])[0], "").ids


@pytest.mark.parametrize("count", AT_ONCE)
def test_the_engine_is_told_of_the_whole_work(count: int) -> None:
    """What decides on a budget is the work of the call, told from each block's share; equal texts make it exact."""
    encoder, spy = over(GIST)
    texts = [f"{letter} {letter}" for letter in "abcdefgh"]
    assert len(set(encoder.tokenize(texts).counts)) == 1
    in_blocks(count, lambda: encoder.encode(texts))
    assert spy.asked == [sum(encoder.tokenize(texts).counts)] * len(range(0, len(texts), count))


@pytest.mark.parametrize(("padding", "other"), [(FULL_PADDING, NO_PADDING), (NO_PADDING, FULL_PADDING)])
def test_batches_count_padding_by_its_cost(padding: PaddingCost, other: PaddingCost) -> None:
    encoder, spy = over(GIST, tokens=60)
    spy.padding = padding
    texts = ["word " * count for count in (3, 20, 1, 9, 8, 14, 2, 5, 17)]
    counts = encoder.tokenize(texts).counts
    encoder.encode(texts)
    found = [[len(ids) for ids in batch] for batch in spy.batches]
    assert found == [[counts[at] for at in batch] for batch in build_batches(counts, 60, padding)]
    assert found != [[counts[at] for at in batch] for batch in build_batches(counts, 60, other)]


def test_no_texts_are_no_work() -> None:
    encoder, spy = over(GIST)
    for count in AT_ONCE:
        assert in_blocks(count, lambda: encoder.encode([])).shape == (0, 64)
        assert in_blocks(count, lambda: encoder.encode([], on_truncate="error")).shape == (0, 64)
        assert in_blocks(count, lambda: encoder.encode_tokens([])) == []
    assert spy.batches == []


# ---- long texts: told of once, or refused


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("count", AT_ONCE)
def test_one_notice_a_call_with_counts_over_all_windows(call: str, count: int) -> None:
    texts = ["a", "a", LONG, "b", LONGER, LONG, "c", LONGER, LONG + "!", "d"]
    tokens = load(GIST).tokenize(LONGER).counts[0]
    cut = "5 of 10 texts" if call == "encode_tokens" else "3 of 7 different texts"
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        in_blocks(count, lambda: getattr(load(GIST), call)(texts))
    wanted = (
        f"{cut} are longer than 64 tokens; the longest, text 4, has {tokens:,}: the rest of each was truncated. "
        "(on_truncate='mean' reads all.)"
    )
    assert [str(notice.message) for notice in message] == [wanted]
    assert (message[0].filename, message[0].category) == (__file__, TruncationNotice)
    assert message[0].message.texts == ((2, 4, 5, 7, 8) if call == "encode_tokens" else (2, 4, 8))  # pyright: ignore


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.sampled_from([*TEXTS, LONG[:400], LONGER + "x"]), max_size=12), count=st.integers(1, 5))
def test_the_counts_of_a_notice_are_those_of_the_tokenizer(texts: list[str], count: int) -> None:
    different = list(dict.fromkeys(texts))
    tokens = load(GIST).tokenize(different).counts if different else []
    longer = [number for number in tokens if number > 64]
    words = "texts" if len(different) == len(texts) else "different texts"
    wanted: list[str] = []
    if longer:
        count_of = f"{len(longer)} of {len(different)} {words} are longer than 64 tokens"
        position = texts.index(different[tokens.index(max(longer))])
        wanted.append(f"{count_of}; the longest, text {position}, has {max(longer):,}")
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        in_blocks(count, lambda: load(GIST).encode(texts))
    assert [str(notice.message).partition(": ")[0] for notice in message] == wanted
    cut = [texts.index(text) for text, number in zip(different, tokens, strict=True) if number > 64]
    assert [list(notice.message.texts) for notice in message] == ([cut] if cut else [])  # pyright: ignore
    try:
        in_blocks(count, lambda: load(GIST).encode(texts, on_truncate="error"))
        refused = []
    except TruncationError as error:
        refused = [str(error).partition(". ")[0]]
    assert refused == wanted


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("count", AT_ONCE)
def test_long_texts_are_refused_before_the_engine_has_run(call: str, count: int) -> None:
    encoder, spy = over(GIST)
    texts = ["a", "b", "c", "d", LONG, "e"]
    with pytest.raises(TruncationError) as caught:
        in_blocks(count, lambda: getattr(encoder, call)(texts, on_truncate="error"))
    tokens = encoder.tokenize(LONG).counts[0]
    assert str(caught.value) == (
        f"1 of 6 texts are longer than 64 tokens; the longest, text 4, has {tokens:,}. Shorten them, or let "
        "on_truncate= be 'mean', 'warn' or 'silent'."
    )
    assert (spy.batches, spy.asked) == ([], [])
    in_blocks(count, lambda: getattr(encoder, call)(["a", "b", "c"], on_truncate="error"))
    assert sum(len(batch) for batch in spy.batches) == 3


@pytest.mark.parametrize("on_truncate", ["warn", "error", "silent", "mean"])
@pytest.mark.parametrize("count", AT_ONCE)
def test_a_token_without_a_row_names_its_text(count: int, on_truncate: Any) -> None:
    encoder, spy = over(GIST)
    texts = ["a", "a", "b", "c", "quick sort", "d"]
    rows = int(encoder.tokenize("quick sort").ids[0][1:-1].max())
    assert rows > max(encoder.tokenize("a b c d").ids[0])
    short = replace(encoder.spec, trunk=replace(encoder.spec.trunk, vocab_size=rows))
    encoder._pipeline = EncodePipeline(short, encoder._tokenizer, spy)
    message = f"text 4 has token {rows}, and the model has vectors for {rows}; the tokenizer was given tokens"
    with pytest.raises(InputError, match=message):
        in_blocks(count, lambda: encoder.encode(texts, on_truncate=on_truncate))
    with pytest.raises(InputError, match=message):
        in_blocks(count, lambda: encoder.encode_tokens(texts))
    assert len(in_blocks(count, lambda: encoder.encode(texts[:4], on_truncate=on_truncate))) == 4


@pytest.mark.parametrize("count", AT_ONCE)
def test_a_vector_that_is_not_finite_names_its_text(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, spy = over(GIST)
    bad = encoder.tokenize("quick sort").ids[0].tolist()

    def damaged(packed: Packed) -> Vectors:
        pooled_BD = load(GIST).engine.pool(packed)
        pooled_BD[[ids_T.tolist() == bad for ids_T in split_per_text(packed.ids_T, packed)]] = np.nan  # pyright: ignore
        return pooled_BD

    monkeypatch.setattr(spy, "pool_batches", lambda batches: (damaged(packed) for packed in batches))
    with pytest.raises(NumericError, match="text 3 gives NaN or infinity"):
        in_blocks(count, lambda: encoder.encode(["a", "a", "b", "quick sort", "c"]))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gnomon-reading")]


# ---- batches that fail


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("count", AT_ONCE)
@pytest.mark.parametrize("on_truncate", ["silent", "mean"])
def test_a_failed_batch_costs_its_own_texts_alone(count: int, ahead: int, on_truncate: Any) -> None:
    texts = ["a", LONGER, "quick sort", "", "the library " * 9, "b", LONG, "c d", "e"]
    bad = [load(GIST).tokenize(text).ids[0] for text in ("quick sort", LONG)]
    encoder, spy = over(GIST, tokens=70, ahead=ahead, fails=bad)
    with pytest.raises(WorkerError) as caught:
        in_blocks(count, lambda: encoder.encode(texts, on_truncate=on_truncate))
    burnt = {ids for batch in spy.failed for ids in batch}
    reads = [[encoder.tokenize(text).ids[0]] if on_truncate == "silent" else _pieces(encoder, text) for text in texts]
    lost = [at for at, pieces in enumerate(reads) if burnt.intersection(tuple(ids.tolist()) for ids in pieces)]
    assert {2, 6} - {6 if on_truncate == "mean" else None} <= set(lost) < set(range(len(texts)))
    error = caught.value
    assert error.texts == lost
    assert error.vectors is not None
    assert np.isnan(error.vectors[lost]).all()
    kept = [at for at in range(len(texts)) if at not in lost]
    wanted = np.stack([load(GIST).encode(texts[at], on_truncate=on_truncate) for at in kept])
    assert_same(error.vectors[kept], wanted)
    assert str(error).startswith(f"{len(lost)} of {len(texts)} texts have no vectors: on cuda:7: it burnt (texts ")
    assert str(error).endswith(". All others were encoded.")


def test_a_failure_of_several_widths_keeps_no_vectors() -> None:
    encoder, _ = over(STELLA, fails=[load(STELLA).tokenize("b").ids[0]])
    with pytest.raises(WorkerError) as caught:
        in_blocks(1, lambda: encoder.encode_dims(["a", "b", "c"]))
    assert (caught.value.texts, caught.value.vectors) == ([1], None)
    assert str(caught.value) == (
        "1 of 3 texts have no vectors: on cuda:7: it burnt (texts 1). All others were encoded."
    )


def test_failures_are_told_each_with_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, spy = over(GIST)
    whys = iter([None, "on cuda:0: one", "on cuda:1: two", *["on cuda:0: one"] * 9, None])

    def each(batches: Iterable[Packed]) -> Iterator[Vectors | Failure]:
        for packed, why in zip(batches, whys, strict=True):
            yield spy.pool(packed) if why is None else Failure(why)

    monkeypatch.setattr(spy, "pool_batches", each)
    with pytest.raises(WorkerError) as caught:
        in_blocks(1, lambda: encoder.encode(list("abcdefghijklm")))
    assert caught.value.texts == list(range(1, 12))
    assert str(caught.value).startswith(
        "11 of 13 texts have no vectors: on cuda:0: one (texts 1, 3, 4, 5, 6, 7, 8, 9 and 2 more); on cuda:1: two "
        "(texts 2). "
    )


@pytest.mark.parametrize("count", AT_ONCE)
def test_copies_of_a_failed_text_have_no_vector_either(count: int) -> None:
    texts = ["b", "quick sort", "a", "quick sort", "b", "quick sort"]
    encoder, spy = over(GIST, tokens=1, fails=[load(GIST).tokenize("quick sort").ids[0]])
    with pytest.raises(WorkerError) as caught:
        in_blocks(count, lambda: encoder.encode(texts))
    assert caught.value.vectors is not None
    assert np.isnan(caught.value.vectors).all(axis=1).tolist() == [text == "quick sort" for text in texts]
    assert_same(caught.value.vectors[[0, 2, 4]], load(GIST).encode([texts[at] for at in (0, 2, 4)]))
    assert len(spy.failed) == 1


def test_copies_of_a_failed_text_are_among_the_lost() -> None:
    texts = ["b", "quick sort", "a", "quick sort", "b", "quick sort"]
    encoder, _ = over(GIST, tokens=1, fails=[load(GIST).tokenize("quick sort").ids[0]])
    with pytest.raises(WorkerError) as caught:
        encoder.encode(texts)
    assert caught.value.texts == [1, 3, 5]
    assert str(caught.value).startswith("3 of 6 texts have no vectors: on cuda:7: it burnt (texts 1, 3, 5).")


def test_a_text_that_fails_in_several_pieces_is_told_of_once() -> None:
    texts = ["a", LONGER, "b"]
    encoder, _ = over(GIST, tokens=1, fails=_pieces(load(GIST), LONGER))
    with pytest.raises(WorkerError, match=r": it burnt \(texts 1\)\."):
        encoder.encode(texts, on_truncate="mean")


# ---- progress


class FakeBar:
    made: list["FakeBar"]

    def __init__(self, **how: Any) -> None:
        self.how, self.steps, self.closed = how, [], False
        self.made.append(self)

    def __enter__(self) -> "FakeBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def update(self, count: float) -> None:
        self.steps.append(count)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    made: list[FakeBar] = []
    monkeypatch.setattr(FakeBar, "made", made, raising=False)
    monkeypatch.setattr("tqdm.tqdm", FakeBar)
    return made


@pytest.mark.parametrize("count", AT_ONCE)
@pytest.mark.parametrize(
    ("call", "how", "total"),
    [
        ("encode", {"on_truncate": "silent"}, 9),
        ("encode", {"on_truncate": "mean"}, 9),
        ("encode_dims", {"on_truncate": "mean"}, 9),
        ("encode_tokens", {"on_truncate": "silent"}, 12),
    ],
)
def test_progress_adds_up_to_the_texts(call: str, how: Any, total: int, count: int, bars: list[FakeBar]) -> None:
    encoder, spy = over(GIST)
    in_blocks(count, lambda: getattr(encoder, call)([*TEXTS, *TEXTS[:3]], show_progress_bar=True, **how))
    (bar,) = bars
    assert (bar.how["total"], bar.how["delay"], bar.how["leave"], bar.closed) == (total, 0, True, True)
    assert sum(bar.steps) == pytest.approx(total)
    assert len(bar.steps) == len(spy.batches)
    assert min(bar.steps) > 0


def test_progress_counts_failed_batches_too(bars: list[FakeBar]) -> None:
    encoder, _ = over(GIST, fails=[load(GIST).tokenize("b").ids[0]])
    with pytest.raises(WorkerError):
        in_blocks(1, lambda: encoder.encode(["a", "b", "c"], show_progress_bar=True))
    assert bars[0].steps == [1, 1, 1]
    assert bars[0].closed


def test_a_bar_is_shown_in_a_terminal_after_a_while(bars: list[FakeBar], monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (True, False):
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda it=is_terminal: it)))
        for show in (None, False):
            load(GIST).encode("a", show_progress_bar=show)
    assert [(bar.how["delay"], bar.how["leave"]) for bar in bars] == [(progress.DELAY, False)]


def static(words: str, limit: int | None = None) -> EncodePipeline:
    """A static table over words, which adds no tokens of its own."""
    raw = RawTokenizer(WordLevel({word: at for at, word in enumerate(words.split())}))
    raw.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    spec = ModelSpec(StaticSpec(4, 2), PoolingSpec(), (), TokenizerSpec(limit, special_tokens=False))
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    return EncodePipeline(spec, Tokenizer(raw, spec.tokenizer), StaticEngine(StaticSpec(4, 2), {"embed.tokens": table}))


def test_a_notice_names_texts_of_all_blocks() -> None:
    """Of blocks of their real size; positions are the caller's, who gave some texts twice."""
    stream_of = static("a b c", limit=2)
    count = 2 * pipeline.TEXTS_PER_BLOCK + 5
    texts = ["a b c" if at % 1000 == 7 or at > count - 3 else "a" for at in range(count)]
    request = EncodeRequest(texts, range(10, 10 + 3 * count, 3), 5 * count, "", "warn", False)
    with pytest.warns(TruncationNotice) as message:
        counts_B = np.zeros(count, np.int64)
        assert sum(len(batch) for batch, _ in stream_of.iter_pooled(request, counts_B)) == count
        stream_of.warn_of_truncation(request, counts_B)
    assert counts_B.tolist() == [3 if text != "a" else 1 for text in texts]
    assert len(message) == 1
    assert message[0].message.texts == tuple(10 + 3 * at for at, text in enumerate(texts) if text != "a")  # pyright: ignore


def test_progress_counts_texts_without_tokens(bars: list[FakeBar]) -> None:
    request = EncodeRequest([""], [0], 1, "", "silent", True)
    assert [texts for texts, _ in static("a b").iter_pooled(request, np.zeros(1, np.int64))] == [[0]]
    assert sum(bars[0].steps) == 1


def test_counts_and_truncated_positions_of_equal_texts() -> None:
    """What `encode_with_counts` gives beside the vectors, for every position, as `tokenize` would tell it."""
    encoder = load(GIST)
    texts = ["word " * 200, "a", "word " * 200, "", "a b"]
    encoded = encoder.encode_with_counts(texts, EncodeOptions(on_truncate="silent"))
    report = encoder.tokenize(texts)
    assert encoded.token_counts_B.tolist() == report.counts
    assert encoded.truncated == report.truncated == [0, 2]
    np.testing.assert_array_equal(encoded.vectors, encoder.encode(texts, on_truncate="silent"))
    assert encoder.encode_with_counts(texts, EncodeOptions(on_truncate="mean")).truncated == []


# ---- reading ahead


def reading(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, seen: Callable[[list[str]], None]) -> None:
    """Call `seen` with the texts of each reading."""
    ids = encoder._tokenizer.encode

    def read(texts: Sequence[str]) -> list[Ids]:
        seen(list(texts))
        return ids(texts)

    monkeypatch.setattr(encoder._tokenizer, "encode", read)


@pytest.mark.parametrize("call", ["encode", "encode_tokens"])
def test_a_window_is_read_while_the_one_before_is_worked_on(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine refuses to work on a window until the next one is being read, which thus is done elsewhere."""
    encoder, spy = over(GIST)
    reads: dict[str, str] = {}
    begun = {text: threading.Event() for text in "abcd"}

    def seen(texts: list[str]) -> None:
        reads[texts[0]] = threading.current_thread().name
        begun[texts[0]].set()

    reading(encoder, monkeypatch, seen)
    waited: list[bool] = []
    highest: list[int] = []
    whole = getattr(load(GIST), call)(list("abcd"))

    def work(packed: Packed) -> Vectors:
        at = len(waited)
        waited.append(at == 3 or begun["abcd"[at + 1]].wait(20))
        highest.append(max(at for at, text in enumerate("abcd") if begun[text].is_set()))
        return Spy.states(spy, packed) if call == "encode_tokens" else load(GIST).engine.pool(packed)

    monkeypatch.setattr(spy, "pool", work)
    monkeypatch.setattr(spy, "states", work)
    monkeypatch.setattr(spy, "pool_batches", lambda batches: (work(packed) for packed in batches))
    found = in_blocks(1, lambda: getattr(encoder, call)(list("abcd")))
    assert waited == [True] * 4
    assert highest == [1, 2, 3, 3], "more than one window was read ahead"
    assert {name.rpartition("_")[0] for name in reads.values()} == {"gnomon-reading"}
    assert threading.current_thread().name not in reads.values()
    assert_same(np.concatenate(list(map(np.atleast_2d, found))), np.concatenate(list(map(np.atleast_2d, whole))))


def test_one_window_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = over(GIST)
    threads: list[str] = []
    reading(encoder, monkeypatch, lambda texts: threads.append(threading.current_thread().name))
    encoder.encode(["a", "b"])
    assert threads == [threading.current_thread().name]


@pytest.mark.parametrize("bad", [0, 1, 3])
@pytest.mark.parametrize("on_truncate", ["warn", "error"])
def test_an_error_of_the_reading_thread_reaches_the_caller(
    bad: int, on_truncate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, spy = over(GIST)

    def seen(texts: list[str]) -> None:
        if texts == ["abcd"[bad]]:
            raise KeyError("not in the vocabulary")

    reading(encoder, monkeypatch, seen)
    with pytest.raises(KeyError, match="not in the vocabulary"):
        in_blocks(1, lambda: encoder.encode(list("abcd"), on_truncate=on_truncate))
    # a window waits until the next is read, since it is asked for no earlier than it is needed
    assert len(spy.batches) == (0 if on_truncate == "error" else bad)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gnomon-reading")]
