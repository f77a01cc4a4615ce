"""Results as one page that needs nothing beside it, and as a table for a README. Scores are shown times 100.

Names of models and tasks, prompts and settings are foreign text: `tag` escapes whatever is not markup already, and the
page's own policy forbids it to load anything.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby
from typing import Any

from gnomon.evaluate.report.markup import Html, clean, join, scrolls, tag, text, words
from gnomon.evaluate.report.plots import curves, dots, key, symbols
from gnomon.evaluate.report.sheet import DASH, START, Average, Cell, Column, Row, Sheet, averages, bests, counted, read
from gnomon.evaluate.results import Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def html(results: Sequence[Result], *, title: str = "Evaluation") -> str:
    """One page: the scores in a table and in plots, and how they were made. It loads nothing.

    Raises:
        InputError: no results; two of one model, run in one way, on one task.
    """
    sheet = read(results)
    parts = {"Models": models(sheet), "Scores": scores(sheet), "Plots": dots(sheet)}
    parts |= {"Curves": curves(sheet)} if any(sheet.curves.values()) else {}
    parts |= {"How it was run": run(sheet)}
    keys = {name: name.split()[0].lower() for name in parts}
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", asset("page.css"), on_paper(sheet)),
    )
    links = [tag("a", name, href=f"#{key}") for name, key in keys.items()]
    sections = [tag("section", tag("h2", name), inner, id=keys[name]) for name, inner in parts.items()]
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", summary(sheet)), tag("nav", *links, aria_label="Parts of this page")),
        tag("main", *sections),
        symbols(),
        tag("script", asset("page.js")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def markdown(results: Sequence[Result]) -> str:
    """The table of scores, its columns in line also as plain text; the best of a row is bold.

    Raises:
        InputError: as `html`.
    """
    sheet = read(results)
    head = ["Task", "Kind", "Metric", *(column.label for column in sheet.columns)]
    lines = [([sheet.name(row), row.kind, row.metric], sheet.cells(row)) for row in sheet.rows]
    lines += [([f"{each.title} ({each.told})", "", ""], each.cells) for each in averages(sheet)]
    table = [[*map(in_markdown, head)], *([*map(in_markdown, names), *markdown_cells(cells)] for names, cells in lines)]
    told = "Scores times 100; in brackets the 95 % interval; bold is the best of a row."
    return "\n".join([*in_line(table, names=3), "", told, ""])


# the page


def summary(sheet: Sheet) -> str:
    results = [result for column in sheet.columns for result in column.results.values()]
    models = {column.model for column in sheet.columns}
    counts = [counted(len(models), "model")]
    counts += [f"{len(sheet.columns)} ways of running them"] if len(sheet.columns) > len(models) else []
    counts += [counted(len(sheet.rows), "task"), counted(len(sheet.by_kind), "kind")]
    versions = ", ".join(sorted({str(result.manifest["gnomon"]) for result in results}))
    return f"{dates(result.manifest for result in results)}: {', '.join(counts)}; gnomon {versions}"


def models(sheet: Sheet) -> Html:
    head = [tag("th", name, scope="col") for name in ("Model", "Method", "Fingerprint", "Tasks", "Run with")]
    by_model: dict[str, list[Column]] = {}
    for column in sheet.columns:
        by_model.setdefault(column.model, []).append(column)
    lines = [
        tag(
            "tr",
            tag("th", key(sheet, ways[0]), words(name), scope="row"),
            tag("td", ways[0].manifest["model"]["method"]),
            tag("td", fingerprint(ways[0])),
            tag("td", str(len({row for column in ways for row in column.results})), class_="number"),
            tag("td", listed([column.variant or "its own settings" for column in ways])),
        )
        for name, ways in by_model.items()
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scrolls("Models", table)


def listed(names: Sequence[str]) -> Html:
    """All of a few; of many the first, and the others when asked for."""
    if len(names) <= 8:
        return text("; ".join(names))
    return tag("details", tag("summary", f"{names[0]} and {len(names) - 1} others"), "; ".join(names[1:]))


def fingerprint(column: Column) -> Html:
    found = column.manifest["model"]["fingerprint"]
    return tag("code", found[:START], title=found, class_="whole") if found else Html(DASH)


def scores(sheet: Sheet) -> Html:
    told = (
        "Times 100; beneath, the 95 % interval, by bootstrap over queries, pairs, texts or experiments. "
        "★ and bold: the highest of its row. A dash: not run. A heading sorts by its column."
    )
    head = [heading("Task"), heading("Kind", sort="ascending")]
    head += [heading(column.model, key(sheet, column), small=column.variant, number=True) for column in sheet.columns]
    foot = [average_line(each, sheet) for each in averages(sheet)]
    table = tag(
        "table",
        tag("thead", tag("tr", *head)),
        *(task_lines(row, sheet) for row in sheet.rows),
        tag("tfoot", *foot) if foot else "",
        id="table",
        style=f"--models: {len(sheet.columns)}",
    )
    return join(tag("p", told), scrolls("Scores", table, tall=True))


def on_paper(sheet: Sheet) -> Html:
    """There the table of scores keeps to the columns that the dot plots show: as many as have room."""
    if len(sheet.styles) == len(sheet.columns):
        return Html()
    first = 3 + len(sheet.styles)  # a line at the foot has one cell less: its name takes the room of two
    others = f"#table :is(thead, tbody) > tr > :nth-child(n + {first}), #table tfoot td:nth-child(n + {first - 1})"
    told = '#scores > p::after { content: " What only curves show is left out on paper."; }'
    return Html(f"@media print {{ {others} {{ display: none; }} {told} }}\n")


def heading(name: str, mark: str = "", *, small: str = "", number: bool = False, sort: str | None = None) -> Html:
    arrow = tag("span", class_="arrow", aria_hidden="true")
    button = tag("button", mark, words(name), *([tag("small", small)] if small else []), arrow, type="button")
    return tag("th", button, scope="col", aria_sort=sort, data_type="number" if number else "text")


def task_lines(row: Row, sheet: Sheet) -> Html:
    """A task, and beneath it its subsets, which `details` shows by way of page.css."""
    several = len(row.subsets) > 1
    more = tag("details", tag("summary", f"{len(row.subsets)} subsets")) if several else ""
    first = tag(
        "tr",
        tag(
            "th",
            words(sheet.name(row), capitals=True),
            tag("small", row.metric),
            more,
            scope="row",
            data_value=row.task,
        ),
        tag("td", words(row.kind, capitals=True), data_value=row.kind),
        *score_cells(sheet.cells(row)),
    )
    splits = {split for split, _ in row.subsets}
    subsets = [
        tag(
            "tr",
            tag("th", words(f"{split} / {name}" if len(splits) > 1 else name), scope="row"),
            tag("td"),
            *score_cells([column.subset(row, split, name) for column in sheet.columns]),
            class_="subset",
        )
        for split, name in row.subsets
        if several
    ]
    return tag("tbody", first, *subsets)


def average_line(found: Average, sheet: Sheet) -> Html:
    said = tag("small", found.told)
    if found.over and len(found.over) < len(found.rows):
        names = ", ".join(sheet.name(row) for row in found.over)
        said = tag("details", tag("summary", found.told), tag("small", names))
    return tag("tr", tag("th", found.title, said, scope="row", colspan=2), *score_cells(found.cells))


def score_cells(cells: Sequence[Cell]) -> list[Html]:
    best = bests(cells)
    return [score_cell(cell, best=index in best) for index, cell in enumerate(cells)]


def score_cell(cell: Cell, *, best: bool) -> Html:
    said = tag("b", tag("span", "best", class_="unseen"), cell.text) if best else Html(cell.text)
    small = [tag("small", cell.range)] if cell.range else []
    value = repr(cell.score) if cell.known else None
    return tag("td", said, *small, class_="best" if best else None, data_value=value)


# how it was run


GROUPS = ("model", "settings", "prompts", "texts", "protocol", "versions", "seconds")

COMPARED = {"settings", "prompts", "protocol", "versions", "cut"}
"""Groups and names of facts that are marked where they differ; others differ by nature."""

Facts = dict[tuple[str, str], "Html"]
"""{(group, name): value}."""


def run(sheet: Sheet) -> Html:
    told = "≠: not the same for all models that have it. Prompts are written as Python writes them."
    facts = {column: facts_of(column) for column in sheet.columns}
    parts = [tag("p", told), manifests(sheet, facts), tag("h3", "Other settings"), others(sheet, facts)]
    return join(*(parts if len(sheet.styles) < len(facts) else parts[:2]), tag("h3", "Data"), data(sheet))


def manifests(sheet: Sheet, facts: Mapping[Column, Facts]) -> Html:
    """A column for each that the dot plots show."""
    names = in_groups(name for column in sheet.styles for name in facts[column])
    head = [heading_cell(column.model, key(sheet, column), column.variant) for column in sheet.styles]
    bodies = [
        tag(
            "tbody",
            tag("tr", tag("th", group.capitalize(), scope="rowgroup"), tag("td", colspan=len(head)), class_="group"),
            *(fact_line(name, [facts[column].get(name) for column in sheet.styles]) for name in members),
        )
        for group, members in groupby(names, lambda name: name[0])
    ]
    table = tag("table", tag("thead", tag("tr", tag("td"), *head)), *bodies, class_="plain facts")
    return scrolls("How it was run", table, tall=True)


def others(sheet: Sheet, facts: Mapping[Column, Facts]) -> Html:
    """A line for each that only curves show: where it differs from what its model has above."""
    first = {column.model: facts[column] for column in reversed(list(sheet.styles))}
    rest = [column for column in sheet.columns if column not in sheet.styles]
    names = in_groups(
        name
        for column in rest
        for name, value in facts[column].items()
        if not COMPARED.isdisjoint(name) and value != first[column.model].get(name, value)
    )
    head = [tag("th", name, scope="col") for name in ("", *(name.replace("_", " ") for _, name in names))]
    lines = [
        tag(
            "tr",
            tag("th", words(column.model), tag("small", column.variant), scope="row"),
            *(tag("td", facts[column].get(name, DASH)) for name in names),
        )
        for column in rest
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scrolls("Other settings", table, tall=True)


def in_groups(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(dict.fromkeys(names), key=lambda name: GROUPS.index(name[0]))


def heading_cell(name: str, mark: str, small: str) -> Html:
    return tag("th", mark, words(name), *([tag("small", small)] if small else []), scope="col")


def fact_line(name: tuple[str, str], values: Sequence[Html | None]) -> Html:
    differs = len(set(values) - {None}) > 1 and not COMPARED.isdisjoint(name)
    sign = [tag("span", "≠", title="differs", class_="sign")] if differs else []
    cells = [tag("td", DASH if value is None else value) for value in values]
    return tag("tr", tag("th", name[1].replace("_", " "), *sign, scope="row"), *cells, class_=differs and "differs")


def facts_of(column: Column) -> Facts:
    """Of all manifests of a column; what a model has not is not there."""
    told = [result.manifest for result in column.results.values()]
    tasks = [row.task for row in column.results]
    facts: Facts = {}
    for group in ("model", "settings", "protocol", "versions"):
        facts |= by_task(group, tasks, [each[group] for each in told])
    facts |= by_task("prompts", tasks, [prompts_of(each) for each in told])
    for group in ("texts", "seconds"):
        facts |= {(group, name): shown(sum(each[group][name] for each in told)) for name in told[0][group]}
    facts["versions", "gnomon"] = shown(", ".join(sorted({each["gnomon"] for each in told})))
    facts.pop(("model", "name"))
    facts["model", "fingerprint"] = fingerprint(column)
    facts["model", "date"] = shown(dates(told))
    return facts


def by_task(group: str, tasks: Sequence[str], told: Sequence[Mapping[str, Any]]) -> Facts:
    """What each task tells: what is the same for all, or each value with its tasks."""
    found: dict[str, dict[Html, list[str]]] = {}
    for task, facts in zip(tasks, told, strict=True):
        for name, value in facts.items():
            found.setdefault(name, {}).setdefault(shown(value), []).append(task)
    return {(group, name): several(values) for name, values in found.items()}


def several(values: Mapping[Html, Sequence[str]]) -> Html:
    if len(values) == 1:
        return next(iter(values))
    lines = [tag("div", value, tag("small", ", ".join(tasks))) for value, tasks in values.items()]
    return join(*lines) if len(lines) <= 3 else tag("details", tag("summary", f"{len(lines)} values"), *lines)


def prompts_of(manifest: Mapping[str, Any]) -> dict[str, Html]:
    said: dict[str, Html] = {}
    for each in manifest["prompts"]:
        named = [tag("small", each["name"])] if each["name"] else []
        written = tag("code", repr(each["text"])) if each["text"] else "none"
        said[each["of"]] = join(said.get(each["of"], Html()), written, *named)
    return said


def shown(value: Any) -> Html:
    if isinstance(value, Html):
        return value
    if value is None or isinstance(value, bool):
        return Html({None: "none", True: "yes", False: "no"}[value])
    if isinstance(value, int | float):
        return Html(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")
    return text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def data(sheet: Sheet) -> Html:
    head = [tag("th", name, scope="col") for name in ("Task", "Kind", "Source", "Dataset", "Revision", "Subsets")]
    lines = [
        tag(
            "tr",
            tag("th", words(row.task, capitals=True), scope="row"),
            tag("td", row.kind),
            *sources(row, sheet),
            subsets_cell(row),
        )
        for row in sheet.rows
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="plain")
    return scrolls("Data", table, tall=True)


def sources(row: Row, sheet: Sheet) -> Iterator[Html]:
    told = [column.results[row].manifest["task"] for column in sheet.columns if row in column.results]
    for name in ("source", "dataset", "revision"):
        found = dict.fromkeys(str(each[name]) for each in told if each[name] is not None)
        yield tag("td", ", ".join(found) or DASH)


def subsets_cell(row: Row) -> Html:
    by_split = groupby(row.subsets, lambda subset: subset[0])
    told = {split: [name for _, name in names] for split, names in by_split}
    return tag("td", *(tag("div", f"{split}: ", listed(names)) for split, names in told.items()))


def dates(manifests: Iterable[Mapping[str, Any]]) -> str:
    days = sorted({manifest["date"][:10] for manifest in manifests})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def asset(name: str) -> Html:
    return Html(resources.files("gnomon").joinpath("evaluate", "report", name).read_text(encoding="utf-8"))


# markdown


def in_markdown(foreign: str) -> str:
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", " ".join(clean(foreign).split()))


def markdown_cells(cells: Sequence[Cell]) -> list[str]:
    best = bests(cells)
    return [
        cell.words.replace(cell.text, f"**{cell.text}**", 1) if index in best else cell.words.replace(DASH, "-")
        for index, cell in enumerate(cells)
    ]


def in_line(table: Sequence[Sequence[str]], *, names: int) -> list[str]:
    """Lines of equal width: the first columns to the left, those of numbers to the right."""
    widths = [max(4, *map(columns_wide, cells)) for cells in zip(*table, strict=True)]
    ruler = ["-" * width if index < names else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    padded = [
        [pad(cell, widths[index], right=index >= names) for index, cell in enumerate(cells)]
        for cells in (table[0], ruler, *table[1:])
    ]
    return ["| " + " | ".join(cells) + " |" for cells in padded]


def columns_wide(cell: str) -> int:
    """Of a terminal: wide characters take two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in cell)
    return len(cell) + wide - sum(unicodedata.combining(character) > 0 for character in cell)


def pad(cell: str, width: int, *, right: bool) -> str:
    room = " " * (width - columns_wide(cell))
    return room + cell if right else cell + room
