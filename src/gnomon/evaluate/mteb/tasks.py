"""Finds and loads mteb's tasks by name, and builds tasks from local data."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import ExtraError, GnomonError, InputError, SourceError
from gnomon.evaluate.local.find import Columns, LocalTask, RetrievalData
from gnomon.install import advise_install
from gnomon.messages import closest_names
from gnomon.warn import warn_caller

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

LOCO = {
    "QmsumRetrieval": "qmsum",
    "SummScreenRetrieval": "summ_screen_fd",
    "QasperAbstractRetrieval": "qasper_abstract",
    "QasperTitleRetrieval": "qasper_title",
    "GovReportRetrieval": "gov_report",
}
"""The five sets of gte's card -> `dataset` in LoCoV1 (arXiv 2402.07440)."""
LOCO_DOCUMENTS, LOCO_QUERIES = "hazyresearch/LoCoV1-Documents", "hazyresearch/LoCoV1-Queries"

MAX_RELEVANCE = 1_000_000
"""trec_eval allocates a table as long as the highest relevance, and counts it in 32 bits."""


@dataclass(frozen=True)
class TaskSet:
    """Tasks that a model card or a paper reports together."""

    name: str
    description: str
    metric: str | None
    """The metric that the card reports; None for each task's own main score."""
    build: Callable[[], list[Any]]


def load_mteb() -> Any:
    """mteb, imported on use.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        return import_module("mteb")
    except ImportError as error:
        advice = advise_install("evaluate")
        raise ExtraError(f"evaluation needs mteb, which cannot be imported ({error}). {advice}") from error


# ---- by name


def find_tasks(names: Sequence[str]) -> tuple[list[AbsTask], str | None]:
    """Find tasks by names of mteb's tasks and benchmarks, and of `TASK_SETS`: (tasks, the metric of their set).

    Raises:
        InputError: a name that neither mteb nor `TASK_SETS` has; the message offers the nearest.
        ExtraError: mteb is not installed.
    """
    mteb = load_mteb()
    tasks: list[AbsTask] = []
    metrics: set[str | None] = set()
    for name in names:
        tasks_of_name, metric = _find_by_name(mteb, name)
        tasks.extend(tasks_of_name)
        metrics.add(metric)
    return tasks, metrics.pop() if len(metrics) == 1 else None


def _find_by_name(mteb: Any, name: str) -> tuple[list[AbsTask], str | None]:
    if name in TASK_SETS:
        return TASK_SETS[name].build(), TASK_SETS[name].metric
    if name in LOCO:
        return [_build_loco_task(name, LOCO[name])], None
    from mteb.benchmarks.get_benchmark import get_benchmarks
    from mteb.get_tasks import TASK_LIST

    known = {cls.metadata.name for cls in TASK_LIST}
    if name in known:
        return [mteb.get_task(name)], None
    benchmarks = {
        alias: benchmark for benchmark in get_benchmarks() for alias in (benchmark.name, *(benchmark.aliases or ()))
    }
    if name in benchmarks:
        return _copy_tasks(benchmarks[name].tasks), None
    everything = [*TASK_SETS, *LOCO, *sorted(known), *benchmarks]
    near = closest_names(name, everything, 3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "mteb.get_tasks() lists them."
    raise InputError(f"task {name!r} is unknown: neither mteb nor gnomon has such a task, benchmark or set. {hint}")


def _copy_tasks(tasks: Sequence[AbsTask]) -> list[AbsTask]:
    """Copies, because a run sets subsets and draws random numbers, and the whole process shares a benchmark's tasks."""
    return [deepcopy(task) for task in tasks]


def check_text_only(task: AbsTask) -> None:
    """
    Raises:
        InputError: the task has images, sound or video.
    """
    other = [modality for modality in task.metadata.modalities if modality != "text"]
    if other:
        raise InputError(
            f"{task.metadata.name} needs {', '.join(other)}. The models of gnomon read text only. Leave it out."
        )


def load_task(task: AbsTask) -> None:
    """Load the data of a task from the hub or its cache, and reset its random draws.

    With reset draws, all systems that are evaluated on it get the same samples. The parts of an aggregate are loaded
    and unloaded again, to check each; mteb loads them in turn.

    Raises:
        SourceError: the data is not in the cache, and the hub cannot be reached or refuses.
    """
    task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    parts: list[AbsTask] = getattr(task.metadata, "tasks", [])
    for part in parts:
        load_task(part)
        part.unload_data()
    if parts or task.data_loaded:
        return
    name, path = task.metadata.name, task.metadata.dataset["path"]
    description = f"the data of {name} ({f'{LOCO_DOCUMENTS} and {LOCO_QUERIES}' if name in LOCO else path})"
    advice = "A folder of your own data needs no network (--data)."
    try:
        _load_data(task, task.load_data)
    except (GnomonError, MemoryError):
        raise
    except Exception as error:  # of any kind: from the hub, the cache, the network, or the task that reads their data
        command = f"python -c \"from gnomon.evaluate.mteb.tasks import fetch; fetch('{name}')\""
        raise SourceError(
            f"{description} could not be loaded ({type(error).__name__}: {error}). With a network, {command} gets it "
            f"into the cache (HF_HOME), which may be copied. {advice}"
        ) from error
    if _lacks_candidates(task):
        task.unload_data()
        raise SourceError(
            f"{description} came without the candidates of its queries, so all documents would be searched. mteb reads "
            f"candidates from the hub only, not from the cache. Run it with a network. {advice}"
        )


@contextmanager
def patch_part_loading(task: AbsTask) -> Generator[None]:
    """Within, mteb loads the parts of an aggregate task as `load_task` loads one."""
    parts: list[Any] = getattr(task.metadata, "tasks", [])
    for part in parts:
        part.load_data = partial(_load_data, part, part.load_data)
    try:
        yield
    finally:
        for part in parts:
            del part.load_data


def _load_data(task: AbsTask, load: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    load(*args, **kwargs)
    if hasattr(task, "convert_v1_dataset_format_to_v2"):  # a task that has qrels
        _clamp_relevance(task)


def _clamp_relevance(task: Any) -> None:
    """Set negative relevance labels to 0, with a warning: trec_eval crashes the process where a query has no others.

    Raises:
        InputError: a relevance that trec_eval has no room for.
    """
    task.convert_v1_dataset_format_to_v2(None)
    below = 0
    for relevant in (data["relevant_docs"] for splits in task.dataset.values() for data in splits.values()):
        for query, labels in relevant.items():
            if labels and max(labels.values()) > MAX_RELEVANCE:
                raise InputError(
                    f"{task.metadata.name}: query {query!r} has a document of relevance {max(labels.values()):,}. "
                    f"trec_eval can count to {MAX_RELEVANCE:,}. Leave the task out."
                )
            if labels and min(labels.values()) < 0:
                below += sum(relevance < 0 for relevance in labels.values())
                relevant[query] = {document: max(relevance, 0) for document, relevance in labels.items()}
    if below:
        warn_caller(f"{task.metadata.name}: {below:,} relevance labels of its qrels are below 0. They count as 0.")


def fetch(name: str) -> None:
    """Download the data of a task, benchmark or set into the cache (HF_HOME), for a machine without a network."""
    for task in find_tasks([name])[0]:
        load_task(task)
        if task.data_loaded:
            task.unload_data()


def _lacks_candidates(task: AbsTask) -> bool:
    """Whether the loaded data has no candidates, though mteb's own statistics of the task count some."""
    statistics: Mapping[str, Any] = task.metadata.descriptive_stats or {}
    splits_with_candidates = {split for split, stats in statistics.items() if stats.get("top_ranked_statistics")}
    dataset: Any = task.dataset if splits_with_candidates else None
    loaded = [
        data for splits in (dataset or {}).values() for split, data in splits.items() if split in splits_with_candidates
    ]
    return any(data.get("top_ranked") is None for data in loaded)


def _build_mteb_eng() -> list[Any]:
    return _copy_tasks(load_mteb().get_benchmark("MTEB(eng, v1)").tasks)


def _build_mr_tydi() -> list[Any]:
    return [load_mteb().get_task("MrTidyRetrieval")]


def _build_loco() -> list[Any]:
    return [_build_loco_task(name, dataset) for name, dataset in LOCO.items()]


TASK_SETS = {
    task_set.name: task_set
    for task_set in (
        TaskSet(
            "mteb-eng-56",
            "the 56 English tasks of MTEB, as the cards of 2023 and 2024 report them",
            None,
            _build_mteb_eng,
        ),
        TaskSet(
            "mr-tydi", "Mr. TyDi, 11 languages, MRR@10 as on the card of multilingual-e5", "mrr_at_10", _build_mr_tydi
        ),
        TaskSet(
            "loco", "LoCo, 5 sets of long documents, nDCG@10 as on the card of gte-v1.5", "ndcg_at_10", _build_loco
        ),
    )
}


def _build_loco_task(name: str, dataset: str) -> AbsTask:
    """Reads a set as the authors' own loader does (github.com/HazyResearch/m2)."""
    from mteb.abstasks import AbsTaskRetrieval

    class Loco(AbsTaskRetrieval):
        metadata = _build_metadata(name, "Retrieval", "ndcg_at_10", ["eng-Latn"], LOCO_DOCUMENTS, "main", "test")

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            if self.data_loaded:
                return
            from datasets import load_dataset

            def rows(path: str) -> list[dict[str, Any]]:
                table: Any = load_dataset(path, split="test")
                return [row for row in table if row["dataset"] == dataset]

            corpus = {row["pid"]: ("", row["passage"]) for row in rows(LOCO_DOCUMENTS) if row["passage"] is not None}
            queries = rows(LOCO_QUERIES)
            answers = {row["qid"]: [pid for pid in row["answer_pids"] if pid in corpus] for row in queries}
            data = RetrievalData(
                corpus,
                {row["qid"]: row["query"] for row in queries if answers[row["qid"]]},
                {query: dict.fromkeys(pids, 1) for query, pids in answers.items() if pids},
            )
            split: Any = _build_retrieval_split(data)
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Loco()


# ---- from local data


def build_local_task(local: LocalTask, split: str) -> AbsTask:
    """Build a task of mteb from local data, with mteb's class, protocol and metrics."""
    task_class = _task_classes()[local.kind]
    metadata = _build_metadata(
        local.name,
        local.kind,
        local.main_score,
        {subset: list(local.languages) for subset in local.subsets},
        f"local/{local.name}",
        local.revision,
        split,
    )

    def load_data(self: Any, num_proc: int | None = None, **options: Any) -> None:
        if not self.data_loaded:
            self.dataset = {subset: _build_splits(splits, split) for subset, splits in local.subsets.items()}
            self.data_loaded = True

    settings: dict[str, Any] = {"metadata": metadata, "load_data": load_data}
    if local.ignore_identical_ids:
        settings["ignore_identical_ids"] = True
    if local.scale:
        settings["min_score"], settings["max_score"] = local.scale
    if local.kind == "Clustering":
        settings["max_fraction_of_documents_to_embed"] = (
            None  # mteb's default of 4 % is meant for sets of a million texts
        )
    return type(local.name, (task_class,), settings)()


def _task_classes() -> dict[str, Any]:
    from mteb import abstasks

    return {
        "Retrieval": abstasks.AbsTaskRetrieval,
        "Reranking": abstasks.AbsTaskRetrieval,
        "STS": abstasks.AbsTaskSTS,
        "PairClassification": abstasks.AbsTaskPairClassification,
        "Classification": abstasks.AbsTaskClassification,
        "Clustering": abstasks.AbsTaskClustering,
        "BitextMining": abstasks.AbsTaskBitextMining,
        "Summarization": abstasks.AbsTaskSummarization,
    }


def _build_metadata(name: str, kind: Any, metric: str, languages: Any, path: str, revision: str, split: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        description=f"{kind} of {path}",
        type=kind,
        category="t2c" if kind in ("Classification", "Clustering") else "t2t",
        modalities=["text"],
        dataset={"path": path, "revision": revision},
        eval_splits=[split],
        eval_langs=languages,
        main_score=metric,
    )


def _build_splits(splits: Mapping[str, RetrievalData | Columns], evaluated: str) -> Any:
    from datasets import Dataset, DatasetDict

    retrieval = {split: data for split, data in splits.items() if isinstance(data, RetrievalData)}
    if retrieval:
        return {split: _build_retrieval_split(data) for split, data in retrieval.items()}
    columns = {split: dict(data) for split, data in splits.items() if not isinstance(data, RetrievalData)}
    if "label" in columns[evaluated]:
        number_of = _number_labels(
            columns[evaluated]["label"], [label for data in columns.values() for label in data["label"]]
        )
        for data in columns.values():
            data["label"] = [number_of[label] for label in data["label"]]
    return DatasetDict({split: Dataset.from_dict(data) for split, data in columns.items()})


def _number_labels(evaluated: Sequence[str], every: Sequence[str]) -> dict[str, int]:
    """{label: number}, the evaluated labels first: mteb's average precision of two classes needs numbers 0 and 1."""
    ordered = [*sorted(set(evaluated)), *sorted(set(every) - set(evaluated))]
    return {name: number for number, name in enumerate(ordered)}


def _build_retrieval_split(data: RetrievalData) -> dict[str, Any]:
    from datasets import Dataset

    titles, texts = zip(*data.documents.values(), strict=True)
    return {
        "corpus": Dataset.from_dict({"id": list(data.documents), "title": titles, "text": texts}),
        "queries": Dataset.from_dict({"id": list(data.queries), "text": list(data.queries.values())}),
        "relevant_docs": {query: dict(labels) for query, labels in data.relevance.items()},
        "top_ranked": None if data.candidates is None else {key: list(ids) for key, ids in data.candidates.items()},
    }
