"""Distillation from a teacher's vectors: the three losses of stella and jasper.

Zhang et al. 2024, "Jasper and Stella" (2412.19048, section 3).

B: texts; D: dimension of the student's vectors, or of the teacher's; N: pairs of texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.counting import count_below
from gnomon.losses.similarity import at_least_float32, pairwise_similarity, similarity_matrix


def stella(
    student_BD: Tensor,
    teacher_BD: Tensor,
    lower_dim_vectors: Sequence[Tensor] = (),
    *,
    cosine_weight: float = 10.0,
    similarity_weight: float = 200.0,
    relative_weight: float = 20.0,
    margin: float = 0.015,
) -> Tensor:
    """The weighted sum of the three losses of the student, and of the last two for each of the smaller vectors.

    Raises:
        InputError: as in the three losses.
    """
    loss = cosine_weight * cosine_distillation(student_BD, teacher_BD)
    for vectors_BD in (student_BD, *lower_dim_vectors):
        loss = loss + similarity_weight * similarity_distillation(vectors_BD, teacher_BD)
        loss = loss + relative_weight * relative_similarity_distillation(vectors_BD, teacher_BD, margin=margin)
    return loss


def combine_teachers(teachers: Sequence[Tensor]) -> Tensor:
    """What a student learns from several teachers: their vectors normalised, end to end, normalised again."""
    return F.normalize(
        torch.cat([F.normalize(at_least_float32(vectors_BD), dim=-1) for vectors_BD in teachers], dim=-1), dim=-1
    )


def cosine_distillation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """The mean of 1 - cos(s_i, t_i) (L_cosine).

    Raises:
        InputError: the numbers of vectors differ, or their dimensions; the batch is empty.
    """
    _check_same_texts(student_BD, teacher_BD)
    if student_BD.shape[1] != teacher_BD.shape[1]:
        raise InputError(
            f"the student's vectors have dimension {student_BD.shape[1]}, the teacher's {teacher_BD.shape[1]}. Their "
            "cosine needs one dimension. Give the student a Dense module with the teacher's dimension, or leave "
            "this loss out."
        )
    return (1 - pairwise_similarity(student_BD, teacher_BD.detach())).mean()


def similarity_distillation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """The mean over all i, j of (s_i.s_j - t_i.t_j)^2, vectors normalised (L_sim). Dimensions may differ.

    Raises:
        InputError: the numbers of vectors differ; the batch is empty.
    """
    _check_same_texts(student_BD, teacher_BD)
    teacher_BB = similarity_matrix(teacher_BD, teacher_BD).detach()
    return (similarity_matrix(student_BD, student_BD) - teacher_BB).square().mean()


def relative_similarity_distillation(student_BD: Tensor, teacher_BD: Tensor, *, margin: float = 0.015) -> Tensor:
    """(1 / C) times the sum of max(0, s_m.s_n - s_i.s_j + margin) over pairs of pairs with t_i.t_j > t_m.t_n (L_resim).

    C is the number of all pairs of pairs, those that the teacher finds equal too. Vectors are normalised; their
    dimensions may differ. 0 for one or two texts. Exact, in N log N steps and memory of N for N = B (B - 1) / 2 pairs.

    Raises:
        InputError: the numbers of vectors differ; the batch is empty; margin is below 0.
    """
    _check_same_texts(student_BD, teacher_BD)
    if margin < 0:
        raise InputError(f"margin is {margin}. It must be at least 0.")
    i_N, j_N = torch.triu_indices(len(student_BD), len(student_BD), 1, device=student_BD.device)
    student_N = similarity_matrix(student_BD, student_BD)[i_N, j_N]
    teacher_N = similarity_matrix(teacher_BD, teacher_BD).detach()[i_N, j_N]
    count = len(i_N) * (len(i_N) - 1) // 2
    return ranking_hinge(student_N, teacher_N, margin=margin) / max(count, 1)


def ranking_hinge(student_N: Tensor, teacher_N: Tensor, *, margin: float) -> Tensor:
    """The sum of max(0, student_q - student_p + margin) over all p, q with teacher_p > teacher_q.

    Given which p and q have a positive term, the sum is linear in the student: each value counts as often as it is a q,
    less as often as it is a p. So it is enough to count, and counting needs no square of N.
    """
    student_N, order_N = student_N.sort()
    teacher_N = teacher_N[order_N]
    values_N = student_N.detach()
    # a term is positive where q >= first_N[p]; first_N ascends, so p < stop_N[q] says the same
    first_N = torch.searchsorted(values_N, values_N - margin, right=True)
    stop_N = torch.searchsorted(first_N, torch.arange(len(first_N), device=first_N.device), right=True)
    ranked_N = teacher_N.sort().values
    less_N = torch.searchsorted(ranked_N, teacher_N)
    less_or_equal_N = torch.searchsorted(ranked_N, teacher_N, right=True)
    as_p_N = less_N - count_below(less_N, first_N, less_N)
    as_q_N = stop_N - count_below(less_N, stop_N, less_or_equal_N)
    # large numbers that cancel: added in float64, where the device has it
    exact = torch.float32 if student_N.device.type == "mps" else torch.float64
    total = ((as_q_N - as_p_N).to(exact) * student_N.to(exact)).sum() + margin * as_p_N.sum().to(exact)
    return total.to(student_N.dtype)


def _check_same_texts(student_BD: Tensor, teacher_BD: Tensor) -> None:
    if len(student_BD) != len(teacher_BD) or not len(student_BD):
        raise InputError(
            f"the student has {len(student_BD)} vectors and the teacher {len(teacher_BD)}. Give both for the same "
            "texts, and at least one."
        )
