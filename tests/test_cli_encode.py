"""`gnomon encode` stopped and resumed, as a user meets it: messages, exit status, files."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gnomon import text_files, vector_drafts
from gnomon.cli import main
from gnomon.text_files import GroupLimits

Run = Callable[..., Result]
GROUP = GroupLimits(2, 1000)


@pytest.fixture
def gist(golden_folder: Callable[[str], Path]) -> Path:
    return golden_folder("GIST-Embedding-v0")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with groups of two texts."""
    init = text_files.TextStream.__init__

    def small(self: Any, *args: Any, **how: Any) -> None:
        init(self, *args, **{"limits": GROUP} | how)

    monkeypatch.setattr(text_files.TextStream, "__init__", small)

    def invoke(*args: object, stdin: str | None = None) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(main, [str(arg) for arg in args], input=stdin)

    return invoke


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\nthree\nfour\nfive\n")
    return path


def fails(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line


@contextmanager
def stopped_at(number: int, error: BaseException) -> Generator[None]:
    """The group with this number raises."""
    append, numbers = vector_drafts.NpyDraft.append, iter(range(100))

    def broken(draft: Any, *args: Any) -> None:
        if next(numbers) == number:
            raise error
        append(draft, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_drafts.NpyDraft, "append", broken)
        yield


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_done_is_kept_and_resumed(
    run: Run, gist: Path, texts: Path, tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "out.npy"
    with stopped_at(2, error):
        stopped = run("encode", gist, texts, out)
    assert stopped.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert (
        f"note: 4 texts are encoded and kept in {out}.partial. The same command with --resume goes on" in stopped.stderr
    )
    last = stopped.stderr.splitlines()[-1]
    assert last == (
        "interrupted"
        if isinstance(error, KeyboardInterrupt)
        else f"error: {out} was not written: the disk is full ({tmp_path})."
    )
    assert not out.exists()
    fails(run("encode", gist, texts, out), r"out\.npy\.partial holds .* 4 texts.* --resume, .* --overwrite")
    other = run("encode", gist, texts, out, "--resume", "--precision", "float16")
    fails(other, r"precision is 'float16' and was 'float32'")
    assert "encoded and kept" not in other.stderr  # going on with this command would fail again
    resumed = run("encode", gist, texts, out, "--resume")
    assert re.search(r"out\.npy: 5 texts of 64 dimensions, 4 of them before; ", resumed.stderr)
    assert resumed.exit_code == 0
    whole = run("encode", gist, texts, tmp_path / "whole.npy")
    assert whole.exit_code == 0
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_nothing_to_resume_is_a_note(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    result = run("encode", gist, texts, tmp_path / "out.npy", "--resume")
    assert result.exit_code == 0
    assert "note: nothing of" in result.stderr
    fails(run("encode", gist, texts, tmp_path / "out.npy", "--resume"), r"out\.npy is complete")


@pytest.mark.parametrize("content", ["five", "other"])
def test_standard_input_is_resumed_if_the_texts_are_the_same(
    run: Run, gist: Path, texts: Path, tmp_path: Path, content: str
) -> None:
    out, piped = tmp_path / "out.npy", texts.read_text()
    with stopped_at(2, KeyboardInterrupt()):
        run("encode", gist, "-", out, stdin=piped)
    if content == "other":
        fails(
            run("encode", gist, "-", out, "--resume", stdin=piped.replace("two", "2")),
            "standard input is not the input",
        )
    result = run("encode", gist, "-", out, "--resume", stdin=piped)
    assert result.exit_code == 0, result.stderr
    assert len(np.load(out)) == 5


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_a_stream_cannot_be_resumed(run: Run, gist: Path, texts: Path, output: str) -> None:
    fails(run("encode", gist, texts, output, "--resume"), "not a file, .*--resume")


def test_resume_and_overwrite_exclude_each_other(run: Run, gist: Path, texts: Path) -> None:
    result = run("encode", gist, texts, "out.npy", "--resume", "--overwrite")
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert "--overwrite" in result.stderr


def test_an_output_is_refused_before_the_model_is_loaded(run: Run, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npy").write_text("precious")
    fails(run("encode", "no-such-model", texts, tmp_path / "out.npy"), "there already")
    assert (tmp_path / "out.npy").read_text() == "precious"


def test_a_late_bad_line_is_an_error_before_the_work(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    texts.write_bytes(b"a\nb\nc\nd\n\xff\n")
    fails(run("encode", gist, texts, tmp_path / "out.npy"), r"in\.txt, line 5: not UTF-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]


def test_jsonl_on_stdout_comes_group_by_group(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    printed = run("encode", gist, texts, "-")
    assert run("encode", gist, texts, tmp_path / "out.jsonl").exit_code == 0
    assert printed.stdout == (tmp_path / "out.jsonl").read_text()
    assert re.search(r"^standard output: 5 texts of 64 dimensions; ", printed.stderr)


# ---- processes

CODE = """
import os, sys
from gnomon import text_files
from gnomon.text_files import collect, read
limits = collect.GroupLimits(40, 100000)
init = text_files.TextStream.__init__
text_files.TextStream.__init__ = lambda self, *args, **how: init(self, *args, **{"limits": limits} | how)
from gnomon.encode_call import EncodeCall
log = os.open(os.environ["GROUP_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
add = EncodeCall.add_vectors
def logged(self, rows, vectors):
    if self._num_missing == len(self.token_counts_R):
        os.write(log, f"{self._first_position}\\n".encode())
    return add(self, rows, vectors)
EncodeCall.add_vectors = logged
from gnomon.__main__ import main
main()
"""


def start(log: Path, *args: object, **how: Any) -> subprocess.Popen[bytes]:
    env = os.environ | {"GROUP_LOG": str(log)}
    command = [sys.executable, "-c", CODE, "encode", *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=env, **how)


def wait_for_groups(log: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many groups more were begun, or the process has ended."""
    before = len(log.read_text().split()) if log.exists() else 0
    while process.poll() is None and (len(log.read_text().split()) if log.exists() else 0) < before + count:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_sigkill_at_any_moment(gist: Path, tmp_path: Path, form: str) -> None:
    source, out, log = tmp_path / "in.txt", tmp_path / f"out.{form}", tmp_path / "log"
    source.write_text("".join(f"a text with the number {number}\n" for number in range(2000)))
    draw = random.Random(5)
    kills = 0
    for _ in range(5):
        process = start(log, gist, source, out, "--resume")
        wait_for_groups(log, draw.randrange(1, 12), process)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert not out.exists()
    process = start(log, gist, source, out, "--resume")
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    begun = log.read_text().split()
    assert len(set(begun)) == 50
    assert len(begun) - 50 <= kills
    process = start(tmp_path / "other-log", gist, source, tmp_path / f"whole.{form}")
    process.communicate()
    assert out.read_bytes() == (tmp_path / f"whole.{form}").read_bytes()
    assert not Path(f"{out}.partial").exists()


@pytest.mark.slow
def test_ctrl_c_while_standard_input_waits_ends_well(gist: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.npy", tmp_path / "log"
    process = start(log, gist, "-", out, stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(b"".join(b"text %d\n" % number for number in range(100)))
    process.stdin.flush()
    state = Path(f"{out}.partial/state.json")
    while not (state.exists() and json.loads(state.read_text())["num_texts"] == 80):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    with process.stdin, process.stderr:
        stderr = process.stderr.read().decode()  # while standard input is still open
    assert process.wait() == 130
    assert "80 texts are encoded and kept" in stderr
    assert stderr.endswith("\ninterrupted\n")


@pytest.mark.slow
def test_a_second_process_on_the_same_output_is_refused(gist: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.npy", tmp_path / "log"
    first = start(log, gist, "-", out, stdin=subprocess.PIPE)
    while not Path(f"{out}.partial").exists():
        assert first.poll() is None
        time.sleep(0.01)
    assert first.stdin
    second = start(log, gist, "-", out, "--overwrite", stdin=subprocess.DEVNULL)
    _, stderr = second.communicate()
    assert second.returncode == 2
    assert f"held by another run, process {first.pid}" in stderr.decode()
    first.communicate(b"a\nb\n")
    assert first.returncode == 0
    assert len(np.load(out)) == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_summary_that_cannot_be_written_stops_nothing(gist: Path, texts: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "gnomon", "encode", gist, texts, tmp_path / "out.npy"]
        assert subprocess.run([*map(str, command)], stderr=full, check=False).returncode == 0
    assert len(np.load(tmp_path / "out.npy")) == 5
