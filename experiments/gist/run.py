"""GIST masks what it should: planted paraphrases, what the guide leaves out of them, what that gives, what it costs.

    python -m experiments.gist.run MODELS [--steps 24] [--rows 1500] [--share 0.3]

MODELS is the folder that shared/models/build_models.py writes. Rows of train_pairs/docs, without the 1,000 that
experiments/learning holds out; some are there four times, each time in other words. paraphrase-MiniLM-L3-v2 is trained
on them with gist (guide all-MiniLM-L6-v2) and with info_nce: the same batches, steps, temperature and seed. Writes
results.json and prints the tables of docs/records/gist-results.md (also: python -m experiments.gist.tables).
"""

import argparse
import gzip
import json
import os
import random
import re
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.training.worker import Seen, watched
from experiments.gist import tables
from experiments.learning.data import keep_apart
from gnomon import Encoder
from gnomon.evaluate import evaluate
from gnomon.evaluate.compare import compare
from gnomon.evaluate.intervals import PerQueryScores, run_paired_test
from gnomon.losses import compute_guide_blocks
from gnomon.train import DataSource, LossSettings, Recipe, train
from gnomon.train.data.collate import BatchRows
from gnomon.train.objectives.teacher import TeacherModel

ROOT = Path(__file__).resolve().parents[2]
TEST = ROOT.parent / "shared" / "data" / "retrieval_faq"
SEED = 42
WARM = 2
"""Steps before those whose time counts."""

Row = dict[str, str]
Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results = measure(options)
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    tables.print_all(results)


def measure(options: argparse.Namespace) -> Results:
    folder: Path = options.output
    keep_apart(folder / "data")
    rows = planted_rows(folder / "data" / "docs.jsonl.gz", options.rows, options.share)
    data = folder / "planted.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    start = time.perf_counter()
    runs = {name: train_with(name, options, data) for name in ("info_nce", "gist")}
    guided = runs["gist"][1]
    return {
        "model": options.model,
        "guide": options.guide,
        "rows": len(rows),
        "copies": sum(bool(row["query_rule"]) for row in rows),
        **{name: getattr(options, name) for name in ("batch", "steps", "temperature", "learning_rate")},
        "seed": SEED,
        "query_rules": [*QUERIES],
        "positive_rules": [*POSITIVES],
        "masked": {f"{margin:g}": [asdict(each) for each in masked(guided, rows, margin)] for margin in MARGINS},
        "cost": cost({name: seen for name, (seen, _) in runs.items()}, guided, str(options.models / options.guide)),
        "scores": scores(options, folder),
        "device": machine.device_name("cpu"),
        "cores": len(os.sched_getaffinity(0)),
        "minutes": (time.perf_counter() - start) / 60,
    }


# ---- planting

MOST_COPIES = 3


def planted_rows(file: Path, count: int, share: float) -> list[Row]:
    """So many rows, of which about a share are copies: MOST_COPIES of each row that has any."""
    groups = round(share * count / MOST_COPIES)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, count - groups * MOST_COPIES)]
    return plant(rows, groups)


def plant(rows: Sequence[Row], groups: int) -> list[Row]:
    """The rows, and copies of some, each with the number of the row that it says the same as, and its rules."""
    draw = random.Random(SEED)
    texts = [{"anchor": row["anchor"], "positive": row["positive"]} for row in rows]
    plain = [row | {"same_as": str(at), "query_rule": "", "positive_rule": ""} for at, row in enumerate(texts)]
    copies: list[Row] = []
    for at in draw.sample([at for at, row in enumerate(plain) if can_be_copied(row)], groups):
        rules = zip(draw.sample([*QUERIES], MOST_COPIES), draw.sample([*POSITIVES], MOST_COPIES), strict=True)
        copies += [copy(plain[at], *rule) for rule in rules]
    return plain + copies


def copy(row: Row, query: str, positive: str) -> Row:
    return {
        "anchor": QUERIES[query](row["anchor"]),
        "positive": " ".join(POSITIVES[positive](sentences(row["positive"]))),
        "same_as": row["same_as"],
        "query_rule": query,
        "positive_rule": positive,
    }


def can_be_copied(row: Row) -> bool:
    """Whether all rules give other texts."""
    query = row["anchor"]
    halves = query.split(": ", 1)
    different = len({*sentences(row["positive"])})
    return len(halves) == 2 and halves[0] != halves[1] and query.lower() != query and different >= 3


def swapped(query: str) -> str:
    """ "A: B" -> "B: A" """
    front, _, back = query.partition(": ")
    return f"{back}: {front}"


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


QUERIES: dict[str, Callable[[str], str]] = {
    "halves swapped": swapped,
    "lower case": str.lower,
    "as a question": lambda query: f"How about {query}?",
}
POSITIVES: dict[str, Callable[[list[str]], list[str]]] = {
    "first sentence last": lambda each: each[1:] + each[:1],
    "last sentence first": lambda each: each[-1:] + each[:-1],
    "first sentence dropped": lambda each: each[1:],
}


# ---- training


@dataclass
class Guided:
    """What the guide was given, and returned, in each step."""

    rows: list[BatchRows] = field(default_factory=list[BatchRows])
    vectors: list[Any] = field(default_factory=list[Any])
    seconds: list[float] = field(default_factory=list[float])
    forwards: list[int] = field(default_factory=list[int])
    """Texts that passed the guide's network."""


def train_with(name: str, options: argparse.Namespace, data: Path) -> tuple[Seen, Guided]:
    seen, guided = Seen("cpu"), Guided()
    guide = str(options.models / options.guide) if name == "gist" else None
    recipe = Recipe(
        model=str(options.models / options.model),
        output=str(options.output / name),
        sources=(DataSource((str(data),), query="anchor"),),
        cache_dir=str(options.output / "index"),
        batch_size=options.batch,
        max_steps=options.steps,
        save_steps=options.steps,
        learning_rate=options.learning_rate,
        warmup_ratio=0.1,
        loss=LossSettings(name=name, temperature=options.temperature, guide=guide),  # type: ignore[arg-type]
        device="cpu",
        seed=SEED,
    )
    with watched(seen), listening(guided):
        train(recipe, overwrite=True, progress=False)
    return seen, guided


@contextmanager
def listening(guided: Guided) -> Generator[None]:
    """Inside, what the guide of a run does is recorded."""
    call = TeacherModel.__call__

    def record(self: TeacherModel, rows: BatchRows) -> Any:
        if not guided.rows:
            count_forwards(self.encoder.engine, guided)
        guided.rows.append(rows)
        guided.forwards.append(0)
        start = time.perf_counter()
        vectors = call(self, rows)
        guided.seconds.append(time.perf_counter() - start)
        guided.vectors.append(vectors)
        return vectors

    TeacherModel.__call__ = record  # type: ignore[method-assign]
    try:
        yield
    finally:
        TeacherModel.__call__ = call  # type: ignore[method-assign]


def count_forwards(engine: Any, guided: Guided) -> None:
    """From now on, count the texts of all batches that the engine runs."""
    pool_batches = engine.pool_batches

    def counted(batches: Any) -> Iterator[Any]:
        for packed in batches:
            guided.forwards[-1] += len(packed.lengths_B)
            yield packed

    engine.pool_batches = lambda batches: pool_batches(counted(batches))


# ---- what is masked

BLOCKS = ("query to documents", "query to queries", "document to documents")
MARGINS = (0.0, 0.05, 0.1)
"""The run has none; the others are counted on the same vectors."""


@dataclass
class Counts:
    """Candidates of one block over all batches, a row with itself left out."""

    block: str
    planted: int = 0
    planted_masked: int = 0
    others: int = 0
    others_masked: int = 0
    by_rule: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Rule -> candidates that are a copy by it beside their original, either way; how many of them are masked."""

    def add(self, near_BB: np.ndarray, same_BB: np.ndarray, rules: dict[str, np.ndarray]) -> None:
        """
        Args:
            near_BB: nearer to the row than its own document, says the guide.
            same_BB: which rows say the same.
        """
        other_BB = ~np.eye(len(near_BB), dtype=bool)
        planted_BB, others_BB = same_BB & other_BB, ~same_BB & other_BB
        self.planted += int(planted_BB.sum())
        self.planted_masked += int(near_BB[planted_BB].sum())
        self.others += int(others_BB.sum())
        self.others_masked += int(near_BB[others_BB].sum())
        for rule, rule_BB in rules.items():
            before = self.by_rule.get(rule, (0, 0))
            found_BB = rule_BB & planted_BB
            self.by_rule[rule] = (before[0] + int(found_BB.sum()), before[1] + int(near_BB[found_BB].sum()))


def masked(guided: Guided, rows: Sequence[Row], margin: float) -> list[Counts]:
    """By block, what GIST's rule leaves out of the batches that the run had."""
    found = [Counts(block) for block in BLOCKS]
    for batch, (queries_BD, positives_BD, _) in zip(guided.rows, guided.vectors, strict=True):
        here = [rows[at] for at in batch.rows_B]
        blocks = [block.numpy() for block in compute_guide_blocks(queries_BD, positives_BD)]
        same_BB = equal([row["same_as"] for row in here])
        rules = {rule: beside_original(here, "query_rule", rule) for rule in QUERIES}
        rules |= {rule: beside_original(here, "positive_rule", rule) for rule in POSITIVES}
        for counts, block_BB in zip(found, blocks, strict=True):
            counts.add(block_BB > np.diag(blocks[0])[:, None] - margin, same_BB, rules)
    return found


def equal(values: Sequence[str]) -> np.ndarray:
    return np.array(values)[:, None] == np.array(values)


def beside_original(rows: Sequence[Row], kind: str, rule: str) -> np.ndarray:
    """[B, B]: one is a copy by this rule and the other no copy."""
    copy_B = np.array([row[kind] == rule for row in rows])
    plain_B = np.array([not row[kind] for row in rows])
    return copy_B[:, None] & plain_B | plain_B[:, None] & copy_B


# ---- what it costs


def cost(seen: dict[str, Seen], guided: Guided, guide: str) -> Results:
    """Medians of seconds over the steps after the first WARM, and what the guide's encoder takes alone."""
    texts = [rows.queries + rows.positives for rows in guided.rows]
    encoder, alone = Encoder.load(guide, device="cpu"), []
    for batch in (texts[0], *texts[WARM:][:6]):  # the first is to warm up
        start = time.perf_counter()
        encoder.encode(batch, on_truncate="silent", show_progress_bar=False)
        alone.append(time.perf_counter() - start)
    steps = {name: statistics.median(took[WARM:]) for name, took in zip(seen, map(seconds, seen.values()), strict=True)}
    return {
        "step": steps,
        "guide_in_step": statistics.median(guided.seconds[WARM:]),
        "guide_alone": statistics.median(alone[1:]),
        "texts": [len(batch) for batch in texts],
        "forwards": guided.forwards,
    }


def seconds(seen: Seen) -> list[float]:
    return [end - start for start, end in pairwise(seen.marks)]


# ---- what it gives


def scores(options: argparse.Namespace, folder: Path) -> Results:
    """Of the model before and after, on the held-out rows and on the test set; gist less info_nce, with intervals."""
    pairs = [json.loads(line) for line in (folder / "data" / "docs.dev.jsonl").open(encoding="utf-8")][: options.apart]
    places = {
        "before": options.models / options.model,
        "info_nce": folder / "info_nce" / "model",
        "gist": folder / "gist" / "model",
    }
    shutil.rmtree(folder / "judged", ignore_errors=True)  # an earlier run's models would stand beside these
    apart: dict[str, np.ndarray] = {}
    test: dict[str, float] = {}
    for name, place in places.items():
        encoder = Encoder.load(place, device="cpu")
        apart[name] = reciprocal_ranks(
            *(encoder.encode([row[key] for row in pairs], on_truncate="silent") for key in ("anchor", "positive"))
        )
        test[name] = evaluate(encoder, data=[options.test], output=folder / "judged" / name)[0].score
    units = {name: [PerQueryScores("query", "mean", values.tolist())] for name, values in apart.items()}
    difference = run_paired_test(units["info_nce"], units["gist"])
    compared = compare(*(folder / "judged" / name / "results" for name in ("info_nce", "gist"))).rows[0]
    assert compared.interval is not None
    return {
        "apart": {name: float(values.mean()) for name, values in apart.items()},
        "apart_difference": [difference.difference, difference.interval.low, difference.interval.high],
        "queries_apart": len(pairs),
        "test": test,
        "test_difference": [compared.difference, compared.interval.low, compared.interval.high],
        "test_name": f"{compared.metric}, {options.test.name}",
    }


def reciprocal_ranks(queries_BD: np.ndarray, documents_BD: np.ndarray) -> np.ndarray:
    """[B]: 1 / rank of each query's own document among all, by cosine; 0 after the tenth."""
    queries_BD, documents_BD = (each / np.linalg.norm(each, axis=1)[:, None] for each in (queries_BD, documents_BD))
    similarity_BB = queries_BD @ documents_BD.T
    ranks_B = (similarity_BB >= np.diag(similarity_BB)[:, None]).sum(1)
    return np.where(ranks_B <= 10, 1 / ranks_B, 0.0)


# ---- options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path)
    add("--model", default="paraphrase-MiniLM-L3-v2")
    add("--guide", default="all-MiniLM-L6-v2")
    add("--steps", type=int, default=24)
    add("--batch", type=int, default=128)
    add("--rows", type=int, default=1500)
    add("--share", type=float, default=0.3, help="of the rows that are copies (0.3)")
    add("--temperature", type=float, default=0.01, help="of both losses; the recipe gist's own (0.01)")
    add("--learning-rate", type=float, default=5e-5)
    add("--apart", type=int, default=1000, help="held-out rows that are evaluated (1000)")
    add("--test", type=Path, default=TEST, metavar="FOLDER")
    add("--output", type=Path, default=ROOT / ".learning" / "gist", metavar="FOLDER")
    add("--results", type=Path, default=Path(__file__).with_name("results.json"), metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
