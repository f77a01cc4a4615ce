"""A model's folder, read whole: sentence-transformers in every dialect, plain Hugging Face, static tables.

A folder becomes a `Checkpoint`: spec, arrays under our names, tokenizer, and what had to be assumed. Nothing of the
folder is run: module and activation classes are rows of tables, `auto_map` is read and left alone.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

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
from gnomon.checkpoint.tokenizer_versions import format_names
from gnomon.checkpoint.transformer_settings import CALL_KEYS, NO_LIMIT, TransformerSettings, read_transformer_settings
from gnomon.checkpoint.weights import check_floating, match_arrays, read_weights
from gnomon.errors import ModelError, NotAModelError, UnsupportedError, WeightsError
from gnomon.inputs import as_whole_number
from gnomon.spec import (
    MlmSpec,
    ModelSpec,
    PoolingSpec,
    StaticSpec,
    TokenizerSpec,
    TrunkSpec,
)

TOKENIZER_SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Small files beside tokenizer.json that other libraries read; kept as they are."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder, read: everything that the engines, `save` and `inspect` need."""

    spec: ModelSpec
    arrays: Arrays
    tokenizer: Tokenizer
    config: Json
    """config.json of the trunk as it was read; {} for a StaticEmbedding."""
    tokenizer_side_files: Mapping[str, str]
    """Texts of the small tokenizer files."""
    warnings: tuple[str, ...]
    """What was assumed, in sentences."""
    source: Source
    unused_arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    """Tensors that do not act (BERT's pooler) under their own names: `save` writes them back."""
    mlm: MlmSpec | None = None
    """The masked-language-model head, where the folder holds a whole one: to train with, and `save` writes it back."""
    mlm_arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    """Its arrays under our names, `mlm.decoder.weight` only where it is not tied."""
    readme: bytes | None = None
    known_model: KnownModel | None = None
    recognised_by: str | None = None
    """What the card was recognised by, in words."""
    license: str | None = None


def read_folder(
    source: Source,
    *,
    card: str | None = None,
    ignore_config_keys: Sequence[str] = (),
    max_seq_length: int | None = None,
) -> Checkpoint:
    """Read a model folder of any dialect; plain Hugging Face and model2vec folders too.

    `max_seq_length` takes the place of the folder's own number.

    Raises:
        NotAModelError: a folder or file is missing or broken.
        UnsupportedError: a module, activation, config key or value that we do not implement.
        UnsafeFileError: a path that leaves the folder, a pickle that would run code.
        WeightsError: missing, extra, misshapen or truncated weights.
        InputError: `card` is not the name of a card; a max_seq_length that the model cannot read.
    """
    folder = source.folder
    if not folder.is_dir():
        raise NotAModelError(f"{folder} is not a folder; give a model's folder, a hub id or package:NAME.")
    named = get_known_model(card) if card else None
    notices: list[str] = []
    modules = read_modules(folder, notices)
    first = modules[0]
    if first.kind == "StaticEmbedding":
        checkpoint = _read_static(source, modules, notices)
    elif first.kind == "Transformer":
        checkpoint = _read_transformer(source, modules, notices, tuple(ignore_config_keys))
    else:
        raise UnsupportedError(
            f"{folder}/modules.json: the first module is {first.kind}; it must be Transformer or StaticEmbedding."
        )
    if max_seq_length is not None:
        checkpoint = replace_max_seq_length(checkpoint, max_seq_length)
    return _apply_known_model(checkpoint, named)


def replace_max_seq_length(checkpoint: Checkpoint, max_seq_length: int) -> Checkpoint:
    """The checkpoint, reading another number of tokens of a text.

    Raises:
        InputError: no whole number, or more than the model has positions for.
    """
    spec = checkpoint.spec
    most = None if isinstance(spec.trunk, StaticSpec) else spec.trunk.max_tokens
    asked = as_whole_number(max_seq_length, "max_seq_length", most or NO_LIMIT)
    return replace(checkpoint, spec=replace(spec, tokenizer=replace(spec.tokenizer, max_seq_length=asked)))


def _read_transformer(
    source: Source, modules: list[ModuleEntry], warnings: list[str], ignored_keys: tuple[str, ...]
) -> Checkpoint:
    folder, place = source.folder, modules[0].path
    if (place / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{place} holds a PEFT adapter; merge it into its base model (merge_and_unload) and save that."
        )
    config = read_json(place / "config.json")
    if not config:
        raise NotAModelError(f"{place} has no config.json.")
    settings = read_transformer_settings(place)
    warnings += settings.warnings
    if settings.effective_settings and not (folder / "modules.json").is_file():
        warnings.append(
            f"{settings.file_name} is obeyed ({', '.join(settings.effective_settings)}), though there is no modules.json; "
            "sentence-transformers does not read it then."
        )
    family = families.get_family(config)
    changes = families.resolve_aliases(settings.config_overrides, family)
    families.check_config_keys(family, changes, ignored_keys, f"{settings.file_name}: config_kwargs")
    config = families.resolve_aliases(config, family) | changes
    trunk = families.read_trunk(config, ignore_config_keys=ignored_keys)
    found = read_weights(place)
    if family.config_keys["num_layers"] in changes:
        found, left_out = families.drop_later_layers(found, trunk, config)
        if left_out:
            warnings.append(
                f"{settings.file_name} sets {family.config_keys['layers']} to {trunk.num_layers}: "
                f"the {left_out} tensors of later layers are left out."
            )
    arrays = families.convert_trunk_weights(found, trunk, config, place)
    pooling, rest = PoolingSpec(), modules[1:]
    if rest and rest[0].kind == "Pooling":
        pooling, rest = read_pooling(rest[0].path / "config.json", trunk.hidden_size), rest[1:]
    elif (folder / "modules.json").is_file():
        warnings.append("modules.json lists no Pooling: mean pooling is used.")
    heads, wide = read_module_specs(folder, rest, trunk.hidden_size * len(pooling.modes), arrays)
    spec = ModelSpec(
        trunk=trunk,
        pooling=pooling,
        modules=heads,
        dim_modules=wide,
        tokenizer=_read_tokenizer_spec(place, config, trunk, settings, warnings),
        **_read_sentence_transformers_config(folder, config),
    )
    tokenizer = read_tokenizer(place, warnings, _drop_keys(settings.tokenizer_overrides, *CALL_KEYS))
    checkpoint = _build_checkpoint(source, spec, arrays, place, config, warnings, tokenizer)
    mlm_arrays = families.convert_mlm_weights(found, arrays["embed.tokens"], trunk, config)
    return replace(
        checkpoint,
        tokenizer_side_files=_apply_overrides(checkpoint.tokenizer_side_files, settings.tokenizer_overrides),
        unused_arrays=families.unused_arrays(found, config),
        mlm=families.build_mlm_spec(mlm_arrays, trunk, config),
        mlm_arrays=mlm_arrays,
    )


def _read_static(source: Source, modules: list[ModuleEntry], warnings: list[str]) -> Checkpoint:
    folder, place = source.folder, modules[0].path
    config = read_json(place / "config.json")
    found = read_weights(place)
    table = _build_static_table(found, place)
    tokenizer = read_static_tokenizer(place, warnings)  # the only file that a StaticEmbedding and model2vec look at
    model2vec = config.get("model_type") == "model2vec" or ("embeddings" in found and "embedding_dtype" in config)
    arrays: Arrays = {"embed.tokens": table}
    heads, wide = read_module_specs(folder, modules[1:], table.shape[1], arrays)
    unk_id = _unk_id(tokenizer) if model2vec else None
    spec = ModelSpec(
        trunk=StaticSpec(table.shape[0], table.shape[1], model2vec, unk_id),
        pooling=PoolingSpec(),
        modules=heads,
        dim_modules=wide,
        tokenizer=TokenizerSpec(_read_static_max_length(place, config if model2vec else None), special_tokens=False),
        **_read_sentence_transformers_config(folder, {}),
    )
    return _build_checkpoint(source, spec, arrays, place, config, warnings, tokenizer)


def _read_static_max_length(module_folder: Path, model2vec: Json | None) -> int | None:
    """model2vec says it in its config; else the truncation of tokenizer.json, which acts in a StaticEmbedding alone."""
    if model2vec is not None:
        length = model2vec.get("max_length", 512)
    else:
        length = (read_json(module_folder / "tokenizer.json").get("truncation") or {}).get("max_length")
    if length is not None and not _is_positive_int(length):
        raise ModelError(f"{module_folder}: max_length is {length!r}; it must be a positive integer, or null.")
    return length


def _build_static_table(tensors: Arrays, module_folder: Path) -> NDArray[Any]:
    """The table of a StaticEmbedding, or of a model2vec with its token mapping and weights folded in."""
    name = "embedding.weight" if "embedding.weight" in tensors else "embeddings"
    if name not in tensors:
        listed = ", ".join(sorted(tensors)[:8])
        raise NotAModelError(f"{module_folder}: no tensor embedding.weight or embeddings; there are {listed}.")
    table, mapping, weights = tensors[name], tensors.get("mapping"), tensors.get("weights")
    if table.ndim != 2:
        raise WeightsError(f"{module_folder}: {name} has shape {list(table.shape)}; a table has rows and columns.")
    floats = {} if table.dtype == np.int8 else {name: table}  # model2vec writes such tables, and computes with them so
    check_floating(floats | ({} if weights is None else {"weights": weights}), module_folder)
    rows = len(table) if mapping is None else mapping.size
    wanted = {name: table.shape, "mapping": (rows,), "weights": (rows,)}
    match_arrays(tensors, {key: shape for key, shape in wanted.items() if key in tensors}, where=str(module_folder))
    if mapping is not None and mapping.dtype.kind not in "iu":
        raise WeightsError(
            f"{module_folder}: mapping is of {mapping.dtype}; it must be of whole numbers, rows of the table."
        )
    if mapping is not None:
        ids = np.asarray(mapping, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(table)):
            raise WeightsError(
                f"{module_folder}: mapping goes from {ids.min()} to {ids.max()}; the table has {len(table)} rows."
            )
        table = table[ids]
    return table if weights is None else np.asarray(table, np.float32) * np.asarray(weights, np.float32)[:, None]


def _unk_id(tokenizer: Tokenizer) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return tokenizer.token_to_id(token) if token else None


def _read_tokenizer_spec(
    module_folder: Path, config: Json, trunk: TrunkSpec, settings: TransformerSettings, warnings: list[str]
) -> TokenizerSpec:
    tokenizer_config = read_json(module_folder / "tokenizer_config.json") | settings.tokenizer_overrides
    length = settings.max_seq_length
    if length is None:
        limits = (tokenizer_config.get("model_max_length"), config.get("max_position_embeddings"), trunk.max_tokens)
        if wrong := [limit for limit in limits if limit is not None and not isinstance(limit, int | float)]:
            raise ModelError(
                f"{module_folder}: a length is {wrong[0]!r}; model_max_length and max_position_embeddings are numbers."
            )
        length = min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)
    elif isinstance(length, int | float) and length >= NO_LIMIT:
        length = trunk.max_tokens  # said without a number: no notice
    if length is not None and not _is_positive_int(length):
        raise ModelError(f"{module_folder}: max_seq_length is {length!r}; it must be a positive integer.")
    if length is not None and trunk.max_tokens is not None and length > trunk.max_tokens:
        warnings.append(
            f"max_seq_length {length} is more than the {trunk.max_tokens} positions of the model, which are used."
        )
        length = trunk.max_tokens
    side = tokenizer_config.get("truncation_side", "right")
    if side not in ("left", "right"):
        raise ModelError(f"{module_folder}: truncation_side is {side!r}; it must be 'left' or 'right'.")
    if tokenizer_config.get("padding_side") == "left" and trunk.max_positions and trunk.pad_id is None:
        warnings.append(
            "padding_side left is not followed: here no padding moves a text's positions. In sentence-transformers the "
            "vectors of this model depend on the other texts of the batch."
        )
    return TokenizerSpec(length, lower_case=settings.lower_case, truncation_side=side)


def _drop_keys(section: Json, *keys: str) -> Json:
    return {key: value for key, value in section.items() if key not in keys}


def _apply_overrides(side_files: Mapping[str, str], overrides: Json) -> Mapping[str, str]:
    """The small tokenizer files with `overrides` in tokenizer_config.json, so that a saved folder keeps them."""
    if not overrides:
        return side_files
    name = "tokenizer_config.json"
    config = json.loads(side_files.get(name, "{}")) | overrides
    return {**side_files, name: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def _is_positive_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read_sentence_transformers_config(folder: Path, config: Json) -> dict[str, Any]:
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path)
    named = settings.get("prompts") or {}
    if not isinstance(named, dict) or not all(isinstance(text, str | None) for text in named.values()):
        raise ModelError(f"{path}: prompts is {named!r}; it must map names to texts.")
    tasks = settings.get("query_prompt_names") or {}
    if not isinstance(tasks, dict) or not all(isinstance(name, str) for name in tasks.values()):
        raise ModelError(f"{path}: query_prompt_names is {tasks!r}; it must map tasks to names of prompts.")
    # sentence-transformers 5 and later writes empty prompts for "query" and "document": nothing was said, unless the
    # model was trained without the prompts that its tasks name
    prompts = {name: text or "" for name, text in named.items() if text or name in tasks.values()}
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity == "cos_sim":  # the name of the function there
        similarity = "cosine"
    if similarity not in ("cosine", "dot", "euclidean", "manhattan"):
        raise UnsupportedError(
            f"{path}: similarity_fn_name {similarity!r} is not one of cosine, dot, euclidean, manhattan."
        )
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in named):
        raise ModelError(
            f"{path}: default_prompt_name {default!r} is not among the prompts {', '.join(prompts) or '(none)'}."
        )
    truncate_dim = settings.get("truncate_dim")
    if truncate_dim is not None and not _is_positive_int(truncate_dim):
        raise ModelError(f"{path}: truncate_dim is {truncate_dim!r}; it must be a positive integer.")
    declared = [
        source.get(key) or [] for source in (settings, config) for key in ("matryoshka_dims", "matryoshka_dimensions")
    ]
    if not all(isinstance(dims, list) and all(map(_is_positive_int, dims)) for dims in declared):
        raise ModelError(f"{path}: matryoshka_dims is {declared!r}; it must be a list of positive integers.")
    return {
        "prompts": prompts,
        "default_prompt_name": default if default in prompts else None,
        "query_prompt_names": {task: name for task, name in tasks.items() if name in prompts},
        "similarity": similarity,
        "truncate_dim": truncate_dim,
        "matryoshka_dims": tuple(sorted({int(dim) for dims in declared for dim in dims})),
    }


def _build_checkpoint(
    source: Source,
    spec: ModelSpec,
    arrays: Arrays,
    module_folder: Path,
    config: Json,
    warnings: list[str],
    tokenizer: Tokenizer,
) -> Checkpoint:
    extras = {
        name: _decode_text(content)
        for name in TOKENIZER_SIDE_FILES
        if (content := _read_own_file(source.folder, module_folder / name)) is not None
    }
    rows, tokens = spec.trunk.vocab_size, tokenizer.get_vocab_size(with_added_tokens=False)
    if tokens > rows:
        raise ModelError(
            f"{module_folder}: the tokenizer has {tokens} tokens, the embedding table {rows} rows; one is not its."
        )
    if outside := _tokens_outside(tokenizer, rows):
        warnings.append(
            f"the embedding table has {rows} rows, and none for the added tokens {format_names(outside)}. A text that holds "
            "one is an error. Take them out of the tokenizer's files, or resize the table and train it."
        )
    readme = _read_own_file(source.folder, source.folder / "README.md")
    return Checkpoint(spec, arrays, tokenizer, config, extras, tuple(warnings), source, readme=readme)


def _tokens_outside(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Added tokens past the embedding table."""
    added = tokenizer.get_added_tokens_decoder()
    return [f"{token.content} (id {index})" for index, token in sorted(added.items()) if index >= rows]


def _apply_known_model(checkpoint: Checkpoint, named: KnownModel | None) -> Checkpoint:
    """The checkpoint with what its card supplies, and a notice of every use."""
    source, spec = checkpoint.source, checkpoint.spec
    readme = _decode_text(checkpoint.readme or b"")
    ways = {
        "its hub id": source.name,
        "_name_or_path in its config": checkpoint.config.get("_name_or_path"),
        "its folder's name": source.folder.name,
    }
    found = (named, "card=") if named else recognise_model(ways, readme)
    license_name = _read_license(readme)
    if found is None:
        return replace(checkpoint, license=license_name)
    card, way = found
    missing = _missing_prompts(spec, card)
    notices = checkpoint.warnings
    if missing:
        listed = ", ".join(f"{name} = {text!r}" for name, text in missing.items())
        use = f"encode_query and encode_document use those of {card.name} (known by {way})"
        notices += (f"The folder lacks prompts; {use}: {listed}.",)
        spec = replace(spec, prompts={**spec.prompts, **missing})
    names = {**card.query_prompt_names, **spec.query_prompt_names}
    names = {task: name for task, name in names.items() if name in spec.prompts}
    spec = replace(spec, query_prompt_names=names)
    return replace(checkpoint, spec=spec, notices=notices, card=card, recognised_by=way, license=license_name)


def _missing_prompts(spec: ModelSpec, known_model: KnownModel) -> dict[str, str]:
    """The card's prompts, where the folder has none for queries and none for documents: else it has spoken."""
    spoken = (
        spec.query_prompt_name()
        or spec.document_prompt_name
        or any(name in spec.prompts for name in known_model.prompts)
    )
    return {} if spoken else dict(known_model.prompts)


def _read_own_file(folder: Path, path: Path) -> bytes | None:
    """A small file of the folder; None if it is not there or is a link out of it (the hub cache's own links aside)."""
    real, home = Path(os.path.realpath(path)), folder.resolve()  # resolve() raises at a link to itself
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    inside = real.is_relative_to(home) or real.is_relative_to(blobs)
    return real.read_bytes() if inside and real.is_file() else None


def _decode_text(content: bytes) -> str:
    """Without a mark of the encoding at the start, which other libraries refuse."""
    encoding = json.detect_encoding(content) if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    return content.decode(encoding, "replace").removeprefix("\ufeff")


def _read_license(readme: str) -> str | None:
    rows = [line.partition(":")[2].strip() for line in front_matter(readme) if line.startswith("license:")]
    return rows[0].strip("\"'") or None if rows else None
