"""How good the model is on rows that are held out of training: every rank encodes its share of them.

R: held-out rows; D: width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnomon.train.data.collate import CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.objectives.gradcache import encode_chunks, skipped_prompt_tokens, split_into_chunks

MRR_CUTOFF = 10


def score_held_out(
    model: Model, held_out: Sequence[CollatedBatch], *, chunk_tokens: int, ranks: Ranks
) -> dict[str, float]:
    """The score of each source by its name, the same on every rank.

    Pairs and triplets: mean reciprocal rank at 10 of each query's own document among the documents of all held-out rows
    of its source, by cosine. Graded pairs: Spearman's correlation of cosine and grade.
    """
    return {collated.rows.source_name: _score(model, collated, chunk_tokens, ranks) for collated in held_out}


def _score(model: Model, collated: CollatedBatch, chunk_tokens: int, ranks: Ranks) -> float:
    rows = collated.rows
    count = len(rows.queries)
    vectors = torch.nn.functional.normalize(_encode_all_ranks(model, collated, chunk_tokens, ranks), dim=-1)
    queries_RD, documents_CD = vectors[:count], vectors[count:]
    if rows.scores is not None and rows.scores.ndim == 1:
        similarity_R = (queries_RD * documents_CD[:count]).sum(-1).cpu().double().numpy()
        return _correlate(_rank_values(similarity_R), _rank_values(rows.scores))
    _, positives_R, negatives_N = collated.token_hashes
    return mean_reciprocal_rank(queries_RD, documents_CD, positives_R, np.concatenate([positives_R, negatives_N]))


def mean_reciprocal_rank(
    queries_RD: Tensor, documents_CD: Tensor, positive_hashes_R: NDArray[np.int64], document_hashes_C: NDArray[np.int64]
) -> float:
    """The mean over queries of 1 / rank of their own document, 0 beyond the tenth; equals count as before it.

    Args:
        own_R, texts_C: hashes of the texts: a copy of a query's own document is no other one.
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
    """[texts, D]: vectors of all texts, queries first; each rank computes every so many-th."""
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


def _correlate(x_R: NDArray[np.float64], y_R: NDArray[np.float64]) -> float:
    """Pearson's; 0 where one of the two does not vary, which has none."""
    x_R, y_R = x_R - x_R.mean(), y_R - y_R.mean()
    product = np.linalg.norm(x_R) * np.linalg.norm(y_R)
    return float(x_R @ y_R / product) if product else 0.0


def _rank_values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the least; equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    place = 0
    for _, group in groupby(order.tolist(), key=lambda at: values[at]):
        members = [*group]
        ranks[members] = place + (len(members) + 1) / 2
        place += len(members)
    return ranks
