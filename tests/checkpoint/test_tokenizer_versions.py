"""A tokenizer.json with side files: the reference is transformers 5.23, which reads the same folder."""

# ruff: noqa: E402  what may be absent is looked for before it is imported

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_cases import (
    KINDS,
    TEXTS,
    UNKNOWN,
    added,
    bert_json,
    draw_folder,
    ids_of,
    roberta_json,
    write_folder,
    xlm_roberta_json,
)
from tokenizers import Tokenizer

pytestmark = pytest.mark.slow  # as the import of the next two is
pytest.importorskip("transformers")
SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer

from gnomon import Encoder
from gnomon.checkpoint.tokenizer_families import FAMILIES_BY_CLASS
from gnomon.checkpoint.tokenizer_files import read_tokenizer
from gnomon.checkpoint.tokenizer_settings import SIDE_FILES
from gnomon.checkpoint.tokenizer_versions import build_side_files
from gnomon.errors import NotAModelError, Notice

GIST, DISTILBERT, E5 = "GIST-Embedding-v0", "multi-qa-distilbert-cos-v1", "multilingual-e5-small"
Json = dict[str, Any]


def first(options: Any) -> Any:
    return options[0]


def ours(folder: Path, **overrides: Any) -> tuple[list[list[int]], list[str]]:
    """Ids of TEXTS, and what was said about reading them."""
    messages: list[str] = []
    tokenizer = read_tokenizer(folder, messages, overrides)
    return [tokenizer.encode(text).ids for text in TEXTS], messages


def check_saved(tokenizer: Tokenizer, folder: Path, files: dict[str, Json], target: Path) -> None:
    """The written side files: transformers reads the tokenizer that we have, and so do we, without a word."""
    texts = {name: (folder / name).read_text("utf-8") for name in SIDE_FILES if (folder / name).is_file()}
    model = files["config.json"]
    write_folder(target, {"config.json": model})
    (target / "tokenizer.json").write_text(tokenizer.to_str(), "utf-8")
    for name, text in build_side_files(tokenizer, texts, model).items():
        (target / name).write_text(text, "utf-8")
    expected = [tokenizer.encode(text).ids for text in TEXTS]
    assert ours(target) == (expected, [])
    assert ids_of(target) == expected


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a5_side_files_of_every_kind_are_read_as_transformers_5_reads_them_or_with_a_warning(data: Any) -> None:
    files = draw_folder(lambda options: data.draw(st.sampled_from(options)))
    with TemporaryDirectory() as place:
        folder = write_folder(Path(place) / "model", files)
        reference = ids_of(folder)
        ids, messages = ours(folder)
        name = files.get("tokenizer_config.json", {}).get("tokenizer_class")
        unknown = any(name in names for names in UNKNOWN.values())
        if isinstance(reference, str):
            # a class that wraps tokenizer.json, or is gone, without that file: gnomon goes by the model_type
            assert "tokenizer.json" not in files or unknown, reference
        else:
            version = "5" if name == "TokenizersBackend" else files["config.json"].get("transformers_version", "5")
            if version.startswith("5") and not unknown:
                assert ids == reference  # said or not: version 5 is followed
            assert messages or ids == reference
        assert unknown == any("is not known here" in notice for notice in messages)
        check_saved(read_tokenizer(folder), folder, files, Path(place) / "saved")


# ---- A1: case, accents, Chinese characters


BERT_SETTINGS: list[Json] = [
    {"do_lower_case": False},
    {"strip_accents": False},
    {"tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": True},
]


def assert_as_sentence_transformers(folder: Path, assert_near: Callable[..., None], saved: Path) -> Encoder:
    texts = ["Hello World", "café Naïve RÉSUMÉ", "漢字 kana日本", "a <ticket> and < ticket >"]
    encoder = Encoder.load(folder)
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts)
    assert_near(encoder.encode(texts, prompt=""), expected)
    again = SentenceTransformer(str(encoder.save(saved)), device="cpu", local_files_only=True)
    assert_near(again.encode(texts), expected)
    assert Encoder.load(saved).fingerprint == encoder.fingerprint
    return encoder


@pytest.mark.parametrize("changes", BERT_SETTINGS, ids=json.dumps)
@pytest.mark.parametrize("name", [GIST, DISTILBERT])
def test_a1_a4_case_and_accents_follow_the_side_files(
    name: str,
    changes: Json,
    golden_copy: Callable[..., Path],
    edit_json: Callable[..., Json],
    assert_near: Callable[..., None],
    tmp_path: Path,
) -> None:
    folder = golden_copy(name)
    before = Encoder.load(folder)
    edit_json(folder / "tokenizer_config.json", changes)
    encoder = assert_as_sentence_transformers(folder, assert_near, tmp_path / "saved")
    assert encoder.fingerprint != before.fingerprint
    text = "漢字日本" if "tokenize_chinese_chars" in changes else "CAFÉ"
    if name == DISTILBERT:  # the other lower-cases before its tokenizer
        assert not np.allclose(encoder.encode(text, prompt=""), before.encode(text, prompt=""), atol=1e-3)


@pytest.mark.filterwarnings("ignore:versions 4 and 5")
@pytest.mark.parametrize("name", ["SqueezeBertTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "ConvBertTokenizer"])
def test_a1_a4_every_class_of_bert_obeys_the_side_files(
    name: str,
    golden_copy: Callable[..., Path],
    edit_json: Callable[..., Json],
    assert_near: Callable[..., None],
    tmp_path: Path,
) -> None:
    folder = golden_copy(DISTILBERT)
    lower = Encoder.load(folder).encode("cafe", prompt="")
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": name, "do_lower_case": False})
    edit_json(folder / "config.json", drop=("transformers_version",))
    encoder = assert_as_sentence_transformers(folder, assert_near, tmp_path / "saved")
    # version 5 does not find the class ConvBertTokenizer and takes the normalizer of tokenizer.json
    assert np.allclose(encoder.encode("CAFE", prompt=""), lower, atol=1e-5) == (name == "ConvBertTokenizer")


BERT_CLASS_IDS = {
    "SqueezeBertTokenizer": (["World"], ["World"]),
    "ConvBertTokenizer": (["World"], ["world"]),
    "RealmTokenizer": (["World"], ["world"]),
    "RetriBertTokenizer": (["World"], ["world"]),
    "DPRQuestionEncoderTokenizer": (["World"], ["world"]),
    "DPRReaderTokenizerFast": (["World"], ["world"]),
}
"""Class -> tokens of "World" under `do_lower_case` false beside an uncased tokenizer.json, in versions 4 and 5; of 4,
from a run of 4.57.6.
"""


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", BERT_CLASS_IDS)
def test_a1_a5_a_class_that_the_versions_read_differently(name: str, version: int, tmp_path: Path) -> None:
    config = {"tokenizer_class": name, "do_lower_case": False}
    model = {"model_type": "bert", "transformers_version": f"{version}.9.0"}
    files = {"tokenizer.json": bert_json(first), "config.json": model, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    by_4, by_5 = BERT_CLASS_IDS[name]
    tokenizer = read_tokenizer(folder)
    assert tokenizer.encode("World").tokens[1:-1] == (by_4 if version == 4 else by_5)
    ids, messages = ours(folder)
    assert (ids == ids_of(folder)) == (version == 5 or by_4 == by_5)
    assert [f"version {version} wrote them" in notice for notice in messages] == [True] * (by_4 != by_5)
    check_saved(tokenizer, folder, files, tmp_path / "saved")


@pytest.mark.parametrize("name", ["MPNetTokenizer", "SplinterTokenizer", "NoSuchTokenizer"])
def test_a1_a4_an_unknown_class_gives_a_warning_and_is_not_saved(name: str, tmp_path: Path) -> None:
    config = {"tokenizer_class": name, "do_lower_case": False}
    files = {"tokenizer.json": bert_json(first), "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    ids, messages = ours(folder)
    [notice] = messages
    assert f"{name} is not known here" in notice
    assert "may read this folder in another way" in notice
    assert (ids == ids_of(folder)) == (name == "NoSuchTokenizer")
    tokenizer = read_tokenizer(folder)
    assert tokenizer.encode("World").tokens[1:-1] == ["world"]
    written = build_side_files(tokenizer, {"tokenizer_config.json": json.dumps(config)}, {"model_type": "bert"})
    saved = json.loads(written["tokenizer_config.json"])
    assert (saved["tokenizer_class"], saved["pad_token"]) == ("PreTrainedTokenizerFast", "[PAD]")
    check_saved(tokenizer, folder, files, tmp_path / "saved")


def test_a1_every_class_that_is_known_is_drawn_above() -> None:
    assert set(FAMILIES_BY_CLASS) <= {name for _, _, names in KINDS.values() for name in names}


def test_a1_a_cased_tokenizer_json_without_the_key_is_lower_cased(
    golden_copy: Callable[..., Path], edit_json: Callable[..., Json], assert_near: Callable[..., None], tmp_path: Path
) -> None:
    folder = golden_copy(GIST)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    edit_json(folder / "tokenizer_config.json", drop=("do_lower_case",))
    encoder = assert_as_sentence_transformers(folder, assert_near, tmp_path / "saved")
    np.testing.assert_array_equal(encoder.encode("NOON"), encoder.encode("noon"))


def test_a1_a_class_that_takes_tokenizer_json_as_it_is(tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}
    files = {"tokenizer.json": bert_json(first), "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path, files)
    ids, messages = ours(folder)
    assert not messages
    assert ids == ids_of(folder)
    assert read_tokenizer(folder).encode("Hello").tokens == ["[CLS]", "hello", "[SEP]"]


# ---- A2: added tokens


def with_a_new_token(folder: Path, edit_json: Callable[..., Json], where: str) -> int:
    """A token <ticket> past the vocabulary, named in one of the ways in use; its id."""
    index = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = folder / "tokenizer_config.json"
    if where == "added_tokens_decoder":
        decoder = json.loads(config.read_text("utf-8"))["added_tokens_decoder"]
        token = {key: value for key, value in added(index, "<ticket>").items() if key != "id"}
        edit_json(config, {where: decoder | {str(index): token}})
        return index
    edit_json(config, drop=("added_tokens_decoder",))
    if where == "added_tokens.json":
        edit_json(folder / where, {"<ticket>": index})
    else:
        edit_json(config, {where: ["<ticket>"]})
    return index


WAYS = ["added_tokens_decoder", "added_tokens.json", "additional_special_tokens", "extra_special_tokens"]


@pytest.mark.parametrize("where", WAYS)
def test_a2_a_token_that_only_a_side_file_names_is_one_token(
    where: str, golden_copy: Callable[..., Path], edit_json: Callable[..., Json], tmp_path: Path
) -> None:
    folder = golden_copy(GIST)
    index = with_a_new_token(folder, edit_json, where)
    tokenizer = read_tokenizer(folder)
    assert tokenizer.encode("<ticket>").ids[1:-1] == [index]
    ids, _ = ours(folder)
    assert ids == ids_of(folder)
    check_saved(tokenizer, folder, {"config.json": json.loads((folder / "config.json").read_text())}, tmp_path / "to")


def test_a2_a_table_of_the_new_size_gives_the_vectors_of_sentence_transformers(
    golden_copy: Callable[..., Path], edit_json: Callable[..., Json], assert_near: Callable[..., None], tmp_path: Path
) -> None:
    folder = golden_copy(GIST)  # its table has more rows than its tokenizer has tokens
    before = Encoder.load(folder)
    index = with_a_new_token(folder, edit_json, "added_tokens_decoder")
    if index >= before.spec.trunk.vocab_size:
        resize_table(folder, index + 1)
    encoder = assert_as_sentence_transformers(folder, assert_near, tmp_path / "saved")
    assert encoder.fingerprint != before.fingerprint


def resize_table(folder: Path, rows: int) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    table = arrays[name]
    fresh = np.random.default_rng(0).normal(size=(rows - len(table), table.shape[1])).astype(table.dtype)
    save_file(arrays | {name: np.concatenate([table, fresh])}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}), "utf-8")


def test_a2_an_id_that_is_not_the_declared_one_gives_a_warning(tmp_path: Path) -> None:
    tokenizer = bert_json(first)
    size = len(tokenizer["model"]["vocab"])
    token = {key: value for key, value in added(0, "<ticket>").items() if key != "id"}
    config = {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {str(size + 5): token}}
    folder = write_folder(
        tmp_path, {"tokenizer.json": tokenizer, "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    )
    ids, messages = ours(folder)
    assert ids == ids_of(folder)
    assert any(f"<ticket> has id {size}, not {size + 5}" in notice for notice in messages)


def test_a2_a_side_file_that_is_broken_is_named(tmp_path: Path) -> None:
    files = {"tokenizer.json": bert_json(first), "config.json": {"model_type": "bert"}}
    folder = write_folder(tmp_path, files)
    (folder / "tokenizer_config.json").write_text('{"additional_special_tokens": [3]}')
    with pytest.raises(NotAModelError, match=r"tokenizer_config\.json.*3"):
        read_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": "no"}')
    with pytest.raises(NotAModelError, match=r"do_lower_case .*'no'"):
        read_tokenizer(folder)


@pytest.mark.parametrize("where", ["tokenizer.json", "added_tokens_decoder"])
def test_a2_tokens_that_the_normalizer_makes_the_same_are_read_alike_in_every_load(where: str, tmp_path: Path) -> None:
    tokenizer = bert_json(first)
    size = len(tokenizer["model"]["vocab"])
    texts = ["<ticket>", "<TICKET>", "<Ticket>", "<b>"]
    tokens = [added(size + place, text, normalized=True, special=False) for place, text in enumerate(texts)]
    config: Json = {"tokenizer_class": "BertTokenizer"}
    if where == "tokenizer.json":
        tokenizer["added_tokens"] += tokens
    else:
        config[where] = {str(token.pop("id")): token for token in tokens}
    files = {"tokenizer.json": tokenizer, "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    for _ in range(12):
        messages: list[str] = []
        tokens_read = read_tokenizer(folder, messages).encode("<TICKET> <ticket> <Ticket> <tickeT> <B>").ids[1:-1]
        assert tokens_read == [size + 1, size, size + 2, size, size + 3]
    [notice] = messages
    assert "'<TICKET>' like '<ticket>', '<Ticket>' like '<ticket>'" in notice
    assert '"normalized": false' in notice
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")


BROKEN_SIDE_FILES = [
    (
        "tokenizer_config.json",
        {"additional_special_tokens": "<ticket>"},
        "additional_special_tokens is '<ticket>'.*list",
    ),
    ("tokenizer_config.json", {"additional_special_tokens": {"a": "<a>"}}, "additional_special_tokens is {.*list of"),
    ("tokenizer_config.json", {"extra_special_tokens": "<ticket>"}, "extra_special_tokens is '<ticket>'.*map names"),
    ("tokenizer_config.json", {"extra_special_tokens": {"a": 3}}, "extra_special_tokens: a token is .* not 3"),
    ("tokenizer_config.json", {"added_tokens_decoder": ["<ticket>"]}, "added_tokens_decoder is .'<ticket>'.*map ids"),
    ("tokenizer_config.json", {"added_tokens_decoder": None}, "added_tokens_decoder is None"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": "<ticket>"}}, "added_tokens_decoder has the id 'x'"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"9": 7}}, "added_tokens_decoder, id 9: .* not 7"),
    ("tokenizer_config.json", {"sep_token": {"content": "[SEP]", "lstrip": "no"}}, "sep_token: lstrip of .* is 'no'"),
    ("tokenizer_config.json", {"mask_token": False}, "mask_token: .* not False"),
    ("tokenizer_config.json", {"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class is .'BertTokenizer'"),
    ("special_tokens_map.json", {"additional_special_tokens": "<ticket>"}, "additional_special_tokens is '<ticket>'"),
    ("special_tokens_map.json", {"additional_special_tokens": 7}, "additional_special_tokens is 7.*list of tokens"),
    ("special_tokens_map.json", {"additional_special_tokens": [3]}, "additional_special_tokens: .* not 3"),
    ("special_tokens_map.json", {"cls_token": 5}, "cls_token: a token is a string .* not 5"),
    ("special_tokens_map.json", {"cls_token": {"lstrip": True}}, "cls_token: a token is a string"),
    ("added_tokens.json", {"<ticket>": "abc"}, "the id of '<ticket>' is 'abc'.*whole number"),
    ("added_tokens.json", {"<ticket>": None}, "the id of '<ticket>' is None"),
    ("added_tokens.json", {"<ticket>": -1}, "the id of '<ticket>' is -1"),
    ("added_tokens.json", ["<ticket>"], "it holds list, not an object"),
]


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize(("name", "content", "words"), BROKEN_SIDE_FILES)
def test_a2_the_side_file_that_is_broken_is_blamed(
    name: str, content: Json, words: str, form: str, tmp_path: Path
) -> None:
    tokenizer = bert_json(first)
    whole = tokenizer if form == "tokenizer.json" else "\n".join(tokenizer["model"]["vocab"])
    folder = write_folder(tmp_path, {form: whole, "config.json": {"model_type": "bert"}, name: content})
    with pytest.raises(NotAModelError, match=rf"{name} cannot be used: .*{words}"):
        read_tokenizer(folder)


# ---- A3: the prefix space


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("name", ["RobertaTokenizer", "LEDTokenizer", "MvpTokenizer", "GPT2Tokenizer"])
def test_a3_the_prefix_space_follows_the_side_file(name: str, expected: bool, tmp_path: Path) -> None:
    tokenizer = roberta_json(first)
    tokenizer["pre_tokenizer"]["add_prefix_space"] = not expected
    config = {"tokenizer_class": name, "add_prefix_space": expected}
    files = {"tokenizer.json": tokenizer, "config.json": {"model_type": "roberta"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    assert ours(folder) == (ids_of(folder), [])
    tokens = read_tokenizer(folder).encode("hello").tokens[1:-1]
    assert tokens == (["Ġhello"] if expected else ["hello"])
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")


# ---- A5: what versions 4 and 5 read differently


def version_case(change: str) -> dict[str, Json]:
    config: Json = {}
    if change in ("add_prefix_space", "post_processor of XLM-R"):
        tokenizer, model, config["tokenizer_class"] = xlm_roberta_json(first), "xlm-roberta", "XLMRobertaTokenizer"
    else:
        tokenizer, model, config["tokenizer_class"] = bert_json(first), "bert", "BertTokenizer"
    match change:
        case "add_prefix_space":
            config["add_prefix_space"] = False
        case "sep_token":
            config["sep_token"] = "[BOS]"
        case "normalizer":
            tokenizer["normalizer"] = {"type": "NFC"}
        case "max_input_chars_per_word":
            tokenizer["model"]["max_input_chars_per_word"] = 10
        case _:
            tokenizer["post_processor"] = None
    return {"tokenizer.json": tokenizer, "config.json": {"model_type": model}, "tokenizer_config.json": config}


CHANGES = [
    "add_prefix_space",
    "sep_token",
    "normalizer",
    "max_input_chars_per_word",
    "post_processor",
    "post_processor of XLM-R",
]
IDS_OF_4 = {
    "add_prefix_space": ["▁hello"],
    "sep_token": ["hello"],
    "normalizer": ["hello"],
    "max_input_chars_per_word": ["hello"],
}
"""What version 4 reads of "hello", without the tokens around it; written down from a run of 4.57.6."""


@pytest.mark.parametrize("change", CHANGES)
def test_a5_version_5_is_followed_where_no_file_names_one(change: str, tmp_path: Path) -> None:
    files = version_case(change)
    folder = write_folder(tmp_path / "model", files)
    ids, messages = ours(folder)
    assert ids == ids_of(folder)
    assert len(messages) == 1
    assert "no file names a version" in messages[0]
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")


@pytest.mark.parametrize("change", CHANGES)
def test_a5_the_version_that_wrote_the_folder_is_followed(change: str, tmp_path: Path) -> None:
    files = version_case(change)
    files["config.json"]["transformers_version"] = "4.57.6"
    folder = write_folder(tmp_path / "model", files)
    ids, messages = ours(folder)
    assert len(messages) == 1
    assert "version 4 wrote them and is followed" in messages[0]
    # version 4 takes tokenizer.json as it is in each of these
    assert ids == [Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids for text in TEXTS]
    assert ids != ids_of(folder)
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")


@pytest.mark.parametrize("named", [True, False])
def test_a5_the_mask_of_roberta_that_no_role_names_takes_the_space_before_it_in_version_4(
    named: bool, tmp_path: Path
) -> None:
    model = roberta_json(first)["model"]
    mask = {key: value for key, value in added(4, "<mask>").items() if key != "id"}
    config: Json = {"tokenizer_class": "RobertaTokenizer", "added_tokens_decoder": {"4": mask}}
    files = {
        "vocab.json": model["vocab"],
        "merges.txt": "#version: 0.2\n" + "\n".join(model["merges"]) + "\n",
        "config.json": {"model_type": "roberta"},
        "tokenizer_config.json": config | ({"mask_token": "<mask>"} if named else {}),
    }
    apart = ["a", "Ġ", "<mask>"]
    for version, tokens in {"4.57.6": apart if named else ["a", " <mask>"], "5.23.0": apart}.items():
        files["config.json"]["transformers_version"] = version
        folder = write_folder(tmp_path / version, files)
        assert read_tokenizer(folder).encode("a <mask>").tokens[1:-1] == tokens  # of 4, from a run of 4.57.6
    assert ours(folder)[0] == ids_of(folder)


def test_a5_a_folder_that_version_5_wrote_says_so(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    files = version_case("normalizer")
    write_folder(tmp_path / "model", files)
    transformers.AutoTokenizer.from_pretrained(str(tmp_path / "model")).save_pretrained(str(tmp_path / "saved"))
    shutil.copyfile(tmp_path / "model" / "config.json", tmp_path / "saved" / "config.json")
    ids, messages = ours(tmp_path / "saved")
    assert not messages  # version 5 writes what it read, and both read that alike
    assert ids == ids_of(tmp_path / "model")
    shutil.copyfile(tmp_path / "model" / "tokenizer.json", tmp_path / "saved" / "tokenizer.json")
    ids, messages = ours(tmp_path / "saved")
    assert ids == ids_of(tmp_path / "saved")
    assert "version 5 wrote them" in messages[0]


def test_a5_a_class_of_version_5_alone_says_that_version_5_wrote_the_folder(tmp_path: Path) -> None:
    tokenizer = roberta_json(first)
    config = {"tokenizer_class": "TokenizersBackend", "add_prefix_space": True}
    model = {"model_type": "roberta", "transformers_version": "4.57.6"}
    files = {"tokenizer.json": tokenizer, "config.json": model, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    ids, messages = ours(folder)
    assert ids == ids_of(folder)
    assert read_tokenizer(folder).encode("hello").tokens[1:-1] == ["hello"]
    assert ["version 5 wrote them" in notice for notice in messages] == [True]
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text("utf-8"))
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"  # version 4 does not know the other


def test_a5_load_gives_the_warning(
    golden_copy: Callable[..., Path], edit_json: Callable[..., Json], tmp_path: Path
) -> None:
    folder = golden_copy(E5)
    edit_json(folder / "tokenizer_config.json", {"add_prefix_space": False})
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", Notice)
        encoder = Encoder.load(folder)
    assert any("versions 4 and 5 of transformers" in str(warning.message) for warning in heard)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", Notice)
        Encoder.load(encoder.save(tmp_path / "saved"))
    assert not any("versions 4 and 5" in str(warning.message) for warning in heard)


def test_special_tokens_in_a_text_are_split_where_the_side_file_says_so(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "split_special_tokens": True}
    files = {"tokenizer.json": bert_json(first), "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    assert ours(folder) == (ids_of(folder), [])
    assert len(read_tokenizer(folder).encode("[MASK]").ids) > 3


def test_a_token_that_a_key_names_is_special_though_tokenizer_json_says_it_is_not(tmp_path: Path) -> None:
    tokenizer = roberta_json(first)
    tokenizer["added_tokens"].append(added(len(tokenizer["model"]["vocab"]), "<extra>", special=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True, "extra_token": "<extra>"}
    model = {"model_type": "roberta", "transformers_version": "4.57.6"}
    files = {"tokenizer.json": tokenizer, "config.json": model, "tokenizer_config.json": config}
    folder = write_folder(tmp_path / "model", files)
    ids, messages = ours(folder)
    assert ids != ids_of(folder)  # version 5 splits it, version 4 knows no such key
    assert "added tokens" in messages[0]
    check_saved(read_tokenizer(folder), folder, files, tmp_path / "saved")


def test_overrides_are_laid_over_the_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    files = {"tokenizer.json": bert_json(first), "config.json": {"model_type": "bert"}, "tokenizer_config.json": config}
    folder = write_folder(tmp_path, files)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder), do_lower_case=False)
    ids, _ = ours(folder, do_lower_case=False)
    assert ids == [theirs(text)["input_ids"] for text in TEXTS]
