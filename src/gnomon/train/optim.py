"""Parameter groups for AdamW, the learning rate of each step, and averages of the weights."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnomon.errors import InputError
from gnomon.train.recipe.schema import Recipe

Scheduler = Literal["linear", "cosine", "constant"]
Group = dict[str, Any]


# ---- groups of parameters


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    layers: int,
    extra: Sequence[nn.Parameter] = (),
    extra_learning_rate: float | None = None,
) -> list[Group]:
    """Groups for `torch.optim.AdamW` with all parameters that are trained, in the order of the model.

    A group's "initial_lr" is its learning rate at the top of the schedule, which `scale_learning_rates` scales. Only
    matrices have weight decay; biases, norms and `extra` have none.

    Args:
        layer_decay: the learning rate of a layer, divided by that of the layer above it. The modules after the trunk
            and the last layer have the full learning rate. The embeddings count as the layer below layer 0.
        layers: the number of layers of the trunk; 0 for a static table.
        extra: parameters that are not the model's.
        extra_learning_rate: the learning rate of `extra`; None for that of the model.

    Raises:
        InputError: no parameter is trained.
    """
    groups: dict[tuple[float, float], Group] = {}
    by_depth = [
        (parameter, _depth(name, layers), weight_decay if parameter.ndim > 1 else 0.0)
        for name, parameter in model.named_parameters()
    ]
    rated = [(parameter, learning_rate * layer_decay**depth, decay) for parameter, depth, decay in by_depth]
    rated += [(parameter, extra_learning_rate or learning_rate, 0.0) for parameter in extra]
    for parameter, rate, decay in rated:
        if parameter.requires_grad:
            start: Group = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), start)["params"].append(parameter)
    if not groups:
        raise InputError("every parameter is frozen, so nothing can be trained. Give fewer prefixes in freeze=.")
    return list(groups.values())


def _depth(name: str, layers: int) -> int:
    """The number of layers above a parameter: 0 for the last layer and for what follows the trunk."""
    if name.startswith("trunk.embed."):
        return layers
    if name.startswith("trunk.layers."):
        return layers - 1 - int(name.split(".")[2])
    return 0


# ---- the learning rate


def count_warmup_steps(recipe: Recipe, total: int) -> int:
    """The warm-up steps of a run of `total` steps.

    A ratio is rounded up, as in transformers. A run of one step has warm-up only for a ratio of 1: otherwise its
    learning rate would be 0.

    Raises:
        InputError: warm-up is longer than the run, or the learning rate is 0 in every step.
    """
    share = math.ceil(recipe.warmup_ratio * total) if total > 1 else int(recipe.warmup_ratio)
    warmup = recipe.warmup_steps or share
    if warmup > total:
        raise InputError(
            f"warmup_steps {warmup} is more than the {total} steps of this run, which would never reach its learning "
            f"rate. Give at most {total}, or 0 with a warmup_ratio."
        )
    if not any(
        learning_rate_factor_at(step, total=total, warmup=warmup, scheduler=recipe.lr_scheduler_type)
        for step in range(total)
    ):
        raise InputError(
            f"the learning rate is 0 in every step: warmup_steps is {warmup} of {total}, and warm-up begins at 0. Set "
            "warmup_steps and warmup_ratio to 0, or raise max_steps."
        )
    return warmup


def learning_rate_factor_at(step: int, *, total: int, warmup: int, scheduler: Scheduler) -> float:
    """The factor of the learning rate in a step, from 0 to 1, as in transformers. The first step is number 0."""
    if step < warmup:
        return step / warmup
    if scheduler == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    if scheduler == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return max(0.0, (total - step) / max(1, total - warmup))


def scale_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its initial one times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


# ---- the moving average


class Ema:
    """`average = d * average + (1 - d) * weights` of all parameters that are trained. It starts at the weights.

    Args:
        decay: d. After t updates it is at most (1 + t) / (10 + t), so that a short run forgets its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step to the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter, 1 - decay)
        self.updates += 1

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """Inside, the model has the averages. Afterwards it has its own weights again, to the bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self) -> dict[str, Tensor]:
        """The state: "ema.NAME" for each parameter, and "ema.updates"."""
        averages = {f"ema.{name}": average for name, average in self._averages.items()}
        return averages | {"ema.updates": torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, for a model with the same parameters. Other names are skipped."""
        for name, average in self._averages.items():
            average.copy_(tensors[f"ema.{name}"])
        self.updates = int(tensors["ema.updates"])

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weights = parameter.clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(weights)


# ---- a blend with the first weights


class Blend:
    """`w * first + (1 - w) * weights` of all parameters that are trained; `first` are the weights at construction.

    Wortsman et al. 2021 (WiSE-FT, 2109.01903).
    """

    def __init__(self, model: nn.Module, base_weight: float) -> None:
        self.base_weight = base_weight
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._parameter_pairs = [(parameter, parameter.detach().clone()) for parameter in trained]

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """Inside, the model has the blend. Afterwards it has its own weights again, to the bit."""
        weights = [parameter.detach().clone() for parameter, _ in self._parameter_pairs]
        with torch.no_grad():
            for parameter, first in self._parameter_pairs:
                parameter.lerp_(first, self.base_weight)
        try:
            yield
        finally:
            with torch.no_grad():
                for (parameter, _), before in zip(self._parameter_pairs, weights, strict=True):
                    parameter.copy_(before)
