"""Configs: every key is accounted for. Tensors: every spelling of a model is that model. Reference: transformers."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gnomon import Encoder
from gnomon.checkpoint.families import ACTIVATIONS, read_trunk
from gnomon.checkpoint.weights import read_weights
from gnomon.errors import ModelError, UnsupportedError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

TINY = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
BERT = {"model_type": "bert", "vocab_size": 40, **TINY}
NEW = {"model_type": "new", "vocab_size": 40, **TINY}
DISTILBERT = {"model_type": "distilbert", "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48}
ONLY_TRUNK = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
TEXTS = [
    "how do plants make food",
    "",
    "A sundial tells the hour by a shadow; a gnomon casts it.",
    "x" * 300,
    "naïve café, 東京 — 42!",
]


# ---- config keys


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (BERT, "position_embedding_type", "relative_key"),
        (BERT, "position_embedding_type", "relative_key_query"),
        (BERT, "is_decoder", True),
        (BERT, "is_encoder_decoder", True),
        (BERT, "add_cross_attention", True),
        (BERT, "pruned_heads", {"0": [1]}),
        (BERT, "quantization_config", {"quant_method": "gptq"}),
        (BERT, "rescale_layers", 2),
        (BERT, "hidden_act", "mish"),
        (DISTILBERT, "activation", "quick_gelu"),
        (DISTILBERT, "position_embedding_type", "relative_key"),
        (DISTILBERT, "quantization_config", {"quant_method": "awq"}),
        (NEW, "rope_scaling", {"type": "linear", "factor": 2.0}),
        (NEW, "rope_scaling", {"type": "dynamic", "factor": 2.0}),
        (NEW, "rope_scaling", {"type": "ntk", "factor": 2.0, "mixed_b": 0.1}),
        (NEW, "rope_scaling", {"type": "ntk"}),
        (NEW, "rope_scaling", "ntk"),
        (NEW, "layer_norm_type", "rms_norm"),
        (NEW, "logn_attention_scale", True),
        (NEW, "position_embedding_type", "alibi"),
        ({**BERT, "model_type": "roberta"}, "position_embedding_type", "relative_key"),
        (BERT, "model_type", "modernbert"),
        (BERT, "model_type", None),
    ],
)
def test_a_value_that_would_change_the_vectors_is_an_error_that_names_it(base: dict, key: str, value: Any) -> None:
    read_trunk(base)
    with pytest.raises(UnsupportedError) as caught:
        read_trunk({**base, key: value})
    word = "activation" if key == "hidden_act" else key
    assert word in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("base", "changes", "word"),
    [
        (BERT, {"hidden_size": 0}, "hidden"),
        (BERT, {"hidden_size": "32"}, "hidden"),
        (BERT, {"num_hidden_layers": -1}, "layers"),
        (BERT, {"num_attention_heads": 5}, "heads"),
        (BERT, {"num_attention_heads": 4.0}, "heads"),
        (BERT, {"intermediate_size": None}, "intermediate_size"),
        (BERT, {"vocab_size": 0}, "vocab_size"),
        (BERT, {"max_position_embeddings": "512"}, "position"),
        (BERT, {"max_position_embeddings": -5}, "position"),
        (BERT, {"type_vocab_size": -1}, "token_types|type_vocab_size"),
        (BERT, {"layer_norm_eps": "1e-12"}, "norm_eps"),
        (NEW, {"hidden_size": 12, "num_attention_heads": 4}, "head size 3 is odd"),
        (NEW, {"rope_theta": "large"}, "rope_theta"),
        (NEW, {"rope_theta": 0}, "rope_theta"),
        ({**BERT, "model_type": "roberta"}, {"pad_token_id": None}, "pad_token_id"),
        ({**BERT, "model_type": "roberta"}, {"max_position_embeddings": 2}, "position"),
        (BERT, {"hidden_act": ["gelu"]}, "activation"),
        (BERT, {"model_type": ["bert"]}, "model_type"),
    ],
)
def test_a_size_that_cannot_be_is_an_error(base: dict, changes: dict, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        read_trunk({**base, **changes})


def test_an_unknown_key_passes_where_the_caller_says_so(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    expected = Encoder.load(folder).encode(TEXTS)
    edit_json(folder / "config.json", {"rescale_layers": 2})
    with pytest.raises(UnsupportedError, match=r"ignore_config_keys=\['rescale_layers'\]"):
        Encoder.load(folder)
    np.testing.assert_array_equal(Encoder.load(folder, ignore_config_keys=["rescale_layers"]).encode(TEXTS), expected)
    edit_json(folder / "config.json", {"is_decoder": True})
    with pytest.raises(UnsupportedError, match="is_decoder"):  # known to change vectors: no caller knows better
        Encoder.load(folder, ignore_config_keys=["rescale_layers", "is_decoder"])


@pytest.mark.parametrize("empty", [None, {}, [], ""])
def test_an_unknown_key_without_a_value_passes(empty: Any) -> None:
    assert read_trunk({**BERT, "rescale_layers": empty}) == read_trunk(BERT)


HARMLESS: dict[str, Any] = {
    "fp16": False,
    "_commit_hash": "8b3219a92973c328a8e22fadcfa821b5dc75636a",
    "transformers.js_config": {"dtype": "q8", "use_external_data_format": {"model.onnx": 1}},
    "layerdrop": 0.0,
    "model_max_length": 512,
    "is_causal": False,
    "use_bidirectional_attention": True,
    "name_or_path": "somewhere",
    "unsloth_version": "2026.1",
    "use_flash_attn": True,
    "eos_token_ids": 0,
    "summary_use_proj": True,
    "do_lower_case": True,
    "encoder_repetition_penalty": 1.0,
}


@pytest.mark.parametrize("base", [BERT, NEW, DISTILBERT, {**BERT, "model_type": "roberta"}], ids=str)
def test_a14_keys_that_change_nothing_are_read_over(base: dict) -> None:
    assert read_trunk({**base, **HARMLESS}) == read_trunk(base)


@pytest.mark.parametrize(("key", "value"), [("is_causal", True), ("use_bidirectional_attention", False)])
def test_a14_attention_in_one_direction_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"{key} {value}"):
        read_trunk({**BERT, key: value})


def test_a14_an_embedding_size_is_that_of_the_states_or_refused() -> None:
    assert read_trunk({**BERT, "embedding_size": 32}) == read_trunk(BERT)
    with pytest.raises(UnsupportedError, match=r"'embedding_size' \(16\)"):
        read_trunk({**BERT, "embedding_size": 16})


@pytest.mark.parametrize("name", ["BertConfig", "RobertaConfig", "XLMRobertaConfig", "DistilBertConfig"])
def test_a14_every_default_of_transformers_is_read(name: str) -> None:
    """A config with every attribute that the installed transformers has, and what it drops of generation."""
    transformers = pytest.importorskip("transformers")
    written = json.loads(getattr(transformers, name)().to_json_string(use_diff=False))
    result = read_trunk(written)
    assert (result.hidden_size, result.vocab_size) == (768, written["vocab_size"])
    generation = transformers.GenerationConfig()._get_default_generation_params()
    assert read_trunk(generation | written) == result
    smallest = {"model_type": written["model_type"]}
    assert read_trunk(smallest).vocab_size == written["vocab_size"]


def test_a14_the_common_names_of_distilbert_sizes_are_read(
    golden_copy: Callable[..., Path], edit_json: Callable, tmp_path: Path
) -> None:
    folder = golden_copy("multi-qa-distilbert-cos-v1")
    encoder = Encoder.load(folder)
    own = json.loads((folder / "config.json").read_text())
    common = {"hidden_size": own["dim"], "num_hidden_layers": own["n_layers"], "num_attention_heads": own["n_heads"]}
    edit_json(folder / "config.json", common)
    assert Encoder.load(folder).fingerprint == encoder.fingerprint
    edit_json(folder / "config.json", drop=("dim", "n_layers", "n_heads"))
    again = Encoder.load(folder)
    assert again.fingerprint == encoder.fingerprint
    assert Encoder.load(again.save(tmp_path / "saved")).fingerprint == encoder.fingerprint
    edit_json(folder / "config.json", {"n_layers": own["n_layers"] + 1})
    with pytest.raises(ModelError, match=f"n_layers and its other name say .*{own['n_layers'] + 1}"):
        Encoder.load(folder)


def test_keys_of_speed_do_nothing_and_no_code_of_the_folder_runs(
    golden_copy: Callable[..., Path], golden_folder: Callable[[str], Path], edit_json: Callable, assert_near: Callable
) -> None:
    folder, marker = golden_copy("gte-large-en-v1.5"), "gnomon_test_code_has_run"
    classes = {"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"}
    speed = {"unpad_inputs": True, "use_memory_efficient_attention": True, "auto_map": classes}
    edit_json(folder / "config.json", speed)
    for name in ("modeling.py", "configuration.py", "__init__.py"):
        (folder / name).write_text(f"import sys\nsys.modules[{marker!r}] = sys\nraise SystemExit('code has run')\n")
    original = golden_folder("gte-large-en-v1.5")
    texts = json.loads((original / "texts.json").read_text("utf-8"))["texts"]
    assert_near(Encoder.load(folder).encode(texts), np.load(original / "expected.npz")["embeddings"], 5e-5)
    assert marker not in sys.modules
    assert not list(folder.rglob("*.pyc"))


# ---- tensor names


def _renamed(folder: Path, rename: Callable[[str], str], *, also: dict[str, np.ndarray] | None = None) -> None:
    arrays = {rename(name): np.array(array) for name, array in read_weights(folder).items()}
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    save_file(arrays | (also or {}), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("GIST-Embedding-v0", "bert."),
        ("GIST-Embedding-v0", "module."),
        ("GIST-Embedding-v0", "module.bert."),
        ("GIST-Embedding-v0", "0.auto_model."),
        ("GIST-Embedding-v0", "0.auto_model.bert."),
        ("GIST-Embedding-v0", "auto_model."),
        ("GIST-Embedding-v0", "model."),
        ("GIST-Embedding-v0", "_orig_mod."),  # A13
        ("GIST-Embedding-v0", "_orig_mod.module.bert."),
        ("GIST-Embedding-v0", "module._orig_mod."),
        ("GIST-Embedding-v0", "_orig_mod.0.model."),
        ("gte-large-en-v1.5", "new."),
        ("gte-large-en-v1.5", "module.new."),
        ("multi-qa-distilbert-cos-v1", "distilbert."),
    ],
)
def test_a_prefix_does_not_matter(name: str, prefix: str, golden_copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = golden_copy(name)
    original = Encoder.load(folder)
    expected = original.encode(TEXTS)
    # the head of a language model stands beside the trunk, without its prefix
    _renamed(folder, lambda tensor: prefix + tensor, also={"cls.predictions.bias": np.ones(7, np.float32)})
    prefixed = Encoder.load(folder)
    np.testing.assert_array_equal(prefixed.encode(TEXTS), expected)
    assert prefixed.fingerprint == original.fingerprint
    pooler = {"pooler.dense.weight", "pooler.dense.bias"} if name.startswith("GIST") else set()
    saved = load_file(prefixed.save(tmp_path / "saved") / "model.safetensors")
    assert {tensor for tensor in saved if "pooler" in tensor} == pooler
    assert not any(tensor.startswith(prefix) or "predictions" in tensor for tensor in saved)


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.base_model.model.bert."])
def test_a13_a_peft_model_that_was_not_merged_is_named(prefix: str, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    _renamed(folder, lambda name: prefix + name)
    with pytest.raises(WeightsError, match=r"base_model\.model\..*PEFT.*merge_and_unload"):
        Encoder.load(folder)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool"])
def test_a9_whole_numbers_are_no_weights(dtype: str, golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    arrays = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    arrays[name] = np.round(arrays[name] * 10).astype(dtype)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"1 tensors.*{re.escape(name)} \({dtype}\)"):
        Encoder.load(folder)


def test_a9_whole_numbers_are_no_weights_of_a_dense_layer(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("stella_en_400M_v5")
    path = folder / "2_Dense_512" / "model.safetensors"
    save_file({name: array.astype(np.int8) for name, array in load_file(path).items()}, path)
    with pytest.raises(WeightsError, match=r"2_Dense_512: 2 tensors.*linear\.weight \(int8\)"):
        Encoder.load(folder)


def test_a9_buffers_of_whole_numbers_are_read_over(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    expected = Encoder.load(folder).fingerprint
    arrays = load_file(folder / "model.safetensors")
    save_file(arrays | {"embeddings.position_ids": np.arange(64)[None]}, folder / "model.safetensors")
    assert Encoder.load(folder).fingerprint == expected


def test_gamma_and_beta_are_the_weight_and_bias_of_a_norm(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    expected = Encoder.load(folder).encode(TEXTS)
    _renamed(folder, lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"))
    assert "embeddings.LayerNorm.gamma" in load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(Encoder.load(folder).encode(TEXTS), expected)


def test_query_key_and_value_may_be_three_tensors(
    golden_copy: Callable[..., Path], edit_json: Callable, tmp_path: Path
) -> None:
    folder = golden_copy("gte-large-en-v1.5")
    expected = Encoder.load(folder).encode(TEXTS)
    arrays = load_file(folder / "model.safetensors")
    for name in [name for name in arrays if ".qkv_proj." in name]:
        parts = dict(zip("qkv", np.split(arrays.pop(name), 3), strict=True))
        arrays |= {name.replace("qkv", letter): part.copy() for letter, part in parts.items()}
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="qkv_proj"):
        Encoder.load(folder)
    edit_json(folder / "config.json", {"pack_qkv": False})
    split = Encoder.load(folder)
    np.testing.assert_array_equal(split.encode(TEXTS), expected)
    saved = split.save(tmp_path / "saved")
    assert load_file(saved / "model.safetensors").keys() == arrays.keys()
    np.testing.assert_array_equal(Encoder.load(saved).encode(TEXTS), expected)


def test_new_with_a_table_of_positions(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy("gte-large-en-v1.5")
    rotary = Encoder.load(folder).encode("alpha beta gamma")
    edit_json(folder / "config.json", {"position_embedding_type": "absolute"})
    with pytest.raises(WeightsError, match=r"1 missing: embeddings\.position_embeddings\.weight"):
        Encoder.load(folder)
    arrays = load_file(folder / "model.safetensors")
    table = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32)
    save_file(arrays | {"embeddings.position_embeddings.weight": table}, folder / "model.safetensors")
    absolute = Encoder.load(folder)
    assert absolute.max_seq_length == 128
    there, back = absolute.encode(["alpha beta gamma", "gamma beta alpha"])
    assert np.abs(there - rotary).max() > 0.01
    assert np.abs(there - back).max() > 0.01
    save_file(arrays | {"embeddings.position_embeddings.weight": table * 0}, folder / "model.safetensors")
    there, back = Encoder.load(folder).encode(["alpha beta gamma", "gamma beta alpha"])
    np.testing.assert_allclose(there, back, rtol=0, atol=1e-5)  # no rotation is left: order is not seen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 96}, "encoder.layer.0.intermediate.dense.weight is [128, 64], expected [96, 64]"),
        ({"vocab_size": 2300}, "embeddings.word_embeddings.weight is [2200, 64], expected [2300, 64]"),
        ({"max_position_embeddings": 66}, "embeddings.position_embeddings.weight is [64, 64], expected [66, 64]"),
        ({"num_hidden_layers": 2}, "16 extra: encoder.layer.2."),
        ({"num_hidden_layers": 4}, "16 missing: encoder.layer.3."),
    ],
)
def test_weights_that_disagree_with_the_config_are_named(
    changes: dict, words: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    edit_json(folder / "config.json", changes)
    with pytest.raises(WeightsError, match=re.escape(words)):
        Encoder.load(folder)


def test_missing_and_extra_tensors_are_named_together(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    missing, extra = "encoder.layer.1.output.dense.bias", "encoder.layer.1.adapter.down.weight"
    _renamed(folder, lambda name: extra if name == missing else name)
    with pytest.raises(WeightsError) as caught:
        Encoder.load(folder)
    assert f"1 missing: {missing}" in str(caught.value)
    assert f"1 extra: {extra}" in str(caught.value)


# ---- transformers


def _perturbed(torch: Any, model: Any) -> Any:
    """No weight keeps a value that could hide it: norms are not 1, biases and the padding row are not 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def _assert_as_transformers(folder: Path, texts: list[str], limit: int, assert_near: Callable) -> None:
    """Token states of each text alone, and their mean."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    (folder / "modules.json").write_text(json.dumps([ONLY_TRUNK]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    encoder = Encoder.load(folder)
    assert encoder.max_seq_length == limit
    means = encoder.encode(texts, on_truncate="silent")
    for text, states_TD, mean_D in zip(texts, encoder.encode_tokens(texts, on_truncate="silent"), means, strict=True):
        batch = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            wanted_TD = model(**batch).last_hidden_state[0].numpy()
        assert_near(states_TD, wanted_TD)
        assert_near(mean_D, wanted_TD.mean(axis=0))


def _trained(kind: str) -> Any:
    """A tokenizer with the frame and ids of RoBERTa (byte-level BPE) or XLM-R (unigram)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "roberta":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rows"), [("roberta", 514), ("xlm-roberta", 40)])
@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_roberta_as_transformers(kind: str, rows: int, prefix: str, tmp_path: Path, assert_near: Callable) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = _trained(kind)
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{role}_token": text for role, text in roles.items()}
    ).save_pretrained(tmp_path)
    config = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": rows, "type_vocab_size": 1, **TINY}
    config |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
    built = getattr(transformers, {"roberta": "RobertaConfig", "xlm-roberta": "XLMRobertaConfig"}[kind])(**config)
    torch.manual_seed(0)
    _perturbed(torch, transformers.AutoModel.from_config(built)).save_pretrained(tmp_path)
    _renamed(tmp_path, lambda name: prefix + name)
    texts = [*TEXTS, "a <pad> in <pad><pad> a text", "<pad>", "<mask> </s> <unk>", "the shadow of a gnomon " * 120]
    _assert_as_transformers(tmp_path, texts, rows - 2, assert_near)
    read = Encoder.load(tmp_path).tokenize(texts)
    assert [ids_T.tolist().count(1) for ids_T in read.ids[-4:]] == [3, 1, 0, 0]  # padding ids inside the texts
    assert read.truncated[-1] == len(texts) - 1


@pytest.mark.parametrize("name", [*ACTIVATIONS])
def test_activations_as_transformers(
    name: str, golden_copy: Callable[..., Path], edit_json: Callable, assert_near: Callable
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        pytest.skip(f"{name} is not in this transformers")
    folder = golden_copy("GIST-Embedding-v0")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=2200, hidden_act=name, max_position_embeddings=64, **TINY)
    _perturbed(torch, transformers.AutoModel.from_config(config)).save_pretrained(folder)
    _assert_as_transformers(folder, TEXTS, 64, assert_near)
