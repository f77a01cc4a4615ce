"""An `Encoder` as mteb wants one: what reaches the tokenizer, what comes back, and that nothing is computed twice.

N: texts; D: width of a vector.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import DISTILBERT, E5, GIST, GOLDEN, GTE, NAMES, STELLA, assert_same, load, require
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon import Encoder, modules
from gnomon.errors import InputError, Notice
from gnomon.evaluate.cache import VectorCache
from gnomon.evaluate.mteb import encoder as adapting
from gnomon.evaluate.mteb.encoder import MtebEncoder, _split_chunks, quantize_and_restore
from gnomon.evaluate.options import EvaluationOptions, Precision, curve_points
from gnomon.packed import Ids
from gnomon.quantization import quantize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of mteb, sklearn and datasets; our own are asked for by name
]
require(whole_module=True)
mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")
mocks = pytest.importorskip("mteb.mocks.mock_tasks")
torch = pytest.importorskip("torch")

from mteb.models.models_protocols import EncoderProtocol, SearchProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

S2P = "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
S2S = "Instruct: Retrieve semantically similar text.\nQuery: "
CARDS = {
    STELLA: (S2P, "", S2S),
    E5: ("query: ", "passage: ", "query: "),
    GTE: ("", "", ""),
    GIST: ("", "", ""),
    DISTILBERT: ("", "", ""),
}
TEXTS = ["The library opens at nine.", "", "quick sort", "Привет, 南瓜 ❤️", "a", "quick sort", "a paragraph " * 12]
LONG = "water boils at one hundred degrees, ice melts at none, " * 12
SIDES = {"query": PromptType.query, "document": PromptType.document, None: None}
Copy = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """mteb repeats itself ten times, over samples of 16,384 texts; twice, over 64, is enough for two texts."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(mteb.abstasks.AbsTaskClustering, "max_documents_per_cluster", 64)
    for kind in ("Classification", "MultilabelClassification", "Regression"):
        monkeypatch.setattr(getattr(mteb.abstasks, f"AbsTask{kind}"), "n_experiments", 2)


def ask(adapter: MtebEncoder, texts: Sequence[str], side: str | None = None, batch: int = 3, **more: Any) -> np.ndarray:
    """As mteb does: batches of dicts, of a retrieval task or, without a side, of STS."""
    task = mocks.MockSTSTask if side is None else mocks.MockRetrievalTask
    batches = [{"text": list(texts[at : at + batch])} for at in range(0, len(texts), batch)]
    said = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "prompt_type": SIDES[side]}
    return adapter.encode(batches, **said, **more)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Encoder], list[str]]:
    """The texts that reach a model's tokenizer, from now on."""

    def spy(encoder: Encoder) -> list[str]:
        seen: list[str] = []
        ids = encoder._tokenizer.encode

        def reading(texts: Sequence[str]) -> list[Ids]:
            seen.extend(texts)
            return ids(texts)

        monkeypatch.setattr(encoder._tokenizer, "encode", reading)
        return seen

    return spy


# ---- mteb's contract


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_protocol(name: str) -> None:
    adapter, encoder = MtebEncoder(load(name)), load(name)
    assert isinstance(adapter, EncoderProtocol)
    assert not isinstance(adapter, SearchProtocol)  # else mteb would hand it a corpus
    meta = adapter.mteb_model_meta
    assert (meta.name, meta.revision) == (encoder.name, encoder.fingerprint[:12])
    assert (meta.max_tokens, meta.embed_dim) == (encoder.max_seq_length, encoder.spec.dim)
    assert meta.similarity_fn_name == "cosine"
    assert meta.modalities == ["text"]


MOCKED = {task.metadata.name: task.metadata for task in mteb.mocks.ALL_MOCK_TASK_TEST_GRID}


def test_mtebs_own_mock_tasks_run_to_the_end() -> None:
    """All of text, of every kind and in several languages; those of images, sound or video are not for this model."""
    found = dict(mteb.mock_run(MtebEncoder(load(E5))).items())
    assert {name: str(result.exception) for name, result in found.items() if hasattr(result, "exception")} == {}
    ran = {name for name, result in found.items() if result is not None}
    assert ran == {name for name, metadata in MOCKED.items() if metadata.modalities == ["text"]}
    assert len(ran) == 28
    for name in found.keys() - ran:
        assert {"image", "audio", "video"} & set(MOCKED[name].modalities)
    for name in ran:
        for split in found[name].scores.values():
            assert all(np.isfinite(row["main_score"]) for row in split), name


DOCUMENTS = {"Title of d1 This is a positive sentence", "Title of d2 This is another positive sentence"}
QUERIES = {"This is a test sentence", "This is another test sentence"}
INSTRUCTED = {
    "This is a test sentence This is a test instruction",
    "This is another test sentence This is another test instruction",
}
DIALOGS = {
    "user: What is the weather like today?",
    "user: What is the capital of France?; assistant: The capital of France is Paris.",
}
SEARCHES = {
    "MockRetrievalTask": QUERIES,
    "MockRerankingTask": QUERIES,
    "MockInstructionRetrieval": INSTRUCTED,
    "MockInstructionReranking": INSTRUCTED,
    "MockRetrievalDialogTask": DIALOGS,
}
TWO = {"This is a test sentence", "This is another test sentence"}
DANISH = {"dette er en test sætning", "denne her matche ikke den ovenstående"}
SYMMETRIC = {
    "MockSTSTask": TWO | DANISH,
    "MockPairClassificationTask": TWO | DANISH,
    "MockClassificationTask": TWO | {"This is another train sentence"},
    "MockMultilabelClassification": TWO | {"This is another train sentence"},
    "MockRegressionTask": TWO | {"This is another train sentence"},
    "MockClusteringTask": {"This is a test sentence", "This is another test sentence", "This is a third test sentence"},
    "MockBitextMiningTask": TWO | DANISH,
    "MockSummarizationTask": {f"This is {which} summary" for which in ("a", "another", "a machine", "another machine")},
    "MockTextZeroShotClassification": TWO,
}
"""A task of each kind -> its different texts."""


def run(adapter: MtebEncoder, name: str) -> Any:
    task = mteb.mocks.ALL_MOCK_TASK_REGISTRY[name]()
    return mteb.evaluate(adapter, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results[0]


def test_a_task_of_every_kind_is_run_below() -> None:
    kinds = {metadata.type for metadata in MOCKED.values() if metadata.modalities == ["text"]}
    assert {MOCKED[name].type for name in [*SEARCHES, *SYMMETRIC]} == kinds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", SEARCHES)
def test_queries_and_documents_reach_the_tokenizer_with_their_prompts(
    name: str, task: str, read: Callable[[Encoder], list[str]]
) -> None:
    """Titles joined, instructions behind the query, conversations in one line; the prompt in front of all."""
    queries, documents, _ = CARDS[name]
    seen, adapter = read(load(name)), MtebEncoder(load(name))
    run(adapter, task)
    assert set(seen) == {queries + text for text in SEARCHES[task]} | {documents + text for text in DOCUMENTS}
    assert len(seen) == 4
    used = {of: prompt.text for of, prompt in adapter.counters.prompts.items()}
    assert used == {"queries": queries, "documents": documents}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", SYMMETRIC)
def test_texts_of_symmetric_tasks_reach_the_tokenizer_with_one_prompt(
    name: str, task: str, read: Callable[[Encoder], list[str]]
) -> None:
    prompt = CARDS[name][2]
    seen, adapter = read(load(name)), MtebEncoder(load(name))
    run(adapter, task)
    assert sorted(seen) == sorted(prompt + text for text in SYMMETRIC[task])
    assert {of: used.text for of, used in adapter.counters.prompts.items()} == {"texts": prompt}


# ---- texts in, vectors out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_vectors_are_those_of_one_text_at_a_time(name: str, side: str | None, batch: int) -> None:
    prompt = CARDS[name][list(SIDES).index(side)]
    found_ND = ask(MtebEncoder(load(name)), [*TEXTS, LONG], side, batch)
    assert found_ND.dtype == np.float32
    slow = [load(name).encode(text, prompt=prompt, on_truncate="silent") for text in [*TEXTS, LONG]]
    assert_same(found_ND, np.stack(slow))
    assert np.array_equal(found_ND[2], found_ND[5])


def test_what_else_is_in_a_batch_changes_nothing() -> None:
    adapter = MtebEncoder(load(GIST))
    plain = ask(adapter, TEXTS, "document")
    batches = [{"text": TEXTS, "title": ["t"] * 7, "body": ["b"] * 7, "id": list("abcdefg")}]
    said: dict[str, Any] = {"task_metadata": mocks.MockRetrievalTask.metadata, "hf_split": "dev", "hf_subset": "fra"}
    for more in ({}, {"batch_size": 2}, {"show_progress_bar": False}):
        found = adapter.encode(batches, **said, prompt_type=PromptType.document, **more)  # pyright: ignore
        assert np.array_equal(found, plain)


@pytest.mark.parametrize("batches", [[], [{"text": []}]])
def test_no_texts_are_no_vectors(batches: Any) -> None:
    for precision in ("float32", "float16", "int8", "binary", "binary-rescored"):
        adapter = MtebEncoder(load(STELLA), EvaluationOptions(precision=precision, truncate_dim=64))
        found = adapter.encode(batches, task_metadata=mocks.MockSTSTask.metadata, hf_split="t", hf_subset="s")
        assert found.shape == (0, 64)
        assert adapter.counters.num_texts == adapter.counters.num_encoded == adapter.counters.num_truncated == 0


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    adapter = MtebEncoder(load(GIST), cache=VectorCache(tmp_path))
    with pytest.raises(InputError, match=r"text 1 .*surrogate"):
        ask(adapter, ["a", "b\ud800"])
    assert_same(ask(adapter, ["a", "b"]), load(GIST).encode(["a", "b"]))


def test_a_prompt_longer_than_the_model_reads_leaves_nothing_of_the_text() -> None:
    options = EvaluationOptions(prompts={"STS": "read this with care " * 40})
    adapter = MtebEncoder(load(GIST), options)
    found_ND = ask(adapter, ["a", "b", "a"])
    assert np.array_equal(found_ND[0], found_ND[1])
    assert (adapter.counters.num_texts, adapter.counters.num_truncated) == (3, 3)


# ---- long texts


@pytest.mark.parametrize("name", NAMES)
def test_truncated_texts_are_counted_each_time_they_are_given(name: str, tmp_path: Path) -> None:
    texts = ["a", LONG, "b", LONG + "!", LONG, "c"]
    encoder = load(name).with_max_seq_length(64)
    for run_of in range(2):
        adapter = MtebEncoder(encoder, cache=VectorCache(tmp_path))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found_ND = ask(adapter, texts)
        assert (adapter.counters.num_texts, adapter.counters.num_encoded, adapter.counters.num_truncated) == (
            6,
            0 if run_of else 5,
            3,
        )
        assert_same(found_ND, encoder.encode(texts, prompt=CARDS[name][2], on_truncate="silent"))
        adapter.cache.close()


def test_long_texts_may_be_read_in_windows(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    ask(MtebEncoder(load(GIST), cache=cache), [LONG, "a"])
    adapter = MtebEncoder(load(GIST), EvaluationOptions(on_truncate="mean"), cache=cache)
    assert_same(ask(adapter, [LONG, "a"]), load(GIST).encode([LONG, "a"], on_truncate="mean"))
    assert (adapter.counters.num_encoded, adapter.counters.num_truncated) == (2, 0)
    cache.close()


def test_other_notices_of_the_model_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = load(GIST).encode_with_counts

    def warning(texts: Any, *args: Any, **options: Any) -> Any:
        warnings.warn("the fan is loud", Notice, stacklevel=2)
        return encode(texts, *args, **options)

    adapter = MtebEncoder(load(GIST))
    monkeypatch.setattr(load(GIST), "encode_with_counts", warning)
    with pytest.warns(Notice) as warned:
        ask(adapter, ["a", LONG])
    assert [str(each.message) for each in warned] == ["the fan is loud"]
    assert adapter.counters.num_truncated == 1


# ---- every text once


def test_a_second_task_takes_what_it_shares(read: Callable[[Encoder], list[str]], tmp_path: Path) -> None:
    cache, seen = VectorCache(tmp_path), read(load(E5))
    first, second = MtebEncoder(load(E5), cache=cache), MtebEncoder(load(E5), cache=cache)
    run(first, "MockRetrievalTask")  # two splits of the same texts
    assert (first.counters.num_texts, first.counters.num_encoded, first.counters.num_cached) == (8, 4, 4)
    run(second, "MockInstructionReranking")  # the same documents, other queries
    assert (second.counters.num_texts, second.counters.num_encoded, second.counters.num_cached) == (4, 2, 2)
    run(second, "MockSTSTask")  # "query: " in front of texts two of which were queries
    assert second.counters.num_encoded == 4
    assert len(seen) == len(set(seen)) == 8
    cache.close()


def test_another_start_takes_what_the_disk_has(read: Callable[[Encoder], list[str]], tmp_path: Path) -> None:
    found: list[np.ndarray] = []
    seen = read(load(STELLA))
    for _ in range(3):
        cache = VectorCache(tmp_path)
        found += [ask(MtebEncoder(load(STELLA), cache=cache), TEXTS)]
        cache.close()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert len(seen) == 6


@pytest.mark.parametrize(
    "other",
    [
        EvaluationOptions(prompts={"STS": "other: "}),
        EvaluationOptions(max_seq_length=32),
        EvaluationOptions(on_truncate="mean"),
        EvaluationOptions(dim=256),
    ],
)
def test_what_changes_vectors_has_a_partition_of_its_own(other: EvaluationOptions, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    ask(MtebEncoder(load(STELLA), cache=cache), [*TEXTS, LONG])
    adapter = MtebEncoder(load(STELLA), other, cache=cache)
    found_ND = ask(adapter, [*TEXTS, LONG])
    assert adapter.counters.num_encoded == 7
    encoder = load(STELLA) if other.max_seq_length is None else load(STELLA).with_max_seq_length(other.max_seq_length)
    slow = encoder.encode(
        [*TEXTS, LONG],
        prompt=other.prompts.get("STS", S2S),
        dim=other.dim,
        on_truncate="mean" if other.on_truncate == "mean" else "silent",
    )
    assert_same(found_ND, slow)
    cache.close()


def test_another_engine_or_model_does_not_take_these_vectors(tmp_path: Path, golden_copy: Copy) -> None:
    cache = VectorCache(tmp_path / "vectors")
    for encoder in (load(GIST), load(GIST, "torch"), load(E5), load(DISTILBERT)):
        for num_encoded in (6, 0):
            adapter = MtebEncoder(encoder, cache=cache)
            ask(adapter, TEXTS)
            assert adapter.counters.num_encoded == num_encoded
    # another score function gives the same vectors
    other = golden_copy(GIST, to="other")
    config = json.loads((other / "config_sentence_transformers.json").read_text())
    (other / "config_sentence_transformers.json").write_text(json.dumps(config | {"similarity_fn_name": "dot"}))
    adapter = MtebEncoder(Encoder.load(other, threads=1), cache=cache)
    ask(adapter, TEXTS)
    assert adapter.counters.num_encoded == 0
    cache.close()


def test_adapters_share_a_cache_whatever_they_make_of_it(read: Callable[[Encoder], list[str]]) -> None:
    cache, seen = VectorCache(None), read(load(STELLA))
    option_sets = [EvaluationOptions(truncate_dim=dim) for dim in (8, 100, 1024)]
    option_sets += [
        EvaluationOptions(precision=precision) for precision in ("float16", "int8", "binary", "binary-rescored")
    ]
    for options in [EvaluationOptions(), *option_sets]:
        ask(MtebEncoder(load(STELLA), options, cache=cache), TEXTS)
    assert len(seen) == 6


@given(sizes=st.lists(st.integers(0, 30)), limit=st.integers(1, 40))
def test_chunks_end_as_soon_as_they_are_full(sizes: list[int], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapting, "CHUNK_CHARS", limit)
        texts = ["x" * size for size in sizes]
        chunks = list(_split_chunks(texts))
    assert [text for chunk in chunks for text in chunk] == texts
    assert all(chunks)
    assert all(sum(map(len, chunk[:-1])) < limit for chunk in chunks)
    assert all(sum(map(len, chunk)) >= limit for chunk in chunks[:-1])


def test_a_run_that_goes_on_gets_the_same_vectors_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third chunk: the chunks that are left are those of a run that was not stopped."""
    monkeypatch.setattr(adapting, "CHUNK_CHARS", 60)
    texts = [f"{'the library ' * (number % 7)}opens at {number}" for number in range(60)]
    whole = ask(MtebEncoder(load(GTE), cache=VectorCache(None)), texts)
    encode, calls = load(GTE).encode_with_counts, list[int]()

    def stopping(texts: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(texts, *args, **options)

    cache = VectorCache(tmp_path)
    adapter = MtebEncoder(load(GTE), cache=cache)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(load(GTE), "encode_with_counts", stopping)
        ask(adapter, texts)
    cache.close()
    again = MtebEncoder(load(GTE), cache=VectorCache(tmp_path))
    assert np.array_equal(ask(again, texts), whole)
    assert again.counters.num_encoded == 60 - sum(calls[:3])
    again.cache.close()


# ---- widths


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 10, 33])
def test_a_prefix_of_kept_vectors_equals_that_of_the_encoder(
    name: str, dim: int, read: Callable[[Encoder], list[str]]
) -> None:
    cache = VectorCache(None)
    ask(MtebEncoder(load(name), cache=cache), TEXTS)
    adapter, seen = MtebEncoder(load(name), EvaluationOptions(truncate_dim=dim), cache=cache), read(load(name))
    found_ND = ask(adapter, TEXTS)
    assert seen == []
    assert adapter.dim == dim == adapter.mteb_model_meta.embed_dim
    assert_same(found_ND, load(name).encode(TEXTS, prompt=CARDS[name][2], truncate_dim=dim), 1e-6)


@pytest.mark.parametrize(
    "options", [EvaluationOptions(dim=256), EvaluationOptions(dim=512, truncate_dim=100), EvaluationOptions(dim=1024)]
)
def test_heads_of_stella(options: EvaluationOptions) -> None:
    adapter = MtebEncoder(load(STELLA), options)
    expected = load(STELLA).encode(TEXTS, prompt=S2S, dim=options.dim, truncate_dim=options.truncate_dim)
    assert_same(ask(adapter, TEXTS), expected, 1e-6)
    assert adapter.dim == expected.shape[1]


def test_all_heads_are_computed_in_one_pass_a_chunk(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Encoder], list[str]]
) -> None:
    monkeypatch.setattr(adapting, "CHUNK_CHARS", 40)
    calls: list[tuple[int, list[int]]] = []
    encode_dims = load(STELLA).encode_dims_with_counts

    def counting(texts: Any, dims: Any, *args: Any, **options: Any) -> Any:
        calls.append((len(texts), dims))
        return encode_dims(texts, dims, *args, **options)

    texts = [f"the library opens at {number}" for number in range(10)]
    expected = load(STELLA).encode_dims(texts, prompt=S2S)
    monkeypatch.setattr(load(STELLA), "encode_dims_with_counts", counting)
    seen, cache = read(load(STELLA)), VectorCache(None)
    for options in (
        EvaluationOptions(),
        EvaluationOptions(dim=256),
        EvaluationOptions(dim=512),
        EvaluationOptions(dim=512, truncate_dim=8),
    ):
        adapter = MtebEncoder(load(STELLA), options, cache=cache, dims=(256, 512))
        assert_same(ask(adapter, texts), expected[options.dim or 1024][:, : options.truncate_dim], 1e-6)
        assert adapter.counters.num_encoded == (0 if options.dim else 10)
    assert calls == [(2, [256, 512, 1024])] * 5
    assert len(seen) == 10


@pytest.mark.parametrize(
    "options",
    [
        EvaluationOptions(),
        EvaluationOptions(truncate_dim=48),
        EvaluationOptions(dim=16),
        EvaluationOptions(dim=64),
        EvaluationOptions(dim=32),
    ],
)
def test_a_dim_that_the_folder_names(
    options: EvaluationOptions, golden_copy: Copy, edit_json: Callable[..., Any]
) -> None:
    """32 of 64: prefixes of it are cut from it, wider ones from the whole."""
    folder = golden_copy(GIST)
    edit_json(folder / "config_sentence_transformers.json", {"matryoshka_dims": [16, 32], "truncate_dim": 32})
    encoder = Encoder.load(folder, threads=1)
    adapter = MtebEncoder(encoder, options, dims=(16, 64))
    expected = encoder.encode(TEXTS, dim=options.dim, truncate_dim=options.truncate_dim)
    assert adapter.dim == expected.shape[1] == (options.truncate_dim or options.dim or 32)
    assert_same(ask(adapter, TEXTS), expected, 1e-6)
    assert_same(
        ask(MtebEncoder(encoder, EvaluationOptions(dim=64), cache=adapter.cache), TEXTS), encoder.encode(TEXTS, dim=64)
    )


def test_a_prefix_as_wide_as_another_head_is_not_taken_for_it(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    """stella with truncate_dim 256: a prefix of 1024, where dim=256 is a head of its own."""
    folder = golden_copy(STELLA)
    edit_json(folder / "config_sentence_transformers.json", {"truncate_dim": 256})
    encoder, cache = Encoder.load(folder, threads=1), VectorCache(None)
    for options in (EvaluationOptions(), EvaluationOptions(dim=512), EvaluationOptions(dim=256)):
        adapter = MtebEncoder(encoder, options, cache=cache, dims=(256, 512))
        expected = load(STELLA).encode(TEXTS, prompt=S2S, dim=options.dim, truncate_dim=None if options.dim else 256)
        assert_same(ask(adapter, TEXTS), expected, 1e-6)


# ---- precisions


def test_float16_is_the_nearest() -> None:
    x_ND = np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
    assert np.array_equal(quantize_and_restore(x_ND, "float16"), x_ND.astype(np.float16).astype(np.float32))


@settings(deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(2, 20), flat=st.booleans())
def test_int8_is_within_half_a_step(seed: int, count: int, flat: bool) -> None:
    x_ND = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    if flat:
        x_ND[:, 3] = x_ND[0, 3]
    found_ND = quantize_and_restore(x_ND, "int8")
    assert found_ND.dtype == np.float32
    steps_D = np.ptp(x_ND, axis=0) / 255
    assert (np.abs(found_ND - x_ND) <= steps_D / 2 * 1.001 + 1e-6).all()
    again = quantize(found_ND, "int8", quantize(x_ND, "int8").ranges).values
    assert np.array_equal(np.delete(again, 3, 1), np.delete(quantize(x_ND, "int8").values, 3, 1))


def test_int8_of_one_vector_is_as_it_was() -> None:
    x_1D = np.array([[0.25, -1.5]], np.float32)
    assert np.array_equal(quantize_and_restore(x_1D, "int8"), x_1D)


@pytest.mark.parametrize("precision", ["binary", "binary-rescored"])
def test_binary_is_the_signs(precision: Precision) -> None:
    x_ND = np.array([[0.5, -2, 0.0, -0.0, 1e-30, 3, -1e-30, 9]], np.float32)
    found_ND = quantize_and_restore(x_ND, precision)
    assert found_ND.tolist() == [[1, -1, -1, -1, 1, 1, -1, 1]]
    assert np.array_equal(np.packbits(found_ND > 0, axis=-1), quantize(x_ND, "ubinary").values)


@pytest.mark.parametrize(
    ("precision", "queries", "others"),
    [
        ("float32", "float32", "float32"),
        ("float16", "float32", "float16"),
        ("int8", "float32", "int8"),
        ("binary", "binary", "binary"),
        ("binary-rescored", "float32", "binary"),
    ],
)
def test_what_is_stored_and_what_queries_are(precision: Precision, queries: Precision, others: Precision) -> None:
    adapter = MtebEncoder(load(E5), EvaluationOptions(precision=precision))
    for side, of_side, prompt in (
        ("query", queries, "query: "),
        ("document", others, "passage: "),
        (None, others, "query: "),
    ):
        found_ND = ask(adapter, TEXTS, side)
        assert_same(
            found_ND,
            quantize_and_restore(load(E5).encode(TEXTS, prompt=prompt), of_side),
            1e-5 if of_side[0] == "f" else 0.01,
        )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (EvaluationOptions(), 256),
        (EvaluationOptions(precision="float16"), 128),
        (EvaluationOptions(precision="int8"), 64),
        (EvaluationOptions(precision="binary"), 8),
        (EvaluationOptions(precision="binary-rescored", truncate_dim=16), 2),
        (EvaluationOptions(truncate_dim=10), 40),
        (EvaluationOptions(precision="int8", truncate_dim=9), 9),
        (EvaluationOptions(precision="binary", truncate_dim=12), 2),
        (EvaluationOptions(precision="binary-rescored", truncate_dim=1), 1),
    ],
)
def test_the_bytes_of_a_vector(options: EvaluationOptions, size: int) -> None:
    assert MtebEncoder(load(GIST), options).bytes_per_vector == size


# ---- settings that are wrong, before any text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EvaluationOptions(dim=300), "dim 300.*256, 512, 1024"),
        (EvaluationOptions(truncate_dim=1025), "truncate_dim is 1025.*1024"),
        (EvaluationOptions(dim=256, truncate_dim=257), "truncate_dim is 257.*256"),
        (EvaluationOptions(truncate_dim=0), "truncate_dim is 0"),
        (EvaluationOptions(max_seq_length=0), "max_seq_length is 0"),
        (EvaluationOptions(max_seq_length=2), "max_seq_length 2 .*2 special tokens"),
    ],
)
def test_wrong_settings_fail_at_once(options: EvaluationOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MtebEncoder(load(STELLA), options)


def test_more_tokens_than_positions_fail_at_once() -> None:
    most = load(GIST).spec.trunk.max_tokens  # pyright: ignore
    MtebEncoder(load(GIST), EvaluationOptions(max_seq_length=most))
    with pytest.raises(InputError, match=rf"max_seq_length is {most + 1}\b.*\b{most}\b"):
        MtebEncoder(load(GIST), EvaluationOptions(max_seq_length=most + 1))


def test_a_wrong_dim_among_the_others_fails_at_once() -> None:
    with pytest.raises(InputError, match="dim 5000"):
        MtebEncoder(load(STELLA), dims=(256, 5000))


# ---- how it is called


@pytest.mark.parametrize(
    ("options", "variant", "revision"),
    [
        (EvaluationOptions(), "", ""),
        (EvaluationOptions(dim=256, precision="int8"), "dim 256, int8", "_dim-256_int8"),
        (EvaluationOptions(truncate_dim=64), "first 64", "_first-64"),
        (EvaluationOptions(on_truncate="mean"), "long texts in windows", "_long-texts-in-windows"),
        (EvaluationOptions(max_seq_length=128), "128 tokens", "_128-tokens"),
        (EvaluationOptions(prompts={"query": "a"}), "prompts 84ac74", "_prompts-84ac74"),
        (EvaluationOptions(prompts={"query": "b"}), "prompts f3ae3d", "_prompts-f3ae3d"),
    ],
)
def test_the_revision_names_what_is_not_the_models_own(options: EvaluationOptions, variant: str, revision: str) -> None:
    adapter = MtebEncoder(load(STELLA), options)
    assert options.variant == adapter.variant == variant
    assert adapter.revision == adapter.mteb_model_meta.revision == adapter.fingerprint[:12] + revision
    assert adapter.fingerprint == load(STELLA).fingerprint  # the same model, whatever the options


def test_a_dtype_is_in_the_revision() -> None:
    encoder = Encoder.load(GOLDEN / GIST, device="cpu", engine="torch", dtype="bfloat16", threads=1)
    assert MtebEncoder(encoder).revision == f"{load(GIST).fingerprint[:12]}_run-in-bfloat16"
    assert MtebEncoder(encoder, EvaluationOptions(precision="int8")).variant == "int8, run in bfloat16"


# ---- score functions


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_models_own_score_function(name: Any, golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    """Through mteb: its similarity on STS, its ranking in retrieval."""
    folder = golden_copy(DISTILBERT)
    edit_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": name})
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([each for each in entries if "Normalize" not in each["type"]]))
    encoder = Encoder.load(folder, threads=1)
    adapter = MtebEncoder(encoder)
    assert adapter.mteb_model_meta.similarity_fn_name == name
    a_ND, b_ND = encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])
    found = adapter.similarity(a_ND, b_ND)
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), modules.similarity(name, a_ND, b_ND))
    assert np.allclose(adapter.similarity_pairwise(a_ND, torch.from_numpy(b_ND)), np.diag(found), atol=1e-4)
    assert adapter.similarity(a_ND[0], b_ND[0]).shape == (1, 1)
    assert run(adapter, "MockSTSTask").scores["test"][0]["spearman"] is not None
    queries, documents = encoder.encode(sorted(QUERIES)), encoder.encode(sorted(DOCUMENTS))
    best = modules.similarity(name, queries, documents).argmax(1)
    # of q1 and q2, sorted as their texts are: the relevant documents are d1 ("Title of d2 ...") and d2
    right = float(np.mean(best == [1, 0]))
    assert run(adapter, "MockRetrievalTask").scores["test"][0]["recall_at_1"] == right


# ---- curves


def test_variants_change_one_setting_at_a_time() -> None:
    options = EvaluationOptions(prompts={"query": "q: "})
    precisions: list[Precision] = ["int8", "float32", "binary"]
    found = curve_points(load(STELLA), options, dims=[64, 256, 1024, 512], precisions=precisions, lengths=[16, 32])
    assert load(STELLA).max_seq_length not in (16, 32)
    assert found == [
        replace(options, dim=256),
        replace(options, dim=512),
        replace(options, truncate_dim=64),
        replace(options, precision="int8"),
        replace(options, precision="binary"),
        replace(options, max_seq_length=16),
        replace(options, max_seq_length=32),
    ]


def test_variants_leave_out_what_is_there() -> None:
    length = load(GIST).max_seq_length
    assert length
    assert curve_points(load(GIST), EvaluationOptions()) == []
    assert curve_points(load(GIST), EvaluationOptions(), dims=[64], precisions=["float32"], lengths=[length]) == []
    assert curve_points(load(GIST), EvaluationOptions(), dims=[8, 8, 16]) == [
        EvaluationOptions(truncate_dim=8),
        EvaluationOptions(truncate_dim=16),
    ]
    assert curve_points(load(GIST), EvaluationOptions(precision="int8"), precisions=["int8", "binary"]) == [
        EvaluationOptions(precision="binary")
    ]
    assert curve_points(load(STELLA), EvaluationOptions(dim=256), dims=[256, 1024]) == [EvaluationOptions(dim=1024)]


def test_variants_of_declared_prefixes(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config_sentence_transformers.json", {"matryoshka_dims": [16, 32]})
    encoder = Encoder.load(folder, threads=1)
    found = curve_points(encoder, EvaluationOptions(), dims=[8, 16, 64])
    assert found == [EvaluationOptions(dim=16), EvaluationOptions(truncate_dim=8)]
    cache = VectorCache(None)
    adapters = [MtebEncoder(encoder, each, cache=cache, dims=[16]) for each in (EvaluationOptions(), *found)]
    assert [ask(each, TEXTS).shape[1] for each in adapters] == [64, 16, 8]
    assert [each.counters.num_encoded for each in adapters] == [6, 0, 0]
