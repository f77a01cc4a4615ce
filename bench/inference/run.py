"""gnomon beside its peers: speed, memory, latency, cold start and fidelity, in one run, in alternation.

Each library runs in an environment of its own, set up at first use. Results go to bench/inference/results/DEVICE.json.

    python3 -m bench.inference.run                     everything, on the CPU (half an hour on two cores)
    ... --only bulk --models bge-base-sized            one stage, one model: the rest of the results file stays
    ... --device cuda --here                           on a GPU, in this interpreter, with what it has installed
    python3 -m bench.inference.tables RESULTS.json     the tables of docs/records/benchmarks.md
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import say
from bench.inference import tables
from bench.inference.environments import TOOLS, Environments
from bench.inference.models import Model, Models
from bench.inference.plan import Cell, choose_cells
from bench.inference.processes import Bench, Worker, Workers
from bench.inference.stages import Run, bulk, cold, latency
from bench.inference.systems import SYSTEMS, systems_named
from bench.process import ROOT, WorkerError
from bench.texts import Texts

STAGES = ("bulk", "latency", "cold", "sizes")
FALLBACK_TOKENIZER = "golden/GIST-Embedding-v0"

Results = dict[str, Any]
Part = tuple[tuple[str, ...], Callable[[], Any]]
"""Where it goes in the results, and what measures it."""


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    environments = Environments(options.work, options.here)
    bench = Bench(Models(environments, options.shared / FALLBACK_TOKENIZER), options.threads, options.device)
    cells = choose_cells(options.device, scale=options.scale, models=options.models, quick=options.quick)
    rounds, calls = (1, 5) if options.quick else (options.rounds, 40)
    with closing(Worker(bench, "reference", None)) as reference, tempfile.TemporaryDirectory(prefix="bench-") as place:
        names = systems_named(options.device, options.systems)
        run = Run(bench, Texts(options.shared / "data"), names, rounds, calls, reference, Path(place))
        path = measure(run, cells, options)
    tables.print_all(json.loads(path.read_text()))
    command = [environments.python(TOOLS), "-m", "bench.inference.plot", path, path.with_suffix(".png")]
    if subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0:
        say(f"drew {path.with_suffix('.png')}; docs/records/benchmarks.png is such a plot")
    say(f"wrote {path}")


def measure(run: Run, cells: Sequence[Cell], options: argparse.Namespace) -> Path:
    """The stages, in this order. The file is written after each part, so that what was measured is never lost."""
    try:
        name = run.reference.ask("device")["name"]
    except WorkerError as failure:
        raise SystemExit(f"--device {options.device}: {failure}") from None
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / ("cpu.json" if options.device == "cpu" else machine.file_name(name))
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    used = list(dict.fromkeys(SYSTEMS[name].environment for name in run.names))
    today = datetime.date.today().isoformat()
    results |= {
        "device": {"kind": options.device, "name": name, "threads": options.threads},
        "date": today,
        "here": options.here,
        "tokenizer": run.bench.models.tokenizer().name,
        "quick": options.quick,
        "python": sys.version.split()[0],
        "versions": run.bench.models.environments.versions(used),
    }
    with closing(parts(run, cells, options.only, used)) as each:
        for keys, work in each:
            start, holder = time.perf_counter(), results
            for key in keys[:-1]:
                holder = holder.setdefault(key, {})
            holder[keys[-1]] = work()
            facts = {"seconds": time.perf_counter() - start, "rounds": run.rounds, "scale": options.scale}
            results.setdefault("took", {})[", ".join(keys)] = {"measured": today, **facts}
            path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def parts(run: Run, cells: Sequence[Cell], only: Sequence[str], environments: list[str]) -> Generator[Part]:
    """Each is measured before the next one is drawn."""
    names = dict.fromkeys(cell.model for cell in cells)
    for name in names if {"bulk", "latency"} & {*only} else ():
        model = run.bench.models.open(name)
        yield ("models", model.name), partial(Model.facts, model)
        # bulk and latency share the systems' processes: loading them takes long
        with Workers(run.bench, model) as workers:
            for cell in cells if "bulk" in only else ():
                if cell.model == name:
                    yield ("bulk", model.name, cell.mix), partial(bulk, run, workers, cell)
            # one query costs a large trunk on a CPU what its operations cost: bulk already says that
            if "latency" in only and not name.startswith("gte-large"):
                yield ("latency", model.name), partial(latency, run, workers)
    if "cold" in only:
        yield ("cold",), partial(cold, run, cells[0].model)
    if "sizes" in only:
        yield ("sizes",), partial(run.bench.models.environments.sizes, environments)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="every system runs once in each (3)")
    add("--scale", type=float, default=1.0, help="multiplies the numbers of texts")
    add("--only", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    add("--systems", default="", metavar="PATTERN", help="only those whose name this regular expression finds")
    add("--models", nargs="+", default=(), metavar="MODEL", help="names, or folders")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=machine.cores())
    add("--here", action="store_true", help="run all in this interpreter; what is not installed is left out")
    add("--quick", action="store_true", help="seconds for each stage, to see that all works")
    add("--shared", type=Path, default=ROOT.parent / "shared", metavar="FOLDER", help="holds data/, the real texts")
    add("--work", type=Path, default=ROOT / ".venv-bench", metavar="FOLDER", help="environments and models")
    add("--results", type=Path, default=ROOT / "bench" / "inference" / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
