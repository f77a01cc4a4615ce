"""OpenTelemetry spans, where the package is installed and an endpoint is named. They are sent by HTTP."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from gnomon.errors import ExtraError
from gnomon.serve.exchange import Exchange
from gnomon.serve.logs import log
from gnomon.serve.options import ServeOptions
from gnomon.serve.service import Call

NANOSECONDS = 1_000_000_000

CLOSE_SECONDS = 5.0
"""How long the end of the server waits for the last spans to be sent."""


class Tracer:
    """Writes a span per request, with its parts: tokenization, queue and inference.

    Raises:
        ExtraError: an endpoint is named, and OpenTelemetry is not installed.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if options.otlp_endpoint is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore[reportMissingImports]
            from opentelemetry.sdk.resources import Resource  # pyright: ignore[reportMissingImports]
            from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ExtraError(
                "traces need OpenTelemetry. Install it: pip install opentelemetry-sdk "
                "opentelemetry-exporter-otlp-proto-http"
            ) from error
        resource = Resource.create({"service.name": options.otlp_service_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=options.otlp_endpoint)))
        self._tracer = self._provider.get_tracer("gnomon.serve")

    def close(self) -> None:
        """Send the spans that are left. A collector that does not answer is given up after `CLOSE_SECONDS`."""
        if self._provider is None:
            return
        # in a thread that nothing waits for at the end: OpenTelemetry would wait for 30 seconds
        thread = threading.Thread(target=self._provider.shutdown, name="gnomon-traces", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            log(logging.WARNING, f"the last traces could not be sent within {CLOSE_SECONDS:.0f} seconds")

    def record(self, route: str, exchange: Exchange, call: Call, status: int) -> None:
        """Write the spans of a request that was answered."""
        if self._tracer is None:
            return
        from opentelemetry.propagate import extract  # pyright: ignore[reportMissingImports]
        from opentelemetry.trace import SpanKind, set_span_in_context  # pyright: ignore[reportMissingImports]

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers.items()}
        end = time.time_ns()
        start = end - int(call.seconds * NANOSECONDS)
        span = self._tracer.start_span(
            f"{exchange.method} {route}", context=extract(headers), kind=SpanKind.SERVER, start_time=start
        )
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("http.route", route)
        span.set_attribute("gnomon.inputs", call.num_inputs)
        span.set_attribute("gnomon.tokens", call.num_tokens)
        if call.timings is not None:
            context = set_span_in_context(span)
            position = start
            for name in ("tokenization", "queue", "inference"):
                part = self._tracer.start_span(name, context=context, start_time=position)
                position += int(getattr(call.timings, name) * NANOSECONDS)
                part.end(position)
        span.end(end)
