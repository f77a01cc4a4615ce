"""A recipe: TOML and overrides -> `Recipe`, and back.

    recipe = read("multi-qa", ["model=my-model", "output=tuned", "sources.path=pairs.jsonl", "max_steps=500"])

The dataclasses of `settings` are the schema: their fields are the keys, their types say what a value must be.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from gnomon.errors import ExtraError, InputError
from gnomon.inputs import did_you_mean, nearest
from gnomon.train.rules import check
from gnomon.train.settings import Recipe

Table = dict[str, Any]

UNSET = "none"
"""As the value of an override: the key is as if it had not been given."""

WORDS: Mapping[Any, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
"""What a value must be, by the type of its field."""

ELSEWHERE = {
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


def read(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe with overrides, checked. No path in it is opened; relative ones are relative to the current folder.

    Args:
        recipe: a .toml file, or the name of a recipe that ships ("multi-qa").
        overrides: "key=value", in their order. The key has dots where there are tables ("loss.temperature",
            "sources.0.path", or "sources.path" where there is one source). The value is TOML, or else the text as it
            stands; `none` takes the key out.

    Raises:
        InputError: no such recipe; no TOML; a key that does not exist; a value of another type or out of its range;
            settings that exclude each other.
    """
    file = _file(recipe)
    table = _parsed(file)
    try:
        for override in overrides:
            _override(table, override)
        found: Recipe = _made(Recipe, table, "")
        check(found)
    except InputError as error:
        raise InputError(f"{recipe}: {error}") from error.__cause__
    return found


def shipped() -> dict[str, Path]:
    """The recipes that ship, by name: in the package, or at the root of a checkout."""
    here = Path(__file__).resolve()
    folders = (here.parents[1] / "recipes", here.parents[3] / "recipes")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def to_toml(recipe: Recipe) -> str:
    """Every key that has a value, defaults too; `read` gives the same recipe back."""
    return _tomlkit().dumps(plain(recipe))


def printed(recipe: str | Path, overrides: Sequence[str] = ()) -> str:
    """What `read` makes of it, as TOML. Without overrides a recipe that ships keeps its comments, and what it leaves to
    a default is marked.
    """
    effective = read(recipe, overrides)
    if overrides or str(recipe) not in shipped():
        return to_toml(effective)
    document = _tomlkit().parse(_file(recipe).read_text("utf-8"))
    _fill(document, plain(effective))
    return _tomlkit().dumps(document)


def plain(recipe: Recipe) -> Table:
    """As TOML has it: lists for tuples, nothing for None, tables last."""
    return _plain(asdict(recipe))


# ---- TOML to settings


def _file(recipe: str | Path) -> Path:
    path, known = Path(recipe), shipped()
    if str(recipe) in known:
        return known[str(recipe)]
    if not path.is_file():
        raise InputError(
            f"recipe {str(recipe)!r} is not here: there is no such file, and those that ship are {', '.join(known)}."
            f"{did_you_mean(recipe, known)}"
        )
    return path


def _parsed(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); a recipe is a file of TOML.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}. Texts stand in quotes, lists in brackets.") from error


def _made(kind: Any, value: Any, key: str) -> Any:
    """The value of a key, as the type of its field says."""
    kind, origin = _given(kind), get_origin(_given(kind))
    if is_dataclass(kind):
        return _table(cast("type[Any]", kind), value, key)
    if origin is Literal:
        if value not in get_args(kind) or not isinstance(value, str):
            known = get_args(kind)
            raise InputError(f"{key} is {value!r}; it must be one of {', '.join(known)}.{did_you_mean(value, known)}")
        return value
    if origin is tuple:
        # one value stands for a list of one
        items: list[Any] = value if isinstance(value, list) else [value]
        inner = get_args(kind)[0]
        return tuple(_made(inner, item, f"{key}.{place}") for place, item in enumerate(items))
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{key} is {_shown(value)}; it must be {WORDS[kind]}.")
    if kind in (int, float) and type(value) is int and abs(value) >= 1 << 63:
        raise InputError(f"{key} is {_shown(value)}; whole numbers have 64 bits.")
    return kind(value)


def _table(kind: type[Any], value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{key} is {_shown(value)}; it is a table, with keys of its own: {', '.join(_hints(kind))}.")
    given, hints = cast("Table", value), _hints(kind)
    made = {name: _made(_hint(kind, name, key), item, _dotted(key, name)) for name, item in given.items()}
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            told = _dotted(key, field.name)
            example = " [[sources]] with a path" if hints[field.name] not in (str,) and not key else ""
            raise InputError(f"{told} is missing; a recipe must have it{':' + example if example else ''}.")
    return kind(**made)


def _hint(kind: type[Any], name: str, key: str) -> Any:
    """The type of a key of a table.

    Raises:
        InputError: no such key; offers the nearest, of this table or of another.
    """
    hints = _hints(kind)
    if name in hints:
        return hints[name]
    where = f"{key!r} has" if key else "a recipe has"
    others = {each.rpartition(".")[2]: each for each in reversed(_keys())}
    if near := nearest(name, hints):
        hint = f" Did you mean {_dotted(key, near[0])!r}?"
    elif instead := ELSEWHERE.get(name) or others.get(name):
        hint = f" Here it is {instead!r}."
    elif near := nearest(name, _keys()):
        hint = f" Did you mean {near[0]!r}?"
    else:
        hint = f" There are {', '.join(hints)}."
    raise InputError(f"{where} no key {name!r}.{hint}")


def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _keys(kind: type[Any] = Recipe, key: str = "") -> list[str]:
    """All keys of a recipe, with dots; those of the first table first."""
    deeper: list[str] = []
    for name, hint in _hints(kind).items():
        if inner := _dataclass_of(hint):
            deeper += _keys(inner, _dotted(key, name))
    return [_dotted(key, name) for name in _hints(kind)] + deeper


def _given(kind: Any) -> Any:
    """The type behind "| None"."""
    return next(each for each in get_args(kind) if each is not type(None)) if isinstance(kind, UnionType) else kind


def _dataclass_of(hint: Any) -> type[Any] | None:
    """The table behind the type of a key, also behind a list of tables."""
    kind = _given(hint)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return cast("type[Any]", inner) if is_dataclass(inner) else None


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- overrides


def _override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{override!r} is no override; give key=value, such as max_steps=100.")
    _put(table, Recipe, key.strip().split("."), text, "")


def _put(table: Table, kind: type[Any], way: Sequence[str], text: str, key: str) -> None:
    """Sets what lies at the end of `way`, with the tables on the way."""
    name, *rest = way
    hint, here = _hint(kind, name, key), _dotted(key, name)
    if not rest:
        table.pop(name, None)
        if text.strip() != UNSET:
            table[name] = _value(text, hint)
        return
    inner = _dataclass_of(hint)
    if inner is None:
        raise InputError(f"{here!r} has no keys of its own; {'.'.join(way[1:])!r} is none.")
    if get_origin(hint) is tuple:
        place, rest = _place(table.setdefault(name, [{}]), rest, here)
        here = f"{here}.{place}"
        child = table[name][place]
    else:
        child = table.setdefault(name, {})
    if not rest:
        raise InputError(f"{here!r} is a table; say which of its keys, such as {here}.{next(iter(_hints(inner)))}.")
    if not isinstance(child, dict):
        raise InputError(f"{here} is {_shown(child)}; it is a table, with keys of its own: {', '.join(_hints(inner))}.")
    _put(cast("Table", child), inner, rest, text, here)


def _place(tables: Any, way: Sequence[str], key: str) -> tuple[int, Sequence[str]]:
    """Which of a list of tables is meant, and the way on from there."""
    count = len(tables) if isinstance(tables, list) else 0
    if not way[0].isdecimal():
        if count != 1:
            raise InputError(
                f"there are {count} {key}; say which, {key}.0.{way[0]} to {key}.{count - 1}.{way[0]}, or give all of "
                f"them: {key}=[{{path = ...}}]."
            )
        return 0, way
    if int(way[0]) >= count:
        raise InputError(f"{key}.{way[0]} is not there; there are {count} {key}, counted from 0.")
    return int(way[0]), way[1:]


def _value(text: str, hint: Any) -> Any:
    """An override's value as TOML has it; where a text is wanted, what is neither a text nor a list is taken as it
    stands.
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    kind = _given(hint)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    wants_text = inner is str or get_origin(inner) is Literal
    if found.keys() != {"value"} or (wants_text and not isinstance(found["value"], str | list)):
        return text
    return found["value"]


# ---- settings to TOML


def _plain(table: Mapping[str, Any]) -> Table:
    rows = {name: _plain_value(value) for name, value in table.items() if value is not None}
    return dict(sorted(rows.items(), key=lambda row: _is_table(row[1])))


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(cast("Table", value))
    return [_plain_value(item) for item in cast("tuple[Any, ...]", value)] if isinstance(value, tuple) else value


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(_is_table(item) for item in cast("list[Any]", value))
    )


def _fill(document: Any, table: Table) -> None:
    """Adds what the document lacks, marked as defaults."""
    for name, value in table.items():
        if name not in document:
            item = _tomlkit().item(value).comment("default")
            item.trivia.comment_ws = "  "
            document.add(name, item)
        elif isinstance(value, dict):
            _fill(document[name], cast("Table", value))
        elif _is_table(value):
            for child, inner in zip(document[name], value, strict=True):
                _fill(child, inner)


def _tomlkit() -> Any:
    try:
        import tomlkit
    except ImportError as error:
        raise ExtraError('the package tomlkit is not installed; pip install "gnomon[train]"') from error
    return tomlkit
