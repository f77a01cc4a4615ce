"""Options of `Encoder.load` -> an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.engines import Engine
from gnomon.engines.static import StaticEngine
from gnomon.errors import InputError
from gnomon.inputs import whole_number
from gnomon.spec import ModelSpec, StaticSpec

MOST_THREADS = 1024
"""More would only wait for each other; the runtime hangs making them."""

CHOICES = {"device": ("auto", "cpu"), "engine": ("auto", "onnx", "openvino"), "dtype": ("auto", "float32", "int8")}


@dataclass(frozen=True)
class Options:
    """How a model is run."""

    engine: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None

    @classmethod
    def check(cls, *, device: str, engine: str, dtype: str, threads: int | None) -> Options:
        """Options that can be used.

        Raises:
            InputError: a value that is not among the choices; an openvino engine in int8.
        """
        for name, value in (("device", device), ("engine", engine), ("dtype", dtype)):
            if value not in CHOICES[name]:
                raise InputError(f"{name} {value!r} is not one of {', '.join(CHOICES[name])}.")
        if engine == "openvino" and dtype == "int8":
            raise InputError("dtype 'int8' is not in engine 'openvino'; use engine='onnx', or dtype='float32'.")
        return cls(engine, dtype, device, None if threads is None else whole_number(threads, "threads", MOST_THREADS))


def open_engine(spec: ModelSpec, arrays: Mapping[str, NDArray[Any]], options: Options) -> Engine:
    """The engine for a model. A static table needs no runtime, whatever was asked for."""
    if isinstance(spec.trunk, StaticSpec):
        return StaticEngine(spec.trunk, arrays)
    from gnomon.engines.onnx import OnnxEngine

    precision = "float32" if options.dtype != "int8" else ("uint8" if int8_saturates() else "int8")
    runtime = "openvino" if options.engine == "openvino" else "onnxruntime"
    threads = options.threads or available_cores()
    engine = OnnxEngine(spec.trunk, spec.pooling, arrays, precision=precision, threads=threads, runtime=runtime)
    engine.load()
    return engine


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def int8_saturates() -> bool:
    """Whether this processor's product of uint8 activations with int8 weights saturates (x86 without VNNI).

    Measured on one small product: 64 terms of 255 * 127 add up to more than 16 bits hold in pairs.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    infos = [
        helper.make_tensor_value_info(name, kind, [64, 64])
        for name, kind in (("a", TensorProto.UINT8), ("b", TensorProto.INT8))
    ]
    out = helper.make_tensor_value_info("c", TensorProto.INT32, [64, 64])
    model = helper.make_model(
        helper.make_graph([node], "probe", infos, [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product = session.run(None, {"a": np.full((64, 64), 255, np.uint8), "b": np.full((64, 64), 127, np.int8)})[0]
    return bool(np.any(np.asarray(product) != 64 * 255 * 127))
