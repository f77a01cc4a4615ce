"""Reads task.json, which stands beside the files of an evaluation set and says what differs from the defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

from gnomon.errors import InputError
from gnomon.evaluate.local.rows import Kind, parse_number
from gnomon.messages import check_choice, did_you_mean, shorten_json

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
"""Kind -> the metric that mteb's own tasks of the kind are ranked by."""


def _combine_names(prefixes: str, suffixes: str) -> tuple[str, ...]:
    """Every prefix with every suffix; both are lists with spaces between."""
    return tuple(f"{prefix}{suffix}" for prefix in prefixes.split(" ") for suffix in suffixes.split(" "))


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
"""Kind -> the metrics that mteb computes, by which a set may be ranked."""


@dataclass(frozen=True)
class TaskSettings:
    """The settings in a folder's task.json."""

    name: str | None = None
    kind: Kind | None = None
    main_score: str | None = None
    languages: tuple[str, ...] = ("und-Zyyy",)
    """As mteb writes them: eng-Latn. "und-Zyyy" is an unknown language."""
    min_score: float | None = None
    max_score: float | None = None
    """The scale of the scores of pairs and summaries; None takes it from the data."""
    ignore_identical_ids: bool | None = None
    """Leave the document that has a query's own id out of its results, as mteb does for ArguAna, Quora and others. None
    leaves nothing out, and gives a Notice if there are such documents."""
    allow_missing_ids: bool = False
    """Let qrels name queries and documents that are not in the set."""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]+", value) is not None


def _are_languages(value: object) -> bool:
    languages = cast("list[object]", value) if isinstance(value, list) else []
    return bool(languages) and all(
        isinstance(language, str) and re.fullmatch(LANGUAGE_PATTERN, language) for language in languages
    )


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
"""Key of task.json -> a check of its value, and the rule in words."""
assert list(RULES) == [field.name for field in fields(TaskSettings)]


def read_settings(folder: Path) -> TaskSettings:
    """Read the task.json of a folder; the defaults if there is no such file.

    Raises:
        InputError: an unknown key, or a value that breaks its rule.
    """
    path = folder / TASK_FILE
    if not path.is_file():
        return TaskSettings()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). Correct it, or take it out.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is {shorten_json(content)}. It must be an object with keys of {', '.join(RULES)}.")
    values = cast("dict[str, Any]", content)
    for key, value in values.items():
        _check_setting(path, key, value)
    low, high = values.get("min_score"), values.get("max_score")
    if low is not None and high is not None and low >= high:
        raise InputError(f"{path}: min_score is {low:g} and max_score is {high:g}. min_score must be less.")
    if "languages" in values:
        values["languages"] = tuple(values["languages"])
    return TaskSettings(**values)


def _check_setting(path: Path, key: str, value: object) -> None:
    if key not in RULES:
        raise InputError(f"{path}: {key!r} is not one of the keys {', '.join(RULES)}.{did_you_mean(key, RULES)}")
    fits, rule = RULES[key]
    if not fits(value):
        near = did_you_mean(value, KINDS) if key == "kind" else ""
        raise InputError(f"{path}: {key} is {shorten_json(value)}. It must be {rule}.{near}")


def choose_main_score(settings: TaskSettings, kind: Kind, folder: Path) -> str:
    """The metric that a set is ranked by.

    Raises:
        InputError: task.json names one that mteb does not compute for the kind.
    """
    metric = settings.main_score or MAIN_SCORES[kind]
    check_choice(metric, f"{folder / TASK_FILE}: {kind} main_score", METRICS[kind])
    return metric
