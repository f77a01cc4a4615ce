"""gnomon beside its peers: speed, memory, latency, cold start, growth and fidelity, in one run, in alternation.

Each library runs in an environment of its own, set up at first use. Results go to bench/results/DEVICE.json; the tables
and plots in docs/ are made from all files there.

    run.py                                     everything, on the CPU (half an hour on two cores)
    run.py --only bulk --models bge-base-sized   one stage, one model: the rest of the results file stays
    run.py --device cuda --here                on a GPU, in this interpreter, with what it has installed
    run.py --report-only                       only the tables and plots
"""

import argparse
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import report
from bulk import bulk
from contenders import named
from environments import ROOT, TOOLS, Environments, environments_of
from measuring import Measuring, measuring, say
from models import Models
from plan import plan
from processes import Bench, ContenderError, Workers
from stages import cold, growth_lengths, growth_texts, latency
from texts import Texts

STAGES = ("bulk", "latency", "cold", "growth", "sizes")
FALLBACK_TOKENIZER = "golden/GIST-Embedding-v0"

Results = dict[str, Any]


class Keep(Protocol):
    def __call__(self, work: Callable[[], Any], *keys: str) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not options.report_only:
        environments = Environments(options.work, options.here)
        models = Models(environments, options.tokenizer_from, options.shared / FALLBACK_TOKENIZER)
        bench = Bench(environments, models, options.threads, options.device)
        names = list(named(options.device, options.contenders))
        what = plan(
            options.device,
            rounds=options.rounds,
            scale=options.scale,
            models=options.models,
            has_minilm=models.has_minilm(),
            quick=options.quick,
        )
        with measuring(bench, what, Texts(options.shared / "data"), names) as run:
            measure(run, options)
    report.write(options.results, options.docs, Environments(options.work, options.here).python(TOOLS))
    say(f"wrote {options.docs / 'benchmarks.md'}")


def measure(run: Measuring, options: argparse.Namespace) -> None:
    """The stages, in this order. The file is written behind each part, so that what was measured is never lost."""
    name = device_name(run)
    path = options.results / f"{'cpu' if options.device == 'cpu' else slug(name)}.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    results |= about(run, options, name)

    def keep(work: Callable[[], Any], *keys: str) -> None:
        start = time.perf_counter()
        found = work()
        holder = results
        for key in keys[:-1]:
            holder = holder.setdefault(key, {})
        holder[keys[-1]] = found
        took = {
            "measured": today(),
            "seconds": time.perf_counter() - start,
            "rounds": run.plan.rounds,
            "scale": options.scale,
        }
        results.setdefault("took", {})[", ".join(keys)] = took
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")

    if {"bulk", "latency"} & options.only:
        for model in run.plan.models:
            of_model(run, model, options.only, keep)
    if "cold" in options.only:
        keep(lambda: cold(run, run.plan.growth.texts_model), "cold")
    if "growth" in options.only:
        keep(lambda: growth_texts(run, run.plan.growth), "growth", "texts")
        keep(lambda: growth_lengths(run, run.plan.growth), "growth", "lengths")
    if "sizes" in options.only:
        keep(lambda: run.bench.environments.sizes(environments_of(run.names)), "sizes")


def device_name(run: Measuring) -> str:
    try:
        return run.toolbox.ask("device")["name"]
    except ContenderError as failure:
        raise SystemExit(f"--device {run.bench.device}: {failure}") from None


def of_model(run: Measuring, name: str, only: set[str], keep: Keep) -> None:
    """Bulk and latency share the contenders' processes: loading them takes long."""
    model = run.bench.models.open(name)
    with Workers(run.bench, model) as workers:
        keep(lambda: model.told, "models", model.name)
        for cell in run.plan.cells if "bulk" in only else ():
            if cell.model == name:
                keep(lambda cell=cell: bulk(run, workers, cell), "bulk", model.name, cell.mix)
        if "latency" in only and name in run.plan.latency_models:
            keep(lambda: latency(run, workers), "latency", model.name)


def about(run: Measuring, options: argparse.Namespace, name: str) -> Results:
    """What the figures depend on."""
    environments = run.bench.environments
    used = environments_of(run.names)
    return {
        "device": {"kind": options.device, "name": name, "threads": options.threads},
        "date": today(),
        "here": options.here,
        "tokenizer": run.bench.models.tokenizer().name,
        "quick": options.quick,
        "python": sys.version.split()[0],
        "versions": environments.versions(used),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="every contender runs once in each (3)")
    add("--scale", type=float, default=1.0, help="multiplies the numbers of texts")
    add("--only", type=stages, default=set(STAGES), metavar="STAGE,...", help=f"of {', '.join(STAGES)}")
    add("--contenders", default="", metavar="PATTERN", help="only those whose name this regular expression finds")
    add("--models", type=lambda text: text.split(","), default=[], metavar="MODEL,...", help="names, or folders")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--here", action="store_true", help="run all in this interpreter; who is not installed is left out")
    add("--quick", action="store_true", help="seconds for each stage, to see that all works")
    add("--report-only", action="store_true", help="measure nothing")
    add("--tokenizer-from", type=Path, metavar="FOLDER", help="tokenizer for the models with random weights")
    add("--shared", type=Path, default=ROOT.parent / "shared", metavar="FOLDER", help="holds data/, the real texts")
    add("--work", type=Path, default=ROOT / ".venv-bench", metavar="FOLDER", help="environments and models")
    add("--results", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    add("--docs", type=Path, default=ROOT / "docs", metavar="FOLDER")
    return parser.parse_args(arguments)


def stages(text: str) -> set[str]:
    wanted = set(text.split(","))
    if wanted - set(STAGES):
        raise argparse.ArgumentTypeError(f"{', '.join(wanted - set(STAGES))}: not one of {', '.join(STAGES)}")
    return wanted


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def today() -> str:
    return datetime.date.today().isoformat()


if __name__ == "__main__":
    main()
