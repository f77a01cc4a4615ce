"""The trainer: `run_training` opens what a recipe names, and `Trainer.step` takes one step.

The trainer knows an objective only (`objectives/objective.py`). What a run writes to its output folder, and when, is in
`output_folder`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
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
from gnomon.files import describe_os_error
from gnomon.folder_lock import lock_folder
from gnomon.spec import FINGERPRINT_DIGITS, compute_fingerprint
from gnomon.train import checkpoints
from gnomon.train import output_folder as output
from gnomon.train.counters import Counters
from gnomon.train.display import (
    Display,
    describe_end,
    describe_inputs,
    describe_start,
    describe_validation,
    open_display,
)
from gnomon.train.distributed import Ranks, init_distributed
from gnomon.train.logs import Log, import_board
from gnomon.train.objectives.objective import OpenObjective, RunFacts, TrainingContext
from gnomon.train.optim import count_warmup_steps, learning_rate_factor_at
from gnomon.train.prefetch import Prefetcher
from gnomon.train.preflight import (
    ZERO_GRADIENT_NORM,
    check_disk_space,
    describe_nothing_learned,
    describe_zero_gradient,
    settings_outside_fingerprint,
)
from gnomon.train.process import StopRequest, handle_stop_signals, signal_exception, torch_settings
from gnomon.train.recipe.checks import check
from gnomon.train.recipe.parse import parse
from gnomon.train.recipe.schema import Recipe
from gnomon.train.recipe.toml import to_table
from gnomon.train.state import TrainingState
from gnomon.warn import warn_caller

Evaluate = Callable[[Encoder], float]


def run_training(
    recipe: Recipe,
    open_objective: OpenObjective,
    *,
    resume: bool,
    overwrite: bool,
    progress: bool | None,
    evaluate: Evaluate | None,
) -> Path:
    """Train a model for an objective; the other arguments and the errors are those of `gnomon.train.train`."""
    recipe = parse(Recipe, to_table(recipe), "")  # given in Python, nothing has checked its types
    check(recipe)
    if resume and overwrite:
        raise InputError("resume=True and overwrite=True exclude each other: a run continues, or starts anew.")
    for board in recipe.report_to:
        import_board(board)
    with (
        init_distributed(recipe.device) as ranks,
        handle_stop_signals(ranks) as stop,
        _open_output(recipe, ranks, resume=resume, overwrite=overwrite) as number,
        torch_settings(recipe, ranks),
        closing(open_display(progress if ranks.is_first else False)) as display,
    ):
        display.say(describe_inputs(recipe))
        options: dict[str, Any] = {"number": number, "display": display, "progress": progress, "evaluate": evaluate}
        return Trainer(recipe, ranks, stop, open_objective, **options).train(resume=resume)


@contextmanager
def _open_output(recipe: Recipe, ranks: Ranks, *, resume: bool, overwrite: bool) -> Generator[int]:
    """The number of the run's folder (`output_folder.run_folder`). Rank 0 locks the output and chooses the number."""
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
        open_objective: OpenObjective,
        *,
        number: int,
        display: Display,
        progress: bool | None,
        evaluate: Evaluate | None,
    ) -> None:
        self.recipe, self.ranks, self.stop_request = recipe, ranks, stop_request
        self.evaluate, self.display = evaluate, display
        self._check_evaluate()
        self.output_root = Path(recipe.output).expanduser()
        self.number = number
        self.run_folder = output.run_folder(self.output_root, number)
        self.base = _read_base(recipe)
        tokenizer = tokenizers.Tokenizer(self.base.tokenizer, self.base.spec.tokenizer)
        self.base_fingerprint = compute_fingerprint(self.base.spec, self.base.arrays, tokenizer.canonical_json())
        self.objective = open_objective(
            TrainingContext(recipe, self.base, self.base_fingerprint, tokenizer, ranks, progress)
        )
        self.total_steps = self.objective.total_steps
        self.warmup_steps = count_warmup_steps(recipe, self.total_steps)
        self.state = TrainingState(
            recipe,
            self.base,
            ranks,
            spec=self.objective.spec,
            parameters=self.objective.parameters(),
            parameters_learning_rate=self.objective.parameters_learning_rate,
        )
        if ranks.is_first:
            check_disk_space(recipe, self.base, self.state.trainable.values())
        self.counters = Counters()
        self.best: tuple[int, float] | None = None
        """Step and score of the best checkpoint so far."""

    def train(self, *, resume: bool) -> Path:
        start = self._resume() if resume else self._begin()
        per_step, objective = self.recipe.gradient_accumulation_steps, self.objective
        first, last = start * per_step, self.total_steps * per_step
        with self._log(start) as log:
            self.display.say(describe_start(self.recipe, self._run_facts(start), objective.data_summary))
            if not start and self._has_validation:
                scores = self._validate(0)
                if log:
                    log.record(0, {"validation": scores})
            self.display.start(start, self.total_steps)
            with (
                Prefetcher(objective.batch_at, first, last, depth=objective.prefetch_depth) as prefetched,
                self.stop_request.delay_until_saved("this step is finished and saved"),
            ):
                for step in range(start, self.total_steps):
                    log_values = self.step(step, prefetched)
                    signal = self.stop_request.poll_all_ranks()  # all ranks stop at the same step
                    self._log_validate_save(step + 1, log_values, log, is_stopping=bool(signal))
                    if signal:
                        raise signal_exception(signal)
        with self.stop_request.delay_until_saved("the model is written"):
            return self._finish()

    def step(self, step: int, prefetched: Iterator[Any]) -> dict[str, Any]:
        """Take one step: fetch, forward, loss, backward, clip, update. Returns what the log says about it."""
        began, state, objective, recipe = time.monotonic(), self.state, self.objective, self.recipe
        batches = [next(prefetched) for _ in range(recipe.gradient_accumulation_steps)]
        loss = sum(objective.training_step(state.model, batch) for batch in batches) / len(batches)
        norm = state.clip_gradient(len(batches))
        (loss,) = self.ranks.sum_numbers(loss / self.ranks.world_size)
        self._check_finite(step, loss, norm, batches)
        factor = learning_rate_factor_at(
            step, total=self.total_steps, warmup=self.warmup_steps, scheduler=recipe.lr_scheduler_type
        )
        state.update(factor)
        objective.after_update()
        self._count_zero_gradient(step, norm, factor, batches)
        seconds = time.monotonic() - began
        self.counters.add_step(loss, seconds)
        log_values = {"loss": loss, "learning_rate": recipe.learning_rate * factor, "grad_norm": norm}
        return log_values | objective.record(batches, seconds=seconds)

    def _log_validate_save(
        self, steps_done: int, log_values: dict[str, Any], log: Log | None, *, is_stopping: bool
    ) -> None:
        """Log, validate and save, as often as the recipe says, and always at the end and before a stop."""
        recipe, due = self.recipe, steps_done == self.total_steps
        self.display.advance(steps_done, log_values)
        if self._has_validation and (due or steps_done % (recipe.validation.steps or recipe.save_steps) == 0):
            log_values["validation"] = self._validate(steps_done)
            due = True  # the best checkpoint must exist at the end
        if log and (due or steps_done == 1 or steps_done % recipe.logging_steps == 0):
            log.record(steps_done, log_values)
            self.display.record(log_values)
        if due or is_stopping or steps_done % recipe.save_steps == 0:
            self._save(steps_done)

    def _log(self, start: int) -> AbstractContextManager[Log | None]:
        if not self.ranks.is_first:
            return nullcontext()
        log = Log(
            self.run_folder,
            boards_folder=self.output_root,
            report_to=self.recipe.report_to,
            settings=asdict(self.recipe),
        )
        log.rewind(start)
        return log

    # ---- steps that go wrong

    def _check_finite(self, step: int, loss: float, norm: float, batches: Sequence[Any]) -> None:
        """
        Raises:
            NumericError: the loss or its gradient is NaN or infinite; this rank's rows are saved.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return
        try:
            rows = f"Its rows are in {self._save_rows(step, batches)}."
        except OSError as error:
            rows = f"Its rows could not be saved ({describe_os_error(error)})."
        value = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        checkpoint = checkpoints.latest(self._checkpoints_folder)
        latest = f"The last checkpoint is {checkpoint}." if checkpoint else "The run has no checkpoint yet."
        raise NumericError(
            f"step {step + 1}, {self.objective.describe(batches)}: {value}. {rows} {latest} A lower "
            f"learning_rate, a smaller max_grad_norm or bf16=False may help. {self.objective.not_finite_hint}"
        )

    def _save_rows(self, step: int, batches: Sequence[Any]) -> Path:
        """Write this rank's rows of a step to the folder of rows that stopped a run."""
        path = self.run_folder / output.STOPPED / f"step-{step + 1:08}-rank-{self.ranks.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (row for batch in batches for row in self.objective.to_records(batch))
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def _count_zero_gradient(self, step: int, norm: float, factor: float, batches: Sequence[Any]) -> None:
        """Count steps that cannot change the model, and warn about the first one without a gradient."""
        has_no_gradient = norm < ZERO_GRADIENT_NORM
        if has_no_gradient and not self.counters.without_gradient and self.ranks.is_first:
            warn_caller(
                describe_zero_gradient(step, self.objective.describe(batches), self.objective.zero_gradient_hint)
            )
        self.counters.without_gradient += has_no_gradient
        self.counters.idle += has_no_gradient or not factor

    # ---- validation

    @property
    def _has_validation(self) -> bool:
        return self.evaluate is not None or self.objective.has_validation

    def _validate(self, step: int) -> dict[str, float]:
        """The scores of the model as it would be written now."""
        if self.evaluate is not None:
            own = float(self.evaluate(self._encoder())) if self.ranks.is_first else 0.0
            scores = {"evaluate": self.ranks.sum_numbers(own)[0]}
        else:
            with self.state.swap_weights():
                scores = self.objective.validate(self.state.model)
        self.counters.scores[str(step)] = scores
        mean = sum(scores.values()) / len(scores)
        # of equal scores the last one is the best: it was trained on more rows
        if step and not math.isnan(mean) and (self.best is None or mean >= self.best[1]):
            self.best = (step, mean)
        self.display.say(describe_validation(step, scores))
        return scores

    def _check_evaluate(self) -> None:
        """
        Raises:
            InputError: some ranks have a function and others do not; they would wait for each other.
        """
        count = self.ranks.sum_numbers(float(self.evaluate is not None))[0]
        if count not in (0, self.ranks.world_size):
            raise InputError(
                f"evaluate is given on {count:.0f} of {self.ranks.world_size} ranks; give it on every one."
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
            best_step = self.best[0] if self.best and self.recipe.validation.keep_best else None
            tensors = self.state.to_tensors() | self.objective.to_tensors()
            state = checkpoints.SavedState(step, tensors, self._checkpoint_facts())
            checkpoints.save(self._checkpoints_folder, state, keep=self.recipe.save_total_limit, best_step=best_step)
        self.ranks.barrier()

    def _checkpoint_facts(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "model": self.base_fingerprint,
            "base": settings_outside_fingerprint(self.base),
            **self.objective.facts(),
            "ranks": self.ranks.world_size,
            "best": self.best,
            "tally": self.objective.counters() | asdict(self.counters),
        }

    def _resume(self) -> int:
        """Restore the run as it was after its last checkpoint; returns the step of that.

        Raises:
            InputError: the checkpoint is of another recipe, model or data.
        """
        path = checkpoints.latest(self._checkpoints_folder)
        assert path is not None
        state = checkpoints.load(path)
        renamed_scores = self._compare(path, state.facts)
        self.state.load_tensors(state.tensors)
        self.objective.load(state.tensors, state.facts["tally"])
        self.counters = Counters.from_json(state.facts["tally"])
        self.counters.rename_scores(renamed_scores)
        self.best = tuple(state.facts["best"]) if state.facts["best"] else None
        self._forget_removed_best()
        if self.ranks.is_first:
            output.write_recipe(self.recipe, self.run_folder)
        return state.step

    def _compare(self, path: Path, saved: Mapping[str, Any]) -> Mapping[str, str]:
        """Compare the facts of a checkpoint with those of this run, and warn of differences in rounding.

        Returns:
            The scores that have another name now.

        Raises:
            InputError: the checkpoint is of another recipe, model or data.
        """
        current = self._checkpoint_facts()
        changes = self.objective.compare(saved)
        conflicts = checkpoints.compare_recipes(saved["recipe"], current["recipe"])
        if saved["model"] != current["model"]:
            before, now = (facts["model"][:FINGERPRINT_DIGITS] for facts in (saved, current))
            conflicts.append(f"model: its weights or tokenizer were {before}, are {now}")
        base, saved_base = current["base"], saved.get("base", current["base"])  # old checkpoints do not have it
        conflicts += changes.conflicts
        conflicts += [
            f"the model's {key}: was {saved_base.get(key)}, is {value}"
            for key, value in base.items()
            if saved_base.get(key) != value
        ]
        if conflicts:
            raise InputError(
                f"{path} is of another run: {'; '.join(conflicts)}. Resume with what it was, or start anew, in another "
                "output or with overwrite=True."
            )
        moved = [f"ranks: was {saved.get('ranks')}, is {current['ranks']}"] * (saved.get("ranks") != current["ranks"])
        moved += changes.rounding
        rounding = [*checkpoints.compare_rounding(saved["recipe"], current["recipe"]), *moved]
        if rounding:
            dropout = " Where there is dropout, its random numbers differ, too." if moved else ""
            warn_caller(
                f"the run goes on, and its last digits will differ from those of a run without a stop: "
                f"{'; '.join(rounding)}.{dropout}"
            )
        return changes.renamed_scores

    def _forget_removed_best(self) -> None:
        """Warn where the best checkpoint was removed, and look for another one."""
        if self.best is None or not self.recipe.validation.keep_best:
            return
        if self.best[0] not in checkpoints.checkpoints_by_step(self._checkpoints_folder):
            warn_caller(
                f"the best checkpoint, of step {self.best[0]}, is gone. The run keeps the best of the next ones."
            )
            self.best = None

    # ---- the start and the end

    def _begin(self) -> int:
        if self.ranks.is_first:
            output.begin(self.recipe, self.output_root, self.number)
        return 0

    def _finish(self) -> Path:
        """Write the best model, or the last one."""
        if self.counters.idle >= self.total_steps:
            log = self.run_folder / output.LOG
            raise NumericError(describe_nothing_learned(self.total_steps, log, self.objective.zero_gradient_hint))
        step = self._load_best()
        if self.ranks.is_first:
            card = self.objective.model_card(self._run_facts(step))
            model = self.state.to_checkpoint(readme=card.encode())
            self._warn_of_unchanged_weights(model)
            self._write_model(model)
            self.display.say(describe_end(self._run_facts(step), self.output_root / output.MODEL))
        self.ranks.barrier()
        return self.output_root / output.MODEL

    def _load_best(self) -> int:
        """Load the weights that are to be written; returns their step."""
        if not (self.best and self.recipe.validation.keep_best and self.best[0] != self.total_steps):
            return self.total_steps
        step = self.best[0]
        path = checkpoints.checkpoints_by_step(self._checkpoints_folder)[step]
        self.state.load_tensors(checkpoints.load(path).tensors)
        return step

    def _warn_of_unchanged_weights(self, model: Checkpoint) -> None:
        if all(np.array_equal(array, self.base.arrays[name]) for name, array in model.arrays.items()):
            warn_caller(
                "the written model has the weights of the one that training started from: nothing was learned. A "
                "higher learning_rate or more steps may help."
            )

    def _write_model(self, model: Checkpoint) -> None:
        try:
            output.finish(self.output_root, self.number, lambda folder: save_folder(model, folder))
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(
                f"the model was not written: {describe_os_error(error)}. Make room in {self.output_root}, then use "
                f"resume=True: the last checkpoint is {output.latest_checkpoint(self.output_root)}."
            ) from error

    def _run_facts(self, step: int) -> RunFacts:
        return RunFacts(
            spec=self.state.spec,
            base=self.base.source.title,
            base_fingerprint=self.base_fingerprint,
            step=step,
            total_steps=self.total_steps,
            counters=self.counters,
            device=_device_name(self.ranks.device),
            world_size=self.ranks.world_size,
            score_name="score of the function that was given" if self.evaluate else None,
            versions={name: version(name) for name in ("gnomon", "torch", "tokenizers")},
            license=self.base.license,
        )


def _read_base(recipe: Recipe) -> Checkpoint:
    source = resolve_source(recipe.model, revision=recipe.revision)
    checkpoint = read_folder(source, card=recipe.card, max_seq_length=recipe.max_seq_length)
    for message in checkpoint.warnings:
        warn_caller(message)
    return checkpoint


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
