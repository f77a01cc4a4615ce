"""Traces: which exporter an endpoint gets, what a span holds, and that none is lost at the end."""

from __future__ import annotations

import gzip
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import goldens
import pytest
from starlette.testclient import TestClient

from gnomon.errors import ExtraError
from gnomon.serve.app import App
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.tracing import CLOSE_SECONDS, Tracer

goldens.require(whole_module=True)
pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

MODELS = (ModelOptions(source=str(goldens.GOLDEN / "multilingual-e5-small"), names=("e5",)),)
EXPORTERS = "opentelemetry.exporter.otlp.proto"


def make_tracer(endpoint: str) -> Tracer:
    return Tracer(ServeOptions(models=MODELS, otlp_endpoint=endpoint))


class FakeProvider:
    """A provider that keeps its exporter, and whose end waits for `gate`."""

    def __init__(self, **options: Any) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.ended = threading.Event()
        self.exporter: Any = None
        assert options["shutdown_on_exit"] is False

    def add_span_processor(self, exporter: Any) -> None:
        self.exporter = exporter

    def get_tracer(self, name: str) -> str:
        return name

    def shutdown(self) -> None:
        self.gate.wait(30)
        self.ended.set()


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages of OpenTelemetry, as far as a tracer opens them. An exporter is its kind and its endpoint."""

    def put(name: str, **values: Any) -> None:
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)

    parts = EXPORTERS.split(".")
    for name in [".".join(parts[:number]) for number in range(1, 5)] + ["opentelemetry.sdk"]:
        put(name, __path__=[])
    for kind in ("http", "grpc"):
        put(f"{EXPORTERS}.{kind}", __path__=[])
        put(f"{EXPORTERS}.{kind}.trace_exporter", OTLPSpanExporter=lambda endpoint, kind=kind: (kind, endpoint))
    put("opentelemetry.sdk.resources", Resource=type("Resource", (), {"create": staticmethod(dict)}))
    put("opentelemetry.sdk.trace", TracerProvider=lambda **options: FakeProvider(**options))
    put("opentelemetry.sdk.trace.export", BatchSpanProcessor=lambda exporter: exporter)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("endpoint", "kind", "url"),
    [
        ("http://otel:4318", "http", "http://otel:4318/v1/traces"),
        ("http://otel:4318/", "http", "http://otel:4318/v1/traces"),
        ("https://otel", "http", "https://otel/v1/traces"),
        ("http://otel:4318/of/ours", "http", "http://otel:4318/of/ours"),
        ("http://otel:4317", "grpc", "http://otel:4317"),
        ("https://[::1]:4317", "grpc", "https://[::1]:4317"),
    ],
)
def test_the_port_chooses_the_protocol(endpoint: str, kind: str, url: str) -> None:
    assert make_tracer(endpoint)._provider.exporter == (kind, url)  # pyright: ignore


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("endpoint", "missing", "parts"),
    [
        ("http://otel:4317", f"{EXPORTERS}.grpc", ["4317", "gRPC", "exporter-otlp-proto-grpc", "4318", "proto-http"]),
        ("http://otel:4318", f"{EXPORTERS}.http", ["opentelemetry-sdk", "exporter-otlp-proto-http"]),
        ("http://otel:4318", "opentelemetry.sdk", ["opentelemetry-sdk"]),
    ],
)
def test_a_missing_package_is_named_at_the_start(
    endpoint: str, missing: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError) as caught:
        make_tracer(endpoint)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.usefixtures("packages")
def test_the_end_of_the_server_sends_what_waits() -> None:
    app = App(ServeOptions(models=MODELS, otlp_endpoint="http://otel:4318", warm_up=False))
    provider = app.tracer._provider  # pyright: ignore
    with TestClient(app):
        assert not provider.ended.is_set()
    assert provider.ended.is_set()


@pytest.mark.usefixtures("packages")
def test_a_collector_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gnomon.serve.tracing.CLOSE_SECONDS", CLOSE_SECONDS / 1000)
    app = App(ServeOptions(models=MODELS, otlp_endpoint="http://otel:4318", warm_up=False))
    provider = app.tracer._provider  # pyright: ignore
    provider.gate.clear()
    with TestClient(app):
        pass
    assert not provider.ended.is_set()
    assert "traces could not be sent" in caplog.text
    provider.gate.set()
    assert provider.ended.wait(30)


# ---- with the real packages


@contextmanager
def collect() -> Iterator[tuple[str, list[Any]]]:
    """The address of a collector, and the spans that it got."""
    service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans = list[Any]()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            assert self.path == "/v1/traces"
            for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


def test_a_span_per_request_with_its_parts() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed")
    with collect() as (endpoint, spans):
        app = App(ServeOptions(models=MODELS, otlp_endpoint=endpoint, warm_up=False))
        with TestClient(app) as client:
            while app.state == "loading":
                client.get("/livez")
            trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
            headers = {"traceparent": trace, "x-request-id": "mine"}
            assert client.post("/v1/embeddings", json={"input": ["a", "b"]}, headers=headers).status_code == 200
            assert client.request("FORGE", "/v1/embeddings").status_code == 405
    (span,) = [span for span in spans if span.name == "POST /v1/embeddings"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    values = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    assert values == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/embeddings",
        "gnomon.request_id": "mine",
        "gnomon.model": "e5",
        "gnomon.inputs": 2,
        "gnomon.tokens": 6,
    }
    parts = [each.name for each in spans if each.parent_span_id == span.span_id]
    assert sorted(parts) == ["inference", "queue", "tokenization"]
    assert [each.name for each in spans if "FORGE" in str(each) or "_OTHER" in each.name] == ["_OTHER /v1/embeddings"]
