"""Whether a device, and a dtype on it, are there."""

from __future__ import annotations

import torch

from gnomon.errors import InputError


def check_device(name: str) -> None:
    """
    Raises:
        InputError: a device that is not there; says which are.
    """
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        why = "sees no GPU" if torch.backends.cuda.is_built() else "is built without CUDA"
        raise InputError(
            f"device {name!r}: no CUDA device was found, since torch {torch.__version__} {why}. Use device='cpu'."
        )
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise InputError(f"device {name!r} is not there; there are {there}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {name!r} is not there for torch {torch.__version__}. Use device='cpu'.")


def gpu_runs_kernels() -> bool:
    """Whether the current GPU runs a kernel of this torch; one that is too old or too new for it does not."""
    try:
        return float(torch.ones(1, device="cuda").add_(1)) == 2
    except RuntimeError:
        return False


def check_dtype(name: str, dtype: str) -> None:
    """
    Raises:
        InputError: a dtype that the device has no arithmetic for; says which it has.
    """
    if dtype in supported_dtypes(name):
        return
    raise InputError(
        f"dtype {dtype!r} is not in {_describe_device(name)}, which has no arithmetic for it; use "
        f"{' or '.join(f'dtype={other!r}' for other in supported_dtypes(name))}."
    )


def supported_dtypes(name: str) -> tuple[str, ...]:
    """What a device computes in by itself; what torch would emulate is left out, since it is slower than float32."""
    device = torch.device(name)
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
        return ("float32", "bfloat16", "float16") if has_bfloat16 else ("float32", "float16")
    if device.type == "mps":
        return ("float32", "bfloat16", "float16")
    operators = torch.ops.mkldnn
    tests = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    return (
        "float32",
        *(dtype for dtype, test in tests.items() if hasattr(operators, test) and getattr(operators, test)()),
    )


def auto_dtype(name: str) -> str:
    """What dtype="auto" means: bfloat16 on a GPU that has it, else float32."""
    return "bfloat16" if torch.device(name).type == "cuda" and "bfloat16" in supported_dtypes(name) else "float32"


def _describe_device(name: str) -> str:
    device = torch.device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"this machine's {device.type}"
