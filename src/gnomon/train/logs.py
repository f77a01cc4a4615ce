"""The log of a run: lines of JSON, and boards such as TensorBoard."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gnomon.errors import ExtraError
from gnomon.files import atomic_file, describe_os_error
from gnomon.warn import warn_caller

Values = Mapping[str, Any]


class Board(Protocol):
    """A service that plots the numbers of a run."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """FOLDER/log.jsonl with one line per `record`, and the boards. Only rank 0 has a log.

    Args:
        boards_folder: where boards store their files; None for `folder`.
        report_to: names of `BOARDS`.
        settings: the settings of the run, for boards that show them.

    Raises:
        ExtraError: the package of a board is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        boards_folder: Path | None = None,
        report_to: Sequence[str] = (),
        settings: Values | None = None,
    ) -> None:
        self.boards_folder, self.path = boards_folder or folder, folder / "log.jsonl"
        self._modules = {name: import_board(name) for name in report_to}
        self._settings, self._start = dict(settings or {}), 0
        self._boards: list[Board] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._file: FileIO | None = self.path.open("ab", buffering=0)

    def rewind(self, step: int) -> None:
        """Remove the records after a step, from which the run resumes; 0 removes all. Call it before `record`."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        earlier = [line for line in lines if step and _read_step(line) <= step]
        if len(earlier) < len(lines):
            self._close_file()
            with atomic_file(self.path) as file:
                file.writelines(earlier)
            self._file = self.path.open("ab", buffering=0)
        self._start = step

    def record(self, step: int, values: Values) -> None:
        """Write one line {"step": step, **values} to the file at once; NaN and infinity become null.

        Boards get every number, and those of an inner mapping as "outer/inner".
        """
        self._write(json.dumps({"step": step} | _to_json_value(values)).encode() + b"\n")
        if self._boards is None:  # opened late: `rewind` says where the run starts
            self._boards = [
                BOARDS[name](module, self.boards_folder, self._start, self._settings)
                for name, module in self._modules.items()
            ]
        for board in self._boards:
            board.add(step, dict(_flatten_numbers(values)))

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # the user was warned of a full disk
                self._file.close()
        self._file = None

    def close(self) -> None:
        self._close_file()
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
        """Write a line. A log that cannot be written does not end a run."""
        if self._file is None:
            return
        try:
            if self._file.write(line) < len(line):  # the disk became full within the line
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            self._close_file()
            warn_caller(f"{self.path} is no longer written: {describe_os_error(error)}. The run goes on without it.")


def _read_step(line: bytes) -> float:
    """The step of a record; infinity for a line that is incomplete because the process ended."""
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


def _flatten_numbers(values: Values, prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of every number, those of an inner mapping as "outer/inner"."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


# ---- boards


class TensorBoard:
    """Events in FOLDER/tensorboard. After a resume, older events of later steps are hidden."""

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
    """A run of the project "gnomon", named after the folder. With the id in FOLDER/wandb-id, a resume continues it."""

    def __init__(self, module: Any, folder: Path, start: int, settings: dict[str, Any]) -> None:
        id_file = folder / "wandb-id"
        options = {"id": id_file.read_text("utf-8"), "resume": "allow"} if start and id_file.is_file() else {}
        name = folder.absolute().name
        self._run = module.init(project="gnomon", name=name, dir=str(folder), config=settings, **options)
        id_file.write_text(self._run.id, "utf-8")

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


BOARDS: dict[str, Callable[[Any, Path, int, dict[str, Any]], Board]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""Name -> function that opens a board, from its module, the folder, the first step and the settings of the run."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def import_board(name: str) -> Any:
    """The module of a board.

    Raises:
        ExtraError: its package is not installed.
    """
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise ExtraError(
            f"report_to names {name!r}, and the package {name} is not installed: pip install {name}, or leave it out."
        ) from error
