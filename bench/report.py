"""docs/benchmarks.md and its plots, from every file of results."""

import json
import subprocess
from pathlib import Path
from typing import Any

import tables

OPENING = """# Benchmarks

gnomon beside other libraries on the same folders, texts, threads and machine. `make bench` sets up an environment for
each library, measures on the CPU, and writes this page, its plot and bench/results/cpu.json;
`python3 bench/run.py --help` tells more. On a GPU: `python3 bench/run.py --device cuda --here`.

Every contender has a process of its own. In each round every contender runs once, in turn, another one first each
time, and so does a plain matrix product (4096 x 768 x 3072, the best of torch, numpy and ONNX Runtime), whose rate is
what the machine gives. Figures are medians over the rounds, with the lowest and the highest in brackets.

- Contenders: sentence-transformers without "tuned" runs as installed, in batches of 32. "tuned", and other libraries
  with a number in brackets, run with the fastest of a few batch sizes, tried beforehand. "naive transformers" is the
  loop of many model cards: batches of 32 in the order of the texts. A library that does not know the model's limit of
  tokens was given it.
- GFLOP/s: operations of the matrix products for real tokens; padding is no achievement. All tokens of all layers count,
  also where a model pools its first token and a library leaves the others out of the last layer.
- Padding: the share of padding in the tokens that are computed, from each library's own way of making batches.
- Distance: the largest |difference| / |vector| to transformers' model in float64, one text at a time, over the first
  texts of the mix (at most 64). Whoever is further than 1e-4 in float32 computes something else.
"""

CLOSING = """## What is and what is not measured

- One machine, and a shared one: absolute times drift with what its neighbours do. Compare ratios of one table; all of
  its contenders ran in the same minutes. Where the spreads of two overlap, do not call one faster.
- Random weights have the speed of trained ones, and say nothing about quality. Distances are measured all the same.
- Fewer texts than one would encode in earnest: a table is seconds of work for each contender.
- Padding is computed from lengths, not seen inside the libraries.
- Not measured: several processes or machines, GPUs beside the ones named here, energy, downloads.
"""


def write(results: Path, docs: Path, python: Path) -> None:
    """The page and a plot for each file of results, the CPU's first."""
    docs.mkdir(parents=True, exist_ok=True)
    files = sorted(results.glob("*.json"), key=lambda path: (path.stem != "cpu", path.stem))
    sections = []
    for path in files:
        image = docs / ("benchmarks.png" if path.stem == "cpu" else f"benchmarks-{path.stem}.png")
        sections += device(json.loads(path.read_text()), image.name if plot(python, path, image) else None)
    page = [OPENING, *sections, CLOSING]
    (docs / "benchmarks.md").write_text("\n".join(page))


def device(results: dict[str, Any], image: str | None) -> list[str]:
    what = results["device"]
    lines = [f"## {what['name']}, {what['threads']} threads, {results['date']}", ""]
    lines += [f"![Speed by contender, and growth]({image})", ""] if image else []
    lines += remarks(results)
    for section in (tables.in_short, tables.bulk, tables.latency, tables.cold, tables.growth, tables.sizes):
        lines += section(results)
    return [*lines, *tables.versions(results), *tables.took(results)]


def remarks(results: dict[str, Any]) -> list[str]:
    """What a reader must know of this run."""
    said = []
    if results["here"]:
        said.append("All contenders ran in one Python; who was not installed there is named below each table.")
    if results["tokenizer"] != "all-MiniLM-L6-v2":
        said.append(f"Models with random weights have the tokenizer of {results['tokenizer']}.")
    if results["quick"]:
        said.append("A quick run, to see that all works: its figures mean nothing.")
    return [" ".join(said), ""] if said else []


def plot(python: Path, results: Path, image: Path) -> bool:
    """Whether there is one: without matplotlib there is not."""
    command = [python, Path(__file__).with_name("plot.py"), results, image]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
