"""The modules of a sentence-transformers folder: which there are, and what each computes. One table row a class.

Nothing of the folder is run: module and activation classes are rows of the tables below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from numpy.typing import NDArray

from gnomon.checkpoint.weights import check_floating, match_arrays, read_weights
from gnomon.errors import ModelError, NotAModelError, UnsafeFileError, UnsupportedError
from gnomon.spec import (
    POOLING_MODES,
    Activation,
    DenseSpec,
    ModuleSpec,
    NormalizeSpec,
    PoolingMode,
    PoolingSpec,
    dense_shapes,
)

Json = dict[str, Any]

Arrays = dict[str, NDArray[Any]]

_PYTHON_MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling",
    "Dense": "sentence_transformers.base.modules.dense",
    "Normalize": "sentence_transformers.base.modules.normalize",
    "StaticEmbedding": "sentence_transformers.sentence_transformer.modules.static_embedding",
}

_DROPOUT_TYPE = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"
"""Changes nothing but training: read over, with a notice."""

MODULE_TYPES: dict[str, str] = {
    "sentence_transformers.models.Dropout": "Dropout",
    "sentence_transformers.models.Dropout.Dropout": "Dropout",
    _DROPOUT_TYPE: "Dropout",
    **{f"sentence_transformers.models.{kind}": kind for kind in _PYTHON_MODULES},
    **{f"sentence_transformers.models.{kind}.{kind}": kind for kind in _PYTHON_MODULES},
    **{f"{file}.{kind}": kind for kind, file in _PYTHON_MODULES.items()},
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize": "Normalize",
    "sentence_transformers.sentence_transformer.modules.dense.Dense": "Dense",
    "sentence_transformers.sentence_transformer.modules.transformer.Transformer": "Transformer",
    "sentence_transformers.base.modules.pooling.Pooling": "Pooling",
}
"""`type` of modules.json in every dialect -> kind of module."""

DIALECTS: dict[str, dict[str, str]] = {
    "classic": {kind: f"sentence_transformers.models.{kind}" for kind in _PYTHON_MODULES},
    "5.4": {kind: f"{file}.{kind}" for kind, file in _PYTHON_MODULES.items()}
    | {"Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize"},
    "6.0": {kind: f"{file}.{kind}" for kind, file in _PYTHON_MODULES.items()},
}
"""Dialect that `save` writes -> kind of module -> `type`. Classic opens in every sentence-transformers."""

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


UNSUPPORTED_MODELS = {
    "CrossEncoder": "scores pairs of texts and gives no vector of a text",
    "SparseEncoder": "gives a weight to each word of a vocabulary, not a vector of fixed dimension",
    "MultiVectorEncoder": "gives a vector to each token, not one to a text",
    "ColBERT": "gives a vector to each token, not one to a text",
}
"""`model_type` of config_sentence_transformers.json -> what such a model does in place of embedding a text."""

UNSUPPORTED_TYPE_PREFIXES = {
    "sentence_transformers.cross_encoder.": "CrossEncoder",
    "sentence_transformers.sparse_encoder.": "SparseEncoder",
    "sentence_transformers.multi_vector_encoder.": "MultiVectorEncoder",
}
"""Start of a module's type -> the model that it is a part of."""

TASK_HEAD_SUFFIXES = {
    "ForSequenceClassification": "it gives scores to a text or a pair of texts (a classifier or a reranker)",
    "ForTokenClassification": "it labels tokens",
    "ForQuestionAnswering": "it finds answers in a text",
    "ForMultipleChoice": "it chooses among answers",
    "ForCausalLM": "it generates text",
    "LMHeadModel": "it generates text",
}
"""End of an architecture's name -> what it was tuned for. Not a masked language model: embedders start as one."""


@dataclass(frozen=True)
class ModuleEntry:
    kind: str
    path: Path


def read_json(path: Path) -> Json:
    """A JSON object from a file; {} where there is no file.

    Raises:
        NotAModelError: not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())  # bytes: a byte order mark, as Windows writes, is read over
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"{path} is not readable JSON ({error}); fetch the model again.") from error
    if not isinstance(value, dict):
        raise NotAModelError(f"{path} holds a {type(value).__name__}; it must hold a JSON object.")
    return cast(Json, value)


def read_modules(folder: Path, warnings: list[str]) -> list[ModuleEntry]:
    """The modules of a folder, in order; of one without modules.json those that are assumed.

    Raises:
        NotAModelError, UnsupportedError, UnsafeFileError: no model, another kind of model, a path out of the folder.
    """
    settings = folder / "config_sentence_transformers.json"
    kind = read_json(settings).get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise _build_unsupported_error(str(kind), f"{settings} says model_type {kind!r}")
    path = folder / "modules.json"
    if path.is_file():
        listed = _parse_module_list(folder, path)
        acting = [module for module in listed if module.kind != "Dropout"]
        if len(acting) < len(listed):
            warnings.append("A Dropout of modules.json is left out, in training and save too: it changes no vector.")
        if not acting:
            raise NotAModelError(f"{path} lists no module that gives vectors.")
        return acting
    config = read_json(folder / "config.json")
    if config.get("model_type") == "model2vec":
        normalize = [ModuleEntry("Normalize", folder)] if config.get("normalize") else []
        return [ModuleEntry("StaticEmbedding", folder), *normalize]
    if not config:
        raise NotAModelError(f"{folder} is not a model: it has neither modules.json nor config.json.")
    _check_architecture(folder, config)
    warnings.append(
        "No modules.json: read as a plain Hugging Face checkpoint, with mean pooling and without normalisation."
    )
    return [ModuleEntry("Transformer", folder)]


def _build_unsupported_error(kind: str, evidence: str) -> UnsupportedError:
    does = UNSUPPORTED_MODELS.get(kind, "is not an embedder of texts")
    return UnsupportedError(
        f"{evidence}: this is a {kind}, which {does}. Give an embedding model, a SentenceTransformer."
    )


def _check_architecture(folder: Path, config: Json) -> None:
    """A folder without modules.json is no embedder where every class that it names was tuned for something else."""
    named = config.get("architectures") or []
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    ends = [next((end for end in TASK_HEAD_SUFFIXES if name.endswith(end)), None) for name in names]
    if ends and (first := ends[0]) and all(ends):
        raise UnsupportedError(
            f"{folder} is not an embedding model: config.json says {names[0]}, so {TASK_HEAD_SUFFIXES[first]}. "
            "To start from its trunk, save that: AutoModel.from_pretrained(...).save_pretrained(...)."
        )


def _parse_module_list(folder: Path, path: Path) -> list[ModuleEntry]:
    """In the order of the file, as sentence-transformers reads them: `idx` is not looked at."""
    try:
        rows = json.loads(path.read_bytes())
        pairs = [(row["type"], row["path"]) for row in rows]
        names = [name for row in rows if (name := row.get("name")) is not None]
        if len({*names}) < len(names):
            raise ValueError(f"two modules of one name among {names}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotAModelError(
            f"{path} is not a list of modules with type and path ({error!r}); fetch the model again."
        ) from error
    return [ModuleEntry(_get_module_kind(name, path), _check_inside(folder, place, path)) for name, place in pairs]


def _get_module_kind(type_name: Any, path: Path) -> str:
    kind = MODULE_TYPES.get(type_name) if isinstance(type_name, str) else None
    if kind is None and (
        other := [model for start, model in UNSUPPORTED_TYPE_PREFIXES.items() if str(type_name).startswith(start)]
    ):
        raise _build_unsupported_error(other[0], f"{path} lists {type_name}")
    if kind is None:
        raise UnsupportedError(
            f"{path}: module type {type_name!r} is not implemented; gnomon has {', '.join(_PYTHON_MODULES)}."
        )
    return kind


def _check_inside(folder: Path, relative_path: Any, path: Path) -> Path:
    """The module's folder; judged by its text, since the hub cache is made of links."""
    pure = PurePosixPath(relative_path) if isinstance(relative_path, str) else None
    if (
        pure is None
        or pure.is_absolute()
        or ".." in pure.parts
        or "\\" in str(relative_path)
        or ":" in str(relative_path)
    ):
        raise UnsafeFileError(
            f"{path}: path {str(relative_path)[:80]!r} leaves the model's folder; a module must lie inside it."
        )
    try:
        (folder / pure / "model.safetensors.index.json").is_file()  # the longest name that is looked for
    except OSError as error:
        raise NotAModelError(
            f"{path}: path {str(relative_path)[:80]!r} cannot be looked up as a folder: {error.strerror}."
        ) from error
    return folder / pure


def read_pooling(path: Path, hidden_size: int) -> PoolingSpec:
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing; it says how token vectors are pooled.")
    width = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden_size))
    if width != hidden_size:
        raise ModelError(f"{path}: width {width}, but the trunk gives {hidden_size}.")
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


def read_module_specs(
    folder: Path, modules: list[ModuleEntry], input_dim: int, arrays: Arrays
) -> tuple[tuple[ModuleSpec, ...], tuple[DenseSpec, ...]]:
    """The chain after pooling, and the Dense folders that can stand in for its last Dense. Adds their arrays to
    `arrays`.
    """
    heads: list[ModuleSpec] = []
    last: tuple[ModuleEntry, DenseSpec] | None = None
    for module in modules:
        if module.kind == "Dense":
            head = _read_dense(folder, module.path, input_dim, arrays)
            last, input_dim = (module, head), head.out_features
            heads.append(head)
        elif module.kind == "Normalize":
            _check_input_name(read_json(module.path / "config.json"), module.path)
            heads.append(NormalizeSpec())
        else:
            raise UnsupportedError(f"{folder}/modules.json: {module.kind} may not stand after the pooling.")
    wide = _read_dim_modules(folder, *last, arrays) if last else ()
    return tuple(heads), wide


def _read_dim_modules(
    folder: Path, module: ModuleEntry, listed_dense: DenseSpec, arrays: Arrays
) -> tuple[DenseSpec, ...]:
    """stella's layout: `2_Dense_1024` in modules.json, other widths in folders of the same name with another number."""
    stem, _, width = module.path.name.rpartition("_")
    if not stem or width != str(listed_dense.out_features):
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
        listed_dense if path == module.path else _read_dense(folder, path, listed_dense.in_features, arrays)
        for path in siblings
    )


def _read_dense(folder: Path, module_folder: Path, input_dim: int, arrays: Arrays) -> DenseSpec:
    path = module_folder / "config.json"
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing; it says what the Dense layer computes.")
    _check_input_name(config, module_folder)
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
            name=module_folder.relative_to(folder).as_posix(),
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config.get("bias", True)),
            activation=DENSE_ACTIVATIONS[name],
            residual=bool(config.get("use_residual", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotAModelError(f"{path}: in_features and out_features must be integers ({error!r}).") from error
    if head.in_features != input_dim:
        raise ModelError(f"{path}: in_features is {head.in_features}, but {input_dim} arrive from the module in front.")
    theirs = {
        f"{head.name}.weight": "linear.weight",
        f"{head.name}.bias": "linear.bias",
        f"{head.name}.residual": "residual.weight",
    }
    shapes = dense_shapes(head)
    found = match_arrays(
        read_weights(module_folder), {theirs[ours]: shape for ours, shape in shapes.items()}, where=str(module_folder)
    )
    check_floating(found, module_folder)
    arrays |= {ours: found[theirs[ours]] for ours in shapes}
    return head


def _check_input_name(config: Json, module_folder: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                f"{module_folder}/config.json: {key} {config[key]!r} is not implemented; it may be 'sentence_embedding'."
            )
