"""Writes a model as a sentence-transformers folder. Equal models give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gnomon.checkpoint import families
from gnomon.checkpoint.folder import Checkpoint
from gnomon.checkpoint.modules_json import DENSE_ACTIVATIONS, DIALECTS, POOLING_KEYS
from gnomon.checkpoint.tokenizer_versions import build_side_files
from gnomon.checkpoint.weights import write_safetensors
from gnomon.errors import InputError
from gnomon.files import atomic_folder, explain_disk_full
from gnomon.messages import check_choice
from gnomon.spec import DenseSpec, ModelSpec, StaticSpec, dense_modules

Json = dict[str, Any]
Writer = Callable[[Path], None]

_ACTIVATION_NAMES = {ours: theirs for theirs, ours in DENSE_ACTIVATIONS.items() if ".modules." in theirs}


def save_folder(
    checkpoint: Checkpoint, folder: str | Path, *, dialect: str = "classic", overwrite: bool = False
) -> Path:
    """Write a model folder; it is complete or it does not exist.

    Args:
        dialect: "classic" opens in every version of sentence-transformers, "5.4" and "6.0" from these versions on.
        overwrite: replace a folder that is not empty.

    Raises:
        InputError: an unknown dialect; a folder that is not empty; a path that is a file.
        OSError: the disk is full or not writable; no part of the folder remains.
    """
    check_choice(dialect, "dialect", DIALECTS)
    target = Path(folder).expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is not a folder; give a folder.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target} is not empty; give a new folder, or overwrite=True (--overwrite).")
    # an empty folder is replaced too
    with explain_disk_full(target), atomic_folder(target, overwrite=True) as draft:
        draft.chmod(0o755)
        for path, write in _plan_files(checkpoint, dialect).items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            write(draft / path)
    return target


def _plan_files(checkpoint: Checkpoint, dialect: str) -> dict[str, Writer]:
    """Path in the folder -> the function that writes it."""
    spec = checkpoint.spec
    files = _static_files(checkpoint) if isinstance(spec.trunk, StaticSpec) else _transformer_files(checkpoint, dialect)
    files["modules.json"] = _json_writer(_module_rows(spec, dialect))
    files["config_sentence_transformers.json"] = _json_writer(_sentence_transformers_config(spec))
    for dense in dense_modules(spec):
        files[f"{dense.name}/config.json"] = _json_writer(_dense_config(dense))
        files[f"{dense.name}/model.safetensors"] = _weights_writer(_dense_weights(dense, checkpoint.arrays))
    if checkpoint.readme is not None:
        files["README.md"] = _bytes_writer(checkpoint.readme)
    return files


def _transformer_files(checkpoint: Checkpoint, dialect: str) -> dict[str, Writer]:
    spec = checkpoint.spec
    assert not isinstance(spec.trunk, StaticSpec)
    trunk_tensors = families.export_trunk_weights(checkpoint.arrays, spec.trunk, checkpoint.config)
    tensors = families.add_mlm_head(
        trunk_tensors | dict(checkpoint.unused_arrays), checkpoint.mlm_arrays, checkpoint.config
    )
    side_files = build_side_files(checkpoint.tokenizer, checkpoint.tokenizer_side_files, checkpoint.config)
    return {
        "config.json": _json_writer(checkpoint.config),
        "model.safetensors": _weights_writer(tensors),
        "tokenizer.json": _text_writer(checkpoint.tokenizer.to_str(pretty=True)),
        **{name: _text_writer(text) for name, text in side_files.items()},
        "sentence_bert_config.json": _json_writer(
            {"max_seq_length": spec.tokenizer.max_seq_length, "do_lower_case": spec.tokenizer.lower_case}
        ),
        "1_Pooling/config.json": _json_writer(_pooling_config(spec, dialect)),
        **(_normalize_files(spec) if dialect != "classic" else {}),
    }


def _static_files(checkpoint: Checkpoint) -> dict[str, Writer]:
    spec = checkpoint.spec
    assert isinstance(spec.trunk, StaticSpec)
    table = checkpoint.arrays["embed.tokens"]
    raw = Tokenizer.from_str(checkpoint.tokenizer.to_str())
    if spec.tokenizer.max_seq_length is not None and not spec.trunk.model2vec:
        raw.enable_truncation(spec.tokenizer.max_seq_length)
    tokenizer = _text_writer(raw.to_str(pretty=True))
    if not spec.trunk.model2vec:
        folder = "0_StaticEmbedding"
        return {
            f"{folder}/model.safetensors": _weights_writer({"embedding.weight": table}),
            f"{folder}/tokenizer.json": tokenizer,
        }
    config = checkpoint.config | {"normalize": spec.normalizes}
    return {
        "model.safetensors": _weights_writer({"embeddings": table}),
        "tokenizer.json": tokenizer,
        "config.json": _json_writer(config),
    }


def _module_rows(spec: ModelSpec, dialect: str) -> list[Json]:
    if isinstance(spec.trunk, StaticSpec):
        chain = [("StaticEmbedding", "." if spec.trunk.model2vec else "0_StaticEmbedding")]
    else:
        chain = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for module in spec.modules:
        chain.append(
            ("Dense", module.name) if isinstance(module, DenseSpec) else ("Normalize", f"{len(chain)}_Normalize")
        )
    types = DIALECTS[dialect]
    return [{"idx": i, "name": str(i), "path": path, "type": types[kind]} for i, (kind, path) in enumerate(chain)]


def _normalize_files(spec: ModelSpec) -> dict[str, Writer]:
    name = "sentence_embedding"
    config = _json_writer({"module_input_name": name, "module_output_name": name})
    return {
        f"{i + 2}_Normalize/config.json": config
        for i, module in enumerate(spec.modules)
        if not isinstance(module, DenseSpec)
    }


def _sentence_transformers_config(spec: ModelSpec) -> Json:
    settings: Json = {
        "prompts": dict(spec.prompts),
        "default_prompt_name": spec.default_prompt_name,
        "similarity_fn_name": spec.similarity,
    }
    if spec.query_prompt_names:
        settings["query_prompt_names"] = dict(spec.query_prompt_names)
    if spec.truncate_dim is not None:
        settings["truncate_dim"] = spec.truncate_dim
    if spec.matryoshka_dims:
        settings["matryoshka_dims"] = list(spec.matryoshka_dims)
    return settings


def _pooling_config(spec: ModelSpec, dialect: str) -> Json:
    modes = spec.pooling.modes
    if dialect != "classic" or modes != tuple(mode for mode in POOLING_KEYS.values() if mode in modes):
        mode = modes[0] if len(modes) == 1 else list(modes)
        return {
            "embedding_dimension": spec.trunk.hidden_size,
            "pooling_mode": mode,
            "include_prompt": spec.pooling.include_prompt,
        }
    return {
        "word_embedding_dimension": spec.trunk.hidden_size,
        **{key: mode in modes for key, mode in POOLING_KEYS.items()},
        "include_prompt": spec.pooling.include_prompt,
    }


def _dense_config(dense: DenseSpec) -> Json:
    config: Json = {
        "in_features": dense.in_features,
        "out_features": dense.out_features,
        "bias": dense.bias,
        "activation_function": _ACTIVATION_NAMES[dense.activation],
    }
    return config | ({"use_residual": True} if dense.residual else {})


def _dense_weights(dense: DenseSpec, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = {"weight": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"}
    return {
        theirs: arrays[f"{dense.name}.{ours}"] for ours, theirs in names.items() if f"{dense.name}.{ours}" in arrays
    }


def _json_writer(value: Any) -> Writer:
    return _text_writer(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _text_writer(text: str) -> Writer:
    return _bytes_writer(text.encode())


def _bytes_writer(content: bytes) -> Writer:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _weights_writer(arrays: Mapping[str, NDArray[Any]]) -> Writer:
    return lambda path: write_safetensors(path, {name: np.asarray(array) for name, array in arrays.items()})
