"""Prometheus metrics: ours, and beside them those of TEI and infinity under their names, for dashboards that exist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gnomon.serve.requests import ErrorKind
from gnomon.serve.work import LANES

if TYPE_CHECKING:
    from gnomon.serve.call import Call
    from gnomon.serve.models import ServedModel
    from gnomon.serve.service import Service

CLIENT_GONE = 499
"""The status, in logs and metrics alone, of a request whose client went away: as in nginx."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
"""Methods that have labels of their own: a client could send any others."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TEI_SECONDS = [1.5e-5 * 1.5**power for power in range(35)]
TEI_LENGTHS = [float(2**power) for power in range(14)]
TEI_BATCH_TOKENS = [float(2**power) for power in range(21)]
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

TEI_FAILURES: dict[ErrorKind, str] = {
    "overloaded": "overloaded",
    "too_many": "batch_size",
    "engine": "inference",
    "internal": "inference",
    "timeout": "inference",
    "unavailable": "inference",
    "unsupported": "model_type",
}
"""TEI's `err` of a kind of error; every other of the client's errors is "validation"."""


class Metrics:
    """What is counted. One per server."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "gnomon_requests", "Requests, by route, model and status.", ["route", "model", "code"], registry=registry
        )
        self._inputs = Counter("gnomon_inputs", "Inputs of requests that were answered.", ["model"], registry=registry)
        self._tokens = Counter("gnomon_tokens", "Tokens of these inputs.", ["model"], registry=registry)
        self._truncated = Counter(
            "gnomon_truncated_inputs", "Inputs that were truncated.", ["model"], registry=registry
        )
        self._rejected = Counter("gnomon_rejected", "Requests that got no vectors.", ["reason"], registry=registry)
        self._cancelled = Counter(
            "gnomon_cancelled", "Requests whose client went away before they were answered.", registry=registry
        )
        self._unknown = Counter("gnomon_unknown_fields", "Fields of bodies that were ignored.", registry=registry)
        self._seconds = Histogram(
            "gnomon_request_seconds", "Seconds of requests for vectors.", ["lane"], buckets=SECONDS, registry=registry
        )
        self._step_seconds = Histogram(
            "gnomon_step_seconds", "Seconds of the engine's steps.", buckets=SECONDS, registry=registry
        )
        self._step_tokens = Histogram(
            "gnomon_step_tokens", "Tokens of the engine's steps.", buckets=TEI_BATCH_TOKENS, registry=registry
        )
        self._tei = _TeiMetrics(registry)
        self._http = _HttpMetrics(registry)
        registry.register(_StateCollector(service))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def count_request(self, route: str, method: str, status: int, call: Call, sizes: tuple[int, int]) -> None:
        """Count a request that was answered.

        Args:
            sizes: bytes of the body and of the answer.
        """
        model = call.model.name if call.model else ""
        method = method if method in METHODS else "OTHER"
        seconds = call.seconds
        _child(self._requests, route, model, str(status)).inc()
        self._http.count(route, method, status, seconds, sizes)
        if status == CLIENT_GONE:
            self._cancelled.inc()
        if not call.counts:
            return
        if status == 200:
            _child(self._inputs, model).inc(call.num_inputs)
            _child(self._tokens, model).inc(call.num_tokens)
            if call.num_truncated:
                _child(self._truncated, model).inc(call.num_truncated)
            if call.lane:
                _child(self._seconds, call.lane).observe(seconds)
        if call.num_unknown_fields:
            self._unknown.inc(call.num_unknown_fields)
        self._tei.count(call, status, seconds)

    def count_rejection(self, kind: str) -> None:
        _child(self._rejected, kind).inc()

    def count_step(self, num_texts: int, num_tokens: int, seconds: float) -> None:
        """Count a step of an engine; called from its thread."""
        self._step_seconds.observe(seconds)
        self._step_tokens.observe(num_tokens)
        self._tei.batch_size.observe(num_texts)
        self._tei.batch_tokens.observe(num_tokens)


@lru_cache(maxsize=1024)
def _child(metric: Any, *labels: str) -> Any:
    """The child of a metric for some labels; finding it anew each time takes longer than counting."""
    return metric.labels(*labels)


class _TeiMetrics:
    """TEI's metrics. Its counters do not end in _total, so they are written as untyped ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """(name, label, its value) -> count."""

        def histogram(name: str, text: str, buckets: Iterable[float] = TEI_SECONDS) -> Histogram:
            return Histogram(name, text, buckets=[*buckets], registry=registry)

        self.duration = histogram("te_request_duration", "Seconds of a request.")
        self.tokenization = histogram("te_request_tokenization_duration", "Seconds of tokenization.")
        self.queue = histogram("te_request_queue_duration", "Seconds of waiting for the engine.")
        self.inference = histogram("te_request_inference_duration", "Seconds in the engine.")
        self.embed = histogram("te_embed_duration", "Seconds of an embed request.")
        self.embed_tokenization = histogram("te_embed_tokenization_duration", "Seconds of tokenization.")
        self.embed_queue = histogram("te_embed_queue_duration", "Seconds of waiting for the engine.")
        self.embed_inference = histogram("te_embed_inference_duration", "Seconds in the engine.")
        self.length = histogram("te_request_input_length", "Tokens of an input.", TEI_LENGTHS)
        self.batch_size = histogram("te_batch_next_size", "Texts of a step.", [2.0**power for power in range(13)])
        self.batch_tokens = histogram("te_batch_next_tokens", "Tokens of a step.", TEI_BATCH_TOKENS)
        registry.register(self)  # pyright: ignore[reportArgumentType] it has collect()

    def count(self, call: Call, status: int, seconds: float) -> None:
        method = "batch" if call.num_inputs > 1 else "single"
        self.counts["te_request_count", "method", method] += 1
        self.counts["te_embed_count", "", ""] += call.num_inputs
        if status != 200:
            failure = TEI_FAILURES.get(call.error_kind, "validation") if call.error_kind else "dropped"
            self.counts["te_request_failure", "err", failure] += 1
            return
        self.counts["te_request_success", "method", method] += 1
        self.counts["te_embed_success", "", ""] += call.num_inputs
        self.duration.observe(seconds)
        self.embed.observe(seconds)
        if call.num_inputs:
            self.length.observe(call.num_tokens / call.num_inputs)
        if call.timings is not None:
            for metrics, value in (
                ((self.tokenization, self.embed_tokenization), call.timings.tokenization),
                ((self.queue, self.embed_queue), call.timings.queue),
                ((self.inference, self.embed_inference), call.timings.inference),
            ):
                for metric in metrics:
                    metric.observe(value)

    def collect(self) -> Iterator[Metric]:
        metrics: dict[str, Metric] = {}
        for (name, label, value), count in sorted(self.counts.items()):
            metric = metrics.setdefault(name, Metric(name, "As in text-embeddings-inference.", "unknown"))
            metric.add_sample(name, {label: value} if label else {}, count)
        yield from metrics.values()


class _HttpMetrics:
    """The metrics of infinity, which are those of prometheus-fastapi-instrumentator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("http_requests", "Requests.", ["handler", "status", "method"], registry=registry)
        self.request_size = Summary("http_request_size_bytes", "Bytes of bodies.", ["handler"], registry=registry)
        self.response_size = Summary("http_response_size_bytes", "Bytes of answers.", ["handler"], registry=registry)
        self.seconds_fine = Histogram(
            "http_request_duration_highr_seconds", "Seconds of requests.", buckets=SECONDS, registry=registry
        )
        self.seconds = Histogram(
            "http_request_duration_seconds",
            "Seconds of requests.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1),
            registry=registry,
        )

    def count(self, route: str, method: str, status: int, seconds: float, sizes: tuple[int, int]) -> None:
        _child(self.requests, route, f"{status // 100}xx", method).inc()
        _child(self.request_size, route).observe(sizes[0])
        _child(self.response_size, route).observe(sizes[1])
        self.seconds_fine.observe(seconds)
        _child(self.seconds, route, method).observe(seconds)


COUNTERS = {
    "padded_tokens": "Tokens of the engine's steps, with what their padding costs.",
    "merged": "Texts that shared the computation of an equal one.",
    "nonfinite": "Texts whose vectors held NaN or infinity.",
    "failed_texts": "Texts that the engine failed on.",
    "engine_restarts": "How often an engine was opened anew.",
}


class _StateCollector:
    """What batchers and caches count themselves, read at each scrape."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        models = [*self.service.models]
        yield from self._collect_counters(models)
        yield from self._collect_queues(models)
        loaded = GaugeMetricFamily("gnomon_model_loaded", "Models that are loaded.", labels=["model", "fingerprint"])
        for model in models:
            loaded.add_metric([model.name, model.fingerprint], 1)
        yield loaded
        cache = self.service.cache
        yield CounterMetricFamily("gnomon_cache_hits", "Texts answered from the cache.", value=cache.hits)
        yield CounterMetricFamily("gnomon_cache_misses", "Texts that were not in the cache.", value=cache.misses)
        yield GaugeMetricFamily("gnomon_cache_bytes", "Bytes of the answer cache.", value=cache.num_bytes)

    def _collect_counters(self, models: list[ServedModel]) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            family = CounterMetricFamily(f"gnomon_{name}", text, labels=["model"])
            for model in models:
                field = "restarts" if name == "engine_restarts" else name
                family.add_metric([model.name], getattr(model.batcher.counters, field))
            yield family

    def _collect_queues(self, models: list[ServedModel]) -> Iterator[Metric]:
        tokens = GaugeMetricFamily("gnomon_queue_tokens", "Tokens that wait.", labels=["model", "lane"])
        oldest = GaugeMetricFamily(
            "gnomon_queue_oldest_seconds", "Age of the oldest request under way.", labels=["model", "lane"]
        )
        speed = GaugeMetricFamily("gnomon_tokens_per_second", "The measured speed of the engine.", labels=["model"])
        texts = 0
        for model in models:
            for lane in LANES:
                num_texts, num_tokens = model.batcher.num_waiting(lane)
                texts += num_texts
                tokens.add_metric([model.name, lane], num_tokens)
                oldest.add_metric([model.name, lane], model.batcher.oldest_seconds(lane))
            speed.add_metric([model.name], model.batcher.tokens_per_second)
        yield from (tokens, oldest, speed)
        yield GaugeMetricFamily("te_queue_size", "Texts that wait.", value=texts)
