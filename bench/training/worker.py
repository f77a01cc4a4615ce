"""One run of training in a process of its own: a job as JSON in the first argument, its figures as one line of JSON.

Whatever the trainers print goes to stderr.
"""

import json
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine

SCALE = 20.0
LEARNING_RATE = 2e-5


@dataclass(frozen=True)
class Job:
    trainer: str
    """ "gnomon" or "sentence-transformers"."""
    model: str
    rows: str
    """File that gnomon draws its batches from."""
    ordered: str
    """The rows of these batches in their order, for sentence-transformers: both train on the same batches."""
    place: str
    """Folder for indexes and what the run writes."""
    batch: int
    steps: int
    warm: int = 0
    """Steps before those that are timed."""
    length: int | None = None
    """Tokens of a text that are read; None for as many as the model reads."""
    chunk_tokens: int | None = None
    """gnomon's; None for its own default."""
    mini_batch: int | None = None
    """Of CachedMultipleNegativesRankingLoss; None for the loss without a cache."""
    device: str = "cpu"
    seed: int = 42

    @property
    def bf16(self) -> bool:
        return self.device != "cpu"


@dataclass
class Seen:
    """What was measured of the steps of a run."""

    device: str
    exact: tuple[int, ...] = ()
    """Marks at which a GPU is waited for: where the timed steps begin and end."""
    marks: list[float] = field(default_factory=list[float])
    """Where the first step begins, then where each ends; what lies between two steps counts for the second."""
    tokens: list[int] = field(default_factory=list[int])
    computed: list[int] = field(default_factory=list[int])
    """Tokens with padding."""
    losses: list[float] = field(default_factory=list[float])
    start_mib: float = 0.0
    peak_mib: float = 0.0
    """Up to the end of the last step; the result is not written yet."""
    device_mib: float | None = None

    def mark(self) -> None:
        if len(self.marks) in self.exact:
            machine.synchronize(self.device)
        self.marks.append(time.perf_counter())
        self.start_mib = self.start_mib or machine.resident_mib()
        self.peak_mib, self.device_mib = machine.peak_mib(), machine.device_peak_mib(self.device)


def main() -> None:
    with redirect_stdout(sys.stderr):
        try:
            answer = run(Job(**json.loads(sys.argv[1])))
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


def run(job: Job) -> dict[str, Any]:
    seen = Seen(job.device, (0, job.warm, job.steps))
    TRAINERS[job.trainer](job, seen)
    return asdict(seen) | {"whole_mib": machine.peak_mib()}


# ---- gnomon


def with_gnomon(job: Job, seen: Seen) -> None:
    from gnomon.train import train

    with watched(seen):
        train(recipe_of(job), overwrite=True, progress=False)


@contextmanager
def watched(seen: Seen) -> Generator[None]:
    """Inside, steps of a run of gnomon are marked."""
    from gnomon.train.trainer import Trainer

    step = Trainer.step

    def marked(self: Trainer, *arguments: Any) -> dict[str, Any]:
        if not seen.marks:
            seen.mark()
        facts = step(self, *arguments)
        seen.mark()
        seen.tokens.append(facts["tokens"])
        seen.losses.append(facts["loss"])
        return facts

    Trainer.step = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.step = step  # type: ignore[method-assign]


def recipe_of(job: Job) -> Any:
    from gnomon.train import DataSource, LossSettings, Recipe

    return Recipe(
        model=job.model,
        output=str(Path(job.place) / "gnomon"),
        sources=(DataSource((job.rows,), query="anchor"),),
        cache_dir=str(Path(job.place) / "index"),
        max_seq_length=job.length,
        batch_size=job.batch,
        max_steps=job.steps,
        save_steps=job.steps,
        learning_rate=LEARNING_RATE,
        loss=LossSettings(name="info_nce", scale=SCALE),
        chunk_tokens=job.chunk_tokens,
        device=job.device,
        bf16=job.bf16,
        seed=job.seed,
    )


# ---- sentence-transformers


def with_sentence_transformers(job: Job, seen: Seen) -> None:
    """AdamW, linear decay and clipping at 1.0 are its own defaults, and gnomon's."""
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler
    from transformers import TrainerCallback

    counts: list[Any] = []
    losses: list[Any] = []

    class InOrder(SentenceTransformerTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> BatchSampler:
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
            masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
            counts.append([(mask.sum(), filled(mask, job.mini_batch)) for mask in masks])
            loss = super().compute_loss(model, inputs, *arguments, **options)
            losses.append(loss.detach())
            return loss

    class Marks(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **options: Any) -> None:
            seen.mark()

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            seen.mark()

    cpu = job.device == "cpu"
    model = SentenceTransformer(job.model, device=job.device)
    if job.length is not None:
        model.max_seq_length = job.length
    cached = {} if job.mini_batch is None else {"mini_batch_size": job.mini_batch}
    loss = (CachedMultipleNegativesRankingLoss if cached else MultipleNegativesRankingLoss)(
        model, scale=SCALE, **cached
    )
    trainer = InOrder(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(Path(job.place) / "sentence-transformers"),
            max_steps=job.steps,
            per_device_train_batch_size=job.batch,
            learning_rate=LEARNING_RATE,
            seed=job.seed,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            bf16=job.bf16,
            use_cpu=cpu,
            dataloader_pin_memory=not cpu,
        ),
        train_dataset=load_dataset("json", data_files=job.ordered, split="train", cache_dir=job.place),
        loss=loss,
        callbacks=[Marks()],
    )
    trainer.train()
    seen.tokens, seen.computed = ([sum(int(column[of]) for column in step) for step in counts] for of in (0, 1))
    seen.losses = [float(loss) for loss in losses]
    model.save(str(Path(job.place) / "sentence-transformers" / "model"))


def filled(mask_BS: Any, mini_batch: int | None) -> Any:
    """Tokens that are computed, padding and all: mini-batches are cut to their own longest text."""
    parts = mask_BS.sum(1).split(mini_batch or len(mask_BS))
    return sum(len(part) * part.max() for part in parts)


TRAINERS = {"gnomon": with_gnomon, "sentence-transformers": with_sentence_transformers}


if __name__ == "__main__":
    main()
