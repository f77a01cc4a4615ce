"""Between numpy arrays and torch tensors. torch is imported only where a tensor is needed and torch is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.engines.select import has_torch
from gnomon.errors import ExtraError, InputError
from gnomon.install import advise_install

Tensor = Any
"""A torch tensor if torch is installed, else a numpy array."""


def to_tensor(values: NDArray[Any], device: Any = None) -> Tensor:
    """A tensor with the values of an array, or the array itself where torch is not installed.

    Args:
        device: the torch device of the tensor; None for the CPU.
    """
    if not has_torch():
        return values
    import torch

    array = np.asarray(values, order="C")
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor if device is None else tensor.to(device)


def require_tensor(values: NDArray[Any], argument: str, device: Any = None) -> Tensor:
    """A torch tensor.

    Raises:
        ExtraError: torch is not installed; names the argument that asks for a tensor.
    """
    if not has_torch():
        raise ExtraError(
            f"{argument} returns a torch tensor, and torch is not installed. Leave it out. {advise_install('torch')}"
        )
    return to_tensor(values, device)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; torch is not imported to find out."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def to_array(vectors: Any, name: str = "embeddings") -> NDArray[Any]:
    """A numpy array with the values of an array, a tensor, or a list of either.

    Raises:
        InputError: a tensor that requires gradients, which would be lost; a sparse tensor; texts.
    """
    if isinstance(vectors, list | tuple) and vectors and not isinstance(vectors[0], str):
        return _stack(vectors, name)
    if is_tensor(vectors):
        return _tensor_to_array(vectors, name)
    if isinstance(vectors, str):
        raise InputError(f"{name} is a text. Scores are of vectors: encode the text first.")
    array = np.asarray(vectors)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} holds {array.dtype}. Scores are of vectors of numbers: encode texts first.")
    return array


def _stack(vectors: list[Any] | tuple[Any, ...], name: str) -> NDArray[Any]:
    """The array of a list of arrays, tensors or numbers; plain numbers are float32, as in torch."""
    try:
        if all(isinstance(vector, np.ndarray) or is_tensor(vector) for vector in vectors):
            return np.stack([to_array(vector, name) for vector in vectors])
        array = np.asarray(vectors)
    except ValueError as error:
        raise InputError(f"{name} has vectors of different lengths. Give vectors [B, D] of one model.") from error
    return array.astype(np.float32) if array.dtype == np.float64 else array


def device_of(*vectors: Any) -> Any:
    """The device of the first tensor among values, or in lists of tensors; None where there is no tensor."""
    for value in vectors:
        first: Any = value[0] if isinstance(value, list | tuple) and value else value
        if is_tensor(first):
            return first.device
    return None


def _tensor_to_array(tensor: Any, name: str) -> NDArray[Any]:
    if tensor.requires_grad:
        raise InputError(
            f"{name} requires gradients, and gnomon.compat computes none. Call .detach() on it, or use the functions "
            "of sentence_transformers.util in a loss."
        )
    if str(tensor.layout) != "torch.strided":
        raise InputError(f"{name} is a sparse tensor. Only dense vectors are compared here; call .to_dense() on it.")
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
