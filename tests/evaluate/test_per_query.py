"""What a score is made of: of every kind of task the units give mteb's own score; where they do not, there are none.

N: texts; D: width of a vector.
"""

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gnomon.evaluate import per_query
from gnomon.evaluate.intervals import PerQueryScores
from gnomon.evaluate.per_query import build_per_query, collect_per_query

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of mteb, sklearn and datasets
mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")
pytest.importorskip("mteb.mocks")

from mteb import abstasks  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SEARCHED = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here: it is in the project's shared folder")
ROUNDED = 5.001e-6
"""mteb rounds the scores of retrieval to five digits."""

Scores = dict[str, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(abstasks.AbsTaskClustering, "max_documents_per_cluster", 64)
    for kind in ("Classification", "MultilabelClassification", "Regression"):
        monkeypatch.setattr(getattr(abstasks, f"AbsTask{kind}"), "n_experiments", 2)


@cache
def word_vector(word: str) -> np.ndarray:
    return np.random.default_rng(list(word.lower().strip(".,;?!").encode())).normal(size=8)


class Model:
    """mteb's encoder over numbers that are drawn by the words of a text.

    Args:
        coarse: a few values of each component, so that many scores are equal.
    """

    def __init__(self, coarse: bool = False) -> None:
        self.coarse = coarse
        self.mteb_model_meta = SimpleNamespace(name="model", revision="1", modalities=["text"], experiment_kwargs=None)

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        vectors_ND = np.array([sum(map(word_vector, text.split()[:30]), np.zeros(8)) for text in texts], np.float32)
        return np.sign(np.round(vectors_ND[:, :3])) + np.float32(0.5) if self.coarse else vectors_ND

    def similarity(self, a: Any, b: Any) -> Any:
        import torch

        return torch.from_numpy(np.atleast_2d(a).astype(np.float32) @ np.atleast_2d(b).astype(np.float32).T)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        import torch

        return torch.from_numpy((np.asarray(a) * np.asarray(b)).sum(-1))


def evaluated(task: Any, metric: str, coarse: bool = False) -> tuple[Scores, Any, dict[Any, PerQueryScores]]:
    """(mteb's scores, what was predicted, the units), as a run does it."""
    model: Any = Model(coarse)
    kind = task.metadata.type
    folder = Path(task.folder) if hasattr(task, "folder") else None
    with collect_per_query(task, metric) as queries:
        result = mteb.evaluate(
            model,
            task,
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            prediction_folder=None if kind in SEARCHED else folder,
        )
        scores = result.task_results[0].scores
        files = list(folder.glob("*.json")) if folder else []
        predicted = json.loads(files[0].read_text()) if files else {}
        return scores, predicted, build_per_query(task, kind, metric, scores, queries, predicted)


@cache
def rows(path: str, count: int) -> list[dict[str, Any]]:
    file = DATA / path
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def build(kind: str, name: str, dataset: Any, folder: Path, **settings: Any) -> Any:
    """A task of mteb over data in memory: {subset: {split: ...}}."""
    metadata = TaskMetadata(
        name=f"A{kind}",
        description=kind,
        type=kind,
        category="t2c" if kind in ("Classification", "Clustering") else "t2t",
        modalities=["text"],
        dataset={"path": "local", "revision": "1"},
        eval_splits=sorted(set[str]().union(*dataset.values()) - {"train"}),
        eval_langs={subset: ["eng-Latn"] for subset in dataset},
        main_score=name,
    )
    base = "Retrieval" if kind == "Reranking" else kind
    task = type("Task", (getattr(abstasks, f"AbsTask{base}"),), {"metadata": metadata} | settings)()
    task.dataset, task.data_loaded, task.folder = dataset, True, folder
    return task


def columns(**of: Any) -> Any:
    return datasets.Dataset.from_dict(of)


def searched(queries: int = 12, documents: int = 60) -> dict[str, Any]:
    """Of the questions and answers: the answers of these questions among others, some judged 2, 1 and 0."""
    requested, corpus = rows("retrieval_faq/queries.jsonl.gz", queries), rows("retrieval_faq/corpus.jsonl.gz", 651)
    ids = [row["_id"] for row in corpus]
    answers = ["a" + row["_id"][1:] for row in requested]
    assert set(answers) <= set(ids)
    cached = sorted(
        [row for row in corpus if row["_id"] in answers] + corpus[-documents + queries :], key=lambda row: row["_id"]
    )
    others = [row["_id"] for row in cached if row["_id"] not in answers]
    return {
        "queries": columns(id=[row["_id"] for row in requested], text=[row["text"] for row in requested]),
        "corpus": columns(
            id=[row["_id"] for row in cached], title=[""] * len(cached), text=[row["text"] for row in cached]
        ),
        "relevant_docs": {
            row["_id"]: {answer: 2, others[place]: 1, others[place + 1]: 0}
            for place, (row, answer) in enumerate(zip(requested, answers, strict=True))
        },
        "top_ranked": None,
    }


def retrieval(folder: Path) -> Any:
    return build("Retrieval", "ndcg_at_10", {"default": {"test": searched()}}, folder)


def reranking(folder: Path) -> Any:
    split = searched()
    ids = split["corpus"]["id"]
    split["top_ranked"] = {
        query: sorted({*relevant, *ids[place::6]})
        for place, (query, relevant) in enumerate(split["relevant_docs"].items())
    }
    return build("Reranking", "map_at_1000", {"default": {"test": split}}, folder)


def sts(folder: Path) -> Any:
    read = rows("sts_defs/test.jsonl", 60)
    data = columns(**{name: [row[name] for row in read] for name in ("sentence1", "sentence2", "score")})
    return build("STS", "cosine_spearman", {"default": {"test": data}}, folder, min_score=0, max_score=3)


def pairs(folder: Path) -> Any:
    read = rows("sts_defs/test.jsonl", 60)
    data = columns(
        sentence1=[row["sentence1"] for row in read],
        sentence2=[row["sentence2"] for row in read],
        labels=[row["label"] for row in read],
    )
    return build("PairClassification", "max_ap", {"default": {"test": data}}, folder)


def classification(folder: Path) -> Any:
    labels = [*dict.fromkeys(row["label"] for row in rows("classification_supersense/train.jsonl.gz", 3245))][:3]
    data: dict[str, Any] = {}
    for split, count in (("train", 3245), ("test", 1601)):
        read = [row for row in rows(f"classification_supersense/{split}.jsonl.gz", count) if row["label"] in labels]
        read = [row for label in labels for row in [each for each in read if each["label"] == label][:12]]
        data[split] = columns(text=[row["text"] for row in read], label=[row["label"] for row in read])
    return build("Classification", "accuracy", {"default": datasets.DatasetDict(data)}, folder)


def clustering(folder: Path) -> Any:
    labels = ("botany", "law", "music")
    read = [row for row in rows("clustering_topics/test.jsonl.gz", 1150) if row["label"] in labels][:60]
    data = columns(sentences=[row["text"] for row in read], labels=[row["label"] for row in read])
    options = {"max_fraction_of_documents_to_embed": None, "n_clusters": 3}
    return build("Clustering", "v_measure", {"default": {"test": data}}, folder, **options)


def bitext(folder: Path) -> Any:
    dataset = {}
    for lang in ("en-de", "en-fr"):
        read = rows(f"bitext_wesnoth/{lang}.jsonl.gz", 40)
        dataset[lang] = {
            "test": columns(sentence1=[row["sentence1"] for row in read], sentence2=[row["sentence2"] for row in read])
        }
    return build("BitextMining", "f1", dataset, folder)


def summaries(folder: Path) -> Any:
    read = rows("sts_defs/test.jsonl", 80)
    groups = [read[at : at + 5] for at in range(0, 80, 5)]
    data = columns(
        text=[group[0]["sentence1"] for group in groups],
        human_summaries=[[row["sentence1"] for row in group[:2]] for group in groups],
        machine_summaries=[[row["sentence2"] for row in group] for group in groups],
        relevance=[[float(row["score"]) for row in group] for group in groups],
    )
    return build("Summarization", "cosine_spearman", {"default": {"test": data}}, folder, min_score=0, max_score=3)


KINDS: dict[Callable[[Path], Any], tuple[str, str, int, tuple[str, ...], tuple[str, ...]]] = {
    retrieval: (
        "query",
        "mean",
        12,
        (
            "ndcg_at_10",
            "mrr_at_10",
            "mrr_at_100",
            "mrr_at_1",
            "recall_at_100",
            "recall_at_1",
            "map_at_1000",
            "precision_at_5",
        ),
        ("nauc_ndcg_at_10_max", "hit_rate_at_10"),
    ),
    reranking: ("query", "mean", 12, ("map_at_1000", "mrr_at_10", "ndcg_at_10"), ()),
    sts: ("pair", "spearman", 60, ("cosine_spearman", "spearman"), ("cosine_pearson", "manhattan_spearman")),
    pairs: ("pair", "average_precision", 60, ("max_ap", "cosine_ap", "similarity_ap", "dot_ap"), ("max_f1",)),
    classification: ("experiment", "mean", 2, ("accuracy", "f1"), ()),
    clustering: ("experiment", "mean", 3, ("v_measure",), ("v_measure_std",)),
    bitext: ("pair", "mean", 40, ("f1", "accuracy"), ("precision", "recall")),
    summaries: ("text", "mean", 16, ("cosine_spearman", "dot_spearman", "spearman"), ("cosine_pearson",)),
}
"""A kind -> its unit, its statistic, how many there are, metrics that are made of them, and some that are not."""


@needs_data
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_units_of_every_kind_give_mtebs_score(kind: Callable[[Path], Any], coarse: bool, tmp_path: Path) -> None:
    """Of real data, by a model whose scores differ, and by one whose scores are often equal."""
    unit, statistic, count, metrics, _ = KINDS[kind]
    scored: list[float] = []
    for number, metric in enumerate(metrics):
        (folder := tmp_path / str(number)).mkdir()
        scores, _, units = evaluated(kind(folder), metric, coarse)
        places = {(split, row["hf_subset"]): row for split, listed in scores.items() for row in listed}
        assert units.keys() == places.keys(), metric
        for place, row in places.items():
            each = units[place]
            assert (each.unit, each.statistic) == (unit, statistic)
            assert len(each.values) == count or (kind is summaries and 5 < len(each.values) <= count)
            assert each.compute_score() == pytest.approx(row[metric], abs=ROUNDED if unit == "query" else 1e-9), metric
            scored.append(row[metric])
    assert len(set(scored)) > 1 or len(metrics) == 1
    assert any(0 < abs(score) < 1 for score in scored)


@needs_data
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_other_metrics_have_no_units(kind: Callable[[Path], Any], tmp_path: Path) -> None:
    for number, metric in enumerate(KINDS[kind][4]):
        (folder := tmp_path / str(number)).mkdir()
        scores, _, units = evaluated(kind(folder), metric)
        assert metric in scores["test"][0]
        assert units == {}


@needs_data
def test_units_of_queries_have_their_ids_and_are_each_its_own(tmp_path: Path) -> None:
    """nDCG@10 by its definition, from what is relevant and what a search by hand finds."""
    task = retrieval(tmp_path)
    split = task.dataset["default"]["test"]
    _, _, units = evaluated(task, "ndcg_at_10")
    found = units["test", "default"]
    assert found.ids == split["queries"]["id"]
    model: Any = Model()
    queries_QD, corpus_ND = (model.encode([{"text": split[name]["text"]}]) for name in ("queries", "corpus"))
    for query, query_D, value in zip(split["queries"]["id"], queries_QD, found.values, strict=True):
        scores = dict(zip(split["corpus"]["id"], (corpus_ND @ query_D).tolist(), strict=True))
        first = sorted(scores, key=lambda document: (scores[document], document), reverse=True)[:10]
        gains = [split["relevant_docs"][query].get(document, 0) for document in first]
        ideal = 2 + 1 / np.log2(3)
        assert value == pytest.approx(
            sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) / ideal, abs=1e-6
        )


@needs_data
def test_units_of_pairs_have_their_gold(tmp_path: Path) -> None:
    for kind, gold in ((sts, "score"), (pairs, "label")):
        (folder := tmp_path / gold).mkdir()
        _, predicted, units = evaluated(kind(folder), KINDS[kind][3][1])
        assert units["test", "default"].gold == [row[gold] for row in rows("sts_defs/test.jsonl", 60)]
        name = "similarity_scores" if kind is sts else "cosine_scores"
        assert units["test", "default"].values == predicted["default"]["test"][name]


@needs_data
@pytest.mark.parametrize("kind", [sts, pairs, bitext], ids=lambda kind: kind.__name__)
def test_what_does_not_give_mtebs_score_is_left_out(kind: Callable[[Path], Any], tmp_path: Path) -> None:
    task, metric = kind(tmp_path), KINDS[kind][3][0]
    scores, predicted, units = evaluated(task, metric)
    assert len(units) == len(scores["test"])

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(each) for key, each in value.items()}
        return value[::-1] if isinstance(value, list) else value

    assert build_per_query(task, task.metadata.type, metric, scores, {}, turned(predicted)) == {}
    assert build_per_query(task, task.metadata.type, metric, scores, {}, {}) == {}


@needs_data
def test_splits_and_subsets_have_units_of_their_own(tmp_path: Path) -> None:
    dataset = {
        subset: {split: searched(queries, 40) for split, queries in (("test", first), ("validation", first + 3))}
        for subset, first in (("eng", 6), ("fra", 8))
    }
    scores, _, units = evaluated(build("Retrieval", "ndcg_at_10", dataset, tmp_path), "recall_at_1")
    assert {place: len(each.values) for place, each in units.items()} == {
        ("test", "eng"): 6,
        ("test", "fra"): 8,
        ("validation", "eng"): 9,
        ("validation", "fra"): 11,
    }
    for (split, subset), each in units.items():
        (row,) = [row for row in scores[split] if row["hf_subset"] == subset]
        assert each.compute_score() == pytest.approx(row["recall_at_1"], abs=ROUNDED)


@needs_data
@pytest.mark.parametrize("metric", ["ndcg_at_10", "mrr_at_10", "map_at_1000"])
def test_a_document_that_is_the_query_does_not_count(metric: str, tmp_path: Path) -> None:
    """Tasks of duplicates leave it out; so must what is counted here."""
    split = searched()
    texts = dict(zip(split["corpus"]["id"], split["corpus"]["text"], strict=True))
    answers = [f"a{query[1:]}" for query in split["queries"]["id"]]
    split["queries"] = columns(id=answers, text=[texts[answer] for answer in answers])
    split["relevant_docs"] = {f"a{query[1:]}": relevant for query, relevant in split["relevant_docs"].items()}
    found: list[float] = []
    for leave_out in (False, True):
        task = build("Retrieval", metric, {"default": {"test": split}}, tmp_path, ignore_identical_ids=leave_out)
        scores, _, units = evaluated(task, metric)
        assert units["test", "default"].compute_score() == pytest.approx(scores["test"][0][metric], abs=ROUNDED)
        found.append(scores["test"][0][metric])
    assert found[1] < found[0]


@needs_data
def test_queries_without_a_relevant_document_count_as_mteb_counts_them(tmp_path: Path) -> None:
    split = searched()
    first, second, *_ = split["relevant_docs"]
    split["relevant_docs"][first] = dict.fromkeys(split["relevant_docs"][first], 0)
    split["relevant_docs"][second] = {}
    for metric in ("ndcg_at_10", "mrr_at_10", "recall_at_100"):
        task = build("Retrieval", metric, {"default": {"test": split | {}}}, tmp_path)
        scores, _, units = evaluated(task, metric)
        assert units["test", "default"].compute_score() == pytest.approx(scores["test"][0][metric], abs=ROUNDED)
        assert second not in (units["test", "default"].ids or ())


def test_max_ap_is_that_of_the_best_way(tmp_path: Path) -> None:
    """Where distances are right and products wrong: alike are texts that are near, long ones have large products."""
    alike = [("ice", "ice"), ("cold wind", "cold wind"), ("a door", "a door")]
    other = [("water " * size, "water " * (3 * size)) for size in (2, 3, 5, 7)]
    data = columns(
        sentence1=[first for first, _ in alike + other],
        sentence2=[second for _, second in alike + other],
        labels=[1, 1, 1, 0, 0, 0, 0],
    )
    task = build("PairClassification", "max_ap", {"default": {"test": data}}, tmp_path)
    scores, predicted, units = evaluated(task, "max_ap")
    assert scores["test"][0]["max_ap"] == 1 > max(scores["test"][0][name] for name in ("dot_ap", "similarity_ap"))
    assert units["test", "default"].compute_score() == 1
    values = units["test", "default"].values
    assert all(values[place] == -predicted["default"]["test"]["manhattan_distances"][place] for place in range(7))


def test_pairs_in_mtebs_older_form(tmp_path: Path) -> None:
    """One row holds all."""
    data = columns(
        sentence1=[["ice", "water boils", "a door", "cold"]],
        sentence2=[["ice melts", "water", "one wind", "hot"]],
        labels=[[1, 1, 0, 0]],
    )
    task = build("PairClassification", "max_ap", {"default": {"test": data}}, tmp_path)
    scores, _, units = evaluated(task, "max_ap")
    assert units["test", "default"].compute_score() == pytest.approx(scores["test"][0]["max_ap"])
    assert units["test", "default"].gold == [1, 1, 0, 0]


def test_texts_that_are_graded_alike_are_no_units(tmp_path: Path) -> None:
    data = columns(
        text=["a", "b", "c"],
        human_summaries=[["ice melts"], ["water"], ["a door"]],
        machine_summaries=[["ice", "water", "wind"], ["cold", "hot", "door"], ["a", "door", "old"]],
        relevance=[[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [3.0, 1.0, 2.0]],
    )
    task = build("Summarization", "cosine_spearman", {"default": {"test": data}}, tmp_path, min_score=1, max_score=3)
    scores, _, units = evaluated(task, "cosine_spearman")
    assert len(units["test", "default"].values) == 2
    assert units["test", "default"].compute_score() == pytest.approx(scores["test"][0]["cosine_spearman"])


# ---- mteb's own


@pytest.mark.parametrize(
    "name", [task.metadata.name for task in mteb.mocks.MOCK_TASK_TEST_GRID if "Fast" not in task.metadata.name]
)
def test_units_of_mtebs_mock_tasks(name: str, tmp_path: Path) -> None:
    """One of every kind and several languages: where there are units, they give the score."""
    task = mteb.mocks.ALL_MOCK_TASK_REGISTRY[name]()
    task.load_data()
    task.folder = tmp_path
    metric = task.metadata.main_score
    scores, _, units = evaluated(task, metric)
    places = {(split, row["hf_subset"]): row[metric] for split, listed in scores.items() for row in listed}
    for place, each in units.items():
        assert each.compute_score() == pytest.approx(places[place], abs=ROUNDED if each.unit == "query" else 1e-9)
    lacking = {place for place in places.keys() - units.keys() if np.isfinite(places[place])}
    assert not lacking or task.metadata.type == "ZeroShotClassification"  # of which mteb says the mean alone


# ---- watching


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_is_left_as_it_was(fails: bool) -> None:
    class Task:
        def task_specific_scores(self, *of: Any, **more: Any) -> dict[str, float]:
            return {"own": 1.0}

    task = Task()
    try:
        with collect_per_query(task, "mrr_at_10") as seen:
            assert task.task_specific_scores({}, {"q": {"d": 1}}, {"q": {"d": 0.5}}, "test", "eng") == {"own": 1.0}
            if fails:
                raise KeyError("x")
    except KeyError:
        assert fails
    assert seen == {("test", "eng"): {"q": 1.0}}
    assert vars(task) == {}


def test_other_tasks_are_not_watched() -> None:
    task = SimpleNamespace()
    with collect_per_query(task, "accuracy") as seen:
        assert vars(task) == {}
    assert seen == {}


def test_texts_that_do_not_count_leave_the_others_their_names() -> None:
    """Two models may leave out different ones: they are paired by name."""
    human = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [3.0, 1.0, 2.0]]
    found = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]
    predicted = {"cosine_scores": found, "human_scores": human}
    units = per_query._build_for_summaries(None, "cosine_spearman", predicted, ("test", "default"))
    assert units is not None
    assert units.ids == ["0", "3"]
    assert units.values == pytest.approx([1.0, -0.5])
