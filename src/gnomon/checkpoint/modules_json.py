"""The modules of a sentence-transformers folder: which there are, and what each computes. One table row a class.

Nothing of the folder is run: module and activation classes are rows of the tables below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from numpy.typing import NDArray

from gnomon.checkpoint.weights import check_floating, read_weights, strict
from gnomon.errors import ModelError, NotAModelError, UnsafeFileError, UnsupportedError
from gnomon.spec import (
    POOLING_MODES,
    Activation,
    DenseSpec,
    HeadSpec,
    NormalizeSpec,
    PoolingMode,
    PoolingSpec,
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

_DROPOUT = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"
"""Changes nothing but training: read over, with a notice."""

MODULE_TYPES: dict[str, str] = {
    "sentence_transformers.models.Dropout": "Dropout",
    "sentence_transformers.models.Dropout.Dropout": "Dropout",
    _DROPOUT: "Dropout",
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


OTHER_MODELS = {
    "CrossEncoder": "scores pairs of texts and gives no vector of a text",
    "SparseEncoder": "gives a weight to each word of a vocabulary, not a vector of fixed dimension",
    "MultiVectorEncoder": "gives a vector to each token, not one to a text",
    "ColBERT": "gives a vector to each token, not one to a text",
}
"""`model_type` of config_sentence_transformers.json -> what such a model does in place of embedding a text."""

OTHER_PACKAGES = {
    "sentence_transformers.cross_encoder.": "CrossEncoder",
    "sentence_transformers.sparse_encoder.": "SparseEncoder",
    "sentence_transformers.multi_vector_encoder.": "MultiVectorEncoder",
}
"""Start of a module's type -> the model that it is a part of."""

TASK_HEADS = {
    "ForSequenceClassification": "it gives scores to a text or a pair of texts (a classifier or a reranker)",
    "ForTokenClassification": "it labels tokens",
    "ForQuestionAnswering": "it finds answers in a text",
    "ForMultipleChoice": "it chooses among answers",
    "ForCausalLM": "it generates text",
    "LMHeadModel": "it generates text",
}
"""End of an architecture's name -> what it was tuned for. Not a masked language model: embedders start as one."""


@dataclass(frozen=True)
class Module:
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


def read_modules(folder: Path, notices: list[str]) -> list[Module]:
    """The modules of a folder, in order; of one without modules.json those that are assumed.

    Raises:
        NotAModelError, UnsupportedError, UnsafeFileError: no model, another kind of model, a path out of the folder.
    """
    settings = folder / "config_sentence_transformers.json"
    kind = read_json(settings).get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise _other_model(str(kind), f"{settings} says model_type {kind!r}")
    path = folder / "modules.json"
    if path.is_file():
        listed = _listed_modules(folder, path)
        acting = [module for module in listed if module.kind != "Dropout"]
        if len(acting) < len(listed):
            notices.append("A Dropout of modules.json is left out, in training and save too: it changes no vector.")
        if not acting:
            raise NotAModelError(f"{path} lists no module that gives vectors.")
        return acting
    config = read_json(folder / "config.json")
    if config.get("model_type") == "model2vec":
        normalize = [Module("Normalize", folder)] if config.get("normalize") else []
        return [Module("StaticEmbedding", folder), *normalize]
    if not config:
        raise NotAModelError(f"{folder} is not a model: it has neither modules.json nor config.json.")
    _check_architecture(folder, config)
    notices.append(
        "No modules.json: read as a plain Hugging Face checkpoint, with mean pooling and without normalisation."
    )
    return [Module("Transformer", folder)]


def _other_model(kind: str, by: str) -> UnsupportedError:
    does = OTHER_MODELS.get(kind, "is not an embedder of texts")
    return UnsupportedError(f"{by}: this is a {kind}, which {does}. Give an embedding model, a SentenceTransformer.")


def _check_architecture(folder: Path, config: Json) -> None:
    """A folder without modules.json is no embedder where every class that it names was tuned for something else."""
    named = config.get("architectures") or []
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    ends = [next((end for end in TASK_HEADS if name.endswith(end)), None) for name in names]
    if ends and (first := ends[0]) and all(ends):
        raise UnsupportedError(
            f"{folder} is not an embedding model: config.json says {names[0]}, so {TASK_HEADS[first]}. "
            "To start from its trunk, save that: AutoModel.from_pretrained(...).save_pretrained(...)."
        )


def _listed_modules(folder: Path, path: Path) -> list[Module]:
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
    return [Module(_kind(name, path), _inside(folder, place, path)) for name, place in pairs]


def _kind(name: Any, path: Path) -> str:
    kind = MODULE_TYPES.get(name) if isinstance(name, str) else None
    if kind is None and (other := [model for start, model in OTHER_PACKAGES.items() if str(name).startswith(start)]):
        raise _other_model(other[0], f"{path} lists {name}")
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


def read_pooling(path: Path, hidden: int) -> PoolingSpec:
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


def read_heads(
    folder: Path, modules: list[Module], width: int, arrays: Arrays
) -> tuple[tuple[HeadSpec, ...], tuple[DenseSpec, ...]]:
    """The chain after pooling, and the Dense folders that can stand in for its last Dense. Adds their arrays to
    `arrays`.
    """
    heads: list[HeadSpec] = []
    last: tuple[Module, DenseSpec] | None = None
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


def _read_wide_heads(folder: Path, module: Module, chosen: DenseSpec, arrays: Arrays) -> tuple[DenseSpec, ...]:
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
    check_floating(found, place)
    arrays |= {ours: found[theirs[ours]] for ours in shapes}
    return head


def _check_input_name(config: Json, place: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                f"{place}/config.json: {key} {config[key]!r} is not implemented; it may be 'sentence_embedding'."
            )
