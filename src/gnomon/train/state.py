"""`TrainingState`: everything that a step changes, such as the model, the optimizer and the moving average."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.errors import InputError
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.train import checkpoints, optim
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.recipe.schema import Recipe


class TrainingState:
    """The model of a recipe and what trains it.

    Args:
        spec: the spec of the model that is written; None for that of `base`.
        parameters: what is trained beside the model, by names of a checkpoint.
        parameters_learning_rate: the learning rate of `parameters`; None for that of the model.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Checkpoint,
        ranks: Ranks,
        *,
        spec: ModelSpec | None = None,
        parameters: Mapping[str, nn.Parameter] | None = None,
        parameters_learning_rate: float | None = None,
    ) -> None:
        self.recipe, self.base, self.ranks = recipe, base, ranks
        self.spec = spec or base.spec
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
        extra = dict(parameters or {})
        self.trainable = _trainable_parameters(self.model, extra)
        self.optimizer = self._optimizer([*extra.values()], parameters_learning_rate)
        self.ema = optim.Ema(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.blend = optim.Blend(self.model, recipe.base_weight) if recipe.base_weight else None
        self.model.train()

    def clip_gradient(self, batches: int) -> float:
        """Average the gradient over the ranks and this many batches, and clip it; returns the norm before clipping."""
        parameters = [*self.trainable.values()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.ranks.all_reduce(gradients)
        for gradient in gradients:
            gradient /= self.ranks.world_size * batches
        return float(nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm or math.inf))

    def update(self, factor: float) -> None:
        """Take a step of the optimizer, with the learning rate multiplied by `factor`."""
        optim.scale_learning_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """Inside, the model has the weights that would be written: their average, blended with the first ones."""
        with (
            self.ema.swap_weights() if self.ema else nullcontext(),
            self.blend.swap_weights() if self.blend else nullcontext(),
        ):
            yield

    def to_checkpoint(self, **changes: Any) -> Checkpoint:
        """The model as it would be written now."""
        with self.swap_weights():
            return self.model.to_checkpoint(spec=self.spec, **changes)

    def to_tensors(self) -> dict[str, Tensor]:
        """All of the state, by flat names such as "model.trunk.embed.tokens"."""
        parameters = {name: parameter.detach() for name, parameter in self.trainable.items()}
        average = self.ema.tensors() if self.ema else {}
        return parameters | checkpoints.optimizer_tensors(self.optimizer, self.trainable) | average

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `to_tensors` returned."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[name])
        checkpoints.load_optimizer(self.optimizer, self.trainable, tensors)
        if self.ema:
            self.ema.load(tensors)

    def _optimizer(self, extra: Sequence[nn.Parameter], extra_learning_rate: float | None) -> torch.optim.AdamW:
        recipe, trunk = self.recipe, self.base.spec.trunk
        groups = optim.parameter_groups(
            self.model,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            layers=0 if isinstance(trunk, StaticSpec) else trunk.num_layers,
            extra=extra,
            extra_learning_rate=extra_learning_rate,
        )
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        return torch.optim.AdamW(groups, betas=betas, eps=recipe.adam_epsilon, fused=True)


def freeze_parameters(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude the parameters whose names start with one of the prefixes from training.

    Raises:
        InputError: a prefix that no name starts with.
    """
    names = {name: name.partition(".")[2] for name, _ in model.named_parameters()}
    for prefix in prefixes:
        matches = [name for name, array_name in names.items() if array_name.startswith(prefix)]
        if not matches:
            known = dict.fromkeys(top for name in names.values() for top in re.findall(r"^layers\.\d+|^\w+", name))
            raise InputError(
                f"freeze has {prefix!r}, and no array's name starts with it. Names start with {', '.join(known)}."
            )
        for name in matches:
            model.get_parameter(name).requires_grad_(False)


def _trainable_parameters(model: nn.Module, extra: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """All parameters that are trained, by their names in a checkpoint."""
    named = {f"model.{name}": parameter for name, parameter in model.named_parameters()} | dict(extra)
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}
