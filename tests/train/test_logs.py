"""The log of a run: valid JSON always, cut where a run goes on, no end of a run; the boards."""

import errno
import io
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import ExtraError, Notice
from gnomon.train.logs import Log

VALUES = {"loss": 0.25, "learning_rate": 2e-5, "tokens_per_second": 12_345.0}


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


# ---- lines


def test_a_record_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    with Log(tmp_path / "run") as log:
        log.record(10, VALUES | {"source": "ü"})
        assert lines(tmp_path / "run") == [{"step": 10, **VALUES, "source": "ü"}]
        log.record(20, {"loss": math.nan, "inner": {"all": [1, math.inf, (-math.inf,)], "text": "NaN", "flag": True}})
    found = lines(tmp_path / "run")
    assert found[1:] == [{"step": 20, "loss": None, "inner": {"all": [1, None, [None]], "text": "NaN", "flag": True}}]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text().filter(lambda key: key != "step"), TREES, max_size=3), max_size=4))
def test_every_line_is_valid_json(tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("run")
    with Log(folder) as log:
        for step, each in enumerate(values):
            log.record(step, each)
    raw = (folder / "log.jsonl").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in raw] == list(range(len(values)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=12).map(sorted), st.integers(0, 30), st.binary(max_size=20))
def test_a_rewind_cuts_what_lies_behind_the_step_and_what_was_torn(
    tmp_path_factory: pytest.TempPathFactory, recorded: list[int], step: int, torn: bytes
) -> None:
    folder = tmp_path_factory.mktemp("run")
    with Log(folder) as log:
        for each in recorded:
            log.record(each, VALUES)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(torn.replace(b"\n", b"{"))
    with Log(folder) as log:
        log.rewind(step)
        log.record(31, VALUES)
    kept = [each for each in recorded if each <= step] if step else []
    assert [line["step"] for line in lines(folder)] == [*kept, 31]
    assert [path.name for path in folder.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("line", ["[]", '{"step": null}', '{"step": Infinity}', '{"loss": 1}', "nonsense", "\xff"])
def test_a_foreign_line_is_cut(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b"\n")
    with Log(tmp_path) as log:
        log.rewind(5)
    assert lines(tmp_path) == [{"step": 1}]


class FullFile(io.RawIOBase):
    def __init__(self, error: OSError | None) -> None:
        self.error = error

    def write(self, line: Any) -> int:
        if self.error:
            raise self.error
        return len(line) - 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), None])
def test_a_full_disk_ends_the_log_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    log = Log(tmp_path)
    log._close_file()
    monkeypatch.setattr(log, "_file", FullFile(error))
    with pytest.warns(Notice, match="log.jsonl is no longer written: the disk is full. The run goes on without it"):
        log.record(1, VALUES)
    log.record(2, VALUES)
    log.close()


# ---- boards


class Writer:
    """As `torch.utils.tensorboard.SummaryWriter`."""

    made: list["Writer"]

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.numbers: list[tuple[str, float, int]] = []
        self.closed = False
        Writer.made.append(self)

    def add_text(self, name: str, text: str, step: int) -> None:
        self.text = (name, text)

    def add_scalar(self, name: str, number: float, step: int) -> None:
        self.numbers.append((name, number, step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    Writer.made = []
    module = ModuleType("torch.utils.tensorboard")
    vars(module)["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Writer


def test_tensorboard_gets_every_number(tmp_path: Path, tensorboard: type[Writer]) -> None:
    with Log(tmp_path, report_to=["tensorboard"], settings={"seed": 3}) as log:
        assert not tensorboard.made
        log.record(1, {"loss": 0.5, "source": "a", "same": True, "validation": {"mrr": 1, "deep": {"x": 2.0}}})
    (writer,) = tensorboard.made
    assert writer.folder == tmp_path / "tensorboard"
    assert writer.purge_step is None
    assert "seed" in writer.text[1]
    assert writer.numbers == [("loss", 0.5, 1), ("validation/mrr", 1.0, 1), ("validation/deep/x", 2.0, 1)]
    assert writer.closed


def test_boards_keep_their_files_where_they_are_told(tmp_path: Path, tensorboard: type[Writer]) -> None:
    with Log(tmp_path / "overwrite-1", boards_folder=tmp_path, report_to=["tensorboard"]) as log:
        log.record(1, {"loss": 1.0})
    assert [writer.folder for writer in tensorboard.made] == [tmp_path / "tensorboard"]
    assert [path.name for path in tmp_path.iterdir()] == ["overwrite-1"]


def test_tensorboard_hides_what_lies_behind_a_resume(tmp_path: Path, tensorboard: type[Writer]) -> None:
    with Log(tmp_path, report_to=["tensorboard"]) as log:
        log.rewind(7)
        log.record(8, VALUES)
    assert [writer.purge_step for writer in tensorboard.made] == [8]


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def init(**options: Any) -> Any:
        said.append(options)
        return SimpleNamespace(id="a1", log=lambda numbers, step: said.append((step, numbers)), finish=lambda: None)

    module = ModuleType("wandb")
    vars(module)["init"] = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    folder = tmp_path / "run"
    for start in (0, 1, 0):
        with Log(folder, report_to=["wandb"], settings={"seed": 3}) as log:
            log.rewind(start)
            log.record(start + 1, {"loss": 1.0})
    first = {"project": "gnomon", "name": "run", "dir": str(folder), "config": {"seed": 3}}
    resumed = first | {"id": "a1", "resume": "allow"}
    assert said == [first, (1, {"loss": 1.0}), resumed, (2, {"loss": 1.0}), first, (1, {"loss": 1.0})]


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_board_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExtraError, match=f"report_to names '{name}', .* not installed: pip install {name}, or leave"):
        Log(tmp_path / "run", report_to=[name])
    assert not (tmp_path / "run").exists()
