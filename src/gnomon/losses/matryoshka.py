"""Matryoshka: any loss at several widths.

D: width of a vector.
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
"""Vectors whose first components are the narrower vectors; or the vectors of each width, from heads of their own."""


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
    """The sum over widths of weight * loss(*vectors at that width). Kusupati et al. 2022 (2205.13147, eq. 1).

    Args:
        loss: called with the vectors in their order; bind its other arguments, and vectors that stay as they are
            (a teacher's), with functools.partial.
        vectors: each is cut to its first components and normalised, or looked up by width. None stays None.
        matryoshka_weights: 1 each where not given.
        n_dims_per_step: how many of the widths count in a step, drawn by seed and step (the same on every rank);
            -1 for all.

    Raises:
        InputError: no widths, or one that a vector does not have; not one weight a width; a number of widths to draw
            that is neither -1 nor above 0.
    """
    weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else matryoshka_weights
    if not matryoshka_dims:
        raise InputError("matryoshka_dims is empty; give at least one width, or call the loss itself.")
    if len(weights) != len(matryoshka_dims):
        raise InputError(f"matryoshka_weights are {len(weights)} for {len(matryoshka_dims)} widths; give one each.")
    terms = [
        weights[place]
        * loss(*(None if each is None else vectors_at_dim(each, matryoshka_dims[place]) for each in vectors))
        for place in _draw_dim_indices(len(matryoshka_dims), n_dims_per_step, seed, step)
    ]
    return torch.stack(terms).sum()


def vectors_at_dim(vectors: MatryoshkaVectors, dim: int) -> Tensor:
    """[..., dim]: the first components, normalised, in float32 at least; or those of a head, as they are.

    Raises:
        InputError: a width that is not there.
    """
    if isinstance(vectors, Mapping):
        if dim not in vectors:
            raise InputError(f"dim {dim} has no head; there are {', '.join(map(str, vectors)) or 'none'}.")
        return vectors[dim]
    if not 0 < dim <= vectors.shape[-1]:
        raise InputError(f"dim {dim} is not a width of these vectors; they have {vectors.shape[-1]} components.")
    return F.normalize(at_least_float32(vectors[..., :dim]), dim=-1)


def _draw_dim_indices(count: int, n_dims_per_step: int, seed: int, step: int) -> list[int]:
    """Places of the widths that count, ascending."""
    if n_dims_per_step != -1 and n_dims_per_step < 1:
        raise InputError(f"n_dims_per_step is {n_dims_per_step}; it must be at least 1, or -1 for all.")
    if n_dims_per_step == -1 or n_dims_per_step >= count:
        return list(range(count))
    return sorted(np.random.default_rng([seed, step]).choice(count, n_dims_per_step, replace=False).tolist())
