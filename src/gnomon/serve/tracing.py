"""OpenTelemetry spans, where its packages are installed and an endpoint is named."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from gnomon.errors import ExtraError
from gnomon.serve.call import Call
from gnomon.serve.exchange import Exchange
from gnomon.serve.logs import log
from gnomon.serve.metrics import METHODS
from gnomon.serve.options import ServeOptions

NANOSECONDS = 1_000_000_000

GRPC_PORT = 4317
"""The port of collectors for gRPC; 4318 is the one for HTTP."""

HTTP_PATH = "/v1/traces"
"""Where collectors take spans over HTTP."""

HTTP_PACKAGE = "opentelemetry-exporter-otlp-proto-http"
GRPC_PACKAGE = "opentelemetry-exporter-otlp-proto-grpc"

CLOSE_SECONDS = 5.0
"""How long the end of the server waits for a collector that does not answer."""


class Tracer:
    """Writes a span per request, with its parts: tokenization, queue and inference.

    Spans go to port 4317 by gRPC, and to any other by HTTP.

    Raises:
        ExtraError: an endpoint is named, and the package that exports to it is not installed.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if options.otlp_endpoint is None:
            return
        exporter = _open_exporter(options.otlp_endpoint)
        from opentelemetry.sdk.resources import Resource  # pyright: ignore[reportMissingImports]
        from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore[reportMissingImports]

        resource = Resource.create({"service.name": options.otlp_service_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gnomon.serve")

    def record(self, route: str, exchange: Exchange, call: Call, status: int) -> None:
        """Write the spans of a request that was answered."""
        if self._tracer is None:
            return
        from opentelemetry.propagate import extract  # pyright: ignore[reportMissingImports]
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context  # pyright: ignore[reportMissingImports]

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers.items()}
        end = time.time_ns()
        start = end - int(call.seconds * NANOSECONDS)
        method = exchange.method if exchange.method in METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "http.response.status_code": status,
            "http.route": route,
            "gnomon.request_id": exchange.request_id,
            "gnomon.model": call.model.name if call.model else "",
            "gnomon.inputs": call.num_inputs,
            "gnomon.tokens": call.num_tokens,
        }
        span = self._tracer.start_span(
            f"{method} {route}",
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=start,
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        if call.timings is not None:
            context = set_span_in_context(span)
            position = start
            for name in ("tokenization", "queue", "inference"):
                part = self._tracer.start_span(name, context=context, start_time=position)
                position += int(getattr(call.timings, name) * NANOSECONDS)
                part.end(position)
        span.end(end)

    async def close(self) -> None:
        """Send the spans that still wait. A collector that does not answer is given up after `CLOSE_SECONDS`."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is None:
            return
        # a thread that the end of the process does not wait for
        thread = threading.Thread(target=provider.shutdown, name="gnomon-traces", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, CLOSE_SECONDS)
        if thread.is_alive():
            log(logging.WARNING, f"the last traces could not be sent within {CLOSE_SECONDS:.0f} seconds")


def _open_exporter(endpoint: str) -> Any:
    """
    Raises:
        ExtraError: its package is not installed.
    """
    is_grpc = urlsplit(endpoint).port == GRPC_PORT
    package = GRPC_PACKAGE if is_grpc else HTTP_PACKAGE
    try:
        importlib.import_module("opentelemetry.sdk.trace")
        module = importlib.import_module(
            f"opentelemetry.exporter.otlp.proto.{'grpc' if is_grpc else 'http'}.trace_exporter"
        )
    except ImportError as error:
        if not is_grpc:
            raise ExtraError(
                f"traces need OpenTelemetry. Install it: pip install opentelemetry-sdk {package}"
            ) from error
        raise ExtraError(
            f"--otlp-endpoint has port {GRPC_PORT}, which takes traces by gRPC, and the package for that is not "
            f"installed. Install it: pip install opentelemetry-sdk {package}. Or name the collector's port for HTTP, "
            f"which is often 4318, and install {HTTP_PACKAGE}."
        ) from error
    return module.OTLPSpanExporter(endpoint=endpoint if is_grpc else _complete_url(endpoint))


def _complete_url(endpoint: str) -> str:
    """The endpoint with the path of traces, unless it has a path of its own."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + HTTP_PATH
