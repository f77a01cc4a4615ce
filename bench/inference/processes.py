"""The systems' processes, as seen from the program that sends them commands."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.figures import say
from bench.inference.environments import ROOT, TOOLS, Environments
from bench.inference.models import Model, Models
from bench.inference.systems import SYSTEMS

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
RESERVE_MIB = 2600
"""Memory that is left to others, and to a process beside its weights."""

Answer = dict[str, Any]


class WorkerError(Exception):
    """A system that cannot do what was requested; says why."""


@dataclass(frozen=True)
class Bench:
    """What every process needs."""

    environments: Environments
    models: Models
    threads: int
    device: str

    def command(self, name: str, model: Model | None) -> list[str]:
        """Starts a system on a model; or, without a model, the commands of reference.py.

        Raises:
            WorkerError: the system cannot take part; says why.
        """
        environment = SYSTEMS[name].environment if model else TOOLS
        folder = self._folder(name, model) if model else "-"
        python = self.environments.python(environment)
        return [str(python), "-m", "bench.inference.worker", name, str(folder), str(self.threads), self.device]

    def variables(self) -> dict[str, str]:
        return self.environments.variables() | OFFLINE | dict.fromkeys(THREAD_VARIABLES, str(self.threads))

    def _folder(self, name: str, model: Model) -> Path:
        system = SYSTEMS[name]
        reason = self.environments.missing(system)
        if not reason and model.architecture not in system.architectures:
            reason = f"does not open the architecture {model.config['model_type']!r}"
        folder = None if reason else self.models.form(model, system.form)
        if folder is None:
            raise WorkerError(reason or f"needs the folder's form {system.form!r}, which is not made here")
        return folder


class Worker:
    """One process. Starting it loads the model. It is stopped while it waits for its turn: some libraries' threads
    look for work many times a second.
    """

    def __init__(self, bench: Bench, name: str, model: Model | None) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(bench.command(name, model), env=bench.variables(), cwd=ROOT, **pipes)
        try:
            self._read()
        except WorkerError:
            self.close()
            raise

    def ask(self, do: str, **options: Any) -> Answer:
        """
        Raises:
            WorkerError: what went wrong in the process, or that it ended.
        """
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # reading says why
            self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _read(self) -> Answer:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer = answer_of(line, "" if line else self.process.wait())
        self.process.send_signal(signal.SIGSTOP)
        return answer


@dataclass
class Workers:
    """The processes of one model. They stay open from turn to turn, as long as there is memory for the next one."""

    bench: Bench
    model: Model
    skipped: dict[str, str] = field(default_factory=dict)
    """Systems that do not take part, and why."""
    _open: dict[str, Worker] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def start(self, names: list[str]) -> list[str]:
        """Those whose process starts."""
        return [name for name in names if self.attempt(name, "get_ready") is not None]

    def attempt(self, name: str, do: str, **options: Any) -> Answer | None:
        """An answer; None from a system that fails, which takes no part from then on."""
        if name in self.skipped:
            return None
        try:
            return self.get(name).ask(do, **options)
        except WorkerError as failure:
            say(f"  {name}: {failure}")
            self.skipped[name] = str(failure)
            if name in self._open:
                self._open.pop(name).close()
            return None

    def get(self, name: str) -> Worker:
        worker = self._open.pop(name, None)
        # in a cycle, whoever ran last is needed last: it makes room
        while not worker and self._open and available_mib() < RESERVE_MIB + 2.5 * self.model.weights_mib:
            self._open.popitem()[1].close()
        self._open[name] = worker or Worker(self.bench, name, self.model)  # now the last
        return self._open[name]


def available_mib() -> float:
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / 1024


def run_process(command: list[str], variables: dict[str, str]) -> Answer:
    """A process that prints one JSON line, with its seconds as seen from outside.

    Raises:
        WorkerError: what the process says went wrong.
    """
    start = time.perf_counter()
    child = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert child.stdout
    with child.stdout:
        line = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = {"seconds": time.perf_counter() - start, "processor seconds": usage.ru_utime + usage.ru_stime}
    child.returncode = os.waitstatus_to_exitcode(status)
    return answer_of(line, child.returncode) | seconds


def answer_of(line: str | bytes, status: object) -> Answer:
    answer = json.loads(line) if line else {"failed": f"the process ended with {status}"}
    if "failed" in answer:
        raise WorkerError(answer["failed"])
    return answer
