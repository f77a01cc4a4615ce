"""What the losses begin with: similarities in full precision, and the factor that multiplies them.

B: rows; C: candidates; D: dimension of a vector.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.errors import InputError

Similarity = Literal["cosine", "dot"]
Factor = float | Tensor
"""A number, or a scalar tensor that is trained."""


def similarity_matrix(a_BD: Tensor, b_CD: Tensor, similarity: Similarity = "cosine") -> Tensor:
    """[B, C]: every row of a with every row of b.

    Computed in float32 (in float64 for such vectors), under autocast too: bfloat16 would round a cosine by 0.002, and a
    factor of 100 makes 0.2 of that.
    """
    with torch.autocast(a_BD.device.type, enabled=False):
        return _prepare_vectors(a_BD, similarity) @ _prepare_vectors(b_CD, similarity).T


def pairwise_similarity(a: Tensor, b: Tensor, similarity: Similarity = "cosine") -> Tensor:
    """The similarity of each vector of a with the one of b at the same index: D is summed away. Precision as above."""
    return (_prepare_vectors(a, similarity) * _prepare_vectors(b, similarity)).sum(-1)


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32; float64 stays as it is."""
    return values if values.dtype == torch.float64 else values.float()


def resolve_scale(scale: Factor | None, temperature: Factor | None, *, default: float) -> Factor:
    """What similarities are multiplied by: `scale`, or one over `temperature`; `default` where neither is given.

    Raises:
        InputError: both are given; a number is not above 0 and finite.
    """
    if scale is not None and temperature is not None:
        raise InputError(
            f"scale {scale} and temperature {temperature} are both given. scale is 1 / temperature. Give one of them."
        )
    name, value = ("scale", scale) if temperature is None else ("temperature", temperature)
    if isinstance(value, Tensor):
        return at_least_float32(value) if name == "scale" else 1 / at_least_float32(value)
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{name} is {value}. It must be above 0 and finite.")
    if value is None:
        return default
    return value if name == "scale" else 1 / value


def anneal(first: float, last: float, *, step: int, steps: int) -> float:
    """`first` at step 0, `last` from step `steps` on, and a straight line between them.

    SimLM's warm-up of the scale is `max(1, anneal(0, scale, step=step, steps=warmup_steps))`.
    """
    return last if step >= steps else first + (last - first) * step / steps


def _prepare_vectors(vectors: Tensor, similarity: Similarity) -> Tensor:
    if similarity not in get_args(Similarity):
        raise InputError(f"similarity {similarity!r} is not known here. Use 'cosine' or 'dot'.")
    return F.normalize(at_least_float32(vectors), dim=-1) if similarity == "cosine" else at_least_float32(vectors)
