"""The schema of a recipe: the dataclasses of `settings`. Fields are keys, their types say what a value must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from gnomon.errors import InputError
from gnomon.messages import closest_names, did_you_mean
from gnomon.train.recipe.schema import Recipe

Table = dict[str, Any]

TYPE_DESCRIPTIONS: Mapping[Any, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
"""What a value must be, by the type of its field."""

FOREIGN_KEYS = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "mini_batch_size": "chunk_tokens",
    "matryoshka_dims": "matryoshka.dims",
    "matryoshka_weights": "matryoshka.weights",
    "eval_steps": "validation.steps",
    "load_best_model_at_end": "validation.keep_best",
    "gather_across_devices": "batch_size",
    "output_dir": "output",
    "model_name_or_path": "model",
    "anchor": "sources.query",
}
"""What other trainers call it -> our key, or the key that takes its place."""


def parse(kind: Any, value: Any, key: str) -> Any:
    """The value of a key, as the type of its field says.

    Raises:
        InputError: a value of another type; a key that does not exist, or one that is missing.
    """
    kind, origin = strip_optional(kind), get_origin(strip_optional(kind))
    if is_dataclass(kind):
        return _parse_table(cast("type[Any]", kind), value, key)
    if origin is Literal:
        if value not in get_args(kind) or not isinstance(value, str):
            known = get_args(kind)
            raise InputError(f"{key} is {value!r}; it must be one of {', '.join(known)}.{did_you_mean(value, known)}")
        return value
    if origin is tuple:
        # one value stands for a list of one
        items: list[Any] = value if isinstance(value, list) else [value]
        inner = get_args(kind)[0]
        return tuple(parse(inner, item, f"{key}.{place}") for place, item in enumerate(items))
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{key} is {shorten(value)}; it must be {TYPE_DESCRIPTIONS[kind]}.")
    if kind in (int, float) and type(value) is int and abs(value) >= 1 << 63:
        raise InputError(f"{key} is {shorten(value)}; whole numbers have 64 bits.")
    return kind(value)


def _parse_table(kind: type[Any], value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(
            f"{key} is {shorten(value)}; it is a table, with keys of its own: {', '.join(key_types(kind))}."
        )
    given = cast("Table", value)
    values = {name: parse(key_type(kind, name, key), item, dotted(key, name)) for name, item in given.items()}
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            example = ": [[sources]] with a path" if field.name == "sources" else ""
            raise InputError(f"{dotted(key, field.name)} is missing; a recipe must have it{example}.")
    return kind(**values)


def key_type(kind: type[Any], name: str, key: str) -> Any:
    """The type of a key of a table.

    Raises:
        InputError: no such key; offers the nearest, of this table or of another.
    """
    hints = key_types(kind)
    if name in hints:
        return hints[name]
    where = f"{key!r} has" if key else "a recipe has"
    others = {each.rpartition(".")[2]: each for each in reversed(keys_of())}
    if near := closest_names(name, hints):
        hint = f" Did you mean {dotted(key, near[0])!r}?"
    elif instead := FOREIGN_KEYS.get(name) or others.get(name):
        hint = f" Here it is {instead!r}."
    elif near := closest_names(name, keys_of()):
        hint = f" Did you mean {near[0]!r}?"
    else:
        hint = f" There are {', '.join(hints)}."
    raise InputError(f"{where} no key {name!r}.{hint}")


def key_types(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def keys_of(kind: type[Any] = Recipe, key: str = "") -> list[str]:
    """All keys of a recipe, with dots; those of the first table first."""
    deeper: list[str] = []
    for name, hint in key_types(kind).items():
        if inner := table_type(hint):
            deeper += keys_of(inner, dotted(key, name))
    return [dotted(key, name) for name in key_types(kind)] + deeper


def strip_optional(kind: Any) -> Any:
    """The type behind "| None"."""
    return next(each for each in get_args(kind) if each is not type(None)) if isinstance(kind, UnionType) else kind


def table_type(hint: Any) -> type[Any] | None:
    """The table behind the type of a key, also behind a list of tables."""
    kind = strip_optional(hint)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return cast("type[Any]", inner) if is_dataclass(inner) else None


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
