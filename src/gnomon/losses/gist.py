"""GIST: InfoNCE in which a guide model says which candidates must not count as negatives.

B: rows, queries of this rank; D: dimension; P: positives of all ranks; N: their hard negatives; C: documents, P + N;
Q: queries of all ranks.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.candidates import Candidates, build_candidates, exclusion_mask
from gnomon.losses.similarity import Factor, Similarity, resolve_scale, similarity_matrix

MarginStrategy = Literal["absolute", "relative"]


class SimilarityBlocks(NamedTuple):
    """Similarities of each row to what it is contrasted with."""

    query_to_doc_BC: Tensor
    query_to_query_BQ: Tensor
    positive_to_positive_BP: Tensor


def gist(
    queries_BD: Tensor,
    positives_PD: Tensor,
    negatives_ND: Tensor | None = None,
    *,
    guide: SimilarityBlocks,
    scale: Factor | None = None,
    temperature: Factor | None = None,
    margin: float = 0.0,
    margin_strategy: MarginStrategy = "absolute",
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
    similarity: Similarity = "cosine",
    start: int = 0,
    targets_B: Tensor | None = None,
    all_queries_QD: Tensor | None = None,
    doc_mask_BC: Tensor | None = None,
    query_mask_BQ: Tensor | None = None,
) -> Tensor:
    """GISTEmbed, Solatorio 2024 (2402.16829, and its code).

    The mean over rows b of log Z_b - s(q_b, d_b) / temperature. Z_b adds exp(s / temperature) over four blocks: s(q_b,
    positives), s(q_b, negatives), s(q_b, queries), s(d_b, positives). A candidate is left out of a block where the
    guide's similarity there is strictly greater than the guide's s(q_b, d_b), less the margin: its value (absolute), or
    that share of |s(q_b, d_b)| (relative). The pair itself is never left out; q_b against q_b and d_b against d_b
    always are.

    Args:
        guide: the guide's similarities for the same rows and candidates, from `compute_guide_blocks`.
        scale: what similarities are multiplied by, 100 by default; a tensor is trained. `temperature` is 1 / scale.
        contrast_anchors: whether there is a block of queries.
        contrast_positives: whether there is a block of positives.
        start: as in `info_nce`.
        targets_B: as in `info_nce`.
        all_queries_QD: as in `info_nce`.
        doc_mask_BC: as in `info_nce`. The strict rule keeps a second copy of a positive as a negative, since its
            similarity is not greater; the mask leaves it out.
        query_mask_BQ: as in `info_nce`.

    Raises:
        InputError: an option does not exist, or two do not go together; an index is out of range; the batch is empty;
            the guide's blocks have other shapes.
    """
    factor = resolve_scale(scale, temperature, default=100.0)
    candidates = build_candidates(
        queries_BD, positives_PD, negatives_ND, start=start, targets_B=targets_B, all_queries_QD=all_queries_QD
    )
    ours = _compute_blocks(queries_BD, positives_PD, candidates, similarity)
    _check_guide(margin_strategy, guide, ours)
    sigma_B1 = guide.query_to_doc_BC.gather(1, candidates.targets_B[:, None])
    limit_B1 = sigma_B1 - margin * (sigma_B1.abs() if margin_strategy == "relative" else 1)

    count = len(positives_PD)
    own = (candidates.positive_mask_BC, candidates.self_mask_BQ, candidates.positive_mask_BC[:, :count])
    masks = (doc_mask_BC, query_mask_BQ, None if doc_mask_BC is None else doc_mask_BC[:, :count])
    included = (True, contrast_anchors, contrast_positives)
    scores: list[Tensor] = []
    for block in (block for block in range(3) if included[block]):
        near, mask = guide[block] > limit_B1, masks[block]
        out = exclusion_mask(near if mask is None else near | mask, own[block], exclude_pair=block > 0)
        scores.append((ours[block] * factor).masked_fill(out, -torch.inf))
    positive_B = scores[0].gather(1, candidates.targets_B[:, None]).squeeze(1)
    return (torch.cat(scores, dim=1).logsumexp(1) - positive_B).mean()


@torch.no_grad()
def compute_guide_blocks(
    queries_BD: Tensor,
    positives_PD: Tensor,
    negatives_ND: Tensor | None = None,
    *,
    similarity: Similarity = "cosine",
    start: int = 0,
    targets_B: Tensor | None = None,
    all_queries_QD: Tensor | None = None,
) -> SimilarityBlocks:
    """The similarities that `gist` takes from a guide, computed from the guide's vectors without a gradient.

    Arguments are those of `gist`, with the guide's vectors for the same texts.
    """
    candidates = build_candidates(
        queries_BD, positives_PD, negatives_ND, start=start, targets_B=targets_B, all_queries_QD=all_queries_QD
    )
    return _compute_blocks(queries_BD, positives_PD, candidates, similarity)


def _compute_blocks(
    queries_BD: Tensor, positives_PD: Tensor, candidates: Candidates, similarity: Similarity
) -> SimilarityBlocks:
    return SimilarityBlocks(
        similarity_matrix(queries_BD, candidates.docs_CD, similarity),
        similarity_matrix(queries_BD, candidates.queries_QD, similarity),
        similarity_matrix(positives_PD[candidates.targets_B], positives_PD, similarity),
    )


def _check_guide(margin_strategy: MarginStrategy, guide: SimilarityBlocks, ours: SimilarityBlocks) -> None:
    if margin_strategy not in get_args(MarginStrategy):
        raise InputError(f"margin_strategy {margin_strategy!r} is not known. Use 'absolute' or 'relative'.")
    for name, theirs, own in zip(SimilarityBlocks._fields, guide, ours, strict=True):
        if theirs.shape != own.shape:
            raise InputError(
                f"the guide's {name} has the shape {list(theirs.shape)}, the model's {list(own.shape)}. Both must be "
                "for the same texts. Use compute_guide_blocks with the same start, targets_B and all_queries_QD."
            )
