"""Modules of the trunk. What a spec leaves open is chosen at construction: a part that the spec lacks is None here.

Parameters carry our names (`gnomon.spec.trunk_shapes`); weights are [out, in], as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnomon.engines.positions import rotary_tables
from gnomon.engines.torch.attention import Attention
from gnomon.engines.torch.batch import DeviceBatch, Spans
from gnomon.engines.torch.dropout import apply_dropout
from gnomon.engines.torch.recompute import linear_with_recompute
from gnomon.engines.torch.tensors import as_tensor
from gnomon.spec import Activation, RopeSpec, TrunkSpec


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": _identity,
}


CosSin = tuple[Tensor, Tensor]
"""cos and sin, [T, 1, d / 2] each."""


class Linear(nn.Module):
    """`residual + dropout(activation(x W^T + b))`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation = "identity",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.activation: Activation = activation
        self.activate = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x_TI: Tensor, residual_TO: Tensor | None = None) -> Tensor:
        y_TO = self.activate(self.pre_activation(x_TI))
        y_TO = apply_dropout(y_TO, self.dropout, self.training)
        return y_TO if residual_TO is None else residual_TO + y_TO

    def pre_activation(self, x_TI: Tensor) -> Tensor:
        """`x W^T + b`."""
        return F.linear(x_TI, self.weight, self.bias)


class Embeddings(nn.Module):
    """The sum of a token's rows, normalised."""

    def __init__(self, trunk: TrunkSpec, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(trunk.vocab_size, trunk.hidden_size))
        self.positions = (
            nn.Parameter(torch.empty(trunk.max_positions, trunk.hidden_size)) if trunk.max_positions else None
        )
        self.types = (
            nn.Parameter(torch.empty(trunk.num_token_types, trunk.hidden_size)) if trunk.num_token_types else None
        )
        self.norm = nn.LayerNorm(trunk.hidden_size, eps=trunk.norm_eps)
        self.dropout = dropout

    def forward(self, batch: DeviceBatch) -> Tensor:
        kind = self.norm.weight.dtype  # tables may lie in a file in half precision
        x_TH = F.embedding(batch.ids_T, self.tokens).to(kind)
        if self.positions is not None:
            x_TH = x_TH + F.embedding(batch.position_ids_T, self.positions).to(kind)
        if self.types is not None:
            types = self.types[0] if batch.types_T is None else F.embedding(batch.types_T, self.types)
            x_TH = x_TH + types.to(kind)
        return apply_dropout(self.norm(x_TH), self.dropout, self.training)


class Rotary:
    """Turns component i of a head with component i + d/2 by position times frequency."""

    def __init__(self, rope: RopeSpec, head_size: int) -> None:
        self.rope, self.head_size = rope, head_size
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def cos_sin(self, batch: DeviceBatch, dtype: torch.dtype) -> CosSin:
        """cos and sin for the tokens of a batch, [T, 1, d / 2] each: in float64 for such states, else in float32."""
        key = (batch.positions_T.device, torch.float64 if dtype == torch.float64 else torch.float32)
        tables = self._tables.get(key)
        if tables is None or len(tables[0]) < batch.spans.max_length:
            self._tables[key] = tables = self._build_tables(batch.spans.max_length, *key)
        cos_SR, sin_SR = tables
        return F.embedding(batch.positions_T, cos_SR)[:, None], F.embedding(batch.positions_T, sin_SR)[:, None]

    def _build_tables(self, max_length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The tables on a device, [S, d / 2]. Their length doubles, so they are copied seldom."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        with torch.inference_mode(False):  # a table that was built while encoding must serve training too
            cos_SR, sin_SR = rotary_tables(self.rope, self.head_size, max_length, kind)
            return as_tensor(cos_SR).to(device), as_tensor(sin_SR).to(device)


def apply_rotary(x_THd: Tensor, cos_sin: CosSin) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the halves of each head."""
    cos, sin = cos_sin
    low, high = x_THd.chunk(2, dim=-1)
    if x_THd.requires_grad:
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x_THd.dtype)
    out_THd = torch.empty(x_THd.shape, dtype=x_THd.dtype, device=x_THd.device)
    out_low, out_high = out_THd.chunk(2, dim=-1)  # written in place: four passes over half the size, no copy at the end
    torch.mul(low, cos, out=out_low).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=out_high).addcmul_(low, sin)
    return out_THd


class Layer(nn.Module):
    """Attention and feed-forward, each added to its input and normalised."""

    def __init__(self, trunk: TrunkSpec, attention: Attention, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        hidden, inner = trunk.hidden_size, trunk.intermediate_size
        self.query, self.key, self.value = (Linear(hidden, hidden) for _ in range(3))
        self.qkv: nn.Module | None = None
        """The three as one product, if `prepare_for_inference` has merged them."""
        self.out = Linear(hidden, hidden, dropout=dropout)
        self.attn_norm = nn.LayerNorm(hidden, eps=trunk.norm_eps)
        self.gate = Linear(hidden, inner, bias=False, activation=trunk.activation) if trunk.gated else None
        self.up = Linear(
            hidden, inner, bias=not trunk.gated, activation="identity" if trunk.gated else trunk.activation
        )
        self.down = Linear(inner, hidden, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(hidden, eps=trunk.norm_eps)
        self.attend = attention
        self.head_size, self.attention_dropout = trunk.head_size, attention_dropout

    def forward(self, x_TH: Tensor, spans: Spans, cos_sin: CosSin | None, rows_B: Tensor | None = None) -> Tensor:
        """The states of all tokens, or of the tokens `rows_B`, one in each text, as [B, H]."""
        x_QH = x_TH if rows_B is None else x_TH[rows_B]
        q, k, v = (self.split_heads(values) for values in self.project_qkv(x_QH, x_TH))
        if cos_sin is not None:
            q, k = (
                apply_rotary(q, cos_sin if rows_B is None else (cos_sin[0][rows_B], cos_sin[1][rows_B])),
                apply_rotary(k, cos_sin),
            )
        q_spans = spans if rows_B is None else spans.single_rows
        mixed_QHd = self.attend(q, k, v, q_spans, spans, self.attention_dropout if self.training else 0.0)
        x_QH = self.attn_norm(self.out(mixed_QHd.flatten(1), x_QH))
        return self.mlp_norm(self.feed_forward(x_QH))

    def feed_forward(self, x_QH: Tensor) -> Tensor:
        if not (self.training and type(self.down) is Linear):
            return self.down(self.up_proj(x_QH), x_QH)
        y_QH = linear_with_recompute(
            self.activate_and_gate, self.down.weight, self.down.bias, *self.up_pre_activations(x_QH)
        )
        return x_QH + apply_dropout(y_QH, self.down.dropout)

    def project_qkv(self, x_QH: Tensor, x_TH: Tensor) -> Sequence[Tensor]:
        if self.qkv is not None:
            return self.qkv(x_TH).chunk(3, dim=-1)
        return self.query(x_QH), self.key(x_TH), self.value(x_TH)

    def up_proj(self, x_QH: Tensor) -> Tensor:
        return self.up(x_QH) if self.gate is None else self.up(x_QH) * self.gate(x_QH)

    def up_pre_activations(self, x_QH: Tensor) -> Sequence[Tensor]:
        """The inputs of `activate_and_gate`, which computes `up_proj` from them."""
        return (
            (self.up.pre_activation(x_QH),)
            if self.gate is None
            else (self.up.pre_activation(x_QH), self.gate.pre_activation(x_QH))
        )

    def activate_and_gate(self, up_QI: Tensor, gate_QI: Tensor | None = None) -> Tensor:
        if self.gate is None or gate_QI is None:
            return self.up.activate(up_QI)
        return up_QI * self.gate.activate(gate_QI)

    def split_heads(self, x_TH: Tensor) -> Tensor:
        return x_TH.unflatten(-1, (-1, self.head_size))
