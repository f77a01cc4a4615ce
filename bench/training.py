"""Speed and memory of training beside sentence-transformers' own trainer, in one run.

    python bench/training.py MODELS [--part speed,cache,memory] [--device cpu] [--rounds 3]

MODELS is the folder that shared/models/build_models.py writes.

    speed   batches of 64 rows of mixed lengths, MultipleNegativesRankingLoss: tokens a second, peak memory
    cache   GradCache at a batch of 4,096 rows beside CachedMultipleNegativesRankingLoss
    memory  gnomon alone, a step of ever larger batches: peak memory
    defaults  small, large and very large batches as each trainer comes, chunks and all: peak memory and seconds

Both trainers get the same batches, in processes of their own that take turns. On a GPU both compute in bf16. Results go
to bench/results/training.json, by device, the parts that were not run staying as they are; docs/training-speed.md is
written from it.
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

import meters
import training_page
from processes import OFFLINE, THREAD_VARIABLES, ContenderError, whole_process
from training_worker import Job, recipe_of

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "train_pairs"
FILES = ("docs", "strings", "bible")
SEED = 42
PARTS = ("speed", "cache", "memory", "defaults")
VERSIONS = ("gnomon", "sentence-transformers", "transformers", "torch", "tokenizers")

Results = dict[str, Any]
Runs = dict[str, list[Results]]
"""Contender -> what was seen of it in each round."""


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    asked: argparse.Namespace
    place: Path
    rows: Path

    def job(self, trainer: str, model: str, **options: Any) -> Job:
        return Job(
            trainer=trainer,
            model=str(self.asked.models / model),
            rows=str(self.rows),
            ordered=str(self.place / "ordered.jsonl"),
            place=str(self.place),
            device=self.asked.device,
            deterministic=not self.asked.no_deterministic,
            seed=SEED,
            **options,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse(arguments)
    results: Results = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    if not asked.report_only:
        measure(asked, results)
    asked.page.write_text("\n".join(training_page.page(results)) + "\n", encoding="utf-8")
    say(f"wrote {asked.page}")


def measure(asked: argparse.Namespace, results: Results) -> None:
    """The parts in their order; the file is written behind each."""
    found = results.setdefault(asked.device, {})
    with tempfile.TemporaryDirectory(prefix="bench-training-") as place:
        bench = Bench(asked, Path(place), Path(place) / "rows.jsonl")
        mix(asked.data, bench.rows, asked.rows)
        for name in asked.part:
            start, load = time.perf_counter(), os.getloadavg()[0]
            part = MEASURED[name](bench)
            minutes = (time.perf_counter() - start) / 60
            told = {"minutes": minutes, "load_before": load, "measured": today(), "threads": asked.threads}
            told |= {"machine": about(asked)["device"]["name"]}  # parts may be measured on several
            found |= about(asked) | {name: part | told}
            asked.results.parent.mkdir(parents=True, exist_ok=True)
            asked.results.write_text(json.dumps(results, indent=1) + "\n")


def about(asked: argparse.Namespace) -> Results:
    cores = len(os.sched_getaffinity(0))
    return {
        "device": {"kind": asked.device, "name": meters.device_name(asked.device), "cores": cores},
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in VERSIONS},
    }


# ---- parts


def speed(bench: Bench) -> Results:
    asked = bench.asked
    options = {"batch": asked.batch, "steps": asked.steps, "warm": asked.warm}
    ours = bench.job("gnomon", asked.speed_model, **options)
    lengths = in_order(ours, Path(ours.ordered))
    theirs = replace(ours, trainer="sentence-transformers")
    runs = rounds(asked, {"gnomon": ours, "sentence-transformers": theirs}, asked.rounds)
    return {"model": asked.speed_model, **options, "lengths": lengths, "runs": runs, **compared(runs)}


def cache(bench: Bench) -> Results:
    asked = bench.asked
    options = {"batch": asked.cache_batch, "steps": asked.cache_steps, "length": asked.cache_length}
    ours = bench.job("gnomon", asked.cache_model, chunk_tokens=asked.chunk_tokens, **options)
    lengths = in_order(ours, Path(ours.ordered))
    theirs = replace(ours, trainer="sentence-transformers")
    jobs = {"gnomon": ours} | {
        f"sentence-transformers, mini_batch_size {size}": replace(theirs, mini_batch=size)
        for size in asked.mini_batches
    }
    runs = rounds(asked, jobs, asked.cache_rounds)
    return {"model": asked.cache_model, **options, "lengths": lengths, "runs": runs, **compared(runs)}


def memory(bench: Bench) -> Results:
    asked = bench.asked
    options = {"chunk_tokens": asked.memory_chunk_tokens, "length": asked.memory_length}
    curve: list[Results] = []
    for batch in asked.batches:
        job = bench.job("gnomon", asked.cache_model, batch=batch, steps=1, **options)
        if not curve:
            width = opened(job)[0].spec.full_dim  # the index is made here, not in the process that is measured
        curve.append(once(asked, "gnomon", job) | {"batch": batch, "vectors_mib": vectors_mib(batch, width)})
    return {"model": asked.cache_model, **options, "curve": curve}


def defaults(bench: Bench) -> Results:
    """Headings and their sections, as long as a question and an answer; each batch size with every trainer in turn."""
    asked = bench.asked
    rows = bench.place / "docs.jsonl"
    mix(asked.data, rows, None, files=("docs",))
    sizes: list[Results] = []
    for batch in asked.default_batches:
        options = {"batch": batch, "steps": asked.default_steps if batch < 4096 else 1, "length": asked.default_length}
        ours = replace(bench.job("gnomon", asked.cache_model, **options), rows=str(rows))
        lengths = in_order(ours, Path(ours.ordered))
        theirs = replace(ours, trainer="sentence-transformers")
        jobs = {
            "gnomon": ours,
            f"gnomon, chunk_tokens {asked.former_chunk_tokens:,}": replace(
                ours, chunk_tokens=asked.former_chunk_tokens
            ),
        }
        if batch <= asked.plain_up_to:
            jobs["sentence-transformers"] = theirs
        jobs["sentence-transformers, cached"] = replace(theirs, mini_batch=32)
        runs = rounds(asked, jobs, asked.default_rounds)
        sizes.append({**options, "lengths": lengths, "runs": runs})
    return {"model": asked.cache_model, "former": asked.former_chunk_tokens, "sizes": sizes}


MEASURED: dict[str, Callable[[Bench], Results]] = {
    "speed": speed,
    "cache": cache,
    "memory": memory,
    "defaults": defaults,
}


def rounds(asked: argparse.Namespace, jobs: dict[str, Job], count: int) -> Runs:
    """Contenders in turn, A B A B.

    Raises:
        SystemExit: they did not see the same tokens.
    """
    runs: Runs = {name: [] for name in jobs}
    for _ in range(count):
        for name, job in jobs.items():
            runs[name].append(once(asked, name, job))
            if runs[name][-1]["tokens"] != runs[next(iter(jobs))][0]["tokens"]:
                raise SystemExit(f"{name} saw other tokens than gnomon: {runs[name][-1]['tokens']}")
    return runs


def once(asked: argparse.Namespace, name: str, job: Job) -> Results:
    """A process of its own."""
    command = [sys.executable, str(ROOT / "bench" / "training_worker.py"), json.dumps(asdict(job))]
    threads = dict.fromkeys(THREAD_VARIABLES, str(asked.threads))
    quiet = {"TOKENIZERS_PARALLELISM": "true", "HF_DATASETS_OFFLINE": "1"}
    try:
        seen = whole_process(command, {**os.environ, **threads, **OFFLINE, **quiet})
    except ContenderError as failure:
        raise SystemExit(f"{name}, batch {job.batch}: {failure}") from None
    timed = in_steps(seen, job.warm)
    speed, peak = timed["tokens_per_second"], timed["peak_mib"]
    say(f"{name}, batch {job.batch}: {timed['seconds']:.1f} s, {speed:,.0f} tokens/s, peak {peak:,.0f} MiB")
    return timed


# ---- data


def mix(data: Path, target: Path, rows: int | None, *, files: Sequence[str] = FILES) -> None:
    """Training files in one, shuffled; the first `rows` of it."""
    lines: list[str] = []
    for name in files:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines += file
    random.Random(SEED).shuffle(lines)
    with target.open("w", encoding="utf-8") as file:
        for line in lines[:rows]:
            row = json.loads(line)
            file.write(json.dumps({"anchor": row["anchor"], "positive": row["positive"]}, ensure_ascii=False) + "\n")


def in_order(job: Job, target: Path) -> Results:
    """Write the rows of gnomon's batches in their order, which makes its index too; what the texts' lengths are."""
    _, data = opened(job)
    lengths: list[int] = []
    with target.open("w", encoding="utf-8") as file:
        for step in range(job.steps):
            collated = data.collator.collate(data.sampler.batch_at(step))
            rows = collated.rows
            assert len(rows.queries) == job.batch, "too few different rows for a full batch"
            for pair in zip(rows.queries, rows.positives, strict=True):
                row = dict(zip(("anchor", "positive"), pair, strict=True))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            lengths += map(len, collated.ids)
    return length_facts(lengths)


def opened(job: Job) -> tuple[Any, Any]:
    """The model's checkpoint, and the data as a run of gnomon opens them."""
    from gnomon.checkpoint.folder import read_folder
    from gnomon.checkpoint.hub import resolve_source
    from gnomon.tokenizer import Tokenizer
    from gnomon.train.data.prepare import open_training_data
    from gnomon.train.distributed import Ranks

    recipe = recipe_of(job)
    base = read_folder(resolve_source(recipe.model), max_seq_length=recipe.max_seq_length)
    return base, open_training_data(recipe, base.spec, Tokenizer(base.tokenizer, base.spec.tokenizer), Ranks(), False)


# ---- arithmetic


def in_steps(seen: Results, warm: int) -> Results:
    """What was seen of a process, by the steps behind the first `warm`."""
    seconds, tokens = seen["marks"][-1] - seen["marks"][warm], sum(seen["tokens"][warm:])
    computed = sum(seen["computed"][warm:])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "padding": 1 - tokens / computed if computed else 0.0,
        "loss": seen["losses"][0],
        **{name: seen[name] for name in ("tokens", "start_mib", "peak_mib", "whole_mib", "device_mib")},
    }


def compared(runs: Runs) -> Results:
    """gnomon beside the fastest of the others: tokens a second, and peak memory, its over theirs."""
    ours = runs["gnomon"]
    theirs = max(
        (name for name in runs if name != "gnomon"),
        key=lambda name: statistics.median(row["tokens_per_second"] for row in runs[name]),
    )
    names = ("tokens_per_second", "peak_mib", *(["device_mib"] if ours[0]["device_mib"] else []))
    return {
        "beside": theirs,
        **{name: beside([row[name] for row in ours], [row[name] for row in runs[theirs]]) for name in names},
    }


def beside(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours over theirs, a value for each round on both sides."""
    return {
        "of_medians": statistics.median(ours) / statistics.median(theirs),
        "of_rounds": statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
    }


def vectors_mib(batch: int, width: int) -> float:
    """Vectors of the queries and the positives, in float32."""
    return 2 * batch * width * 4 / 2**20


def length_facts(lengths: Sequence[int]) -> Results:
    tenths = statistics.quantiles(lengths, n=10, method="inclusive")
    return {
        "texts": len(lengths),
        "mean": statistics.mean(lengths),
        "median": statistics.median(lengths),
        "90 %": tenths[-1],
        "lowest": min(lengths),
        "highest": max(lengths),
    }


# ---- options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path)
    add("--part", type=parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    add("--device", choices=("cpu", "cuda"), help="by default a GPU if there is one")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--rounds", type=int, default=3, help="of the part speed: each contender runs once in each (3)")
    add("--rows", type=int, help="take so many rows of the mixture; all of them")
    add("--no-deterministic", action="store_true", help="gnomon too may use kernels that give other last digits")
    add("--speed-model", default="all-MiniLM-L6-v2")
    add("--batch", type=int, default=64)
    add("--steps", type=int, help="of a process (12; on a GPU 102)")
    add("--warm", type=int, default=2, help="steps in front of those that are timed (2)")
    add("--cache-model", default="paraphrase-MiniLM-L3-v2", help="of the parts cache and memory")
    add("--cache-batch", type=int, default=4096)
    add("--cache-rounds", type=int, default=2)
    add("--cache-steps", type=int, default=1)
    add("--cache-length", type=int, default=64, help="tokens of a text that are read (64)")
    add("--chunk-tokens", type=int, help="gnomon's in the part cache; its default")
    add(
        "--mini-batches", type=numbers, default=(32, 128), help="sizes of sentence-transformers; its own is 32 (32,128)"
    )
    add("--batches", type=numbers, default=(256, 1024, 4096, 16_384, 28_672), help="of the memory curve")
    add("--memory-length", type=int, default=32, help="tokens of a text that are read (32)")
    add("--memory-chunk-tokens", type=int, default=4096, help="one number for the whole curve (4,096)")
    add("--default-batches", type=numbers, default=(64, 1024, 4096), help="of the part defaults (64,1024,4096)")
    add("--default-steps", type=int, default=2, help="of a process; one from 4,096 rows on (2)")
    add("--default-rounds", type=int, default=1)
    add("--default-length", type=int, default=128, help="tokens of a text that are read (128)")
    add("--former-chunk-tokens", type=int, default=21_183, help="gnomon's default until November 2026, for that model")
    add(
        "--plain-up-to",
        type=int,
        default=256,
        help="the largest batch of the loss without a cache: memory grows with it",
    )
    add("--report-only", action="store_true", help="measure nothing, write the page")
    add("--data", type=Path, default=DATA, metavar="FOLDER", help="holds the training files")
    add("--results", type=Path, default=ROOT / "bench" / "results" / "training.json", metavar="FILE")
    add("--page", type=Path, default=ROOT / "docs" / "training-speed.md", metavar="FILE")
    asked = parser.parse_args(arguments)
    if asked.device is None:
        asked.device = "cuda" if has_gpu() else "cpu"
    asked.steps = asked.steps or (12 if asked.device == "cpu" else 102)
    return asked


def parts(text: str) -> tuple[str, ...]:
    wanted = {*text.split(",")}
    if wanted - {*PARTS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(wanted - {*PARTS}))}: not one of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in wanted)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def today() -> str:
    return datetime.date.today().isoformat()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
