"""The keys of a recipe: frozen dataclasses with the type, bounds and default of each key.

`recipe.parse` reads types and bounds from here. The strings below the keys are the text of docs/reference/recipes.md:
`scripts/recipe_page.py` writes it. Names are those of sentence-transformers and transformers where the meaning is
theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

LossName = Literal[
    "info_nce",
    "gist",
    "kl_and_contrast",
    "distill_kl",
    "margin_mse",
    "cosent",
    "cosine_regression",
    "cosine_distillation",
]
Directions = Literal["one_way", "symmetric", "gte"]

SCALED_LOSSES: tuple[LossName, ...] = ("info_nce", "gist", "kl_and_contrast", "distill_kl", "cosent")
"""Losses that multiply similarities by a scale."""
CONTRASTIVE_LOSSES: tuple[LossName, ...] = ("info_nce", "gist", "kl_and_contrast")
"""Losses that train which document belongs to which query, with the other documents of the batch as negatives."""
SCORE_LIST_LOSSES: tuple[LossName, ...] = ("kl_and_contrast", "distill_kl", "margin_mse")
"""Losses that train on lists of a teacher's scores, or on a teacher's cosines in their place."""
LABEL_LOSSES: tuple[LossName, ...] = ("cosent", "cosine_regression")
"""Losses that train on pairs with one score each."""

LEARNED_SCALES = (1, 100)
"""A trained scale stays between these (CLIP)."""


# ---- what stands beside a key


class Within:
    """The interval that a number, or each number of a list, must lie in: "[0, 1)" includes 0 and excludes 1."""

    def __init__(self, interval: str) -> None:
        low, high = (float(end) for end in interval[1:-1].split(","))
        self.low, self.includes_low = low, interval[0] == "["
        self.high, self.includes_high = high, interval[-1] == "]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.includes_low else value > self.low
        below = value <= self.high if self.includes_high else value < self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        """In words, for messages and the docs: "at least 0 and below 1"."""
        low = f"{'at least' if self.includes_low else 'above'} {self.low:g}"
        high = f"{'at most' if self.includes_high else 'below'} {self.high:g}"
        return low if math.isinf(self.high) else f"{low} and {high}"


class OnlyFor:
    """The losses that read a key of [loss]. With another loss the key must keep its default: it would do nothing."""

    def __init__(self, *losses: LossName) -> None:
        self.losses = losses


# ---- the tables of a recipe


@dataclass(frozen=True)
class DataSource:
    """Rows of one kind: pairs, triplets or pairs with scores. A batch holds rows of one source only."""

    path: tuple[str, ...]
    """Files (`.jsonl`, `.csv`, `.tsv`, MEDI's `.json`, each also as `.gz`; `.parquet`), patterns of them, or one data
    set of the `datasets` library as `hf:NAME` or `hf:NAME:CONFIG`.
    """
    name: str = ""
    """By default the first file's name without its ending. Names are unique in a recipe."""
    split: str = "train"
    """For a data set of the `datasets` library."""
    streaming: bool = False
    """Read such a data set without a copy on disk."""
    query: str = "query"
    """The column of the query (the anchor, or the first text of a pair with a score)."""
    positive: str = "positive"
    """The column of the document (or the second text of a pair with a score). A list of several positives makes one row
    for each of them.
    """
    negatives: tuple[str, ...] = ()
    """Columns of hard negatives; each holds a text or a list of texts."""
    num_negatives: Annotated[int | None, Within("[1, inf)")] = None
    """How many of a row's negatives a step takes, drawn by seed and step. By default all; then all rows need the same
    number of negatives.
    """
    score: str | None = None
    """The column of the pair's score, or of a list of a teacher's scores: the positive's, then the negatives'."""
    instruction: str | None = None
    """The column of an instruction that is put before the query, with a space."""
    instructions: Literal["drop", "prepend"] = "drop"
    """What becomes of the instruction where a text column holds `[instruction, text]` (MEDI)."""
    task_types: tuple[str, ...] = ()
    """Read only rows whose `task_type` is one of these (MEDI); by default all."""
    query_prompt: str | None = None
    """Put before every query; by default the model's own prompt. `""` for none."""
    document_prompt: str | None = None
    """Put before every positive and negative; by default the model's own prompt."""
    weight: Annotated[float | None, Within("[0, inf)")] = None
    """The source's share of the steps, relative to the sum of all weights. All sources have one, or none has."""


@dataclass(frozen=True)
class MixtureSettings:
    """How often each source is drawn where no source has a weight: `rows ** alpha`, with at most `cap` rows counted."""

    alpha: Annotated[float, Within("[0, inf)")] = 1.0
    """1 draws every row equally often, 0 every source."""
    cap: Annotated[int | None, Within("[1, inf)")] = None
    """The most rows of a source that count; by default all."""
    data_config: str | None = None
    """A file `[{"name", "weight", "lines"}]` (multi-qa's data_config.json): the weight of each source by its name or
    its file's name, and how many lines of it are read.
    """


@dataclass(frozen=True)
class LossSettings:
    """A loss of `gnomon.losses` and its arguments."""

    name: LossName = "info_nce"
    """The loss. Each fits rows of certain columns."""
    scale: Annotated[float | None, Within("(0, inf)"), OnlyFor(*SCALED_LOSSES)] = None
    """Factor of the similarities; by default the loss's own. `temperature` is 1 / scale."""
    temperature: Annotated[float | None, Within("(0, inf)"), OnlyFor(*SCALED_LOSSES)] = None
    """1 / scale: set one of the two."""
    learn_scale: Annotated[bool, OnlyFor(*SCALED_LOSSES)] = False
    """Train log(scale), clamped to 1 to 100 after each step (CLIP)."""
    scale_learning_rate: Annotated[float | None, Within("(0, inf)"), OnlyFor(*SCALED_LOSSES)] = None
    """For a trained scale; by default the model's learning rate, at which the scale hardly moves (1e-3 moves it)."""
    scale_warmup_steps: Annotated[int, Within("[0, inf)"), OnlyFor(*SCALED_LOSSES)] = 0
    """The scale grows from 1 to its value over these steps (SimLM)."""
    directions: Annotated[Directions, OnlyFor("info_nce")] = "one_way"
    """Which side looks for which, for pairs. Triplets are always `"one_way"`."""
    similarity: Annotated[Literal["cosine", "dot"], OnlyFor(*SCALED_LOSSES, "margin_mse")] = "cosine"
    """The similarity of two vectors."""
    alpha: Annotated[float, Within("[0, inf)"), OnlyFor("kl_and_contrast")] = 0.2
    """Weight of the contrastive part."""
    teacher_temperature: Annotated[float | None, Within("(0, inf)"), OnlyFor("kl_and_contrast", "distill_kl")] = None
    """Divides a teacher's scores. By default 1 for scores in a column, and the model's temperature for cosines of
    `teacher`.
    """
    guide: Annotated[str | None, OnlyFor("gist")] = None
    """The guide model: a folder, hub id or `package:NAME`."""
    teacher: Annotated[str | None, OnlyFor("kl_and_contrast", "distill_kl", "cosine_distillation")] = None
    """The teacher model, named like `guide`. With cosine_distillation the model is trained on the teacher's vectors.
    The teacher may be the model as it was, and shorter vectors (matryoshka) are trained on its first components. With
    kl_and_contrast and distill_kl the teacher's cosines in the batch take the place of a column of scores.
    """
    distillation_target: Annotated[Literal["self", "query"], OnlyFor("cosine_distillation")] = "self"
    """The target of a text: the teacher's vector of the text itself, or of its row's query. The other texts of a row
    are then translations of the query (2004.09813).
    """
    margin: Annotated[float, Within("[0, inf)"), OnlyFor("gist")] = 0.0
    """How far below the guide's similarity of the pair a negative is left out already."""
    margin_strategy: Annotated[Literal["absolute", "relative"], OnlyFor("gist")] = "absolute"
    """Whether `margin` is a difference of similarities, or a share of the pair's similarity."""
    contrast_anchors: Annotated[bool, OnlyFor("gist")] = True
    """Contrast queries with queries, too."""
    contrast_positives: Annotated[bool, OnlyFor("gist")] = True
    """Contrast positives with positives, too."""
    mask_duplicates: Annotated[bool, OnlyFor(*CONTRASTIVE_LOSSES)] = True
    """Leave a query out of its own negatives, and texts that answer an equal query elsewhere in the batch."""

    @property
    def chosen_scale(self) -> float | None:
        """The scale that is set, as such or as a temperature; None for the loss's own."""
        return self.scale or (1 / self.temperature if self.temperature else None)


@dataclass(frozen=True)
class MatryoshkaSettings:
    """Dimensions that are trained together, each as the first components of the vector (2205.13147)."""

    dims: Annotated[tuple[int, ...], Within("[1, inf)")]
    """The dimensions, such as `[384, 128, 64]`."""
    weights: Annotated[tuple[float, ...] | None, Within("[0, inf)")] = None
    """One weight per dimension; by default 1 each."""
    n_dims_per_step: Annotated[int, Within("[-1, inf)")] = -1
    """How many of the dimensions each step draws: from 1 to all, or -1 for all."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation (2106.09685): only W + alpha / r * B A is trained, and merged into W in the saved model."""

    r: Annotated[int, Within("[1, inf)")] = 8
    """The rank of A and B."""
    alpha: Annotated[float, Within("(0, inf)")] = 16.0
    """The change is multiplied by `alpha / r`."""
    dropout: Annotated[float, Within("[0, 1)")] = 0.0
    """Dropout of the input of A."""
    targets: tuple[str, ...] = ("query", "value")
    """Names of linear layers: `query`, `key`, `value`, `out`, `up`, `gate`, `down`."""


@dataclass(frozen=True)
class ValidationSettings:
    """Pairs that are held out of the training rows, and how well each query finds its own document among them."""

    rows: Annotated[int, Within("[0, inf)")] = 0
    """How many rows of each source are held out, 0 for no validation. No row with their queries is trained on."""
    steps: Annotated[int | None, Within("[1, inf)")] = None
    """Steps from one validation to the next; by default `save_steps`."""
    keep_best: bool = True
    """Write the model of the best checkpoint, not of the last."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Steps are steps of the optimizer."""

    model: str
    """The model that is trained: a folder, hub id or `package:NAME`."""
    output: str
    """The folder of everything that the run writes. A shipped recipe has its own name here. No model, guide or teacher
    may lie in it.
    """
    sources: tuple[DataSource, ...]
    """The training rows."""

    # the model
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    card: str | None = None
    """Name of the published model that it is or was fine-tuned from, where the folder does not show it."""
    max_seq_length: Annotated[int | None, Within("[1, inf)")] = None
    """Tokens that are read of a text, in training and by the new model; by default the model's own number."""
    dropout: Annotated[float | None, Within("[0, 1)")] = None
    """Dropout of token states; by default the value in the model's config."""
    attention_dropout: Annotated[float | None, Within("[0, 1)")] = None
    """Dropout of attention weights; by default the value in the model's config."""
    freeze: tuple[str, ...] = ()
    """First letters of the names of arrays that are not trained: `"embed"`, `"layers.0."`."""
    lora: LoraSettings | None = None
    """Train low-rank changes only."""

    # the data
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    """How often each source is drawn."""
    batch_size: Annotated[int, Within("[1, inf)")] = 32
    """Rows of a batch, over all ranks."""
    duplicates: Literal["skip", "keep"] = "skip"
    """For losses that contrast rows: whether a row moves to another batch, or is replaced, if its query or positive is
    already in the batch (`"skip"`).
    """
    group_by_length: bool = False
    """Batches of texts of similar length, within windows of 16 batches."""
    cache_dir: str | None = None
    """Where sources are cached after the first reading; by default the user's cache."""

    # the loss
    loss: LossSettings = field(default_factory=LossSettings)
    """The loss and its arguments."""
    matryoshka: MatryoshkaSettings | None = None
    """Train shorter vectors, too."""
    chunk_tokens: Annotated[int | None, Within("[1, inf)")] = None
    """Tokens that pass the model at once with their activations stored. Larger batches go through GradCache, chunk by
    chunk, with the same gradient. By default a batch passes whole if its activations fit into 2 GiB (15 % of a GPU's
    memory), and otherwise in chunks of 4,096 tokens on a CPU, of as many as fit on a GPU.
    """

    # the optimizer
    learning_rate: Annotated[float, Within("(0, inf)")] = 2e-5
    """The highest learning rate of the schedule."""
    layer_decay: Annotated[float, Within("(0, 1]")] = 1.0
    """Each layer's learning rate divided by that of the layer above it."""
    weight_decay: Annotated[float, Within("[0, inf)")] = 0.0
    """For matrices; biases and norms have none."""
    adam_beta1: Annotated[float, Within("[0, 1)")] = 0.9
    """AdamW's decay of the mean of gradients."""
    adam_beta2: Annotated[float, Within("[0, 1)")] = 0.999
    """AdamW's decay of the mean of squared gradients."""
    adam_epsilon: Annotated[float, Within("(0, inf)")] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Within("[0, inf)")] = 1.0
    """Longer gradients are scaled down to this norm; 0 for no clipping."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: down to 0, or constant."""
    warmup_steps: Annotated[int, Within("[0, inf)")] = 0
    """Steps in which the learning rate rises from 0."""
    warmup_ratio: Annotated[float, Within("[0, 1]")] = 0.0
    """The same as a share of all steps, rounded up, where warmup_steps is 0. A run of one step has no warm-up below 1.
    """
    gradient_accumulation_steps: Annotated[int, Within("[1, inf)")] = 1
    """Batches per step. The negatives of a row are those of its own batch: a larger batch_size gives more of them, with
    no more memory.
    """
    ema_decay: Annotated[float | None, Within("(0, 1)")] = None
    """Write a moving average of the weights."""
    base_weight: Annotated[float, Within("[0, 1)")] = 0.0
    """Share of the original weights in the written ones: the model learns and forgets less (WiSE-FT, 2109.01903)."""

    # the run
    max_steps: Annotated[int | None, Within("[1, inf)")] = None
    """Steps of the optimizer; by default as many as num_train_epochs needs."""
    num_train_epochs: Annotated[float, Within("(0, inf)")] = 1.0
    """Passes over the rows of all sources, without max_steps."""
    seed: Annotated[int, Within("[0, inf)")] = 42
    """The seed of everything that is random."""
    bf16: bool = False
    """Compute in bfloat16, a guide or teacher too where the device can. Weights stay float32."""
    gradient_checkpointing: bool = False
    """Store fewer activations and compute them again."""
    deterministic: bool = True
    """Kernels that give the same bits in every run, on a GPU too."""
    device: str = "auto"
    """`"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`."""
    threads: Annotated[int | None, Within("[1, inf)")] = None
    """Threads on a CPU; by default one per core."""
    save_steps: Annotated[int, Within("[1, inf)")] = 500
    """Steps from one checkpoint to the next."""
    save_total_limit: Annotated[int, Within("[1, inf)")] = 2
    """How many checkpoints stay, besides the best."""
    logging_steps: Annotated[int, Within("[1, inf)")] = 10
    """Steps from one line of `log.jsonl` to the next."""
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    """Rows that are held out."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the log goes, besides `log.jsonl`."""
