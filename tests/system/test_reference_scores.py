"""`gnomon evaluate` gives the scores that mteb gives to sentence-transformers: tests/evaluate/reference.json.

The whole comparison (three models, every set) is made by experiments/evaluation; here is every set for the small model,
and some for the others. A small part of the reference itself is computed again.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon import Encoder
from gnomon.evaluate import evaluate

mteb = pytest.importorskip("mteb")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
REFERENCE = json.loads((ROOT / "tests" / "evaluate" / "reference.json").read_text("utf-8"))
L3, L6, E5 = "paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2", "multilingual-e5-small"
SETS = ("sts_defs", "classification_supersense", "classification_intents", "clustering_topics", "bitext_wesnoth")
SETS += ("retrieval_faq", "retrieval_defs", "retrieval_longdocs", "retrieval_help", "reranking_faq")
LIMITS = {"Classification": 0.005, "Clustering": 0.005}
"""Where one flipped item, or another start of k-means, moves the score; elsewhere 1e-4."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::gnomon.errors.Notice"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def built(name: str) -> Path:
    place = ROOT / ".models" / name
    if not (place / "model.safetensors").is_file():
        message = f"{place} is not there; `make test` builds it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return place


@pytest.fixture(scope="module")
def reference() -> Any:
    """The program that made the reference."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tests" / "evaluate" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a set; `reranking_faq` is written from the reference's own making."""

    def folder_of(name: str) -> Path:
        if not DATA.is_dir():
            message = f"{DATA} is not here: it is in the shared folder of the project, not in the repository"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        return reranking(reference, tmp_path_factory.mktemp("sets") / name) if name == "reranking_faq" else DATA / name

    return folder_of


def reranking(reference: Any, folder: Path) -> Path:
    split = reference.reranking().dataset["default"]["test"]
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": row["id"], "title": row["title"], "text": row["text"]} for row in split["corpus"]]
    queries = [{"_id": row["id"], "text": row["text"]} for row in split["queries"]]
    ranked = [{"query-id": query, "corpus-ids": ids} for query, ids in split["top_ranked"].items()]
    for name, rows in (("corpus", documents), ("queries", queries), ("top_ranked", ranked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = [
        (query, document, str(grade)) for query, of in split["relevant_docs"].items() for document, grade in of.items()
    ]
    lines = ["\t".join(row) for row in (("query-id", "corpus-id", "score"), *judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


CASES = [(L3, name) for name in SETS] + [(L6, "sts_defs"), (L6, "reranking_faq"), (E5, "sts_defs")]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_scores_are_those_of_the_reference(model: str, name: str, data: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = Encoder.load(built(model))
    results = evaluate(encoder, data=[data(name)], output=tmp_path / "out")
    assert results
    for result in results:
        key = name + "_pairs" if result.kind == "PairClassification" else name
        wanted = REFERENCE["scores"][model][key]
        found = {subset.name: subset.score for subset in result.subsets}
        assert found.keys() == wanted.keys()
        far = {subset: score - wanted[subset] for subset, score in found.items()}
        assert all(abs(each) <= LIMITS.get(result.kind, 1e-4) for each in far.values()), far
        assert result.interval is not None
        assert result.interval.low <= result.score <= result.interval.high


@pytest.mark.parametrize("name", ["sts_defs", "sts_defs_pairs", "reranking_faq"])
def test_the_reference_is_what_sentence_transformers_gets_today(
    name: str, reference: Any, data: Callable[[str], Path]
) -> None:
    data("retrieval_faq")  # skips where the shared folder is missing
    found = reference.scores_of(built(L3), name)
    assert found == pytest.approx(REFERENCE["scores"][L3][name], abs=2e-6)
