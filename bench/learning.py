"""Real learning: two models tuned on two tasks, judged on every set before and after, beside sentence-transformers.

    python bench/learning.py MODELS [--output FOLDER] [--choose | --only docs:MODEL:gnomon,... | --report-only]

MODELS is the folder that shared/models/build_models.py writes. Each task's recipe is bench/learning/TASK.toml. The last
1,000 rows of each training file are kept apart: recipes are chosen on them (--choose). What is there is not run again.
Writes docs/training-results.md.
"""

import argparse
import gzip
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from gnomon import Encoder
from gnomon.evaluate import evaluate, line, summary
from gnomon.evaluate.compare import Comparison, Row, compare
from gnomon.train import LossSettings, Recipe, train
from gnomon.train.recipe import read

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PAGE = ROOT / "docs" / "training-results.md"
MODELS = ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2")
TASKS = ("docs", "bilingual")
FILES = ("docs", "strings", "bible")
APART = 1000
FOUR = "strings-de-es-fr-it"
"""Rows of strings in the four languages that the task is judged on. Most others are in scripts that the tokenizer of
these models hardly knows.
"""
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
RATES, FEWER = (3e-5, 1e-4, 3e-4), 60
"""Learning rates that are tried, in a run of fewer steps."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--output", type=Path, default=ROOT / ".learning")
    arguments.add_argument("--choose", action="store_true", help="learning rates on the rows kept apart")
    arguments.add_argument("--only", default="", help="runs TASK:MODEL:TRAINER, with commas between them")
    arguments.add_argument("--report-only", action="store_true")
    asked = arguments.parse_args()
    keep_apart(asked.output / "data")
    if asked.choose:
        choose(asked.models, asked.output)
        return
    runs = [tuple(run.split(":")) for run in asked.only.split(",")] if asked.only else every_run()
    for task, model, trainer in [] if asked.report_only else runs:
        one(task, asked.models / model, trainer, asked.output)
    PAGE.write_text("\n".join(page(asked.output)) + "\n", encoding="utf-8")
    print(f"wrote {PAGE}")


def every_run() -> Iterator[tuple[str, str, str]]:
    for task in TASKS:
        for model in MODELS:
            yield from ((task, model, trainer) for trainer in ("gnomon", "sentence-transformers"))


# ---- data


def keep_apart(folder: Path) -> None:
    """Training files without their last rows, and these by themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / f"{name}.dev.jsonl").exists():
            continue
        with gzip.open(DATA / "train_pairs" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines[:-APART])
        (folder / f"{name}.dev.jsonl").write_text("".join(lines[-APART:]), encoding="utf-8")
    with gzip.open(folder / "strings.jsonl.gz", "rt", encoding="utf-8") as file:
        four = [line for line in file if json.loads(line)["lang"].removeprefix("en-") in ("de", "es", "fr", "it")]
    write(folder / f"{FOUR}.jsonl.gz", four)
    with gzip.open(folder / "docs.jsonl.gz", "rt", encoding="utf-8") as file:
        manuals = {line: json.loads(line)["source"].replace(":", "-") for line in file}
    for manual in {*manuals.values()}:
        write(folder / f"{manual}.jsonl.gz", [line for line in manuals if manuals[line] == manual])
    for name in (FOUR, "bible"):
        if not (folder / f"english-{name}.jsonl.gz").exists():
            with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
                lines = [*english_first(map(json.loads, file), [json.loads(line)["positive"] for line in manuals])]
            write(folder / f"english-{name}.jsonl.gz", lines)


def english_first(rows: Iterable[dict[str, str]], english: Sequence[str]) -> Iterator[str]:
    """Lines in which `query` is English and `positive` its translation; the files have them in either order.

    The English side is the one whose groups of three letters are the more usual in English texts.
    """
    seen = Counter(group for text in english for group in groups_of_three(text))
    every = seen.total()

    def usual(text: str) -> float:
        return fmean(math.log((seen[group] + 0.05) / every) for group in groups_of_three(text))

    for row in rows:
        query, positive = row["anchor"], row["positive"]
        if row["lang"] != "en-en" and usual(positive) > usual(query):
            query, positive = positive, query
        yield json.dumps({"query": query, "positive": positive}, ensure_ascii=False) + "\n"


def groups_of_three(text: str) -> Iterator[str]:
    return map("".join, zip(*(f"  {text.lower()} "[start:] for start in range(3)), strict=False))


def write(path: Path, lines: list[str]) -> None:
    """Once: an index is made anew where a file is."""
    if not path.exists():
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(lines)


def recipe_of(task: str, model: Path, output: Path, folder: Path) -> Recipe:
    """The recipe of a task, of this model; MODEL is the model itself, other names are models beside it."""
    recipe = read(ROOT / "bench" / "learning" / f"{task}.toml", [f"model={model}", f"output={output}"])
    sources = tuple(replace(each, path=(str(folder / "data" / each.path[0]),)) for each in recipe.sources)
    named = {key: getattr(recipe.loss, key) for key in ("guide", "teacher") if getattr(recipe.loss, key)}
    beside = {key: str(model if name == "MODEL" else model.parent / name) for key, name in named.items()}
    return replace(recipe, sources=sources, loss=replace(recipe.loss, **beside), cache_dir=str(folder / "index"))


# ---- choosing


def choose(models: Path, folder: Path) -> None:
    """By learning rate, the mean reciprocal rank on the rows kept apart of all files: what is learnt, what is lost."""
    for task in TASKS:
        base = models / MODELS[0]
        print(f"{task} {base.name} untrained", dev_scores(base, folder), flush=True)
        for rate in RATES:
            output = folder / "choose" / f"{task}-{rate:g}"
            if not (output / "model").exists():
                recipe = recipe_of(task, base, output, folder)
                train(replace(recipe, learning_rate=rate, max_steps=FEWER, save_steps=FEWER), overwrite=True)
            print(f"{task} {base.name} {rate:g}", dev_scores(output / "model", folder), flush=True)


def dev_scores(model: Path, folder: Path) -> dict[str, float]:
    encoder = Encoder.load(model)
    scores: dict[str, float] = {}
    for name in FILES:
        rows = [json.loads(text) for text in (folder / "data" / f"{name}.dev.jsonl").open(encoding="utf-8")]
        queries, documents = (
            encoder.encode([row[key] for row in rows], on_truncate="silent") for key in ("anchor", "positive")
        )
        similarity = (
            queries
            / np.linalg.norm(queries, axis=1)[:, None]
            @ (documents / np.linalg.norm(documents, axis=1)[:, None]).T
        )
        ranks = (similarity >= np.diag(similarity)[:, None]).sum(1)
        scores[name] = round(float(np.where(ranks <= 10, 1 / ranks, 0).mean()), 4)
    return scores


# ---- running


def one(task: str, base: Path, trainer: str, folder: Path) -> None:
    """Train and judge one model; judge the model that it starts from."""
    run = folder / f"{task}-{base.name}-{trainer}"
    if not (run / "took.json").exists():
        began = time.monotonic()
        recipe = recipe_of(task, base, run, folder)
        if trainer == "gnomon":
            train(recipe, overwrite=True)
        else:
            with_sentence_transformers(recipe, run / "model")
        (run / "took.json").write_text(json.dumps({"minutes": (time.monotonic() - began) / 60}))
        print(f"{run.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    judge(base, folder / f"base-{base.name}")
    judge(run / "model", run)


def judge(model: Path, folder: Path) -> None:
    def show(result: Any, reused: bool) -> None:
        if not reused:
            print(line(summary(result, reused)), flush=True)

    evaluate(Encoder.load(model), data=[DATA / name for name in SETS], output=folder / "judged", on_result=show)


def with_sentence_transformers(recipe: Recipe, target: Path) -> None:
    """The same model, data, batch, steps, learning rate and seed through its trainer, in its own order."""
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = SentenceTransformer(recipe.model, device="cpu")
    if recipe.max_seq_length:
        model.max_seq_length = recipe.max_seq_length
    first = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (recipe.freeze == ("layers.",) and ".encoder.layer." in name))
    data = {
        Path(source.path[0]).name.partition(".")[0]: load_dataset(
            "json", data_files=source.path[0], split="train"
        ).select_columns([source.query, source.positive])
        for source in recipe.sources
    }
    assert recipe.max_steps is not None
    sizes = np.array([len(rows) for rows in data.values()])
    if (alpha := recipe.mixture.alpha) != 1:  # it draws by size: as many of each as the mixture would see
        shares = sizes**alpha / (sizes**alpha).sum() * recipe.max_steps * recipe.batch_size
        data = {
            name: rows.shuffle(seed=recipe.seed).select(range(min(len(rows), round(share))))
            for (name, rows), share in zip(data.items(), shares, strict=True)
        }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(target.parent / "hf"),
            max_steps=recipe.max_steps,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            warmup_steps=round(recipe.warmup_ratio * recipe.max_steps),
            lr_scheduler_type="linear",
            max_grad_norm=recipe.max_grad_norm,
            seed=recipe.seed,
            batch_sampler="no_duplicates",
            multi_dataset_batch_sampler="proportional",
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        loss=loss_of_theirs(model, recipe.loss),
    )
    trainer.train()
    share = recipe.base_weight
    model.load_state_dict({name: value.lerp(first[name], share) for name, value in model.state_dict().items()})
    model.save(str(target))


def loss_of_theirs(model: Any, settings: LossSettings) -> Any:
    """Its loss of the same definition; where it has none, one in the form that its trainer takes."""
    from sentence_transformers import SentenceTransformer, losses

    if settings.name == "gist":
        assert settings.temperature is not None
        guide = SentenceTransformer(settings.guide, device="cpu")
        return losses.GISTEmbedLoss(model, guide, temperature=settings.temperature)
    return Taught(model, SentenceTransformer(settings.teacher, device="cpu"), settings)


class Taught(torch.nn.Module):
    """Losses of a teacher, written anew from their formulae. The teacher reads the tokens that the model reads."""

    def __init__(self, model: Any, teacher: Any, settings: LossSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self._teacher = [teacher.eval()]  # in a list: nothing of it is trained

    def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
        texts = [*sentence_features]
        with torch.no_grad():
            theirs = [self._teacher[0]({**each})["sentence_embedding"] for each in texts]
        ours = [self.model(each)["sentence_embedding"] for each in texts]
        if self.settings.name == "cosine_distillation":
            assert self.settings.taught == "query"
            return torch.cat([1 - torch.cosine_similarity(each, theirs[0]) for each in ours]).mean()
        assert self.settings.name == "kl_and_contrast"
        scale = self.settings.scale or 100.0
        scores = torch.cosine_similarity(ours[0][:, None], ours[1], dim=-1) * scale
        taught = torch.cosine_similarity(theirs[0][:, None], theirs[1], dim=-1) / self.settings.teacher_temperature
        kl = torch.stack([kl_of_rows(taught, scores), kl_of_rows(taught.T, scores.T)]).mean()
        return kl + self.settings.alpha * torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def kl_of_rows(taught: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    wanted = taught.log_softmax(1)
    return (wanted.exp() * (wanted - scores.log_softmax(1))).sum(1).mean()


# ---- the page


def page(folder: Path) -> Iterator[str]:
    yield "# Training: figures"
    yield ""
    yield "Written by `python bench/learning.py MODELS`. Scores 0 to 100, before and after; in brackets the 95 %"
    yield "interval of the difference (paired, as `gnomon compare` has it). Bold: what the task is for."
    for task in TASKS:
        recipe = read(ROOT / "bench" / "learning" / f"{task}.toml")
        sources = " and ".join(Path(source.path[0]).name.partition(".")[0] for source in recipe.sources)
        yield from ["", f"## {task}: trained on {sources}", ""]
        steps = f"{recipe.max_steps} steps of {recipe.batch_size} pairs, learning rate {recipe.learning_rate:g}"
        yield f"{steps}, seed {recipe.seed}."
        for model in MODELS:
            yield from ["", *task_table(task, model, folder)]


def task_table(task: str, model: str, folder: Path) -> Iterator[str]:
    base = folder / f"base-{model}" / "judged" / "results"
    found: dict[str, Comparison] = {}
    minutes: dict[str, float] = {}
    for trainer in ("gnomon", "sentence-transformers"):
        run = folder / f"{task}-{model}-{trainer}"
        if (run / "judged").exists() and (run / "took.json").exists():
            found[trainer] = compare(base, run / "judged" / "results")
            minutes[trainer] = json.loads((run / "took.json").read_text())["minutes"]
    if not found:
        yield f"{model}: not run."
        return
    took = ", ".join(f"{trainer} {value:.1f} minutes" for trainer, value in minutes.items())
    yield f"{model} ({took}):"
    yield ""
    yield f"| set | metric | before | {' | '.join(f'after, {trainer}' for trainer in found)} |"
    yield f"|{'---|' * (3 + len(found))}"
    rows = {trainer: {(row.task, row.subset): row for row in each.rows} for trainer, each in found.items()}
    for key, row in rows["gnomon"].items():
        cells = [after(each.get(key)) for each in rows.values()]
        name = f"{row.task}, {row.subset}" if row.subset else row.task
        aimed = row.subset in AIMS[task].get(row.task, [])
        yield f"| {f'**{name}**' if aimed else name} | {row.metric} | {100 * row.a:.1f} | {' | '.join(cells)} |"


def after(row: Row | None) -> str:
    if row is None or row.difference is None:
        return "–"
    span = row.interval
    return f"{100 * row.b:.1f}, {100 * row.difference:+.1f}" + (
        f" ({100 * span.low:+.1f} to {100 * span.high:+.1f})" if span else ""
    )


if __name__ == "__main__":
    main()
