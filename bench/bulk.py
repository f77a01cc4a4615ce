"""The bulk stage: every contender on a mix of texts, in alternation, and how far its vectors are from float64."""

from collections.abc import Sequence
from typing import Any

from contenders import CONTENDERS, TUNED, Contender
from counting import Shape, best_size, operations, rotated, summary, waste
from measuring import Measuring, Result, say
from plan import USUAL_SIZE, Cell
from processes import ContenderError, Worker, Workers

REFERENCE_TEXTS = 64
WARM_TEXTS = 8
TOO_LONG = "keeps the scores of all pairs of tokens of a text in memory, several times over; too much for these texts"
PRODUCT = "matrix product"
"""Takes its turn among the contenders."""


def bulk(run: Measuring, workers: Workers, cell: Cell) -> Result:
    """Every contender on one mix of texts: seconds, memory, padding, and how far its vectors are from float64."""
    say(f"bulk: {cell.model}, {cell.mix}, {cell.texts} texts")
    texts = run.texts.mix(cell.mix, cell.texts)
    file = run.file(texts)
    lengths = run.toolbox.ask("lengths", folder=str(workers.model.folder), texts=file)["lengths"]
    too_long = {name: TOO_LONG for name in run.names if CONTENDERS[name].longest < max(lengths)}
    entrants = workers.able([name for name in run.names if name not in too_long])
    sizes = batch_sizes(run, workers, cell, texts, entrants)
    first = reference_count(lengths, cell.reference_tokens)
    found, rates = in_turn(run, workers, sizes, file, first, min(run.plan.rounds, cell.most_rounds))
    runs = {name: bulk_row(workers, name, sizes[name], texts, lengths, rows) for name, rows in found.items()}
    for name, row in fidelity(run, workers, file, first, list(runs)).items():
        runs[name] |= row
    return {
        "texts": len(texts),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "operations": operations(Shape.of(workers.model.folder), lengths),
        "rates": {dtype: {name: summary(rows) for name, rows in by.items()} for dtype, by in rates.items()},
        "runs": runs,
        "skipped": dict(workers.skipped) | too_long | same_as_default(entrants, sizes),
    }


def batch_sizes(
    run: Measuring, workers: Workers, cell: Cell, texts: list[str], entrants: dict[str, Contender]
) -> dict[str, int]:
    """Texts of a batch for each contender; those that have none of their own are tried on a third of the texts."""
    some = run.file(texts[: max(len(texts) // 3, 48)], "some")
    warm = run.file(sorted(texts, key=len)[: min(WARM_TEXTS, (len(texts) + 1) // 2)], "warm")
    sizes = {}
    for name, contender in entrants.items():
        tries = cell.sizes if contender.size == TUNED else (contender.size or 0,)
        try:
            sizes[name] = tried(workers.get(name), tries, some, warm)
        except ContenderError as failure:
            workers.skip(name, str(failure))
    left_out = same_as_default(entrants, sizes)
    return {name: size for name, size in sizes.items() if name not in left_out}


def tried(worker: Worker, sizes: Sequence[int], some: str, warm: str) -> int:
    """The fastest size; each is used once before it is timed. One size alone is only warmed up."""

    def seconds(size: int) -> float:
        worker.ask("encode", texts=warm, size=size)
        return worker.ask("encode", texts=some, size=size)["seconds"]

    if len(sizes) == 1:
        worker.ask("encode", texts=warm, size=sizes[0])
        return sizes[0]
    best = best_size(sizes, USUAL_SIZE if USUAL_SIZE in sizes else sizes[0], seconds)
    worker.ask("encode", texts=warm, size=best)
    return best


def same_as_default(entrants: dict[str, Contender], sizes: dict[str, int]) -> dict[str, str]:
    """Who would run exactly what another contender runs: one whose best batch size is the usual one."""
    return {
        name: f"its best batch size is {sizes[name]}, as in {other!r}"
        for name in sizes
        if name.endswith(" tuned") and entrants[name].size == TUNED
        for other in [name.removesuffix(" tuned")]
        if other in sizes and sizes[other] == sizes[name]
    }


def reference_count(lengths: Sequence[int], most_tokens: int) -> int:
    count, tokens = 0, 0
    while count < min(len(lengths), REFERENCE_TEXTS) and tokens + lengths[count] <= most_tokens:
        tokens += lengths[count]
        count += 1
    return max(count, 1)


def in_turn(
    run: Measuring, workers: Workers, sizes: dict[str, int], file: str, first: int, rounds: int
) -> tuple[dict[str, list[Result]], dict[str, dict[str, list[float]]]]:
    """Rounds in which each contender runs once, and the plain matrix product too; another one begins each round."""
    found: dict[str, list[Result]] = {name: [] for name in sizes}
    dtypes = sorted({CONTENDERS[name].dtype for name in sizes} - {"int8"})
    rates: dict[str, dict[str, list[float]]] = {dtype: {} for dtype in dtypes}
    for turn in range(rounds):
        for name in rotated([*sizes, PRODUCT], turn):
            if name == PRODUCT:
                add_rates(run, rates)
            elif name not in workers.skipped:
                one_turn(run, workers, name, found[name], texts=file, size=sizes[name], first=first)
    return {name: rows for name, rows in found.items() if name not in workers.skipped}, rates


def one_turn(run: Measuring, workers: Workers, name: str, rows: list[Result], **options: Any) -> None:
    try:
        worker = workers.get(name)
        rows.append(worker.ask("encode", out=str(run.place / f"{name}.npy"), **options))
        say(f"  {name}: {rows[-1]['seconds']:.2f} s")
    except ContenderError as failure:
        workers.skip(name, str(failure))


def add_rates(run: Measuring, rates: dict[str, dict[str, list[float]]]) -> None:
    for dtype, by_library in rates.items():
        for library, rate in run.toolbox.ask("rates", dtype=dtype)["rates"].items():
            by_library.setdefault(library, []).append(rate)


def bulk_row(
    workers: Workers, name: str, size: int, texts: list[str], lengths: list[int], rows: list[Result]
) -> Result:
    computed = workers.get(name).ask("computed", lengths=lengths, characters=[len(text) for text in texts], size=size)
    device = [row["device_mib"] for row in rows if row["device_mib"] is not None]
    return {
        "dtype": CONTENDERS[name].dtype,
        "size": size or None,
        "seconds": summary([row["seconds"] for row in rows]),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "device_mib": max(device, default=None),
        "waste": waste(sum(lengths), computed["tokens"]),
    }


def fidelity(run: Measuring, workers: Workers, file: str, first: int, names: list[str]) -> dict[str, Result]:
    """Distances of the vectors of the last round to transformers' own model in float64."""
    reference = str(run.place / "reference.npy")
    folder = run.bench.models.form(workers.model, "transformers")
    if folder is None:
        return {}
    try:
        run.toolbox.ask("reference", folder=str(folder), texts=file, first=first, out=reference)
        distance = "distance"
        return {
            name: run.toolbox.ask(distance, reference=reference, vectors=str(run.place / f"{name}.npy"))
            for name in names
        }
    except ContenderError as failure:
        say(f"  no reference: {failure}")
        return {}
