"""`gnomon serve` as a process of its own, for tests of real clients."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from goldens import assert_same

from gnomon import Encoder
from gnomon.packed import Vectors

START_SECONDS = 180
"""After which a server that is not ready counts as hung, on a busy machine."""


@dataclass(frozen=True)
class Server:
    """A running server with one model, and the same model in this process.

    Servers give vectors of unit length where a request does not choose.
    """

    url: str
    name: str
    encoder: Encoder

    def assert_documents(self, vectors_BD: object, texts: Sequence[str], *, dim: int | None = None) -> None:
        """Check vectors against `Encoder.encode_document`."""
        assert_same(
            np.asarray(vectors_BD), self.encoder.encode_document(list(texts), dim=dim, normalize_embeddings=True)
        )

    def assert_queries(self, vectors_BD: object, texts: Sequence[str], *, dim: int | None = None) -> None:
        """Check vectors against `Encoder.encode_query`."""
        assert_same(np.asarray(vectors_BD), self.encoder.encode_query(list(texts), dim=dim, normalize_embeddings=True))

    def assert_plain(self, vectors_BD: object, texts: Sequence[str], *, dim: int | None = None) -> None:
        """Check vectors against `Encoder.encode` without a prompt."""
        assert_same(np.asarray(vectors_BD), self.encode_plain(texts, dim=dim))

    def encode_plain(self, texts: Sequence[str], *, dim: int | None = None) -> Vectors:
        return self.encoder.encode(list(texts), prompt="", dim=dim, normalize_embeddings=True)


@contextmanager
def run_server(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Start `gnomon serve`, wait until it is ready, and end it after use; yields its address."""
    port = find_port()
    command = [sys.executable, "-m", "gnomon", "serve", *arguments, "--port", str(port), "--drain-delay", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with urlopen(f"{url}/ready", timeout=5):
                return
        except (URLError, OSError):
            pass
        try:
            status = process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the server ended with {status}:\n{read_tail(log)}")
    pytest.fail(f"the server was not ready after {START_SECONDS} seconds:\n{read_tail(log)}")


def read_tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:]
