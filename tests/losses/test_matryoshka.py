"""Any loss at several widths."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import info_nce as reference
from reference_losses import prefixes

from gnomon.errors import InputError
from gnomon.losses import compute_guide_blocks, gist, info_nce, margin_mse, matryoshka, similarity_distillation


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.floats(0, 3)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from(["cosine", "dot"]),
)
def test_prefixes_are_the_reference(widths: list[tuple[int, float]], rows: int, similarity: str) -> None:
    queries, docs = vectors(rows, 8), vectors(rows, 8, seed=1)
    dims, weights = zip(*widths, strict=True)
    loss = partial(info_nce, scale=5, similarity=similarity)
    found = matryoshka(loss, (queries, docs, None), matryoshka_dims=dims, matryoshka_weights=weights)
    wanted = sum(
        weight * reference(prefixes(queries, dim), prefixes(docs, dim), scale=5, similarity=similarity)
        for dim, weight in widths
    )
    assert found.item() == pytest.approx(wanted, rel=1e-11, abs=1e-11)


def test_heads_are_looked_up_as_they_are() -> None:
    queries, docs = ({dim: vectors(3, dim, seed=dim + side) for dim in (2, 5)} for side in (0, 9))
    found = matryoshka(
        partial(info_nce, similarity="dot"), (queries, docs), matryoshka_dims=(5, 2), matryoshka_weights=(1, 0.5)
    )
    five, two = (info_nce(queries[dim], docs[dim], similarity="dot") for dim in (5, 2))
    assert found.item() == pytest.approx((five + 0.5 * two).item())


def test_other_losses_and_lists_of_documents() -> None:
    """A guide stays as it is over the widths; a teacher's vectors are bound; lists of documents are cut too."""
    queries, docs, lists = vectors(3, 8), vectors(3, 8, seed=1), vectors(3, 2, 8, seed=2)
    guide, teacher, scores = compute_guide_blocks(docs, queries), vectors(3, 5, seed=3), vectors(3, 2, seed=4)
    for loss, inputs in (
        (partial(gist, guide=guide), (queries, docs)),
        (partial(similarity_distillation, teacher_BD=teacher), (queries,)),
        (partial(margin_mse, teacher_BK=scores), (queries, lists)),
    ):
        found = matryoshka(loss, inputs, matryoshka_dims=(8, 3))
        wanted = sum(loss(*(torch.from_numpy(prefixes(each, dim)) for each in inputs)).item() for dim in (8, 3))
        assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_gradients() -> None:
    leaves = [vectors(3, 6, seed=seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(
        lambda *each: matryoshka(info_nce, each, matryoshka_dims=(6, 2), matryoshka_weights=(1, 2)), leaves
    )


def width(vectors: torch.Tensor) -> torch.Tensor:
    return torch.tensor(float(vectors.shape[1]))


def test_widths_are_drawn_by_seed_and_step() -> None:
    def drawn(seed: int, step: int, count: int = 2) -> float:
        dims = (1, 10, 100, 1000)
        return matryoshka(
            width, [torch.ones(1, 1000)], matryoshka_dims=dims, n_dims_per_step=count, seed=seed, step=step
        ).item()

    sums = [drawn(3, step) for step in range(600)]
    assert sums == [drawn(3, step) for step in range(600)]
    assert sums[:20] != [drawn(4, step) for step in range(20)]
    counts = Counter(sums)
    assert set(counts) == {11, 101, 1001, 110, 1010, 1100}  # each pair, and never a width twice
    assert min(counts.values()) > 60
    assert drawn(0, 0, count=4) == drawn(0, 0, count=9) == drawn(0, 0, count=-1) == 1111


def test_widths_that_cannot_be_used() -> None:
    pair = (vectors(2, 4), vectors(2, 4))
    with pytest.raises(InputError, match="matryoshka_dims is empty"):
        matryoshka(info_nce, pair, matryoshka_dims=())
    with pytest.raises(InputError, match="1 matryoshka_weights for 2 matryoshka_dims"):
        matryoshka(info_nce, pair, matryoshka_dims=(4, 2), matryoshka_weights=(1,))
    for dim in (0, 5):
        with pytest.raises(InputError, match=rf"dim {dim} .* 4, "):
            matryoshka(info_nce, pair, matryoshka_dims=(4, dim))
    with pytest.raises(InputError, match=r"dim 3 .* 4, 2"):
        matryoshka(info_nce, [{4: pair[0], 2: pair[0]}] * 2, matryoshka_dims=(3,))
    for count in (0, -2):
        with pytest.raises(InputError, match=rf"n_dims_per_step is {count}.*at least 1, or -1"):
            matryoshka(info_nce, pair, matryoshka_dims=(4,), n_dims_per_step=count)
