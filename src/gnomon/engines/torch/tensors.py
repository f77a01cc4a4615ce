"""numpy arrays as tensors, and back."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of an array, which it keeps. The array may be read-only (a mapped file): whoever writes
    to the tensor ends the process. (torch warns of such arrays; a private copy of every weight is what we save.)
    """
    array = np.ascontiguousarray(array)
    if not array.size:
        return torch.empty(array.shape)
    kind = np.dtype(np.int16) if array.dtype == ml_dtypes.bfloat16 else array.dtype
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    vars(memory)["array"] = array  # the tensor keeps the buffer, and the buffer keeps the array
    tensor = torch.frombuffer(memory, dtype=_TORCH_DTYPES[kind]).view(array.shape)
    return tensor.view(torch.bfloat16) if array.dtype == ml_dtypes.bfloat16 else tensor


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A `state_dict` as numpy arrays on the host, of the same dtypes."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def to_array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


_TORCH_DTYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int16): torch.int16,
}
