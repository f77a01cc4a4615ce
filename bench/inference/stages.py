"""The stages of a run: many texts, one query, cold start, growth. Each returns what the JSON holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import quantiles, rotated, say, summary
from bench.flops import Shape, operations
from bench.inference.models import Model
from bench.inference.plan import USUAL_SIZE, Cell, Growth, Plan
from bench.inference.processes import Bench, Worker, WorkerError, Workers, run_process
from bench.inference.systems import SYSTEMS, TUNED
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
    plan: Plan
    texts: Texts
    names: list[str]
    reference: Worker
    place: Path
    """A folder for files of texts and vectors, deleted after the run."""

    def file(self, texts: Sequence[str], name: str = "texts") -> str:
        path = self.place / f"{name}.json"
        path.write_text(json.dumps(list(texts)))
        return str(path)

    def lengths(self, model: Model, file: str) -> list[int]:
        """Tokens of each text, truncated where the model truncates."""
        return self.reference.ask("lengths", folder=str(model.folder), texts=file)["lengths"]


# many texts


def bulk(run: Run, workers: Workers, cell: Cell) -> Result:
    """Every system on one mix of texts: seconds, memory, padding, and how far its vectors are from float64."""
    say(f"bulk: {cell.model}, {cell.mix}, {cell.texts} texts")
    texts = run.texts.mix(cell.mix, cell.texts)
    file = run.file(texts)
    lengths = run.lengths(workers.model, file)
    too_long = {name: TOO_LONG for name in run.names if SYSTEMS[name].longest < max(lengths)}
    tried = batch_sizes(run, workers, cell, texts, workers.start([name for name in run.names if name not in too_long]))
    same = same_as_default(tried)
    sizes = {name: size for name, size in tried.items() if name not in same}
    first = reference_count(lengths, cell.reference_tokens)
    rounds = min(run.plan.rounds, cell.most_rounds)
    answers, rates = take_turns(run, workers, sizes, rounds, texts=file, first=first)
    runs = {name: bulk_row(workers, name, sizes[name], texts, lengths, rows) for name, rows in answers.items()}
    for name, row in distances(run, workers, file, first, list(runs)).items():
        runs[name] |= row
    return {
        "texts": len(texts),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "operations": operations(Shape.of(workers.model.folder), lengths),
        "rates": {dtype: {name: summary(rows) for name, rows in by.items()} for dtype, by in rates.items()},
        "runs": runs,
        "skipped": dict(workers.skipped) | too_long | same,
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

        system = SYSTEMS[name]
        choices = cell.sizes if system.size == TUNED else (system.size or 0,)
        start = USUAL_SIZE if USUAL_SIZE in choices else choices[0]
        size = best_size(choices, start, seconds) if len(choices) > 1 else start
        if workers.attempt(name, "encode", texts=warm, size=size):
            sizes[name] = size
    return sizes


def best_size(sizes: Sequence[int], start: int, seconds: Callable[[int], float]) -> int:
    """The fastest of a few batch sizes, walked from `start` up and then down for as long as it gets faster."""
    took = {start: seconds(start)}
    above = [size for size in sizes if size > start]
    below = [size for size in reversed(sizes) if size < start]
    for way in (above, below):
        last = start
        for size in way:
            took[size] = seconds(size)
            if took[size] >= took[last]:
                break
            last = size
    return min(took, key=lambda size: took[size])


def same_as_default(sizes: dict[str, int]) -> dict[str, str]:
    """Systems that would run exactly what another one runs: "tuned" ones whose best batch size is the usual one."""
    others = {name: name.removesuffix(" tuned") for name in sizes if name.endswith(" tuned")}
    return {
        name: f"its best batch size is {sizes[name]}, as in {other!r}"
        for name, other in others.items()
        if sizes.get(other) == sizes[name]
    }


def reference_count(lengths: Sequence[int], most_tokens: int) -> int:
    count, tokens = 0, 0
    while count < min(len(lengths), REFERENCE_TEXTS) and tokens + lengths[count] <= most_tokens:
        tokens += lengths[count]
        count += 1
    return max(count, 1)


def take_turns(
    run: Run, workers: Workers, sizes: dict[str, int], rounds: int, **options: Any
) -> tuple[dict[str, list[Result]], dict[str, dict[str, list[float]]]]:
    """Rounds in which each system runs once, and the plain matrix product too; another one begins each round."""
    answers: dict[str, list[Result]] = {name: [] for name in sizes}
    rates: dict[str, dict[str, list[float]]] = {SYSTEMS[name].dtype: {} for name in sizes}
    rates.pop("int8", None)
    for turn in range(rounds):
        for name in rotated([*sizes, PRODUCT], turn):
            if name == PRODUCT:
                for dtype, by_library in rates.items():
                    for library, rate in run.reference.ask("rates", dtype=dtype)["rates"].items():
                        by_library.setdefault(library, []).append(rate)
                continue
            out = str(run.place / f"{name}.npy")
            if answer := workers.attempt(name, "encode", out=out, size=sizes[name], **options):
                answers[name].append(answer)
                say(f"  {name}: {answer['seconds']:.2f} s")
    return {name: rows for name, rows in answers.items() if name not in workers.skipped}, rates


def bulk_row(
    workers: Workers, name: str, size: int, texts: list[str], lengths: list[int], rows: list[Result]
) -> Result:
    computed = workers.get(name).ask("computed", lengths=lengths, characters=[len(text) for text in texts], size=size)
    return {
        "dtype": SYSTEMS[name].dtype,
        "size": size or None,
        "seconds": summary([row["seconds"] for row in rows]),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "device_mib": max((row["device_mib"] for row in rows if row["device_mib"] is not None), default=None),
        "waste": 1 - sum(lengths) / computed["tokens"] if computed["tokens"] else 0.0,
    }


def distances(run: Run, workers: Workers, file: str, first: int, names: list[str]) -> dict[str, Result]:
    """Distances of the vectors of the last round to transformers' own model in float64."""
    reference = str(run.place / "reference.npy")
    folder = run.bench.models.form(workers.model, "transformers")
    try:
        run.reference.ask("reference", folder=str(folder), texts=file, first=first, out=reference)
        ask = run.reference.ask
        files = {name: str(run.place / f"{name}.npy") for name in names}
        return {name: ask("distance", reference=reference, vectors=vectors) for name, vectors in files.items()}
    except WorkerError as failure:
        say(f"  no reference: {failure}")
        return {}


# one query


def latency(run: Run, workers: Workers) -> Result:
    """Seconds of calls with one short text each, systems in turn."""
    say(f"latency: {workers.model.name}")
    queries = run.texts.mix("short", run.plan.calls)
    seconds: dict[str, list[float]] = {name: [] for name in workers.start(untuned(run.names))}
    for turn in range(-1, run.plan.rounds):  # the first is to warm up
        for name in rotated(list(seconds), max(turn, 0)):
            size = SYSTEMS[name].size
            size = USUAL_SIZE if size == TUNED else size or 0
            answer = workers.attempt(name, "latency", texts=queries if turn >= 0 else queries[:5], size=size)
            seconds[name] += answer["seconds"] if answer and turn >= 0 else []
    return {name: quantiles(values) for name, values in seconds.items() if name not in workers.skipped}


def untuned(names: list[str]) -> list[str]:
    """Without those that differ from another one by their batch size alone."""
    return [name for name in names if name.removesuffix(" tuned") == name or name.removesuffix(" tuned") not in names]


# cold start


def cold(run: Run, model_name: str) -> Result:
    """Whole processes: import, load, one vector. With several rounds, one more before them fills the file cache."""
    model = run.bench.models.open(model_name)
    say(f"cold start: {model.name}")
    able = [name for name in untuned(run.names) if SYSTEMS[name].dtype == "float32" or run.bench.device != "cpu"]
    rounds: list[dict[str, Result]] = []
    for turn in range(run.plan.rounds + (run.plan.rounds > 1)):
        started = {name: start_cold(run.bench, name, model) for name in rotated(able, turn)}
        able = [name for name in able if started[name]]
        rounds.append(started)
    rows = {name: [found[name] for found in rounds[len(rounds) > 1 :]] for name in able}
    return {name: {key: summary([row[key] for row in found]) for key in found[0]} for name, found in rows.items()}


def start_cold(bench: Bench, name: str, model: Model) -> Result:
    """Nothing if it fails."""
    try:
        return run_process([*bench.command(name, model), "--cold"], bench.variables())
    except WorkerError as failure:
        say(f"  {name}: {failure}")
        return {}


# growth


def growth_texts(run: Run, growth: Growth) -> Result:
    """One process, more and more texts: up the counts and down again, so that the machine's drift shows as spread."""
    model = run.bench.models.open(growth.texts_model)
    say(f"growth: {growth.system}, {model.name}, up to {max(growth.texts):,} texts")
    every = run.texts.brief(max(growth.texts))
    rows: dict[int, list[Result]] = {count: [] for count in growth.texts}
    with Workers(run.bench, model) as workers:
        if not workers.start([growth.system]):
            return {"skipped": workers.skipped[growth.system]}
        worker = workers.get(growth.system)
        lengths = run.lengths(model, run.file(every))
        worker.ask("encode", texts=run.file(every[: max(growth.texts) // 20], "warm"), size=0)
        for count in (*growth.texts, *reversed(growth.texts[:-1])):
            rows[count].append(worker.ask("sampled", texts=run.file(every[:count]), size=0))
    per_text = {count: summary([row["seconds"] / count for row in found]) for count, found in rows.items()}
    before, last = sorted(growth.texts)[-2:]
    return {
        "contender": growth.system,
        "model": model.name,
        "mean_tokens": sum(lengths) / len(lengths),
        "seconds_per_text": {str(count): values for count, values in per_text.items()},
        "deviation": per_text[last]["median"] / per_text[before]["median"] - 1,
        "memory": memory_of(rows[last][0]["resident_mib"]),
    }


def memory_of(samples: list[float]) -> Result:
    """Resident memory before the largest call, in the first tenth of its time, at its end, and a curve to draw."""
    return {
        "before": samples[0],
        "tenth": max(samples[: max(1, len(samples) // 10)]),
        "highest": max(samples),
        "end": samples[-1],
        "curve": samples[:: max(1, len(samples) // 200)],
    }


def growth_lengths(run: Run, growth: Growth) -> Result:
    """Tokens a second at each length of text."""
    model = run.bench.models.open(growth.lengths_model)
    say(f"growth: lengths, {model.name}")
    with Workers(run.bench, model) as workers:
        names = workers.start([name for name in growth.systems if name in run.names])
        lengths = [length for length in growth.lengths if length <= model.limit]
        counts = {length: max(1, growth.tokens // length) for length in lengths}
        rates = {str(length): at_length(run, workers, names, length, count) for length, count in counts.items()}
    return {"model": model.name, "tokens_per_second": rates}


def at_length(run: Run, workers: Workers, names: list[str], length: int, count: int) -> Result:
    source = run.file(run.texts.documents if length > 64 else run.texts.documents[:50], "documents")
    file, folder = str(run.place / "parts.json"), str(workers.model.folder)
    run.reference.ask("write_parts", folder=folder, texts=source, length=length, count=count, out=file)
    tokens = sum(run.lengths(workers.model, file))
    size = max(1, min(USUAL_SIZE, 8192 // length))
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, min(2, run.plan.rounds) if length < 4096 else 1):
        for name in rotated(names, max(turn, 0)):
            if turn >= 0 or length < 1024:  # the first is to warm up
                seconds = workers.get(name).ask("encode", texts=file, size=size)["seconds"]
                rates[name] += [tokens / seconds] if turn >= 0 else []
    return {name: summary(values) for name, values in rates.items()}
