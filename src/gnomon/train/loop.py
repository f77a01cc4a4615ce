"""The loop: `run` opens what a recipe names; `Run.step` is a step.

OUTPUT holds recipe.toml, log.jsonl, checkpoints/, model/, and stopped/, the rows of a loss that was not finite.
"""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import deterministic

from gnomon import tokenizer as tokenizers
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve
from gnomon.checkpoint.save import save_folder
from gnomon.encoder import Encoder
from gnomon.engines.choose import Options
from gnomon.errors import InputError, NumericError
from gnomon.notices import warn_caller
from gnomon.spec import ModelSpec, StaticSpec, fingerprint
from gnomon.train import checkpoints, optim, validation
from gnomon.train.card import Facts, SourceFacts, model_card
from gnomon.train.collate import Ahead, Collated
from gnomon.train.gradcache import chunks_of, gradient, prompt_tokens_of
from gnomon.train.guide import Guide
from gnomon.train.logs import Log
from gnomon.train.model import Model
from gnomon.train.prepare import open_data, steps_of
from gnomon.train.ranks import Ranks, joined
from gnomon.train.recipe import to_toml
from gnomon.train.settings import Recipe
from gnomon.train.stages import Batch, Loss

Evaluate = Callable[[Encoder], float]

CHUNK_TOKENS = {"cpu": 16_384, "cuda": 65_536, "mps": 16_384}
"""Tokens of a chunk, where a recipe leaves it open."""


def run(recipe: Recipe, *, resume: bool, overwrite: bool, progress: bool | None, evaluate: Evaluate | None) -> Path:
    """`gnomon.train.train`."""
    with joined(recipe.device) as ranks, _torch_as(recipe, ranks):
        return Run(recipe, ranks, progress=progress, evaluate=evaluate).go(resume=resume, overwrite=overwrite)


@dataclass
class Tally:
    """What was seen since the run began."""

    rows: int = 0
    texts: int = 0
    tokens: int = 0
    skipped: int = 0
    truncated: int = 0
    short: int = 0
    """Batches that were not full."""
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Step -> source -> score."""


class Run:
    """One run, from its first step or from a checkpoint."""

    def __init__(self, recipe: Recipe, ranks: Ranks, *, progress: bool | None, evaluate: Evaluate | None) -> None:
        self.recipe, self.ranks, self.evaluate, self.progress = recipe, ranks, evaluate, progress
        self.output = Path(recipe.output)
        self.base = _base(recipe)
        spec = self.base.spec
        tokenizer = tokenizers.Tokenizer(self.base.tokenizer, spec.tokenizer)
        self.fingerprint = fingerprint(spec, self.base.arrays, tokenizer.canonical())
        self.data = open_data(recipe, spec, tokenizer, ranks, progress if ranks.first else False)
        self.total = steps_of(recipe, self.data.indexes)
        self.warmup = optim.warmup_of(recipe, self.total)
        self.model = Model(
            self.base,
            device=ranks.device,
            dropout=recipe.dropout,
            attention_dropout=recipe.attention_dropout,
            bf16=recipe.bf16,
            gradient_checkpointing=recipe.gradient_checkpointing,
            lora=recipe.lora,
        )
        _freeze(self.model, recipe.freeze)
        self.loss = Loss(recipe.loss, recipe.matryoshka, spec, seed=recipe.seed).to(ranks.device)
        self.guide = Guide(recipe, ranks) if recipe.loss.guide else None
        self.names = _learnt(self.model, self.loss)
        self.optimizer = self._optimizer()
        self.ema = optim.Ema(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.chunk_tokens = recipe.chunk_tokens or CHUNK_TOKENS[ranks.device.type]
        self.held_out = self.data.held_out()
        self.tally = Tally()
        self.best: tuple[int, float] | None = None

    def go(self, *, resume: bool, overwrite: bool) -> Path:
        start = self._begin(resume=resume, overwrite=overwrite)
        each = self.recipe.gradient_accumulation_steps
        with (
            self._log(start) as log,
            Ahead(self._batch_at, start * each, self.total * each) as ahead,
            _stopping() as stopping,
        ):
            self.model.train()
            for step in range(start, self.total):
                began = time.monotonic()
                facts = self.step(step, ahead)
                took = time.monotonic() - began
                self.tally.seconds += took
                facts["tokens_per_second"] = facts["tokens"] / took
                stop = bool(self.ranks.total(float(stopping.is_set()))[0])
                self._after(step + 1, facts, log, stop=stop)
                if stop:
                    raise KeyboardInterrupt
        return self._finish()

    def step(self, step: int, ahead: Iterator[Collated]) -> dict[str, Any]:
        """Fetch, forward, loss, backward, clip, step."""
        recipe = self.recipe
        batches = [next(ahead) for _ in range(recipe.gradient_accumulation_steps)]
        loss = sum(self._add_gradient(batch, step) for batch in batches) / len(batches)
        learnt = [*self.names.values()]
        gradients = [parameter.grad for parameter in learnt if parameter.grad is not None]
        self.ranks.add_up(gradients)
        for each in gradients:
            each /= self.ranks.world * len(batches)
        norm = nn.utils.clip_grad_norm_(learnt, recipe.max_grad_norm or math.inf)
        loss, *counts = self.ranks.total(loss, *_counted(batches))
        self._check_finite(step, loss, float(norm), batches)
        rate = optim.learning_rate_at(step, total=self.total, warmup=self.warmup, scheduler=recipe.lr_scheduler_type)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.clamp()
        if self.ema:
            self.ema.update()
        loss /= self.ranks.world
        told = {"loss": loss, "learning_rate": recipe.learning_rate * rate, "grad_norm": float(norm)}
        return told | self._count(batches, loss, counts)

    def _add_gradient(self, collated: Collated, step: int) -> float:
        """The gradient of one batch, added to the parameters; its loss."""
        rows = collated.rows
        chunks = chunks_of(
            collated.ids,
            prompt_tokens_of(collated, self.base.spec.pooling),
            chunk_tokens=self.chunk_tokens,
            seed=(self.recipe.seed, rows.batch, self.ranks.rank),
        )
        return gradient(
            self.model,
            chunks,
            (len(rows.queries), len(rows.positives), len(rows.negatives)),
            partial(self.loss.parts, batch=self._told(collated, step)),
            ranks=self.ranks,
            dims=self.loss.dims,
        )

    def _told(self, collated: Collated, step: int) -> Batch:
        """What the loss is told of a batch."""
        rows, device, gathered = collated.rows, self.ranks.device, self.ranks.gathered
        hashes = (rows.query_hashes_B, rows.positive_hashes_B, rows.negative_hashes_N)
        queries_Q, positives_Q, negatives_N = (gathered(torch.from_numpy(side).to(device)) for side in hashes)
        count = len(rows.queries)
        return Batch(
            start=self.ranks.rank * count,
            rows=count,
            hashes=(queries_Q, positives_Q, negatives_N),
            scores=None if rows.scores is None else gathered(torch.from_numpy(rows.scores).float().to(device)),
            guide=self.guide(rows) if self.guide else None,
            step=step,
        )

    def _batch_at(self, batch: int) -> Collated:
        return self.data.collator.collate(self.data.sampler.batch_at(batch), self.ranks.rank, self.ranks.world)

    # ---- behind a step

    def _after(self, done: int, facts: dict[str, Any], log: Log | None, *, stop: bool) -> None:
        """Log, validate and save, as often as the recipe says; at the end, and before a stop, in any case."""
        recipe, last = self.recipe, done == self.total
        often = recipe.validation.steps or recipe.save_steps
        if self._validates and (last or done % often == 0):
            facts |= {f"validation/{name}": value for name, value in self._validate(done).items()}
            last = True
        if log and (last or done == 1 or done % recipe.logging_steps == 0):
            log.record(done, facts)
        if last or stop or done % recipe.save_steps == 0:
            self._save(done)

    @property
    def _validates(self) -> bool:
        return self.evaluate is not None or bool(self.held_out)

    def _validate(self, step: int) -> dict[str, float]:
        """The scores of the model as it would be written now."""
        with self.ema.swap() if self.ema else nullcontext():
            if self.evaluate is None:
                scores = validation.score(self.model, self.held_out, chunk_tokens=self.chunk_tokens, ranks=self.ranks)
            else:
                own = self.evaluate(self._encoder()) if self.ranks.first else 0.0
                scores = {"evaluate": self.ranks.total(own)[0]}
        self.tally.scores[str(step)] = scores
        mean = sum(scores.values()) / len(scores)
        if step and (self.best is None or mean > self.best[1]):
            self.best = (step, mean)
        return scores

    def _save(self, step: int) -> None:
        if self.ranks.first:
            keep_best = self.best[0] if self.best and self.recipe.validation.keep_best else None
            state = checkpoints.State(step, self._tensors(), self._facts())
            checkpoints.save(self._checkpoints, state, keep=self.recipe.save_total_limit, keep_best=keep_best)
        self.ranks.wait()

    def _tensors(self) -> dict[str, Tensor]:
        learnt = {name: parameter.detach() for name, parameter in self.names.items()}
        average = self.ema.tensors() if self.ema else {}
        return learnt | checkpoints.optimizer_tensors(self.optimizer, self.names) | average

    def _facts(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "model": self.fingerprint,
            "data": self.data.fingerprints,
            "ranks": self.ranks.world,
            "best": self.best,
            "tally": asdict(self.tally),
        }

    # ---- the ends

    def _begin(self, *, resume: bool, overwrite: bool) -> int:
        """The first step: 0, or the one behind the last checkpoint."""
        there = checkpoints.latest(self._checkpoints)
        if resume:
            if there is None:
                raise InputError(f"{self._checkpoints} holds no checkpoint to go on from; leave resume=True out.")
            return self._restore(there)
        if not overwrite and (there or (self.output / "model").exists()):
            raise InputError(
                f"{self.output} holds a run already; resume=True goes on with it, overwrite=True begins anew, or give "
                "another output."
            )
        self.ranks.wait()  # all have looked
        if self.ranks.first:
            checkpoints.clear(self._checkpoints)
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / "recipe.toml").write_text(to_toml(self.recipe), encoding="utf-8")
        if self._validates:
            self._validate(0)
        return 0

    def _restore(self, path: Path) -> int:
        """Everything as it was behind the checkpoint's step.

        Raises:
            InputError: it is of another recipe, model or data.
        """
        state = checkpoints.load(path)
        facts = state.facts
        differs = checkpoints.compare(facts["recipe"], asdict(self.recipe))
        if facts["model"] != self.fingerprint:
            differs.append(f"model: its weights or tokenizer were {facts['model'][:12]}, are {self.fingerprint[:12]}")
        for name, now in self.data.fingerprints.items():
            if facts["data"].get(name) != now:
                differs.append(f"source {name!r}: its rows have changed")
        if differs:
            raise InputError(
                f"{path} is of another run: {'; '.join(differs)}. Resume with what it was, or begin anew in another "
                "output."
            )
        rounding = checkpoints.compare_rounding(facts["recipe"], asdict(self.recipe))
        if facts["ranks"] != self.ranks.world:
            rounding.append(f"ranks: was {facts['ranks']}, is {self.ranks.world}")
        if rounding:
            warn_caller(f"the run goes on, with other last digits than it would have had: {'; '.join(rounding)}.")
        self._load(state)
        self.tally = Tally(**facts["tally"])
        self.best = tuple(facts["best"]) if facts["best"] else None
        return state.step

    def _load(self, state: checkpoints.State) -> None:
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(state.tensors[name])
        checkpoints.load_optimizer(self.optimizer, self.names, state.tensors)
        if self.ema:
            self.ema.load(state.tensors)

    def _finish(self) -> Path:
        """The best model, or the last, as a folder."""
        chosen = self.total
        if self.best and self.recipe.validation.keep_best and self.best[0] != self.total:
            chosen = self.best[0]
            self._load(checkpoints.load(checkpoints.steps(self._checkpoints)[chosen]))
        target = self.output / "model"
        if self.ranks.first:
            with self.ema.swap() if self.ema else nullcontext():
                trained = self._trained()
            save_folder(replace(trained, readme=self._card(chosen)), target, overwrite=True)
        self.ranks.wait()
        return target

    @property
    def _checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def _encoder(self) -> Encoder:
        """The model as it is now, as anyone else would use it."""
        device, threads = str(self.ranks.device), self.recipe.threads
        return Encoder(self._trained(), Options.check(device=device, engine="auto", dtype="float32", threads=threads))

    def _trained(self) -> Checkpoint:
        return self.model.trained(spec=declared(self.base.spec, self.recipe))

    def _optimizer(self) -> torch.optim.AdamW:
        recipe, trunk = self.recipe, self.base.spec.trunk
        groups = optim.parameter_groups(
            self.model,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            layers=0 if isinstance(trunk, StaticSpec) else trunk.layers,
            extra=[*self.loss.parameters()],
        )
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        return torch.optim.AdamW(groups, betas=betas, eps=recipe.adam_epsilon, fused=True)

    # ---- what is told

    def _log(self, start: int) -> Any:
        if not self.ranks.first:
            return nullcontext()
        log = Log(
            self.output,
            total=self.total,
            report_to=self.recipe.report_to,
            progress=self.progress,
            settings=asdict(self.recipe),
        )
        log.rewind(start)
        return log

    def _count(self, batches: Sequence[Collated], loss: float, counts: Sequence[float]) -> dict[str, Any]:
        """Adds a step to the tally; what the log says of its data."""
        tokens, texts, truncated = (round(count) for count in counts)
        rows, tally = [batch.rows for batch in batches], self.tally
        tally.rows += sum(each.total for each in rows)
        tally.skipped += sum(each.skipped for each in rows)
        tally.short += sum(each.total < self.recipe.batch_size for each in rows)
        tally.tokens, tally.truncated, tally.texts = (
            tally.tokens + tokens,
            tally.truncated + truncated,
            tally.texts + texts,
        )
        tally.first_loss, tally.last_loss = loss if tally.first_loss is None else tally.first_loss, loss
        return {
            "source": " ".join(dict.fromkeys(each.name for each in rows)),
            "rows": sum(each.total for each in rows),
            "tokens": tokens,
            "batch": " ".join(each.digest for each in rows),
        } | ({"scale": self.loss.log_scale.exp().item()} if self.loss.log_scale is not None else {})

    def _check_finite(self, step: int, loss: float, norm: float, batches: Sequence[Collated]) -> None:
        """
        Raises:
            NumericError: the loss or its gradient is NaN or infinite; this rank's rows are saved.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return
        folder = self.output / "stopped"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{step + 1:08}-rank-{self.ranks.rank}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.data.as_written(batch.rows))
        names = ", ".join(dict.fromkeys(batch.rows.name for batch in batches))
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        there = checkpoints.latest(self._checkpoints)
        last = f"The last checkpoint is {there}" if there else "There is no checkpoint yet"
        raise NumericError(
            f"step {step + 1}, source {names!r}: {what}. Its rows are in {path}. {last}. A lower learning_rate, a "
            "higher temperature or a smaller max_grad_norm may help; so may bf16=False."
        )

    def _card(self, chosen: int) -> bytes:
        tally, base, recipe = self.tally, self.base, self.recipe
        drawn = self.data.sampler.realised(self.total * recipe.gradient_accumulation_steps)
        sources = tuple(
            SourceFacts(index.name, index.rows, index.fingerprint, float(asked), int(batches))
            for index, asked, batches in zip(self.data.indexes, self.data.weights, drawn, strict=True)
        )
        facts = Facts(
            spec=declared(base.spec, recipe),
            base=base.source.name or base.source.folder.name,
            base_fingerprint=self.fingerprint,
            sources=sources,
            step=chosen,
            steps=self.total,
            rows=tally.rows,
            tokens=tally.tokens,
            texts=tally.texts,
            truncated=tally.truncated,
            skipped=tally.skipped,
            short=tally.short,
            seconds=tally.seconds,
            device=device_name(self.ranks.device),
            ranks=self.ranks.world,
            first_loss=tally.first_loss,
            last_loss=tally.last_loss,
            before=tally.scores.get("0", {}),
            after=tally.scores.get(str(chosen), {}),
            judged_by="score of the function that was given" if self.evaluate else None,
            versions={name: version(name) for name in ("gnomon", "torch", "tokenizers")},
            license=base.license,
        )
        return model_card(recipe, facts).encode()


def declared(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with what the run has taught the model: widths, and prompts that all sources give and it had not."""
    if recipe.matryoshka and not spec.wide_heads:
        spec = replace(spec, matryoshka_dims=tuple(sorted({*recipe.matryoshka.dims} - {spec.full_dim})))
    given = {(source.query_prompt, source.document_prompt) for source in recipe.sources}
    query, document = given.pop() if len(given) == 1 else (None, None)
    if spec.prompts or not (query or document):
        return spec
    return replace(spec, prompts={"query": query or "", "document": document or ""})


def _base(recipe: Recipe) -> Checkpoint:
    source = resolve(recipe.model, revision=recipe.revision)
    checkpoint = read_folder(source, card=recipe.card, max_seq_length=recipe.max_seq_length)
    for notice in checkpoint.notices:
        warn_caller(notice)
    return checkpoint


def _freeze(model: nn.Module, beginnings: Sequence[str]) -> None:
    """
    Raises:
        InputError: a beginning that no array's name has.
    """
    names = {name: name.partition(".")[2] for name, _ in model.named_parameters()}
    for beginning in beginnings:
        found = [name for name, ours in names.items() if ours.startswith(beginning)]
        if not found:
            tops = dict.fromkeys(top for ours in names.values() for top in re.findall(r"^layers\.\d+|^\w+", ours))
            raise InputError(
                f"freeze has {beginning!r}, and no array's name begins so; they begin with {', '.join(tops)}."
            )
        for name in found:
            model.get_parameter(name).requires_grad_(False)


def _learnt(model: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters that are learnt, by the names of a checkpoint."""
    named = [(f"model.{name}", each) for name, each in model.named_parameters()]
    named += [(f"loss.{name}", each) for name, each in loss.named_parameters()]
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _counted(batches: Sequence[Collated]) -> tuple[float, float, float]:
    """Tokens, texts, and texts that were cut, of this rank."""
    lengths = [len(ids) for batch in batches for ids in batch.ids]
    return float(sum(lengths)), float(len(lengths)), float(sum(batch.truncated for batch in batches))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


@contextmanager
def _stopping() -> Generator[threading.Event]:
    """Set by the first Ctrl-C, so that the step ends and is saved; the second stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        warn_caller("this step is finished and saved, then the run stops; Ctrl-C again stops at once.")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _torch_as(recipe: Recipe, ranks: Ranks) -> Generator[None]:
    """torch's own settings for a run; as they were behind it."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    setting: Any = deterministic
    filled = setting.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        try:
            if recipe.threads:
                torch.set_num_threads(recipe.threads)
            if recipe.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=True)
                setting.fill_uninitialized_memory = False  # slow, and nothing here reads such memory
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
            setting.fill_uninitialized_memory = filled
