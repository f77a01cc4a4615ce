"""Servers in processes of their own: ours, and infinity's with each of its engines."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bench.figures import say
from bench.process import OFFLINE, ROOT, THREAD_VARIABLES
from bench.serving.client import Address, Client, Response
from bench.serving.process import pinned, send_to_tree

LOAD_SECONDS = 180.0
STOP_SECONDS = 45.0
NO_CACHE = ("--cache", "0")
"""Options of our server under which equal texts are computed again."""


class ServerError(Exception):
    """A server did not start, or did not end; with the end of its log."""


@dataclass(frozen=True)
class Command:
    """How a server is started."""

    name: str
    words: tuple[str, ...]
    port: int
    folder: Path = ROOT
    variables: dict[str, str] = field(default_factory=dict[str, str])
    ready_path: str = "/ready"
    embeddings_path: str = "/v1/embeddings"
    model: str = "m"
    uds: Path | None = None

    @property
    def address(self) -> Address:
        return Address(port=self.port, uds=self.uds)


def gnomon(
    source: str, port: int, *options: str, name: str = "gnomon", model: str = "m", first: Sequence[str] = ()
) -> Command:
    """Our server of this checkout, in this interpreter; after the word "v2" the model is an option, as in infinity."""
    named = ("--model-id", source, "--served-model-name", model) if "v2" in first else (source, "--name", model)
    words = (sys.executable, "-m", "gnomon", "serve", *first, *named, "--port", str(port), "--log-level", "warning")
    path = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return Command(name, (*words, *options), port, variables=path, model=model)


def infinity(python: Path, folder: Path, port: int, engine: str, *, batch_size: int = 32) -> Command:
    """infinity with a model's folder; for the engine optimum, one that `peer_model` wrote."""
    where = {"torch": str(folder), "optimum": "."}[engine]
    words = (str(python.parent / "infinity_emb"), "v2", "--model-id", where, "--served-model-name", "m")
    words += ("--engine", engine, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port))
    words += ("--batch-size", str(batch_size), "--log-level", "error", "--no-trust-remote-code")
    own = {"torch": ("--no-bettertransformer",), "optimum": ("--pooling-method", "mean", "--onnx-disable-optimize")}
    return Command(
        f"infinity {engine}",
        words + own[engine],
        port,
        folder=folder if engine == "optimum" else ROOT,
        ready_path="/health",
        embeddings_path="/embeddings",
    )


class Server:
    """A running server. Entering waits until it is ready; leaving ends it."""

    def __init__(self, command: Command, log: Path, *, core: int | None = None, wait: bool = True) -> None:
        self.command, self.log, self.core, self.wait = command, log, core, wait
        self.seconds_to_ready = 0.0

    def __enter__(self) -> Self:
        start = time.monotonic()
        threads = {} if self.core is None else dict.fromkeys(THREAD_VARIABLES, "1")
        self.output = self.log.open("ab")
        self.process = subprocess.Popen(
            pinned(list(self.command.words), self.core),
            env={**os.environ, **OFFLINE, **threads, **self.command.variables},
            cwd=self.command.folder,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self.wait:
            try:
                self.wait_until_ready()
            except BaseException:
                self.__exit__()
                raise
        self.seconds_to_ready = time.monotonic() - start
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.stop()
        finally:
            self.output.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> Address:
        return self.command.address

    def wait_until_ready(self, seconds: float = LOAD_SECONDS) -> None:
        """
        Raises:
            ServerError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        while self.status(self.command.ready_path) != 200:
            if self.process.poll() is not None:
                raise ServerError(f"{self.command.name} ended with {self.process.returncode}: {self.log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.command.name} was not ready within {seconds:g} s: {self.log_end()}")
            time.sleep(0.05)

    def status(self, path: str) -> int | None:
        """None where nobody answers."""
        try:
            return self.get(path).status
        except OSError:
            return None

    def get(self, path: str, timeout: float = 10.0) -> Response:
        with Client(self.address, timeout=timeout) as client:
            return client.get(path)

    def post(self, path: str, body: object, headers: dict[str, str] | None = None, timeout: float = 120.0) -> Response:
        with Client(self.address, timeout=timeout) as client:
            return client.post(path, body, headers)

    def embed(self, texts: Sequence[str] | str, **fields: Any) -> Response:
        return self.post(self.command.embeddings_path, {"input": texts, "model": self.command.model, **fields})

    def stop(self) -> int:
        """SIGTERM, and after STOP_SECONDS SIGKILL; the exit status."""
        send_to_tree(self.pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"{self.command.name} did not end within {STOP_SECONDS:g} s of SIGTERM, and was killed")
            send_to_tree(self.pid, signal.SIGKILL)
            return self.process.wait()

    def log_end(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Peers:
    """infinity's environment, and the forms of the model that it serves."""

    python: Path
    source: Path
    """The published folder."""
    work: Path

    @cached_property
    def optimum_folder(self) -> Path:
        """Written at first use."""
        target = self.work / "infinity-optimum"
        if not (target / "model.onnx").exists():
            shutil.rmtree(target, ignore_errors=True)
            words = [str(self.python), "-m", "bench.serving.peer_model", str(self.source), str(target)]
            subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)})
        return target

    def commands(self, first_port: int) -> list[Command]:
        return [
            infinity(self.python, self.source, first_port, "torch"),
            infinity(self.python, self.optimum_folder, first_port + 1, "optimum"),
        ]
