"""What a recipe names, opened: the sources with their indexes, the mixture, and what becomes of a batch."""

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
from gnomon.notices import warn_caller
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

MAX_OWN_NEGATIVES_CHECKED = 20_000
"""Negatives of a source, at most, that are compared by their tokens before the first step."""


@dataclass(frozen=True)
class TrainingData:
    datasets: list[Dataset]
    weights: NDArray[np.float64]
    sampler: Sampler
    collator: Collator

    @property
    def fingerprints(self) -> dict[str, str]:
        return {index.name: index.fingerprint for index in self.datasets}

    @property
    def prompts(self) -> list[SourcePrompts]:
        """Of the sources that are drawn."""
        return [
            SourcePrompts(
                self.datasets[source].name, *self.collator.prompts[source], self.datasets[source].score_kind == "grades"
            )
            for source in np.flatnonzero(self.weights).tolist()
        ]

    @cached_property
    def mean_batch_rows(self) -> dict[int, float]:
        """Rows of a batch of each source that is drawn, the mean of its first ones."""
        return {source: self.sampler.mean_batch_rows(source) for source in np.flatnonzero(self.weights).tolist()}

    def to_records(self, rows: BatchRows) -> Iterator[dict[str, Any]]:
        """Rows of a batch, each with the place that it comes from."""
        index, count = self.datasets[rows.source], rows.negatives_per_row
        for at, row in enumerate(rows.rows_B.tolist()):
            told = {"place": index.location(row), "query": rows.queries[at], "positive": rows.positives[at]}
            negatives = {"negatives": rows.negatives[at * count : (at + 1) * count]} if count else {}
            score = {} if rows.scores is None else {"score": rows.scores[at].tolist()}
            yield told | negatives | score

    def collate_held_out(self) -> list[CollatedBatch]:
        """The held-out rows of each source, as one batch each."""
        found: list[CollatedBatch] = []
        for source in np.flatnonzero(self.weights).tolist():
            rows = self.sampler.held_out_rows(source)
            if len(rows):
                found.append(self.collator.collate(SampledBatch(0, source, rows)))
        return found


def open_training_data(
    recipe: Recipe, spec: ModelSpec, tokenizer: Tokenizer, ranks: Ranks, progress: bool | None
) -> TrainingData:
    """Index what is not indexed yet, on rank 0; then open it, on every rank.

    Raises:
        InputError: a source, a row or a mixture that cannot be used; sources that the loss cannot take.
    """
    cache = Path(recipe.cache_dir).expanduser() if recipe.cache_dir else None
    if not ranks.is_first:
        ranks.barrier()
    indexes = [
        open_dataset(source, cache, max_lines=max_lines(recipe.mixture, source), progress=progress)
        for source in recipe.sources
    ]
    if ranks.is_first:
        ranks.barrier()
    for index in indexes:
        check_loss_fits(recipe, index)
        if ranks.is_first and index.rows != index.lines:
            warn_caller(
                f"source {index.name!r}: rows with several positives make a row of each, {index.rows:,} rows of "
                f"{index.lines:,}."
            )
    weights = compute_weights(recipe.sources, [index.rows for index in indexes], recipe.mixture)
    for index, weight in zip(indexes, weights, strict=True):
        if weight:
            _check_differs(recipe, index)
    sampler = Sampler(
        indexes,
        weights,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        duplicates=recipe.duplicates if recipe.loss.name in CONTRASTIVE_LOSSES else "keep",
        loss_masks_duplicates=masks_duplicates(recipe.loss),
        length_buckets=recipe.length_buckets,
        num_held_out=recipe.validation.rows,
        num_negatives=[source.num_negatives for source in recipe.sources],
        world_size=ranks.world_size,
    )
    data = TrainingData(indexes, weights, sampler, Collator(indexes, recipe.sources, spec, tokenizer, seed=recipe.seed))
    if ranks.is_first:
        _warn_of_own_negatives(recipe, data)
        _warn_of_short_batches(recipe, data)
    return data


def count_steps(recipe: Recipe, data: TrainingData) -> int:
    """Steps of the optimizer of the whole run. An epoch is as many rows as may be drawn: where batches are short, it
    takes more of them.
    """
    if recipe.max_steps is not None:
        return recipe.max_steps
    used = np.flatnonzero(data.weights).tolist()
    rows = sum(data.sampler.rows_per_epoch(source) for source in used)
    filled = [data.mean_batch_rows[source] for source in used]
    mean = filled[0] if len({*filled}) == 1 else float(np.dot(data.weights[used], filled))
    return max(1, math.ceil(recipe.num_train_epochs * rows / mean / recipe.gradient_accumulation_steps))


def describe_short_batches(recipe: Recipe, name: str, rows: float, *, epoch_steps: int | None = None) -> str:
    """The notice of a source that does not fill its batches.

    Args:
        rows: of a batch. epoch: steps of the run, where they were counted by epochs.
    """
    longer = f" num_train_epochs={recipe.num_train_epochs:g} takes {epoch_steps:,} such steps." if epoch_steps else ""
    negatives = "" if masks_duplicates(recipe.loss) else ", or negatives that are another's query or positive"
    return (
        f"source {name!r}: batches hold {rows:.3g} rows of {recipe.batch_size}, since too many rows have a query or "
        f"positive in common{negatives}, and none may stand twice in a batch.{longer} A smaller batch_size or "
        "duplicates='keep' lets rows in."
    )


def _warn_of_short_batches(recipe: Recipe, data: TrainingData) -> None:
    epoch = None if recipe.max_steps is not None else count_steps(recipe, data)
    for source, filled in data.mean_batch_rows.items():
        if filled < recipe.batch_size:
            warn_caller(describe_short_batches(recipe, data.datasets[source].name, filled, epoch_steps=epoch))


def _warn_of_own_negatives(recipe: Recipe, data: TrainingData) -> None:
    """By tokens, of those that are alike as texts: where case or accents count for the model, they are not all."""
    for source in np.flatnonzero(data.weights).tolist():
        index = data.datasets[source]
        entries = index.own_negative_entries[:MAX_OWN_NEGATIVES_CHECKED]
        own = entries[data.collator.find_own_negatives(source, entries)]
        if len(own):
            more = "at least " if index.own_negatives > MAX_OWN_NEGATIVES_CHECKED else ""
            fate = (
                "are left out of the loss" if masks_duplicates(recipe.loss) else "are trained as negatives all the same"
            )
            first = index.location(int(index.rows_of_negatives(own[:1])[0]))
            warn_caller(
                f"source {index.name!r}: {more}{len(own):,} negatives are, as the model reads them, the query or a "
                f"positive of their own row, and {fate}. The first is in {first}."
            )


def check_loss_fits(recipe: Recipe, index: Dataset) -> None:
    """
    Raises:
        InputError: rows that the loss cannot use.
    """
    name, loss = index.name, recipe.loss.name
    grades = index.score_kind == "grades"
    if loss in LABEL_LOSSES and (not grades or index.negatives):
        raise InputError(
            f"loss {loss!r} takes pairs with a grade, and source {name!r} has "
            f"{'negatives' if index.negatives else 'none'}: name the column of grades with score=, and no negatives."
        )
    if loss == "cosine_regression" and index.labels is not None:
        far = max(index.labels.min(), index.labels.max(), key=abs)
        if abs(far) > 1:
            raise InputError(
                f"loss {loss!r} learns cosines, which lie from -1 to 1, and a grade of source {name!r} is {far:g}: "
                "divide its grades by the highest, or take cosent, to which only their order matters."
            )
    if needs_score_lists(recipe.loss) and index.score_kind != "lists":
        raise InputError(
            f"loss {loss!r} takes a teacher's scores, a list for each row: the positive's, then the negatives'. Source "
            f"{name!r} has {'one grade a row' if grades else 'no scores'}: name the column of the lists with score=."
        )


def _check_differs(recipe: Recipe, index: Dataset) -> None:
    """
    Raises:
        InputError: rows from which the loss can have no gradient, whatever the model.
    """
    name, loss = index.name, recipe.loss
    grades = index.labels
    if loss.name == "cosent" and grades is not None and grades.min() == grades.max():
        raise InputError(
            f"every score of source {name!r} is {grades[0]:g}, and the loss cosent learns which pairs have the "
            "higher score: nothing can be learned. Give rows whose scores differ"
            f"{', or leave the source out' if len(recipe.sources) > 1 else ''}."
        )
    if loss.name != "info_nce" or not loss.mask_duplicates or loss.directions == "gte" or index.negatives:
        return
    for column in ("query", "positive"):
        if index.distinct[column] == 1:
            raise InputError(
                f"every row of source {name!r} has the same {column}, so no document of a batch is a negative of "
                "another row's query, and nothing can be learned. Give rows whose texts differ, or negatives, or let "
                "loss.mask_duplicates be false."
            )
