"""The graph in a runtime: ONNX Runtime, or OpenVINO. CPU.

The runtime uses the arrays that it is given where they lie (mapped files stay mapped: of an embedding table, only the
rows that texts use are ever read) and keeps one packed copy of the matrices.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gnomon.batching import PaddingCost
from gnomon.engines.onnx.graph import Graph, Output, Precision, build_onnx_graph
from gnomon.engines.onnx.runtime import import_onnxruntime
from gnomon.engines.pooling import max_pooling_mask, padded_pooling_weights, padding_mask, pooled_token_index
from gnomon.engines.positions import RotaryTables, check_token_types, position_ids, rotary_tables
from gnomon.engines.protocol import Engine
from gnomon.errors import ExtraError
from gnomon.install import advise_install
from gnomon.packed import Ids, Packed, Vectors, padded_places, padded_tokens
from gnomon.spec import PoolingSpec, TrunkSpec

Array = NDArray[Any]
Feed = dict[str, Array]


class Session(Protocol):
    """A graph that runs: inputs by name in, the one output out."""

    inputs: frozenset[str]

    def __call__(self, feed: Feed) -> Vectors: ...


class OnnxEngine(Engine):
    """A trunk as ONNX graphs; each graph is built on first use.

    Args:
        precision: "float32", or "int8" / "uint8" for weights of 8 bits.
        threads: threads of one call; None for one per core.
        runtime: "onnxruntime" or "openvino".
    """

    token_budget = 1024
    """Measured: docs/records/lab-notes.md, 2026-11-21."""
    padding = PaddingCost(0.1, 1 / 320)
    """Only attention has padding, whose part grows with the length. Measured: experiments/padding."""

    def __init__(
        self,
        trunk: TrunkSpec,
        pooling: PoolingSpec,
        arrays: Mapping[str, Array],
        *,
        precision: Precision = "float32",
        threads: int | None = None,
        runtime: str = "onnxruntime",
    ) -> None:
        self.trunk, self.pooling, self.arrays = trunk, pooling, arrays
        self.precision: Precision = precision
        self.threads = threads
        self.open_session = RUNTIMES[runtime]
        self.for_openvino = runtime == "openvino"
        self.name = self.identity = f"onnx graph, {runtime}, {precision}"
        self.dtype = "float32" if precision == "float32" else "int8"
        self._sessions: dict[tuple[int, Output, bool], Session] = {}
        self._locks: dict[int, threading.Lock] = {}

    def budget(self, total_tokens: int) -> int:
        return self.token_budget

    def pool(self, packed: Packed) -> Vectors:
        return self._run("pooled", packed)

    def states(self, packed: Packed) -> Vectors:
        return self._run("states", packed)

    def load(self) -> None:
        """Open the session for vectors now, not at the first text."""
        self._get_session("pooled")

    def close(self) -> None:
        super().close()
        self._sessions.clear()

    def build_graph(self, output: Output, *, token_types: bool = False) -> Graph:
        """The graph that this engine runs, for export. With `token_types` it has the input types_T."""
        return build_onnx_graph(
            self.trunk,
            self.pooling,
            self.arrays,
            output=output,
            precision=self.precision,
            for_openvino=self.for_openvino,
            token_types=token_types,
        )

    def _run(self, output: Output, packed: Packed) -> Vectors:
        check_token_types(self.trunk, packed)
        session = self._get_session(output, token_types=packed.types_T is not None and self.trunk.num_token_types > 0)
        return session(self._build_feed(session, packed))

    def _get_session(self, output: Output, *, token_types: bool = False) -> Session:
        """This process's session: a runtime's threads do not survive a fork, so a child opens its own."""
        key = os.getpid(), output, token_types
        with self._locks.setdefault(key[0], threading.Lock()):
            self.check_open()
            if key not in self._sessions:
                graph = self.build_graph(output, token_types=token_types)
                self._sessions[key] = self.open_session(graph, self.threads)
            return self._sessions[key]

    def _build_feed(self, session: Session, packed: Packed) -> Feed:
        """The inputs that the graph has, and no others."""
        return {name: build(self, packed) for name, build in INPUT_BUILDERS.items() if name in session.inputs}

    def rotary_tables(self, packed: Packed) -> RotaryTables:
        """cos and sin of the angles, [S, head size / 2]."""
        assert self.trunk.rope
        longest = int(packed.lengths_B.max())
        cos_SR, sin_SR = rotary_tables(self.trunk.rope, self.trunk.head_size, longest)
        return cos_SR[:longest], sin_SR[:longest]


INPUT_BUILDERS: dict[str, Callable[[OnnxEngine, Packed], Array]] = {
    "ids_T": lambda engine, packed: packed.ids_T,
    "types_T": lambda engine, packed: _types(packed),
    "lengths_B": lambda engine, packed: packed.lengths_B.astype(np.int32),
    "token_BS": lambda engine, packed: padded_tokens(packed),
    "place_T": lambda engine, packed: padded_places(packed),
    "positions_T": lambda engine, packed: position_ids(engine.trunk, packed),
    "cos_SR": lambda engine, packed: engine.rotary_tables(packed)[0],
    "sin_SR": lambda engine, packed: engine.rotary_tables(packed)[1],
    "mask_B11S": lambda engine, packed: padding_mask(packed),
    "weights_BMS": lambda engine, packed: padded_pooling_weights(engine.pooling, packed),
    "mask_BS1": lambda engine, packed: max_pooling_mask(packed),
    "pooled_B": lambda engine, packed: packed.bounds[:-1] + pooled_token_index(engine.pooling, packed),
    "position_B1": lambda engine, packed: pooled_token_index(engine.pooling, packed)[:, None],
}
"""Input of the graph -> what builds it for a batch."""


def _types(packed: Packed) -> Ids:
    assert packed.types_T is not None
    return packed.types_T


class _OrtSession:
    def __init__(self, graph: Graph, threads: int | None) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # a waiting thread that spins takes a core from other work: measured, docs/records/lab-notes.md, 2026-11-21
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # given one by one, arrays are used where they lie in memory; add_external_initializers would copy them. The
        # runtime only checks that the file that the graph names as their location exists, so it is given this one
        self._ort_values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in graph.arrays.items()}
        for name, value in self._ort_values.items():
            options.add_initializer(name, value)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(Path(__file__).parent)
        )
        self._session = ort.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = frozenset(node.name for node in self._session.get_inputs())

    def __call__(self, feed: Feed) -> Vectors:
        return self._session.run(None, feed)[0]  # pyright: ignore[reportReturnType]


@cache
def _singleton(factory: type[Any]) -> Any:
    """One for the process, which is never freed. Each has a stack on which this thread's signals are handled, and takes
    it along when it is freed: after several, Ctrl-C ended the process by a fault of memory (OpenVINO 2026.4).
    """
    return factory()


class _OpenVinoSession:
    def __init__(self, graph: Graph, threads: int | None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ExtraError(f"the package openvino is not installed. {advise_install('openvino')}") from error
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
            self._compiled_model = _singleton(openvino.Core).compile_model(
                write_graph(graph, Path(folder)), "CPU", settings
            )
        self.inputs = frozenset(node.any_name for node in self._compiled_model.inputs)

    def __call__(self, feed: Feed) -> Vectors:
        # a request of its own for each call: they run side by side from several threads
        return np.array(self._compiled_model.create_infer_request().infer(feed)[0])


RUNTIMES: dict[str, Callable[[Graph, int | None], Session]] = {"onnxruntime": _OrtSession, "openvino": _OpenVinoSession}


def write_graph(graph: Graph, folder: Path) -> Path:
    """model.onnx and its weights beside it, in model.onnx.data; returns the path of model.onnx."""
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    with (folder / "model.onnx.data").open("wb") as data:
        for tensor in model.graph.initializer:
            if tensor.name in graph.arrays:
                array = graph.arrays[tensor.name]
                data.seek(-data.tell() % 64, 1)
                location = {"location": "model.onnx.data", "offset": str(data.tell()), "length": str(array.nbytes)}
                for entry in tensor.external_data:
                    entry.value = location[entry.key]
                data.write(np.ascontiguousarray(array).data)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
