"""Speed and memory of training beside sentence-transformers' own trainer, in one run.

    python -m bench.training.run MODELS [--part speed cache memory defaults] [--device cpu]

MODELS is the folder that shared/models/build_models.py writes.

    speed     batches of 64 rows of mixed lengths, MultipleNegativesRankingLoss: tokens a second, peak memory
    cache     GradCache at a batch of 4,096 rows beside CachedMultipleNegativesRankingLoss
    memory    gnomon alone, a step of ever larger batches: peak memory
    defaults  small, large and very large batches as each trainer comes, chunks and all: peak memory and seconds

Both trainers get the same batches, in processes of their own that take turns. On a GPU both compute in bf16. Results go
to bench/training/results.json, by device; parts that are not run stay as they are. `python -m bench.training.tables`
prints the tables of docs/records/training-speed.md.
"""

import argparse
import datetime
import gzip
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import say, turns
from bench.process import ROOT, WorkerError, run_process
from bench.training import tables
from bench.training.worker import SEED, Job, recipe_of
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.prepare import open_training_data
from gnomon.train.distributed import Ranks

DATA = ROOT.parent / "shared" / "data" / "train_pairs"
FILES = ("docs", "strings", "bible")
VERSIONS = ("gnomon", "sentence-transformers", "transformers", "torch", "tokenizers")
ONE_STEP_FROM = 4096
"""Rows of a batch from which on one step is enough."""
PLAIN_UP_TO = 256
"""Rows of the largest batch of sentence-transformers' loss without a cache: its memory grows with the batch."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What is trained. Each batch size is measured with each trainer."""

    ours: Job
    """gnomon's; its model is a name, and its place, its batch and its device are filled in."""
    batches: tuple[int, ...]
    rounds: int = 1
    files: tuple[str, ...] = FILES
    others: dict[str, Results] = field(default_factory=dict[str, Results])
    """Beside gnomon: name -> what its job has in place of gnomon's."""


SMALL = "paraphrase-MiniLM-L3-v2"
THEIRS: Results = {"trainer": "sentence-transformers"}
CACHED = THEIRS | {"mini_batch": 32}
FORMER = {"gnomon, chunk_tokens 21,183": {"chunk_tokens": 21_183}}
"""gnomon's default until November 2026, for that model."""
AS_THEY_COME = {**FORMER, "sentence-transformers": THEIRS, "sentence-transformers, cached": CACHED}
PARTS = {
    "speed": Part(Job("all-MiniLM-L6-v2", steps=12, warm=2), (64,), 3, others={"sentence-transformers": THEIRS}),
    "cache": Part(Job(SMALL, length=32), (4096,), others={"sentence-transformers, mini_batch_size 32": CACHED}),
    "memory": Part(Job(SMALL, length=8, chunk_tokens=4096), (256, 4096, 28_672)),
    # headings and their sections, as long as a question and an answer
    "defaults": Part(Job(SMALL, steps=2, length=128), (64, 1024, 4096), files=("docs",), others=AS_THEY_COME),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results: Results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name in options.part:
        start, load = time.perf_counter(), os.getloadavg()[0]
        part, ours = PARTS[name], PARTS[name].ours
        with tempfile.TemporaryDirectory(prefix="bench-training-") as place:
            mix(options.data, Path(place) / "rows.jsonl", part.files)
            sizes = [measure(part, batch, place, options) for batch in part.batches]
        facts = {"model": ours.model, "length": ours.length, "chunk_tokens": ours.chunk_tokens, "sizes": sizes}
        facts |= {"minutes": (time.perf_counter() - start) / 60, "load_before": load, "threads": options.threads}
        device = {"kind": options.device, "name": machine.device_name(options.device), "cores": machine.cores()}
        facts |= {"measured": datetime.date.today().isoformat(), "machine": device["name"]}
        found = results.setdefault(options.device, {})
        found |= {"device": device, "python": sys.version.split()[0]}
        found |= {"versions": {package: version(package) for package in VERSIONS}, name: facts}
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    tables.print_all(results)


def measure(part: Part, batch: int, place: str, options: argparse.Namespace) -> Results:
    """gnomon and the others in turn, on batches of one size.

    Raises:
        SystemExit: they did not read the same tokens.
    """
    steps = options.steps if options.steps and part is PARTS.get("speed") else part.ours.steps
    steps = 1 if batch >= ONE_STEP_FROM else steps
    model = str(options.models / part.ours.model)
    ours = replace(part.ours, model=model, place=place, batch=batch, steps=steps, device=options.device)
    others = {name: row for name, row in part.others.items() if batch <= PLAIN_UP_TO or row != THEIRS}
    jobs = {"gnomon": ours, **{name: replace(ours, **changes) for name, changes in others.items()}}
    facts = write_in_order(ours)
    runs: dict[str, list[Results]] = {name: [] for name in jobs}
    for name in turns([*jobs], part.rounds):
        runs[name].append(run_once(name, jobs[name], options.threads))
        if runs[name][-1]["tokens"] != runs["gnomon"][0]["tokens"]:
            raise SystemExit(f"{name} read other tokens than gnomon: {runs[name][-1]['tokens']}")
    return {"batch": batch, "steps": steps, "warm": ours.warm, **facts, "runs": runs}


def run_once(name: str, job: Job, threads: int) -> Results:
    """A process of its own."""
    try:
        answer = run_process([sys.executable, "-m", "bench.training.worker", json.dumps(asdict(job))], threads)
    except WorkerError as failure:
        raise SystemExit(f"{name}, batch {job.batch}: {failure}") from None
    timed = in_steps(answer, job.warm)
    speed, peak = timed["tokens_per_second"], timed["peak_mib"]
    say(f"{name}, batch {job.batch}: {timed['seconds']:.1f} s, {speed:,.0f} tokens/s, peak {peak:,.0f} MiB")
    return timed


def in_steps(answer: Results, warm: int) -> Results:
    """What a process reported, by the steps after the first `warm`."""
    seconds, tokens = answer["marks"][-1] - answer["marks"][warm], sum(answer["tokens"][warm:])
    computed = sum(answer["computed"][warm:])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "padding": 1 - tokens / computed if computed else 0.0,
        "loss": answer["losses"][0],
        **{name: answer[name] for name in ("tokens", "peak_mib", "device_mib")},
    }


# ---- data


def mix(data: Path, target: Path, files: Sequence[str]) -> None:
    """Training files in one, shuffled."""
    lines: list[str] = []
    for name in files:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines += file
    random.Random(SEED).shuffle(lines)
    rows = map(json.loads, lines)
    write_rows(target, [(row["anchor"], row["positive"]) for row in rows])


def write_rows(target: Path, rows: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"anchor": anchor, "positive": positive}, ensure_ascii=False) for anchor, positive in rows]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_in_order(job: Job) -> Results:
    """Write the rows of gnomon's batches in their order, which builds its index too, outside the process that is
    measured. Returns facts about the texts' lengths, and the size of the vectors of a batch.
    """
    recipe = recipe_of(job)
    base = read_folder(resolve_source(recipe.model), max_seq_length=recipe.max_seq_length)
    data = open_training_data(recipe, base.spec, Tokenizer(base.tokenizer, base.spec.tokenizer), Ranks(), False)
    rows: list[tuple[str, str]] = []
    lengths: list[int] = []
    for step in range(job.steps):
        collated = data.collator.collate(data.sampler.batch_at(step))
        assert len(collated.rows.queries) == job.batch, "too few different rows for a full batch"
        rows += zip(collated.rows.queries, collated.rows.positives, strict=True)
        lengths += map(len, collated.ids)
    write_rows(Path(job.path("ordered.jsonl")), rows)
    facts = {
        "texts": len(lengths),
        "mean": statistics.mean(lengths),
        "median": statistics.median(lengths),
        "90 %": statistics.quantiles(lengths, n=10, method="inclusive")[-1],
        "lowest": min(lengths),
        "highest": max(lengths),
    }
    # of queries and positives, float32
    return {"lengths": facts, "vectors_mib": 2 * job.batch * base.spec.full_dim * 4 / 2**20}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path)
    add("--part", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    add("--steps", type=int, help="of each process, in the part speed")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=machine.cores())
    add("--data", type=Path, default=DATA, metavar="FOLDER", help="holds the training files")
    add("--results", type=Path, default=Path(__file__).with_name("results.json"), metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
