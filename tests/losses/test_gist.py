"""GIST against its reference: the strict rule, ties, margins, diagonals, masks, ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import gist as reference

from gnomon.errors import InputError
from gnomon.losses import SimilarityBlocks, compute_guide_blocks, duplicates_mask, gist, hash_texts

EXACT = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, -2, 0], [1, 1, 1, 1], [1, 1, 1, -1], [1, -1, 1, 1], [-1, 1, 1, 1]])
"""Vectors of norm 2: their cosines are multiples of 1/4 without rounding, so that ties are ties."""


def exact(draw: st.DrawFn, count: int) -> torch.Tensor:
    return torch.from_numpy(EXACT[draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))]).double()


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(queries, positives, negatives) of the model and of its guide."""
    rows, negatives = draw(st.integers(1, 5)), draw(st.integers(0, 6))
    sizes = (rows, rows + draw(st.integers(0, 2)), negatives)
    return [exact(draw, size) for size in sizes], [exact(draw, size) for size in sizes]


@settings(max_examples=300, deadline=None)
@given(batches(), st.booleans(), st.booleans(), st.data())
def test_it_is_the_reference(
    batch: tuple[list[torch.Tensor], list[torch.Tensor]], anchors: bool, positives: bool, data: st.DataObject
) -> None:
    model, guide = batch
    rows, docs = len(model[0]), len(model[1]) + len(model[2])
    margin, relative = data.draw(st.sampled_from([0.0, 0.25, -0.5, 1.0])), data.draw(st.booleans())
    temperature, start = data.draw(st.sampled_from([0.01, 0.5])), len(model[1]) - rows
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    doc_mask, query_mask = (
        torch.from_numpy(draw.random((rows, count)) < 0.3) if data.draw(st.booleans()) else None
        for count in (docs, rows)
    )
    found = gist(
        *model,
        guide=compute_guide_blocks(*guide, start=start),
        temperature=temperature,
        margin=margin,
        margin_strategy="relative" if relative else "absolute",
        contrast_anchors=anchors,
        contrast_positives=positives,
        start=start,
        doc_mask_BC=doc_mask,
        query_mask_BQ=query_mask,
    )
    wanted = reference(
        tuple(each.tolist() for each in model),  # pyright: ignore
        tuple(each.tolist() for each in guide),  # pyright: ignore
        temperature=temperature,
        margin=margin,
        relative=relative,
        anchors=anchors,
        positives_too=positives,
        start=start,
        doc_mask=None if doc_mask is None else doc_mask.tolist(),
        query_mask=None if query_mask is None else query_mask.tolist(),
    )
    assert found.item() == pytest.approx(wanted, rel=1e-11, abs=1e-11)


def random(seed: int, *sizes: int) -> list[torch.Tensor]:
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.normal(size=(size, 6))) for size in sizes]


def test_random_vectors_are_the_reference_too() -> None:
    model, guide = random(0, 7, 7, 14), random(1, 7, 7, 14)
    wanted = reference(tuple(map(torch.Tensor.tolist, model)), tuple(map(torch.Tensor.tolist, guide)))  # pyright: ignore
    assert gist(*model, guide=compute_guide_blocks(*guide)).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("negatives", [0, 1])
def test_identical_texts(negatives: int) -> None:
    """Every query, positive and negative is one text: the guide finds all equal, and the strict rule keeps all.

    The diagonals are no candidates, though the rule alone would keep them: sigma is 1 there, as they are.
    """
    text = torch.ones(3, 4, dtype=torch.float64)
    more = (text,) if negatives else ()
    found = gist(text, text, *more, guide=compute_guide_blocks(text, text, *more))
    candidates = 3 + 3 * negatives + 2 + 2
    assert found.item() == pytest.approx(np.log(candidates))


def test_a_batch_of_one() -> None:
    query, doc = random(3, 1, 1)
    for margin in (0.0, 5.0):  # the pair itself is never left out
        loss = gist(query.requires_grad_(), doc, guide=compute_guide_blocks(doc, query.detach()), margin=margin)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, query)[0].abs().max() < 1e-12


def test_a_large_margin_leaves_nothing_but_the_pair() -> None:
    model = random(0, 4, 4, 4)
    assert gist(*model, guide=compute_guide_blocks(*model), margin=3).item() == 0


def test_a_second_copy_of_a_positive_is_left_out_by_the_masks() -> None:
    """ST 2756: the strict rule keeps it, since its similarity is equal."""
    queries, positives = random(5, 3, 3)
    positives[2] = positives[0]
    copies = duplicates_mask(*[hash_texts(["a", "b", "a"])] * 2)
    guide = SimilarityBlocks(*(torch.zeros(3, 3, dtype=torch.float64) for _ in range(3)))
    masked = gist(queries, positives, guide=guide, doc_mask_BC=copies)
    rows = (queries.tolist(), positives.tolist(), [])
    blind = (torch.eye(6)[:3].tolist(), torch.eye(6)[3:].tolist(), [])  # all orthogonal: all similarities are 0
    assert masked.item() == pytest.approx(reference(rows, blind, doc_mask=copies.tolist()), rel=1e-12)
    assert masked < gist(queries, positives, guide=guide)


def test_the_mean_over_ranks_is_the_loss_of_one() -> None:
    model, guide = random(0, 6, 6, 6), random(1, 6, 6, 6)
    whole = gist(*model, guide=compute_guide_blocks(*guide)).item()
    parts: list[float] = []
    for start in (0, 3):
        rows: dict[str, Any] = {"start": start}
        blocks = compute_guide_blocks(guide[0][start : start + 3], *guide[1:], all_queries_QD=guide[0], **rows)
        mine = model[0][start : start + 3]
        parts.append(gist(mine, *model[1:], guide=blocks, all_queries_QD=model[0], **rows).item())
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-12)


def test_gradients() -> None:
    leaves = [each.requires_grad_() for each in random(0, 4, 4, 4)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    guide = compute_guide_blocks(*random(1, 4, 4, 4))
    assert not any(block.requires_grad for block in compute_guide_blocks(*leaves))
    for strategy in ("absolute", "relative"):
        assert torch.autograd.gradcheck(
            lambda q, p, n, s, strategy=strategy: gist(
                q, p, n, guide=guide, scale=s, margin=0.1, margin_strategy=strategy
            ),
            (*leaves, scale),
        )


def test_autocast_computes_in_float32() -> None:
    model = [each.bfloat16() for each in random(0, 4, 4, 4)]
    guide = [each.float() for each in random(1, 4, 4, 4)]
    wanted = gist(*(each.double() for each in model), guide=compute_guide_blocks(*(each.double() for each in guide)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gist(*model, guide=compute_guide_blocks(*guide))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_what_cannot_be_used() -> None:
    queries, positives = random(0, 3, 3)
    guide = compute_guide_blocks(queries, positives)
    with pytest.raises(InputError, match=r"margin_strategy 'percent'.*'absolute' or 'relative'"):
        gist(queries, positives, guide=guide, margin_strategy="percent")  # pyright: ignore
    with pytest.raises(InputError, match=r"query_to_doc_BC .*\[3, 3\].*\[3, 6\]"):
        gist(queries, positives, positives, guide=guide)
    with pytest.raises(InputError, match="start 1 and 3 queries"):
        gist(queries, positives, guide=guide, start=1)
