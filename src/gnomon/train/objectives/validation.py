"""Scores of a model on held-out rows. Every rank encodes its share of them.

R: held-out rows; C: documents; D: dimension of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnomon.metrics import spearman
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.objectives.gradcache import encode_chunks, skipped_prompt_tokens, split_into_chunks

MRR_CUTOFF = 10


def score_held_out(
    model: Model, held_out: Sequence[CollatedBatch], *, chunk_tokens: int, ranks: Ranks
) -> dict[str, float]:
    """The score of each source by its name, the same on every rank.

    For pairs and triplets it is the mean reciprocal rank at 10, by cosine, of each query's own document among the
    documents of all held-out rows of its source. For scored pairs it is Spearman's correlation of cosine and score, or
    0 where one of them does not vary.
    """
    return {collated.rows.source_name: _score(model, collated, chunk_tokens, ranks) for collated in held_out}


def _score(model: Model, collated: CollatedBatch, chunk_tokens: int, ranks: Ranks) -> float:
    rows = collated.rows
    count = len(rows.queries)
    vectors = torch.nn.functional.normalize(_encode_all_ranks(model, collated, chunk_tokens, ranks), dim=-1)
    queries_RD, documents_CD = vectors[:count], vectors[count:]
    if rows.scores is not None and rows.scores.ndim == 1:
        similarity_R = (queries_RD * documents_CD[:count]).sum(-1).cpu().double().numpy()
        correlation = spearman(similarity_R, rows.scores)
        return 0.0 if math.isnan(correlation) else correlation
    _, positives_R, negatives_N = collated.text_hashes
    return mean_reciprocal_rank(queries_RD, documents_CD, positives_R, np.concatenate([positives_R, negatives_N]))


def mean_reciprocal_rank(
    queries_RD: Tensor, documents_CD: Tensor, positive_hashes_R: NDArray[np.int64], document_hashes_C: NDArray[np.int64]
) -> float:
    """The mean over queries of 1 / rank of their own document, and of 0 for ranks above 10.

    Documents with an equal score rank before the own one.

    Args:
        positive_hashes_R, document_hashes_C: hashes of the texts. Copies of a query's own document are not ranked.
    """
    hashes_C, own_hashes_R = torch.from_numpy(document_hashes_C), torch.from_numpy(positive_hashes_R)
    total = 0.0
    for rows in torch.arange(len(queries_RD)).split(1024):
        scores = queries_RD[rows] @ documents_CD.T
        own = scores.gather(1, rows[:, None].to(scores.device))
        other = (hashes_C[None, :] != own_hashes_R[rows][:, None]).to(scores.device)
        rank = 1 + ((scores >= own) & other).sum(1)
        total += float(torch.where(rank <= MRR_CUTOFF, 1 / rank.double(), 0).sum())
    return total / len(queries_RD)


def _encode_all_ranks(model: Model, collated: CollatedBatch, chunk_tokens: int, ranks: Ranks) -> Tensor:
    """[texts, D]: vectors of all texts, queries first. With N ranks, each one encodes every N-th text."""
    ids = collated.ids[ranks.rank :: ranks.world_size]
    prompts = skipped_prompt_tokens(collated, model.spec.pooling)[ranks.rank :: ranks.world_size]
    size = -(-len(collated.ids) // ranks.world_size)
    own = torch.zeros(size, model.spec.full_dim, device=model.device)
    for texts, vectors_BD in encode_chunks(
        model, split_into_chunks(ids, prompts, chunk_tokens=chunk_tokens, seed=(0,))
    ):
        own[texts] = vectors_BD
    gathered = ranks.all_gather(own).view(ranks.world_size, size, -1)
    return gathered.transpose(0, 1).reshape(ranks.world_size * size, -1)[: len(collated.ids)]
