"""Results on disk: mteb's own JSON, and beside it what gnomon knows of the run.

    OUTPUT/results/MODEL/REVISION/TASK.json            as mteb writes it: `mteb.ResultCache(OUTPUT)` reads the folder
    OUTPUT/results/MODEL/REVISION/gnomon/TASK.json     the manifest: model, prompts, lengths, versions, intervals
    OUTPUT/results/MODEL/REVISION/gnomon/TASK.units.json.gz   what each score is made of: a value a query, pair, ...

REVISION is the start of the model's fingerprint, followed by the settings that are not the model's own.
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

MANIFEST_FOLDER = "gnomon"
"""Folder of the manifests, beside mteb's files."""


@dataclass(frozen=True)
class SubsetScore:
    """The score of one subset (a language, a direction) on one split."""

    split: str
    name: str
    score: float
    """NaN where it is not defined (`Result.undefined`)."""
    interval: Interval | None
    """95 %, by bootstrap; None where the score is not made of units that are at hand."""


@dataclass(frozen=True)
class Result:
    """One task, one model, one way of running it."""

    path: Path
    """mteb's file."""
    task: str
    kind: str
    """mteb's task type: Retrieval, STS, ..."""
    metric: str
    """What is shown, in mteb's words: the task's main score (ndcg_at_10, ...), unless another was asked for."""
    subsets: tuple[SubsetScore, ...]
    scores: Mapping[str, Any]
    """mteb's scores: {split: [{"hf_subset": ..., metric: value, ...}]}."""
    manifest: Mapping[str, Any]

    @property
    def score(self) -> float:
        """The mean over splits and subsets, as mteb takes it; NaN where one of them is not defined."""
        return sum(subset.score for subset in self.subsets) / len(self.subsets)

    @property
    def undefined_reason(self) -> str:
        """Why the score is not defined; "" where it is."""
        if not math.isnan(self.score):
            return ""
        listed = self.manifest.get("undefined", [])
        parts = [each["reason"] if len(self.subsets) == 1 else f"{each['subset']}: {each['reason']}" for each in listed]
        return "; ".join(parts) or f"{self.metric} is not a number on this data"

    @property
    def model(self) -> str:
        return self.manifest["model"]["name"]

    @property
    def fingerprint(self) -> str | None:
        """Of the model's weights, spec and tokenizer; None for BM25, which has none."""
        return self.manifest["model"]["fingerprint"]

    @property
    def label(self) -> str:
        """The model and what was not its own choice: "all-MiniLM-L6-v2 (dim 128)"."""
        variant = self.manifest["variant"]
        return f"{self.model} ({variant})" if variant else self.model

    @cached_property
    def per_query(self) -> Mapping[tuple[str, str], PerQueryScores]:
        """{(split, subset): what its score is made of}; read from disk when first asked for."""
        return read_per_query(per_query_path(self.path))

    @cached_property
    def interval(self) -> Interval | None:
        """95 % of the mean over subsets, each resampled on its own; None where a subset has no units."""
        if len(self.subsets) == 1:
            return self.subsets[0].interval
        units = [self.per_query.get((subset.split, subset.name)) for subset in self.subsets]
        return bootstrap_interval([each for each in units if each is not None]) if all(units) else None


def manifest_path(result: Path) -> Path:
    return result.parent / MANIFEST_FOLDER / result.name


def per_query_path(result: Path) -> Path:
    return result.parent / MANIFEST_FOLDER / f"{result.stem}.units.json.gz"


def read_result(path: str | Path) -> Result:
    """One result, by mteb's file.

    Raises:
        InputError: not a result, or no manifest beside it.
    """
    file = Path(path)
    try:
        return _parse_result(file)
    except (LookupError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{file} and its manifest are not as gnomon evaluate writes them ({what}).") from error


def _parse_result(file: Path) -> Result:
    scores, manifest = _read_json_object(file), _read_json_object(manifest_path(file), beside=file)
    if "task_name" not in scores or "scores" not in scores:
        raise InputError(f"{file} is not a result of mteb: it has no task_name and scores.")
    metric = manifest["task"]["metric"]
    intervals = {(each["split"], each["subset"]): each["interval"] for each in manifest["intervals"]}
    lacking = [each["hf_subset"] for listed in scores["scores"].values() for each in listed if metric not in each]
    if lacking:
        raise InputError(f"{file}: subset {lacking[0]!r} has no {metric}, which its manifest names.")
    subsets = [
        SubsetScore(
            split,
            each["hf_subset"],
            math.nan if each[metric] is None else each[metric],
            _parse_interval(intervals.get((split, each["hf_subset"]))),
        )
        for split, listed in scores["scores"].items()
        for each in listed
    ]
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
    """Every result beneath a folder, or the one of a file; by model, then by task.

    Raises:
        InputError: nothing is there; a file that is not a result.
    """
    place = Path(path)
    if place.is_file():
        return [read_result(place)]
    if not place.is_dir():
        raise InputError(
            f"there is no {str(place)!r}; give a folder that gnomon evaluate wrote, or a file TASK.json of one."
        )
    files = [file.parent.parent / file.name for file in sorted(place.rglob(f"{MANIFEST_FOLDER}/*.json"))]
    results = [read_result(file) for file in files if file.is_file()]
    if not results:
        raise InputError(f"{place} holds no results; gnomon evaluate MODEL --data FOLDER --output {place} makes some.")
    return sorted(results, key=lambda result: (result.model, result.label, result.task))


def write_result(
    path: Path, scores: str, manifest: Mapping[str, Any], per_query: Mapping[tuple[str, str], PerQueryScores]
) -> None:
    """The files of one result, mteb's last: where there was none and one is, the other two are.

    Raises:
        OSError: they cannot be written.
    """
    from gnomon.files import atomic_files

    manifest_path(path).parent.mkdir(parents=True, exist_ok=True)
    listed = [{"split": split, "subset": subset} | asdict(each) for (split, subset), each in per_query.items()]
    with atomic_files(per_query_path(path), manifest_path(path), path) as files:
        files[0].write(gzip.compress(json.dumps(listed).encode(), mtime=0))
        files[1].write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        files[2].write(scores.encode())


def read_per_query(path: Path) -> dict[tuple[str, str], PerQueryScores]:
    if not path.is_file():
        return {}
    listed: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return {(each.pop("split"), each.pop("subset")): PerQueryScores(**each) for each in listed}


def require_one_model(results: Sequence[Result], path: str | Path) -> Sequence[Result]:
    """The results, if they are of one model run in one way.

    Raises:
        InputError: of several; names them.
    """
    found = sorted({(result.label, (result.fingerprint or "none")[:12]) for result in results})
    if len(found) > 1:
        named = ", ".join(f"{label} (fingerprint {fingerprint})" for label, fingerprint in found)
        raise InputError(f"{path} holds results of several models or settings: {named}. Give the folder of one.")
    return results


def summarize(result: Result, reused: bool) -> dict[str, Any]:
    """What a run says of one result; None, with the reason, where a score is not defined."""
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
    """A `summary` for a terminal: numbers first, so that they stand under each other."""
    interval = summary["interval"]
    span = f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else ""
    count = len(summary["subsets"])
    parts = [summary["task"], summary["metric"], f"{count} subsets" if count > 1 else "", summary["model"]]
    told = "was there" if summary["reused"] else f"{summary['seconds']:.1f} s"
    if summary["texts"]["cut"]:
        told += f", {summary['texts']['cut']:,} of {summary['texts']['given']:,} texts cut"
    score = "n/a   " if summary["score"] is None else f"{summary['score']:.4f}"
    reason = f": {summary['reason']}" if summary["reason"] else ""
    return f"{score}  {span:16}  {', '.join(filter(None, parts))} ({told}){reason}"


def _nan_to_none(score: float) -> float | None:
    """As JSON has it, which knows no NaN."""
    return None if math.isnan(score) else score


def _parse_interval(found: Mapping[str, float] | None) -> Interval | None:
    return Interval(found["low"], found["high"]) if found else None


def _read_json_object(path: Path, beside: Path | None = None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if beside is not None and beside.is_file():
            raise InputError(f"{beside} has no manifest at {path}: gnomon evaluate did not write it.") from None
        raise InputError(f"there is no {str(path)!r}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object.")
    return found
