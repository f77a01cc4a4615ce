"""The parts of the server's checks and scenarios that need no server."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.serve_checks import LAST, run_check
from bench.serving import shapes
from bench.serving.checks import (
    CHECKS,
    Check,
    CheckError,
    Context,
    NotPossibleError,
    distance,
    expect_close,
    vectors_of,
)
from bench.serving.client import Response
from bench.serving.process import measure_usage, tree_pids
from bench.serving.scenarios import lanes_row, mean_step, metric, ratios

METRICS = """# HELP x y
gnomon_step_seconds_sum{lane="bulk"} 1.5
gnomon_step_seconds_sum{lane="interactive"} 0.25
gnomon_step_seconds_summary 9
plain_total 7
"""


def test_there_are_35_checks_and_a_fuzz_in_files_of_limited_length() -> None:
    assert sorted(CHECKS) == list(range(1, 37)) and set(LAST) <= set(CHECKS)
    for file in Path(__file__).resolve().parents[2].joinpath("bench", "serving").glob("*.py"):
        assert len(file.read_text().splitlines()) < 450, file.name


def fail(context: Context) -> str:
    raise CheckError("a\nreason")


def impossible(context: Context) -> str:
    raise NotPossibleError("no tool")


def error(context: Context) -> str:
    return str(1 / 0)


@pytest.mark.parametrize(
    ("function", "ending"),
    [
        (lambda context: "seen", "passed: seen"),
        (fail, "failed: a reason"),
        (impossible, "not possible here: no tool"),
        (error, "failed: ZeroDivisionError"),
    ],
)
def test_every_check_is_one_line(function: Any, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKS, 99, Check(99, "a title", function))
    line = run_check(99, Context("m", tmp_path, tmp_path))
    assert re.fullmatch(rf"99 a title: {ending}.* \(\d+\.\d s\)", line)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"a": 1, "b": [{"c": 1.5}], "d": "list", "more": None}, None),
        ({"a": 1, "b": [{"c": 2}], "d": "list"}, None),
        ({"a": True, "b": [{"c": 1}], "d": "list"}, "$.a"),
        ({"a": 1, "b": [], "d": "list"}, "$.b"),
        ({"a": 1, "b": [{"c": 1}, {"c": "1"}], "d": "list"}, "$.b[1].c"),
        ({"a": 1, "b": [{}], "d": "list"}, "$.b[0] has no c"),
        ({"a": 1, "b": [{"c": 1}], "d": "other"}, "$.d"),
        ([], "not an object"),
    ],
)
def test_shapes_say_where_an_answer_differs(value: Any, wrong: str | None) -> None:
    found = shapes.mismatch(value, {"a": int, "b": [{"c": float}], "d": "list"})
    assert found is None if wrong is None else wrong in str(found)


def test_distances_are_relative_and_of_the_worst_row() -> None:
    expected_BD = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert distance(expected_BD + np.array([[0.5, 0], [0.01, 0]]), expected_BD) == pytest.approx(0.1)
    assert expect_close(expected_BD, expected_BD, "same") == 0
    for far in (1e-3, np.nan):
        with pytest.raises(CheckError, match="far"):
            expect_close(expected_BD + far, expected_BD, "far")
    with pytest.raises(CheckError, match=r"\(1, 2\)"):
        distance(expected_BD[:1], expected_BD)


def test_vectors_are_read_from_floats_and_base64_and_only_in_order() -> None:
    rows = [b'{"index": 0, "embedding": [1.0, 2.0]}', b'{"index": 1, "embedding": [0.5, 0.25]}']
    body = b'{"data": [' + b", ".join(rows) + b"]}"
    assert vectors_of(Response(200, {}, body)).tolist() == [[1, 2], [0.5, 0.25]]
    packed = b'{"data": [{"index": 0, "embedding": "AACAPwAAAEA="}]}'
    assert vectors_of(Response(200, {}, packed)).tolist() == [[1, 2]]
    with pytest.raises(CheckError, match="index"):
        vectors_of(Response(200, {}, b'{"data": [' + b", ".join(rows[::-1]) + b"]}"))
    with pytest.raises(CheckError, match="429"):
        vectors_of(Response(429, {}, b"busy"))


def test_metrics_are_summed_over_labels() -> None:
    assert metric(METRICS, "gnomon_step_seconds_sum") == 1.75
    assert metric(METRICS, "plain_total") == 7 and metric(METRICS, "plain") == 0
    assert mean_step((1.0, 10), (1.5, 60)) == pytest.approx(10) and mean_step((1.0, 10), (1.0, 10)) is None


def test_two_lanes_are_within_three_times_the_idle_latency_and_one_step() -> None:
    def result(p99: float) -> dict[str, Any]:
        bulk = {"codes": {}, "errors": {}, "per_second": {}}
        return {"groups": {"query": {"milliseconds": {"p99": p99}}, "bulk": bulk}}

    assert lanes_row(result(10), result(80), 50.0)["within"] is True
    assert lanes_row(result(10), result(81), 50.0)["within"] is False


def test_ratios_are_those_of_each_rounds_pair() -> None:
    def run(texts: float, tokens: float) -> dict[str, float]:
        return {"texts_per_second": texts, "tokens_per_processor_second": tokens}

    result = ratios({"served": [run(90, 5), run(50, 6)], "encode": [run(100, 10), run(100, 10)]})
    assert result["texts_per_second"] == {"median": 0.7, "lowest": 0.5, "highest": 0.9}
    assert result["tokens_per_processor_second"]["median"] == pytest.approx(0.55)


def test_the_use_of_this_process_is_read() -> None:
    usage = measure_usage(os.getpid())
    assert usage.resident_mib > 10 and usage.descriptors >= 3 and usage.threads >= 1 and usage.processor_seconds > 0
    assert os.getpid() in tree_pids(os.getpid())
    none = measure_usage(2**22 + 1)
    assert none.processes == 0 and none.processor_seconds == 0
