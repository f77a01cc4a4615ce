"""What a run shows on stderr: a bar in a terminal, lines in a log, and few of them."""

import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from gnomon.progress import format_duration
from gnomon.train.counters import Counters
from gnomon.train.display import (
    BarDisplay,
    LineDisplay,
    NoDisplay,
    describe_end,
    describe_inputs,
    describe_start,
    describe_validation,
    format_bar,
    open_display,
)
from gnomon.train.objectives.objective import RunFacts
from gnomon.train.recipe.schema import DataSource, Recipe

VALUES = {"loss": 0.25, "learning_rate": 2e-5, "tokens_per_second": 12_345.0, "rows": 32, "tokens": 4000}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("stream", "progress", "kind"),
    [
        (io.StringIO(), None, LineDisplay),
        (io.StringIO(), True, BarDisplay),
        (io.StringIO(), False, NoDisplay),
        (Terminal(), None, BarDisplay),
        (Terminal(), False, NoDisplay),
        (None, None, NoDisplay),
    ],
)
def test_a_terminal_has_a_bar_and_a_log_has_lines(
    monkeypatch: pytest.MonkeyPatch, stream: Any, progress: bool | None, kind: type[Any]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert type(open_display(progress)) is kind


def test_the_bar_goes_on_where_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    display = open_display(None)
    display.say("reading")
    display.start(5, 20)
    display.advance(6, VALUES)
    display.advance(7, VALUES)
    display.record(VALUES)
    display.say("validation")
    display.close()
    assert "\rvalidation\n" in screen.getvalue()  # on a line of its own, above the bar
    assert "7/20" in screen.getvalue()
    assert "loss=0.2500, 12.3k tokens/s" in screen.getvalue()
    assert screen.getvalue().startswith("reading\n")


def test_what_the_bar_shows() -> None:
    assert format_bar({}) == ""
    assert format_bar({"loss": None, "tokens_per_second": 512.4, "other": 3}) == "512 tokens/s"
    assert format_bar({"loss": math.nan, "learning_rate": 0}) == "loss=nan"


# ---- lines


def lines_of(total: int, seconds: float, *, first: int = 0) -> list[str]:
    """The lines of a run whose steps all take as long; the loss of step n is n."""
    lines: list[str] = []
    now = 0.0
    display = LineDisplay(clock=lambda: now, write=lines.append)
    display.start(first, total)
    for step in range(first + 1, total + 1):
        now += seconds
        display.advance(step, VALUES | {"loss": step})
    display.close()
    return lines


def test_lines_come_after_the_first_step_and_each_half_minute() -> None:
    assert lines_of(100, 2.0) == [
        "step 1 of 100 (1%): loss 1.0000, 16 rows/s, 2,000 tokens/s, about 3 min 18 s left",
        "step 16 of 100 (16%): loss 9.0000, 16 rows/s, 2,000 tokens/s, about 2 min 48 s left",
        "step 31 of 100 (31%): loss 24.0000, 16 rows/s, 2,000 tokens/s, about 2 min 18 s left",
        "step 46 of 100 (46%): loss 39.0000, 16 rows/s, 2,000 tokens/s, about 1 min 48 s left",
        "step 61 of 100 (61%): loss 54.0000, 16 rows/s, 2,000 tokens/s, about 1 min 18 s left",
        "step 76 of 100 (76%): loss 69.0000, 16 rows/s, 2,000 tokens/s, about 48 s left",
        "step 91 of 100 (91%): loss 84.0000, 16 rows/s, 2,000 tokens/s, about 18 s left",
    ]


def test_a_resumed_run_counts_its_own_steps_for_the_speed() -> None:
    first, *others = lines_of(100, 10.0, first=90)
    assert first == "step 91 of 100 (91%): loss 91.0000, 3.2 rows/s, 400 tokens/s, about 1 min 30 s left"
    assert [line.partition(":")[0] for line in others] == [
        "step 94 of 100 (94%)",
        "step 97 of 100 (97%)",
        "step 100 of 100 (100%)",
    ]
    assert "left" not in others[-1]


@pytest.mark.parametrize(
    ("total", "seconds", "most"),
    [(1, 1.0, 1), (1000, 0.01, 1), (1000, 1.0, 35), (100_000, 0.2, 55), (1_000_000, 0.36, 605)],
)
def test_a_log_stays_short(total: int, seconds: float, most: int) -> None:
    """From a run of a second to one of a hundred hours: a line in 2 % of the time, or ten minutes."""
    lines = lines_of(total, seconds)
    assert most * 0.8 <= len(lines) <= most
    assert not any({"\r", "\n"} & {*line} for line in lines)


def test_values_of_another_objective_have_no_rows() -> None:
    lines: list[str] = []
    display = LineDisplay(clock=lambda: 0.0, write=lines.append)
    display.start(0, 10)
    display.advance(1, {"loss": 0.5, "batches": 2})
    assert lines == ["step 1 of 10 (10%): loss 0.5000, about 0 s left"]


def test_a_reader_that_is_gone_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    open_display(None).say("reading")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (9e4, "25 h 0 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# ---- sentences

RECIPE = Recipe("org/base", "runs/tuned", (DataSource(("a.jsonl", "b.jsonl")), DataSource(("hf:org/data",))))


def facts(step: int, counters: Counters | None = None, **more: Any) -> RunFacts:
    return RunFacts(None, "org/base", "f" * 64, step, 1200, counters or Counters(), "CPU", **more)  # pyright: ignore


def test_a_run_says_what_it_reads_and_trains() -> None:
    assert describe_inputs(RECIPE) == "reading org/base and a.jsonl, b.jsonl, hf:org/data"
    data = "3,000 rows of a, data"
    assert describe_start(RECIPE, facts(0), data) == (
        "training: org/base on 3,000 rows of a, data, 1,200 steps of 32 rows, on CPU, to runs/tuned"
    )
    again = describe_start(RECIPE, facts(400, world_size=2), data)
    assert again.startswith("going on after step 400: org/base on 3,000 rows")
    assert "on 2 processes on CPU" in again


def test_a_run_says_what_it_gained() -> None:
    scores = {"0": {"a": 0.5, "data": 0.25}, "1000": {"a": 0.625, "data": 0.75}, "1200": {"a": 0.5, "data": 0.5}}
    counters = Counters(seconds=3900.0, first_loss=1.5, last_loss=0.25, scores=scores)
    assert describe_end(facts(1000, counters), Path("runs/tuned/model")) == (
        "trained 1,200 steps in 1 h 5 min; loss 1.5000 at first and 0.2500 at last; validation a 0.5000, data 0.2500 "
        "before, a 0.6250, data 0.7500 after step 1,000. The model is in runs/tuned/model."
    )
    assert (
        describe_end(facts(1200, Counters(seconds=8.0)), Path("m")) == "trained 1,200 steps in 8 s. The model is in m."
    )
    assert describe_validation(0, {"a": 0.5}) == "validation before training: a 0.5000"
    assert describe_validation(1200, {"a": 0.5, "b": 1.0}) == "validation after step 1,200: a 0.5000, b 1.0000"
