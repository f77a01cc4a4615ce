"""Contrastive training: here rows of queries, documents and scores become a loss and its gradient.

`ContrastiveObjective` opens the sources of a recipe, samples and tokenises batches, and computes their gradient with
GradCache. The losses are called in `batch_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnomon.messages import count, list_some
from gnomon.spec import ModelSpec
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.data.dataset import Dataset
from gnomon.train.data.prepare import count_steps, describe_short_batches, open_training_data
from gnomon.train.data.sampler import SAMPLING_VERSION
from gnomon.train.model import Model
from gnomon.train.model_card import DataFacts, SourceFacts, render_model_card
from gnomon.train.objectives.batch_loss import BatchLoss, LossInputs
from gnomon.train.objectives.chunking import choose_chunking
from gnomon.train.objectives.gradcache import forward_backward, skipped_prompt_tokens, split_into_chunks
from gnomon.train.objectives.objective import FactChanges, RunFacts, TrainingContext
from gnomon.train.objectives.row_counters import RowCounters, SeenRows
from gnomon.train.objectives.teacher import TeacherModel, check_teacher
from gnomon.train.objectives.validation import score_held_out
from gnomon.train.prompts import apply_prompts
from gnomon.train.recipe.schema import Recipe
from gnomon.warn import warn_caller

MAX_PREFETCHED_ROWS = 16_384
"""Rows of this rank whose texts and ids may wait for their step."""


class ContrastiveObjective:
    """Trains a model on pairs, triplets, scored pairs or a teacher, with one of the losses of a recipe.

    Raises:
        InputError: a source, a row, a mixture or a dimension that cannot be used; a teacher that teaches nothing.
    """

    def __init__(self, context: TrainingContext) -> None:
        recipe, base, ranks = context.recipe, context.base, context.ranks
        self.recipe, self.base, self.ranks = recipe, base, ranks
        progress = context.progress if ranks.is_first else False
        self.data = open_training_data(recipe, base.spec, context.tokenizer, ranks, progress)
        self.data_summary = _summarize(self.data.datasets)
        self.total_steps = count_steps(recipe, self.data)
        self.spec = self._write_prompts(declare_dims(base.spec, recipe))
        self.chunking = choose_chunking(recipe, base.spec, ranks.device)
        self.loss = BatchLoss(recipe.loss, recipe.matryoshka, base.spec, seed=recipe.seed).to(ranks.device)
        self.teacher = TeacherModel(recipe, ranks, base.spec) if recipe.loss.guide or recipe.loss.teacher else None
        if self.teacher:
            check_teacher(recipe, base, context.base_fingerprint, self.teacher.encoder, self.data.collator.prompts)
        self.held_out_batches = self.data.collate_held_out()
        self.has_validation = bool(self.held_out_batches)
        self.row_counters, self.seen_rows = RowCounters(), SeenRows([dataset.rows for dataset in self.data.datasets])
        self.parameters_learning_rate = recipe.loss.scale_learning_rate
        self.prefetch_depth = max(1, min(4, MAX_PREFETCHED_ROWS * ranks.world_size // recipe.batch_size))
        self.zero_gradient_hint = f"The loss {recipe.loss.name} {self.loss.entry.zero_gradient_hint}."
        self.not_finite_hint = "A higher temperature may help."
        self._warned_short_sources = self._short_sources()

    # ---- steps

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {f"loss.{name}": parameter for name, parameter in self.loss.named_parameters()}

    def batch_at(self, number: int) -> CollatedBatch:
        return self.data.collator.collate(self.data.sampler.batch_at(number), self.ranks.rank, self.ranks.world_size)

    def training_step(self, model: Model, batch: CollatedBatch) -> float:
        rows, tokens = batch.rows, sum(map(len, batch.ids))
        chunks = split_into_chunks(
            batch.ids,
            skipped_prompt_tokens(batch, self.base.spec.pooling),
            chunk_tokens=self.chunking.chunk_tokens_for(tokens),
            seed=(self.recipe.seed, rows.batch_number, self.ranks.rank),
        )
        return forward_backward(
            model,
            chunks,
            (len(rows.queries), len(rows.positives), len(rows.negatives)),
            partial(self.loss.compute_parts, inputs=self._loss_inputs(batch)),
            ranks=self.ranks,
            dims=self.loss.dims,
            cached=tokens > self.chunking.one_pass_tokens and len(chunks) > 1,
        )

    def _loss_inputs(self, batch: CollatedBatch) -> LossInputs:
        """What the loss needs of a batch beside the model's vectors, gathered from all ranks."""
        rows, device, gather = batch.rows, self.ranks.device, self.ranks.all_gather
        queries_Q, positives_Q, negatives_N, own_N = (
            gather(torch.from_numpy(side).to(device))
            for side in (*batch.text_hashes, batch.false_negatives_N.astype(np.int64))  # gloo gathers no bool
        )
        count = len(rows.queries)
        return LossInputs(
            first_row=self.ranks.rank * count,
            num_rows=count,
            text_hashes=(queries_Q, positives_Q, negatives_N),
            false_negatives_N=own_N.bool(),
            scores=None if rows.scores is None else gather(torch.from_numpy(rows.scores).float().to(device)),
            teacher_vectors=self.teacher(rows) if self.teacher else None,
            step=rows.batch_number // self.recipe.gradient_accumulation_steps,
        )

    def after_update(self) -> None:
        self.loss.clamp_scale()

    def record(self, batches: Sequence[CollatedBatch], *, seconds: float) -> dict[str, Any]:
        for batch in batches:
            self._warn_of_short_batch(batch)
            self.seen_rows.add(batch.rows)
        counts = self.row_counters.add_step(batches, self.ranks, batch_size=self.recipe.batch_size, seconds=seconds)
        return self.loss.log_values() | counts

    def validate(self, model: Model) -> dict[str, float]:
        return score_held_out(model, self.held_out_batches, chunk_tokens=self.chunking.chunk_tokens, ranks=self.ranks)

    # ---- messages

    def describe(self, batches: Sequence[CollatedBatch]) -> str:
        names = ", ".join(dict.fromkeys(batch.rows.source_name for batch in batches))
        return f"source {names!r} ({sum(batch.rows.total_rows for batch in batches)} rows)"

    def to_records(self, batch: CollatedBatch) -> Iterator[dict[str, Any]]:
        return self.data.to_records(batch.rows)

    def _short_sources(self) -> set[str]:
        """Sources that `open_training_data` has warned about."""
        return {
            self.data.datasets[source].name
            for source, rows in self.data.mean_batch_rows.items()
            if rows < self.recipe.batch_size
        }

    def _warn_of_short_batch(self, batch: CollatedBatch) -> None:
        """Warn once about a source whose batches are not full."""
        rows = batch.rows
        if rows.total_rows < self.recipe.batch_size and rows.source_name not in self._warned_short_sources:
            self._warned_short_sources.add(rows.source_name)
            if self.ranks.is_first:
                warn_caller(describe_short_batches(self.recipe, rows.source_name, rows.total_rows))

    # ---- checkpoints

    def facts(self) -> dict[str, Any]:
        return {
            "data": self.data.fingerprints,
            "order of rows": SAMPLING_VERSION,
            "weights": self.data.weights.tolist(),
            "prompts": [list(pair) for pair in self.data.collator.prompts],
            "guide or teacher": self.teacher.encoder.fingerprint if self.teacher else None,
            "chunk_tokens": self.chunking.chunk_tokens,
            "one_pass_tokens": self.chunking.one_pass_tokens,
        }

    def compare(self, saved: Mapping[str, Any]) -> FactChanges:
        current = self.facts()
        # sources are compared in their order: a name may be that of a file
        sources = zip(current["data"].items(), saved["data"].values(), strict=False)
        conflicts = [f"source {name!r}: its rows differ" for (name, now), before in sources if now != before]
        conflicts += _list_changes(saved, current, ("order of rows", "weights", "prompts", "guide or teacher"))
        return FactChanges(
            conflicts,
            _list_changes(saved, current, ("chunk_tokens", "one_pass_tokens")),
            dict(zip(saved["data"], current["data"], strict=False)),
        )

    def counters(self) -> dict[str, Any]:
        return asdict(self.row_counters)

    def to_tensors(self) -> dict[str, Tensor]:
        return self.seen_rows.to_tensors()

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        self.row_counters = RowCounters.from_json(counters)
        self.seen_rows.load(tensors)

    # ---- the written model

    def model_card(self, run: RunFacts) -> str:
        teacher = self.teacher.encoder if self.teacher else None
        facts = DataFacts(
            sources=self._source_facts(),
            counters=self.row_counters,
            teacher=teacher.name if teacher else None,
            teacher_fingerprint=teacher.fingerprint if teacher else "",
        )
        return render_model_card(self.recipe, run, facts)

    def _source_facts(self) -> tuple[SourceFacts, ...]:
        data, sampler = self.data, self.data.sampler
        batches = sampler.count_batches_per_source(self.total_steps * self.recipe.gradient_accumulation_steps)
        columns = zip(data.datasets, data.weights, batches, self.seen_rows.counts(), strict=True)
        return tuple(
            SourceFacts(
                dataset.name,
                dataset.rows,
                dataset.fingerprint,
                float(share),
                int(count),
                seen=seen,
                held_out=len(sampler.held_out_rows(number)) if share else 0,
                excluded=sampler.count_excluded(number) if share else 0,
            )
            for number, (dataset, share, count, seen) in enumerate(columns)
        )

    def _write_prompts(self, spec: ModelSpec) -> ModelSpec:
        """The spec with the prompts of the sources; warns where sources do not agree about them."""
        spec, messages = apply_prompts(spec, self.data.prompts)
        for message in messages if self.ranks.is_first else ():
            warn_caller(message)
        return spec


def declare_dims(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with the Matryoshka dimensions that the run trains."""
    if recipe.matryoshka and not spec.dim_modules:
        return replace(spec, matryoshka_dims=tuple(sorted({*recipe.matryoshka.dims} - {spec.full_dim})))
    return spec


def _summarize(datasets: Sequence[Dataset]) -> str:
    rows = count(sum(dataset.rows for dataset in datasets), "row")
    return f"{rows} of {list_some([dataset.name for dataset in datasets], 4)}"


def _list_changes(saved: Mapping[str, Any], current: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key}: was {saved.get(key)}, is {current[key]}" for key in keys if saved.get(key) != current[key]]
