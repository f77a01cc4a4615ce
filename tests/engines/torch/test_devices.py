"""What is said of devices and dtypes that are not there; GPUs are pretended."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gnomon.engines.torch.devices import auto_dtype, check_device, check_dtype, supported_dtypes
from gnomon.errors import InputError

Gpus = Callable[..., None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Pretend that there are GPUs of these capabilities; none is a GPU that torch does not see."""

    def pretend(*capabilities: tuple[int, int], hip: str | None = None) -> None:
        def number(device: Any) -> int:
            return torch.device(device).index or 0

        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[number(device)])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {number(device)}")
        monkeypatch.setattr(torch.version, "hip", hip)

    return pretend


def processor(monkeypatch: pytest.MonkeyPatch, *dtypes: str) -> None:
    for dtype, name in (("bfloat16", "bf16"), ("float16", "fp16")):
        test = f"_is_mkldnn_{name}_supported"
        monkeypatch.setattr(torch.ops.mkldnn, test, lambda it=dtype in dtypes: it, raising=False)


def refused(check: Callable[..., None], *args: str) -> str:
    with pytest.raises(InputError) as caught:
        check(*args)
    return str(caught.value)


# ---- devices


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_are_there(name: str, gpus: Gpus) -> None:
    gpus((8, 0), (8, 0))
    check_device(name)


@pytest.mark.parametrize(
    ("capabilities", "name", "there"),
    [
        ([(8, 0)], "cuda:1", "cuda:0"),
        ([(8, 0), (9, 0)], "cuda:2", "cuda:0, cuda:1"),
        ([(8, 0), (9, 0)], "cuda:3", "cuda:0, cuda:1"),
        ([(8, 0)], "cuda:99999999999999999999", "cuda:0"),
    ],
)
def test_a_number_beyond_the_gpus_is_told_the_others(capabilities: Any, name: str, there: str, gpus: Gpus) -> None:
    gpus(*capabilities)
    assert refused(check_device, name) == f"device {name!r} is not there; there are {there}."


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:5"])
@pytest.mark.parametrize(("built", "why"), [(True, "sees no GPU"), (False, "is built without CUDA")])
def test_no_gpu_for_this_torch(name: str, built: bool, why: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    message = f"device {name!r}: no CUDA device was found, since torch {torch.__version__} {why}. Use device='cpu'."
    assert refused(check_device, name) == message


def test_mps_is_there_where_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = f"device 'mps' is not there for torch {torch.__version__}. Use device='cpu'."
    assert refused(check_device, "mps") == message


# ---- dtypes


@pytest.mark.parametrize(
    ("capability", "hip", "dtypes", "natural"),
    [
        ((6, 1), None, ("float32", "float16"), "float32"),
        ((7, 5), None, ("float32", "float16"), "float32"),
        ((8, 0), None, ("float32", "bfloat16", "float16"), "bfloat16"),
        ((8, 9), None, ("float32", "bfloat16", "float16"), "bfloat16"),
        ((9, 0), None, ("float32", "bfloat16", "float16"), "bfloat16"),
        ((12, 0), None, ("float32", "bfloat16", "float16"), "bfloat16"),
        ((7, 5), "6.2", ("float32", "bfloat16", "float16"), "bfloat16"),
    ],
)
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_dtypes_of_a_gpu(
    name: str, capability: tuple[int, int], hip: str | None, dtypes: tuple[str, ...], natural: str, gpus: Gpus
) -> None:
    gpus(capability, hip=hip)
    assert (supported_dtypes(name), auto_dtype(name)) == (dtypes, natural)
    for dtype in dtypes:
        check_dtype(name, dtype)
    for dtype in {"bfloat16", "int8"} - set(dtypes):
        assert refused(check_dtype, name, dtype) == (
            f"dtype {dtype!r} is not in GPU 0, which has no arithmetic for it; use "
            f"{' or '.join(f'dtype={other!r}' for other in dtypes)}."
        )


def test_each_gpu_has_dtypes_of_its_own(gpus: Gpus) -> None:
    gpus((9, 0), (7, 5))
    assert (auto_dtype("cuda:0"), auto_dtype("cuda:1")) == ("bfloat16", "float32")
    assert "bfloat16' is not in GPU 1," in refused(check_dtype, "cuda:1", "bfloat16")
    check_dtype("cuda:0", "bfloat16")


@pytest.mark.parametrize("dtypes", [(), ("bfloat16",), ("float16",), ("bfloat16", "float16")])
def test_dtypes_of_a_processor(dtypes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has instructions for; float32 is what "auto" takes, whatever it has."""
    processor(monkeypatch, *dtypes)
    assert (supported_dtypes("cpu"), auto_dtype("cpu")) == (("float32", *dtypes), "float32")
    for dtype in {"bfloat16", "float16"} - set(dtypes):
        assert refused(check_dtype, "cpu", dtype) == (
            f"dtype {dtype!r} is not in this machine's cpu, which has no arithmetic for it; use "
            f"{' or '.join(f'dtype={other!r}' for other in ('float32', *dtypes))}."
        )


def test_a_torch_that_cannot_say_has_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Operators:
        """None of those that are asked."""

    monkeypatch.setattr(torch.ops, "mkldnn", Operators())
    assert supported_dtypes("cpu") == ("float32",)


def test_dtypes_of_mps() -> None:
    assert (supported_dtypes("mps"), auto_dtype("mps")) == (("float32", "bfloat16", "float16"), "float32")
