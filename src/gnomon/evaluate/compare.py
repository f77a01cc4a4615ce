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
from gnomon.evaluate.intervals import Interval, run_paired_test
from gnomon.evaluate.results import Result, read_results, require_one_model
from gnomon.terminal import format_table, truncate_line, wrap_text

SIGNIFICANCE_LEVEL = 0.05
"""Of a star, over all tasks together."""

IGNORED_FIELDS = frozenset(
    {"identity", "date", "seconds", "texts.encoded", "texts.from_cache", "intervals", "undefined"}
)
"""Fields of a manifest that say nothing about how a task was run, or nothing that the others do not say (identity)."""

NUMBER_COLUMNS_WIDTH = 52
"""Columns of the table beside its first."""


@dataclass(frozen=True)
class Side:
    """One model, run in one way."""

    place: str
    """The folder or file of its results."""
    label: str
    fingerprint: str | None


@dataclass(frozen=True)
class ComparisonRow:
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
        return self.corrected is not None and self.corrected < SIGNIFICANCE_LEVEL


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
    rows: tuple[ComparisonRow, ...]
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
    def num_tested(self) -> int:
        """Tasks that have a p-value: what Holm's correction is for."""
        return sum(row.corrected is not None for row in self.rows)


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Results of two models (folders, or files TASK.json of them), paired by task.

    Raises:
        InputError: no results; several models, or one task twice, on one side; no task on both.
    """
    first, second = _read_by_task(a), _read_by_task(b)
    pairs = [(result, second[task]) for task, result in first.items() if task in second]
    if not pairs:
        raise InputError(f"no task is on both sides: {a} has {', '.join(first)}; {b} has {', '.join(second)}.")
    return Comparison(
        a=_build_side(a, first),
        b=_build_side(b, second),
        rows=_correct_p_values([row for pair in pairs for row in _compare_results(*pair)]),
        only_a=tuple(task for task in first if task not in second),
        only_b=tuple(task for task in second if task not in first),
        differences=_find_differences(pairs),
    )


def format_comparison(comparison: Comparison, width: int) -> list[str]:
    """What `gnomon compare` prints: the table, what its columns are, and what differed between the runs.

    Args:
        width: of the lines; the table is wider where it must be.
    """
    prose = [_heading_lines(comparison), _note_lines(comparison), _difference_lines(comparison)]
    headings, notes, fields = [
        [line for text in texts for line in wrap_text(text, width, 99, indent=3)] for texts in prose
    ]
    blocks = [headings, list(_table_lines(comparison, width)), notes, fields]
    return [line for block in blocks if block for line in ("", *block)][1:]


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON; null where a score is not defined."""
    rows = [_replace_nan(asdict(row)) | {"significant": row.significant} for row in comparison.rows]
    return asdict(comparison) | {
        "rows": rows,
        "alpha": SIGNIFICANCE_LEVEL,
        "correction": "holm",
        "tested": comparison.num_tested,
    }


# ---- rows


def _read_by_task(path: str | Path) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for result in sorted(
        require_one_model(read_results(path), path), key=lambda each: (each.kind, each.metric, each.task)
    ):
        if result.task in found:
            both = f"{found[result.task].path} and {result.path}"
            raise InputError(f"{path} holds the task {result.task} twice: {both}. Give the folder of one run.")
        found[result.task] = result
    return found


def _build_side(path: str | Path, results: Mapping[str, Result]) -> Side:
    one = next(iter(results.values()))
    return Side(str(path), one.label, one.fingerprint)


def _compare_results(a: Result, b: Result) -> Iterator[ComparisonRow]:
    if reason := _mismatch_reason(a, b):
        yield ComparisonRow(a.task, "", a.kind, a.metric, a.score, b.score, reason=reason)
        return
    keys = list(_subset_scores(a))
    yield _compare_scores(a, b, "", keys)
    if len(keys) > 1:
        splits = {split for split, _ in keys}
        yield from (
            _compare_scores(a, b, key[1] if len(splits) == 1 else f"{key[1]} ({key[0]})", [key]) for key in keys
        )


def _mismatch_reason(a: Result, b: Result) -> str:
    """Why the scores are not of the same thing; "" where they are."""
    revisions = a.manifest["task"]["revision"], b.manifest["task"]["revision"]
    if a.metric != b.metric:
        return f"the metric is {a.metric} in a and {b.metric} in b"
    if revisions[0] != revisions[1]:
        return f"the data is of revision {revisions[0]} in a and {revisions[1]} in b"
    if alone := _subset_scores(a).keys() ^ _subset_scores(b).keys():
        return f"the subset {' '.join(min(alone))} is on one side only"
    return ""


def _compare_scores(a: Result, b: Result, subset: str, keys: Sequence[tuple[str, str]]) -> ComparisonRow:
    score_a, score_b = (sum(_subset_scores(result)[key] for key in keys) / len(keys) for result in (a, b))
    row = ComparisonRow(a.task, subset, a.kind, a.metric, score_a, score_b)
    for side, result in (("a", a), ("b", b)):
        if nan := [key for key in keys if isnan(_subset_scores(result)[key])]:
            of_subset = f" of subset {nan[0][1]}" if len(keys) > 1 else ""
            return replace(
                row, reason=f"the score{of_subset} in {side} is not defined: {_undefined_reason(result, nan[0])}"
            )
    difference = score_b - score_a
    if missing := [key for key in keys if key not in a.per_query or key not in b.per_query]:
        reason = f"what the score of subset {missing[0][1]} is made of is not stored on both sides"
        return replace(row, difference=difference, reason=reason)
    try:
        found = run_paired_test([a.per_query[key] for key in keys], [b.per_query[key] for key in keys])
    except InputError as error:
        return replace(row, reason=str(error))
    return replace(row, difference=difference, interval=found.interval, p_value=found.p_value)


def _undefined_reason(result: Result, key: tuple[str, str]) -> str:
    """Why the score of a subset is not defined."""
    listed = {(each["split"], each["subset"]): each["reason"] for each in result.manifest.get("undefined", ())}
    return listed.get(key, f"{result.metric} is not a number on this data")


def _subset_scores(result: Result) -> dict[tuple[str, str], float]:
    """{(split, subset): score}."""
    return {(subset.split, subset.name): subset.score for subset in result.subsets}


def _correct_p_values(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """Tasks with their p-values corrected (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    out, least = list(rows), 0.0
    p_values = [(row.p_value, at) for at, row in enumerate(rows) if not row.subset and row.p_value is not None]
    for rank, (p_value, at) in enumerate(sorted(p_values)):
        least = max(least, min(1.0, p_value * (len(p_values) - rank)))
        out[at] = replace(rows[at], corrected=least)
    return tuple(out)


# ---- fields of the manifests


def _find_differences(pairs: Sequence[tuple[Result, Result]]) -> tuple[Difference, ...]:
    found: dict[str, Difference] = {}
    for a, b in pairs:
        first, second = dict(_flatten(a.manifest)), dict(_flatten(b.manifest))
        for field in first | second:
            values = first.get(field), second.get(field)
            if values[0] != values[1]:
                # lists are no keys
                key = json.dumps([field, *values], sort_keys=True)
                tasks = found[key].tasks if key in found else ()
                found[key] = Difference(field, *values, (*tasks, a.task))
    return tuple(found.values())


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all but LEFT_OUT; prompts by what they are of, other lists whole."""
    if path in IGNORED_FIELDS:
        return
    if path == "prompts":
        value = {each["of"]: {"name": each["name"], "text": each["text"]} for each in value}
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _flatten(inner, f"{path}.{name}" if path else name)


# ---- lines


def _heading_lines(comparison: Comparison) -> list[str]:
    sides = {"a": comparison.a, "b": comparison.b}
    return [
        f"{name}: {side.label}, {f'fingerprint {side.fingerprint[:12]}, ' if side.fingerprint else ''}{side.place}"
        for name, side in sides.items()
    ]


def _table_lines(comparison: Comparison, width: int) -> Iterator[str]:
    room = max(24, width - NUMBER_COLUMNS_WIDTH)
    rows: list[tuple[str, ...]] = [("", "a", "b", "b - a", "95 % interval", "p")]
    for (kind, metric), tasks in groupby(comparison.rows, lambda row: (row.kind, row.metric)):
        rows.append((truncate_line(f"{kind}, {metric}", room), "", "", "", "", ""))
        for row in tasks:
            lead = "    " if row.subset else "  "
            rows.append((lead + truncate_line(row.subset or row.task, room - len(lead)), *_format_cells(row)))
    return format_table(rows)


def _format_cells(row: ComparisonRow) -> tuple[str, ...]:
    interval = "" if row.interval is None else f"{row.interval.low:+.4f} {row.interval.high:+.4f}"
    p_value = "none" if row.p_value is None else f"{row.p_value:.4f}{' *' if row.significant else ''}"
    difference = "" if row.difference is None else f"{row.difference:+.4f}"
    return _format_score(row.a), _format_score(row.b), difference, interval, p_value


def _format_score(score: float) -> str:
    return "n/a" if isnan(score) else f"{score:.4f}"


def _note_lines(comparison: Comparison) -> list[str]:
    star = f"* p < {SIGNIFICANCE_LEVEL} after Holm's correction for the number of tasks ({comparison.num_tested})"
    method = "interval: paired bootstrap; p: paired randomisation test, two-sided"
    return [
        *([f"{star}; the p shown is without it. Subsets get no star.", method] if comparison.num_tested else []),
        *(
            f"{row.task}: {_untested_label(row)}: {row.reason}"
            for row in comparison.rows
            if row.reason and not row.subset
        ),
        *([f"only in a: {', '.join(comparison.only_a)}"] if comparison.only_a else []),
        *([f"only in b: {', '.join(comparison.only_b)}"] if comparison.only_b else []),
    ]


def _untested_label(row: ComparisonRow) -> str:
    return "not comparable" if row.difference is None else "not tested"


def _difference_lines(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return ["no field differs: one model, run in one way."]
    return [
        "what differs:",
        *(
            f"{each.field}{_tasks_suffix(each, comparison)}: {_format_values(each)}"
            for each in _sort_differences(comparison)
        ),
    ]


def _sort_differences(comparison: Comparison) -> list[Difference]:
    return sorted(comparison.differences, key=lambda each: len(each.tasks) != len(comparison.tasks))


def _tasks_suffix(difference: Difference, comparison: Comparison) -> str:
    return "" if len(difference.tasks) == len(comparison.tasks) else f" ({', '.join(difference.tasks)})"


def _format_values(difference: Difference) -> str:
    return " | ".join(json.dumps(value, ensure_ascii=False) for value in (difference.a, difference.b))


def _replace_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}
