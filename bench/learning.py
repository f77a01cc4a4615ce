"""Real learning: two models tuned on two tasks, judged on every set before and after, beside sentence-transformers.

    python bench/learning.py MODELS [--output FOLDER] [--choose | --only docs:MODEL:gnomon,... | --report-only]

MODELS is the folder that shared/models/build_models.py writes. Each task's recipe is bench/learning/TASK.toml. The last
1,000 rows of each training file are kept apart; recipes are chosen (--choose) on them, and for docs on a manual that is
then left out of what is trained on. What is there is not run again.
Writes docs/training-results.md; what it says of a task and a model that have no run in FOLDER stays as it is.
"""

import argparse
import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from asking import FORMS
from gnomon import Encoder
from gnomon.evaluate import evaluate, format_summary, summarize
from gnomon.evaluate.compare import Comparison, ComparisonRow, compare
from gnomon.train import DataSource, LossSettings, Recipe, train
from gnomon.train.data.mixture import compute_weights
from gnomon.train.objectives.validation import mean_reciprocal_rank
from gnomon.train.recipe.toml import read

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
"""What is changed in each task's recipe; no first weights where nothing is said."""
LEFT_OUT = "docs-linux-6.1"
"""The manual that the docs task is chosen on: of all, it has the most headings that are questions."""
JUDGES = {
    "docs": (f"{LEFT_OUT}.jsonl.gz", f"{LEFT_OUT}-asked.jsonl.gz", f"{LEFT_OUT}-topics.jsonl.gz"),
    "bilingual": (f"{FOUR}.dev.jsonl.gz", "bible.dev.jsonl", "docs.dev.jsonl"),
}
"""What a recipe is chosen on: what it is to learn, and what it may lose."""
TOGETHER = 16
"""Texts that sentence-transformers reads at a time in the loss of a teacher."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--output", type=Path, default=ROOT / ".learning")
    arguments.add_argument("--choose", action="store_true", help="variants of the recipes, on rows kept apart")
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
        write(folder / f"{FOUR}.jsonl.gz", in_four(file))
    with (folder / "strings.dev.jsonl").open(encoding="utf-8") as file:
        write(folder / f"{FOUR}.dev.jsonl.gz", in_four(file))
    with gzip.open(folder / "docs.jsonl.gz", "rt", encoding="utf-8") as file:
        manuals = {line: json.loads(line)["source"].replace(":", "-") for line in file}
    for manual in {*manuals.values()}:
        lines = [line for line in manuals if manuals[line] == manual]
        write(folder / f"{manual}.jsonl.gz", lines)
        rows = [json.loads(line) for line in lines]
        for form, made in FORMS.items():
            write(folder / f"{manual}-{form}.jsonl.gz", (pair(*each) for each in made(rows)))
    english = [json.loads(line)["positive"] for line in manuals]
    for name in (FOUR, "bible"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            write(folder / f"english-{name}.jsonl.gz", english_first(map(json.loads, file), english))


def in_four(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if json.loads(line)["lang"].removeprefix("en-") in ("de", "es", "fr", "it"))


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
        yield pair(query, positive)


def pair(query: str, positive: str) -> str:
    return json.dumps({"query": query, "positive": positive}, ensure_ascii=False) + "\n"


def groups_of_three(text: str) -> Iterator[str]:
    return map("".join, zip(*(f"  {text.lower()} "[start:] for start in range(3)), strict=False))


def write(path: Path, lines: Iterable[str]) -> None:
    """Once: an index is made anew where a file is. Lines are made only where they are written."""
    if not path.exists():
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(lines)


def recipe_of(task: str, model: Path, output: Path, folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a task, of this model; MODEL is the model itself, other names are models beside it."""
    recipe = read(ROOT / "bench" / "learning" / f"{task}.toml", [f"model={model}", f"output={output}", *changes])
    paths = [tuple(str(folder / "data" / name) for name in source.path) for source in recipe.sources]
    sources = tuple(replace(source, path=path) for source, path in zip(recipe.sources, paths, strict=True))
    named = {key: getattr(recipe.loss, key) for key in ("guide", "teacher") if getattr(recipe.loss, key)}
    beside = {key: str(model if name == "MODEL" else model.parent / name) for key, name in named.items()}
    return replace(recipe, sources=sources, loss=replace(recipe.loss, **beside), cache_dir=str(folder / "index"))


# ---- choosing


def choose(models: Path, folder: Path) -> None:
    """By variant, the mean reciprocal rank on rows that it was not trained on: what is learnt, what is lost."""
    base = models / MODELS[0]
    for task, variants in VARIANTS.items():
        print(f"{task}, untrained:", dev_scores(task, base, folder), flush=True)
        for place, (variant, changes) in enumerate(variants.items()):
            output = folder / "choose" / f"{task}-{place}"
            if not (output / "model").exists():
                recipe = recipe_of(task, base, output, folder, [f"max_steps={FEWER[task]}", "base_weight=0", *changes])
                train(replace(recipe, sources=tuple(map(without_judges, recipe.sources))), overwrite=True)
            print(f"{task}, {variant}:", dev_scores(task, output / "model", folder), flush=True)


def without_judges(source: DataSource) -> DataSource:
    return replace(source, path=tuple(path for path in source.path if not Path(path).name.startswith(LEFT_OUT)))


def dev_scores(task: str, model: Path, folder: Path) -> dict[str, float]:
    encoder = Encoder.load(model)
    return {name: reciprocal_rank(encoder, folder / "data" / name) for name in JUDGES[task]}


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
        took = {"minutes": (time.monotonic() - began) / 60, "threads": torch.get_num_threads()}
        (run / "took.json").write_text(json.dumps(took))
        print(f"{run.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    judge(base, folder / f"base-{base.name}")
    judge(run / "model", run)


def judge(model: Path, folder: Path) -> None:
    def show(result: Any, reused: bool) -> None:
        if not reused:
            print(format_summary(summarize(result, reused)), flush=True)

    evaluate(Encoder.load(model), data=[DATA / name for name in SETS], output=folder / "judged", on_result=show)


def with_sentence_transformers(recipe: Recipe, target: Path) -> None:
    """The same model, data, batch, steps, learning rate and seed through its trainer, in its own order."""
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    asked = {"hidden_dropout_prob": recipe.dropout, "attention_probs_dropout_prob": recipe.attention_dropout}
    dropout = {name: share for name, share in asked.items() if share is not None}
    model = SentenceTransformer(recipe.model, device="cpu", config_kwargs=dropout)
    if recipe.max_seq_length:
        model.max_seq_length = recipe.max_seq_length
    first = {name: value.clone() for name, value in model.state_dict().items()}
    assert recipe.freeze in ((), ("layers.",))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not recipe.freeze or ".encoder.layer." not in name)
    data = {
        name_of_files(source): load_dataset("json", data_files=[*source.path], split="train").select_columns(
            [source.query, source.positive]
        )
        for source in recipe.sources
    }
    assert recipe.max_steps is not None
    # it draws by size: as many of each as the mixture would see
    shares = compute_weights(recipe.sources, [len(rows) for rows in data.values()], recipe.mixture)
    data = {
        name: rows.shuffle(seed=recipe.seed).select(
            range(min(len(rows), round(share * recipe.max_steps * recipe.batch_size)))
        )
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
            lr_scheduler_type=recipe.lr_scheduler_type,
            adam_beta2=recipe.adam_beta2,
            max_grad_norm=recipe.max_grad_norm,
            seed=recipe.seed,
            bf16=recipe.bf16,
            batch_sampler="no_duplicates",
            multi_dataset_batch_sampler="proportional",
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        loss=twin_of(recipe.loss, model),
    )
    trainer.train()
    share = recipe.base_weight
    model.load_state_dict({name: value.lerp(first[name], share) for name, value in model.state_dict().items()})
    model.save(str(target))


def twin_of(settings: LossSettings, model: Any) -> torch.nn.Module:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    if settings.name == "info_nce":
        return MultipleNegativesRankingLoss(model, scale=settings.scale or 20.0)
    return Taught(model, SentenceTransformer(settings.teacher, device="cpu"), settings)


class Taught(torch.nn.Module):
    """Losses of a teacher, written anew from their formulae. The teacher reads the tokens that the model reads.

    Both read texts of about one length together, so that hardly any padding is read: a third of the time.
    """

    def __init__(self, model: Any, teacher: Any, settings: LossSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self._teacher = [teacher.eval()]  # in a list: nothing of it is trained

    def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
        texts = [*sentence_features]
        with torch.no_grad():
            theirs = [by_length(self._teacher[0], each) for each in texts]
        ours = [by_length(self.model, each) for each in texts]
        if self.settings.name == "cosine_distillation":
            assert self.settings.taught == "query"
            return torch.cat([1 - torch.cosine_similarity(each, theirs[0]) for each in ours]).mean()
        assert self.settings.name == "kl_and_contrast"
        scale = self.settings.scale or 100.0
        scores = torch.cosine_similarity(ours[0][:, None], ours[1], dim=-1) * scale
        taught = torch.cosine_similarity(theirs[0][:, None], theirs[1], dim=-1)
        taught = taught / self.settings.teacher_temperature if self.settings.teacher_temperature else taught * scale
        kl = torch.stack([kl_of_rows(taught, scores), kl_of_rows(taught.T, scores.T)]).mean()
        return kl + self.settings.alpha * torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def by_length(model: torch.nn.Module, texts: dict[str, Any]) -> torch.Tensor:
    """Embeddings of texts, in their order, from batches of TOGETHER that are each as wide as its longest text."""
    lengths = texts["attention_mask"].sum(1)
    order = lengths.argsort()
    parts = []
    for rows in order.split(TOGETHER):
        width = int(lengths[rows].max())
        cut = {name: value[rows, :width] if torch.is_tensor(value) else value for name, value in texts.items()}
        parts.append(model(cut)["sentence_embedding"])
    return torch.cat(parts)[order.argsort()]


def kl_of_rows(taught: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    wanted = taught.log_softmax(1)
    return (wanted.exp() * (wanted - scores.log_softmax(1))).sum(1).mean()


# ---- the page


TRAINERS = ("gnomon", "sentence-transformers")


def page(folder: Path) -> Iterator[str]:
    before = parts_of(PAGE.read_text(encoding="utf-8"))
    yield "# Training: figures"
    yield ""
    yield "Written by `python bench/learning.py MODELS`. Scores 0 to 100, before and after; in brackets the 95 %"
    yield "interval of the difference (paired, as `gnomon compare` has it). Bold: what the task is for, named before"
    yield "anything was run. How the recipes were chosen, and what earlier ones gave: [lab notes](lab-notes.md)."
    yield "Minutes are no comparison of speed, which is [elsewhere](training-speed.md): other programs ran beside some"
    yield "of the runs, and sentence-transformers' on docs had the thresholds of glibc's heap fixed, for less time."
    for task in TASKS:
        yield from ["", f"## {task}", ""]
        yield f"[bench/learning/{task}.toml](../bench/learning/{task}.toml)."
        for model in MODELS:
            part = [*model_part(task, model, folder)] or before.get((task, model)) or ["Not run."]
            yield from ["", f"### {model}", "", *part]


def parts_of(page: str) -> dict[tuple[str, str], list[str]]:
    """What a page says, by task and model."""
    parts: dict[tuple[str, str], list[str]] = {}
    for task, of_task in headed("## ", page):
        parts |= {(task, model): of_model.strip().splitlines() for model, of_model in headed("### ", of_task)}
    return parts


def headed(mark: str, text: str) -> Iterator[tuple[str, str]]:
    """Headings, each with what stands under it."""
    for part in re.split(f"^{mark}", text, flags=re.MULTILINE)[1:]:
        heading, _, under = part.partition("\n")
        yield heading, under


def model_part(task: str, model: str, folder: Path) -> Iterator[str]:
    runs = {trainer: folder / f"{task}-{model}-{trainer}" for trainer in TRAINERS}
    runs = {trainer: run for trainer, run in runs.items() if any((run / "judged" / "results").rglob("*.json"))}
    if "gnomon" not in runs:
        return
    yield from settings_of(read(runs["gnomon"] / "recipe.toml"))
    took = {trainer: json.loads((run / "took.json").read_text()) for trainer, run in runs.items()}
    each = (f"{name} {run['minutes']:.1f} minutes (threads: {run['threads']})" for name, run in took.items())
    yield f"On two cores: {', '.join(each)}."
    base = folder / f"base-{model}" / "judged" / "results"
    results = {trainer: run / "judged" / "results" for trainer, run in runs.items()}
    found = {trainer: by_set(compare(base, each)) for trainer, each in results.items()}
    aims, others = aims_and_others(task, found["gnomon"])
    beyond = [row for row in aims if row.interval and row.interval.low > 0]
    yield f"Of {len(aims)} sets and subsets that it is for, {len(beyond)} gain beyond the interval."
    if others:
        least, mean = changed(min(others, key=difference)), 100 * fmean(map(difference, others))
        yield f"Of {len(others)} other sets, the one that loses most: {least}; mean of all {mean:+.1f}."
    if len(results) == 2:
        between = by_set(compare(*results.values()))
        apart = [row for row in between.values() if row.interval and not row.interval.low <= 0 <= row.interval.high]
        names = f": {', '.join(map(changed, apart))}" if apart else ""
        counts = f"{len(apart)} of {len(between)}"
        yield f"sentence-transformers' trainer less ours: {counts} intervals leave zero out{names}."
    yield ""
    yield f"| set | metric | before | {' | '.join(f'after, {trainer}' for trainer in found)} |"
    yield f"|{'---|' * (3 + len(found))}"
    for key, row in found["gnomon"].items():
        cells = [after(each.get(key)) for each in found.values()]
        name = f"**{name_of(row)}**" if row in aims else name_of(row)
        yield f"| {name} | {row.metric} | {100 * row.a:.1f} | {' | '.join(cells)} |"


def name_of_files(source: DataSource) -> str:
    return " + ".join(Path(path).name.partition(".jsonl")[0] for path in source.path)


def settings_of(recipe: Recipe) -> Iterator[str]:
    sources = ", ".join(map(name_of_files, recipe.sources))
    loss, other = recipe.loss, recipe.loss.teacher or recipe.loss.guide
    beside = f", teacher {Path(other).name}" if other else ""
    frozen = ", embeddings alone" if recipe.freeze else ""
    length = f" of at most {recipe.max_seq_length} tokens" if recipe.max_seq_length else ""
    yield f"{sources}: {recipe.max_steps} steps of {recipe.batch_size} rows{length}, loss {loss.name}{beside}{frozen},"
    rate = "no dropout, " if recipe.dropout == recipe.attention_dropout == 0 else ""
    rate += f"learning rate {recipe.learning_rate:g}"
    yield f"{rate}, {recipe.base_weight:g} of the first weights in the result."


def by_set(compared: Comparison) -> dict[tuple[str, str], ComparisonRow]:
    return {(row.task, row.subset): row for row in compared.rows}


def aims_and_others(
    task: str, rows: dict[tuple[str, str], ComparisonRow]
) -> tuple[list[ComparisonRow], list[ComparisonRow]]:
    """What the task is for; and the other sets, each as a whole."""
    aims = [row for row in rows.values() if row.subset in AIMS[task].get(row.task, [])]
    wholes = {row.task: row for row in reversed(rows.values()) if not row.subset or row.subset == "default"}
    return aims, [row for name, row in wholes.items() if name not in AIMS[task]]


def difference(row: ComparisonRow) -> float:
    return row.difference or 0.0


def changed(row: ComparisonRow) -> str:
    return f"{name_of(row)} {100 * difference(row):+.1f}"


def name_of(row: ComparisonRow) -> str:
    return f"{row.task}, {row.subset}" if row.subset else row.task


def after(row: ComparisonRow | None) -> str:
    if row is None or row.difference is None:
        return "–"
    span = row.interval
    return f"{100 * row.b:.1f}, {100 * row.difference:+.1f}" + (
        f" ({100 * span.low:+.1f} to {100 * span.high:+.1f})" if span else ""
    )


if __name__ == "__main__":
    main()
