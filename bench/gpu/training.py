"""Steps of training on the device: gradients against the CPU and against each other, and losses that fall."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu import models
from bench.gpu.part import Report
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.train.data.collate import BatchRows, CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.objectives.batch_loss import BatchLoss, LossInputs
from gnomon.train.objectives.chunking import choose_chunking
from gnomon.train.objectives.gradcache import forward_backward, split_into_chunks
from gnomon.train.process import torch_settings
from gnomon.train.recipe.schema import DataSource, LossSettings, Recipe
from gnomon.train.state import TrainingState

LIMIT, BFLOAT16_LIMIT = 1e-4, 0.1
"""Norm of the difference over norm of the gradient: in float32, and of bfloat16 against float32."""
STEPS, CHUNK = 8, 512
NONE = np.zeros(0, np.int64)

Gradient = dict[str, Tensor]


def check(report: Report) -> None:
    for name in models.TRAINED:
        model, folder = models.write(name, report.models, tiny=report.tiny)
        base, rows = read_folder(resolve_source(folder)), 16 if report.tiny else 32
        batch = draw_batch(model.vocabulary, rows, query=12, document=40 if report.tiny else 100)
        for title, (work, limit) in checks(base, batch, report.device).items():
            report.check(f"{name}, {title}", work, limit)


def checks(base: Checkpoint, batch: CollatedBatch, device: str) -> dict[str, tuple[Callable[[], float], float]]:
    """Name -> what computes its figure, and the most that it may be."""
    compute = partial(gradient_of, base, batch)
    one_pass = cache(lambda: compute(device))
    return {
        "gradient, against the CPU": (lambda: differ(one_pass(), compute("cpu")), LIMIT),
        "gradient in chunks (GradCache)": (lambda: differ(compute(device, chunk_tokens=CHUNK), one_pass()), LIMIT),
        "gradient, layers recomputed": (
            lambda: differ(compute(device, gradient_checkpointing=True), one_pass()),
            LIMIT,
        ),
        "gradient in chunks with dropout, cached or not": (lambda: cached_with_dropout(base, batch, device), LIMIT),
        "gradient in bfloat16": (lambda: differ(compute(device, bf16=True), one_pass()), BFLOAT16_LIMIT),
        f"{STEPS} steps in bfloat16, twice: equal losses": (lambda: repeat_steps(base, batch, device), 0.0),
        f"{STEPS} steps in bfloat16: last loss over first": (lambda: loss_ratio(base, batch, device), 0.99),
    }


def recipe_of(batch: CollatedBatch, device: str, **options: Any) -> Recipe:
    settings: dict[str, Any] = {
        "model": "random",
        "output": "nowhere",
        "sources": (DataSource(("none.jsonl",)),),
        "batch_size": len(batch.rows.queries),
        "max_steps": STEPS,
        "learning_rate": 1e-4,
        "loss": LossSettings("info_nce", temperature=0.05),
        "device": device,
        "bf16": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "chunk_tokens": 1 << 30,
        "seed": 7,
    }
    return Recipe(**(settings | options))


def draw_batch(vocabulary: int, rows: int, *, query: int, document: int, seed: int = 0) -> CollatedBatch:
    """Rows of a query and its positive, of about so many tokens, that do not share a text."""
    random = np.random.default_rng(seed)
    lengths = [random.integers(max(4, mean // 2), mean * 3 // 2, rows) for mean in (query, document)]
    ids = models.draw_ids(np.concatenate(lengths), vocabulary, seed)
    numbers = np.arange(rows)
    nothing: list[str] = []
    drawn = BatchRows(
        batch_number=seed,
        source=0,
        source_name="random",
        rows_B=numbers,
        queries=[""] * rows,
        positives=[""] * rows,
        negatives=nothing,
        negatives_per_row=0,
        query_hashes_B=numbers,
        positive_hashes_B=rows + numbers,
        negative_hashes_N=NONE,
        entries_N=NONE,
        scores=None,
        all_rows=numbers,
        replaced=0,
    )
    return CollatedBatch(drawn, ids, (0, 0), 0, (numbers, rows + numbers, NONE), NONE.astype(bool))


@dataclass
class Run:
    """What a run of a recipe trains on a batch that is given, without data on disk."""

    recipe: Recipe
    state: TrainingState
    loss: BatchLoss
    ranks: Ranks

    @property
    def one_pass_tokens(self) -> int:
        """Tokens of a batch up to which no chunk is computed twice."""
        return choose_chunking(self.recipe, self.state.base.spec, self.ranks.device).one_pass_tokens

    def training_step(
        self, batch: CollatedBatch, step: int, *, cached: bool | None = None, chunk_tokens: int | None = None
    ) -> float:
        rows, tokens = len(batch.rows.queries), sum(map(len, batch.ids))
        chunking = choose_chunking(self.recipe, self.state.base.spec, self.ranks.device)
        chunk_tokens = chunk_tokens or chunking.chunk_tokens_for(tokens)
        chunks = split_into_chunks(batch.ids, [0] * len(batch.ids), chunk_tokens=chunk_tokens, seed=(7, step))
        hashes = tuple(torch.from_numpy(side).to(self.ranks.device) for side in batch.text_hashes)
        inputs = LossInputs(first_row=0, num_rows=rows, text_hashes=hashes, step=step)  # type: ignore[arg-type]
        return forward_backward(
            self.state.model,
            chunks,
            (rows, rows, 0),
            partial(self.loss.compute_parts, inputs=inputs),
            ranks=self.ranks,
            dims=self.loss.dims,
            cached=tokens > chunking.one_pass_tokens and len(chunks) > 1 if cached is None else cached,
        )

    def gradients(self) -> Gradient:
        return {name: each.grad.cpu() for name, each in self.state.trainable.items() if each.grad is not None}

    def take_step(self, batch: CollatedBatch, step: int) -> float:
        loss = self.training_step(batch, step)
        self.state.clip_gradient(1)
        self.state.update(1.0)
        return loss


def open_run(base: Checkpoint, recipe: Recipe) -> tuple[Run, AbstractContextManager[None]]:
    """A run of this recipe, and torch's settings for it."""
    ranks = Ranks(device=torch.device("cuda", 0) if recipe.device == "cuda" else torch.device("cpu"))
    loss = BatchLoss(recipe.loss, recipe.matryoshka, base.spec, seed=recipe.seed).to(ranks.device)
    return Run(recipe, TrainingState(recipe, base, ranks), loss, ranks), torch_settings(recipe, ranks)


def gradient_of(base: Checkpoint, batch: CollatedBatch, device: str, **options: Any) -> Gradient:
    run, settings = open_run(base, recipe_of(batch, device, **options))
    with settings:
        run.training_step(batch, 0)
    return run.gradients()


def differ(found: Gradient, wanted: Gradient) -> float:
    assert found.keys() == wanted.keys()
    off, whole = (torch.cat([parts[name].double().flatten() for name in wanted]) for parts in (found, wanted))
    return float((off - whole).norm() / whole.norm())


def cached_with_dropout(base: Checkpoint, batch: CollatedBatch, device: str) -> float:
    """GradCache computes a chunk twice: its dropout must be the same both times."""
    found: list[Gradient] = []
    for cached in (True, False):
        run, settings = open_run(base, recipe_of(batch, device, dropout=0.1, attention_dropout=0.1))
        with settings:
            run.training_step(batch, 0, cached=cached, chunk_tokens=CHUNK)
        found.append(run.gradients())
    return differ(*found)


def losses(base: Checkpoint, batch: CollatedBatch, device: str) -> list[float]:
    """Losses of steps on one batch."""
    run, settings = open_run(base, recipe_of(batch, device, bf16=True, learning_rate=5e-4))
    with settings:
        return [run.take_step(batch, step) for step in range(STEPS)]


def repeat_steps(base: Checkpoint, batch: CollatedBatch, device: str) -> float:
    pairs = zip(losses(base, batch, device), losses(base, batch, device), strict=True)
    return max(abs(one - other) for one, other in pairs)


def loss_ratio(base: Checkpoint, batch: CollatedBatch, device: str) -> float:
    found = losses(base, batch, device)
    return found[-1] / found[0]
