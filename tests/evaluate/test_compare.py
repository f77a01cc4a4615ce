"""Two folders of results, compared: rows, tests, what cannot be compared, fields that differ, and what is printed."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.errors import InputError
from gnomon.evaluate import compare as module
from gnomon.evaluate.compare import Comparison, ComparisonRow, compare, comparison_to_dict, format_comparison
from gnomon.evaluate.intervals import PerQueryScores, run_paired_test
from gnomon.evaluate.results import write_result
from gnomon.terminal import display_width

Scored = Mapping[str, PerQueryScores]


def manifest(model: str, task: str) -> dict[str, Any]:
    return {
        "gnomon": "0.1.0",
        "identity": f"{model} {task}",
        "date": f"2026-01-01T00:00:00 {model}",
        "model": {"name": model, "method": "dense", "fingerprint": f"{model}-0123456789abcdef", "source": model},
        "variant": "",
        "task": {
            "name": task,
            "kind": "Retrieval",
            "metric": "ndcg_at_10",
            "source": "local",
            "dataset": task,
            "revision": "r1",
        },
        "settings": {"dim": 384, "dtype": "float32", "engine": "onnx", "max_seq_length": 256},
        "prompts": [
            {"of": "queries", "name": "query", "text": "query: "},
            {"of": "documents", "name": None, "text": ""},
        ],
        "texts": {"given": 100, "encoded": len(model), "from_cache": len(model), "cut": 0},
        "protocol": {"titles": True, "seed": 42},
        "versions": {"mteb": "2.26.24", "numpy": "2.4.6"},
        "seconds": {"total": float(len(model)), "encoding": 1.0},
        "intervals": [{"split": "test", "subset": "default", "interval": {"low": len(model), "high": 1.0}}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A result below tmp_path/OUTPUT, of units; returns the folder OUTPUT."""

    def one(
        output: str,
        name: str,
        units: Scored,
        *,
        model: str = "",
        kept: bool = True,
        **changes: Mapping[str, Any],
    ) -> Path:
        model = model or f"model-{output}"
        found = manifest(model, name)
        for key, change in changes.items():
            found[key] = found[key] | change if isinstance(change, dict) else change
        numbers = {subset: round(each.compute_score(), 6) for subset, each in units.items()}
        metric = found["task"]["metric"]
        scores = {"test": [{"hf_subset": subset, metric: number} for subset, number in numbers.items()]}
        place = tmp_path / output / "results" / model / "0123" / f"{name}.json"
        stored = {("test", subset): each for subset, each in units.items()} if kept else {}
        write_result(place, json.dumps({"task_name": name, "scores": scores}), found, stored)
        return tmp_path / output

    return one


def queries(count: int, seed: int, shift: float = 0.0) -> PerQueryScores:
    values = (np.random.default_rng(seed).random(count) * 0.5 + shift).tolist()
    return PerQueryScores("query", "mean", values, ids=[f"q{at}" for at in range(count)])


def row_of(comparison: Comparison, task: str, subset: str = "") -> ComparisonRow:
    return next(row for row in comparison.rows if (row.task, row.subset) == (task, subset))


def test_a_task_is_tested_by_its_units(write: Callable[..., Path]) -> None:
    first, second = queries(40, 1), queries(40, 2, 0.2)
    found = compare(write("a", "nfcorpus", {"default": first}), str(write("b", "nfcorpus", {"default": second})))
    (row,) = found.rows
    expected = run_paired_test([first], [second])
    assert (row.task, row.subset, row.kind, row.metric) == ("nfcorpus", "", "Retrieval", "ndcg_at_10")
    assert (row.a, row.b) == (round(first.compute_score(), 6), round(second.compute_score(), 6))
    assert row.difference == pytest.approx(expected.difference, abs=2e-6)
    assert (row.interval, row.p_value, row.corrected) == (expected.interval, expected.p_value, expected.p_value)
    assert row.significant
    assert row.reason == ""
    assert (found.a.label, found.b.label) == ("model-a", "model-b")
    assert found.b.fingerprint == "model-b-0123456789abcdef"
    assert found.num_tested == 1


def test_files_are_compared_as_folders_are(write: Callable[..., Path]) -> None:
    a, b = write("a", "t", {"default": queries(9, 1)}), write("b", "t", {"default": queries(9, 2)})
    files = [next(place.rglob("0123/t.json")) for place in (a, b)]
    assert compare(*files).rows == compare(a, b).rows


def test_several_subsets_have_their_rows_and_a_mean(write: Callable[..., Path]) -> None:
    sides = [{"en": queries(90, side), "de": queries(10, side + 10, 0.1 * side)} for side in (1, 2)]
    found = compare(*[write(name, "intents", side) for name, side in zip("ab", sides, strict=True)])
    assert [row.subset for row in found.rows] == ["", "en", "de"]
    whole, english, german = found.rows
    assert whole.a == pytest.approx((english.a + german.a) / 2)
    assert whole.difference == pytest.approx((english.difference + german.difference) / 2)
    assert whole.p_value == run_paired_test(list(sides[0].values()), list(sides[1].values())).p_value
    assert german.p_value == run_paired_test([sides[0]["de"]], [sides[1]["de"]]).p_value
    assert (english.corrected, german.corrected) == (None, None)
    assert whole.corrected == whole.p_value


def test_the_same_subset_of_two_splits_is_distinguished(write: Callable[..., Path]) -> None:
    a, b = (write(name, "t", {"en": queries(5, 1)}) for name in "ab")
    for place in (a, b):
        file = next(place.rglob("0123/t.json"))
        stored = json.loads(file.read_text())
        stored["scores"]["dev"] = copy.deepcopy(stored["scores"]["test"])
        file.write_text(json.dumps(stored))
    assert [row.subset for row in compare(a, b).rows] == ["", "en (test)", "en (dev)"]


def test_holm_corrects_for_the_number_of_tasks() -> None:
    rows = [
        ComparisonRow(f"t{at}", "", "", "", 0, 0, p_value=p)
        for at, p in enumerate([0.04, 0.01, None, 0.02, 0.9, 0.011])
    ]
    rows.append(ComparisonRow("t0", "en", "", "", 0, 0, p_value=0.001))
    found = module._correct_p_values(rows)
    # 0.01 * 5; 0.011 * 4 is less than that; 0.02 * 3; 0.04 * 2; 0.9
    expected = [0.08, 0.05, None, 0.06, 0.9, 0.05, None]
    assert [row.corrected for row in found] == [p if p is None else pytest.approx(p) for p in expected]
    assert not found[1].significant
    assert replace(found[1], corrected=0.0499).significant
    assert (
        module._correct_p_values([ComparisonRow("t", "", "", "", 0, 0, p_value=p) for p in (0.7, 0.6)])[0].corrected
        == 1.0
    )


def test_rows_are_by_kind_metric_and_task_and_lone_tasks_are_listed(write: Callable[..., Path]) -> None:
    for output in "ab":
        for task, kind in (("zeta", "Clustering"), ("alpha", "Retrieval"), ("beta", "Clustering")):
            place = write(output, task, {"default": queries(5, 1)}, task={"name": task, "kind": kind})
        write(output, f"lone-{output}", {"default": queries(5, 1)})
    found = compare(place.parent / "a", place)
    assert found.tasks == ("beta", "zeta", "alpha")
    assert (found.only_a, found.only_b) == (("lone-a",), ("lone-b",))


# ---- what cannot be compared


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"revision": "r2"}, "the data has revision r1 in a and r2 in b"),
        ({"metric": "map"}, "the metric is ndcg_at_10 in a and map in b"),
    ],
)
def test_other_data_or_another_metric_is_not_comparable(
    write: Callable[..., Path], task: dict[str, str], reason: str
) -> None:
    sides = {"en": queries(5, 1), "de": queries(5, 2)}
    (row,) = compare(write("a", "t", sides), write("b", "t", sides, task=task)).rows
    assert row == ComparisonRow("t", "", "Retrieval", "ndcg_at_10", row.a, row.b, reason=reason)
    assert row.a == row.b > 0


def test_other_subsets_are_not_comparable(write: Callable[..., Path]) -> None:
    english = {"en": queries(5, 1)}
    (row,) = compare(write("a", "t", english), write("b", "t", english | {"de": queries(5, 2)})).rows
    assert row.difference is None
    assert row.reason == "the subset test de is on one side only"


def test_other_queries_are_not_comparable(write: Callable[..., Path]) -> None:
    found = compare(write("a", "t", {"default": queries(5, 1)}), write("b", "t", {"default": queries(4, 1)}))
    (row,) = found.rows
    assert (row.difference, row.p_value, found.num_tested) == (None, None, 0)
    assert "of 5 and 4 of unit 'query', 4 are shared, and 'q4' is in the first only" in row.reason


def test_without_per_query_values_there_is_a_difference_and_no_test(write: Callable[..., Path]) -> None:
    a = write("a", "t", {"default": queries(5, 1)})
    (row,) = compare(a, write("b", "t", {"default": queries(5, 1, 0.25)}, kept=False)).rows
    assert row.difference == pytest.approx(0.25, abs=2e-6)
    assert (row.interval, row.p_value, row.corrected) == (None, None, None)
    assert row.reason == "the per-query values of subset default are not stored on both sides"


def test_sides_that_cannot_be_paired_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    units = {"default": queries(5, 1)}
    a, b = write("a", "t", units), write("b", "u", units)
    with pytest.raises(InputError, match=f"no task is on both sides: {a} has t; {b} has u"):
        compare(a, b)
    write("mixed", "t", units, model="one")
    mixed = write("mixed", "u", units, model="two")
    with pytest.raises(InputError, match=r"results of several models or settings: one \(.*, two \(.*folder of one"):
        compare(mixed, a)
    write("both/1", "t", units, model="one")
    write("both/2", "t", units, model="one")
    with pytest.raises(InputError, match=r"holds the task t twice: .*both/1.* and .*both/2.*\. Give the folder of one"):
        compare(a, tmp_path / "both")
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        compare(a, tmp_path / "nowhere")


# ---- fields that differ


def fields_of(comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    return {each.field: (each.a, each.b) for each in comparison.differences}


def test_one_run_twice_differs_in_nothing(write: Callable[..., Path]) -> None:
    units = {"default": queries(5, 1)}
    timed = {
        "identity": "other",
        "seconds": {"total": 9.0},
        "date": "2027",
        "intervals": [],
        "texts": {"encoded": 0, "from_cache": 100},
    }
    found = compare(write("a", "t", units, model="m"), write("b", "t", units, model="m", **timed))
    assert found.differences == ()
    assert (found.rows[0].difference, found.rows[0].p_value) == (0.0, 1.0)
    assert format_comparison(found, 80)[-1] == "nothing differs: one model, run in one way."


def test_every_other_field_that_differs_is_found(write: Callable[..., Path]) -> None:
    units = {"default": queries(5, 1)}
    changes = {
        "settings": {"dtype": "int8", "truncate_dim": 128},
        "prompts": [{"of": "queries", "name": "query", "text": "Query: "}, {"of": "texts", "name": None, "text": ""}],
        "texts": {"cut": 3},
        "versions": {"mteb": "2.27"},
        "protocol": {"titles": ["a", "b"]},
        "variant": "dim 128, int8",
    }
    found = compare(write("a", "t", units, model="m"), write("b", "t", units, model="m", **changes))
    assert fields_of(found) == {
        "variant": ("", "dim 128, int8"),
        "settings.dtype": ("float32", "int8"),
        "settings.truncate_dim": (None, 128),
        "prompts.queries.text": ("query: ", "Query: "),
        "prompts.documents.text": ("", None),
        "prompts.texts.text": (None, ""),
        "texts.cut": (0, 3),
        "protocol.titles": (True, ["a", "b"]),
        "versions.mteb": ("2.26.24", "2.27"),
    }


def test_what_differs_alike_is_given_once(write: Callable[..., Path]) -> None:
    units = {"default": queries(5, 1)}
    for at, task in enumerate(("t", "u", "v")):
        a = write("a", task, units, model="m", settings={"max_seq_length": 256})
        b = write("b", task, units, model="m", settings={"max_seq_length": 512}, texts={"cut": min(at, 1) * 7})
    found = compare(a, b)
    assert [(each.field, each.a, each.b, each.tasks) for each in found.differences] == [
        ("settings.max_seq_length", 256, 512, ("t", "u", "v")),
        ("texts.cut", 0, 7, ("u", "v")),
    ]
    assert format_comparison(found, 80)[-3:] == [
        "what differs:",
        "settings.max_seq_length: 256 | 512",
        "texts.cut (u, v): 0 | 7",
    ]


# ---- what is printed


def test_the_lines_of_a_comparison(write: Callable[..., Path]) -> None:
    first = PerQueryScores("query", "mean", [0.25] * 20)
    a = write("a", "nfcorpus", {"default": first})
    b = write("b", "nfcorpus", {"default": replace(first, values=[0.5] * 20)})
    for output, revision in (("a", "r1"), ("b", "r2")):
        write(output, "scifact", {"default": first}, task={"revision": revision})
        write(output, "two", {"en": first, "de": first})
    write("b", "alone", {"default": first})
    found = format_comparison(compare(a, b), 200)
    star = "* p < 0.05 after Holm's correction for the number of tasks"
    assert found == [
        f"a: model-a, fingerprint model-a-0123, {a}",
        f"b: model-b, fingerprint model-b-0123, {b}",
        "",
        "                       a       b       b - a    95 % interval    p",
        "Retrieval, ndcg_at_10",
        "  nfcorpus             0.2500  0.5000  +0.2500  +0.2500 +0.2500  0.0001 *",
        "  scifact              0.2500  0.2500                            none",
        "  two                  0.2500  0.2500  +0.0000  +0.0000 +0.0000  1.0000",
        "    en                 0.2500  0.2500  +0.0000  +0.0000 +0.0000  1.0000",
        "    de                 0.2500  0.2500  +0.0000  +0.0000 +0.0000  1.0000",
        "",
        f"{star} (2); the p shown is without it. Subsets get no star.",
        "interval: paired bootstrap; p: paired randomisation test, two-sided",
        "scifact: not comparable: the data has revision r1 in a and r2 in b",
        "only in b: alone",
        "",
        "what differs:",
        'model.name: "model-a" | "model-b"',
        'model.fingerprint: "model-a-0123456789abcdef" | "model-b-0123456789abcdef"',
        'model.source: "model-a" | "model-b"',
        'task.revision (scifact): "r1" | "r2"',
    ]


def test_lines_keep_to_the_width(write: Callable[..., Path]) -> None:
    task = "a-task-with-a-very-long-name-of-its-own-indeed"
    prompt = [{"of": "queries", "name": "query", "text": "word " * 60}]
    a = write("a", task, {"default": queries(40, 1)}, prompts=prompt)
    found = format_comparison(compare(a, write("b", task, {"default": queries(40, 2, 0.4)})), 80)
    assert max(map(display_width, found)) == 80
    assert any(line.startswith("  a-task-with-a-very-long-n…  0.") and line.endswith(" *") for line in found)


def test_a_correction_can_take_the_star_away(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = PerQueryScores("query", "mean", [0.0] * 7)
    # all of 7 agree: p is 2 / 128; four such tasks: 0.06
    for task in "stuv":
        a = write("a", task, {"default": first})
        b = write("b", task, {"default": replace(first, values=[0.1] * 7)})
    rows = compare(a, b).rows
    assert all(row.p_value < 0.02 and row.corrected > 0.05 and not row.significant for row in rows)
    assert not any(line.endswith("*") for line in format_comparison(compare(a, b), 80))


def test_json_holds_what_the_rows_hold_and_no_nan(write: Callable[..., Path]) -> None:
    constant = PerQueryScores("pair", "spearman", [0.5, 0.5, 0.5], [1, 2, 3])
    a = write("a", "sts", {"default": constant})
    b = write("b", "sts", {"default": replace(constant, values=[0.1, 0.2, 0.3])})
    for output in "ab":
        write(output, "t", {"default": queries(9, ord(output), 0.01)})
    found = compare(a, b)
    as_read = json.loads(json.dumps(comparison_to_dict(found), allow_nan=False))
    sts, tested = as_read["rows"]
    assert (sts["a"], sts["b"], sts["difference"], sts["p_value"]) == (None, 1.0, None, None)
    assert "the score in a is not defined" in sts["reason"]
    row = row_of(found, "t")
    assert tested["interval"] == {"low": row.interval.low, "high": row.interval.high}
    assert (tested["corrected"], tested["significant"]) == (row.corrected, row.significant)
    assert (as_read["alpha"], as_read["correction"], as_read["tested"]) == (0.05, "holm", 1)
    assert as_read["differences"][0] == {"field": "model.name", "a": "model-a", "b": "model-b", "tasks": ["sts", "t"]}
    assert as_read["a"] == {"place": str(a), "label": "model-a", "fingerprint": "model-a-0123456789abcdef"}
