"""What a recipe names, opened: the sources with their indexes, the mixture, and what becomes of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.spec import ModelSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.collate import Collated, Collator, Rows
from gnomon.train.data import index_of
from gnomon.train.index import Index
from gnomon.train.mixture import lines_of, weights_of
from gnomon.train.ranks import Ranks
from gnomon.train.rules import GRADED, takes_scores
from gnomon.train.sampler import Draw, Sampler
from gnomon.train.settings import Recipe


@dataclass(frozen=True)
class Data:
    indexes: list[Index]
    weights: NDArray[np.float64]
    sampler: Sampler
    collator: Collator

    @property
    def fingerprints(self) -> dict[str, str]:
        return {index.name: index.fingerprint for index in self.indexes}

    def as_written(self, rows: Rows) -> Iterator[dict[str, Any]]:
        """Rows of a batch, each with the place that it comes from."""
        index, count = self.indexes[rows.source], rows.negatives_per_row
        for at, row in enumerate(rows.rows_B.tolist()):
            told = {"place": index.place(row), "query": rows.queries[at], "positive": rows.positives[at]}
            negatives = {"negatives": rows.negatives[at * count : (at + 1) * count]} if count else {}
            score = {} if rows.scores is None else {"score": rows.scores[at].tolist()}
            yield told | negatives | score

    def held_out(self) -> list[Collated]:
        """The held-out rows of each source, as one batch each."""
        found: list[Collated] = []
        for source in np.flatnonzero(self.weights).tolist():
            rows = self.sampler.held_out_rows(source)
            if len(rows):
                found.append(self.collator.collate(Draw(0, source, rows, 0)))
        return found


def open_data(recipe: Recipe, spec: ModelSpec, tokenizer: Tokenizer, ranks: Ranks, progress: bool | None) -> Data:
    """Index what is not indexed yet, on rank 0; then open it, on every rank.

    Raises:
        InputError: a source, a row or a mixture that cannot be used; sources that the loss cannot take.
    """
    cache = Path(recipe.cache_dir).expanduser() if recipe.cache_dir else None
    if not ranks.first:
        ranks.wait()
    indexes = [
        index_of(source, cache, lines=lines_of(recipe.mixture, source), progress=progress) for source in recipe.sources
    ]
    if ranks.first:
        ranks.wait()
    for index in indexes:
        check_fits(recipe, index)
    weights = weights_of(recipe.sources, [index.rows for index in indexes], recipe.mixture)
    for index, weight in zip(indexes, weights, strict=True):
        if weight:
            _check_differs(recipe, index)
    sampler = Sampler(
        indexes,
        weights,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        duplicates=recipe.duplicates,
        length_buckets=recipe.length_buckets,
        held_out=recipe.validation.rows,
        num_negatives=[source.num_negatives for source in recipe.sources],
        world=ranks.world,
    )
    return Data(indexes, weights, sampler, Collator(indexes, recipe.sources, spec, tokenizer, seed=recipe.seed))


def steps_of(recipe: Recipe, data: Data) -> int:
    """Steps of the optimizer of the whole run."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    drawn = [index for index, weight in zip(data.indexes, data.weights, strict=True) if weight]
    rows = sum(index.rows - recipe.validation.rows for index in drawn)
    return max(1, math.ceil(recipe.num_train_epochs * rows / recipe.batch_size / recipe.gradient_accumulation_steps))


def check_fits(recipe: Recipe, index: Index) -> None:
    """
    Raises:
        InputError: rows that the loss cannot use.
    """
    name, loss = index.name, recipe.loss.name
    grades = index.scores is not None and index.scores.ndim == 1
    if loss in GRADED and (not grades or index.negatives):
        raise InputError(
            f"loss {loss!r} takes pairs with a grade, and source {name!r} has "
            f"{'negatives' if index.negatives else 'none'}: name the column of grades with score=, and no negatives."
        )
    if loss == "cosine_regression" and index.scores is not None:
        far = max(index.scores.min(), index.scores.max(), key=abs)
        if abs(far) > 1:
            raise InputError(
                f"loss {loss!r} learns cosines, which lie from -1 to 1, and a grade of source {name!r} is {far:g}: "
                "divide its grades by the highest, or take cosent, to which only their order matters."
            )
    if takes_scores(recipe.loss) and (index.scores is None or grades):
        raise InputError(
            f"loss {loss!r} takes a teacher's scores, a list for each row: the positive's, then the negatives'. Source "
            f"{name!r} has {'one grade a row' if grades else 'no scores'}: name the column of the lists with score=."
        )


def _check_differs(recipe: Recipe, index: Index) -> None:
    """
    Raises:
        InputError: rows from which the loss can have no gradient, whatever the model.
    """
    name, loss = index.name, recipe.loss
    if loss.name == "cosent" and index.scores is not None and index.scores.min() == index.scores.max():
        raise InputError(
            f"every score of source {name!r} is {index.scores[0]:g}, and the loss cosent learns which pairs have the "
            "higher score: nothing can be learned. Give rows whose scores differ, or leave the source out."
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
