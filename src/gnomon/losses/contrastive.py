"""InfoNCE: each query must find its own document among all others.

The rows are the queries of one rank. Candidates may have been gathered from all ranks, with their gradients. A large
batch can be computed in parts: call with some rows at a time, and weigh each part by its number of rows.

B: rows, queries of this rank; D: dimension; P: positives of all ranks; N: their hard negatives; C: documents, P + N;
Q: queries of all ranks.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.candidates import build_candidates, exclusion_mask
from gnomon.losses.similarity import Factor, Similarity, resolve_scale, similarity_matrix

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
PartitionMode = Literal["joint", "per_direction"]

SYMMETRIC_DIRECTIONS: tuple[Direction, ...] = ("query_to_doc", "doc_to_query")
"""With partition_mode "per_direction": the mean of the losses by row and by column."""
GTE_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
"""With partition_mode "joint": the improved contrastive loss of GTE."""


def info_nce(
    queries_BD: Tensor,
    positives_PD: Tensor,
    negatives_ND: Tensor | None = None,
    *,
    scale: Factor | None = None,
    temperature: Factor | None = None,
    directions: tuple[Direction, ...] = ("query_to_doc",),
    partition_mode: PartitionMode = "joint",
    similarity: Similarity = "cosine",
    start: int = 0,
    targets_B: Tensor | None = None,
    all_queries_QD: Tensor | None = None,
    owners_N: Tensor | None = None,
    doc_mask_BC: Tensor | None = None,
    query_mask_BQ: Tensor | None = None,
) -> Tensor:
    """InfoNCE, which sentence-transformers calls MultipleNegativesRankingLoss.

    The mean over rows b of log Z_b - scale * s(q_b, d_b). Z_b adds exp(scale * s) over the pairs of `directions`:

        query_to_doc    s(q_b, d)   every document; with it alone, van den Oord et al. 2018 (1807.03748, eq. 4)
        query_to_query  s(q_b, q)   every query but q_b
        doc_to_query    s(d_b, q)   every query
        doc_to_doc      s(d_b, d)   every document that did not come with q_b

    "joint" takes one Z over all of them: with all four, Li et al. 2023 (GTE, 2308.03281, improved contrastive loss), in
    which the positive pair counts twice. "per_direction" takes a Z each, and the mean of their logarithms: with both
    ways between queries and documents, the symmetric loss of Radford et al. 2021 (CLIP, 2103.00020, figure 3).

    Args:
        scale: what similarities are multiplied by, 20 by default; a tensor is trained. `temperature` is 1 / scale.
        start: where this rank's rows begin: row b's positive is positives_PD[start + b], and its query is
            all_queries_QD[start + b].
        targets_B: index of each row's positive in positives_PD, if they are not in the order of the rows (equal texts
            given once).
        all_queries_QD: the queries that are candidates; the default is queries_BD.
        owners_N: index in positives_PD of the positive that each negative came with. Without it, negatives come in
            groups of P, each in the order of the positives. Only "doc_to_doc" uses it.
        doc_mask_BC: True where a document must not count as a negative (`known_pairs_mask`, `duplicates_mask`). A
            row's own pair is never left out.
        query_mask_BQ: True where a query must not count as a negative.

    Raises:
        InputError: an option does not exist, or two do not go together; an index is out of range; the batch is empty.
    """
    _check_options(directions, partition_mode)
    factor = resolve_scale(scale, temperature, default=20.0)
    candidates = build_candidates(
        queries_BD, positives_PD, negatives_ND, start=start, targets_B=targets_B, all_queries_QD=all_queries_QD
    )
    rows = {"query": queries_BD, "doc": positives_PD[candidates.targets_B]}
    columns = {"query": candidates.queries_QD, "doc": candidates.docs_CD}
    own = {"query": candidates.self_mask_BQ, "doc": candidates.positive_mask_BC}
    masks = {"query": query_mask_BQ, "doc": doc_mask_BC}

    blocks: dict[Direction, Tensor] = {}
    for direction in directions:
        row, _, column = direction.partition("_to_")
        out = exclusion_mask(masks[column], own[column], exclude_pair=row == column)
        if direction == "doc_to_doc" and negatives_ND is not None:
            out = out | (candidates.targets_B[:, None] == _positive_of_each_doc(owners_N, positives_PD, negatives_ND))
        # masked after the product: the gradient of a trained factor must not meet infinity
        blocks[direction] = (similarity_matrix(rows[row], columns[column], similarity) * factor).masked_fill(
            out, -torch.inf
        )

    positive_B = blocks["query_to_doc"].gather(1, candidates.targets_B[:, None]).squeeze(1)
    parts = [torch.cat([*blocks.values()], dim=1)] if partition_mode == "joint" else [*blocks.values()]
    log_z_B = torch.stack([part.logsumexp(1) for part in parts]).mean(0)
    return (log_z_B - positive_B).mean()


def _positive_of_each_doc(owners_N: Tensor | None, positives_PD: Tensor, negatives_ND: Tensor) -> Tensor:
    """[C]: index of the positive that each document came with."""
    positives, negatives = len(positives_PD), len(negatives_ND)
    if owners_N is None and negatives % positives:
        raise InputError(
            f"{negatives} negatives are not a multiple of {positives} positives. "
            "Say with owners_N which positive each negative came with."
        )
    indices_P = torch.arange(positives, device=positives_PD.device)
    return torch.cat([indices_P, indices_P.repeat(negatives // positives) if owners_N is None else owners_N])


def _check_options(directions: tuple[Direction, ...], partition_mode: PartitionMode) -> None:
    chosen, known = {*directions}, get_args(Direction)
    if "query_to_doc" not in chosen or len(chosen) < len(directions) or not chosen <= {*known}:
        raise InputError(
            f"directions are {', '.join(directions) or 'empty'}. They must hold query_to_doc and may hold "
            f"{', '.join(known[1:])}, each once."
        )
    if partition_mode not in get_args(PartitionMode):
        raise InputError(f"partition_mode {partition_mode!r} is not known. Use 'joint' or 'per_direction'.")
    if partition_mode == "per_direction" and not chosen <= {*SYMMETRIC_DIRECTIONS}:
        raise InputError(
            f"partition_mode 'per_direction' takes {' and '.join(SYMMETRIC_DIRECTIONS)}: other directions have no "
            "positive pair. Use 'joint'."
        )
