"""Runs tasks and writes their results: `evaluate` is what `gnomon evaluate` calls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any, get_args

from gnomon.encoder import Encoder
from gnomon.errors import GnomonError, InputError
from gnomon.evaluate.cache import VectorCache
from gnomon.evaluate.intervals import PerQueryScores, bootstrap_interval
from gnomon.evaluate.local.find import SubsetFilter, read_local
from gnomon.evaluate.local.rows import normalize_split_name
from gnomon.evaluate.manifest import build_manifest, compute_identity
from gnomon.evaluate.mteb.encoder import EncodeCounters
from gnomon.evaluate.mteb.quiet import offline, silence_libraries
from gnomon.evaluate.mteb.run_task import TaskRun, run_with_mteb
from gnomon.evaluate.mteb.search import HybridSearch, Method
from gnomon.evaluate.mteb.tasks import build_local_task, check_text_only, find_tasks, load_mteb, load_task
from gnomon.evaluate.options import EvaluationOptions
from gnomon.evaluate.prompts import check_prompt_keys
from gnomon.evaluate.results import Result, read_result, write_result
from gnomon.evaluate.scope import Scope, ignores_identical_ids, task_parts
from gnomon.evaluate.systems import RETRIEVAL_KINDS, Bm25Settings, System, build_systems
from gnomon.files import write_text_atomically
from gnomon.messages import check_choice, did_you_mean, join_words
from gnomon.search.hybrid import published_alpha
from gnomon.warn import warn_caller

RANKING_METRICS = ("ndcg", "map", "recall", "precision", "mrr", "hit_rate")
"""mteb's metrics for retrieval; each task names the ranks that they look at."""


class TasksError(GnomonError, RuntimeError):
    """Some tasks failed. The results of all others are written.

    Args:
        message: what happened, task by task.
        results: the results of the other tasks.
    """

    def __init__(self, message: str, results: Sequence[Result] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


def evaluate(
    encoder: Encoder | None,
    *,
    tasks: Sequence[str] = (),
    data: Sequence[str | Path] = (),
    output: str | Path = "evaluation",
    methods: Sequence[Method] = ("dense",),
    options: EvaluationOptions | None = None,
    curve: Sequence[EvaluationOptions] = (),
    bm25: Bm25Settings | None = None,
    metric: str | None = None,
    split: str = "test",
    subsets: Sequence[str] = (),
    allow_rare_labels: bool = False,
    allow_missing_ids: bool = False,
    cache: str | Path | bool = True,
    overwrite: bool = False,
    local_files_only: bool = False,
    on_task: Callable[[str, int, int], None] = lambda task, number, total: None,
    on_result: Callable[[Result, bool], None] = lambda result, reused: None,
) -> list[Result]:
    """Evaluate a model on tasks of mteb and on local data, by mteb's own protocol.

    A result that is already in `output`, of the same model, data and settings, is read and not computed again.

    Args:
        encoder: the model; None where `methods` is BM25 alone.
        tasks: names of mteb's tasks and benchmarks, or of `TASK_SETS`.
        data: folders or files (`read_local`).
        output: the folder for results; `mteb.ResultCache(output)` reads it too.
        methods: for retrieval: "dense", "bm25", and their fusions "hybrid" (Mr. TyDi's formula) and "rrf". Other tasks
            use the model alone.
        options: how the model encodes, where that is not its own choice.
        curve: other options; the model is evaluated with each (`curve_points`).
        metric: for retrieval, in place of each task's main score, by mteb's name: "mrr_at_10", "recall_at_100".
        split: the split of local data that is evaluated.
        subsets: names of the subsets to run, in every task that has one of them; none for all. A task without subsets
            is run whole; a task that has only others is left out. A warning reports both.
        allow_rare_labels: accept local data with labels that occur once.
        allow_missing_ids: accept local data whose qrels name queries or documents that do not exist.
        cache: where vectors are cached: True for OUTPUT/vectors, False for memory alone.
        overwrite: compute results again that are already there.
        local_files_only: make no request for the data of tasks; use the cache.
        on_task: called before each task, with its name, its number from 1 and how many there are.
        on_result: called with each result, and whether it was already there.

    Raises:
        InputError: an unknown task, data that cannot be evaluated, a setting that the model does not have. It is raised
            before any text is encoded.
        ExtraError: mteb is not installed.
        TasksError: some of several tasks failed; all others were run. A single task raises its own error.
    """
    load_mteb()
    _check_arguments(encoder, tasks=tasks, data=data, methods=methods, curve=curve, split=split)
    scope = Scope(normalize_split_name(split), tuple(dict.fromkeys(subsets)), metric)
    read_options = {"allow_rare_labels": allow_rare_labels, "allow_missing_ids": allow_missing_ids}
    mteb_tasks, scope = _collect_tasks(tasks, data, scope, read_options)
    options = options or EvaluationOptions()
    for each in (options, *curve):
        check_prompt_keys(
            each.prompts,
            tasks=[task.metadata.name for task in mteb_tasks],
            kinds=sorted({task.metadata.type for task in mteb_tasks}),
        )
    folder = Path(output)
    with _open_cache(cache, folder) as vectors:
        systems = build_systems(encoder, options, curve, methods, bm25 or Bm25Settings(), vectors)
        _check_tasks(mteb_tasks, scope, systems)
        _create_folder(folder)
        with offline(local_files_only):
            return _Run(folder, scope, systems, overwrite).run_all(mteb_tasks, on_task, on_result)


def _check_arguments(
    encoder: Encoder | None,
    *,
    tasks: Sequence[str],
    data: Sequence[str | Path],
    methods: Sequence[Method],
    curve: Sequence[EvaluationOptions],
    split: str,
) -> None:
    for method in methods or [""]:
        check_choice(method, "method", get_args(Method))
    if encoder is None and set(methods) != {"bm25"}:
        raise InputError(f"methods {', '.join(methods)} need a model. Only bm25 needs none.")
    if curve and "dense" not in methods:
        raise InputError(f"a curve needs the method dense, and methods are {', '.join(methods)}. Add dense.")
    if not tasks and not data:
        raise InputError("there is nothing to evaluate. Name tasks (--tasks), or give folders of data (--data).")
    if split != "test" and not data:
        raise InputError(f"split {split!r} applies to local data only (--data). mteb's tasks have splits of their own.")


def _collect_tasks(
    names: Sequence[str], data: Sequence[str | Path], scope: Scope, read_options: Mapping[str, bool]
) -> tuple[list[Any], Scope]:
    """All tasks, checked; local ones come first, because they need no network.

    Args:
        read_options: what local data may contain, as `read_local` takes it.
    """
    subset_filter = SubsetFilter(scope.subsets)
    local_tasks = [
        local for path in data for local in read_local(path, split=scope.split, subsets=subset_filter, **read_options)
    ]
    named_tasks, metric = find_tasks(names)
    named_tasks = [task for task in named_tasks if subset_filter.select(task.metadata.name, task.hf_subsets)]
    subset_filter.check()
    if scope.metric is None and not local_tasks:
        scope = replace(scope, metric=metric)
    tasks = [build_local_task(local, scope.split) for local in local_tasks] + named_tasks
    seen: set[str] = set()
    for task in tasks:
        check_text_only(task)
        if task.metadata.name in seen:
            raise InputError(
                f"two tasks are called {task.metadata.name}. Results go by name. Leave one out, or give a folder "
                'another name in its task.json: {"name": ...}.'
            )
        seen.add(task.metadata.name)
    return tasks, scope


def _check_tasks(tasks: Sequence[Any], scope: Scope, systems: Sequence[System]) -> None:
    """
    Raises:
        InputError: methods or a metric that do not fit the tasks.
    """
    unsupported = [
        task.metadata.name for task in tasks if not any(system.supports(task.metadata.type) for system in systems)
    ]
    if len(unsupported) == len(tasks):
        kinds = ", ".join(sorted({task.metadata.type for task in tasks}))
        methods = join_words([system.method for system in systems])
        raise InputError(f"{methods}: these methods apply to retrieval only, and the tasks are {kinds}.")
    if unsupported:
        warn_caller(f"{', '.join(unsupported)}: left out, because the methods apply to retrieval only.")
    if scope.metric and not any(task.metadata.type in RETRIEVAL_KINDS for task in tasks):
        raise InputError(f"metric {scope.metric!r} applies to retrieval only, and there is no retrieval task.")
    for task in tasks:
        _check_metric(task, scope.metric_of(task))
        is_fused = any(system.method == "hybrid" and system.supports(task.metadata.type) for system in systems)
        if is_fused and systems[0].bm25.alpha == "published":
            for subset in scope.subsets_of(task) or task.hf_subsets:
                published_alpha(subset)


def _check_metric(task: Any, metric: str) -> None:
    if metric == task.metadata.main_score:
        return
    metrics = [f"{family}_at_{k}" for family in RANKING_METRICS for k in task.k_values]
    if metric not in metrics:
        near = did_you_mean(metric, metrics)
        raise InputError(f"{task.metadata.name} has no metric {metric!r}; it has {', '.join(metrics)}.{near}")


def _create_folder(folder: Path) -> None:
    try:
        (folder / "results").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"results cannot be written to {folder}: {error}.") from error


class _Run:
    """Runs every system on every task, task by task, so that the data of each is loaded once."""

    def __init__(self, folder: Path, scope: Scope, systems: Sequence[System], overwrite: bool) -> None:
        self.folder, self.scope, self.systems, self.overwrite = folder, scope, systems, overwrite
        self._first_counters: dict[str, EncodeCounters] = {}
        """By task: the counters of the first system that encoded its texts."""

    def run_all(
        self,
        tasks: Sequence[Any],
        on_task: Callable[[str, int, int], None],
        on_result: Callable[[Result, bool], None],
    ) -> list[Result]:
        results: list[Result] = []
        failures: dict[str, Exception] = {}
        for number, task in enumerate(tasks, 1):
            on_task(task.metadata.name, number, len(tasks))
            for result, reused in self._run_task_or_record(task, failures):
                results.append(result)
                on_result(result, reused)
        if failures and len(tasks) == 1:
            raise next(iter(failures.values()))
        if failures:
            lines = "\n".join(f"{name}: {_error_text(error)}" for name, error in failures.items())
            first = next(iter(failures.values()))
            raise TasksError(f"{len(failures)} of {len(tasks)} tasks failed.\n{lines}", results) from first
        return results

    def _run_task_or_record(self, task: Any, failures: dict[str, Exception]) -> Generator[tuple[Result, bool]]:
        try:
            yield from self.run_task(task)
        except Exception as error:  # of any kind: it must not cost the other tasks of a night
            failures[task.metadata.name] = error

    def run_task(self, task: Any) -> Generator[tuple[Result, bool]]:
        """(result, whether it was already there) of each system that supports the task."""
        if subsets := self.scope.subsets_of(task):
            task.hf_subsets = subsets
        try:
            for system in self.systems:
                if not system.supports(task.metadata.type):
                    continue
                path = self._result_path(system, task)
                if (earlier := self._read_earlier(path, system, task)) is not None:
                    yield earlier, True
                    continue
                with silence_libraries():
                    load_task(task)  # for each system, because it also resets the task's random draws
                yield self._evaluate(system, task, path), False
        finally:
            with silence_libraries():
                for part in task_parts(task):
                    if part.data_loaded:
                        part.unload_data()

    def _result_path(self, system: System, task: Any) -> Path:
        meta = system.model.mteb_model_meta
        scope = self.scope.variant(task).replace(", ", "_").replace(" ", "-")
        revision = f"{meta.revision}{'_' + scope if scope else ''}".replace("/", "-")
        model = str(meta.name).replace("/", "__").replace(" ", "_")
        return self.folder / "results" / model / revision / f"{task.metadata.name}.json"

    def _read_earlier(self, path: Path, system: System, task: Any) -> Result | None:
        """The result of an earlier run, if it is of the same model, data, settings and mteb."""
        if self.overwrite or not path.is_file():
            return None
        try:
            result = read_result(path)
        except InputError:  # damaged, or of another version
            return None
        return result if result.manifest.get("identity") == compute_identity(system, task, self.scope) else None

    def _evaluate(self, system: System, task: Any, path: Path) -> Result:
        """Evaluate a system on a loaded task and write the result."""
        start = monotonic()
        model = _model_for_task(system, task)
        counters = system.dense.reset_counters() if system.dense else EncodeCounters()
        run = run_with_mteb(model, task, self.scope.metric_of(task))
        alphas = model.alphas if isinstance(model, HybridSearch) else {}
        counters = self._counters_to_report(system, task, counters)
        manifest = build_manifest(
            system, task, self.scope, counters=counters, alphas=alphas, seconds=monotonic() - start
        )
        _warn_about_noise(task, run)
        _write_model_meta(path.parent, system.model.mteb_model_meta)
        path.unlink(missing_ok=True)  # an old one must not stand beside the new manifest, if this is killed now
        write_result(path, run.to_mteb_json(), manifest | _interval_entries(run), dict(run.per_query))
        return read_result(path)

    def _counters_to_report(self, system: System, task: Any, counters: EncodeCounters) -> EncodeCounters:
        if counters.num_texts:
            self._first_counters.setdefault(task.metadata.name, counters)
        if not isinstance(system.model, HybridSearch):
            return counters
        # a fusion takes cached runs, and the queries that it tunes on are not evaluated: the texts are those of the
        # first system
        first = self._first_counters[task.metadata.name]
        return replace(first, num_encoded=counters.num_encoded, seconds=counters.seconds)


def _model_for_task(system: System, task: Any) -> Any:
    if not isinstance(system.model, HybridSearch):
        return system.model_for_task(task.metadata.type)
    parts = {part.metadata.name: part for part in task_parts(task)}
    return system.model.for_task(
        load_splits=lambda name, subset: parts[name].dataset[subset],
        ignores_identical_ids=lambda name: ignores_identical_ids(parts[name]),
    )


def _interval_entries(run: TaskRun) -> dict[str, Any]:
    """The entries of the manifest about intervals and scores that are not numbers."""
    return {
        "intervals": [
            {"split": split, "subset": subset, "interval": _interval_to_dict(run.per_query.get((split, subset)))}
            for split, subset in run.scores
        ],
        "undefined": [
            {"split": split, "subset": subset, "reason": reason} for (split, subset), reason in run.undefined.items()
        ],
    }


def _interval_to_dict(scores: PerQueryScores | None) -> dict[str, float] | None:
    """An interval as the manifest holds it; None where no resample has a score."""
    interval = bootstrap_interval([scores]) if scores else None
    return asdict(interval) if interval and not math.isnan(interval.low) else None


def _warn_about_noise(task: Any, run: TaskRun) -> None:
    for (_, subset), spread in run.noise.items():
        warn_caller(
            f"{task.metadata.name} ({subset}): the scores of all pairs lie within {spread:.1g}, so that rounding "
            "decides their order and with it the correlation. The model sees no difference here."
        )


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, GnomonError | OSError) else f"{type(error).__name__}: {error}"


def _write_model_meta(folder: Path, meta: Any) -> None:
    """Write the file by which `mteb.ResultCache` recognises a folder; its revision is the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = meta.to_dict() | {"revision": folder.name}
    write_text_atomically(folder / "model_meta.json", json.dumps(entries, default=str, indent=2) + "\n")


@contextmanager
def _open_cache(cache: str | Path | bool, folder: Path) -> Generator[VectorCache]:
    path = None if cache is False else folder / "vectors" if cache is True else Path(cache)
    vectors = VectorCache(path)
    try:
        yield vectors
    finally:
        vectors.close()
