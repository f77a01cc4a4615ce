"""Low-rank adaption of a trunk (LoRA, 2106.09685, section 4.1): `W + alpha / r * B A`, and only A and B are learnt.

T: tokens; I: width that goes in; O: width that comes out; r: rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnomon.engines.torch.dropout import apply_dropout
from gnomon.engines.torch.layers import Linear
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import InputError
from gnomon.inputs import did_you_mean
from gnomon.train.recipe.schema import LoraSettings


class LoraLinear(Linear):
    """`x W^T + b + alpha / r * dropout(x) A^T B^T`. W and b are those of another layer, and frozen.

    B starts at zero, so the product starts as it was; A as in the reference and in peft, uniform within 1 / sqrt(I).
    """

    def __init__(self, linear: Linear, settings: LoraSettings, generator: torch.Generator | None = None) -> None:
        outputs, inputs = linear.weight.shape
        with torch.device("meta"):
            super().__init__(inputs, outputs, activation=linear.activation, dropout=linear.dropout)
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        a_rI = torch.empty(settings.r, inputs)
        nn.init.kaiming_uniform_(a_rI, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(a_rI.to(linear.weight))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(outputs, settings.r))
        self.scaling, self.lora_dropout = settings.alpha / settings.r, settings.dropout

    def pre_activation(self, x_TI: Tensor) -> Tensor:
        dropped_TI = apply_dropout(x_TI, self.lora_dropout, self.training)
        added_TO = F.linear(F.linear(dropped_TI, self.lora_a), self.lora_b)
        return super().pre_activation(x_TI) + added_TO * self.scaling

    def merge(self) -> Tensor:
        """The one matrix that does the same."""
        return self.weight + self.scaling * (self.lora_b @ self.lora_a)


def apply_lora(trunk: Trunk, settings: LoraSettings, *, generator: torch.Generator | None = None) -> None:
    """Replace linear layers of every layer of a trunk, and freeze all else of it.

    Args:
        settings: targets are the names of those layers.
        generator: of A, on the host; None for torch's own.

    Raises:
        InputError: a target that the trunk does not have.
    """
    known = list(dict.fromkeys(name for _, name, _ in _iterate_linears(trunk)))
    for target in settings.targets:
        if target not in known:
            hint = did_you_mean(target, known)
            raise InputError(f"lora.targets: {target!r} is not in this model; it has {', '.join(known)}.{hint}")
    trunk.requires_grad_(False)
    for layer, name, linear in list(_iterate_linears(trunk)):
        if name in settings.targets:
            setattr(layer, name, LoraLinear(linear, settings, generator))


@torch.no_grad()
def merge_lora(trunk: Trunk) -> dict[str, Tensor]:
    """The trunk's state under our array names, what was learnt added to the matrices; of any trunk."""
    tensors = {name: one for name, one in trunk.state_dict().items() if not name.endswith((".lora_a", ".lora_b"))}
    for path, module in trunk.named_modules():
        if isinstance(module, LoraLinear):
            tensors[f"{path}.weight"] = module.merge()
    return tensors


def _iterate_linears(trunk: Trunk) -> Iterator[tuple[nn.Module, str, Linear]]:
    """(layer, name, linear layer)"""
    for layer in trunk.layers:
        for name, child in layer.named_children():
            if isinstance(child, Linear):
                yield layer, name, child
