"""Two models, task by task: the difference of their scores, how sure it is, and what else differed between the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import Any

from gnomon.errors import InputError
from gnomon.evaluate.intervals import Interval, paired
from gnomon.evaluate.results import Result, one_model, read_results
from gnomon.terminal import cut, table, wrapped

ALPHA = 0.05
"""Of a star, over all tasks together."""

LEFT_OUT = frozenset({"identity", "date", "seconds", "texts.encoded", "texts.from_cache", "intervals", "undefined"})
"""Fields of a manifest that say nothing about how a task was run, or nothing that the others do not say (identity)."""

NUMBERS = 52
"""Columns of the table beside its first."""


@dataclass(frozen=True)
class Side:
    """One model, run in one way."""

    place: str
    """The folder or file of its results."""
    label: str
    fingerprint: str | None


@dataclass(frozen=True)
class Row:
    """One task, or one subset of it, on both sides."""

    task: str
    subset: str
    """ "" for the task: the mean over its subsets. Subsets have rows where a task has several."""
    kind: str
    metric: str
    a: float
    """NaN where the score is not defined."""
    b: float
    difference: float | None = None
    """b less a; None where the scores are not of the same thing."""
    interval: Interval | None = None
    """95 % of the difference; None where there is no test."""
    p_value: float | None = None
    """Two-sided, as `intervals.paired` makes it, not corrected; None where there is no test."""
    corrected: float | None = None
    """p_value after Holm's correction for the number of tasks; None for subsets."""
    reason: str = ""
    """Why there is no difference or no test; "" where there are both."""

    @property
    def significant(self) -> bool:
        return self.corrected is not None and self.corrected < ALPHA


@dataclass(frozen=True)
class Difference:
    """A field of the manifests that is not the same on both sides."""

    field: str
    """Dotted: "settings.dtype", "prompts.queries.text"."""
    a: Any
    """None where that side has no such field."""
    b: Any
    tasks: tuple[str, ...]
    """Where it differs in this way."""


@dataclass(frozen=True)
class Comparison:
    a: Side
    b: Side
    rows: tuple[Row, ...]
    """By kind, metric and task; a task's subsets follow it."""
    only_a: tuple[str, ...]
    """Tasks that the other side does not have."""
    only_b: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of both sides."""
        return tuple(row.task for row in self.rows if not row.subset)

    @property
    def tested(self) -> int:
        """Tasks that have a p-value: what Holm's correction is for."""
        return sum(row.corrected is not None for row in self.rows)


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Results of two models (folders, or files TASK.json of them), paired by task.

    Raises:
        InputError: no results; several models, or one task twice, on one side; no task on both.
    """
    first, second = _by_task(a), _by_task(b)
    pairs = [(result, second[task]) for task, result in first.items() if task in second]
    if not pairs:
        raise InputError(f"no task is on both sides: {a} has {', '.join(first)}; {b} has {', '.join(second)}.")
    return Comparison(
        a=_side(a, first),
        b=_side(b, second),
        rows=_corrected([row for pair in pairs for row in _rows(*pair)]),
        only_a=tuple(task for task in first if task not in second),
        only_b=tuple(task for task in second if task not in first),
        differences=_differences(pairs),
    )


def lines(comparison: Comparison, width: int) -> list[str]:
    """What `gnomon compare` prints: the table, what its columns are, and what differed between the runs.

    Args:
        width: of the lines; the table is wider where it must be.
    """
    prose = [_headings(comparison), _notes(comparison), _fields(comparison)]
    headings, notes, fields = [
        [line for text in texts for line in wrapped(text, width, 99, indent=3)] for texts in prose
    ]
    blocks = [headings, list(_table(comparison, width)), notes, fields]
    return [line for block in blocks if block for line in ("", *block)][1:]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON; null where a score is not defined."""
    rows = [_without_nan(asdict(row)) | {"significant": row.significant} for row in comparison.rows]
    return asdict(comparison) | {"rows": rows, "alpha": ALPHA, "correction": "holm", "tested": comparison.tested}


# ---- rows


def _by_task(place: str | Path) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for result in sorted(one_model(read_results(place), place), key=lambda each: (each.kind, each.metric, each.task)):
        if result.task in found:
            both = f"{found[result.task].path} and {result.path}"
            raise InputError(f"{place} holds the task {result.task} twice: {both}. Give the folder of one run.")
        found[result.task] = result
    return found


def _side(place: str | Path, results: Mapping[str, Result]) -> Side:
    one = next(iter(results.values()))
    return Side(str(place), one.label, one.fingerprint)


def _rows(a: Result, b: Result) -> Iterator[Row]:
    if reason := _mismatch(a, b):
        yield Row(a.task, "", a.kind, a.metric, a.score, b.score, reason=reason)
        return
    keys = list(_scores(a))
    yield _tested(a, b, "", keys)
    if len(keys) > 1:
        splits = {split for split, _ in keys}
        yield from (_tested(a, b, key[1] if len(splits) == 1 else f"{key[1]} ({key[0]})", [key]) for key in keys)


def _mismatch(a: Result, b: Result) -> str:
    """Why the scores are not of the same thing; "" where they are."""
    revisions = a.manifest["task"]["revision"], b.manifest["task"]["revision"]
    if a.metric != b.metric:
        return f"the metric is {a.metric} in a and {b.metric} in b"
    if revisions[0] != revisions[1]:
        return f"the data is of revision {revisions[0]} in a and {revisions[1]} in b"
    if alone := _scores(a).keys() ^ _scores(b).keys():
        return f"the subset {' '.join(min(alone))} is on one side only"
    return ""


def _tested(a: Result, b: Result, subset: str, keys: Sequence[tuple[str, str]]) -> Row:
    score_a, score_b = (sum(_scores(result)[key] for key in keys) / len(keys) for result in (a, b))
    row = Row(a.task, subset, a.kind, a.metric, score_a, score_b)
    for side, result in (("a", a), ("b", b)):
        if nan := [key for key in keys if isnan(_scores(result)[key])]:
            of_subset = f" of subset {nan[0][1]}" if len(keys) > 1 else ""
            return replace(row, reason=f"the score{of_subset} in {side} is not defined: {_why(result, nan[0])}")
    difference = score_b - score_a
    if missing := [key for key in keys if key not in a.units or key not in b.units]:
        reason = f"what the score of subset {missing[0][1]} is made of is not stored on both sides"
        return replace(row, difference=difference, reason=reason)
    try:
        found = paired([a.units[key] for key in keys], [b.units[key] for key in keys])
    except InputError as error:
        return replace(row, reason=str(error))
    return replace(row, difference=difference, interval=found.interval, p_value=found.p_value)


def _why(result: Result, key: tuple[str, str]) -> str:
    """Why the score of a subset is not defined."""
    listed = {(each["split"], each["subset"]): each["reason"] for each in result.manifest.get("undefined", ())}
    return listed.get(key, f"{result.metric} is not a number on this data")


def _scores(result: Result) -> dict[tuple[str, str], float]:
    """{(split, subset): score}."""
    return {(subset.split, subset.name): subset.score for subset in result.subsets}


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Tasks with their p-values corrected (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    out, least = list(rows), 0.0
    p_values = [(row.p_value, at) for at, row in enumerate(rows) if not row.subset and row.p_value is not None]
    for rank, (p_value, at) in enumerate(sorted(p_values)):
        least = max(least, min(1.0, p_value * (len(p_values) - rank)))
        out[at] = replace(rows[at], corrected=least)
    return tuple(out)


# ---- fields of the manifests


def _differences(pairs: Sequence[tuple[Result, Result]]) -> tuple[Difference, ...]:
    found: dict[str, Difference] = {}
    for a, b in pairs:
        first, second = dict(_flat(a.manifest)), dict(_flat(b.manifest))
        for field in first | second:
            values = first.get(field), second.get(field)
            if values[0] != values[1]:
                # lists are no keys
                key = json.dumps([field, *values], sort_keys=True)
                tasks = found[key].tasks if key in found else ()
                found[key] = Difference(field, *values, (*tasks, a.task))
    return tuple(found.values())


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all but LEFT_OUT; prompts by what they are of, other lists whole."""
    if path in LEFT_OUT:
        return
    if path == "prompts":
        value = {each["of"]: {"name": each["name"], "text": each["text"]} for each in value}
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{path}.{name}" if path else name)


# ---- lines


def _headings(comparison: Comparison) -> list[str]:
    sides = {"a": comparison.a, "b": comparison.b}
    return [
        f"{name}: {side.label}, {f'fingerprint {side.fingerprint[:12]}, ' if side.fingerprint else ''}{side.place}"
        for name, side in sides.items()
    ]


def _table(comparison: Comparison, width: int) -> Iterator[str]:
    room = max(24, width - NUMBERS)
    rows: list[tuple[str, ...]] = [("", "a", "b", "b - a", "95 % interval", "p")]
    for (kind, metric), tasks in groupby(comparison.rows, lambda row: (row.kind, row.metric)):
        rows.append((cut(f"{kind}, {metric}", room), "", "", "", "", ""))
        for row in tasks:
            lead = "    " if row.subset else "  "
            rows.append((lead + cut(row.subset or row.task, room - len(lead)), *_cells(row)))
    return table(rows)


def _cells(row: Row) -> tuple[str, ...]:
    interval = "" if row.interval is None else f"{row.interval.low:+.4f} {row.interval.high:+.4f}"
    p_value = "none" if row.p_value is None else f"{row.p_value:.4f}{' *' if row.significant else ''}"
    difference = "" if row.difference is None else f"{row.difference:+.4f}"
    return _score(row.a), _score(row.b), difference, interval, p_value


def _score(score: float) -> str:
    return "n/a" if isnan(score) else f"{score:.4f}"


def _notes(comparison: Comparison) -> list[str]:
    star = f"* p < {ALPHA} after Holm's correction for the number of tasks ({comparison.tested})"
    method = "interval: paired bootstrap; p: paired randomisation test, two-sided"
    return [
        *([f"{star}; the p shown is without it. Subsets get no star.", method] if comparison.tested else []),
        *(f"{row.task}: {_untested(row)}: {row.reason}" for row in comparison.rows if row.reason and not row.subset),
        *([f"only in a: {', '.join(comparison.only_a)}"] if comparison.only_a else []),
        *([f"only in b: {', '.join(comparison.only_b)}"] if comparison.only_b else []),
    ]


def _untested(row: Row) -> str:
    return "not comparable" if row.difference is None else "not tested"


def _fields(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return ["no field differs: one model, run in one way."]
    return [
        "what differs:",
        *(f"{each.field}{_where(each, comparison)}: {_values(each)}" for each in _listed(comparison)),
    ]


def _listed(comparison: Comparison) -> list[Difference]:
    return sorted(comparison.differences, key=lambda each: len(each.tasks) != len(comparison.tasks))


def _where(difference: Difference, comparison: Comparison) -> str:
    return "" if len(difference.tasks) == len(comparison.tasks) else f" ({', '.join(difference.tasks)})"


def _values(difference: Difference) -> str:
    return " | ".join(json.dumps(value, ensure_ascii=False) for value in (difference.a, difference.b))


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}
