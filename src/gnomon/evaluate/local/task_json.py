"""task.json beside the files of an evaluation set: what of it is not as is assumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

from gnomon.errors import InputError
from gnomon.evaluate.local.rows import Kind, format_value, parse_number
from gnomon.messages import did_you_mean

TASK_FILE = "task.json"

MAIN_SCORES: dict[Kind, str] = {
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "BitextMining": "f1",
    "Summarization": "cosine_spearman",
}
"""What mteb's own tasks of a kind are ranked by."""


def _combine_names(prefixes: str, suffixes: str) -> tuple[str, ...]:
    return tuple(f"{front}{back}" for front in prefixes.split(" ") for back in suffixes.split(" "))


_RANKING_METRICS = _combine_names(
    "ndcg_at_ map_at_ recall_at_ precision_at_ mrr_at_ hit_rate_at_", "1 3 5 10 20 100 1000"
)
METRICS: dict[Kind, tuple[str, ...]] = {
    "Retrieval": _RANKING_METRICS,
    "Reranking": _RANKING_METRICS,
    "STS": ("pearson", "spearman", *_combine_names("cosine_ manhattan_ euclidean_", "pearson spearman")),
    "PairClassification": _combine_names(
        "max_ similarity_ cosine_ dot_ manhattan_ euclidean_", "ap accuracy f1 precision recall"
    ),
    "Classification": ("accuracy", *_combine_names("f1 precision recall", " _weighted")),
    "Clustering": ("v_measure", "ami"),
    "BitextMining": ("f1", "accuracy", "precision", "recall"),
    "Summarization": ("pearson", "spearman", *_combine_names("cosine_ dot_", "pearson spearman")),
}
"""What mteb computes of a kind, and a set may be ranked by."""


@dataclass(frozen=True)
class TaskSettings:
    """What a folder's task.json says."""

    name: str | None = None
    kind: Kind | None = None
    main_score: str | None = None
    languages: tuple[str, ...] = ("und-Zyyy",)
    """As mteb writes them: eng-Latn. "und-Zyyy" is a language that nobody named."""
    min_score: float | None = None
    max_score: float | None = None
    """The scale of graded pairs and summaries; None takes it from the data."""
    ignore_identical_ids: bool | None = None
    """Leave the document with a query's own id out of its results, as mteb does for ArguAna, Quora and others. None
    leaves nothing out, with a Notice where there are such documents."""
    allow_missing_ids: bool = False
    """Let qrels name queries and documents that are not in the set."""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]+", value) is not None


def _are_languages(value: object) -> bool:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    return bool(listed) and all(isinstance(each, str) and re.fullmatch(LANGUAGE_PATTERN, each) for each in listed)


def _is_number(value: object) -> bool:
    return not isinstance(value, str) and parse_number(value) is not None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


LANGUAGE_PATTERN = "[a-z]{3}-[A-Z][a-z]{3}"
KINDS: tuple[Kind, ...] = get_args(Kind)
RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_name, "a text without slashes that does not begin with a dot"),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "main_score": (lambda value: isinstance(value, str), "a text"),
    "languages": (_are_languages, 'a list of languages with their scripts, such as ["eng-Latn"]'),
    "min_score": (_is_number, "a number"),
    "max_score": (_is_number, "a number"),
    "ignore_identical_ids": (_is_bool, "true or false"),
    "allow_missing_ids": (_is_bool, "true or false"),
}
"""Key of task.json -> what its value must be."""
assert list(RULES) == [each.name for each in fields(TaskSettings)]


def read_settings(folder: Path) -> TaskSettings:
    """What the folder's task.json says, if there is one.

    Raises:
        InputError: a key that it does not have, or a value that does not fit.
    """
    path = folder / TASK_FILE
    if not path.is_file():
        return TaskSettings()
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); mend it, or take it out.") from error
    if not isinstance(said, dict):
        raise InputError(f"{path} is {format_value(said)}; it must be an object with keys of {', '.join(RULES)}.")
    found = cast("dict[str, Any]", said)
    for key, value in found.items():
        if key not in RULES:
            raise InputError(f"{path}: {key!r} is not among its keys, {', '.join(RULES)}.{did_you_mean(key, RULES)}")
        fits, rule = RULES[key]
        if not fits(value):
            near = did_you_mean(value, KINDS) if key == "kind" else ""
            raise InputError(f"{path}: {key} is {format_value(value)}; it must be {rule}.{near}")
    low, high = found.get("min_score"), found.get("max_score")
    if low is not None and high is not None and low >= high:
        raise InputError(f"{path}: min_score is {low:g} and max_score {high:g}; the first must be less.")
    if "languages" in found:
        found["languages"] = tuple(found["languages"])
    return TaskSettings(**found)


def choose_main_score(settings: TaskSettings, kind: Kind, folder: Path) -> str:
    """What a set is ranked by.

    Raises:
        InputError: a score that mteb does not compute of such a task.
    """
    score = settings.main_score or MAIN_SCORES[kind]
    if score not in METRICS[kind]:
        known = METRICS[kind]
        raise InputError(
            f"{folder / TASK_FILE}: main_score {score!r} is not one of {kind}; those are {', '.join(known)}."
            f"{did_you_mean(score, known)}"
        )
    return score
