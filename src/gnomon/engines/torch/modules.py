"""What follows the trunk, as modules: pooling by segmented reduction, Dense, Normalize, and the MLM head.

The numpy form of the same is `gnomon.modules`.

D: dimension of a vector; V: rows of the vocabulary; M: linear pooling modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gnomon import modules as plain_modules
from gnomon.engines.pooling import first_pooled_token, packed_pooling_weights
from gnomon.engines.torch.batch import to_device
from gnomon.engines.torch.layers import ACTIVATIONS, Linear
from gnomon.engines.torch.tensors import as_tensor
from gnomon.engines.torch.trunk import Trunk
from gnomon.packed import Packed
from gnomon.spec import (
    Activation,
    DenseSpec,
    MlmSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingSpec,
    dense_modules,
    dense_shapes,
)


class Pooling(nn.Module):
    """Token states [T, H] -> [B, D], every mode a segmented reduction over packed rows."""

    def __init__(self, pooling: PoolingSpec) -> None:
        super().__init__()
        self.spec = pooling

    def forward(self, states_TH: Tensor, packed: Packed) -> Tensor:
        """Pooled vectors, in float32 (in float64 for such states), whatever the states are in."""
        device = states_TH.device
        states_TH = states_TH if states_TH.dtype == torch.float64 else states_TH.float()
        weights_MT = packed_pooling_weights(self.spec, packed)
        linear = iter(to_device(torch.from_numpy(weights_MT), device).to(states_TH.dtype))
        parts = [
            self._max_pool(states_TH, packed) if mode == "max" else segment_sum(states_TH, next(linear), packed.bounds)
            for mode in self.spec.modes
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _max_pool(self, states_TH: Tensor, packed: Packed) -> Tensor:
        first_B = first_pooled_token(packed)
        pooled_T = np.flatnonzero(packed.positions_T >= np.repeat(first_B, packed.lengths_B))
        rows, lengths_B = (
            to_device(torch.from_numpy(numbers), states_TH.device) for numbers in (pooled_T, packed.lengths_B - first_B)
        )
        # unsafe: it does not stop the device to look at the lengths, which are ours
        return torch.segment_reduce(states_TH[rows], "max", lengths=lengths_B, unsafe=True)


ROWS_PER_BLOCK = 64
"""Rows that are added one after the other."""


def segment_sum(values_TH: Tensor, weights_T: Tensor | None, bounds: NDArray[np.int64]) -> Tensor:
    """The weighted sum of each text's rows, [B, H]; weights None are ones.

    As the lookup of an embedding bag whose table is the rows: measured six times as fast as a product and an addition
    by index, with no intermediate of the rows' size. Long texts are added in blocks, and these again: thousands of rows
    added to one sum lose digits (1e-4 of a mean over 4,097 tokens).
    """
    counts_B = -(-np.diff(bounds) // ROWS_PER_BLOCK)
    if counts_B.max(initial=0) > 1:
        first_B = np.cumsum(counts_B) - counts_B
        within = np.arange(counts_B.sum()) - np.repeat(first_B, counts_B)
        starts = np.append(np.repeat(bounds[:-1], counts_B) + ROWS_PER_BLOCK * within, bounds[-1])
        blocks = segment_sum(values_TH, weights_T, starts)
        return segment_sum(blocks, None, np.append(first_B, counts_B.sum()))
    rows_T = torch.arange(len(values_TH), device=values_TH.device)
    offsets_B = to_device(torch.from_numpy(bounds[:-1]), values_TH.device)
    return F.embedding_bag(rows_T, values_TH, offsets_B, mode="sum", per_sample_weights=weights_T)


class Dense(nn.Module):
    """`activation(W x + b)`, plus x or a projection of x where the spec says residual."""

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        shapes = dense_shapes(spec)
        self.weight = nn.Parameter(torch.empty(shapes[f"{spec.name}.weight"]))
        self.bias = nn.Parameter(torch.empty(spec.out_features)) if spec.bias else None
        projection = shapes.get(f"{spec.name}.residual")
        self.residual = nn.Parameter(torch.empty(projection)) if projection else None
        self.has_residual, self.activate = spec.residual, ACTIVATIONS[spec.activation]

    def forward(self, x_BD: Tensor) -> Tensor:
        y_BD = self.activate(F.linear(x_BD, self.weight, self.bias))
        if not self.has_residual:
            return y_BD
        return y_BD + (x_BD if self.residual is None else F.linear(x_BD, self.residual))


class Normalize(nn.Module):
    """x / max(||x||, 1e-12)."""

    def forward(self, x_BD: Tensor) -> Tensor:
        return F.normalize(x_BD, dim=-1)


class OutputModules(nn.Module):
    """The modules after pooling, for every dimension of a model: a module of its own, or a prefix of the vector."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dense = nn.ModuleDict({_module_key(dense.name): Dense(dense) for dense in dense_modules(spec)})
        self.normalize = Normalize()

    @classmethod
    def from_arrays(cls, spec: ModelSpec, arrays: Mapping[str, NDArray[Any]]) -> OutputModules:
        """Modules with copies of the arrays as parameters, to train."""
        with torch.device("meta"):
            output_modules = cls(spec)
        copies = {
            f"dense.{_module_key(dense.name)}{name.removeprefix(dense.name)}": as_tensor(arrays[name]).clone()
            for dense in dense_modules(spec)
            for name in dense_shapes(dense)
        }
        output_modules.load_state_dict(copies, assign=True)
        return output_modules

    def forward(self, pooled_BD: Tensor, dim: int | None = None) -> Tensor:
        """Vectors of one dimension: `dim` is one of `spec.dims`, None the model's own."""
        chain, prefix = plain_modules.modules_for_dim(self.spec, dim)
        x_BD = pooled_BD
        for module in chain:
            is_normalize = isinstance(module, NormalizeSpec)
            x_BD = self.normalize(x_BD) if is_normalize else self.dense[_module_key(module.name)](x_BD)
        if prefix is None:
            return x_BD
        x_BD = x_BD[:, :prefix]
        return self.normalize(x_BD) if self.spec.normalizes else x_BD

    def vectors_by_dim(self, pooled_BD: Tensor, dims: tuple[int, ...] | None = None) -> dict[int, Tensor]:
        """Vectors of several dimensions from one pooled vector: what a Matryoshka loss takes."""
        return {dim: self(pooled_BD, dim) for dim in dims or self.spec.dims}


class MaskedLM(nn.Module):
    """Logits over the vocabulary of every token: dense, activation, norm, decoder.

    Args:
        token_table: the trunk's embedding table, where the decoder is tied to it; None for a table of its own.
    """

    def __init__(
        self, hidden: int, vocab_size: int, *, activation: Activation, norm_eps: float, token_table: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden, hidden, activation=activation)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps)
        self.decoder = Linear(hidden, vocab_size)
        if token_table is not None:
            self.decoder.weight = token_table

    @classmethod
    def from_arrays(cls, mlm: MlmSpec, arrays: Mapping[str, NDArray[Any]], trunk: Trunk) -> MaskedLM:
        """The head of a checkpoint (`Checkpoint.mlm`, `mlm_arrays`), on the trunk whose embeddings it may share."""
        spec = trunk.spec
        tokens = trunk.embed.tokens if mlm.tied else None
        with torch.device("meta"):
            head = cls(
                spec.hidden_size, spec.vocab_size, activation=mlm.activation, norm_eps=mlm.norm_eps, token_table=tokens
            )
        tensors = {name.removeprefix("mlm."): as_tensor(array).clone() for name, array in arrays.items()}
        head.load_state_dict(tensors | ({"decoder.weight": tokens} if tokens is not None else {}), assign=True)
        return head

    def forward(self, states_TH: Tensor) -> Tensor:
        """[T, V]."""
        return self.decoder(self.norm(self.dense(states_TH)))


def _module_key(name: str) -> str:
    """A folder's name as torch allows a module to be called."""
    return name.replace(".", "_")
