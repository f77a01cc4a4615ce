"""Options of load -> an engine, and the words of a refusal."""

import os
import sys
from typing import Any

import numpy as np
import pytest

from gnomon.engines import choose
from gnomon.engines.choose import Options, available_cores, int8_saturates, open_engine
from gnomon.engines.onnx import OnnxEngine
from gnomon.engines.static import StaticEngine
from gnomon.errors import ExtraError, InputError
from gnomon.packed import pack
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec, TrunkSpec, trunk_arrays

TRUNK = TrunkSpec(vocab_size=20, hidden=8, layers=1, heads=2, inner=8, positions=16)
ARRAYS = {
    name: np.random.default_rng(1).normal(size=shape).astype(np.float32) for name, shape in trunk_arrays(TRUNK).items()
}
FINE: dict[str, Any] = {"device": "auto", "engine": "auto", "dtype": "auto", "threads": None}


def spec(trunk: TrunkSpec | StaticSpec = TRUNK) -> ModelSpec:
    return ModelSpec(trunk, PoolingSpec(), (), TokenizerSpec(16))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu."),
        ({"engine": "tensorrt"}, "engine 'tensorrt' is not one of auto, onnx, openvino."),
        ({"dtype": "int4"}, "dtype 'int4' is not one of auto, float32, int8."),
        ({"dtype": None}, "dtype None is not one of"),
        ({"engine": "openvino", "dtype": "int8"}, "dtype 'int8' is not in engine 'openvino'; use engine='onnx'"),
        ({"threads": 0}, "threads is 0; it must be a whole number from 1 to 1024"),
        ({"threads": -2}, "threads is -2"),
    ],
)
def test_a_bad_option_is_named_with_its_choices(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Options.check(**FINE | option)
    assert message in str(caught.value)


@pytest.mark.parametrize("engine", ["auto", "onnx", "openvino"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_good_options_are_kept(engine: str, dtype: str) -> None:
    assert Options.check(device="cpu", engine=engine, dtype=dtype, threads=3) == Options(engine, dtype, "cpu", 3)


@pytest.mark.parametrize(
    ("options", "saturates", "name"),
    [
        (Options(), False, "onnx graph, onnxruntime, float32"),
        (Options(dtype="float32", engine="onnx"), True, "onnx graph, onnxruntime, float32"),
        (Options(dtype="int8"), False, "onnx graph, onnxruntime, int8"),
        (Options(dtype="int8"), True, "onnx graph, onnxruntime, uint8"),
    ],
)
def test_the_engine_of_options(options: Options, saturates: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 weights where their products are exact, uint8 where those of int8 saturate."""
    monkeypatch.setattr(choose, "int8_saturates", lambda: saturates)
    engine = open_engine(spec(), ARRAYS, options)
    assert isinstance(engine, OnnxEngine)
    assert engine.name == name
    assert engine.pool(pack([np.arange(5)]), 0).shape == (1, 8)


def test_openvino_is_opened_by_name() -> None:
    pytest.importorskip("openvino")
    assert open_engine(spec(), ARRAYS, Options("openvino")).name == "onnx graph, openvino, float32"


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_what_to_install(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=f"the package {package} is not installed; pip install"):
        open_engine(spec(), ARRAYS, Options(engine))


@pytest.mark.parametrize("options", [Options(), Options(dtype="int8"), Options("openvino")])
def test_a_static_table_runs_without_a_runtime(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    engine = open_engine(spec(StaticSpec(4, 2)), {"embed.tokens": np.ones((4, 2), np.float32)}, options)
    assert isinstance(engine, StaticEngine)


def test_saturation_is_measured_once() -> None:
    int8_saturates.cache_clear()
    assert int8_saturates() in (True, False)
    assert int8_saturates() == int8_saturates()
    assert int8_saturates.cache_info().misses == 1


def test_threads_default_to_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    engine = open_engine(spec(), ARRAYS, Options())
    assert isinstance(engine, OnnxEngine)
    assert engine.threads == available_cores()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()
