"""Compares two models task by task: the difference of their scores, its significance, and what else differed."""

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
from gnomon.spec import FINGERPRINT_DIGITS
from gnomon.terminal import format_table, truncate_line, wrap_text

SIGNIFICANCE_LEVEL = 0.05
"""A difference below it, over all tasks together, has a star."""

IGNORED_FIELDS = frozenset(
    {"identity", "date", "seconds", "texts.encoded", "texts.from_cache", "intervals", "undefined"}
)
"""Fields of a manifest that do not describe how a task was run, or that repeat the others (identity)."""

NUMBER_COLUMNS_WIDTH = 52
"""Width of all columns of the table but the first."""


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
    """NaN if the score is not defined."""
    b: float
    difference: float | None = None
    """b minus a; None if the scores cannot be compared."""
    interval: Interval | None = None
    """The 95 % interval of the difference; None without a test."""
    p_value: float | None = None
    """Two-sided and not corrected (`intervals.run_paired_test`); None without a test."""
    corrected: float | None = None
    """p_value after Holm's correction for the number of tasks; None for subsets."""
    reason: str = ""
    """Why there is no difference or no test; "" if there are both."""

    @property
    def significant(self) -> bool:
        return self.corrected is not None and self.corrected < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class Difference:
    """A field of the manifests that differs between the two sides."""

    field: str
    """Dotted: "settings.dtype", "prompts.queries.text"."""
    a: Any
    """None if that side has no such field."""
    b: Any
    tasks: tuple[str, ...]
    """The tasks whose manifests differ in this way."""


@dataclass(frozen=True)
class Comparison:
    a: Side
    b: Side
    rows: tuple[ComparisonRow, ...]
    """Sorted by kind, metric and task. The subsets of a task follow it."""
    only_a: tuple[str, ...]
    """Tasks that side b does not have."""
    only_b: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that both sides have."""
        return tuple(row.task for row in self.rows if not row.subset)

    @property
    def num_tested(self) -> int:
        """Number of tasks that have a p-value, which Holm's correction is for."""
        return sum(row.corrected is not None for row in self.rows)


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare the results of two models (folders, or files TASK.json in them), paired by task.

    Raises:
        InputError: no results; several models, or one task twice, on one side; no task on both sides.
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
    """The lines that `gnomon compare` prints: the table, notes, and what differed between the runs.

    Args:
        width: the longest line, in columns. The table may be wider.
    """
    prose = [_heading_lines(comparison), _note_lines(comparison), _difference_lines(comparison)]
    headings, notes, fields = [
        [line for text in texts for line in wrap_text(text, width, 99, indent=3)] for texts in prose
    ]
    blocks = [headings, list(_table_lines(comparison, width)), notes, fields]
    return [line for block in blocks if block for line in ("", *block)][1:]


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison, ready for JSON; None for a score that is not defined."""
    rows = [_replace_nan(asdict(row)) | {"significant": row.significant} for row in comparison.rows]
    return asdict(comparison) | {
        "rows": rows,
        "alpha": SIGNIFICANCE_LEVEL,
        "correction": "holm",
        "tested": comparison.num_tested,
    }


# ---- rows


def _read_by_task(path: str | Path) -> dict[str, Result]:
    by_task: dict[str, Result] = {}
    results = require_one_model(read_results(path), path)
    for result in sorted(results, key=lambda result: (result.kind, result.metric, result.task)):
        if result.task in by_task:
            both = f"{by_task[result.task].path} and {result.path}"
            raise InputError(f"{path} holds the task {result.task} twice: {both}. Give the folder of one run.")
        by_task[result.task] = result
    return by_task


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
    """Why two scores cannot be compared; "" if they can."""
    revisions = a.manifest["task"]["revision"], b.manifest["task"]["revision"]
    if a.metric != b.metric:
        return f"the metric is {a.metric} in a and {b.metric} in b"
    if revisions[0] != revisions[1]:
        return f"the data has revision {revisions[0]} in a and {revisions[1]} in b"
    if unpaired := _subset_scores(a).keys() ^ _subset_scores(b).keys():
        return f"the subset {' '.join(min(unpaired))} is on one side only"
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
        reason = f"the per-query values of subset {missing[0][1]} are not stored on both sides"
        return replace(row, difference=difference, reason=reason)
    try:
        test = run_paired_test([a.per_query[key] for key in keys], [b.per_query[key] for key in keys])
    except InputError as error:
        return replace(row, reason=str(error))
    return replace(row, difference=difference, interval=test.interval, p_value=test.p_value)


def _undefined_reason(result: Result, key: tuple[str, str]) -> str:
    """Why the score of a subset is not defined."""
    reasons = {(entry["split"], entry["subset"]): entry["reason"] for entry in result.manifest.get("undefined", ())}
    return reasons.get(key, f"{result.metric} is not a number on this data")


def _subset_scores(result: Result) -> dict[tuple[str, str], float]:
    """{(split, subset): score}."""
    return {(subset.split, subset.name): subset.score for subset in result.subsets}


def _correct_p_values(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """Correct the p-values of tasks (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    corrected_rows, corrected = list(rows), 0.0
    p_values = [(row.p_value, index) for index, row in enumerate(rows) if not row.subset and row.p_value is not None]
    for rank, (p_value, index) in enumerate(sorted(p_values)):
        corrected = max(corrected, min(1.0, p_value * (len(p_values) - rank)))
        corrected_rows[index] = replace(rows[index], corrected=corrected)
    return tuple(corrected_rows)


# ---- fields of the manifests


def _find_differences(pairs: Sequence[tuple[Result, Result]]) -> tuple[Difference, ...]:
    differences: dict[str, Difference] = {}
    for a, b in pairs:
        first, second = dict(_flatten(a.manifest)), dict(_flatten(b.manifest))
        for field in first | second:
            values = first.get(field), second.get(field)
            if values[0] != values[1]:
                key = json.dumps([field, *values], sort_keys=True)  # a list cannot be a key itself
                tasks = differences[key].tasks if key in differences else ()
                differences[key] = Difference(field, *values, (*tasks, a.task))
    return tuple(differences.values())


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of all fields but IGNORED_FIELDS. Prompts go by their use; other lists stay lists."""
    if path in IGNORED_FIELDS:
        return
    if path == "prompts":
        value = {prompt["of"]: {"name": prompt["name"], "text": prompt["text"]} for prompt in value}
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _flatten(inner, f"{path}.{name}" if path else name)


# ---- lines


def _heading_lines(comparison: Comparison) -> list[str]:
    lines: list[str] = []
    for name, side in (("a", comparison.a), ("b", comparison.b)):
        fingerprint = f"fingerprint {side.fingerprint[:FINGERPRINT_DIGITS]}" if side.fingerprint else ""
        lines.append(f"{name}: {', '.join(filter(None, (side.label, fingerprint, side.place)))}")
    return lines


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
        return ["nothing differs: one model, run in one way."]
    return [
        "what differs:",
        *(
            f"{difference.field}{_tasks_suffix(difference, comparison)}: {_format_values(difference)}"
            for difference in _sort_differences(comparison)
        ),
    ]


def _sort_differences(comparison: Comparison) -> list[Difference]:
    """Those of all tasks first."""
    return sorted(comparison.differences, key=lambda difference: len(difference.tasks) != len(comparison.tasks))


def _tasks_suffix(difference: Difference, comparison: Comparison) -> str:
    return "" if len(difference.tasks) == len(comparison.tasks) else f" ({', '.join(difference.tasks)})"


def _format_values(difference: Difference) -> str:
    return " | ".join(json.dumps(value, ensure_ascii=False) for value in (difference.a, difference.b))


def _replace_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}
