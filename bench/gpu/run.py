"""Checks and measures gnomon on a GPU, part by part, and writes one JSON file. Started by bench/gpu.sh.

Each part is a process of its own with a budget of seconds: one that hangs or crashes takes no other with it. The exit
status is 0 only if every check that could run here passed and no part ran out of time.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import print_table

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = {"models": 75, "attention": 60, "engine": 90, "training": 60, "tests": 45, "speed": 120}
"""Part -> seconds. Together 30 less than the limit."""
LIMIT = 480
PACKAGES = ("torch", "triton", "flash-attn", "numpy", "tokenizers", "safetensors", "ml-dtypes", "pytest", "onnxruntime")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    begin = time.monotonic()
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "limit_s": options.limit, **about(options)}
    path = options.output or ROOT / "bench" / "gpu" / "results" / machine.file_name(results["device"]["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    results["parts"] = {}
    for name in options.parts:
        room = options.limit - (time.monotonic() - begin) - 3
        budget = BUDGETS[name] if options.device == "cuda" else room
        results["parts"][name] = run_part(name, min(budget, room), options)
        results["seconds"] = round(time.monotonic() - begin, 1)
        results["passed"] = passed(results["parts"], options.parts)
        path.write_text(json.dumps(results, indent=1) + "\n")
    summarize(results["parts"])
    print(f"\n{'passed' if results['passed'] else 'NOT passed'}, {results['seconds']:.0f} s; wrote {path}")
    sys.exit(0 if results["passed"] else 1)


def run_part(name: str, seconds: float, options: argparse.Namespace) -> Row:
    """Run a part until it ends or its seconds are over; what it reported until then counts."""
    print(f"\n== {name}, at most {max(seconds, 0):.0f} s", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gnomon-gpu-") as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        end = wait(name, file, seconds, options) if seconds > 1 else "out of time"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    if end == "out of time":
        rows.append({"name": "the part", "verdict": "out of time", "note": f"stopped after {seconds:.0f} s"})
    elif end:
        rows.append({"name": "the part", "verdict": "failed", "note": f"its process ended with {end}"})
    for row in rows:
        print(f"   {row['verdict']}: {row['name']}{figure_of(row)}{' ' + row['note'] if row.get('note') else ''}")
    return {"seconds": round(time.monotonic() - begin, 1), "budget_s": round(seconds, 1), "rows": rows}


def wait(name: str, file: Path, seconds: float, options: argparse.Namespace) -> int | str:
    """The exit status of a part, or "out of time"."""
    command = [sys.executable, "-m", "bench.gpu.part", name, options.device, str(options.models), str(file)]
    # the CPU's path is for trying the code: threads that wait for each other on a busy machine take minutes
    threads = {"OMP_NUM_THREADS": "1"} if options.device == "cpu" else {}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env={**os.environ, **threads})
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started too
        process.wait()


def passed(parts: dict[str, Row], wanted: Sequence[str]) -> bool:
    verdicts = [row["verdict"] for part in parts.values() for row in part["rows"]]
    return len(parts) == len(wanted) and "passed" in verdicts and not {*verdicts} & {"failed", "out of time"}


def figure_of(row: Row) -> str:
    return "".join(f", {key} {row[key]:.2g}" for key in ("figure", "limit") if isinstance(row.get(key), float))


def summarize(parts: dict[str, Row]) -> None:
    """One line per part; the tables of what was measured."""
    counts = {name: Counter(row["verdict"] for row in part["rows"]) for name, part in parts.items()}
    rows = [
        (name, f"{parts[name]['seconds']:.0f}", ", ".join(f"{count} {verdict}" for verdict, count in each.items()))
        for name, each in counts.items()
    ]
    print_table(("part", "seconds", "rows"), rows)
    measured = [row for part in parts.values() for row in part["rows"] if "share_of_roofline" in row]
    shown = ("tokens_per_second", "tflops", "share_of_peak", "share_of_roofline", "device_mib")
    cells = [
        (row["name"], *(f"{row[key]:,.3g}" if row.get(key) is not None else "-" for key in shown)) for row in measured
    ]
    if cells:
        print_table(("measured", *shown), cells)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """The device and the versions."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no GPU here; bench/gpu.sh --device cpu tries the code.")
    device: dict[str, Any] = {"kind": options.device, "name": machine.device_name(options.device)}
    if options.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        device |= {"memory_mib": found.total_memory >> 20, "capability": [found.major, found.minor]}
    return {
        "device": device | {"cores": len(os.sched_getaffinity(0))},
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32,  # float32 checks would fail with it
        "commit": commit(),
    }


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout, where git and its history are there."""
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help='"cpu" takes tiny models')
    add("--parts", type=parts, default=[*BUDGETS], metavar="PART,...", help=f"of {', '.join(BUDGETS)}")
    add("--limit", type=float, default=LIMIT, metavar="SECONDS", help=f"for all parts ({LIMIT})")
    add(
        "--models", type=Path, default=ROOT / "bench" / "gpu" / "models", metavar="FOLDER", help="written where missing"
    )
    add("--output", type=Path, metavar="FILE", help="the JSON (bench/gpu/results/DEVICE.json)")
    return parser.parse_args(arguments)


def parts(text: str) -> list[str]:
    wanted = text.split(",")
    if {*wanted} - {*BUDGETS}:
        raise argparse.ArgumentTypeError(f"{text} is not a list of {', '.join(BUDGETS)}")
    return wanted


if __name__ == "__main__":
    main()
