"""The three losses of stella against their references; the counting of pairs of pairs; edges; memory."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import cosine_distillation as reference_cosine
from reference_losses import ranking_hinge as reference_hinge
from reference_losses import relative_similarity_distillation as reference_relative
from reference_losses import similarity_distillation as reference_similarity
from torch.utils._python_dispatch import TorchDispatchMode

from gnomon.errors import InputError
from gnomon.losses import (
    combine_teachers,
    cosine_distillation,
    relative_similarity_distillation,
    similarity_distillation,
    stella,
    vectors_at_dim,
)
from gnomon.losses.counting import count_below
from gnomon.losses.stella import ranking_hinge


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@given(st.data())
def test_counting_is_counting(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40))
    numbers = st.lists(st.integers(0, count))
    values = data.draw(st.lists(st.integers(0, count), min_size=count, max_size=count))
    ends = data.draw(numbers)
    limits = data.draw(st.lists(st.integers(0, count), min_size=len(ends), max_size=len(ends)))
    found = count_below(*(torch.tensor(each, dtype=torch.int64) for each in (values, ends, limits)))
    assert found.tolist() == [
        sum(value < limit for value in values[:end]) for end, limit in zip(ends, limits, strict=True)
    ]


# eighths, and margins that are some of their differences: sums without rounding, full of ties
EIGHTHS = st.integers(-8, 8).map(lambda number: number / 8)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), max_size=25), st.sampled_from([0.0, 0.125, 0.5, 0.015, 9.0]))
def test_the_hinge_over_all_pairs_is_the_reference(pairs: list[tuple[float, float]], margin: float) -> None:
    student, teacher = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    student.requires_grad_()
    found = ranking_hinge(student, teacher, margin=margin)
    assert found.item() == pytest.approx(
        reference_hinge(student.tolist(), teacher.tolist(), margin), rel=1e-12, abs=1e-12
    )
    # the gradient, by counting the terms that each value is in
    (gradient,) = torch.autograd.grad(found, student)
    above = (teacher[:, None] > teacher) & (student > student[:, None] - margin)  # [p, q]
    torch.testing.assert_close(gradient, (above.sum(0) - above.sum(1)).double())


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 7), seed=st.integers(0, 999), width=st.integers(1, 5), copies=st.booleans())
def test_the_three_are_the_reference(rows: int, seed: int, width: int, copies: bool) -> None:
    student, teacher = vectors(rows, width, seed=seed), vectors(rows, 4, seed=seed + 1)
    if copies:  # a text that stands twice, for the student
        student[-1] = student[0]
    plain = student.tolist(), teacher.tolist()
    assert similarity_distillation(student, teacher).item() == pytest.approx(reference_similarity(*plain), rel=1e-11)
    assert relative_similarity_distillation(student, teacher).item() == pytest.approx(
        reference_relative(*plain), rel=1e-9, abs=1e-12
    )
    wide = vectors(rows, 4, seed=seed + 2)
    assert cosine_distillation(wide, teacher).item() == pytest.approx(
        reference_cosine(wide.tolist(), plain[1]), rel=1e-11
    )


def test_the_weighted_sum() -> None:
    student, teacher, narrow = vectors(6, 5), vectors(6, 5, seed=1), vectors(6, 3, seed=2)
    parts = [
        10 * cosine_distillation(student, teacher),
        *(200 * similarity_distillation(each, teacher) for each in (student, narrow)),
        *(20 * relative_similarity_distillation(each, teacher) for each in (student, narrow)),
    ]
    assert stella(student, teacher, [narrow]).item() == pytest.approx(sum(parts).item())  # pyright: ignore
    own = stella(student, teacher, cosine_weight=1, similarity_weight=0, relative_weight=3, margin=0.1)
    relative = relative_similarity_distillation(student, teacher, margin=0.1)
    assert own.item() == pytest.approx((cosine_distillation(student, teacher) + 3 * relative).item())
    prefix = stella(student, teacher, [vectors_at_dim(student, dim) for dim in (3, 2)])
    assert prefix > stella(student, teacher)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_and_two_texts_give_no_nan(rows: int) -> None:
    """No pair of pairs; for one text, no pair either. No narrower heads."""
    student, teacher = vectors(rows, 4).float().requires_grad_(), vectors(rows, 4, seed=1)
    relative = relative_similarity_distillation(student, teacher.float())
    assert relative.item() == 0
    loss = stella(student, teacher.float(), [])
    wanted = 10 * reference_cosine(student.tolist(), teacher.tolist())
    wanted += 200 * reference_similarity(student.tolist(), teacher.tolist())
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_identical_texts_and_a_perfect_student() -> None:
    same = torch.ones(5, 4, dtype=torch.float64)
    assert stella(same, same).item() == 0  # no pair is above another
    teacher = vectors(6, 4)
    assert similarity_distillation(2 * teacher, teacher).item() == pytest.approx(0, abs=1e-15)
    assert cosine_distillation(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-15)
    # what is left is the margin, where the teacher's own similarities are less than it apart
    relative = relative_similarity_distillation(teacher, teacher)
    assert 0 < relative.item() == pytest.approx(reference_relative(teacher.tolist(), teacher.tolist()), rel=1e-10)
    assert relative_similarity_distillation(teacher, teacher, margin=0).item() == pytest.approx(0, abs=1e-12)


def test_pairs_that_the_teacher_finds_equal_count_as_pairs_of_pairs_only() -> None:
    """Three texts, three pairs, three pairs of pairs, of which the teacher ranks two."""
    teacher = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    student = torch.eye(3)
    assert relative_similarity_distillation(student, teacher, margin=0.3).item() == pytest.approx(2 * 0.3 / 3)


class Sizes(TorchDispatchMode):
    """Sees every tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            self.largest = max(self.largest, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


@pytest.mark.slow
def test_a_published_batch_in_bounded_memory() -> None:
    """128 texts are 33,028,128 pairs of pairs, whose matrix would take 252 MiB; no tensor is larger than the pairs."""
    student, teacher = vectors(128, 16, seed=3).float().requires_grad_(), vectors(128, 24, seed=4).float()
    with Sizes() as sizes:
        found = relative_similarity_distillation(student, teacher)
        found.backward()
    assert sizes.largest == 128 * 128
    i, j = np.triu_indices(128, 1)
    ours, theirs = (
        np.tril(unit @ unit.T).T[i, j]
        for unit in (
            each.detach().double().numpy() / np.linalg.norm(each.detach().double().numpy(), axis=1, keepdims=True)
            for each in (student, teacher)
        )
    )
    total = 0.0
    for start, stop in pairwise(range(0, len(ours) + 508, 508)):  # in blocks of rows, as another would
        terms = np.maximum(0, ours[None] - ours[start:stop, None] + 0.015)
        total += float(terms[theirs[start:stop, None] > theirs].sum())
    assert found.item() == pytest.approx(total / math.comb(len(ours), 2), rel=2e-6)


def test_gradients() -> None:
    student, narrow = vectors(5, 4).requires_grad_(), vectors(5, 3, seed=1).requires_grad_()
    teacher = vectors(5, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, n: stella(s, teacher, [n]), (student, narrow))
    assert torch.autograd.grad(stella(student, teacher), teacher, allow_unused=True) == (None,)  # it does not learn


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = vectors(16, 32).bfloat16().requires_grad_(), vectors(16, 32, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stella(student, teacher.float())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(stella(student.double(), teacher).item(), rel=1e-5)
    found.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_targets_of_several_teachers() -> None:
    """Normalised, end to end, normalised again: cosines are the mean of the teachers' cosines."""
    first, second = vectors(3, 4), 100 * vectors(3, 7, seed=1)
    targets = combine_teachers([first, second])
    assert targets.shape == (3, 11)
    cosines = [each @ each.T for each in (torch.nn.functional.normalize(each, dim=1) for each in (first, second))]
    torch.testing.assert_close(targets @ targets.T, (cosines[0] + cosines[1]) / 2)


def test_what_cannot_be_used() -> None:
    student, teacher = vectors(3, 4), vectors(3, 5)
    with pytest.raises(InputError, match="dimension 4, the teacher's 5"):
        cosine_distillation(student, teacher)
    for loss in (cosine_distillation, similarity_distillation, relative_similarity_distillation):
        with pytest.raises(InputError, match="student has 3 vectors and the teacher 2"):
            loss(student, teacher[:2, :4])
        with pytest.raises(InputError, match="at least one"):
            loss(student[:0], student[:0])
    with pytest.raises(InputError, match=r"margin is -1.*at least 0"):
        relative_similarity_distillation(student, teacher, margin=-1)
