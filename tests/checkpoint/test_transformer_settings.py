"""sentence_bert_config.json: every key acts or is named. Reference implementation: sentence-transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.transformer_settings import read_transformer_settings
from gnomon.errors import GnomonError, ModelError, UnsupportedError

GIST, E5, DISTILBERT = "GIST-Embedding-v0", "multilingual-e5-small", "multi-qa-distilbert-cos-v1"
NAME = "sentence_bert_config.json"
TEXTS = [
    "how do plants make food",
    "",
    "At NOON the Shadow of a GNOMON is shortest.",
    "naïve café, 東京 — 42! [SEP] more",
    " ".join(f"{n} sundials tell the hour" for n in range(60)),
]


def read(folder: Path) -> Checkpoint:
    return read_folder(Source(folder, None, None))


def theirs(folder: Path) -> np.ndarray:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)


def ours(folder: Path) -> np.ndarray:
    return Encoder.load(folder).encode(TEXTS, prompt="", on_truncate="silent")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (GIST, {"config_args": {"num_hidden_layers": 1}}),
        (GIST, {"config_kwargs": {"hidden_act": "relu"}}),
        (DISTILBERT, {"config_args": {"num_hidden_layers": 1}}),  # by the name that all families share
        (DISTILBERT, {"config_kwargs": {"n_layers": 1}}),
        (DISTILBERT, {"tokenizer_args": {"do_lower_case": False}}),
        (DISTILBERT, {"processor_kwargs": {"strip_accents": False}}),
        (GIST, {"tokenizer_args": {"tokenize_chinese_chars": False}, "do_lower_case": False}),
        (GIST, {"tokenizer_args": {"truncation_side": "left"}}),
        (GIST, {"tokenizer_args": {"split_special_tokens": True}}),
        (E5, {"tokenizer_args": {"truncation_side": "left"}}),
        (GIST, {"tokenizer_args": {"model_max_length": 12}}),
        (GIST, {"processing_kwargs": {"text": {"max_length": 9}}}),
        (GIST, {"processing_kwargs": {"text": {"max_length": 9}, "common": {"max_length": 7, "padding": "longest"}}}),
        (GIST, {"processor_kwargs": {"max_length": 5, "padding": "max_length"}}),  # nothing there, nothing here
        (GIST, {"model_args": {"torch_dtype": "float32", "attn_implementation": "eager", "trust_remote_code": True}}),
        (
            GIST,
            {"unpad_inputs": False, "model_args": {"add_pooling_layer": False}, "tokenizer_args": {"revision": "x"}},
        ),
    ],
)
def test_a6_what_the_file_changes_is_as_in_sentence_transformers(
    name: str,
    changes: dict[str, Any],
    golden_copy: Callable[..., Path],
    edit_json: Callable,
    tmp_path: Path,
    assert_near: Callable,
) -> None:
    folder = golden_copy(name)
    before = ours(folder)
    edit_json(folder / NAME, changes)
    expected = theirs(folder)
    assert_near(ours(folder), expected)
    silent = {"model_args", "unpad_inputs"} & changes.keys() or "max_length" in changes.get("processor_kwargs", {})
    assert (np.abs(expected - before).max() > 1e-3) != bool(silent)
    assert_near(theirs(Encoder.load(folder).save(tmp_path / "saved")), expected)


def test_a6_layers_that_are_not_requested_are_left_out_with_a_warning(
    golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / NAME, {"config_args": {"num_hidden_layers": 1}})
    result = read(folder)
    assert result.config["num_hidden_layers"] == 1
    assert not any(name.startswith("layers.1.") for name in result.arrays)
    [message] = result.warnings
    assert "num_hidden_layers to 1" in message
    assert "32 tensors" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name"),
        ({"modality_config": {"message": {"method": "forward"}}}, "modality_config"),
        ({"query_length": 32}, "query_length 32"),
        ({"document_length": 300}, "document_length 300"),
        ({"query_expansion": {"strategy": "fixed"}}, "query_expansion"),
        ({"tokenizer_name_or_path": "bert-base-uncased"}, "tokenizer_name_or_path"),
        ({"max_length": 12}, r"max_length \(12\)"),
        ({"normalize": False}, r"normalize \(False\)"),
        ({"model_args": {"variant": "fp16"}}, r"model_kwargs\.variant \('fp16'\)"),
        ({"model_args": {"load_in_8bit": True}}, r"model_kwargs\.load_in_8bit"),
        ({"model_kwargs": {"file_name": "onnx/model.onnx"}}, r"model_kwargs\.file_name"),
        ({"tokenizer_args": {"vocab_file": "other.txt"}}, r"processor_kwargs\.vocab_file"),
        ({"tokenizer_args": {"model_input_names": ["input_ids"]}}, "attention_mask"),
        ({"config_args": {"model_type": "roberta"}}, r"config_kwargs\.model_type"),
        ({"config_args": {"rescale_layers": 2}}, "config_kwargs: key 'rescale_layers'"),
        ({"config_args": {"position_embedding_type": "relative_key"}}, "config_kwargs: position_embedding_type"),
        ({"processing_kwargs": {"truncation_side": "left"}}, r"processing_kwargs\.truncation_side"),
        ({"processing_kwargs": {"text": {"truncation": False}}}, "truncation False"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "add_special_tokens False"),
        ({"processing_kwargs": {"common": {"return_attention_mask": False}}}, "return_attention_mask False"),
        ({"tokenizer_args": {"a": 1}, "processor_kwargs": {"a": 1}}, "tokenizer_args and processor_kwargs"),
    ],
)
def test_a6_a_key_that_cannot_be_obeyed_is_named(
    changes: dict[str, Any], words: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / NAME, changes)
    with pytest.raises(UnsupportedError, match=words) as caught:
        read(folder)
    assert NAME in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_lower_case": "yes"}, "do_lower_case is 'yes'"),
        ({"model_args": ["torch_dtype"]}, "model_kwargs is"),
        ({"processing_kwargs": {"text": "x"}}, "text is 'x'"),
        ({"processing_kwargs": {"text": {"max_length": "9"}}}, "max_seq_length is '9'"),
        ({"tokenizer_args": {"truncation_side": "middle"}}, "truncation_side is 'middle'"),
        ({"tokenizer_args": {"do_lower_case": "no"}}, "do_lower_case of the tokenizer is 'no'"),
        ({"tokenizer_args": {"add_prefix_space": None}}, "add_prefix_space of the tokenizer is None"),
        ({"tokenizer_args": {"additional_special_tokens": "<a>"}}, "additional_special_tokens is '<a>'"),
        ({"config_args": {"num_hidden_layers": 0}}, "layers is 0"),
    ],
)
def test_a6_a_value_that_cannot_be(
    changes: dict[str, Any], words: str, golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / NAME, changes)
    with pytest.raises(ModelError, match=words):
        read(folder)


def test_a6_another_dtype_is_left_to_the_caller_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"model_args": {"torch_dtype": "float16", "device_map": "auto"}}))
    [message] = read_transformer_settings(tmp_path).warnings
    assert "torch_dtype 'float16'" in message
    assert "--dtype" in message


def test_a6_what_sentence_transformers_writes_and_empty_values_change_nothing(tmp_path: Path) -> None:
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    saved = {
        "transformer_task": "feature-extraction",
        "modality_config": text,
        "module_output_name": "token_embeddings",
    }
    empty = {
        "max_seq_length": None,
        "do_lower_case": False,
        "model_args": {},
        "tokenizer_args": None,
        "query_length": None,
    }
    (tmp_path / NAME).write_text(json.dumps(saved | empty | {"new_key": None}))
    settings = read_transformer_settings(tmp_path)
    assert (
        settings.effective_settings,
        settings.warnings,
        settings.config_overrides,
        settings.tokenizer_overrides,
    ) == ((), (), {}, {})


def test_a6_without_a_limit_the_positions_are_the_limit(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    edit_json(folder / NAME, {"max_seq_length": 20, "tokenizer_args": {"model_max_length": 1e30}})
    assert (read(folder).spec.tokenizer.max_seq_length, read(folder).warnings) == (64, ())


def test_a7_a_plain_folder_says_that_the_file_is_obeyed(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    (folder / "modules.json").unlink()
    edit_json(folder / NAME, {"max_seq_length": 24, "do_lower_case": True})
    result = read(folder)
    assert (result.spec.tokenizer.max_seq_length, result.spec.tokenizer.lower_case) == (24, True)
    pooling, length = result.warnings
    assert "mean pooling" in pooling
    assert all(word in length for word in (NAME, "max_seq_length 24", "do_lower_case True"))
    (folder / NAME).write_text("{}")
    assert result.spec.tokenizer != read(folder).spec.tokenizer
    assert len(read(folder).warnings) == 1


def test_a6_padding_on_the_left_is_ignored_with_a_warning(
    golden_copy: Callable[..., Path], edit_json: Callable
) -> None:
    """There it moves the positions of BERT, so that a vector depends on the longest text of its batch."""
    folder = golden_copy(GIST)
    expected = read(folder).spec
    edit_json(folder / NAME, {"tokenizer_args": {"padding_side": "left"}})
    result = read(folder)
    assert result.spec == expected
    [message] = result.warnings
    assert "padding_side left" in message
    relative = golden_copy("gte-large-en-v1.5")  # rotary positions: only distances count
    before = read(relative).warnings
    edit_json(relative / NAME, {"tokenizer_args": {"padding_side": "left"}})
    assert read(relative).warnings == before


def test_a6_tokens_without_a_row_give_a_warning(golden_copy: Callable[..., Path], edit_json: Callable) -> None:
    folder = golden_copy(GIST)
    rows = read(folder).spec.trunk.vocab_size
    tokens = [f"<t{index}>" for index in range(rows - read(folder).tokenizer.get_vocab_size() + 7)]
    edit_json(folder / NAME, {"tokenizer_args": {"additional_special_tokens": tokens}})
    [message] = [message for message in read(folder).warnings if "rows" in message]
    assert f"{rows} rows" in message
    assert f"{tokens[-7]} (id {rows})" in message
    assert "and 2 more" in message
    with pytest.warns(match=f"{rows} rows"):
        encoder = Encoder.load(folder)
    with pytest.raises(GnomonError, match=str(rows + 6)):
        encoder.encode(f"a {tokens[-1]}", prompt="")
