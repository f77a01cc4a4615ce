"""Folders: every dialect of one model is one spec; what is missing, broken or unknown is an error that says what."""

import codecs
import json
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.known_models import KNOWN_MODELS
from gnomon.checkpoint.modules_json import DIALECTS, MODULE_TYPES, POOLING_KEYS
from gnomon.checkpoint.transformer_settings import TRANSFORMER_CONFIG_FILES
from gnomon.errors import (
    InputError,
    ModelError,
    NotAModelError,
    Notice,
    UnsafeFileError,
    UnsupportedError,
    WeightsError,
)
from gnomon.spec import POOLING_MODES, DenseSpec, NormalizeSpec, PoolingSpec

GIST, E5, STELLA = "GIST-Embedding-v0", "multilingual-e5-small", "stella_en_400M_v5"
E5_PROMPTS = {"query": "query: ", "document": "passage: "}
CLASSIC = "sentence_transformers.models."
NEW_MODULES = "sentence_transformers.sentence_transformer.modules."


def read(folder: Path, *, name: str | None = None, card: str | None = None) -> Checkpoint:
    return read_folder(Source(folder, name, None), card=card)


def write_modules(folder: Path, *rows: tuple[str, str]) -> None:
    """(type, path) of each module, in order."""
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(rows)]
    (folder / "modules.json").write_text(json.dumps(listed))


# ---- bad input


def test_no_folder_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="not a folder"):
        read(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAModelError, match="is a file"):
        Encoder.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAModelError, match=r"neither modules\.json nor config\.json"):
        Encoder.load(tmp_path / "empty")


NO_MODULES = ["", "{", "null", "3", '"x"', '{"idx": 0}', "[]", "[1]", "[[]]", "[" * 100_000, b"\xff\xfe[]"]
NO_MODULES += ['[{"path": ""}]', f'[{{"type": "{CLASSIC}Dense"}}]']
NO_MODULES += [
    f'[{{"name": "0", "path": "", "type": "{CLASSIC}Transformer"}}, {{"name": "0", "path": "", "type": "x"}}]'
]
NO_MODULES += [f'[{{"idx": 0, "path": "", "type": "{CLASSIC}Dropout"}}]']


@pytest.mark.parametrize("text", NO_MODULES, ids=lambda text: str(text[:24]))
def test_a_list_of_modules_that_is_none(text: str | bytes, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    (folder / "modules.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NotAModelError, match=r"modules\.json"):
        read(folder)


@pytest.mark.parametrize(
    "path", ["../1_Pooling", "1_Pooling/../..", "..", "/etc", "C:\\1_Pooling", "..\\1_Pooling", "a\\b", "C:x", None, 3]
)
def test_a_path_that_leaves_the_folder(path: Any, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    shutil.copytree(folder / "1_Pooling", folder.parent / "1_Pooling")  # would do, were it read
    write_modules(folder, (f"{CLASSIC}Transformer", ""), (f"{CLASSIC}Pooling", path))
    with pytest.raises(UnsafeFileError, match="leaves the model's folder"):
        read(folder)


@pytest.mark.parametrize(
    "kind",
    ["sentence_transformers.models.LSTM", "my_code.Pooling", "os.system", "torch.nn.modules.linear.Identity", None, 3],
)
def test_a_module_that_is_not_known_is_named(kind: Any, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    write_modules(folder, (f"{CLASSIC}Transformer", ""), (kind, "1_Pooling"))
    with pytest.raises(UnsupportedError) as caught:
        read(folder)
    assert repr(kind) in str(caught.value)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("Pooling", "Transformer"), "first module is Pooling"),
        (("Transformer", "Pooling", "Pooling"), "Pooling must not come after"),
        (("Transformer", "Pooling", "Transformer"), "Transformer must not come after"),
        (("Transformer", "Normalize", "Pooling"), "Pooling must not come after"),
    ],
)
def test_modules_out_of_order(kinds: tuple[str, ...], words: str, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    write_modules(folder, *((CLASSIC + kind, "1_Pooling" if kind == "Pooling" else "") for kind in kinds))
    with pytest.raises(UnsupportedError, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"activation_function": "torch.nn.modules.activation.Softplus"}, UnsupportedError, "Softplus"),
        ({"activation_function": "os.system"}, UnsupportedError, "'os.system'"),
        ({"activation_function": ["torch.nn.Tanh"]}, ModelError, "activation_function"),
        ({"in_features": 48}, ModelError, "in_features is 48, but .* 64"),
        ({"in_features": None}, ModelError, "in_features"),
        ({"out_features": 1000}, WeightsError, r"linear\.weight is \[1024, 64\], expected \[1000, 64\]"),
        ({"bias": False}, WeightsError, r"1 extra: linear\.bias"),
        ({"use_residual": True}, WeightsError, r"1 missing: residual\.weight"),
        ({"module_input_name": "token_embeddings"}, UnsupportedError, "module_input_name 'token_embeddings'"),
        ({"scale": 2.0}, UnsupportedError, "scale"),
    ],
)
def test_a_dense_that_cannot_be(
    changes: dict, error: type, words: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(STELLA)
    edit_json(folder / "2_Dense_1024" / "config.json", changes)
    with pytest.raises(error, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"word_embedding_dimension": 128, "pooling_mode_cls_token": True}, "128.* trunk gives 64"),
        ({"embedding_dimension": 32, "pooling_mode": "cls"}, "32.* trunk gives 64"),
        ({"embedding_dimension": 64, "pooling_mode": "median"}, "'median'"),
        ({"embedding_dimension": 64, "pooling_mode": ["cls", "median"]}, "'median'"),
        ({"embedding_dimension": 64, "pooling_mode": []}, "no mode"),
        ({"embedding_dimension": 64, "pooling_mode": None}, "pooling_mode"),
        ({"embedding_dimension": 64, "pooling_mode": 3}, "pooling_mode"),
        ({"word_embedding_dimension": 64, "pooling_mode_attention": True}, "pooling_mode_attention True"),
        ({}, "1_Pooling"),
    ],
)
def test_a_pooling_that_cannot_be(config: dict, words: str, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"default_prompt_name": "query"}, r"default_prompt_name 'query' is not among the prompts \(none\)"),
        ({"default_prompt_name": "q", "prompts": {"a": "x: "}}, "'q' is not among the prompts a"),
        ({"similarity_fn_name": "jaccard"}, "'jaccard' is not one of cosine, dot"),
        ({"similarity_fn_name": ["cosine"]}, "similarity_fn_name"),
        ({"prompts": ["query: "]}, "prompts"),
        ({"truncate_dim": 0}, "truncate_dim"),
        ({"truncate_dim": -1}, "truncate_dim"),
        ({"truncate_dim": "32"}, "truncate_dim"),
        ({"matryoshka_dims": 32}, "matryoshka_dims"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict, words: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config_sentence_transformers.json", settings)
    with pytest.raises(ModelError, match=words):
        read(folder)


def test_files_that_are_missing_or_damaged(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read(folder)
    weights.unlink()
    with pytest.raises(NotAModelError, match="holds no weights"):
        read(folder)
    weights.write_bytes(whole)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"PEFT adapter.*merge_and_unload"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(NotAModelError, match="no tokenizer"):
        read(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(NotAModelError, match=r"config\.json holds a list"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(NotAModelError, match=r"no config\.json"):
        read(folder)


class _Call:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_calls_a_function_is_refused_and_calls_nothing(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("multi-qa-distilbert-cos-v1")
    marker = folder / "called"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings.LayerNorm.weight": _Call(marker)}, protocol=2))
    with pytest.raises(UnsafeFileError):
        read(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("architectures", "does"),
    [
        (["BertForSequenceClassification"], "scores"),
        (["XLMRobertaForSequenceClassification"], "scores"),
        (["DistilBertForTokenClassification"], "labels tokens"),
        (["BertForQuestionAnswering"], "finds answers"),
        (["RobertaForMultipleChoice"], "chooses"),
        (["RobertaForCausalLM"], "generates"),
        (["BertLMHeadModel"], "generates"),
        (["BertForTokenClassification", "BertForSequenceClassification"], "labels tokens"),
    ],
)
def test_a8_a_plain_folder_tuned_for_another_task_is_refused(
    architectures: list[str], does: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config.json", {"architectures": architectures})
    assert read(folder).spec.modules == (NormalizeSpec(),)  # saved by sentence-transformers: an embedder
    (folder / "modules.json").unlink()
    with pytest.raises(UnsupportedError, match=does) as caught:
        read(folder)
    assert architectures[0] in str(caught.value)
    assert "AutoModel" in str(caught.value)


@pytest.mark.parametrize(
    "architectures",
    [None, [], ["BertModel"], ["BertForMaskedLM"], ["BertForPreTraining"], ["NewModel", "NewForTokenClassification"]],
)
def test_a8_a_base_model_still_loads(architectures: Any, golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    (folder / "modules.json").unlink()
    edit_json(folder / "config.json", {"architectures": architectures})
    assert read(folder).spec.pooling.modes == ("mean",)


@pytest.mark.parametrize("modules", [True, False])
@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder", "ColBERT", "Later"])
def test_a8_another_kind_of_model_is_named(
    kind: str, modules: bool, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    settings = folder / "config_sentence_transformers.json"
    edit_json(settings, {"model_type": "SentenceTransformer"})
    assert read(folder).spec.modules == (NormalizeSpec(),)
    edit_json(settings, {"model_type": kind})
    if not modules:
        (folder / "modules.json").unlink()
    with pytest.raises(UnsupportedError, match=rf"model_type '{kind}': this is a {kind}, which"):
        read(folder)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("SparseEncoder", "sparse_encoder.models.SpladePooling"),
        ("CrossEncoder", "cross_encoder.modules.logit_score.LogitScore"),
        ("MultiVectorEncoder", "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"),
    ],
)
def test_a8_a_module_of_another_kind_of_model_is_recognised(
    kind: str, module: str, golden_copy: Callable[..., Path]
) -> None:
    folder = golden_copy(GIST)
    write_modules(folder, (f"{CLASSIC}Transformer", ""), (f"sentence_transformers.{module}", "1_Pooling"))
    with pytest.raises(UnsupportedError, match=f"this is a {kind}, which") as caught:
        read(folder)
    assert module in str(caught.value)


# ---- dialects


def test_a_plain_hugging_face_folder_is_pooled_by_the_mean_and_says_so(
    golden_copy: Callable[..., Path], golden_folder: Callable[[str], Path], assert_near: Callable
) -> None:
    folder = golden_copy(E5, "plain")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    (folder / "1_Pooling").rmdir()
    with pytest.warns(Notice, match="plain Hugging Face checkpoint, with mean pooling and without normalisation"):
        encoder = Encoder.load(folder)
    assert (encoder.spec.pooling, encoder.spec.modules) == (PoolingSpec(("mean",)), ())
    assert encoder.max_seq_length == 96  # model_max_length of the tokenizer says 512, the positions end at 96
    original = golden_folder(E5)
    texts = json.loads((original / "texts.json").read_text("utf-8"))["texts"]
    short = [i for i, ids_T in enumerate(encoder.tokenize(texts).ids) if len(ids_T) < 64]
    result = encoder.encode([texts[i] for i in short], normalize_embeddings=True)
    assert_near(result, np.load(original / "expected.npz")["embeddings"][short], 5e-5)


def test_without_a_pooling_the_mean_is_used_with_a_warning(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    write_modules(folder, (f"{CLASSIC}Transformer", ""), (f"{CLASSIC}Normalize", "1_Normalize"))
    result = read(folder)
    assert result.spec.pooling.modes == ("mean",)
    assert result.spec.modules == (NormalizeSpec(),)
    assert any("mean pooling" in message for message in result.warnings)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_type(dialect: str, golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(STELLA)
    classic = read(folder).spec
    pooling = {"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": True}
    if dialect != "classic":
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
        edit_json(folder / "2_Dense_1024" / "config.json", names | {"use_residual": False})
    types = DIALECTS[dialect]
    rows = [(types["Transformer"], ""), (types["Pooling"], "1_Pooling"), (types["Dense"], "2_Dense_1024")]
    write_modules(folder, *rows)
    assert read(folder).spec == classic
    write_modules(folder, *rows, (types["Normalize"], "3_Normalize"))
    assert read(folder).spec.modules == (*classic.modules, NormalizeSpec())


def test_the_names_of_types_are_those_that_were_published() -> None:
    new = "sentence_transformers.sentence_transformer.modules."
    base = "sentence_transformers.base.modules."
    published = {
        f"{CLASSIC}Transformer": "Transformer",
        f"{CLASSIC}Pooling": "Pooling",
        f"{CLASSIC}Dense": "Dense",
        f"{CLASSIC}Normalize": "Normalize",
        f"{CLASSIC}StaticEmbedding": "StaticEmbedding",
        f"{base}transformer.Transformer": "Transformer",
        f"{new}pooling.Pooling": "Pooling",
        f"{base}dense.Dense": "Dense",
        f"{new}normalize.Normalize": "Normalize",
        f"{base}normalize.Normalize": "Normalize",
        f"{new}static_embedding.StaticEmbedding": "StaticEmbedding",
    }
    assert published.items() <= MODULE_TYPES.items()


def test_a14_modules_are_read_in_the_order_of_the_file_and_may_lie_in_folders(golden_copy: Callable[..., Path]) -> None:
    """As sentence-transformers, which does not look at idx."""
    folder = golden_copy(GIST)
    expected = read(folder).spec
    trunk = folder / "0_Transformer"
    trunk.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"):
        (folder / name).rename(trunk / name)
    rows = [("Transformer", "0_Transformer", 7), ("Pooling", "1_Pooling/", 1), ("Normalize", "2_Normalize", 0)]
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": CLASSIC + kind} for kind, path, idx in rows]
    (folder / "modules.json").write_text(json.dumps(listed))
    assert read(folder).spec == expected


@pytest.mark.parametrize("modes", [*((mode,) for mode in POOLING_MODES), ("max", "mean", "lasttoken"), POOLING_MODES])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_both_dialects_of_pooling(
    modes: tuple[str, ...], include_prompt: bool, golden_copy: Callable[..., Path]
) -> None:
    folder = golden_copy(GIST)
    path = folder / "1_Pooling" / "config.json"
    old = {"word_embedding_dimension": 64, **{key: mode in modes for key, mode in POOLING_KEYS.items()}}
    path.write_text(json.dumps(old | {"include_prompt": include_prompt}))
    result = read(folder).spec
    assert result.pooling == PoolingSpec(modes, include_prompt)
    assert result.dim == 64 * len(modes)
    new = {"embedding_dimension": 64, "pooling_mode": modes[0] if len(modes) == 1 else list(modes)}
    path.write_text(json.dumps(new | {"include_prompt": include_prompt}))
    assert read(folder).spec == result


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Dropout", f"{NEW_MODULES}dropout.Dropout"])
def test_a14_a_dropout_is_left_out_with_a_warning(kind: str, golden_copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = golden_copy(GIST)
    expected = read(folder).spec
    rows = [(f"{CLASSIC}Transformer", ""), (f"{CLASSIC}Pooling", "1_Pooling"), (kind, "2_Dropout")]
    write_modules(folder, *rows, (f"{CLASSIC}Normalize", "3_Normalize"))
    result = read(folder)
    assert result.spec == expected
    [message] = result.warnings
    assert "Dropout" in message


def test_a14_another_name_of_cosine(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    path = folder / "config_sentence_transformers.json"
    edit_json(path, {"similarity_fn_name": "cos_sim"})
    assert read(folder).spec.similarity == "cosine"
    edit_json(path, {"similarity_fn_name": "dot_score"})  # sentence-transformers 6.2 takes cosine for it
    with pytest.raises(UnsupportedError, match="'dot_score' is not one of cosine, dot"):
        read(folder)


# ---- encodings and names


JSON_FILES = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("name", JSON_FILES)
def test_a13_json_with_a_byte_order_mark_is_read(name: str, golden_copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = golden_copy(GIST)
    expected = Encoder.load(folder)
    assert (folder / name).is_file()
    (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    result = Encoder.load(folder)
    assert result.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(result.encode("A naïve sundial"), expected.encode("A naïve sundial"))
    saved = result.save(tmp_path / "saved")
    assert not [path for path in saved.rglob("*.json") if path.read_bytes().startswith(codecs.BOM_UTF8)]


def test_a13_json_as_windows_redirects_it_is_read(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    expected = read(folder).spec
    (folder / "modules.json").write_text((folder / "modules.json").read_text(), "utf-16")
    assert read(folder).spec == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be any bytes")
@pytest.mark.parametrize("files", [("tokenizer.json",), ("vocab.txt",)])
def test_a13_a_folder_whose_name_is_not_utf_8(
    files: tuple[str, ...], golden_copy: Callable[..., Path], tmp_path: Path
) -> None:
    folder = golden_copy(GIST)
    for name in {"tokenizer.json", "vocab.txt"} - {*files}:
        (folder / name).unlink()
    expected = Encoder.load(folder).encode("A naïve sundial")
    named = folder.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le")))
    result = Encoder.load(named)
    np.testing.assert_array_equal(result.encode("A naïve sundial"), expected)
    assert result.name == "mod\ufffdle"
    assert (result.save(named.with_name(named.name + "2")) / "config.json").is_file()


def test_the_heads_of_stella(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(STELLA)
    spec = read(folder).spec
    assert spec.modules == (DenseSpec("2_Dense_1024", 64, 1024),)
    assert [(head.name, head.out_features) for head in spec.dim_modules] == [
        (f"2_Dense_{dim}", dim) for dim in (256, 512, 1024)
    ]
    shutil.rmtree(folder / "2_Dense_256")
    shutil.rmtree(folder / "2_Dense_512")
    assert read(folder).spec.dim_modules == ()


# ---- lengths


@pytest.mark.parametrize("name", TRANSFORMER_CONFIG_FILES)
def test_max_seq_length_of_every_length_file(name: str, golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    (folder / "sentence_bert_config.json").unlink()
    edit_json(folder / name, {"max_seq_length": 20, "do_lower_case": True})
    tokenizer = read(folder).spec.tokenizer
    assert (tokenizer.max_seq_length, tokenizer.lower_case) == (20, True)


@pytest.mark.parametrize(
    ("length_file", "model_max_length", "limit", "noticed"),
    [
        (None, 30, 30, False),
        (None, 512, 64, False),
        (None, 1e30, 64, False),
        (None, None, 64, False),
        ({"max_seq_length": None}, 30, 30, False),
        ({"max_seq_length": 40}, 30, 40, False),
        ({"max_seq_length": 500}, 30, 64, True),
        ({"do_lower_case": True}, 30, 30, False),
    ],
)
def test_max_seq_length_without_one_is_the_tokenizers_within_the_positions(
    length_file: dict | None,
    model_max_length: Any,
    limit: int,
    noticed: bool,
    golden_copy: Callable[..., Path],
    edit_json: Callable,
) -> None:
    folder = golden_copy(GIST)
    (folder / "sentence_bert_config.json").unlink()
    if length_file is not None:
        edit_json(folder / "sentence_bert_config.json", length_file)
    edit_json(folder / "tokenizer_config.json", {"model_max_length": model_max_length})
    result = read(folder)
    assert result.spec.tokenizer.max_seq_length == limit
    assert ["64 positions" in message for message in result.warnings] == [True] * noticed


@pytest.mark.parametrize("length", [0, -1, "20", 2, 2.5])
def test_a_max_seq_length_that_cannot_be(length: Any, golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(ModelError, match="max_seq_length"):
        Encoder.load(folder)


# ---- known names


def _only_readme(folder: Path, text: str) -> str | None:
    (folder / "README.md").write_text(text)


def _name_or_path(folder: Path, text: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": text}))


@pytest.mark.parametrize(
    ("known_by", "set_up", "hub_id"),
    [
        ("hub id", None, "intfloat/multilingual-e5-small"),
        ("hub id", None, "Intfloat/Multilingual-E5-small"),
        ("hub id", None, "intfloat/e5-base-v2"),
        ("_name_or_path", lambda folder: _name_or_path(folder, "intfloat/multilingual-e5-base"), None),
        ("_name_or_path", lambda folder: _name_or_path(folder, "/home/me/e5-large-v2/"), None),
        ("base_model", lambda folder: _only_readme(folder, f"---\nbase_model: intfloat/{E5}\n---\n# Mine\n"), None),
        ("base_model", lambda folder: _only_readme(folder, f"---\nbase_model:\n- intfloat/{E5}\n---\ntext\n"), None),
        ("heading", lambda folder: _only_readme(folder, f"---\nlicense: mit\n---\n\n## {E5}\n\n## Usage\n"), None),
        ("heading", lambda folder: _only_readme(folder, "# Multilingual-E5-small\n\ntext"), None),
        ("heading", lambda folder: _only_readme(folder, f"\ufeffHello\r\n\r\n# {E5} #\r\n"), None),
        ("heading", lambda folder: _only_readme(folder, f"<!-- # mine -->\n\n{E5}\n=====\n\n# Usage\n"), None),
        (
            "heading",
            lambda folder: _only_readme(folder, f"<H1 align='center'>\n<b>{E5}</b>\n</H1>\n\n# Usage"),
            None,
        ),
        ("heading", lambda folder: _only_readme(folder, f"text\n\n  {E5}\n  ---\n\n# Usage\n"), None),
        ("base_model", lambda folder: _only_readme(folder, f"---\nbase_model: ['intfloat/{E5}'] # it\n---\n"), None),
        ("base_model", lambda folder: _only_readme(folder, f"---\nbase_model:\n  - '{E5}'\ntags: [a]\n---\n"), None),
    ],
)
def test_the_prompts_of_a_known_model_are_supplied_with_a_warning(
    known_by: str, set_up: Callable[[Path], None] | None, hub_id: str | None, golden_copy: Callable[..., Path]
) -> None:
    folder = golden_copy(E5, "renamed")
    assert (read(folder).known_model, read(folder).spec.prompts, read(folder).warnings) == (None, {}, ())
    if set_up:
        set_up(folder)
    result = read(folder, name=hub_id)
    assert result.spec.prompts == E5_PROMPTS
    [message] = result.warnings
    assert known_by in message
    assert "'query: '" in message
    assert "'passage: '" in message


@pytest.mark.parametrize(
    "readme",
    [
        f"We tuned.\nbase_model: intfloat/{E5} was tried\n",
        f"---\nlicense: mit\n---\n\n# Mine\n\nbase_model: {E5}\n",
        f"---\nlicense: mit\n# base_model: {E5}\n---\n# Mine\n",
        f"# Mine\n\n```python\n# {E5}\nload()\n```\n",
        f"```yaml\n# {E5}\nbase_model: {E5}\n```\n\n# Mine\n",
        f"~~~\n# {E5}\n",
        f"# Mine\n\ntext\n\n## {E5}\n\nthe baseline\n",
        f"Mine\n====\n\n# {E5}\n",
        f"<!--\n# {E5}\n-->\n# Mine\n",
        f'<h1 align="center">acme-embed</h1>\n\n## {E5}\n\nthe baseline\n',
        f"<div><h2>\n  acme\n</h2></div>\n\n## {E5}\n",
        f"<h1><img src='logo.png'></h1>\n\n## {E5}\n",
        f"  acme-embed\n  ==\n\n## {E5}\n",
        f"# Better than {E5}\n",
        f"#{E5}\n",
        f"---\nbase_model:\n- intfloat/{E5}\n- mine/other\n---\n# A merge\n",
        f"---\nbase_model: mine/other\ndatasets:\n- {E5}\n---\n# Mine\n",
        f"text\n\n---\nbase_model: {E5}\n---\n# Mine\n",
    ],
)
def test_a10_other_places_of_a_readme_name_no_model(readme: str, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(E5, "renamed")
    _only_readme(folder, readme)
    result = read(folder)
    assert (result.known_model, dict(result.spec.prompts), result.warnings) == (None, {}, ())


def test_a10_the_licence_is_that_of_the_front_matter(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(GIST)
    _only_readme(folder, "---\ntags:\n- a\nlicense: 'apache-2.0'\n---\n# Mine\n")
    assert read(folder).license == "apache-2.0"
    _only_readme(folder, "# Mine\n\n---\nlicense: mit\n---\n")
    assert read(folder).license is None


def test_a_folder_is_known_by_its_name_or_by_card(
    golden_copy: Callable[..., Path], golden_folder: Callable[[str], Path], assert_near: Callable
) -> None:
    folder = golden_copy(E5, "renamed")
    with pytest.warns(Notice, match="by its folder's name"):
        named = Encoder.load(golden_folder(E5))
    with pytest.warns(Notice, match="by card="):
        given = Encoder.load(folder, card=E5)
    with warnings.catch_warnings(record=True) as caught:
        plain = Encoder.load(folder)
    assert caught == []
    expected = plain.encode(["query: sundial", "passage: sundial"])
    for encoder in (named, given):
        assert encoder.prompts == E5_PROMPTS
        assert_near([encoder.encode_query("sundial"), encoder.encode_document("sundial")], expected)
    with pytest.raises(InputError, match="card 'e5-tiny'") as error:
        Encoder.load(folder, card="e5-tiny")
    assert all(name in str(error.value) for name in KNOWN_MODELS)


def test_prompts_of_the_folder_come_first_and_empty_ones_are_none(
    golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(E5)
    path = folder / "config_sentence_transformers.json"
    edit_json(path, {"prompts": {"query": "", "document": ""}, "default_prompt_name": None})
    assert read(folder).spec.prompts == E5_PROMPTS
    edit_json(path, {"prompts": {"query": "ask: ", "document": ""}})
    assert (read(folder).spec.prompts, read(folder).warnings) == ({"query": "ask: "}, ())
    edit_json(path, {"prompts": {"mine": "m: "}})
    assert read(folder).spec.prompts == {"mine": "m: ", **E5_PROMPTS}
    assert "The folder lacks prompts" in read(folder).warnings[0]
    edit_json(path, {"prompts": {"query": "q: ", "passage": "p: "}})
    result = read(folder, card=E5)  # a folder that speaks of queries or documents is not spoken over
    assert (dict(result.spec.prompts), result.warnings) == ({"query": "q: ", "passage": "p: "}, ())


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
def test_an_empty_prompt_may_be_the_default(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    path = folder / "config_sentence_transformers.json"
    edit_json(path, {"prompts": {"query": "ask: ", "document": ""}, "default_prompt_name": "document"})
    encoder = Encoder.load(folder)
    np.testing.assert_array_equal(encoder.encode("sundial"), encoder.encode("sundial", prompt=""))


def test_an_empty_document_prompt_is_not_the_default_one(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    path = folder / "config_sentence_transformers.json"
    edit_json(path, {"prompts": {"query": "ask: ", "document": ""}, "default_prompt_name": "query"})
    encoder = Encoder.load(folder)
    np.testing.assert_array_equal(encoder.encode_document("sundial"), encoder.encode("sundial", prompt=""))


def test_the_query_prompt_of_stella_goes_by_task(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    known, renamed = read(golden_copy(STELLA)), read(golden_copy(STELLA, "renamed"))
    assert known.spec.query_prompt_names[""] == "s2p_query"
    assert known.spec.query_prompt_names["sts"] == "s2s_query"
    assert (known.warnings, renamed.warnings, renamed.spec.query_prompt_names) == ((), (), {})
    without = golden_copy(STELLA, "without")
    edit_json(without / "config_sentence_transformers.json", drop=("prompts",))
    assert read(without, card=STELLA).spec.prompts == known.spec.prompts
