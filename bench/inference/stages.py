"""The stages of a run: many texts, one query, cold start. Each returns what the JSON holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from bench.figures import quantiles, say, summary, turns
from bench.flops import Shape, operations
from bench.inference.models import Model
from bench.inference.plan import USUAL_SIZE, Cell
from bench.inference.processes import Bench, Worker, Workers
from bench.inference.systems import SYSTEMS, TUNED
from bench.process import WorkerError, run_process
from bench.texts import Texts

REFERENCE_TEXTS = 64
WARM_TEXTS = 8
TOO_LONG = "keeps the scores of all pairs of tokens of a text in memory, several times over; too much for these texts"
PRODUCT = "matrix product"
"""Takes its turn among the systems."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    bench: Bench
    texts: Texts
    names: list[str]
    rounds: int
    calls: int
    """Calls of one query, of each system in each round."""
    reference: Worker
    place: Path
    """A folder for files of texts and vectors, deleted after the run."""

    def file(self, texts: Sequence[str], name: str = "texts") -> str:
        path = self.place / f"{name}.json"
        path.write_text(json.dumps(list(texts)))
        return str(path)

    def vectors(self, name: str) -> str:
        """File of a system's vectors."""
        return str(self.place / f"{name}.npy")

    def lengths(self, model: Model, file: str) -> list[int]:
        """Tokens of each text, truncated where the model truncates."""
        return self.reference.ask("lengths", folder=str(model.folder), texts=file)["lengths"]


def bulk(run: Run, workers: Workers, cell: Cell) -> Result:
    """Every system on one mix of texts: seconds, memory, padding, and how far its vectors are from float64."""
    say(f"bulk: {cell.model}, {cell.mix}, {cell.texts} texts")
    texts = run.texts.mix(cell.mix, cell.texts)
    file = run.file(texts)
    lengths = run.lengths(workers.model, file)
    too_long = {name: TOO_LONG for name in run.names if SYSTEMS[name].longest < max(lengths)}
    tried = batch_sizes(run, workers, cell, texts, [name for name in run.names if name not in too_long])
    same = same_as_default(tried)
    sizes = {name: size for name, size in tried.items() if name not in same}
    first = reference_count(lengths, cell.reference_tokens)
    answers, rates = take_turns(run, workers, sizes, min(run.rounds, cell.most_rounds), texts=file, first=first)
    runs = {
        name: bulk_row(workers.get(name), name, sizes[name], texts, lengths, rows) for name, rows in answers.items()
    }
    add_distances(run, workers.model, file, first, runs)
    return {
        "texts": len(texts),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "operations": operations(Shape.of(workers.model.folder), lengths),
        "rates": {dtype: {name: summary(rows) for name, rows in by.items()} for dtype, by in rates.items()},
        "runs": runs,
        "skipped": workers.skipped | too_long | same,
    }


def batch_sizes(run: Run, workers: Workers, cell: Cell, texts: list[str], names: list[str]) -> dict[str, int]:
    """Texts of a batch for each system, each used once before it is timed; "tuned" ones try a third of the texts."""
    some = run.file(texts[: max(len(texts) // 3, 48)], "some")
    warm = run.file(sorted(texts, key=len)[: min(WARM_TEXTS, (len(texts) + 1) // 2)], "warm")
    sizes: dict[str, int] = {}
    for name in names:

        def seconds(size: int, name: str = name) -> float:
            workers.attempt(name, "encode", texts=warm, size=size)
            answer = workers.attempt(name, "encode", texts=some, size=size)
            return answer["seconds"] if answer else float("inf")

        size = usual_size(name)
        if SYSTEMS[name].size == TUNED:
            size = best_size(cell.sizes, size if size in cell.sizes else cell.sizes[0], seconds)
        if workers.attempt(name, "encode", texts=warm, size=size):
            sizes[name] = size
    return sizes


def usual_size(name: str) -> int:
    """Texts of a batch before any other is tried; 0 for systems that choose batches themselves."""
    size = SYSTEMS[name].size
    return USUAL_SIZE if size == TUNED else size or 0


def best_size(sizes: Sequence[int], start: int, seconds: Callable[[int], float]) -> int:
    """The fastest of a few batch sizes, walked from `start` up and then down for as long as it gets faster."""
    if len(sizes) == 1:
        return start
    took = {start: seconds(start)}
    above, below = [size for size in sizes if size > start], [size for size in reversed(sizes) if size < start]
    for way in (above, below):
        for last, size in pairwise([start, *way]):
            took[size] = seconds(size)
            if took[size] >= took[last]:
                break
    return min(took, key=lambda size: took[size])


def same_as_default(sizes: dict[str, int]) -> dict[str, str]:
    """Systems that would run exactly what another one runs: "tuned" ones whose best batch size is the usual one."""
    return {
        name: f"its best batch size is {size}, as in {other!r}"
        for name, size in sizes.items()
        if (other := name.removesuffix(" tuned")) != name and sizes.get(other) == size
    }


def reference_count(lengths: Sequence[int], most_tokens: int) -> int:
    """How many of the first texts are compared with float64."""
    return max(1, sum(tokens <= most_tokens for tokens in accumulate(lengths[:REFERENCE_TEXTS])))


def take_turns(
    run: Run, workers: Workers, sizes: dict[str, int], rounds: int, **options: Any
) -> tuple[dict[str, list[Result]], dict[str, dict[str, list[float]]]]:
    """Answers of each system, and rates of the plain matrix product, by dtype and library, which has its turn too."""
    answers: dict[str, list[Result]] = {name: [] for name in sizes}
    dtypes = [SYSTEMS[name].dtype for name in sizes]
    rates: dict[str, dict[str, list[float]]] = {dtype: {} for dtype in dtypes if dtype != "int8"}
    for name in turns([*sizes, PRODUCT], rounds):
        if name == PRODUCT:
            for dtype, by_library in rates.items():
                for library, rate in run.reference.ask("rates", dtype=dtype)["rates"].items():
                    by_library.setdefault(library, []).append(rate)
        elif answer := workers.attempt(name, "encode", out=run.vectors(name), size=sizes[name], **options):
            answers[name].append(answer)
            say(f"  {name}: {answer['seconds']:.2f} s")
    return {name: rows for name, rows in answers.items() if name not in workers.skipped}, rates


def bulk_row(worker: Worker, name: str, size: int, texts: list[str], lengths: list[int], rows: list[Result]) -> Result:
    computed = worker.ask("computed", lengths=lengths, characters=[len(text) for text in texts], size=size)
    return {
        "dtype": SYSTEMS[name].dtype,
        "size": size or None,
        "seconds": summary([row["seconds"] for row in rows]),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "device_mib": max((row["device_mib"] for row in rows if row["device_mib"] is not None), default=None),
        "waste": 1 - sum(lengths) / computed["tokens"] if computed["tokens"] else 0.0,
    }


def add_distances(run: Run, model: Model, file: str, first: int, runs: dict[str, Result]) -> None:
    """Distances of the vectors of the last round to transformers' own model in float64."""
    try:
        folder = str(run.bench.models.form(model, "transformers"))
        run.reference.ask("compute_vectors", folder=folder, texts=file, first=first)
        for name, row in runs.items():
            row |= run.reference.ask("distance", vectors=run.vectors(name))
    except WorkerError as failure:
        say(f"  no reference: {failure}")


def latency(run: Run, workers: Workers) -> Result:
    """Seconds of calls with one short text each, systems in turn."""
    say(f"latency: {workers.model.name}")
    queries = run.texts.mix("short", run.calls)
    seconds: dict[str, list[float]] = {name: [] for name in untuned(run.names)}
    for name in seconds:
        workers.attempt(name, "latency", texts=queries[:5], size=usual_size(name))  # to warm up
    for name in turns([*seconds], run.rounds):
        if answer := workers.attempt(name, "latency", texts=queries, size=usual_size(name)):
            seconds[name] += answer["seconds"]
    return {name: quantiles(values) for name, values in seconds.items() if name not in workers.skipped}


def untuned(names: list[str]) -> list[str]:
    """Without those that differ from another one by their batch size alone."""
    return [name for name in names if name.removesuffix(" tuned") == name or name.removesuffix(" tuned") not in names]


def cold(run: Run, name: str) -> Result:
    """Whole processes: import, load, one vector. With several rounds, one more before them fills the file cache."""
    bench, rounds, model = run.bench, run.rounds, run.bench.models.open(name)
    say(f"cold start: {model.name}")
    able = [name for name in untuned(run.names) if SYSTEMS[name].dtype == "float32" or bench.device != "cpu"]
    rows: dict[str, list[Result]] = {name: [] for name in able}
    for name in turns(able, rounds + (rounds > 1)):
        try:
            if name in rows:
                rows[name].append(run_process([*bench.command(name, model), "--cold"], bench.threads))
        except WorkerError as failure:
            say(f"  {name}: {failure}")
            del rows[name]
    return {
        name: {key: summary([row[key] for row in found[-rounds:]]) for key in found[0]} for name, found in rows.items()
    }
