"""A second, frozen model: GIST's guide, or a teacher. Every rank encodes its own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gnomon.checkpoint.folder import Checkpoint
from gnomon.encoder import Encoder, Vectors
from gnomon.engines.torch.devices import supported_dtypes
from gnomon.errors import InputError
from gnomon.spec import ModelSpec
from gnomon.train.data.collate import BatchRows
from gnomon.train.distributed import Ranks
from gnomon.train.model import dropout_rates
from gnomon.train.recipe.schema import LossName, Recipe

_SELF_TEACHER_HINTS: Mapping[LossName, str] = {
    "cosine_distillation": ", or loss.distillation_target='query' with translations",
    "distill_kl": ", or another loss.teacher_temperature",
}
"""Loss -> how a model can be its own teacher."""


class TeacherModel:
    """The vectors that a guide or teacher has for a batch. It has its own tokenizer and prompts.

    Raises:
        InputError: the loss trains the teacher's vectors themselves, and the model's vectors have another dimension, or
            a dense module per dimension.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, student_spec: ModelSpec) -> None:
        loss = recipe.loss
        name = loss.guide or loss.teacher
        assert name is not None
        self.ranks, self.targets_are_queries = ranks, loss.distillation_target == "query"
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

        With `distillation_target="query"` the positives are the queries of their rows, encoded as documents.
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
    """bfloat16 where the model trains in it and the device has it; else a teacher computes in float32."""
    if recipe.bf16 and "bfloat16" in supported_dtypes(device):
        return "bfloat16"
    return "float32" if recipe.loss.teacher else "auto"


def _own_prompts(spec: ModelSpec) -> tuple[str, str]:
    """A model's prompts for queries and for documents."""
    return spec.prompt_text(spec.query_prompt_name()), spec.prompt_text(spec.document_prompt_name)


def _has_one_prompt(spec: ModelSpec) -> bool:
    """Whether queries and documents have the same prompt, or no prompt."""
    query, document = _own_prompts(spec)
    return query == document


def _check_dim(teacher: ModelSpec, student: ModelSpec, *, has_dim_modules: bool) -> None:
    if has_dim_modules:
        raise InputError(
            "loss cosine_distillation cannot be used with matryoshka here: this model has a dense module per "
            "dimension, and the teacher has one vector per text. Leave matryoshka out."
        )
    if teacher.full_dim != student.full_dim:
        raise InputError(
            f"the teacher's vectors have {teacher.full_dim} components and the model's have {student.full_dim}; loss "
            "cosine_distillation needs equal dimensions. Choose another teacher, or loss.name=distill_kl, which takes "
            "any."
        )


def check_teacher(
    recipe: Recipe, base: Checkpoint, model_fingerprint: str, teacher: Encoder, prompts: Sequence[tuple[str, str]]
) -> None:
    """
    Args:
        model_fingerprint: the fingerprint of the model that is trained.
        prompts: those of queries and documents, for each source.

    Raises:
        InputError: the teacher is the model itself and reads the same texts, so that no difference can be trained.
    """
    loss = recipe.loss
    if loss.teacher is None or loss.distillation_target == "query" or teacher.fingerprint != model_fingerprint:
        return
    scale = loss.chosen_scale or 1.0
    as_sharp = loss.teacher_temperature is None or loss.teacher_temperature * scale == 1
    if not (loss.name == "cosine_distillation" or (loss.name == "distill_kl" and as_sharp)):
        return
    own = _own_prompts(teacher.spec)
    same_texts = all(pair == own for pair in prompts)
    same_length = teacher.max_seq_length == base.spec.tokenizer.max_seq_length
    if same_texts and same_length and not any((*dropout_rates(base, recipe), recipe.lora and recipe.lora.dropout)):
        raise InputError(
            f"loss.teacher is {loss.teacher}, which is the model itself. Without dropout the loss {loss.name} is at "
            "its minimum before the first step, so nothing can be learned. Give another teacher"
            f"{_SELF_TEACHER_HINTS.get(loss.name, '')}."
        )
