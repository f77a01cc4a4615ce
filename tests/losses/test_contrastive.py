"""InfoNCE against its reference, in every direction; ranks, parts, masks, edges, gradients."""

import math
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import info_nce as reference

from gnomon.errors import InputError
from gnomon.losses import GTE_DIRECTIONS, SYMMETRIC_DIRECTIONS, hash_texts, info_nce, known_pairs_mask

OPTIONAL = ("query_to_query", "doc_to_query", "doc_to_doc")
DIRECTIONS = [
    ("query_to_doc", *rest) for rest in chain.from_iterable(combinations(OPTIONAL, count) for count in range(4))
]


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def near(found: torch.Tensor, wanted: float, tolerance: float = 1e-11) -> None:
    assert found.shape == ()
    assert found.item() == pytest.approx(wanted, rel=tolerance, abs=tolerance)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Vectors of few values (full of duplicates and ties), masks, places: everything that the loss takes."""
    rows, before, behind = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    count, negatives, width = rows + before + behind, draw(st.integers(0, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))

    def some(number: int) -> torch.Tensor:
        if draw(st.booleans()):
            return torch.from_numpy(rng.normal(size=(number, width)))
        return torch.from_numpy(rng.integers(0, 2, (number, width)) + 0.5)

    gathered = draw(st.booleans())
    queries = some(count)
    return {
        "queries_BD": queries[before : before + rows],
        "positives_PD": some(count),
        "negatives_ND": some(negatives),
        "scale": draw(st.sampled_from([1e-3, 1.0, 20.0, 100.0, 1e6])),
        "similarity": draw(st.sampled_from(["cosine", "dot"])),
        "directions": draw(st.sampled_from(DIRECTIONS)),
        "start": before,
        "targets_B": torch.from_numpy(rng.integers(0, count, rows)) if draw(st.booleans()) else None,
        "all_queries_QD": queries if gathered else None,
        "owners_N": torch.from_numpy(rng.integers(0, count, negatives)),
        "doc_mask_BC": torch.from_numpy(rng.random((rows, count + negatives)) < 0.4) if draw(st.booleans()) else None,
        "query_mask_BQ": (
            torch.from_numpy(rng.random((rows, count if gathered else rows)) < 0.4) if draw(st.booleans()) else None
        ),
    }


def reference_of(batch: dict[str, Any], *, joint: bool = True) -> float:
    plain = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    return reference(
        plain["queries_BD"],
        plain["positives_PD"],
        plain["negatives_ND"],
        joint=joint,
        targets=plain["targets_B"],
        all_queries=plain["all_queries_QD"],
        owners=plain["owners_N"],
        doc_mask=plain["doc_mask_BC"],
        query_mask=plain["query_mask_BQ"],
        **{key: plain[key] for key in ("scale", "similarity", "directions", "start")},
    )


def rounding(batch: dict[str, Any]) -> float:
    """A similarity is rounded to 1e-15 or so of the products in it, and the factor multiplies that."""
    return 1e-11 + 1e-13 * batch["scale"]


@settings(max_examples=300, deadline=None)
@given(batches())
def test_one_partition_is_the_reference(batch: dict[str, Any]) -> None:
    near(info_nce(**batch), reference_of(batch), rounding(batch))


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from([("query_to_doc",), SYMMETRIC_DIRECTIONS]))
def test_a_partition_each_is_the_reference(batch: dict[str, Any], directions: tuple[str, ...]) -> None:
    batch["directions"] = directions
    near(info_nce(**batch, partition_mode="per_direction"), reference_of(batch, joint=False), rounding(batch))


def test_by_hand() -> None:
    """Two orthogonal pairs, scale 1: each query has its positive at 1 and the other at 0."""
    eye = torch.eye(2)
    one_way = math.log(math.e + 1) - 1
    near(info_nce(eye, eye, scale=1), one_way, 1e-6)
    near(
        info_nce(eye, eye, temperature=1, directions=SYMMETRIC_DIRECTIONS, partition_mode="per_direction"),
        one_way,
        1e-6,
    )
    # the positive twice, the other document and query twice each
    near(info_nce(eye, eye, scale=1, directions=GTE_DIRECTIONS), math.log(2 * math.e + 4) - 1, 1e-6)


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_a_batch_of_one_without_negatives(directions: tuple[Any, ...]) -> None:
    """Nothing to contrast with: 0, or log 2 where the pair counts twice; no gradient, and no NaN."""
    query, doc = (vectors(1, 4, seed=seed).requires_grad_() for seed in (0, 1))
    loss = info_nce(query, doc, directions=directions, scale=100)
    near(loss, math.log(2) if "doc_to_query" in directions else 0)
    loss.backward()
    for each in (query, doc):
        assert each.grad is not None
        assert each.grad.abs().max() < 1e-9


def test_negatives_are_columns_of_the_positives_order() -> None:
    """What sentence-transformers does: a second negative of each query follows the first of all."""
    queries, positives, negatives = vectors(3, 4), vectors(3, 4, seed=1), vectors(6, 4, seed=2)
    columns = info_nce(queries, positives, negatives, directions=GTE_DIRECTIONS)
    with_owners = info_nce(
        queries, positives, negatives, directions=GTE_DIRECTIONS, owners_N=torch.tensor([0, 1, 2, 0, 1, 2])
    )
    assert columns == with_owners
    assert columns != info_nce(
        queries, positives, negatives, directions=GTE_DIRECTIONS, owners_N=torch.tensor([0, 0, 1, 1, 2, 2])
    )


def test_ragged_negatives() -> None:
    queries, positives, negatives = vectors(3, 4), vectors(3, 4, seed=1), vectors(2, 4, seed=2)
    near(info_nce(queries, positives, negatives), reference(queries.tolist(), positives.tolist(), negatives.tolist()))
    with pytest.raises(InputError, match=r"2 negatives .* 3 positives.*owners_N"):
        info_nce(queries, positives, negatives, directions=GTE_DIRECTIONS)


@pytest.mark.parametrize("directions", [("query_to_doc",), SYMMETRIC_DIRECTIONS, GTE_DIRECTIONS])
def test_the_mean_over_ranks_is_the_loss_of_one(directions: tuple[Any, ...]) -> None:
    """Rows of a rank against the candidates of all: value and gradient of the whole batch."""
    whole = [vectors(6, 5, seed=seed).requires_grad_() for seed in range(3)]
    info_nce(*whole, directions=directions, scale=9).backward()
    wanted = [each.grad for each in whole]
    parts = [each.detach().clone().requires_grad_() for each in whole]
    queries, positives, negatives = parts
    losses = [
        info_nce(
            queries[start:stop],
            positives,
            negatives,
            directions=directions,
            scale=9,
            start=start,
            all_queries_QD=queries,
        )
        * ((stop - start) / 6)
        for start, stop in ((0, 1), (1, 4), (4, 6))  # parts of any size, weighed by their rows
    ]
    sum(losses).backward()  # pyright: ignore
    for part, gradient in zip(parts, wanted, strict=True):
        torch.testing.assert_close(part.grad, gradient)


def test_gradients_on_copies_go_back_to_the_vectors() -> None:
    """GradCache: the same function on detached vectors, then the vectors' own backward with what came of it."""
    weights = vectors(4, 3, seed=7).requires_grad_()
    inputs = [vectors(5, 4, seed=seed) for seed in range(2)]
    info_nce(*(each @ weights for each in inputs), directions=GTE_DIRECTIONS).backward()
    wanted, weights.grad = weights.grad, None
    copies = [(each @ weights).detach().requires_grad_() for each in inputs]
    info_nce(*copies, directions=GTE_DIRECTIONS).backward()
    for each, copy in zip(inputs, copies, strict=True):
        (each @ weights).backward(copy.grad)
    torch.testing.assert_close(weights.grad, wanted)


def test_texts_given_once_are_found_by_their_places() -> None:
    """Three queries, two of which share their document: the same as with the copy masked."""
    queries, docs = vectors(3, 4), vectors(2, 4, seed=1)
    targets = torch.tensor([0, 1, 0])
    copies = docs[targets]
    mask = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 0, 0]]).bool()
    torch.testing.assert_close(
        info_nce(queries, docs, targets_B=targets), info_nce(queries, copies, doc_mask_BC=mask), rtol=1e-12, atol=0
    )


def test_duplicates_are_no_negatives() -> None:
    """A positive stands twice, and a query twice with two positives: masks from hashes, in all directions."""
    queries, docs = ["q", "q", "r", "s"], ["a", "b", "c", "c"]
    by_text = {text: vectors(5, seed=ord(text)) for text in {*queries, *docs}}
    q, d = (torch.stack([by_text[text] for text in texts]) for texts in (queries, docs))
    hashes_q, hashes_d = hash_texts(queries), hash_texts(docs)
    found = info_nce(
        q,
        d,
        directions=GTE_DIRECTIONS,
        doc_mask_BC=known_pairs_mask(hashes_q, hashes_q, hashes_d, hashes_d),
        query_mask_BQ=known_pairs_mask(hashes_d, hashes_d, hashes_q, hashes_q),
    )
    doc_mask = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    wanted = reference(q.tolist(), d.tolist(), directions=GTE_DIRECTIONS, doc_mask=doc_mask, query_mask=doc_mask)  # pyright: ignore
    near(found, wanted)
    assert found < info_nce(q, d, directions=GTE_DIRECTIONS)


def test_everything_masked_but_the_pair() -> None:
    query, docs = vectors(2, 3).requires_grad_(), vectors(4, 3, seed=1)
    every = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    loss = info_nce(query, docs[:2], docs[2:], directions=GTE_DIRECTIONS, doc_mask_BC=every[0], query_mask_BQ=every[1])
    near(loss, math.log(2))
    loss.backward()
    assert query.grad is not None
    assert query.grad.abs().max() < 1e-9
    assert every[0].all()  # the caller's masks are left as they were
    assert every[1].all()


@pytest.mark.parametrize("directions", [("query_to_doc",), GTE_DIRECTIONS])
def test_gradients(directions: tuple[Any, ...]) -> None:
    leaves = [vectors(3, 4, seed=seed).requires_grad_() for seed in range(3)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda q, p, n, s: info_nce(q, p, n, scale=s, directions=directions, doc_mask_BC=mask), (*leaves, scale)
    )
    assert torch.autograd.gradcheck(
        lambda q, p, t: info_nce(q, p, temperature=t, directions=SYMMETRIC_DIRECTIONS, partition_mode="per_direction"),
        (*leaves[:2], scale),
    )


def test_bfloat16_under_autocast_is_computed_in_float32() -> None:
    leaves = [vectors(8, 64, seed=seed).bfloat16().requires_grad_() for seed in range(3)]
    wanted = info_nce(*(each.double() for each in leaves), temperature=0.01, directions=GTE_DIRECTIONS).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(*leaves, temperature=0.01, directions=GTE_DIRECTIONS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in leaves)


def test_extreme_factors_stay_finite_in_float32() -> None:
    leaves = [(vectors(4, 3, seed=seed) * 1e4).float().requires_grad_() for seed in range(2)]
    for options in ({"scale": 1e8}, {"scale": 1e-8}, {"scale": 1e6, "similarity": "dot"}):
        loss = info_nce(*leaves, directions=GTE_DIRECTIONS, **options)  # pyright: ignore
        gradients = torch.autograd.grad(loss, leaves)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_options_that_cannot_be_used() -> None:
    queries, docs = vectors(3, 4), vectors(6, 4)
    for directions in ((), ("doc_to_query",), ("query_to_doc", "query_to_doc"), ("query_to_doc", "doc")):
        with pytest.raises(InputError, match=r"directions .*query_to_doc .*query_to_query, doc_to_query"):
            info_nce(queries, docs, directions=directions)  # pyright: ignore
    with pytest.raises(InputError, match=r"partition_mode 'split'.*'joint' or 'per_direction'"):
        info_nce(queries, docs, partition_mode="split")  # pyright: ignore
    with pytest.raises(InputError, match=r"'per_direction' takes query_to_doc and doc_to_query.*'joint'"):
        info_nce(queries, docs, directions=GTE_DIRECTIONS, partition_mode="per_direction")
    for start in (-1, 4):
        with pytest.raises(InputError, match=rf"start {start} and 3 queries need candidates .* 6\. Give "):
            info_nce(queries, docs, start=start)
    with pytest.raises(InputError, match=r"start 1 and 3 queries need candidates 1 to 3.*are 3"):
        info_nce(queries, docs, start=1, all_queries_QD=queries)
    with pytest.raises(InputError, match=r"targets_B .*\[2\].* 3 queries .*\[3\]"):
        info_nce(queries, docs, targets_B=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="queries_BD is empty"):
        info_nce(queries[:0], docs)
