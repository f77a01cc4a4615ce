"""A recipe's loss against the plain call of `gnomon.losses` over the whole batch, masks written out by loops.

Q: rows of all ranks; K: negatives of a row; N: Q K; C: documents, Q + N; D: width.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import WIDTH, bert
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses import (
    GTE_DIRECTIONS,
    SYMMETRIC_DIRECTIONS,
    compute_guide_blocks,
    cosent,
    cosine_regression,
    distill_kl,
    gist,
    info_nce,
    kl_and_contrast,
    margin_mse,
)
from gnomon.losses.matryoshka import vectors_at_dim
from gnomon.train.objectives.batch_loss import LOSS_FUNCTIONS, BatchLoss, LossInputs, dims_with_modules
from gnomon.train.recipe.schema import LossName, LossSettings, MatryoshkaSettings

Q = 6
Sides = tuple[Tensor, Tensor, Tensor]


def sides_of(negatives: int, *, width: int = WIDTH, seed: int = 0, learnt: bool = False) -> Sides:
    rng = np.random.default_rng(seed)
    q, p, n = (torch.from_numpy(rng.normal(size=(Q * each, width))) for each in (1, 1, negatives))
    return tuple(side.requires_grad_(learnt) for side in (q, p, n))


def batch_of(negatives: int = 0, *, scores: str = "", planted: bool = True, **changes: Any) -> LossInputs:
    """A query that stands twice, a positive that does, and a negative that is another row's positive."""
    queries, positives, others = np.arange(Q), 100 + np.arange(Q), 200 + np.arange(Q * negatives)
    if planted:
        queries[4], positives[5] = queries[1], positives[2]
        others[1:2] = positives[3]
        others[-1:] = positives[4]
    rng = np.random.default_rng(5)
    size = {"": 0, "grades": Q, "teacher": (Q, 1 + negatives)}[scores]
    whole = {
        "first_row": 0,
        "num_rows": Q,
        "text_hashes": tuple(torch.from_numpy(each) for each in (queries, positives, others)),
        "scores": torch.from_numpy(rng.normal(size=size)) if scores else None,
        "teacher_vectors": sides_of(negatives, width=WIDTH + 4, seed=9),
    }
    return LossInputs(**{**whole, **changes})


def masks_of(batch: LossInputs) -> tuple[Tensor, Tensor]:
    """What is no negative of a row: [Q, C], documents that answer an equal query, or are it; [Q, Q], queries of an
    equal document, or that are it. A negative that is its row's own answers its query.
    """
    queries, positives, negatives = (side.tolist() for side in batch.text_hashes)
    docs = positives + negatives
    pairs = [*zip(queries, positives, strict=True)]
    own = [] if batch.false_negatives_N is None else batch.false_negatives_N.tolist()
    each = len(negatives) // len(queries)
    pairs += [(queries[at // each], negatives[at]) for at, is_own in enumerate(own) if is_own]
    doc_mask = [[q == d or any((q, d) == pair for pair in pairs) for d in docs] for q in queries]
    query_mask = [[q == p or any((q, p) == pair for pair in pairs) for q in queries] for p in positives]
    return torch.tensor(doc_mask), torch.tensor(query_mask)


def value(loss: BatchLoss, vectors: Any, batch: LossInputs) -> Tensor:
    widths = vectors if isinstance(vectors, dict) else {WIDTH: vectors}
    return torch.stack([*loss.compute_parts(widths, batch)]).sum()


def loss_of(settings: LossSettings, widths: MatryoshkaSettings | None = None, spec: Any = None) -> BatchLoss:
    return BatchLoss(settings, widths, spec or bert(), seed=3).double()


def by_row(sides: Sides, negatives: int) -> Tensor:
    """[Q, 1 + K, D]"""
    _, p, n = sides
    return torch.stack([torch.stack([p[row], *n[row * negatives : (row + 1) * negatives]]) for row in range(Q)])


def by_column(mask_QC: Tensor, negatives: int) -> Tensor:
    """A mask whose negatives are column by column, for `kl_and_contrast`."""
    columns = [Q + row * negatives + column for column in range(negatives) for row in range(Q)]
    return torch.cat([mask_QC[:, :Q], mask_QC[:, columns]], dim=1)


def plain_info_nce(sides: Sides, batch: LossInputs, **options: Any) -> Tensor:
    doc_mask, query_mask = masks_of(batch)
    q, p, n = sides
    return info_nce(q, p, n if len(n) else None, doc_mask_BC=doc_mask, query_mask_BQ=query_mask, **options)


def plain_gist(sides: Sides, batch: LossInputs, **options: Any) -> Tensor:
    doc_mask, query_mask = masks_of(batch)
    (q, p, n), (gq, gp, gn) = sides, batch.teacher_vectors or sides
    blocks = compute_guide_blocks(gq, gp, gn if len(n) else None)
    masks = {"doc_mask_BC": doc_mask, "query_mask_BQ": query_mask}
    return gist(q, p, n if len(n) else None, guide=blocks, **masks, **options)


def plain_from_a_teacher(sides: Sides, batch: LossInputs, scale: float) -> Tensor:
    """Both ways, a softmax of all cosines at once; the teacher's temperature is 0.3."""

    def kl(ours: Tensor, of: Tensor, theirs: Tensor, among: Tensor) -> Tensor:
        cosines = torch.cosine_similarity(ours[:, None], of, dim=-1)
        taught = (torch.cosine_similarity(theirs[:, None], among, dim=-1) / 0.3).softmax(1)
        return (taught * (taught.log() - (scale * cosines).softmax(1).log())).sum(1).mean()

    (q, p, n), (tq, tp, tn) = sides, batch.teacher_vectors or sides
    return (kl(q, torch.cat([p, n]), tq, torch.cat([tp, tn])) + kl(p, q, tp, tq)) / 2


def plain_cosine_distillation(sides: Sides, batch: LossInputs) -> Tensor:
    """Text by text; a narrower vector learns the teacher's first components."""
    pairs = [
        (s, t[: len(s)])
        for side, taught in zip(sides, batch.teacher_vectors or sides, strict=True)
        for s, t in zip(side, taught, strict=True)
    ]
    return sum(1 - (s @ t) / (s.norm() * t.norm()) for s, t in pairs) / len(pairs)


Case = tuple[LossSettings, int, str, Callable[[Sides, LossInputs], Tensor]]
OWNERS = torch.arange(Q).repeat_interleave(2)
TEMPERATE = {"temperature": 0.2}
CASES: dict[str, Case] = {
    "info_nce": (LossSettings(), 0, "", lambda sides, batch: plain_info_nce(sides, batch, scale=20.0)),
    "info_nce, negatives": (
        LossSettings(scale=3.0),
        2,
        "",
        lambda sides, batch: plain_info_nce(sides, batch, scale=3.0),
    ),
    "info_nce, dot": (
        LossSettings(temperature=2.0, similarity="dot"),
        1,
        "",
        lambda sides, batch: plain_info_nce(sides, batch, temperature=2.0, similarity="dot"),
    ),
    "info_nce, symmetric": (
        LossSettings(directions="symmetric", **TEMPERATE),
        0,
        "",
        lambda sides, batch: plain_info_nce(
            sides, batch, directions=SYMMETRIC_DIRECTIONS, partition_mode="per_direction", **TEMPERATE
        ),
    ),
    "info_nce, symmetric, negatives: one way": (
        LossSettings(directions="symmetric", **TEMPERATE),
        2,
        "",
        lambda sides, batch: plain_info_nce(sides, batch, **TEMPERATE),
    ),
    "info_nce, gte": (
        LossSettings(directions="gte", **TEMPERATE),
        0,
        "",
        lambda sides, batch: plain_info_nce(sides, batch, directions=GTE_DIRECTIONS, **TEMPERATE),
    ),
    "info_nce, gte, negatives": (
        LossSettings(directions="gte", **TEMPERATE),
        2,
        "",
        lambda sides, batch: plain_info_nce(sides, batch, directions=GTE_DIRECTIONS, owners_N=OWNERS, **TEMPERATE),
    ),
    "gist": (
        LossSettings("gist", guide="g", **TEMPERATE),
        0,
        "",
        lambda sides, batch: plain_gist(sides, batch, **TEMPERATE),
    ),
    "gist, negatives, relative margin": (
        LossSettings("gist", guide="g", margin=0.4, margin_strategy="relative", **TEMPERATE),
        2,
        "",
        lambda sides, batch: plain_gist(sides, batch, margin=0.4, margin_strategy="relative", **TEMPERATE),
    ),
    "gist, two blocks, dot": (
        LossSettings("gist", guide="g", contrast_anchors=False, contrast_positives=False, similarity="dot", scale=0.5),
        1,
        "",
        lambda sides, batch: plain_gist(
            sides, batch, contrast_anchors=False, contrast_positives=False, similarity="dot", scale=0.5
        ),
    ),
    "kl_and_contrast": (
        LossSettings("kl_and_contrast", alpha=0.7, teacher_temperature=3.0, **TEMPERATE),
        2,
        "teacher",
        lambda sides, batch: kl_and_contrast(
            sides[0],
            by_row(sides, 2),
            batch.scores,
            alpha=0.7,
            teacher_temperature=3.0,
            doc_mask_BC=by_column(masks_of(batch)[0], 2),
            **TEMPERATE,
        ),
    ),
    "distill_kl": (
        LossSettings("distill_kl", scale=4.0, teacher_temperature=2.0, similarity="dot"),
        2,
        "teacher",
        lambda sides, batch: distill_kl(
            sides[0], by_row(sides, 2), batch.scores, scale=4.0, teacher_temperature=2.0, similarity="dot"
        ),
    ),
    "margin_mse": (
        LossSettings("margin_mse", similarity="dot"),
        2,
        "teacher",
        lambda sides, batch: margin_mse(sides[0], by_row(sides, 2), batch.scores, similarity="dot"),
    ),
    "cosent": (
        LossSettings("cosent", scale=5.0),
        0,
        "grades",
        lambda sides, batch: cosent(sides[0], sides[1], batch.scores, scale=5.0),
    ),
    "cosine_regression": (
        LossSettings("cosine_regression"),
        0,
        "grades",
        lambda sides, batch: cosine_regression(sides[0], sides[1], batch.scores),
    ),
    "kl_and_contrast, a teacher": (
        LossSettings("kl_and_contrast", teacher="t", alpha=0.7, teacher_temperature=0.3, **TEMPERATE),
        0,
        "",
        lambda sides, batch: plain_from_a_teacher(sides, batch, 5.0) + 0.7 * plain_info_nce(sides, batch, **TEMPERATE),
    ),
    "distill_kl, a teacher, negatives": (
        LossSettings("distill_kl", teacher="t", scale=4.0, teacher_temperature=0.3),
        2,
        "",
        lambda sides, batch: plain_from_a_teacher(sides, batch, 4.0),
    ),
    "cosine_distillation": (
        LossSettings("cosine_distillation", teacher="t"),
        0,
        "",
        lambda sides, batch: plain_cosine_distillation(sides, batch),
    ),
    "cosine_distillation, negatives": (
        LossSettings("cosine_distillation", teacher="t"),
        2,
        "",
        lambda sides, batch: plain_cosine_distillation(sides, batch),
    ),
}


def test_every_loss_is_here() -> None:
    assert {settings.name for settings, *_ in CASES.values()} == {*LOSS_FUNCTIONS} == {*get_args(LossName)}


@pytest.fixture(params=[1 << 23, 1])
def part(request: pytest.FixtureRequest) -> int:
    """Scores that are in memory at once: all, or those of one row."""
    return request.param


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_the_plain_one(name: str, part: int) -> None:
    settings, negatives, scores, plain = CASES[name]
    sides, batch = sides_of(negatives, learnt=True), batch_of(negatives, scores=scores)
    parts = [*loss_of(settings).compute_parts({WIDTH: sides}, batch, scores_per_part=part)]
    assert len(parts) == (Q if part == 1 and settings.name != "cosent" else 1)
    found, wanted = torch.stack(parts).sum(), plain(sides, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    of = [side for side in sides if len(side)]
    for grad, other in zip(torch.autograd.grad(found, of), torch.autograd.grad(wanted, of), strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_ranks_losses_is_the_loss(name: str, world: int, part: int) -> None:
    settings, negatives, scores, plain = CASES[name]
    sides = sides_of(negatives)
    rows = Q // world
    found = [
        value(loss_of(settings), sides, batch_of(negatives, scores=scores, first_row=rank * rows, num_rows=rows))
        for rank in range(world)
    ]
    wanted = plain(sides, batch_of(negatives, scores=scores))
    torch.testing.assert_close(torch.stack(found).mean(), wanted, rtol=1e-12, atol=1e-12)
    if settings.name != "cosent":
        assert len({loss.item() for loss in found}) == world, "each rank has its own rows"


@pytest.mark.parametrize("name", CASES)
def test_widths_are_the_weighted_sum_of_the_plain_losses(name: str) -> None:
    settings, negatives, scores, plain = CASES[name]
    sides, batch = sides_of(negatives), batch_of(negatives, scores=scores)
    widths = MatryoshkaSettings((4, WIDTH), (0.5, 2.0))
    cut = {dim: tuple(vectors_at_dim(side, dim) for side in sides) for dim in widths.dims}
    wanted = 0.5 * plain(cut[4], batch) + 2.0 * plain(cut[WIDTH], batch)
    torch.testing.assert_close(value(loss_of(settings, widths), sides, batch), wanted, rtol=1e-12, atol=1e-12)

    heads = bert(wide=(WIDTH, 6))
    widths = MatryoshkaSettings((6, WIDTH))
    own = {dim: sides_of(negatives, width=dim, seed=dim) for dim in widths.dims}
    loss = loss_of(settings, widths, heads)
    assert loss.dims == (6, WIDTH)
    wanted = plain(own[6], batch) + plain(own[WIDTH], batch)
    torch.testing.assert_close(value(loss, own, batch), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [LossSettings("kl_and_contrast", teacher="t", alpha=0.0), LossSettings("distill_kl", teacher="t", scale=7.0)],
)
def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(settings: LossSettings) -> None:
    """Where no temperature is given: the teacher's is the model's."""
    sides = sides_of(2, learnt=True)
    loss = value(loss_of(settings), sides, batch_of(2, teacher_vectors=tuple(side.detach() for side in sides)))
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert all(grad.abs().max() < 1e-9 for grad in torch.autograd.grad(loss, sides))


def test_the_widths_of_a_step_are_drawn_by_seed_and_step() -> None:
    widths = MatryoshkaSettings((2, 4, 8, WIDTH), n_dims_per_step=2)
    sides = sides_of(0)
    alone = [
        value(loss_of(LossSettings(), MatryoshkaSettings((dim,))), sides, batch_of()).item() for dim in widths.dims
    ]
    sums = {round(alone[a] + alone[b], 9) for a in range(4) for b in range(a)}

    def drawn(seed: int) -> list[float]:
        loss = BatchLoss(LossSettings(), widths, bert(), seed=seed).double()
        return [round(value(loss, sides, batch_of(step=step)).item(), 9) for step in range(40)]

    assert {*drawn(1)} == sums
    assert drawn(1) == drawn(1) != drawn(2)


# ---- texts that stand twice


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(3, 7)), min_size=1, max_size=8),
    each=st.integers(0, 2),
    data=st.data(),
)
def test_masks_are_those_of_loops(rows: list[tuple[int, int]], each: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    count = each * len(rows)
    negatives = data.draw(st.lists(st.integers(3, 9), min_size=count, max_size=count))
    own = data.draw(st.none() | st.lists(st.sampled_from([False, False, True]), min_size=count, max_size=count))
    columns = ([q for q, _ in rows], [p for _, p in rows], negatives)
    hashes = tuple(torch.tensor(column, dtype=torch.int64) for column in columns)
    batch = LossInputs(start, stop - start, hashes, None if own is None else torch.tensor(own, dtype=torch.bool))
    doc_mask, query_mask = masks_of(batch)
    found = batch.build_masks(slice(start, stop))
    if found["doc_mask_BC"] is None:
        pairs = columns[0] + columns[1]
        assert len({*pairs}) == len(pairs)
        assert not {*negatives} & {*pairs}
        assert not any(own or ())
        assert torch.equal(doc_mask, torch.eye(len(rows), len(rows) + len(negatives), dtype=torch.bool))
        assert torch.equal(query_mask, torch.eye(len(rows), dtype=torch.bool))
    else:
        assert torch.equal(found["doc_mask_BC"], doc_mask[start:stop])
        assert torch.equal(found["query_mask_BQ"], query_mask[start:stop])


@pytest.mark.parametrize("name", ["info_nce", "info_nce, gte, negatives", "gist", "kl_and_contrast"])
def test_duplicates_are_masked_unless_they_are_not_to_be(name: str) -> None:
    settings, negatives, scores, _ = CASES[name]
    sides = sides_of(negatives)
    batches = {planted: batch_of(negatives, scores=scores, planted=planted) for planted in (True, False)}
    unmasked = loss_of(replace(settings, mask_duplicates=False))
    assert value(loss_of(settings), sides, batches[True]) != value(unmasked, sides, batches[True])
    assert value(unmasked, sides, batches[True]) == value(loss_of(settings), sides, batches[False])


# ---- scales


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (LossSettings(learn_scale=True), 20.0),
        (LossSettings(learn_scale=True, temperature=0.05), 20.0),
        (LossSettings("gist", guide="g", learn_scale=True, scale=7.0), 7.0),
    ],
)
def test_a_learnt_scale_starts_where_it_is_put_and_stays_between_1_and_100(
    settings: LossSettings, start: float
) -> None:
    loss = loss_of(settings)
    assert loss.log_scale is not None
    assert loss.log_values() == {"scale": pytest.approx(start)}
    fixed = loss_of(LossSettings(settings.name, guide=settings.guide, scale=start))
    sides, batch = sides_of(0), batch_of()
    torch.testing.assert_close(value(loss, sides, batch), value(fixed, sides, batch), rtol=1e-6, atol=1e-6)
    value(loss, sides, batch).backward()
    step = 1e-5
    above, below = (
        value(loss_of(LossSettings(settings.name, guide=settings.guide, scale=start * math.exp(by))), sides, batch)
        for by in (step, -step)
    )
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad.item() == pytest.approx((above - below).item() / (2 * step), rel=1e-4)
    for put, kept in ((1000.0, 100.0), (0.01, 1.0), (31.0, 31.0)):
        with torch.no_grad():
            loss.log_scale.fill_(math.log(put))
        loss.clamp_scale()
        assert loss.log_values()["scale"] == pytest.approx(kept)
    loss_of(LossSettings()).clamp_scale()
    assert loss_of(LossSettings()).log_values() == {}


WARMING = [(0, 1.0), (1, 1.0), (2, 1.0), (4, 2.0), (20, 10.0), (39, 19.5), (40, 20.0), (99, 20.0)]


@pytest.mark.parametrize(("step", "scale"), WARMING)
def test_a_scale_warms_up(step: int, scale: float) -> None:
    """From 1, along the line from 0."""
    loss, fixed = loss_of(LossSettings(scale_warmup_steps=40)), loss_of(LossSettings(scale=scale))
    sides = sides_of(1)
    assert value(loss, sides, batch_of(1, step=step)).item() == pytest.approx(value(fixed, sides, batch_of(1)).item())


SCALES = ({"scale": 2.0}, {"temperature": 0.5}, {"learn_scale": True}, {"scale_warmup_steps": 3})


@pytest.mark.parametrize("name", ["margin_mse", "cosine_regression"])
@pytest.mark.parametrize("given", SCALES, ids=str)
def test_a_scale_of_a_loss_that_has_none_is_refused(name: LossName, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"loss '{name}' has no scale; leave scale, temperature and learn_scale out"):
        loss_of(LossSettings(name, **given))


# ---- widths


@pytest.mark.parametrize(
    ("dims", "spec", "message"),
    [
        ((4, 17), bert(), "matryoshka.dims has 17; the model's vectors have 16 components"),
        ((8, 12), bert(wide=(8, 12, 4)), None),
        ((12, 6), bert(wide=(8, 12, 4)), "matryoshka.dims has 6, .* 4, 8, 12"),
        ((12, 99), bert(wide=(8, 12, 4)), "matryoshka.dims has 99; the model's vectors have 8 components"),
        ((4, 16), bert(), None),
    ],
)
def test_widths_that_the_model_does_not_have_are_refused(dims: tuple[int, ...], spec: Any, message: str | None) -> None:
    if message is None:
        assert dims_with_modules(MatryoshkaSettings(dims), spec) == (dims if spec.dim_modules else ())
        return
    with pytest.raises(InputError, match=message):
        loss_of(LossSettings(), MatryoshkaSettings(dims), spec)


def test_without_widths_there_are_no_heads_to_ask() -> None:
    assert dims_with_modules(None, bert(wide=(8, 4))) == ()
