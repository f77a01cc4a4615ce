"""Checks before the first step of a run, and messages about runs that learn nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.errors import InputError
from gnomon.train.model import dropout_rates
from gnomon.train.recipe.schema import Recipe

ZERO_GRADIENT_NORM = 1e-12
"""A gradient with a norm below this is 0, apart from rounding."""


def describe_zero_gradient(step: int, batches: str, hint: str) -> str:
    """The warning about the first step whose gradient is 0."""
    return (
        f"step {step + 1}, {batches}: the gradient is 0, so this step changes nothing. {hint} The model card counts "
        "such steps."
    )


def describe_nothing_learned(steps: int, log: Path, hint: str) -> str:
    """The error of a run in which no step can have changed the model."""
    return (
        f"nothing was learned in {steps} steps: the gradient or the learning rate of each was 0 (see grad_norm and "
        f"learning_rate in {log}). No model is written. {hint}"
    )


def check_disk_space(recipe: Recipe, base: Checkpoint, trainable: Iterable[nn.Parameter]) -> None:
    """
    Raises:
        InputError: the disk has no room for a checkpoint and the model.
    """
    output = Path(recipe.output).expanduser()
    copies = 4 if recipe.ema_decay else 3  # weights, AdamW's two averages of gradients, the average of the weights
    checkpoint_bytes = 4 * copies * sum(parameter.numel() for parameter in trainable)
    needed = checkpoint_bytes + sum(array.nbytes for array in base.arrays.values())
    free = shutil.disk_usage(output).free
    if free < needed:
        raise InputError(
            f"output {output} has {free / 1e6:,.0f} MB free, and a checkpoint with the model takes "
            f"{needed / 1e6:,.0f} MB. Make room, or give another output."
        )


def settings_outside_fingerprint(base: Checkpoint) -> dict[str, Any]:
    """Settings of a model that change a run, but not the model's fingerprint."""
    return {
        "max_seq_length": base.spec.tokenizer.max_seq_length,
        "similarity": base.spec.similarity,
        "prompts": dict(base.spec.prompts),
        "dropout": [*dropout_rates(base)],
    }
