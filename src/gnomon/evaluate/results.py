"""Reads and writes results: mteb's own JSON, and beside it what gnomon knows about the run.

    OUTPUT/results/MODEL/REVISION/TASK.json            as mteb writes it: `mteb.ResultCache(OUTPUT)` reads the folder
    OUTPUT/results/MODEL/REVISION/gnomon/TASK.json     the manifest: model, prompts, lengths, versions, intervals
    OUTPUT/results/MODEL/REVISION/gnomon/TASK.units.json.gz   the values of each score: one per query, pair, ...

REVISION is the start of the model's fingerprint, followed by the settings that differ from the model's own.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gnomon.errors import InputError
from gnomon.evaluate.intervals import Interval, PerQueryScores, bootstrap_interval
from gnomon.files import atomic_files
from gnomon.messages import count, list_some
from gnomon.spec import FINGERPRINT_DIGITS

MANIFEST_FOLDER = "gnomon"
"""The folder of the manifests, beside mteb's files."""


@dataclass(frozen=True)
class SubsetScore:
    """The score of one subset (a language, a direction) on one split."""

    split: str
    name: str
    score: float
    """NaN if it is not defined (`Result.undefined_reason`)."""
    interval: Interval | None
    """95 %, by bootstrap; None if the per-query values of the score are not stored."""


@dataclass(frozen=True)
class Result:
    """One task, one model, one way of running it."""

    path: Path
    """mteb's file."""
    task: str
    kind: str
    """mteb's task type: Retrieval, STS, ..."""
    metric: str
    """mteb's name of the score that is shown: the task's main score (ndcg_at_10, ...), unless another was requested."""
    subsets: tuple[SubsetScore, ...]
    scores: Mapping[str, Any]
    """mteb's scores: {split: [{"hf_subset": ..., metric: value, ...}]}."""
    manifest: Mapping[str, Any]

    @property
    def score(self) -> float:
        """The mean over splits and subsets, as in mteb; NaN if one of them is not defined."""
        return sum(subset.score for subset in self.subsets) / len(self.subsets)

    @property
    def undefined_reason(self) -> str:
        """Why the score is not defined; "" if it is."""
        if not math.isnan(self.score):
            return ""
        parts = [
            entry["reason"] if len(self.subsets) == 1 else f"{entry['subset']}: {entry['reason']}"
            for entry in self.manifest.get("undefined", [])
        ]
        return "; ".join(parts) or f"{self.metric} is not a number on this data"

    @property
    def model(self) -> str:
        return self.manifest["model"]["name"]

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model; None for BM25, which has no weights."""
        return self.manifest["model"]["fingerprint"]

    @property
    def label(self) -> str:
        """The model, and the settings that differ from its own: "all-MiniLM-L6-v2 (dim 128)"."""
        variant = self.manifest["variant"]
        return f"{self.model} ({variant})" if variant else self.model

    @cached_property
    def per_query(self) -> Mapping[tuple[str, str], PerQueryScores]:
        """{(split, subset): the values of its score}; read from disk on first use."""
        return read_per_query(per_query_path(self.path))

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean over subsets, each resampled by itself; None if values are missing."""
        if len(self.subsets) == 1:
            return self.subsets[0].interval
        values = [self.per_query.get((subset.split, subset.name)) for subset in self.subsets]
        return bootstrap_interval([scores for scores in values if scores is not None]) if all(values) else None


def manifest_path(result: Path) -> Path:
    return result.parent / MANIFEST_FOLDER / result.name


def per_query_path(result: Path) -> Path:
    return result.parent / MANIFEST_FOLDER / f"{result.stem}.units.json.gz"


def read_result(path: str | Path) -> Result:
    """Read one result.

    Args:
        path: mteb's file.

    Raises:
        InputError: not a result, or without a manifest beside it.
    """
    file = Path(path)
    try:
        return _parse_result(file)
    except (LookupError, TypeError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise InputError(f"{file} and its manifest are not as gnomon evaluate writes them ({fault}).") from error


def _parse_result(file: Path) -> Result:
    scores, manifest = _read_json_object(file), _read_json_object(manifest_path(file), beside=file)
    if "task_name" not in scores or "scores" not in scores:
        raise InputError(f"{file} is not a result of mteb: it needs task_name and scores.")
    metric = manifest["task"]["metric"]
    intervals = {(entry["split"], entry["subset"]): entry["interval"] for entry in manifest["intervals"]}
    subsets: list[SubsetScore] = []
    for split, entries in scores["scores"].items():
        for entry in entries:
            name = entry["hf_subset"]
            if metric not in entry:
                raise InputError(f"{file}: subset {name!r} has no {metric}, which its manifest names.")
            score = math.nan if entry[metric] is None else entry[metric]
            subsets.append(SubsetScore(split, name, score, _parse_interval(intervals.get((split, name)))))
    return Result(
        path=file,
        task=scores["task_name"],
        kind=manifest["task"]["kind"],
        metric=metric,
        subsets=tuple(subsets),
        scores=scores["scores"],
        manifest=manifest,
    )


def read_results(path: str | Path) -> list[Result]:
    """Read all results below a folder, or the one in a file, sorted by model and task.

    Raises:
        InputError: no results; a file that is not a result.
    """
    folder = Path(path)
    if folder.is_file():
        return [read_result(folder)]
    if not folder.is_dir():
        raise InputError(
            f"there is no {str(folder)!r}. Give a folder that gnomon evaluate wrote, or a file TASK.json in it."
        )
    files = [file.parent.parent / file.name for file in sorted(folder.rglob(f"{MANIFEST_FOLDER}/*.json"))]
    results = [read_result(file) for file in files if file.is_file()]
    if not results:
        raise InputError(f"{folder} holds no results. Run gnomon evaluate MODEL --data FOLDER --output {folder} first.")
    return sorted(results, key=lambda result: (result.model, result.label, result.task))


def write_result(
    path: Path, scores: str, manifest: Mapping[str, Any], per_query: Mapping[tuple[str, str], PerQueryScores]
) -> None:
    """Write the files of one result, mteb's last: if it exists, the other two do too.

    Raises:
        OSError: they cannot be written.
    """
    manifest_path(path).parent.mkdir(parents=True, exist_ok=True)
    entries = [{"split": split, "subset": subset} | asdict(values) for (split, subset), values in per_query.items()]
    with atomic_files(per_query_path(path), manifest_path(path), path) as files:
        files[0].write(gzip.compress(json.dumps(entries).encode(), mtime=0))
        files[1].write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        files[2].write(scores.encode())


def read_per_query(path: Path) -> dict[tuple[str, str], PerQueryScores]:
    """Read a file of per-query values as {(split, subset): values}; empty if there is no file."""
    if not path.is_file():
        return {}
    entries: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return {(entry.pop("split"), entry.pop("subset")): PerQueryScores(**entry) for entry in entries}


def require_one_model(results: Sequence[Result], path: str | Path) -> Sequence[Result]:
    """Return the results if they belong to one model, run in one way.

    Raises:
        InputError: they belong to several, which it names.
    """
    models = sorted({(result.label, (result.fingerprint or "none")[:FINGERPRINT_DIGITS]) for result in results})
    if len(models) > 1:
        names = list_some(f"{label} (fingerprint {fingerprint})" for label, fingerprint in models)
        raise InputError(f"{path} holds results of several models or settings: {names}. Give the folder of one.")
    return results


def summarize(result: Result, reused: bool) -> dict[str, Any]:
    """One result as a run reports it. A score that is not defined is None, with the reason."""
    return {
        "task": result.task,
        "model": result.label,
        "method": result.manifest["model"]["method"],
        "kind": result.kind,
        "metric": result.metric,
        "score": _nan_to_none(result.score),
        "reason": result.undefined_reason or None,
        "interval": asdict(result.interval) if result.interval else None,
        "subsets": {subset.name: _nan_to_none(subset.score) for subset in result.subsets},
        "seconds": result.manifest["seconds"]["total"],
        "texts": result.manifest["texts"],
        "reused": reused,
        "path": str(result.path),
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """A summary as a line for a terminal, with the numbers first, so that they are in columns."""
    interval = summary["interval"]
    span = f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else ""
    num_subsets = len(summary["subsets"])
    parts = [summary["task"], summary["metric"], f"{num_subsets} subsets" if num_subsets > 1 else "", summary["model"]]
    effort = "was there" if summary["reused"] else f"{summary['seconds']:.1f} s"
    num_truncated = summary["texts"]["cut"]
    if num_truncated:
        effort += f", {num_truncated:,} of {count(summary['texts']['given'], 'text')} truncated"
    score = "n/a   " if summary["score"] is None else f"{summary['score']:.4f}"
    reason = f": {summary['reason']}" if summary["reason"] else ""
    return f"{score}  {span:16}  {', '.join(filter(None, parts))} ({effort}){reason}"


def _nan_to_none(score: float) -> float | None:
    """A score for JSON, which has no NaN."""
    return None if math.isnan(score) else score


def _parse_interval(entry: Mapping[str, float] | None) -> Interval | None:
    return Interval(entry["low"], entry["high"]) if entry else None


def _read_json_object(path: Path, beside: Path | None = None) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if beside is not None and beside.is_file():
            raise InputError(
                f"{beside} has no manifest at {path}: gnomon evaluate did not write it. Run it again."
            ) from None
        raise InputError(f"there is no {str(path)!r}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object.")
    return content
