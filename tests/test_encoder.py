"""The public noun: what encode takes, gives and refuses, and that neighbours, threads and processes change nothing."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from goldens import E5, GIST, GOLDEN, GTE, NAMES, STELLA, assert_same, load, require
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gnomon import Encoder, quantize
from gnomon import encoder as encoder_module
from gnomon.checkpoint.weights import read_weights
from gnomon.encode_options import EncodeOptions
from gnomon.errors import InputError, Notice, NumericError, TruncationError, TruncationNotice
from gnomon.packed import pack

TEXTS = ["The library opens at nine.", "", "quick sort", "Привет, 南瓜 ❤️", "a", "quick sort", "a paragraph " * 12]
LONG = "water boils at one hundred degrees, ice melts at none, " * 40
S2P = "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
S2S = "Instruct: Retrieve semantically similar text.\nQuery: "
Copy = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
require(whole_module=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# ---- texts in, vectors out


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    encoder = load(name)
    for texts, shape in (("one", ()), ([], (0,)), (["one"], (1,)), (TEXTS, (len(TEXTS),))):
        vectors = encoder.encode(texts)
        assert vectors.dtype == np.float32
        assert vectors.shape == (*shape, encoder.spec.dim)
        for dim, of_dim in encoder.encode_dims(texts, on_truncate="mean").items():
            assert of_dim.shape == (*shape, dim)
    assert [states.shape[1] for states in encoder.encode_tokens("one")] == [encoder.spec.trunk.hidden_size]
    assert encoder.encode_tokens([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_order_is_kept_and_equal_texts_have_equal_bits(name: str) -> None:
    order = np.random.default_rng(3).integers(0, len(TEXTS), 40)
    vectors = load(name).encode([TEXTS[at] for at in order])
    assert_same(vectors, np.stack([load(name).encode(TEXTS[at]) for at in order]))
    first = {TEXTS[at]: row for row, at in reversed(list(enumerate(order)))}
    assert all(np.array_equal(vectors[row], vectors[first[TEXTS[at]]]) for row, at in enumerate(order))


def test_a_column_is_read_as_its_texts() -> None:
    for column in (pd.Series(TEXTS), pa.chunked_array([TEXTS[:2], TEXTS[2:]]), (text for text in TEXTS)):
        assert np.array_equal(load(GIST).encode(column), load(GIST).encode(TEXTS))


@pytest.mark.parametrize(
    "call", ["encode", "encode_query", "encode_document", "encode_dims", "encode_tokens", "tokenize"]
)
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "text 1 is NoneType None"),
        (["a", "a", "b\ud800c"], "text 2 "),
        ("\ud800", "text 0 "),
        (5, "texts is int 5"),
    ],
)
def test_every_call_refuses_what_is_not_a_text(call: str, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(load(GIST), call)(texts)


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.one_of(st.text(max_size=80), st.sampled_from([*TEXTS, LONG])), min_size=1, max_size=8))
@pytest.mark.parametrize("name", NAMES)
def test_a_vector_does_not_depend_on_its_batch(name: str, texts: list[str]) -> None:
    batched = load(name).encode(texts, on_truncate="mean")
    assert_same(batched, np.stack([load(name).encode(text, on_truncate="mean") for text in texts]))


# ---- widths


def test_a_dim_of_stella_is_its_own_head() -> None:
    encoder, golden = load(STELLA), np.load(GOLDEN / STELLA / "expected.npz")
    texts = ["Hello, world!", "The quick brown fox jumps over the lazy dog."]  # texts 3 and 4 of the golden ones
    assert encoder.dims == (256, 512, 1024)
    for dim in encoder.dims:
        assert_same(encoder.encode(texts, dim=dim, prompt_name="s2s_query"), golden[f"dense_{dim}_s2s_query"][3:5])
    assert not np.allclose(encoder.encode(texts, dim=256), encoder.encode(texts)[:, :256])


@pytest.mark.parametrize("name", NAMES)
def test_truncate_dim_cuts_and_normalises_again_where_the_model_does(name: str) -> None:
    whole, cut = load(name).encode(TEXTS), load(name).encode(TEXTS, truncate_dim=10)
    assert_same(cut, unit(whole[:, :10]) if load(name).spec.normalizes else whole[:, :10], 1e-6)
    assert np.array_equal(load(name).encode(TEXTS, truncate_dim=whole.shape[1]), whole)
    assert_same(load(name).encode(TEXTS, truncate_dim=10, normalize_embeddings=True), unit(whole[:, :10]), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_normalize_embeddings_adds_and_never_takes_away(name: str) -> None:
    whole = load(name).encode(TEXTS)
    assert np.array_equal(load(name).encode(TEXTS, normalize_embeddings=False), whole)
    assert_same(load(name).encode(TEXTS, normalize_embeddings=True), unit(whole), 1e-6)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5) == load(name).spec.normalizes


def test_declared_prefixes_and_a_default_prefix(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    folder, whole = golden_copy(GIST), load(GIST).encode(TEXTS)
    edit_json(folder / "config_sentence_transformers.json", {"matryoshka_dims": [16, 32], "truncate_dim": 32})
    encoder = Encoder.load(folder)
    assert encoder.dims == (16, 32, 64)
    assert encoder.spec.dim == 32
    for dim, vectors in {32: encoder.encode(TEXTS), **encoder.encode_dims(TEXTS)}.items():
        assert_same(vectors, unit(whole[:, :dim]), 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 300}, "dim 300 is not in this model. It has 256, 512, 1024."),
        ({"truncate_dim": 0}, "truncate_dim is 0; it must be a whole number from 1 to 1024."),
        ({"truncate_dim": 257, "dim": 256}, "truncate_dim is 257; it must be a whole number from 1 to 256."),
        ({"normalize_embeddings": "yes"}, "normalize_embeddings is 'yes'. It may be True, False or None."),
        ({"prompt_name": "query"}, "prompt name 'query' is not in this model. It has s2p_query, s2s_query."),
        ({"prompt": "q\ud800"}, "prompt"),
        ({"prompt": "x", "prompt_name": "s2p_query"}, "were both given"),
        ({"on_truncate": "cut"}, "on_truncate 'cut' is not one of warn, error, silent, mean."),
    ],
)
@pytest.mark.parametrize("call", ["encode", "encode_query", "encode_document"])
def test_a_bad_option_lists_the_good_ones(call: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        getattr(load(STELLA), call)(["a"], **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("normalize", [None, True])
def test_encode_dims_equals_encode_in_every_bit(name: str, normalize: bool | None) -> None:
    encoder = load(name)
    for dim, vectors in encoder.encode_dims(TEXTS, normalize_embeddings=normalize).items():
        assert np.array_equal(vectors, encoder.encode(TEXTS, dim=dim, normalize_embeddings=normalize))
    assert list(encoder.encode_dims("a", [encoder.dims[0]])) == [encoder.dims[0]]
    with pytest.raises(InputError, match="dim 7 is not in this model"):
        encoder.encode_dims(TEXTS, [7])


# ---- prompts


@pytest.mark.parametrize(
    ("name", "call", "options", "prompt"),
    [
        (STELLA, "encode_query", {}, S2P),
        (STELLA, "encode_query", {"task": "s2p"}, S2P),
        (STELLA, "encode_query", {"task": "sts"}, S2S),
        (STELLA, "encode_query", {"task": "s2s"}, S2S),
        (STELLA, "encode_query", {"prompt_name": "s2s_query"}, S2S),
        (STELLA, "encode_query", {"prompt": "q: "}, "q: "),
        (STELLA, "encode_query", {"prompt": ""}, ""),
        (STELLA, "encode_document", {}, ""),
        (STELLA, "encode", {"prompt_name": "s2p_query"}, S2P),
        (E5, "encode_query", {}, "query: "),
        (E5, "encode_document", {}, "passage: "),
        (E5, "encode", {}, ""),
        (E5, "encode", {"prompt_name": "document"}, "passage: "),
        (GIST, "encode_query", {}, ""),
        (GTE, "encode_document", {}, ""),
    ],
)
def test_the_prompt_of_each_call(name: str, call: str, options: dict[str, str], prompt: str) -> None:
    """Prompts in front of the text, as the cards have them."""
    by_hand = load(name).encode([prompt + text for text in TEXTS], prompt="")
    assert np.array_equal(getattr(load(name), call)(TEXTS, **options), by_hand)


def test_a_default_prompt_acts_unless_another_is_given(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    folder = golden_copy(STELLA)
    edit_json(folder / "config_sentence_transformers.json", {"default_prompt_name": "s2s_query"})
    encoder = Encoder.load(folder)
    assert np.array_equal(encoder.encode(TEXTS), load(STELLA).encode(TEXTS, prompt=S2S))
    assert np.array_equal(encoder.encode(TEXTS, prompt=""), load(STELLA).encode(TEXTS, prompt=""))
    assert encoder.tokenize("a").counts == load(STELLA).tokenize("a", prompt=S2S).counts


def test_a_prompt_may_stay_out_of_the_pooling(golden_copy: Copy, edit_json: Callable[..., Any]) -> None:
    """It is read and not pooled, the first special token with it; windows too."""
    folder = golden_copy(STELLA)
    edit_json(folder / "1_Pooling" / "config.json", {"include_prompt": False})
    encoder, arrays = Encoder.load(folder, threads=1), load(STELLA).checkpoint.arrays
    skip = encoder.tokenize("", prompt=S2S).counts[0] - 1
    pooled_BD = np.stack([states[skip:].mean(0) for states in encoder.encode_tokens(TEXTS, prompt=S2S)])
    wanted = pooled_BD @ arrays["2_Dense_1024.weight"].T + arrays["2_Dense_1024.bias"]
    for on_truncate in ("error", "mean"):
        assert_same(encoder.encode(TEXTS, prompt=S2S, on_truncate=on_truncate), wanted)


def test_a_task_must_be_known_and_alone() -> None:
    with pytest.raises(InputError, match="task 'nli' is not one of this model's tasks: s2p_query, s2s_query, s2p"):
        load(STELLA).encode_query("a", task="nli")
    with pytest.raises(InputError, match="task 's2s' chooses a prompt"):
        load(STELLA).encode_query("a", task="s2s", prompt="q: ")


@pytest.mark.parametrize(("name", "expected"), [(E5, 1), (STELLA, 1), (GIST, 0)])
def test_encode_says_once_that_it_adds_no_prompt(name: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_warned_folders", set())
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        for options in ({"prompt": ""}, {}, {}):
            load(name).encode("a", **options)
        Encoder.load(GOLDEN / name, card=name).encode("a")
    adds_none = [notice for notice in message if "encode adds none; use encode_query" in str(notice.message)]
    assert len(adds_none) == expected
    assert all(notice.filename == __file__ for notice in message)


# ---- long texts


@pytest.mark.parametrize("call", ["encode", "encode_query", "encode_document", "encode_dims", "encode_tokens"])
def test_a_cut_text_is_told_of_once_with_its_position(call: str) -> None:
    texts = ["a", "a", LONG, LONG[:900], LONG, "b"]
    count = load(GIST).tokenize(LONG).counts[0]
    message = rf"(2 of 4 different|3 of 6) texts are longer than 64 tokens; the longest, text 2, has {count:,}"
    with pytest.warns(Notice, match=message) as notices:
        getattr(load(GIST), call)(texts)
    assert [notice.filename for notice in notices] == [__file__]
    with pytest.raises(TruncationError, match=message):
        getattr(load(GIST), call)(texts, on_truncate="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(load(GIST), call)(texts, on_truncate="silent")
        getattr(load(GIST), call)(texts[:2])


@pytest.mark.parametrize("name", NAMES)
def test_silent_reads_the_front(name: str) -> None:
    encoder = load(name)
    cut = encoder.tokenize(LONG).truncated_at[0]
    assert_same(encoder.encode(LONG, on_truncate="silent"), encoder.encode(LONG[:cut]))
    assert np.array_equal(encoder.encode(TEXTS[:6], on_truncate="mean"), encoder.encode(TEXTS[:6]))


# ---- another length


def with_length_in_its_folder(folder: Path, length: int) -> Encoder:
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": length}))
    return Encoder.load(folder, device="cpu", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_another_length_is_as_if_the_folder_had_it(name: str, golden_copy: Copy) -> None:
    folder = with_length_in_its_folder(golden_copy(name), 12)
    loaded = Encoder.load(GOLDEN / name, device="cpu", threads=1, max_seq_length=12)
    made = load(name).with_max_seq_length(12)
    for encoder in (loaded, made, pickle.loads(pickle.dumps(made)), pickle.loads(pickle.dumps(loaded))):
        assert encoder.max_seq_length == 12
        for on_truncate in ("silent", "mean"):
            wanted = folder.encode([*TEXTS, LONG], on_truncate=on_truncate)
            assert np.array_equal(encoder.encode([*TEXTS, LONG], on_truncate=on_truncate), wanted)
        assert encoder.tokenize(LONG).truncated_at == folder.tokenize(LONG).truncated_at
        assert encoder.fingerprint == folder.fingerprint == load(name).fingerprint
        assert encoder.space() == folder.space() == load(name).space()
    with pytest.warns(Notice, match="1 of 1 texts are longer than 12 tokens"):
        made.encode(LONG)


def test_another_length_shares_the_engine_and_leaves_the_first_as_it_was() -> None:
    first, wanted = load(GIST), load(GIST).encode(LONG, on_truncate="silent")
    short = first.with_max_seq_length(12)
    assert short.engine is first.engine
    assert short.name == first.name
    assert (short.device, short.dtype, short.threads) == (first.device, first.dtype, first.threads)
    assert first.max_seq_length == 64
    assert np.array_equal(first.encode(LONG, on_truncate="silent"), wanted)
    again = short.with_max_seq_length(64)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.encode(LONG, on_truncate="silent"), wanted)


def test_an_encoder_without_a_folder_may_have_another_length() -> None:
    first = Encoder(load(GIST).checkpoint, load(GIST)._options)
    short = first.with_max_seq_length(12)
    assert np.array_equal(short.encode(TEXTS), load(GIST).with_max_seq_length(12).encode(TEXTS))
    with pytest.raises(TypeError, match=r"not made by Encoder\.load"):
        pickle.dumps(short)


@pytest.mark.parametrize("length", [0, -1, 1.5, True, "12", 2**40])
def test_lengths_that_no_model_has_are_refused(length: Any) -> None:
    for make in (load(GIST).with_max_seq_length, lambda each: Encoder.load(GOLDEN / GIST, max_seq_length=each)):
        with pytest.raises(InputError, match=f"max_seq_length is {length!r}; it must be a whole number from 1 to 64"):
            make(length)


@pytest.mark.parametrize("name", NAMES)
def test_a_length_ends_at_the_positions(name: str) -> None:
    """Of a table of positions; rotary ones have no end."""
    most = load(name).spec.trunk.max_tokens  # pyright: ignore
    assert (most is None) == (name in (STELLA, GTE))
    longest = load(name).with_max_seq_length(most or 20_000)
    assert np.isfinite(longest.encode(LONG, on_truncate="silent")).all()
    assert longest.tokenize("a " * 30_000).truncated == [0]
    if most:
        with pytest.raises(InputError, match=rf"from 1 to {most}\."):
            load(name).with_max_seq_length(most + 1)


# ---- where and in what it runs


@pytest.mark.parametrize(
    ("options", "device", "dtype"),
    [
        ({"device": "cpu"}, "cpu", "float32"),
        ({"device": "cpu", "dtype": "int8"}, "cpu", "int8"),
        ({"device": "cpu", "engine": "torch", "dtype": "bfloat16"}, "cpu", "bfloat16"),
        ({"device": "cpu", "engine": "torch"}, "cpu", "float32"),
    ],
)
def test_device_and_dtype_are_settled(options: dict[str, str], device: str, dtype: str) -> None:
    encoder = Encoder.load(GOLDEN / GIST, threads=1, **options)  # pyright: ignore
    assert (encoder.device, encoder.dtype) == (device, dtype)
    copy = pickle.loads(pickle.dumps(encoder))
    assert (copy.device, copy.dtype) == (device, dtype)


def test_b12_what_was_read_comes_with_the_vectors() -> None:
    """As the tokenizer counts it, of every text that was given, equal ones too."""
    texts = ["a", LONG, "quick sort", LONG, "", "quick sort"]
    prompt = "query: "
    encoder = load(GIST)
    report = encoder.tokenize(texts, prompt=prompt)
    found = encoder.encode_with_counts(texts, EncodeOptions(prompt=prompt, on_truncate="silent"))
    assert found.token_counts_B.tolist() == report.counts
    assert found.token_counts_B[1] > 64
    assert found.truncated == report.truncated == [1, 3]
    assert np.array_equal(found.vectors, encoder.encode(texts, prompt=prompt, on_truncate="silent"))
    assert encoder.encode_with_counts(texts, EncodeOptions(prompt=prompt, on_truncate="mean")).truncated == []
    one = encoder.encode_with_counts("quick sort")
    assert (one.vectors.shape, one.token_counts_B.tolist(), one.truncated) == (
        (64,),
        encoder.tokenize("quick sort").counts,
        [],
    )
    none = encoder.encode_with_counts([])
    assert (none.vectors.shape, none.token_counts_B.tolist(), none.truncated) == ((0, 64), [], [])
    with pytest.warns(TruncationNotice) as message:
        encoder.encode_with_counts(texts)
    assert message[0].message.texts == (1,)  # pyright: ignore


@pytest.mark.parametrize("engine", ["onnx", "torch", "openvino"])
def test_a_closed_encoder_says_so(engine: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    with Encoder.load(GOLDEN / GIST, device="cpu", engine=engine, threads=1) as encoder:
        copy = pickle.loads(pickle.dumps(encoder))
        wanted = encoder.encode(["a"])
    for call in (encoder.encode, encoder.encode_tokens):
        for texts in (["a"], []):
            with pytest.raises(InputError, match=r"was closed\. Load it again"):
                call(texts)
    with pytest.raises(InputError, match="was closed"):
        encoder.engine.pool(pack([np.array([1])]))
    assert_same(copy.encode(["a"]), wanted)
    assert_same(pickle.loads(pickle.dumps(encoder)).encode(["a"]), wanted)


# ---- threads, processes, files


@pytest.mark.slow
def test_threads_share_one_encoder() -> None:
    encoder = Encoder.load(GOLDEN / STELLA)
    lists = [[text[at:] for text in (*TEXTS, LONG)] for at in range(16)]
    serial = [load(STELLA).encode(texts, on_truncate="mean") for texts in lists]
    with ThreadPoolExecutor(8) as pool:
        side_by_side = list(pool.map(lambda texts: encoder.encode(texts, on_truncate="mean"), lists))
        states = list(pool.map(lambda texts: encoder.encode_tokens(texts, on_truncate="silent"), lists[:8]))
    for found, wanted in zip(side_by_side, serial, strict=True):
        assert_same(found, wanted)
    for texts, found in zip(lists, states, strict=False):
        wanted = load(STELLA).encode_tokens(texts, on_truncate="silent")
        assert_same(np.concatenate(found), np.concatenate(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_copy_gives_the_same_bits(name: str) -> None:
    copy = pickle.loads(pickle.dumps(load(name)))
    assert np.array_equal(copy.encode(TEXTS), load(name).encode(TEXTS))
    assert copy.fingerprint == load(name).fingerprint
    assert len(pickle.dumps(copy)) < 2000


PROCESSES = {
    "fork": """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, encoder.encode(TEXTS).tobytes())
        os._exit(0)
    os.close(write)
    data = b"".join(iter(lambda: os.read(read, 65536), b""))
    assert os.waitpid(child, 0)[1] == 0
    found = np.frombuffer(data, np.float32).reshape(wanted.shape)
""",
    "spawn": """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(encode, (encoder,))
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", PROCESSES)
def test_another_process_gives_the_same_bits(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os, sys\nimport numpy as np\nfrom gnomon import Encoder\n"
        f"TEXTS = {TEXTS!r}\ndef encode(encoder):\n    return encoder.encode(TEXTS)\n"
        "if __name__ == '__main__':\n    encoder = Encoder.load(sys.argv[1], threads=2)\n    wanted = encode(encoder)\n"
        f"{PROCESSES[how]}    assert np.array_equal(found, wanted)\n"
        "    assert np.array_equal(encode(encoder), wanted)\n",
        "utf-8",
    )
    done = subprocess.run([sys.executable, script, GOLDEN / GIST], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def rewritten(folder: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Encoder:
    """The model of a folder with its weights changed, as model.safetensors."""
    arrays = {name: change(name, array) for name, array in read_weights(folder).items()}
    for old in (*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")):
        old.unlink()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    return Encoder.load(folder, threads=1)


@pytest.mark.parametrize("name", [GIST, STELLA, E5])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_an_error_that_names_the_text(name: str, value: float, golden_copy: Copy) -> None:
    library, others = load(name).tokenize(["library", "opens at nine"]).ids
    token = np.setdiff1d(library, others)[0]

    def damage(key: str, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        if key.endswith("word_embeddings.weight"):
            array[token] = value
        return array

    encoder = rewritten(golden_copy(name), damage)
    texts = ["opens at nine", "opens at nine", "the library", "nine"]
    for call in (encoder.encode, encoder.encode_dims, encoder.encode_tokens):
        with pytest.raises(NumericError, match="text 2 gives NaN or infinity"):
            call(texts)
    assert np.isfinite(encoder.encode(texts[:2])).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_checkpoints_of_half_the_width_load(name: str, dtype: Any, golden_copy: Copy) -> None:
    """Their vectors are those of the same values in float32."""

    def halved(key: str, array: np.ndarray) -> np.ndarray:
        return array.astype(dtype) if array.dtype == np.float32 else array.copy()

    half = rewritten(golden_copy(name), halved).encode(TEXTS)
    again = rewritten(
        golden_copy(name, to=f"again/{name}"),
        lambda key, array: halved(key, array).astype(np.float32) if array.dtype == np.float32 else array.copy(),
    )
    assert_same(half, again.encode(TEXTS))
    assert_same(half, load(name).encode(TEXTS), 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_is_of_values(name: str, golden_copy: Copy, tmp_path: Path) -> None:
    """The same for .bin and safetensors, for a copy and for what `save` writes; another for one bit."""
    known = load(name).fingerprint
    assert known == Encoder.load(GOLDEN / name).fingerprint
    assert rewritten(golden_copy(name), lambda key, array: array.copy()).fingerprint == known
    assert Encoder.load(load(name).save(tmp_path / "saved" / name)).fingerprint == known

    def flipped(key: str, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        if key.endswith("word_embeddings.weight"):
            array.view(np.uint32)[0, 0] ^= 1
        return array

    assert rewritten(golden_copy(name, to=f"flipped/{name}"), flipped).fingerprint != known


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_b13_similarity_of_quantized_vectors_is_refused(precision: Any) -> None:
    encoder = load(GIST)
    vectors = encoder.encode(["a", "b"])
    values = quantize(vectors, precision).values
    for a, b in ((values, values), (vectors, values), (values[0], vectors)):
        with pytest.raises(InputError, match=rf"vectors of {values.dtype} are quantized"):
            encoder.similarity(a, b)
