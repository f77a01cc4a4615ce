"""Losses for pairs with a label: how similar people find the two texts.

B: pairs; D: dimension of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.similarity import Factor, Similarity, pairwise_similarity, resolve_scale


def cosent(
    a_BD: Tensor,
    b_BD: Tensor,
    labels_B: Tensor,
    *,
    scale: Factor | None = None,
    temperature: Factor | None = None,
    similarity: Similarity = "cosine",
) -> Tensor:
    """log(1 + the sum of exp(scale * (s_j - s_i)) over all i, j with labels_i > labels_j), s_i of the pair i.

    Huang et al. 2024 (CoSENT, doi 10.1109/TASLP.2024.3402087). 0 where no labels differ. Only the order of
    the labels counts. Memory: B times B.

    Args:
        scale: what similarities are multiplied by, 20 by default; a tensor is trained. `temperature` is 1 / scale.

    Raises:
        InputError: not one label per pair; an option is out of range; the batch is empty.
    """
    scores_B = _score_pairs(a_BD, b_BD, labels_B, similarity) * resolve_scale(scale, temperature, default=20.0)
    excess_BB = scores_B - scores_B[:, None]
    ordered_BB = labels_B[:, None] > labels_B
    excess = excess_BB.masked_fill(~ordered_BB, -torch.inf).flatten()
    return torch.cat([excess.new_zeros(1), excess]).logsumexp(0)


def cosine_regression(a_BD: Tensor, b_BD: Tensor, labels_B: Tensor) -> Tensor:
    """The mean of (cos(a, b) - label)^2. Reimers and Gurevych 2019 (Sentence-BERT, 1908.10084, section 3).

    Raises:
        InputError: not one label per pair; the batch is empty.
    """
    scores_B = _score_pairs(a_BD, b_BD, labels_B, "cosine")
    return (scores_B - labels_B.to(scores_B.dtype)).square().mean()


def _score_pairs(a_BD: Tensor, b_BD: Tensor, labels_B: Tensor, similarity: Similarity) -> Tensor:
    if labels_B.shape != (len(a_BD),) or len(a_BD) != len(b_BD) or not len(a_BD):
        raise InputError(
            f"labels_B has the shape {list(labels_B.shape)}, for {len(a_BD)} and {len(b_BD)} vectors. "
            "Give one label per pair, and at least one pair."
        )
    return pairwise_similarity(a_BD, b_BD, similarity)
