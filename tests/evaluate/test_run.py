"""Runs from end to end: what they write, when they run again, and that no error and no kill costs what was done."""

import errno
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import E5, GIST, GOLDEN, STELLA, load, require

from gnomon import Encoder
from gnomon.errors import GnomonError, InputError, Notice, SourceError
from gnomon.evaluate import (
    Bm25Settings,
    EvaluationOptions,
    MtebEncoder,
    Result,
    TasksError,
    curve_points,
    evaluate,
    manifest,
    read_results,
)
from gnomon.evaluate import run as running
from gnomon.evaluate.cache import RECORD_DTYPE, VectorCache
from gnomon.evaluate.compare import compare, comparison_to_dict, format_comparison
from gnomon.evaluate.mteb import encoder as adapting
from gnomon.evaluate.mteb.encoder import _split_chunks
from gnomon.evaluate.report import render_html
from gnomon.evaluate.results import format_summary, manifest_path, per_query_path, read_result, summarize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*(_ARRAY_API|SwigPy|swig):DeprecationWarning"),
]
require(whole_module=True)
mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")
pytest.importorskip("bm25s")
mocks = pytest.importorskip("mteb.mocks.mock_tasks")

from mteb.results.task_result import TaskResult  # noqa: E402

WORDS = "water boils at one hundred degrees and ice melts when the library opens its old door to a cold wind".split()
MANY = 22
"""Tokens of about half of the texts."""

Copy = Callable[..., Path]


def sentences(count: int, seed: int, size: int = 6) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size)) for _ in range(count)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb.abstasks.AbsTaskClustering, "max_documents_per_cluster", 64)  # in place of 16,384


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    """Graded pairs in two languages."""
    folder = tmp_path / "sts"
    for seed, lang in enumerate(("de", "fr")):
        texts = sentences(24, seed)
        rows = [
            {"sentence1": texts[at], "sentence2": texts[at + 12], "score": (at * 5) % 4, "lang": lang}
            for at in range(12)
        ]
        write(folder / f"{lang}.test.jsonl", rows)
    return folder


def retrieval(folder: Path, splits: Sequence[str] = ("test",), documents: int = 30) -> Path:
    """Queries that share words with their document; 24 of a split."""
    texts = sentences(documents, 7, 12)
    write(folder / "corpus.jsonl", [{"_id": f"d{at:03}", "title": "", "text": text} for at, text in enumerate(texts)])
    queries: list[dict[str, Any]] = []
    for number, split in enumerate(splits):
        evaluated = ["query-id\tcorpus-id\tscore"]
        for at in range(24):
            right = (at * 7 + number) % documents
            queries.append({"_id": f"{split}{at}", "text": " ".join(texts[right].split()[at % 4 : at % 4 + 5])})
            evaluated.append(f"{split}{at}\td{right:03}\t1")
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(evaluated) + "\n")
    write(folder / "queries.jsonl", queries)
    return folder


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return retrieval(tmp_path / "search")


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    rows = [{"text": text, "label": text.split()[0]} for text in sentences(300, 3, 4)]
    rows_of_three_labels = [row for row in rows if row["label"] in ("ice", "water", "door")]
    write(tmp_path / "clusters" / "test.jsonl", rows_of_three_labels)
    return tmp_path / "clusters"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that models encode from now on."""
    seen: list[str] = []
    one, several = Encoder.encode_with_counts, Encoder.encode_dims_with_counts

    def encode(self: Encoder, texts: Any, *args: Any, **options: Any) -> Any:
        seen.extend(texts)
        return one(self, texts, *args, **options)

    def encode_dims(self: Encoder, texts: Any, *args: Any, **options: Any) -> Any:
        seen.extend(texts)
        return several(self, texts, *args, **options)

    monkeypatch.setattr(Encoder, "encode_with_counts", encode)
    monkeypatch.setattr(Encoder, "encode_dims_with_counts", encode_dims)
    return seen


@pytest.fixture
def run_evaluation(tmp_path: Path) -> Callable[..., list[tuple[Result, bool]]]:
    """`evaluate` into one folder -> [(result, whether it was there)]."""

    def run(encoder: Encoder | None, *data: Path, **said: Any) -> list[tuple[Result, bool]]:
        warned: list[tuple[Result, bool]] = []
        found = evaluate(
            encoder,
            data=list(data),
            **{"output": tmp_path / "out"} | said,
            on_result=lambda result, reused: warned.append((result, reused)),
        )
        assert found == [result for result, _ in warned]
        return warned

    return run


RunEvaluation = Callable[..., list[tuple[Result, bool]]]


# ---- what is written


def test_results_are_mtebs_own(run_evaluation: RunEvaluation, sts: Path, beir: Path, tmp_path: Path) -> None:
    found = run_evaluation(load(GIST), sts, beir, methods=["dense", "bm25", "hybrid", "rrf"])
    assert [(each.task, each.manifest["model"]["method"]) for each, _ in found] == [
        ("sts", "dense"),
        *(("search", method) for method in ("bm25", "dense", "hybrid", "rrf")),
    ]
    theirs = mteb.ResultCache(tmp_path / "out").load_results()
    of_theirs = {
        (each.model_name, each.model_revision, task.task_name): task
        for each in theirs.model_results
        for task in each.task_results
    }
    assert len(of_theirs) == 5
    for result, _ in found:
        there = TaskResult.from_disk(result.path)
        assert there.task_name == result.task
        assert there.get_score() == pytest.approx(result.score, abs=1e-9)
        assert json.dumps(there.scores) == json.dumps(result.scores)  # there is NaN among them
        key = (result.path.parent.parent.name, result.path.parent.name, result.task)
        assert of_theirs[key].get_score() == pytest.approx(result.score, abs=1e-9)
        meta = json.loads((result.path.parent / "model_meta.json").read_text())
        assert (meta["name"], meta["revision"]) == key[:2]
    names = {result.path.parent.relative_to(tmp_path / "out").as_posix() for result, _ in found}
    dense = f"results/{GIST}/{load(GIST).fingerprint[:12]}"
    assert names == {
        "results/bm25/k1-0.9_b-0.4",
        dense,
        f"{dense}_hybrid-alpha-tuned",
        f"{dense}_rrf",
    }


def test_a_score_is_mtebs_with_the_same_adapter(run_evaluation: RunEvaluation, sts: Path) -> None:
    from gnomon.evaluate.local.find import read_local
    from gnomon.evaluate.mteb.tasks import build_local_task

    ((result, _),) = run_evaluation(load(E5), sts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = mteb.evaluate(
            MtebEncoder(load(E5)),
            build_local_task(read_local(sts)[0], "test"),
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
        ).task_results[0]
    assert {subset.name: subset.score for subset in result.subsets} == {
        row["hf_subset"]: round(row["main_score"], 6) for row in theirs.scores["test"]
    }
    assert [subset.name for subset in result.subsets] == ["de", "fr"]


def test_the_manifest_says_what_was_done(run_evaluation: RunEvaluation, sts: Path) -> None:
    ((result, _),) = run_evaluation(load(E5), sts, options=EvaluationOptions(truncate_dim=16, max_seq_length=MANY))
    manifest, encoder = json.loads(manifest_path(result.path).read_text()), load(E5).with_max_seq_length(MANY)
    assert manifest == result.manifest
    assert manifest["model"] == {"name": E5, "method": "dense", "fingerprint": load(E5).fingerprint, "revision": None}
    assert manifest["variant"] == result.label[len(E5) + 2 : -1] == f"first 16, {MANY} tokens"
    assert manifest["task"] == {
        "name": "sts",
        "kind": "STS",
        "metric": "cosine_spearman",
        "source": "local",
        "dataset": "local/sts",
        "revision": TaskResult.from_disk(result.path).dataset_revision,
    }
    assert manifest["settings"] == {
        "dim": 16,
        "truncate_dim": 16,
        "normalized": True,
        "similarity": "cosine",
        "max_seq_length": MANY,
        "ntk_factor": None,
        "long_texts": "cut",
        "precision": "float32",
        "bytes_per_vector": 64,
        "engine": encoder.engine.name,
        "dtype": "float32",
        "device": "cpu",
    }
    longer = [count > MANY for count in load(E5).tokenize(texts_of(sts), prompt="query: ").counts]
    assert manifest["prompts"] == [{"of": "texts", "name": "query", "text": "query: "}]
    assert 0 < sum(longer) < 48
    assert manifest["texts"] == {"given": 48, "encoded": 48, "from_cache": 0, "cut": sum(longer)}
    assert manifest["protocol"]["seed"] == 42
    assert manifest["versions"]["mteb"] == mteb.__version__
    assert {"python", "numpy", "torch", "gnomon", "onnxruntime"} <= manifest["versions"].keys()
    assert manifest["seconds"]["total"] >= manifest["seconds"]["encoding"] > 0
    assert [(each["split"], each["subset"]) for each in manifest["intervals"]] == [("test", "de"), ("test", "fr")]
    for each, subset in zip(manifest["intervals"], result.subsets, strict=True):
        assert each["interval"] == asdict(subset.interval)
        assert subset.interval.low < subset.score < subset.interval.high
    assert {place: len(units.values) for place, units in result.per_query.items()} == {
        ("test", "de"): 12,
        ("test", "fr"): 12,
    }
    for subset in result.subsets:
        assert result.per_query["test", subset.name].compute_score() == pytest.approx(subset.score, abs=1e-6)


def test_the_manifest_of_a_search(run_evaluation: RunEvaluation, beir: Path) -> None:
    found = {
        each.manifest["model"]["method"]: each
        for each, _ in run_evaluation(load(E5), beir, methods=["dense", "bm25", "hybrid", "rrf"])
    }
    prompts = [
        {"of": "queries", "name": "query", "text": "query: "},
        {"of": "documents", "name": "document", "text": "passage: "},
    ]
    texts = {method: each.manifest["texts"] for method, each in found.items()}
    requested = {"given": 54, "encoded": 0, "from_cache": 54, "cut": texts["dense"]["cut"]}
    assert texts["dense"] == requested | {"encoded": 54, "from_cache": 0}
    assert texts["hybrid"] == texts["rrf"] == requested
    assert texts["bm25"] == dict.fromkeys(requested, 0)
    for method, each in found.items():
        assert each.manifest["prompts"] == ([] if method == "bm25" else prompts)
        assert (each.manifest["model"]["fingerprint"] is None) == (method == "bm25")
        assert each.manifest["model"]["name"] == ("BM25" if method == "bm25" else E5)
        assert {"bm25_k1": 0.9, "bm25_b": 0.4}.items() <= each.manifest["settings"].items() or method == "dense"
        assert each.per_query["test", "default"].compute_score() == pytest.approx(each.score, abs=1e-5)
        assert each.per_query["test", "default"].ids == [f"test{at}" for at in range(24)]
    assert [each.label for each in found.values()] == [
        "BM25",
        E5,
        f"{E5} (with BM25, alpha tuned)",
        f"{E5} (with BM25, reciprocal ranks)",
    ]
    assert found["bm25"].score > 0.5  # queries are words of their documents
    assert found["hybrid"].manifest["settings"]["alpha"] == "tuned"


@pytest.mark.parametrize("metric", ["mrr_at_10", "mrr_at_100", "recall_at_100", "ndcg_at_5", "precision_at_1"])
def test_another_metric_of_retrieval(run_evaluation: RunEvaluation, beir: Path, sts: Path, metric: str) -> None:
    """It is shown in place of the main score; other kinds keep theirs."""
    found = {each.task: each for each, _ in run_evaluation(load(GIST), beir, sts, metric=metric)}
    assert (found["search"].metric, found["sts"].metric) == (metric, "cosine_spearman")
    assert found["search"].score == found["search"].scores["test"][0][metric]
    assert found["search"].per_query["test", "default"].compute_score() == pytest.approx(
        found["search"].score, abs=1e-5
    )
    assert found["search"].interval


# ---- when it is run again


def read_files(result: Result) -> tuple[bytes, ...]:
    return tuple(each.read_bytes() for each in (result.path, manifest_path(result.path), per_query_path(result.path)))


def test_what_is_there_is_not_run_again(
    run_evaluation: RunEvaluation, sts: Path, beir: Path, encoded: list[str]
) -> None:
    first = run_evaluation(load(GIST), sts, beir, methods=["dense", "bm25", "hybrid"])
    files = [read_files(each) for each, _ in first]
    del encoded[:]
    again = run_evaluation(load(GIST), sts, beir, methods=["dense", "bm25", "hybrid"])
    assert [reused for _, reused in first + again] == [False] * 4 + [True] * 4
    assert [each for each, _ in again] == [each for each, _ in first]
    assert [read_files(each) for each, _ in again] == files
    assert encoded == []
    overwritten = run_evaluation(load(GIST), sts, overwrite=True)
    assert [reused for _, reused in overwritten] == [False]
    assert encoded == []  # the vectors are there all the same
    assert overwritten[0][0].scores == first[0][0].scores
    assert overwritten[0][0].manifest["texts"] == {"given": 48, "encoded": 0, "from_cache": 48, "cut": 0}


def test_another_engine_is_run_for_itself(run_evaluation: RunEvaluation, sts: Path) -> None:
    ((first, _),) = run_evaluation(load(GIST), sts)
    ((second, reused),) = run_evaluation(load(GIST, "torch"), sts)
    assert not reused
    assert second.path == first.path
    assert second.manifest["settings"]["engine"].startswith("torch")
    assert second.score == pytest.approx(first.score, abs=1e-4)


CHANGES: dict[str, dict[str, Any]] = {
    "prompts": {"options": EvaluationOptions(prompts={"STS": "s: "})},
    "a width": {"options": EvaluationOptions(truncate_dim=8)},
    "a precision": {"options": EvaluationOptions(precision="int8")},
    "a length": {"options": EvaluationOptions(max_seq_length=5)},
    "windows": {"options": EvaluationOptions(on_truncate="mean")},
    "subsets": {"subsets": ["fr"]},
    "two subsets": {"subsets": ["fr", "de"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_requested_otherwise_is_run_and_stands_beside(
    run_evaluation: RunEvaluation, sts: Path, change: str
) -> None:
    ((first, _),) = run_evaluation(load(GIST), sts)
    before = read_files(first)
    ((other, reused),) = run_evaluation(load(GIST), sts, **CHANGES[change])
    assert not reused
    assert other.path != first.path
    assert json.loads((other.path.parent / "model_meta.json").read_text())["revision"] == other.path.parent.name
    assert read_files(first) == before
    assert [reused for _, reused in run_evaluation(load(GIST), sts)] == [True]
    assert [reused for _, reused in run_evaluation(load(GIST), sts, **CHANGES[change])] == [True]


def test_prompts_are_kept_apart(run_evaluation: RunEvaluation, sts: Path) -> None:
    found = [
        run_evaluation(load(GIST), sts, options=EvaluationOptions(prompts={"STS": text}))[0]
        for text in ("a: ", "b: ", "a: ")
    ]
    assert [reused for _, reused in found] == [False, False, True]
    assert [each.manifest["prompts"][0]["text"] for each, _ in found] == ["a: ", "b: ", "a: "]
    values = [each.per_query["test", "de"].values for each, _ in found]
    assert values[0] == values[2] != values[1]


def test_another_model_is_run(run_evaluation: RunEvaluation, sts: Path, golden_copy: Copy) -> None:
    from safetensors.numpy import save_file

    from gnomon.checkpoint.weights import read_weights

    ((first, _),) = run_evaluation(load(GIST), sts)
    folder = golden_copy(GIST)
    arrays = {name: array.copy() for name, array in read_weights(folder).items()}
    next(array for name, array in arrays.items() if name.endswith("word_embeddings.weight"))[5, 0] += 1e-3
    for old in (*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")):
        old.unlink()
    save_file(arrays, folder / "model.safetensors")
    other = Encoder.load(folder, device="cpu", threads=1)
    ((second, reused),) = run_evaluation(other, sts)
    assert not reused
    assert first.path.parent.parent == second.path.parent.parent  # one name, two fingerprints
    assert first.path != second.path
    assert [reused for _, reused in run_evaluation(load(GIST), sts)] == [True]


@pytest.mark.parametrize("change", ["the model's prompts", "data", "mteb", "format", "task.json"])
def test_what_changes_beneath_a_result_runs_it_again(
    run_evaluation: RunEvaluation, beir: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(GIST)
    ((first, _),) = run_evaluation(encoder, beir)
    before = read_files(first)
    if change == "the model's prompts":  # not part of the fingerprint
        checkpoint = encoder.checkpoint
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, prompts={"query": "find: "}))
        encoder = Encoder(checkpoint, encoder._options, None, encoder.engine)
        assert encoder.fingerprint == load(GIST).fingerprint
    elif change == "data":
        rows = read(beir / "corpus.jsonl")
        rows[0]["text"] += " wind"
        write(beir / "corpus.jsonl", rows)
    elif change == "mteb":
        known = manifest.version
        monkeypatch.setattr(manifest, "version", lambda name: "9.9" if name == "mteb" else known(name))
    elif change == "format":
        monkeypatch.setattr(manifest, "MANIFEST_FORMAT", manifest.MANIFEST_FORMAT + 1)
    else:
        (beir / "task.json").write_text(json.dumps({"main_score": "map_at_10"}))
    ((second, reused),) = run_evaluation(encoder, beir)
    assert not reused
    assert second.path == first.path
    assert read_files(first) != before
    assert [reused for _, reused in run_evaluation(encoder, beir)] == [True]
    if change == "the model's prompts":
        assert second.manifest["prompts"][0] == {"of": "queries", "name": "query", "text": "find: "}


def test_another_split_stands_beside(run_evaluation: RunEvaluation, tmp_path: Path) -> None:
    folder = retrieval(tmp_path / "search", ("test", "dev"))
    ((first, _),) = run_evaluation(load(GIST), folder)
    before = read_files(first)
    ((dev, reused),) = run_evaluation(load(GIST), folder, split="dev")
    assert not reused
    assert read_files(first) == before
    assert [subset.split for subset in dev.subsets] == ["dev"]
    assert dev.manifest["variant"] == "split dev"
    assert dev.path.parent.name == f"{first.path.parent.name}_split-dev"
    assert [reused for split in ("test", "dev") for _, reused in run_evaluation(load(GIST), folder, split=split)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("spoil", ["half a file", "no manifest", "an empty manifest", "a list", "no scores", "no file"])
def test_a_damaged_result_is_made_again(run_evaluation: RunEvaluation, sts: Path, spoil: str) -> None:
    ((first, _),) = run_evaluation(load(GIST), sts)
    manifest = manifest_path(first.path)
    if spoil == "half a file":
        os.truncate(first.path, first.path.stat().st_size // 2)
    elif spoil == "no manifest":
        manifest.unlink()
    elif spoil == "no file":
        first.path.unlink()
    else:
        content = {"an empty manifest": "{}", "a list": "[]", "no scores": "{}"}[spoil]
        (first.path if spoil == "no scores" else manifest).write_text(content)
    ((second, reused),) = run_evaluation(load(GIST), sts)
    assert not reused
    assert second.scores == first.scores
    assert read_result(first.path).score == first.score


def test_a_kill_while_a_result_is_replaced_leaves_no_old_scores(
    run_evaluation: RunEvaluation, sts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new manifest is there and mteb's file is not yet: the old one must not pass for it."""
    ((first, _),) = run_evaluation(load(GIST), sts)
    rows = read(sts / "de.test.jsonl")
    write(sts / "de.test.jsonl", [row | {"score": 3 - row["score"]} for row in rows])
    put = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == first.path:
            raise KeyboardInterrupt
        return put(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        run_evaluation(load(GIST), sts)
    ((second, reused),) = run_evaluation(load(GIST), sts)
    assert not reused
    assert second.subsets[0].score == -first.subsets[0].score


# ---- the same score whatever was run before


def test_what_was_run_before_changes_no_score(run_evaluation: RunEvaluation, clusters: Path, tmp_path: Path) -> None:
    """mteb's clustering draws on from where the last run of the task left off."""
    points = [EvaluationOptions(truncate_dim=dim) for dim in (48, 32)]
    together = [each for each, _ in run_evaluation(load(GIST), clusters, curve=points)]
    alone = [
        run_evaluation(load(GIST), clusters, options=point, output=tmp_path / str(at))[0][0]
        for at, point in enumerate(points)
    ]
    assert [each.scores for each in together[1:]] == [each.scores for each in alone]
    # and where the first was there already
    again = run_evaluation(load(GIST), clusters, curve=points, output=tmp_path / "0")
    assert [reused for _, reused in again] == [False, True, False]
    assert [each.scores for each, _ in again] == [each.scores for each in together]


def test_random_numbers_of_the_caller_change_no_score(run_evaluation: RunEvaluation, clusters: Path) -> None:
    ((first, _),) = run_evaluation(load(GIST), clusters)
    random.seed(5)
    np.random.seed(5)
    ((second, _),) = run_evaluation(load(GIST), clusters, overwrite=True)
    assert first.scores == second.scores


# ---- vectors


def test_vectors_are_kept_beside_the_results(
    run_evaluation: RunEvaluation, sts: Path, encoded: list[str], tmp_path: Path
) -> None:
    run_evaluation(load(GIST), sts)
    assert len(list((tmp_path / "out" / "vectors").rglob("*.vectors"))) == 1
    assert len(encoded) == 48


def test_no_cache_leaves_no_vectors(
    run_evaluation: RunEvaluation, sts: Path, encoded: list[str], tmp_path: Path
) -> None:
    for count in (48, 96):
        run_evaluation(load(GIST), sts, cache=False, overwrite=True)
        assert len(encoded) == count
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["results"]


def test_outputs_may_share_a_cache(
    run_evaluation: RunEvaluation, sts: Path, encoded: list[str], tmp_path: Path
) -> None:
    scores = [
        run_evaluation(load(GIST), sts, output=tmp_path / name, cache=place)[0][0].scores
        for name, place in (("a", tmp_path / "vectors"), ("b", str(tmp_path / "vectors")))
    ]
    assert scores[0] == scores[1]
    assert len(encoded) == 48
    assert {each.name for each in tmp_path.iterdir()} >= {"a", "b", "vectors"}
    assert not (tmp_path / "a" / "vectors").exists()


def test_a_second_task_takes_what_the_first_encoded(run_evaluation: RunEvaluation, sts: Path, tmp_path: Path) -> None:
    """Pairs with grades and labels are two tasks of the same texts."""
    for file in sts.iterdir():
        rows = read(file)
        write(file, [row | {"label": int(row["score"] == 3)} for row in rows])
    found = [each.manifest["texts"] for each, _ in run_evaluation(load(GIST), sts)]
    assert [each["encoded"] for each in found] == [48, 0]
    assert [each["from_cache"] for each in found] == [0, 48]


class Full(io.BufferedWriter):
    def write(self, content: Any, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_a_notice_and_no_result(
    run_evaluation: RunEvaluation, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def open_(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return Full(io.FileIO(self, "x")) if self.suffix == ".vectors" else opened(self, mode, *args, **kwargs)

    ((whole, _),) = run_evaluation(load(E5), beir, output=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.warns(Notice) as warned:
        patch.setattr(Path, "open", open_)
        ((found, _),) = run_evaluation(load(E5), beir)
    assert [str(each.message).partition(". ")[0] for each in warned] == [
        f"vectors are no longer cached in {tmp_path / 'out' / 'vectors'}: the disk is full"
    ]
    assert found.scores == whole.scores


# ---- killed in the middle


CHILD = """
import sys, threading
from gnomon import Encoder
from gnomon.evaluate import evaluate
from gnomon.evaluate.mteb import encoder
model, data, output, chunks = sys.argv[1:]
encoder.CHUNK_CHARS, encode, done = 300, encoder.MtebEncoder._encode_missing, []
def slow(self, *args):
    if len(done) == int(chunks):
        threading.Event().wait()  # to be killed here
    encode(self, *args)
    done.append(None)
encoder.MtebEncoder._encode_missing = slow
evaluate(Encoder.load(model, device="cpu", engine="onnx", threads=1), data=[data], output=output)
"""


def test_killed_in_the_middle_and_started_again(
    tmp_path: Path, run_evaluation: RunEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is that of a run that was not killed, to the last bit, and what was kept is not encoded again."""
    monkeypatch.setattr(adapting, "CHUNK_CHARS", 300)
    data = retrieval(tmp_path / "search", documents=60)
    queries, documents = ([row["text"] for row in read(data / f"{name}.jsonl")] for name in ("queries", "corpus"))
    chunks = [*_split_chunks(queries), *_split_chunks(documents)]
    survived = len(list(_split_chunks(queries))) + 3
    on_disk = sum(map(len, chunks[:survived]))
    assert len(queries) < on_disk < len(queries) + len(documents) - 10

    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, GOLDEN / GIST, data, tmp_path / "killed", str(survived)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while (
            sum(each.stat().st_size for each in (tmp_path / "killed").rglob("*.keys")) < on_disk * RECORD_DTYPE.itemsize
        ):
            assert child.poll() is None, child.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
    assert not list((tmp_path / "killed").rglob("search.json"))

    ((whole, _),) = run_evaluation(load(GIST), data, output=tmp_path / "whole")
    ((again, reused),) = run_evaluation(load(GIST), data, output=tmp_path / "killed")
    assert not reused
    assert whole.manifest["texts"]["encoded"] == len(queries) + len(documents)
    assert again.manifest["texts"]["encoded"] == len(queries) + len(documents) - on_disk
    assert again.scores == whole.scores
    assert again.per_query == whole.per_query
    vectors = []
    for name in ("whole", "killed"):
        cache = VectorCache(tmp_path / name / "vectors")
        adapter = MtebEncoder(load(GIST), cache=cache)
        vectors.append(adapter.encode_cached([*queries, *documents], ""))
        assert adapter.counters.num_encoded == 0
        cache.close()
    assert np.array_equal(*vectors)


# ---- tasks that fail


def failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> None:
    """Let the data of some tasks fail to load."""
    loads = running.load_task

    def load_task(task: Any) -> None:
        if error := errors.get(task.metadata.name):
            raise error
        loads(task)

    monkeypatch.setattr(running, "load_task", load_task)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SourceError("no network"), "sts: no network"),
        (MemoryError("too large"), "sts: MemoryError: too large"),
        (KeyError("a column"), "sts: KeyError: 'a column'"),
        (OSError(28, "full"), r"sts: \[Errno 28\] full"),
    ],
)
def test_one_task_that_fails_does_not_lose_the_others(
    run_evaluation: RunEvaluation,
    sts: Path,
    beir: Path,
    clusters: Path,
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(monkeypatch, {"sts": error})
    with pytest.raises(TasksError, match=rf"^1 of 3 tasks failed\.\n{said}$") as caught:
        run_evaluation(load(GIST), beir, sts, clusters)
    assert [each.task for each in caught.value.results] == ["search", "clusters"]
    assert all(each.path.is_file() for each in caught.value.results)
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, GnomonError)
    with pytest.raises(type(error)) as alone:
        run_evaluation(load(GIST), sts)
    assert alone.value is error
    failing(monkeypatch, {})
    monkeypatch.undo()
    assert [reused for _, reused in run_evaluation(load(GIST), beir, sts, clusters)] == [True, False, True]


def test_several_that_fail_are_all_named(
    run_evaluation: RunEvaluation, sts: Path, beir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, {"sts": SourceError("no network"), "search": ValueError("odd")})
    with pytest.raises(
        TasksError, match=r"^2 of 2 tasks failed\.\nsts: no network\nsearch: ValueError: odd$"
    ) as caught:
        run_evaluation(load(GIST), sts, beir)
    assert caught.value.results == []


def test_what_a_failed_task_had_already_is_among_the_results(
    run_evaluation: RunEvaluation, sts: Path, beir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = running._Run._evaluate

    def evaluate_one(self: Any, system: Any, task: Any, path: Path) -> Result:
        if system.method == "hybrid":
            raise ValueError("odd")
        return evaluated(self, system, task, path)

    monkeypatch.setattr(running._Run, "_evaluate", evaluate_one)
    with pytest.raises(TasksError) as caught:
        run_evaluation(load(GIST), beir, sts, methods=["dense", "bm25", "hybrid"])
    assert [(each.task, each.manifest["model"]["method"]) for each in caught.value.results] == [
        ("search", "bm25"),
        ("search", "dense"),
        ("sts", "dense"),
    ]


def test_ctrl_c_passes_through_and_keeps_what_is_done(
    run_evaluation: RunEvaluation, sts: Path, beir: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        failing(patch, {"search": KeyboardInterrupt()})
        run_evaluation(load(GIST), sts, beir)
    del encoded[:]
    assert [reused for _, reused in run_evaluation(load(GIST), sts, beir)] == [True, False]
    assert len(encoded) == 54


def test_an_error_of_the_caller_is_the_callers(sts: Path, beir: Path, tmp_path: Path) -> None:
    def on_result(result: Result, reused: bool) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        evaluate(load(GIST), data=[sts, beir], output=tmp_path / "out", on_result=on_result)
    assert [each.task for each in read_results(tmp_path / "out")] == ["sts"]


def test_two_tasks_of_one_name_are_refused(
    run_evaluation: RunEvaluation, sts: Path, tmp_path: Path, encoded: list[str]
) -> None:
    write(tmp_path / "elsewhere" / "sts" / "test.jsonl", read(sts / "de.test.jsonl"))
    with pytest.raises(InputError, match=r"two tasks are called sts.*task.json: \{\"name\": ...\}"):
        run_evaluation(load(GIST), sts, tmp_path / "elsewhere" / "sts")
    (tmp_path / "elsewhere" / "sts" / "task.json").write_text('{"name": "other"}')
    assert [each.task for each, _ in run_evaluation(load(GIST), sts, tmp_path / "elsewhere" / "sts")] == [
        "sts",
        "other",
    ]


# ---- data that trips the scoring


def test_d1_labels_below_zero_lose_no_set(run_evaluation: RunEvaluation, beir: Path, sts: Path) -> None:
    qrels = (beir / "qrels" / "test.tsv").read_text().replace("test0\td000\t1", "test0\td000\t-2")
    (beir / "qrels" / "test.tsv").write_text(qrels)
    with pytest.warns(Notice) as warned:
        found = run_evaluation(load(GIST), beir, sts)
    assert [each.task for each, _ in found] == ["search", "sts"]
    assert any("has scores below 0 in 1 line, first in line 2" in str(each.message) for each in warned)
    own = found[0][0].per_query["test", "default"]
    assert dict(zip(own.ids or (), own.values, strict=True))["test0"] == 0


def test_d2_identical_ids_are_another_run_and_in_the_manifest(run_evaluation: RunEvaluation, beir: Path) -> None:
    queries, texts = read(beir / "queries.jsonl"), {row["_id"]: row["text"] for row in read(beir / "corpus.jsonl")}
    write(beir / "queries.jsonl", [*queries, {"_id": "d004", "text": texts["d004"]}])
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("d004\td005\t1\n")
    with pytest.warns(Notice, match="1 of 25 queries have the id of a document"):
        (as_is, _), *_ = run_evaluation(load(GIST), beir)
    assert as_is.per_query, "read before they are replaced"
    (beir / "task.json").write_text('{"ignore_identical_ids": true}')
    (ignoring, reused), *_ = run_evaluation(load(GIST), beir)
    assert not reused
    protocols = [each.manifest["protocol"]["ignore_identical_ids"] for each in (as_is, ignoring)]
    assert protocols == [False, True]
    assert as_is.manifest["task"]["revision"] != ignoring.manifest["task"]["revision"]
    values = [
        dict(zip(each.per_query["test", "default"].ids or (), each.per_query["test", "default"].values, strict=True))
        for each in (as_is, ignoring)
    ]
    assert values[0]["d004"] < values[1]["d004"]
    assert {query: value for query, value in values[0].items() if query != "d004"} == {
        query: value for query, value in values[1].items() if query != "d004"
    }


def test_d3_a_set_whose_qrels_name_absent_documents(run_evaluation: RunEvaluation, beir: Path) -> None:
    whole = run_evaluation(load(GIST), beir)[0][0].per_query["test", "default"]
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("test0\tgone\t1\n")
    with pytest.raises(InputError, match=r"no document 'gone'.*--allow-missing-ids"):
        run_evaluation(load(GIST), beir)
    with pytest.warns(Notice, match="in 1 line, first 'gone'"):
        (found, reused), *_ = run_evaluation(load(GIST), beir, allow_missing_ids=True)
    assert not reused
    values = found.per_query["test", "default"].values
    ideal = 1 + 1 / np.log2(3)
    assert values[0] == pytest.approx(whole.values[0] / ideal, abs=1e-6)
    assert values[1:] == whole.values[1:]


ONE_SCORE = [{"sentence1": f"the {word}", "sentence2": f"the {word}", "score": at % 3} for at, word in enumerate(WORDS)]


@pytest.mark.parametrize("subset", [False, True])
def test_d5_a_score_that_is_not_defined_is_null_with_the_reason(
    run_evaluation: RunEvaluation, tmp_path: Path, subset: bool
) -> None:
    write(tmp_path / "odd" / "a.jsonl", ONE_SCORE)
    if subset:
        write(tmp_path / "odd" / "b.jsonl", [row | {"sentence2": WORDS[at]} for at, row in enumerate(ONE_SCORE)])
    ((result, _),) = run_evaluation(load(GIST), tmp_path / "odd")
    row = json.loads(json.dumps(summarize(result, reused=False), allow_nan=False))
    reason = f"the model gives all {len(WORDS)} pairs the score 1; a correlation needs scores that differ"
    assert (row["score"], row["interval"]) == (None, None)
    assert row["reason"] == result.undefined_reason == (f"a: {reason}" if subset else reason)
    if subset:
        assert row["subsets"]["a"] is None
        assert -1 <= row["subsets"]["b"] <= 1
    assert format_summary(row).startswith("n/a ")
    assert format_summary(row).endswith(row["reason"])
    json.loads(manifest_path(result.path).read_text(), parse_constant=lambda name: pytest.fail(name))
    other = summarize(run_evaluation(load(E5), tmp_path / "odd", output=tmp_path / "b")[0][0], reused=False)
    assert other["reason"]
    found = compare(tmp_path / "out", tmp_path / "b")
    assert found.rows[0].difference is None
    assert "is not defined: the model gives all" in found.rows[0].reason
    slow_score = "\n".join(format_comparison(found, 100))
    assert "n/a" in slow_score
    assert "nan" not in slow_score
    json.dumps(comparison_to_dict(found), allow_nan=False)
    assert "n/a" in render_html(read_results(tmp_path / "out"))


def test_d5_a_score_that_is_defined_has_no_reason(run_evaluation: RunEvaluation, sts: Path) -> None:
    ((result, _),) = run_evaluation(load(GIST), sts)
    assert (summarize(result, reused=False)["reason"], result.undefined_reason, result.manifest["undefined"]) == (
        None,
        "",
        [],
    )


def test_d5_a_correlation_of_rounding_is_reported(
    run_evaluation: RunEvaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "odd" / "test.jsonl", ONE_SCORE)
    inner = MtebEncoder.encode

    def encode(self: Any, inputs: Any, **said: Any) -> Any:
        vectors_ND = inner(self, inputs, **said)
        return vectors_ND + np.random.default_rng(len(inputs.dataset)).normal(0, 1e-6, vectors_ND.shape) * seen.pop()

    seen = [1, 0]
    monkeypatch.setattr(MtebEncoder, "encode", encode)
    with pytest.warns(Notice, match="odd .*the scores of all pairs lie within .* rounding decides their order"):
        ((result, _),) = run_evaluation(load(GIST), tmp_path / "odd")
    assert not np.isnan(result.score)


@pytest.mark.parametrize("subsets", [["fr"], ["de", "fr"]])
def test_d9_subsets_apply_to_the_sets_that_have_them(
    run_evaluation: RunEvaluation, sts: Path, beir: Path, tmp_path: Path, subsets: list[str]
) -> None:
    write(tmp_path / "other" / "es.jsonl", ONE_SCORE[:4])
    write(tmp_path / "other" / "it.jsonl", ONE_SCORE[4:8])
    with pytest.warns(Notice) as warned:
        found = run_evaluation(load(GIST), beir, sts, tmp_path / "other", subsets=subsets)
    assert {each.task: [subset.name for subset in each.subsets] for each, _ in found} == {
        "search": ["default"],
        "sts": subsets,
    }
    messages = " ".join(str(each.message) for each in warned)
    assert "search has no subsets, so all of it is evaluated" in messages
    assert f"other is left out: it has es, it, but not {', '.join(subsets)}" in messages
    assert found[0][0].manifest["variant"] == ""
    assert found[1][0].manifest["variant"] == " ".join(subsets)
    assert run_evaluation(load(GIST), beir)[0][1], "all of a set is the same result, whatever others were asked for"
    with pytest.raises(InputError, match=r"other, search, sts have no subset 'frr'.*Did you mean 'fr'"):
        run_evaluation(load(GIST), tmp_path / "other", beir, sts, subsets=["fr", "frr"])


def test_d6_training_rows_beside_test_rows_are_learned_from(run_evaluation: RunEvaluation, tmp_path: Path) -> None:
    rows = [{"text": f"{word} {at}", "label": bool(at % 2)} for at, word in enumerate(WORDS * 2)]
    write(tmp_path / "topics" / "training.jsonl", rows)
    write(tmp_path / "topics" / "test.jsonl", [row | {"label": str(row["label"])} for row in rows[:8]])
    ((result, _),) = run_evaluation(load(GIST), tmp_path / "topics")
    assert (result.kind, result.metric) == ("Classification", "accuracy")


# ---- settings that are wrong, before any text


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"options": EvaluationOptions(dim=300)}, "dim 300"),
    ({"options": EvaluationOptions(truncate_dim=1025)}, "truncate_dim is 1025"),
    ({"curve": [EvaluationOptions(), EvaluationOptions(truncate_dim=2000)]}, "truncate_dim is 2000"),
    ({"options": EvaluationOptions(max_seq_length=-1)}, "max_seq_length is -1"),
    ({"methods": ["dense", "splade"]}, "method 'splade'.*dense, bm25, hybrid, rrf"),
    ({"methods": []}, "method ''.*dense, bm25, hybrid, rrf"),
    (
        {"options": EvaluationOptions(prompts={"Retrieval-querry": "q"})},
        r"the prompt 'Retrieval-querry'.*Did you mean 'Retrieval-query'\?",
    ),
    ({"curve": [EvaluationOptions(prompts={"Clustering": "q"})]}, "the prompt 'Clustering'"),
    ({"methods": ["hybrid"], "bm25": Bm25Settings(alpha=-1.0)}, "alpha -1.0"),
    ({"methods": ["hybrid"], "bm25": Bm25Settings(alpha="dev")}, "alpha 'dev'"),  # pyright: ignore
    ({"methods": ["hybrid"], "bm25": Bm25Settings(alpha="published")}, "alpha.*published.*'default'"),
    ({"methods": ["bm25"], "bm25": Bm25Settings(b=2)}, "b is 2"),
    ({"methods": ["dense", "rrf"], "bm25": Bm25Settings(k1=-1)}, "k1 is -1"),
    ({"metric": "mrr_at_11"}, "search has no metric 'mrr_at_11'; it has ndcg_at_1, .*mrr_at_10, "),
    ({"metric": "mrr@10"}, "search has no metric 'mrr@10'"),
    ({"split": "dev"}, r"has no split 'dev'.* has test"),
    ({"subsets": ["eng"]}, "has no subset 'eng'"),
]


@pytest.mark.parametrize(("said", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_settings_fail_before_any_text(
    run_evaluation: RunEvaluation, beir: Path, encoded: list[str], tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_evaluation(load(STELLA), beir, **said)
    assert encoded == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4'.*binary-rescored"),
        ({"on_truncate": "tail"}, "on_truncate 'tail'.*cut, mean"),
        ({"on_truncate": "warn"}, "on_truncate 'warn'.*cut, mean"),
    ],
)
def test_unknown_choices_fail_where_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluationOptions(**options)


def test_what_is_missing_is_reported(run_evaluation: RunEvaluation, beir: Path, sts: Path) -> None:
    with pytest.raises(InputError, match=r"methods dense, bm25 .*model"):
        run_evaluation(None, beir, methods=["dense", "bm25"])
    with pytest.raises(InputError, match=r"nothing to evaluate.*--tasks.*--data"):
        run_evaluation(load(GIST))
    with pytest.raises(InputError, match=r"bm25.*retrieval.*STS"):
        run_evaluation(None, sts, methods=["bm25"])
    with pytest.raises(InputError, match=r"metric 'mrr_at_10'.*retrieval"):
        run_evaluation(load(GIST), sts, metric="mrr_at_10")
    with pytest.raises(InputError, match=r"split 'dev'.*local data"):
        evaluate(load(GIST), tasks=["NFCorpus"], split="dev")
    with pytest.raises(InputError, match=r"NFCorpus has no subset 'eng'.* has default"):
        evaluate(load(GIST), tasks=["NFCorpus"], subsets=["eng"])


def test_an_output_that_cannot_be_written_fails_before_any_text(
    run_evaluation: RunEvaluation, sts: Path, encoded: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"written to .*/file/out"):
        run_evaluation(load(GIST), sts, output=tmp_path / "file" / "out")
    assert encoded == []


def test_another_metric_stands_beside_the_tasks_own(run_evaluation: RunEvaluation, beir: Path) -> None:
    ((first, _),) = run_evaluation(load(GIST), beir)
    before = read_files(first)
    ((other, reused),) = run_evaluation(load(GIST), beir, metric="mrr_at_10")
    assert not reused
    assert (other.metric, other.label) == ("mrr_at_10", f"{GIST} (by mrr_at_10)")
    assert other.score == other.scores["test"][0]["mrr_at_10"]
    assert read_files(first) == before
    assert [reused for _, reused in run_evaluation(load(GIST), beir)] == [True]


def test_a_curve_is_of_the_model(run_evaluation: RunEvaluation, beir: Path) -> None:
    with pytest.raises(InputError, match=r"curve.*methods are bm25.*dense"):
        run_evaluation(load(GIST), beir, methods=["bm25"], curve=[EvaluationOptions(truncate_dim=8)])


def test_bm25_needs_no_model(run_evaluation: RunEvaluation, beir: Path, sts: Path) -> None:
    with pytest.warns(Notice, match="^sts: left out.*retrieval"):
        ((found, reused),) = run_evaluation(None, beir, sts, methods=["bm25"])
    assert (found.task, found.model, found.label, found.fingerprint, reused) == ("search", "BM25", "BM25", None, False)
    assert [reused for _, reused in run_evaluation(None, beir, methods=["bm25"])] == [True]
    ((other, reused),) = run_evaluation(None, beir, methods=["bm25"], bm25=Bm25Settings(k1=2.0))
    assert (other.label, reused) == ("BM25 (k1 2, b 0.4)", False)
    assert other.path != found.path


# ---- fusion


def test_a_fusion_is_tuned_on_dev_and_says_so(run_evaluation: RunEvaluation, tmp_path: Path) -> None:
    folder = retrieval(tmp_path / "search", ("test", "dev"))
    ((tuned, _),) = run_evaluation(load(GIST), folder, methods=["hybrid"])
    (alpha,) = tuned.manifest["settings"]["alphas"]["default"]
    assert tuned.manifest["texts"]["given"] == 24 + 30 + 24 + 30  # the queries of dev, too
    # other judgements of test: another score, the same alpha
    evaluated = (folder / "qrels" / "test.tsv").read_text().splitlines()
    turned = [f"{query}\td{at:03}\t1" for at, query in enumerate(row.split("\t")[0] for row in evaluated[1:])]
    (folder / "qrels" / "test.tsv").write_text("\n".join([evaluated[0], *turned]) + "\n")
    ((other, reused),) = run_evaluation(load(GIST), folder, methods=["hybrid"])
    assert not reused
    assert other.score != tuned.score
    assert other.manifest["settings"]["alphas"] == {"default": [alpha]}
    # other judgements of dev: another alpha
    words = [f"{query}\td{(at * 7) % 30:03}\t1" for at, query in enumerate(f"dev{at}" for at in range(24))]
    (folder / "qrels" / "dev.tsv").write_text("\n".join([evaluated[0], *words]) + "\n")
    ((third, reused),) = run_evaluation(load(GIST), folder, methods=["hybrid"])
    assert not reused
    assert third.manifest["settings"]["alphas"] != {"default": [alpha]}


def test_alphas_of_one_task_are_not_reported_for_the_next(run_evaluation: RunEvaluation, tmp_path: Path) -> None:
    """A task of two languages, and one of none."""
    for lang in ("de", "fr"):
        retrieval(tmp_path / "langs" / lang, ("test", "dev"))
    plain = retrieval(tmp_path / "search")
    found = {each.task: each for each, _ in run_evaluation(load(GIST), tmp_path / "langs", plain, methods=["hybrid"])}
    assert found["langs"].manifest["settings"]["alphas"].keys() == {"de", "fr"}
    assert found["search"].manifest["settings"]["alphas"].keys() == {"default"}
    assert [subset.name for subset in found["langs"].subsets] == ["de", "fr"]


def test_published_alphas(run_evaluation: RunEvaluation, tmp_path: Path) -> None:
    for lang in ("swahili", "korean"):
        retrieval(tmp_path / "tydi" / lang)
    ((found, _),) = run_evaluation(
        load(GIST), tmp_path / "tydi", methods=["hybrid"], bm25=Bm25Settings(alpha="published")
    )
    assert found.manifest["settings"]["alphas"] == {"korean": [1.0], "swahili": [0.56]}
    assert found.label == f"{GIST} (with BM25, alpha published)"


def test_fusions_stand_beside_each_other(run_evaluation: RunEvaluation, beir: Path) -> None:
    settings = [Bm25Settings(alpha=0.5), Bm25Settings(alpha=2.0), Bm25Settings(k1=2.0, alpha=0.5)]
    found = [run_evaluation(load(GIST), beir, methods=["hybrid"], bm25=each)[0] for each in [*settings, *settings]]
    assert [reused for _, reused in found] == [False] * 3 + [True] * 3
    assert len({each.path for each, _ in found}) == 3


def test_reranking_takes_no_fusion(run_evaluation: RunEvaluation, beir: Path) -> None:
    rows = [
        {"query-id": f"test{at}", "corpus-ids": [f"d{(at * 7 + step) % 30:03}" for step in range(4)]}
        for at in range(24)
    ]
    write(beir / "top_ranked.jsonl", rows)
    found = {
        each.manifest["model"]["method"]: each
        for each, _ in run_evaluation(load(GIST), beir, methods=["dense", "bm25", "hybrid", "rrf"])
    }
    assert found.keys() == {"dense", "bm25"}
    assert {each.kind for each in found.values()} == {"Reranking"}
    assert found["bm25"].metric == "map_at_1000"
    assert 0.25 <= min(each.score for each in found.values()) <= 1


# ---- curves


def test_a_curve_is_encoded_once(run_evaluation: RunEvaluation, beir: Path, encoded: list[str]) -> None:
    encoder = load(GIST)
    curve = curve_points(
        encoder, EvaluationOptions(), dims=[8, 32], precisions=["float16", "int8", "binary", "binary-rescored"]
    )
    found = [each for each, _ in run_evaluation(encoder, beir, curve=curve)]
    assert [each.label for each in found] == [
        GIST,
        *(f"{GIST} ({name})" for name in ("first 8", "first 32", "float16", "int8", "binary", "binary-rescored")),
    ]
    assert [each.manifest["settings"]["bytes_per_vector"] for each in found] == [256, 32, 128, 128, 64, 8, 8]
    assert [each.manifest["settings"]["dim"] for each in found] == [64, 8, 32, 64, 64, 64, 64]
    assert [each.manifest["texts"]["encoded"] for each in found] == [54] + [0] * 6
    assert len(encoded) == 54
    assert found[3].score == pytest.approx(found[0].score, abs=0.02)
    assert len({each.path for each in found}) == 7


@pytest.mark.parametrize("width", [None, 60])
def test_bits_that_are_rescored_find_as_the_index_does(
    run_evaluation: RunEvaluation, beir: Path, width: int | None
) -> None:
    """All 30 documents are put into order by the query's own numbers: as by hand, with signs of documents. A14: of a
    width that 8 does not divide, too.
    """
    ((found, _),) = run_evaluation(
        load(GIST), beir, options=EvaluationOptions(precision="binary-rescored", truncate_dim=width)
    )
    queries, documents = (read(beir / f"{name}.jsonl") for name in ("queries", "corpus"))
    q, d = (load(GIST).encode([row["text"] for row in rows], truncate_dim=width) for rows in (queries, documents))
    scores = q @ np.where(d > 0, 1, -1).T
    right = [(at * 7) % 30 for at in range(24)]
    ranks = [int((scores[at] > scores[at, place]).sum()) for at, place in enumerate(right)]
    assert found.score == pytest.approx(
        np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks]), abs=1e-5
    )


def test_heads_of_stella_are_one_pass(
    run_evaluation: RunEvaluation, sts: Path, encoded: list[str], tmp_path: Path
) -> None:
    curve = [
        EvaluationOptions(dim=256),
        EvaluationOptions(dim=512),
        EvaluationOptions(max_seq_length=6),
        EvaluationOptions(truncate_dim=64),
    ]
    found = [each for each, _ in run_evaluation(load(STELLA), sts, curve=curve)]
    assert [each.manifest["settings"]["dim"] for each in found] == [1024, 256, 512, 1024, 64]
    assert [each.manifest["texts"]["encoded"] for each in found] == [48, 0, 0, 48, 0]
    assert len(encoded) == 96
    # no widths are kept of the length that asks for none
    assert len(list((tmp_path / "out" / "vectors").iterdir())) == 4


def test_lengths_count_truncated_texts(run_evaluation: RunEvaluation, sts: Path) -> None:
    found = [
        each.manifest
        for each, _ in run_evaluation(
            load(GIST), sts, curve=curve_points(load(GIST), EvaluationOptions(), lengths=[4, 6])
        )
    ]
    cut = [sum(count > length for count in load(GIST).tokenize(texts_of(sts)).counts) for length in (64, 4, 6)]
    assert [each["texts"]["cut"] for each in found] == cut
    assert cut[0] == 0 < cut[2] <= cut[1] == 48
    assert {each["model"]["fingerprint"] for each in found} == {load(GIST).fingerprint}
    assert [each["settings"]["max_seq_length"] for each in found] == [64, 4, 6]


def texts_of(sts: Path) -> list[str]:
    return [row[name] for file in sorted(sts.iterdir()) for row in read(file) for name in ("sentence1", "sentence2")]


# ---- mteb's tasks


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let names stand for tasks that are made here."""

    def name(**tasks: Any) -> None:
        for each in tasks.values():
            each.k_values = getattr(each, "k_values", ())
        monkeypatch.setattr(running, "find_tasks", lambda names: ([tasks[each] for each in names], None))

    return name


def test_subsets_of_mtebs_tasks(named: Callable[..., None], tmp_path: Path) -> None:
    every = list(mocks.MockMultilingualSTSTask().hf_subsets)
    assert len(every) == 2
    for subsets in (every[1:], every[:1], []):
        task = mocks.MockMultilingualSTSTask()
        named(sts=task)
        (found,) = evaluate(load(GIST), tasks=["sts"], subsets=subsets, output=tmp_path)
        assert sorted({subset.name for subset in found.subsets}) == sorted(subsets or every)
        assert not task.data_loaded
    assert len(read_results(tmp_path)) == 3
    assert found.manifest["task"]["source"] == "hub"
    with pytest.raises(InputError, match=r"MockMultilingualSTSTask has no subset 'deu'.* has "):
        evaluate(load(GIST), tasks=["sts"], subsets=["deu"], output=tmp_path)


def test_data_is_let_go_after_an_error(named: Callable[..., None], tmp_path: Path) -> None:
    task = mocks.MockSTSTask()
    named(sts=task)
    task._evaluate_subset = None
    with pytest.raises(TypeError):
        evaluate(load(GIST), tasks=["sts"], output=tmp_path)
    assert not task.data_loaded


def test_an_aggregate_is_its_parts(named: Callable[..., None], tmp_path: Path) -> None:
    """As CQADupstackRetrieval of mteb-eng-56: no data of its own, the mean of twelve."""
    from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    class Both(AbsTaskAggregate):
        metadata = AggregateTaskMetadata(
            name="Both",
            description="both",
            tasks=[mocks.MockRetrievalTask(), mocks.MockInstructionRetrieval()],
            main_score="ndcg_at_10",
            type="Retrieval",
            eval_splits=["test"],
        )

    task = Both()
    named(both=task, alone=mocks.MockRetrievalTask(), other=mocks.MockInstructionRetrieval())
    found = evaluate(load(E5), tasks=["both"], methods=["dense", "bm25", "hybrid"], output=tmp_path)
    assert [each.manifest["model"]["method"] for each in found] == ["bm25", "dense", "hybrid"]
    parts = evaluate(load(E5), tasks=["alone", "other"], output=tmp_path / "parts")
    scores = [next(row["ndcg_at_10"] for row in each.scores["test"]) for each in parts]
    assert found[1].score == pytest.approx(np.mean(scores), abs=1e-6)
    assert found[1].interval is None
    assert found[1].manifest["texts"]["given"] == sum(each.manifest["texts"]["given"] for each in parts)
    assert not any(part.data_loaded for part in task.tasks)
    again = evaluate(load(E5), tasks=["both"], output=tmp_path, metric="mrr_at_10")
    assert again[0].metric == "ndcg_at_10"  # the one that an aggregate has


@pytest.mark.parametrize("side", ["queries", "texts"])
def test_prompts_of_the_caller_reach_mtebs_tasks(named: Callable[..., None], tmp_path: Path, side: str) -> None:
    named(task=mocks.MockRetrievalTask() if side == "queries" else mocks.MockSTSTask())
    key = "MockRetrievalTask-query" if side == "queries" else "STS"
    (found,) = evaluate(load(E5), tasks=["task"], options=EvaluationOptions(prompts={key: "mine: "}), output=tmp_path)
    assert found.manifest["prompts"][0] == {"of": side, "name": key, "text": "mine: "}


# ---- quiet


def test_a_run_says_nothing_but_notices(
    run_evaluation: RunEvaluation,
    sts: Path,
    beir: Path,
    clusters: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    datasets.enable_progress_bars()
    level = logging.getLogger("mteb").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_evaluation(load(GIST), sts, beir, clusters, methods=["dense", "bm25", "hybrid"])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger("mteb").level == level
    assert datasets.is_progress_bar_enabled()
