"""Options of load -> an engine, and the words of a refusal."""

import importlib.util
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.engines import select
from gnomon.engines.onnx.engine import OnnxEngine
from gnomon.engines.select import EngineOptions, available_cores, int8_saturates, open_engine
from gnomon.engines.static import StaticEngine
from gnomon.errors import ExtraError, InputError, Notice
from gnomon.install import advise_install, install_command
from gnomon.packed import pack
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec, TrunkSpec, trunk_shapes
from gnomon.warn import warn_once

TRUNK = TrunkSpec(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=16)
ARRAYS = {
    name: np.random.default_rng(1).normal(size=shape).astype(np.float32) for name, shape in trunk_shapes(TRUNK).items()
}
FINE: dict[str, Any] = {"device": "auto", "engine": "auto", "dtype": "auto", "threads": None}
NO_TORCH = f"the package torch is not installed. {advise_install('torch')}"

Gpus = Callable[..., None]


def spec(trunk: TrunkSpec | StaticSpec = TRUNK) -> ModelSpec:
    return ModelSpec(trunk, PoolingSpec(), (), TokenizerSpec(16))


@pytest.fixture(autouse=True)
def cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has: no GPU, and nothing said of one yet."""
    monkeypatch.setattr(select, "has_gpu_driver", lambda: False)
    warn_once.cache_clear()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Pretend that there are GPUs of these capabilities, and that torch sees them."""
    torch = pytest.importorskip("torch")

    def pretend(*capabilities: tuple[int, int], seen: bool = True, works: bool = True) -> None:
        def number(device: Any) -> int:
            return torch.device(device).index or 0

        monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities) if seen else 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[number(device)])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {number(device)}")
        monkeypatch.setattr("gnomon.engines.torch.devices.gpu_runs_kernels", lambda: works)

    return pretend


@pytest.fixture
def cpu_dtypes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that the processor computes in these."""
    torch = pytest.importorskip("torch")

    def pretend(*dtypes: str) -> None:
        for dtype, name in (("bfloat16", "bf16"), ("float16", "fp16")):
            there = dtype in dtypes
            monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda it=there: it, raising=False)

    return pretend


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def refused(**option: Any) -> str:
    with pytest.raises(InputError) as caught:
        EngineOptions.from_arguments(**FINE | option)
    return str(caught.value)


def warnings_of(run: Callable[[], object]) -> list[tuple[str, str]]:
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        run()
    assert all(notice.category is Notice for notice in message)
    return [(str(notice.message), notice.filename) for notice in message]


# ---- refusals


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda, cuda:N, mps."),
        ({"device": "cuda:"}, "device 'cuda:' is not one of"),
        ({"device": "cuda:-1"}, "device 'cuda:-1' is not one of"),
        ({"device": "cuda:1x"}, "device 'cuda:1x' is not one of"),
        ({"device": "cpu:0"}, "device 'cpu:0' is not one of"),
        ({"device": ""}, "device '' is not one of"),
        ({"device": "cpu,"}, "device '' is not one of"),
        ({"device": ["cpu", "gpu"]}, "device 'gpu' is not one of"),
        ({"device": ["cpu,cpu"]}, "device 'cpu,cpu' is not one of"),
        ({"device": ["cpu", None]}, "device None is not one of"),
        ({"device": ["cpu", 1]}, "device 1 is not one of"),
        ({"device": []}, "device [] names no devices; give one, or several such as 'cuda:0,cuda:1'."),
        ({"device": "auto,cpu"}, "device 'auto,cpu' names no devices; give one, or several"),
        ({"device": ["auto", "auto"]}, "device ['auto', 'auto'] names no devices; give one, or several"),
        ({"device": "cpu,cuda"}, "device 'cpu,cuda' mixes cpu and cuda, whose vectors differ; give one kind."),
        ({"device": ["cuda:0", "cpu"]}, "device 'cuda:0,cpu' mixes cpu and cuda, whose vectors differ"),
        ({"device": "cuda, mps"}, "device 'cuda,mps' mixes cuda and mps, whose vectors differ"),
        ({"engine": "tensorrt"}, "engine 'tensorrt' is not one of auto, onnx, openvino, torch."),
        ({"engine": None}, "engine None is not one of"),
        ({"dtype": "int4"}, "dtype 'int4' is not one of auto, float32, bfloat16, float16, int8."),
        ({"dtype": None}, "dtype None is not one of"),
        (
            {"engine": "openvino", "dtype": "int8"},
            "dtype 'int8' is not in engine 'openvino'; use engine='onnx', or dtype='float32'.",
        ),
        (
            {"engine": "onnx", "dtype": "float16"},
            "dtype 'float16' is not in engine 'onnx'; use engine='torch', or dtype='float32' or dtype='int8'.",
        ),
        (
            {"engine": "torch", "dtype": "int8"},
            "dtype 'int8' is not in engine 'torch'; use engine='onnx', or dtype='float32' or dtype='bfloat16' or",
        ),
        (
            {"device": "cuda", "dtype": "int8"},
            "dtype 'int8' is not in engine 'torch'; use dtype='float32' or dtype='bfloat16' or dtype='float16'.",
        ),
        (
            {"device": "cuda:1", "engine": "onnx"},
            "device 'cuda:1' is not in engine 'onnx', which has cpu; use engine='torch'.",
        ),
        (
            {"device": "mps", "engine": "openvino"},
            "device 'mps' is not in engine 'openvino', which has cpu; use engine='torch'.",
        ),
        ({"threads": 0}, "threads is 0; it must be a whole number from 1 to 1024"),
        ({"threads": -2}, "threads is -2"),
        ({"threads": 1025}, "threads is 1025; it must be a whole number from 1 to 1024"),
        ({"threads": 1.5}, "threads is 1.5; it must be"),
        ({"threads": True}, "threads is True; it must be"),
    ],
)
def test_a_bad_option_is_named_with_its_choices(option: dict[str, Any], message: str) -> None:
    assert message in refused(**option)


@pytest.mark.parametrize("device", [None, 0])
def test_a_device_that_is_no_name_is_refused_in_words(device: Any) -> None:
    assert f"device {device!r} is not one of auto, cpu, cuda, cuda:N, mps." in refused(device=device)


def test_auto_with_a_space_is_auto() -> None:
    assert "names no devices" in refused(device="cpu, auto")


@pytest.mark.parametrize("engine", ["auto", "onnx", "openvino"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_good_options_are_kept(engine: str, dtype: str) -> None:
    assert EngineOptions.from_arguments(device="cpu", engine=engine, dtype=dtype, threads=3) == EngineOptions(
        engine, dtype, "cpu", 3
    )


@pytest.mark.parametrize("device", ["cpu,cpu", " cpu , cpu ", ["cpu", "cpu"], ("cpu", " cpu")])
def test_several_devices_are_kept_as_one_str(device: Any) -> None:
    options = EngineOptions.from_arguments(**FINE | {"device": device})
    assert (options.device, options.devices) == ("cpu,cpu", ["cpu", "cpu"])
    assert options.resolve() == EngineOptions("onnx", "float32", "cpu,cpu")


# ---- what "auto" is


@pytest.mark.parametrize(
    ("option", "settled"),
    [
        ({}, ("onnx", "float32", "cpu")),
        ({"engine": "openvino"}, ("openvino", "float32", "cpu")),
        ({"engine": "torch"}, ("torch", "float32", "cpu")),
        ({"dtype": "int8"}, ("onnx", "int8", "cpu")),
        ({"dtype": "bfloat16"}, ("torch", "bfloat16", "cpu")),
        ({"dtype": "float16"}, ("torch", "float16", "cpu")),
        ({"device": "cpu,cpu", "dtype": "bfloat16"}, ("torch", "bfloat16", "cpu,cpu")),
    ],
)
def test_auto_on_a_machine_without_gpu(
    option: dict[str, Any], settled: tuple[str, ...], cpu_dtypes: Callable[..., None]
) -> None:
    cpu_dtypes("bfloat16", "float16")
    options = EngineOptions.from_arguments(**FINE | option)
    found = options.resolve()
    assert (found.engine, found.dtype, found.device) == settled
    assert {name: getattr(options, name) for name in FINE} == FINE | option, "what was asked for is kept"
    assert found.resolve() == found


@pytest.mark.parametrize(
    ("option", "capabilities", "settled"),
    [
        ({}, [(7, 5)], ("torch", "float32", "cuda")),
        ({}, [(8, 0)], ("torch", "bfloat16", "cuda")),
        ({}, [(9, 0)], ("torch", "bfloat16", "cuda")),
        ({}, [(9, 0), (9, 0)], ("torch", "bfloat16", "cuda")),
        ({"engine": "torch"}, [(8, 0)], ("torch", "bfloat16", "cuda")),
        ({"dtype": "float32"}, [(8, 0)], ("torch", "float32", "cuda")),
        ({"dtype": "float16"}, [(7, 5)], ("torch", "float16", "cuda")),
        ({"dtype": "int8"}, [(8, 0)], ("onnx", "int8", "cpu")),
        ({"engine": "onnx"}, [(8, 0)], ("onnx", "float32", "cpu")),
        ({"engine": "openvino"}, [(8, 0)], ("openvino", "float32", "cpu")),
        ({"device": "cpu"}, [(8, 0)], ("onnx", "float32", "cpu")),
        ({"device": "cuda:1"}, [(8, 0), (7, 5)], ("torch", "float32", "cuda:1")),
        ({"device": "cuda:0"}, [(8, 0), (7, 5)], ("torch", "bfloat16", "cuda:0")),
        ({"device": ["cuda:0", "cuda:1"]}, [(8, 0), (9, 0)], ("torch", "bfloat16", "cuda:0,cuda:1")),
        ({"device": ["cuda:1", "cuda:0"], "dtype": "float32"}, [(8, 0), (7, 5)], ("torch", "float32", "cuda:1,cuda:0")),
    ],
)
def test_auto_on_a_machine_with_gpus(
    option: dict[str, Any], capabilities: list[tuple[int, int]], settled: tuple[str, ...], gpus: Gpus
) -> None:
    gpus(*capabilities)
    found = EngineOptions.from_arguments(**FINE | option).resolve()
    assert (found.engine, found.dtype, found.device) == settled


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "cuda:3"}, "device 'cuda:3' is not there; there are cuda:0, cuda:1."),
        ({"device": "cuda:0,cuda:2"}, "device 'cuda:2' is not there; there are cuda:0, cuda:1."),
        (
            {"device": "cuda:1", "dtype": "bfloat16"},
            "dtype 'bfloat16' is not in GPU 1, which has no arithmetic for it; use dtype='float32' or dtype='float16'.",
        ),
        (
            {"device": "cuda:0,cuda:1", "dtype": "bfloat16"},
            "dtype 'bfloat16' is not in GPU 1, which has no arithmetic for it",
        ),
    ],
)
def test_what_the_gpus_lack_is_refused(option: dict[str, Any], message: str, gpus: Gpus) -> None:
    gpus((8, 0), (7, 5))
    assert message in refused(**option)


@pytest.mark.parametrize("option", [{"device": "cuda"}, {"device": "cuda:0", "engine": "torch"}])
def test_a_gpu_that_torch_does_not_see_is_refused_where_it_is_named(
    option: dict[str, Any], gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    gpus(seen=False)
    for built, why in ((True, "sees no GPU"), (False, "is built without CUDA")):
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda built=built: built)
        assert refused(**option) == (
            f"device {option['device']!r}: no CUDA device was found, since torch {torch.__version__} {why}. "
            "Use device='cpu'."
        )


def test_a_dtype_that_the_processor_lacks_is_refused(cpu_dtypes: Callable[..., None]) -> None:
    cpu_dtypes("float16")
    assert refused(dtype="bfloat16") == (
        "dtype 'bfloat16' is not in this machine's cpu, which has no arithmetic for it; use dtype='float32' or "
        "dtype='float16'."
    )
    assert EngineOptions.from_arguments(**FINE | {"dtype": "float16"}).resolve().engine == "torch"


# ---- a GPU that is not used is told of, once


@pytest.mark.parametrize("option", [{}, {"dtype": "float32"}])
def test_a_gpu_without_torch_is_told_of_once(
    option: dict[str, Any], no_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    command = install_command("torch")
    message = f"this machine has a GPU, and torch is not installed: running on the CPU. Install it: {command}"
    assert warnings_of(lambda: EngineOptions.from_arguments(**FINE | option).resolve()) == [(message, __file__)]
    assert warnings_of(lambda: EngineOptions.from_arguments(**FINE | option).resolve()) == []
    assert EngineOptions.from_arguments(**FINE | option).resolve() == EngineOptions("onnx", "float32", "cpu")


def test_a_gpu_that_torch_cannot_use_is_told_of_once(gpus: Gpus) -> None:
    import torch

    gpus(seen=False)
    message = f"this machine has a GPU that torch {torch.__version__} cannot use: running on the CPU."
    assert warnings_of(lambda: EngineOptions.from_arguments(**FINE).resolve()) == [(message, __file__)]
    assert warnings_of(lambda: EngineOptions.from_arguments(**FINE).resolve()) == []


@pytest.mark.parametrize("option", [{"device": "cpu"}, {"engine": "onnx"}, {"engine": "openvino"}, {"dtype": "int8"}])
def test_who_asks_for_the_cpu_hears_nothing_of_a_gpu(
    option: dict[str, Any], no_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    assert warnings_of(lambda: EngineOptions.from_arguments(**FINE | option)) == []


def test_the_notice_of_a_load_points_at_its_line(
    no_torch: None, monkeypatch: pytest.MonkeyPatch, golden_folder: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    folder = golden_folder("GIST-Embedding-v0")
    ((message, filename),) = warnings_of(lambda: Encoder.load(folder))
    assert "torch is not installed: running on the CPU" in message
    assert filename == __file__
    assert warnings_of(lambda: Encoder.load(folder)) == []


@pytest.mark.parametrize(
    "option", [{"engine": "torch"}, {"dtype": "bfloat16"}, {"device": "cuda"}, {"device": "mps"}, {"device": "cuda:0"}]
)
def test_torch_that_is_missing_and_needed_names_the_extra(
    option: dict[str, Any], no_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: "device" in option)
    assert not select.has_torch()
    with pytest.raises(ExtraError) as caught:
        EngineOptions.from_arguments(**FINE | option)
    assert str(caught.value) == NO_TORCH


@pytest.mark.parametrize("option", [{"device": "cuda"}, {"device": "cuda:1", "dtype": "bfloat16", "engine": "torch"}])
def test_a_machine_without_a_gpu_does_not_need_torch_to_say_so(
    option: dict[str, Any], no_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: False)
    message = refused(**option)
    assert f"device {option['device']!r}: no CUDA device was found" in message
    assert "device='cpu'" in message


def test_torch_that_is_blocked_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("gnomon.engines.torch")]:
        monkeypatch.delitem(sys.modules, name)
    assert not select.has_torch()
    assert len(warnings_of(lambda: EngineOptions.from_arguments(**FINE | {"engine": "auto"}).resolve())) == 1
    with pytest.raises(ExtraError) as caught:
        EngineOptions.from_arguments(**FINE | {"engine": "torch"})
    assert str(caught.value) == NO_TORCH


def test_has_torch_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert select.has_torch()
    monkeypatch.delitem(sys.modules, "torch")
    for found in (None, sys):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        assert select.has_torch() == (found is not None)
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("files", "there"),
    [([], False), (["nvidia0"], True), (["nvidia12"], True), (["nvidiactl"], False), (["dxg"], True), (["kfd"], True)],
)
def test_a_gpu_is_seen_by_its_files(
    files: list[str], there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the function itself
    for name in files:
        (tmp_path / name).touch()

    def path(first: str, *rest: str) -> Path:
        assert first == "/dev"
        return tmp_path.joinpath(*rest)

    monkeypatch.setattr(select, "Path", path)
    assert select.has_gpu_driver() is there


LIGHT = """
import sys
from gnomon.engines import select
select.has_gpu_driver = lambda: False
import gnomon
encoder = gnomon.Encoder.load(sys.argv[1], **eval(sys.argv[2]))
encoder.encode("a")
print([name for name in sys.modules if name.partition(".")[0] == "torch" or name.startswith("gnomon.engines.torch")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "int8"}])
def test_a_cpu_needs_no_torch(options: dict[str, str], golden_folder: Callable[[str], Path]) -> None:
    command = [sys.executable, "-c", LIGHT, golden_folder("GIST-Embedding-v0"), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# ---- options stay


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions("torch", "bfloat16", "cuda:0,cuda:1", 3)])
def test_options_survive_pickling(options: EngineOptions) -> None:
    assert pickle.loads(pickle.dumps(options)) == options


def test_a_pickled_encoder_keeps_its_options(golden_folder: Callable[[str], Path]) -> None:
    pytest.importorskip("torch")
    encoder = Encoder.load(golden_folder("GIST-Embedding-v0"), engine="torch", threads=2)
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy._options == EngineOptions("torch", "auto", "auto", 2)
    assert copy.engine.name == encoder.engine.name == "torch, cpu, float32, grouped attention"
    assert np.array_equal(copy.encode(["a", "b c"]), encoder.encode(["a", "b c"]))


@pytest.mark.parametrize("threads", [None, 2, np.int64(3)])
def test_threads_are_told_and_cannot_be_set(threads: Any, golden_folder: Callable[[str], Path]) -> None:
    encoder = Encoder.load(golden_folder("GIST-Embedding-v0"), threads=threads)
    assert encoder.threads == threads
    with pytest.raises(InputError) as caught:
        encoder.threads = 5
    assert str(caught.value) == "threads cannot be changed after load; Encoder.load(..., threads=5) makes another."
    assert encoder.threads == threads


# ---- the engine of options


@pytest.mark.parametrize(
    ("options", "saturates", "name"),
    [
        (EngineOptions(), False, "onnx graph, onnxruntime, float32"),
        (EngineOptions(dtype="float32", engine="onnx"), True, "onnx graph, onnxruntime, float32"),
        (EngineOptions(dtype="int8"), False, "onnx graph, onnxruntime, int8"),
        (EngineOptions(dtype="int8"), True, "onnx graph, onnxruntime, uint8"),
    ],
)
def test_the_engine_of_options(
    options: EngineOptions, saturates: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 weights where their products are exact, uint8 where those of int8 saturate."""
    monkeypatch.setattr(select, "int8_saturates", lambda: saturates)
    engine = open_engine(spec(), ARRAYS, options)
    assert isinstance(engine, OnnxEngine)
    assert engine.name == engine.identity == name
    assert engine.pool(pack([np.arange(5)])).shape == (1, 8)


def test_openvino_is_opened_by_name() -> None:
    pytest.importorskip("openvino")
    assert open_engine(spec(), ARRAYS, EngineOptions("openvino")).name == "onnx graph, openvino, float32"


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_what_to_install(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=f"the package {package} is not installed.* pip install"):
        open_engine(spec(), ARRAYS, EngineOptions(engine))


@pytest.mark.parametrize(
    ("options", "dtype", "threads"),
    [(EngineOptions("torch"), "float32", None), (EngineOptions("torch", threads=1), "float32", 1)],
)
def test_the_torch_engine_gets_what_was_settled(options: EngineOptions, dtype: str, threads: int | None) -> None:
    pytest.importorskip("torch")
    from gnomon.engines.torch.engine import TorchEngine

    engine = open_engine(spec(), ARRAYS, options)
    assert isinstance(engine, TorchEngine)
    assert (engine.dtype, engine.threads, str(engine.device)) == (dtype, threads, "cpu")
    onnx = open_engine(spec(), ARRAYS, EngineOptions(engine="onnx"))
    np.testing.assert_allclose(engine.pool(pack([np.arange(5)])), onnx.pool(pack([np.arange(5)])), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "changes_nothing"),
    [
        (EngineOptions(), []),
        (EngineOptions("torch", "float32", "cpu"), []),
        (EngineOptions(dtype="int8"), ["dtype 'int8'"]),
        (EngineOptions("torch", "bfloat16", "cuda:0,cuda:1"), ["device 'cuda:0,cuda:1'", "dtype 'bfloat16'"]),
    ],
)
def test_a_static_table_runs_without_a_runtime_and_says_where(
    options: EngineOptions, changes_nothing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a GPU too, of which nothing is said: it is not asked."""
    warn_once.cache_clear()
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    for package in ("onnxruntime", "openvino", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    opened: list[Any] = []

    def open_it() -> None:
        table = {"embed.tokens": np.ones((4, 2), np.float32)}
        opened.append(open_engine(spec(StaticSpec(4, 2)), table, options))

    messages = [message for message, _ in warnings_of(open_it)]
    assert isinstance(opened[0], StaticEngine)
    assert (opened[0].device, opened[0].dtype) == ("cpu", "float32")
    assert len(messages) == len(changes_nothing)
    assert all(f"{words} changes nothing" in message for words, message in zip(changes_nothing, messages, strict=True))


def test_what_is_left_open_needs_no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the model needs a runtime at all is known once it is read."""
    monkeypatch.setattr(select, "has_gpu_driver", lambda: pytest.fail("the machine was asked"))
    assert EngineOptions.from_arguments(**FINE | {"threads": 3}) == EngineOptions(threads=3)


def test_saturation_is_measured_once() -> None:
    int8_saturates.cache_clear()
    assert int8_saturates() in (True, False)
    assert int8_saturates() == int8_saturates()
    assert int8_saturates.cache_info().misses == 1


def test_threads_default_to_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(select, "CGROUP_MEMBERSHIP", tmp_path / "none")
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    engine = open_engine(spec(), ARRAYS, EngineOptions())
    assert isinstance(engine, OnnxEngine)
    assert engine.threads == available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 3),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "\n"}, 64),
        ("0::/\n", {}, 64),
        ("", {"cpu.max": "200000 100000\n"}, 64),
        (
            "3:cpuset:/\n1:cpuacct,cpu:/box\n0::/\n",
            {"cpu/box/cpu.cfs_quota_us": "200000\n", "cpu/box/cpu.cfs_period_us": "50000\n"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("2:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_the_quota_of_a_container_bounds_the_cores(
    membership: str, files: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a machine of 64 cores; control groups of version 2, then of version 1."""
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(select, "CGROUP_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(select, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cores() == cores


def test_auto_takes_a_dtype_that_all_gpus_have(gpus: Gpus) -> None:
    gpus((8, 0), (7, 5))
    assert EngineOptions.from_arguments(**FINE | {"device": "cuda:0,cuda:1"}).resolve().dtype == "float32"
    assert EngineOptions.from_arguments(**FINE | {"device": "cuda:0"}).resolve().dtype == "bfloat16"


def test_a_gpu_that_runs_no_kernel_of_this_torch_is_told_of_and_left(gpus: Gpus) -> None:
    warn_once.cache_clear()
    gpus((3, 5), works=False)
    with pytest.warns(Notice, match=r"this machine has a GPU that torch .* cannot use: running on the CPU"):
        assert EngineOptions.from_arguments(**FINE).resolve().device == "cpu"


@pytest.mark.parametrize("device", ["cuda:01", "cuda:٣", "cuda:", "cuda:12345"])
def test_a_number_that_torch_would_not_read_is_refused(device: str) -> None:
    assert f"device {device!r} is not one of" in refused(device=device)
