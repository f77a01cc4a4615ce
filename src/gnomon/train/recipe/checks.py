"""What must hold of a recipe beyond the types of its values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from gnomon.errors import InputError
from gnomon.train.data.build import default_name
from gnomon.train.recipe.schema import (
    DataSource,
    LoraSettings,
    LossName,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    Recipe,
    ValidationSettings,
)

RANGES: Mapping[type[Any], Mapping[str, str]] = {
    Recipe: {
        "max_seq_length": "[1, inf)",
        "dropout": "[0, 1)",
        "attention_dropout": "[0, 1)",
        "batch_size": "[1, inf)",
        "chunk_tokens": "[1, inf)",
        "learning_rate": "(0, inf)",
        "layer_decay": "(0, 1]",
        "weight_decay": "[0, inf)",
        "adam_beta1": "[0, 1)",
        "adam_beta2": "[0, 1)",
        "adam_epsilon": "(0, inf)",
        "max_grad_norm": "[0, inf)",
        "warmup_steps": "[0, inf)",
        "warmup_ratio": "[0, 1]",
        "gradient_accumulation_steps": "[1, inf)",
        "ema_decay": "(0, 1)",
        "base_weight": "[0, 1)",
        "max_steps": "[1, inf)",
        "num_train_epochs": "(0, inf)",
        "seed": "[0, inf)",
        "threads": "[1, inf)",
        "save_steps": "[1, inf)",
        "save_total_limit": "[1, inf)",
        "logging_steps": "[1, inf)",
    },
    DataSource: {"num_negatives": "[1, inf)", "weight": "[0, inf)"},
    MixtureSettings: {"alpha": "[0, inf)", "cap": "[1, inf)"},
    LossSettings: {
        "scale": "(0, inf)",
        "temperature": "(0, inf)",
        "scale_warmup_steps": "[0, inf)",
        "scale_learning_rate": "(0, inf)",
        "alpha": "[0, inf)",
        "teacher_temperature": "(0, inf)",
        "margin": "[0, inf)",
    },
    MatryoshkaSettings: {"dims": "[1, inf)", "weights": "[0, inf)"},
    LoraSettings: {"r": "[1, inf)", "alpha": "(0, inf)", "dropout": "[0, 1)"},
    ValidationSettings: {"rows": "[0, inf)", "steps": "[1, inf)"},
}
"""Values that are numbers, or lists of them -> the interval that they must lie in."""

SCALED_LOSSES: tuple[LossName, ...] = ("info_nce", "gist", "kl_and_contrast", "distill_kl", "cosent")
SCORE_LIST_LOSSES: tuple[LossName, ...] = ("kl_and_contrast", "distill_kl", "margin_mse")
LABEL_LOSSES: tuple[LossName, ...] = ("cosent", "cosine_regression")
CONTRASTIVE_LOSSES: tuple[LossName, ...] = ("info_nce", "gist", "kl_and_contrast")
"""What the losses learn: from lists of a teacher's scores, or from a teacher's cosines in their place; grades; which
document belongs to which query.
"""

LOSSES_BY_KEY: Mapping[str, tuple[LossName, ...]] = {
    "scale": SCALED_LOSSES,
    "temperature": SCALED_LOSSES,
    "learn_scale": SCALED_LOSSES,
    "scale_learning_rate": SCALED_LOSSES,
    "scale_warmup_steps": SCALED_LOSSES,
    "directions": ("info_nce",),
    "similarity": (*SCALED_LOSSES, "margin_mse"),
    "alpha": ("kl_and_contrast",),
    "teacher_temperature": ("kl_and_contrast", "distill_kl"),
    "guide": ("gist",),
    "teacher": ("kl_and_contrast", "distill_kl", "cosine_distillation"),
    "taught": ("cosine_distillation",),
    "margin": ("gist",),
    "margin_strategy": ("gist",),
    "contrast_anchors": ("gist",),
    "contrast_positives": ("gist",),
    "mask_duplicates": CONTRASTIVE_LOSSES,
}
"""Keys of [loss] that only some losses read: elsewhere, a value that is not the default would do nothing."""


def check(recipe: Recipe) -> None:
    """Raise InputError for a value out of its range, and for settings that exclude each other or would do nothing.

    What only the data can tell (missing columns, too few rows) and what only the model can (widths, names of layers) is
    told when they are opened.
    """
    _check_ranges(recipe)
    _check_not_empty(recipe)
    _check_loss(recipe.loss)
    for place, source in enumerate(recipe.sources):
        _check_source(source, f"sources.{place}", recipe.loss)
    _check_combinations(recipe)


def _check_ranges(recipe: Recipe) -> None:
    for key, settings in _tables(recipe):
        for name, interval in RANGES[type(settings)].items():
            value = getattr(settings, name)
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                if not _is_within(each, interval):
                    raise InputError(f"{key}{name} is {each}; it must be {_describe_interval(interval)}.")


def _tables(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The settings and all within, each with what stands in front of its keys."""
    yield key, settings
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from _tables(value, f"{key}{field.name}.")
        elif isinstance(value, tuple):
            for place, each in enumerate(cast("tuple[Any, ...]", value)):
                if is_dataclass(each):
                    yield from _tables(each, f"{key}{field.name}.{place}.")


def _is_within(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return math.isfinite(value) and above and (value <= high if interval[-1] == "]" else value < high)


def _describe_interval(interval: str) -> str:
    low, high = (end.strip() for end in interval[1:-1].split(","))
    least = f"at least {low}" if interval[0] == "[" else f"above {low}"
    if high == "inf":
        return least
    return f"{least} and {'at most' if interval[-1] == ']' else 'below'} {high}"


def _check_not_empty(recipe: Recipe) -> None:
    if not recipe.sources:
        raise InputError("sources is empty; a recipe needs at least one, [[sources]] with a path.")
    needed = {"model": recipe.model, "output": recipe.output}
    others = {"loss.guide": recipe.loss.guide, "loss.teacher": recipe.loss.teacher}
    needed |= {key: name for key, name in others.items() if name is not None}
    for place, source in enumerate(recipe.sources):
        needed |= {f"sources.{place}.{name}": getattr(source, name) for name in ("query", "positive")}
        needed |= {f"sources.{place}.path": "".join(source.path) if all(map(str.strip, source.path)) else ""}
        needed |= {f"sources.{place}.negatives": name for name in source.negatives if not name.strip()}
    for key, value in needed.items():
        if not value.strip():
            raise InputError(f"{key} is empty; give it a value.")


def _check_loss(loss: LossSettings) -> None:
    for field in fields(loss):
        losses, value = LOSSES_BY_KEY.get(field.name), getattr(loss, field.name)
        if losses and loss.name not in losses and value != field.default:
            raise InputError(
                f"loss.{field.name} is of {', '.join(losses)}, and the loss is {loss.name}; take it out "
                f"(loss.{field.name}=none)."
            )
    if loss.scale is not None and loss.temperature is not None:
        raise InputError("loss.scale and loss.temperature are both given; one is 1 / the other, so give one.")
    if loss.learn_scale and loss.scale_warmup_steps:
        raise InputError("loss.learn_scale and loss.scale_warmup_steps are both given; a scale is learnt or scheduled.")
    scale = loss.scale or (1 / loss.temperature if loss.temperature else 1.0)
    if loss.learn_scale and not 1 <= scale <= 100:
        raise InputError(
            f"the scale is learnt between 1 and 100, and begins at {scale:g} (1 / temperature); begin within, or leave "
            "loss.learn_scale out."
        )
    for name, key, model in (("gist", "guide", loss.guide), ("cosine_distillation", "teacher", loss.teacher)):
        if loss.name == name and not model:
            raise InputError(f"the loss {name} has no {key}; give loss.{key} a model's folder, hub id or package:NAME.")


def _check_source(source: DataSource, key: str, loss: LossSettings) -> None:
    hub = [path.startswith("hf:") for path in source.path]
    if source.streaming and not all(hub):
        raise InputError(f"{key}.streaming is of data sets of the hub, path=hf:NAME; files are never held in memory.")
    if source.num_negatives is not None and not source.negatives:
        raise InputError(f"{key}.num_negatives is {source.num_negatives}, and no columns are given in {key}.negatives.")
    scored = loss.name in LABEL_LOSSES or needs_score_lists(loss)
    if scored and source.score is None:
        or_model = ", or a model in loss.teacher" if loss.name in LOSSES_BY_KEY["teacher"] else ""
        raise InputError(
            f"{key} has no score, and the loss {loss.name} learns from scores; name their column{or_model}."
        )
    if not scored and source.score is not None:
        why = (
            "the scores are those of loss.teacher"
            if loss.name in SCORE_LIST_LOSSES
            else f"the loss {loss.name} takes no scores"
        )
        raise InputError(f"{key}.score is {source.score!r}, and {why}; leave it out.")
    if needs_score_lists(loss) and not source.negatives:
        raise InputError(f"{key} has no negatives, and the loss {loss.name} compares each positive with its negatives.")
    if loss.taught == "query" and source.negatives:
        raise InputError(
            f"{key} has negatives, and with loss.taught='query' every document is a translation of its query; leave "
            "them out."
        )
    if loss.name in LABEL_LOSSES and source.negatives:
        raise InputError(f"{key} has negatives, and the loss {loss.name} is of graded pairs; leave them out.")


def needs_score_lists(loss: LossSettings) -> bool:
    """Whether each row comes with a list of a teacher's scores."""
    return loss.name in SCORE_LIST_LOSSES and loss.teacher is None


def masks_duplicates(loss: LossSettings) -> bool:
    """Whether documents that answer a query are left out of its negatives."""
    return loss.name in CONTRASTIVE_LOSSES and loss.mask_duplicates


def _check_combinations(recipe: Recipe) -> None:
    names = [source.name or default_name(source) for source in recipe.sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two sources are called {twice!r}; give one of them another name.")
    if recipe.loss.directions == "symmetric" and all(source.negatives for source in recipe.sources):
        raise InputError(
            "loss.directions is 'symmetric', which is of pairs, and every source has negatives; let it be 'one_way'."
        )
    contrasts = recipe.loss.name in ("info_nce", "gist") or (
        recipe.loss.name in SCORE_LIST_LOSSES and recipe.loss.teacher
    )
    if recipe.batch_size == 1 and contrasts and not all(source.negatives for source in recipe.sources):
        raise InputError(
            f"batch_size is 1, and the other rows are the negatives of {recipe.loss.name}; make it larger."
        )
    if recipe.validation.rows == 1:
        raise InputError(
            "validation.rows is 1: a query would be judged against its own document alone; let it be 0, or more."
        )
    if recipe.matryoshka is not None:
        _check_matryoshka_dims(recipe.matryoshka)
    if recipe.base_weight and recipe.lora is not None:
        raise InputError(
            f"base_weight is {recipe.base_weight:g}, and with lora two factors are learnt, whose blend is no blend of "
            "weights; leave one of the two out."
        )
    if recipe.lora is not None and not recipe.lora.targets:
        raise InputError("lora.targets is empty; name linear layers, such as query and value.")


def _check_matryoshka_dims(matryoshka: MatryoshkaSettings) -> None:
    dims, weights, count = matryoshka.dims, matryoshka.weights, matryoshka.n_dims_per_step
    if not dims or len({*dims}) < len(dims):
        raise InputError(f"matryoshka.dims is {list(dims)}; give at least one width, each once.")
    if weights is not None and (len(weights) != len(dims) or not any(weights)):
        raise InputError(
            f"matryoshka.weights is {list(weights)}; give one for each of the {len(dims)} dims, not all 0."
        )
    if count != -1 and not 1 <= count <= len(dims):
        raise InputError(f"matryoshka.n_dims_per_step is {count}; it must be -1, for all, or from 1 to {len(dims)}.")
