"""Spec + arrays -> an ONNX graph, built here. The weights stay outside the protobuf, under the graph's own names.

T: tokens of all texts; B: texts; S: tokens of the longest; H: hidden; N: heads; d: head size; M: linear pooling modes.

Tokens are packed, one text after the other, so that padding costs nothing in linear layers. Attention and pooling pad
them: token_BS is the token at each padded place (where a text has ended, its last one, so that a NaN stays in its
text), place_T the place of each token among the B * S.

Inputs: ids_T, lengths_B, token_BS, and, where the graph needs them, place_T, types_T (token types), positions_T (rows
of the position table), cos_SR and sin_SR (rotary), weights_BMS and mask_BS1 (pooling), and of the one token that is
pooled pooled_B (its place among the T) and position_B1 (that within its text).
Output: "pooled" [B, D], or "states" [T, H].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gnomon.engines.pooling import pools_one_token
from gnomon.spec import Activation, PoolingSpec, TrunkSpec

Array = NDArray[Any]
Output = Literal["pooled", "states"]
Precision = Literal["float32", "int8", "uint8"]
"""float32, or weights of 8 bits, signed or unsigned, with activations quantised as they come."""

MICROSOFT_DOMAIN = "com.microsoft"
OPSETS = (("", 20), (MICROSOFT_DOMAIN, 1))
MIN_EXTERNAL_BYTES = 1024
"""Arrays of fewer bytes stay in the protobuf, as the runtimes ask."""

QKV = ("query", "key", "value")

EXTERNAL_LOCATION = Path(__file__).name
"""Where the protobuf says that the arrays are: a file that exists, this one; what counts are the arrays given."""


@dataclass(frozen=True)
class Graph:
    """A model without its weights, and the weights by name."""

    model: onnx.ModelProto
    arrays: dict[str, Array]


def build_onnx_graph(
    trunk: TrunkSpec,
    pooling: PoolingSpec,
    arrays: Mapping[str, Array],
    *,
    output: Output = "pooled",
    precision: Precision = "float32",
    for_openvino: bool = False,
    token_types: bool = False,
) -> Graph:
    """The graph of one trunk, up to pooled vectors or token states.

    Args:
        for_openvino: without what OpenVINO does not compile: rotary attention is spelled out in standard operators, and
            attention has no branches.
        token_types: the graph has an input for the types of the tokens; without it, all are of type 0.
    """
    return _GraphBuilder(trunk, pooling, arrays, output, precision, for_openvino, token_types).build()


class _GraphBuilder:
    """Nodes and arrays of one graph, in the order in which they run. Methods return the name of their result."""

    def __init__(
        self,
        trunk: TrunkSpec,
        pooling: PoolingSpec,
        arrays: Mapping[str, Array],
        output: Output,
        precision: Precision,
        for_openvino: bool,
        token_types: bool,
    ) -> None:
        self.trunk, self.pooling, self.source_arrays = trunk, pooling, arrays
        self.output: Output = output
        self.one_token = output == "pooled" and pools_one_token(pooling)
        self.precision: Precision = precision
        self.token_types = token_types
        self.for_openvino = for_openvino
        self.defined_names: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.num_nodes = 0
        """Of the graph and its branches."""
        self.initializers: list[onnx.TensorProto] = []
        self.arrays: dict[str, Array] = {}
        self.inputs: dict[str, tuple[Any, list[Any]]] = {
            "ids_T": (TensorProto.INT64, ["T"]),
            "lengths_B": (TensorProto.INT32, ["B"]),
            "token_BS": (TensorProto.INT64, ["B", "S"]),
        }

    def build(self) -> Graph:
        x = self.embeddings()
        for index in range(self.trunk.num_layers):
            x = self.layer(f"layers.{index}", x, last=index == self.trunk.num_layers - 1)
        if self.output == "states":
            self.node("Identity", [x], "states")
            result = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["T", self.trunk.hidden_size])
        else:
            self.pool(x)
            pooled_dim = self.trunk.hidden_size * len(self.pooling.modes)
            result = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["B", pooled_dim])
        inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in self.inputs.items()]
        graph = helper.make_graph(self.nodes, "gnomon", inputs, [result], self.initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        return Graph(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="gnomon"), self.arrays)

    def embeddings(self) -> str:
        x = self.node("Gather", [self.array("embed.tokens"), "ids_T"])
        if self.trunk.max_positions:
            rows = self.input("positions_T", TensorProto.INT64, ["T"])
            x = self.node("Add", [x, self.node("Gather", [self.array("embed.positions"), rows])])
        if self.trunk.num_token_types and self.token_types:
            types = self.input("types_T", TensorProto.INT64, ["T"])
            x = self.node("Add", [x, self.node("Gather", [self.array("embed.types"), types])])
        elif self.trunk.num_token_types:
            x = self.node("Add", [x, self.constant("embed.type0", self.as_float32("embed.types")[0])])
        return self.node(
            "LayerNormalization", [x, *self.weight_and_bias("embed.norm")], epsilon=self.trunk.norm_eps, axis=-1
        )

    def layer(self, name: str, x: str, *, last: bool) -> str:
        rows = self.select_pooled_token(x) if last and self.one_token else x
        attended = self.attention(name, x, rows)
        x = self.add_norm(f"{name}.attn_norm", self.linear(f"{name}.out", attended), rows, f"{name}.out.bias")
        inner = (
            self.gated_up_proj(name, x)
            if self.trunk.gated
            else self.activation(self.linear(f"{name}.up", x), f"{name}.up.bias")
        )
        return self.add_norm(f"{name}.mlp_norm", self.linear(f"{name}.down", inner), x, f"{name}.down.bias")

    def select_pooled_token(self, x: str) -> str:
        """[B, H]: the state of the one token that will be pooled."""
        return self.node("Gather", [x, self.input("pooled_B", TensorProto.INT64, ["B"])])

    def attention(self, name: str, x: str, rows: str) -> str:
        """Attention of `rows` (all tokens, or the one of each text that is pooled) to all tokens of the text."""
        tokens = {"query": rows, "key": x, "value": x}
        parts = [self.linear_with_bias(f"{name}.{part}", tokens[part]) for part in QKV]
        one_token = rows != x
        if self.for_openvino:
            return self._attend_padded(name, parts, one_token)
        longest = self.node_once("longest", "ReduceMax", ["lengths_B"], keepdims=0)
        shortest = self.node_once("shortest", "ReduceMin", ["lengths_B"], keepdims=0)
        equal = self.node_once("equal", "Equal", [longest, shortest])
        hidden = self.constant("hidden", np.array([self.trunk.hidden_size], np.int64))
        sides = self.node_once("sides", "Shape", ["token_BS"])
        shape = self.node_once("padded_shape", "Concat", [sides, hidden], axis=0)
        return self.node(
            "If",
            [equal],
            then_branch=self.branch(lambda: self._attend_equal_lengths(name, parts, one_token, shape)),
            else_branch=self.branch(lambda: self._attend_padded(name, parts, one_token)),
        )

    def _attend_equal_lengths(self, name: str, parts: list[str], one_token: bool, shape: str) -> str:
        """Without padding and without a mask: that form needs memory linear in the length, and texts may have 8,192
        tokens. `shape` holds [B, S, H].
        """
        query, *rest = parts
        rest = [self.node("Reshape", [x, shape]) for x in rest]
        query = self.node("Unsqueeze", [query, self.axis1()]) if one_token else self.node("Reshape", [query, shape])
        return self.join_texts(self.attend(name, [query, *rest], one_token, mask=False))

    def _attend_padded(self, name: str, parts: list[str], one_token: bool) -> str:
        query, *rest = parts
        rest = [self.pad(x) for x in rest]
        query = self.node("Unsqueeze", [query, self.axis1()]) if one_token else self.pad(query)
        x = self.join_texts(self.attend(name, [query, *rest], one_token, mask=True))
        return x if one_token else self.node("Gather", [x, self.input("place_T", TensorProto.INT64, ["T"])])

    def attend(self, name: str, parts: list[str], one_token: bool, *, mask: bool) -> str:
        """Attention of padded queries [B, S or 1, H] to keys and values [B, S, H]."""
        if self.trunk.rope and self.for_openvino:
            return self._attend_rotary_unfused(parts, one_token)
        if self.trunk.rope:
            query, key, value = parts
            start = self.constant("start", np.zeros(1, np.int64))
            first = self.input("position_B1", TensorProto.INT64, ["B", 1]) if one_token else start
            parts = [self.apply_rotary_fused(query, first), self.apply_rotary_fused(key, start), value]
        inputs = [*parts, "", "lengths_B"] if mask else parts
        return self.node("MultiHeadAttention", inputs, domain=MICROSOFT_DOMAIN, num_heads=self.trunk.num_heads)

    def _attend_rotary_unfused(self, parts: list[str], one_token: bool) -> str:
        """softmax(q k^T / sqrt(d) + mask) v, head by head: [B, N, S, d]."""
        query, key, value = (self.split_heads(x) for x in parts)
        key = self.apply_rotary_unfused(key, "cos_SR", "sin_SR")
        if one_token:
            axes = self.constant("heads_axis", np.array([1], np.int64))
            position = self.input("position_B1", TensorProto.INT64, ["B", 1])
            cos, sin = (
                self.node("Unsqueeze", [self.node("Gather", [table, position]), axes]) for table in ("cos_SR", "sin_SR")
            )
            query = self.apply_rotary_unfused(query, cos, sin)
        else:
            query = self.apply_rotary_unfused(query, "cos_SR", "sin_SR")
        scale = self.constant("scale", np.array(self.trunk.head_size**-0.5, np.float32))
        scores = self.node(
            "MatMul", [self.node("Mul", [query, scale]), self.node("Transpose", [key], perm=[0, 1, 3, 2])]
        )
        mask = self.input("mask_B11S", TensorProto.FLOAT, ["B", 1, 1, "S"])
        shares = self.node("Softmax", [self.node("Add", [scores, mask])], axis=-1)
        return self.node("Transpose", [self.node("MatMul", [shares, value])], perm=[0, 2, 1, 3])

    def split_heads(self, x: str) -> str:
        shape = self.constant("by_head", np.array([0, 0, self.trunk.num_heads, self.trunk.head_size], np.int64))
        return self.node("Transpose", [self.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])

    def apply_rotary_unfused(self, x: str, cos: str, sin: str) -> str:
        """(a, b) -> (a cos - b sin, b cos + a sin) for the two halves of each head."""
        for name in ("cos_SR", "sin_SR"):
            self.input(name, TensorProto.FLOAT, ["S", self.trunk.head_size // 2])
        low, high = f"{x}.low", f"{x}.high"
        self.nodes.append(helper.make_node("Split", [x], [low, high], name=low, axis=-1, num_outputs=2))
        first = self.node("Sub", [self.node("Mul", [low, cos]), self.node("Mul", [high, sin])])
        second = self.node("Add", [self.node("Mul", [high, cos]), self.node("Mul", [low, sin])])
        return self.node("Concat", [first, second], axis=-1)

    def apply_rotary_fused(self, x: str, positions: str) -> str:
        cos = self.input("cos_SR", TensorProto.FLOAT, ["S", self.trunk.head_size // 2])
        sin = self.input("sin_SR", TensorProto.FLOAT, ["S", self.trunk.head_size // 2])
        return self.node("RotaryEmbedding", [x, positions, cos, sin], domain=MICROSOFT_DOMAIN)

    def pad(self, x: str) -> str:
        """Packed tokens [T, H] as [B, S, H]."""
        return self.node("Gather", [x, "token_BS"])

    def join_texts(self, x: str) -> str:
        """[B, S, H] as [B * S, H]."""
        return self.node("Reshape", [x, self.constant("joined", np.array([-1, self.trunk.hidden_size], np.int64))])

    def branch(self, build: Callable[[], str]) -> onnx.GraphProto:
        """The nodes that `build` adds, as a graph by themselves; its result is the last one's."""
        outer, self.nodes = self.nodes, []
        result = helper.make_tensor_value_info(build(), TensorProto.FLOAT, [None, self.trunk.hidden_size])
        graph = helper.make_graph(self.nodes, result.name, [], [result])
        self.nodes = outer
        return graph

    def gated_up_proj(self, name: str, x: str) -> str:
        gate = self.activation(self.linear(f"{name}.gate", x), None)
        return self.node("Mul", [self.linear(f"{name}.up", x), gate])

    def add_norm(self, norm: str, x: str, residual: str, bias: str) -> str:
        scale, shift = self.weight_and_bias(norm)
        inputs = [x, residual, scale, shift, self.array(bias)]
        return self.node("SkipLayerNormalization", inputs, domain=MICROSOFT_DOMAIN, epsilon=self.trunk.norm_eps)

    def activation(self, x: str, bias: str | None) -> str:
        if bias and self.trunk.activation in FUSED_ACTIVATIONS:
            return self.node(FUSED_ACTIVATIONS[self.trunk.activation], [x, self.array(bias)], domain=MICROSOFT_DOMAIN)
        if bias:
            x = self.node("Add", [x, self.array(bias)])
        return ACTIVATIONS[self.trunk.activation](self, x)

    def pool(self, x: str) -> None:
        if self.one_token:
            self.node("Identity", [x], "pooled")
            return
        x = self.pad(x)
        modes, parts = self.pooling.modes, dict[str, str]()
        linear = [mode for mode in modes if mode != "max"]
        if linear:
            weights = self.input("weights_BMS", TensorProto.FLOAT, ["B", len(linear), "S"])
            mixed = self.node("MatMul", [weights, x])
            for index, mode in enumerate(linear):
                row = self.node("Gather", [mixed, self.constant(f"mode{index}", np.array(index, np.int64))], axis=1)
                parts[mode] = row
        if "max" in modes:
            mask = self.input("mask_BS1", TensorProto.FLOAT, ["B", "S", 1])
            parts["max"] = self.node("ReduceMax", [self.node("Add", [x, mask]), self.axis1()], keepdims=0)
        self.node("Concat", [parts[mode] for mode in modes], "pooled", axis=-1)

    def linear_with_bias(self, name: str, x: str) -> str:
        if self.precision == "float32":
            return self.node("Gemm", [x, self.array(f"{name}.weight"), self.array(f"{name}.bias")], transB=1)
        return self.node("Add", [self.linear(name, x), self.array(f"{name}.bias")])

    def linear(self, name: str, x: str) -> str:
        """x W^T with W as published, [out, in]: in float32 mapped from the file and packed once by the runtime."""
        if self.precision == "float32":
            return self.node("FusedMatMul", [x, self.array(f"{name}.weight")], domain=MICROSOFT_DOMAIN, transB=1)
        weight, scale, zero = quantize_weight(self.as_float32(f"{name}.weight"), signed=self.precision == "int8")
        names = [
            self.constant(f"{name}.{part}", value) for part, value in (("q", weight), ("scale", scale), ("zero", zero))
        ]
        return self.node("DynamicQuantizeMatMul", [x, *names], domain=MICROSOFT_DOMAIN)

    def weight_and_bias(self, name: str) -> tuple[str, str]:
        return self.array(f"{name}.weight"), self.array(f"{name}.bias")

    def as_float32(self, name: str) -> NDArray[np.float32]:
        """The array as it lies in the file, where that is contiguous float32; else a copy."""
        return np.ascontiguousarray(self.source_arrays[name], dtype=np.float32)

    def array(self, name: str) -> str:
        return self.constant(name, self.as_float32(name))

    def constant(self, name: str, value: Array) -> str:
        """An array under a name: outside the protobuf unless it is small. The same name is the same array."""
        if name not in self.defined_names:
            self.defined_names.add(name)
            self.initializers.append(_make_initializer(name, value))
            if value.nbytes >= MIN_EXTERNAL_BYTES:
                self.arrays[name] = value
        return name

    def axis1(self) -> str:
        return self.constant("axis1", np.array([1], np.int64))

    def input(self, name: str, kind: Any, shape: list[Any]) -> str:
        self.inputs[name] = (kind, shape)
        return name

    def node_once(self, out: str, operator: str, inputs: list[str], **attributes: Any) -> str:
        if out not in self.defined_names:
            self.defined_names.add(out)
            self.node(operator, inputs, out, **attributes)
        return out

    def node(self, operator: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        self.num_nodes += 1
        out = out or f"{operator}.{self.num_nodes}"
        self.nodes.append(helper.make_node(operator, inputs, [out], name=out, **attributes))
        return out


FUSED_ACTIVATIONS: dict[Activation, str] = {"gelu": "BiasGelu", "gelu_tanh": "FastGelu"}
"""Activations that the runtime fuses with the addition of a bias."""

ACTIVATIONS: dict[Activation, Callable[[_GraphBuilder, str], str]] = {
    "gelu": lambda g, x: g.node("Gelu", [x]),
    "gelu_tanh": lambda g, x: g.node("Gelu", [x], approximate="tanh"),
    "relu": lambda g, x: g.node("Relu", [x]),
    "tanh": lambda g, x: g.node("Tanh", [x]),
    "sigmoid": lambda g, x: g.node("Sigmoid", [x]),
    "silu": lambda g, x: g.node("Mul", [x, g.node("Sigmoid", [x])]),
    "identity": lambda g, x: x,
}


def quantize_weight(weight_OI: NDArray[np.float32], *, signed: bool) -> tuple[Array, Array, Array]:
    """A linear weight in 8 bits, symmetric, with one scale per output channel.

    Returns:
        values [in, out], int8 or uint8; scale [out]; zero point [out], 0 or 128.
    """
    scale_O = np.maximum(np.abs(weight_OI).max(axis=1), 1e-30) / 127
    values_OI = np.clip(np.rint(weight_OI / scale_O[:, None]), -127, 127).astype(np.int16)
    kind, zero = (np.int8, 0) if signed else (np.uint8, 128)
    values_IO = np.ascontiguousarray((values_OI + zero).astype(kind).T)
    return values_IO, scale_O.astype(np.float32), np.full(len(scale_O), zero, kind)


def _make_initializer(name: str, value: Array) -> onnx.TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    if value.nbytes < MIN_EXTERNAL_BYTES:
        return helper.make_tensor(name, kind, value.shape, value.tobytes(), raw=True)
    tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", EXTERNAL_LOCATION), ("offset", "0"), ("length", str(value.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return tensor
