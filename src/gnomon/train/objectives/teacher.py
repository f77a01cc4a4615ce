"""A second, frozen model: GIST's guide, or a teacher. Every rank encodes its own rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gnomon.encoder import Encoder, Vectors
from gnomon.engines.torch.devices import supported_dtypes
from gnomon.errors import InputError
from gnomon.spec import ModelSpec
from gnomon.train.data.collate import BatchRows
from gnomon.train.distributed import Ranks
from gnomon.train.recipe.schema import Recipe


class TeacherModel:
    """What a guide or a teacher makes of a batch: one forward a text, with its own tokenizer and prompts.

    Raises:
        InputError: its vectors are to be learnt as they are, and the model's have another width, or several heads.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, student_spec: ModelSpec) -> None:
        loss = recipe.loss
        name = loss.guide or loss.teacher
        assert name is not None
        self.ranks, self.targets_are_queries = ranks, loss.taught == "query"
        self.dim: int | None = None
        itself = name == recipe.model
        self.encoder = Encoder.load(
            name,
            revision=recipe.revision if itself else None,
            card=recipe.card if itself else None,
            device=str(ranks.device),
            dtype=_select_dtype(recipe, str(ranks.device)),
            threads=recipe.threads,
        )
        if loss.name == "cosine_distillation":
            _check_dim(
                self.encoder.spec, student_spec, has_dim_modules=bool(recipe.matryoshka and student_spec.dim_modules)
            )
            self.dim = student_spec.full_dim

    def __call__(self, rows: BatchRows) -> tuple[Tensor, Tensor, Tensor]:
        """[Q, D], [Q, D], [N, D]: queries, positives and negatives of all ranks, in float32.

        Where a text learns the vector of its row's query, positives are that: the query as a document.
        """
        queries_BD = self._encode(self.encoder.encode_query, rows.queries)
        if not self.targets_are_queries:
            documents_CD = self._encode(self.encoder.encode_document, rows.positives + rows.negatives)
        elif _has_one_prompt(self.encoder.spec):
            documents_CD = queries_BD
        else:
            documents_CD = self._encode(self.encoder.encode_document, rows.queries)
        count = len(rows.queries)
        sides = (queries_BD, documents_CD[:count], documents_CD[count:])
        queries, positives, negatives = (self.ranks.all_gather(side.to(self.ranks.device)) for side in sides)
        return queries, positives, negatives

    def _encode(self, encode: Callable[..., Vectors], texts: list[str]) -> Tensor:
        return torch.from_numpy(encode(texts, dim=self.dim, on_truncate="silent", show_progress_bar=False))


def _select_dtype(recipe: Recipe, device: str) -> str:
    """bfloat16 where the model itself computes in it and the device can; what a teacher says is exact otherwise."""
    if recipe.bf16 and "bfloat16" in supported_dtypes(device):
        return "bfloat16"
    return "float32" if recipe.loss.teacher else "auto"


def _has_one_prompt(spec: ModelSpec) -> bool:
    """Whether queries and documents have the same one, or none."""
    names = (spec.query_prompt_name(), spec.document_prompt_name)
    return len({spec.prompts[name] if name is not None else "" for name in names}) == 1


def _check_dim(teacher: ModelSpec, student: ModelSpec, *, has_dim_modules: bool) -> None:
    if has_dim_modules:
        raise InputError(
            "cosine_distillation has one vector of the teacher for each text, and the widths of this model have heads "
            "of their own; leave matryoshka out."
        )
    if teacher.full_dim != student.full_dim:
        raise InputError(
            f"the teacher's vectors have {teacher.full_dim} components, the model's {student.full_dim}, and "
            "cosine_distillation needs one width. Take another teacher, or loss.name=distill_kl, which takes any."
        )
