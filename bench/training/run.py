"""Speed and memory of training beside sentence-transformers' own trainer, in one run.

    python -m bench.training.run MODELS [--part speed,cache,memory,defaults] [--device cpu]

MODELS is the folder that shared/models/build_models.py writes.

    speed     batches of 64 rows of mixed lengths, MultipleNegativesRankingLoss: tokens a second, peak memory
    cache     GradCache at a batch of 4,096 rows beside CachedMultipleNegativesRankingLoss
    memory    gnomon alone, a step of ever larger batches: peak memory
    defaults  small, large and very large batches as each trainer comes, chunks and all: peak memory and seconds

Both trainers get the same batches, in processes of their own that take turns. On a GPU both compute in bf16. Results go
to bench/training/results.json, by device; parts that are not run stay as they are. `python -m bench.training.tables`
prints the tables of docs/training-speed.md.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import say
from bench.inference.processes import OFFLINE, THREAD_VARIABLES, WorkerError, run_process
from bench.training import tables
from bench.training.worker import Job, recipe_of
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.prepare import open_training_data
from gnomon.train.distributed import Ranks

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "train_pairs"
FILES = ("docs", "strings", "bible")
SEED = 42
VERSIONS = ("gnomon", "sentence-transformers", "transformers", "torch", "tokenizers")

SIZES: dict[str, Any] = {
    "speed_model": "all-MiniLM-L6-v2",
    "batch": 64,
    "steps": 12,
    "warm": 2,  # steps before those that are timed
    "rounds": 3,  # of the part speed
    "cache_model": "paraphrase-MiniLM-L3-v2",  # of the other parts
    "cache_batch": 4096,
    "cache_rounds": 2,
    "cache_length": 64,  # tokens of a text that are read
    "mini_batches": (32, 128),  # of sentence-transformers, whose own is 32
    "memory_batches": (256, 1024, 4096, 16_384, 28_672),
    "memory_length": 32,
    "memory_chunk_tokens": 4096,
    "default_batches": (64, 1024, 4096),
    "default_steps": 2,  # one from 4,096 rows on
    "default_rounds": 1,
    "default_length": 128,
    "former_chunk_tokens": 21_183,  # gnomon's default until November 2026, for that model
    "plain_up_to": 256,  # the largest batch of the loss without a cache: its memory grows with the batch
}
"""Options and their defaults."""

THEIRS = {"trainer": "sentence-transformers"}
Results = dict[str, Any]
Runs = dict[str, list[Results]]
"""Trainer -> what was measured in each round."""


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    options: argparse.Namespace
    place: Path
    rows: Path

    def job(self, model: str, **sizes: Any) -> Job:
        return Job(
            trainer="gnomon",
            model=str(self.options.models / model),
            rows=str(self.rows),
            ordered=str(self.place / "ordered.jsonl"),
            place=str(self.place),
            device=self.options.device,
            seed=SEED,
            **sizes,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results: Results = json.loads(options.results.read_text()) if options.results.exists() else {}
    found = results.setdefault(options.device, {})
    with tempfile.TemporaryDirectory(prefix="bench-training-") as place:
        bench = Bench(options, Path(place), Path(place) / "rows.jsonl")
        mix(options.data, bench.rows, FILES)
        for name in options.part:
            start, load = time.perf_counter(), os.getloadavg()[0]
            part = PARTS[name](bench)
            facts = {"minutes": (time.perf_counter() - start) / 60, "load_before": load, "threads": options.threads}
            facts |= {"measured": datetime.date.today().isoformat(), "machine": machine.device_name(options.device)}
            found |= about(options) | {name: part | facts}
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1) + "\n")
    tables.print_all(results)


def about(options: argparse.Namespace) -> Results:
    cores = len(os.sched_getaffinity(0))
    return {
        "device": {"kind": options.device, "name": machine.device_name(options.device), "cores": cores},
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in VERSIONS},
    }


# ---- parts


def speed(bench: Bench) -> Results:
    options = bench.options
    sizes = {"batch": options.batch, "steps": options.steps, "warm": options.warm}
    found = beside(bench, bench.job(options.speed_model, **sizes), {"sentence-transformers": THEIRS}, options.rounds)
    return {"model": options.speed_model, **sizes, **found, **compare(found["runs"])}


def cache(bench: Bench) -> Results:
    options = bench.options
    sizes = {"batch": options.cache_batch, "steps": 1, "length": options.cache_length}
    others = {
        f"sentence-transformers, mini_batch_size {size}": THEIRS | {"mini_batch": size} for size in options.mini_batches
    }
    found = beside(bench, bench.job(options.cache_model, **sizes), others, options.cache_rounds)
    return {"model": options.cache_model, **sizes, **found, **compare(found["runs"])}


def memory(bench: Bench) -> Results:
    options = bench.options
    sizes = {"chunk_tokens": options.memory_chunk_tokens, "length": options.memory_length}
    jobs = [bench.job(options.cache_model, batch=batch, steps=1, **sizes) for batch in options.memory_batches]
    dim = open_job(jobs[0])[0].spec.full_dim  # the index is built here, not in the process that is measured
    curve = [
        run_once(options, "gnomon", job)
        | {"batch": job.batch, "vectors_mib": 2 * job.batch * dim * 4 / 2**20}  # of queries and positives, float32
        for job in jobs
    ]
    return {"model": options.cache_model, **sizes, "curve": curve}


def defaults(bench: Bench) -> Results:
    """Headings and their sections, as long as a question and an answer; each batch size with every trainer in turn."""
    options, former = bench.options, bench.options.former_chunk_tokens
    rows = bench.place / "docs.jsonl"
    mix(options.data, rows, ("docs",))
    measured: list[Results] = []
    for batch in options.default_batches:
        steps = options.default_steps if batch < 4096 else 1
        sizes = {"batch": batch, "steps": steps, "length": options.default_length}
        others: dict[str, Results] = {f"gnomon, chunk_tokens {former:,}": {"chunk_tokens": former}}
        others |= {"sentence-transformers": THEIRS} if batch <= options.plain_up_to else {}
        others["sentence-transformers, cached"] = THEIRS | {"mini_batch": 32}
        ours = replace(bench.job(options.cache_model, **sizes), rows=str(rows))
        measured.append({**sizes, **beside(bench, ours, others, options.default_rounds)})
    return {"model": options.cache_model, "former": former, "sizes": measured}


PARTS: dict[str, Callable[[Bench], Results]] = {"speed": speed, "cache": cache, "memory": memory, "defaults": defaults}


def beside(bench: Bench, ours: Job, others: dict[str, Results], rounds: int) -> Results:
    """gnomon and others, each a change of its job, in turn: A B A B.

    Raises:
        SystemExit: they did not read the same tokens.
    """
    options, lengths = bench.options, write_in_order(ours)
    jobs = {"gnomon": ours, **{name: replace(ours, **changes) for name, changes in others.items()}}
    runs: Runs = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            runs[name].append(run_once(options, name, job))
            if runs[name][-1]["tokens"] != runs["gnomon"][0]["tokens"]:
                raise SystemExit(f"{name} read other tokens than gnomon: {runs[name][-1]['tokens']}")
    return {"lengths": lengths, "runs": runs}


def run_once(options: argparse.Namespace, name: str, job: Job) -> Results:
    """A process of its own."""
    command = [sys.executable, "-m", "bench.training.worker", json.dumps(asdict(job))]
    threads = dict.fromkeys(THREAD_VARIABLES, str(options.threads))
    quiet = {"TOKENIZERS_PARALLELISM": "true", "HF_DATASETS_OFFLINE": "1"}
    try:
        answer = run_process(command, {**os.environ, **threads, **OFFLINE, **quiet})
    except WorkerError as failure:
        raise SystemExit(f"{name}, batch {job.batch}: {failure}") from None
    timed = in_steps(answer, job.warm)
    speed, peak = timed["tokens_per_second"], timed["peak_mib"]
    say(f"{name}, batch {job.batch}: {timed['seconds']:.1f} s, {speed:,.0f} tokens/s, peak {peak:,.0f} MiB")
    return timed


# ---- data


def mix(data: Path, target: Path, files: Sequence[str]) -> None:
    """Training files in one, shuffled."""
    lines: list[str] = []
    for name in files:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines += file
    random.Random(SEED).shuffle(lines)
    with target.open("w", encoding="utf-8") as file:
        for line in lines:
            row = json.loads(line)
            file.write(json.dumps({"anchor": row["anchor"], "positive": row["positive"]}, ensure_ascii=False) + "\n")


def write_in_order(job: Job) -> Results:
    """Write the rows of gnomon's batches in their order, which builds its index too; facts about the texts' lengths."""
    _, data = open_job(job)
    lengths: list[int] = []
    with Path(job.ordered).open("w", encoding="utf-8") as file:
        for step in range(job.steps):
            collated = data.collator.collate(data.sampler.batch_at(step))
            rows = collated.rows
            assert len(rows.queries) == job.batch, "too few different rows for a full batch"
            for anchor, positive in zip(rows.queries, rows.positives, strict=True):
                file.write(json.dumps({"anchor": anchor, "positive": positive}, ensure_ascii=False) + "\n")
            lengths += map(len, collated.ids)
    return {
        "texts": len(lengths),
        "mean": statistics.mean(lengths),
        "median": statistics.median(lengths),
        "90 %": statistics.quantiles(lengths, n=10, method="inclusive")[-1],
        "lowest": min(lengths),
        "highest": max(lengths),
    }


def open_job(job: Job) -> tuple[Any, Any]:
    """The model's checkpoint, and the data as a run of gnomon opens them."""
    recipe = recipe_of(job)
    base = read_folder(resolve_source(recipe.model), max_seq_length=recipe.max_seq_length)
    return base, open_training_data(recipe, base.spec, Tokenizer(base.tokenizer, base.spec.tokenizer), Ranks(), False)


# ---- arithmetic


def in_steps(answer: Results, warm: int) -> Results:
    """What a process reported, by the steps after the first `warm`."""
    seconds, tokens = answer["marks"][-1] - answer["marks"][warm], sum(answer["tokens"][warm:])
    computed = sum(answer["computed"][warm:])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "padding": 1 - tokens / computed if computed else 0.0,
        "loss": answer["losses"][0],
        **{name: answer[name] for name in ("tokens", "start_mib", "peak_mib", "whole_mib", "device_mib")},
    }


def compare(runs: Runs) -> Results:
    """gnomon's figures over those of the fastest other: ratio of the medians, and median of the rounds' ratios."""
    ours = runs["gnomon"]
    medians = {name: statistics.median(row["tokens_per_second"] for row in rows) for name, rows in runs.items()}
    beside = max((name for name in runs if name != "gnomon"), key=lambda name: medians[name])
    ratios: Results = {}
    for key in ("tokens_per_second", "peak_mib", *(["device_mib"] if ours[0]["device_mib"] else [])):
        pairs = [(mine[key], other[key]) for mine, other in zip(ours, runs[beside], strict=True)]
        over = statistics.median(mine for mine, _ in pairs) / statistics.median(other for _, other in pairs)
        ratios[key] = {"of_medians": over, "of_rounds": statistics.median(mine / other for mine, other in pairs)}
    return {"beside": beside, **ratios}


# ---- options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path)
    add("--part", type=parts, default=[*PARTS], metavar="PART,...", help=f"of {', '.join(PARTS)}")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--data", type=Path, default=DATA, metavar="FOLDER", help="holds the training files")
    add("--results", type=Path, default=Path(__file__).with_name("results.json"), metavar="FILE")
    for name, default in SIZES.items():
        kind = numbers if isinstance(default, tuple) else type(default)
        add(f"--{name.replace('_', '-')}", type=kind, default=default, help=f"({default})")
    return parser.parse_args(arguments)


def parts(text: str) -> list[str]:
    wanted = {*text.split(",")}
    if wanted - {*PARTS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(wanted - {*PARTS}))}: not one of {', '.join(PARTS)}")
    return [part for part in PARTS if part in wanted]


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
