"""Spec + arrays -> an ONNX graph, built here. The weights stay outside the protobuf, under the graph's own names.

B: texts; S: tokens of the longest; H: hidden; N: heads; d: head size; M: linear pooling modes.

Inputs: ids_BS, lengths_B (texts are padded on the right), and, where the graph needs them, types_BS (token types),
positions (rows of the position table, [1 or B, S]), cos_SR and sin_SR (rotary), weights_BMS and mask_BS1 (pooling),
row_B1 (the one token that is pooled).
Output: "pooled" [B, D], or "states" [B, S, H].
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
    unfused_rotary: bool = False,
    token_types: bool = False,
) -> Graph:
    """The graph of one trunk, up to pooled vectors or token states.

    Args:
        unfused_rotary: spell rotary attention out in standard operators, for runtimes without the fused ones
            (OpenVINO).
        token_types: the graph has an input for the types of the tokens; without it, all are of type 0.
    """
    return _GraphBuilder(trunk, pooling, arrays, output, precision, unfused_rotary, token_types).build()


class _GraphBuilder:
    """Nodes and arrays of one graph, in the order in which they run. Methods return the name of their result."""

    def __init__(
        self,
        trunk: TrunkSpec,
        pooling: PoolingSpec,
        arrays: Mapping[str, Array],
        output: Output,
        precision: Precision,
        unfused_rotary: bool,
        token_types: bool,
    ) -> None:
        self.trunk, self.pooling, self.source_arrays = trunk, pooling, arrays
        self.output: Output = output
        self.one_token = output == "pooled" and pools_one_token(pooling)
        self.precision: Precision = precision
        self.token_types = token_types
        self.rotary_attention = self._rotary_unfused if unfused_rotary else self._rotary_fused
        self.defined_names: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.arrays: dict[str, Array] = {}
        self.inputs: dict[str, tuple[Any, list[Any]]] = {
            "ids_BS": (TensorProto.INT64, ["B", "S"]),
            "lengths_B": (TensorProto.INT32, ["B"]),
        }

    def build(self) -> Graph:
        x = self.embeddings()
        for index in range(self.trunk.num_layers):
            x = self.layer(f"layers.{index}", x, last=index == self.trunk.num_layers - 1)
        if self.output == "states":
            self.node("Identity", [x], "states")
            result = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["B", "S", self.trunk.hidden_size])
        else:
            self.pool(x)
            pooled_dim = self.trunk.hidden_size * len(self.pooling.modes)
            result = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["B", pooled_dim])
        inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in self.inputs.items()]
        graph = helper.make_graph(self.nodes, "gnomon", inputs, [result], self.initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        return Graph(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="gnomon"), self.arrays)

    def embeddings(self) -> str:
        x = self.node("Gather", [self.array("embed.tokens"), "ids_BS"])
        if self.trunk.max_positions:
            rows = self.input("positions", TensorProto.INT64, ["P", "S"])
            x = self.node("Add", [x, self.node("Gather", [self.array("embed.positions"), rows])])
        if self.trunk.num_token_types and self.token_types:
            types = self.input("types_BS", TensorProto.INT64, ["B", "S"])
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
        """[B, 1, H]: the state of the one token that will be pooled."""
        row_B1 = self.input("row_B1", TensorProto.INT64, ["B", 1])
        chosen = self.node("GatherND", [x, row_B1], batch_dims=1)
        return self.node("Unsqueeze", [chosen, self.constant("axis1", np.array([1], np.int64))])

    def attention(self, name: str, x: str, rows: str) -> str:
        """Attention of `rows` (all tokens, or the one that is pooled) to all tokens of the text."""
        if self.trunk.rope:
            return self.rotary_attention(name, x, rows)
        if rows == x and self.precision == "float32":
            weights = np.concatenate([self.as_float32(f"{name}.{part}.weight") for part in ("query", "key", "value")])
            fused = self.constant(f"{name}.qkv.weight", np.ascontiguousarray(weights.T))
            return self.node(
                "Attention",
                [x, fused, self.qkv_bias(name), "lengths_B"],
                domain=MICROSOFT_DOMAIN,
                num_heads=self.trunk.num_heads,
            )
        parts = [self.linear(f"{name}.query", rows), self.linear(f"{name}.key", x), self.linear(f"{name}.value", x)]
        return self.node(
            "MultiHeadAttention",
            [*parts, self.qkv_bias(name), "lengths_B"],
            domain=MICROSOFT_DOMAIN,
            num_heads=self.trunk.num_heads,
        )

    def _rotary_fused(self, name: str, x: str, rows: str) -> str:
        query = self.linear_with_bias(f"{name}.query", rows)
        key, value = self.linear_with_bias(f"{name}.key", x), self.linear_with_bias(f"{name}.value", x)
        start = self.constant("start", np.zeros(1, np.int64))
        query = self.apply_rotary_fused(query, start if rows == x else "row_B1")
        return self.masked_attention(query, self.apply_rotary_fused(key, start), value)

    def _rotary_unfused(self, name: str, x: str, rows: str) -> str:
        """softmax(q k^T / sqrt(d) + mask) v, head by head: [B, N, S, d]."""
        query = self.split_heads(self.linear_with_bias(f"{name}.query", rows))
        key, value = (self.split_heads(self.linear_with_bias(f"{name}.{part}", x)) for part in ("key", "value"))
        key = self.apply_rotary_unfused(key, "cos_SR", "sin_SR")
        if rows == x:
            query = self.apply_rotary_unfused(query, "cos_SR", "sin_SR")
        else:
            axes = self.constant("heads_axis", np.array([1], np.int64))
            cos, sin = (
                self.node("Unsqueeze", [self.node("Gather", [table, "row_B1"]), axes]) for table in ("cos_SR", "sin_SR")
            )
            query = self.apply_rotary_unfused(query, cos, sin)
        scale = self.constant("scale", np.array(self.trunk.head_size**-0.5, np.float32))
        scores = self.node(
            "MatMul", [self.node("Mul", [query, scale]), self.node("Transpose", [key], perm=[0, 1, 3, 2])]
        )
        mask = self.input("mask_B11S", TensorProto.FLOAT, ["B", 1, 1, "S"])
        shares = self.node("Softmax", [self.node("Add", [scores, mask])], axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [shares, value])], perm=[0, 2, 1, 3])
        return self.node(
            "Reshape", [mixed, self.constant("joined", np.array([0, 0, self.trunk.hidden_size], np.int64))]
        )

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

    def masked_attention(self, query: str, key: str, value: str) -> str:
        """Without a mask where all lengths are equal: that form needs memory linear in the length, and texts may have
        8,192 tokens.
        """
        longest = self.node_once("longest", "ReduceMax", ["lengths_B"], keepdims=0)
        shortest = self.node_once("shortest", "ReduceMin", ["lengths_B"], keepdims=0)
        equal = self.node_once("equal", "Equal", [longest, shortest])
        branches = {}
        for branch, mask in (("then_branch", []), ("else_branch", ["", "lengths_B"])):
            out = f"{query}.{branch}"
            node = helper.make_node(
                "MultiHeadAttention",
                [query, key, value, *mask],
                [out],
                domain=MICROSOFT_DOMAIN,
                num_heads=self.trunk.num_heads,
            )
            value_info = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["B", None, self.trunk.hidden_size])
            branches[branch] = helper.make_graph([node], branch, [], [value_info])
        return self.node("If", [equal], **branches)

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
            self.node("Squeeze", [x, self.constant("axis1", np.array([1], np.int64))], "pooled")
            return
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
            axis = self.constant("axis1", np.array([1], np.int64))
            parts["max"] = self.node("ReduceMax", [self.node("Add", [x, mask]), axis], keepdims=0)
        self.node("Concat", [parts[mode] for mode in modes], "pooled", axis=-1)

    def linear_with_bias(self, name: str, x: str) -> str:
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

    def qkv_bias(self, name: str) -> str:
        parts = [self.as_float32(f"{name}.{part}.bias") for part in ("query", "key", "value")]
        return self.constant(f"{name}.qkv.bias", np.concatenate(parts))

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

    def input(self, name: str, kind: Any, shape: list[Any]) -> str:
        self.inputs[name] = (kind, shape)
        return name

    def node_once(self, out: str, operator: str, inputs: list[str], **attributes: Any) -> str:
        if out not in self.defined_names:
            self.defined_names.add(out)
            self.node(operator, inputs, out, **attributes)
        return out

    def node(self, operator: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        out = out or f"{operator}.{len(self.nodes)}"
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
