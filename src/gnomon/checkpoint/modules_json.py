"""Reads the modules of a sentence-transformers folder: modules.json, Pooling, Dense and Normalize.

No code from the folder is run: module and activation classes are rows of the tables below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from numpy.typing import NDArray

from gnomon.checkpoint.weights import check_floating, match_arrays, read_weights
from gnomon.errors import ModelError, NotAModelError, UnsafeFileError, UnsupportedError
from gnomon.messages import shorten
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
"""Changes only training: it is skipped, with a warning."""

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
"""`type` in modules.json, in every dialect -> kind of module."""

DIALECTS: dict[str, dict[str, str]] = {
    "classic": {kind: f"sentence_transformers.models.{kind}" for kind in _PYTHON_MODULES},
    "5.4": {kind: f"{file}.{kind}" for kind, file in _PYTHON_MODULES.items()}
    | {"Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize"},
    "6.0": {kind: f"{file}.{kind}" for kind, file in _PYTHON_MODULES.items()},
}
"""Dialect that `save` writes -> kind of module -> `type`. Every version of sentence-transformers reads "classic"."""

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
    "CrossEncoder": "scores pairs of texts and gives no vectors",
    "SparseEncoder": "gives a weight to each word of a vocabulary, not a vector of fixed dimension",
    "MultiVectorEncoder": "gives one vector per token, not one per text",
    "ColBERT": "gives one vector per token, not one per text",
}
"""`model_type` in config_sentence_transformers.json -> what such a model does instead of embedding texts."""

UNSUPPORTED_TYPE_PREFIXES = {
    "sentence_transformers.cross_encoder.": "CrossEncoder",
    "sentence_transformers.sparse_encoder.": "SparseEncoder",
    "sentence_transformers.multi_vector_encoder.": "MultiVectorEncoder",
}
"""Start of a module's type -> the kind of model that it belongs to."""

TASK_HEAD_SUFFIXES = {
    "ForSequenceClassification": "it scores texts or pairs of texts (a classifier or a reranker)",
    "ForTokenClassification": "it labels tokens",
    "ForQuestionAnswering": "it finds answers in a text",
    "ForMultipleChoice": "it chooses among answers",
    "ForCausalLM": "it generates text",
    "LMHeadModel": "it generates text",
}
"""End of an architecture's name -> what it was tuned for. Embedders start as masked language models: no row."""


@dataclass(frozen=True)
class ModuleEntry:
    """A module of modules.json and its folder."""

    kind: str
    path: Path


def read_json(path: Path) -> Json:
    """The object in a JSON file; {} if the file does not exist.

    Raises:
        NotAModelError: not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())  # bytes: json skips a byte order mark, as Windows writes
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"{path} is not readable JSON ({error}). Download the model again.") from error
    if not isinstance(value, dict):
        raise NotAModelError(f"{path} holds a {type(value).__name__}; it must hold a JSON object.")
    return cast(Json, value)


def read_modules(folder: Path, warnings: list[str]) -> list[ModuleEntry]:
    """The modules of a folder, in order. Without modules.json, they are inferred from config.json.

    Raises:
        NotAModelError: the folder is not a model.
        UnsupportedError: another kind of model, or a module that is not implemented.
        UnsafeFileError: a path that leaves the folder.
    """
    settings = folder / "config_sentence_transformers.json"
    kind = read_json(settings).get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise _build_unsupported_error(str(kind), f"{settings} says model_type {kind!r}")
    path = folder / "modules.json"
    if path.is_file():
        entries = _parse_module_list(folder, path)
        modules = [entry for entry in entries if entry.kind != "Dropout"]
        if len(modules) < len(entries):
            warnings.append("A Dropout in modules.json is left out, in training and save too: it changes no vector.")
        if not modules:
            raise NotAModelError(f"{path} lists no module that gives vectors.")
        return modules
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
    does = UNSUPPORTED_MODELS.get(kind, "does not embed texts")
    return UnsupportedError(
        f"{evidence}: this is a {kind}, which {does}. Give an embedding model (SentenceTransformer)."
    )


def _check_architecture(folder: Path, config: Json) -> None:
    """Check a folder without modules.json: some class that config.json names must not be tuned for another task."""
    named = config.get("architectures") or []
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    ends = [next((end for end in TASK_HEAD_SUFFIXES if name.endswith(end)), None) for name in names]
    if ends and (first := ends[0]) and all(ends):
        raise UnsupportedError(
            f"{folder} is not an embedding model: config.json says {names[0]}, so {TASK_HEAD_SUFFIXES[first]}. "
            "To start from its trunk, save that: AutoModel.from_pretrained(...).save_pretrained(...)."
        )


def _parse_module_list(folder: Path, path: Path) -> list[ModuleEntry]:
    """The modules in the order of the file. `idx` is ignored, as in sentence-transformers."""
    try:
        rows = json.loads(path.read_bytes())
        pairs = [(row["type"], row["path"]) for row in rows]
        names = [name for row in rows if (name := row.get("name")) is not None]
        if len({*names}) < len(names):
            raise ValueError(f"two modules have the same name among {names}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotAModelError(
            f"{path} is not a list of modules with type and path ({error!r}). Download the model again."
        ) from error
    return [
        ModuleEntry(_get_module_kind(name, path), _check_inside(folder, subfolder, path)) for name, subfolder in pairs
    ]


def _get_module_kind(type_name: Any, path: Path) -> str:
    kind = MODULE_TYPES.get(type_name) if isinstance(type_name, str) else None
    if kind is None and (
        models := [model for start, model in UNSUPPORTED_TYPE_PREFIXES.items() if str(type_name).startswith(start)]
    ):
        raise _build_unsupported_error(models[0], f"{path} lists {type_name}")
    if kind is None:
        raise UnsupportedError(
            f"{path}: module type {type_name!r} is not implemented; gnomon has {', '.join(_PYTHON_MODULES)}."
        )
    return kind


def _check_inside(folder: Path, relative_path: Any, path: Path) -> Path:
    """The module's folder. The text of its path is checked, not its target, since files in the hub cache are links."""
    pure = PurePosixPath(relative_path) if isinstance(relative_path, str) else None
    if (
        pure is None
        or pure.is_absolute()
        or ".." in pure.parts
        or "\\" in str(relative_path)
        or ":" in str(relative_path)
    ):
        raise UnsafeFileError(
            f"{path}: path {shorten(str(relative_path), 80)} leaves the model's folder; a module must be inside it."
        )
    try:
        (folder / pure / "model.safetensors.index.json").is_file()  # the longest name that is looked for
    except OSError as error:
        raise NotAModelError(
            f"{path}: path {shorten(str(relative_path), 80)} cannot be looked up as a folder: {error.strerror}."
        ) from error
    return folder / pure


def read_pooling(path: Path, hidden_size: int) -> PoolingSpec:
    """How token vectors are pooled, from the config of a Pooling module."""
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing. It must say how token vectors are pooled.")
    dim = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden_size))
    if dim != hidden_size:
        raise ModelError(f"{path}: embedding_dimension is {dim}, but the trunk gives {hidden_size} dimensions.")
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
    """The modules after pooling, and the Dense modules for other dimensions that can replace the last Dense.

    Their arrays are added to `arrays`.
    """
    specs: list[ModuleSpec] = []
    last: tuple[ModuleEntry, DenseSpec] | None = None
    for module in modules:
        if module.kind == "Dense":
            dense = _read_dense(folder, module.path, input_dim, arrays)
            last, input_dim = (module, dense), dense.out_features
            specs.append(dense)
        elif module.kind == "Normalize":
            _check_input_name(read_json(module.path / "config.json"), module.path)
            specs.append(NormalizeSpec())
        else:
            raise UnsupportedError(f"{folder}/modules.json: {module.kind} must not come after the pooling.")
    dim_modules = _read_dim_modules(folder, *last, arrays) if last else ()
    return tuple(specs), dim_modules


def _read_dim_modules(
    folder: Path, module: ModuleEntry, last_dense: DenseSpec, arrays: Arrays
) -> tuple[DenseSpec, ...]:
    """The Dense modules for other dimensions: `2_Dense_1024` is in modules.json, `2_Dense_256` beside it (stella)."""
    stem, _, dim = module.path.name.rpartition("_")
    if not stem or dim != str(last_dense.out_features):
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
        last_dense if path == module.path else _read_dense(folder, path, last_dense.in_features, arrays)
        for path in siblings
    )


def _read_dense(folder: Path, module_folder: Path, input_dim: int, arrays: Arrays) -> DenseSpec:
    path = module_folder / "config.json"
    config = read_json(path)
    if not config:
        raise NotAModelError(f"{path} is missing. It must say what the Dense layer computes.")
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
        dense = DenseSpec(
            name=module_folder.relative_to(folder).as_posix(),
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config.get("bias", True)),
            activation=DENSE_ACTIVATIONS[name],
            residual=bool(config.get("use_residual", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotAModelError(f"{path}: in_features and out_features must be integers ({error!r}).") from error
    if dense.in_features != input_dim:
        raise ModelError(f"{path}: in_features is {dense.in_features}, but the module before gives {input_dim}.")
    tensor_names = {
        f"{dense.name}.weight": "linear.weight",
        f"{dense.name}.bias": "linear.bias",
        f"{dense.name}.residual": "residual.weight",
    }
    shapes = dense_shapes(dense)
    tensors = match_arrays(
        read_weights(module_folder),
        {tensor_names[name]: shape for name, shape in shapes.items()},
        where=str(module_folder),
    )
    check_floating(tensors, module_folder)
    arrays |= {name: tensors[tensor_names[name]] for name in shapes}
    return dense


def _check_input_name(config: Json, module_folder: Path) -> None:
    """Check that a module reads and writes the sentence embedding."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                f"{module_folder}/config.json: {key} {config[key]!r} is not implemented; "
                "it may be 'sentence_embedding'."
            )
