"""docs/training-speed.md, from the results of `training.py`. All that is said is read from the numbers."""

import statistics
from collections.abc import Iterator
from typing import Any

from counting import summary
from tables import spread, table

Rows = dict[str, Any]

OPENING = """# Training: speed and memory

Written by `python bench/training.py MODELS`. gnomon beside sentence-transformers' own trainer: the same model, the same
batches of the same rows (../shared/data/train_pairs, all three files shuffled into one), the same loss, AdamW, clipping
at 1.0, dropout as the model's config says. Each run is a process of its own, and the two take turns.

- Tokens a second: real tokens, padding not counted, the same for both. Timed from the end of the last step for warming
  up to the end of the last step, with all that lies between: reading, tokenising, logging.
- Peak memory: the highest resident memory of the process from its start to the end of its last step. On a GPU also the
  most that tensors took there.
- Figures are medians over the rounds, with the lowest and the highest in brackets. Ratios are gnomon's figure over
  sentence-transformers': of the medians, and in brackets the median of the rounds' ratios. They are of the machine
  that each part names, these models and these texts.
"""


def page(results: Rows) -> Iterator[str]:
    yield OPENING
    for found in results.values():
        yield from section(found)


def section(found: Rows) -> Iterator[str]:
    device = found["device"]
    yield f"## {'CPU' if device['kind'] == 'cpu' else device['name']}, {many(device['cores'], 'core')}"
    yield ""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    computed = "float32" if device["kind"] == "cpu" else "bfloat16 autocast on both sides"
    yield f"Python {found['python']}, {versions}; {computed}."
    yield ""
    for name, lines in (("speed", speed), ("cache", cache), ("memory", memory), ("defaults", defaults)):
        if name in found:
            yield from lines(found[name])


def speed(part: Rows) -> Iterator[str]:
    yield f"### {part['model']}, batches of {part['batch']:,} rows"
    yield ""
    yield f"MultipleNegativesRankingLoss and `info_nce`, scale 20. {texts(part)}"
    yield ""
    yield from beside(part)


def cache(part: Rows) -> Iterator[str]:
    yield f"### GradCache: {part['model']}, batches of {part['batch']:,} rows"
    yield ""
    yield f"CachedMultipleNegativesRankingLoss and `info_nce`, scale 20. {texts(part)}"
    yield ""
    yield from beside(part)


def memory(part: Rows) -> Iterator[str]:
    first = part["curve"][0]
    gpu = first["device_mib"] is not None
    yield f"### Memory by batch: gnomon, {part['model']}"
    yield ""
    yield (
        f"One step of the optimizer in a process of its own, texts cut to {part['length']} tokens, chunk_tokens "
        f"{part['chunk_tokens']:,}. Vectors: of queries and positives, float32. More: than with a batch of "
        f"{first['batch']:,}."
    )
    yield ""
    head = ["batch", "tokens", "seconds", "peak MiB", "more, MiB", "vectors, MiB", "more vectors, MiB"]
    head += ["on the GPU, MiB", "more there, MiB"] if gpu else []
    yield from table(head, [memory_row(row, first, gpu=gpu) for row in part["curve"]])
    yield from told(part)


def defaults(part: Rows) -> Iterator[str]:
    yield f"### As each trainer comes: {part['model']}, headings and sections"
    yield ""
    yield (
        f"Texts cut to {part['sizes'][0]['length']} tokens, each run a process of its own. gnomon's default was "
        f"chunk_tokens {part['former']:,} before. sentence-transformers is its trainer with "
        "MultipleNegativesRankingLoss (left out where a batch has too many texts for it); cached, with "
        "CachedMultipleNegativesRankingLoss and its own mini_batch_size of 32."
    )
    yield ""
    lines: list[list[str]] = []
    for size in part["sizes"]:
        for name, runs in size["runs"].items():
            steps = size["steps"]
            seconds = statistics.median(run["seconds"] / steps for run in runs)
            peak = statistics.median(run["peak_mib"] for run in runs)
            tokens = sum(runs[0]["tokens"]) // steps
            lines.append([f"{size['batch']:,}", name, f"{tokens:,}", f"{seconds:.1f}", f"{peak:,.0f}"])
    yield from table(["batch", "trainer", "tokens a step", "seconds a step", "peak MiB"], lines)
    yield from told(part)


def memory_row(row: Rows, first: Rows, *, gpu: bool) -> list[str]:
    cells = [f"{row['batch']:,}", f"{sum(row['tokens']):,}", f"{row['seconds']:.1f}", f"{row['peak_mib']:,.0f}"]
    cells += [f"{row['peak_mib'] - first['peak_mib']:,.0f}", f"{row['vectors_mib']:,.1f}"]
    cells += [f"{row['vectors_mib'] - first['vectors_mib']:,.1f}"]
    return cells + ([f"{row['device_mib']:,.0f}", f"{row['device_mib'] - first['device_mib']:,.0f}"] if gpu else [])


def texts(part: Rows) -> str:
    lengths, warm = part["lengths"], part.get("warm", 0)
    cut = f", cut to {part['length']} tokens" if part.get("length") else ""
    timed = f"the last {part['steps'] - warm} timed" if warm else "all timed"
    span = f"{lengths['lowest']} to {lengths['highest']} tokens{cut}"
    return (
        f"{many(part['steps'], 'step')} in a process, {timed}. Texts of {span} "
        f"(mean {lengths['mean']:.1f}, median {lengths['median']:.0f}, nine in ten up to {lengths['90 %']:.0f})."
    )


def beside(part: Rows) -> Iterator[str]:
    """Both trainers in a table, and the ratios."""
    runs, gpu = part["runs"], "device_mib" in part
    head = [
        "trainer",
        "tokens/s",
        "seconds a step",
        "padding",
        "peak MiB",
        *(["on the GPU, MiB"] if gpu else []),
        "loss",
    ]
    steps = part["steps"] - part.get("warm", 0)
    yield from table(head, [row(name, of, steps, gpu=gpu) for name, of in runs.items()])
    said = [f"{words} {ratio(part[name])}" for name, words in RATIOS.items() if name in part]
    yield f"gnomon over {part['beside']}: {', '.join(said)}."
    yield ""
    yield from told(part)


RATIOS = {"tokens_per_second": "tokens a second", "peak_mib": "peak memory", "device_mib": "memory on the GPU"}


def row(name: str, rounds: list[Rows], steps: int, *, gpu: bool) -> list[str]:
    def of(key: str, digits: int, by: float = 1.0) -> str:
        return spread(summary([each[key] / by for each in rounds]), digits)

    cells = [name, of("tokens_per_second", 0), of("seconds", 2, steps)]
    cells += [f"{rounds[0]['padding']:.0%}", of("peak_mib", 0)]
    cells += [of("device_mib", 0)] if gpu else []
    return [*cells, f"{rounds[0]['loss']:.3f}"]


def ratio(found: Rows) -> str:
    return f"{found['of_medians']:.2f} ({found['of_rounds']:.2f})"


def told(part: Rows) -> Iterator[str]:
    rounds = f", {many(len(next(iter(part['runs'].values()))), 'round')}" if "runs" in part else ""
    threads = many(part["threads"], "thread")
    yield (
        f"Measured {part['measured']} on {part['machine']}, with {threads}{rounds}, {part['minutes']:.1f} minutes; "
        f"load before: {part['load_before']:.1f}."
    )
    yield ""


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
