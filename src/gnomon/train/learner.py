"""`Learner`: everything that a step changes: model, loss, optimizer, moving average; and the gradient of a batch."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.errors import InputError
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.train import checkpoints, optim
from gnomon.train.collate import Collated
from gnomon.train.gradcache import chunks_of, gradient, prompt_tokens_of
from gnomon.train.guide import Guide
from gnomon.train.model import Model
from gnomon.train.prompts import with_prompts
from gnomon.train.ranks import Ranks
from gnomon.train.settings import Recipe
from gnomon.train.stages import Batch, Loss

CHUNK_BYTES = 4 << 30
"""Memory that the activations of a chunk may take, where a recipe leaves its tokens open; of a GPU's, CHUNK_SHARE."""
CHUNK_SHARE = 0.3

KEPT = 44
"""Numbers that a layer keeps for its gradient, for each token and unit of its width: 3.3 GB of 16,384 tokens in three
layers of 384, with dropout, in float32.
"""

STATIC_TOKENS = 65_536
"""Of a chunk of a table: nothing is kept but a row a token."""


class Learner:
    """What a recipe makes of a checkpoint."""

    def __init__(self, recipe: Recipe, base: Checkpoint, ranks: Ranks) -> None:
        self.recipe, self.base, self.ranks = recipe, base, ranks
        self.chunk_tokens = recipe.chunk_tokens or default_chunk_tokens(base.spec, ranks.device)
        self.model = Model(
            base,
            device=ranks.device,
            dropout=recipe.dropout,
            attention_dropout=recipe.attention_dropout,
            bf16=recipe.bf16,
            gradient_checkpointing=recipe.gradient_checkpointing,
            lora=recipe.lora,
        )
        freeze(self.model, recipe.freeze)
        self.loss = Loss(recipe.loss, recipe.matryoshka, base.spec, seed=recipe.seed).to(ranks.device)
        self.guide = Guide(recipe, ranks, base.spec) if recipe.loss.guide or recipe.loss.teacher else None
        self.learnt = _learnt(self.model, self.loss)
        self.optimizer = self._optimizer()
        self.ema = optim.Ema(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.blend = optim.Blend(self.model, recipe.base_weight) if recipe.base_weight else None
        self.model.train()

    def add_gradient(self, collated: Collated, step: int) -> float:
        """The gradient of this rank's share of a batch, added to the parameters; its loss."""
        rows = collated.rows
        chunks = chunks_of(
            collated.ids,
            prompt_tokens_of(collated, self.base.spec.pooling),
            chunk_tokens=self.chunk_tokens,
            seed=(self.recipe.seed, rows.batch, self.ranks.rank),
        )
        return gradient(
            self.model,
            chunks,
            (len(rows.queries), len(rows.positives), len(rows.negatives)),
            partial(self.loss.parts, batch=self._batch(collated, step)),
            ranks=self.ranks,
            dims=self.loss.dims,
        )

    def clip(self, batches: int) -> float:
        """The mean gradient over the ranks and so many batches, clipped; returns its norm before that."""
        learnt = [*self.learnt.values()]
        gradients = [parameter.grad for parameter in learnt if parameter.grad is not None]
        self.ranks.add_up(gradients)
        for each in gradients:
            each /= self.ranks.world * batches
        return float(nn.utils.clip_grad_norm_(learnt, self.recipe.max_grad_norm or math.inf))

    def update(self, factor: float) -> None:
        """A step of the optimizer, with this factor of the learning rate."""
        optim.set_learning_rate(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.clamp()
        if self.ema:
            self.ema.update()

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Inside, the model has the weights that would be written: their average, blended with those that they were."""
        with (
            self.ema.swap() if self.ema else nullcontext(),
            self.blend.swap() if self.blend else nullcontext(),
        ):
            yield

    def written(self, **changes: Any) -> Checkpoint:
        """The checkpoint as it would be written now."""
        with self.averaged():
            return self.model.trained(spec=declared(self.base.spec, self.recipe), **changes)

    def tensors(self) -> dict[str, Tensor]:
        """All of its state, by flat names."""
        learnt = {name: parameter.detach() for name, parameter in self.learnt.items()}
        average = self.ema.tensors() if self.ema else {}
        return learnt | checkpoints.optimizer_tensors(self.optimizer, self.learnt) | average

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state that `tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.learnt.items():
                parameter.copy_(tensors[name])
        checkpoints.load_optimizer(self.optimizer, self.learnt, tensors)
        if self.ema:
            self.ema.load(tensors)

    def _batch(self, collated: Collated, step: int) -> Batch:
        """What the loss is told of a batch."""
        rows, device, gathered = collated.rows, self.ranks.device, self.ranks.gathered
        queries_Q, positives_Q, negatives_N = (gathered(torch.from_numpy(side).to(device)) for side in collated.hashes)
        count = len(rows.queries)
        return Batch(
            start=self.ranks.rank * count,
            rows=count,
            hashes=(queries_Q, positives_Q, negatives_N),
            scores=None if rows.scores is None else gathered(torch.from_numpy(rows.scores).float().to(device)),
            guide=self.guide(rows) if self.guide else None,
            step=step,
        )

    def _optimizer(self) -> torch.optim.AdamW:
        recipe, trunk = self.recipe, self.base.spec.trunk
        groups = optim.parameter_groups(
            self.model,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            layers=0 if isinstance(trunk, StaticSpec) else trunk.layers,
            extra=[*self.loss.parameters()],
            extra_learning_rate=recipe.loss.scale_learning_rate,
        )
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        return torch.optim.AdamW(groups, betas=betas, eps=recipe.adam_epsilon, fused=True)


def default_chunk_tokens(spec: ModelSpec, device: torch.device) -> int:
    """Tokens whose activations fit into CHUNK_BYTES, or into a GPU's share; at least one text of usual length."""
    if isinstance(spec.trunk, StaticSpec):
        return STATIC_TOKENS
    room = CHUNK_BYTES
    if device.type == "cuda":
        room = int(CHUNK_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return max(512, room // (KEPT * 4 * spec.trunk.hidden * spec.trunk.layers))


def declared(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with what the run has taught the model: widths and prompts."""
    if recipe.matryoshka and not spec.wide_heads:
        spec = replace(spec, matryoshka_dims=tuple(sorted({*recipe.matryoshka.dims} - {spec.full_dim})))
    return with_prompts(spec, recipe)


def freeze(model: nn.Module, beginnings: Sequence[str]) -> None:
    """
    Raises:
        InputError: a beginning that no array's name has.
    """
    names = {name: name.partition(".")[2] for name, _ in model.named_parameters()}
    for beginning in beginnings:
        found = [name for name, ours in names.items() if ours.startswith(beginning)]
        if not found:
            tops = dict.fromkeys(top for ours in names.values() for top in re.findall(r"^layers\.\d+|^\w+", ours))
            raise InputError(
                f"freeze has {beginning!r}, and no array's name begins so; they begin with {', '.join(tops)}."
            )
        for name in found:
            model.get_parameter(name).requires_grad_(False)


def _learnt(model: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters that are learnt, by the names of a checkpoint."""
    named = [(f"model.{name}", each) for name, each in model.named_parameters()]
    named += [(f"loss.{name}", each) for name, each in loss.named_parameters()]
    return {name: parameter for name, parameter in named if parameter.requires_grad}
