"""TOML values -> the dataclasses of `schema`. A key's annotation says which values it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from gnomon.errors import InputError
from gnomon.messages import closest_names, did_you_mean, shorten
from gnomon.train.recipe.schema import Recipe, Within

Table = dict[str, Any]
N = TypeVar("N")

TYPE_DESCRIPTIONS: Mapping[Any, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}

EXAMPLES = dict.fromkeys(("sources", "path"), "sources.path=pairs.jsonl, or [[sources]] with a path in a file")
"""A key that has no default -> how it is set."""

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
"""A key of other trainers -> our key for it, or the one that takes its place."""

EARLIER_KEYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "length_buckets": ("group_by_length", {}),
    "taught": ("distillation_target", {"own": "self"}),
}
"""A key of an earlier version, which recipes of earlier runs hold -> its name now, and the names now of its values."""


def parse(hint: Any, value: Any, key: str) -> Any:
    """The value of a key, as its annotation says. An int is taken for a float, and one value for a list of one.

    Raises:
        InputError: a value of another type or out of its bounds; an unknown key; a missing key.
    """
    kind = strip_annotation(hint)
    if is_dataclass(kind):
        return _parse_table(cast("type[Any]", kind), value, key)
    if get_origin(kind) is tuple:
        items: list[Any] = value if isinstance(value, list) else [value]
        inner = get_args(kind)[0]
        values = tuple(parse(inner, item, f"{key}.{number}") for number, item in enumerate(items))
    else:
        values = (_parse_scalar(kind, value, key),)
    for bounds in find_annotations(hint, Within):
        for item in values:
            if item not in bounds:
                raise InputError(f"{key} is {item}. It must be {bounds}.")
    return values if get_origin(kind) is tuple else values[0]


def _parse_scalar(kind: Any, value: Any, key: str) -> Any:
    if get_origin(kind) is Literal:
        choices: tuple[str, ...] = get_args(kind)
        if not isinstance(value, str) or value not in choices:
            raise InputError(
                f"{key} is {shorten(value)}. It must be one of {', '.join(choices)}.{did_you_mean(value, choices)}"
            )
        return value
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{key} is {shorten(value)}. It must be {TYPE_DESCRIPTIONS[kind]}.")
    if type(value) is int and abs(value) >= 1 << 63:
        raise InputError(f"{key} is {shorten(value)}. A whole number must fit into 64 bits.")
    return kind(value)


def _parse_table(kind: type[Any], value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{key} is {shorten(value)}. It must be a table with the keys {', '.join(key_types(kind))}.")
    table = _rename_earlier_keys(kind, cast("Table", value))
    values = {name: parse(key_type(kind, name, key), item, dotted(key, name)) for name, item in table.items()}
    for field in fields(kind):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            example = f", such as {EXAMPLES[field.name]}" if field.name in EXAMPLES else ""
            raise InputError(f"{dotted(key, field.name)} is missing. A recipe must have it{example}.")
    return kind(**values)


# ---- keys


def _rename_earlier_keys(kind: type[Any], table: Table) -> Table:
    """A table with the keys of earlier versions by their present names. Others are left as they are."""
    known, present = key_types(kind), dict[str, Any]()
    for name, value in table.items():
        new_name, new_values = EARLIER_KEYS.get(name, (name, {}))
        if new_name not in known or new_name in table:
            present[name] = value
        else:
            present[new_name] = new_values.get(value, value) if isinstance(value, str) else value
    return present


def key_type(kind: type[Any], name: str, key: str) -> Any:
    """The annotation of a key in a table.

    Raises:
        InputError: there is no such key; offers the nearest, from this table or another.
    """
    hints = key_types(kind)
    if name in hints:
        return hints[name]
    table = repr(key) if key else "a recipe"
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(keys_of())}
    if (earlier := EARLIER_KEYS.get(name)) and earlier[0] in hints:
        hint = f"Here it is {dotted(key, earlier[0])!r}."
    elif near := closest_names(name, hints):
        hint = f"Did you mean {dotted(key, near[0])!r}?"
    elif instead := FOREIGN_KEYS.get(name) or elsewhere.get(name):
        hint = f"Here it is {instead!r}."
    elif near := closest_names(name, keys_of()):
        hint = f"Did you mean {near[0]!r}?"
    else:
        hint = f"Its keys are {', '.join(hints)}."
    raise InputError(f"{table} has no key {name!r}. {hint}")


@cache
def key_types(kind: type[Any]) -> dict[str, Any]:
    """Key -> annotation, for a table."""
    return get_type_hints(kind, include_extras=True)


def keys_of(kind: type[Any] = Recipe, key: str = "") -> list[str]:
    """All keys of a recipe, with dots; those of the first table first."""
    hints = key_types(kind)
    inner = [(name, table) for name, hint in hints.items() if (table := table_type(hint))]
    return [dotted(key, name) for name in hints] + [
        deeper for name, table in inner for deeper in keys_of(table, dotted(key, name))
    ]


def find_annotations(hint: Any, kind: type[N]) -> list[N]:
    """What stands in `Annotated` beside a key's type: its `Within`, its `OnlyFor`."""
    return [item for item in getattr(hint, "__metadata__", ()) if isinstance(item, kind)]


def strip_annotation(hint: Any) -> Any:
    """The type of a key's values, without `Annotated` and "| None"."""
    kind = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    members = get_args(kind)
    return next(member for member in members if member is not NoneType) if NoneType in members else kind


def table_type(hint: Any) -> type[Any] | None:
    """The dataclass of a table, or of a list of tables; None for another key."""
    kind = strip_annotation(hint)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return cast("type[Any]", inner) if is_dataclass(inner) else None


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
