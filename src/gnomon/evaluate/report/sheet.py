"""What stands beside what in a report: rows, columns, averages and curves of results."""

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

DASH = "–"

FINGERPRINT_CHARS = 12
"""Characters of a fingerprint that are shown."""


@dataclass(frozen=True)
class Axis:
    """A setting that a curve runs along."""

    setting: str
    title: str
    log: bool
    value_setting: str
    """The setting that says where a point is."""
    dependent_settings: tuple[str, ...] = ()
    """Settings that this one decides: they may differ along with it."""


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
    """What may stand in one line: the same task and metric, on the same data and subsets."""

    task: str
    kind: str
    metric: str
    revision: str | None
    subsets: tuple[tuple[str, str], ...]
    """(split, name) of each."""


@dataclass(frozen=True)
class Cell:
    score: float | None = None
    """0 to 1; None where there is no result."""
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
        """Of the interval; None where there is none, or where no resample had a score."""
        if not self.is_known or self.interval is None or not math.isfinite(self.interval.low + self.interval.high):
            return None
        return self.interval.low, self.interval.high

    @property
    def range(self) -> str:
        """The interval in words; empty where there is none."""
        return " to ".join(map(format_times_100, self.ends or ()))

    @property
    def text_with_range(self) -> str:
        return f"{self.text} ({self.range})" if self.range else self.text


@dataclass(frozen=True, eq=False)
class Column:
    """One model, run in one way."""

    model: str
    """Its name; with the start of its fingerprint where another model has the same name."""
    variant: str
    results: Mapping[TaskRow, Result]

    @property
    def label(self) -> str:
        return f"{self.model} ({self.variant})" if self.variant else self.model

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of one of its tasks: for what all have in common."""
        return next(iter(self.results.values())).manifest

    def cell(self, row: TaskRow) -> Cell:
        return task_cell(self.results[row]) if row in self.results else Cell()

    def subset_cell(self, row: TaskRow, split: str, name: str) -> Cell:
        if row not in self.results:
            return Cell()
        found = next(each for each in self.results[row].subsets if (each.split, each.name) == (split, name))
        return Cell(found.score, found.interval)


@dataclass(frozen=True, eq=False)
class Curve:
    """One model on tasks of one kind, where nothing but one setting (and what follows from it) differs."""

    model: str
    label: str
    rows: tuple[TaskRow, ...]
    columns: Mapping[int | str, Column]
    """By the value of the setting."""

    def cell(self, value: int | str) -> Cell:
        """The mean over the tasks; its interval where it is of one."""
        cells = [self.columns[value].cell(row) for row in self.rows]
        return cells[0] if len(cells) == 1 else Cell(mean_score(cells))

    def bytes_per_vector(self, value: int | str) -> int | None:
        return self.columns[value].results[self.rows[0]].manifest["settings"].get("bytes_per_vector")


@dataclass(frozen=True, eq=False)
class Sheet:
    rows: Sequence[TaskRow]
    """By kind, then by task."""
    columns: Sequence[Column]
    """Models as they were given, each with its variants in order; last those that only curves show."""

    def cells(self, row: TaskRow) -> list[Cell]:
        return [column.cell(row) for column in self.columns]

    def row_name(self, row: TaskRow) -> str:
        """The task; with its split or revision where another row is of another one."""
        alike = [other for other in self.rows if other.task == row.task]
        splits = [" ".join(dict.fromkeys(split for split, _ in other.subsets)) for other in (row, *alike)]
        said = [
            f"split {splits[0]}" if len(set(splits)) > 1 else "",
            f"revision {str(row.revision)[:FINGERPRINT_CHARS]}" if len({other.revision for other in alike}) > 1 else "",
        ]
        return f"{row.task} ({', '.join(filter(None, said))})" if any(said) else row.task

    @property
    def rows_by_kind(self) -> list[tuple[str, list[TaskRow]]]:
        return [(kind, list(rows)) for kind, rows in groupby(self.rows, lambda row: row.kind)]

    @cached_property
    def curves(self) -> Mapping[Axis, list[Curve]]:
        return {axis: find_curves(axis, self.columns) for axis in AXES}

    @cached_property
    def styles(self) -> Mapping[Column, int]:
        """The columns that the dot plots show, by number of mark: not those of other settings that curves show."""
        first = {column.model: column for column in reversed(self.columns)}.values()
        in_curves = {
            (column, row)
            for found in self.curves.values()
            for curve in found
            for column in curve.columns.values()
            for row in curve.rows
        }
        shown = (
            column
            for column in self.columns
            if column in first or any((column, row) not in in_curves for row in column.results)
        )
        return {column: style for style, column in enumerate(shown)}

    def style_of_model(self, model: str) -> int:
        return next(style for column, style in self.styles.items() if column.model == model)


@dataclass(frozen=True)
class Average:
    title: str
    rows: Sequence[TaskRow]
    """Those it speaks of."""
    averaged_rows: Sequence[TaskRow]
    """Those it is taken over."""
    cells: Sequence[Cell]

    @property
    def coverage(self) -> str:
        if len(self.averaged_rows) == len(self.rows):
            return pluralize(len(self.rows), "task")
        return f"the {len(self.averaged_rows)} of {pluralize(len(self.rows), 'task')} that all have"


def build_sheet(results: Sequence[Result]) -> Sheet:
    if not results:
        raise InputError("there are no results to report; gnomon evaluate makes some.")
    found: dict[tuple[str, str | None, str], dict[TaskRow, Result]] = {}
    for result in results:
        cells = found.setdefault((result.model, result.fingerprint, result.manifest["variant"]), {})
        row = build_row(result)
        if row in cells:
            told = f"{result.label} has two results of {result.task}: {cells[row].path} and {result.path}"
            raise InputError(f"{told}. Give one of them.")
        cells[row] = result
    given = list(dict.fromkeys((name, fingerprint) for name, fingerprint, _ in found))
    names = [name for name, _ in given]
    columns = [
        Column(
            f"{key[0]} [{(key[1] or 'none')[:FINGERPRINT_CHARS]}]" if names.count(key[0]) > 1 else key[0],
            key[2],
            found[key],
        )
        for key in sorted(found, key=lambda key: (given.index(key[:2]), natural_key(key[2])))
    ]
    every = {row for cells in found.values() for row in cells}
    rows = sorted(every, key=lambda row: (row.kind, natural_key(row.task), str(row)))
    shown = Sheet(rows, columns).styles
    return Sheet(rows, sorted(columns, key=lambda column: column not in shown))


def build_row(result: Result) -> TaskRow:
    subsets = tuple(sorted((subset.split, subset.name) for subset in result.subsets))
    return TaskRow(result.task, result.kind, result.metric, result.manifest["task"]["revision"], subsets)


def task_cell(result: Result) -> Cell:
    if not math.isfinite(result.score):
        return Cell(result.score)
    # that of the only subset is written down; the other one is drawn from all units
    return Cell(result.score, result.subsets[0].interval if len(result.subsets) == 1 else result.interval)


def best_indices(cells: Sequence[Cell]) -> set[int]:
    """Positions of the highest score as it is shown, all of them in a tie; none where there is no rival."""
    shown = {index: float(cell.text) for index, cell in enumerate(cells) if cell.is_known}
    return {index for index, score in shown.items() if score == max(shown.values())} if len(shown) > 1 else set()


def compute_averages(sheet: Sheet) -> Iterator[Average]:
    """Over each kind and over all: of the models that have every task; and over the tasks that all of them have.

    Those of one task, or of the tasks of an average before, are left out.
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
    """Tasks whose points are of the same columns go together."""
    found: dict[tuple[str, str, TaskRow], list[Column]] = {}
    for column in columns:
        for row, result in column.results.items():
            if axis.setting in result.manifest["settings"] and math.isfinite(result.score):
                found.setdefault((column.model, fixed_settings(result, axis), row), []).append(column)
    together: dict[tuple[str, tuple[Column, ...]], list[TaskRow]] = {}
    for (_, _, row), listed in found.items():
        if len(points := find_points(axis, listed, row)) > 1:
            together.setdefault((row.kind, tuple(points.values())), []).append(row)
    return [
        Curve(
            columns[0].model,
            curve_label(columns),
            tuple(rows),
            {column.results[rows[0]].manifest["settings"][axis.value_setting]: column for column in columns},
        )
        for (_, columns), rows in together.items()
    ]


def find_points(axis: Axis, columns: Sequence[Column], row: TaskRow) -> dict[int | str, Column]:
    """By value. A prefix is one of the model's widest vector: of whole ones, a curve has no other."""
    settings = [column.results[row].manifest["settings"] for column in columns]
    whole = [
        each[axis.value_setting]
        for each in settings
        if each[axis.setting] is None and each[axis.value_setting] is not None
    ]
    points: dict[int | str, Column] = {}
    for each, column in zip(settings, columns, strict=True):
        value = each[axis.value_setting]
        if value is not None and (each[axis.setting] is not None or value == max(whole)):
            points.setdefault(value, column)
    return dict(sorted(points.items(), key=lambda point: cast(Any, point[0])))


def fixed_settings(result: Result, axis: Axis) -> str:
    """All that must be equal along a curve."""
    free = {axis.setting, *axis.dependent_settings}
    settings = {name: value for name, value in result.manifest["settings"].items() if name not in free}
    rest = {name: result.manifest[name] for name in ("prompts", "protocol")}
    return json.dumps([settings, rest], sort_keys=True)


def curve_label(columns: Sequence[Column]) -> str:
    """The model, and what all of its variants say."""
    parts = [column.variant.split(", ") for column in columns]
    common = ", ".join(part for part in parts[0] if part and all(part in other for other in parts))
    return f"{columns[0].model} ({common})" if common else columns[0].model


def format_times_100(score: float) -> str:
    return f"{score * 100:z.2f}"


def pluralize(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key that puts "dim 64" before "dim 128"."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]
