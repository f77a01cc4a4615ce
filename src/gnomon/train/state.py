"""`Learner`: everything that a step changes: model, loss, optimizer, moving average; and the gradient of a batch."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.errors import InputError
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.train import checkpoints, optim
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.objectives.contrastive import Loss, LossInputs
from gnomon.train.objectives.gradcache import accumulate_gradient, skipped_prompt_tokens, split_into_chunks
from gnomon.train.objectives.teacher import TeacherModel
from gnomon.train.recipe.schema import Recipe

PASS_BYTES = 2 << 30
"""Memory that the activations of a batch may take in one pass, where a recipe leaves chunk_tokens open; of a GPU's,
PASS_SHARE.
"""
PASS_SHARE = 0.15

CPU_CHUNK = 4096
"""Tokens of a chunk on a CPU, where a batch does not fit in one pass: larger chunks were slower, and take more memory
(docs/training-speed.md).
"""

ACTIVATIONS_PER_UNIT = 22
"""Numbers of float32 that a layer takes for its gradient, for each token and unit of its width, with dropout: 14 are
kept of texts of 128 tokens, the rest is room to compute in.
"""

STATIC_TOKENS = 65_536
"""Of a chunk of a table: nothing is kept but a row a token."""


@dataclass(frozen=True)
class Chunking:
    """How a batch passes the model: at once, if it has at most `one_pass` tokens, else in chunks of `chunk` tokens."""

    one_pass_tokens: int
    chunk_tokens: int

    def chunk_tokens_for(self, tokens: int) -> int:
        """Tokens of a chunk, for a batch of so many."""
        return self.one_pass_tokens if tokens <= self.one_pass_tokens else self.chunk_tokens


class TrainingState:
    """What a recipe makes of a checkpoint.

    Args:
        spec: of the model that is written; None for that of the checkpoint, with the widths that are learnt.
    """

    def __init__(self, recipe: Recipe, base: Checkpoint, ranks: Ranks, spec: ModelSpec | None = None) -> None:
        self.recipe, self.base, self.ranks = recipe, base, ranks
        self.spec = spec or declare_dims(base.spec, recipe)
        self.chunking = choose_chunking(recipe, base.spec, ranks.device)
        self.model = Model(
            base,
            device=ranks.device,
            dropout=recipe.dropout,
            attention_dropout=recipe.attention_dropout,
            bf16=recipe.bf16,
            gradient_checkpointing=recipe.gradient_checkpointing,
            lora=recipe.lora,
        )
        freeze_parameters(self.model, recipe.freeze)
        self.loss = Loss(recipe.loss, recipe.matryoshka, base.spec, seed=recipe.seed).to(ranks.device)
        self.teacher = TeacherModel(recipe, ranks, base.spec) if recipe.loss.guide or recipe.loss.teacher else None
        self.trainable = _trainable_parameters(self.model, self.loss)
        self.optimizer = self._optimizer()
        self.ema = optim.Ema(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.blend = optim.Blend(self.model, recipe.base_weight) if recipe.base_weight else None
        self.model.train()

    def add_gradient(self, collated: CollatedBatch, step: int) -> float:
        """The gradient of this rank's share of a batch, added to the parameters; its loss."""
        rows, tokens = collated.rows, sum(map(len, collated.ids))
        chunks = split_into_chunks(
            collated.ids,
            skipped_prompt_tokens(collated, self.base.spec.pooling),
            chunk_tokens=self.chunking.chunk_tokens_for(tokens),
            seed=(self.recipe.seed, rows.batch_number, self.ranks.rank),
        )
        return accumulate_gradient(
            self.model,
            chunks,
            (len(rows.queries), len(rows.positives), len(rows.negatives)),
            partial(self.loss.compute_parts, inputs=self._build_loss_inputs(collated, step)),
            ranks=self.ranks,
            dims=self.loss.dims,
            cached=tokens > self.chunking.one_pass_tokens and len(chunks) > 1,
        )

    def clip_gradient(self, batches: int) -> float:
        """The mean gradient over the ranks and so many batches, clipped; returns its norm before that."""
        learnt = [*self.trainable.values()]
        gradients = [parameter.grad for parameter in learnt if parameter.grad is not None]
        self.ranks.all_reduce(gradients)
        for each in gradients:
            each /= self.ranks.world_size * batches
        return float(nn.utils.clip_grad_norm_(learnt, self.recipe.max_grad_norm or math.inf))

    def update(self, factor: float) -> None:
        """A step of the optimizer, with this factor of the learning rate."""
        optim.scale_learning_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.clamp_scale()
        if self.ema:
            self.ema.update()

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """Inside, the model has the weights that would be written: their average, blended with those that they were."""
        with (
            self.ema.swap_weights() if self.ema else nullcontext(),
            self.blend.swap_weights() if self.blend else nullcontext(),
        ):
            yield

    def to_checkpoint(self, **changes: Any) -> Checkpoint:
        """The checkpoint as it would be written now."""
        with self.swap_weights():
            return self.model.to_checkpoint(spec=self.spec, **changes)

    def to_tensors(self) -> dict[str, Tensor]:
        """All of its state, by flat names."""
        learnt = {name: parameter.detach() for name, parameter in self.trainable.items()}
        average = self.ema.tensors() if self.ema else {}
        return learnt | checkpoints.optimizer_tensors(self.optimizer, self.trainable) | average

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The state that `tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[name])
        checkpoints.load_optimizer(self.optimizer, self.trainable, tensors)
        if self.ema:
            self.ema.load(tensors)

    def _build_loss_inputs(self, collated: CollatedBatch, step: int) -> LossInputs:
        """What the loss is told of a batch."""
        rows, device, gathered = collated.rows, self.ranks.device, self.ranks.all_gather
        queries_Q, positives_Q, negatives_N, own_N = (
            gathered(torch.from_numpy(side).to(device))
            for side in (*collated.token_hashes, collated.own_negatives_N.astype(np.int64))  # gloo gathers no bool
        )
        count = len(rows.queries)
        return LossInputs(
            first_row=self.ranks.rank * count,
            num_rows=count,
            token_hashes=(queries_Q, positives_Q, negatives_N),
            own_negatives_N=own_N.bool(),
            scores=None if rows.scores is None else gathered(torch.from_numpy(rows.scores).float().to(device)),
            teacher_vectors=self.teacher(rows) if self.teacher else None,
            step=step,
        )

    def _optimizer(self) -> torch.optim.AdamW:
        recipe, trunk = self.recipe, self.base.spec.trunk
        groups = optim.parameter_groups(
            self.model,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            layers=0 if isinstance(trunk, StaticSpec) else trunk.num_layers,
            extra=[*self.loss.parameters()],
            extra_learning_rate=recipe.loss.scale_learning_rate,
        )
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        return torch.optim.AdamW(groups, betas=betas, eps=recipe.adam_epsilon, fused=True)


def choose_chunking(recipe: Recipe, spec: ModelSpec, device: torch.device) -> Chunking:
    """The recipe's chunk_tokens, or the default: a batch whose activations fit into PASS_BYTES, or into a GPU's share,
    passes at once; on a CPU a larger one passes in small chunks, on a GPU in chunks of that size.
    """
    if recipe.chunk_tokens:
        return Chunking(recipe.chunk_tokens, recipe.chunk_tokens)
    if isinstance(spec.trunk, StaticSpec):
        return Chunking(STATIC_TOKENS, STATIC_TOKENS)
    room = PASS_BYTES
    if device.type == "cuda":
        room = int(PASS_SHARE * torch.cuda.get_device_properties(device).total_memory)
    fits = max(512, room // (ACTIVATIONS_PER_UNIT * 4 * spec.trunk.hidden_size * spec.trunk.num_layers))
    return Chunking(fits, fits if device.type == "cuda" else min(fits, CPU_CHUNK))


def declare_dims(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with the widths that the run teaches the model."""
    if recipe.matryoshka and not spec.dim_modules:
        return replace(spec, matryoshka_dims=tuple(sorted({*recipe.matryoshka.dims} - {spec.full_dim})))
    return spec


def freeze_parameters(model: nn.Module, prefixes: Sequence[str]) -> None:
    """
    Raises:
        InputError: a beginning that no array's name has.
    """
    names = {name: name.partition(".")[2] for name, _ in model.named_parameters()}
    for beginning in prefixes:
        found = [name for name, ours in names.items() if ours.startswith(beginning)]
        if not found:
            tops = dict.fromkeys(top for ours in names.values() for top in re.findall(r"^layers\.\d+|^\w+", ours))
            raise InputError(
                f"freeze has {beginning!r}, and no array's name begins so; they begin with {', '.join(tops)}."
            )
        for name in found:
            model.get_parameter(name).requires_grad_(False)


def _trainable_parameters(model: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters that are learnt, by the names of a checkpoint."""
    named = [(f"model.{name}", each) for name, each in model.named_parameters()]
    named += [(f"loss.{name}", each) for name, each in loss.named_parameters()]
    return {name: parameter for name, parameter in named if parameter.requires_grad}
