"""How often each source is drawn: by its weight, by a data_config.json, or by its number of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.messages import did_you_mean, join_words, shorten
from gnomon.train.data.build import default_name
from gnomon.train.recipe.schema import DataSource, MixtureSettings


@dataclass(frozen=True)
class Entry:
    """One entry of a data_config.json."""

    name: str
    weight: float
    lines: int | None
    """How many lines of the file are read; None for all."""

    def matches(self, source: DataSource) -> bool:
        """Whether its name is the source's name, or the end of the path of one of its files."""
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
        rows: how many rows each source has.

    Raises:
        InputError: only some sources have a weight; a weight is negative or not finite, or all are 0; a data_config
            does not fit the sources.
    """
    own = [source.weight for source in sources]
    names = [source.name or default_name(source) for source in sources]
    if settings.data_config is not None:
        if any(weight is not None for weight in own):
            raise InputError(
                f"Both the sources and mixture.data_config={settings.data_config} have weights. Leave one of them out."
            )
        return _normalize_weights([entry.weight for entry in _match_entries(settings.data_config, sources)], names)
    weights = [weight for weight in own if weight is not None]
    if not weights:
        return _weights_from_rows(rows, settings)
    if len(weights) < len(own):
        without = next(name for name, weight in zip(names, own, strict=True) if weight is None)
        raise InputError(
            f"Source {without!r} has no weight, and others have one. Give a weight to every source, or to none."
        )
    return _normalize_weights(weights, names)


def max_lines(settings: MixtureSettings, source: DataSource) -> int | None:
    """How many lines of a source are read; None for all."""
    if settings.data_config is None:
        return None
    return _find_entry(_read_config(settings.data_config), source, settings.data_config).lines


def _weights_from_rows(rows: Sequence[int], settings: MixtureSettings) -> NDArray[np.float64]:
    """rows ** alpha, with rows counted up to the cap. Source: mGTE (2407.19669), with alpha 0.5."""
    alpha, cap = settings.alpha, settings.cap
    if not 0 <= alpha < np.inf:
        raise InputError(
            f"mixture.alpha is {alpha}. It must be a number from 0 (all sources alike) to 1 (all rows alike)."
        )
    if cap is not None and cap < 1:
        raise InputError(f"mixture.cap is {cap}. It is how many rows of a source count, and must be at least 1.")
    counted = np.minimum(np.asarray(rows, np.float64), np.inf if cap is None else cap)
    powers = (counted / counted.max()) ** alpha
    return powers / powers.sum()


def _normalize_weights(weights: Sequence[float], names: Iterable[str]) -> NDArray[np.float64]:
    for weight, name in zip(weights, names, strict=True):
        if not 0 <= weight < np.inf:
            raise InputError(f"The weight of source {name!r} is {weight}. It must be a finite number, at least 0.")
    if not any(weights):
        raise InputError("The weight of every source is 0, so no source would be drawn. Give one of them more.")
    largest = max(weights)
    scaled = np.array([weight / largest for weight in weights])
    return scaled / scaled.sum()


def _match_entries(path: str, sources: Sequence[DataSource]) -> list[Entry]:
    """The entry of each source. Every entry must belong to a source."""
    entries = _read_config(path)
    matches = [_find_entry(entries, source, path) for source in sources]
    names = [source.name or default_name(source) for source in sources]
    for entry in entries:
        owners = [name for name, match in zip(names, matches, strict=True) if match is entry]
        if not owners:
            hint = did_you_mean(entry.name, names)
            raise InputError(f"{path} has a weight for {entry.name!r}, and no source has this name.{hint}")
        if len(owners) > 1:
            raise InputError(
                f"{path} has {entry.name!r}, which matches the sources {join_words(owners)}. Use their own names."
            )
    return matches


def _find_entry(entries: Sequence[Entry], source: DataSource, path: str) -> Entry:
    matches, name = [entry for entry in entries if entry.matches(source)], source.name or default_name(source)
    if not matches:
        hint = did_you_mean(name, [entry.name for entry in entries])
        raise InputError(f"{path} has no weight for source {name!r}. Add one, or leave the source out.{hint}")
    if len(matches) > 1:
        names = join_words([repr(entry.name) for entry in matches])
        raise InputError(
            f"{path} has {names}, and each matches source {name!r}. Leave one, with the source's own name."
        )
    return matches[0]


def _read_config(path: str) -> list[Entry]:
    try:
        content: Any = json.loads(Path(path).expanduser().read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"data_config {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"data_config {path} is not JSON: {error}.") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"data_config {path} is not a list of sources. Write [{{'name', 'weight', 'lines'}}, ...].")
    return [_parse_entry(entry, f"Entry {number} of {path}") for number, entry in enumerate(cast("list[Any]", content))]


def _parse_entry(entry: Any, where: str) -> Entry:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {shorten(entry)}. It must be an object {{'name', 'weight', 'lines'}}.")
    known = ("name", "weight", "lines")
    for key in cast("dict[str, Any]", entry):
        if key not in known:
            raise InputError(f"{where} has {key!r}. The keys are {', '.join(known)}.{did_you_mean(key, known)}")
    name, weight, lines = (cast("dict[str, Any]", entry).get(key) for key in known)
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has the name {name!r}. It must be the name of a source, or of its file.")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise InputError(f"{where}, {name!r}, has the weight {weight!r}. It must be a finite number, at least 0.")
    if lines is not None and (isinstance(lines, bool) or not isinstance(lines, int) or lines < 1):
        raise InputError(f"{where}, {name!r}, has lines {lines!r}. It must be a whole number, at least 1.")
    return Entry(name, float(weight), lines)
