"""The candidates of a contrastive loss, and which of them is each row's own pair.

B: rows, queries of this rank; D: dimension; P: positives of all ranks; N: their hard negatives; C: documents, P + N;
Q: queries of all ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gnomon.errors import InputError


class Candidates(NamedTuple):
    """What the rows of a contrastive loss are compared with."""

    docs_CD: Tensor
    """Positives, then negatives."""
    queries_QD: Tensor
    targets_B: Tensor
    """Index of each row's positive in docs_CD."""
    positive_mask_BC: Tensor
    """True at each row's positive."""
    self_mask_BQ: Tensor
    """True at each row's query."""


def build_candidates(
    queries_BD: Tensor,
    positives_PD: Tensor,
    negatives_ND: Tensor | None,
    *,
    start: int,
    targets_B: Tensor | None,
    all_queries_QD: Tensor | None,
) -> Candidates:
    """Put the documents and queries of a contrastive loss together. Arguments are those of `info_nce`.

    Raises:
        InputError: the batch is empty; targets_B has another shape; the last rows have no candidates.
    """
    count = len(queries_BD)
    if not count:
        raise InputError("queries_BD is empty. A loss needs at least one query. Leave empty batches out.")
    if targets_B is None:
        targets_B = _consecutive_indices(start, count, positives_PD)
    elif targets_B.shape != (count,):
        raise InputError(f"targets_B has the shape {list(targets_B.shape)}. {count} queries need [{count}].")
    docs_CD = positives_PD if negatives_ND is None else torch.cat([positives_PD, negatives_ND])
    queries_QD = queries_BD if all_queries_QD is None else all_queries_QD
    mine_B = _consecutive_indices(0 if all_queries_QD is None else start, count, queries_QD)
    return Candidates(
        docs_CD, queries_QD, targets_B, one_hot_mask(targets_B, len(docs_CD)), one_hot_mask(mine_B, len(queries_QD))
    )


def one_hot_mask(indices_B: Tensor, count: int) -> Tensor:
    """[B, count], bool: row b is True at indices_B[b]."""
    return indices_B[:, None] == torch.arange(count, device=indices_B.device)


def exclusion_mask(mask_BC: Tensor | None, pair_BC: Tensor, *, exclude_pair: bool) -> Tensor:
    """[B, C]: which candidates a row leaves out. Its own pair always counts; the row itself never does."""
    if mask_BC is None:
        return pair_BC if exclude_pair else torch.zeros_like(pair_BC)
    return mask_BC | pair_BC if exclude_pair else mask_BC & ~pair_BC


def _consecutive_indices(start: int, count: int, candidates_CD: Tensor) -> Tensor:
    if not 0 <= start <= len(candidates_CD) - count:
        raise InputError(
            f"start {start} and {count} queries need candidates {start} to {start + count - 1}. There are "
            f"{len(candidates_CD)}. Give the candidates of all ranks, or targets_B."
        )
    return torch.arange(start, start + count, device=candidates_CD.device)
