"""Reads a whole model folder: sentence-transformers in every dialect, plain Hugging Face, StaticEmbedding, model2vec.

A folder becomes a `Checkpoint`: spec, arrays under our names, tokenizer, and warnings about what was assumed. No code
from the folder is run: module and activation classes are rows of tables, and `auto_map` is ignored.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gnomon.checkpoint import families
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.known_models import KnownModel, front_matter, get_known_model, recognise_model
from gnomon.checkpoint.modules_json import (
    Arrays,
    Json,
    ModuleEntry,
    read_json,
    read_module_specs,
    read_modules,
    read_pooling,
)
from gnomon.checkpoint.tokenizer_files import read_static_tokenizer, read_tokenizer
from gnomon.checkpoint.tokenizer_settings import SIDE_FILES
from gnomon.checkpoint.tokenizer_versions import MAX_NAMES
from gnomon.checkpoint.transformer_settings import CALL_KEYS, NO_LIMIT, TransformerSettings, read_transformer_settings
from gnomon.checkpoint.weights import check_floating, match_arrays, read_weights
from gnomon.errors import InputError, ModelError, NotAModelError, UnsupportedError, WeightsError
from gnomon.inputs import as_whole_number
from gnomon.messages import check_choice, list_some
from gnomon.spec import (
    POOLING_MODES,
    MlmSpec,
    ModelSpec,
    PoolingMode,
    PoolingSpec,
    SimilarityName,
    StaticSpec,
    TokenizerSpec,
    TrunkSpec,
    dense_modules,
)


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds: everything that the engines, `save` and `inspect` need."""

    spec: ModelSpec
    arrays: Arrays
    tokenizer: Tokenizer
    config: Json
    """The trunk's config.json; {} for a StaticEmbedding."""
    tokenizer_side_files: Mapping[str, str]
    """Name of a small tokenizer file -> its text."""
    warnings: tuple[str, ...]
    """Sentences about what was assumed."""
    source: Source
    unused_arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    """Tensors that no vector needs (BERT's pooler), under their own names: `save` writes them back."""
    mlm: MlmSpec | None = None
    """The masked-language-model head, if the folder holds a complete one. Training uses it; `save` writes it back."""
    mlm_arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    """The head's arrays under our names; `mlm.decoder.weight` only where it is not tied."""
    readme: bytes | None = None
    known_model: KnownModel | None = None
    recognised_by: str | None = None
    """How `known_model` was recognised, for messages."""
    license: str | None = None


def read_folder(
    source: Source,
    *,
    card: str | None = None,
    ignore_config_keys: Sequence[str] = (),
    max_seq_length: int | None = None,
) -> Checkpoint:
    """Read a model folder.

    Args:
        card: name of a known model whose prompts are used; None to recognise it.
        ignore_config_keys: unknown keys of config.json to accept.
        max_seq_length: replaces the folder's own limit.

    Raises:
        NotAModelError: a folder or file is missing or broken.
        UnsupportedError: a module, activation, config key or value that we do not implement.
        UnsafeFileError: a path that leaves the folder, a pickle that would run code.
        WeightsError: missing, extra, misshapen or truncated weights.
        InputError: `card` is not a known model; a max_seq_length beyond the model's positions.
    """
    folder = source.folder
    if not folder.is_dir():
        raise NotAModelError(f"{folder} is not a folder; give a model's folder, a hub id or package:NAME.")
    requested = get_known_model(card) if card else None
    warnings: list[str] = []
    modules = read_modules(folder, warnings)
    first = modules[0]
    if first.kind == "StaticEmbedding":
        checkpoint = _read_static(source, modules, warnings)
    elif first.kind == "Transformer":
        checkpoint = _read_transformer(source, modules, warnings, tuple(ignore_config_keys))
    else:
        raise UnsupportedError(
            f"{folder}/modules.json: the first module is {first.kind}; it must be Transformer or StaticEmbedding."
        )
    if max_seq_length is not None:
        checkpoint = replace_max_seq_length(checkpoint, max_seq_length)
    return _apply_known_model(checkpoint, requested)


def replace_max_seq_length(checkpoint: Checkpoint, max_seq_length: int) -> Checkpoint:
    """The checkpoint with another limit on the tokens per text.

    Raises:
        InputError: not a whole number, or more than the model's positions.
    """
    spec = checkpoint.spec
    max_tokens = None if isinstance(spec.trunk, StaticSpec) else spec.trunk.max_tokens
    limit = as_whole_number(max_seq_length, "max_seq_length", max_tokens or NO_LIMIT)
    return replace(checkpoint, spec=replace(spec, tokenizer=replace(spec.tokenizer, max_seq_length=limit)))


def replace_pooling(checkpoint: Checkpoint, pooling: PoolingMode) -> Checkpoint:
    """The checkpoint with another way to pool token states.

    Raises:
        InputError: not a way to pool; a model that does not pool so, or whose modules take vectors of another length.
    """
    check_choice(pooling, "pooling", POOLING_MODES)
    spec = checkpoint.spec
    if isinstance(spec.trunk, StaticSpec):
        raise InputError(f"pooling {pooling!r} is not for a static model, which takes the mean of its table's rows.")
    if len(spec.pooling.modes) > 1 and dense_modules(spec):
        raise InputError(f"pooling {pooling!r} gives vectors that are too short for this model's Dense modules.")
    return replace(checkpoint, spec=replace(spec, pooling=replace(spec.pooling, modes=(pooling,))))


def _read_transformer(
    source: Source, modules: list[ModuleEntry], warnings: list[str], ignored_keys: tuple[str, ...]
) -> Checkpoint:
    folder, trunk_folder = source.folder, modules[0].path
    if (trunk_folder / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{trunk_folder} holds a PEFT adapter. Merge it into its base model (merge_and_unload) and save that."
        )
    settings = read_transformer_settings(trunk_folder)
    warnings += settings.warnings
    if settings.effective_settings and not (folder / "modules.json").is_file():
        warnings.append(
            f"{settings.file_name} is used ({', '.join(settings.effective_settings)}), though modules.json is missing. "
            "sentence-transformers ignores it in such a folder."
        )
    config, trunk = _read_trunk_config(trunk_folder, settings, ignored_keys)
    tensors = _read_trunk_tensors(trunk_folder, settings, config, trunk, warnings)
    arrays = families.convert_trunk_weights(tensors, trunk, config, trunk_folder)
    pooling, rest = PoolingSpec(), modules[1:]
    if rest and rest[0].kind == "Pooling":
        pooling, rest = read_pooling(rest[0].path / "config.json", trunk.hidden_size), rest[1:]
    elif (folder / "modules.json").is_file():
        warnings.append("modules.json lists no Pooling: mean pooling is used.")
    modules_after, dim_modules = read_module_specs(folder, rest, trunk.hidden_size * len(pooling.modes), arrays)
    spec = ModelSpec(
        trunk=trunk,
        pooling=pooling,
        modules=modules_after,
        dim_modules=dim_modules,
        tokenizer=_read_tokenizer_spec(trunk_folder, config, trunk, settings, warnings),
        **_read_sentence_transformers_config(folder, config),
    )
    tokenizer = read_tokenizer(trunk_folder, warnings, _drop_keys(settings.tokenizer_overrides, *CALL_KEYS))
    checkpoint = _build_checkpoint(source, spec, arrays, trunk_folder, config, warnings, tokenizer)
    mlm_arrays = families.convert_mlm_weights(tensors, arrays["embed.tokens"], trunk, config)
    return replace(
        checkpoint,
        tokenizer_side_files=_apply_overrides(checkpoint.tokenizer_side_files, settings.tokenizer_overrides),
        unused_arrays=families.unused_arrays(tensors, config),
        mlm=families.build_mlm_spec(mlm_arrays, trunk, config),
        mlm_arrays=mlm_arrays,
    )


def _read_trunk_config(
    trunk_folder: Path, settings: TransformerSettings, ignored_keys: tuple[str, ...]
) -> tuple[Json, TrunkSpec]:
    """config.json with the overrides of sentence-transformers, and the trunk that it describes."""
    config = read_json(trunk_folder / "config.json")
    if not config:
        raise NotAModelError(f"{trunk_folder} has no config.json.")
    family = families.get_family(config)
    overrides = families.resolve_aliases(settings.config_overrides, family)
    families.check_config_keys(family, overrides, ignored_keys, f"{settings.file_name}: config_kwargs")
    config = families.resolve_aliases(config, family) | overrides
    return config, families.read_trunk(config, ignore_config_keys=ignored_keys)


def _read_trunk_tensors(
    trunk_folder: Path, settings: TransformerSettings, config: Json, trunk: TrunkSpec, warnings: list[str]
) -> Arrays:
    """The tensors in the trunk's folder, without layers that the settings leave out."""
    tensors = read_weights(trunk_folder)
    family = families.get_family(config)
    key = family.config_keys["num_layers"]
    if key in families.resolve_aliases(settings.config_overrides, family):
        tensors, num_removed = families.drop_later_layers(tensors, trunk, config)
        if num_removed:
            warnings.append(
                f"{settings.file_name} sets {key} to {trunk.num_layers}: the {num_removed} tensors of later layers are "
                "left out."
            )
    return tensors


def _read_static(source: Source, modules: list[ModuleEntry], warnings: list[str]) -> Checkpoint:
    folder, table_folder = source.folder, modules[0].path
    config = read_json(table_folder / "config.json")
    tensors = read_weights(table_folder)
    table = _build_static_table(tensors, table_folder)
    tokenizer = read_static_tokenizer(table_folder, warnings)  # StaticEmbedding and model2vec read no side files
    model2vec = config.get("model_type") == "model2vec" or ("embeddings" in tensors and "embedding_dtype" in config)
    arrays: Arrays = {"embed.tokens": table}
    modules_after, dim_modules = read_module_specs(folder, modules[1:], table.shape[1], arrays)
    unk_id = _unk_id(tokenizer) if model2vec else None
    spec = ModelSpec(
        trunk=StaticSpec(table.shape[0], table.shape[1], model2vec, unk_id),
        pooling=PoolingSpec(),
        modules=modules_after,
        dim_modules=dim_modules,
        tokenizer=TokenizerSpec(
            _read_static_max_length(table_folder, config if model2vec else None), special_tokens=False
        ),
        **_read_sentence_transformers_config(folder, {}),
    )
    return _build_checkpoint(source, spec, arrays, table_folder, config, warnings, tokenizer)


def _read_static_max_length(module_folder: Path, model2vec: Json | None) -> int | None:
    """The limit on tokens: of model2vec's config, else of the truncation in tokenizer.json (StaticEmbedding only)."""
    if model2vec is not None:
        length = model2vec.get("max_length", 512)
    else:
        length = (read_json(module_folder / "tokenizer.json").get("truncation") or {}).get("max_length")
    if length is not None and not _is_positive_int(length):
        raise ModelError(f"{module_folder}: max_length is {length!r}; it must be a positive integer, or null.")
    return length


def _build_static_table(tensors: Arrays, module_folder: Path) -> NDArray[Any]:
    """The table of a StaticEmbedding, or of a model2vec with its token mapping and weights applied."""
    name = "embedding.weight" if "embedding.weight" in tensors else "embeddings"
    if name not in tensors:
        raise NotAModelError(
            f"{module_folder}: the weights have neither embedding.weight nor embeddings, but "
            f"{list_some(sorted(tensors))}."
        )
    table, mapping, weights = tensors[name], tensors.get("mapping"), tensors.get("weights")
    if table.ndim != 2:
        raise WeightsError(
            f"{module_folder}: {name} has shape {list(table.shape)}; it must have 2 axes, rows and columns."
        )
    floats = {} if table.dtype == np.int8 else {name: table}  # model2vec writes int8 tables and computes with them
    check_floating(floats | ({} if weights is None else {"weights": weights}), module_folder)
    rows = len(table) if mapping is None else mapping.size
    shapes = {name: table.shape, "mapping": (rows,), "weights": (rows,)}
    match_arrays(tensors, {key: shape for key, shape in shapes.items() if key in tensors}, where=str(module_folder))
    if mapping is not None and mapping.dtype.kind not in "iu":
        raise WeightsError(
            f"{module_folder}: mapping holds {mapping.dtype}; it must hold whole numbers, rows of the table."
        )
    if mapping is not None:
        ids = np.asarray(mapping, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(table)):
            raise WeightsError(
                f"{module_folder}: mapping holds {ids.min()} to {ids.max()}, but the table has {len(table)} rows."
            )
        table = table[ids]
    return table if weights is None else np.asarray(table, np.float32) * np.asarray(weights, np.float32)[:, None]


def _unk_id(tokenizer: Tokenizer) -> int | None:
    """The id of unknown words, if the tokenizer has one."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return tokenizer.token_to_id(token) if token else None


def _read_tokenizer_spec(
    module_folder: Path, config: Json, trunk: TrunkSpec, settings: TransformerSettings, warnings: list[str]
) -> TokenizerSpec:
    """The length limit and the side on which texts are truncated."""
    tokenizer_config = read_json(module_folder / "tokenizer_config.json") | settings.tokenizer_overrides
    length = _read_max_length(module_folder, config, tokenizer_config, trunk, settings)
    if length is not None and trunk.max_tokens is not None and length > trunk.max_tokens:
        warnings.append(
            f"max_seq_length {length} is more than the model's positions; its {trunk.max_tokens} positions are used."
        )
        length = trunk.max_tokens
    side = tokenizer_config.get("truncation_side", "right")
    if side not in ("left", "right"):
        raise ModelError(f"{module_folder}: truncation_side is {side!r}; it must be 'left' or 'right'.")
    if tokenizer_config.get("padding_side") == "left" and trunk.max_positions and trunk.pad_id is None:
        warnings.append(
            "padding_side left is ignored: here padding does not move a text's positions. In sentence-transformers the "
            "vectors of this model depend on the other texts in the batch."
        )
    return TokenizerSpec(length, lower_case=settings.lower_case, truncation_side=side)


def _read_max_length(
    module_folder: Path, config: Json, tokenizer_config: Json, trunk: TrunkSpec, settings: TransformerSettings
) -> int | None:
    """max_seq_length as sentence-transformers reads it; None without a limit."""
    length = settings.max_seq_length
    if length is None:
        limits = (tokenizer_config.get("model_max_length"), config.get("max_position_embeddings"), trunk.max_tokens)
        if wrong := [limit for limit in limits if limit is not None and not isinstance(limit, int | float)]:
            raise ModelError(
                f"{module_folder}: a length is {wrong[0]!r}; model_max_length and max_position_embeddings are numbers."
            )
        length = min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)
    elif isinstance(length, int | float) and length >= NO_LIMIT:
        length = trunk.max_tokens  # "no limit" rather than a number: no warning
    if length is not None and not _is_positive_int(length):
        raise ModelError(f"{module_folder}: max_seq_length is {length!r}; it must be a positive integer.")
    return length


def _drop_keys(section: Json, *keys: str) -> Json:
    return {key: value for key, value in section.items() if key not in keys}


def _apply_overrides(side_files: Mapping[str, str], overrides: Json) -> Mapping[str, str]:
    """The small tokenizer files with `overrides` in tokenizer_config.json, so that a saved folder has them."""
    if not overrides:
        return side_files
    name = "tokenizer_config.json"
    config = json.loads(side_files.get(name, "{}")) | overrides
    return {**side_files, name: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def _is_positive_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read_sentence_transformers_config(folder: Path, config: Json) -> dict[str, Any]:
    """Fields of the ModelSpec that are in config_sentence_transformers.json."""
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path)
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity == "cos_sim":  # the name of the function there
        similarity = "cosine"
    if similarity not in get_args(SimilarityName):
        raise UnsupportedError(
            f"{path}: similarity_fn_name {similarity!r} is not one of {', '.join(get_args(SimilarityName))}."
        )
    truncate_dim = settings.get("truncate_dim")
    if truncate_dim is not None and not _is_positive_int(truncate_dim):
        raise ModelError(f"{path}: truncate_dim is {truncate_dim!r}; it must be a positive integer.")
    return {
        **_read_prompts(path, settings),
        "similarity": similarity,
        "truncate_dim": truncate_dim,
        "matryoshka_dims": _read_matryoshka_dims(path, settings, config),
    }


def _read_prompts(path: Path, settings: Json) -> dict[str, Any]:
    """Fields of the ModelSpec about prompts."""
    texts = settings.get("prompts") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
        raise ModelError(f"{path}: prompts is {texts!r}; it must map names to texts.")
    tasks = settings.get("query_prompt_names") or {}
    if not isinstance(tasks, dict) or not all(isinstance(name, str) for name in tasks.values()):
        raise ModelError(f"{path}: query_prompt_names is {tasks!r}; it must map tasks to names of prompts.")
    # sentence-transformers 5 and later writes empty prompts for "query" and "document". They mean that the model has
    # none, unless a task uses them
    prompts = {name: text or "" for name, text in texts.items() if text or name in tasks.values()}
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in texts):
        raise ModelError(
            f"{path}: default_prompt_name {default!r} is not among the prompts {', '.join(prompts) or '(none)'}."
        )
    return {
        "prompts": prompts,
        "default_prompt_name": default if default in prompts else None,
        "query_prompt_names": {task: name for task, name in tasks.items() if name in prompts},
    }


def _read_matryoshka_dims(path: Path, settings: Json, config: Json) -> tuple[int, ...]:
    """The dimensions that the model's configs declare, ascending."""
    declared = [
        source.get(key) or [] for source in (settings, config) for key in ("matryoshka_dims", "matryoshka_dimensions")
    ]
    if not all(isinstance(dims, list) and all(map(_is_positive_int, dims)) for dims in declared):
        raise ModelError(f"{path}: matryoshka_dims is {declared!r}; it must be a list of positive integers.")
    return tuple(sorted({int(dim) for dims in declared for dim in dims}))


def _build_checkpoint(
    source: Source,
    spec: ModelSpec,
    arrays: Arrays,
    module_folder: Path,
    config: Json,
    warnings: list[str],
    tokenizer: Tokenizer,
) -> Checkpoint:
    side_files = {
        name: _decode_text(content)
        for name in SIDE_FILES
        if (content := _read_own_file(source.folder, module_folder / name)) is not None
    }
    rows, tokens = spec.trunk.vocab_size, tokenizer.get_vocab_size(with_added_tokens=False)
    if tokens > rows:
        raise ModelError(
            f"{module_folder}: the tokenizer has {tokens} tokens, but the embedding table has {rows} rows. "
            "They do not belong to the same model."
        )
    if outside := _tokens_outside(tokenizer, rows):
        warnings.append(
            f"the embedding table has {rows} rows, and none for the added tokens {list_some(outside, MAX_NAMES)}. "
            "A text that holds one is an error. Remove them from the tokenizer's files, or resize the table and train."
        )
    readme = _read_own_file(source.folder, source.folder / "README.md")
    return Checkpoint(spec, arrays, tokenizer, config, side_files, tuple(warnings), source, readme=readme)


def _tokens_outside(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Added tokens whose ids are beyond the embedding table."""
    added = tokenizer.get_added_tokens_decoder()
    return [f"{token.content} (id {index})" for index, token in sorted(added.items()) if index >= rows]


def _apply_known_model(checkpoint: Checkpoint, requested: KnownModel | None) -> Checkpoint:
    """The checkpoint with the prompts that its card supplies, and a warning about them."""
    source, spec = checkpoint.source, checkpoint.spec
    readme = _decode_text(checkpoint.readme or b"")
    candidates = {
        "its hub id": source.name,
        "_name_or_path in its config": checkpoint.config.get("_name_or_path"),
        "its folder's name": source.folder.name,
    }
    recognised = (requested, "card=") if requested else recognise_model(candidates, readme)
    license_name = _read_license(readme)
    if recognised is None:
        return replace(checkpoint, license=license_name)
    card, evidence = recognised
    missing = _missing_prompts(spec, card)
    warnings = checkpoint.warnings
    if missing:
        prompts = ", ".join(f"{name} = {text!r}" for name, text in missing.items())
        use = f"encode_query and encode_document use those of {card.name} (recognised by {evidence})"
        warnings += (f"The folder lacks prompts; {use}: {prompts}.",)
        spec = replace(spec, prompts={**spec.prompts, **missing})
    names = {**card.query_prompt_names, **spec.query_prompt_names}
    names = {task: name for task, name in names.items() if name in spec.prompts}
    spec = replace(spec, query_prompt_names=names)
    return replace(
        checkpoint, spec=spec, warnings=warnings, known_model=card, recognised_by=evidence, license=license_name
    )


def _missing_prompts(spec: ModelSpec, known_model: KnownModel) -> dict[str, str]:
    """The card's prompts, if the folder itself has no prompts for queries or documents; else none."""
    has_prompts = (
        spec.query_prompt_name()
        or spec.document_prompt_name
        or any(name in spec.prompts for name in known_model.prompts)
    )
    return {} if has_prompts else dict(known_model.prompts)


def _read_own_file(folder: Path, path: Path) -> bytes | None:
    """The bytes of a small file; None if it does not exist or links out of the folder (except in the hub cache)."""
    real, home = Path(os.path.realpath(path)), folder.resolve()  # resolve() raises at a link to itself
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    inside = real.is_relative_to(home) or real.is_relative_to(blobs)
    return real.read_bytes() if inside and real.is_file() else None


def _decode_text(content: bytes) -> str:
    """A file's text without a byte order mark, which other libraries refuse."""
    encoding = json.detect_encoding(content) if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    return content.decode(encoding, "replace").removeprefix("\ufeff")


def _read_license(readme: str) -> str | None:
    """The license in the front matter of a README."""
    rows = [line.partition(":")[2].strip() for line in front_matter(readme) if line.startswith("license:")]
    return rows[0].strip("\"'") or None if rows else None
