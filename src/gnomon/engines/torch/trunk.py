"""The trunk as one module: packed ids in, token states out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gnomon.engines.torch.attention import Attention, grouped, varlen
from gnomon.engines.torch.batch import DeviceBatch
from gnomon.engines.torch.layers import Embeddings, Layer, Rotary
from gnomon.engines.torch.tensors import as_tensor
from gnomon.errors import InputError
from gnomon.spec import TrunkSpec, trunk_shapes


class Trunk(nn.Module):
    """A post-norm transformer encoder over packed tokens.

    Its `state_dict` holds our array names; `tensors.to_arrays` makes arrays of it, and
    `checkpoint.families.export_trunk_weights` turns those into a checkpoint's own.

    Args:
        attention: a form of `attention.py`; `choose_attention` names the fastest (under autocast, for its dtype).
        dropout: of the embeddings and before each addition, while training.
        attention_dropout: of the attention weights, while training; the form must have it.
        gradient_checkpointing: while training, keep each layer's input alone and compute the layer again for its
            gradient.
    """

    def __init__(
        self,
        spec: TrunkSpec,
        *,
        attention: Attention = grouped,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        if attention_dropout and attention is varlen:
            raise InputError(
                "torch's variable-length attention has no dropout; take attention=choose(..., dropout=), or "
                "attention_dropout=0."
            )
        super().__init__()
        self.spec, self.gradient_checkpointing = spec, gradient_checkpointing
        self.embed = Embeddings(spec, dropout)
        self.layers = nn.ModuleList(Layer(spec, attention, dropout, attention_dropout) for _ in range(spec.num_layers))
        self.rotary = Rotary(spec.rope, spec.head_size) if spec.rope else None

    @classmethod
    def from_arrays(
        cls, spec: TrunkSpec, arrays: Mapping[str, NDArray[Any]], *, share: bool = False, **options: Any
    ) -> Trunk:
        """A trunk with these arrays as its parameters. Options are those of `Trunk`.

        Args:
            share: take the arrays where they lie, and never write to them (a mapped file would end the process); False
                copies them, to train.
        """
        with torch.device("meta"):
            trunk = cls(spec, **options)
        tensors = {name: as_tensor(arrays[name]) for name in trunk_shapes(spec)}
        trunk.load_state_dict(
            tensors if share else {name: tensor.clone() for name, tensor in tensors.items()}, assign=True
        )
        return trunk

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        last = self.layers[-1]
        assert isinstance(last, Layer)
        return last.mlp_norm.weight.dtype

    def forward(self, batch: DeviceBatch, rows_B: Tensor | None = None) -> Tensor:
        """States [T, H] of all tokens; or [B, H] of the tokens `rows_B`, one in each text: the last layer computes no
        other.
        """
        x_TH = self.embed(batch).to(self.dtype)
        angles = self.rotary.cos_sin(batch, x_TH.dtype) if self.rotary else None
        *first, last = self.layers
        for layer in first:
            x_TH = self._run_layer(layer, x_TH, batch.spans, angles, None)
        return self._run_layer(last, x_TH, batch.spans, angles, rows_B)

    def _run_layer(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)
