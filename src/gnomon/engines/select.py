"""Options of `Encoder.load` -> an engine. What "auto" means is decided here.

The measurements: docs/records/benchmarks.md.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnomon.engines.protocol import Engine
from gnomon.engines.static import StaticEngine
from gnomon.errors import ExtraError, InputError
from gnomon.inputs import as_whole_number
from gnomon.install import advise_install, install_command
from gnomon.messages import check_choice
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.warn import warn_once

MAX_THREADS = 1024
"""More would only wait for each other; the runtime hangs making them."""

CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")

DEVICE_PATTERN = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,3}))?")


class EngineSupport(NamedTuple):
    """What an engine can do."""

    devices: tuple[str, ...]
    dtypes: tuple[str, ...]


ENGINES = {
    "onnx": EngineSupport(("cpu",), ("float32", "int8")),
    "openvino": EngineSupport(("cpu",), ("float32",)),
    "torch": EngineSupport(("cpu", "cuda", "mps"), ("float32", "bfloat16", "float16")),
}

DTYPES = ("float32", "bfloat16", "float16", "int8")

Reopen = Callable[["EngineOptions"], Engine]
"""Opens the same model in another process."""


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run, as the caller requested it."""

    engine: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    """One device, or several with commas between them."""
    threads: int | None = None

    @classmethod
    def from_arguments(
        cls, *, device: str | Sequence[str], engine: str, dtype: str, threads: int | None
    ) -> EngineOptions:
        """Options that can be used here.

        Raises:
            InputError: a value that is not among the choices; a device, or a dtype of a device, that is not there; an
                engine without that device or dtype.
            ExtraError: the engine that these options need is not installed.
        """
        names = _parse_devices(device)
        if not names or (len(names) > 1 and "auto" in names):
            raise InputError(f"device {device!r} names no devices; give one, or several such as 'cuda:0,cuda:1'.")
        for name, value, choices in (("engine", engine, ENGINES), ("dtype", dtype, DTYPES)):
            check_choice(value, name, ("auto", *choices))
        number = None if threads is None else as_whole_number(threads, "threads", MAX_THREADS)
        options = cls(engine, dtype, ",".join(names), number)
        if options != cls(threads=number):  # options left open are never wrong, and a static model needs no engine
            options.resolve()
        return options

    @property
    def devices(self) -> list[str]:
        return self.device.split(",")

    def resolve(self) -> EngineOptions:
        """These options with nothing left to choose, on this machine."""
        device = self._resolve_device()
        names = device.split(",")
        kind, *others = sorted({name.partition(":")[0] for name in names})
        if others:
            raise InputError(f"device {device!r} mixes {kind} and {others[0]}, whose vectors differ; give one kind.")
        onnx = kind == "cpu" and self.dtype in ("auto", *ENGINES["onnx"].dtypes)
        engine = self.engine if self.engine != "auto" else "onnx" if onnx else "torch"
        able = ENGINES[engine]
        if kind not in able.devices:
            raise InputError(
                f"device {device!r} is not in engine {engine!r}, which has {', '.join(able.devices)}; "
                "use engine='torch'."
            )
        if self.dtype not in ("auto", *able.dtypes):
            engines = [name for name, other in ENGINES.items() if kind in other.devices and self.dtype in other.dtypes]
            way = f"use engine={engines[0]!r}, or " if engines else "use "
            raise InputError(
                f"dtype {self.dtype!r} is not in engine {engine!r}; {way}{_join_choices('dtype', able.dtypes)}."
            )
        dtype = self.dtype if self.dtype != "auto" else "float32"
        if engine == "torch":
            dtype = _resolve_torch_dtype(names, self.dtype)
        return replace(self, engine=engine, dtype=dtype, device=device)

    def _resolve_device(self) -> str:
        if self.device != "auto":
            return self.device
        possible = self.engine in ("auto", "torch") and self.dtype != "int8"
        return "cuda" if possible and _has_usable_gpu() else "cpu"


def open_engine(
    spec: ModelSpec, arrays: Mapping[str, NDArray[Any]], options: EngineOptions, *, reopen: Reopen | None = None
) -> Engine:
    """The engine for a model. A static table needs no runtime, whatever the options say; a warning says so.

    Args:
        reopen: opens this model in another process, which several devices need.
    """
    if isinstance(spec.trunk, StaticSpec):
        for name, requested, used in (("device", options.device, "cpu"), ("dtype", options.dtype, "float32")):
            if requested not in ("auto", used):
                warn_once(
                    f"{name} {requested!r} changes nothing: a static model is a table, summed on the CPU in float32."
                )
        return StaticEngine(spec.trunk, arrays)
    settled = options.resolve()
    if len(settled.devices) > 1:
        from gnomon.engines.process_pool import ProcessPoolEngine

        if reopen is None:
            raise InputError("several devices need a model that Encoder.load read; load it with device=[...].")
        threads = settled.threads or max(1, available_cores() // len(settled.devices))
        alone = {device: replace(settled, device=device, threads=threads) for device in settled.devices}
        return ProcessPoolEngine([(device, partial(reopen, alone[device])) for device in settled.devices])
    if settled.engine == "torch":
        from gnomon.engines.torch.engine import TorchEngine

        return TorchEngine(
            spec.trunk,
            spec.pooling,
            arrays,
            device=settled.device,
            dtype=settled.dtype,
            threads=settled.threads,
        )
    from gnomon.engines.onnx.engine import OnnxEngine

    precision = "float32" if settled.dtype != "int8" else ("uint8" if int8_saturates() else "int8")
    runtime = "openvino" if settled.engine == "openvino" else "onnxruntime"
    threads = settled.threads or available_cores()
    engine = OnnxEngine(spec.trunk, spec.pooling, arrays, precision=precision, threads=threads, runtime=runtime)
    engine.load()
    return engine


def _parse_devices(device: object) -> list[str]:
    names: list[object] = [device]
    if isinstance(device, str):
        names = [name.strip() for name in device.split(",")]
    elif isinstance(device, list | tuple):
        names = [name.strip() if isinstance(name, str) else name for name in device]
    for name in names:
        if not isinstance(name, str) or not DEVICE_PATTERN.fullmatch(name):
            raise InputError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps.")
    return [str(name) for name in names]


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than the CPU time of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # rounded down: a thread beyond the quota is stopped for a part of each period, and the others wait for it
    return int(max(1, min(cores, _cpu_quota())))


def _cpu_quota() -> float:
    """Seconds of CPU time per second that Linux control groups grant this process; infinity without a limit."""
    try:
        lines = [line.split(":", 2) for line in CGROUP_MEMBERSHIP.read_text("utf-8").splitlines()]
    except OSError:
        return math.inf
    quotas = [math.inf]
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        hierarchy = CGROUP_ROOT / "cpu" if controllers else CGROUP_ROOT
        # a limit of any group above holds too; a container sees its own group as the root, whatever its path says
        group = Path(path.lstrip("/"))
        quotas += [_read_quota(hierarchy / parent) for parent in (group, *group.parents)]
    return min(quotas)


def _read_quota(group: Path) -> float:
    """The quota of one group: cpu.max is "200000 100000" or "max 100000" (version 2); version 1 has two files."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text("utf-8").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text("utf-8")) for name in ("quota", "period"))
        return math.inf if quota < 0 else quota / period
    return math.inf


def has_torch() -> bool:
    """Whether torch is installed; it is not imported."""
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None  # pyright: ignore[reportUnnecessaryComparison]
    return importlib.util.find_spec("torch") is not None


def has_gpu_driver() -> bool:
    """Whether the system has a driver for a GPU that torch may use. It looks at files, since torch is slow to load."""
    if os.name == "nt":
        return (Path(os.sep) / "Windows" / "System32" / "nvcuda.dll").exists()
    return any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev", name).exists() for name in ("dxg", "kfd"))


def _has_usable_gpu() -> bool:
    """Whether "auto" takes a GPU; a GPU that cannot be used gives one warning per process."""
    if not has_gpu_driver():
        return False
    if not has_torch():
        command = install_command("torch")
        warn_once(f"this machine has a GPU, and torch is not installed: running on the CPU. Install it: {command}")
        return False
    try:
        import torch

        from gnomon.engines.torch.devices import gpu_runs_kernels
    except Exception as error:
        warn_once(f"this machine has a GPU, and torch cannot be imported ({error}): running on the CPU.")
        return False
    if torch.cuda.is_available() and gpu_runs_kernels():
        return True
    warn_once(f"this machine has a GPU that torch {torch.__version__} cannot use: running on the CPU.")
    return False


def _join_choices(name: str, values: Sequence[str]) -> str:
    return " or ".join(f"{name}={value!r}" for value in values)


def _resolve_torch_dtype(devices: Sequence[str], dtype: str) -> str:
    """The dtype to run in; devices and dtype are there."""
    if not has_torch():
        if devices[0].startswith("cuda") and not has_gpu_driver():
            raise InputError(
                f"device {devices[0]!r}: no CUDA device was found, since this machine has no driver for a GPU. "
                "Use device='cpu'."
            )
        raise ExtraError(f"the package torch is not installed. {advise_install('torch')}")
    from gnomon.engines.torch.devices import auto_dtype, check_device, check_dtype

    for device in devices:
        check_device(device)
    natural = {auto_dtype(device) for device in devices}
    settled = dtype if dtype != "auto" else natural.pop() if len(natural) == 1 else "float32"
    for device in devices:
        check_dtype(device, settled)
    return settled


@cache
def int8_saturates() -> bool:
    """Whether this processor's product of uint8 activations with int8 weights saturates (x86 without VNNI).

    Measured on one small product: 64 terms of 255 * 127 add up to more than 16 bits hold in pairs.
    """
    from onnx import TensorProto, helper

    from gnomon.engines.onnx.runtime import import_onnxruntime

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    ort = import_onnxruntime()
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
