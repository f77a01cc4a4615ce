"""Check that the gradient of a step is that of the whole batch: `gnomon train --check-gradients`.

For each loss, with and without Matryoshka, one graph over the whole batch is the reference. It is compared with
GradCache in one chunk, in many chunks with the loss in parts, with dropout, accumulated over batches, and on two ranks
with gathered negatives. All of it runs in float64 on a small random model.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from gnomon.checkpoint.folder import Checkpoint
from gnomon.checkpoint.hub import Source
from gnomon.spec import (
    DenseSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingSpec,
    TokenizerSpec,
    TrunkSpec,
    model_shapes,
)
from gnomon.train.distributed import Ranks, init_distributed
from gnomon.train.model import Model
from gnomon.train.objectives.batch_loss import SCORES_PER_PART, BatchLoss, LossInputs
from gnomon.train.objectives.gradcache import Chunk, encode_in_one_graph, forward_backward, split_into_chunks
from gnomon.train.recipe.schema import LABEL_LOSSES, LossSettings, MatryoshkaSettings

TOLERANCE = 1e-6
"""The largest difference of a gradient that passes, relative to its norm."""

ROWS, DIM, SEED = 8, 16, 7
WHOLE, SMALL = 1 << 20, 24
"""Tokens of a chunk: for all texts at once, and for two or three texts."""

Grads = dict[str, Tensor]


@dataclass(frozen=True)
class GradientCheck:
    """One way of computing one loss's gradient, against one graph over the whole batch."""

    loss: str
    matryoshka_mode: str
    """"-", "prefixes" or "modules": a dense module per dimension."""
    method: str
    difference: float
    """The norm of the difference, divided by the norm of the gradient."""

    @property
    def passed(self) -> bool:
        return self.difference <= TOLERANCE


@dataclass(frozen=True)
class Case:
    name: str
    matryoshka_mode: str
    settings: LossSettings
    matryoshka: MatryoshkaSettings | None
    negatives: int

    @property
    def label(self) -> tuple[str, str]:
        return self.name, self.matryoshka_mode


def check_gradients(*, two_ranks: bool = True) -> Iterator[GradientCheck]:
    """Compute the checks one by one, in about a minute. `two_ranks` starts two processes."""
    two_rank_gradients = _on_two_ranks() if two_ranks else {}
    for number, case in enumerate(_cases()):
        with torch.random.fork_rng(devices=[]):
            whole = _reference_gradients(case, WHOLE)
            methods = {
                "GradCache, one chunk": (_step_gradients(case, WHOLE, cached=True), whole),
                "GradCache, chunks and parts": (_step_gradients(case, SMALL, cached=True, rows_per_part=3), whole),
                "no cache, chunks": (_step_gradients(case, SMALL, cached=False), whole),
                "GradCache, dropout": (
                    _step_gradients(case, SMALL, cached=True, dropout=0.2),
                    _reference_gradients(case, SMALL, dropout=0.2),
                ),
                "accumulated": (_accumulate_gradients(case, SMALL), _accumulate_reference(case)),
            }
        if number in two_rank_gradients:
            methods["2 ranks"] = (two_rank_gradients[number], whole)
        for method, (grads, reference) in methods.items():
            yield GradientCheck(case.name, case.matryoshka_mode, method, _difference(grads, reference))


def _cases() -> list[Case]:
    """Every loss with the settings that change its formula, in each Matryoshka mode."""
    plain: list[tuple[str, LossSettings, int]] = [
        ("info_nce", LossSettings(scale=20.0), 0),
        ("info_nce, negatives, trained scale", LossSettings(learn_scale=True), 2),
        ("info_nce, symmetric", LossSettings(directions="symmetric", temperature=0.05), 0),
        ("info_nce, gte, negatives", LossSettings(directions="gte", temperature=0.05), 1),
        ("gist", LossSettings("gist", guide="given", temperature=0.05), 0),
        ("gist, negatives, margin", LossSettings("gist", guide="given", margin=0.05, learn_scale=True), 2),
        ("kl_and_contrast", LossSettings("kl_and_contrast", temperature=0.05), 3),
        ("distill_kl", LossSettings("distill_kl", scale=10.0), 3),
        ("kl_and_contrast, a teacher", LossSettings("kl_and_contrast", teacher="given", temperature=0.05), 0),
        ("distill_kl, a teacher", LossSettings("distill_kl", teacher="given", scale=10.0, teacher_temperature=0.1), 1),
        ("margin_mse", LossSettings("margin_mse"), 2),
        ("cosent", LossSettings("cosent"), 0),
        ("cosine_regression", LossSettings("cosine_regression"), 0),
        ("cosine_distillation", LossSettings("cosine_distillation", teacher="given"), 0),
        ("cosine_distillation, negatives", LossSettings("cosine_distillation", teacher="given"), 2),
    ]
    modes = {"-": None, "prefixes": MatryoshkaSettings((4, 8, DIM)), "modules": MatryoshkaSettings((6, DIM))}
    one_vector_losses = ("cosine_distillation",)  # a teacher has one vector per text
    return [
        Case(name, mode, settings, matryoshka, negatives)
        for name, settings, negatives in plain
        for mode, matryoshka in modes.items()
        if mode != "modules" or settings.name not in one_vector_losses
    ]


def _reference_gradients(case: Case, chunk_tokens: int, *, dropout: float = 0.0, rows: slice = slice(0, ROWS)) -> Grads:
    """The reference: one graph over the whole batch, and torch's own differentiation."""
    model, loss = _build_model(case, dropout)
    chunks, sides = _chunks(case, rows, chunk_tokens)
    vectors_by_dim = encode_in_one_graph(model, chunks, loss.dims)
    vectors = {dim: texts.split(sides) for dim, texts in vectors_by_dim.items()}
    torch.stack([*loss.compute_parts(vectors, _build_loss_inputs(case, rows))]).sum().backward()
    return _grads(model, loss)


def _step_gradients(
    case: Case,
    chunk_tokens: int,
    *,
    cached: bool,
    rows_per_part: int | None = None,
    dropout: float = 0.0,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> Grads:
    """The gradient as a training step computes it."""
    model, loss = _build_model(case, dropout)
    _forward_backward(
        model, loss, case, slice(0, ROWS), chunk_tokens, cached=cached, rows_per_part=rows_per_part, ranks=ranks
    )
    grads = _grads(model, loss)
    ranks.all_reduce(grads.values())
    return {name: grad / ranks.world_size for name, grad in grads.items()}


def _forward_backward(
    model: Model,
    loss: BatchLoss,
    case: Case,
    rows: slice,
    chunk_tokens: int,
    *,
    cached: bool,
    rows_per_part: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> None:
    count = (rows.stop - rows.start) // ranks.world_size
    own = slice(rows.start + ranks.rank * count, rows.start + (ranks.rank + 1) * count)
    chunks, sides = _chunks(case, own, chunk_tokens)
    inputs = replace(_build_loss_inputs(case, rows), first_row=ranks.rank * count, num_rows=count)
    scores_per_part = rows_per_part * ROWS if rows_per_part else SCORES_PER_PART
    parts = partial(loss.compute_parts, inputs=inputs, scores_per_part=scores_per_part)
    forward_backward(model, chunks, sides, parts, ranks=ranks, dims=loss.dims, cached=cached)


def _accumulate_gradients(case: Case, chunk_tokens: int) -> Grads:
    """The gradient of two batches, one after the other, as accumulation adds it up."""
    model, loss = _build_model(case, 0.0)
    for rows in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS)):
        _forward_backward(model, loss, case, rows, chunk_tokens, cached=True)
    return _grads(model, loss)


def _accumulate_reference(case: Case) -> Grads:
    first, second = (
        _reference_gradients(case, WHOLE, rows=rows) for rows in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
    )
    return {name: first[name] + second[name] for name in first}


def _chunks(case: Case, rows: slice, chunk_tokens: int) -> tuple[list[Chunk], tuple[int, ...]]:
    rng = np.random.default_rng(SEED)
    ids = [rng.integers(0, 50, length) for length in rng.integers(1, 12, ROWS * (2 + case.negatives))]
    queries, positives, negatives = ids[:ROWS], ids[ROWS : 2 * ROWS], ids[2 * ROWS :]
    own = slice(rows.start * case.negatives, rows.stop * case.negatives)
    texts = [*queries[rows], *positives[rows], *negatives[own]]
    count = rows.stop - rows.start
    chunks = split_into_chunks(texts, [0] * len(texts), chunk_tokens=chunk_tokens, seed=(SEED, 0))
    return chunks, (count, count, count * case.negatives)


def _build_loss_inputs(case: Case, rows: slice) -> LossInputs:
    """Hashes with a query that occurs twice, scores and a guide; the same in every process."""
    rng = np.random.default_rng(SEED + 1)
    queries_Q = np.arange(ROWS)
    queries_Q[3] = queries_Q[1]
    own = slice(rows.start * case.negatives, rows.stop * case.negatives)
    hashes = (queries_Q[rows], 100 + np.arange(ROWS)[rows], 200 + np.arange(ROWS * case.negatives)[own])
    has_labels = case.settings.name in LABEL_LOSSES
    scores = rng.uniform(size=ROWS if has_labels else (ROWS, 1 + case.negatives))[rows]
    guide = [torch.from_numpy(rng.normal(size=(ROWS * each, DIM))) for each in (1, 1, case.negatives)]
    return LossInputs(
        first_row=0,
        num_rows=rows.stop - rows.start,
        text_hashes=tuple(torch.from_numpy(side) for side in hashes),  # pyright: ignore[reportArgumentType]
        scores=torch.from_numpy(scores),
        teacher_vectors=(guide[0][rows], guide[1][rows], guide[2][own]),
    )


def _build_model(case: Case, dropout: float) -> tuple[Model, BatchLoss]:
    spec = _spec(with_dim_modules=case.matryoshka_mode == "modules")
    model = Model(_checkpoint(spec), dropout=dropout, attention_dropout=dropout).double().train()
    return model, BatchLoss(case.settings, case.matryoshka, spec, seed=SEED).double()


def _spec(*, with_dim_modules: bool) -> ModelSpec:
    trunk = TrunkSpec(
        vocab_size=50,
        hidden_size=DIM,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        max_positions=16,
        num_token_types=2,
    )
    dense = [DenseSpec(f"2_Dense_{dim}", DIM, dim) for dim in (DIM, 6)]
    return ModelSpec(
        trunk,
        PoolingSpec(),
        (dense[0], NormalizeSpec()) if with_dim_modules else (NormalizeSpec(),),
        TokenizerSpec(16),
        dim_modules=tuple(dense) if with_dim_modules else (),
    )


def _checkpoint(spec: ModelSpec) -> Checkpoint:
    rng = np.random.default_rng(SEED)
    arrays: dict[str, Any] = {
        name: (rng.normal(scale=0.3, size=shape) + (name.endswith("norm.weight"))).astype(np.float32)
        for name, shape in model_shapes(spec).items()
    }
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    return Checkpoint(spec, arrays, tokenizer, {"model_type": "bert"}, {}, (), Source(Path(), "gradient check", None))


def _grads(model: Model, loss: BatchLoss) -> Grads:
    named = [*model.named_parameters(), *loss.named_parameters()]
    return {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in named}


def _difference(grads: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    off, all_ = (
        torch.cat([part.flatten() for part in parts])
        for parts in ([grads[name] - reference[name] for name in reference], reference.values())
    )
    return float(off.norm() / all_.norm())


def _on_two_ranks() -> dict[int, Grads]:
    """The gradient of each case, from two processes with half of the rows each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_rank, args=(rank, port, folder)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(f"ranks ended with {[process.exitcode for process in processes]}.")
        return {number: load_file(Path(folder) / f"{number}.safetensors") for number in range(len(_cases()))}


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with init_distributed("cpu") as ranks:
        for number, case in enumerate(_cases()):
            grads = _step_gradients(case, SMALL, cached=True, rows_per_part=3, ranks=ranks)
            if ranks.is_first:
                whole = {name: grad.contiguous() for name, grad in grads.items()}
                save_file(whole, Path(folder) / f"{number}.safetensors")
