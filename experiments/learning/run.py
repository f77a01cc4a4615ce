"""Real training: two models tuned on two tasks, evaluated on every set before and after, beside sentence-transformers.

    python -m experiments.learning.run MODELS [--choose | --only docs:MODEL:gnomon,... | --tables-only]

MODELS is the folder that shared/models/build_models.py writes. Each task's recipe is TASK.toml. The last 1,000 rows of
each training file are held out; recipes are chosen (--choose) on them, and for docs on a manual that is left out of the
training. What is there is not run again. Prints the tables of docs/records/training-results.md and writes them to
results.json.
"""

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.figures import print_table
from experiments.learning.data import APART, DATA, FOUR, keep_apart
from experiments.learning.peer import with_sentence_transformers
from gnomon import Encoder
from gnomon.evaluate import evaluate, format_summary, summarize
from gnomon.evaluate.compare import Comparison, compare
from gnomon.train import DataSource, Recipe, train
from gnomon.train.objectives.validation import mean_reciprocal_rank
from gnomon.train.recipe.toml import read

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2")
TRAINERS = ("gnomon", "sentence-transformers")
TASKS = ("docs", "bilingual")
SETS = (
    "retrieval_faq",
    "retrieval_longdocs",
    "retrieval_defs",
    "retrieval_help",
    "bitext_wesnoth",
    "sts_defs",
    "classification_supersense",
    "classification_intents",
    "clustering_topics",
)
AIMS = {
    "docs": {"retrieval_faq": [""], "retrieval_longdocs": [""]},
    "bilingual": {
        "bitext_wesnoth": ["en-de", "en-es", "en-fr", "en-it"],
        "retrieval_help": ["cross_de_en", "cross_es_en", "cross_fr_en"],
    },
}
"""Sets, and their subsets, that a task is to gain on; named in the issue, before anything was run."""
FEWER = {"docs": 350, "bilingual": 150}
"""Steps of the runs in which recipes are chosen."""
VARIANTS = {
    "docs": {
        "5e-4": [],
        "5e-4, 0.3 of the first": ["base_weight=0.3"],
        "5e-4, half of the first": ["base_weight=0.5"],
        "dropout, half of the first": ["dropout=0.1", "attention_dropout=0.1", "base_weight=0.5"],
        "2e-4, half of the first": ["learning_rate=2e-4", "base_weight=0.5"],
        "128 tokens, half of the first": ["max_seq_length=128", "base_weight=0.5"],
        "no contrast, half of the first": ["loss.alpha=0", "base_weight=0.5"],
        "no teacher, 5e-5, half of the first": ["loss={name='info_nce'}", "learning_rate=5e-5", "base_weight=0.5"],
    },
    "bilingual": {
        "all weights, 1e-4": ["freeze=[]", "learning_rate=1e-4"],
        "all weights, 3e-4": ["freeze=[]", "learning_rate=3e-4"],
        "embeddings, 1e-3": ["learning_rate=1e-3"],
        "embeddings, 3e-3": [],
        "embeddings, 3e-3, half of the first": ["base_weight=0.5"],
        "embeddings, 3e-3, 400 steps": ["max_steps=400"],
        "embeddings, 3e-3, 400 steps, half of the first": ["max_steps=400", "base_weight=0.5"],
    },
}
"""What is changed in each task's recipe; base_weight is 0 unless it is given."""
LEFT_OUT = "docs-linux-6.1"
"""The manual that the docs task is chosen on: of all, it has the most headings that are questions."""
CHOSEN_ON = {
    "docs": (f"{LEFT_OUT}.jsonl.gz", f"{LEFT_OUT}-asked.jsonl.gz", f"{LEFT_OUT}-topics.jsonl.gz"),
    "bilingual": (f"{FOUR}.dev.jsonl.gz", "bible.dev.jsonl", "docs.dev.jsonl"),
}
"""What a recipe is chosen on: what it is to learn, and what it may lose."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--output", type=Path, default=ROOT / ".learning")
    arguments.add_argument("--choose", action="store_true", help="variants of the recipes, on rows that are held out")
    arguments.add_argument("--only", default="", help="runs TASK:MODEL:TRAINER, with commas between them")
    arguments.add_argument("--tables-only", action="store_true")
    options = arguments.parse_args()
    if not options.tables_only:
        keep_apart(options.output / "data")
    if options.choose:
        choose(options.models, options.output)
        return
    every = [":".join((task, model, trainer)) for task in TASKS for model in MODELS for trainer in TRAINERS]
    runs = options.only.split(",") if options.only else every
    for task, model, trainer in () if options.tables_only else (run.split(":") for run in runs):
        train_and_evaluate(task, options.models / model, trainer, options.output)
    print_tables(options.output, Path(__file__).with_name("results.json"))


def recipe_of(task: str, model: Path, output: Path, folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a task, of this model; MODEL is the model itself, other names are models beside it."""
    recipe = read(Path(__file__).with_name(f"{task}.toml"), [f"model={model}", f"output={output}", *changes])
    paths = [tuple(str(folder / "data" / name) for name in source.path) for source in recipe.sources]
    sources = tuple(replace(source, path=path) for source, path in zip(recipe.sources, paths, strict=True))
    named = {key: getattr(recipe.loss, key) for key in ("guide", "teacher") if getattr(recipe.loss, key)}
    beside = {key: str(model if name == "MODEL" else model.parent / name) for key, name in named.items()}
    return replace(recipe, sources=sources, loss=replace(recipe.loss, **beside), cache_dir=str(folder / "index"))


# ---- choosing


def choose(models: Path, folder: Path) -> None:
    """By variant, the mean reciprocal rank on rows that it was not trained on: what is learned, what is lost."""
    base = models / MODELS[0]
    for task, variants in VARIANTS.items():
        print(f"{task}, untrained:", dev_scores(task, base, folder), flush=True)
        for place, (variant, changes) in enumerate(variants.items()):
            output = folder / "choose" / f"{task}-{place}"
            if not (output / "model").exists():
                recipe = recipe_of(task, base, output, folder, [f"max_steps={FEWER[task]}", "base_weight=0", *changes])
                train(replace(recipe, sources=tuple(map(without_left_out, recipe.sources))), overwrite=True)
            print(f"{task}, {variant}:", dev_scores(task, output / "model", folder), flush=True)


def without_left_out(source: DataSource) -> DataSource:
    return replace(source, path=tuple(path for path in source.path if not Path(path).name.startswith(LEFT_OUT)))


def dev_scores(task: str, model: Path, folder: Path) -> dict[str, float]:
    encoder = Encoder.load(model)
    return {name: reciprocal_rank(encoder, folder / "data" / name) for name in CHOSEN_ON[task]}


def reciprocal_rank(encoder: Encoder, path: Path) -> float:
    """Of the first 1,000 rows, each document among those of the others."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, APART)]
    queries, documents = (
        torch.from_numpy(encoder.encode(texts, on_truncate="silent", normalize_embeddings=True))
        for texts in ([row.get("query") or row["anchor"] for row in rows], [row["positive"] for row in rows])
    )
    places = np.arange(len(rows))
    return round(mean_reciprocal_rank(queries, documents, places, places), 4)


# ---- running


def train_and_evaluate(task: str, base: Path, trainer: str, folder: Path) -> None:
    """Train and evaluate one model; evaluate the model that it starts from."""
    run = folder / f"{task}-{base.name}-{trainer}"
    if not (run / "took.json").exists():
        began = time.monotonic()
        recipe = recipe_of(task, base, run, folder)
        if trainer == "gnomon":
            train(recipe, overwrite=True)
        else:
            with_sentence_transformers(recipe, run / "model")
        took = {"minutes": (time.monotonic() - began) / 60, "threads": torch.get_num_threads()}
        (run / "took.json").write_text(json.dumps(took))
        print(f"{run.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    evaluate_all(base, folder / f"base-{base.name}")
    evaluate_all(run / "model", run)


def evaluate_all(model: Path, folder: Path) -> None:
    def show(result: Any, reused: bool) -> None:
        if not reused:
            print(format_summary(summarize(result, reused)), flush=True)

    evaluate(Encoder.load(model), data=[DATA / name for name in SETS], output=folder / "judged", on_result=show)


# ---- tables


def print_tables(folder: Path, file: Path) -> None:
    """Scores 0 to 100 before and after, with the paired 95 % interval of the difference; what was not run stays."""
    results = json.loads(file.read_text())
    for task in TASKS:
        for model in MODELS:
            runs = {trainer: folder / f"{task}-{model}-{trainer}" for trainer in TRAINERS}
            runs = {trainer: run for trainer, run in runs.items() if any((run / "judged" / "results").rglob("*.json"))}
            before = folder / f"base-{model}" / "judged" / "results"
            found = {trainer: by_set(compare(before, run / "judged" / "results")) for trainer, run in runs.items()}
            if found:
                minutes = {trainer: json.loads((run / "took.json").read_text()) for trainer, run in runs.items()}
                results[f"{task}, {model}"] = {"took": minutes, "sets": table_of(found)}
    file.write_text(json.dumps(results, indent=1) + "\n")
    for title, result in results.items():
        aims = AIMS[title.partition(",")[0]]
        rows: list[list[object]] = []
        for row in result["sets"]:
            mark = "**" if (row["subset"] or "") in aims.get(row["set"], []) else ""
            name = f"{row['set']}, {row['subset']}" if row["subset"] else row["set"]
            after = [cell(row["after"].get(trainer)) for trainer in TRAINERS]
            rows.append([f"{mark}{name}{mark}", row["metric"], row["before"], *after])
        print_table(("set", "metric", "before", *(f"after, {name}" for name in TRAINERS)), rows, f"### {title}")


def by_set(compared: Comparison) -> dict[tuple[str, str], Any]:
    return {(row.task, row.subset): row for row in compared.rows}


def table_of(found: dict[str, dict[tuple[str, str], Any]]) -> list[dict[str, Any]]:
    return [
        {
            "set": row.task,
            "subset": row.subset,
            "metric": row.metric,
            "before": round(100 * row.a, 1),
            "after": {trainer: after_of(rows[key]) for trainer, rows in found.items() if key in rows},
        }
        for key, row in next(iter(found.values())).items()
    ]


def after_of(row: Any) -> dict[str, float] | None:
    """Score, difference and the interval of the difference."""
    if row.difference is None:
        return None
    span = {"low": row.interval.low, "high": row.interval.high} if row.interval else {}
    values = {"score": row.b, "difference": row.difference, **span}
    return {name: round(100 * value, 1) for name, value in values.items()}


def cell(after: dict[str, float] | None) -> str:
    if after is None:
        return "–"
    span = f" ({after['low']:+.1f} to {after['high']:+.1f})" if "low" in after else ""
    return f"{after['score']:.1f}, {after['difference']:+.1f}{span}"


if __name__ == "__main__":
    main()
