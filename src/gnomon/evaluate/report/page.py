"""Renders results as one self-contained page, and as a table for a README. Scores are shown times 100.

Others wrote the names of models and tasks, the prompts and the settings: `tag` escapes everything that is not markup
already, and the page's own security policy forbids it to load anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby
from typing import Any

from gnomon.evaluate.report.markup import Html, add_word_breaks, clean, escape_text, join, scroll_box, tag
from gnomon.evaluate.report.plots import render_curves, render_dot_plots, render_key, render_shapes
from gnomon.evaluate.report.sheet import (
    DASH,
    Average,
    Cell,
    Column,
    Sheet,
    TaskRow,
    best_indices,
    build_sheet,
    compute_averages,
)
from gnomon.evaluate.results import Result
from gnomon.messages import count, list_some
from gnomon.spec import FINGERPRINT_DIGITS
from gnomon.terminal import display_width, pad_line

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render_html(results: Sequence[Result], *, title: str = "Evaluation") -> str:
    """Render one page: the scores in a table and in plots, and how they were measured. The page loads nothing.

    Raises:
        InputError: no results; two results of one model, run in one way, on one task.
    """
    sheet = build_sheet(results)
    parts = {"Models": render_models(sheet), "Scores": render_scores(sheet), "Plots": render_dot_plots(sheet)}
    parts |= {"Curves": render_curves(sheet)} if any(sheet.curves.values()) else {}
    parts |= {"How it was run": render_run(sheet)}
    keys = {name: name.split()[0].lower() for name in parts}
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", read_asset("page.css"), render_print_style(sheet)),
    )
    links = [tag("a", name, href=f"#{key}") for name, key in keys.items()]
    sections = [tag("section", tag("h2", name), inner, id=keys[name]) for name, inner in parts.items()]
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", title),
            tag("p", render_summary(sheet)),
            tag("nav", *links, aria_label="Parts of this page"),
        ),
        tag("main", *sections),
        render_shapes(),
        tag("script", read_asset("page.js")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def render_markdown(results: Sequence[Result]) -> str:
    """Render the table of scores as Markdown that is aligned as plain text too. The best of a row is bold.

    Raises:
        InputError: as `render_html`.
    """
    sheet = build_sheet(results)
    head = ["Task", "Kind", "Metric", *(column.label for column in sheet.columns)]
    lines = [([sheet.row_name(row), row.kind, row.metric], sheet.cells(row)) for row in sheet.rows]
    lines += [([f"{each.title} ({each.coverage})", "", ""], each.cells) for each in compute_averages(sheet)]
    table = [
        [*map(escape_markdown, head)],
        *([*map(escape_markdown, names), *format_markdown_cells(cells)] for names, cells in lines),
    ]
    caption = "Scores times 100; in brackets the 95 % interval; bold is the best of a row."
    return "\n".join([*align_table(table, num_names=3), "", caption, ""])


# the page


def render_summary(sheet: Sheet) -> str:
    results = [result for column in sheet.columns for result in column.results.values()]
    models = {column.model for column in sheet.columns}
    counts = [count(len(models), "model")]
    counts += [f"{len(sheet.columns)} ways of running them"] if len(sheet.columns) > len(models) else []
    counts += [count(len(sheet.rows), "task"), count(len(sheet.rows_by_kind), "kind")]
    versions = ", ".join(sorted({str(result.manifest["gnomon"]) for result in results}))
    return f"{format_dates(result.manifest for result in results)}: {', '.join(counts)}; gnomon {versions}"


def render_models(sheet: Sheet) -> Html:
    head = [tag("th", name, scope="col") for name in ("Model", "Method", "Fingerprint", "Tasks", "Run with")]
    by_model: dict[str, list[Column]] = {}
    for column in sheet.columns:
        by_model.setdefault(column.model, []).append(column)
    lines = [
        tag(
            "tr",
            tag("th", render_key(sheet, columns[0]), add_word_breaks(name), scope="row"),
            tag("td", columns[0].manifest["model"]["method"]),
            tag("td", render_fingerprint(columns[0])),
            tag("td", str(len({row for column in columns for row in column.results})), class_="number"),
            tag("td", render_names([column.variant or "its own settings" for column in columns])),
        )
        for name, columns in by_model.items()
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scroll_box("Models", table)


def render_names(names: Sequence[str]) -> Html:
    """All names if they are few; else the first, and the others on demand."""
    if len(names) <= 8:
        return escape_text("; ".join(names))
    return tag("details", tag("summary", list_some(names, 1)), "; ".join(names[1:]))


def render_fingerprint(column: Column) -> Html:
    fingerprint = column.manifest["model"]["fingerprint"]
    if not fingerprint:
        return Html(DASH)
    return tag("code", fingerprint[:FINGERPRINT_DIGITS], title=fingerprint, class_="whole")


def render_scores(sheet: Sheet) -> Html:
    caption = (
        "Times 100; beneath, the 95 % interval, by bootstrap over queries, pairs, texts or experiments. "
        "★ and bold: the highest of its row. A dash: not run. A heading sorts by its column."
    )
    head = [render_sort_heading("Task"), render_sort_heading("Kind", sort="ascending")]
    head += [
        render_sort_heading(column.model, render_key(sheet, column), small=column.variant, number=True)
        for column in sheet.columns
    ]
    foot = [render_average_row(each, sheet) for each in compute_averages(sheet)]
    table = tag(
        "table",
        tag("thead", tag("tr", *head)),
        *(render_task_rows(row, sheet) for row in sheet.rows),
        tag("tfoot", *foot) if foot else "",
        id="table",
        style=f"--models: {len(sheet.columns)}",
    )
    return join(tag("p", caption), scroll_box("Scores", table, tall=True))


def render_print_style(sheet: Sheet) -> Html:
    """On paper the table of scores has only the columns that the dot plots show: more would not fit."""
    if len(sheet.styles) == len(sheet.columns):
        return Html()
    first = 3 + len(sheet.styles)  # a row of the foot has one cell less: its name spans two columns
    others = f"#table :is(thead, tbody) > tr > :nth-child(n + {first}), #table tfoot td:nth-child(n + {first - 1})"
    note = '#scores > p::after { content: " What only curves show is left out on paper."; }'
    return Html(f"@media print {{ {others} {{ display: none; }} {note} }}\n")


def render_sort_heading(
    name: str, mark: str = "", *, small: str = "", number: bool = False, sort: str | None = None
) -> Html:
    arrow = tag("span", class_="arrow", aria_hidden="true")
    button = tag("button", mark, add_word_breaks(name), *([tag("small", small)] if small else []), arrow, type="button")
    return tag("th", button, scope="col", aria_sort=sort, data_type="number" if number else "text")


def render_task_rows(row: TaskRow, sheet: Sheet) -> Html:
    """A task, and its subsets below it, which page.css shows when `details` is open."""
    several = len(row.subsets) > 1
    more = tag("details", tag("summary", f"{len(row.subsets)} subsets")) if several else ""
    first = tag(
        "tr",
        tag(
            "th",
            add_word_breaks(sheet.row_name(row), capitals=True),
            tag("small", row.metric),
            more,
            scope="row",
            data_value=row.task,
        ),
        tag("td", add_word_breaks(row.kind, capitals=True), data_value=row.kind),
        *render_score_cells(sheet.cells(row)),
    )
    splits = {split for split, _ in row.subsets}
    subsets = [
        tag(
            "tr",
            tag("th", add_word_breaks(f"{split} / {name}" if len(splits) > 1 else name), scope="row"),
            tag("td"),
            *render_score_cells([column.subset_cell(row, split, name) for column in sheet.columns]),
            class_="subset",
        )
        for split, name in row.subsets
        if several
    ]
    return tag("tbody", first, *subsets)


def render_average_row(average: Average, sheet: Sheet) -> Html:
    coverage = tag("small", average.coverage)
    if average.averaged_rows and len(average.averaged_rows) < len(average.rows):
        names = ", ".join(sheet.row_name(row) for row in average.averaged_rows)
        coverage = tag("details", tag("summary", average.coverage), tag("small", names))
    return tag("tr", tag("th", average.title, coverage, scope="row", colspan=2), *render_score_cells(average.cells))


def render_score_cells(cells: Sequence[Cell]) -> list[Html]:
    best = best_indices(cells)
    return [render_score_cell(cell, best=index in best) for index, cell in enumerate(cells)]


def render_score_cell(cell: Cell, *, best: bool) -> Html:
    score = tag("b", tag("span", "best", class_="unseen"), cell.text) if best else Html(cell.text)
    small = [tag("small", cell.range)] if cell.range else []
    value = repr(cell.score) if cell.is_known else None
    return tag("td", score, *small, class_="best" if best else None, data_value=value)


# how it was run


FACT_GROUPS = ("model", "settings", "prompts", "texts", "protocol", "versions", "seconds")

COMPARED_FACTS = {"settings", "prompts", "protocol", "versions", "cut"}
"""Groups and names of facts that are marked where they differ; the others always differ."""

ColumnFacts = dict[tuple[str, str], "Html"]
"""{(group, name): value}."""


def render_run(sheet: Sheet) -> Html:
    caption = "≠: not the same for all models that have it. Prompts are written as Python writes them."
    facts = {column: collect_facts(column) for column in sheet.columns}
    parts = [
        tag("p", caption),
        render_manifests(sheet, facts),
        tag("h3", "Other settings"),
        render_other_settings(sheet, facts),
    ]
    return join(*(parts if len(sheet.styles) < len(facts) else parts[:2]), tag("h3", "Data"), render_data(sheet))


def render_manifests(sheet: Sheet, facts: Mapping[Column, ColumnFacts]) -> Html:
    """The facts of each column that the dot plots show, side by side."""
    names = sort_by_group(name for column in sheet.styles for name in facts[column])
    head = [render_heading_cell(column.model, render_key(sheet, column), column.variant) for column in sheet.styles]
    bodies = [
        tag(
            "tbody",
            tag("tr", tag("th", group.capitalize(), scope="rowgroup"), tag("td", colspan=len(head)), class_="group"),
            *(render_fact_row(name, [facts[column].get(name) for column in sheet.styles]) for name in members),
        )
        for group, members in groupby(names, lambda name: name[0])
    ]
    table = tag("table", tag("thead", tag("tr", tag("td"), *head)), *bodies, class_="plain facts")
    return scroll_box("How it was run", table, tall=True)


def render_other_settings(sheet: Sheet, facts: Mapping[Column, ColumnFacts]) -> Html:
    """One row for each column that only curves show: where it differs from its model's facts above."""
    first = {column.model: facts[column] for column in reversed(list(sheet.styles))}
    rest = [column for column in sheet.columns if column not in sheet.styles]
    names = sort_by_group(
        name
        for column in rest
        for name, value in facts[column].items()
        if not COMPARED_FACTS.isdisjoint(name) and value != first[column.model].get(name, value)
    )
    head = [tag("th", name, scope="col") for name in ("", *(name.replace("_", " ") for _, name in names))]
    lines = [
        tag(
            "tr",
            tag("th", add_word_breaks(column.model), tag("small", column.variant), scope="row"),
            *(tag("td", facts[column].get(name, DASH)) for name in names),
        )
        for column in rest
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scroll_box("Other settings", table, tall=True)


def sort_by_group(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(dict.fromkeys(names), key=lambda name: FACT_GROUPS.index(name[0]))


def render_heading_cell(name: str, mark: str, small: str) -> Html:
    return tag("th", mark, add_word_breaks(name), *([tag("small", small)] if small else []), scope="col")


def render_fact_row(name: tuple[str, str], values: Sequence[Html | None]) -> Html:
    differs = len(set(values) - {None}) > 1 and not COMPARED_FACTS.isdisjoint(name)
    sign = [tag("span", "≠", title="differs", class_="sign")] if differs else []
    cells = [tag("td", DASH if value is None else value) for value in values]
    return tag("tr", tag("th", name[1].replace("_", " "), *sign, scope="row"), *cells, class_=differs and "differs")


def collect_facts(column: Column) -> ColumnFacts:
    """The facts in all manifests of a column; without those that a model does not have."""
    manifests = [result.manifest for result in column.results.values()]
    tasks = [row.task for row in column.results]
    facts: ColumnFacts = {}
    for group in ("model", "settings", "protocol", "versions"):
        facts |= merge_by_task(group, tasks, [manifest[group] for manifest in manifests])
    facts |= merge_by_task("prompts", tasks, [render_prompts(manifest) for manifest in manifests])
    for group in ("texts", "seconds"):
        facts |= {
            (group, name): render_value(sum(manifest[group][name] for manifest in manifests))
            for name in manifests[0][group]
        }
    facts["versions", "gnomon"] = render_value(", ".join(sorted({manifest["gnomon"] for manifest in manifests})))
    facts.pop(("model", "name"))
    facts["model", "fingerprint"] = render_fingerprint(column)
    facts["model", "date"] = render_value(format_dates(manifests))
    return facts


def merge_by_task(group: str, tasks: Sequence[str], facts_by_task: Sequence[Mapping[str, Any]]) -> ColumnFacts:
    """One value for each fact if it is the same for all tasks; else each value with its tasks."""
    tasks_by_value: dict[str, dict[Html, list[str]]] = {}
    for task, facts in zip(tasks, facts_by_task, strict=True):
        for name, value in facts.items():
            tasks_by_value.setdefault(name, {}).setdefault(render_value(value), []).append(task)
    return {(group, name): render_values(values) for name, values in tasks_by_value.items()}


def render_values(values: Mapping[Html, Sequence[str]]) -> Html:
    if len(values) == 1:
        return next(iter(values))
    lines = [tag("div", value, tag("small", ", ".join(tasks))) for value, tasks in values.items()]
    return join(*lines) if len(lines) <= 3 else tag("details", tag("summary", f"{len(lines)} values"), *lines)


def render_prompts(manifest: Mapping[str, Any]) -> dict[str, Html]:
    rendered: dict[str, Html] = {}
    for prompt in manifest["prompts"]:
        name = [tag("small", prompt["name"])] if prompt["name"] else []
        text = tag("code", repr(prompt["text"])) if prompt["text"] else "none"
        rendered[prompt["of"]] = join(rendered.get(prompt["of"], Html()), text, *name)
    return rendered


def render_value(value: Any) -> Html:
    if isinstance(value, Html):
        return value
    if value is None or isinstance(value, bool):
        return Html({None: "none", True: "yes", False: "no"}[value])
    if isinstance(value, int | float):
        return Html(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")
    return escape_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def render_data(sheet: Sheet) -> Html:
    head = [tag("th", name, scope="col") for name in ("Task", "Kind", "Source", "Dataset", "Revision", "Subsets")]
    lines = [
        tag(
            "tr",
            tag("th", add_word_breaks(row.task, capitals=True), scope="row"),
            tag("td", row.kind),
            *render_source_cells(row, sheet),
            render_subsets_cell(row),
        )
        for row in sheet.rows
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scroll_box("Data", table, tall=True)


def render_source_cells(row: TaskRow, sheet: Sheet) -> Iterator[Html]:
    tasks = [column.results[row].manifest["task"] for column in sheet.columns if row in column.results]
    for name in ("source", "dataset", "revision"):
        values = dict.fromkeys(str(task[name]) for task in tasks if task[name] is not None)
        yield tag("td", ", ".join(values) or DASH)


def render_subsets_cell(row: TaskRow) -> Html:
    by_split = groupby(row.subsets, lambda subset: subset[0])
    names_by_split = {split: [name for _, name in subsets] for split, subsets in by_split}
    return tag("td", *(tag("div", f"{split}: ", render_names(names)) for split, names in names_by_split.items()))


def format_dates(manifests: Iterable[Mapping[str, Any]]) -> str:
    days = sorted({manifest["date"][:10] for manifest in manifests})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def read_asset(name: str) -> Html:
    return Html(resources.files("gnomon").joinpath("evaluate", "report", name).read_text(encoding="utf-8"))


# markdown


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", " ".join(clean(text).split()))


def format_markdown_cells(cells: Sequence[Cell]) -> list[str]:
    best = best_indices(cells)
    return [
        cell.text_with_range.replace(cell.text, f"**{cell.text}**", 1)
        if index in best
        else cell.text_with_range.replace(DASH, "-")
        for index, cell in enumerate(cells)
    ]


def align_table(table: Sequence[Sequence[str]], *, num_names: int) -> list[str]:
    """Lines of equal width. The first `num_names` columns are aligned to the left, the others to the right."""
    widths = [max(4, *map(display_width, cells)) for cells in zip(*table, strict=True)]
    ruler = ["-" * width if index < num_names else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    padded = [
        [pad_line(cell, widths[index], right=index >= num_names) for index, cell in enumerate(cells)]
        for cells in (table[0], ruler, *table[1:])
    ]
    return ["| " + " | ".join(cells) + " |" for cells in padded]
