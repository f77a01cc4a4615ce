"""The contenders' processes, seen from the program that asks them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Contender
from environments import ROOT, TOOLS, Environments
from models import Model, Models

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
RESERVE_MIB = 2048
"""Memory that is left to others."""


class ContenderError(Exception):
    """A contender that cannot do what it was asked; says why."""


@dataclass(frozen=True)
class Bench:
    """What every process needs."""

    environments: Environments
    models: Models
    threads: int
    device: str

    def command(self, name: str, folder: Path | str) -> list[str]:
        environment = CONTENDERS[name].environment if name in CONTENDERS else TOOLS
        python = self.environments.python(environment)
        return [str(python), str(ROOT / "bench" / "worker.py"), name, str(folder), str(self.threads), self.device]

    def variables(self) -> dict[str, str]:
        limits = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return {**os.environ, **limits, **OFFLINE, **self.environments.path()}

    def folder(self, name: str, model: Model) -> Path:
        """The folder that a contender reads.

        Raises:
            ContenderError: it cannot take part; says why.
        """
        contender = CONTENDERS[name]
        reason = self.environments.missing(contender)
        if not reason and model.architecture not in contender.architectures:
            reason = f"does not open the architecture {model.config['model_type']!r}"
        folder = None if reason else self.models.form(model, contender.form)
        if folder is None:
            raise ContenderError(reason or f"needs the folder's form {contender.form!r}, which is not made here")
        return folder


class Worker:
    """One process. Starting it loads the model. It is stopped while it waits for its turn: some libraries' threads
    look for work many times a second.
    """

    def __init__(self, bench: Bench, name: str, folder: Path | str) -> None:
        self.process = subprocess.Popen(
            bench.command(name, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=bench.variables(),
        )
        try:
            self._read()
        except ContenderError:
            self.close()
            raise

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """
        Raises:
            ContenderError: what went wrong in the process, or that it ended.
        """
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(f"the process ended with {self.process.wait()}") from None
        return self._read()

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"the process ended with {self.process.wait()}"}
        self.process.send_signal(signal.SIGSTOP)
        if "failed" in answer:
            raise ContenderError(answer["failed"])
        return answer


@dataclass
class Workers:
    """The processes of one model. They stay open from turn to turn, as long as there is memory for the next one."""

    bench: Bench
    model: Model
    skipped: dict[str, str] = field(default_factory=dict)
    """Who does not take part, and why."""
    _open: dict[str, Worker] = field(default_factory=dict)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def able(self, names: list[str]) -> dict[str, Contender]:
        """Those whose process starts."""
        return {name: CONTENDERS[name] for name in names if name not in self.skipped and self.starts(name)}

    def starts(self, name: str) -> bool:
        try:
            self.get(name)
        except ContenderError as failure:
            self.skip(name, str(failure))
        return name not in self.skipped

    def skip(self, name: str, reason: str) -> None:
        print(f"  {name}: {reason}", file=sys.stderr, flush=True)
        self.skipped[name] = reason
        if name in self._open:
            self._open.pop(name).close()

    def get(self, name: str) -> Worker:
        if name not in self._open:
            folder = self.bench.folder(name, self.model)
            # in a cycle, whoever ran last is needed last: it makes room
            while self._open and available_mib() < RESERVE_MIB + 600 + 2.5 * self.model.weights_mib:
                self._open.popitem()[1].close()
            self._open[name] = Worker(self.bench, name, folder)
        self._open[name] = self._open.pop(name)  # now the last
        return self._open[name]


def available_mib() -> float:
    rows = Path("/proc/meminfo").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable")) / 1024


def whole_process(command: list[str], variables: dict[str, str]) -> dict[str, float]:
    """A process that prints one JSON line, with its seconds as seen from outside.

    Raises:
        ContenderError: what the process says went wrong.
    """
    start = time.perf_counter()
    child = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout
    line = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    answer = json.loads(line) if line else {"failed": f"the process ended with {child.returncode}"}
    if "failed" in answer:
        raise ContenderError(answer["failed"])
    return answer | {"seconds": seconds, "processor seconds": usage.ru_utime + usage.ru_stime}
