"""The systems' processes, as seen from the program that sends them commands."""

import json
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.figures import say
from bench.inference.environments import TOOLS
from bench.inference.models import Model, Models
from bench.inference.systems import SYSTEMS
from bench.process import ROOT, Answer, WorkerError, parse_answer, variables

RESERVE_MIB = 2600
"""Memory that is left to others, and to a process beside its weights."""


@dataclass(frozen=True)
class Bench:
    """What every process needs."""

    models: Models
    threads: int
    device: str

    def command(self, name: str, model: Model | None) -> list[str]:
        """Starts a system on a model; or, without a model, the commands of reference.py.

        Raises:
            WorkerError: the system cannot take part; says why.
        """
        environment, folder = TOOLS, Path("-")
        if model:
            system = SYSTEMS[name]
            if model.architecture not in system.architectures:
                raise WorkerError(f"does not open the architecture {model.model_type!r}")
            environment, folder = system.environment, self.models.form(model, system.form)
        python = self.models.environments.python(environment)
        return [str(python), "-m", "bench.inference.worker", name, str(folder), str(self.threads), self.device]


class Worker:
    """One process. Starting it loads the model. It is stopped while it waits for its turn: some libraries' threads
    look for work many times a second.
    """

    def __init__(self, bench: Bench, name: str, model: Model | None) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(bench.command(name, model), env=variables(bench.threads), cwd=ROOT, **pipes)
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
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate()

    def _read(self) -> Answer:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer = parse_answer(line, "" if line else self.process.wait())
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
