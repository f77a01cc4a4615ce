"""GIST's guide: a frozen model that says which candidates are no negatives. Every rank encodes its own rows."""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.encoder import Encoder
from gnomon.train.collate import Rows
from gnomon.train.ranks import Ranks
from gnomon.train.settings import Recipe


class Guide:
    """Vectors of a batch, one forward of the guide a text, with its own tokenizer and prompts."""

    def __init__(self, recipe: Recipe, ranks: Ranks) -> None:
        assert recipe.loss.guide is not None
        self.ranks = ranks
        self.encoder = Encoder.load(recipe.loss.guide, device=str(ranks.device), threads=recipe.threads)

    def __call__(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """[Q, D], [Q, D], [N, D]: queries, positives and negatives of all ranks, in float32."""
        queries_BD = self.encoder.encode_query(rows.queries, on_truncate="silent", show_progress_bar=False)
        documents_CD = self.encoder.encode_document(
            rows.positives + rows.negatives, on_truncate="silent", show_progress_bar=False
        )
        count = len(rows.queries)
        sides = (queries_BD, documents_CD[:count], documents_CD[count:])
        queries, positives, negatives = (
            self.ranks.gathered(torch.from_numpy(side).to(self.ranks.device)) for side in sides
        )
        return queries, positives, negatives
