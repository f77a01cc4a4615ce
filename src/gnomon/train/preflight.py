"""Whether a run can learn anything: what is checked before its first step, and what is said when nothing is learned."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.encoder import Encoder
from gnomon.errors import InputError
from gnomon.train.model import dropout_rates
from gnomon.train.recipe.schema import LossName, Recipe

ZERO_GRADIENT_NORM = 1e-12
"""Norms of gradients below this are 0 but for rounding."""

_DOCUMENTS = "It learns from the other documents of a batch: give larger batches, rows with other texts, or negatives."
_SCORES = "The model may have the scores that it is to learn already."
_ZERO_GRADIENT_HINTS: Mapping[LossName, str] = {
    "info_nce": _DOCUMENTS,
    "gist": f"{_DOCUMENTS} The guide may have left all of them out.",
    "kl_and_contrast": _SCORES,
    "distill_kl": _SCORES,
    "margin_mse": _SCORES,
    "cosent": "It learns which pairs have the higher score: give rows whose scores differ.",
    "cosine_regression": _SCORES,
    "cosine_distillation": "The teacher may be the model itself.",
}
"""Loss -> why its gradient may be 0."""

_SELF_TEACHER_HINTS: Mapping[LossName, str] = {
    "cosine_distillation": ", or loss.taught='query' with translations",
    "distill_kl": ", or another loss.teacher_temperature",
}
"""Loss -> how a model can be its own teacher."""


def describe_zero_gradient(recipe: Recipe, step: int, source: str, rows: int) -> str:
    """What is said of the first step whose gradient is 0."""
    return (
        f"step {step + 1}, source {source!r}: the gradient of the loss {recipe.loss.name} is 0, so the {rows} rows of "
        f"this step teach nothing. {_ZERO_GRADIENT_HINTS[recipe.loss.name]} The model's card says in how many steps this was so."
    )


def describe_nothing_learned(recipe: Recipe, steps: int, log: Path) -> str:
    """What is said where no step can have changed the model."""
    return (
        f"nothing was learned in {steps} steps: in each of them the gradient or the learning rate was 0 (grad_norm and "
        f"learning_rate in {log}), so no model is written. {_ZERO_GRADIENT_HINTS[recipe.loss.name]}"
    )


def check_disk_space(recipe: Recipe, base: Checkpoint, learnt: Iterable[nn.Parameter]) -> None:
    """
    Raises:
        InputError: the disk has no room for a checkpoint and the model.
    """
    output = Path(recipe.output).expanduser()
    copies = 4 if recipe.ema_decay else 3  # weights, two averages of gradients; the average of the weights
    needed = 4 * copies * sum(each.numel() for each in learnt) + sum(array.nbytes for array in base.arrays.values())
    free = shutil.disk_usage(output).free
    if free < needed:
        raise InputError(
            f"output {output} has {free / 1e6:,.0f} MB free, and a checkpoint with the model takes "
            f"{needed / 1e6:,.0f} MB. Make room, or give another output."
        )


def check_teacher(
    recipe: Recipe, base: Checkpoint, model_fingerprint: str, teacher: Encoder, prompts: Sequence[tuple[str, str]]
) -> None:
    """
    Args:
        own: the fingerprint of the model.
        prompts: of queries and documents, of each source.

    Raises:
        InputError: the teacher is the model itself and sees the same texts: there is no difference to learn.
    """
    loss = recipe.loss
    if loss.teacher is None or loss.taught == "query" or teacher.fingerprint != model_fingerprint:
        return
    scale = loss.scale or (1 / loss.temperature if loss.temperature else 1.0)
    as_sharp = loss.teacher_temperature is None or loss.teacher_temperature * scale == 1
    if not (loss.name == "cosine_distillation" or (loss.name == "distill_kl" and as_sharp)):
        return
    spec = teacher.spec
    names = (spec.query_prompt_name(), spec.document_prompt_name)
    theirs = tuple(spec.prompts[name] if name is not None else "" for name in names)
    same_texts = all(pair == theirs for pair in prompts)
    same_length = teacher.max_seq_length == base.spec.tokenizer.max_seq_length
    if same_texts and same_length and not any((*dropout_rates(base, recipe), recipe.lora and recipe.lora.dropout)):
        raise InputError(
            f"loss.teacher is {loss.teacher}, the model itself, and without dropout the loss {loss.name} is at its "
            f"least before the first step: nothing can be learned. Give another teacher{_SELF_TEACHER_HINTS.get(loss.name, '')}."
        )


def settings_outside_fingerprint(base: Checkpoint) -> dict[str, Any]:
    """What of a model changes a run and is no part of its fingerprint."""
    return {
        "max_seq_length": base.spec.tokenizer.max_seq_length,
        "similarity": base.spec.similarity,
        "prompts": dict(base.spec.prompts),
        "dropout": [*dropout_rates(base)],
    }
