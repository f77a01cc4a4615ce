"""The trunk as one module: packed ids in, token states out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnomon.engines.torch.attention import Attention, grouped
from gnomon.engines.torch.batch import Batch
from gnomon.engines.torch.layers import Embeddings, Layer, Rotary
from gnomon.engines.torch.tensors import tensors_of
from gnomon.spec import TrunkSpec, trunk_arrays


class Trunk(nn.Module):
    """A post-norm transformer encoder over packed tokens.

    Its `state_dict` holds our array names; `checkpoint.families.foreign_arrays` turns them into a checkpoint's own.

    Args:
        attention: a form of `attention.py`.
        dropout: of the embeddings and in front of each addition, while training.
        attention_dropout: of the attention weights, while training; the form must have it.
    """

    def __init__(
        self,
        spec: TrunkSpec,
        *,
        attention: Attention = grouped,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embed = Embeddings(spec, dropout)
        self.layers = nn.ModuleList(Layer(spec, attention, dropout, attention_dropout) for _ in range(spec.layers))
        self.rotary = Rotary(spec.rope, spec.head_size) if spec.rope else None

    @classmethod
    def of(cls, spec: TrunkSpec, arrays: Mapping[str, NDArray[Any]], **options: Any) -> Trunk:
        """A trunk whose parameters are the arrays themselves, where they lie. Options are those of `Trunk`."""
        with torch.device("meta"):
            trunk = cls(spec, **options)
        trunk.load_state_dict(tensors_of({name: arrays[name] for name in trunk_arrays(spec)}), assign=True)
        return trunk

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        last = self.layers[-1]
        assert isinstance(last, Layer)
        return last.mlp_norm.weight.dtype

    def forward(self, batch: Batch, rows_B: Tensor | None = None) -> Tensor:
        """States [T, H] of all tokens; or [B, H] of the tokens `rows_B`, one in each text: the last layer computes no
        other.
        """
        x_TH = self.embed(batch).to(self.dtype)
        angles = self.rotary.angles(batch, x_TH.dtype) if self.rotary else None
        *first, last = self.layers
        for layer in first:
            x_TH = layer(x_TH, batch.spans, angles)
        return last(x_TH, batch.spans, angles, rows_B)
