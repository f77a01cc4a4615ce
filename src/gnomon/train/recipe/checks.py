"""What must hold between the keys of a recipe. Types and bounds of single keys stand in `schema`."""

from __future__ import annotations

from dataclasses import fields

from gnomon.errors import InputError
from gnomon.messages import join_words
from gnomon.train.data.build import default_name
from gnomon.train.recipe.parse import find_annotations, key_types
from gnomon.train.recipe.schema import (
    CONTRASTIVE_LOSSES,
    LABEL_LOSSES,
    LEARNED_SCALES,
    SCORE_LIST_LOSSES,
    DataSource,
    LossSettings,
    MatryoshkaSettings,
    OnlyFor,
    Recipe,
)


def check(recipe: Recipe) -> None:
    """Raise InputError for a recipe that cannot be run: a source without a path, and what `check_settings` finds.

    What depends on the data (missing columns, too few rows) or on the model (dimensions, names of layers) is checked
    when these are opened.
    """
    check_settings(recipe)
    for number, source in enumerate(recipe.sources):
        if not source.path:
            key = f"sources.{number}.path" if len(recipe.sources) > 1 else "sources.path"
            raise InputError(describe_missing_path(key, source))


def check_settings(recipe: Recipe) -> None:
    """Raise InputError for keys that exclude each other, that would do nothing, or that are empty.

    A source may lack a path: the recipes that ship name no data.
    """
    _check_not_empty(recipe)
    _check_loss(recipe.loss)
    for number, source in enumerate(recipe.sources):
        _check_source(source, f"sources.{number}", recipe.loss)
    _check_combinations(recipe)
    if recipe.matryoshka is not None:
        _check_matryoshka(recipe.matryoshka)


def describe_missing_path(key: str, source: DataSource) -> str:
    """The message for a source without a path, with the columns that its files need."""
    columns = [source.query, source.positive, *source.negatives, *filter(None, (source.score, source.instruction))]
    return (
        f"{key} is missing. A run reads only files that you name: {key}=pairs.jsonl (.jsonl, .csv, .tsv or .parquet; "
        f"hf:NAME for a data set of the hub). Here a file needs the columns {join_words(columns)}; where yours have "
        f"other names, give them too: {key.removesuffix('path')}query=NAME {key.removesuffix('path')}positive=NAME."
    )


def needs_score_lists(loss: LossSettings) -> bool:
    """Whether each row comes with a list of a teacher's scores."""
    return loss.name in SCORE_LIST_LOSSES and loss.teacher is None


def masks_duplicates(loss: LossSettings) -> bool:
    """Whether documents that answer a query are left out of its negatives."""
    return loss.name in CONTRASTIVE_LOSSES and loss.mask_duplicates


def losses_for(key: str) -> tuple[str, ...]:
    """The losses that read a key of [loss]; () for all."""
    return next((only.losses for only in find_annotations(key_types(LossSettings)[key], OnlyFor)), ())


def _check_not_empty(recipe: Recipe) -> None:
    if not recipe.sources:
        raise InputError(describe_missing_path("sources.path", DataSource(())))
    texts = {"model": recipe.model, "output": recipe.output}
    models = {"loss.guide": recipe.loss.guide, "loss.teacher": recipe.loss.teacher}
    texts |= {key: name for key, name in models.items() if name is not None}
    for number, source in enumerate(recipe.sources):
        texts |= {f"sources.{number}.{name}": getattr(source, name) for name in ("query", "positive")}
        texts |= {f"sources.{number}.path": path for path in source.path if not path.strip()}
        texts |= {f"sources.{number}.negatives": name for name in source.negatives if not name.strip()}
    for key, text in texts.items():
        if not text.strip():
            raise InputError(f"{key} is empty. Give it a value.")


def _check_loss(loss: LossSettings) -> None:
    for field in fields(loss):
        losses, value = losses_for(field.name), getattr(loss, field.name)
        if losses and loss.name not in losses and value != field.default:
            raise InputError(
                f"loss.{field.name} applies to {', '.join(losses)}, and the loss is {loss.name}. Take it out "
                f"(loss.{field.name}=none)."
            )
    if loss.scale is not None and loss.temperature is not None:
        raise InputError("loss.scale and loss.temperature are both set. One is 1 / the other, so set one of them.")
    if loss.learn_scale and loss.scale_warmup_steps:
        raise InputError(
            "loss.learn_scale and loss.scale_warmup_steps are both set. A scale is trained or scheduled, so set one."
        )
    scale, (low, high) = loss.chosen_scale or 1.0, LEARNED_SCALES
    if loss.learn_scale and not low <= scale <= high:
        raise InputError(
            f"loss.learn_scale trains the scale from {low} to {high}, and it begins at {scale:g} (1 / temperature). "
            "Begin between these, or leave loss.learn_scale out."
        )
    for name, key, model in (("gist", "guide", loss.guide), ("cosine_distillation", "teacher", loss.teacher)):
        if loss.name == name and not model:
            raise InputError(
                f"The loss {name} needs a {key}. Set loss.{key} to a model: a folder, hub id or package:NAME."
            )


def _check_source(source: DataSource, key: str, loss: LossSettings) -> None:
    if source.streaming and not all(path.startswith("hf:") for path in source.path):
        raise InputError(
            f"{key}.streaming applies to data sets of the hub (path=hf:NAME), and files are never held in memory. "
            "Leave it out."
        )
    if source.num_negatives is not None and not source.negatives:
        raise InputError(
            f"{key}.num_negatives is {source.num_negatives}, and {key}.negatives names no columns. Name them, or leave "
            "num_negatives out."
        )
    _check_score(source, key, loss)
    if needs_score_lists(loss) and not source.negatives:
        raise InputError(
            f"{key} has no negatives, and the loss {loss.name} compares each positive with its negatives. Name their "
            "columns in negatives."
        )
    if loss.distillation_target == "query" and source.negatives:
        raise InputError(
            f"{key} has negatives, and with loss.distillation_target='query' every document is a "
            "translation of its query. Leave the negatives out."
        )
    if loss.name in LABEL_LOSSES and source.negatives:
        raise InputError(
            f"{key} has negatives, and the loss {loss.name} takes pairs with one score each. Leave the negatives out."
        )


def _check_score(source: DataSource, key: str, loss: LossSettings) -> None:
    takes_score = loss.name in LABEL_LOSSES or needs_score_lists(loss)
    if takes_score and source.score is None:
        or_model = ", or a model in loss.teacher" if loss.name in losses_for("teacher") else ""
        raise InputError(f"{key} has no score, and the loss {loss.name} trains on scores. Name their column{or_model}.")
    if not takes_score and source.score is not None:
        from_teacher = loss.name in SCORE_LIST_LOSSES
        why = "the scores come from loss.teacher" if from_teacher else f"the loss {loss.name} takes no scores"
        raise InputError(f"{key}.score is {source.score!r}, and {why}. Leave it out.")


def _check_combinations(recipe: Recipe) -> None:
    names = [source.name or default_name(source) for source in recipe.sources if source.name or source.path]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"Two sources have the name {twice!r}. Give one of them another.")
    all_have_negatives = all(source.negatives for source in recipe.sources)
    if recipe.loss.directions == "symmetric" and all_have_negatives:
        raise InputError(
            "loss.directions is 'symmetric', which applies to pairs, and every source has negatives. Make it 'one_way'."
        )
    contrasts = recipe.loss.name in ("info_nce", "gist") or (
        recipe.loss.name in SCORE_LIST_LOSSES and recipe.loss.teacher
    )
    if recipe.batch_size == 1 and contrasts and not all_have_negatives:
        raise InputError(
            f"batch_size is 1, and the other rows of a batch are the negatives of {recipe.loss.name}. Make it larger."
        )
    if recipe.validation.rows == 1:
        raise InputError(
            "validation.rows is 1, and a query would have its own document as the only candidate. Set it to 0 or more."
        )
    if recipe.base_weight and recipe.lora is not None:
        raise InputError(
            f"base_weight is {recipe.base_weight:g}, and with lora two factors are trained: averages of these are not "
            "averages of the weights. Leave one of the two out."
        )
    if recipe.lora is not None and not recipe.lora.targets:
        raise InputError("lora.targets is empty. Name linear layers, such as query and value.")


def _check_matryoshka(matryoshka: MatryoshkaSettings) -> None:
    dims, weights, count = matryoshka.dims, matryoshka.weights, matryoshka.n_dims_per_step
    if not dims or len({*dims}) < len(dims):
        raise InputError(f"matryoshka.dims is {list(dims)}. Give at least one dimension, and each once.")
    if weights is not None and (len(weights) != len(dims) or not any(weights)):
        raise InputError(
            f"matryoshka.weights is {list(weights)}. Give one for each of the {len(dims)} dims, not all 0."
        )
    if count == 0 or count > len(dims):
        raise InputError(f"matryoshka.n_dims_per_step is {count}. It must be -1 for all, or from 1 to {len(dims)}.")
