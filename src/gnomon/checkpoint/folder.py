"""The sentence-transformers folder: every dialect read, the classic one written.

A folder becomes a `Checkpoint`: spec, arrays under our names, tokenizer, and what had to be assumed. Nothing of the
folder is
run: module and activation classes are rows of the tables below, `auto_map` is read and left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gnomon.checkpoint import families
from gnomon.checkpoint.cards import Card, card_named, recognise
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.tokenizer_files import read_tokenizer
from gnomon.checkpoint.weights import read_weights, strict
from gnomon.errors import ModelError, NotAModelError, UnsafeFileError, UnsupportedError, WeightsError
from gnomon.spec import (
    POOLING_MODES,
    Activation,
    DenseSpec,
    HeadSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingMode,
    PoolingSpec,
    StaticSpec,
    TokenizerSpec,
    TrunkSpec,
    head_arrays,
)

Json = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

_FILE_OF = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling",
    "Dense": "sentence_transformers.base.modules.dense",
    "Normalize": "sentence_transformers.base.modules.normalize",
    "StaticEmbedding": "sentence_transformers.sentence_transformer.modules.static_embedding",
}

MODULE_TYPES: dict[str, str] = {
    **{f"sentence_transformers.models.{kind}": kind for kind in _FILE_OF},
    **{f"sentence_transformers.models.{kind}.{kind}": kind for kind in _FILE_OF},
    **{f"{file}.{kind}": kind for kind, file in _FILE_OF.items()},
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize": "Normalize",
    "sentence_transformers.sentence_transformer.modules.dense.Dense": "Dense",
    "sentence_transformers.sentence_transformer.modules.transformer.Transformer": "Transformer",
    "sentence_transformers.base.modules.pooling.Pooling": "Pooling",
}
"""`type` of modules.json in every dialect -> kind of module."""

DIALECTS: dict[str, dict[str, str]] = {
    "classic": {kind: f"sentence_transformers.models.{kind}" for kind in _FILE_OF},
    "5.4": {kind: f"{file}.{kind}" for kind, file in _FILE_OF.items()}
    | {"Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize"},
    "6.0": {kind: f"{file}.{kind}" for kind, file in _FILE_OF.items()},
}
"""Dialect that `save` writes -> kind of module -> `type`. Classic opens in every sentence-transformers."""

LENGTH_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

POOLING_KEYS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

DENSE_ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Identity": "identity",
    "torch.nn.Tanh": "tanh",
    "torch.nn.ReLU": "relu",
    "torch.nn.GELU": "gelu",
    "torch.nn.SiLU": "silu",
    "torch.nn.Sigmoid": "sigmoid",
}

TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Small files beside tokenizer.json that other libraries read; kept as they are."""

NO_LIMIT = 10**9
"""transformers writes 1e30 into model_max_length for "no limit"."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder, read: everything that the engines, `save` and `inspect` need."""

    spec: ModelSpec
    arrays: Arrays
    tokenizer: Tokenizer
    config: Json
    """config.json of the trunk as it was read; {} for a StaticEmbedding."""
    extras: Mapping[str, str]
    """Texts of the small tokenizer files."""
    notices: tuple[str, ...]
    """What was assumed, in sentences."""
    source: Source
    kept_arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])
    """Tensors that do not act (BERT's pooler) under their own names: `save` writes them back."""
    readme: bytes | None = None
    card: Card | None = None
    card_by: str | None = None
    """What the card was recognised by, in words."""
    license: str | None = None


@dataclass(frozen=True)
class _Module:
    kind: str
    path: Path


def read_folder(source: Source, *, card: str | None = None, ignore_config_keys: Sequence[str] = ()) -> Checkpoint:
    """Read a model folder of any dialect; plain Hugging Face and model2vec folders too.

    Raises:
        NotAModelError: a folder or file is missing or broken.
        UnsupportedError: a module, activation, config key or value that we do not implement.
        UnsafeFileError: a path that leaves the folder, a pickle that would run code.
        WeightsError: missing, extra, misshapen or truncated weights.
        InputError: `card` is not the name of a card.
    """
    folder = source.folder
    if not folder.is_dir():
        raise NotAModelError(f"{folder} is not a folder; give a model's folder, a hub id or package:NAME.")
    named = card_named(card) if card else None
    notices: list[str] = []
    modules = _read_modules(folder, notices)
    first = modules[0]
    if first.kind == "StaticEmbedding":
        checkpoint = _read_static(source, modules, notices)
    elif first.kind == "Transformer":
        checkpoint = _read_transformer(source, modules, notices, tuple(ignore_config_keys))
    else:
        raise UnsupportedError(
            f"{folder}/modules.json: the first module is {first.kind}; it must be Transformer or StaticEmbedding."
        )
    return _with_card(checkpoint, named)


def read_json(path: Path) -> Json:
    """A JSON object from a file; {} where there is no file.

    Raises:
        NotAModelError: not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"{path} is not readable JSON ({error}); fetch the model again.") from error
    if not isinstance(value, dict):
        raise NotAModelError(f"{path} holds a {type(value).__name__}; it must hold a JSON object.")
    return cast(Json, value)


def _read_modules(folder: Path, notices: list[str]) -> list[_Module]:
    path = folder / "modules.json"
    if path.is_file():
        return _listed_modules(folder, path)
    config = read_json(folder / "config.json")
    if config.get("model_type") == "model2vec":
        normalize = [_Module("Normalize", folder)] if config.get("normalize") else []
        return [_Module("StaticEmbedding", folder), *normalize]
    if not config:
        raise NotAModelError(f"{folder} is not a model: it has neither modules.json nor config.json.")
    notices.append(
        "No modules.json: read as a plain Hugging Face checkpoint, with mean pooling and without normalisation."
    )
    return [_Module("Transformer", folder)]


def _listed_modules(folder: Path, path: Path) -> list[_Module]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(row["type"], row["path"]) for row in sorted(rows, key=lambda row: row.get("idx", 0))]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotAModelError(
            f"{path} is not a list of modules with type and path ({error!r}); fetch the model again."
        ) from error
    if not pairs:
        raise NotAModelError(f"{path} lists no module.")
    return [_Module(_kind(name, path), _inside(folder, place, path)) for name, place in pairs]


def _kind(name: Any, path: Path) -> str:
    kind = MODULE_TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UnsupportedError(f"{path}: module type {name!r} is not implemented; gnomon has {', '.join(_FILE_OF)}.")
    return kind


def _inside(folder: Path, place: Any, path: Path) -> Path:
    """The module's folder; judged by its text, since the hub cache is made of links."""
    pure = PurePosixPath(place) if isinstance(place, str) else None
    if pure is None or pure.is_absolute() or ".." in pure.parts or "\\" in str(place) or ":" in str(place):
        raise UnsafeFileError(
            f"{path}: path {str(place)[:80]!r} leaves the model's folder; a module must lie inside it."
        )
    try:
        (folder / pure / "model.safetensors.index.json").is_file()  # the longest name that is looked for
    except OSError as error:
        raise NotAModelError(
            f"{path}: path {str(place)[:80]!r} cannot be looked up as a folder: {error.strerror}."
        ) from error
    return folder / pure


def _read_transformer(
    source: Source, modules: list[_Module], notices: list[str], ignored: tuple[str, ...]
) -> Checkpoint:
    folder, place = source.folder, modules[0].path
    if (place / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{place} holds a PEFT adapter; merge it into its base model (merge_and_unload) and save that."
        )
    config = read_json(place / "config.json")
    if not config:
        raise NotAModelError(f"{place} has no config.json.")
    trunk = families.read_trunk(config, ignore_config_keys=ignored)
    found = read_weights(place)
    arrays = families.trunk_weights(found, trunk, config, place)
    pooling, rest = PoolingSpec(), modules[1:]
    if rest and rest[0].kind == "Pooling":
        pooling, rest = _read_pooling(rest[0].path / "config.json", trunk.hidden), rest[1:]
    elif (folder / "modules.json").is_file():
        notices.append("modules.json lists no Pooling: mean pooling is used.")
    heads, wide = _read_heads(folder, rest, trunk.hidden * len(pooling.modes), arrays)
    spec = ModelSpec(
        trunk=trunk,
        pooling=pooling,
        heads=heads,
        wide_heads=wide,
        tokenizer=_read_tokenizer_spec(place, config, trunk, notices),
        **_read_settings(folder, config),
    )
    checkpoint = _checkpoint(source, spec, arrays, place, config, notices)
    return replace(checkpoint, kept_arrays=families.kept_arrays(found, config))


def _read_static(source: Source, modules: list[_Module], notices: list[str]) -> Checkpoint:
    folder, place = source.folder, modules[0].path
    config = read_json(place / "config.json")
    found = read_weights(place)
    table = _static_table(found, place)
    tokenizer = read_tokenizer(place)
    model2vec = config.get("model_type") == "model2vec" or ("embeddings" in found and "embedding_dtype" in config)
    arrays: Arrays = {"embed.tokens": table}
    heads, wide = _read_heads(folder, modules[1:], table.shape[1], arrays)
    unk_id = _unk_id(tokenizer) if model2vec else None
    spec = ModelSpec(
        trunk=StaticSpec(table.shape[0], table.shape[1], model2vec, unk_id),
        pooling=PoolingSpec(),
        heads=heads,
        wide_heads=wide,
        tokenizer=TokenizerSpec(_static_length(place, config if model2vec else None), special_tokens=False),
        **_read_settings(folder, {}),
    )
    return _checkpoint(source, spec, arrays, place, config, notices, tokenizer)


def _static_length(place: Path, model2vec: Json | None) -> int | None:
    """model2vec says it in its config; else the truncation of tokenizer.json, which acts in a StaticEmbedding alone."""
    if model2vec is not None:
        length = model2vec.get("max_length", 512)
    else:
        length = (read_json(place / "tokenizer.json").get("truncation") or {}).get("max_length")
    if length is not None and not _is_size(length):
        raise ModelError(f"{place}: max_length is {length!r}; it must be a positive integer, or null.")
    return length


def _static_table(found: Arrays, place: Path) -> NDArray[Any]:
    """The table of a StaticEmbedding, or of a model2vec with its token mapping and weights folded in."""
    name = "embedding.weight" if "embedding.weight" in found else "embeddings"
    if name not in found:
        listed = ", ".join(sorted(found)[:8])
        raise NotAModelError(f"{place}: no tensor embedding.weight or embeddings; there are {listed}.")
    table, mapping, weights = found[name], found.get("mapping"), found.get("weights")
    if table.ndim != 2:
        raise WeightsError(f"{place}: {name} has shape {list(table.shape)}; a table has rows and columns.")
    rows = len(table) if mapping is None else mapping.size
    wanted = {name: table.shape, "mapping": (rows,), "weights": (rows,)}
    strict(found, {key: shape for key, shape in wanted.items() if key in found}, where=str(place))
    if mapping is not None and mapping.dtype.kind not in "iu":
        raise WeightsError(f"{place}: mapping is of {mapping.dtype}; it must be of whole numbers, rows of the table.")
    if mapping is not None:
        ids = np.asarray(mapping, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(table)):
            raise WeightsError(
                f"{place}: mapping goes from {ids.min()} to {ids.max()}; the table has {len(table)} rows."
            )
        table = table[ids]
    return table if weights is None else np.asarray(table, np.float32) * np.asarray(weights, np.float32)[:, None]


def _unk_id(tokenizer: Tokenizer) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return tokenizer.token_to_id(token) if token else None


def _read_pooling(path: Path, hidden: int) -> PoolingSpec:
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing; it says how token vectors are pooled.")
    width = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden))
    if width != hidden:
        raise ModelError(f"{path}: width {width}, but the trunk gives {hidden}.")
    modes: tuple[Any, ...]
    if "pooling_mode" in config:
        value = config["pooling_mode"]
        modes = tuple(value) if isinstance(value, list) else (value,)
    else:
        modes = tuple(mode for key, mode in POOLING_KEYS.items() if config.get(key)) or ("mean",)
    known = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *POOLING_KEYS}
    unknown = [f"{key} {value!r}" for key, value in config.items() if key not in known and value]
    unknown += [f"pooling_mode {mode!r}" for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise UnsupportedError(
            f"{path}: {', '.join(unknown) or 'no mode'} is not implemented; modes are {', '.join(POOLING_MODES)}."
        )
    return PoolingSpec(cast(tuple[PoolingMode, ...], modes), bool(config.get("include_prompt", True)))


def _read_heads(
    folder: Path, modules: list[_Module], width: int, arrays: Arrays
) -> tuple[tuple[HeadSpec, ...], tuple[DenseSpec, ...]]:
    """The chain after pooling, and the Dense folders that can stand in for its last Dense. Adds their arrays to
    `arrays`.
    """
    heads: list[HeadSpec] = []
    last: tuple[_Module, DenseSpec] | None = None
    for module in modules:
        if module.kind == "Dense":
            head = _read_dense(folder, module.path, width, arrays)
            last, width = (module, head), head.out_features
            heads.append(head)
        elif module.kind == "Normalize":
            _check_input_name(read_json(module.path / "config.json"), module.path)
            heads.append(NormalizeSpec())
        else:
            raise UnsupportedError(f"{folder}/modules.json: {module.kind} may not stand after the pooling.")
    wide = _read_wide_heads(folder, *last, arrays) if last else ()
    return tuple(heads), wide


def _read_wide_heads(folder: Path, module: _Module, chosen: DenseSpec, arrays: Arrays) -> tuple[DenseSpec, ...]:
    """stella's layout: `2_Dense_1024` in modules.json, other widths in folders of the same name with another number."""
    stem, _, width = module.path.name.rpartition("_")
    if not stem or width != str(chosen.out_features):
        return ()
    siblings = [
        path
        for path in module.path.parent.glob(f"{stem}_*")
        if path.name.removeprefix(f"{stem}_").isdigit() and path.is_dir()
    ]
    siblings.sort(key=lambda path: int(path.name.removeprefix(f"{stem}_")))
    if len(siblings) < 2:
        return ()
    return tuple(
        chosen if path == module.path else _read_dense(folder, path, chosen.in_features, arrays) for path in siblings
    )


def _read_dense(folder: Path, place: Path, width: int, arrays: Arrays) -> DenseSpec:
    path = place / "config.json"
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing; it says what the Dense layer computes.")
    _check_input_name(config, place)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str) or name not in DENSE_ACTIVATIONS:
        raise UnsupportedError(
            f"{path}: activation_function {name!r} is not implemented; it may be one of {', '.join(DENSE_ACTIVATIONS)}."
        )
    known = {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
        "use_residual",
        "module_input_name",
        "module_output_name",
    }
    if unknown := {key: value for key, value in config.items() if key not in known and value}:
        raise UnsupportedError(f"{path}: {unknown} is not known and may change the vectors.")
    try:
        head = DenseSpec(
            name=place.relative_to(folder).as_posix(),
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config.get("bias", True)),
            activation=DENSE_ACTIVATIONS[name],
            residual=bool(config.get("use_residual", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotAModelError(f"{path}: in_features and out_features must be integers ({error!r}).") from error
    if head.in_features != width:
        raise ModelError(f"{path}: in_features is {head.in_features}, but {width} arrive from the module in front.")
    theirs = {
        f"{head.name}.weight": "linear.weight",
        f"{head.name}.bias": "linear.bias",
        f"{head.name}.residual": "residual.weight",
    }
    shapes = head_arrays(head)
    found = strict(read_weights(place), {theirs[ours]: shape for ours, shape in shapes.items()}, where=str(place))
    arrays |= {ours: found[theirs[ours]] for ours in shapes}
    return head


def _check_input_name(config: Json, place: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                f"{place}/config.json: {key} {config[key]!r} is not implemented; it may be 'sentence_embedding'."
            )


def _read_tokenizer_spec(place: Path, config: Json, trunk: TrunkSpec, notices: list[str]) -> TokenizerSpec:
    settings = next((read_json(place / name) for name in LENGTH_FILES if (place / name).is_file()), {})
    tokenizer_config = read_json(place / "tokenizer_config.json")
    length = settings.get("max_seq_length")
    if length is None:
        limits = (tokenizer_config.get("model_max_length"), config.get("max_position_embeddings"), trunk.max_tokens)
        if wrong := [limit for limit in limits if limit is not None and not isinstance(limit, int | float)]:
            raise ModelError(
                f"{place}: a length is {wrong[0]!r}; model_max_length and max_position_embeddings are numbers."
            )
        length = min((int(limit) for limit in limits if limit and limit < NO_LIMIT), default=None)
    if length is not None and not _is_size(length):
        raise ModelError(f"{place}: max_seq_length is {length!r}; it must be a positive integer.")
    if length is not None and trunk.max_tokens is not None and length > trunk.max_tokens:
        notices.append(
            f"max_seq_length {length} is more than the {trunk.max_tokens} positions of the model, which are used."
        )
        length = trunk.max_tokens
    side = tokenizer_config.get("truncation_side", "right")
    return TokenizerSpec(
        length, lower_case=bool(settings.get("do_lower_case")), truncation_side="left" if side == "left" else "right"
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read_settings(folder: Path, config: Json) -> dict[str, Any]:
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path)
    named = settings.get("prompts") or {}
    if not isinstance(named, dict) or not all(isinstance(text, str | None) for text in named.values()):
        raise ModelError(f"{path}: prompts is {named!r}; it must map names to texts.")
    # sentence-transformers 5 and later writes empty prompts for "query" and "document": nothing was said
    prompts = {name: text for name, text in named.items() if text}
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot", "euclidean", "manhattan"):
        raise UnsupportedError(
            f"{path}: similarity_fn_name {similarity!r} is not one of cosine, dot, euclidean, manhattan."
        )
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in named):
        raise ModelError(
            f"{path}: default_prompt_name {default!r} is not among the prompts {', '.join(prompts) or '(none)'}."
        )
    tasks = settings.get("query_prompt_names") or {}
    if not isinstance(tasks, dict) or not all(isinstance(name, str) for name in tasks.values()):
        raise ModelError(f"{path}: query_prompt_names is {tasks!r}; it must map tasks to names of prompts.")
    truncate_dim = settings.get("truncate_dim")
    if truncate_dim is not None and not _is_size(truncate_dim):
        raise ModelError(f"{path}: truncate_dim is {truncate_dim!r}; it must be a positive integer.")
    declared = [
        source.get(key) or [] for source in (settings, config) for key in ("matryoshka_dims", "matryoshka_dimensions")
    ]
    if not all(isinstance(dims, list) and all(map(_is_size, dims)) for dims in declared):
        raise ModelError(f"{path}: matryoshka_dims is {declared!r}; it must be a list of positive integers.")
    return {
        "prompts": prompts,
        "default_prompt_name": default if default in prompts else None,
        "query_prompt_names": {task: name for task, name in tasks.items() if name in prompts},
        "similarity": similarity,
        "truncate_dim": truncate_dim,
        "matryoshka_dims": tuple(sorted({int(dim) for dims in declared for dim in dims})),
    }


def _checkpoint(
    source: Source,
    spec: ModelSpec,
    arrays: Arrays,
    place: Path,
    config: Json,
    notices: list[str],
    tokenizer: Tokenizer | None = None,
) -> Checkpoint:
    extras = {
        name: content.decode("utf-8", "replace")
        for name in TOKENIZER_EXTRAS
        if (content := _own_file(source.folder, place / name)) is not None
    }
    tokenizer = tokenizer or read_tokenizer(place)
    rows, tokens = spec.trunk.rows, tokenizer.get_vocab_size(with_added_tokens=False)
    if tokens > rows:
        raise ModelError(
            f"{place}: the tokenizer has {tokens} tokens, the embedding table {rows} rows; one is not its."
        )
    readme = _own_file(source.folder, source.folder / "README.md")
    return Checkpoint(spec, arrays, tokenizer, config, extras, tuple(notices), source, readme=readme)


def _with_card(checkpoint: Checkpoint, named: Card | None) -> Checkpoint:
    """The checkpoint with what its card supplies, and a notice of every use."""
    source, spec = checkpoint.source, checkpoint.spec
    readme = (checkpoint.readme or b"").decode("utf-8", "replace")
    ways = {
        "its hub id": source.name,
        "_name_or_path in its config": checkpoint.config.get("_name_or_path"),
        "its folder's name": source.folder.name,
    }
    found = (named, "card=") if named else recognise(ways, readme)
    license_name = _license(readme)
    if found is None:
        return replace(checkpoint, license=license_name)
    card, way = found
    missing = _missing_prompts(spec, card)
    notices = checkpoint.notices
    if missing:
        listed = ", ".join(f"{name} = {text!r}" for name, text in missing.items())
        use = f"encode_query and encode_document use those of {card.name} (known by {way})"
        notices += (f"The folder lacks prompts; {use}: {listed}.",)
        spec = replace(spec, prompts={**spec.prompts, **missing})
    names = {**card.query_prompt_names, **spec.query_prompt_names}
    names = {task: name for task, name in names.items() if name in spec.prompts}
    spec = replace(spec, query_prompt_names=names)
    return replace(checkpoint, spec=spec, notices=notices, card=card, card_by=way, license=license_name)


def _missing_prompts(spec: ModelSpec, card: Card) -> dict[str, str]:
    """The card's prompts, where the folder has none for queries and none for documents: else it has spoken."""
    spoken = spec.query_prompt_name() or spec.document_prompt_name or any(name in spec.prompts for name in card.prompts)
    return {} if spoken else dict(card.prompts)


def _own_file(folder: Path, path: Path) -> bytes | None:
    """A small file of the folder; None if it is not there or is a link out of it (the hub cache's own links aside)."""
    real, home = Path(os.path.realpath(path)), folder.resolve()  # resolve() raises at a link to itself
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    inside = real.is_relative_to(home) or real.is_relative_to(blobs)
    return real.read_bytes() if inside and real.is_file() else None


def _license(readme: str) -> str | None:
    head = readme.split("---")[1:2]
    rows = [row.partition(":")[2].strip() for row in "".join(head).splitlines() if row.startswith("license:")]
    return rows[0] if rows else None
