"""What tests let processes of their own do: training that is killed, interrupted, or fails on one rank."""

import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.errors import Notice
from gnomon.tokenizer import Tokenizer
from gnomon.train import checkpoints, train, trainer
from gnomon.train.data.prepare import open_training_data
from gnomon.train.distributed import Ranks
from gnomon.train.objectives import batch_loss, contrastive
from gnomon.train.recipe.schema import Recipe

ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("no such thing"),
    "RuntimeError": RuntimeError("not enough memory"),
}


@dataclass(frozen=True)
class Blow:
    """What ends a run, or tries to."""

    how: str
    """SIGKILL, SIGINT, or a name of ERRORS."""
    step: int
    """In which step; the first is 0."""
    place: str = "before"
    """"before" the step, "behind" its update, or "within" the checkpoint behind it, half written."""
    rank: int | None = None
    """On which rank; None for all."""

    def fall(self) -> None:
        if self.rank is not None and self.rank != int(os.environ.get("RANK", "0")):
            return
        if self.how in ERRORS:
            raise ERRORS[self.how]
        os.kill(os.getpid(), getattr(signal, self.how))


def run(recipe: Recipe, resume: bool = False, blow: Blow | None = None) -> str:
    """Train, and end as asked."""
    if blow is not None:
        _prepare(blow)
    return str(train(recipe, resume=resume, progress=False))


def _prepare(blow: Blow) -> None:
    inner, sync = trainer.Trainer.step, checkpoints.fsync_folder

    def step(self: Any, number: int, ahead: Any) -> Any:
        if number == blow.step and blow.place == "before":
            blow.fall()
        facts = inner(self, number, ahead)
        if number == blow.step and blow.place == "behind":
            blow.fall()
        return facts

    def halfway(folder: Path) -> None:
        if folder.name.startswith(f".step-{blow.step + 1:08}"):
            blow.fall()
        sync(folder)

    trainer.Trainer.step = step
    if blow.place == "within":
        checkpoints.fsync_folder = halfway


# ---- ends at any call of the file system


CALLS = ("rename", "replace", "unlink", "mkdir", "rmdir", "fsync")


@dataclass(frozen=True)
class End:
    """What happens to a run, beside what it does itself."""

    kill_at: int | None = None
    """The call of CALLS in its output, counted from 0, at which it is killed."""
    after: bool = False
    """Whether the call is still done."""
    signals: tuple[int, ...] = ()
    """What is sent to it within `step`."""
    nan: bool = False
    """Whether the loss of `step` is NaN."""
    plants: tuple[tuple[str, str], ...] = ()
    """Path and content of files that someone writes within `step`, where their folder is; OUTPUT.planted says so."""
    step: int = 0


def run_to(recipe: Recipe, how: dict[str, bool], end: End) -> tuple[str, int]:
    """Train as far as `end` lets it; returns the model's folder and how many calls there were."""
    calls = _counted(Path(recipe.output), end)
    inner, parts = trainer.Trainer.step, batch_loss.BatchLoss.compute_parts

    def step(self: Any, number: int, ahead: Any) -> Any:
        if number == end.step:
            for path, content in end.plants:
                if Path(path).parent.is_dir():
                    Path(path).write_text(content, "utf-8")
                    with Path(f"{recipe.output}.planted").open("a", encoding="utf-8") as file:
                        file.write(content)
            for each in end.signals:
                os.kill(os.getpid(), each)
        return inner(self, number, ahead)

    def broken(self: Any, vectors: Any, inputs: Any) -> Any:
        for part in parts(self, vectors, inputs):
            yield part * float("nan") if inputs.step == end.step else part

    trainer.Trainer.step = step
    if end.nan:
        batch_loss.BatchLoss.compute_parts = broken
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return str(train(recipe, progress=False, **how)), len(calls)


def _counted(output: Path, end: End) -> list[str]:
    """Counts calls of the file system in a folder, and kills this process at one of them."""
    calls: list[str] = []

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            here = str(args[0]).startswith(f"{output}/") or name == "fsync" or named.get("dir_fd") is not None
            if here:
                calls.append(name)
            at = here and len(calls) - 1 == end.kill_at
            if at and not end.after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **named)
            finally:
                if at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    for name in CALLS:
        setattr(os, name, counting(name, getattr(os, name)))
    return calls


def digests(recipe: Recipe, first: int, count: int, rank: int = 0, world: int = 1) -> list[str]:
    """Of batches, in a process that has trained nothing."""
    base = read_folder(resolve_source(recipe.model))
    tokenizer = Tokenizer(base.tokenizer, base.spec.tokenizer)
    data = open_training_data(recipe, base.spec, tokenizer, Ranks(), progress=False)
    draws = (data.sampler.batch_at(batch) for batch in range(first, first + count))
    return [data.collator.read_rows(draw, rank, world).digest for draw in draws]


def with_evaluate(recipe: Recipe, evaluate: Callable[[Any], float]) -> str:
    return str(train(recipe, progress=False, evaluate=evaluate))


def failing(_: Any) -> float:
    raise RuntimeError("the set is not there")


def width(encoder: Any) -> float:
    """A score that says on which rank it was made, too."""
    assert os.environ.get("RANK", "0") == "0"
    return float(encoder.encode("noon")[0])


def with_nan(recipe: Recipe, step: int) -> str:
    """A loss that is no number on every rank, in one step."""
    parts = batch_loss.BatchLoss.compute_parts

    def broken(self: Any, vectors: Any, inputs: Any) -> Any:
        for part in parts(self, vectors, inputs):
            yield part * float("nan") if inputs.step == step else part

    batch_loss.BatchLoss.compute_parts = broken
    return run(recipe)


def own_end(recipe: Recipe) -> dict[str, bytes]:
    """All that a rank itself has behind the last step, though it came with random numbers of its own."""
    torch.manual_seed(int(os.environ["RANK"]))
    found: dict[str, bytes] = {}
    finish = trainer.Trainer._finish

    def look(self: Any) -> Any:
        found.update({name: each.numpy().tobytes() for name, each in self.state.to_tensors().items()})
        return finish(self)

    trainer.Trainer._finish = look
    run(recipe)
    return found


def seeds(recipe: Recipe) -> list[int]:
    """Of every chunk's random numbers on this rank."""
    found: list[int] = []
    chunks_of = contrastive.split_into_chunks

    def look(*args: Any, **named: Any) -> Any:
        chunks = chunks_of(*args, **named)
        found.extend(chunk.seed for chunk in chunks)
        return chunks

    contrastive.split_into_chunks = look
    run(recipe)
    return found
