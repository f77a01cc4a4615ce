"""`gnomon serve` as a process: signals, addresses, and what ends it."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest

goldens.require(whole_module=True)
pytestmark = pytest.mark.slow

E5 = goldens.GOLDEN / "multilingual-e5-small"
SECONDS = 60
TLS = Path(__file__).parent / "tls"


class Server:
    """A running `gnomon serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int, uds: Path | None) -> None:
        self.process, self.port, self.uds = process, port, uds

    def connect(self) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        if self.uds is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            try:
                connection.sock.connect(str(self.uds))
            except OSError:
                connection.close()
                raise
        return connection

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(data) if answer.getheader("content-type") == "application/json" else data

    def wait_for(self, path: str, status: int) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                if self.request("GET", path)[0] == status:
                    return
            except OSError:
                assert self.process.poll() is None, self.process.communicate()
            threading.Event().wait(0.01)
        raise AssertionError(f"{path} does not answer {status}")

    def embed(self, texts: list[str]) -> np.ndarray:
        status, answer = self.request("POST", "/embed", {"inputs": texts})
        assert status == 200, answer
        return np.array(answer, np.float32)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit status, and what was written to stderr."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, log


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@contextmanager
def serve(*arguments: str, source: Path = E5, uds: Path | None = None, ready: bool = True) -> Iterator[Server]:
    port = free_port()
    address = ("--uds", str(uds)) if uds else ("--port", str(port))
    command = [sys.executable, "-m", "gnomon", "serve", str(source), *address, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )
    server = Server(process, port, uds)
    try:
        if ready:
            server.wait_for("/ready", 200)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(*arguments: str) -> tuple[int, str]:
    """A server that cannot start: its exit status, and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "gnomon", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("name", ["granian", "uvicorn"])
def test_what_is_under_way_at_sigterm_is_answered(name: str) -> None:
    texts = [f"text {number} " * (number % 30 + 1) for number in range(2000)]
    with serve("--server", name, "--drain-delay", "0.3") as server:
        wanted = goldens.load("multilingual-e5-small").encode(texts[:50], prompt="", on_truncate="silent")
        np.testing.assert_allclose(server.embed(texts[:50]), wanted, atol=2e-6)
        found: list[np.ndarray] = []
        threads = [threading.Thread(target=lambda: found.append(server.embed(texts))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + SECONDS
        while b'gnomon_queue_oldest_seconds{lane="bulk"' not in server.request("GET", "/metrics")[1]:
            assert time.monotonic() < until
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("/ready", 503)
        assert server.request("GET", "/health")[0] == 200
        assert server.embed(["one more"]).shape[0] == 1
        for thread in threads:
            thread.join()
        assert [len(vectors) for vectors in found] == [2000] * 3
        _, log = server.process.communicate(timeout=SECONDS)
        assert server.process.returncode == 0, log
        assert "unanswered=0" in log
        with pytest.raises(OSError):
            server.request("GET", "/health")


@pytest.mark.parametrize("name", ["granian", "uvicorn"])
def test_an_answer_before_the_end_of_a_body_reaches_its_client(name: str) -> None:
    with serve("--server", name, "--api-key", "key", "--max-body", "1M", "--drain-delay", "0") as server:
        connection = server.connect()
        for path, size, status in (("/embed", 30 << 20, 413), ("/embed", 900_000, 401), ("/none", 5 << 20, 404)):
            headers = {"authorization": "Bearer key"} if status == 413 else {}
            connection.request("POST", path, b" " * size, headers)
            answer = connection.getresponse()
            assert answer.status == status
            json.loads(answer.read())
        connection.close()


def test_ctrl_c_ends_an_idle_server_at_once_and_a_second_signal_a_busy_one() -> None:
    with serve("--drain-delay", "60") as server:
        assert server.end(signal.SIGINT)[0] == 0
    with serve("--drain-delay", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("/ready", 503)
        assert server.end(signal.SIGTERM)[0] == 0


def test_a_unix_socket_keys_and_a_reload(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key-one\n")
    path = tmp_path / "socket"
    with serve("--api-key-file", str(keys), "--drain-delay", "0", uds=path) as server:
        assert server.request("POST", "/embed", {"inputs": "a"})[0] == 401
        assert server.request("POST", "/embed", {"inputs": "a"}, authorization="Bearer key-one")[0] == 200
        code, error = run(str(E5), "--uds", str(path))
        assert code == 2
        assert "another server listens" in error
        keys.write_text("key-two\n")
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + SECONDS
        while server.request("POST", "/embed", {"inputs": "a"}, authorization="Bearer key-two")[0] != 200:
            assert time.monotonic() < until
        assert server.request("POST", "/embed", {"inputs": "a"}, authorization="Bearer key-one")[0] == 401
        assert server.request("POST", "/admin/reload", authorization="Bearer key-two")[0] == 200
        code, log = server.end()
        assert code == 0
        assert "key-one" not in log
        assert "key-two" not in log
    assert not path.exists()


def test_what_keeps_a_server_from_starting(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, error = run(str(E5), "--port", str(port))
    assert code == 2
    assert str(port) in error
    assert "Traceback" not in error
    code, error = run(str(tmp_path), "--port", str(free_port()))
    assert code == 2
    assert str(tmp_path) in error
    assert "Traceback" not in error
    code, error = run(str(E5), "--port", str(free_port()), "--dim", "7")
    assert code == 2
    assert "dim 7" in error


def test_preload_only_ends_with_0() -> None:
    code, error = run(str(E5), "--port", str(free_port()), "--preload-only", "--log-format", "json")
    assert code == 0
    lines = [json.loads(line) for line in error.splitlines()]
    assert any("is ready" in line["message"] for line in lines)


def test_a_second_port_for_metrics() -> None:
    port = free_port()
    with serve("--metrics-port", str(port), "--drain-delay", "0") as server:
        status, text = Server(server.process, port, None).request("GET", "/anything")
        assert status == 200
        assert b"gnomon_requests_total" in text
        assert server.end()[0] == 0


# ---- threads

COUNT_THREADS = """
import os, sys
from tokenizers import Tokenizer
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.run import limit_tokenizer_threads

number = int(sys.argv[2]) or None
limit_tokenizer_threads(ServeOptions(models=(ModelOptions(source="x"),), tokenizer_threads=number))
tokenizer = Tokenizer.from_file(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
tokenizer.encode_batch_fast(["a text of some words"] * 1000)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
@pytest.mark.parametrize(("number", "chosen", "expected"), [(3, None, 3), (7, None, 7), (7, "5", 5), (0, "2", 2)])
def test_the_tokenizers_library_has_as_many_threads_as_were_chosen(
    number: int, chosen: str | None, expected: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"}
    if chosen is not None:
        environment["RAYON_NUM_THREADS"] = chosen
    command = [sys.executable, "-c", COUNT_THREADS, str(E5 / "tokenizer.json"), str(number)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(ended.stdout) == expected


# ---- traces

NUM_TRACED = 700
TRACE = "0af7651916cd43dd8448eb211c80319c"
NEEDED = "needs OpenTelemetry, see Tracing in the guide to serving"


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.bodies = list[tuple[str, bytes]]()


class _Receiver(BaseHTTPRequestHandler):
    server: Collector  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        self.server.bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Generator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    yield collector
    collector.shutdown()
    collector.server_close()
    thread.join()


@pytest.fixture
def keeps_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent at the end only."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")


@pytest.mark.usefixtures("keeps_spans")
def test_each_request_has_its_span_and_none_is_lost_at_sigterm(collector: Collector) -> None:
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=NEEDED)
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    quiet = ("--log-level", "warning")  # nobody reads the pipe meanwhile
    with serve("--otlp-endpoint", endpoint, "--drain-delay", "0", *quiet) as server:
        for number in range(NUM_TRACED):
            parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            assert server.request("POST", "/embed", {"inputs": f"text {number}"}, **parent)[0] == 200
        code, log = server.end()
    assert code == 0, log
    assert {path for path, _ in collector.bodies} == {"/v1/traces"}
    names = Counter[str]()
    for _, body in collector.bodies:
        for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                names.update(span.name for span in scope.spans if span.trace_id.hex() == TRACE)
    assert names == dict.fromkeys(("POST /embed", "tokenization", "queue", "inference"), NUM_TRACED)


@pytest.mark.usefixtures("keeps_spans")
def test_a_collector_that_does_not_answer_is_given_up() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=NEEDED)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serve("--otlp-endpoint", endpoint, "--drain-delay", "0") as server:
            code, log = server.end()
    assert code == 0, log
    assert "traces could not be sent" in log


# ---- TLS, and signals while it loads


def served_certificate(port: int) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


@pytest.mark.parametrize("name", ["granian", "uvicorn"])
def test_sighup_serves_the_new_certificate_or_says_that_it_cannot(name: str, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def write(pair: str) -> bytes:
        cert.write_bytes((TLS / f"{pair}.pem").read_bytes())
        key.write_bytes((TLS / f"{pair}.key").read_bytes())
        return ssl.PEM_cert_to_DER_cert(cert.read_text())

    first = write("a")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    with serve("--server", name, "--drain-delay", "0", *tls, ready=False) as server:
        assert server.process.stderr is not None
        lines = list[str]()

        def read_until(part: str) -> None:
            assert server.process.stderr is not None
            while not lines or part not in lines[-1]:
                lines.append(server.process.stderr.readline())
                assert lines[-1], lines

        read_until(" ready seconds=")
        assert served_certificate(server.port) == first
        second = write("b")
        server.process.send_signal(signal.SIGHUP)
        read_until(" reloaded ")
        assert "unchanged=" in lines[-1]
        assert "loaded=" in lines[-1]
        expected = {"granian": ("restart the server", first), "uvicorn": ("certificate reloaded", second)}[name]
        assert expected[0] in "".join(lines)
        assert served_certificate(server.port) == expected[1]
        assert server.end()[0] == 0


def test_a_key_of_another_certificate_is_refused_at_the_start() -> None:
    code, error = run(str(E5), "--tls-cert", str(TLS / "a.pem"), "--tls-key", str(TLS / "b.key"))
    assert code == 2
    assert "does not belong" in error
    assert "Traceback" not in error


LOAD_FOR_EVER = """
import sys, threading
from gnomon.serve.app import App
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.run import run_server

options = ServeOptions(models=(ModelOptions(source="x"),), port=int(sys.argv[1]))
sys.exit(run_server(options, lambda options: App(options, load=lambda _: threading.Event().wait())))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_while_it_loads(number: int, status: int) -> None:
    port = free_port()
    command = [sys.executable, "-c", LOAD_FOR_EVER, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        server = Server(process, port, None)
        try:
            server.wait_for("/livez", 200)
            code, log = server.end(number)
        finally:
            process.kill()
    assert code == status, log
    assert log.count("ended before it was ready") == 1
    assert f"status={status}" in log
