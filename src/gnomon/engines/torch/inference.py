"""A trunk made faster where no gradient is needed: one product for query, key and value, and on a CPU weights packed
once for its matrix kernels, with bias and activation in the product itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnomon.engines.torch.layers import Layer, Linear
from gnomon.engines.torch.trunk import Trunk
from gnomon.spec import Activation

ONEDNN_ACTIVATIONS: dict[Activation, tuple[str, str]] = {
    "identity": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
    "sigmoid": ("sigmoid", ""),
    "silu": ("swish", ""),
}
"""Activations that oneDNN applies while it writes a product: its name and its form of it."""


class PackedLinear(nn.Module):
    """A `Linear` over weights that oneDNN packed. No gradient, no dropout."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation, self.algorithm = ONEDNN_ACTIVATIONS[linear.activation]

    def forward(self, x_TI: Tensor, residual_TO: Tensor | None = None) -> Tensor:
        if residual_TO is not None and self.activation == "none":
            return torch.ops.mkldnn._linear_pointwise.binary(x_TI, residual_TO, self.weight, self.bias, "add")
        y_TO = torch.ops.mkldnn._linear_pointwise.default(
            x_TI, self.weight, self.bias, self.activation, [], self.algorithm
        )
        return y_TO if residual_TO is None else residual_TO + y_TO


def prepare_for_inference(trunk: Trunk, *, device: torch.device, dtype: torch.dtype, one_token: bool) -> None:
    """Make a trunk ready to run, and no longer to train: move it, join and pack its products.

    Embedding tables keep the dtype of their file and the norm after them is float32: only the rows that texts use are
    read, a mapped file stays mapped on a CPU, and the sum of the rows loses nothing.

    Args:
        one_token: the model pools one token: the last layer keeps three products, since it has queries of its own.
    """
    trunk.requires_grad_(False).eval()
    trunk.embed.to(device)
    trunk.embed.norm.float()
    pack = can_pack_weights(device, dtype)
    for index, layer in enumerate(trunk.layers):
        assert isinstance(layer, Layer)
        if not (one_token and index == len(trunk.layers) - 1):
            layer.qkv = merge_linears([layer.query, layer.key, layer.value])
            del layer.query, layer.key, layer.value
        layer.to(device, dtype)
        for name, child in layer.named_children():
            if pack and isinstance(child, Linear):
                setattr(layer, name, PackedLinear(child))


def merge_linears(linears: list[Linear]) -> Linear:
    """One product in place of several of the same input: their outputs end to end."""
    with torch.device("meta"):
        whole = Linear(linears[0].weight.shape[1], sum(len(part.weight) for part in linears))
    tensors = {name: torch.cat([part.state_dict()[name] for part in linears]) for name in ("weight", "bias")}
    whole.load_state_dict(tensors, assign=True)
    return whole.requires_grad_(False)


def can_pack_weights(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has matrix kernels for this dtype on this processor, and torch the operators that reach them."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    if not all(hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32
