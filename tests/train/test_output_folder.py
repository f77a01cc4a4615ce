"""What becomes of an output folder: runs in all orders, killed anywhere, beside files that people put there."""

import errno
import os
import random
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from goldens import DISTILBERT
from rank_processes import Ended, in_process
from runs import Blow, End, run, run_to
from small_runs import log_of, recipe_of, rows, write

from gnomon import Encoder
from gnomon import folder_lock as lock
from gnomon.errors import CheckpointError, InputError, Notice
from gnomon.train import checkpoints, train, trainer
from gnomon.train import output_folder as output
from gnomon.train.recipe.schema import LossSettings, Recipe
from gnomon.train.recipe.toml import read, to_toml

pytestmark = pytest.mark.slow

SEEDS = (1, 2)
CALLS = 115
"""Of a run's calls of the file system, about: a kill falls on each of them alike."""

Wanted = dict[int, dict[str, bytes]]
"""Seed of a recipe -> the files of its model."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def recipe(folder: Path, golden_folder: Callable[[str], Path]) -> Callable[..., Recipe]:
    """Four steps of the tiny multi-qa model, saved after two; by its output and seed."""
    pairs = write(folder / "pairs.jsonl", rows(60))
    model = golden_folder(DISTILBERT)

    def made(name: str, seed: int = 1, **more: Any) -> Recipe:
        changes = {"max_steps": 4, "save_steps": 2, "max_seq_length": 8, "seed": seed, **more}
        return recipe_of(model, folder / name, pairs, **changes)

    return made


@pytest.fixture(scope="module")
def wanted(recipe: Callable[..., Recipe]) -> Wanted:
    return {seed: files_of(train(recipe(f"whole-{seed}", seed), progress=False)) for seed in SEEDS}


def files_of(model: Path) -> dict[str, bytes]:
    """What a model is: its card has times in it."""
    files = (path for path in model.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in files}


def tree(root: Path) -> dict[str, bytes]:
    """Every file, but for the lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != lock.LOCK)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def done(recipe: Callable[..., Recipe], wanted: Wanted, request: pytest.FixtureRequest) -> Recipe:
    """A run of the first seed that is complete, in an output of its own."""
    one = recipe(request.node.name.replace("/", "-"))
    shutil.rmtree(one.output, ignore_errors=True)
    shutil.copytree(recipe("whole-1").output, one.output)
    return one


def second(one: Recipe, **more: Any) -> Recipe:
    return replace(one, seed=2, **more)


# ---- a run in the place of another


ENDS = {
    "killed": End(kill_at=40),
    "Ctrl-C": End(signals=(signal.SIGINT,), step=2),
    "SIGTERM": End(signals=(signal.SIGTERM,), step=2),
    "NaN": End(nan=True, step=3),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_c1_the_earlier_run_stays_until_the_new_model_is_complete(end: End, done: Recipe, wanted: Wanted) -> None:
    """However the new one ends: the earlier files are there to the byte, and the new one goes on."""
    root, before = Path(done.output), tree(Path(done.output))
    ended = in_process(run_to, second(done), {"overwrite": True}, end)
    how = {"KeyboardInterrupt": end.signals == (signal.SIGINT,), "SystemExit": end.signals == (signal.SIGTERM,)}
    assert ended.signal == signal.SIGKILL or how.get(ended.error.partition(":")[0], end.nan)
    after = tree(root)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"overwrite-1"}
    assert output.latest_checkpoint(root) == max(
        checkpoints.checkpoints_by_step(root / "overwrite-1" / "checkpoints").values()
    )
    assert train(second(done), progress=False, resume=True) == root / "model"
    assert files_of(root / "model") == wanted[2]
    assert {path.name for path in root.iterdir()} - {"stopped"} == {*output.ENTRIES, output.MANIFEST, lock.LOCK} - {
        "stopped"
    }
    assert [line["step"] for line in log_of(root)] == [1, 2, 3, 4]
    assert read(root / "recipe.toml") == second(done)
    assert train(done, progress=False, overwrite=True) == root / "model", "its files are recognised in turn"


def test_c1_of_runs_that_were_to_overwrite_the_last_checkpoint_stays(done: Recipe) -> None:
    """One without a checkpoint leaves nothing to go on from, and the one before it counts."""
    root = Path(done.output)
    for step, end in ((2, 3), (2, 0), (1, 3)):
        with_nan = End(nan=True, step=end)
        assert "NumericError" in in_process(run_to, second(done, save_steps=step), {"overwrite": True}, with_nan).error
        found = [path.name for path in sorted(root.glob("overwrite-*"))]
        assert found == {(2, 3): ["overwrite-1"], (2, 0): ["overwrite-1", "overwrite-2"]}.get(
            (step, end), ["overwrite-1", "overwrite-3"]
        )
        wanted = {1: "overwrite-3", 2: "overwrite-1"}[step]
        assert output.latest_checkpoint(root) == max((root / wanted / "checkpoints").iterdir())
    train(second(done), progress=False, resume=True)
    assert not [*root.glob("overwrite-*")]


def test_a_run_goes_on_or_begins_anew(done: Recipe) -> None:
    with pytest.raises(InputError, match="resume=True and overwrite=True exclude each other"):
        train(done, progress=False, resume=True, overwrite=True)


@pytest.mark.parametrize("way", ["path", "relative", "link to the model", "link to the output", "package"])
@pytest.mark.parametrize("key", ["model", "teacher"])
def test_c1_a_model_that_lies_in_the_output_is_refused(
    key: str, way: str, done: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = Path(done.output), tree(Path(done.output))
    one, name = done, str(root / "model")
    if way == "relative":
        monkeypatch.chdir(root.parent)
        name = f"{root.name}/../{root.name}/model"
    elif way == "link to the model":
        (tmp_path / "link").symlink_to(root / "model")
        name = str(tmp_path / "link")
    elif way == "link to the output":
        (tmp_path / "link").symlink_to(root)
        one = replace(done, output=str(tmp_path / "link"))
    elif way == "package":
        shutil.copytree(root / "model", root / "some_model_of_mine")
        (root / "some_model_of_mine" / "__init__.py").touch()
        monkeypatch.syspath_prepend(str(root))
        name, before = "package:some_model_of_mine", tree(root)
    settings = LossSettings("cosine_distillation", teacher=name) if key == "teacher" else LossSettings()
    one = replace(one, loss=settings, **({"model": name} if key == "model" else {}))
    shown = {"model": "model", "teacher": "loss.teacher"}[key]
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError) as raised:
            train(one, progress=False, **how)
        assert str(raised.value).startswith(f"{shown} is {name}, which lies in the output folder {one.output}.")
    assert tree(root) == before


def test_c1_rows_that_a_run_writes_are_no_source(done: Recipe) -> None:
    rows_of = Path(done.output) / "stopped" / "step-00000001-rank-0.jsonl"
    rows_of.parent.mkdir()
    write(rows_of, rows(20))
    mine = write(Path(done.output) / "mine.jsonl", rows(20))
    one = replace(done, sources=(mine, replace(mine, path=(str(rows_of),))))
    with pytest.raises(InputError, match=r"step-00000001-rank-0\.jsonl is a file of the run in the output folder"):
        train(one, progress=False, overwrite=True)
    assert train(replace(done, sources=(mine,)), progress=False, overwrite=True)
    assert (Path(done.output) / "mine.jsonl").is_file()
    assert not rows_of.parent.exists()


STRANGE = [
    "model/thesis.txt",
    "model/1_Pooling/deep/er/thesis.txt",
    "model/README.md",
    "checkpoints/thesis.txt",
    "checkpoints/step-00000004/thesis.txt",
    "checkpoints/my-own/state.safetensors",
    "stopped/thesis.txt",
    "log.jsonl",
    "recipe.toml",
]


@pytest.mark.parametrize("name", STRANGE)
def test_c2_a_file_that_no_run_wrote_is_named_and_stays(name: str, done: Recipe, wanted: Wanted) -> None:
    """Also one that a run wrote and someone has changed. Beside what runs write, everything stays anyway."""
    root = Path(done.output)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a thesis\n", "utf-8")
    (root / "data").mkdir()
    (root / "data" / "thesis.txt").write_text("another", "utf-8")
    before = tree(root)
    with pytest.raises(InputError, match=rf"no run wrote or which changed since: {name}\. "):
        train(second(done), progress=False, overwrite=True)
    assert tree(root) == before
    path.rename(root / "thesis.txt")
    train(second(done), progress=False, overwrite=True)
    assert (root / "thesis.txt").read_text("utf-8") == "a thesis\n"
    assert (root / "data" / "thesis.txt").read_text("utf-8") == "another"
    assert files_of(root / "model") == wanted[2]


def test_c2_another_model_in_the_place_of_the_runs_is_kept(done: Recipe, golden_folder: Callable[[str], Path]) -> None:
    """And one behind a link is not followed."""
    root = Path(done.output)
    model = root / "model"
    shutil.rmtree(model)
    shutil.copytree(golden_folder(DISTILBERT), model)
    before = tree(root)
    for how in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match=r"no run wrote.*: model/1_Pooling/config\.json"):
            train(done, progress=False, **how)
    assert tree(root) == before
    model.rename(root / "mine")
    model.symlink_to(root / "mine")
    with pytest.raises(InputError, match=r"no run wrote.*: model\. "):
        train(done, progress=False, overwrite=True)
    assert tree(root / "mine")


def test_c2_a_file_that_comes_while_the_run_trains_is_kept(done: Recipe) -> None:
    root = Path(done.output)
    places = ("model", "checkpoints/step-00000002", "overwrite-1", "overwrite-1/checkpoints", "overwrite-1/model", "")
    (root / "overwrite-1").mkdir()  # a folder of someone's, which is no run
    (root / "overwrite-1" / "mine.txt").write_text("mine", "utf-8")

    def look(_: Encoder) -> float:
        for place in places:
            if (root / place).is_dir() and not (root / place / "thesis.txt").exists():
                (root / place / "thesis.txt").write_text(f"of {place}", "utf-8")
        return 1.0

    with pytest.warns(Notice, match="kept-1 holds files that no run wrote"):
        train(second(done), progress=False, overwrite=True, evaluate=look)
    found = {name: content.decode() for name, content in tree(root).items() if name.endswith(".txt")}
    assert found == {
        "thesis.txt": "of ",
        "kept-1/model/thesis.txt": "of model",
        "kept-1/checkpoints/step-00000002/thesis.txt": "of checkpoints/step-00000002",
        "overwrite-1/mine.txt": "mine",
        "overwrite-1/thesis.txt": "of overwrite-1",
    }


@pytest.mark.parametrize("other", [{}, {"seed": 2}])
def test_c2_a_recipe_of_ones_own_stays(other: dict[str, Any], recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """It is the run's where it says the same; another one is named."""
    one = replace(recipe("own"), output=str(tmp_path / "own"))
    text = f"# mine\n{to_toml(one)}"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.toml").write_text(text, "utf-8")
    if other:
        with pytest.raises(InputError, match=r"no run wrote.*: recipe.toml\."):
            train(replace(one, **other), progress=False)
    else:
        train(one, progress=False)
        assert (tmp_path / "own" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "own" / "recipe.toml").read_text("utf-8") == text


def test_c2_a_recipe_of_ones_own_stays_where_a_run_is_overwritten(done: Recipe, wanted: Wanted) -> None:
    root = Path(done.output)
    text = f"# mine\n{to_toml(second(done))}"
    (root / "recipe.toml").write_text(text, "utf-8")
    for _ in range(2):
        train(second(done), progress=False, overwrite=True)
        assert (root / "recipe.toml").read_text("utf-8") == text
        assert not [*root.glob("kept-*")]
    assert files_of(root / "model") == wanted[2]


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("end", ["a thesis", "a thesis\n", '{"loss": 1}', "{"])
def test_c2_a_text_at_the_end_of_the_log_is_named_and_stays(end: str, how: dict[str, bool], done: Recipe) -> None:
    """With a line's end or without. A record that was cut short is no one's text."""
    log = Path(done.output) / "log.jsonl"
    whole = log.read_bytes()
    for torn in (b"", b'{"st', b'{"step": 4, "lo', b"\0\0\0") if end == "{" else ():
        log.write_bytes(whole + torn)
        assert train(done, progress=False, **how)
        assert log.read_bytes().count(b"\n") == whole.count(b"\n")
    if end != "{":
        log.write_bytes(whole + end.encode())
        with pytest.raises(InputError, match=r"no run wrote.*: log\.jsonl\. "):
            train(done, progress=False, **how)
        assert log.read_bytes() == whole + end.encode()


@pytest.mark.parametrize("content", [b"mine", b"\xff\xfe", b"", b"0123  model/config.json\n"])
def test_c2_someones_own_written_sha256_is_named_and_stays(
    content: bytes, done: Recipe, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for one in (replace(recipe("own"), output=str(tmp_path)), done):
        path = Path(one.output) / "written.sha256"
        path.write_bytes(content)
        before = tree(Path(one.output))
        for how in ({}, {"overwrite": True}) if one is not done else ({"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match=r"no run wrote.*: .*written\.sha256"):
                train(one, progress=False, **how)
        assert tree(Path(one.output)) == before


def test_c2_a_run_of_an_earlier_version_is_named_as_such(done: Recipe) -> None:
    (Path(done.output) / "written.sha256").unlink()
    message = r"has files where a run writes.*model/config\.json.*have no written\.sha256"
    with pytest.raises(InputError, match=message):
        train(second(done), progress=False, overwrite=True)


def test_checkpoints_on_another_disk_are_written_through_a_link(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run that overwrites names the link, and what to do."""
    one = replace(recipe("linked"), output=str(tmp_path / "linked"))
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoints").symlink_to(tmp_path / "disk")
    train(one, progress=False)
    assert [*checkpoints.checkpoints_by_step(tmp_path / "disk")] == [2, 4]
    train(one, progress=False, resume=True)
    with pytest.raises(InputError, match=rf"checkpoints is a link to {tmp_path / 'disk'}\. .* Remove the link"):
        train(second(one), progress=False, overwrite=True)
    (tmp_path / "linked" / "checkpoints").unlink()
    train(second(one), progress=False, overwrite=True)
    assert [*checkpoints.checkpoints_by_step(tmp_path / "disk")] == [2, 4]


# ---- what cannot be replaced


@pytest.mark.parametrize("name", ["model", "checkpoints", "log.jsonl", "written.sha256"])
def test_a_run_that_cannot_take_the_earlier_ones_place_is_complete(
    name: str, done: Recipe, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where the new model is, and so does the next command, which ends it once it can."""
    root, rename = Path(done.output), os.rename

    def refused(source: Any, target: Any, **named: Any) -> None:
        if Path(source) == root / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        rename(source, target, **named)

    there = root / "model" if name in ("log.jsonl", "written.sha256", "checkpoints") else root / ".gnomon-new/model"
    why = f"Permission denied ({root / name})"
    message = f"the new model is complete in {there}. It could not take its place in {root}: {why}."
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        for how in ({"overwrite": True}, {"overwrite": True}, {"resume": True}, {}):
            with pytest.raises(CheckpointError, match="next command on this folder completes it") as raised:
                train(second(done), progress=False, **how)
            assert str(raised.value).startswith(message)
            assert files_of(there) == wanted[2]
    with pytest.raises(InputError, match="holds a run already"):
        train(second(done), progress=False)
    assert files_of(root / "model") == wanted[2]
    assert {path.name for path in root.iterdir()} == {*output.ENTRIES, output.MANIFEST, lock.LOCK} - {"stopped"}


def test_what_is_left_of_the_earlier_run_and_cannot_be_removed_is_told(
    done: Recipe, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, unlink = Path(done.output), os.unlink

    def refused(path: Any, **named: Any) -> None:
        if f"{output.OLD}/checkpoints/step-00000004" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        with pytest.warns(
            Notice, match=r"\.gnomon-old is left over from an earlier run and cannot be removed: Permission"
        ):
            assert train(second(done), progress=False, overwrite=True) == root / "model"
    assert files_of(root / "model") == wanted[2]
    assert (root / output.OLD / "checkpoints" / "step-00000004").is_dir()
    train(second(done), progress=False, resume=True)
    assert not (root / output.OLD).exists()


@pytest.mark.parametrize("name", ["", "model", "model/1_Pooling", "checkpoints", "checkpoints/step-00000004"])
@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_what_cannot_be_replaced_is_told_before_the_first_step(
    how: dict[str, bool], name: str, done: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = Path(done.output), tree(Path(done.output))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != root / name)
    with pytest.raises(InputError, match="Change its permissions") as raised:
        train(done, progress=False, **how)
    assert str(raised.value).startswith(f"output {root} cannot be written to: {root / name} is read-only.")
    assert tree(root) == before


def test_an_output_that_cannot_be_read_is_told(done: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(output, "_hash_file", refused)
    with pytest.raises(InputError, match=r"^output .* cannot be used: .*Permission denied.*model"):
        train(done, progress=False, overwrite=True)


# ---- a folder that is held, or cannot be written to


def test_c8_a_second_run_in_the_same_output_is_refused(done: Recipe, tmp_path: Path) -> None:
    """By whatever name of the folder; it says which process holds it. Nothing of the first is touched."""
    message: list[str] = []
    (tmp_path / "link").symlink_to(done.output)

    def look(_: Encoder) -> float:
        before = tree(Path(done.output))
        for where in (done.output, str(tmp_path / "link")):
            for how in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(InputError) as raised:
                    train(second(done, output=where), progress=False, **how)
                message.append(str(raised.value))
        assert tree(Path(done.output)) == before
        return 1.0

    train(done, progress=False, overwrite=True, evaluate=look)
    assert len(message) == 6 * 3
    assert all(f"is held by another run, process {os.getpid()} on " in each for each in message)
    train(done, progress=False, overwrite=True)


def test_c8_a_run_that_is_killed_leaves_no_lock(recipe: Callable[..., Recipe]) -> None:
    one = recipe("killed")
    assert in_process(run, one, False, Blow("SIGKILL", 1)) == Ended(signal=signal.SIGKILL)
    assert "process" in (Path(one.output) / lock.LOCK).read_text("utf-8")
    train(one, progress=False)
    assert (Path(one.output) / lock.LOCK).read_text("utf-8") == ""


def test_c8_where_there_are_no_locks_a_notice_says_so(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock_at_once", none)
    with pytest.warns(Notice, match="the file system of output has no locks"):
        train(recipe("unlocked"), progress=False)


def test_a_folder_that_was_made_for_a_run_that_is_refused_is_removed(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """With those above it that were made; one that was there stays."""
    (tmp_path / "there").mkdir()
    for where in (tmp_path / "runs" / "new", tmp_path / "there"):
        one = replace(recipe("few"), output=str(where), batch_size=100)
        for _ in range(2):
            with pytest.raises(InputError, match=r"has 60 rows.* 100"):
                train(one, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_c8_a_lock_that_is_removed_while_it_is_waited_for_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run ends, and removes its folder, between another's opening of the file and its locking."""
    folder, at_once, gone = tmp_path / "out", lock._lock_at_once, [1, 2]

    def late(handle: int) -> None:
        if gone:
            gone.pop()
            (folder / lock.LOCK).unlink()
            folder.rmdir()
        at_once(handle)

    monkeypatch.setattr(lock, "_lock_at_once", late)
    with lock.lock_folder(folder):
        assert (folder / lock.LOCK).read_text("utf-8").startswith(f"process {os.getpid()} on ")
        with (
            pytest.raises(InputError, match=f"is held by another run, process {os.getpid()} on "),
            lock.lock_folder(folder),
        ):
            pass
        assert folder.is_dir()
    assert not folder.exists()


def test_an_output_that_is_a_link_to_nothing_is_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("link", "link/below"):
        one = replace(recipe("link"), output=str(tmp_path / name))
        with pytest.raises(InputError, match=rf"link is a link to {tmp_path / 'gone'}, which is not there\. Make that"):
            train(one, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_an_output_that_is_a_file_is_refused(recipe: Callable[..., Recipe], folder: Path) -> None:
    (folder / "file").write_text("x", "utf-8")
    for name in ("file", "file/below"):
        with pytest.raises(InputError, match=r"^output is .*file.*, and .*file is a file\. Give the path of a folder"):
            train(recipe(name), progress=False)
    assert (folder / "file").read_text("utf-8") == "x"


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system"), (errno.ENOSPC, "the disk is full")],
)
def test_an_output_that_cannot_be_written_to_is_refused(
    number: int, why: str, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refused(path: Any, *args: Any, **named: Any) -> int:
        if str(path).endswith(lock.LOCK):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **named)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(
        InputError, match=rf"^output .* cannot be written to: .*{why}.* Make room or change its permissions"
    ):
        train(recipe("refused"), progress=False)


def test_a_disk_without_room_for_a_checkpoint_is_told_before_the_first_step(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recipe("full")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 2_000_000, 2_000_000))
    with pytest.raises(InputError, match=r"full has 2 MB free, and a checkpoint with the model takes [3-9] MB\."):
        train(one, progress=False)
    assert not Path(one.output).exists()


def test_a_disk_that_is_full_at_the_end_leaves_the_earlier_model(
    done: Recipe, monkeypatch: pytest.MonkeyPatch, wanted: Wanted
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_folder", full)
        last = Path(done.output) / "overwrite-1" / "checkpoints" / "step-00000004"
        message = (
            f"the model was not written: the disk is full. Make room .* use resume=True: the last checkpoint is {last}"
        )
        with pytest.raises(CheckpointError, match=message):
            train(second(done), progress=False, overwrite=True)
    assert files_of(Path(done.output) / "model") == wanted[1]
    train(second(done), progress=False, resume=True)
    assert files_of(Path(done.output) / "model") == wanted[2]


# ---- at random


class Person:
    """Someone who trains into one folder again and again, puts files there, and looks what is left."""

    def __init__(self, seed: int, made: Callable[..., Recipe], wanted: Wanted) -> None:
        self.draw, self.wanted = random.Random(seed), wanted
        self.made = lambda which: made(f"random-{seed}", which)
        self.root = Path(self.made(1).output)
        self.root.mkdir()
        self.planted = Path(f"{self.root}.planted")
        self.own: list[str] = []
        """Contents of files that no run wrote."""
        self.story: list[Any] = []
        self.which = 1

    # what it does

    def plant(self, place: Path) -> tuple[str, str]:
        name = self.draw.choice(["thesis.txt", "notes.md", "data.jsonl", "facts.txt"])
        return str(place / f"{len(self.own)}-{name}"), f"own {len(self.own)} of {self.root.name}\n"

    def put_a_file(self) -> None:
        places = [self.root, *(path for path in self.root.rglob("*") if path.is_dir() and "/." not in str(path))]
        path, content = self.plant(self.draw.choice(places))
        Path(path).write_text(content, "utf-8")
        self.own.append(content)
        self.story.append(("file", path))

    def edit_a_card(self) -> None:
        for card in self.root.glob("model/README.md"):
            if card.read_bytes().startswith(b"own "):
                continue
            content = f"own {len(self.own)} of {self.root.name}\n"
            card.write_text(content, "utf-8")
            self.own.append(content)
            self.story.append(("edit", card))

    def put_away(self) -> None:
        """As the message says: what stands in the way goes to another place in the output."""
        for path in [*self.root.rglob("*")]:
            if path.is_file() and path.read_bytes().startswith(b"own ") and path.parent != self.root:
                path.rename(self.root / f"away-{path.name}-{self.draw.random()}")

    def start(self, how: dict[str, bool], end: End) -> Any:
        if not (how.get("resume") and self.draw.random() < 0.8):
            self.which = self.draw.choice(SEEDS)
        which = self.which
        before = self.found()
        self.planted.write_text("", "utf-8")
        ended = in_process(run_to, self.made(which), how, end)
        self.story.append((which, how, end, ended.error or ended.signal or "ended"))
        self.own += self.planted.read_text("utf-8").splitlines(keepends=True)
        self.check(before)
        if not ended.error and not ended.signal:
            assert self.is_whole(self.root / "model", self.wanted[which]), self.story
            left = {path.name for path in self.root.iterdir()} - {*output.ENTRIES}
            own = {name for name in left if name.startswith(("away-", "kept-")) or name[0].isdigit()}
            assert left - own == {".gnomon-lock", "written.sha256"}, self.story
        return ended

    # what it looks at

    def found(self) -> tuple[bool, bool]:
        """Whether there is a complete model, and whether there is that or a checkpoint that can be read.

        A model that was complete, and not yet decided on, is none: the run goes on from its last checkpoint.
        """
        new = self.root / output.NEW
        models = [self.root / "model", new / "model", new / output.MODEL_DRAFT, self.root / output.OLD / "model"]
        whole = [path for path in models if any(self.is_whole(path, files) for files in self.wanted.values())]
        if (self.root / "model").is_dir() and self.root / "model" in whole:
            Encoder.load(self.root / "model")
        saved = [
            each for path in self.root.rglob("checkpoints") for each in checkpoints.checkpoints_by_step(path).values()
        ]
        for path in saved:
            checkpoints.load(path)
        return bool(whole), bool(whole or saved)

    @staticmethod
    def is_whole(model: Path, files: dict[str, bytes]) -> bool:
        there = files_of(model)
        return all(there.get(name) == content for name, content in files.items())

    def check(self, before: tuple[bool, bool]) -> None:
        contents = {path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        lost = [content for content in self.own if content.encode() not in contents]
        assert not lost, self.story
        after = self.found()
        assert after[0] or not before[0], ("no model is left", self.story)
        assert after[1] or not before[1], ("nothing is left", self.story)


REFUSED = ("holds a run already", "holds no checkpoint", "no run wrote", "is of another run")


@pytest.mark.parametrize("seed", range(int(os.environ.get("GNOMON_RANDOM_RUNS", "12"))))
def test_no_file_is_lost_and_a_model_or_checkpoint_stays(
    seed: int, recipe: Callable[..., Recipe], wanted: Wanted
) -> None:
    """Runs that begin, overwrite and go on, and are killed or stopped anywhere, with files put in between. For more of
    them, GNOMON_RANDOM_RUNS=200.
    """
    person = Person(seed, recipe, wanted)
    draw = person.draw
    for _ in range(7):
        for act in draw.sample([person.put_a_file, person.edit_a_card, person.put_away, person.put_away], 2):
            act() if draw.random() < 0.4 else None
        how: dict[str, bool] = draw.choice([{"overwrite": True}, {"resume": True}, {"resume": True}, {}])
        if not any(person.root.rglob("checkpoints")) and draw.random() < 0.8:
            how = {}
        plants = (person.plant(person.root / draw.choice(["model", "checkpoints", "", "overwrite-1"])),)
        end = draw.choice(
            [
                End(),
                End(kill_at=draw.randrange(CALLS), after=draw.random() < 0.5),
                End(kill_at=draw.randrange(CALLS), after=draw.random() < 0.5),
                End(signals=(signal.SIGTERM,) * draw.randrange(1, 3), step=draw.randrange(4)),
                End(nan=True, step=draw.randrange(4)),
                End(plants=plants, step=draw.randrange(4)),
            ]
        )
        ended = person.start(how, end)
        if ended.error.startswith("InputError"):
            assert any(reason in ended.error for reason in REFUSED), person.story
        else:
            assert ended.error.split(":")[0] in ("", "SystemExit", "NumericError"), (ended, person.story)
        if "no run wrote" in ended.error:
            person.put_away()
    person.put_away()
    last = person.start({"overwrite": True}, End())
    assert last.value[0] == str(person.root / "model"), person.story
