"""numpy arrays as tensors, and back, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Tensors over the same memory. Whoever keeps them keeps the arrays too, and does not write: files are mapped."""
    return {name: tensor_of(array) for name, array in arrays.items()}


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of an array that may be read-only (torch warns of such ones, and it is right, but a
    private writable copy of every weight is what we save).
    """
    array = np.ascontiguousarray(array)
    if not array.size:
        return torch.empty(array.shape)
    kind = np.dtype(np.int16) if array.dtype == ml_dtypes.bfloat16 else array.dtype
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    vars(memory)["array"] = array  # the tensor keeps the buffer, and the buffer keeps the array
    tensor = torch.frombuffer(memory, dtype=_DTYPES[kind]).view(array.shape)
    return tensor.view(torch.bfloat16) if array.dtype == ml_dtypes.bfloat16 else tensor


_DTYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int16): torch.int16,
}
