"""Writes docs/reference/recipes.md from the schema of recipes: python scripts/recipe_page.py

Keys, types, defaults and bounds are those of `gnomon.train.recipe.schema`, and the text is its docstrings. A test
compares the page with what this program writes.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from gnomon.train.recipe import schema
from gnomon.train.recipe.parse import find_annotations, key_types, strip_annotation, table_type
from gnomon.train.recipe.schema import OnlyFor, Recipe, Within

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "recipes.md"
KINDS = {str: "text", bool: "`true` or `false`", int: "whole number", float: "number"}
HEAD = """\
# Recipe keys

<!-- Written by scripts/recipe_page.py from the schema. Change the docstrings there, and run it again. -->

A recipe is a TOML file of these keys. [Training](../guides/training.md) is the guide to it. `gnomon train --print NAME`
shows a shipped recipe with every default filled in. On the command line a key is set as `KEY=VALUE`, for example
`batch_size=64` or `loss.name=gist`. `KEY=none` removes a value. An unknown key is an error that names the nearest.

A key without a default needs a value. "unset" means that there is no value; the text says what happens then.
"""


def render_page() -> str:
    tables = {name: table for name, hint in key_types(Recipe).items() if (table := table_type(hint))}
    parts = [HEAD]
    for title, names in group_keys(Recipe):
        parts.append(f"## {title}\n\n{render_table(Recipe, names, tables)}")
    for name, table in tables.items():
        heading = f"[[{name}]]" if get_origin(strip_annotation(key_types(Recipe)[name])) is tuple else f"[{name}]"
        names = [field.name for field in fields(table)]
        parts.append(f"## `{heading}`\n\n{inspect.getdoc(table)}\n\n{render_table(table, names, {})}")
    return "\n".join(parts)


def group_keys(table: type[Any]) -> list[tuple[str, list[str]]]:
    """The keys of a table under the comments that stand between them, each as (title, names)."""
    groups: list[tuple[str, list[str]]] = [("What every recipe has", [])]
    keys = {field.name for field in fields(table)}
    for line in inspect.getsource(table).splitlines():
        if line.startswith("    # "):
            groups.append((line[6:].capitalize(), []))
        elif line[:4] == "    " and (name := line[4:].partition(":")[0]) in keys:
            groups[-1][1].append(name)
    return groups


def render_table(table: type[Any], names: list[str], tables: dict[str, Any]) -> str:
    texts, defaults = read_docstrings(table), {field.name: field for field in fields(table)}
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name in names:
        hint = key_types(table)[name]
        link = f"[`{name}`](#{name})" if name in tables else f"`{name}`"
        values = "a list of tables" if name == "sources" else "a table" if name in tables else describe_values(hint)
        rows.append(f"| {link} | {values} | {describe_default(defaults[name])} | {describe_key(texts[name], hint)} |")
    return "\n".join(rows) + "\n"


def describe_key(text: str, hint: Any) -> str:
    only_for = [loss for rule in find_annotations(hint, OnlyFor) for loss in rule.losses]
    return text + (f" Only for {', '.join(f'`{loss}`' for loss in only_for)}." if only_for else "")


def describe_values(hint: Any) -> str:
    """A key's type in words, with its bounds: "whole number, at least 1"."""
    kind = strip_annotation(hint)
    is_list = get_origin(kind) is tuple
    inner = get_args(kind)[0] if is_list else kind
    if get_origin(inner) is Literal:
        return ("list of " if is_list else "") + ", ".join(f'`"{choice}"`' for choice in get_args(inner))
    bounds = [f"each {rule}" if is_list else str(rule) for rule in find_annotations(hint, Within)]
    return ", ".join([f"list of {KINDS[inner]}s" if is_list else KINDS[inner], *bounds])


def describe_default(key: Field[Any]) -> str:
    if key.default is MISSING:
        return "" if key.default_factory is MISSING else "its defaults"
    if key.default is None:
        return "unset"
    value = list(key.default) if isinstance(key.default, tuple) else key.default
    return f"`{json.dumps(value)}`"


def read_docstrings(table: type[Any]) -> dict[str, str]:
    """The string below each key in the source, on one line."""
    return dict(iter_docstrings(ast.parse(inspect.getsource(table)).body[0].body))  # type: ignore[attr-defined]


def iter_docstrings(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for key, text in pairwise(body):
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(key.target, ast.Name)
            yield key.target.id, " ".join(str(text.value.value).split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render_page(), "utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd())} from {schema.__name__}")
