"""How often each source is drawn: by weights as given, by those of a data_config.json, or by the rows there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.messages import did_you_mean
from gnomon.train.data.build import default_name
from gnomon.train.recipe.schema import DataSource, MixtureSettings


@dataclass(frozen=True)
class Entry:
    """One of a data_config.json."""

    name: str
    weight: float
    lines: int | None
    """How many of the file are read."""

    def matches(self, source: DataSource) -> bool:
        """Whether it is called like the source, or like the end of the path of one of its files."""
        name = source.name or default_name(source)
        paths = ["/" + path.replace("\\", "/") for path in source.path]
        return (
            self.name == name
            or default_name(DataSource((self.name,))) == name
            or any(path.endswith("/" + self.name.lstrip("/")) for path in paths)
        )


def compute_weights(
    sources: Sequence[DataSource], rows: Sequence[int], settings: MixtureSettings
) -> NDArray[np.float64]:
    """The share of the batches that each source gives; they add up to 1.

    Args:
        rows: how many each source has.

    Raises:
        InputError: weights for some sources and not for all, or that are no weights, or all 0; a data_config that does
            not fit the sources.
    """
    given = [source.weight for source in sources]
    names = [source.name or default_name(source) for source in sources]
    if settings.data_config is not None:
        if any(weight is not None for weight in given):
            raise InputError(f"weights are given by the sources and by {settings.data_config}; give them in one place.")
        return _normalize_weights([entry.weight for entry in _match_entries(settings.data_config, sources)], names)
    weights = [weight for weight in given if weight is not None]
    if not weights:
        return _weights_from_rows(rows, settings)
    if len(weights) < len(given):
        without = next(name for name, weight in zip(names, given, strict=True) if weight is None)
        raise InputError(f"source {without!r} has no weight, and others have; give one to every source, or to none.")
    return _normalize_weights(weights, names)


def max_lines(settings: MixtureSettings, source: DataSource) -> int | None:
    """How many lines of a source are read; None for all."""
    if settings.data_config is None:
        return None
    return _find_entry(_read_config(settings.data_config), source, settings.data_config).lines


def _weights_from_rows(rows: Sequence[int], settings: MixtureSettings) -> NDArray[np.float64]:
    """rows ** alpha, rows counted up to the cap. Source: mGTE (2407.19669), with alpha 0.5."""
    alpha, cap = settings.alpha, settings.cap
    if not 0 <= alpha < np.inf:
        raise InputError(f"mixture.alpha is {alpha}; it is a number from 0 (all sources alike) to 1 (all rows alike).")
    if cap is not None and cap < 1:
        raise InputError(f"mixture.cap is {cap}; it is how many rows of a source count, at least 1.")
    counted = np.minimum(np.asarray(rows, np.float64), np.inf if cap is None else cap)
    powers = (counted / counted.max()) ** alpha
    return powers / powers.sum()


def _normalize_weights(weights: Sequence[float], names: Iterable[str]) -> NDArray[np.float64]:
    for weight, name in zip(weights, names, strict=True):
        if not 0 <= weight < np.inf:
            raise InputError(f"the weight of source {name!r} is {weight}; a weight is a finite number from 0 on.")
    if not any(weights):
        raise InputError("the weight of every source is 0; give one of them more, or no source would be drawn.")
    largest = max(weights)
    scaled = np.array([weight / largest for weight in weights])
    return scaled / scaled.sum()


def _match_entries(path: str, sources: Sequence[DataSource]) -> list[Entry]:
    """Each source's entry; every entry is some source's."""
    entries = _read_config(path)
    found = [_find_entry(entries, source, path) for source in sources]
    names = [source.name or default_name(source) for source in sources]
    for entry in entries:
        owners = [name for name, its in zip(names, found, strict=True) if its is entry]
        if not owners:
            hint = did_you_mean(entry.name, names)
            raise InputError(f"{path} has a weight of {entry.name!r}, and there is no such source.{hint}")
        if len(owners) > 1:
            raise InputError(
                f"{path} has {entry.name!r}, which may be each of {', '.join(owners)}; use their own names."
            )
    return found


def _find_entry(entries: Sequence[Entry], source: DataSource, path: str) -> Entry:
    found, name = [entry for entry in entries if entry.matches(source)], source.name or default_name(source)
    if not found:
        hint = did_you_mean(name, [entry.name for entry in entries])
        raise InputError(f"{path} has no weight of source {name!r}; give it one, or leave the source out.{hint}")
    if len(found) > 1:
        both = " and ".join(repr(entry.name) for entry in found)
        raise InputError(f"{path} has {both}, and each may be source {name!r}; keep one, under the source's own name.")
    return found[0]


def _read_config(path: str) -> list[Entry]:
    try:
        content: Any = json.loads(Path(path).expanduser().read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"data_config {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"data_config {path} is no JSON: {error}.") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"data_config {path} is no list of sources; give [{{'name', 'weight', 'lines'}}, ...].")
    return [_parse_entry(each, f"entry {position} of {path}") for position, each in enumerate(content)]


def _parse_entry(each: Any, where: str) -> Entry:
    if not isinstance(each, dict):
        raise InputError(f"{where} is {each!r}; give {{'name', 'weight', 'lines'}}.")
    known = ("name", "weight", "lines")
    for key in each:
        if key not in known:
            raise InputError(f"{where} has {key!r}; known are {', '.join(known)}.{did_you_mean(key, known)}")
    name, weight, lines = (each.get(key) for key in known)
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has the name {name!r}; give that of a source, or of its file.")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise InputError(f"{where}, {name!r}, has the weight {weight!r}; a weight is a finite number from 0 on.")
    if lines is not None and (isinstance(lines, bool) or not isinstance(lines, int) or lines < 1):
        raise InputError(f"{where}, {name!r}, has lines {lines!r}; they are a whole number from 1 on.")
    return Entry(name, float(weight), lines)
