"""`Model`: the torch module that is trained. It has the trunk, pooling and dense modules of a checkpoint.

B: texts; P: dimension of a pooled vector; D: dimension of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gnomon.checkpoint import families
from gnomon.checkpoint.folder import Checkpoint
from gnomon.engines.pooling import pooled_token_index, pools_one_token
from gnomon.engines.torch.attention import choose_attention
from gnomon.engines.torch.batch import DeviceBatch, to_device
from gnomon.engines.torch.modules import OutputModules, Pooling
from gnomon.engines.torch.tensors import as_tensor, to_array
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import InputError
from gnomon.losses.similarity import at_least_float32
from gnomon.packed import Packed
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, dense_modules, dense_shapes, trunk_shapes
from gnomon.train.lora import apply_lora, merge_lora
from gnomon.train.recipe.schema import LoraSettings, Recipe

VectorsByDim = dict[int, Tensor]
"""Vectors by their dimension."""


class Model(nn.Module):
    """The model that is trained. Its parameters are float32 copies; with `bf16`, autocast computes in bfloat16.

    Args:
        dropout, attention_dropout: None for the values of the checkpoint's config.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dropout: float | None = None,
        attention_dropout: float | None = None,
        bf16: bool = False,
        gradient_checkpointing: bool = False,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint, self.bf16 = checkpoint, bf16
        spec = checkpoint.spec
        self.device = torch.device(device)
        self.trunk: Trunk | StaticEmbedding
        if isinstance(spec.trunk, StaticSpec):
            if lora is not None:
                raise InputError("lora adapts linear layers, and this model is a static table. Leave lora out.")
            self.trunk = StaticEmbedding(spec.trunk, checkpoint.arrays)
        else:
            hidden, weights = _resolve_dropout(checkpoint, dropout, attention_dropout)
            dtype = torch.bfloat16 if bf16 else torch.float32
            self.trunk = Trunk.from_arrays(
                spec.trunk,
                checkpoint.arrays,
                attention=choose_attention(
                    self.device, dtype, spec.trunk.head_size, dropout=weights, needs_gradient=True
                ),
                dropout=hidden,
                attention_dropout=weights,
                gradient_checkpointing=gradient_checkpointing,
            )
            if lora is not None:
                apply_lora(self.trunk, lora)
        self.pooled_trunk = PooledTrunk(self.trunk, spec.pooling, self.device)
        self.output_modules = OutputModules.from_arrays(spec, checkpoint.arrays)
        self.float().to(self.device)

    @property
    def spec(self) -> ModelSpec:
        return self.checkpoint.spec

    def forward(self, packed: Packed) -> Tensor:
        """[B, P]: pooled token states, before the dense modules; float32 also under autocast."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.pooled_trunk(packed)

    def apply_modules(self, pooled_BP: Tensor, dims: tuple[int, ...] = ()) -> VectorsByDim:
        """Vectors of the model's full dimension, or of `dims`, which have a dense module each."""
        return {dim: self.output_modules(pooled_BP, dim) for dim in dims or (self.spec.full_dim,)}

    def export_arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by our names, with low-rank parts merged."""
        names = trunk_shapes(self.spec.trunk)
        tensors = merge_lora(self.trunk) if isinstance(self.trunk, Trunk) else self.trunk.state_dict()
        arrays = {name: to_array(tensors[name]) for name in names}
        dense_tensors = self.output_modules.state_dict()
        for dense in dense_modules(self.spec):
            for name in dense_shapes(dense):
                key = f"dense.{dense.name.replace('.', '_')}{name.removeprefix(dense.name)}"
                arrays[name] = to_array(dense_tensors[key])
        return {name: np.array(array) for name, array in arrays.items()}

    def to_checkpoint(self, **changes: Any) -> Checkpoint:
        """The checkpoint with the present weights, and with other fields changed."""
        return replace(self.checkpoint, arrays=self.export_arrays(), **changes)


def dropout_rates(checkpoint: Checkpoint, recipe: Recipe | None = None) -> tuple[float, float]:
    """The dropout of token states and of attention weights: the recipe's or the model's own; 0 in a static table."""
    if isinstance(checkpoint.spec.trunk, StaticSpec):
        return 0.0, 0.0
    return _resolve_dropout(checkpoint, recipe and recipe.dropout, recipe and recipe.attention_dropout)


def _resolve_dropout(checkpoint: Checkpoint, hidden: float | None, attention: float | None) -> tuple[float, float]:
    own_hidden, own_attention = families.read_dropout(checkpoint.config)
    return own_hidden if hidden is None else hidden, own_attention if attention is None else attention


class PooledTrunk(nn.Module):
    """Packed texts -> pooled vectors. Where pooling reads one token only, the last layer computes that token only."""

    def __init__(self, trunk: Trunk | StaticEmbedding, pooling: PoolingSpec, device: torch.device) -> None:
        super().__init__()
        self._trunk = [trunk]  # in a list, so that its parameters have one name
        self.pooling, self.device = Pooling(pooling), device
        self.one_token = pools_one_token(pooling)

    def forward(self, packed: Packed) -> Tensor:
        (trunk,) = self._trunk
        if isinstance(trunk, StaticEmbedding):
            return trunk(packed, self.device)
        batch = DeviceBatch.from_packed(packed, trunk.spec, self.device)
        if not self.one_token:
            return self.pooling(trunk(batch), packed)
        row_B = packed.bounds[:-1] + pooled_token_index(self.pooling.spec, packed)
        return at_least_float32(trunk(batch, to_device(torch.from_numpy(row_B), self.device)))


class StaticEmbedding(nn.Module):
    """A static table of token vectors. A text's vector is the mean of those of its tokens."""

    def __init__(self, spec: StaticSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Module()
        self.embed.tokens = nn.Parameter(as_tensor(arrays["embed.tokens"]).clone())

    def forward(self, packed: Packed, device: torch.device) -> Tensor:
        known_T = np.ones(len(packed.ids_T), bool) if self.spec.unk_id is None else packed.ids_T != self.spec.unk_id
        before = np.concatenate([[0], np.cumsum(known_T)])
        ids_T, offsets_B = (torch.from_numpy(n).to(device) for n in (packed.ids_T[known_T], before[packed.bounds[:-1]]))
        tokens = self.embed.tokens
        assert isinstance(tokens, Tensor)
        return F.embedding_bag(ids_T, tokens, offsets_B, mode="mean")
