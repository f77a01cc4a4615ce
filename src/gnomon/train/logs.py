"""What a run says while it goes: lines of JSON always, a bar in a terminal, and boards where they are asked for."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gnomon.errors import ExtraError
from gnomon.files import DISK_FULL_REASONS
from gnomon.warn import warn_caller

Values = Mapping[str, Any]

BAR_FIELDS = (("loss", "loss", ".4f"), ("learning_rate", "lr", ".2e"))
"""Key of a record, and its name and form in the bar."""


class Board(Protocol):
    """A service that draws curves."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """FOLDER/log.jsonl, a line for each `record`; beside it the bar and the boards. Of one process: rank 0.

    Args:
        boards: where the boards keep their files; None for `folder`.
        total: steps of the run.
        report_to: names of `BOARDS`.
        progress: whether there is a bar on stderr; None for a terminal only.
        settings: of the run, for boards that show them.

    Raises:
        ExtraError: the package of a board is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        boards_folder: Path | None = None,
        total: int,
        report_to: Sequence[str] = (),
        progress: bool | None = None,
        settings: Values | None = None,
    ) -> None:
        self.boards_folder, self.path = boards_folder or folder, folder / "log.jsonl"
        self._modules = {name: import_board(name) for name in report_to}
        self._settings, self._start = dict(settings or {}), 0
        self._boards: list[Board] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._file: FileIO | None = self.path.open("ab", buffering=0)
        self._bar = _bar(total, progress)

    def rewind(self, step: int) -> None:
        """Cut off what was said behind a step, which the run goes on from; 0 for all. Before the first `record`."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if step and _read_step(line) <= step]
        if len(kept) < len(lines):
            beside = self.path.with_name(".log.jsonl.tmp")
            beside.write_bytes(b"".join(kept))
            self._close_file()
            beside.replace(self.path)
            self._file = self.path.open("ab", buffering=0)
        self._start = step
        if self._bar is not None:
            self._bar.initial = self._bar.n = step  # not counted into the rate
            self._bar.refresh()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def record(self, step: int, values: Values) -> None:
        """One line {"step": step, **values}, written through; NaN and infinity are null in it.

        The bar shows "loss", "learning_rate" and "tokens_per_second"; boards get every number, those of an inner
        mapping as "outer/inner".
        """
        self._write(json.dumps({"step": step} | _to_json_value(values)).encode() + b"\n")
        if self._bar is not None:
            self.advance(step)
            self._bar.set_postfix_str(format_bar(values))
        if self._boards is None:  # not before it is known where the run starts
            self._boards = [
                BOARDS[name](module, self.boards_folder, self._start, self._settings)
                for name, module in self._modules.items()
            ]
        for board in self._boards:
            board.add(step, dict(_flatten_numbers(values)))

    def say(self, text: str) -> None:
        """A line on stderr, above the bar."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk was told of
                self._file.close()
        self._file = None

    def close(self) -> None:
        self._close_file()
        if self._bar is not None:
            self._bar.close()
        for board in self._boards or ():
            board.close()
        self._boards = []

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """A log that cannot be written does not end a run."""
        if self._file is None:
            return
        try:
            if self._file.write(line) < len(line):  # a disk that was full within the line
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            why = DISK_FULL_REASONS.get(error.errno or 0, str(error))
            self._close_file()
            warn_caller(f"{self.path} is no longer written: {why}. The run goes on without it.")


def format_bar(values: Values) -> str:
    """What the bar shows, in few characters."""
    found = [f"{name}={values[key]:{form}}" for key, name, form in BAR_FIELDS if values.get(key) is not None]
    rate = values.get("tokens_per_second")
    if rate is not None:
        found.append(f"{rate / 1000:.1f}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
    return ", ".join(found)


def _bar(total: int, progress: bool | None) -> Any:
    if not ((sys.stderr and sys.stderr.isatty()) if progress is None else progress):
        return None
    from tqdm import tqdm

    return tqdm(total=total, desc="training", unit=" steps", file=sys.stderr, dynamic_ncols=True)


def _read_step(line: bytes) -> float:
    """Infinity for a line that was cut short when the process ended."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf


def _to_json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flatten_numbers(values: Values, place: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten_numbers(value, f"{place}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{place}{key}", float(value)


# ---- boards


class TensorBoard:
    """Events in FOLDER/tensorboard; on a resume, those behind its step are hidden."""

    def __init__(self, module: Any, folder: Path, start: int, settings: dict[str, Any]) -> None:
        self._writer = module.SummaryWriter(folder / "tensorboard", purge_step=start + 1 if start else None)
        self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=1)}\n```", start)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run called like the folder, of the project "gnomon". FOLDER/wandb-id names it, for a resume to go on with."""

    def __init__(self, module: Any, folder: Path, start: int, settings: dict[str, Any]) -> None:
        kept = folder / "wandb-id"
        how = {"id": kept.read_text("utf-8"), "resume": "allow"} if start and kept.is_file() else {}
        name = folder.absolute().name
        self._run = module.init(project="gnomon", name=name, dir=str(folder), config=settings, **how)
        kept.write_text(self._run.id, "utf-8")

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


BOARDS: dict[str, Callable[[Any, Path, int, dict[str, Any]], Board]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""Name -> what opens a board: its module, the folder, the step that the run goes on from, the run's settings."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def import_board(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise ExtraError(
            f"report_to names {name!r}, and the package {name} is not installed: pip install {name}, or leave it out."
        ) from error
