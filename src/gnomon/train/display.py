"""What a run shows on stderr while it trains: a bar in a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gnomon.messages import list_some
from gnomon.progress import format_duration, open_bar, print_line, shows_lines, shows_progress
from gnomon.train.recipe.schema import Recipe

if TYPE_CHECKING:
    from gnomon.train.objectives.objective import RunFacts

Values = Mapping[str, Any]

BAR_FIELDS = (("loss", "loss", ".4f"),)
"""Key of a record, and its name and format in the bar: few, so that the bar itself has room in 80 columns."""

MIN_INTERVAL, MAX_INTERVAL, INTERVAL_SHARE = 30.0, 600.0, 0.02
"""Seconds between two lines, and the share of the whole time that they have where it lies between the two."""


class Display(Protocol):
    """Shows how far a run is."""

    def start(self, step: int, total: int) -> None:
        """Steps are counted from here: `step` of `total` are done."""
        ...

    def advance(self, step: int, values: Values) -> None:
        """A step is done, with what the log says about it."""
        ...

    def record(self, values: Values) -> None:
        """The numbers of the present step are written to the log."""
        ...

    def say(self, text: str) -> None:
        """A sentence about the run, for a log."""
        ...

    def close(self) -> None: ...


def open_display(progress: bool | None) -> Display:
    """True for a bar, False for nothing; None for a bar in a terminal, and lines elsewhere."""
    return BarDisplay() if shows_progress(progress) else LineDisplay() if shows_lines(progress) else NoDisplay()


class NoDisplay:
    """Shows nothing."""

    def start(self, step: int, total: int) -> None: ...

    def advance(self, step: int, values: Values) -> None: ...

    def record(self, values: Values) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class BarDisplay(NoDisplay):
    """A bar with the loss and the speed, and sentences above it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, step: int, total: int) -> None:
        # the steps before do not count for the rate
        self._bar = open_bar(total, "training", "steps", dynamic_ncols=True, unit_scale=False, initial=step)

    def advance(self, step: int, values: Values) -> None:
        self._bar.update(step - self._bar.n)

    def record(self, values: Values) -> None:
        self._bar.set_postfix_str(format_bar(values))

    def say(self, text: str) -> None:
        if self._bar is None:
            print_line(text)
        else:
            self._bar.clear()
            print_line(text)
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class LineDisplay(NoDisplay):
    """Lines: one after the first step, then one each `MIN_INTERVAL` seconds, or fewer in a long run.

    Args:
        clock: seconds from any moment.
        write: takes a line.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] = print_line
    ) -> None:
        self._clock, self._write = clock, write
        self._first = self._step = self._last_step = self._total = 0
        self._began = self._last = 0.0
        self._loss = self._rows = self._tokens = 0.0

    def start(self, step: int, total: int) -> None:
        self._first = self._step = self._last_step = step
        self._total = total
        self._began = self._last = self._clock()

    def say(self, text: str) -> None:
        self._write(text)

    def advance(self, step: int, values: Values) -> None:
        self._step = step
        self._loss += values["loss"]
        self._rows += values.get("rows", 0)
        self._tokens += values.get("tokens", 0)
        now = self._clock()
        if self._last_step == self._first or now - self._last >= self._interval(now):
            self._write_line(now)

    def _interval(self, now: float) -> float:
        total = (now - self._began) * (self._total - self._first) / (self._step - self._first)
        return min(MAX_INTERVAL, max(MIN_INTERVAL, INTERVAL_SHARE * total))

    def _write_line(self, now: float) -> None:
        seconds = max(now - self._last, 1e-9)
        loss = self._loss / (self._step - self._last_step)
        parts = [f"loss {loss:.4f}"]
        counts = {"rows": self._rows, "tokens": self._tokens}
        parts += [f"{_format_rate(count / seconds)} {unit}/s" for unit, count in counts.items() if count]
        if left := self._total - self._step:
            per_step = (now - self._began) / (self._step - self._first)
            parts.append(f"about {format_duration(left * per_step)} left")
        self.say(f"step {self._step:,} of {self._total:,} ({self._step / self._total:.0%}): {', '.join(parts)}")
        self._last_step, self._last = self._step, now
        self._loss = self._rows = self._tokens = 0.0


def format_bar(values: Values) -> str:
    """The numbers that the bar shows, in few characters."""
    parts = [f"{name}={values[key]:{form}}" for key, name, form in BAR_FIELDS if values.get(key) is not None]
    rate = values.get("tokens_per_second")
    if rate is not None:
        parts.append(f"{rate / 1000:.1f}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
    return ", ".join(parts)


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


# ---- what a run says


def describe_inputs(recipe: Recipe) -> str:
    paths = [path for source in recipe.sources for path in source.path]
    return f"reading {recipe.model} and {list_some(paths, 4)}"


def describe_start(recipe: Recipe, run: RunFacts, data: str) -> str:
    """What a run trains on which data, for how many steps and to where.

    Args:
        run: its `step` is the one that the run begins with.
        data: the objective's `data_summary`.
    """
    begin = f"going on after step {run.step:,}" if run.step else "training"
    devices = f"{run.world_size} processes on {run.device}" if run.world_size > 1 else run.device
    steps = f"{run.total_steps:,} steps of {recipe.batch_size * recipe.gradient_accumulation_steps:,} rows"
    return f"{begin}: {run.base} on {data}, {steps}, on {devices}, to {recipe.output}"


def describe_validation(step: int, scores: Mapping[str, float]) -> str:
    when = f"after step {step:,}" if step else "before training"
    return f"validation {when}: {_format_scores(scores)}"


def describe_end(run: RunFacts, folder: Path) -> str:
    """How long a run took, what it gained, and where its model is."""
    counters = run.counters
    parts = [f"trained {run.total_steps:,} steps in {format_duration(counters.seconds)}"]
    if counters.first_loss is not None and counters.last_loss is not None:
        parts.append(f"loss {counters.first_loss:.4f} at first and {counters.last_loss:.4f} at last")
    if run.scores_after:
        before = f"{_format_scores(run.scores_before)} before, " if run.scores_before else ""
        parts.append(f"validation {before}{_format_scores(run.scores_after)} after step {run.step:,}")
    return f"{'; '.join(parts)}. The model is in {folder}."


def _format_scores(scores: Mapping[str, float]) -> str:
    """Scores by source: "pairs 0.8123, faq 0.7031"."""
    return ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
