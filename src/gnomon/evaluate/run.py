"""Runs tasks and writes results: `evaluate`, what `gnomon evaluate` does."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, get_args

from gnomon.encoder import Encoder
from gnomon.errors import GnomonError, InputError, Notice
from gnomon.evaluate.cache import VectorCache
from gnomon.evaluate.intervals import PerQueryScores, bootstrap_interval
from gnomon.evaluate.local.find import SubsetFilter, read_local
from gnomon.evaluate.local.rows import normalize_split_name
from gnomon.evaluate.mteb import search as mteb_search
from gnomon.evaluate.mteb.encoder import Asking, EncodeCounters
from gnomon.evaluate.mteb.quiet import offline, silence_libraries
from gnomon.evaluate.mteb.search import HybridSearch, Method
from gnomon.evaluate.mteb.tasks import (
    build_local_task,
    check_text_only,
    find_tasks,
    load_mteb,
    load_task,
    patch_part_loading,
)
from gnomon.evaluate.per_query import build_per_query, collect_per_query, explain_undefined, noise_spread
from gnomon.evaluate.prompts import SIDE_NAMES, check_prompt_keys
from gnomon.evaluate.results import Result, read_result, write_result
from gnomon.evaluate.systems import RETRIEVAL_KINDS, Bm25Settings, System, build_systems
from gnomon.files import atomic_files
from gnomon.messages import did_you_mean
from gnomon.warn import warn_caller

RANKING_METRICS = ("ndcg", "map", "recall", "precision", "mrr", "hit_rate")
"""mteb's metrics of retrieval, each at the numbers that the task names."""

PACKAGES = ("gnomon", "mteb", "numpy", "scikit-learn", "datasets", "onnxruntime", "openvino", "torch", "bm25s")
MANIFEST_FORMAT = 1
"""Of the manifest: raised where an older result must not be taken for a new one."""


class TasksError(GnomonError, RuntimeError):
    """Some tasks failed. The results of all others are written.

    Args:
        message: what happened, task by task.
        results: those of the others.
    """

    def __init__(self, message: str, results: Sequence[Result] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


@dataclass(frozen=True)
class _Scope:
    """What of the tasks is judged, where that is not all."""

    split: str
    """Of local data; mteb's tasks say theirs."""
    subsets: tuple[str, ...]
    """Names that were asked for; a task has some of them, or no subsets at all."""
    metric: str | None

    def subsets_of(self, task: Any) -> list[str]:
        """Those of the task, of what was asked for; none where that is all of it."""
        return [subset for subset in self.subsets if subset in task.hf_subsets]

    def split_of(self, task: Any) -> str | None:
        return self.split if _is_local(task) else None

    def variant(self, task: Any) -> str:
        split, metric = self.split_of(task) or "test", self.metric_of(task)
        said = [
            f"split {split}" if split != "test" else "",
            " ".join(self.subsets_of(task)),
            f"by {metric}" if metric != task.metadata.main_score else "",
        ]
        return ", ".join(filter(None, said))

    def metric_of(self, task: Any) -> str:
        """The one that was asked for, where the task's kind has it."""
        able = self.metric and task.metadata.type in RETRIEVAL_KINDS and not task.is_aggregate
        return self.metric if self.metric and able else task.metadata.main_score


def evaluate(
    encoder: Encoder | None,
    *,
    tasks: Sequence[str] = (),
    data: Sequence[str | Path] = (),
    output: str | Path = "evaluation",
    methods: Sequence[Method] = ("dense",),
    asking: Asking | None = None,
    curve: Sequence[Asking] = (),
    bm25: Bm25Settings | None = None,
    metric: str | None = None,
    split: str = "test",
    subsets: Sequence[str] = (),
    allow_rare_labels: bool = False,
    allow_missing_ids: bool = False,
    cache: str | Path | bool = True,
    overwrite: bool = False,
    local_files_only: bool = False,
    on_result: Callable[[Result, bool], None] = lambda result, reused: None,
) -> list[Result]:
    """Judge a model on tasks of mteb and on local data, by mteb's own protocol.

    What is there already, of the same model, data and settings, is read and not run again.

    Args:
        encoder: the model; None where `methods` is BM25 alone.
        tasks: names of mteb's tasks and benchmarks, or of `tasks.SETS`.
        data: folders or files (`local.read_local`).
        output: folder of the results (`results`); `mteb.ResultCache(output)` reads it too.
        methods: of retrieval: "dense", "bm25", their fusion "hybrid" (Mr. TyDi's formula) or "rrf". Other tasks take
            the model alone.
        asking: how the model is asked, where that is not its own choice.
        curve: other ways of asking, each judged as well (`adapter.variants`).
        metric: of retrieval, in place of each task's main score, by mteb's name: "mrr_at_10", "recall_at_100".
        split: what is judged in local data.
        subsets: names of those to run, in every task that has one of them; none for all. A task without subsets is run
            whole; one that has only others is left out. Both are told.
        allow_rare_labels: judge local data with labels that are seen once.
        allow_missing_ids: judge local data whose qrels name queries or documents that are not there.
        cache: where vectors are kept: True for OUTPUT/vectors, False for memory alone.
        overwrite: run again what is there.
        local_files_only: make no request for the data of tasks; use the cache.
        on_result: called with each result, and whether it was there already.

    Raises:
        InputError: an unknown task, data that cannot be judged, a setting that the model does not have: before any text
            is encoded. ExtraError: mteb is not installed.
        TasksError: some of several tasks failed; all others were run. A single task raises what it raised.
    """
    load_mteb()
    for method in methods or [""]:
        if method not in get_args(Method):
            raise InputError(f"method {method!r} is not one of {', '.join(get_args(Method))}.")
    if encoder is None and set(methods) != {"bm25"}:
        raise InputError(f"methods {', '.join(methods)} need a model; only bm25 does without.")
    if curve and "dense" not in methods:
        raise InputError(f"a curve is of the model alone, and methods are {', '.join(methods)}; add dense.")
    if not tasks and not data:
        raise InputError("nothing to judge: name tasks (--tasks), or give folders of data (--data).")
    if split != "test" and not data:
        raise InputError(f"split {split!r} is of local data (--data); mteb's tasks are judged on splits of their own.")
    scope = _Scope(normalize_split_name(split), tuple(dict.fromkeys(subsets)), metric)
    how = {"allow_rare_labels": allow_rare_labels, "allow_missing_ids": allow_missing_ids}
    listed, scope = _collect_tasks(tasks, data, scope, how)
    ways = [asking or Asking(), *curve]
    for way in ways:
        check_prompt_keys(
            way.prompts,
            tasks=[task.metadata.name for task in listed],
            kinds=sorted({task.metadata.type for task in listed}),
        )
    folder = Path(output)
    with _open_cache(cache, folder) as vectors:
        contestants = build_systems(encoder, ways, methods, bm25 or Bm25Settings(), vectors)
        _check_tasks(listed, scope, contestants)
        _create_folder(folder)
        with offline(local_files_only):
            return _Run(folder, scope, contestants, overwrite).run_all(listed, on_result)


def _collect_tasks(
    names: Sequence[str], data: Sequence[str | Path], scope: _Scope, read_options: Mapping[str, bool]
) -> tuple[list[Any], _Scope]:
    """All tasks, checked; local ones first, which need no network.

    Args:
        how: what local data may hold, as `read_local` takes it.
    """
    choice = SubsetFilter(scope.subsets)
    read = [local for place in data for local in read_local(place, split=scope.split, subsets=choice, **read_options)]
    named, metric = find_tasks(names)
    named = [task for task in named if choice.select(task.metadata.name, task.hf_subsets)]
    choice.check()
    if scope.metric is None and not read:
        scope = _Scope(scope.split, scope.subsets, metric)
    listed = [build_local_task(local, scope.split) for local in read] + named
    seen: set[str] = set()
    for task in listed:
        check_text_only(task)
        if task.metadata.name in seen:
            raise InputError(
                f"two tasks are called {task.metadata.name}; results go by name. Leave one out, or give a folder "
                'another name in its task.json: {"name": ...}.'
            )
        seen.add(task.metadata.name)
    return listed, scope


def _check_tasks(tasks: Sequence[Any], scope: _Scope, systems: Sequence[System]) -> None:
    """What of the settings does not fit the tasks."""
    if not any(contestant.supports(task.metadata.type) for contestant in systems for task in tasks):
        kinds = ", ".join(sorted({task.metadata.type for task in tasks}))
        raise InputError(
            f"{' and '.join(each.method for each in systems)}: of retrieval alone, and these tasks are {kinds}."
        )
    alone = [task.metadata.name for task in tasks if not any(each.supports(task.metadata.type) for each in systems)]
    if alone:
        warnings.warn(f"{', '.join(alone)}: left out, since the methods are of retrieval alone.", Notice, stacklevel=3)
    if scope.metric and not any(task.metadata.type in RETRIEVAL_KINDS for task in tasks):
        raise InputError(f"metric {scope.metric!r} is of retrieval, and none of these tasks is.")
    for task in tasks:
        name = task.metadata.name
        metric = scope.metric_of(task)
        if metric != task.metadata.main_score and metric not in _available_metrics(task):
            near = did_you_mean(metric, _available_metrics(task))
            raise InputError(f"{name} has no metric {metric!r}; it has {', '.join(_available_metrics(task))}.{near}")
        fused = any(each.method == "hybrid" and each.supports(task.metadata.type) for each in systems)
        if fused and systems[0].bm25.alpha == "published":
            for subset in scope.subsets_of(task) or task.hf_subsets:
                mteb_search.published_alpha(subset)


def _available_metrics(task: Any) -> list[str]:
    return [f"{family}_at_{k}" for family in RANKING_METRICS for k in task.k_values]


def _create_folder(folder: Path) -> None:
    try:
        (folder / "results").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"no results can be written to {folder}: {error}.") from error


def _is_local(task: Any) -> bool:
    return str(getattr(task.metadata, "dataset", {}).get("path", "")).startswith("local/")


def _ignores_identical_ids(task: Any) -> bool:
    """Whether the document with a query's own id is left out of its results, in any of its parts."""
    return any(getattr(part, "ignore_identical_ids", False) for part in _task_parts(task))


def _task_parts(task: Any) -> list[Any]:
    """The tasks that have the data: those that an aggregate is made of, or itself."""
    return list(task.tasks) if task.is_aggregate else [task]


class _Run:
    """Tasks times contestants, a task at a time so that its data is loaded once."""

    def __init__(self, folder: Path, scope: _Scope, systems: Sequence[System], overwrite: bool) -> None:
        self.folder, self.scope, self.systems, self.overwrite = folder, scope, systems, overwrite
        self._first_counters: dict[str, EncodeCounters] = {}
        """What was asked of the model for a task, when it first was asked at all."""

    def run_all(self, tasks: Sequence[Any], on_result: Callable[[Result, bool], None]) -> list[Result]:
        found: list[Result] = []
        failures: dict[str, Exception] = {}
        for task in tasks:
            for result, reused in self._run_task_or_record(task, failures):
                found.append(result)
                on_result(result, reused)
        if failures and len(tasks) == 1:
            raise next(iter(failures.values()))
        if failures:
            told = "\n".join(f"{name}: {_error_text(error)}" for name, error in failures.items())
            first = next(iter(failures.values()))
            raise TasksError(f"{len(failures)} of {len(tasks)} tasks failed.\n{told}", found) from first
        return found

    def _run_task_or_record(self, task: Any, failures: dict[str, Exception]) -> Generator[tuple[Result, bool]]:
        try:
            yield from self.run_task(task)
        except Exception as error:  # whatever it is: a night's other tasks are not lost to it
            failures[task.metadata.name] = error

    def run_task(self, task: Any) -> Generator[tuple[Result, bool]]:
        """(result, whether it was there already) of each contestant."""
        able = [each for each in self.systems if each.supports(task.metadata.type)]
        if subsets := self.scope.subsets_of(task):
            task.hf_subsets = subsets
        try:
            for contestant in able:
                path = self._result_path(contestant, task)
                if (known := self._read_earlier(path, contestant, task)) is not None:
                    yield known, True
                    continue
                with silence_libraries():
                    load_task(task)  # for each, since it also puts the task's random draws back to the start
                yield self._evaluate(contestant, task, path), False
        finally:
            with silence_libraries():
                for part in _task_parts(task):
                    if part.data_loaded:
                        part.unload_data()

    def _result_path(self, system: System, task: Any) -> Path:
        meta = system.model.mteb_model_meta
        scope = self.scope.variant(task).replace(", ", "_").replace(" ", "-")
        revision = f"{meta.revision}{'_' + scope if scope else ''}".replace("/", "-")
        model = str(meta.name).replace("/", "__").replace(" ", "_")
        return self.folder / "results" / model / revision / f"{task.metadata.name}.json"

    def _read_earlier(self, path: Path, system: System, task: Any) -> Result | None:
        """What an earlier run wrote, if it is of the same model, data, settings and mteb."""
        if self.overwrite or not path.is_file():
            return None
        try:
            result = read_result(path)
        except InputError:  # damaged, or of another version
            return None
        return result if result.manifest.get("identity") == self._compute_identity(system, task) else None

    def _compute_identity(self, system: System, task: Any) -> str:
        said = {
            "format": MANIFEST_FORMAT,
            "contestant": system.identity,
            "task": [task.metadata.name, task.metadata.type, [_data_revision(part) for part in _task_parts(task)]],
            "scope": [self.scope.split_of(task), self.scope.subsets_of(task), self.scope.metric_of(task)],
            "versions": [version("gnomon"), version("mteb")],
        }
        if isinstance(system.model, HybridSearch) and _ignores_identical_ids(task):
            said["fused without identical ids"] = True  # before, such documents were fused, and left out afterwards
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def _evaluate(self, system: System, task: Any, path: Path) -> Result:
        import mteb

        import_module("sentence_transformers")  # mteb does so on use: seconds that are no task's
        kind, metric, start = task.metadata.type, self.scope.metric_of(task), monotonic()
        tally = EncodeCounters()
        if system.dense:
            system.dense.counters = tally
        parts = {part.metadata.name: part for part in _task_parts(task)}
        if isinstance(system.model, HybridSearch):
            system.model.alphas = {}
            system.model.load_splits = lambda name, subset: parts[name].dataset[subset]
            system.model.ignores_identical_ids = lambda name: _ignores_identical_ids(parts[name])
        with (
            TemporaryDirectory() as predictions,
            silence_libraries(),
            patch_part_loading(task),
            collect_per_query(task, metric) as queries,
        ):
            judged = mteb.evaluate(
                system.model_for_task(kind),
                task,
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"show_progress_bar": None},  # type: ignore[typeddict-item]  # None: our own rule
                prediction_folder=None if kind in RETRIEVAL_KINDS else predictions,
            )
            if not judged.task_results:
                raise InputError(f"{task.metadata.name} gave no result: {judged.exceptions}.")
            scored = judged.task_results[0]
            files = list(Path(predictions).glob("*.json"))
            predicted: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8")) if files else {}
            units = build_per_query(task, kind, metric, scored.scores, queries, predicted)
        for rows in scored.scores.values():
            for row in rows:
                if metric not in row:
                    raise InputError(f"{task.metadata.name} has no metric {metric!r}; it has {_metric_names(row)}.")
        if tally.num_texts:
            self._first_counters.setdefault(task.metadata.name, tally)
        if isinstance(system.model, HybridSearch):
            # what was found is remembered from one before it; and what it is tuned on is no part of what is judged
            tally = replace(
                self._first_counters[task.metadata.name], num_encoded=tally.num_encoded, seconds=tally.seconds
            )
        manifest = self._build_manifest(system, task, tally, monotonic() - start)
        places = [((split, row["hf_subset"]), row[metric]) for split, rows in scored.scores.items() for row in rows]
        manifest["intervals"] = [
            {"split": place[0], "subset": place[1], "interval": _interval_to_dict(units.get(place))}
            for place, _ in places
        ]
        manifest["undefined"] = [
            {"split": place[0], "subset": place[1], "reason": explain_undefined(kind, metric, predicted, place)}
            for place, score in places
            if math.isnan(score)
        ]
        for place, _ in places:
            if spread := noise_spread(kind, metric, predicted, place):
                warn_caller(
                    f"{task.metadata.name} ({place[1]}): the scores of all pairs lie within {spread:.1g}, so that "
                    "rounding decides their order and with it the correlation. The model sees no difference here."
                )
        _write_model_meta(path.parent, system.model.mteb_model_meta)
        path.unlink(missing_ok=True)  # an old one must not stand beside the new manifest, if this is killed now
        write_result(path, _to_mteb_json(scored), manifest, units)
        return read_result(path)

    def _build_manifest(self, system: System, task: Any, counters: EncodeCounters, seconds: float) -> dict[str, Any]:
        encoder = system.dense.encoder if system.dense else None
        metadata = task.metadata
        settings = system.settings
        if isinstance(system.model, HybridSearch) and system.model.alphas:
            settings["alphas"] = system.model.alphas
        source = encoder.checkpoint.source if encoder else None
        return {
            "gnomon": version("gnomon"),
            "format": MANIFEST_FORMAT,
            "identity": self._compute_identity(system, task),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {
                "name": system.name,
                "method": system.method,
                "fingerprint": system.dense.fingerprint if system.dense else None,
                "revision": source.revision if source else None,
            },
            "variant": ", ".join(filter(None, (system.variant, self.scope.variant(task)))),
            "task": {
                "name": metadata.name,
                "kind": metadata.type,
                "metric": self.scope.metric_of(task),
                "source": "local" if _is_local(task) else "hub",
                "dataset": metadata.dataset["path"],
                "revision": _data_revision(task),
            },
            "settings": settings,
            "prompts": [asdict(counters.prompts[of]) for of in SIDE_NAMES.values() if of in counters.prompts],
            "texts": {
                "given": counters.num_texts,
                "encoded": counters.num_encoded,
                "from_cache": counters.num_cached,
                "cut": counters.num_truncated,
            },
            "protocol": {"titles": mteb_search.TITLE_RULE, "ties": mteb_search.TIE_RULE, "seed": task.seed}
            | ({"ignore_identical_ids": _ignores_identical_ids(task)} if metadata.type in RETRIEVAL_KINDS else {}),
            "versions": _package_versions(),
            "seconds": {"total": round(seconds, 3), "encoding": round(counters.seconds, 3)},
        }


def _interval_to_dict(scores: PerQueryScores | None) -> dict[str, float] | None:
    """As the manifest holds it; None where no resample has a score."""
    found = bootstrap_interval([scores]) if scores else None
    return asdict(found) if found and not math.isnan(found.low) else None


def _data_revision(task: Any) -> str:
    return str(task.metadata.dataset["revision"])


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, GnomonError | OSError) else f"{type(error).__name__}: {error}"


def _metric_names(row: Mapping[str, Any]) -> str:
    return ", ".join(key for key, value in row.items() if isinstance(value, float) and "nauc" not in key)


def _to_mteb_json(scored: Any) -> str:
    """The file as mteb writes it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        scored.to_disk(file)
        return file.read_text(encoding="utf-8")


def _write_model_meta(folder: Path, meta: Any) -> None:
    """What `mteb.ResultCache` knows a folder by; its revision is the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    said = meta.to_dict() | {"revision": folder.name}
    with atomic_files(folder / "model_meta.json") as files:
        files[0].write((json.dumps(said, default=str, indent=2) + "\n").encode())


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _open_cache(cache: str | Path | bool, folder: Path) -> Generator[VectorCache]:
    place = None if cache is False else folder / "vectors" if cache is True else Path(cache)
    vectors = VectorCache(place)
    try:
        yield vectors
    finally:
        vectors.close()
