"""`gnomon train`, as a user meets it; the training itself is a stand-in here."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from small_runs import bert, recipe_of, rows, saved, write

from gnomon.cli import main
from gnomon.errors import InputError
from gnomon.train.recipe.toml import read, render_toml, to_toml

Run = Callable[..., Result]

RECIPE = 'model = "m"\noutput = "out"\nmax_steps = 3\n[[sources]]\npath = "pairs.jsonl"\n'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs in a folder of its own, where mine.toml is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(RECIPE, "utf-8")

    def invoke(*args: object) -> Result:
        return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["train", *(str(arg) for arg in args)])

    return invoke


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What the library was asked for."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def train(recipe: Any, **how: Any) -> Path:
        found.append((recipe, how))
        return Path(recipe.output) / "model"

    monkeypatch.setattr("gnomon.train.train", train)
    return found


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ([], {"resume": False, "overwrite": False}),
        (["--resume"], {"resume": True, "overwrite": False}),
        (["--overwrite"], {"resume": False, "overwrite": True}),
    ],
)
def test_it_trains_and_prints_the_folder(run: Run, calls: list, options: list[str], how: dict[str, bool]) -> None:
    ran = run("mine.toml", "batch_size=8", "loss.temperature=0.02", *options)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "out/model\n", "")
    assert calls == [(read("mine.toml", ["batch_size=8", "loss.temperature=0.02"]), how)]


def test_options_stand_anywhere(run: Run, calls: list) -> None:
    assert run("--resume", "mine.toml", "seed=7").exit_code == 0
    assert calls[0][0].seed == 7


def test_one_of_several_ranks_prints(run: Run, calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("mine.toml").stdout == ""
    assert len(calls) == 1


def test_list_names_the_recipes_and_trains_nothing(run: Run, calls: list) -> None:
    ran = run("--list")
    assert (ran.exit_code, ran.stderr, calls) == (0, "", [])
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["e5-stage2", "gist", "multi-qa", "small"]


def test_without_sources_no_file_is_taken(run: Run, calls: list) -> None:
    Path("pairs.jsonl").write_text('{"query": "a", "positive": "b"}\n', "utf-8")
    ran = run("multi-qa", "model=m", "output=x")
    assert (ran.exit_code, calls) == (2, [])
    assert all(part in ran.stderr for part in ("sources.path=", "query and positive", "sources.query=NAME"))
    assert run("multi-qa", "model=m", "output=x", "--print").exit_code == 0, "a recipe may be printed without"


def test_print_shows_the_recipe_and_trains_nothing(run: Run, calls: list) -> None:
    ran = run("gist", "--print")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, render_toml("gist"), "")
    assert "# card" in ran.stdout
    mine = run("mine.toml", "sources.weight=2", "--print").stdout
    Path("again.toml").write_text(mine, "utf-8")
    assert read("again.toml") == read("mine.toml", ["sources.weight=2"])
    assert calls == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["mine.toml", "lerning_rate=1"],
            "mine.toml: a recipe has no key 'lerning_rate'. Did you mean 'learning_rate'?",
        ),
        (["mine.toml", "batch_size=0"], "mine.toml: batch_size is 0. It must be at least 1."),
        (["none.toml"], "Recipe 'none.toml' does not exist"),
        (["gits"], "e5-stage2, gist, multi-qa, small. Did you mean 'gist'?"),
        (["gits", "--print"], "Did you mean 'gist'?"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_line(run: Run, calls: list, args: list[str], message: str) -> None:
    ran = run(*args)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert calls == []


def test_a_run_that_is_there_names_the_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(recipe: Any, **how: Any) -> Path:
        raise InputError("out holds a run already; resume=True goes on with it, overwrite=True begins anew.")

    monkeypatch.setattr("gnomon.train.train", train)
    ran = run("mine.toml")
    assert ran.exit_code == 2
    assert ran.stderr == "error: out holds a run already; --resume goes on with it, --overwrite begins anew.\n"


@pytest.mark.parametrize("option", [None, "--resume", "--overwrite"])
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_c9_a_stop_says_where_the_checkpoint_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, saved: bool, option: str | None
) -> None:
    def train(recipe: Any, **how: Any) -> Path:
        raise error

    monkeypatch.setattr("gnomon.train.train", train)
    there = Path("out/checkpoints/step-00000500")
    monkeypatch.setattr("gnomon.train.output_folder.latest_checkpoint", lambda folder: there if saved else None)
    ran = run("mine.toml", *filter(None, [option]))
    how = "--resume in place of --overwrite" if option == "--overwrite" else "--resume"
    note = f"note: the last checkpoint is {there}; the same command with {how} goes on from it.\n" if saved else ""
    end = "\ninterrupted\n" if status == 130 else ""
    assert (ran.exit_code, ran.stdout, ran.stderr) == (status, "", f"{note}{end}")


@pytest.mark.slow
def test_c9_sigterm_ends_the_process_with_143_behind_a_checkpoint(tmp_path: Path) -> None:
    """As schedulers send it to `gnomon train`, in the third step."""
    source = write(tmp_path / "pairs.jsonl", rows(40))
    recipe = recipe_of(saved(bert(), tmp_path / "base"), tmp_path / "out", source)
    (tmp_path / "mine.toml").write_text(to_toml(recipe), "utf-8")
    code = (
        "import os, signal, sys\n"
        "from gnomon.cli import main\n"
        "from gnomon.train import trainer\n"
        "step = trainer.Trainer.step\n"
        "def stopped(self, number, ahead):\n"
        "    if number == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, number, ahead)\n"
        "trainer.Trainer.step = stopped\n"
        "main(sys.argv[1:], prog_name='gnomon')"
    )
    command = [sys.executable, "-c", code, "train", str(tmp_path / "mine.toml")]
    done = subprocess.run(command, capture_output=True, text=True)
    there = tmp_path / "out" / "checkpoints" / "step-00000003"
    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "note: this step is finished and saved, then the run stops; SIGTERM again stops at once.",
        f"note: the last checkpoint is {there}; the same command with --resume goes on from it.",
    ]
    assert (there / "facts.json").is_file()


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["max_steps=3"],
        ["mine.toml", "--resume", "--overwrite"],
        ["mine.toml", "--print", "--resume"],
        ["mine.toml", "--check-gradients"],
        ["mine.toml", "--no-such-option"],
    ],
)
def test_a_usage_error_is_clicks(run: Run, calls: list, args: list[str]) -> None:
    ran = run(*args)
    assert ran.exit_code == 2
    assert ran.stderr.startswith("Usage: main train [OPTIONS] [RECIPE] [KEY=VALUE]...\n")
    assert calls == []


@pytest.mark.parametrize(("difference", "status", "last"), [(1e-9, 0, "2 of 2"), (0.5, 1, "1 of 2")])
def test_check_gradients_prints_a_table(
    run: Run, monkeypatch: pytest.MonkeyPatch, difference: float, status: int, last: str
) -> None:
    def row(mode: str, off: float) -> SimpleNamespace:
        passed = off < 1e-6
        return SimpleNamespace(loss="gist", matryoshka_mode=mode, method="GradCache", difference=off, passed=passed)

    monkeypatch.setattr(
        "gnomon.train.gradient_check.check_gradients", lambda: iter([row("-", 0.0), row("prefixes", difference)])
    )
    ran = run("--check-gradients")
    assert ran.exit_code == status
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["loss", "dims", "method", "relative", "difference"]
    assert lines[1].split() == ["gist", "-", "GradCache", "0.0e+00", "ok"]
    assert lines[2].split()[-1] == ("ok" if status == 0 else "DIFFERS")
    assert lines[3] == f"{last} gradients agree."


@pytest.mark.slow
def test_python_m_gnomon_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "gnomon", "train", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m gnomon train [OPTIONS] [RECIPE] [KEY=VALUE]...")


@pytest.mark.slow
def test_a_wrong_recipe_is_told_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom gnomon.cli import main\n"
        "try: main(['train', 'gist', 'batch_size=0'])\nexcept SystemExit as end: print(end.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "error: gist: batch_size is 0. It must be at least 1.\n")
