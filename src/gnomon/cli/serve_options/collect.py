"""Command line and environment -> settings: for each field, the values that hold.

What is typed goes before GNOMON_ variables, these before INFINITY_, and these before TEI's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.infinity import PREFIX as INFINITY_PREFIX
from gnomon.cli.serve_options.own import MODELS, OWN, PREFIX
from gnomon.cli.serve_options.parameters import PARAMETERS
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI
from gnomon.cli.shared import FOLDER_VARIABLE, SIZE_VARIABLE, note
from gnomon.errors import InputError
from gnomon.messages import closest_names

SEPARATOR = ";"
"""Between the values of a variable that holds several."""
ADDRESS = re.compile(r"\w+://")
"""Such as tcp://10.0.0.1:7997, which Kubernetes puts into NAME_PORT for a service with this name."""

SERVICE = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")
"""In the names of variables that Kubernetes sets for a service."""
TEI_ENV = "GNOMON_TEI_ENV"
OTHER_VARIABLES = {TEI_ENV, FOLDER_VARIABLE, SIZE_VARIABLE}
"""Beside those of the tables."""


@dataclass(frozen=True)
class Entry:
    """An option or variable with its texts."""

    row: Row
    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """The values of a field."""

    row: Row
    label: str
    values: tuple[Any, ...]
    """None stands for the default. A field of the server has one value."""

    @property
    def is_typed(self) -> bool:
        """Whether it comes from the command line; the labels of variables are their names."""
        return self.label.startswith("-")


Settings = Mapping[str, Setting]
"""Field -> its setting."""


def collect_settings(
    typed: Mapping[str, Any], models: Sequence[str], environ: Mapping[str, str], *, tei_env: bool
) -> Settings:
    """What holds. Prints one line for each option without effect, and for each that changes vectors.

    Args:
        typed: the parameters of the command, as click parsed them.
        models: the MODELs of the command line.

    Raises:
        InputError: a value that cannot be read or is refused; two options that contradict each other.
    """
    layers = [
        [*([Entry(MODELS, "MODEL", tuple(models))] if models else []), *_collect_typed(typed)],
        _collect_variables(OWN, environ),
        _collect_variables(INFINITY, environ),
        _collect_variables(TEI, environ) if tei_env else [],
    ]
    settings: dict[str, Setting] = {}
    noted: set[str] = set()
    for layer in layers:
        for entry in layer:
            if not entry.row.acts and entry.row.title not in noted:
                _read(entry)
                noted.add(entry.row.title)
                note(f"{entry.label} has no effect: {entry.row.text}")
        settings = _settle(layer) | settings
    for setting in settings.values():
        if setting.row.warning and any(value is not None for value in setting.values):
            note(f"{setting.label} {setting.row.warning}")
    return settings


def _collect_typed(typed: Mapping[str, Any]) -> list[Entry]:
    collected: list[Entry] = []
    for name, parameter in PARAMETERS.items():
        value = typed[name]
        if value is None or value == () or (value is False and parameter.row.form == "flag"):
            continue
        label = parameter.flags[1 if value is False else 0]
        texts = value if isinstance(value, tuple) else (str(value),)
        collected.append(Entry(parameter.row, label, texts))
    return collected


def _collect_variables(rows: Sequence[Row], environ: Mapping[str, str]) -> list[Entry]:
    """The variables that are set; an empty one is not."""
    collected: list[Entry] = []
    for row in rows:
        text = environ.get(row.env or "", "")
        if not row.env or not text:
            continue
        if row.kubernetes and ADDRESS.match(text):
            note(f"{row.env} is an address, as Kubernetes sets it for a service with such a name, and is not read.")
            continue
        parts = text.removesuffix(SEPARATOR).split(SEPARATOR) if row.is_list else [text]
        collected.append(Entry(row, row.env, tuple(parts)))
    return collected


def note_unknown(environ: Mapping[str, str], *, as_infinity: bool) -> None:
    """Print a line for each variable that looks like ours, and that nothing reads. infinity reads more than its table
    has: of its variables, those are named that are near to one of the table.

    Args:
        as_infinity: whether infinity's variables are looked at, too.
    """
    known = {row.env for row in (*OWN, *INFINITY) if row.env} | OTHER_VARIABLES
    for name in sorted(environ):
        is_infinity = as_infinity and name.startswith(INFINITY_PREFIX)
        if name in known or not (is_infinity or name.startswith(PREFIX)):
            continue
        if SERVICE.search(name) or ADDRESS.match(environ[name]):
            continue
        prefix = INFINITY_PREFIX if is_infinity else PREFIX
        stems = [each.removeprefix(prefix) for each in sorted(known) if each.startswith(prefix)]
        near = closest_names(name.removeprefix(prefix), stems)
        hint = f" Did you mean {prefix}{near[0]}?" if near else ""
        if hint or not is_infinity:
            note(f"{name} is not a variable that gnomon reads; it has no effect.{hint}")


def _read(entry: Entry) -> tuple[Any, ...]:
    return tuple(entry.row.read(text, entry.label) for text in entry.texts)


def _settle(layer: Sequence[Entry]) -> dict[str, Setting]:
    """The settings of one layer."""
    settings: dict[str, Setting] = {}
    for entry in layer:
        if not entry.row.acts:
            continue
        setting = Setting(entry.row, entry.label, _read(entry))
        if entry.row.spread == "one":
            setting = _choose_one(setting)
        other = settings.get(entry.row.field)
        settings[entry.row.field] = setting if other is None else _combine(other, setting)
    return settings


def _choose_one(setting: Setting) -> Setting:
    """The last value, as of any option that is typed again; a variable with a value for each model must agree."""
    if setting.row.lists_values and len(set(setting.values)) > 1:
        raise InputError(f"{setting.label} has several values, and holds for all models. Give one value.")
    return Setting(setting.row, setting.label, setting.values[-1:])


def _combine(first: Setting, second: Setting) -> Setting:
    """Two options of one field."""
    if first.row.spread == "all":
        return Setting(first.row, f"{first.label} and {second.label}", first.values + second.values)
    if first.values != second.values:
        raise InputError(f"{first.label} and {second.label} contradict each other. Give one of them.")
    return first
