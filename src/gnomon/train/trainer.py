"""The loop: `run` opens what a recipe names; `Run.step` is a step.

What a run leaves in its output, and when: `output`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnomon import tokenizer as tokenizers
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.checkpoint.save import save_folder
from gnomon.encoder import Encoder
from gnomon.engines.select import EngineOptions
from gnomon.errors import CheckpointError, InputError, NumericError
from gnomon.files import DISK_FULL_REASONS
from gnomon.spec import compute_fingerprint
from gnomon.train import checkpoints
from gnomon.train import output_folder as output
from gnomon.train.counters import Counters, SeenRows, count_texts
from gnomon.train.data.collate import CollatedBatch, Prefetcher
from gnomon.train.data.prepare import count_steps, describe_short_batches, open_training_data
from gnomon.train.data.sampler import SAMPLING_VERSION
from gnomon.train.distributed import Ranks, init_distributed
from gnomon.train.lock import lock_folder
from gnomon.train.logs import Log, import_board
from gnomon.train.model_card import RunFacts, SourceFacts, render_model_card
from gnomon.train.objectives import validation
from gnomon.train.optim import count_warmup_steps, learning_rate_factor_at
from gnomon.train.preflight import (
    ZERO_GRADIENT_NORM,
    check_disk_space,
    check_teacher,
    describe_nothing_learned,
    describe_zero_gradient,
    settings_outside_fingerprint,
)
from gnomon.train.process import StopRequest, handle_stop_signals, signal_exception, torch_settings
from gnomon.train.prompts import apply_prompts
from gnomon.train.recipe.checks import check
from gnomon.train.recipe.parse import parse
from gnomon.train.recipe.schema import Recipe
from gnomon.train.recipe.toml import to_table
from gnomon.train.state import TrainingState, declare_dims
from gnomon.warn import warn_caller

ROWS_AHEAD = 16_384
"""Rows of this rank whose texts and ids may wait for their step."""

Evaluate = Callable[[Encoder], float]


def run_training(
    recipe: Recipe, *, resume: bool, overwrite: bool, progress: bool | None, evaluate: Evaluate | None
) -> Path:
    """`gnomon.train.train`."""
    recipe = parse(Recipe, to_table(recipe), "")  # given in Python, nothing has checked its types
    check(recipe)
    if resume and overwrite:
        raise InputError("resume=True and overwrite=True exclude each other: a run goes on, or begins anew.")
    for board in recipe.report_to:
        import_board(board)
    with (
        init_distributed(recipe.device) as ranks,
        handle_stop_signals(ranks) as stop,
        _open_output(recipe, ranks, resume=resume, overwrite=overwrite) as number,
        torch_settings(recipe, ranks),
    ):
        return Trainer(recipe, ranks, stop, number=number, progress=progress, evaluate=evaluate).train(resume=resume)


@contextmanager
def _open_output(recipe: Recipe, ranks: Ranks, *, resume: bool, overwrite: bool) -> Generator[int]:
    """The number of the run's folder (`output.folder_of`). Rank 0 holds the output for this run and says the number."""
    root = Path(recipe.output).expanduser()
    if not ranks.is_first:
        yield int(ranks.sum_numbers(0.0)[0])
        return
    with lock_folder(root):
        with output.convert_os_errors(root):
            output.complete_swap(root)
        output.check_inputs_outside(recipe, root)
        with output.convert_os_errors(root):
            number = output.choose_run_number(recipe, root, resume=resume, overwrite=overwrite)
        ranks.sum_numbers(float(number))
        yield number


class Trainer:
    """One run, from its first step or from a checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks,
        stop_request: StopRequest,
        *,
        number: int,
        progress: bool | None,
        evaluate: Evaluate | None,
    ) -> None:
        self.recipe, self.ranks, self.stop_request, self.evaluate, self.progress = (
            recipe,
            ranks,
            stop_request,
            evaluate,
            progress,
        )
        self._check_evaluate()
        self.output_root, self.number = Path(recipe.output).expanduser(), number
        self.run_folder = output.run_folder(self.output_root, number)
        self.base = _base(recipe)
        tokenizer = tokenizers.Tokenizer(self.base.tokenizer, self.base.spec.tokenizer)
        self.base_fingerprint = compute_fingerprint(self.base.spec, self.base.arrays, tokenizer.canonical_json())
        self.data = open_training_data(recipe, self.base.spec, tokenizer, ranks, progress if ranks.is_first else False)
        self.total_steps = count_steps(recipe, self.data)
        self.warmup_steps = count_warmup_steps(recipe, self.total_steps)
        spec, notices = apply_prompts(declare_dims(self.base.spec, recipe), self.data.prompts)
        for notice in notices if ranks.is_first else ():
            warn_caller(notice)
        self.state = TrainingState(recipe, self.base, ranks, spec)
        if ranks.is_first:
            check_disk_space(recipe, self.base, self.state.trainable.values())
        if self.state.teacher:
            teacher = self.state.teacher.encoder
            check_teacher(recipe, self.base, self.base_fingerprint, teacher, self.data.collator.prompts)
        self.held_out_batches = self.data.collate_held_out()
        self.counters, self.seen_rows = Counters(), SeenRows([index.rows for index in self.data.datasets])
        self._warned_short_sources = {
            self.data.datasets[source].name
            for source, rows in self.data.mean_batch_rows.items()
            if rows < recipe.batch_size
        }
        """Sources of which it was said that their batches are short."""
        self.best: tuple[int, float] | None = None
        """Step and score."""

    def train(self, *, resume: bool) -> Path:
        start = self._resume() if resume else self._begin()
        each = self.recipe.gradient_accumulation_steps
        with (
            self._log(start) as log,
            Prefetcher(self._batch_at, start * each, self.total_steps * each, depth=self._prefetch_depth) as ahead,
            self.stop_request.delay_until_saved("this step is finished and saved"),
        ):
            for step in range(start, self.total_steps):
                facts = self.step(step, ahead)
                signal = self.stop_request.poll_all_ranks()  # all ranks stop at the same step
                self._log_validate_save(step + 1, facts, log, is_stopping=bool(signal))
                if signal:
                    raise signal_exception(signal)
        with self.stop_request.delay_until_saved("the model is written"):
            return self._finish()

    def step(self, step: int, prefetched: Iterator[CollatedBatch]) -> dict[str, Any]:
        """Fetch, forward, loss, backward, clip, step; returns what the log says."""
        began, learner, recipe = time.monotonic(), self.state, self.recipe
        batches = [next(prefetched) for _ in range(recipe.gradient_accumulation_steps)]
        self._warn_of_short_batches(batches)
        loss = sum(learner.add_gradient(batch, step) for batch in batches) / len(batches)
        norm = learner.clip_gradient(len(batches))
        loss, *counts = self.ranks.sum_numbers(loss / self.ranks.world_size, *count_texts(batches))
        self._check_finite(step, loss, norm, batches)
        factor = learning_rate_factor_at(
            step, total=self.total_steps, warmup=self.warmup_steps, scheduler=recipe.lr_scheduler_type
        )
        learner.update(factor)
        self._count_zero_gradient(step, norm, factor, batches)
        told = {
            "loss": loss,
            "learning_rate": recipe.learning_rate * factor,
            "grad_norm": norm,
        } | learner.loss.log_values()
        took = time.monotonic() - began
        for batch in batches:
            self.seen_rows.add(batch.rows)
        return told | self.counters.add_step(batches, loss, counts, batch_size=recipe.batch_size, seconds=took)

    def _warn_of_short_batches(self, batches: Sequence[CollatedBatch]) -> None:
        """At the first short batch of a source, unless it was said before the first step."""
        for rows in (batch.rows for batch in batches):
            if rows.total_rows < self.recipe.batch_size and rows.source_name not in self._warned_short_sources:
                self._warned_short_sources.add(rows.source_name)
                if self.ranks.is_first:
                    warn_caller(describe_short_batches(self.recipe, rows.source_name, rows.total_rows))

    @property
    def _prefetch_depth(self) -> int:
        """Batches that are made ahead: four small ones, or one that is large, which holds its texts in memory."""
        return max(1, min(4, ROWS_AHEAD * self.ranks.world_size // self.recipe.batch_size))

    def _batch_at(self, batch: int) -> CollatedBatch:
        return self.data.collator.collate(self.data.sampler.batch_at(batch), self.ranks.rank, self.ranks.world_size)

    def _log_validate_save(
        self, steps_done: int, log_values: dict[str, Any], log: Log | None, *, is_stopping: bool
    ) -> None:
        """Log, validate and save, as often as the recipe says; at the end, and before a stop, in any case."""
        recipe, due = self.recipe, steps_done == self.total_steps
        if self._has_validation and (due or steps_done % (recipe.validation.steps or recipe.save_steps) == 0):
            log_values["validation"] = self._validate(steps_done)
            due = True  # the best one must be there at the end
        if log and (due or steps_done == 1 or steps_done % recipe.logging_steps == 0):
            log.record(steps_done, log_values)
        elif log:
            log.advance(steps_done)
        if due or is_stopping or steps_done % recipe.save_steps == 0:
            self._save(steps_done)

    # ---- validation

    @property
    def _has_validation(self) -> bool:
        return self.evaluate is not None or bool(self.held_out_batches)

    def _validate(self, step: int) -> dict[str, float]:
        """The scores of the model as it would be written now."""
        learner = self.state
        if self.evaluate is not None:
            own = float(self.evaluate(self._encoder())) if self.ranks.is_first else 0.0
            scores = {"evaluate": self.ranks.sum_numbers(own)[0]}
        else:
            with learner.swap_weights():
                scores = validation.score_held_out(
                    learner.model, self.held_out_batches, chunk_tokens=learner.chunking.chunk_tokens, ranks=self.ranks
                )
        self.counters.scores[str(step)] = scores
        mean = sum(scores.values()) / len(scores)
        if step and not math.isnan(mean) and (self.best is None or mean >= self.best[1]):
            self.best = (step, mean)  # of equals the last, which has learned from more rows
        return scores

    def _check_evaluate(self) -> None:
        """
        Raises:
            InputError: some ranks have a function and others have none; they would wait for each other.
        """
        having = self.ranks.sum_numbers(float(self.evaluate is not None))[0]
        if having not in (0, self.ranks.world_size):
            raise InputError(
                f"evaluate is given on {having:.0f} of {self.ranks.world_size} ranks; give it on every one."
            )

    def _encoder(self) -> Encoder:
        """The model as it is now, as anyone else would use it."""
        device, threads = str(self.ranks.device), self.recipe.threads
        options = EngineOptions.from_arguments(device=device, engine="auto", dtype="float32", threads=threads)
        return Encoder(self.state.to_checkpoint(), options)

    # ---- checkpoints

    @property
    def _checkpoints_folder(self) -> Path:
        return self.run_folder / output.CHECKPOINTS

    def _save(self, step: int) -> None:
        if self.ranks.is_first:
            keep_best = self.best[0] if self.best and self.recipe.validation.keep_best else None
            seen = {name: torch.from_numpy(bits) for name, bits in self.seen_rows.to_bits().items()}
            state = checkpoints.SavedState(step, self.state.to_tensors() | seen, self._checkpoint_facts())
            checkpoints.save(self._checkpoints_folder, state, keep=self.recipe.save_total_limit, best_step=keep_best)
        self.ranks.barrier()

    def _checkpoint_facts(self) -> dict[str, Any]:
        guide = self.state.teacher
        return {
            "recipe": asdict(self.recipe),
            "model": self.base_fingerprint,
            "base": settings_outside_fingerprint(self.base),
            "data": self.data.fingerprints,
            "order of rows": SAMPLING_VERSION,
            "weights": self.data.weights.tolist(),
            "prompts": [list(pair) for pair in self.data.collator.prompts],
            "guide or teacher": guide.encoder.fingerprint if guide else None,
            "ranks": self.ranks.world_size,
            "chunk_tokens": self.state.chunking.chunk_tokens,
            "one_pass_tokens": self.state.chunking.one_pass_tokens,
            "best": self.best,
            "tally": asdict(self.counters),
        }

    def _resume(self) -> int:
        """Everything as it was behind the last checkpoint; its step.

        Raises:
            InputError: it is of another recipe, model or data.
        """
        path = checkpoints.latest(self._checkpoints_folder)
        assert path is not None
        state = checkpoints.load(path)
        then, now = state.facts, self._checkpoint_facts()
        differs = checkpoints.compare_recipes(then["recipe"], now["recipe"])
        if then["model"] != now["model"]:
            differs.append(f"model: its weights or tokenizer were {then['model'][:12]}, are {now['model'][:12]}")
        # in one order; names may be those of files
        rows = zip(now["data"].items(), then["data"].values(), strict=False)
        differs += [f"source {name!r}: its rows differ" for (name, own), before in rows if own != before]
        same = ("order of rows", "weights", "prompts", "guide or teacher")
        told = ((what, then.get(what), now[what]) for what in same)
        base = then.get("base", now["base"])  # checkpoints have not always had it
        told = (*told, *((f"the model's {what}", base.get(what), now["base"][what]) for what in now["base"]))
        differs += [f"{what}: was {was}, is {is_now}" for what, was, is_now in told if was != is_now]
        if differs:
            raise InputError(
                f"{path} is of another run: {'; '.join(differs)}. Resume with what it was, or begin anew, in another "
                "output or with overwrite=True."
            )
        rounding = checkpoints.compare_rounding(then["recipe"], now["recipe"])
        changed = [what for what in ("ranks", "chunk_tokens", "one_pass_tokens") if then.get(what) != now[what]]
        rounding += [f"{what}: was {then.get(what)}, is {now[what]}" for what in changed]
        if rounding:
            with_dropout = " and, where there is dropout, other random numbers" if changed else ""
            warn_caller(
                f"the run goes on, with other last digits{with_dropout} than it would have had: {'; '.join(rounding)}."
            )
        self.state.load_tensors(state.tensors)
        if self.ranks.is_first:
            output.write_recipe(self.recipe, self.run_folder)
        self.counters = Counters(**then["tally"])
        self.counters.rename_sources(dict(zip(then["data"], now["data"], strict=False)))
        self.seen_rows.load(
            {name: tensor.numpy() for name, tensor in state.tensors.items() if name.startswith("seen.")}
        )
        self.best = tuple(then["best"]) if then["best"] else None
        gone = self.best and self.best[0] not in checkpoints.checkpoints_by_step(self._checkpoints_folder)
        if self.best and gone and self.recipe.validation.keep_best:
            warn_caller(f"the best checkpoint, of step {self.best[0]}, is gone; the best of those to come is kept.")
            self.best = None
        return state.step

    # ---- the ends

    def _begin(self) -> int:
        if self.ranks.is_first:
            output.begin(self.recipe, self.output_root, self.number)
        if self._has_validation:
            self._validate(0)
        return 0

    def _finish(self) -> Path:
        """The best model, or the last, as a folder."""
        if self.counters.idle >= self.total_steps:
            raise NumericError(describe_nothing_learned(self.recipe, self.total_steps, self.run_folder / output.LOG))
        chosen = self.total_steps
        if self.best and self.recipe.validation.keep_best and self.best[0] != self.total_steps:
            chosen = self.best[0]
            self.state.load_tensors(
                checkpoints.load(checkpoints.checkpoints_by_step(self._checkpoints_folder)[chosen]).tensors
            )
        if self.ranks.is_first:
            card = render_model_card(self.recipe, self._card_facts(chosen))
            model = self.state.to_checkpoint(readme=card.encode())
            if all(np.array_equal(array, self.base.arrays[name]) for name, array in model.arrays.items()):
                warn_caller(
                    "the model that is written has the weights of the one that it started from: nothing was learned. A "
                    "higher learning_rate or more steps may help."
                )
            try:
                output.finish(self.output_root, self.number, lambda folder: save_folder(model, folder))
            except CheckpointError:
                raise
            except OSError as error:
                raise CheckpointError(
                    f"the model was not written: {DISK_FULL_REASONS.get(error.errno or 0, str(error))}. Make room in {self.output_root}, "
                    f"then use resume=True: the last checkpoint is {output.latest_checkpoint(self.output_root)}."
                ) from error
        self.ranks.barrier()
        return self.output_root / output.MODEL

    def _log(self, start: int) -> Any:
        if not self.ranks.is_first:
            return nullcontext()
        log = Log(
            self.run_folder,
            boards_folder=self.output_root,
            total=self.total_steps,
            report_to=self.recipe.report_to,
            progress=self.progress,
            settings=asdict(self.recipe),
        )
        log.rewind(start)
        return log

    def _check_finite(self, step: int, loss: float, norm: float, batches: Sequence[CollatedBatch]) -> None:
        """
        Raises:
            NumericError: the loss or its gradient is NaN or infinite; this rank's rows are saved.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return
        path = self.run_folder / output.STOPPED / f"step-{step + 1:08}-rank-{self.ranks.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for batch in batches for row in self.data.to_records(batch.rows)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        names = ", ".join(dict.fromkeys(batch.rows.source_name for batch in batches))
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        there = checkpoints.latest(self._checkpoints_folder)
        last = f"The last checkpoint is {there}" if there else "There is no checkpoint yet"
        raise NumericError(
            f"step {step + 1}, source {names!r}: {what}. Its rows are in {path}. {last}. A lower learning_rate, a "
            "higher temperature or a smaller max_grad_norm may help; so may bf16=False."
        )

    def _count_zero_gradient(self, step: int, norm: float, factor: float, batches: Sequence[CollatedBatch]) -> None:
        """Count steps that can teach nothing; a notice of the first without a gradient."""
        without = norm < ZERO_GRADIENT_NORM
        if without and not self.counters.without_gradient and self.ranks.is_first:
            names = ", ".join(dict.fromkeys(batch.rows.source_name for batch in batches))
            warn_caller(
                describe_zero_gradient(self.recipe, step, names, sum(batch.rows.total_rows for batch in batches))
            )
        self.counters.without_gradient += without
        self.counters.idle += without or not factor

    def _card_facts(self, chosen: int) -> RunFacts:
        tally, base, guide = self.counters, self.base, self.state.teacher
        sampler = self.data.sampler
        drawn = sampler.count_batches_per_source(self.total_steps * self.recipe.gradient_accumulation_steps)
        sources = zip(self.data.datasets, self.data.weights, drawn, self.seen_rows.counts(), strict=True)
        return RunFacts(
            spec=self.state.spec,
            base=base.source.name or base.source.folder.name,
            base_fingerprint=self.base_fingerprint,
            sources=tuple(
                SourceFacts(
                    index.name,
                    index.rows,
                    index.fingerprint,
                    float(asked),
                    int(batches),
                    seen=seen,
                    held_out=len(sampler.held_out_rows(place)) if asked else 0,
                    excluded=sampler.count_excluded(place) if asked else 0,
                )
                for place, (index, asked, batches, seen) in enumerate(sources)
            ),
            step=chosen,
            total_steps=self.total_steps,
            rows=tally.rows,
            tokens=tally.tokens,
            texts=tally.texts,
            truncated=tally.truncated,
            replaced=tally.replaced,
            missing=tally.missing,
            own_negatives=tally.own_negatives,
            short=tally.short,
            without_gradient=tally.without_gradient,
            seconds=tally.seconds,
            device=_device_name(self.ranks.device),
            world_size=self.ranks.world_size,
            first_loss=tally.first_loss,
            last_loss=tally.last_loss,
            before=tally.scores.get("0", {}),
            after=tally.scores.get(str(chosen), {}),
            score_name="score of the function that was given" if self.evaluate else None,
            versions={name: version(name) for name in ("gnomon", "torch", "tokenizers")},
            license=base.license,
            teacher=guide.encoder.name if guide else None,
            teacher_fingerprint=guide.encoder.fingerprint if guide else "",
        )


def _base(recipe: Recipe) -> Checkpoint:
    source = resolve_source(recipe.model, revision=recipe.revision)
    checkpoint = read_folder(source, card=recipe.card, max_seq_length=recipe.max_seq_length)
    for notice in checkpoint.warnings:
        warn_caller(notice)
    return checkpoint


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
