"""Matryoshka: any loss at several dimensions.

D: dimension of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.similarity import at_least_float32

MatryoshkaVectors = Tensor | Mapping[int, Tensor]
"""Vectors whose first components are the smaller vectors; or vectors by dimension, from a module for each."""


def matryoshka(
    loss: Callable[..., Tensor],
    vectors: Sequence[MatryoshkaVectors | None],
    *,
    matryoshka_dims: Sequence[int],
    matryoshka_weights: Sequence[float] | None = None,
    n_dims_per_step: int = -1,
    seed: int = 0,
    step: int = 0,
) -> Tensor:
    """The sum over dimensions of weight * loss(*vectors at that dimension). Kusupati et al. 2022 (2205.13147, eq. 1).

    Args:
        loss: called with the vectors in their order; bind its other arguments, and vectors that stay as they are
            (a teacher's), with functools.partial.
        vectors: each is truncated to its first components and normalised, or looked up by dimension. None stays None.
        matryoshka_weights: one weight per dimension; the default is 1.
        n_dims_per_step: how many of the dimensions count in a step, drawn by seed and step (the same on every rank);
            -1 for all.

    Raises:
        InputError: matryoshka_dims is empty, or has a dimension that a vector does not; not one weight per dimension;
            n_dims_per_step is neither -1 nor above 0.
    """
    weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else matryoshka_weights
    if not matryoshka_dims:
        raise InputError("matryoshka_dims is empty. Give at least one dimension, or call the loss itself.")
    if len(weights) != len(matryoshka_dims):
        raise InputError(
            f"there are {len(weights)} matryoshka_weights for {len(matryoshka_dims)} matryoshka_dims. Give one each."
        )
    terms = [
        weights[index]
        * loss(*(None if side is None else vectors_at_dim(side, matryoshka_dims[index]) for side in vectors))
        for index in _draw_dim_indices(len(matryoshka_dims), n_dims_per_step, seed, step)
    ]
    return torch.stack(terms).sum()


def vectors_at_dim(vectors: MatryoshkaVectors, dim: int) -> Tensor:
    """[..., dim]: the first components, normalised, in float32 at least; or a module's vectors, as they are.

    Raises:
        InputError: the vectors do not have that dimension.
    """
    if isinstance(vectors, Mapping):
        if dim not in vectors:
            raise InputError(
                f"dim {dim} is not among these vectors. Their dimensions are {', '.join(map(str, vectors))}."
            )
        return vectors[dim]
    if not 0 < dim <= vectors.shape[-1]:
        raise InputError(
            f"dim {dim} is out of range. It must be between 1 and {vectors.shape[-1]}, the dimension of these vectors."
        )
    return F.normalize(at_least_float32(vectors[..., :dim]), dim=-1)


def _draw_dim_indices(count: int, n_dims_per_step: int, seed: int, step: int) -> list[int]:
    """Indices of the dimensions that count in a step, ascending."""
    if n_dims_per_step != -1 and n_dims_per_step < 1:
        raise InputError(f"n_dims_per_step is {n_dims_per_step}. It must be at least 1, or -1 for all.")
    if n_dims_per_step == -1 or n_dims_per_step >= count:
        return list(range(count))
    return sorted(np.random.default_rng([seed, step]).choice(count, n_dims_per_step, replace=False).tolist())
