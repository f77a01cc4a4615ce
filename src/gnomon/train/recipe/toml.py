"""Reads a recipe from TOML and overrides, and writes it as TOML.

recipe = read("multi-qa", ["model=my-model", "output=tuned", "sources.path=pairs.jsonl", "max_steps=500"])
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from gnomon.errors import ExtraError, InputError
from gnomon.install import advise_install
from gnomon.messages import count, did_you_mean, shorten
from gnomon.train.recipe.checks import check, check_settings
from gnomon.train.recipe.parse import Table, dotted, key_type, key_types, parse, strip_annotation, table_type
from gnomon.train.recipe.schema import Recipe

UNSET = "none"
"""An override with this value removes the key."""


def read(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply overrides and check it. No path in it is opened; relative ones start in the current folder.

    Args:
        recipe: a .toml file, or the name of a recipe that ships ("multi-qa").
        overrides: "key=value", applied in order. A key in a table has dots ("loss.temperature", "sources.0.path", or
            "sources.path" where there is one source). A value that is not TOML is a text; `none` removes the key.

    Raises:
        InputError: there is no such recipe, or it is not TOML; a key is unknown; a value has another type or is out of
            its bounds; keys exclude each other.
    """
    return _read(recipe, overrides, check)


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that ship, by name. They lie in the package, or at the root of a checkout."""
    here = Path(__file__).resolve()
    folders = (here.parents[2] / "recipes", here.parents[4] / "recipes")
    folder = next((path for path in folders if path.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def describe_shipped_recipes() -> dict[str, str]:
    """What each recipe that ships is for, by name: the first sentence of its comment."""
    return {name: _first_sentence(path) for name, path in shipped_recipes().items()}


def _first_sentence(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with, "# NAME: what it is for. ..."."""
    lines = takewhile(lambda line: line.strip("# "), path.read_text("utf-8").splitlines())
    text = " ".join(line.strip("# ") for line in lines)
    return text.partition(": ")[2].partition(". ")[0].rstrip(".")


def to_toml(recipe: Recipe) -> str:
    """Write every key that has a value, defaults too. `read` gives the same recipe back."""
    return _tomlkit().dumps(to_table(recipe))


def render_toml(recipe: str | Path, overrides: Sequence[str] = ()) -> str:
    """Write a recipe with overrides as TOML. Without overrides a recipe that ships keeps its comments, and defaults are
    marked. A source may lack a path, which `read` requires.
    """
    effective = _read(recipe, overrides, check_settings)
    if overrides or str(recipe) not in shipped_recipes():
        return to_toml(effective)
    document = _tomlkit().parse(_file(recipe).read_text("utf-8"))
    _add_defaults(document, to_table(effective))
    return _tomlkit().dumps(document)


def to_table(recipe: Recipe) -> Table:
    """Convert a recipe to what TOML can hold: lists for tuples, nothing for None, tables last."""
    return _plain(asdict(recipe))


# ---- TOML to settings


def _read(recipe: str | Path, overrides: Sequence[str], check: Callable[[Recipe], None]) -> Recipe:
    file = _file(recipe)
    table = _parse_file(file)
    try:
        for override in overrides:
            _apply_override(table, override)
        settings: Recipe = parse(Recipe, table, "")
        check(settings)
    except InputError as error:
        raise InputError(f"{recipe}: {error}") from error.__cause__
    return settings


def _file(recipe: str | Path) -> Path:
    path, known = Path(recipe), shipped_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    if not path.is_file():
        raise InputError(
            f"Recipe {str(recipe)!r} does not exist. Give a .toml file, or one that ships: {', '.join(known)}."
            f"{did_you_mean(recipe, known)}"
        )
    return path


def _parse_file(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}). A recipe is a TOML file.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}. Put texts in quotes and lists in brackets.") from error


# ---- overrides


def _apply_override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{override!r} is not an override. Give key=value, such as max_steps=100.")
    _set_value(table, Recipe, key.strip().split("."), text, "")


def _set_value(table: Table, kind: type[Any], key_path: Sequence[str], text: str, key: str) -> None:
    """Set the key at the end of a path, and create the tables that it needs.

    Args:
        kind: the dataclass of `table`.
        key: the path to `table`, for messages.
    """
    name, *rest = key_path
    hint, here = key_type(kind, name, key), dotted(key, name)
    if not rest:
        table.pop(name, None)
        if text.strip() != UNSET:
            table[name] = _parse_value(text, hint)
        return
    inner = table_type(hint)
    if inner is None:
        raise InputError(f"{here!r} is not a table, so it has no key {'.'.join(rest)!r}. Set {here} itself.")
    if get_origin(strip_annotation(hint)) is tuple:
        number, rest = _select_table(table.setdefault(name, [{}]), rest, here)
        here = f"{here}.{number}"
        child = table[name][number]
    else:
        child = table.setdefault(name, {})
    if not rest:
        raise InputError(f"{here!r} is a table. Set one of its keys, such as {here}.{next(iter(key_types(inner)))}.")
    if not isinstance(child, dict):
        raise InputError(f"{here} is {shorten(child)}. It must be a table with the keys {', '.join(key_types(inner))}.")
    _set_value(cast("Table", child), inner, rest, text, here)


def _select_table(tables: Any, key_path: Sequence[str], key: str) -> tuple[int, Sequence[str]]:
    """The number of the table that a path means, and the rest of the path."""
    num_tables = len(cast("list[Any]", tables)) if isinstance(tables, list) else 0
    first, *rest = key_path
    if not first.isdecimal():
        if num_tables != 1:
            raise InputError(
                f"There are {num_tables} {key}. Name one, {key}.0.{first} to {key}.{num_tables - 1}.{first}, or "
                f"replace all of them: {key}=[{{path = ...}}]."
            )
        return 0, key_path
    if int(first) >= num_tables:
        raise InputError(
            f"There is no {key}.{first}. The list has {count(num_tables, 'entry', 'entries')}, numbered from 0."
        )
    return int(first), rest


def _parse_value(text: str, hint: Any) -> Any:
    """Read an override's value as TOML. Where a key takes a text, anything but a TOML text or list is taken as text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    kind = strip_annotation(hint)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    takes_text = inner is str or get_origin(inner) is Literal
    if table.keys() != {"value"} or (takes_text and not isinstance(table["value"], str | list)):
        return text
    return table["value"]


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
    """Add the keys that the document lacks, marked as defaults."""
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
        raise ExtraError(f"The package tomlkit is not installed. {advise_install('train')}") from error
    return tomlkit
