"""The page and the table of results: that every number is in its place, and that nothing foreign works."""

import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gnomon.errors import InputError
from gnomon.evaluate.intervals import PerQueryScores
from gnomon.evaluate.report import render_html, render_markdown
from gnomon.evaluate.report.sheet import AXES, build_sheet, compute_averages
from gnomon.evaluate.results import Result, SubsetScore, read_result, write_result

METRICS = {
    "Retrieval": "ndcg_at_10",
    "STS": "cosine_spearman",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "BitextMining": "f1",
    "PairClassification": "max_ap",
}
BITS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1, "binary-rescored": 1}
E5 = (("queries", "query: "), ("documents", "passage: "))
HOSTILE = "\"'></td></script><script>alert(1)</script><img src=http://x.test/a onerror=alert(2)> | & \u202e\x00 日本"


@dataclass
class Writer:
    """Results through `write_result`, in a folder of their own."""

    folder: Path
    written: list[Result] = field(default_factory=list[Result])

    def __call__(
        self,
        model: str = "model",
        task: str = "task",
        score: float | Mapping[str, float] = 0.5,
        *,
        kind: str = "Retrieval",
        variant: str = "",
        fingerprint: str | None = "0123456789abcdef",
        spread: float | None = 0.01,
        prompts: Sequence[tuple[str, str]] = E5,
        titles: str = "joined",
        revision: str = "r1",
        cut: int = 45,
        units: bool = True,
        **settings: Any,
    ) -> Result:
        """Intervals: score +- spread; of several subsets together, what their units give. No fingerprint: BM25."""
        subsets = score if isinstance(score, Mapping) else {"default": score}
        metric = METRICS[kind]
        own: dict[str, Any] = {"dim": 384, "truncate_dim": None, "normalized": True, "similarity": "cosine"}
        own |= {"max_seq_length": 512, "long_texts": "cut", "precision": "float32", "bytes_per_vector": 0}
        own |= {"engine": "onnx", "dtype": "float32", "device": "cpu"} | settings
        own["bytes_per_vector"] = own["dim"] * BITS[own["precision"]] // 8
        scores = [{"hf_subset": name, "main_score": value, metric: value} for name, value in subsets.items()]
        manifest = {
            "gnomon": "0.1.0",
            "date": "2026-03-04T05:06:07+00:00",
            "model": {"name": model, "method": "dense" if fingerprint else "bm25", "fingerprint": fingerprint}
            | {"source": f"models/{model}"},
            "variant": variant,
            "task": {"name": task, "kind": kind, "metric": metric, "source": "local", "dataset": f"local/{task}"}
            | {"revision": revision},
            "settings": own if fingerprint else {},
            "prompts": [{"of": of, "name": text[:-2] or None, "text": text} for of, text in prompts if fingerprint],
            "texts": {"given": 3145, "encoded": 3000, "from_cache": 145, "cut": cut},
            "protocol": {"titles": titles, "ties": "by id", "seed": 42},
            "versions": {"mteb": "2.26.24", "onnxruntime": "1.31.0"},
            "seconds": {"total": 12.5, "encoding": 10.25},
            "intervals": [
                {"split": "test", "subset": name}
                | {"interval": {"low": value - spread, "high": value + spread} if spread is not None else None}
                for name, value in subsets.items()
            ],
        }
        made_of = {
            ("test", name): PerQueryScores("query", "mean", [value + 0.1 * (place % 5 - 2) for place in range(40)])
            for name, value in subsets.items()
        }
        path = self.folder / str(len(self.written)) / "task.json"
        path.parent.mkdir(parents=True)
        text = json.dumps({"task_name": task, "scores": {"test": scores}})
        write_result(path, text, manifest, made_of if units else {})
        self.written.append(read_result(path))
        return self.written[-1]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


HELP = [f"mono_{code}" for code in "en de es fr pt ru cs pl ko".split()]
HELP += [f"cross_{way}" for code in "de es fr pt ru cs pl ko".split() for way in (f"{code}_en", f"en_{code}")]
TASKS: dict[str, tuple[str, float, Sequence[str]]] = {
    "retrieval_defs": ("Retrieval", 0.70, ["default"]),
    "retrieval_faq": ("Retrieval", 0.77, ["default"]),
    "retrieval_help": ("Retrieval", 0.62, HELP),
    "retrieval_longdocs": ("Retrieval", 0.52, ["default"]),
    "sts_defs": ("STS", 0.80, ["default"]),
    "sts_defs_pairs": ("PairClassification", 0.86, ["default"]),
    "classification_supersense": ("Classification", 0.56, ["default"]),
    "classification_intents": ("Classification", 0.62, "de en es fr it nl pl ru".split()),
    "clustering_topics": ("Clustering", 0.63, ["default"]),
    "bitext_wesnoth": ("BitextMining", 0.81, [f"en-{code}" for code in "de es fr it ja ru tr zh".split()]),
}
BETTER = {"all-MiniLM-L6-v2": 0.01, "paraphrase-MiniLM-L3-v2": -0.04, "multilingual-e5-small": 0.03, "BM25": -0.12}
PRECISIONS = {"float16": 0.0, "int8": 0.004, "binary-rescored": 0.02, "binary": 0.05}


def sample(folder: Path) -> list[Result]:
    """Models, kinds, subsets, curves: all that a page shows."""
    write = Writer(folder)

    def add(model: str, task: str, variant: str = "", loss: float = 0.0, **settings: Any) -> None:
        (kind, level, subsets), draw = TASKS[task], random.Random(f"{model} {task}")
        prompts = [(of, text if "e5" in model else "") for of, text in E5]
        write(
            model,
            task,
            {name: level + BETTER[model] - loss + draw.uniform(-0.04, 0.04) for name in subsets},
            kind=kind,
            variant=variant,
            prompts=prompts if kind == "Retrieval" else [("texts", prompts[0][1])],
            fingerprint=None if model == "BM25" else f"{random.Random(model).getrandbits(256):064x}",
            spread=draw.uniform(0.008, 0.025),
            cut=round(loss * 1000),
            units=kind != "Clustering",
            **settings,
        )

    for model in BETTER:
        for task, (kind, _, _) in TASKS.items():
            if model != "BM25" or kind == "Retrieval":
                add(model, task)
    for model, word in {"all-MiniLM-L6-v2": "first", "multilingual-e5-small": "dim"}.items():
        for task in ("retrieval_defs", "retrieval_faq", "sts_defs"):
            for dim in (32, 64, 128, 256):
                add(model, task, f"{word} {dim}", 0.9 / dim, dim=dim, truncate_dim=dim if word == "first" else None)
            for precision, loss in PRECISIONS.items():
                add(model, task, precision, loss, precision=precision)
        for length in (64, 128, 256):
            for task in ("retrieval_longdocs", "retrieval_faq"):
                add(model, task, f"{length} tokens", 6 / length, max_seq_length=length)
    return write.written


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    return sample(tmp_path_factory.mktemp("sample"))


# a page, read back


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    inner: list["Node | str"] = field(default_factory=list["Node | str"])

    @property
    def nodes(self) -> list["Node"]:
        return [each for each in self.inner if isinstance(each, Node)]

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.inner)

    def all(self, tag: str, wanted: Callable[["Node"], bool] = lambda node: True) -> Iterator["Node"]:
        for node in self.nodes:
            if node.tag == tag and wanted(node):
                yield node
            yield from node.all(tag, wanted)

    def one(self, tag: str, wanted: Callable[["Node"], bool] = lambda node: True) -> "Node":
        return next(self.all(tag, wanted))

    def has(self, name: str) -> bool:
        return name in self.attributes.get("class", "").split()


class Reader(HTMLParser):
    """Fails where an element ends that is not the innermost."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {attrs}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inner.append(node)
        if tag not in {"meta", "link", "wbr"}:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inner.append(data)


def parse(page: str) -> Node:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


@dataclass
class Table:
    """The scores of a page, by the words that a reader sees."""

    columns: list[str]
    lines: dict[str, list[Node]]
    """By name of the row; of a subset "task/subset"."""
    foot: list[tuple[str, list[Node]]]


def table_of(page: str) -> Table:
    table = parse(page).one("table", lambda node: node.attributes.get("id") == "table")
    head = [" ".join(each.text.split()) for each in table.one("thead").all("th")]
    lines: dict[str, list[Node]] = {}
    for body in table.all("tbody"):
        first, *subsets = body.all("tr")
        task = first.one("th").attributes["data-value"]
        lines[task] = list(first.all("td"))[1:]
        lines |= {f"{task}/{each.one('th').text}": list(each.all("td"))[1:] for each in subsets}
    foot = [(line.one("th").text, list(line.all("td"))) for each in table.all("tfoot") for line in each.all("tr")]
    return Table(head[2:], lines, foot)


def shown(cell: Node) -> str:
    """The number of a cell, without its interval and its mark."""
    inner = cell.one("b") if any(cell.all("b")) else cell
    return "".join(each for each in inner.inner if isinstance(each, str))


def ranges(cell: Node) -> list[str]:
    return [each.text for each in cell.all("small")]


def best(cells: Sequence[Node]) -> list[int]:
    marked = [index for index, cell in enumerate(cells) if cell.has("best")]
    assert marked == [index for index, cell in enumerate(cells) if "best" in cell.text]  # also where there is no colour
    return marked


# the table


def test_every_score_and_interval_is_in_its_cell(results: list[Result]) -> None:
    table = table_of(render_html(results))
    labels = [f"{each.model}{each.manifest['variant']}" for each in results]
    assert sorted(table.columns) == sorted(dict.fromkeys(labels))
    for label, result in zip(labels, results, strict=True):
        at = table.columns.index(label)
        cell = table.lines[result.task][at]
        assert shown(cell) == f"{result.score * 100:.2f}"
        assert float(cell.attributes["data-value"]) == result.score
        whole = result.interval if len(result.subsets) > 1 else result.subsets[0].interval
        assert ranges(cell) == ([f"{whole.low * 100:.2f} to {whole.high * 100:.2f}"] if whole else [])
        for subset in result.subsets if len(result.subsets) > 1 else ():
            cell = table.lines[f"{result.task}/{subset.name}"][at]
            assert shown(cell) == f"{subset.score * 100:.2f}"
            assert subset.interval is not None
            assert ranges(cell) == [f"{subset.interval.low * 100:.2f} to {subset.interval.high * 100:.2f}"]


def test_what_is_not_there_is_a_dash_and_an_undefined_score_is_shown(write: Writer) -> None:
    write("a", "one", 0.5)
    write("a", "two", {"x": 0.25, "y": float("nan")})
    write("b", "one", 0.4, spread=float("nan"))
    lines = table_of(render_html(write.written)).lines
    assert [shown(cell) for cell in lines["one"]] == ["50.00", "40.00"]
    assert ranges(lines["one"][1]) == []
    assert [shown(cell) for cell in lines["two"]] == ["n/a", "–"]
    assert [shown(cell) for cell in lines["two/x"]] == ["25.00", "–"]
    assert ranges(lines["two"][0]) == [] and best(lines["two"]) == []
    assert all("data-value" not in cell.attributes for cell in lines["two"])  # sorts last


def test_the_best_of_a_row_is_marked_and_so_is_a_tie(write: Writer) -> None:
    for model, scores in {"a": (0.5, 0.7, -0.1), "b": (0.6, 0.70004, -0.2), "c": (0.55, 0.6999, -0.1001)}.items():
        for task, score in zip(("one", "two", "three"), scores, strict=True):
            write(model, task, score)
    write("a", "alone", 0.9)
    lines = table_of(render_html(write.written)).lines
    assert best(lines["one"]) == [1]
    assert best(lines["two"]) == [0, 1]  # equal as shown: 70.00
    assert best(lines["three"]) == [0]
    assert best(lines["alone"]) == []


def test_headings_are_buttons_that_tell_how_they_sort(results: list[Result]) -> None:
    head = parse(render_html(results)).one("thead", lambda node: any(node.all("button")))
    cells = list(head.all("th"))
    assert all(cell.nodes[0].tag == "button" for cell in cells)
    assert [cell.attributes["data-type"] for cell in cells] == ["text", "text", *["number"] * (len(cells) - 2)]
    assert [cell.attributes.get("aria-sort") for cell in cells] == [None, "ascending", *[None] * (len(cells) - 2)]


def test_rows_are_by_kind_and_in_natural_order(write: Writer) -> None:
    for task, kind in {"b10": "STS", "b9": "STS", "z": "Clustering"}.items():
        write("model", task, kind=kind)
    assert list(table_of(render_html(write.written)).lines) == ["z", "b9", "b10"]


def test_other_data_is_another_row(write: Writer) -> None:
    write("a", "task", 0.5, revision="r1")
    write("b", "task", 0.6, revision="r2")
    write("c", "task", {"en": 0.6, "de": 0.2}, revision="r1")
    page = parse(render_html(write.written))
    assert [len(list(body.all("tr"))) for body in page.one("table", lambda n: "id" in n.attributes).all("tbody")]
    assert page.text.count("task (revision r1)") and page.text.count("task (revision r2)")
    assert "★" not in page.one("main").one("table", lambda n: "id" in n.attributes).text
    assert len(build_sheet(write.written).rows) == 3


def test_averages_are_over_what_they_say(write: Writer) -> None:
    for model, tasks in {"a": "pqrs", "b": "pqrs", "c": "pqr", "BM25": "pq"}.items():
        for place, task in enumerate(tasks):
            kind = "STS" if task == "s" else "Retrieval"
            fingerprint = None if model == "BM25" else "0123"
            write(model, task, 0.1 * (place + 1) + (0.01 if model == "b" else 0), kind=kind, fingerprint=fingerprint)
    found = [
        (name, [shown(cell) for cell in cells], best(cells))
        for name, cells in table_of(render_html(write.written)).foot
    ]
    assert found == [
        ("Average, Retrieval3 tasks", ["20.00", "21.00", "20.00", "–"], [1]),
        ("Average, Retrievalthe 2 of 3 tasks that all havep, q", ["15.00", "16.00", "15.00", "15.00"], [1]),
        ("Average of all4 tasks", ["25.00", "26.00", "–", "–"], [1]),
    ]


def test_no_average_of_a_single_task(write: Writer) -> None:
    write("a", "one")
    assert table_of(render_html(write.written)).foot == []


def test_models_of_one_name_are_distinguished_by_fingerprint(write: Writer) -> None:
    write("model", "task", 0.5, fingerprint="aaaabbbbccccdddd")
    write("model", "task", 0.6, fingerprint="eeeeffff00001111")
    table = table_of(render_html(write.written))
    assert table.columns == ["model [aaaabbbbcccc]", "model [eeeeffff0000]"]
    assert [shown(cell) for cell in table.lines["task"]] == ["50.00", "60.00"]


def test_nothing_to_report(write: Writer) -> None:
    with pytest.raises(InputError, match="no results to report"):
        render_html([])
    with pytest.raises(InputError, match="no results to report"):
        render_markdown([])
    with pytest.raises(
        InputError, match=r"m \(dim 8\) has two results of t: .*0.task.json and .*1.task.json. Give one"
    ):
        render_html([write("m", "t", variant="dim 8"), write("m", "t", variant="dim 8")])


# plots


def charts(node: Node) -> list[Node]:
    return list(node.all("svg", lambda each: each.attributes.get("role") == "img"))


def section(page: str, key: str) -> Node:
    return parse(page).one("section", lambda node: node.attributes.get("id") == key)


def number(place: str) -> float:
    return float(place.rstrip("%"))


def marks(chart: Node) -> dict[str, tuple[Node, list[Node]]]:
    """{what the pointer shows: (mark, lines)}."""
    groups = [group for group in chart.all("g") if group.nodes and group.nodes[0].tag == "title"]
    return {group.one("title").text: (group.one("use"), list(group.all("line"))) for group in groups}


def on_scale(ticks: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """Place -> value, by the ticks of an axis as they are drawn; checks that they are evenly spaced."""
    (x0, v0), (x1, v1) = ticks[0], ticks[-1]
    for x, value in ticks:
        assert v0 + (x - x0) * (v1 - v0) / (x1 - x0) == pytest.approx(value, abs=0.02)
    return lambda x: v0 + (x - x0) * (v1 - v0) / (x1 - x0)


def test_dots_and_whiskers_stand_where_their_values_are(results: list[Result]) -> None:
    plots = section(render_html(results), "plots")
    own = {(each.model, each.task): each for each in results if not each.manifest["variant"]}
    seen: set[tuple[str, str]] = set()
    for figure in plots.all("figure"):
        *_, axis = figure.all("svg")
        value_at = on_scale(
            [(number(each.attributes["x"]), float(each.text)) for each in axis.all("text", lambda n: n.has("tick"))]
        )
        for chart in charts(figure):
            task = chart.attributes["aria-label"].split(":")[0]
            for message, (mark, lines) in marks(chart).items():
                result = own[message.split(":")[0], task]
                seen.add((result.model, task))
                assert f"{result.score * 100:.2f}" in message
                assert value_at(number(mark.attributes["x"])) == pytest.approx(result.score * 100, abs=0.02)
                interval = result.interval if len(result.subsets) > 1 else result.subsets[0].interval
                assert interval and len(lines) == 1
                ends = [value_at(number(lines[0].attributes[key])) for key in ("x1", "x2")]
                assert ends == pytest.approx([interval.low * 100, interval.high * 100], abs=0.02)
    assert seen == set(own)


def test_marks_differ_in_shape_and_colour(write: Writer) -> None:
    for number in range(20):
        write(f"model {number}", "task", 0.5 + number / 100)
    (chart,) = charts(section(render_html(write.written), "plots"))
    looks = [(mark.attributes["href"], mark.attributes["class"]) for mark, _ in marks(chart).values()]
    assert len(set(looks)) == 20
    assert len({shape for shape, _ in looks[:7]}) == len({colour for _, colour in looks[:7]}) == 7


def test_curves_stand_where_their_values_are(write: Writer) -> None:
    for dim, score in {384: 0.8, 32: 0.5, 64: 0.6, 128: 0.7}.items():
        write("model", "task", score, variant=f"dim {dim}" if dim < 384 else "", dim=dim)
    curves = section(render_html(write.written), "curves")
    (chart,) = charts(curves)
    texts = [(each.text, each.attributes) for each in chart.all("text", lambda node: node.has("tick"))]
    value_at = on_scale([(number(at["y"]) - 4, float(said)) for said, at in texts if at["text-anchor"] == "end"])
    below = [(number(at["y"]), number(at["x"]), said) for said, at in texts if at["text-anchor"] == "middle"]
    x = {said: x for _, x, said in sorted(below)[:4]}
    assert {said: x for _, x, said in sorted(below)[4:]} == dict(
        zip(("128", "256", "512", "1536"), x.values(), strict=True)
    )
    assert list(x) == ["32", "64", "128", "384"]
    assert x["64"] - x["32"] == pytest.approx(x["128"] - x["64"], abs=0.2)  # by its logarithm
    found = marks(chart)
    assert list(found) == [
        "model, 32: 50.00 (49.00 to 51.00)",
        "model, 64: 60.00 (59.00 to 61.00)",
        "model, 128: 70.00 (69.00 to 71.00)",
        "model, 384: 80.00 (79.00 to 81.00)",
    ]
    for (mark, (whisker,)), score, dim in zip(found.values(), (50, 60, 70, 80), (32, 64, 128, 384), strict=True):
        assert value_at(number(mark.attributes["y"])) == pytest.approx(score, abs=0.1)
        assert value_at(number(whisker.attributes["y1"])) == pytest.approx(score - 1, abs=0.1)
        assert value_at(number(whisker.attributes["y2"])) == pytest.approx(score + 1, abs=0.1)
        assert number(mark.attributes["x"]) == pytest.approx(x[str(dim)], abs=0.2)
    assert "dimension (log)" in chart.text and "bytes per vector" in chart.text
    cells = [cell.text for line in curves.one("tbody").all("tr") for cell in line.nodes]
    assert cells[:4] == ["32", "50.0049.00 to 51.00128 bytes", "64", "60.0059.00 to 61.00256 bytes"]


def test_a_point_is_the_mean_of_tasks_of_its_kind(write: Writer) -> None:
    for precision, scores in {"float32": (0.8, 0.6, 0.5), "binary": (0.7, 0.4, 0.3)}.items():
        variant = precision if precision == "binary" else ""
        for task, score in zip(("one", "two"), scores, strict=False):
            write("model", task, score, variant=variant, precision=precision)
        write("model", "other", scores[2], variant=variant, precision=precision, kind="STS")
    first, second = charts(section(render_html(write.written), "curves"))
    assert list(marks(first)) == ["model, float32: 70.00", "model, binary: 55.00"]  # most bytes first
    assert list(marks(second)) == ["model, float32: 50.00 (49.00 to 51.00)", "model, binary: 30.00 (29.00 to 31.00)"]


@pytest.mark.parametrize(
    ("other", "axes"),
    [
        ({"dim": 64}, ["dim"]),
        ({"dim": 64, "truncate_dim": 64}, ["truncate_dim"]),
        ({"precision": "int8"}, ["precision"]),
        ({"precision": "int8", "similarity": "hamming"}, ["precision"]),
        ({"max_seq_length": 64}, ["max_seq_length"]),
        ({"dim": 64, "precision": "int8"}, []),
        ({"dim": 64, "max_seq_length": 64}, []),
        ({"dim": 64, "dtype": "bfloat16"}, []),
        ({"dim": 64, "similarity": "dot"}, []),
        ({"dim": 64, "prompts": [("queries", "other: ")]}, []),
        ({"dim": 64, "titles": "apart"}, []),
        ({"dim": 64, "fingerprint": "ffff"}, []),
        ({"dim": 64, "model": "another"}, []),
        ({"dim": 64, "task": "another"}, []),
        ({"dim": 64, "revision": "r2"}, []),
        ({"dim": 64, "score": float("nan")}, []),
        ({"dtype": "bfloat16"}, []),
        ({"max_seq_length": None}, []),
    ],
)
def test_a_curve_is_of_results_that_differ_in_one_setting(
    write: Writer, other: dict[str, Any], axes: list[str]
) -> None:
    write()
    write(**{"variant": "other"} | other)
    sheet = build_sheet(write.written)
    assert [axis.setting for axis in AXES if sheet.curves[axis]] == axes
    assert (len(sheet.styles) == 1) == bool(axes)  # what no curve shows stands among the dots


def test_prefixes_and_heads_of_one_width_are_different_curves(write: Writer) -> None:
    write(dim=1024)
    for dim in (256, 512):
        write(variant=f"dim {dim}", dim=dim)
        write(variant=f"first {dim}", dim=dim, truncate_dim=dim)
    curves = build_sheet(write.written).curves
    found = {axis.setting: [list(curve.columns) for curve in curves[axis]] for axis in AXES}
    assert found == {
        "dim": [[256, 512, 1024]],
        "truncate_dim": [[256, 512, 1024]],
        "precision": [],
        "max_seq_length": [],
    }
    (prefixes,) = [curve for axis in AXES if axis.setting == "truncate_dim" for curve in curves[axis]]
    assert [column.variant for column in prefixes.columns.values()] == ["first 256", "first 512", ""]


def test_each_other_setting_has_a_curve_of_its_own(write: Writer) -> None:
    for precision in ("float32", "int8"):
        for dim in (32, 64):
            variant = f"dim {dim}" + (f", {precision}" if precision != "float32" else "")
            write("model", variant=variant, dim=dim, precision=precision)
    curves = build_sheet(write.written).curves
    labels = {axis.setting: [curve.label for curve in found] for axis, found in curves.items() if found}
    assert labels == {"dim": ["model", "model (int8)"], "precision": ["model (dim 32)", "model (dim 64)"]}


@pytest.mark.parametrize("dims", [[32, 64, 128, 256, 384], [8, 1000, 1001, 1002, 1024], list(range(64, 4097, 64))])
def test_labels_of_an_axis_do_not_touch(write: Writer, dims: list[int]) -> None:
    for dim in dims:
        for precision in ("float32", "binary"):
            write("model", variant=f"dim {dim}, {precision}", dim=dim, precision=precision)
    for chart in charts(section(render_html(write.written), "curves")):
        lines: dict[str, list[tuple[float, str]]] = {}
        for each in chart.all("text", lambda node: node.attributes.get("text-anchor") == "middle"):
            lines.setdefault(each.attributes["y"], []).append((number(each.attributes["x"]), each.text))
        for labels in lines.values():
            for (left, said), (right, next_said) in pairwise(sorted(labels)):
                assert right - left > 6 * (len(said) + len(next_said)) / 2
    first = charts(section(render_html(write.written), "curves"))[0]
    assert {str(min(dims)), str(max(dims))} <= {each.text for each in first.all("text")}


# how it was run


def facts(page: str) -> dict[str, tuple[bool, list[str]]]:
    """{name: (marked as different, values)}."""
    lines = section(page, "how").one("table").all("tr", lambda node: node.nodes[0].attributes.get("scope") == "row")
    return {
        line.nodes[0].text.removesuffix("≠"): (line.has("differs"), [cell.text for cell in line.all("td")])
        for line in lines
    }


def test_the_manifest_tells_what_differs(write: Writer) -> None:
    prompt = 'Instruct: "x"\nQuery:\t'
    write("a", "t", prompts=[("queries", prompt), ("documents", "")], cut=3)
    write("b", "t", prompts=[("queries", ""), ("documents", "")], cut=1234, dim=256, fingerprint="fedcba9876543210")
    write("BM25", "t", fingerprint=None, cut=0)
    page = render_html(write.written)
    found = facts(page)
    assert repr(prompt) in [code.text for code in section(page, "how").all("code")]
    assert found["queries"] == (True, [repr(prompt) + prompt[:-2], "none", "–"])
    assert found["documents"] == (False, ["none", "none", "–"])
    assert found["dim"] == (True, ["384", "256", "–"])
    assert found["dtype"] == (False, ["float32", "float32", "–"])
    assert found["truncate dim"] == (False, ["none", "none", "–"])
    assert found["normalized"] == (False, ["yes", "yes", "–"])
    assert found["cut"] == (True, ["3", "1,234", "0"])
    assert found["titles"] == (False, ["joined"] * 3)
    assert found["fingerprint"] == (False, ["0123456789ab", "fedcba987654", "–"])
    assert found["total"] == (False, ["12.5"] * 3)
    assert found["gnomon"] == (False, ["0.1.0"] * 3)


def test_the_manifest_adds_up_tasks_and_tells_where_they_differ(write: Writer) -> None:
    write("a", "one", prompts=[("queries", "query: ")], cut=1000)
    write("a", "two", prompts=[("queries", "search: ")], cut=1)
    found = facts(render_html(write.written))
    assert found["cut"] == (False, ["1,001"])
    assert found["total"] == (False, ["25"])
    assert found["queries"] == (False, ["'query: 'queryone'search: 'searchtwo"])


def test_runs_of_curves_tell_what_they_change(results: list[Result]) -> None:
    tables = list(section(render_html(results), "how").all("table"))
    lines = {line.one("th").text: [cell.text for cell in line.all("td")] for line in tables[1].one("tbody").all("tr")}
    head = [cell.text for cell in tables[1].one("thead").all("th")][1:]
    assert dict(zip(head, lines["all-MiniLM-L6-v2first 32"], strict=True)) | {"cut": ""} == {
        "dim": "32",
        "truncate dim": "32",
        "max seq length": "512",
        "precision": "float32",
        "bytes per vector": "128",
        "cut": "",
    }
    assert len(lines) == len({each.label for each in results if each.manifest["variant"]})


# the page as such


def test_the_page_loads_nothing(results: list[Result]) -> None:
    page = render_html(results)
    root = parse(page)
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "default-src 'none'" in root.one("meta", lambda node: "http-equiv" in node.attributes).attributes["content"]
    assert not re.search(r"https?:|url\(|@import", page, re.IGNORECASE)
    for node in everything(root):
        assert not {"src", "srcset", "data", "action", "xlink:href"} & set(node.attributes)
        assert node.attributes.get("href", "#").startswith("#") or node.attributes["href"] == "data:,"
    ids = {node.attributes["id"] for node in everything(root) if "id" in node.attributes}
    assert {node.attributes["href"][1:] for node in [*root.all("a"), *root.all("use")]} <= ids


def everything(node: Node) -> Iterator[Node]:
    for each in node.nodes:
        yield each
        yield from everything(each)


def test_on_paper_are_the_columns_of_the_dots(results: list[Result]) -> None:
    own = [each for each in results if not each.manifest["variant"]]
    hidden = "thead, tbody) > tr > :nth-child(n + 7), #table tfoot td:nth-child(n + 6) { display: none; }"
    assert hidden in render_html(results)  # after four models, and two cells of names, which at the foot are one
    assert "on paper" not in render_html(own)


def test_the_drawings_are_xml(results: list[Result]) -> None:
    page = render_html(results)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 20
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_foreign_text_is_text(write: Writer) -> None:
    write(HOSTILE, HOSTILE, {HOSTILE: 0.5, "x": 0.4}, variant=HOSTILE, prompts=[("queries", HOSTILE)], dtype=HOSTILE)
    for dim in (8, 16):
        write(HOSTILE, HOSTILE, variant=f"dim {dim}", dim=dim, titles=HOSTILE, revision=HOSTILE)
    page = render_html(write.written, title=f"{HOSTILE}\ud800")
    page.encode()
    assert not re.search("[\x00-\x08\x7f\u202e\ud800-\udfff]", page)
    root = parse(page)
    assert len(list(root.all("script"))) == 1 and not any(root.all("img"))
    assert not [name for node in everything(root) for name in node.attributes if name.startswith("on")]
    seen = HOSTILE.replace("\u202e\x00", "\ufffd\ufffd")
    assert root.one("h1").text == root.one("title").text == f"{seen}\ufffd"
    assert any(seen in button.text for button in root.all("button"))
    assert any(repr(HOSTILE) in code.text for code in root.all("code"))
    assert seen in [node.attributes.get("data-value") for node in root.all("th")]
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme: int) -> None:
    style = resources.files("gnomon").joinpath("evaluate", "report", "page.css").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root {.*?}", style, re.S)
    ]
    colours = blocks[scheme]
    for ground in ("paper", "head", "best", "differs"):
        assert contrast(colours["ink"], colours[ground]) >= 7
        assert contrast(colours["muted"], colours[ground]) >= 4.5
    assert contrast(colours["link"], colours["paper"]) >= 4.5
    assert min(contrast(colours[f"c{place}"], colours["paper"]) for place in range(8)) >= 4.5


# markdown


def test_the_table_in_markdown(write: Writer) -> None:
    write("a", "one", 0.5, spread=None)
    write("a", "two", -0.25, spread=None)
    write("b", "one", 0.612345, variant="dim 128")
    write("b", "two", float("nan"), variant="dim 128")
    write("BM25", "one", 0.61234, fingerprint=None, spread=None)
    assert render_markdown(write.written).splitlines() == [
        "| Task                         | Kind      | Metric     |      a |                b (dim 128) |      BM25 |",
        "| ---------------------------- | --------- | ---------- | -----: | -------------------------: | --------: |",
        "| one                          | Retrieval | ndcg_at_10 |  50.00 | **61.23** (60.23 to 62.23) | **61.23** |",
        "| two                          | Retrieval | ndcg_at_10 | -25.00 |                        n/a |         - |",
        "| Average, Retrieval (2 tasks) |           |            |  12.50 |                          - |         - |",
        "",
        "Scores times 100; in brackets the 95 % interval; bold is the best of a row.",
    ]


def test_columns_of_markdown_line_up(write: Writer) -> None:
    write("日本語モデル", "одна задача", 0.5)
    write(HOSTILE, "e\u0301 | b", 0.123456)
    lines = render_markdown(write.written).splitlines()[:-2]
    wide = [
        sum(2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each) for each in line)
        for line in lines
    ]
    assert len(set(wide)) == 1
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
    assert "\\<script" in lines[0]


def test_every_score_is_in_markdown(results: list[Result]) -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in render_markdown(results).splitlines()[:-2]]
    cells = {(line[0], head): cell for line in lines[2:] for head, cell in zip(lines[0], line, strict=True)}
    for result in results:
        interval = result.interval if len(result.subsets) > 1 else result.subsets[0].interval
        limits = f" ({interval.low * 100:.2f} to {interval.high * 100:.2f})" if interval else ""
        assert cells[result.task, result.label].replace("**", "") == f"{result.score * 100:.2f}{limits}"


# ---- the averages of the cards (gte-large-en-v1.5; facts in the shared docs)

MTEB_56 = {
    "Classification": (12, 77.75),
    "Clustering": (11, 47.95),
    "PairClassification": (3, 84.63),
    "Reranking": (4, 58.50),
    "Retrieval": (15, 57.91),
    "STS": (10, 81.43),
    "Summarization": (1, 30.91),
}
LOCO = {
    "gte-qwen1.5-7b": (87.57, (49.37, 93.10, 99.67, 97.54, 98.21)),
    "gte-large-v1.5": (86.71, (44.55, 92.61, 99.82, 97.81, 98.74)),
    "gte-base-v1.5": (87.44, (49.91, 91.78, 99.82, 97.13, 98.58)),
}


def scored(model: str, kind: str, task: str, score: float) -> Result:
    manifest = {
        "model": {"name": model, "fingerprint": "f", "method": "dense"},
        "variant": "",
        "task": {"revision": "1"},
        "settings": {},
        "prompts": [],
        "protocol": {},
    }
    return Result(Path(task), task, kind, "score", (SubsetScore("test", "default", score / 100, None),), {}, manifest)


def test_the_average_of_56_tasks_is_that_of_the_card() -> None:
    results = [
        scored("gte-large-en-v1.5", kind, f"{kind}{number}", mean)
        for kind, (count, mean) in MTEB_56.items()
        for number in range(count)
    ]
    found = {average.title: average.cells[0].score for average in compute_averages(build_sheet(results))}
    average = found["Average of all"]
    assert average == pytest.approx(0.65396, abs=5e-6)  # over tasks, not over kinds
    assert math.floor(average * 1e4) / 100 == 65.39  # the card cuts, it does not round
    for kind, (count, mean) in MTEB_56.items():
        assert count == 1 or found[f"Average, {kind}"] == pytest.approx(mean / 100)


def test_the_averages_of_long_documents_are_those_of_the_card() -> None:
    results = [
        scored(model, "Retrieval", f"loco{number}", score)
        for model, (_, scores) in LOCO.items()
        for number, score in enumerate(scores)
    ]
    (average,) = compute_averages(build_sheet(results))
    found = [100 * (cell.score or 0) for cell in average.cells]
    assert found == pytest.approx([87.578, 86.706, 87.444])
    assert found == pytest.approx([printed for printed, _ in LOCO.values()], abs=0.01)
