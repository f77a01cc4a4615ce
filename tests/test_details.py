"""Details of the public noun: widths, options, prompts, spaces, and what a save keeps."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.save import save_folder
from gnomon.encode_options import EncodeOptions
from gnomon.errors import InputError, SpaceError

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

GIST, E5, STELLA = "GIST-Embedding-v0", "multilingual-e5-small", "stella_en_400M_v5"
TEXTS = ["how do plants make food", "", "A sundial tells the hour; NOON is where its shadow is shortest.", "x"]
SETTINGS = "config_sentence_transformers.json"
Copy = Callable[..., Path]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def gist(golden_folder: Callable[[str], Path]) -> Encoder:
    return Encoder.load(golden_folder(GIST), threads=1)


@pytest.fixture(scope="module")
def stella(golden_folder: Callable[[str], Path]) -> Encoder:
    return Encoder.load(golden_folder(STELLA), threads=1)


# ---- widths


def test_declared_widths_beyond_the_model_are_not_its_dims(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / SETTINGS, {"matryoshka_dims": [8, 4096]})
    encoder = Encoder.load(folder)
    assert encoder.dims == (8, 64)
    assert {dim: vectors.shape for dim, vectors in encoder.encode_dims(TEXTS).items()} == {8: (4, 8), 64: (4, 64)}
    with pytest.raises(InputError, match=r"dim 4096 is not in this model\. It has 8, 64"):
        encoder.encode("a", dim=4096)


def test_the_argument_may_widen_what_the_folder_cuts(golden_copy: Copy, edit_json: Callable, stella: Encoder) -> None:
    folder = golden_copy(STELLA)
    edit_json(folder / SETTINGS, {"truncate_dim": 100})
    encoder = Encoder.load(folder, threads=1)
    full_BD = stella.encode(TEXTS)
    assert full_BD.shape == (4, 1024)
    np.testing.assert_array_equal(encoder.encode(TEXTS), full_BD[:, :100])
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=512), full_BD[:, :512])
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=1024), full_BD)
    np.testing.assert_array_equal(encoder.encode(TEXTS, dim=512), stella.encode(TEXTS, dim=512))
    assert encoder.space(EncodeOptions(truncate_dim=512)) == stella.space(EncodeOptions(truncate_dim=512))
    with pytest.raises(InputError, match="truncate_dim is 1025; it must be a whole number from 1 to 1024"):
        encoder.encode(TEXTS, truncate_dim=1025)


def test_a_folder_s_truncate_dim_is_a_prefix_even_where_a_head_has_that_width(
    golden_copy: Copy, edit_json: Callable, stella: Encoder
) -> None:
    """As in sentence-transformers, which knows one head; dim= asks for the head."""
    folder = golden_copy(STELLA)
    edit_json(folder / SETTINGS, {"truncate_dim": 256})
    encoder = Encoder.load(folder, threads=1)
    prefix_BD = stella.encode(TEXTS, truncate_dim=256)
    np.testing.assert_array_equal(encoder.encode(TEXTS), prefix_BD)
    np.testing.assert_array_equal(encoder.encode(TEXTS, dim=256), stella.encode(TEXTS, dim=256))
    assert np.abs(encoder.encode(TEXTS, dim=256) - prefix_BD).max() > 0.1
    assert encoder.space() == stella.space(EncodeOptions(truncate_dim=256))


@pytest.mark.parametrize("number", [np.int64(8), np.uint8(8), np.int32(8)], ids=lambda number: type(number).__name__)
def test_a_whole_number_of_numpy_is_one(number: Any, gist: Encoder) -> None:
    np.testing.assert_array_equal(gist.encode(TEXTS, truncate_dim=number), gist.encode(TEXTS, truncate_dim=8))
    assert gist.space(EncodeOptions(truncate_dim=number)) == gist.space(EncodeOptions(truncate_dim=8))
    assert gist.encode("a", dim=np.int64(64)).shape == (64,)


@pytest.mark.parametrize("width", [True, False, 2.5, 8.0, "8", 0, -8, 65, np.True_, [8]], ids=repr)
def test_a_truncate_dim_that_is_none(width: Any, gist: Encoder) -> None:
    for call in (gist.encode, gist.encode_query, gist.encode_document):
        with pytest.raises(InputError, match=r"truncate_dim is .* it must be a whole number from 1 to 64"):
            call("a", truncate_dim=width)
    with pytest.raises(InputError, match="truncate_dim is"):
        gist.space(EncodeOptions(truncate_dim=width))


@pytest.mark.parametrize("dim", [True, False, 8, "64", [64], 2.5], ids=repr)
def test_a_dim_that_is_none(dim: Any, gist: Encoder) -> None:
    for call in (gist.encode, gist.encode_query, gist.encode_document):
        with pytest.raises(InputError, match=re.escape(f"dim {dim!r} is not in this model. It has 64")):
            call("a", dim=dim)
    with pytest.raises(InputError, match="is not in this model"):
        gist.space(EncodeOptions(dim=dim))


def test_true_is_not_the_width_1(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / SETTINGS, {"matryoshka_dims": [1]})
    encoder = Encoder.load(folder)
    assert encoder.encode("a", dim=1).shape == (1,)
    with pytest.raises(InputError, match=r"dim True is not in this model\. It has 1, 64"):
        encoder.encode("a", dim=True)


@pytest.mark.parametrize("dims", [384, 64, 64.0, True, {64}, "64", ["64"], [True], [384], [None], [[64]]], ids=repr)
def test_dims_that_are_none(dims: Any, gist: Encoder) -> None:
    with pytest.raises(InputError, match="dim"):
        gist.encode_dims("a", dims)


# ---- options


@pytest.mark.parametrize("threads", [100_000, 0, -1, True, 2.5, "2"], ids=repr)
def test_threads_that_cannot_be(threads: Any, golden_folder: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"threads is .* it must be a whole number from 1 to 1024"):
        Encoder.load(golden_folder(GIST), threads=threads)


@pytest.mark.parametrize("source", [None, b"x", 3, ["x"]], ids=repr)
def test_a_source_that_is_none(source: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"the source is {source!r}")):
        Encoder.load(source)


# ---- prompts


def test_prompts_cannot_be_changed_and_do_not_change(stella: Encoder, tmp_path: Path) -> None:
    prompts: Any = stella.prompts
    before = dict(prompts)
    with pytest.raises(TypeError):
        prompts["query"] = "ask: "
    with pytest.raises(TypeError):
        del prompts["s2p_query"]
    for change in ("clear", "update", "pop", "setdefault"):
        assert not hasattr(prompts, change)
    stella.encode(TEXTS, prompt="x: ")
    stella.encode_query(TEXTS, task="sts")
    saved = stella.save(tmp_path / "saved")
    assert dict(prompts) == dict(stella.prompts) == before
    assert dict(Encoder.load(saved).prompts) == before
    assert json.loads((saved / SETTINGS).read_text("utf-8"))["prompts"] == before


@pytest.mark.parametrize("call", ["encode", "encode_query", "encode_document", "encode_dims", "encode_tokens"])
@pytest.mark.parametrize("prompt", ["query\ud83d: ", "\udc00"], ids=ascii)
def test_a_prompt_with_half_a_surrogate(call: str, prompt: str, gist: Encoder) -> None:
    with pytest.raises(InputError, match="prompt has half a surrogate pair"):
        getattr(gist, call)("a", prompt=prompt)
    with pytest.raises(InputError, match="prompt has half a surrogate pair"):
        gist.tokenize("a", prompt=prompt)


# ---- saves


def test_a_save_by_sentence_transformers_is_the_same_model(
    golden_folder: Callable[[str], Path], gist: Encoder, tmp_path: Path
) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    model = theirs.SentenceTransformer(str(golden_folder(GIST)), device="cpu", local_files_only=True)
    model.save(str(tmp_path / "theirs"))
    again = Encoder.load(tmp_path / "theirs", threads=1)
    assert again.fingerprint == gist.fingerprint
    np.testing.assert_array_equal(again.encode(TEXTS), gist.encode(TEXTS))


def test_a_model_that_lower_cases_for_its_tokenizer_is_saved_the_same_either_way(
    golden_copy: Copy, edit_json: Callable, tmp_path: Path
) -> None:
    folder = golden_copy(GIST)
    normalizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))["normalizer"]
    edit_json(folder / "tokenizer.json", {"normalizer": normalizer | {"lowercase": False}})
    edit_json(folder / "tokenizer_config.json", {"do_lower_case": False})
    edit_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    encoder = Encoder.load(folder)
    by_parts = save_folder(read_folder(Source(folder, None, None)), tmp_path / "parts")
    by_encoder = encoder.save(tmp_path / "encoder")
    assert files_of(by_parts) == files_of(by_encoder)
    again = Encoder.load(by_encoder)
    assert files_of(again.save(tmp_path / "again")) == files_of(by_encoder)
    assert again.fingerprint == encoder.fingerprint
    for each in (encoder, again):
        np.testing.assert_array_equal(each.encode("NOON and Sundials"), each.encode("noon and sundials"))
    edit_json(folder / "sentence_bert_config.json", {"do_lower_case": False})
    cased = Encoder.load(folder)
    assert cased.fingerprint != encoder.fingerprint
    assert not np.array_equal(cased.encode("NOON and Sundials"), cased.encode("noon and sundials"))


# ---- spaces


def test_a_head_of_its_own_and_a_prefix_are_two_spaces(stella: Encoder) -> None:
    head, prefix = stella.space(EncodeOptions(dim=512)), stella.space(EncodeOptions(truncate_dim=512))
    assert (head.dim, prefix.dim, head.cut_from, prefix.cut_from) == (512, 512, None, 1024)
    assert head != prefix
    assert not np.allclose(stella.encode("a", dim=512), stella.encode("a", truncate_dim=512))
    head.check_same(stella.space(EncodeOptions(dim=512)))
    with pytest.raises(SpaceError, match="cut_from None and 1024"):
        head.check_same(prefix)
    with pytest.raises(SpaceError, match="cut_from 1024 and 512"):
        stella.space(EncodeOptions(truncate_dim=256)).check_same(stella.space(EncodeOptions(dim=512, truncate_dim=256)))
