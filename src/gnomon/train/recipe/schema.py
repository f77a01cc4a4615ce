"""What a training run is made of: frozen dataclasses, which a recipe's TOML is read into (`recipe`).

Names are those of sentence-transformers and transformers where the meaning is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True)
class DataSource:
    """Rows of one sort: pairs, or triplets, or graded pairs; a batch holds rows of one source alone."""

    path: tuple[str, ...]
    """Files (.jsonl, .csv, .tsv, MEDI's .json, each also as .gz; .parquet), patterns of them, or one data set of the
    `datasets` library as "hf:NAME" or "hf:NAME:CONFIG".
    """
    name: str = ""
    """By default the first file's name without its end. Names are unique in a recipe."""
    split: str = "train"
    """Of a data set of the `datasets` library."""
    streaming: bool = False
    """Read such a data set without a copy of its own on disk."""
    query: str = "query"
    """The column of the query (the anchor; the first text of a graded pair)."""
    positive: str = "positive"
    """The column of the document (the second text of a graded pair); a row with a list of several makes a row of each.
    """
    negatives: tuple[str, ...] = ()
    """Columns of hard negatives; each holds a text or a list of texts."""
    num_negatives: int | None = None
    """How many of a row's negatives a step takes, drawn by seed and step; None for all, and all rows must have as many.
    """
    score: str | None = None
    """The column of a grade of the pair, or of a list of a teacher's scores: the positive's, then the negatives'."""
    instruction: str | None = None
    """The column of an instruction, put in front of the query with a space."""
    instructions: Literal["drop", "prepend"] = "drop"
    """What becomes of the first of two strings where a text column holds [instruction, text] (MEDI)."""
    task_types: tuple[str, ...] = ()
    """Only rows whose `task_type` is one of these (MEDI); none for all."""
    query_prompt: str | None = None
    """In front of every query; None for the model's own."""
    document_prompt: str | None = None
    """In front of every positive and negative; None for the model's own."""
    weight: float | None = None
    """Its share of the steps over the sum of all shares; given for every source or for none."""


@dataclass(frozen=True)
class MixtureSettings:
    """How often each source is drawn, where no source gives its weight: rows ** alpha, rows counted up to `cap`."""

    alpha: float = 1.0
    cap: int | None = None
    data_config: str | None = None
    """A file [{"name", "weight", "lines"}] (multi-qa's data_config.json): the weight of each source by its name or its
    file's name, and how many lines of it are read.
    """


@dataclass(frozen=True)
class LossSettings:
    """A loss of `gnomon.losses` and its arguments."""

    name: LossName = "info_nce"
    scale: float | None = None
    """Factor of the similarities; None for the loss's own. `temperature` is 1 / scale."""
    temperature: float | None = None
    learn_scale: bool = False
    """Learn log(scale), kept between 1 and 100 after each step (CLIP)."""
    scale_learning_rate: float | None = None
    """Of a learnt scale; None for that of the model, at which it hardly moves."""
    scale_warmup_steps: int = 0
    """The scale grows from 1 to its value over these steps (SimLM)."""
    directions: Directions = "one_way"
    """Of info_nce, for pairs; triplets are one way."""
    similarity: Literal["cosine", "dot"] = "cosine"
    alpha: float = 0.2
    """Of kl_and_contrast: weight of the contrastive part."""
    teacher_temperature: float | None = None
    """Divides a teacher's scores. None: 1 where they are a column, the model's temperature where they are cosines of
    `teacher`.
    """
    guide: str | None = None
    """Of gist: the guide's folder, hub id or package:NAME."""
    teacher: str | None = None
    """A model, named as `guide` is. Of cosine_distillation: its vectors are learnt; it may be the model as it was, and
    narrower vectors (matryoshka) learn their first components. Of kl_and_contrast and distill_kl: its cosines in the
    batch take the place of a column of scores.
    """
    taught: Literal["own", "query"] = "own"
    """Of cosine_distillation: what a text learns, the teacher's vector of itself, or of its row's query, whose
    translations the others are (2004.09813).
    """
    margin: float = 0.0
    margin_strategy: Literal["absolute", "relative"] = "absolute"
    contrast_anchors: bool = True
    contrast_positives: bool = True
    mask_duplicates: bool = True
    """Texts that answer an equal query elsewhere in the batch, or are the query, are no negatives of it."""


@dataclass(frozen=True)
class MatryoshkaSettings:
    dims: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    n_dims_per_step: int = -1


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaption (2106.09685): only W + alpha / r * B A is learnt; merged into W when the model is saved."""

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    """Names of linear layers: query, key, value, out, up, gate, down."""


@dataclass(frozen=True)
class ValidationSettings:
    """Pairs that are held out of the training rows, and how well each query finds its own document among them."""

    rows: int = 0
    """How many rows of each source are held out; no row with a query of theirs is trained on. 0 for no validation."""
    steps: int | None = None
    """How often; None for as often as a checkpoint is saved."""
    keep_best: bool = True
    """The model that is written is that of the best checkpoint, not the last."""


@dataclass(frozen=True)
class Recipe:
    """All of a run. Steps are steps of the optimizer."""

    model: str
    output: str
    sources: tuple[DataSource, ...]

    # the model
    revision: str | None = None
    card: str | None = None
    max_seq_length: int | None = None
    dropout: float | None = None
    """None for what the model's config says."""
    attention_dropout: float | None = None
    freeze: tuple[str, ...] = ()
    """Beginnings of names of arrays that are not learnt: "embed", "layers.0."."""
    lora: LoraSettings | None = None

    # the data
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    batch_size: int = 32
    """Rows of a batch, over all ranks."""
    duplicates: Literal["skip", "keep"] = "skip"
    """Of losses that contrast rows: whether a row moves to another batch, or is replaced, if its query or positive is
    in the batch already.
    """
    length_buckets: bool = False
    """Batches of texts of about one length, within windows of 16 batches."""
    cache_dir: str | None = None
    """Where indexes of sources are kept; None for the user's cache."""

    # the loss
    loss: LossSettings = field(default_factory=LossSettings)
    matryoshka: MatryoshkaSettings | None = None
    chunk_tokens: int | None = None
    """Tokens that pass the model at once with their activations kept. Larger batches go through GradCache, chunk by
    chunk, with the same gradient. None: as many as take 4 GiB on a CPU, or 30 % of a GPU's memory.
    """

    # the optimizer
    learning_rate: float = 2e-5
    layer_decay: float = 1.0
    """Each layer's learning rate over that of the layer above it."""
    weight_decay: float = 0.0
    """Of matrices; biases and norms have none."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """0 for no clipping."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    """Share of all steps, where warmup_steps is 0."""
    gradient_accumulation_steps: int = 1
    """Batches of a step. The negatives of a row are those of its own batch: a larger batch_size gives more of them, at
    no more memory.
    """
    ema_decay: float | None = None
    """The model that is written is a moving average of the weights."""
    base_weight: float = 0.0
    """Share of the first weights in those that are written: less is learnt, less forgotten (WiSE-FT, 2109.01903)."""

    # the run
    max_steps: int | None = None
    num_train_epochs: float = 1.0
    """Where max_steps is None: so many times the rows of all sources."""
    seed: int = 42
    bf16: bool = False
    gradient_checkpointing: bool = False
    deterministic: bool = True
    """Kernels that give the same bits again, on a GPU too."""
    device: str = "auto"
    threads: int | None = None
    save_steps: int = 500
    save_total_limit: int = 2
    logging_steps: int = 10
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
