"""Texts, ids and prompts of batches against a reference implementation; batches made ahead, and how that ends."""

import subprocess
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_dataset import fake_dataset, numbered
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors

from gnomon.errors import InputError
from gnomon.spec import SYMMETRIC, ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec, TrunkSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.data import collate as collating
from gnomon.train.data.build import open_dataset
from gnomon.train.data.collate import Collator
from gnomon.train.data.sampler import SampledBatch, Sampler, select_negatives
from gnomon.train.prefetch import Prefetcher
from gnomon.train.recipe.schema import DataSource

WORDS = [chr(ord("a") + at) for at in range(26)]
TRUNK = TrunkSpec(vocab_size=28, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8, max_positions=32)
PROMPTS = {"query": "q q ", "passage": "p ", "same": "s s s "}
LIMIT = 8
PLAIN = DataSource(("x.jsonl",))


def tokenizer_of(limit: int | None = LIMIT, *, frame: str = "[C] $A [S]") -> Tokenizer:
    """Words of one letter, ids 2 to 27, special tokens 0 in front and 1 behind."""
    raw = RawTokenizer(models.WordLevel({"[C]": 0, "[S]": 1} | {word: at + 2 for at, word in enumerate(WORDS)}, "a"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("[C]", 0), ("[S]", 1)])
    return Tokenizer(raw, TokenizerSpec(limit))


def spec_of(**options: Any) -> ModelSpec:
    return ModelSpec(TRUNK, PoolingSpec(), (), TokenizerSpec(LIMIT), **options)


def collator_of(index: Any, source: DataSource = PLAIN, spec: ModelSpec | None = None, **options: Any) -> Collator:
    return Collator([index], [source], spec or spec_of(), options.get("tokenizer") or tokenizer_of(), seed=1)


def draw_of(rows: list[int], *, step: int = 5, replaced: int = 0) -> SampledBatch:
    return SampledBatch(step, 0, np.array(rows, np.int64), replaced)


TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@st.composite
def indexes(draw: st.DrawFn) -> Any:
    rows = draw(st.integers(1, 6))
    side = st.lists(TEXTS, min_size=rows, max_size=rows)
    least = draw(st.integers(0, 3))
    if not least:
        return fake_dataset(draw(side), draw(side))
    own = st.lists(TEXTS, min_size=least, max_size=least + draw(st.integers(0, 2)))
    return fake_dataset(draw(side), draw(side), draw(st.lists(own, min_size=rows, max_size=rows)))


# ---- texts and ids


@settings(deadline=None)
@given(index=indexes(), prompted=st.booleans(), at_once=st.integers(1, 5), data=st.data())
def test_a_batch_is_what_a_slow_reference_reads(index: Any, prompted: bool, at_once: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, index.rows - 1), min_size=1, max_size=8))
    spec = spec_of(prompts=PROMPTS) if prompted else spec_of()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collating, "TEXTS_AT_ONCE", at_once)
        found = collator_of(index, DataSource(("x",), num_negatives=index.negatives), spec).collate(draw_of(rows))
    entries_BK = select_negatives(index, np.array(rows), index.negatives, seed=1, batch=5)
    queries, positives = ([index.texts(side, np.array([row]))[0] for row in rows] for side in ("query", "positive"))
    negatives = [index.texts("negative", np.array([entry]))[0] for own in entries_BK.tolist() for entry in own]
    assert (found.rows.queries, found.rows.positives, found.rows.negatives) == (queries, positives, negatives)
    assert found.rows.negatives_per_row == index.negatives
    assert found.rows.rows_B.tolist() == rows
    prompts = ("q q ", "p ") if prompted else ("", "")
    whole = [prompts[0] + text for text in queries] + [prompts[1] + text for text in positives + negatives]
    report = tokenizer_of().tokenize(whole)
    assert [ids_T.tolist() for ids_T in found.ids] == [ids_T.tolist() for ids_T in report.ids]
    assert found.num_truncated == len(report.truncated)
    assert found.prompt_tokens == ((3, 2) if prompted else (0, 0))


def test_hashes_and_facts_go_with_the_rows() -> None:
    index = fake_dataset(["a", "b", "c"], ["d", "e", "f"], [["g"], ["h"], ["i"]], name="letters")
    rows = collator_of(index).read_rows(draw_of([2, 0], replaced=1))
    assert rows.query_hashes_B.tolist() == index.hashes("query")[[2, 0]].tolist()
    assert rows.positive_hashes_B.tolist() == index.hashes("positive")[[2, 0]].tolist()
    assert rows.negative_hashes_N.tolist() == index.hashes("negative")[[2, 0]].tolist()
    assert (rows.batch_number, rows.source, rows.source_name, rows.replaced, rows.total_rows, rows.scores) == (
        5,
        0,
        "letters",
        1,
        2,
        None,
    )


@given(rows=st.integers(1, 30), world=st.integers(1, 4))
def test_ranks_read_their_shares(rows: int, world: int) -> None:
    collator, draw = collator_of(numbered(40)), draw_of([*range(rows)])
    shares = [collator.read_rows(draw, rank, world) for rank in range(world)]
    assert [text for each in shares for text in each.queries] == [f"q{row}" for row in range(rows // world * world)]
    assert {each.total_rows for each in shares} == {rows // world * world}


def test_a_share_without_rows_has_no_texts() -> None:
    found = collator_of(numbered(4)).collate(draw_of([3]), 1, 2)
    assert (found.ids, found.rows.queries, found.rows.total_rows, found.num_truncated) == ([], [], 0, 0)


# ---- prompts


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({}, ("", "")),
        ({"prompts": PROMPTS}, ("q q ", "p ")),
        ({"prompts": {"s2p": "s "}, "query_prompt_names": {"": "s2p"}}, ("s ", "")),
        ({"prompts": {"same": "s "}, "default_prompt_name": "same"}, ("", "")),
    ],
)
def test_prompts_are_the_models_own(options: dict[str, Any], prompts: tuple[str, str]) -> None:
    assert collator_of(numbered(1), spec=spec_of(**options)).prompts == [prompts]


def test_a_source_sets_either_prompt() -> None:
    spec = spec_of(prompts=PROMPTS)
    assert collator_of(numbered(1), DataSource(("x",), query_prompt="z "), spec).prompts == [("z ", "p ")]
    assert collator_of(numbered(1), DataSource(("x",), document_prompt=""), spec).prompts == [("q q ", "")]


def test_graded_pairs_are_texts_of_one_sort() -> None:
    graded = fake_dataset(["a"], ["b"], labels=[0.5])
    spec = spec_of(prompts=PROMPTS, query_prompt_names={SYMMETRIC: "same"})
    assert collator_of(graded, spec=spec).prompts == [("s s s ", "s s s ")]
    assert collator_of(graded, spec=spec_of(prompts=PROMPTS)).prompts == [("", "")]
    assert collator_of(graded, DataSource(("x",), query_prompt="z "), spec).prompts == [("z ", "s s s ")]


# ---- scores


def test_grades_go_with_their_rows() -> None:
    rows = collator_of(fake_dataset(["a", "b"], ["c", "d"], labels=[0.25, 0.75])).read_rows(draw_of([1, 0, 1]))
    assert rows.scores is not None
    assert rows.scores.tolist() == [0.75, 0.25, 0.75]


@pytest.mark.parametrize("number", [None, 1, 2, 3])
def test_a_teachers_scores_go_with_the_negatives_that_are_drawn(number: int | None) -> None:
    negatives = [[f"{row} {at}" for at in range(3)] for row in range(20)]
    scores = [[row, *(row + (at + 1) / 10 for at in range(3))] for row in range(20)]
    index = fake_dataset(["q"] * 20, ["p"] * 20, negatives, scores=scores)
    rows = collator_of(index, DataSource(("x",), num_negatives=number)).read_rows(draw_of([*range(19, -1, -1)]))
    assert rows.scores is not None
    assert rows.scores.shape == (20, 1 + (number or 3))
    assert rows.scores[:, 0].tolist() == [*range(19, -1, -1)]
    for text, score in zip(rows.negatives, rows.scores[:, 1:].reshape(-1).tolist(), strict=True):
        row, at = map(int, text.split())
        assert score == row + (at + 1) / 10


# ---- what cannot be read


def test_a_text_without_tokens_is_named() -> None:
    index = fake_dataset(["a", "b"], ["c", "d"], [["e", "f"], ["g", "\u200b"]], name="letters")
    bare = tokenizer_of(frame="$A")
    bare.raw.pre_tokenizer = pre_tokenizers.Split("\u200b", "removed")  # pyright: ignore
    with pytest.raises(InputError, match=r"^letters\.jsonl, line 2: the text has no tokens"):
        collator_of(index, tokenizer=bare).collate(draw_of([0, 1]))
    static = replace(spec_of(), trunk=StaticSpec(28, 8))
    assert len(collator_of(index, tokenizer=bare, spec=static).collate(draw_of([0, 1])).ids[-1]) == 0


@pytest.mark.parametrize(("text", "line"), [(("z", "b", "c"), 1), (("a", "z", "c"), 1), (("a", "b", "z"), 1)])
def test_a_token_without_a_vector_is_named(text: tuple[str, str, str], line: int) -> None:
    query, positive, negative = text
    index = fake_dataset([query, "a"], [positive, "a"], [[negative], ["a"]], name="letters")
    few = replace(spec_of(), trunk=replace(TRUNK, vocab_size=27))
    with pytest.raises(InputError, match=rf"^letters\.jsonl, line {line}: the text has token 27,.* 27\."):
        collator_of(index, spec=few).collate(draw_of([1, 0]))


# ---- digests


def test_a_digest_tells_batches_rows_and_texts_apart() -> None:
    index = fake_dataset(["a", "a", "b"], ["c", "c", "c"], [["d"], ["e"], ["f"]])
    other = fake_dataset(["a", "a", "b"], ["c", "x", "c"], [["d"], ["e"], ["f"]])
    named = fake_dataset(["a", "a", "b"], ["c", "c", "c"], [["d"], ["e"], ["f"]], name="other")
    drawn = [
        collator_of(index).read_rows(draw_of([0, 1])),
        collator_of(index).read_rows(draw_of([1, 0])),
        collator_of(index).read_rows(draw_of([0, 1], step=6)),
        collator_of(index).read_rows(draw_of([0])),
        collator_of(other).read_rows(draw_of([0, 1])),
        collator_of(named).read_rows(draw_of([0, 1])),
    ]
    assert len({rows.digest for rows in drawn}) == len(drawn)
    assert all(len(rows.digest) == 16 and int(rows.digest, 16) >= 0 for rows in drawn)
    assert collator_of(index).read_rows(draw_of([0, 1], replaced=9)).digest == drawn[0].digest


# ---- on an index on disk


def test_an_index_on_disk_is_read_alike(tmp_path: Path) -> None:
    lines = [
        f'{{"query": "a {word}", "positive": "b {word}", "n": ["c {word}", "d {word}"], "s": [1, 0.5, {at}]}}'
        for at, word in enumerate(WORDS)
    ]
    path = tmp_path / "letters.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    source = DataSource((str(path),), negatives=("n",), num_negatives=1, score="s")
    index = open_dataset(source, tmp_path / "cache", progress=False)
    reference = fake_dataset(
        [f"a {word}" for word in WORDS],
        [f"b {word}" for word in WORDS],
        [[f"c {word}", f"d {word}"] for word in WORDS],
        scores=[[1, 0.5, at] for at in range(26)],
        name="letters",
    )
    found: list[list[Any]] = [[], []]
    for each, digests in zip((index, reference), found, strict=True):
        sampler = Sampler([each], [1], batch_size=8, seed=3, num_held_out=4, group_by_length=True, num_negatives=[1])
        collator = Collator([each], [source], spec_of(), tokenizer_of(), seed=3)
        for batch in range(20):
            rows = collator.read_rows(sampler.batch_at(batch))
            assert rows.scores is not None
            digests.append((rows.digest, rows.negatives, rows.scores.tolist()))
    assert found[0] == found[1]


# ---- ahead


def made_in(batches: Prefetcher[Any]) -> threading.Thread:
    (thread,) = batches._thread._threads
    return thread


def test_batches_come_in_order_and_end() -> None:
    with Prefetcher(lambda number: number * number, 5, 20) as batches:
        assert [*batches] == [number * number for number in range(5, 20)]
        assert [*batches] == []
    with Prefetcher(str, 7, 7) as batches:
        assert [*batches] == []


def test_no_more_are_made_than_may_wait() -> None:
    taken = 0
    begun: list[int] = []

    def make(number: int) -> bool:
        begun.append(number)
        return len(begun) <= taken + 3

    with Prefetcher(make, 0, 10**9, depth=3) as batches:
        for _ in range(50):
            taken += 1
            assert next(batches)


def test_batches_are_made_before_they_are_asked_for() -> None:
    made = threading.Event()
    with Prefetcher(lambda number: made.set() if number == 3 else None, 0, 4):
        assert made.wait(60)


def broken(number: int) -> int:
    if number == 3:
        raise InputError("row 3 is no row")
    return number


def test_an_error_comes_in_its_turn_with_its_traceback_and_is_the_end() -> None:
    taken: list[int] = []
    with Prefetcher(broken, 0, 9) as batches:
        with pytest.raises(InputError, match="row 3 is no row") as caught:
            taken.extend(batches)
        assert [*batches] == []
    assert "broken" in {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_early_ends_the_thread(error: type[BaseException]) -> None:
    with pytest.raises(error), Prefetcher(str, 0, 10**9) as batches:
        next(batches)
        raise error
    assert not made_in(batches).is_alive()
    assert [*batches] == []


def test_closing_twice_is_closing() -> None:
    batches = Prefetcher(str, 0, 10**9)
    batches.close()
    batches.close()
    assert [*batches] == []


INTERRUPTED = """
import os, signal, sys, threading
from gnomon.train.prefetch import Prefetcher

MAIN = threading.main_thread().ident
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

def make(number):
    if number == 5:
        # as Ctrl-C nearly always finds it; Python itself can lose a lock to one that comes while it is taken
        while sys._current_frames()[MAIN].f_code.co_name != "wait":
            pass
        os.kill(os.getpid(), signal.SIGINT)
    return number

try:
    with Prefetcher(make, 0, 10**9) as batches:
        for batch in batches:
            pass
except KeyboardInterrupt:
    print("stopped")
"""

FORGOTTEN = """
from gnomon.train.prefetch import Prefetcher
print(next(Prefetcher(str, 0, 10**9)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("code", "message"), [(INTERRUPTED, "stopped"), (FORGOTTEN, "0")])
def test_a_process_ends_in_any_case(code: str, message: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode, done.stderr) == (message, 0, "")


@pytest.mark.slow
def test_making_batches_needs_no_torch() -> None:
    code = "import sys, gnomon.train.data.collate, gnomon.train.data.mixture; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
