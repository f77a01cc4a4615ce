"""A second, frozen model: GIST's guide, or the teacher of a distillation. Every rank encodes its own rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gnomon.encoder import Encoder
from gnomon.errors import InputError
from gnomon.spec import ModelSpec
from gnomon.train.collate import Rows
from gnomon.train.ranks import Ranks
from gnomon.train.settings import Recipe


class Guide:
    """What a guide or a teacher makes of a batch: one forward a text, with its own tokenizer and prompts.

    Raises:
        InputError: its vectors are to be learnt as they are, and the model's have another width.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, student: ModelSpec) -> None:
        name = recipe.loss.guide or recipe.loss.teacher
        assert name is not None
        self.ranks, self.translated = ranks, recipe.loss.taught == "query"
        self.encoder = Encoder.load(name, device=str(ranks.device), threads=recipe.threads)
        if recipe.loss.name == "cosine_distillation" and self.encoder.spec.dim != student.full_dim:
            raise InputError(
                f"the teacher's vectors have {self.encoder.spec.dim} components, the model's {student.full_dim}; "
                "cosine_distillation needs one width. Take a teacher of that width, or the loss gist."
            )

    def __call__(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """[Q, D], [Q, D], [N, D]: queries, positives and negatives of all ranks, in float32.

        Where the texts of a row learn the vector of its query, all of them are that.
        """
        queries_BD = self.encoder.encode_query(rows.queries, on_truncate="silent", show_progress_bar=False)
        count = len(rows.queries)
        if self.translated:
            sides = (queries_BD, queries_BD, np.repeat(queries_BD, len(rows.negatives) // count, axis=0))
        else:
            documents_CD = self.encoder.encode_document(
                rows.positives + rows.negatives, on_truncate="silent", show_progress_bar=False
            )
            sides = (queries_BD, documents_CD[:count], documents_CD[count:])
        queries, positives, negatives = (
            self.ranks.gathered(torch.from_numpy(side).to(self.ranks.device)) for side in sides
        )
        return queries, positives, negatives
