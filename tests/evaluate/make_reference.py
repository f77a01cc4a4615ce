"""Reference scores: mteb's own task classes over sentence-transformers, on every set of the shared folder.

    python tests/evaluate/make_reference.py MODELS_FOLDER [--only SET ...] [--model NAME ...]

Nothing here is gnomon's: the data is read again, the model is sentence-transformers' and the prompts are written down
per model in mteb's own form, so that tests/evaluate/reference.json is a second opinion. What is in the file already is
kept; a set is computed again after its entry was deleted. It took about half an hour on two cores.
"""

import argparse
import gzip
import json
import logging
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTaskBitextMining,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
OUT = Path(__file__).with_name("reference.json")
SYMMETRIC = ("STS", "PairClassification", "Classification", "Clustering", "BitextMining")
E5 = {"query": "query: ", "document": "passage: "} | dict.fromkeys(SYMMETRIC, "query: ")
MODELS: dict[str, dict[str, str] | None] = {
    "all-MiniLM-L6-v2": None,
    "paraphrase-MiniLM-L3-v2": None,
    "multilingual-e5-small": E5,
}
MAIN = {
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "BitextMining": "f1",
}
BASES = {
    "Retrieval": AbsTaskRetrieval,
    "Reranking": AbsTaskRetrieval,
    "STS": AbsTaskSTS,
    "PairClassification": AbsTaskPairClassification,
    "Classification": AbsTaskClassification,
    "Clustering": AbsTaskClustering,
    "BitextMining": AbsTaskBitextMining,
}


def rows(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def task(name: str, kind: str, dataset: dict[str, Any], **settings: Any) -> Any:
    """A task of mteb over data that is in memory: {subset: {split: ...}}."""
    metadata = TaskMetadata(
        name=name,
        description=name,
        type=kind,
        dataset={"path": name, "revision": "1"},
        eval_splits=["test"],
        eval_langs={subset: ["eng-Latn"] for subset in dataset},
        main_score=MAIN[kind],
        category="t2c" if kind in ("Classification", "Clustering") else "t2t",
    )
    made = type(name, (BASES[kind],), {"metadata": metadata} | settings)()
    made.dataset, made.data_loaded = dataset, True
    return made


def beir(folder: Path) -> dict[str, Any]:
    read = rows(folder / "corpus.jsonl.gz")
    corpus = [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in read]
    queries = [{"id": row["_id"], "text": row["text"]} for row in rows(folder / "queries.jsonl.gz")]
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        relevant[query][document] = int(score)
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": dict(relevant),
        "top_ranked": None,
    }


def retrieval(name: str) -> Any:
    folder = DATA / name
    alone = (folder / "qrels").is_dir()
    subsets = {"default": folder} if alone else {part.name: part for part in sorted(folder.iterdir())}
    return task(name, "Retrieval", {subset: {"test": beir(part)} for subset, part in subsets.items()})


def reranking() -> Any:
    """`retrieval_faq` with 20 candidates a query, by place in the file: the relevant one and 19 others."""
    split = beir(DATA / "retrieval_faq")
    ids = split["corpus"]["id"]
    split["top_ranked"] = {}
    for place, (query, relevant) in enumerate(split["relevant_docs"].items()):
        others = [ids[(place + 31 * step) % len(ids)] for step in range(40)]
        candidates = list(dict.fromkeys([*relevant, *others]))[:20]
        split["top_ranked"][query] = sorted(candidates)
    return task("reranking_faq", "Reranking", {"default": {"test": split}})


def sts() -> Any:
    read = rows(DATA / "sts_defs" / "test.jsonl")
    return task("sts_defs", "STS", {"default": {"test": Dataset.from_list(read)}}, min_score=0, max_score=3)


def pairs() -> Any:
    read = [{**row, "labels": row["label"]} for row in rows(DATA / "sts_defs" / "test.jsonl")]
    return task("sts_defs_pairs", "PairClassification", {"default": {"test": Dataset.from_list(read)}})


def classification(name: str) -> Any:
    parts = {split: rows(DATA / name / f"{split}.jsonl.gz") for split in ("train", "test")}
    langs = sorted({row.get("lang", "default") for row in parts["test"]})
    dataset = {
        lang: DatasetDict(
            {
                split: Dataset.from_list([row for row in read if row.get("lang", "default") == lang])
                for split, read in parts.items()
            }
        )
        for lang in langs
    }
    return task(name, "Classification", dataset)


def clustering() -> Any:
    texts = rows(DATA / "clustering_topics" / "test.jsonl.gz")
    read = [{"sentences": row["text"], "labels": row["label"]} for row in texts]
    dataset = {"default": {"test": Dataset.from_list(read)}}
    return task("clustering_topics", "Clustering", dataset, max_fraction_of_documents_to_embed=None)


def bitext() -> Any:
    files = sorted((DATA / "bitext_wesnoth").glob("*.jsonl.gz"))
    dataset = {path.name.split(".")[0]: {"test": Dataset.from_list(rows(path))} for path in files}
    return task("bitext_wesnoth", "BitextMining", dataset)


SETS = {
    "sts_defs": sts,
    "sts_defs_pairs": pairs,
    "clustering_topics": clustering,
    "classification_supersense": lambda: classification("classification_supersense"),
    "classification_intents": lambda: classification("classification_intents"),
    "reranking_faq": reranking,
    "retrieval_faq": lambda: retrieval("retrieval_faq"),
    "retrieval_defs": lambda: retrieval("retrieval_defs"),
    "bitext_wesnoth": bitext,
    "retrieval_longdocs": lambda: retrieval("retrieval_longdocs"),
    "retrieval_help": lambda: retrieval("retrieval_help"),
}


def scores_of(folder: Path, set_name: str) -> dict[str, float]:
    """{subset: main score} that mteb gives to sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")
    wrapped = SentenceTransformerEncoderWrapper(model, model_prompts=MODELS[folder.name])
    result = mteb.evaluate(wrapped, SETS[set_name](), cache=None, show_progress_bar=False, co2_tracker=False)
    return {row["hf_subset"]: row["main_score"] for row in result.task_results[0].scores["test"]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("models", type=Path, help="the folder that shared/models/build_models.py wrote")
    arguments.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    arguments.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    asked = arguments.parse_args()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    found["versions"] = {name: version(name) for name in ("mteb", "sentence-transformers", "torch", "scikit-learn")}
    for set_name in asked.only:
        for name in asked.model:
            scores = found.setdefault("scores", {}).setdefault(name, {})
            if set_name in scores:
                continue
            scores[set_name] = scores_of(asked.models / name, set_name)
            OUT.write_text(json.dumps(found, indent=1) + "\n")
            print(set_name, name, scores[set_name], flush=True)


if __name__ == "__main__":
    main()
