"""The losses of sentence-transformers, fed by models that return given vectors, against ours: value and gradient.

Where the definitions differ (docs/reference/losses.md), the test says by what.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gnomon.losses import (
    GTE_DIRECTIONS,
    SYMMETRIC_DIRECTIONS,
    compute_guide_blocks,
    cosent,
    cosine_regression,
    distill_kl,
    gist,
    info_nce,
    margin_mse,
    matryoshka,
)

pytestmark = pytest.mark.slow  # as the import of the next is
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
gist_embed = importlib.import_module(f"{losses.__name__}.gist_embed")
multiple_negatives_ranking = importlib.import_module(f"{losses.__name__}.multiple_negatives_ranking")

Leaves = list[torch.Tensor]


class Given(torch.nn.Module):
    """A model whose features are their own vectors."""

    max_seq_length = 9

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self.dim, self.tokenizer = dim, PreTrainedTokenizerFast(tokenizer_object=words)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["given"]}

    def get_embedding_dimension(self) -> int:
        return self.dim

    def __getitem__(self, place: int) -> None:
        return None


class Guide(Given):
    """Has vectors of its own for the same features."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["guide"]}


def vectors(count: int, rows: int = 5, dim: int = 8, seed: int = 0) -> Leaves:
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.normal(size=(rows, dim))).requires_grad_() for _ in range(count)]


def features(leaves: Leaves, guides: Leaves | None = None) -> list[dict[str, torch.Tensor]]:
    guides = guides or leaves
    return [{"given": leaf, "guide": guide.detach()} for leaf, guide in zip(leaves, guides, strict=True)]


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, leaves: Leaves) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10, abs=1e-12)
    gradients = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (ours, theirs)]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)


def columns(negatives: Leaves) -> torch.Tensor | None:
    return torch.cat(negatives) if negatives else None


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    "directions",
    [
        ("query_to_doc",),
        ("query_to_doc", "query_to_query"),
        ("query_to_doc", "doc_to_doc"),
        SYMMETRIC_DIRECTIONS,
        GTE_DIRECTIONS,
    ],
)
def test_multiple_negatives_ranking(directions: tuple[Any, ...], rows: int, negatives: int) -> None:
    query, positive, *more = leaves = vectors(2 + negatives, rows)
    for mode in ("joint", "per_direction"):
        if mode == "per_direction" and not {*directions} <= {*SYMMETRIC_DIRECTIONS}:
            continue
        theirs = losses.MultipleNegativesRankingLoss(Given(), scale=7, directions=directions, partition_mode=mode)
        ours = info_nce(
            query,
            positive,
            columns(more),
            scale=7,
            directions=directions,
            partition_mode=mode,  # pyright: ignore
        )
        assert_equal(ours, theirs(features(leaves), None), leaves)


def test_multiple_negatives_ranking_of_duplicates_is_without_masks_theirs() -> None:
    query, positive = leaves = vectors(2)
    with torch.no_grad():
        positive[1] = positive[0]
        query[3] = query[2]
    theirs = losses.MultipleNegativesRankingLoss(Given(), directions=GTE_DIRECTIONS)
    assert_equal(info_nce(query, positive, directions=GTE_DIRECTIONS), theirs(features(leaves), None), leaves)
    dot = losses.MultipleNegativesRankingLoss(Given(), scale=1, similarity_fct=lambda a, b: a @ b.T)
    assert_equal(info_nce(query, positive, scale=1, similarity="dot"), dot(features(leaves), None), leaves)


@pytest.fixture
def on_rank_1(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Leaves], None]:
    """What a module of theirs gathers, on the second rank of three with two rows each: the whole of what it has."""

    def gathering(module: Any, wholes: Leaves) -> None:
        def gather(local: torch.Tensor) -> torch.Tensor:
            return next(whole for whole in wholes if torch.equal(whole[2:4], local))

        monkeypatch.setattr(module, "all_gather_with_grad", gather)
        monkeypatch.setattr(module, "get_rank", lambda: 1)

    return gathering


@pytest.mark.parametrize("directions", [("query_to_doc",), SYMMETRIC_DIRECTIONS, GTE_DIRECTIONS])
def test_multiple_negatives_ranking_on_one_of_several_ranks(
    on_rank_1: Callable[[Any, Leaves], None], directions: tuple[Any, ...]
) -> None:
    query, positive, *more = wholes = vectors(4, rows=6)
    on_rank_1(multiple_negatives_ranking, wholes)
    theirs = losses.MultipleNegativesRankingLoss(Given(), directions=directions, gather_across_devices=True)
    ours = info_nce(query[2:4], positive, columns(more), directions=directions, start=2, all_queries_QD=query)
    assert_equal(ours, theirs(features([whole[2:4] for whole in wholes]), None), wholes)


def test_gist_on_one_of_several_ranks(on_rank_1: Callable[[Any, Leaves], None]) -> None:
    """Their queries are those of the rank."""
    wholes, guides = vectors(3, rows=6), vectors(3, rows=6, dim=3, seed=1)
    on_rank_1(gist_embed, wholes + [guide.detach() for guide in guides])
    theirs = losses.GISTEmbedLoss(Given(), Guide(), temperature=0.3, gather_across_devices=True)
    parts = features([whole[2:4] for whole in wholes], [guide[2:4] for guide in guides])
    guide = compute_guide_blocks(guides[0][2:4], *guides[1:], start=2)
    ours = gist(wholes[0][2:4], *wholes[1:], guide=guide, temperature=0.3, start=2)
    assert_equal(ours, theirs(parts, None), wholes)


GIST_OPTIONS = [
    {},
    {"temperature": 0.2, "margin": 0.05},
    {"temperature": 0.2, "margin": 0.3, "margin_strategy": "relative"},
    {"temperature": 0.2, "contrast_anchors": False},
    {"temperature": 0.2, "contrast_positives": False},
]


@pytest.mark.parametrize("options", GIST_OPTIONS)
@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize("rows", [1, 6])
def test_gist(rows: int, negatives: int, options: dict[str, Any]) -> None:
    leaves, guides = vectors(2 + negatives, rows), vectors(2 + negatives, rows, dim=3, seed=1)
    theirs = losses.GISTEmbedLoss(Given(), Guide(), **options)(features(leaves, guides), None)
    (query, positive, *more), (g_query, g_positive, *g_more) = leaves, guides
    ours = gist(
        query, positive, columns(more), guide=compute_guide_blocks(g_query, g_positive, columns(g_more)), **options
    )
    assert_equal(ours, theirs, leaves)


@pytest.mark.parametrize("options", GIST_OPTIONS)
def test_cached_gist_with_several_negatives(options: dict[str, Any]) -> None:
    leaves, guides = vectors(5, 6), vectors(5, 6, dim=3, seed=1)
    cached = losses.CachedGISTEmbedLoss(Given(), Guide(), mini_batch_size=4, **options)
    theirs = cached.calculate_loss([[leaf] for leaf in leaves], [[guide.detach()] for guide in guides])
    (query, positive, *more), (g_query, g_positive, *g_more) = leaves, guides
    ours = gist(
        query, positive, columns(more), guide=compute_guide_blocks(g_query, g_positive, columns(g_more)), **options
    )
    assert_equal(ours, theirs, leaves)


def test_gist_differs_where_the_guide_finds_query_and_positive_equal() -> None:
    """Their diagonals are left out by the strict rule alone: with sigma = 1 they stay, at the highest similarity."""
    leaves = vectors(2, 4)
    (guide,) = vectors(1, 4, seed=1)
    with torch.no_grad():
        guide[:] = torch.eye(4, 8)  # cosines without rounding
    theirs = losses.GISTEmbedLoss(Given(), Guide(), temperature=1)(features(leaves, [guide, guide]), None)
    ours = gist(*leaves, guide=compute_guide_blocks(guide, guide), temperature=1)
    assert ours < theirs
    query, positive = (torch.nn.functional.normalize(leaf) for leaf in leaves)
    scores = torch.cat([query @ positive.T, query @ query.T, positive @ positive.T], dim=1)
    assert theirs.item() == pytest.approx((scores.logsumexp(1) - scores.diagonal()).mean().item())


@pytest.mark.parametrize("weights", [None, [1, 0.5, 2]])
@pytest.mark.parametrize(
    ("inner", "loss", "count"),
    [
        (losses.MultipleNegativesRankingLoss, info_nce, 3),
        (losses.CoSENTLoss, partial(cosent, labels_B=torch.arange(5.0)), 2),
        (losses.CosineSimilarityLoss, partial(cosine_regression, labels_B=torch.arange(5.0)), 2),
    ],
)
def test_matryoshka(
    inner: Callable[..., Any], loss: Callable[..., torch.Tensor], count: int, weights: list[float] | None
) -> None:
    leaves, model = vectors(count), Given()
    theirs = losses.MatryoshkaLoss(model, inner(model), [2, 8, 4], weights)
    ours = matryoshka(loss, leaves, matryoshka_dims=[2, 8, 4], matryoshka_weights=weights)
    assert_equal(ours, theirs(features(leaves), torch.arange(5.0)), leaves)


@pytest.mark.parametrize("labels", [[0.0, 0.5, 0.5, 1.0, -1.0], [1.0] * 5])
def test_cosent_and_cosine_similarity(labels: list[float]) -> None:
    leaves, graded = vectors(2), torch.tensor(labels, dtype=torch.float64)
    assert_equal(cosent(*leaves, graded), losses.CoSENTLoss(Given())(features(leaves), graded), leaves)
    theirs = losses.CosineSimilarityLoss(Given())(features(leaves), graded)
    assert_equal(cosine_regression(*leaves, graded), theirs, leaves)


@pytest.mark.parametrize("documents", [2, 4])
def test_margin_mse_and_kl(documents: int) -> None:
    query, *docs = leaves = vectors(1 + documents)
    lists = torch.stack(docs, dim=1)
    (teacher,) = (each.detach() for each in vectors(1, dim=documents, seed=3))
    theirs = losses.MarginMSELoss(Given())
    assert_equal(margin_mse(query, lists, teacher), theirs(features(leaves), teacher), leaves)
    # theirs takes margins too; ours takes them as scores below a first score of 0
    margins = teacher[:, :1] - teacher[:, 1:]
    as_scores = torch.cat([torch.zeros(5, 1), -margins], dim=1)
    assert_equal(margin_mse(query, lists, as_scores), theirs(features(leaves), margins), leaves)
    theirs = losses.DistillKLDivLoss(Given())
    assert_equal(distill_kl(query, lists, teacher), theirs(features(leaves), teacher), leaves)


def test_kl_differs_by_the_square_of_the_students_temperature() -> None:
    query, *docs = leaves = vectors(4)
    (teacher,) = (each.detach() for each in vectors(1, dim=3, seed=3))
    theirs = losses.DistillKLDivLoss(Given(), student_temperature=0.5, teacher_temperature=2.0)
    ours = distill_kl(query, torch.stack(docs, dim=1), teacher, temperature=0.5, teacher_temperature=2.0)
    assert_equal(ours * 0.5**2, theirs(features(leaves), teacher), leaves)
