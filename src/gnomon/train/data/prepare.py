"""Opens the data of a recipe: its sources, their weights, the sampler and the collator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.spec import ModelSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.build import open_dataset
from gnomon.train.data.collate import BatchRows, CollatedBatch, Collator
from gnomon.train.data.dataset import Dataset
from gnomon.train.data.mixture import compute_weights, max_lines
from gnomon.train.data.sampler import SampledBatch, Sampler
from gnomon.train.distributed import Ranks
from gnomon.train.prompts import SourcePrompts
from gnomon.train.recipe.checks import masks_duplicates, needs_score_lists
from gnomon.train.recipe.schema import CONTRASTIVE_LOSSES, LABEL_LOSSES, Recipe
from gnomon.warn import warn_caller

MAX_FALSE_NEGATIVES_CHECKED = 20_000
"""At most this many negatives per source are compared by their tokens before the first step."""


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, opened and checked."""

    datasets: list[Dataset]
    weights: NDArray[np.float64]
    sampler: Sampler
    collator: Collator

    @property
    def fingerprints(self) -> dict[str, str]:
        return {dataset.name: dataset.fingerprint for dataset in self.datasets}

    @property
    def prompts(self) -> list[SourcePrompts]:
        """The prompts of each source that is drawn."""
        return [
            SourcePrompts(
                self.datasets[source].name, *self.collator.prompts[source], self.datasets[source].score_kind == "labels"
            )
            for source in np.flatnonzero(self.weights).tolist()
        ]

    @cached_property
    def mean_batch_rows(self) -> dict[int, float]:
        """Rows per batch of each source that is drawn: the mean of its first batches."""
        return {source: self.sampler.mean_batch_rows(source) for source in np.flatnonzero(self.weights).tolist()}

    def to_records(self, rows: BatchRows) -> Iterator[dict[str, Any]]:
        """The rows of a batch as JSON objects, each with its file and line."""
        dataset, count = self.datasets[rows.source], rows.negatives_per_row
        for number, row in enumerate(rows.rows_B.tolist()):
            record = {"place": dataset.location(row), "query": rows.queries[number], "positive": rows.positives[number]}
            negatives = {"negatives": rows.negatives[number * count : (number + 1) * count]} if count else {}
            score = {} if rows.scores is None else {"score": rows.scores[number].tolist()}
            yield record | negatives | score

    def collate_held_out(self) -> list[CollatedBatch]:
        """The held-out rows of each source, as one batch each."""
        batches: list[CollatedBatch] = []
        for source in np.flatnonzero(self.weights).tolist():
            rows = self.sampler.held_out_rows(source)
            if len(rows):
                batches.append(self.collator.collate(SampledBatch(0, source, rows)))
        return batches


def open_training_data(
    recipe: Recipe, spec: ModelSpec, tokenizer: Tokenizer, ranks: Ranks, progress: bool | None
) -> TrainingData:
    """Open the data of a recipe on every rank. What is not cached yet is read on rank 0, and the others wait.

    Raises:
        InputError: a source, a row or a mixture cannot be used, or does not fit the loss.
    """
    cache = Path(recipe.cache_dir).expanduser() if recipe.cache_dir else None
    if not ranks.is_first:
        ranks.barrier()
    datasets = [
        open_dataset(source, cache, max_lines=max_lines(recipe.mixture, source), progress=progress)
        for source in recipe.sources
    ]
    if ranks.is_first:
        ranks.barrier()
    for dataset in datasets:
        check_loss_fits(recipe, dataset)
        if ranks.is_first and dataset.rows != dataset.lines:
            warn_caller(
                f"Source {dataset.name!r}: {dataset.lines:,} rows make {dataset.rows:,}. A row with several positives "
                "makes one row for each."
            )
    weights = compute_weights(recipe.sources, [dataset.rows for dataset in datasets], recipe.mixture)
    for dataset, weight in zip(datasets, weights, strict=True):
        if weight:
            _check_differs(recipe, dataset)
    sampler = Sampler(
        datasets,
        weights,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        duplicates=recipe.duplicates if recipe.loss.name in CONTRASTIVE_LOSSES else "keep",
        loss_masks_duplicates=masks_duplicates(recipe.loss),
        group_by_length=recipe.group_by_length,
        num_held_out=recipe.validation.rows,
        num_negatives=[source.num_negatives for source in recipe.sources],
        world_size=ranks.world_size,
    )
    collator = Collator(datasets, recipe.sources, spec, tokenizer, seed=recipe.seed)
    data = TrainingData(datasets, weights, sampler, collator)
    if ranks.is_first:
        _warn_of_false_negatives(recipe, data)
        _warn_of_short_batches(recipe, data)
    return data


def count_steps(recipe: Recipe, data: TrainingData) -> int:
    """Steps of the optimizer in the whole run. An epoch draws as many rows as the sources have: with short batches it
    takes more steps.
    """
    if recipe.max_steps is not None:
        return recipe.max_steps
    used = np.flatnonzero(data.weights).tolist()
    rows = sum(data.sampler.rows_per_epoch(source) for source in used)
    filled = [data.mean_batch_rows[source] for source in used]
    mean = filled[0] if len({*filled}) == 1 else float(np.dot(data.weights[used], filled))
    return max(1, math.ceil(recipe.num_train_epochs * rows / mean / recipe.gradient_accumulation_steps))


def describe_short_batches(recipe: Recipe, name: str, rows: float, *, epoch_steps: int | None = None) -> str:
    """The warning about a source that does not fill its batches.

    Args:
        rows: the mean number of rows per batch.
        epoch_steps: steps of the run, if they follow from num_train_epochs.
    """
    longer = f" num_train_epochs={recipe.num_train_epochs:g} takes {epoch_steps:,} such steps." if epoch_steps else ""
    negatives = "" if masks_duplicates(recipe.loss) else ", or negatives that are the query or positive of another row"
    return (
        f"Source {name!r}: batches have {rows:.3g} rows instead of {recipe.batch_size}. Too many rows have a query or "
        f"positive in common{negatives}, and no text may be in a batch twice.{longer} Lower batch_size, or set "
        "duplicates='keep'."
    )


def _warn_of_short_batches(recipe: Recipe, data: TrainingData) -> None:
    epoch = None if recipe.max_steps is not None else count_steps(recipe, data)
    for source, filled in data.mean_batch_rows.items():
        if filled < recipe.batch_size:
            warn_caller(describe_short_batches(recipe, data.datasets[source].name, filled, epoch_steps=epoch))


def _warn_of_false_negatives(recipe: Recipe, data: TrainingData) -> None:
    """Compare, by tokens, the negatives that are equal as texts: for a model that reads case or accents some differ."""
    for source in np.flatnonzero(data.weights).tolist():
        dataset = data.datasets[source]
        entries = dataset.false_negative_entries[:MAX_FALSE_NEGATIVES_CHECKED]
        own = entries[data.collator.find_false_negatives(source, entries)]
        if len(own):
            more = "at least " if dataset.false_negatives > MAX_FALSE_NEGATIVES_CHECKED else ""
            effect = "are left out of the loss" if masks_duplicates(recipe.loss) else "are trained as negatives"
            first = dataset.location(int(dataset.rows_of_negatives(own[:1])[0]))
            warn_caller(
                f"Source {dataset.name!r}: {more}{len(own):,} negatives have the tokens of the query or of a positive "
                f"of their own row. They {effect}. The first is in {first}."
            )


def check_loss_fits(recipe: Recipe, dataset: Dataset) -> None:
    """
    Raises:
        InputError: the loss cannot use these rows.
    """
    name, loss = dataset.name, recipe.loss.name
    has_labels = dataset.score_kind == "labels"
    if loss in LABEL_LOSSES and (not has_labels or dataset.negatives):
        raise InputError(
            f"Loss {loss!r} takes pairs with one score each, and source {name!r} has "
            f"{'negatives' if dataset.negatives else 'none'}. Name their column in score, and name no negatives."
        )
    if loss == "cosine_regression" and dataset.labels is not None:
        far = max(dataset.labels.min(), dataset.labels.max(), key=abs)
        if abs(far) > 1:
            raise InputError(
                f"Loss {loss!r} trains cosines, which are from -1 to 1, and a score of source {name!r} is {far:g}. "
                "Divide its scores by the highest, or use cosent, for which only their order matters."
            )
    if needs_score_lists(recipe.loss) and dataset.score_kind != "lists":
        raise InputError(
            f"Loss {loss!r} takes a list of a teacher's scores per row: the positive's, then the negatives'. Source "
            f"{name!r} has {'one score per row' if has_labels else 'no scores'}. Name the column of the lists in score."
        )


def _check_differs(recipe: Recipe, dataset: Dataset) -> None:
    """
    Raises:
        InputError: the gradient of the loss is 0 for all rows, whatever the model.
    """
    name, loss = dataset.name, recipe.loss
    labels = dataset.labels
    if loss.name == "cosent" and labels is not None and labels.min() == labels.max():
        raise InputError(
            f"Every score of source {name!r} is {labels[0]:g}, and the loss cosent trains which pairs have the higher "
            "score: nothing can be learned. Give rows whose scores differ"
            f"{', or leave the source out' if len(recipe.sources) > 1 else ''}."
        )
    if loss.name != "info_nce" or not loss.mask_duplicates or loss.directions == "gte" or dataset.negatives:
        return
    for column in ("query", "positive"):
        if dataset.distinct[column] == 1:
            raise InputError(
                f"Every row of source {name!r} has the same {column}, so no document of a batch is a negative of "
                "another row's query, and nothing can be learned. Give rows whose texts differ, or negatives, or set "
                "loss.mask_duplicates=false."
            )
