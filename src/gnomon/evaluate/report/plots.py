"""Draws the plots of a report as SVG. Scores are shown times 100."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from gnomon.evaluate.report.markup import Html, add_word_breaks, join, scroll_box, tag
from gnomon.evaluate.report.sheet import DASH, Axis, Cell, Column, Curve, Sheet, TaskRow, natural_key

NUM_COLOURS = 8
"""Number of colours: the classes c0 to c7 in page.css."""

SHAPES = {
    "circle": "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
    "square": "M-3.7 -3.7h7.4v7.4h-7.4z",
    "up": "M0 -4.9L4.8 3.7H-4.8z",
    "diamond": "M0 -5.3L5.3 0L0 5.3L-5.3 0z",
    "down": "M0 4.9L4.8 -3.7H-4.8z",
    "plus": "M-1.6 -4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "cross": "M0 -2.3L2.5 -4.8L4.8 -2.5L2.3 0L4.8 2.5L2.5 4.8L0 2.3L-2.5 4.8L-4.8 2.5L-2.3 0L-4.8 -2.5L-2.5 -4.8z",
}
"""Seven shapes and eight colours have no common divisor: 56 models have different pairs."""


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    ticks: Sequence[float]

    def fraction(self, value: float) -> float:
        """Where a value is on the scale: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def build_scale(values: Iterable[float], *, max_steps: int) -> Scale:
    """A scale that ends at round numbers, at least 2 apart, so that noise does not look like a large difference."""
    low, high = extent(values)
    wider = max(0.0, 2 - (high - low)) / 2
    low, high = low - wider, high + wider
    rough = (high - low) / max_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, [index * step for index in range(first, last + 1)])


def extent(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest value."""
    numbers = list(values)
    return min(numbers), max(numbers)


def score_and_ends(cell: Cell) -> list[float]:
    """The score and the ends of its interval, times 100; empty if there is no score."""
    return [value * 100 for value in (cast(float, cell.score), *(cell.ends or ()))] if cell.is_known else []


def render_dot_plots(sheet: Sheet) -> Html:
    caption = "Lines: 95 % intervals. Each kind has its own scale."
    left_out = len(sheet.columns) - len(sheet.styles)
    caption += f" {left_out} of the columns above are in the curves below." if left_out else ""
    legend = tag(
        "ul", *(tag("li", render_key(sheet, column), column.label) for column in sheet.styles), class_="legend"
    )
    return join(tag("p", caption), legend, *(render_dot_plot(kind, rows, sheet) for kind, rows in sheet.rows_by_kind))


def render_dot_plot(kind: str, rows: Sequence[TaskRow], sheet: Sheet) -> Html:
    lanes = [column for column in sheet.styles if any(column.cell(row).is_known for row in rows)]
    values = [value for row in rows for column in lanes for value in score_and_ends(column.cell(row))]
    if not values:
        return tag("figure", tag("h3", kind), tag("p", "No scores."))
    x_scale = build_scale(values, max_steps=6)
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines = [
        join(
            tag(
                "div",
                add_word_breaks(sheet.row_name(row), capitals=True),
                *([tag("small", row.metric)] if len(metrics) > 1 else []),
                class_="name",
            ),
            render_dot_row(row, lanes, sheet, x_scale),
        )
        for row in rows
    ]
    title = f"{metrics[0] if len(metrics) == 1 else 'score'}, times 100"
    gap = tag("div", class_="name")
    above = join(gap, render_dot_axis(x_scale, "")) if len(rows) * len(lanes) > 40 else ""
    return tag(
        "figure", tag("h3", kind), tag("div", above, *lines, gap, render_dot_axis(x_scale, title), class_="dots")
    )


def render_dot_row(row: TaskRow, lanes: Sequence[Column], sheet: Sheet, x_scale: Scale) -> Html:
    """Positions on the x axis are in percent, so that the plot may have any width while its marks keep their size."""
    step = 12 if len(lanes) <= 8 else 9
    height = max(step * len(lanes) + 8, 28)
    top = (height - step * len(lanes)) / 2
    drawn = [
        render_line(format_percent(x_scale, tick), 0, format_percent(x_scale, tick), height, class_="grid")
        for tick in x_scale.ticks
    ]
    for index, column in enumerate(lanes):
        cell, style, y = column.cell(row), sheet.styles[column], top + step * (index + 0.5)
        if not cell.is_known:
            continue
        score, *ends = (format_percent(x_scale, value) for value in score_and_ends(cell))
        whisker = [render_line(ends[0], y, ends[1], y, class_=f"whisker {colour_class(style)}")] if ends else []
        drawn.append(
            tag("g", tag("title", f"{column.label}: {cell.text_with_range}"), *whisker, render_mark(style, score, y))
        )
    label = f"{sheet.row_name(row)}: the scores of the table, with intervals"
    return tag("svg", *drawn, role="img", aria_label=label, width="100%", height=height)


def render_dot_axis(x_scale: Scale, title: str) -> Html:
    ticks = [render_label(f"{tick:g}", format_percent(x_scale, tick), 14, class_="tick") for tick in x_scale.ticks]
    name = [render_label(title, "50%", 31)] if title else []
    return tag("svg", *ticks, *name, aria_hidden="true", width="100%", height=40 if title else 20)


def format_percent(x_scale: Scale, value: float) -> str:
    return f"{x_scale.fraction(value):.2%}"


def render_curves(sheet: Sheet) -> Html:
    caption = (
        "Results of one model that differ in one setting only. In a plot of several tasks, a point is their mean; in a "
        "plot of one task, it has the 95 % interval."
    )
    return join(
        tag("p", caption), *(render_axis_curves(axis, curves, sheet) for axis, curves in sheet.curves.items() if curves)
    )


def render_axis_curves(axis: Axis, curves: Sequence[Curve], sheet: Sheet) -> Html:
    """A panel for each kind and set of tasks."""
    styles = assign_styles(curves, sheet)
    legend = [tag("li", render_curve_key(style), label) for label, style in styles.items()]
    panels: dict[tuple[TaskRow, ...], list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: str(curve.rows)):
        panels.setdefault(curve.rows, []).append(curve)
    plots = [render_panel(axis, rows, members, styles, sheet) for rows, members in panels.items()]
    title = tag("h3", f"By {axis.title}")
    return tag("div", title, tag("ul", *legend, class_="legend"), tag("div", *plots, class_="panels"))


@dataclass(frozen=True)
class Style:
    number: int
    """The number of the model's mark."""
    curve_index: int
    """Which of the model's curves it is. It decides the dashes, and whether marks are hollow."""


def assign_styles(curves: Sequence[Curve], sheet: Sheet) -> dict[str, Style]:
    styles: dict[str, Style] = {}
    for curve in sorted(curves, key=lambda curve: (sheet.style_of_model(curve.model), natural_key(curve.label))):
        number = sheet.style_of_model(curve.model)
        index = sum(style.number == number for style in styles.values())
        styles.setdefault(curve.label, Style(number, index))
    return styles


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 264, 42, 344, 26, 196
"""The size of a panel, and the edges of the plot within it."""

CHARACTER_WIDTH = 6.2
"""The width of one character in the label of a tick."""


def render_panel(
    axis: Axis, rows: Sequence[TaskRow], curves: Sequence[Curve], styles: Mapping[str, Style], sheet: Sheet
) -> Html:
    metrics = {row.metric for row in rows}
    values = x_positions(axis, curves)
    y = build_scale(
        (value for curve in curves for x in curve.columns for value in score_and_ends(curve.cell(x))), max_steps=5
    )
    drawing = tag(
        "svg",
        *render_y_ticks(y),
        tag("text", f"{metrics.pop() if len(metrics) == 1 else 'score'}, times 100", x=4, y=13),
        *render_x_ticks(axis, curves, values),
        *(
            render_curve(curve, styles[curve.label], offset_positions(values, axis, index, len(curves)), y)
            for index, curve in enumerate(curves)
        ),
        role="img",
        aria_label=f"{rows[0].kind} by {axis.title}: the values below",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
    )
    tasks = ", ".join(sheet.row_name(row) for row in rows)
    caption = tasks if len(rows) == 1 else f"Mean of {len(rows)} tasks: {tasks}"
    return tag("figure", tag("h4", rows[0].kind), tag("p", caption), drawing, render_values_table(axis, curves, values))


def x_positions(axis: Axis, curves: Sequence[Curve]) -> dict[int | str, float]:
    """The x of each value: by its logarithm, or names at equal steps, those of most bytes first."""
    values = {value for curve in curves for value in curve.columns}
    if axis.log:
        logs = {value: math.log(cast(int, value)) for value in sorted(values, key=lambda value: cast(int, value))}
        low, high = extent(logs.values())
        return {value: LEFT + 16 + (RIGHT - LEFT - 32) * (log - low) / (high - low) for value, log in logs.items()}
    ordered = sorted(values, key=lambda value: (-max(vector_sizes(value, curves), default=0), str(value)))
    step = (RIGHT - LEFT) / len(ordered)
    return {value: LEFT + step * (index + 0.5) for index, value in enumerate(ordered)}


def offset_positions(values: Mapping[int | str, float], axis: Axis, index: int, count: int) -> dict[int | str, float]:
    """Where x is a name, curves stand beside each other, and their intervals do not cover each other."""
    offset = 0 if axis.log else (index - (count - 1) / 2) * min(6, 24 / count)
    return {value: x + offset for value, x in values.items()}


def vector_sizes(value: int | str, curves: Sequence[Curve]) -> list[int]:
    sizes = {curve.bytes_per_vector(value) for curve in curves if value in curve.columns}
    return sorted(size for size in sizes if size is not None)


def render_x_ticks(axis: Axis, curves: Sequence[Curve], values: Mapping[int | str, float]) -> list[Html]:
    """The labels below the x axis, and its title.

    Names are split into parts. Bytes per vector follow if the setting decides them.
    """
    labels = {value: str(value).replace("-", "- ").split() for value in values}
    sizes = {value: vector_sizes(value, curves) for value in values}
    title = f"{axis.title}{' (log)' if axis.log else ''}"
    depth = max(map(len, labels.values()))
    if "bytes_per_vector" in axis.dependent_settings and all(sizes.values()):
        title += "; beneath: bytes per vector"
        labels = {
            v: [*parts, *[""] * (depth - len(parts)), format_range(*extent(sizes[v]))] for v, parts in labels.items()
        }
        depth += 1
    drawn = [render_line(x, BOTTOM, x, BOTTOM + 4, class_="axis") for x in values.values()]
    for index in range(depth):
        labels_at = {value: (values[value], parts[index]) for value, parts in labels.items() if index < len(parts)}
        drawn += [
            render_label(part, x, BOTTOM + 16 + 13 * index, class_="tick") for x, part in drop_overlapping(labels_at)
        ]
    return [*drawn, render_label(title, (LEFT + RIGHT) / 2, BOTTOM + 20 + 13 * depth)]


def render_label(label: str, x: float | str, y: float, *, class_: str | None = None) -> Html:
    return tag("text", label, x=format_coordinate(x), y=format_coordinate(y), text_anchor="middle", class_=class_)


def drop_overlapping(labels: Mapping[int | str, tuple[float, str]]) -> list[tuple[float, str]]:
    """The (x, label) pairs that leave room between each other: the ends first, then from the left."""
    order = list(labels.values())
    spaced: list[tuple[float, str]] = []
    for x, label in dict.fromkeys([order[-1], order[0], *order]):
        if all(abs(x - other) >= CHARACTER_WIDTH * (len(label) + len(text)) / 2 + 3 for other, text in spaced):
            spaced.append((x, label))
    return spaced


def render_y_ticks(y_scale: Scale) -> Iterator[Html]:
    for tick in y_scale.ticks:
        y = y_position(y_scale, tick)
        yield render_line(LEFT, y, RIGHT, y, class_="grid")
        yield tag("text", f"{tick:g}", x=LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end", class_="tick")


def y_position(y_scale: Scale, value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * y_scale.fraction(value)


def render_curve(curve: Curve, style: Style, values: Mapping[int | str, float], y_scale: Scale) -> Html:
    points = [(x, curve.cell(value), value) for value, x in values.items() if value in curve.columns]
    positions = [(x, y_position(y_scale, score_and_ends(cell)[0])) for x, cell, _ in points]
    dashes = f"curve {colour_class(style.number)} way{style.curve_index % 4}"
    drawn = [render_line(*left, *right, class_=dashes) for left, right in pairwise(positions)]
    for (x, y), (_, cell, value) in zip(positions, points, strict=True):
        ends = [y_position(y_scale, end) for end in score_and_ends(cell)[1:]]
        whisker = [render_line(x, ends[0], x, ends[1], class_=f"whisker {colour_class(style.number)}")] if ends else []
        title = tag("title", f"{curve.label}, {value}: {cell.text_with_range}")
        drawn.append(tag("g", title, *whisker, render_mark(style.number, x, y, hollow=style.curve_index > 0)))
    return tag("g", *drawn)


def render_values_table(axis: Axis, curves: Sequence[Curve], values: Mapping[int | str, float]) -> Html:
    head = [tag("th", name, scope="col") for name in (axis.title, *(curve.label for curve in curves))]
    lines = [
        tag("tr", tag("th", str(value), scope="row"), *(render_value_cell(curve, value) for curve in curves))
        for value in values
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return tag("details", tag("summary", "Values"), scroll_box("Values of the plot", table))


def render_value_cell(curve: Curve, value: int | str) -> Html:
    if value not in curve.columns:
        return tag("td", DASH, class_="number")
    cell, size = curve.cell(value), curve.bytes_per_vector(value)
    small = [cell.range, f"{size:,} bytes" if size is not None else ""]
    return tag("td", cell.text, *(tag("small", text) for text in small if text), class_="number")


def render_line(x1: float | str, y1: float | str, x2: float | str, y2: float | str, *, class_: str) -> Html:
    return tag(
        "line",
        x1=format_coordinate(x1),
        y1=format_coordinate(y1),
        x2=format_coordinate(x2),
        y2=format_coordinate(y2),
        class_=class_,
    )


def format_coordinate(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def render_mark(style: int, x: float | str, y: float, *, hollow: bool = False) -> Html:
    """The mark of a model: a shape and a colour, hollow in every second round through the shapes."""
    shape = list(SHAPES)[style % len(SHAPES)]
    hollow = hollow != bool(style // len(SHAPES) % 2)
    name = f"mark {colour_class(style)}{' hollow' if hollow else ''}"
    return tag("use", href=f"#{shape}", x=format_coordinate(x), y=format_coordinate(y), class_=name)


def colour_class(style: int) -> str:
    return f"c{style % NUM_COLOURS}"


def render_shapes() -> Html:
    """Draw each shape once; every mark refers to one."""
    shapes = [tag("path", id=name, d=path) for name, path in SHAPES.items()]
    return tag("svg", tag("defs", *shapes), width=0, height=0, aria_hidden="true", class_="unseen")


def render_key(sheet: Sheet, column: Column) -> Html:
    """The mark of a column in a legend; an empty space of its size for a column without one."""
    drawn = [render_mark(sheet.styles[column], 7, 7)] if column in sheet.styles else []
    return tag("svg", *drawn, width=14, height=14, class_="key", aria_hidden="true")


def render_curve_key(style: Style) -> Html:
    drawn = render_line(0, 7, 34, 7, class_=f"curve {colour_class(style.number)} way{style.curve_index % 4}")
    point = render_mark(style.number, 17, 7, hollow=style.curve_index > 0)
    return tag("svg", drawn, point, width=34, height=14, class_="key", aria_hidden="true")


def format_range(low: float, high: float) -> str:
    return f"{low}" if low == high else f"{low}–{high}"
