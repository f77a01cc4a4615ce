"""Masks of candidates that must not count as negatives, from hashes of their texts. True is left out.

B: rows, queries of this rank; C: candidates; Q: pairs of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor


def hash_texts(texts: Iterable[str]) -> Tensor:
    """int64, one per text: equal for equal texts, in every process (Python's own `hash` is not), so that ranks can
    gather them.
    """
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def duplicates_mask(hashes_B: Tensor, hashes_C: Tensor) -> Tensor:
    """[B, C], bool: where the texts are equal."""
    return hashes_B[:, None] == hashes_C


def known_pairs_mask(keys_B: Tensor, keys_Q: Tensor, values_Q: Tensor, candidates_C: Tensor) -> Tensor:
    """[B, C], bool: where the candidate's text is paired, somewhere in the batch, with a key that equals the row's key.

    All are hashes. `keys_Q` and `values_Q` are the pairs of the whole batch, `keys_B` among them. With queries as keys
    it is the `doc_mask_BC` of the contrastive losses, for a batch in which a positive or a query is there twice. With
    positives as keys and queries as values it is the `query_mask_BQ`. Memory: Q times C bytes.
    """
    keys_K, key_index_Q = keys_Q.unique(return_inverse=True)
    pairs, candidates = duplicates_mask(values_Q, candidates_C).nonzero(as_tuple=True)
    values_KC = torch.zeros(len(keys_K), len(candidates_C), dtype=torch.bool, device=keys_K.device)
    values_KC[key_index_Q[pairs], candidates] = True
    return values_KC[torch.searchsorted(keys_K, keys_B)]
