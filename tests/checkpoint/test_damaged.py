"""Damaged and mismatched folders: what cannot be read is an error that says what, never an exception of another's."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from gnomon import Encoder
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import Source
from gnomon.errors import InputError, ModelError, NotAModelError, UnsupportedError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

GIST, E5 = "GIST-Embedding-v0", "multilingual-e5-small"
CLASSIC = "sentence_transformers.models."
WORDS = ("[PAD]", "[UNK]", "a", "sundial", "tells", "the", "hour")
TABLE = np.random.default_rng(3).normal(size=(len(WORDS), 8)).astype(np.float32)
README = f"---\nlicense: mit\nbase_model: intfloat/{E5}\n---\n# Mine\n"
Copy = Callable[..., Path]


def read(folder: Path) -> Checkpoint:
    return read_folder(Source(folder, None, None))


# ---- a tokenizer and a table that are not of one model


def test_a_tokenizer_of_more_tokens_than_the_table_has_rows(
    golden_copy: Copy, golden_folder: Callable[[str], Path]
) -> None:
    """The golden e5 is the one with the smaller table: GIST's tokenizer does not fit it, and the other way it would."""
    folder = golden_copy(E5)
    shutil.copy(golden_folder(GIST) / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(ModelError, match=r"2200 tokens.* 1937 rows"):
        Encoder.load(folder)


def test_the_table_of_gist_truncated(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    arrays = load_file(folder / "model.safetensors")
    name = next(name for name in arrays if name.endswith("word_embeddings.weight"))
    arrays[name] = arrays[name][:1902].copy()
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"word_embeddings\.weight is \[1902, 64\], expected \[2200, 64\]"):
        Encoder.load(folder)
    edit_json(folder / "config.json", {"vocab_size": 1902})
    with pytest.raises(ModelError, match=r"2200 tokens.* 1902 rows"):
        Encoder.load(folder)


@pytest.mark.parametrize("call", ["encode", "encode_query", "encode_document", "encode_dims", "encode_tokens"])
def test_an_added_token_beyond_the_table_is_reported_where_it_stands(
    call: str, golden_copy: Copy, golden_folder: Callable[[str], Path]
) -> None:
    folder = golden_copy(GIST)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["[NEW]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = Encoder.load(folder)
    with pytest.raises(InputError, match="text 3 has token 2200, and the model has vectors for 2200"):
        getattr(encoder, call)(["a sundial", "a sundial", "noon", "tell me of [NEW]"])
    texts = ["a sundial", "noon"]
    np.testing.assert_array_equal(encoder.encode(texts), Encoder.load(golden_folder(GIST)).encode(texts))


# ---- tables of vectors


@pytest.fixture
def static(tmp_path: Path) -> Callable[..., Path]:
    """A StaticEmbedding (`config` None), or a model2vec folder with a config, of these tensors."""

    def make(tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "static"
        folder.mkdir()
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(folder / "tokenizer.json"))
        save_file(tensors, folder / "model.safetensors")
        if config is None:
            row = {"idx": 0, "name": "0", "path": "", "type": f"{CLASSIC}StaticEmbedding"}
            (folder / "modules.json").write_text(json.dumps([row]))
        else:
            (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"} | config))
        return folder

    return make


NAMES = {"embedding.weight": None, "embeddings": {}}
"""Name of the table -> config: those of a StaticEmbedding and of a model2vec."""
KINDS = pytest.mark.parametrize(("name", "config"), NAMES.items(), ids=["StaticEmbedding", "model2vec"])


@KINDS
def test_a_table_that_is_whole(name: str, config: dict | None, static: Callable[..., Path]) -> None:
    result = Encoder.load(static({name: TABLE}, config)).encode("the hour")
    np.testing.assert_allclose(result, TABLE[5:7].mean(axis=0), rtol=1e-5)


@KINDS
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"extra": TABLE}, "1 extra: extra"),
        ({"": TABLE[0, :0].copy()}, "1 extra"),
        ({"mapping": np.arange(7), "weights": np.ones(6, np.float32)}, r"weights is \[6\], expected \[7\]"),
        ({"weights": np.ones(8, np.float32)}, r"weights is \[8\], expected \[7\]"),
        ({"weights": np.ones((7, 1), np.float32)}, r"weights is \[7, 1\], expected \[7\]"),
        ({"mapping": np.array([0, 1, 2, 3, 4, 5, 7])}, "mapping holds 0 to 7.* 7 rows"),
        ({"mapping": np.array([0, 1, 2, 3, 4, 5, -1])}, "mapping holds -1 to 5.* 7 rows"),
        ({"mapping": np.array(3)}, "mapping"),
        ({"mapping": np.full(7, 0.5, np.float32)}, "mapping"),
        ({"mapping": np.full(7, np.nan, np.float32)}, "mapping"),
        ({"mapping": np.zeros((7, 1), np.int64)}, r"mapping is \[7, 1\], expected \[7\]"),
    ],
)
def test_tensors_that_do_not_fit_a_table(
    tensors: dict[str, np.ndarray], words: str, name: str, config: dict | None, static: Callable[..., Path]
) -> None:
    with pytest.raises(WeightsError, match=words):
        read(static({name: TABLE} | tensors, config))


@KINDS
@pytest.mark.parametrize("table", [TABLE[0], TABLE[:, :, None]], ids=["one axis", "three axes"])
def test_a_table_without_rows_and_columns(
    table: np.ndarray, name: str, config: dict | None, static: Callable[..., Path]
) -> None:
    with pytest.raises(WeightsError, match=r"shape \[.*rows and columns"):
        read(static({name: np.ascontiguousarray(table)}, config))


@KINDS
@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "uint8", "bool"])
def test_a9_a_table_of_whole_numbers_without_scales(
    dtype: str, name: str, config: dict | None, static: Callable[..., Path]
) -> None:
    with pytest.raises(WeightsError, match=rf"{name} \({dtype}\)"):
        read(static({name: TABLE.astype(dtype)}, config))


@KINDS
def test_a9_a_table_may_be_int8_and_its_weights_may_not(
    name: str, config: dict | None, static: Callable[..., Path]
) -> None:
    folder = static({name: TABLE.astype(np.int8)}, config)
    np.testing.assert_allclose(Encoder.load(folder).encode("the hour"), TABLE.astype(np.int8)[5:7].mean(axis=0))
    save_file({name: TABLE.astype(np.int8), "weights": np.ones(7, np.int8)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"weights \(int8\)"):
        read(folder)


@KINDS
def test_a2_tokens_of_a_static_model_that_the_normalizer_makes_the_same(
    name: str, config: dict | None, static: Callable[..., Path]
) -> None:
    folder = static({name: np.concatenate([TABLE, TABLE[:1]])}, config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("HOUR", normalized=True), AddedToken("hour", normalized=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    for _ in range(8):
        result = read(folder)
        assert result.tokenizer.encode("HOUR Hour hour").tokens == ["HOUR", "hour", "hour"]
        assert any("'HOUR' like 'hour'" in notice for notice in result.warnings)


@KINDS
def test_a_table_shorter_than_the_vocabulary(name: str, config: dict | None, static: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"7 tokens.* 5 rows"):
        read(static({name: TABLE[:5].copy()}, config))


@pytest.mark.parametrize("length", ["abc", "8", 0, -1, 2.5, True, [8]])
def test_a_max_length_that_is_none(length: Any, static: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="max_length is"):
        read(static({"embeddings": TABLE}, {"max_length": length}))


@pytest.mark.parametrize("truncation", ["abc", {"max_length": "abc"}, {}])
def test_a_truncation_that_is_none(truncation: Any, static: Callable[..., Path], edit_json: Callable) -> None:
    folder = static({"embedding.weight": TABLE})
    if truncation:
        message = truncation if isinstance(truncation, str) else {"strategy": "LongestFirst", "stride": 0, **truncation}
        edit_json(folder / "tokenizer.json", {"truncation": message})
        with pytest.raises(NotAModelError, match=r"tokenizer\.json cannot be used"):
            read(folder)
    else:
        edit_json(folder / "tokenizer.json", {"truncation": None})
        assert read(folder).spec.tokenizer.max_seq_length is None


# ---- settings


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config_sentence_transformers.json", {"query_prompt_names": ["query"]}, "query_prompt_names is"),
        ("config_sentence_transformers.json", {"query_prompt_names": {"s2p": 3}}, "query_prompt_names is"),
        ("config_sentence_transformers.json", {"default_prompt_name": {"a": "b"}}, r"default_prompt_name \{'a': 'b'\}"),
        ("config_sentence_transformers.json", {"default_prompt_name": {}}, r"default_prompt_name \{\}"),
        ("tokenizer_config.json", {"model_max_length": "512"}, "a length is '512'"),
        ("tokenizer_config.json", {"model_max_length": [512]}, r"a length is \[512\]"),
        ("config.json", {"max_position_embeddings": "64"}, "'64'"),
    ],
)
def test_settings_of_the_wrong_type(
    file: str, changes: dict[str, Any], words: str, golden_copy: Copy, edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    (folder / "sentence_bert_config.json").unlink()  # so that the length comes of the others
    edit_json(folder / file, changes)
    with pytest.raises(ModelError, match=words):
        read(folder)


def test_a_model_max_length_is_not_looked_at_beside_a_max_seq_length(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "tokenizer_config.json", {"model_max_length": "512"})
    assert read(folder).spec.tokenizer.max_seq_length == 64


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_a_small_file_that_is_not_utf_8(name: str, golden_copy: Copy, tmp_path: Path) -> None:
    """tokenizer.json has it all: the file does not act, and is no reason to fail."""
    folder = golden_copy(GIST)
    expected = Encoder.load(folder).encode("noon")
    (folder / name).write_bytes(b'{"unk_token": "\xff\xfe"}')
    encoder = Encoder.load(folder)
    np.testing.assert_array_equal(encoder.encode("noon"), expected)
    np.testing.assert_array_equal(Encoder.load(encoder.save(tmp_path / "saved")).encode("noon"), expected)


def test_special_tokens_that_are_not_utf_8_where_they_act(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    (folder / "tokenizer.json").unlink()
    edit_json(folder / "tokenizer_config.json", drop=("added_tokens_decoder",))
    (folder / "special_tokens_map.json").write_bytes(b'{"unk_token": "\xff\xfe"}')
    with pytest.raises(NotAModelError, match=r"special_tokens_map\.json cannot be used"):
        read(folder)


LONG_PATHS = ["a" * 5000, "a/" * 2500, "é" * 255, "a\0b", "\ud800"]


@pytest.mark.parametrize("path", LONG_PATHS, ids=["one name", "many names", "bytes", "null", "half a surrogate"])
@pytest.mark.parametrize("kind", ["Transformer", "Pooling", "Normalize"])
def test_a_path_that_no_folder_can_have(kind: str, path: str, golden_copy: Copy) -> None:
    folder = golden_copy(GIST)
    rows = json.loads((folder / "modules.json").read_text())
    for row in rows:
        row["path"] = path if row["type"] == CLASSIC + kind else row["path"]
    (folder / "modules.json").write_text(json.dumps(rows))
    if kind == "Normalize" and path in LONG_PATHS[3:]:
        assert read(folder).spec.normalizes  # a folder that Normalize can do without
        return
    with pytest.raises(NotAModelError):
        read(folder)


@pytest.mark.parametrize("shard", ["a" * 5000, "a/" * 2500, "a\0b"], ids=["one name", "many names", "null"])
def test_a_shard_that_no_file_can_be(shard: str, golden_copy: Copy) -> None:
    folder = golden_copy(GIST)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        read(folder)


# ---- config


def test_missing_layers_are_an_error_at_once(golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    tensors = len(load_file(folder / "model.safetensors"))
    edit_json(folder / "config.json", {"num_hidden_layers": 300_000})
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=f"300000 layers.* {tensors} tensors"):
        Encoder.load(folder)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("value", [False, 0, 0.0, True, 1, "x", [0], {"a": 0}], ids=repr)
def test_an_unknown_key_with_a_value_is_named(value: Any, golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config.json", {"use_gnomons": value})
    with pytest.raises(UnsupportedError, match=r"key 'use_gnomons' .*ignore_config_keys=\['use_gnomons'\]") as caught:
        read(folder)
    assert repr(value) in str(caught.value)
    read_folder(Source(folder, None, None), ignore_config_keys=["use_gnomons"])


@pytest.mark.parametrize("value", [None, "", [], {}], ids=repr)
def test_an_unknown_key_without_a_value_says_nothing(value: Any, golden_copy: Copy, edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config.json", {"use_gnomons": value})
    assert read(folder).spec.dim == 64


# ---- links


def test_a_readme_that_links_out_of_the_folder_is_not_read(golden_copy: Copy, tmp_path: Path) -> None:
    folder = golden_copy(E5, "renamed")
    (tmp_path / "private.txt").write_text(README)
    (folder / "README.md").symlink_to(tmp_path / "private.txt")
    result = read(folder)
    assert (result.readme, result.known_model, result.license) == (None, None, None)
    saved = Encoder.load(folder).save(tmp_path / "saved")
    assert not os.path.lexists(saved / "README.md")
    assert not any(b"# Mine" in path.read_bytes() for path in saved.rglob("*") if path.is_file())
    (folder / "README.md").unlink()
    (folder / "README.md").write_text(README)  # as a file, it is
    result = read(folder)
    assert (result.known_model is not None, result.license) == (True, "mit")


def test_a_small_file_that_links_out_of_the_folder_is_not_copied(golden_copy: Copy, tmp_path: Path) -> None:
    folder = golden_copy(GIST)
    (tmp_path / "private.json").write_text('{"secret": 1}')
    (folder / "special_tokens_map.json").unlink()
    (folder / "special_tokens_map.json").symlink_to("../private.json")
    assert not (Encoder.load(folder).save(tmp_path / "saved") / "special_tokens_map.json").exists()


def test_a_readme_of_the_hub_cache_is_a_link_and_is_read(golden_copy: Copy, tmp_path: Path) -> None:
    """models--x--y/snapshots/REV/README.md -> ../../blobs/HASH"""
    folder = golden_copy(E5, "models--x--y/snapshots/0123abcd")
    blobs = tmp_path / "models--x--y" / "blobs"
    blobs.mkdir()
    (blobs / "cafe").write_text(README)
    (folder / "README.md").symlink_to("../../blobs/cafe")
    encoder = Encoder.load(folder)
    assert encoder.name == "x/y"
    assert (encoder.checkpoint.known_model is not None, encoder.checkpoint.license) == (True, "mit")
    saved = encoder.save(tmp_path / "saved") / "README.md"
    assert not saved.is_symlink()
    assert saved.read_bytes() == README.encode()


@pytest.mark.parametrize("target", ["../../refs/main", "../../../private.txt", "../other/README.md"])
def test_a_link_of_the_hub_cache_to_elsewhere_is_not_read(target: str, golden_copy: Copy) -> None:
    folder = golden_copy(E5, "models--x--y/snapshots/0123abcd")
    place = folder / target
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(README)
    (folder / "README.md").symlink_to(target)
    assert read(folder).readme is None


@pytest.mark.parametrize("target", ["README.md", "absent", "."], ids=["itself", "nothing", "the folder"])
def test_a_readme_that_links_to_no_file_is_none(target: str, golden_copy: Copy) -> None:
    folder = golden_copy(GIST)
    (folder / "README.md").symlink_to(target)
    assert read(folder).readme is None
