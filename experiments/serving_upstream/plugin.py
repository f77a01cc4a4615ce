"""A pytest plugin: infinity's tests of its HTTP API meet another server in place of its application.

`create_server` returns a server that is started with infinity's own command line at first use, httpx's client sends
its requests there, and models are read from one local folder. What is settled outside: UPSTREAM_SERVER, the words that
start the server, as a list in JSON; UPSTREAM_MODEL, the folder of the model; UPSTREAM_TEXTS, sentences, one per line.
"""

import csv
import gzip
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import asgi_lifespan
import httpx
import infinity_emb
import pytest
import sentence_transformers

MODEL = os.environ["UPSTREAM_MODEL"]
START_SECONDS = 120


class ServedApp:
    """What `create_server` would serve."""

    def __init__(
        self, engine_args_list: list[Any], url_prefix: str = "", api_key: str | None = None, **others: Any
    ) -> None:
        self.names = [arguments.served_model_name or arguments.model_name_or_path for arguments in engine_args_list]
        self.url_prefix, self.api_key, self.process = url_prefix, api_key, None
        if unknown := {name: value for name, value in others.items() if value}:
            raise ValueError(f"the options {unknown} of create_server are not passed on")

    def start(self) -> None:
        if self.process:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [*json.loads(os.environ["UPSTREAM_SERVER"]), "v2", "--host", "127.0.0.1", "--port", str(self.port)]
        for name in self.names:
            words += ["--model-id", MODEL, "--served-model-name", name]
        words += ["--url-prefix", self.url_prefix] if self.url_prefix else []
        words += ["--api-key", self.api_key] if self.api_key else []
        self.process = subprocess.Popen(words, start_new_session=True)
        RUNNING.append(self.process)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health") as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            time.sleep(0.1)
        raise RuntimeError(f"the server was not ready within {START_SECONDS} s")


RUNNING: list[subprocess.Popen[bytes]] = []


class Redirect(httpx.AsyncHTTPTransport):
    """Sends every request to the server, whatever its host."""

    def __init__(self, app: ServedApp) -> None:
        super().__init__(limits=httpx.Limits(max_connections=None))
        self.app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.app.port)
        return await super().handle_async_request(request)


class Client(httpx.AsyncClient):
    def __init__(self, *arguments: Any, app: ServedApp | None = None, **options: Any) -> None:
        if app:  # within one process there were no limits of time, and no pool of connections to wait for
            options |= {"transport": Redirect(app), "timeout": None}
        super().__init__(*arguments, **options)


class Lifespan:
    def __init__(self, app: ServedApp) -> None:
        self.app = app

    async def __aenter__(self) -> Self:
        self.app.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """It serves until the session ends."""


class LocalTransformer(sentence_transformers.SentenceTransformer):
    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        super().__init__(MODEL, *arguments, **options)


def write_sentences(url: str, path: str) -> None:
    """In place of a download of the STS benchmark: as many pairs of other sentences."""
    if not url.endswith("stsbenchmark.tsv.gz"):
        raise OSError(f"{url} cannot be reached from here")
    texts = Path(os.environ["UPSTREAM_TEXTS"]).read_text("utf-8").splitlines()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, escapechar="\\")
        writer.writerow(["split", "score", "sentence1", "sentence2"])
        for number, (first, second) in enumerate(zip(texts[::2], texts[1::2], strict=False)):
            writer.writerow([("train", "dev", "test")[number % 3], "2.5", first, second])


infinity_emb.create_server = lambda **options: ServedApp(**options)
httpx.AsyncClient = Client
asgi_lifespan.LifespanManager = Lifespan
sentence_transformers.SentenceTransformer = LocalTransformer
sentence_transformers.util.http_get = write_sentences


def pytest_sessionfinish(session: pytest.Session) -> None:
    for process in RUNNING:
        process.terminate()
    for process in RUNNING:
        process.wait(60)
