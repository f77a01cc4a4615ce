"""The contract between the trainer and what a model is trained for.

The trainer takes the steps of a run: it scales the learning rate, clips, updates, saves, logs and stops. An objective
decides everything else: it opens the data, turns a batch into a gradient, and scores the model. To train a model for
something new, write a class with the methods of `Objective` and pass it to `gnomon.train.trainer.run_training`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from gnomon.checkpoint.folder import Checkpoint
from gnomon.spec import ModelSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.counters import Counters
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.recipe.schema import Recipe

BatchT = TypeVar("BatchT")
"""An objective's own batch. The trainer never looks inside."""


@dataclass(frozen=True)
class TrainingContext:
    """What a run knows when it opens its objective."""

    recipe: Recipe
    base: Checkpoint
    """The model that is trained, as it was read."""
    base_fingerprint: str
    tokenizer: Tokenizer
    ranks: Ranks
    progress: bool | None
    """Whether reading shows a progress bar; None for a terminal only."""


@dataclass(frozen=True)
class FactChanges:
    """How an objective differs from the one that a checkpoint was saved with."""

    conflicts: Sequence[str] = ()
    """Differences with which the run cannot resume."""
    rounding: Sequence[str] = ()
    """Differences that change only the order in which numbers are added."""
    renamed_scores: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of a score in the checkpoint -> its name now."""


@dataclass(frozen=True)
class RunFacts:
    """What the trainer knows when a run ends, for the model card."""

    spec: ModelSpec
    """The spec of the model that is written."""
    base: str
    """The model that training started from: a hub id, package:NAME or a folder's name."""
    base_fingerprint: str
    step: int
    """The step after which the model had the weights that are written."""
    total_steps: int
    counters: Counters
    device: str
    world_size: int = 1
    score_name: str | None = None
    """What the scores measure, where a function of the caller computed them."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Package -> version."""
    license: str | None = None
    """The license of the base model."""

    @property
    def scores_before(self) -> Mapping[str, float]:
        return self.counters.scores.get("0", {})

    @property
    def scores_after(self) -> Mapping[str, float]:
        return self.counters.scores.get(str(self.step), {})


class Objective(Protocol[BatchT]):
    """What a run trains its model for. Each rank has one object."""

    spec: ModelSpec
    """The spec of the model that is written, with the prompts and dimensions that the run trains."""
    data_summary: str
    """What it trains on, in a few words: "3,000 rows of pairs"."""
    total_steps: int
    """Steps of the optimizer in the whole run."""
    prefetch_depth: int
    """How many batches may wait for their step."""
    has_validation: bool
    """Whether `validate` has something to score."""
    parameters_learning_rate: float | None
    """The learning rate of `parameters()`; None for that of the model."""
    zero_gradient_hint: str
    """Why the gradient of a step may be 0, and what to do. It ends a message."""
    not_finite_hint: str
    """What may help where a loss is not finite. It ends a message."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters that are trained beside the model, by their names in a checkpoint ("loss.log_scale")."""
        ...

    def batch_at(self, number: int) -> BatchT:
        """This rank's share of a batch, which depends on the number only. Runs in a thread, on the CPU.

        A step takes `recipe.gradient_accumulation_steps` batches.
        """
        ...

    def training_step(self, model: Model, batch: BatchT) -> float:
        """Add the gradient of this rank's loss to `.grad` of the parameters; returns the loss.

        The trainer averages over the ranks and over the batches of the step.
        """
        ...

    def after_update(self) -> None:
        """Called after each step of the optimizer, such as to keep a trained scale in its range."""
        ...

    def record(self, batches: Sequence[BatchT], *, seconds: float) -> dict[str, Any]:
        """Count the batches of a step over all ranks; returns what the log says about them."""
        ...

    def validate(self, model: Model) -> dict[str, float]:
        """Scores by name, higher is better, equal on every rank."""
        ...

    def describe(self, batches: Sequence[BatchT]) -> str:
        """What the batches are, for messages: "source 'pairs' (64 rows)"."""
        ...

    def to_records(self, batch: BatchT) -> Iterator[dict[str, Any]]:
        """This rank's rows of a batch as JSON objects, for a file that shows why a run stopped."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says about the objective, as JSON. The keys are beside those of the trainer."""
        ...

    def compare(self, saved: Mapping[str, Any]) -> FactChanges:
        """Compare the `facts` of a checkpoint with the present ones."""
        ...

    def counters(self) -> dict[str, Any]:
        """What the objective counted since the run began, as JSON. The names are beside those of `Counters`."""
        ...

    def to_tensors(self) -> dict[str, Tensor]:
        """State of the objective that a checkpoint holds, beside its parameters."""
        ...

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Restore what `to_tensors` and `counters` returned. Both may hold other names, too."""
        ...

    def model_card(self, run: RunFacts) -> str:
        """The README.md of the trained model."""
        ...


OpenObjective = Callable[[TrainingContext], Objective[Any]]
"""Opens an objective on this rank. Raises what a wrong recipe, source or row raises."""
