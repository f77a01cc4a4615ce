"""One run of training in a process of its own: a job as JSON in the first argument, its figures as one line of JSON.

Whatever the trainers print goes to stderr.
"""

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.process import attempt

SCALE = 20.0
LEARNING_RATE = 2e-5
SEED = 42


@dataclass(frozen=True)
class Job:
    model: str
    trainer: str = "gnomon"
    """ "gnomon" or "sentence-transformers"."""
    place: str = ""
    """Folder with rows.jsonl, which gnomon draws its batches from, and ordered.jsonl, which holds the rows of these
    batches in their order, for sentence-transformers. Indexes and what the run writes go there too.
    """
    batch: int = 64
    steps: int = 1
    warm: int = 0
    """Steps before those that are timed."""
    length: int | None = None
    """Tokens of a text that are read; None for as many as the model reads."""
    chunk_tokens: int | None = None
    """gnomon's; None for its own default."""
    mini_batch: int | None = None
    """Of CachedMultipleNegativesRankingLoss; None for the loss without a cache."""
    device: str = "cpu"
    """On a GPU both trainers compute in bf16."""

    def path(self, name: str) -> str:
        return str(Path(self.place) / name)


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
    peak_mib: float = 0.0
    """Up to the end of the last step; the result is not written yet."""
    device_mib: float | None = None

    def mark(self) -> None:
        if len(self.marks) in self.exact:
            machine.synchronize(self.device)
        self.marks.append(time.perf_counter())
        self.peak_mib, self.device_mib = machine.peak_mib(), machine.device_peak_mib(self.device)


def main() -> None:
    with redirect_stdout(sys.stderr):
        answer = attempt(lambda: run(Job(**json.loads(sys.argv[1]))))
    print(answer)


def run(job: Job) -> dict[str, Any]:
    seen = Seen(job.device, (0, job.warm, job.steps))
    TRAINERS[job.trainer](job, seen)
    return asdict(seen)


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
        output=job.path("gnomon"),
        sources=(DataSource((job.path("rows.jsonl"),), query="anchor"),),
        cache_dir=job.path("index"),
        max_seq_length=job.length,
        batch_size=job.batch,
        max_steps=job.steps,
        save_steps=job.steps,
        learning_rate=LEARNING_RATE,
        loss=LossSettings(name="info_nce", scale=SCALE),
        chunk_tokens=job.chunk_tokens,
        device=job.device,
        bf16=job.device != "cpu",
        seed=SEED,
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
    model.max_seq_length = job.length or model.max_seq_length
    if job.mini_batch is None:
        loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    else:
        loss = CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=job.mini_batch)
    trainer = InOrder(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=job.path("sentence-transformers"),
            max_steps=job.steps,
            per_device_train_batch_size=job.batch,
            learning_rate=LEARNING_RATE,
            seed=SEED,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            bf16=not cpu,
            use_cpu=cpu,
            dataloader_pin_memory=not cpu,
        ),
        train_dataset=load_dataset("json", data_files=job.path("ordered.jsonl"), split="train", cache_dir=job.place),
        loss=loss,
        callbacks=[Marks()],
    )
    trainer.train()
    seen.tokens, seen.computed = ([sum(int(column[of]) for column in step) for step in counts] for of in (0, 1))
    seen.losses = [float(loss) for loss in losses]


def filled(mask_BS: Any, mini_batch: int | None) -> Any:
    """Tokens that are computed, padding and all: mini-batches are cut to their own longest text."""
    parts = mask_BS.sum(1).split(mini_batch or len(mask_BS))
    return sum(len(part) * part.max() for part in parts)


TRAINERS = {"gnomon": with_gnomon, "sentence-transformers": with_sentence_transformers}


if __name__ == "__main__":
    main()
