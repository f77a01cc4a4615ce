"""gnomon beside its peers: speed, memory, latency, cold start, growth and fidelity, in one run, in alternation.

Each library runs in an environment of its own, set up at first use. Results go to bench/inference/results/DEVICE.json.

    python3 -m bench.inference.run                     everything, on the CPU (half an hour on two cores)
    ... --only bulk --models bge-base-sized            one stage, one model: the rest of the results file stays
    ... --device cuda --here                           on a GPU, in this interpreter, with what it has installed
    python3 -m bench.inference.tables RESULTS.json     the tables of docs/benchmarks.md
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import say
from bench.inference import tables
from bench.inference.environments import ROOT, TOOLS, Environments, environments_of
from bench.inference.models import Models
from bench.inference.plan import plan
from bench.inference.processes import Bench, Worker, WorkerError, Workers
from bench.inference.stages import Run, bulk, cold, growth_lengths, growth_texts, latency
from bench.inference.systems import systems_named
from bench.texts import Texts

STAGES = ("bulk", "latency", "cold", "growth", "sizes")
FALLBACK_TOKENIZER = "golden/GIST-Embedding-v0"


Results = dict[str, Any]
Keep = Callable[..., None]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    environments = Environments(options.work, options.here)
    models = Models(environments, options.tokenizer_from, options.shared / FALLBACK_TOKENIZER)
    bench = Bench(environments, models, options.threads, options.device)
    names = list(systems_named(options.device, options.systems))
    what = plan(
        options.device,
        rounds=options.rounds,
        scale=options.scale,
        models=options.models,
        has_minilm=models.has_minilm(),
        quick=options.quick,
    )
    reference = Worker(bench, "reference", None)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            run = Run(bench, what, Texts(options.shared / "data"), names, reference, Path(place))
            path = measure(run, options)
    finally:
        reference.close()
    tables.print_all(json.loads(path.read_text()))
    image = path.with_suffix(".png")
    command = [environments.python(TOOLS), "-m", "bench.inference.plot", path, image]
    if subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0:
        say(f"drew {image}; docs/benchmarks.png is such a plot")
    say(f"wrote {path}")


def measure(run: Run, options: argparse.Namespace) -> Path:
    """The stages, in this order. The file is written after each part, so that what was measured is never lost."""
    try:
        name = run.reference.ask("device")["name"]
    except WorkerError as failure:
        raise SystemExit(f"--device {options.device}: {failure}") from None
    path = options.results / ("cpu.json" if options.device == "cpu" else machine.file_name(name))
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    results |= about(run, options, name)

    def keep(work: Callable[[], Any], *keys: str) -> None:
        start = time.perf_counter()
        found = work()
        holder = results
        for key in keys[:-1]:
            holder = holder.setdefault(key, {})
        holder[keys[-1]] = found
        results.setdefault("took", {})[", ".join(keys)] = {
            "measured": datetime.date.today().isoformat(),
            "seconds": time.perf_counter() - start,
            "rounds": run.plan.rounds,
            "scale": options.scale,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")

    growth = run.plan.growth
    for model in dict.fromkeys(cell.model for cell in run.plan.cells) if {"bulk", "latency"} & options.only else ():
        measure_model(run, model, options.only, keep)
    if "cold" in options.only:
        keep(lambda: cold(run, growth.texts_model), "cold")
    if "growth" in options.only:
        keep(lambda: growth_texts(run, growth), "growth", "texts")
        keep(lambda: growth_lengths(run, growth), "growth", "lengths")
    if "sizes" in options.only:
        keep(lambda: run.bench.environments.sizes(environments_of(run.names)), "sizes")
    return path


def measure_model(run: Run, name: str, only: set[str], keep: Keep) -> None:
    """Bulk and latency share the systems' processes: loading them takes long."""
    model = run.bench.models.open(name)
    with Workers(run.bench, model) as workers:
        keep(lambda: model.facts, "models", model.name)
        for cell in run.plan.cells if "bulk" in only else ():
            if cell.model == name:
                keep(lambda cell=cell: bulk(run, workers, cell), "bulk", model.name, cell.mix)
        # one query costs a large trunk on a CPU what its operations cost: bulk already says that
        if "latency" in only and not name.startswith("gte-large"):
            keep(lambda: latency(run, workers), "latency", model.name)


def about(run: Run, options: argparse.Namespace, name: str) -> Results:
    """What the figures depend on."""
    return {
        "device": {"kind": options.device, "name": name, "threads": options.threads},
        "date": datetime.date.today().isoformat(),
        "here": options.here,
        "tokenizer": run.bench.models.tokenizer().name,
        "quick": options.quick,
        "python": sys.version.split()[0],
        "versions": run.bench.environments.versions(environments_of(run.names)),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="every system runs once in each (3)")
    add("--scale", type=float, default=1.0, help="multiplies the numbers of texts")
    add("--only", type=stages, default={*STAGES}, metavar="STAGE,...", help=f"of {', '.join(STAGES)}")
    add("--systems", default="", metavar="PATTERN", help="only those whose name this regular expression finds")
    add("--models", type=lambda text: text.split(","), default=[], metavar="MODEL,...", help="names, or folders")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--here", action="store_true", help="run all in this interpreter; what is not installed is left out")
    add("--quick", action="store_true", help="seconds for each stage, to see that all works")
    add("--tokenizer-from", type=Path, metavar="FOLDER", help="tokenizer for the models with random weights")
    add("--shared", type=Path, default=ROOT.parent / "shared", metavar="FOLDER", help="holds data/, the real texts")
    add("--work", type=Path, default=ROOT / ".venv-bench", metavar="FOLDER", help="environments and models")
    add("--results", type=Path, default=ROOT / "bench" / "inference" / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


def stages(text: str) -> set[str]:
    wanted = {*text.split(",")}
    if wanted - {*STAGES}:
        raise argparse.ArgumentTypeError(f"{', '.join(wanted - {*STAGES})}: not one of {', '.join(STAGES)}")
    return wanted


if __name__ == "__main__":
    main()
