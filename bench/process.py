"""Processes that measure. They print one line of JSON per answer; what goes wrong is an answer too."""

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}
PARALLEL = {"TOKENIZERS_PARALLELISM": "true"}

Answer = dict[str, Any]


class WorkerError(Exception):
    """What went wrong in a process, or why it cannot be started."""


def variables(threads: int) -> dict[str, str]:
    """Environment variables of a process: no network, so many threads, and the modules of this checkout."""
    path = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return {**os.environ, **OFFLINE, **PARALLEL, **path, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def run_process(command: list[str], threads: int) -> Answer:
    """A process that prints one answer; with its seconds as seen from outside.

    Raises:
        WorkerError: what the process says went wrong.
    """
    start, before = time.perf_counter(), children_seconds()
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    done = subprocess.run(command, env=variables(threads), cwd=ROOT, **pipes)
    seconds = {"seconds": time.perf_counter() - start, "processor seconds": children_seconds() - before}
    return parse_answer(done.stdout, done.returncode) | seconds


def children_seconds() -> float:
    """Processor time of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def parse_answer(line: str | bytes, status: object) -> Answer:
    answer = json.loads(line) if line else {"failed": f"the process ended with {status}"}
    if "failed" in answer:
        raise WorkerError(answer["failed"])
    return answer


def attempt(work: Callable[[], Answer]) -> str:
    """In the process: the answer as JSON, or the error that was raised."""
    try:
        return json.dumps(work())
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return json.dumps({"failed": f"{type(error).__name__}: {lines[0][:300]}"})
