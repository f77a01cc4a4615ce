"""What AdamW is given: groups of parameters, a learning rate for each step; and a moving average of the weights."""

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
    """Groups for `torch.optim.AdamW`, of all parameters that are learnt, in the order of the model.

    A group's "initial_lr" is its learning rate at the top of the schedule, which `set_learning_rate` scales. Matrices
    decay; biases, norms and `extra` do not.

    Args:
        layer_decay: each layer's learning rate over that of the layer above it. The heads and the last layer have the
            whole one, the embeddings lie below layer 0.
        layers: of the trunk; 0 for a static table.
        extra: parameters of the loss; extra_learning_rate: theirs, None for that of the model.

    Raises:
        InputError: nothing is learnt.
    """
    groups: dict[tuple[float, float], Group] = {}
    placed = [
        (parameter, _depth(name, layers), weight_decay if parameter.ndim > 1 else 0.0)
        for name, parameter in model.named_parameters()
    ]
    rated = [(parameter, learning_rate * layer_decay**depth, decay) for parameter, depth, decay in placed]
    rated += [(parameter, extra_learning_rate or learning_rate, 0.0) for parameter in extra]
    for parameter, rate, decay in rated:
        if parameter.requires_grad:
            start: Group = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), start)["params"].append(parameter)
    if not groups:
        raise InputError("every parameter is frozen, so there is nothing to learn; name fewer in freeze=.")
    return list(groups.values())


def _depth(name: str, layers: int) -> int:
    """Layers between a parameter and the last one, which is 0, as all that follows it."""
    if name.startswith("trunk.embed."):
        return layers
    if name.startswith("trunk.layers."):
        return layers - 1 - int(name.split(".")[2])
    return 0


# ---- the learning rate


def count_warmup_steps(recipe: Recipe, total: int) -> int:
    """Steps of warm-up of a run of `total` steps. A share is rounded up, as transformers does; the only step of a run,
    which would then have a learning rate of 0, is a step of warm-up where the share is all.

    Raises:
        InputError: more than the run has; a learning rate of 0 in every step.
    """
    share = math.ceil(recipe.warmup_ratio * total) if total > 1 else int(recipe.warmup_ratio)
    warmup = recipe.warmup_steps or share
    if warmup > total:
        raise InputError(
            f"warmup_steps {warmup} is more than the {total} steps of this run, so its learning rate would never be "
            f"reached; let it be at most {total}, or 0 with a warmup_ratio."
        )
    if not any(
        learning_rate_factor_at(step, total=total, warmup=warmup, scheduler=recipe.lr_scheduler_type)
        for step in range(total)
    ):
        raise InputError(
            f"the learning rate is 0 in every step: warmup_steps is {warmup} of {total}, and warm-up begins at 0. Let "
            "warmup_steps and warmup_ratio be 0, or max_steps be larger."
        )
    return warmup


def learning_rate_factor_at(step: int, *, total: int, warmup: int, scheduler: Scheduler) -> float:
    """The factor, 0 to 1, of the learning rate of step number `step`; the first is 0. Those of transformers."""
    if step < warmup:
        return step / warmup
    if scheduler == "constant":
        return 1.0
    passed = (step - warmup) / max(1, total - warmup)
    if scheduler == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * passed)))
    return max(0.0, (total - step) / max(1, total - warmup))


def scale_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's own learning rate, times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


# ---- the moving average


class Ema:
    """`average = d * average + (1 - d) * weights` of all parameters that are learnt; starts at the weights.

    Args:
        decay: d; after t updates at most (1 + t) / (10 + t), so that a short run forgets where it started.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter, 1 - decay)
        self.updates += 1

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """The averages are in the model's place inside; the weights are back behind, to the bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self) -> dict[str, Tensor]:
        """All of its state: "ema.NAME" of each parameter, and "ema.updates"."""
        averages = {f"ema.{name}": average for name, average in self._averages.items()}
        return averages | {"ema.updates": torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state that `tensors` gave, of a model with the same parameters; other names are passed over."""
        for name, average in self._averages.items():
            average.copy_(tensors[f"ema.{name}"])
        self.updates = int(tensors["ema.updates"])

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weights = parameter.clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(weights)


# ---- a share of the weights as they were


class Blend:
    """`w * first + (1 - w) * weights` of all parameters that are learnt, `first` being what they are when it is made.

    Wortsman et al. 2021 (WiSE-FT, 2109.01903).
    """

    def __init__(self, model: nn.Module, base_weight: float) -> None:
        self.base_weight = base_weight
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._parameter_pairs = [(parameter, parameter.detach().clone()) for parameter in learnt]

    @contextmanager
    def swap_weights(self) -> Generator[None]:
        """The blend is in the model's place inside; the weights are back behind, to the bit."""
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
