"""Distillation from scores, against the references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import distill_kl as reference_kl
from reference_losses import info_nce as reference_info_nce
from reference_losses import margin_mse as reference_margin_mse
from reference_losses import scores_of

from gnomon.errors import InputError
from gnomon.losses import distill_kl, kl_and_contrast, margin_mse


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


SIZES = {"rows": st.integers(1, 4), "documents": st.integers(1, 5), "seed": st.integers(0, 999)}


@settings(max_examples=100, deadline=None)
@given(
    **SIZES,
    temperature=st.sampled_from([1.0, 0.01, 50.0]),
    teacher_temperature=st.sampled_from([1.0, 0.02, 3.0]),
    similarity=st.sampled_from(["cosine", "dot"]),
    spread=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_kl_is_the_reference(
    rows: int,
    documents: int,
    seed: int,
    temperature: float,
    teacher_temperature: float,
    similarity: str,
    spread: float,
) -> None:
    queries, docs = vectors(rows, 3, seed=seed), vectors(rows, documents, 3, seed=seed + 1)
    teacher = spread * vectors(rows, documents, seed=seed + 2)
    found = distill_kl(
        queries,
        docs,
        teacher,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        similarity=similarity,  # pyright: ignore
    )
    scores = scores_of(queries.tolist(), docs.tolist(), similarity)
    wanted = reference_kl(scores, teacher.tolist(), scale=1 / temperature, teacher_temperature=teacher_temperature)
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_kl_of_equal_scores_and_of_one_document_is_nothing() -> None:
    queries, docs = vectors(3, 4), vectors(3, 5, 4, seed=1)
    own = torch.tensor(scores_of(queries.tolist(), docs.tolist(), "dot"))
    assert distill_kl(queries, docs, own).item() == pytest.approx(0, abs=1e-12)
    assert distill_kl(queries, docs, own + 7).item() == pytest.approx(0, abs=1e-12)
    assert distill_kl(queries, docs[:, :1], own[:, :1]).item() == 0


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_documents_of_all_queries_are_those_of_each(similarity: str) -> None:
    queries, docs, teacher = vectors(3, 4), vectors(5, 4, seed=1), vectors(3, 5, seed=2)
    options = {"scale": 3.0, "teacher_temperature": 0.4, "similarity": similarity}
    found = distill_kl(queries, docs, teacher, **options)  # pyright: ignore
    assert found.item() == pytest.approx(distill_kl(queries, docs.expand(3, 5, 4), teacher, **options).item())  # pyright: ignore
    with pytest.raises(InputError, match=r"\[3, 4\].* 3 queries .*\[5, 4\]"):
        distill_kl(queries, docs, teacher[:, :4])
    with pytest.raises(InputError, match=r"(?i)one score per document"):
        margin_mse(queries, docs, teacher)


@settings(max_examples=60, deadline=None)
@given(**SIZES, similarity=st.sampled_from(["cosine", "dot"]))
def test_margins_are_the_reference(rows: int, documents: int, seed: int, similarity: str) -> None:
    documents += 1
    queries, docs = vectors(rows, 3, seed=seed), vectors(rows, documents, 3, seed=seed + 1)
    teacher = 9 * vectors(rows, documents, seed=seed + 2)
    found = margin_mse(queries, docs, teacher, similarity=similarity)  # pyright: ignore
    wanted = reference_margin_mse(scores_of(queries.tolist(), docs.tolist(), similarity), teacher.tolist())
    assert found.item() == pytest.approx(wanted, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(**SIZES, before=st.integers(0, 2), alpha=st.sampled_from([0.0, 0.2, 2.0]))
def test_kl_and_contrast_is_the_reference(rows: int, documents: int, seed: int, before: int, alpha: float) -> None:
    """Rows of one rank, documents of all: the KL over a row's own, the contrast over all."""
    queries = vectors(rows, 4, seed=seed)
    docs, teacher = vectors(before + rows, documents, 4, seed=seed + 1), vectors(rows, documents, seed=seed + 2)
    found = kl_and_contrast(queries, docs, teacher, alpha=alpha, temperature=0.02, start=before)
    own = scores_of(queries.tolist(), docs[before:].tolist(), "cosine")
    negatives = [row[place] for place in range(1, documents) for row in docs.tolist()]
    contrast = reference_info_nce(queries.tolist(), docs[:, 0].tolist(), negatives, scale=50, start=before)
    wanted = reference_kl(own, teacher.tolist(), scale=50) + alpha * contrast
    assert found.item() == pytest.approx(wanted, rel=1e-11, abs=1e-11)


def test_masked_documents_leave_the_contrast() -> None:
    """SimLM's option: a query's own hard negatives are for the teacher's scores only."""
    queries, docs, teacher = vectors(2, 4), vectors(2, 3, 4, seed=1), vectors(2, 3, seed=2)
    mask = torch.eye(2, dtype=torch.bool).repeat(1, 3)
    found = kl_and_contrast(queries, docs, teacher, doc_mask_BC=mask, scale=9)
    columns = docs.transpose(0, 1).flatten(0, 1).tolist()
    contrast = reference_info_nce(queries.tolist(), columns[:2], columns[2:], scale=9, doc_mask=mask.tolist())
    kl = reference_kl(scores_of(queries.tolist(), docs.tolist(), "cosine"), teacher.tolist(), scale=9)
    assert found.item() == pytest.approx(kl + 0.2 * contrast, rel=1e-12)


def test_gradients() -> None:
    queries, docs, teacher = vectors(3, 4).requires_grad_(), vectors(3, 4, 4, seed=1), vectors(3, 4, seed=2)
    docs.requires_grad_()
    teacher.requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for loss, inputs in (
        (lambda q, d, s: distill_kl(q, d, teacher, scale=s), (queries, docs, scale)),
        (lambda q, d, s: kl_and_contrast(q, d, teacher, scale=s), (queries, docs, scale)),
        (lambda q, d: margin_mse(q, d, teacher), (queries, docs)),
    ):
        assert torch.autograd.gradcheck(loss, inputs)
        assert torch.autograd.grad(loss(*inputs), teacher, allow_unused=True) == (None,)  # the teacher does not learn


def test_half_precision_is_computed_in_float32() -> None:
    """Scores of a teacher in float16 that reach far, a student in bfloat16, under autocast."""
    queries, docs = vectors(4, 32).bfloat16(), vectors(4, 5, 32, seed=1).bfloat16()
    teacher = (1e4 * vectors(4, 5, seed=2)).half()
    for loss, options in ((distill_kl, {}), (kl_and_contrast, {"temperature": 0.01}), (margin_mse, {})):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(queries, docs, teacher, **options)  # pyright: ignore
        wanted = loss(queries.double(), docs.double(), teacher.double(), **options)  # pyright: ignore
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_what_cannot_be_used() -> None:
    queries, docs, teacher = vectors(2, 4), vectors(2, 3, 4), vectors(2, 3)
    for loss in (distill_kl, margin_mse, kl_and_contrast):
        with pytest.raises(InputError, match=r"\[2, 2\].* 2 queries .*\[2, 3, 4"):
            loss(queries, docs, teacher[:, :2])
    for loss in (distill_kl, margin_mse):
        with pytest.raises(InputError, match="at least one query"):
            loss(queries[:0], docs[:0], teacher[:0])
        with pytest.raises(InputError, match="1 queries"):
            loss(queries[:1], docs, teacher)
    with pytest.raises(InputError, match=r"one document.*hard negatives"):
        margin_mse(queries, docs[:, :1], teacher[:, :1])
    with pytest.raises(InputError, match=r"temperature is 0.*above 0"):
        distill_kl(queries, docs, teacher, teacher_temperature=0)
    with pytest.raises(InputError, match="start 1 and 2 queries"):
        kl_and_contrast(queries, docs, teacher, start=1)
