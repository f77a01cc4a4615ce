"""What every check of the server uses: a registry, servers that start when they are needed, and how a check ends."""

import math
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.process import ROOT
from bench.serving.client import Response
from bench.serving.servers import Server, gnomon
from bench.texts import Texts

TOLERANCE = 1e-5
"""Of a vector's distance from `Encoder.encode`, relative to its norm."""
API_KEY = "sk-check-7f3a91"
SECRET_TEXT = "zanzibar-ledger-4711"
"""A text that must appear in no log."""


class CheckError(Exception):
    """What is not as it should be."""


class NotPossibleError(Exception):
    """Why a check cannot run here."""


def expect(condition: object, message: str) -> None:
    """
    Raises:
        CheckError: the condition does not hold.
    """
    if not condition:
        raise CheckError(message)


Case = TypeVar("Case")


def try_all(run: Callable[[Case], str], cases: Iterable[Case]) -> str:
    """What was seen in each case.

    Raises:
        CheckError: some fail; all have run, and the message has what was seen in the others, too.
    """
    lines, faults = list[str](), list[str]()
    for case in cases:
        try:
            lines.append(run(case))
        except CheckError as fault:
            faults.append(str(fault))
    expect(not faults, "; ".join([*faults, *lines]))
    return "; ".join(lines)


@dataclass
class Context:
    """Where and with what the checks run."""

    source: str
    work: Path
    shared: Path
    minutes: float = 10.0
    """Of a check that needs hours."""
    fuzz: int = 5000
    """Bodies for each dialect."""
    stack: ExitStack = field(default_factory=ExitStack)
    servers: dict[tuple[str, ...], Server] = field(default_factory=dict[tuple[str, ...], Server])

    @cached_property
    def encoder(self) -> Any:
        from gnomon import Encoder

        return self.stack.enter_context(Encoder.load(self.source))

    @cached_property
    def texts(self) -> Texts:
        return Texts(self.shared / "data")

    @property
    def stella(self) -> Path:
        """The small checkpoint of stella's shape, with its heads."""
        folder = self.shared / "golden" / "stella_en_400M_v5"
        if not folder.is_dir():
            raise NotPossibleError(f"{folder.name} is not in the shared folder of the project")
        return folder

    def server(self, *options: str) -> Server:
        """One with these options, which stays open for later checks."""
        if options not in self.servers:
            self.servers[options] = self.stack.enter_context(self.new_server(*options))
        return self.servers[options]

    def server_of(self, folder: Path) -> Server:
        """One with another model, which stays open for later checks."""
        if (str(folder),) not in self.servers:
            self.servers[str(folder),] = self.stack.enter_context(self.new_server(source=str(folder)))
        return self.servers[str(folder),]

    def new_server(
        self, *options: str, source: str | None = None, wait: bool = True, first: Sequence[str] = ()
    ) -> Server:
        """One of the caller's own, to be entered and left; `first` are words before the model, such as "v2"."""
        number = len(list(self.work.glob("server-*.log")))
        command = gnomon(source or self.source, free_port(), *options, first=first)
        return Server(command, self.work / f"server-{number}.log", wait=wait)

    def encode(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        return np.asarray(self.encoder.encode(list(texts), **options))

    def close(self) -> None:
        self.stack.close()
        self.servers.clear()


Function = Callable[[Context], str]


@dataclass(frozen=True)
class Check:
    number: int
    title: str
    run: Function


CHECKS: dict[int, Check] = {}


def check(number: int, title: str) -> Callable[[Function], Function]:
    """Registers a function: it returns what it saw, or raises CheckError or NotPossibleError."""

    def register(function: Function) -> Function:
        CHECKS[number] = Check(number, title, function)
        return function

    return register


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def vectors_of(response: Response) -> np.ndarray:
    """Vectors of an answer in OpenAI's shape, floats or base64, in the order of `data`."""
    import base64

    expect(response.status == 200, f"status {response.status}: {response.text[:200]}")
    rows = [row["embedding"] for row in response.json()["data"]]
    indices = [row["index"] for row in response.json()["data"]]
    expect(indices == list(range(len(rows))), f"index is {indices[:5]}... and not ascending from 0")
    if rows and isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.asarray(rows, dtype=np.float32)


def distance(vectors_BD: np.ndarray, expected_BD: np.ndarray) -> float:
    """The largest over the rows, relative to the norm of what is expected."""
    expect(vectors_BD.shape == expected_BD.shape, f"shape {vectors_BD.shape}, expected {expected_BD.shape}")
    errors_B = np.linalg.norm(np.asarray(vectors_BD, np.float64) - expected_BD, axis=-1)
    return float(np.max(errors_B / np.linalg.norm(expected_BD, axis=-1)))


def expect_close(vectors_BD: np.ndarray, expected_BD: np.ndarray, what: str) -> float:
    far = distance(vectors_BD, expected_BD)
    expect(math.isfinite(far) and far <= TOLERANCE, f"{what}: distance {far:.2e}, allowed {TOLERANCE:.0e}")
    return far


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll; the seconds that it took.

    Raises:
        CheckError: it did not happen in time.
    """
    start = time.monotonic()
    while not condition():
        expect(time.monotonic() - start < seconds, f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return time.monotonic() - start


def run_tool(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """
    Raises:
        NotPossibleError: the program is not installed.
    """
    if not shutil.which(words[0]):
        raise NotPossibleError(f"{words[0]} is not installed")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return subprocess.run(list(words), **pipes | options)


def run_make(target: str, *words: str) -> str:
    """A make target that runs tests, with this checkout's package; the line that says how many passed.

    Raises:
        CheckError: a test failed, or none passed.
    """
    done = run_tool(["make", target, *words], env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    expect(done.returncode == 0, f"make {target} {' '.join(words)}: {'; '.join(failed)[:500]}")
    passed = [line for line in lines if " passed" in line]
    expect(passed, f"make {target} {' '.join(words)}: no test passed: {lines[-1:]}")
    return passed[-1].strip("= ")


def make_work_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="serve-checks-"))
