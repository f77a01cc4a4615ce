"""Evaluation sets out of folders: every kind and format, what is passed over, every error by its message."""

import gzip
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError, Notice
from gnomon.evaluate.local.find import LocalTask, RetrievalData, read_local
from gnomon.evaluate.local.task_json import METRICS
from gnomon.text_files import read_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

Rows = list[dict[str, Any]]

STS: Rows = [
    {"sentence1": "a cat", "sentence2": "one cat", "score": 3},
    {"sentence1": 'he said "no"', "sentence2": "a dog", "score": 0.5},
    {"sentence1": "é", "sentence2": "南瓜\u2028の", "score": 0},
]
PAIRS: Rows = [{"sentence1": "a", "sentence2": "b", "label": 1}, {"sentence1": "c", "sentence2": "d", "label": 0}]
BITEXT: Rows = [{"sentence1": "cat", "sentence2": "Katze"}, {"sentence1": "dog", "sentence2": "Hund"}]
LABELLED: Rows = [{"text": f"text {place}", "label": "ab"[place % 2]} for place in range(4)]
RERANKING: Rows = [
    {"query": "q", "positive": "good", "negative": "bad"},
    {"query": "r", "positive": "x", "negative": "y"},
]
SUMMARIES: Rows = [
    {"text": "t", "human_summaries": ["h", "i"], "machine_summaries": ["m", "n"], "relevance": [1, 4.5]},
    {"text": "u", "human_summaries": "j", "machine_summaries": ["o"], "relevance": [2]},
]
CORPUS: Rows = [
    {"_id": "d1", "title": "One", "text": "first"},
    {"_id": 2, "title": None, "text": "second"},
    {"_id": "d3", "title": "Three", "text": None},
]
QUERIES: Rows = [{"_id": "q1", "text": "one?"}, {"_id": "q2", "text": "two?"}, {"_id": 3, "text": "three?"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\n3\t2\t1\n"


def packed(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def table(rows: Rows, mark: str) -> str:
    """Lists do not go into one; csv quotes every cell."""

    def line(values: Any) -> str:
        cells = [str(value) for value in values]
        if mark == ",":
            cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        return mark.join(cells) + "\n"

    return line(rows[0]) + "".join(map(line, (row.values() for row in rows)))


def write(path: Path, rows: Rows) -> Path:
    """In the format that the name says."""
    if ".jsonl" in path.name:
        return packed(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return packed(path, table(rows, "," if ".csv" in path.name else "\t").encode())


def beir(folder: Path, *, qrels: str = QRELS, corpus: Rows = CORPUS, queries: Rows = QUERIES) -> Path:
    write(folder / "corpus.jsonl", corpus)
    write(folder / "queries.jsonl", queries)
    packed(folder / "qrels" / "test.tsv", qrels.encode())
    return folder


def only(place: Path, **how: Any) -> LocalTask:
    (task,) = read_local(place, **how)
    return task


def content(task: LocalTask, subset: str = "default", split: str = "test") -> Any:
    return task.subsets[subset][split]


def fails(place: Path, message: str, **how: Any) -> None:
    with pytest.raises(InputError, match=message):
        read_local(place, **how)


# ---- rows of every kind


def columns(rows: Rows, **names: str) -> dict[str, list[Any]]:
    return {name: [row[own] for row in rows] for name, own in names.items()}


SENTENCES = {"sentence1": "sentence1", "sentence2": "sentence2"}
KINDS = [
    ("STS", STS, columns(STS, **SENTENCES, score="score")),
    ("PairClassification", PAIRS, columns(PAIRS, **SENTENCES, labels="label")),
    ("BitextMining", BITEXT, columns(BITEXT, **SENTENCES)),
    ("Clustering", LABELLED, columns(LABELLED, sentences="text", labels="label")),
]


@pytest.mark.parametrize("form", ["jsonl", "tsv", "csv", "jsonl.gz", "tsv.gz"])
@pytest.mark.parametrize(("kind", "rows", "wanted"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_rows_are_the_kind_that_their_fields_say(
    tmp_path: Path, kind: str, rows: Rows, wanted: dict[str, list[Any]], form: str
) -> None:
    write(tmp_path / "my set" / f"test.{form}", rows)
    task = only(tmp_path / "my set")
    assert (task.name, task.kind, task.splits, task.folder) == ("my set", kind, ("test",), tmp_path / "my set")
    assert content(task) == wanted
    assert task.scale == ((0, 3) if kind == "STS" else None)
    assert task.languages == ("und-Zyyy",)


def test_rows_beside_training_rows_are_classification(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "t", "label": 1}, {"text": "u", "label": "2"}] * 2)
    write(tmp_path / "test.tsv", [{"sentences": "v", "labels": 2}])
    task = only(tmp_path)
    assert (task.kind, task.main_score, task.splits) == ("Classification", "accuracy", ("train", "test"))
    assert content(task, split="train") == {"text": ["t", "u"] * 2, "label": ["1", "2"] * 2}
    assert content(task) == {"text": ["v"], "label": ["2"]}


@pytest.mark.parametrize("form", ["jsonl", "tsv", "csv"])
def test_queries_with_good_and_bad_answers_are_reranking(tmp_path: Path, form: str) -> None:
    task = only(write(tmp_path / f"answers.{form}", RERANKING))
    data = content(task)
    assert (task.name, task.kind, task.main_score) == ("answers", "Reranking", "map_at_1000")
    assert data.queries == {"query0": "q", "query1": "r"}
    assert data.documents["apositive_query0_00000"] == ("", "good")
    assert data.relevance["query1"] == {"apositive_query1_00000": 1, "negative_query1_00000": 0}
    assert data.candidates == {query: list(grades) for query, grades in data.relevance.items()}


def test_several_good_and_bad_answers(tmp_path: Path) -> None:
    rows: Rows = [{"query": "q", "positive": ["a", "b"], "negative": ["a"]}]
    data = content(only(write(tmp_path / "in.jsonl", rows)))
    assert [data.documents[each][1] for each in data.candidates["query0"]] == ["a", "b", "a"]
    assert list(data.relevance["query0"].values()) == [1, 1, 0]


def test_summaries_with_their_scores(tmp_path: Path) -> None:
    task = only(write(tmp_path / "in.jsonl", SUMMARIES))
    assert (task.kind, task.scale) == ("Summarization", (1, 4.5))
    assert content(task) == {
        "text": ["t", "u"],
        "human_summaries": [["h", "i"], ["j"]],
        "machine_summaries": [["m", "n"], ["o"]],
        "relevance": [[1, 4.5], [2]],
    }


def test_scored_pairs_with_labels_are_two_sets(tmp_path: Path) -> None:
    rows = [row | {"label": place == 0} for place, row in enumerate(STS)]
    tasks = read_local(write(tmp_path / "both" / "test.jsonl", rows).parent)
    assert [(task.name, task.kind) for task in tasks] == [
        ("both-STS", "STS"),
        ("both-PairClassification", "PairClassification"),
    ]
    assert content(tasks[1])["labels"] == [1, 0, 0]
    assert len({task.revision for task in tasks}) == 2


# ---- BEIR folders


def test_a_beir_folder_is_retrieval(tmp_path: Path) -> None:
    task = only(beir(tmp_path / "faq"))
    data = content(task)
    assert (task.name, task.kind, task.main_score) == ("faq", "Retrieval", "ndcg_at_10")
    assert data.documents == {"d1": ("One", "first"), "2": ("", "second"), "d3": ("Three", "")}
    assert data.relevance == {"q1": {"d1": 2, "2": 0}, "3": {"2": 1}}
    assert data.queries == {"q1": "one?", "3": "three?"}, "q2 is not judged"
    assert data.candidates is None


BARE = "q1\td1\t2\nq1\t2\t0\n3\t2\t1\n"
TREC = "q1\t0\td1\t2\nq1\t0\t2\t0\n3\t0\t2\t1\n"
SAME_QRELS = {
    "header": ("test.tsv", QRELS),
    "other names": ("test.tsv", QRELS.replace("query-id\tcorpus-id\tscore", "qid\tdocid\trel")),
    "another order": ("test.tsv", "score\tcorpus-id\tquery-id\n2\td1\tq1\n0\t2\tq1\n1\t2\t3\n"),
    "no header": ("test.tsv", BARE),
    "trec": ("test.tsv", TREC),
    "trec with blanks": ("test.tsv", TREC.replace("\t", " ")),
    "a field more": ("test.tsv", QRELS.replace("\n", "\tx\n")),
    "Windows": ("test.tsv", "\ufeff" + QRELS.replace("\n", "\r\n")),
    "no header, Windows": ("test.tsv", "\ufeff" + BARE.replace("\n", "\r\n")),
    "empty lines": ("TEST.TSV", "\n" + QRELS.replace("\n", "\n\n")),
    "packed": ("test.tsv.gz", QRELS),
    "whole decimals": ("test.tsv", QRELS.replace("2\n", "2.0\n").replace("\t1\n", "\t1.0\n")),
    "csv": ("test.csv", QRELS.replace("\t", ",")),
    "jsonl": (
        "test.jsonl",
        """{"query-id": "q1", "corpus-id": "d1", "score": 2}
        {"query-id": "q1", "corpus-id": 2, "score": 0}
        {"query-id": 3, "corpus-id": "2", "score": 1.0}""",
    ),
}


@pytest.mark.parametrize("how", SAME_QRELS)
def test_qrels_with_and_without_a_header(tmp_path: Path, how: str) -> None:
    name, text = SAME_QRELS[how]
    wanted = only(beir(tmp_path / "faq"))
    (tmp_path / "faq" / "qrels" / "test.tsv").unlink()
    packed(tmp_path / "faq" / "qrels" / name, text.encode())
    task = only(tmp_path / "faq", split=name.split(".")[0])
    assert content(task, split=name.split(".")[0]).relevance == content(wanted).relevance
    if name.startswith("test"):
        assert task == wanted


def test_other_splits_come_with_the_evaluated_one_first(tmp_path: Path) -> None:
    folder = beir(tmp_path / "faq")
    packed(folder / "qrels" / "dev.tsv", b"q2\td3\t1\n")
    packed(folder / "qrels" / "train.tsv", b"query-id\tcorpus-id\tscore\n")
    task = only(folder)
    assert task.splits == ("test", "dev"), "an empty split beside is no use, and no harm"
    assert content(task, split="dev").queries == {"q2": "two?"}
    assert content(task, split="dev").documents is content(task).documents
    other = only(folder, split="dev")
    assert other.splits == ("dev", "test")
    assert other.revision == task.revision
    fails(folder, r"qrels/train.tsv names no relevant document", split="train")


def test_d1_labels_below_zero_count_as_zero(tmp_path: Path) -> None:
    """TREC-COVID of BEIR has some; with nothing higher for a query, trec_eval ends the process."""
    beir(tmp_path, qrels="q1 d1 1\nq1 2 -1\nq2 d1 -2\nq2 2 -2\nq2 2 -7\n3 2 -2e3\n")
    with pytest.warns(Notice) as recorded:
        task = only(tmp_path)
    assert content(task).relevance == {"q1": {"d1": 1, "2": 0}, "q2": {"d1": 0, "2": 0}, "3": {"2": 0}}
    messages = [str(warning.message) for warning in recorded]
    assert any(re.search("scores below 0 in 5 lines, .* line 2", message) for message in messages), messages
    assert any(re.search("2 of 3 queries, .*'q2'", message) for message in messages), messages


@pytest.mark.parametrize("grade", ["1001", "1e9", "4294967297", "1e400", "nan", "-inf", "1.5", "0x1", "", "true"])
def test_d1_labels_that_trec_eval_does_not_know_are_named(tmp_path: Path, grade: str) -> None:
    beir(tmp_path, qrels=f"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\t2\t{grade}\n")
    fails(tmp_path, rf"test.tsv, line 3: the score is '{grade}'.*whole number, .*1,000")


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_d1_an_id_that_ends_trec_eval_is_named(tmp_path: Path, name: str) -> None:
    """Two ids that are one up to a NUL character: its C code sees them as one, and ends the process."""
    rows: Rows = [{"_id": "a\0b", "text": "x"}, {"_id": "a\0c", "text": "y"}]
    write(beir(tmp_path) / f"{name}.jsonl", rows)
    fails(tmp_path, rf"{name}.jsonl, line 1: _id is 'a\\x00b'.* NUL character")


def test_queries_without_anything_relevant_are_reported(tmp_path: Path) -> None:
    folder = beir(tmp_path, qrels=QRELS.replace("3\t2\t1", "3\t2\t0"))
    with pytest.warns(Notice, match=r"test.tsv: no document is relevant .*to 1 of 2 queries, .*'3'"):
        task = only(folder)
    assert content(task).relevance["3"] == {"2": 0}


def test_candidates_make_it_reranking(tmp_path: Path) -> None:
    folder = beir(tmp_path / "faq")
    ranked: Rows = [
        {"query-id": "q1", "corpus-ids": ["d3", "d1", "d3"]},
        {"query-id": 3, "corpus-ids": [2]},
        {"query-id": "q2", "corpus-ids": ["d1"]},
    ]
    write(folder / "top_ranked.jsonl", ranked)
    task = only(folder)
    assert (task.kind, task.main_score) == ("Reranking", "map_at_1000")
    assert content(task).candidates == {"q1": ["d3", "d1"], "3": ["2"]}
    packed(folder / "task.json", b'{"kind": "Retrieval"}')
    assert content(only(folder)).candidates is None


BAD_BEIR: list[tuple[str, str, str]] = [
    (
        "qrels/test.tsv",
        "q1\td1\t1\nq1\td9\t1\n",
        r"test.tsv, line 2: corpus.jsonl .*document 'd9'.*--allow-missing-ids",
    ),
    ("qrels/test.tsv", QRELS + "q9\td1\t1\n", r"test.tsv, line 5: queries.jsonl .*query 'q9'.*--allow-missing-ids"),
    ("qrels/test.tsv", "", r"test.tsv holds no texts. Every line of qrels is a query, a document and a score"),
    ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"test.tsv names no relevant document .*--split"),
    ("qrels/test.tsv", "q1\td1\t0\n", r"test.tsv names no relevant document"),
    ("qrels/test.tsv", "q1\td1\t0.5\n", r"line 1: the score is '0.5'.*whole number, .*1,000"),
    ("qrels/test.tsv", "q1\td1\t1\nq1\td3\thigh\n", r"line 2: the score is 'high'.*must be a whole number"),
    ("qrels/test.tsv", "q1\td1\t2147483648\n", r"line 1: the score is '2147483648'"),
    ("qrels/test.tsv", "q1\td1\t1_0\nq1\td1\t1\n", r"the fields are q1, d1, 1_0.*qrels are query-id"),
    ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t2\n", r"line 2: 'q1' and 'd1' .*score 2 .* 1.*out"),
    ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t-1\n", r"line 2: 'q1' and 'd1' .*score -1 .* 1.*one out"),
    ("qrels/test.tsv", "q1\td1\t-2\nq1\td1\t3\n", r"line 2: 'q1' and 'd1' .*score 3 .* -2.*one out"),
    ("qrels/test.tsv", "q1\td1\t1\nq1\td1\n", r"line 2: 2 fields, .* 3"),
    ("qrels/test.tsv", "query\tdocument\nq1\td1\n", r"test.tsv: the fields are query, document.*qrels are"),
    ("qrels/test.csv", "a,b,c\n1,2,3\n", r"qrels has .*test.csv and test.tsv.*out"),
    (
        "corpus.jsonl",
        '{"_id": "d1", "text": "a"}\n\n{"_id": "d1", "text": "b"}\n',
        "line 3: _id 'd1' is in line 1",
    ),
    ("corpus.jsonl", '{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}\n', "line 2: _id '1' is in line 1 too"),
    ("corpus.jsonl", '{"text": "a"}\n', "corpus.jsonl, line 1: no field '_id'.*out"),
    ("corpus.jsonl", '{"_id": 1.5, "text": "a"}\n', "line 1: _id is 1.5.*must be a text or a whole number"),
    ("corpus.jsonl", '{"_id": "", "text": "a"}\n', "line 1: _id is ''.*must be a text"),
    ("corpus.jsonl", '{"_id": "\\ud83c", "text": "a"}\n', r"line 1: field '_id' has half a surrogate pair, \\ud83c"),
    ("corpus.jsonl", '{"_id": "d1", "text": NaN}\n', "corpus.jsonl, line 1: .*NaN.* out"),
    ("corpus.jsonl", '{"_id": null, "text": "a"}\n', "line 1: _id is null.*must be a text"),
    ("corpus.jsonl", '{"_id": "d1", "title": 5, "text": "a"}\n', "line 1: field 'title' is 5, not a string"),
    ("corpus.jsonl", '{"_id": "d1"\n', "corpus.jsonl, line 1: not JSON"),
    ("corpus.jsonl", "", "corpus.jsonl is empty"),
    ("corpus.tsv", "_id\ttext\nd1\ta\n", "has .*corpus.jsonl and corpus.tsv.*out"),
    ("queries.jsonl.gz", "", "has .*queries.jsonl and queries.jsonl.gz.*out"),
    ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": "d1"}\n', "line 1: corpus-ids is 'd1'.*must be a list"),
    ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": ["d9"]}\n', "line 1: corpus.jsonl .*document 'd9'"),
    (
        "top_ranked.jsonl",
        '{"query-id": "q1", "corpus-ids": ["d1"]}\n' * 2,
        "line 2: query 'q1' has candidates",
    ),
    (
        "top_ranked.jsonl",
        '{"query-id": "q1", "corpus-ids": ["d1"]}\n',
        "top_ranked.jsonl has no candidates for query '3'",
    ),
    ("task.json", '{"kind": "STS"}', "task.json: kind is 'STS'.* Retrieval or Reranking"),
    ("task.json", '{"kind": "Reranking"}', "has no top_ranked.jsonl"),
]


BAD_QRELS: list[tuple[str, str]] = [
    ('{"query-id": "q1", "corpus-id": "d1", "score": 1}\n{"query-id": "q1"}\n', "line 2: no field 'c"),
    ('{"query-id": "q1", "corpus-id": null, "score": 1}\n', "line 1: corpus-id is null.*must be"),
    ('{"query-id": "q1", "corpus-id": "d1", "score": NaN}\n', "line 1: .*NaN"),
    ('{"query-id": "q1", "corpus-id": "d1", "score": true}\n', "line 1: the score is true"),
    ('{"query-id": "q9", "corpus-id": "d1", "score": 1}\n', "line 1: queries.jsonl .* 'q9'"),
    ('{"query-id": "q1", "corpus-id": "d9", "score": 1}\n', "line 1: corpus.jsonl .* 'd9'"),
    ('{"query-id": "q1"', "line 1: not JSON"),
]


@pytest.mark.parametrize(("text", "message"), BAD_QRELS)
def test_d4_a_broken_split_that_is_not_evaluated_gives_a_warning(tmp_path: Path, text: str, message: str) -> None:
    wanted = only(beir(tmp_path))
    packed(tmp_path / "qrels" / "train.jsonl", text.encode())
    with pytest.warns(Notice, match=f"(?s)split train is not evaluated.*train.jsonl, {message}"):
        assert only(tmp_path) == wanted
    fails(tmp_path, message, split="train")


def test_d4_another_split_that_is_there_twice_or_lacks_candidates_gives_a_warning(tmp_path: Path) -> None:
    packed(beir(tmp_path) / "qrels" / "train.tsv", b"q2\td1\t1\n")
    write(tmp_path / "top_ranked.jsonl", [{"query-id": query, "corpus-ids": ["d1"]} for query in ("q1", 3)])
    with pytest.warns(Notice, match="top_ranked.jsonl has no candidates for query 'q2'"):
        assert only(tmp_path).splits == ("test",)
    (tmp_path / "top_ranked.jsonl").unlink()
    packed(tmp_path / "qrels" / "training.tsv", b"q2\td1\t1\n")
    with pytest.warns(Notice, match="qrels has .*train.tsv and training.tsv.*out"):
        assert only(tmp_path).splits == ("test",)


@pytest.mark.parametrize("text", ["", "{", '{"anchor": "a", "positive": "b"}\n', '{"text": 5, "label": null}\n'])
@pytest.mark.parametrize(("rows", "name"), [(STS, "train"), (STS, "dev"), (LABELLED, "dev"), (LABELLED, "validation")])
def test_d4_rows_of_a_split_that_nothing_needs_are_not_read(tmp_path: Path, rows: Rows, name: str, text: str) -> None:
    wanted = only(write(tmp_path / "a set" / "test.jsonl", rows).parent)
    packed(tmp_path / "a set" / f"{name}.jsonl", text.encode())
    assert only(tmp_path / "a set") == wanted


def test_d4_what_classification_learns_from_must_be_whole(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", LABELLED)
    packed(tmp_path / "train.jsonl", b"{")
    fails(tmp_path, "train.jsonl, line 1: not JSON")
    packed(tmp_path / "train.jsonl", b'{"anchor": "a", "positive": "b"}')
    fails(tmp_path, "train.jsonl: the fields 'anchor', 'positive' are not those of any kind")


def test_d3_qrels_may_name_what_is_not_there(tmp_path: Path) -> None:
    """ArguAna names five such documents."""
    beir(tmp_path, qrels=QRELS + "q1\tgone\t1\nq1\tlost\t0\nq9\td1\t1\n")
    fails(tmp_path, "line 5: corpus.jsonl .* 'gone'.*--allow-missing-ids")
    with pytest.warns(Notice) as recorded:
        task = only(tmp_path, allow_missing_ids=True)
    assert content(task).relevance == {"q1": {"d1": 2, "2": 0, "gone": 1, "lost": 0}, "3": {"2": 1}}
    assert set(content(task).documents) == {"d1", "2", "d3"}
    messages = " ".join(str(warning.message) for warning in recorded)
    assert re.search("documents that corpus.jsonl does not have in 2 lines, .*'gone'", messages)
    assert re.search("queries that queries.jsonl does not have in 1 line, .*'q9'. .* left out", messages)
    packed(tmp_path / "task.json", b'{"allow_missing_ids": true}')
    with pytest.warns(Notice):
        assert only(tmp_path) == task


def test_d3_candidates_may_name_what_is_not_there(tmp_path: Path) -> None:
    write(beir(tmp_path) / "top_ranked.jsonl", [{"query-id": key, "corpus-ids": ["gone", "d1"]} for key in ("q1", 3)])
    fails(tmp_path, "top_ranked.jsonl, line 1: corpus.jsonl .* 'gone'")
    with pytest.warns(Notice, match="2 candidates .*corpus.jsonl .*'gone'"):
        assert content(only(tmp_path, allow_missing_ids=True)).candidates == {"q1": ["d1"], "3": ["d1"]}
    write(tmp_path / "top_ranked.jsonl", [{"query-id": "q1", "corpus-ids": ["gone"]}])
    fails(tmp_path, "line 1: corpus.jsonl has no candidate of query 'q1'", allow_missing_ids=True)


def test_d2_queries_that_are_documents_are_reported(tmp_path: Path) -> None:
    corpus: Rows = [{"_id": "q1", "title": "one", "text": "two?"}, {"_id": "3", "text": "other"}, *CORPUS]
    queries: Rows = [{"_id": "q1", "text": "one two?"}, {"_id": 3, "text": "three?"}, {"_id": "q2", "text": "two?"}]
    beir(tmp_path, corpus=corpus, queries=queries, qrels=QRELS + "q2\td1\t1\n")
    with pytest.warns(Notice, match=r"2 of 3 queries .*\('q1'\), and 1 .*its text.*ignore_identical_ids.*task.json"):
        as_is = only(tmp_path)
    assert as_is.ignore_identical_ids is False
    packed(tmp_path / "task.json", b'{"ignore_identical_ids": false}')
    assert only(tmp_path) == as_is
    packed(tmp_path / "task.json", b'{"ignore_identical_ids": true}')
    ignoring = only(tmp_path)
    assert ignoring.ignore_identical_ids is True
    assert ignoring.revision != as_is.revision, "such scores are not of the same thing"
    assert ignoring.subsets == as_is.subsets


@pytest.mark.parametrize("key", ["ignore_identical_ids", "allow_missing_ids"])
def test_d2_d3_keys_of_task_json_are_of_beir_folders(tmp_path: Path, key: str) -> None:
    packed(tmp_path / "task.json", json.dumps({key: True}).encode())
    write(tmp_path / "test.jsonl", STS)
    fails(tmp_path, f"task.json: {key} is for folders in BEIR layout")
    packed(tmp_path / "task.json", json.dumps({key: 1}).encode())
    fails(tmp_path, f"task.json: {key} is 1.*must be true or false")


@pytest.mark.parametrize(("name", "text", "message"), BAD_BEIR)
def test_a_wrong_line_of_a_beir_folder_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    packed(beir(tmp_path) / name, text.encode())
    fails(tmp_path, message)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("corpus.jsonl", "has no corpus.jsonl.*BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv"),
        ("queries.jsonl", "has no queries.jsonl.*BEIR's layout"),
        ("qrels", "has no folder qrels.*BEIR's layout"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, gone: str, message: str) -> None:
    (beir(tmp_path) / gone).rename(tmp_path / "elsewhere")
    fails(tmp_path, message)


def test_a_missing_split_lists_the_others(tmp_path: Path) -> None:
    fails(beir(tmp_path), "qrels has no split 'dev'.* has test.*--split", split="dev")
    (tmp_path / "qrels" / "test.tsv").rename(tmp_path / "qrels" / "test.txt")
    fails(tmp_path, "qrels has no split 'test'.* test.tsv.*--split")


# ---- what is found


def test_a_folder_of_many_sets(tmp_path: Path) -> None:
    beir(tmp_path / "b retrieval")
    write(tmp_path / "a sts" / "test.jsonl", STS)
    write(tmp_path / "deep" / "er" / "c bitext" / "en-de.jsonl", BITEXT)
    write(tmp_path / "train_pairs" / "strings.jsonl", [{"anchor": "a", "positive": "b", "lang": "en"}])
    write(tmp_path / "index.csv", [{"file": "a", "size": 1}])
    packed(tmp_path / "README.md", b"# mine")
    packed(tmp_path / "LICENSE", b"all")
    packed(tmp_path / "licences" / "GPL.txt", b"GPL")
    packed(tmp_path / "a sts" / "notes.txt", b"x")
    packed(tmp_path / ".git" / "test.jsonl", b"no")
    packed(tmp_path / "__MACOSX" / "a sts" / "._test.jsonl", b"\x00\x05\x16\x07")
    packed(tmp_path / "a sts" / "._test.jsonl", b"\x00\x05\x16\x07")
    packed(tmp_path / "b retrieval" / "qrels" / "._test.tsv", b"\x00\x05\x16\x07")
    packed(tmp_path / "a sts" / ".DS_Store", b"\x00")
    (tmp_path / "deep" / "back up").symlink_to(tmp_path, target_is_directory=True)
    tasks = read_local(tmp_path)
    assert [(task.name, task.kind) for task in tasks] == [
        ("a sts", "STS"),
        ("b retrieval", "Retrieval"),
        ("c bitext", "BitextMining"),
    ]


def test_files_beside_folders_of_sets_are_a_set_too(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "test.jsonl", STS)
    write(tmp_path / "mine" / "more" / "test.jsonl", BITEXT)
    assert [task.name for task in read_local(tmp_path / "mine")] == ["mine", "more"]


def test_beir_folders_alone_in_a_folder_are_its_subsets(tmp_path: Path) -> None:
    for name in ("mono_de", "cross_de_en"):
        beir(tmp_path / "help" / name)
    packed(tmp_path / "help" / "README.md", b"#")
    write(tmp_path / "help" / "sizes.csv", [{"folder": "mono_de", "queries": 3}])
    packed(tmp_path / "help" / "licences" / "GPL.txt", b"#")
    task = only(tmp_path / "help")
    assert (task.name, list(task.subsets)) == ("help", ["cross_de_en", "mono_de"])
    assert list(only(tmp_path / "help", subsets=["mono_de"]).subsets) == ["mono_de"]
    fails(tmp_path / "help", "has no subset 'mono_en'.* has .*Did you mean 'mono_de'", subsets=["mono_en"])
    packed(tmp_path / "help" / "mono_de" / "task.json", b'{"name": "German help"}')
    assert [task.name for task in read_local(tmp_path / "help")] == ["cross_de_en", "German help"], "a set of its own"


def test_one_beir_folder_in_a_folder_is_that_set(tmp_path: Path) -> None:
    """As archives unpack."""
    beir(tmp_path / "nfcorpus" / "nfcorpus")
    task = only(tmp_path / "nfcorpus")
    assert (task.name, list(task.subsets), task.folder) == ("nfcorpus", ["default"], tmp_path / "nfcorpus" / "nfcorpus")


def test_candidates_in_every_subset_or_in_none(tmp_path: Path) -> None:
    for name in ("de", "en"):
        beir(tmp_path / name)
    ranked: Rows = [{"query-id": query, "corpus-ids": ["d1"]} for query in ("q1", "3")]
    write(tmp_path / "en" / "top_ranked.jsonl", ranked)
    fails(tmp_path, "/de has no top_ranked.jsonl")


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "0a1b", STS).rename(tmp_path / "blobs" / "x")
    write(tmp_path / "store" / "test.jsonl", STS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "test.jsonl").symlink_to(tmp_path / "store" / "test.jsonl")
    (tmp_path / "alias").symlink_to(tmp_path / "mine", target_is_directory=True)
    assert only(tmp_path / "alias").name == "alias", "not the target's"
    (tmp_path / "mine" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    fails(tmp_path / "alias", "gone.jsonl is a link to nothing.* take it out")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("sts.jsonl", "sts"), ("test.jsonl", "folder"), ("sts.test.jsonl.gz", "sts"), ("STS-Test.JSONL", "STS")],
)
def test_one_file_is_called_as_it_or_its_folder(tmp_path: Path, name: str, wanted: str) -> None:
    path = tmp_path / "folder" / name
    packed(path, "".join(json.dumps(row) + "\n" for row in STS).encode())
    task = only(path)
    assert (task.name, list(task.subsets)) == (wanted, ["default"])


def test_a_relative_place_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine" / "test.jsonl", STS)
    monkeypatch.chdir(tmp_path / "mine")
    assert [only(Path(place)).name for place in (".", "test.jsonl", "../mine/")] == ["mine"] * 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no evaluation set. .*a folder with corpus.jsonl"),
        ({"README.md": "#", "data.npy": "x"}, "holds no evaluation set"),
        ({"README.md": "#", "data.parquet": "PAR1"}, "data.parquet is not a readable Parquet file"),
        (
            {"test.jsonl": '{"premise": "a", "hypothesis": "b"}\n'},
            "test.jsonl: the fields 'premise', 'hypothesis' are not those of any kind",
        ),
        (
            {"pairs/train.jsonl": '{"anchor": "a", "positive": "b"}\n'},
            r"Skipped: .*train.jsonl \(fields anchor, pos",
        ),
        ({"test.jsonl": ""}, "test.jsonl is empty"),
        ({"in/test.tsv": "text\tlabel\n"}, "test.tsv is empty"),
        ({"test.csv": "text;label\na;b\n"}, "test.csv: the header is 'text;label'"),
        ({"test.jsonl": "\ufeff{\n"}, "test.jsonl, line 1: not JSON"),
        ({"task.json": "{}", "en/test.jsonl": ""}, "en/test.jsonl is empty"),
    ],
)
def test_nothing_to_evaluate_says_what_is_known(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        packed(tmp_path / name, text.encode())
    fails(tmp_path, message)


def test_paths_without_rows(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "there is no '.*/nowhere'.* folder in BEIR layout")
    fails(packed(tmp_path / "README.md", b"#"), "README.md is not a file of rows")
    fails(packed(tmp_path / "in.tsv", b"text\ttext\na\tb\n"), "in.tsv: the header names 'text' twice")


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", STS)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionError, match=r"test\.jsonl"):
        read_local(tmp_path)


# ---- subsets and splits of rows


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["test", "dev", "train"], {"default": "test"}),
        (["sts-train", "sts-dev", "sts-test"], {"default": "test"}),
        (["pairs"], {"default": "test"}),
        (["en-de", "en-fr"], {"en-de": "test", "en-fr": "test"}),
        (["en-de.test", "en-de.dev", "en-fr.test"], {"en-de": "test", "en-fr": "test"}),
        (["test_de", "test_fr", "dev_de"], {"de": "test", "fr": "test"}),
        (["x-test-de", "x-test-fr"], {"x-de": "test", "x-fr": "test"}),
        (["Test"], {"default": "test"}),
        (["training", "testing", "dev"], {"default": "test"}),
        (["x-training", "x-development", "x-test"], {"default": "test"}),
        (["test-00000-of-00002", "test-00001-of-00002"], {"default": "test"}),
    ],
)
def test_a_files_name_says_subset_and_split(tmp_path: Path, names: list[str], wanted: dict[str, str]) -> None:
    for place, name in enumerate(names):
        write(tmp_path / f"{name}.jsonl", [row | {"score": place + 1 / (at + 1)} for at, row in enumerate(STS)])
    task = only(tmp_path)
    assert {subset: next(iter(splits)) for subset, splits in task.subsets.items()} == wanted
    shards = sum("-of-" in name for name in names)
    assert all(len(content(task, subset)["score"]) == 3 * max(shards, 1) for subset in wanted)
    first = content(task, next(iter(wanted)))["score"][0]
    assert first == 1 + next(place for place, name in enumerate(names) if "test" in name.lower() or len(names) < 3)


@pytest.mark.parametrize(
    ("train", "test"),
    [("training", "test"), ("train", "testing"), ("Training", "TEST"), ("a_training", "a_test"), ("train", "val")],
)
def test_d6_training_rows_are_the_train_split(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / f"{train}.jsonl", LABELLED)
    write(tmp_path / f"{test}.jsonl", LABELLED[:2])
    task = only(tmp_path, split="val" if test == "val" else "test")
    assert (task.kind, len(content(task, split="train")["label"])) == ("Classification", 4)
    assert task.splits == ("train", "val" if test == "val" else "test")


def test_d6_other_names_of_splits_of_qrels(tmp_path: Path) -> None:
    packed(beir(tmp_path) / "qrels" / "training.tsv", b"q2\td3\t1\n")
    assert only(tmp_path).splits == ("test", "train")
    assert only(tmp_path, split="training").splits == only(tmp_path, split="train").splits == ("train", "test")


@pytest.mark.parametrize("name", ["valid", "val", "validation", "dev"])
def test_other_splits_are_not_taken_for_subsets(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.jsonl", STS)
    fails(tmp_path, f"has no split 'test'.* has {name}.*--split")
    assert only(tmp_path, split=name).splits == (name,)


def test_d9_a_language_is_a_subset_and_is_reported(tmp_path: Path) -> None:
    rows = [row | {"lang": "de" if place % 2 else "en"} for place, row in enumerate(STS + STS)]
    write(tmp_path / "test.jsonl", [*rows, STS[0] | {"lang": None}, STS[1] | {"lang": ""}])
    with pytest.warns(Notice, match=r"field lang .* 3 subsets \(de, default, en\).*--subsets"):
        task = only(tmp_path)
    assert list(task.subsets) == ["de", "default", "en"]
    assert content(task, "de")["score"] == [0.5, 3, 0]
    assert content(task)["score"] == [3, 0.5]
    assert list(only(tmp_path, subsets=["en", "de"]).subsets) == ["en", "de"]


def test_a_language_within_a_subset(tmp_path: Path) -> None:
    for name in ("news", "wiki"):
        write(tmp_path / f"{name}.jsonl", [row | {"lang": lang} for row in STS for lang in ("de", "en")])
    with pytest.warns(Notice, match=r"lang .* 4 subsets \(news-de, news-en, wiki-de and 1 more\)"):
        assert list(only(tmp_path).subsets) == ["news-de", "news-en", "wiki-de", "wiki-en"]
    for name in ("news", "wiki"):
        (tmp_path / f"{name}.jsonl").unlink()
    for name in ("en-de", "en-fr"):
        write(tmp_path / f"{name}.tsv", [row | {"lang": name[-2:]} for row in BITEXT])
    assert list(only(tmp_path).subsets) == ["en-de", "en-fr"], "the language is in the name"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test.jsonl", "test.tsv"], "test.jsonl and test.tsv are both test.*out, or rename it"),
        (["de.jsonl", "de.test.jsonl.gz", "fr.jsonl"], "de.jsonl and de.test.jsonl.gz are both test of de"),
        (["de.jsonl", "fr.dev.jsonl"], r"\(fr\) has no split 'test'.* has dev.*--split.*--subsets"),
    ],
)
def test_two_files_of_one_split_or_none(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write(tmp_path / name, STS)
    fails(tmp_path, message)


def test_files_of_several_kinds_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "sts.jsonl", STS)
    write(tmp_path / "topics.jsonl", LABELLED)
    fails(tmp_path, "holds sets of several kinds: sts.jsonl STS; topics.jsonl Clustering")
    assert [only(tmp_path / name).kind for name in ("sts.jsonl", "topics.jsonl")] == ["STS", "Clustering"]
    write(tmp_path / "topics.jsonl", [{"a": 1}])
    fails(tmp_path, "topics.jsonl: the fields 'a' are not those of any kind")


# ---- rows that cannot be judged


def changed(rows: Rows, place: int, **values: Any) -> Rows:
    return [row | values if at == place else row for at, row in enumerate(rows)]


def without(rows: Rows, place: int, name: str) -> Rows:
    return [{key: value for key, value in row.items() if at != place or key != name} for at, row in enumerate(rows)]


HALF = "\ud83c"
BAD_ROWS: list[tuple[Rows, str]] = [
    (without(STS, 0, "score"), "test.jsonl, line 1: no field 'score'"),
    (without(STS, 2, "sentence2"), "line 3: no field 'sentence2'"),
    (changed(STS, 1, score=None), "line 2: score is null.*must be a finite number"),
    (changed(STS, 1, score="nan"), "line 2: score is 'nan'.*must be a finite number"),
    (changed(STS, 1, score=float("nan")), "line 2: .*NaN"),
    (changed(STS, 1, score=float("inf")), "line 2: .*Infinity"),
    (changed(STS, 1, score=10**400), r"line 2: score is 1000*\.\.\..*must be a finite number"),
    (changed(STS, 1, score="1_000"), "line 2: score is '1_000'"),
    (changed(STS, 1, score="3,5"), "line 2: score is '3,5'"),
    (changed(STS, 1, score=True), "line 2: score is true"),
    (changed(STS, 1, score=[1]), r"line 2: score is \[1\]"),
    ([row | {"score": 4} for row in STS], "line 1: this and every other score is 4.0"),
    (STS[:1], "line 1: this and every other score is 3.0"),
    (changed(STS, 1, sentence1=5), "line 2: field 'sentence1' is 5, not a string.*out"),
    (changed(STS, 1, sentence1=["a"]), "line 2: field 'sentence1' is "),
    (
        changed(PAIRS, 1, label=2),
        r"line 2: the label is 2.* 1 or true \(alike\).* 0 or false.*score",
    ),
    (changed(PAIRS, 1, label="no"), "line 2: the label is 'no'"),
    (changed(PAIRS, 1, label=1), "line 1: this and every other label is 1"),
    (without(PAIRS, 0, "label"), "line 1: no field 'label'"),
    (BITEXT[:1], "line 1: it is the only pair"),
    (changed(LABELLED, 3, label="c"), r"line 2: label 'b' and 1 more .*test.*--allow-rare-labels"),
    ([*LABELLED, {"text": "t", "label": "c"}], "line 5: label 'c' has one text in test"),
    (changed(LABELLED, 1, label=None), "line 2: label is null.*must be a text, a whole number, true or false"),
    (changed(LABELLED, 1, label=""), "line 2: label is ''"),
    (changed(LABELLED, 1, label=1.5), "line 2: label is 1.5"),
    (changed(LABELLED, 1, label=float("nan")), "line 2: .*NaN"),
    (changed(LABELLED, 1, label=float("inf")), "line 2: .*Infinity"),
    (changed(PAIRS, 1, label=0.5), "line 2: label is 0.5.*must be a text, a whole number, true or false"),
    (changed(PAIRS, 1, label=None), "line 2: label is null"),
    (changed(LABELLED, 1, label=["a", "b"]), r'line 2: label is \["a", "b"\]'),
    (LABELLED[::2], "line 1: this and every other label is 'a'"),
    (changed(RERANKING, 1, positive=[]), r"line 2: positive is \[\].*must be a list of at least one text"),
    (changed(RERANKING, 1, negative=None), "line 2: negative is null"),
    (changed(RERANKING, 1, negative=["a", 5]), "line 2: field 'negative' is 5, not a string"),
    (
        changed(SUMMARIES, 0, relevance=[1]),
        r"line 1: relevance is \[1\].*must be a list of 2 numbers, one per machine s",
    ),
    (changed(SUMMARIES, 0, relevance=3), "line 1: relevance is 3.*must be a list of 2 numbers"),
    (changed(SUMMARIES, 0, relevance=[1, "x"]), "line 1: relevance is 'x'.*must be a finite number"),
    (changed(SUMMARIES, 0, relevance=[2, 2]), "line 1: relevance is the same"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_a_row_that_cannot_be_evaluated_is_named(tmp_path: Path, rows: Rows, message: str) -> None:
    write(tmp_path / "test.jsonl", rows)
    fails(tmp_path, message)


@pytest.mark.parametrize(
    ("rows", "name"), [(STS, "sentence2"), (LABELLED, "label"), (RERANKING, "positive"), (SUMMARIES, "text")]
)
def test_half_a_character_is_no_text(tmp_path: Path, rows: Rows, name: str) -> None:
    write_rows = "".join(json.dumps(row) + "\n" for row in changed(rows, 1, **{name: HALF}))
    packed(tmp_path / "test.jsonl", write_rows.encode())
    fails(tmp_path, f"line 2: field '{name}' has half a surrogate pair")
    packed(tmp_path / "test.jsonl", b"")
    packed(tmp_path / "test.tsv", b"sentence1\tsentence2\na\tb\ncaf\xe9\td\n")
    fails(tmp_path / "test.tsv", r"test.tsv, line 3: not UTF-8 \(byte 0xe9\)")


def test_every_subset_is_evaluated_for_itself(tmp_path: Path) -> None:
    write(tmp_path / "de.jsonl", STS)
    write(tmp_path / "en.jsonl", [row | {"score": 1} for row in STS])
    fails(tmp_path, "en.jsonl, line 1: this and every other score is 1.0")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test.csv", "sentence1,sentence2,score\n,b,1\nc,d,2\ne,,3\n"),
        ("test.tsv", "sentence1\tsentence2\tscore\n\tb\t1\nc\td\t2\ne\t\t3\n"),
        (
            "test.jsonl",
            """{"sentence1": null, "sentence2": "b", "score": 1}
            {"sentence1": "c", "sentence2": "d", "score": 2}
            {"sentence1": "e", "sentence2": "", "score": 3}""",
        ),
    ],
)
def test_b5_empty_texts_are_texts_in_every_format_and_are_reported(tmp_path: Path, name: str, text: str) -> None:
    packed(tmp_path / name, text.encode())
    line = 1 if "jsonl" in name else 2
    with pytest.warns(Notice, match=rf"{name} .* empty text in 2 of 3 rows, .* line {line}\."):
        data = content(only(tmp_path))
    assert (data["sentence1"], data["sentence2"]) == (["", "c", "e"], ["b", "d", ""])


def test_b5_empty_queries_and_documents_are_reported(tmp_path: Path) -> None:
    rows: Rows = [{"_id": "d9", "title": " ", "text": None}, {"_id": "d8", "title": "only this", "text": ""}]
    beir(tmp_path, corpus=[*CORPUS, *rows], queries=[{"_id": "q1", "text": " "}, *QUERIES[1:]])
    with pytest.warns(Notice) as recorded:
        data = content(only(tmp_path))
    assert data.documents["d9"] == (" ", "") and data.queries["q1"] == " "
    messages = [str(warning.message) for warning in recorded]
    assert re.search("queries.jsonl has 1 empty text, .*'q1'", messages[0])
    assert re.search("corpus.jsonl has 1 empty text, .*'d9'", messages[1])


def test_b3_tsv_is_read_as_everywhere(tmp_path: Path) -> None:
    """Whatever the rule for quotes is, there is one (`text_files.read_rows`), for qrels with a header too."""
    text = 'sentence1\tsentence2\tscore\n"He said ""no""."\tsaid "no"\t1\n"a ""quoted"" one"\t"b"\t2\n'
    file = packed(tmp_path / "test.tsv", text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        rows, read = [row for _, row in read_rows(file)], content(only(file))
    assert read["sentence1"] == [row["sentence1"] for row in rows]
    assert read["sentence2"] == [row["sentence2"] for row in rows]
    packed(tmp_path / "test.tsv", b"sentence1\tsentence2\na\tb\tc\n")
    fails(tmp_path, "test.tsv, line 2: 3 fields, and the header has 2")
    qrels = packed(tmp_path / "beir" / "qrels" / "test.tsv", b'query-id\tcorpus-id\tscore\nq1\t"d ""1"""\t1\n')
    (row,) = [row for _, row in read_rows(qrels)]
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": row["corpus-id"], "text": "x"}])
    write(tmp_path / "beir" / "queries.jsonl", QUERIES)
    assert content(only(tmp_path / "beir")).relevance == {"q1": {row["corpus-id"]: 1}}


@pytest.mark.parametrize("form", ["jsonl", "tsv", "csv"])
def test_byte_order_mark_windows_line_ends_and_empty_lines(tmp_path: Path, form: str) -> None:
    plain = write(tmp_path / f"a.{form}", BITEXT).read_text("utf-8")
    other = packed(tmp_path / f"b.{form}", ("\ufeff" + plain.replace("\n", "\r\n") + "\r\n").encode())
    assert only(other).subsets == only(tmp_path / f"a.{form}").subsets


# ---- labels


@pytest.mark.parametrize(
    ("alike", "other"),
    [(True, False), (1.0, 0.0), (1, 0), ("1", "0"), ("1.0", "0.0"), ("True", "False"), ("true", "false"), ("01", "+0")],
)
def test_d7_labels_of_pairs(tmp_path: Path, alike: Any, other: Any) -> None:
    write(tmp_path / "test.jsonl", [row | {"label": (other, alike)[row["label"]]} for row in PAIRS])
    assert content(only(tmp_path))["labels"] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ((True, "true", "True", "TRUE"), "true"),
        ((1, 1.0, "1", "1.0"), "1"),
        ((-2, -2.0, "-2", "-2.00"), "-2"),
        ((10**6, 1e6, "1000000"), "1000000"),
        (("1.10",), "1.10"),
        (("01",), "01"),
        (("v1.0",), "v1.0"),
    ],
)
def test_d7_labels_of_classes(tmp_path: Path, labels: tuple[Any, ...], name: str) -> None:
    rows = [{"text": f"{at}", "label": label} for at, label in enumerate([*labels, *labels])]
    write(tmp_path / "test.jsonl", [*LABELLED, *rows])
    assert set(content(only(tmp_path))["labels"]) == {"a", "b", name}
    write(tmp_path / "train.csv", [*LABELLED, *rows])
    data = only(tmp_path).subsets["default"]
    assert data["test"]["label"] == data["train"]["label"] == ["a", "b"] * 2 + [name] * len(rows)


# ---- Parquet


def test_d9_parquet_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wanted = only(beir(tmp_path / "faq"))
    for name, rows in {"corpus": CORPUS, "queries": QUERIES}.items():
        table = [{"title": None} | row | {"_id": str(row["_id"])} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(table), tmp_path / "faq" / f"{name}.parquet")
        if name == "corpus":
            assert only(tmp_path / "faq") == wanted, "a .jsonl of this name goes first"
        (tmp_path / "faq" / f"{name}.jsonl").unlink()
        assert only(tmp_path / "faq") == wanted
    qrels = arrow.table({"query-id": ["q1", "q1", "3"], "corpus-id": ["d1", "2", "2"], "score": [2.0, 0.0, 1.0]})
    (tmp_path / "faq" / "qrels" / "test.tsv").unlink()
    parquet.write_table(qrels, tmp_path / "faq" / "qrels" / "test.parquet")
    assert only(tmp_path / "faq") == wanted
    sts = [row | {"score": float(row["score"])} for row in STS]
    parquet.write_table(arrow.Table.from_pylist([*sts, STS[0] | {"score": None}]), tmp_path / "sts.parquet")
    fails(tmp_path / "sts.parquet", "sts.parquet, row 4: score is null")
    parquet.write_table(arrow.Table.from_pylist(sts), tmp_path / "sts.parquet")
    assert content(only(tmp_path / "sts.parquet")) == content(only(write(tmp_path / "sts.jsonl", STS)))


def test_d9_parquet_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    packed(beir(tmp_path) / "corpus.parquet", b"PAR1")
    (tmp_path / "corpus.jsonl").unlink()
    fails(tmp_path, "corpus.parquet is not a readable Parquet file")


# ---- subsets over several sets


def test_d9_subsets_apply_where_they_are(tmp_path: Path) -> None:
    for folder, names in {"one": ["de", "fr"], "two": ["fr", "it"], "three": ["test"]}.items():
        for name in names:
            write(tmp_path / folder / f"{name}.jsonl", STS)
    with pytest.warns(Notice) as recorded:
        found = read_local(tmp_path, subsets=["de"])
    assert {task.name: list(task.subsets) for task in found} == {"one": ["de"], "three": ["default"]}
    messages = sorted(str(warning.message) for warning in recorded)
    assert "three has no subsets, so all of it is evaluated" in messages[0]
    assert re.search("two is left out: it has fr, it, .* de .*--subsets", messages[1])
    fails(tmp_path, r"one, three, two have no subset 'es'.* have de, fr, default, it", subsets=["de", "es"])
    fails(tmp_path / "one", r"one has no subset 'it'.* has de, fr", subsets=["it"])


# ---- classification


def classified(folder: Path, train: Rows, test: Rows) -> Path:
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    return folder


def test_a_label_seen_once_in_training(tmp_path: Path) -> None:
    train = [*LABELLED, {"text": "t", "label": 7}]
    folder = classified(tmp_path, train, LABELLED[:1])
    fails(
        folder,
        r"train.jsonl, line 5: label '7' has one text in train.*--allow-rare-labels",
    )
    assert content(only(folder, allow_rare_labels=True), split="train")["label"][-1] == "7"


def test_a_label_that_is_not_in_train(tmp_path: Path) -> None:
    folder = classified(tmp_path, LABELLED, [*LABELLED, {"text": "t", "label": "z"}])
    for allow in (False, True):
        fails(folder, "test.jsonl, line 5: label 'z' is not in train, so", allow_rare_labels=allow)


def test_classification_needs_training_rows_in_every_subset(tmp_path: Path) -> None:
    german = [row | {"lang": "de"} for row in LABELLED]
    classified(tmp_path, german, [*german, *(row | {"lang": "en"} for row in LABELLED)])
    with pytest.warns(Notice, match="lang .* 2 subsets"):
        fails(tmp_path, r"\(en\) has no split 'train', .*Classification trains.* has test")
    assert list(only(tmp_path, subsets=["de"]).subsets) == ["de"]
    fails(tmp_path, "Classification trains on the split train.*--split", split="train", subsets=["de"])


# ---- task.json


def test_task_json_says_name_kind_score_languages_and_scale(tmp_path: Path) -> None:
    said = {
        "name": "My set",
        "kind": "STS",
        "main_score": "cosine_pearson",
        "languages": ["eng-Latn", "deu-Latn"],
        "min_score": 0,
        "max_score": 5,
    }
    rows = [row | {"label": 1} for row in STS]
    write(tmp_path / "test.jsonl", rows)
    packed(tmp_path / "task.json", json.dumps(said).encode())
    task = only(tmp_path)
    assert (task.name, task.kind, task.main_score) == ("My set", "STS", "cosine_pearson")
    assert (task.languages, task.scale) == (("eng-Latn", "deu-Latn"), (0, 5))


def test_clustering_in_spite_of_training_rows(tmp_path: Path) -> None:
    classified(tmp_path, LABELLED, LABELLED)
    packed(tmp_path / "task.json", b'{"kind": "Clustering"}')
    assert (only(tmp_path).kind, only(tmp_path).splits) == ("Clustering", ("test",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "task.json is not JSON"),
        ("[1]", r"task.json is \[1\].*must be an object with keys of name, kind, main_score"),
        ("5", "task.json is 5.*must be an object"),
        ('{"main-score": "x"}', r"'main-score' is not one of the keys .*\. Did you mean 'main_score'?"),
        ('{"kind": "Sts"}', r"kind is 'Sts'.*must be one of Retrieval, .*\. Did you mean 'STS'?"),
        ('{"kind": ["STS"]}', r'kind is \["STS"\].*must be one of'),
        (
            '{"kind": "Clustering"}',
            "the fields 'sentence1', 'sentence2', 'score' are not those of Clustering, which task.json",
        ),
        ('{"name": "a/b"}', "name is 'a/b'.*must be a text without slashes"),
        ('{"name": ".."}', "name is '..'.*must be"),
        ('{"name": 5}', "name is 5.*must be a text"),
        ('{"languages": "eng-Latn"}', r"languages is 'eng-Latn'.*must be a list .*\[\"eng-Latn\"\]"),
        ('{"languages": ["en"]}', r'languages is \["en"\].*must be a list'),
        ('{"min_score": "0"}', "min_score is '0'.*must be a number"),
        ('{"max_score": NaN}', "max_score is NaN.*must be a number"),
        ('{"min_score": 5, "max_score": 5}', "min_score is 5 and max_score is 5"),
        ('{"main_score": "ndcg_at_10"}', "STS main_score 'ndcg_at_10' is not one of pearson, spearman"),
        ('{"main_score": "cosine_spearmen"}', "Did you mean 'cosine_spearman'"),
        ('{"min_score": 1, "max_score": 5}', "test.jsonl, line 2: score 0.5 is outside its scale, 1 to 5.*"),
        (
            '{"max_score": 2}',
            "test.jsonl, line 1: score 3 is outside its scale, 0 to 2.*task.json .min_score, max_score",
        ),
    ],
)
def test_a_wrong_task_json_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "test.jsonl", STS)
    packed(tmp_path / "task.json", text.encode())
    fails(tmp_path, message)


def test_task_json_of_a_folder_of_sets_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "test.jsonl", STS)
    packed(tmp_path / "task.json", b'{"name": "both"}')
    fails(tmp_path, r"task.json .* holds 2")


def test_every_main_score_is_one_that_mteb_computes() -> None:
    from gnomon.evaluate.local.find import MAIN_SCORES

    assert METRICS.keys() == MAIN_SCORES.keys()
    assert all(score in METRICS[kind] for kind, score in MAIN_SCORES.items())


# ---- the revision


def test_the_revision_is_of_the_data_and_not_of_its_files(tmp_path: Path) -> None:
    plain = only(beir(tmp_path / "a")).revision
    folder = beir(tmp_path / "b", corpus=CORPUS[::-1], queries=QUERIES[::-1])
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        packed(folder / f"{name}.gz", (folder / name).read_bytes())
        (folder / name).unlink()
    assert only(folder).revision == plain
    write(folder / "queries.jsonl.gz", [row | {"metadata": {"url": "x"}} for row in QUERIES])
    assert only(folder).revision == plain, "nothing uses the field"


CHANGES: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write(folder / "corpus.jsonl", changed(CORPUS, 0, text="First")),
    "title": lambda folder: write(folder / "corpus.jsonl", changed(CORPUS, 0, title="Uno")),
    "title into text": lambda folder: write(folder / "corpus.jsonl", changed(CORPUS, 0, title="", text="One\0first")),
    "document": lambda folder: write(folder / "corpus.jsonl", [*CORPUS, {"_id": "d4", "text": "x"}]),
    "id": lambda folder: write(folder / "corpus.jsonl", changed(CORPUS, 2, _id="d4")),
    "query": lambda folder: write(folder / "queries.jsonl", changed(QUERIES, 0, text="uno?")),
    "grade": lambda folder: packed(folder / "qrels" / "test.tsv", QRELS.replace("\t2\n", "\t1\n").encode()),
    "judgement": lambda folder: packed(folder / "qrels" / "test.tsv", (QRELS + "q1\td3\t0\n").encode()),
    "tuning": lambda folder: packed(folder / "qrels" / "dev.tsv", QRELS.encode()),
    "candidates": lambda folder: write(
        folder / "top_ranked.jsonl", [{"query-id": query, "corpus-ids": ["d1"]} for query in ("q1", "3")]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_revision_with_any_change_that_matters(tmp_path: Path, change: str) -> None:
    before = only(beir(tmp_path)).revision
    CHANGES[change](tmp_path)
    assert only(tmp_path).revision != before


def test_the_revision_of_rows(tmp_path: Path) -> None:
    rows = [row | {"id": place} for place, row in enumerate(STS)]
    revision = only(write(tmp_path / "a.jsonl", STS)).revision
    same = [write(tmp_path / "b.tsv", STS), write(tmp_path / "c.csv", STS), write(tmp_path / "d.jsonl.gz", rows)]
    assert {only(path).revision for path in same} == {revision}
    others = [changed(STS, 0, score=2), changed(STS, 0, sentence1="x"), STS[::-1], STS + STS]
    found = {only(write(tmp_path / f"{place}.jsonl", each)).revision for place, each in enumerate(others)}
    assert len(found | {revision}) == 5


def test_the_revision_knows_subsets(tmp_path: Path) -> None:
    for folder, names in (("a", ("de", "fr")), ("b", ("fr", "de"))):
        for name, rows in zip(names, (STS, STS[::-1]), strict=True):
            write(tmp_path / folder / f"{name}.jsonl", rows)
    assert only(tmp_path / "a").revision != only(tmp_path / "b").revision


# ---- any rows


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=12).filter(
    lambda text: not text.startswith('"')  # a cell in quotes is another text in .tsv than in .jsonl
)
ANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(
    st.lists(st.tuples(CELL, CELL, st.integers(-5, 5)), min_size=2, max_size=6).filter(
        lambda rows: len({r[2] for r in rows}) > 1
    )
)
def test_any_pairs_are_read_back_from_every_format(tmp_path: Path, rows: list[tuple[str, str, int]]) -> None:
    written: Rows = [{"sentence1": one, "sentence2": two, "score": score} for one, two, score in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # of empty texts
        tasks = [only(write(tmp_path / f"pairs.{form}", written)) for form in ("jsonl", "tsv", "csv", "jsonl.gz")]
    assert content(tasks[0]) == columns(written, **SENTENCES, score="score")
    assert all((task.subsets, task.revision) == (tasks[0].subsets, tasks[0].revision) for task in tasks)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ID = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@ANY
@given(
    st.dictionaries(st.one_of(ID, st.integers(0)), st.tuples(TEXT, TEXT), min_size=1, max_size=5).filter(
        lambda found: len(set(map(str, found))) == len(found)
    ),
    st.dictionaries(ID, TEXT, min_size=1, max_size=3),
    st.data(),
)
def test_any_beir_folder_is_read_back(
    tmp_path: Path, documents: dict[str | int, tuple[str, str]], queries: dict[str, str], draw: st.DataObject
) -> None:
    judged = st.dictionaries(st.sampled_from([*documents]), st.integers(1, 3), min_size=1)
    relevant = {query: draw.draw(judged) for query in queries}
    folder = tmp_path / "any"
    write(folder / "corpus.jsonl", [{"_id": key, "title": one, "text": two} for key, (one, two) in documents.items()])
    write(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    qrels: Rows = [
        {"query-id": query, "corpus-id": document, "score": grade}
        for query, grades in relevant.items()
        for document, grade in grades.items()
    ]
    write(folder / "qrels" / "test.jsonl", qrels)
    packed(folder / "task.json", b'{"ignore_identical_ids": false}')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # of empty texts
        task = only(folder)
    assert content(task) == RetrievalData(
        {str(key): texts for key, texts in documents.items()},
        queries,
        {query: {str(key): grade for key, grade in grades.items()} for query, grades in relevant.items()},
    )


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
SETS: dict[str, Rows] = {
    "sts/test.jsonl": STS,
    "pairs/test.jsonl": PAIRS,
    "topics/test.jsonl": LABELLED,
    "reranking/test.jsonl": RERANKING,
    "summaries/test.jsonl": SUMMARIES,
    "beir/corpus.jsonl": CORPUS,
    "beir/queries.jsonl": QUERIES,
    "beir/qrels/test.jsonl": [{"query-id": "q1", "corpus-id": "d1", "score": 1}],
    "beir/top_ranked.jsonl": [{"query-id": "q1", "corpus-ids": ["d1", "d3"]}],
}


@settings(parent=ANY, max_examples=150)
@given(st.sampled_from([*SETS]), st.data())
def test_whatever_stands_in_a_field_is_read_or_named(tmp_path: Path, name: str, draw: st.DataObject) -> None:
    """No other error than by file and line, whatever the value."""
    for each, rows in SETS.items():
        if each.split("/")[0] == name.split("/")[0]:
            write(tmp_path / each, rows)
    place = draw.draw(st.integers(0, len(SETS[name]) - 1))
    field = draw.draw(st.sampled_from([*SETS[name][place]]))
    rows = changed(SETS[name], place, **{field: draw.draw(JUNK)})
    packed(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        try:
            read_local(tmp_path / name.split("/")[0])
        except InputError as error:
            assert str(tmp_path) in str(error)


# ---- real sets


def test_the_shared_sets_are_found(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here: it is in the shared folder of the project")
    with pytest.warns(Notice, match=r"classification_intents: the field lang .* 8 subsets"):
        found = {task.name: task for task in read_local(DATA)}
    assert {name: (task.kind, len(task.subsets)) for name, task in found.items()} == {
        "bitext_wesnoth": ("BitextMining", 8),
        "classification_intents": ("Classification", 8),
        "classification_supersense": ("Classification", 1),
        "clustering_topics": ("Clustering", 1),
        "retrieval_defs": ("Retrieval", 1),
        "retrieval_faq": ("Retrieval", 1),
        "retrieval_help": ("Retrieval", 25),
        "retrieval_longdocs": ("Retrieval", 1),
        "sts_defs-STS": ("STS", 1),
        "sts_defs-PairClassification": ("PairClassification", 1),
    }
    defs, sts = content(found["retrieval_defs"]), found["sts_defs-STS"]
    assert (len(defs.queries), len(defs.documents), sum(map(len, defs.relevance.values()))) == (1000, 3145, 1000)
    assert (len(content(sts)["score"]), sts.scale) == (1420, (0, 3))
    assert len(content(found["classification_supersense"], split="train")["label"]) == 3245
