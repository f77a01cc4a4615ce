"""Local sets through mteb's own classes, with scores computed again by other means; names; data that cannot be had."""

import json
import random
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import pytrec_eval
from datasets import Dataset
from goldens import GIST, load
from mteb.abstasks import AbsTaskRetrieval
from mteb.models.model_meta import ModelMeta
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score
from threadpoolctl import threadpool_limits

from gnomon.errors import InputError, Notice, SourceError
from gnomon.evaluate import evaluate
from gnomon.evaluate.local.find import LocalTask, read_local
from gnomon.evaluate.local.task_json import METRICS
from gnomon.evaluate.mteb.tasks import (
    LOCO,
    TASK_SETS,
    build_local_task,
    check_text_only,
    fetch,
    find_tasks,
    load_task,
    patch_part_loading,
)

pytestmark = pytest.mark.slow

NEAR = 2e-5
"""mteb rounds what it writes."""
WORDS = "moon river stone bread music winter garden letter engine silver window forest".split()

Rows = list[dict[str, Any]]


def vector(text: str) -> np.ndarray:
    """A sum of a vector a word, so that texts with common words are near."""
    words = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=16) for word in text.split()]
    return np.sum(words, 0) if words else np.ones(16)


def cosine(one: str, two: str) -> float:
    a, b = vector(one), vector(two)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


class Words:
    """A model as mteb wants one, on `vector`."""

    def __init__(self) -> None:
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "test/words", "revision": "1"})

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        return np.stack([vector(text) for batch in inputs for text in batch["text"]]).astype(np.float32)

    def similarity(self, one: Any, two: Any) -> np.ndarray:
        a, b = (np.asarray(each) / np.linalg.norm(each, axis=-1, keepdims=True) for each in (one, two))
        return a @ b.T

    def similarity_pairwise(self, one: Any, two: Any) -> np.ndarray:
        return np.diag(self.similarity(one, two))


@contextmanager
def quietly() -> Iterator[None]:
    """Without what mteb and its libraries warn developers of, and on one thread: more wait for each other here."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield


def run_evaluation(task: Any) -> list[dict[str, Any]]:
    """The rows of mteb's scores, one a subset, of the only split."""
    with quietly():
        evaluated = mteb.evaluate(Words(), task, cache=None, co2_tracker=False, show_progress_bar=False)
    (rows,) = evaluated.task_results[0].scores.values()
    return rows


def judge_local(local: LocalTask) -> dict[str, Any]:
    (row,) = run_evaluation(build_local_task(local, "test"))
    assert row["main_score"] == row[local.main_score]
    assert set(METRICS[local.kind]) <= row.keys(), "task.json may name each of these"
    return row


def sentence(draw: random.Random, length: int = 4) -> str:
    return " ".join(draw.choices(WORDS, k=length))


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def only(path: Path) -> LocalTask:
    (task,) = read_local(path)
    return task


def ndcg(grades: dict[str, dict[str, int]], runs: dict[str, dict[str, float]], measure: str) -> float:
    found = pytrec_eval.RelevanceEvaluator(grades, {measure}).evaluate(runs)
    return float(np.mean([next(iter(each.values())) for each in found.values()]))


# ---- names (in front: with torch in memory mteb seeds it for each of its thousand tasks)


@pytest.mark.parametrize(
    ("name", "count", "some", "metric"),
    [
        ("mteb-eng-56", 56, {"SummEval", "MSMARCO", "CQADupstackRetrieval", "STS22"}, None),
        ("MTEB(eng, v1)", 56, {"SummEval"}, None),
        ("MTEB(deu)", 19, {"GermanDPR"}, None),
        ("mr-tydi", 1, {"MrTidyRetrieval"}, "mrr_at_10"),
        ("loco", 5, set(LOCO), "ndcg_at_10"),
        ("QmsumRetrieval", 1, {"QmsumRetrieval"}, None),
        ("NFCorpus", 1, {"NFCorpus"}, None),
    ],
)
def test_names_are_of_tasks_benchmarks_and_sets(name: str, count: int, some: set[str], metric: str | None) -> None:
    tasks, found = find_tasks([name])
    assert (len(tasks), found) == (count, metric)
    assert some <= {task.metadata.name for task in tasks}
    for task in tasks:
        check_text_only(task)


def test_a_metric_is_that_of_one_set_alone() -> None:
    tasks, metric = find_tasks(["mr-tydi", "STS12"])
    assert ([task.metadata.name for task in tasks], metric) == (["MrTidyRetrieval", "STS12"], None)
    assert len(tasks[0].hf_subsets) == 11
    assert find_tasks([]) == ([], None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NFCorpsu", r"'NFCorpsu'.*Did you mean NFCorpus or"),
        ("nfcorpus", "Did you mean NFCorpus"),
        ("mteb-eng", r"Did you mean .*mteb-eng-56"),
        ("QmsumRetreival", "Did you mean QmsumRetrieval"),
        ("MTEB(eng, v3)", r"Did you mean .*MTEB\(eng, v2\)"),
        ("zzzzzzzzzz", r"mteb.get_tasks\(\) lists them"),
    ],
)
def test_an_unknown_name_offers_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_tasks(["STS12", name])


def test_a_task_of_images_is_refused() -> None:
    (task,), _ = find_tasks(["Caltech101"])
    with pytest.raises(InputError, match=r"Caltech101.*image"):
        check_text_only(task)


@pytest.mark.parametrize("name", ["MTEB(eng, v1)", "mteb-eng-56", "NFCorpus", "mr-tydi"])
def test_what_a_run_sets_on_a_task_is_not_there_in_the_next(name: str) -> None:
    first = find_tasks([name])[0][0]
    subsets = list(first.hf_subsets)
    first.hf_subsets = ["changed"]
    first.rng_state.random()
    second = find_tasks([name])[0][0]
    assert second.hf_subsets == subsets
    assert second.rng_state.random() == random.Random(second.seed).random()


def test_names_are_resolved_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*options: Any) -> None:
        raise AssertionError(options)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert sum(len(find_tasks([name])[0]) for name in TASK_SETS) == 62


# ---- the kinds


def beir(folder: Path, draw: random.Random) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """(documents as they are encoded, queries, grades) of a folder that is written: every title is part of the text."""
    titles = {f"d{place}": sentence(draw, 1) if place % 3 else None for place in range(30)}
    texts = {document: sentence(draw) for document in titles}
    queries = {f"q{place}": sentence(draw, 3) for place in range(8)}
    relevant = {query: dict(zip(draw.sample([*texts], 4), (0, 1, 2, 1), strict=True)) for query in queries}
    write(folder / "corpus.jsonl", [{"_id": key, "title": titles[key], "text": texts[key]} for key in texts])
    write(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in (queries | {"q9": "unused"}).items()])
    lines = [f"{query}\t{key}\t{grade}\n" for query, grades in relevant.items() for key, grade in grades.items()]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), "utf-8")
    return {key: f"{titles[key] or ''} {texts[key]}".strip() for key in texts}, queries, relevant


def test_retrieval(tmp_path: Path) -> None:
    documents, queries, relevant = beir(tmp_path, random.Random(1))
    row = judge_local(only(tmp_path))
    runs = {query: {key: cosine(text, each) for key, each in documents.items()} for query, text in queries.items()}
    assert row["ndcg_at_10"] == pytest.approx(ndcg(relevant, runs, "ndcg_cut.10"), abs=NEAR)
    assert row["recall_at_5"] == pytest.approx(ndcg(relevant, runs, "recall.5"), abs=NEAR)
    assert 0 < row["ndcg_at_10"] < 1


def test_d1_the_score_with_labels_below_zero_is_that_with_zero(tmp_path: Path) -> None:
    documents, queries, relevant = beir(tmp_path, random.Random(1))
    grades = {query: dict.fromkeys(each, -2) if query == "q0" else each for query, each in relevant.items()}
    grades["q1"] = {key: grade - (grade == 0) for key, grade in grades["q1"].items()}
    lines = [f"{query} 0 {key} {grade}\n" for query, each in grades.items() for key, grade in each.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("".join(lines), "utf-8")
    with pytest.warns(Notice):
        row = judge_local(only(tmp_path))
    runs = {query: {key: cosine(text, each) for key, each in documents.items()} for query, text in queries.items()}
    relevant["q0"] = dict.fromkeys(relevant["q0"], 0)
    for metric, measure in {"ndcg_at_10": "ndcg_cut.10", "map_at_10": "map_cut.10"}.items():
        assert row[metric] == pytest.approx(ndcg(relevant, runs, measure), abs=NEAR)


def test_d2_a_query_that_is_a_document_is_left_out_as_mteb_does(tmp_path: Path) -> None:
    documents, _, relevant = beir(tmp_path, random.Random(2))
    asked = {f"d{place}": f"q{place}" for place in range(8)}  # each document that is a query has grades of its own
    write(tmp_path / "queries.jsonl", [{"_id": key, "text": documents[key]} for key in asked])
    relevant = {key: relevant[query] | {key: 0} for key, query in asked.items()}
    lines = [f"{query} 0 {key} {grade}\n" for query, each in relevant.items() for key, grade in each.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("".join(lines), "utf-8")
    runs = {query: {key: cosine(documents[query], each) for key, each in documents.items()} for query in asked}
    with pytest.warns(Notice, match="8 of 8 queries have the id of a document"):
        as_is = judge_local(only(tmp_path))
    (tmp_path / "task.json").write_text('{"ignore_identical_ids": true}')
    ignoring = judge_local(only(tmp_path))
    without = {query: {key: score for key, score in run.items() if key != query} for query, run in runs.items()}
    assert as_is["ndcg_at_10"] == pytest.approx(ndcg(relevant, runs, "ndcg_cut.10"), abs=NEAR)
    assert ignoring["ndcg_at_10"] == pytest.approx(ndcg(relevant, without, "ndcg_cut.10"), abs=NEAR)
    assert ignoring["ndcg_at_10"] > as_is["ndcg_at_10"] + 0.01


def test_d3_absent_documents_count_in_the_ideal_ranking_as_in_mteb(tmp_path: Path) -> None:
    documents, queries, relevant = beir(tmp_path, random.Random(3))
    relevant["q0"] |= {"gone": 3}
    relevant["q1"] = {"lost": 1}
    relevant["q2"] |= {"away": 0}
    lines = [f"{query} 0 {key} {grade}\n" for query, each in relevant.items() for key, grade in each.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("q77 0 d1 1\n" + "".join(lines), "utf-8")
    with pytest.warns(Notice) as warned:
        (local,) = read_local(tmp_path, allow_missing_ids=True)
    assert "in 3 lines, first 'gone'" in str(warned[0].message)
    assert "in 1 line, first 'q77'" in str(warned[1].message)
    row = judge_local(local)
    runs = {query: {key: cosine(text, each) for key, each in documents.items()} for query, text in queries.items()}
    for metric, measure in {"ndcg_at_10": "ndcg_cut.10", "recall_at_100": "recall.100"}.items():
        assert row[metric] == pytest.approx(ndcg(relevant, runs, measure), abs=NEAR)
    assert row["recall_at_100"] == pytest.approx((3 / 4 + 0 + 6) / 8, abs=NEAR)


def test_reranking_of_a_beir_folder_with_candidates(tmp_path: Path) -> None:
    draw = random.Random(2)
    documents, queries, relevant = beir(tmp_path, draw)
    ranked = {query: draw.sample([*documents], 9) + list(relevant[query])[:2] for query in queries}
    write(tmp_path / "top_ranked.jsonl", [{"query-id": key, "corpus-ids": ids} for key, ids in ranked.items()])
    local = only(tmp_path)
    assert local.kind == "Reranking"
    runs = {query: {key: cosine(queries[query], documents[key]) for key in ids} for query, ids in ranked.items()}
    assert judge_local(local)["map_at_1000"] == pytest.approx(ndcg(relevant, runs, "map_cut.1000"), abs=NEAR)


def test_reranking_of_rows(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows: Rows = [
        {"query": sentence(draw, 3), "positive": [sentence(draw) for _ in range(2)], "negative": [sentence(draw)] * 3}
        for _ in range(6)
    ]
    row = judge_local(only(write(tmp_path / "in.jsonl", rows)))
    expected: list[float] = []
    for each in rows:
        scores = [cosine(each["query"], text) for text in [*each["positive"], each["negative"][0]]]
        # the three negatives are alike, so that all three are before a positive or behind it
        ranks = sorted(
            1 + sum(3 if place == 2 else 1 for place in range(3) if scores[place] > scores[good]) for good in (0, 1)
        )
        expected.append(np.mean([(place + 1) / rank for place, rank in enumerate(ranks)]))
    assert row["map_at_1000"] == pytest.approx(np.mean(expected), abs=NEAR)


def test_sts(tmp_path: Path) -> None:
    draw = random.Random(4)
    rows: Rows = [
        {"sentence1": sentence(draw), "sentence2": sentence(draw), "score": draw.randrange(6)} for _ in range(25)
    ]
    found = judge_local(only(write(tmp_path / "in.jsonl", rows)))["cosine_spearman"]
    cosines = [cosine(row["sentence1"], row["sentence2"]) for row in rows]
    assert found == pytest.approx(spearmanr([row["score"] for row in rows], cosines).statistic, abs=NEAR)


def test_pair_classification(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows: Rows = [
        {"sentence1": sentence(draw), "sentence2": sentence(draw), "label": bool(place % 3)} for place in range(25)
    ]
    row = judge_local(only(write(tmp_path / "in.jsonl", rows)))
    labels = [each["label"] for each in rows]
    pairs = [(vector(each["sentence1"]), vector(each["sentence2"])) for each in rows]
    ways = {
        "cosine": [cosine(each["sentence1"], each["sentence2"]) for each in rows],
        "dot": [a @ b for a, b in pairs],
        "manhattan": [-np.abs(a - b).sum() for a, b in pairs],
        "euclidean": [-np.linalg.norm(a - b) for a, b in pairs],
    }
    expected = {f"{name}_ap": average_precision_score(labels, scores) for name, scores in ways.items()}
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=NEAR)
    assert row["max_ap"] == max(row[name] for name in expected)


def test_bitext_mining(tmp_path: Path) -> None:
    draw = random.Random(6)
    ones = [sentence(draw, 6) for _ in range(20)]
    rows: Rows = [{"sentence1": one, "sentence2": f"{' '.join(one.split()[:2])} {sentence(draw)}"} for one in ones]
    found = judge_local(only(write(tmp_path / "en-xx.jsonl", rows)))
    nearest = [max(range(20), key=lambda place: cosine(one, rows[place]["sentence2"])) for one in ones]
    assert found["f1"] == pytest.approx(f1_score(range(20), nearest, average="weighted", zero_division=0), abs=NEAR)
    assert found["accuracy"] == pytest.approx(np.mean([place == at for at, place in enumerate(nearest)]), abs=NEAR)
    assert 0 < found["f1"] < 1


def test_summarization(tmp_path: Path) -> None:
    draw = random.Random(7)
    rows: Rows = [
        {
            "text": "unused",
            "human_summaries": [sentence(draw) for _ in range(3)],
            "machine_summaries": [sentence(draw) for _ in range(5)],
            "relevance": [place % 3 + draw.random() for place in range(5)],
        }
        for _ in range(4)
    ]
    rows[1]["relevance"] = [2] * 5  # graded alike: it does not count
    found = judge_local(only(write(tmp_path / "in.jsonl", rows)))["cosine_spearman"]
    expected = [
        spearmanr(
            row["relevance"],
            [max(cosine(text, human) for human in row["human_summaries"]) for text in row["machine_summaries"]],
        ).statistic
        for row in (rows[0], *rows[2:])
    ]
    assert found == pytest.approx(np.mean(expected), abs=NEAR)


def apart(labels: Sequence[Any], times: int) -> Rows:
    """Texts that share a word with those of their label and with no others."""
    return [
        {"text": f"{WORDS[place]} {WORDS[place]} {place}", "label": label} for place, label in enumerate(labels)
    ] * times


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 4], ["a", "b", "c"], [True, False], [1.0, 0.0]])
def test_classification_of_whatever_labels(tmp_path: Path, labels: list[Any]) -> None:
    """Of two labels mteb computes an average precision too, which is of 0 and 1 alone."""
    write(tmp_path / "train.jsonl", apart(labels, 4))
    write(tmp_path / "test.jsonl", apart(labels, 2))
    row = judge_local(only(tmp_path))
    assert row["accuracy"] == row["f1"] == 1
    assert (row["ap"] == 1) if len(labels) == 2 else np.isnan(row["ap"] or np.nan)


def test_classification_where_two_of_three_labels_are_evaluated(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", apart(["a", "b", "c"], 4))
    write(tmp_path / "test.jsonl", apart(["a", "b", "c"], 2)[1:3])
    assert judge_local(only(tmp_path))["accuracy"] == 1


def test_clustering_is_of_all_texts_and_the_same_whenever_it_is_run(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", apart(["x", "y", "z"], 7))
    local = only(tmp_path)

    def task() -> Any:
        found = build_local_task(local, "test")
        found.n_clusters, found.max_documents_per_cluster = 3, 60  # mteb's draws are of 16,384
        return found

    (first,) = run_evaluation(task())
    assert set(METRICS["Clustering"]) <= first.keys()
    assert 0.6 < first["v_measure"] <= 1
    second = task()
    load_task(second)
    second.rng_state.random()  # as after another model that was judged
    load_task(second)
    assert run_evaluation(second)[0]["v_measures"] == first["v_measures"]
    assert len(second.dataset["default"]["test"]) == 21


def test_subsets_and_splits_are_mtebs(tmp_path: Path) -> None:
    for lang in ("de", "fr"):
        draw = random.Random(lang)
        rows: Rows = [{"sentence1": sentence(draw), "sentence2": sentence(draw), "score": place} for place in range(5)]
        write(tmp_path / "sts" / f"{lang}.dev.jsonl", rows)
    (tmp_path / "sts" / "task.json").write_text('{"languages": ["deu-Latn"]}', "utf-8")
    (local,) = read_local(tmp_path / "sts", split="dev")
    task = build_local_task(local, "dev")
    assert (task.metadata.name, task.eval_splits, task.hf_subsets) == ("sts", ["dev"], ["de", "fr"])
    assert task.metadata.dataset == {"path": "local/sts", "revision": local.revision}
    assert task.metadata.languages == ["deu"]
    assert [row["hf_subset"] for row in run_evaluation(task)] == ["de", "fr"]
    assert (task.min_score, task.max_score) == (0, 4)


def test_local_sets_through_evaluate(tmp_path: Path) -> None:
    draw = random.Random(8)
    rows: Rows = [{"sentence1": sentence(draw), "sentence2": sentence(draw), "score": place} for place in range(9)]
    write(tmp_path / "sts" / "test.jsonl", rows)
    write(tmp_path / "mood" / "train.jsonl", apart(["good", "bad"], 4))
    write(tmp_path / "mood" / "test.jsonl", apart(["good", "bad"], 2))
    encoder = load(GIST)
    found = {each.task: each for each in evaluate(encoder, data=[tmp_path], output=tmp_path / "out", cache=False)}
    one, two = (encoder.encode([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
    assert found["sts"].score == pytest.approx(spearmanr(range(9), (one * two).sum(1)).statistic, abs=NEAR)
    assert found["mood"].score == 1


# ---- data of the hub


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("name", "source", "asked"),
    [
        ("NFCorpus", "mteb/nfcorpus", "NFCorpus"),
        ("STS12", "mteb/sts12-sts", "STS12"),
        ("MrTidyRetrieval", "mteb/mrtidy", "MrTidyRetrieval"),
        ("QmsumRetrieval", "hazyresearch/LoCoV1-Documents and hazyresearch/LoCoV1-Queries", "QmsumRetrieval"),
        ("CQADupstackRetrieval", "mteb/CQADupstackAndroidRetrieval", "CQADupstackAndroidRetrieval"),
    ],
)
@pytest.mark.parametrize("how", [fetch, lambda name: load_task(find_tasks([name])[0][0])], ids=["fetch", "load_task"])
def test_no_network_and_no_cache_says_how_to_get_the_data(
    how: Callable[[str], None], name: str, source: str, asked: str
) -> None:
    with pytest.raises(SourceError) as caught, quietly():
        how(name)
    message = str(caught.value)
    assert message.startswith(f"the data of {asked} ({source}) ")
    assert "ConnectionError: Couldn't reach '" in message
    assert f"python -c \"from gnomon.evaluate.mteb.tasks import fetch; fetch('{asked}')\"" in message
    assert "HF_HOME" in message
    assert "--data" in message


@pytest.mark.parametrize("error", [ValueError("Couldn't find cache for mteb/sts12-sts"), KeyError("score"), OSError(5)])
def test_whatever_goes_wrong_with_the_data_is_of_that_task_alone(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**options: Any) -> None:
        raise error

    (task,), _ = find_tasks(["STS12"])
    monkeypatch.setattr(task, "load_data", fail)
    with pytest.raises(SourceError, match=rf"STS12 .*could not be loaded \({type(error).__name__}: ") as found:
        load_task(task)
    assert found.value.__cause__ is error


def retrieval_data(*, candidates: bool) -> Callable[..., None]:
    """A `load_data` of one tiny split."""

    def load_data(self: Any, num_proc: int | None = None, **options: Any) -> None:
        draw = random.Random(self.metadata.name)
        documents = {f"d{place}": sentence(draw) for place in range(6)}
        split = {
            "corpus": Dataset.from_dict({"id": [*documents], "title": [""] * 6, "text": [*documents.values()]}),
            "queries": Dataset.from_dict({"id": ["q"], "text": [sentence(draw)]}),
            "relevant_docs": {"q": {"d1": 1}},
            "top_ranked": {"q": ["d1", "d2"]} if candidates else None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    return load_data


def test_a_task_made_of_others_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AbsTaskRetrieval, "load_data", retrieval_data(candidates=False))
    (task,), _ = find_tasks(["CQADupstackRetrieval"])
    load_task(task)
    parts = task.metadata.tasks
    assert len(parts) == 12
    assert not any(part.data_loaded for part in parts), "mteb loads them in turn"
    (row,) = run_evaluation(task)
    expected: list[float] = []
    for part in parts:
        part.load_data()
        data = part.dataset["default"]["test"]
        texts = zip(data["corpus"]["id"], data["corpus"]["text"], strict=True)
        run = {document: cosine(data["queries"]["text"][0], text) for document, text in texts}
        expected.append(ndcg(data["relevant_docs"], {"q": run}, "ndcg_cut.10"))
        part.unload_data()
    assert row["ndcg_at_10"] == pytest.approx(np.mean(expected), abs=NEAR)


def graded(grade: int) -> Callable[..., None]:
    """`load_data` of a task with a query whose highest grade is this, and another of grades -1 and 1."""

    def load_data(self: Any, num_proc: int | None = None, **options: Any) -> None:
        split = {
            "corpus": Dataset.from_dict({"id": ["a", "b"], "title": ["", ""], "text": WORDS[:2]}),
            "queries": Dataset.from_dict({"id": ["q", "r"], "text": WORDS[:2]}),
            "relevant_docs": {"q": {"a": grade, "b": -3}, "r": {"a": -1, "b": 1}},
            "top_ranked": None,
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return load_data


def test_d1_labels_below_zero_of_mtebs_own_tasks_count_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AbsTaskRetrieval, "load_data", graded(-2))
    (task,), _ = find_tasks(["NFCorpus"])
    with pytest.warns(Notice, match=r"NFCorpus: 3 relevance labels.*below 0"):
        load_task(task)
    assert task.dataset["default"]["test"]["relevant_docs"] == {"q": {"a": 0, "b": 0}, "r": {"a": 0, "b": 1}}
    (row,) = run_evaluation(task)
    assert row["ndcg_at_10"] == pytest.approx(0.5, abs=NEAR)


def test_d1_the_parts_of_a_task_are_mended_whenever_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AbsTaskRetrieval, "load_data", graded(-2))
    (task,), _ = find_tasks(["CQADupstackRetrieval"])
    part = task.metadata.tasks[0]
    with patch_part_loading(task), pytest.warns(Notice, match=r"3 relevance labels.*below 0"):
        part.load_data()
    assert part.dataset["default"]["test"]["relevant_docs"]["q"] == {"a": 0, "b": 0}
    part.unload_data()
    assert "load_data" not in vars(part)


def test_d1_a_grade_that_trec_eval_cannot_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AbsTaskRetrieval, "load_data", graded(2**31))
    (task,), _ = find_tasks(["NFCorpus"])
    with pytest.raises(InputError, match=r"NFCorpus: query 'q'.*2,147,483,648.*1,000,000"):
        load_task(task)


def test_reranking_without_its_candidates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """mteb reads no list of a data set's parts out of a cache, and would search all documents."""
    (task,), _ = find_tasks(["AskUbuntuDupQuestions"])
    monkeypatch.setattr(type(task), "load_data", retrieval_data(candidates=False))
    with pytest.raises(SourceError, match=r"AskUbuntuDupQuestions .*without the candidates"):
        load_task(task)
    assert not task.data_loaded
    monkeypatch.setattr(type(task), "load_data", retrieval_data(candidates=True))
    load_task(task)
    assert task.data_loaded
    (other,), _ = find_tasks(["NFCorpus"])
    monkeypatch.setattr(type(other), "load_data", retrieval_data(candidates=False))
    load_task(other)


def test_data_that_is_loaded_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (task,), _ = find_tasks(["NFCorpus"])
    monkeypatch.setattr(type(task), "load_data", retrieval_data(candidates=False))
    load_task(task)
    data = task.dataset
    task.rng_state.random()
    load_task(task)
    assert task.dataset is data
    assert task.rng_state.random() == random.Random(task.seed).random(), "the draws begin anew"


LOCO_ROWS: dict[str, Rows] = {
    "hazyresearch/LoCoV1-Queries": [
        {"dataset": "qmsum", "qid": "q1", "query": "moon river", "answer_pids": ["p1", "p2"]},
        {"dataset": "qmsum", "qid": "q2", "query": "stone", "answer_pids": ["p2"]},
        {"dataset": "qmsum", "qid": "q3", "query": "bread", "answer_pids": ["p3", "p9"]},
        {"dataset": "gov_report", "qid": "q1", "query": "engine", "answer_pids": ["p1"]},
    ],
    "hazyresearch/LoCoV1-Documents": [
        {"dataset": "qmsum", "pid": "p1", "passage": "moon river music"},
        {"dataset": "qmsum", "pid": "p2", "passage": None},
        {"dataset": "qmsum", "pid": "p3", "passage": "winter"},
        {"dataset": "gov_report", "pid": "p1", "passage": "engine silver"},
    ],
}


def test_loco_takes_the_rows_of_its_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, *, split: str) -> Dataset:
        assert split == "test"
        return Dataset.from_list(LOCO_ROWS[path])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (task,), _ = find_tasks(["QmsumRetrieval"])
    load_task(task)
    data = task.dataset["default"]["test"]
    assert data["corpus"].to_dict() == {
        "id": ["p1", "p3"],
        "title": ["", ""],
        "text": ["moon river music", "winter"],
    }
    assert data["queries"].to_dict() == {"id": ["q1", "q3"], "text": ["moon river", "bread"]}
    assert data["relevant_docs"] == {"q1": {"p1": 1}, "q3": {"p3": 1}}, "answers that are not there are left out"
    (row,) = run_evaluation(task)
    runs = {
        query: {key: cosine(text, each) for key, each in (("p1", "moon river music"), ("p3", "winter"))}
        for query, text in (("q1", "moon river"), ("q3", "bread"))
    }
    assert row["ndcg_at_10"] == pytest.approx(ndcg(data["relevant_docs"], runs, "ndcg_cut.10"), abs=NEAR)


def test_the_sets_say_what_they_are() -> None:
    assert [*TASK_SETS] == ["mteb-eng-56", "mr-tydi", "loco"]
    assert all(each.description for each in TASK_SETS.values())
