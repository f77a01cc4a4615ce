"""Arranges results for a report: rows, columns, averages and curves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, cast

from gnomon.errors import InputError
from gnomon.evaluate.intervals import Interval
from gnomon.evaluate.results import Result
from gnomon.messages import count
from gnomon.spec import FINGERPRINT_DIGITS

DASH = "–"


@dataclass(frozen=True)
class Axis:
    """A setting that is the x axis of a curve."""

    setting: str
    title: str
    log: bool
    value_setting: str
    """The setting whose value is the x of a point."""
    dependent_settings: tuple[str, ...] = ()
    """Settings that this one decides, which may differ with it."""


AXES = (
    Axis("dim", "dimension", log=True, value_setting="dim", dependent_settings=("bytes_per_vector",)),
    Axis(
        "truncate_dim",
        "length of prefix",
        log=True,
        value_setting="dim",
        dependent_settings=("dim", "bytes_per_vector"),
    ),
    Axis(
        "precision",
        "precision",
        log=False,
        value_setting="precision",
        dependent_settings=("bytes_per_vector", "similarity"),
    ),
    Axis("max_seq_length", "longest text in tokens", log=True, value_setting="max_seq_length"),
)


@dataclass(frozen=True)
class TaskRow:
    """Results that can be compared: the same task and metric, on the same data and subsets."""

    task: str
    kind: str
    metric: str
    revision: str | None
    subsets: tuple[tuple[str, str], ...]
    """(split, name) of each subset."""


@dataclass(frozen=True)
class Cell:
    score: float | None = None
    """0 to 1; None if there is no result."""
    interval: Interval | None = None

    @property
    def is_known(self) -> bool:
        return self.score is not None and math.isfinite(self.score)

    @property
    def text(self) -> str:
        if self.score is None:
            return DASH
        return format_times_100(self.score) if math.isfinite(self.score) else "n/a"

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of the interval; None without one, or if no resample had a score."""
        if not self.is_known or self.interval is None or not math.isfinite(self.interval.low + self.interval.high):
            return None
        return self.interval.low, self.interval.high

    @property
    def range(self) -> str:
        """The interval in words; "" without one."""
        return " to ".join(map(format_times_100, self.ends or ()))

    @property
    def text_with_range(self) -> str:
        return f"{self.text} ({self.range})" if self.range else self.text


@dataclass(frozen=True, eq=False)
class Column:
    """One model, run in one way."""

    model: str
    """Its name, with the start of its fingerprint if another model has the same name."""
    variant: str
    results: Mapping[TaskRow, Result]

    @property
    def label(self) -> str:
        return f"{self.model} ({self.variant})" if self.variant else self.model

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest of one of its tasks, for what all of them have in common."""
        return next(iter(self.results.values())).manifest

    def cell(self, row: TaskRow) -> Cell:
        return task_cell(self.results[row]) if row in self.results else Cell()

    def subset_cell(self, row: TaskRow, split: str, name: str) -> Cell:
        if row not in self.results:
            return Cell()
        subset = next(subset for subset in self.results[row].subsets if (subset.split, subset.name) == (split, name))
        return Cell(subset.score, subset.interval)


@dataclass(frozen=True, eq=False)
class Curve:
    """One model on tasks of one kind, where only one setting (and what follows from it) differs."""

    model: str
    label: str
    rows: tuple[TaskRow, ...]
    columns: Mapping[int | str, Column]
    """{value of the setting: column}"""

    def cell(self, value: int | str) -> Cell:
        """The mean over the tasks; with its interval if there is only one task."""
        cells = [self.columns[value].cell(row) for row in self.rows]
        return cells[0] if len(cells) == 1 else Cell(mean_score(cells))

    def bytes_per_vector(self, value: int | str) -> int | None:
        return self.columns[value].results[self.rows[0]].manifest["settings"].get("bytes_per_vector")


@dataclass(frozen=True, eq=False)
class Sheet:
    rows: Sequence[TaskRow]
    """Sorted by kind, then by task."""
    columns: Sequence[Column]
    """Models in the order of the results, each with its variants in order; last those that only curves show."""

    def cells(self, row: TaskRow) -> list[Cell]:
        return [column.cell(row) for column in self.columns]

    def row_name(self, row: TaskRow) -> str:
        """The task, with its split or revision if another row of the task has another one."""
        alike = [other for other in self.rows if other.task == row.task]
        splits = [" ".join(dict.fromkeys(split for split, _ in other.subsets)) for other in (row, *alike)]
        details = [
            f"split {splits[0]}" if len(set(splits)) > 1 else "",
            f"revision {str(row.revision)[:FINGERPRINT_DIGITS]}"
            if len({other.revision for other in alike}) > 1
            else "",
        ]
        return f"{row.task} ({', '.join(filter(None, details))})" if any(details) else row.task

    @property
    def rows_by_kind(self) -> list[tuple[str, list[TaskRow]]]:
        return [(kind, list(rows)) for kind, rows in groupby(self.rows, lambda row: row.kind)]

    @cached_property
    def curves(self) -> Mapping[Axis, list[Curve]]:
        return {axis: find_curves(axis, self.columns) for axis in AXES}

    @cached_property
    def styles(self) -> Mapping[Column, int]:
        """{column that the dot plots show: number of its mark}. Columns that only curves show are not in it."""
        first = {column.model: column for column in reversed(self.columns)}.values()
        in_curves = {
            (column, row)
            for curves in self.curves.values()
            for curve in curves
            for column in curve.columns.values()
            for row in curve.rows
        }
        in_dot_plots = (
            column
            for column in self.columns
            if column in first or any((column, row) not in in_curves for row in column.results)
        )
        return {column: style for style, column in enumerate(in_dot_plots)}

    def style_of_model(self, model: str) -> int:
        return next(style for column, style in self.styles.items() if column.model == model)


@dataclass(frozen=True)
class Average:
    title: str
    rows: Sequence[TaskRow]
    """All rows of the kind, or of the report."""
    averaged_rows: Sequence[TaskRow]
    """The rows that the mean is over."""
    cells: Sequence[Cell]

    @property
    def coverage(self) -> str:
        if len(self.averaged_rows) == len(self.rows):
            return count(len(self.rows), "task")
        return f"the {len(self.averaged_rows)} of {count(len(self.rows), 'task')} that all have"


def build_sheet(results: Sequence[Result]) -> Sheet:
    if not results:
        raise InputError("there are no results to report. Run gnomon evaluate first.")
    results_by_way: dict[tuple[str, str | None, str], dict[TaskRow, Result]] = {}
    """{(model, fingerprint, variant): {row: result}}"""
    for result in results:
        cells = results_by_way.setdefault((result.model, result.fingerprint, result.manifest["variant"]), {})
        row = build_row(result)
        if row in cells:
            raise InputError(
                f"{result.label} has two results of {result.task}: {cells[row].path} and {result.path}. Give one of "
                "them."
            )
        cells[row] = result
    models = list(dict.fromkeys((name, fingerprint) for name, fingerprint, _ in results_by_way))
    names = [name for name, _ in models]
    columns = [
        Column(
            f"{key[0]} [{(key[1] or 'none')[:FINGERPRINT_DIGITS]}]" if names.count(key[0]) > 1 else key[0],
            key[2],
            results_by_way[key],
        )
        for key in sorted(results_by_way, key=lambda key: (models.index(key[:2]), natural_key(key[2])))
    ]
    unsorted_rows = {row for cells in results_by_way.values() for row in cells}
    rows = sorted(unsorted_rows, key=lambda row: (row.kind, natural_key(row.task), str(row)))
    styles = Sheet(rows, columns).styles
    return Sheet(rows, sorted(columns, key=lambda column: column not in styles))


def build_row(result: Result) -> TaskRow:
    subsets = tuple(sorted((subset.split, subset.name) for subset in result.subsets))
    return TaskRow(result.task, result.kind, result.metric, result.manifest["task"]["revision"], subsets)


def task_cell(result: Result) -> Cell:
    if not math.isfinite(result.score):
        return Cell(result.score)
    # the interval of a single subset is on file; that of several is computed from all their values
    return Cell(result.score, result.subsets[0].interval if len(result.subsets) == 1 else result.interval)


def best_indices(cells: Sequence[Cell]) -> set[int]:
    """Indices of the highest score as it is shown, all of them in a tie; empty if fewer than two cells have scores."""
    scores = {index: float(cell.text) for index, cell in enumerate(cells) if cell.is_known}
    return {index for index, score in scores.items() if score == max(scores.values())} if len(scores) > 1 else set()


def compute_averages(sheet: Sheet) -> Iterator[Average]:
    """Yield averages over each kind and over all tasks.

    Each is taken over all tasks, for the models that have every one, and again over the tasks that all models have.
    Averages over one task, and over the same tasks as an earlier average, are left out.
    """
    groups = [(f"Average, {kind}", rows) for kind, rows in sheet.rows_by_kind]
    seen: set[tuple[TaskRow, ...]] = set()
    for title, rows in [*groups, ("Average of all", sheet.rows)]:
        known = [{row for row in rows if column.cell(row).is_known} for column in sheet.columns]
        if not any(known):
            continue
        common = set[TaskRow].intersection(*(has for has in known if has))
        for over in (tuple(rows), tuple(row for row in rows if row in common)):
            takes_part = [has.issuperset(over) for has in known]
            if len(over) > 1 and any(takes_part) and over not in seen:
                seen.add(over)
                pairs = zip(sheet.columns, takes_part, strict=True)
                means = [
                    Cell(mean_score([column.cell(row) for row in over])) if part else Cell() for column, part in pairs
                ]
                yield Average(title, rows, over, means)


def mean_score(cells: Sequence[Cell]) -> float:
    return sum(cast(float, cell.score) for cell in cells) / len(cells)


def find_curves(axis: Axis, columns: Sequence[Column]) -> list[Curve]:
    """The curves along a setting. Tasks whose points come from the same columns share a curve."""
    columns_by_way: dict[tuple[str, str, TaskRow], list[Column]] = {}
    """{(model, all other settings, row): columns}"""
    for column in columns:
        for row, result in column.results.items():
            if axis.setting in result.manifest["settings"] and math.isfinite(result.score):
                columns_by_way.setdefault((column.model, fixed_settings(result, axis), row), []).append(column)
    rows_by_columns: dict[tuple[str, tuple[Column, ...]], list[TaskRow]] = {}
    for (_, _, row), candidates in columns_by_way.items():
        if len(points := find_points(axis, candidates, row)) > 1:
            rows_by_columns.setdefault((row.kind, tuple(points.values())), []).append(row)
    return [
        Curve(
            columns[0].model,
            curve_label(columns),
            tuple(rows),
            {column.results[rows[0]].manifest["settings"][axis.value_setting]: column for column in columns},
        )
        for (_, columns), rows in rows_by_columns.items()
    ]


def find_points(axis: Axis, columns: Sequence[Column], row: TaskRow) -> dict[int | str, Column]:
    """{value of the setting: column}. A column without the setting is a point only if its vectors are the longest."""
    settings = [column.results[row].manifest["settings"] for column in columns]
    whole = [
        setting[axis.value_setting]
        for setting in settings
        if setting[axis.setting] is None and setting[axis.value_setting] is not None
    ]
    points: dict[int | str, Column] = {}
    for setting, column in zip(settings, columns, strict=True):
        value = setting[axis.value_setting]
        if value is not None and (setting[axis.setting] is not None or value == max(whole)):
            points.setdefault(value, column)
    return dict(sorted(points.items(), key=lambda point: cast(Any, point[0])))


def fixed_settings(result: Result, axis: Axis) -> str:
    """All settings that must be equal along a curve, as JSON."""
    free = {axis.setting, *axis.dependent_settings}
    settings = {name: value for name, value in result.manifest["settings"].items() if name not in free}
    rest = {name: result.manifest[name] for name in ("prompts", "protocol")}
    return json.dumps([settings, rest], sort_keys=True)


def curve_label(columns: Sequence[Column]) -> str:
    """The model, and the parts that all of its variants share."""
    parts = [column.variant.split(", ") for column in columns]
    common = ", ".join(part for part in parts[0] if part and all(part in other for other in parts))
    return f"{columns[0].model} ({common})" if common else columns[0].model


def format_times_100(score: float) -> str:
    return f"{score * 100:z.2f}"


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key for sorting that puts "dim 64" before "dim 128"."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]
