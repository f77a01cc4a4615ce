"""How the time of encoding grows with the number of texts and with their length, and memory with their number.

    python -m experiments.growth.run [--here] [--work FOLDER]
    python -m experiments.growth.run --tables                     prints results.json, measures nothing

One process of gnomon encodes more and more short texts: up the counts and down again, so that the machine's drift shows
as spread. Then gnomon and sentence-transformers take turns on texts of one length. Systems run as in bench/inference.
Writes results.json, and with matplotlib growth.png.
"""

import argparse
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench import machine
from bench.figures import print_table, say, spread, summary, turns
from bench.inference.environments import Environments
from bench.inference.models import MINILM, Model, Models
from bench.inference.processes import Bench, Worker, Workers
from bench.inference.run import FALLBACK_TOKENIZER
from bench.inference.systems import limit_of
from bench.process import ROOT
from bench.texts import Texts

SYSTEMS = ("gnomon onnx", "gnomon torch", "sentence-transformers")
"""The first alone for numbers of texts."""
LONG_MODEL = "gte-large-2-layers"
COUNTS = (100, 1_000, 10_000, 100_000)
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
TOKENS = 1024
"""Of each length, at least one text's."""
SAMPLE_SECONDS = 0.2
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # colour-blind readers can tell them apart

Results = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--here", action="store_true", help="in this interpreter, with what it has installed")
    add("--work", type=Path, default=ROOT / ".venv-bench", help="environments and models")
    add("--shared", type=Path, default=ROOT.parent / "shared", help="holds data/, the real texts")
    add("--models", nargs=2, default=(MINILM, LONG_MODEL), help="for numbers of texts, and for lengths")
    add("--threads", type=int, default=machine.cores())
    add("--tables", action="store_true", help="print the tables of the results and measure nothing")
    add("--results", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args(arguments)
    if not options.tables:
        models = Models(Environments(options.work, options.here), options.shared / FALLBACK_TOKENIZER)
        bench, texts = Bench(models, options.threads, "cpu"), Texts(options.shared / "data")
        by_count, by_length = (models.open(name) for name in options.models)
        with tempfile.TemporaryDirectory(prefix="growth-") as place:
            file = Path(place) / "texts.json"
            results = {"texts": measure_counts(bench, by_count, texts.brief(max(COUNTS)), file)}
            results |= {"lengths": measure_lengths(bench, by_length, texts.documents, file)}
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(options.results.read_text())
    print_tables(results)
    draw(results, options.results.with_name("growth.png"))


def measure_counts(bench: Bench, model: Model, texts: list[str], file: Path) -> Results:
    rows: dict[int, list[Results]] = {count: [] for count in COUNTS}
    with closing(Worker(bench, SYSTEMS[0], model)) as worker:
        encode(worker, texts[: max(COUNTS) // 20], file)  # to warm up
        for count in (*COUNTS, *COUNTS[-2::-1]):
            rows[count].append(encode(worker, texts[:count], file))
            say(f"{count:,} texts: {rows[count][-1]['seconds']:.2f} s")
    tokens = [len(encoding.ids) for encoding in open_tokenizer(model).encode_batch(texts[: max(COUNTS)])]
    per_text = {count: summary([row["seconds"] / count for row in found]) for count, found in rows.items()}
    samples = rows[COUNTS[-1]][0]["resident_mib"]
    memory = {
        "before": samples[0],
        "tenth": max(samples[: max(1, len(samples) // 10)]),
        "highest": max(samples),
        "end": samples[-1],
        "curve": samples[:: max(1, len(samples) // 200)],
    }
    return {
        "contender": SYSTEMS[0],
        "model": model.name,
        "mean_tokens": sum(min(each, limit_of(model.folder)) for each in tokens) / len(tokens),
        "seconds_per_text": {str(count): values for count, values in per_text.items()},
        "deviation": per_text[COUNTS[-1]]["median"] / per_text[COUNTS[-2]]["median"] - 1,
        "memory": memory,
    }


def encode(worker: Worker, texts: list[str], file: Path) -> Results:
    """Seconds, and the process's memory five times a second."""
    file.write_text(json.dumps(texts))
    samples, over = [machine.resident_mib(worker.process.pid)], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(machine.resident_mib(worker.process.pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        answer = worker.ask("encode", texts=str(file), size=0)
    finally:
        over.set()
        thread.join()
    return answer | {"resident_mib": [*samples, machine.resident_mib(worker.process.pid)]}


def measure_lengths(bench: Bench, model: Model, documents: list[str], file: Path) -> Results:
    """Tokens a second of each system, by length."""
    by_length: dict[str, Results] = {}
    tokenizer = open_tokenizer(model)
    with Workers(bench, model) as workers:
        for length in (length for length in LENGTHS if length <= limit_of(model.folder)):
            texts = list(islice(cut(tokenizer, documents, length - 2), max(1, TOKENS // length)))
            file.write_text(json.dumps(texts))
            tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
            rates: dict[str, list[float]] = {name: [] for name in SYSTEMS}
            for name in (*SYSTEMS, *turns(SYSTEMS, 2 if length < 4096 else 1)):  # the first is to warm up
                if answer := workers.attempt(name, "encode", texts=str(file), size=max(1, min(32, 8192 // length))):
                    rates[name].append(tokens / answer["seconds"])
            by_length[str(length)] = {name: summary(values[1:]) for name, values in rates.items() if values[1:]}
    return {"model": model.name, "tokens_per_second": by_length}


def open_tokenizer(model: Model) -> Tokenizer:
    """Without the truncation and padding that tokenizer.json may hold."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut(tokenizer: Tokenizer, texts: list[str], tokens: int) -> Iterator[str]:
    """Parts of so many tokens, special ones not counted."""
    for text in texts:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        for start in range(0, len(offsets) - tokens + 1, tokens):
            yield text[offsets[start][0] : offsets[start + tokens - 1][1]]


def print_tables(results: Results) -> None:
    texts, lengths = results["texts"], results["lengths"]
    rows = [
        (f"{int(count):,}", spread({key: 1000 * value for key, value in row.items()}))
        for count, row in texts["seconds_per_text"].items()
    ]
    title = f"{texts['contender']}, {texts['model']}, {texts['mean_tokens']:.1f} tokens a text"
    print_table(("texts", "seconds per 1,000 texts"), rows, title)
    memory = ", ".join(f"{key} {texts['memory'][key]:,.0f}" for key in ("before", "tenth", "highest", "end"))
    print(f"\nlargest number beside the one before it {texts['deviation']:+.1%}; resident MiB: {memory}")
    rows = [
        (f"{int(length):,}", *(f"{row[name]['median']:,.0f}" if name in row else "-" for name in SYSTEMS))
        for length, row in lengths["tokens_per_second"].items()
    ]
    print_table(("tokens of a text", *SYSTEMS), rows, f"Tokens a second, {lengths['model']}")


def draw(results: Results, out: Path) -> None:
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        return
    texts, rows = results["texts"], results["lengths"]["tokens_per_second"]
    figure, (by_count, by_length, by_time) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    counts, found = [int(count) for count in texts["seconds_per_text"]], texts["seconds_per_text"].values()
    median, lowest, highest = ([1000 * row[key] for row in found] for key in ("median", "lowest", "highest"))
    by_count.plot(counts, median, "o-", color=COLOURS[0])
    by_count.fill_between(counts, lowest, highest, color=COLOURS[0], alpha=0.2)
    by_count.set(xscale="log", xlabel="texts in one call", title="Seconds per 1,000 short texts")
    curve = texts["memory"]["curve"]
    by_time.plot([100 * at / max(len(curve) - 1, 1) for at in range(len(curve))], curve, color=COLOURS[0])
    by_time.set(xlabel="% of the time", title=f"Resident memory, {counts[-1]:,} texts, MiB")
    for name, colour in zip(SYSTEMS, COLOURS, strict=False):
        medians = {int(length): row[name]["median"] for length, row in rows.items() if name in row}
        by_length.plot([*medians], [*medians.values()], "o-", color=colour, label=name)
    by_length.set(xlabel="tokens of a text", title=f"Tokens a second, {results['lengths']['model']}")
    by_length.set_xscale("log", base=2)
    by_length.set_xticks([int(length) for length in rows], list(rows), fontsize=8)
    by_length.yaxis.set_major_formatter("{x:,.0f}")
    by_length.legend(frameon=False, fontsize=9)
    for axes in (by_count, by_length, by_time):
        axes.set_ylim(bottom=0)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
