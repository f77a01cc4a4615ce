"""`StepRunner`: what an engine gives for the entries of a step, and what to do where it fails.

B: entries; D: dimensions of a pooled vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gnomon.engines.protocol import Engine
from gnomon.errors import GnomonError, NumericError, WorkerError
from gnomon.packed import Packed, Vectors, pack
from gnomon.serve.prepare import PreparedText
from gnomon.serve.work import Entry, Outcome, Work

FIRST_TEXT = PreparedText((np.zeros(1, np.int64),), (1,), skip=0, num_full_tokens=1, truncated=False, key=b"")
"""What shows whether an engine computes, until it has computed another text."""


@dataclass
class StepResult:
    """What came of a step."""

    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    """One per entry, in their order."""
    num_nonfinite: int = 0
    seconds: float | None = None
    """How long the engine took; None where it did not compute all entries at once."""
    engine_failed: bool = False
    """Whether no entry has a vector because the engine computes nothing any more. Texts may fail without that."""


class StepRunner:
    """Computes the entries of steps with an engine. Threads may share it.

    Args:
        on_part: called before each call of the engine, from the thread that makes it, with the entries that the engine
            gets.
    """

    def __init__(self, engine: Engine, on_part: Callable[[list[Entry]], None]) -> None:
        self.engine = engine
        self._on_part = on_part
        self._good_entry = _make_entry(FIRST_TEXT, 0)
        """The last text of which it is known that the engine computes it."""

    def run(self, entries: list[Entry], packed: Packed | None = None) -> StepResult:
        """The outcomes of a step. Entries that fail together are tried again in halves, so that a text fails alone.

        Where the first of them have no vector, a text that the engine computed before shows whether the engine fails.
        Then the others are not tried: each call may take as long as a worker process takes to start.

        Args:
            packed: the entries, where they are packed already.
        """
        result = StepResult()
        parts = [entries]
        """What is left to compute; the last one is the next."""
        num_failures, computes = 0, False
        while parts:
            part = parts.pop()
            began = time.monotonic()
            try:
                pooled_BD = self._pool(part, None if num_failures else packed)
            except BaseException as error:
                num_failures += 1
                if rest := _split(part, error, is_first=num_failures == 1):
                    parts += reversed(rest)
                    continue
                result.outcomes.append(describe_error(error))
            else:
                if not num_failures:
                    result.seconds = time.monotonic() - began
                self._add_vectors(result, part, pooled_BD)
            computes = computes or self._check_engine(entries, result)
            if not computes:
                break
        return result

    def test(self, engine: Engine) -> None:
        """Check that an engine computes a text that was computed before.

        Raises:
            NumericError: it gives NaN or infinity. What the engine raises passes, too.
        """
        if not np.isfinite(engine.pool(pack_entries([self._good_entry]))).all():
            raise NumericError("the engine gives NaN or infinity for a text that it computed before")

    def _check_engine(self, entries: Sequence[Entry], result: StepResult) -> bool:
        """Whether the engine computes at all: the outcomes so far show it, or a text that it computed before. If not,
        the entries that have no outcome yet fail.
        """
        for entry, outcome in zip(entries, result.outcomes, strict=False):
            if not isinstance(outcome, str):
                self._good_entry = _make_entry(entry.work.text, entry.number)
                return True
        try:
            self._on_part([self._good_entry])
            self.test(self.engine)
        except BaseException as error:
            result.engine_failed = True
            result.outcomes += [describe_error(error)] * (len(entries) - len(result.outcomes))
            return False
        return True

    def _pool(self, entries: list[Entry], packed: Packed | None = None) -> Vectors:
        self._on_part(entries)
        pooled_BD = self.engine.pool(pack_entries(entries) if packed is None else packed)
        assert len(pooled_BD) == len(entries)
        return pooled_BD

    def _add_vectors(self, result: StepResult, entries: Sequence[Entry], pooled_BD: Vectors) -> None:
        """Add the vectors, or why one cannot be used. The engine explains the first one alone: that takes a step."""
        outcomes: list[Outcome] = [*pooled_BD]
        rows = np.flatnonzero(~np.isfinite(pooled_BD).all(axis=1)).tolist()
        reason = self._explain_nonfinite(entries[rows[0]]) if rows else ""
        for row in rows:
            outcomes[row] = reason
        result.outcomes += outcomes
        result.num_nonfinite += len(rows)

    def _explain_nonfinite(self, entry: Entry) -> str:
        self._on_part([entry])
        try:
            return f"its vector holds NaN or infinity: {self.engine.explain_nonfinite(pack([entry.ids_T]))}"
        except Exception:
            return "its vector holds NaN or infinity"


def pack_entries(entries: Sequence[Entry]) -> Packed:
    return pack([entry.ids_T for entry in entries], skip_B=[entry.work.text.skip for entry in entries])


def describe_error(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, GnomonError) and text else f"{type(error).__name__}: {text}"


def _make_entry(text: PreparedText, number: int) -> Entry:
    """An entry for which no job waits."""
    return Entry(Work(text), number, len(text.sequences[number]))


def _split(entries: list[Entry], error: BaseException, *, is_first: bool) -> list[list[Entry]]:
    """What to try after entries failed: their halves. A single one is tried once more where its worker process died in
    the first call of the step: another step may have killed that.
    """
    if len(entries) == 1:
        return [entries] if is_first and isinstance(error, WorkerError) else []
    half = -(-len(entries) // 2)
    return [entries[:half], entries[half:]]
