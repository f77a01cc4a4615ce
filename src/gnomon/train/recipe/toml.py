"""A recipe: TOML and overrides -> `Recipe`, and back.

recipe = read("multi-qa", ["model=my-model", "output=tuned", "sources.path=pairs.jsonl", "max_steps=500"])
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from gnomon.errors import ExtraError, InputError
from gnomon.messages import did_you_mean
from gnomon.train.recipe.checks import check
from gnomon.train.recipe.parse import Table, dotted, key_type, key_types, parse, shorten, strip_optional, table_type
from gnomon.train.recipe.schema import Recipe

UNSET = "none"
"""As the value of an override: the key is as if it had not been given."""


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
    table = _parse_file(file)
    try:
        for override in overrides:
            _apply_override(table, override)
        found: Recipe = parse(Recipe, table, "")
        check(found)
    except InputError as error:
        raise InputError(f"{recipe}: {error}") from error.__cause__
    return found


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship, by name: in the package, or at the root of a checkout."""
    here = Path(__file__).resolve()
    folders = (here.parents[2] / "recipes", here.parents[4] / "recipes")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def to_toml(recipe: Recipe) -> str:
    """Every key that has a value, defaults too; `read` gives the same recipe back."""
    return _tomlkit().dumps(to_table(recipe))


def render_toml(recipe: str | Path, overrides: Sequence[str] = ()) -> str:
    """What `read` makes of it, as TOML. Without overrides a recipe that ships keeps its comments, and what it leaves to
    a default is marked.
    """
    effective = read(recipe, overrides)
    if overrides or str(recipe) not in shipped_recipes():
        return to_toml(effective)
    document = _tomlkit().parse(_file(recipe).read_text("utf-8"))
    _add_defaults(document, to_table(effective))
    return _tomlkit().dumps(document)


def to_table(recipe: Recipe) -> Table:
    """As TOML has it: lists for tuples, nothing for None, tables last."""
    return _plain(asdict(recipe))


# ---- TOML to settings


def _file(recipe: str | Path) -> Path:
    path, known = Path(recipe), shipped_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    if not path.is_file():
        raise InputError(
            f"recipe {str(recipe)!r} is not here: there is no such file, and those that ship are {', '.join(known)}."
            f"{did_you_mean(recipe, known)}"
        )
    return path


def _parse_file(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); a recipe is a file of TOML.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}. Texts stand in quotes, lists in brackets.") from error


# ---- overrides


def _apply_override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{override!r} is no override; give key=value, such as max_steps=100.")
    _set_value(table, Recipe, key.strip().split("."), text, "")


def _set_value(table: Table, kind: type[Any], key_path: Sequence[str], text: str, key: str) -> None:
    """Sets what lies at the end of `way`, with the tables on the way."""
    name, *rest = key_path
    hint, here = key_type(kind, name, key), dotted(key, name)
    if not rest:
        table.pop(name, None)
        if text.strip() != UNSET:
            table[name] = _parse_value(text, hint)
        return
    inner = table_type(hint)
    if inner is None:
        raise InputError(f"{here!r} has no keys of its own; {'.'.join(key_path[1:])!r} is none.")
    if get_origin(hint) is tuple:
        place, rest = _select_table(table.setdefault(name, [{}]), rest, here)
        here = f"{here}.{place}"
        child = table[name][place]
    else:
        child = table.setdefault(name, {})
    if not rest:
        raise InputError(f"{here!r} is a table; say which of its keys, such as {here}.{next(iter(key_types(inner)))}.")
    if not isinstance(child, dict):
        raise InputError(
            f"{here} is {shorten(child)}; it is a table, with keys of its own: {', '.join(key_types(inner))}."
        )
    _set_value(cast("Table", child), inner, rest, text, here)


def _select_table(tables: Any, key_path: Sequence[str], key: str) -> tuple[int, Sequence[str]]:
    """Which of a list of tables is meant, and the way on from there."""
    count = len(tables) if isinstance(tables, list) else 0
    if not key_path[0].isdecimal():
        if count != 1:
            raise InputError(
                f"there are {count} {key}; say which, {key}.0.{key_path[0]} to {key}.{count - 1}.{key_path[0]}, or give all of "
                f"them: {key}=[{{path = ...}}]."
            )
        return 0, key_path
    if int(key_path[0]) >= count:
        raise InputError(f"{key}.{key_path[0]} is not there; there are {count} {key}, counted from 0.")
    return int(key_path[0]), key_path[1:]


def _parse_value(text: str, hint: Any) -> Any:
    """An override's value as TOML has it; where a text is wanted, what is neither a text nor a list is taken as it
    stands.
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    kind = strip_optional(hint)
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
    return [_plain_value(item) for item in cast("Sequence[Any]", value)] if isinstance(value, tuple | list) else value


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(_is_table(item) for item in cast("list[Any]", value))
    )


def _add_defaults(document: Any, table: Table) -> None:
    """Adds what the document lacks, marked as defaults."""
    for name, value in table.items():
        if name not in document:
            item = _tomlkit().item(value).comment("default")
            item.trivia.comment_ws = "  "
            document.add(name, item)
        elif isinstance(value, dict):
            _add_defaults(document[name], cast("Table", value))
        elif _is_table(value):
            for child, inner in zip(document[name], value, strict=True):
                _add_defaults(child, inner)


def _tomlkit() -> Any:
    try:
        import tomlkit
    except ImportError as error:
        raise ExtraError('the package tomlkit is not installed; pip install "gnomon[train]"') from error
    return tomlkit
