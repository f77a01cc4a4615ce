"""The head of a masked language model: read under our names, written back. Reference: transformers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from gnomon.checkpoint.families import read_dropout
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.checkpoint.modules_json import DIALECTS
from gnomon.checkpoint.save import save_folder
from gnomon.errors import ModelError
from gnomon.spec import MlmSpec, compute_fingerprint

Arrays = dict[str, np.ndarray]

GIST, GTE = "GIST-Embedding-v0", "gte-large-en-v1.5"
TEXTS = ["how do plants make food", "", "A sundial tells the hour by a shadow; a gnomon casts it."]

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
COMMON: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 24, "pad_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": {**SIZES, **COMMON, "hidden_act": "relu", "layer_norm_eps": 1e-3},
    "Roberta": {**SIZES, **COMMON, "hidden_act": "relu", "layer_norm_eps": 1e-3},
    "XLMRoberta": {**SIZES, **COMMON, "hidden_act": "silu", "layer_norm_eps": 1e-5},
    "DistilBert": {**COMMON, "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48, "activation": "relu"},
}
EXPECTED = {
    "Bert": ("relu", 1e-3),
    "Roberta": ("gelu", 1e-3),  # its head has gelu, whatever the layers have
    "XLMRoberta": ("gelu", 1e-5),
    "DistilBert": ("relu", 1e-12),
}
ROBERTA_HEAD = {
    "mlm.dense": "lm_head.dense",
    "mlm.norm": "lm_head.layer_norm",
    "mlm.decoder": "lm_head.decoder",
}
THEIRS = {
    "Bert": {
        "mlm.dense": "cls.predictions.transform.dense",
        "mlm.norm": "cls.predictions.transform.LayerNorm",
        "mlm.decoder": "cls.predictions.decoder",
    },
    "Roberta": ROBERTA_HEAD,
    "XLMRoberta": ROBERTA_HEAD,
    "DistilBert": {
        "mlm.dense": "vocab_transform",
        "mlm.norm": "vocab_layer_norm",
        "mlm.decoder": "vocab_projector",
    },
}
FREE_BIAS = {"Bert": "cls.predictions.bias", "Roberta": "lm_head.bias", "XLMRoberta": "lm_head.bias"}
HEAD_OF_GTE = {"mlm.dense": "lm_head.dense", "mlm.norm": "lm_head.norm", "mlm.decoder": "lm_head.decoder"}


def read(folder: Path) -> Checkpoint:
    return read_folder(resolve_source(folder))


def fingerprint_of(checkpoint: Checkpoint) -> str:
    return compute_fingerprint(checkpoint.spec, checkpoint.arrays, checkpoint.tokenizer.to_str())


def in_their_names(arrays: Arrays, names: dict[str, str]) -> Arrays:
    return {
        f"{names[part]}.{kind}": array for ours, array in arrays.items() for part, _, kind in [ours.rpartition(".")]
    }


def rewrite(folder: Path, change: Callable[[Arrays], Arrays]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def without(arrays: Arrays, *names: str) -> Arrays:
    return {name: array for name, array in arrays.items() if name not in names}


def some_head(rows: int, hidden: int, *, tied: bool) -> Arrays:
    rng = np.random.default_rng(5)
    shapes = {"mlm.dense.weight": (hidden, hidden), "mlm.dense.bias": (hidden,)}
    shapes |= {"mlm.norm.weight": (hidden,), "mlm.norm.bias": (hidden,), "mlm.decoder.bias": (rows,)}
    shapes |= {} if tied else {"mlm.decoder.weight": (rows, hidden)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


# ---- models of transformers


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch: Any) -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def built(torch: Any, transformers: Any, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """A folder of a small model with its head, and the model; no weight keeps a value that could hide it."""

    def make(kind: str, *, tied: bool = True, pickled: bool = False) -> tuple[Path, Any]:
        folder = tmp_path / "theirs"
        config = getattr(transformers, f"{kind}Config")(**CONFIGS[kind], tie_word_embeddings=tied)
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.2 * torch.randn(weight.shape)
        model.save_pretrained(folder)
        if pickled:
            (folder / "model.safetensors").unlink()
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
        Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w3")).save(
            f"{folder / 'tokenizer.json'}"
        )
        return folder, model

    return make


@pytest.fixture
def logits(torch: Any, transformers: Any) -> Callable[[Path], np.ndarray]:
    """What AutoModelForMaskedLM computes from a folder, of which it must miss nothing."""

    def compute(folder: Path) -> np.ndarray:
        model, message = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert not message["missing_keys"]
        assert not message["mismatched_keys"]
        assert not [key for key in message["unexpected_keys"] if "pooler" not in key]
        with torch.no_grad():
            return model.eval()(torch.arange(2, 14)[None]).logits.numpy()

    return compute


@pytest.mark.slow
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_head_is_read_and_written_back(
    kind: str,
    tied: bool,
    pickled: bool,
    built: Callable[..., tuple[Path, Any]],
    logits: Callable[[Path], np.ndarray],
    tmp_path: Path,
    assert_same: Callable,
    assert_mapped: Callable,
) -> None:
    folder, model = built(kind, tied=tied, pickled=pickled)
    checkpoint = read(folder)
    activation, norm_eps = EXPECTED[kind]
    assert checkpoint.mlm == MlmSpec(activation=activation, tied=tied, norm_eps=norm_eps)
    assert ("mlm.decoder.weight" in checkpoint.mlm_arrays) is not tied
    state = model.state_dict()
    result = in_their_names(dict(checkpoint.mlm_arrays), THEIRS[kind])
    assert_same(result, {name: state[name].numpy() for name in result})
    assert len(result) == 6 - tied
    assert_mapped(checkpoint.mlm_arrays)
    saved = save_folder(checkpoint, tmp_path / "ours")
    np.testing.assert_array_equal(logits(saved), logits(folder))
    again = read(saved)
    assert again.mlm == checkpoint.mlm
    assert_same(dict(again.mlm_arrays), dict(checkpoint.mlm_arrays))
    assert fingerprint_of(again) == fingerprint_of(checkpoint)
    twice = save_folder(again, tmp_path / "twice")
    assert (twice / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_trunk_beside_a_head_has_its_prefix_and_is_found(
    kind: str, built: Callable[..., tuple[Path, Any]], torch: Any, transformers: Any, tmp_path: Path
) -> None:
    """transformers 4 raises at a head beside a trunk without the prefix; 5 takes both."""
    folder, model = built(kind)
    saved = save_folder(read(folder), tmp_path / "ours")
    prefix = f"{model.base_model_prefix}."
    heads = ("cls.", "lm_head.", "vocab_")
    tensors = load_file(saved / "model.safetensors")
    assert all(name.startswith((prefix, *heads)) for name in tensors)
    assert {name for name in tensors if name.startswith(prefix)} == {
        name for name in model.state_dict() if name.startswith(prefix)
    }
    trunk, message = transformers.AutoModel.from_pretrained(saved, output_loading_info=True)
    assert not [key for key in message["missing_keys"] if "pooler" not in key]
    assert all(key.startswith(heads) for key in message["unexpected_keys"])
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        expected = getattr(model, model.base_model_prefix)(ids).last_hidden_state
        assert torch.equal(trunk.eval()(ids).last_hidden_state, expected)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_the_bias_has_two_names(
    kind: str,
    tied: bool,
    built: Callable[..., tuple[Path, Any]],
    logits: Callable[[Path], np.ndarray],
    tmp_path: Path,
) -> None:
    folder, _ = built(kind, tied=tied)
    expected, bias = logits(folder), read(folder).mlm_arrays["mlm.decoder.bias"]
    free, decoders = FREE_BIAS[kind], f"{THEIRS[kind]['mlm.decoder']}.bias"
    for names in [{free: bias}, {decoders: bias}, {free: bias, decoders: bias}, {free: bias + 1, decoders: bias}]:
        rewrite(folder, lambda arrays, names=names: without(arrays, free, decoders) | names)
        checkpoint = read(folder)
        np.testing.assert_array_equal(checkpoint.mlm_arrays["mlm.decoder.bias"], bias)
        saved = save_folder(checkpoint, tmp_path / "ours", overwrite=True)
        assert {free, decoders} < load_file(saved / "model.safetensors").keys()
        np.testing.assert_array_equal(logits(saved), expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_copy_of_the_token_table_is_tied_and_another_table_is_not(
    kind: str,
    built: Callable[..., tuple[Path, Any]],
    logits: Callable[[Path], np.ndarray],
    edit_json: Callable,
    tmp_path: Path,
) -> None:
    """As transformers 5 reads it: `tie_word_embeddings` does not throw a table away that the file holds."""
    folder, _ = built(kind)
    decoder, tokens = f"{THEIRS[kind]['mlm.decoder']}.weight", read(folder).arrays["embed.tokens"]
    rewrite(folder, lambda arrays: {**arrays, decoder: tokens})
    copied = read(folder)
    assert copied.mlm is not None
    assert copied.mlm.tied
    saved = save_folder(copied, tmp_path / "copied")
    assert decoder not in load_file(saved / "model.safetensors")
    np.testing.assert_array_equal(logits(saved), logits(folder))
    edit_json(folder / "config.json", {"tie_word_embeddings": False})
    message = read(folder)
    assert message.mlm is not None
    assert not message.mlm.tied
    edit_json(folder / "config.json", drop=("tie_word_embeddings",))
    rewrite(folder, lambda arrays: {**arrays, decoder: tokens + 1})
    other = read(folder)
    assert other.mlm is not None
    assert not other.mlm.tied
    np.testing.assert_array_equal(other.mlm_arrays["mlm.decoder.weight"], tokens + 1)
    np.testing.assert_array_equal(logits(save_folder(other, tmp_path / "other")), logits(folder))


# ---- folders of embeddings


NAMES = {GIST: THEIRS["Bert"], GTE: HEAD_OF_GTE, "multi-qa-distilbert-cos-v1": THEIRS["DistilBert"]}
PREFIXES = {GIST: "bert.", GTE: "new.", "multi-qa-distilbert-cos-v1": "distilbert."}


@pytest.fixture
def headed(golden_copy: Callable[..., Path], edit_json: Callable) -> Callable[..., tuple[Path, Arrays]]:
    """A golden folder with a head, under the prefix and the wrapper that are asked for, and the head."""

    def make(name: str = GIST, *, tied: bool = True, prefix: str = "", wrapper: str = "") -> tuple[Path, Arrays]:
        folder = golden_copy(name)
        edit_json(folder / "config.json", {"tie_word_embeddings": tied})
        checkpoint = read(folder)
        head = some_head(*checkpoint.arrays["embed.tokens"].shape, tied=tied)
        theirs = in_their_names(head, NAMES[name])
        trunk = load_file(save_folder(checkpoint, folder.with_name("bare")) / "model.safetensors")
        (folder / "pytorch_model.bin").unlink(missing_ok=True)
        named = {prefix + name: array for name, array in trunk.items()} | theirs
        save_file({wrapper + name: array for name, array in named.items()}, folder / "model.safetensors")
        return folder, head

    return make


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("name", "prefix", "wrapper"),
    [
        (GIST, "", ""),
        (GIST, "bert.", ""),
        (GIST, "bert.", "module."),
        (GIST, "", "0.auto_model."),
        (GIST, "bert.", "0.auto_model."),
        (GIST, "bert.", "model."),
        (GTE, "", ""),
        (GTE, "new.", ""),
        (GTE, "new.", "module."),
        ("multi-qa-distilbert-cos-v1", "distilbert.", "auto_model."),
    ],
)
def test_prefix_and_wrapper_do_not_matter_and_the_fingerprint_knows_no_head(
    name: str,
    prefix: str,
    wrapper: str,
    tied: bool,
    headed: Callable[..., tuple[Path, Arrays]],
    golden_folder: Callable[[str], Path],
    tmp_path: Path,
    assert_same: Callable,
) -> None:
    folder, head = headed(name, tied=tied, prefix=prefix, wrapper=wrapper)
    checkpoint = read(folder)
    assert checkpoint.mlm == MlmSpec(activation="gelu", tied=tied, norm_eps=1e-12)
    assert_same(dict(checkpoint.mlm_arrays), head)
    headless = read(golden_folder(name))
    assert headless.mlm is None
    assert headless.mlm_arrays == {}
    assert fingerprint_of(checkpoint) == fingerprint_of(headless)
    assert_same(dict(checkpoint.arrays), dict(headless.arrays))
    saved = save_folder(checkpoint, tmp_path / "ours")
    tensors = load_file(saved / "model.safetensors")
    theirs = in_their_names(head, NAMES[name])
    assert {tensor for tensor in tensors if not tensor.startswith(PREFIXES[name])} == theirs.keys() | (
        {"cls.predictions.bias"} if name == GIST else set()
    )
    again = read(saved)
    assert again.mlm == checkpoint.mlm
    assert_same(dict(again.mlm_arrays), head)
    assert fingerprint_of(again) == fingerprint_of(checkpoint)


def test_the_head_of_new_has_the_activation_of_its_layers(headed: Callable, edit_json: Callable) -> None:
    folder, _ = headed(GTE)
    edit_json(folder / "config.json", {"hidden_act": "silu", "layer_norm_eps": 1e-5})
    assert read(folder).mlm == MlmSpec(activation="silu", tied=True, norm_eps=1e-5)


def test_gamma_and_beta_are_the_weight_and_bias_of_its_norm(headed: Callable, assert_same: Callable) -> None:
    folder, head = headed(prefix="bert.")
    old = {"Norm.weight": "Norm.gamma", "Norm.bias": "Norm.beta"}
    rewrite(folder, lambda arrays: {re.sub(r"Norm\.\w+$", lambda m: old[m[0]], name): a for name, a in arrays.items()})
    assert "cls.predictions.transform.LayerNorm.gamma" in load_file(folder / "model.safetensors")
    assert_same(dict(read(folder).mlm_arrays), head)


@pytest.mark.parametrize("missing", ["mlm.dense.weight", "mlm.norm.bias", "mlm.decoder.weight", "mlm.decoder.bias"])
@pytest.mark.parametrize("name", [GIST, GTE])
def test_a_part_of_a_head_is_none(name: str, missing: str, headed: Callable, tmp_path: Path) -> None:
    folder, head = headed(name, tied=False)
    (theirs,) = in_their_names({missing: head[missing]}, NAMES[name])
    rewrite(folder, lambda arrays: without(arrays, theirs))
    checkpoint = read(folder)
    assert checkpoint.mlm is None
    assert checkpoint.mlm_arrays == {}
    assert checkpoint.warnings == read(folder.with_name("bare")).warnings
    saved = load_file(save_folder(checkpoint, tmp_path / "ours") / "model.safetensors")
    assert saved.keys() == load_file(folder.with_name("bare") / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (GIST, "cls.predictions.transform.dense.weight"),
        (GIST, "cls.predictions.decoder.weight"),
        (GTE, "lm_head.decoder.weight"),
        (GTE, "lm_head.norm.bias"),
    ],
)
def test_a_head_of_another_size_counts_as_none(name: str, tensor: str, headed: Callable) -> None:
    """A token table that was resized without its head: the vectors are there, and the model loads."""
    folder, _ = headed(name, tied=False)
    rewrite(folder, lambda arrays: {**arrays, tensor: arrays[tensor][..., :-1].copy()})
    assert read(folder).mlm is None
    assert read(folder).mlm_arrays == {}


def test_sentence_transformers_and_transformers_open_it(
    headed: Callable,
    golden_folder: Callable[[str], Path],
    transformers: Any,
    logits: Callable[[Path], np.ndarray],
    tmp_path: Path,
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")

    def vectors(folder: Path) -> np.ndarray:
        return sentence_transformers.SentenceTransformer(f"{folder}", device="cpu", local_files_only=True).encode(TEXTS)

    folder, _ = headed()
    expected = vectors(golden_folder(GIST))
    for dialect in DIALECTS:
        saved = save_folder(read(folder), tmp_path / dialect, dialect=dialect)
        np.testing.assert_array_equal(vectors(saved), expected)
        np.testing.assert_array_equal(logits(saved), logits(folder))
    trunk, message = transformers.AutoModel.from_pretrained(saved, output_loading_info=True)
    assert not message["missing_keys"]
    original = transformers.AutoModel.from_pretrained(golden_folder(GIST))
    np.testing.assert_array_equal(trunk.pooler.dense.weight.detach(), original.pooler.dense.weight.detach())


# ---- dropout


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert"}, (0.1, 0.1)),
        ({"model_type": "xlm-roberta", "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.5}, (0.0, 0.5)),
        ({"model_type": "roberta", "dropout": 0.4}, (0.1, 0.1)),
        ({"model_type": "distilbert"}, (0.1, 0.1)),
        ({"model_type": "distilbert", "dropout": 0.2, "attention_dropout": 0.3}, (0.2, 0.3)),
        ({"model_type": "new"}, (0.1, 0.0)),
        ({"model_type": "new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.1}, (0.0, 0.1)),
    ],
)
def test_dropout(config: dict[str, Any], expected: tuple[float, float]) -> None:
    assert read_dropout(config) == expected


@pytest.mark.parametrize("value", [1, 1.0, -0.1, "0.1", None, True, False, float("nan"), [0.1]])
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("bert", "hidden_dropout_prob"),
        ("new", "attention_probs_dropout_prob"),
        ("distilbert", "attention_dropout"),
    ],
)
def test_a_dropout_that_cannot_be_is_an_error(kind: str, key: str, value: Any) -> None:
    words = f"config.json: {key} is {value!r}; it must be a number from 0 to below 1"
    with pytest.raises(ModelError, match=re.escape(words)):
        read_dropout({"model_type": kind, key: value})


def test_who_does_not_train_does_not_see_a_wrong_dropout(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / "config.json", {"hidden_dropout_prob": "0.1"})
    read(folder)
