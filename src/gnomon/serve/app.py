"""`App`: the ASGI application. It loads the models, routes requests, and knows whether it is ready.

The port is open before the models are loaded: until then, requests get 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from hmac import compare_digest
from typing import Any, Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router

from gnomon.errors import InputError, ModelError, SourceError
from gnomon.serve.auth import ApiKeys
from gnomon.serve.batcher import Health, HealthState
from gnomon.serve.cl100k import load_cl100k
from gnomon.serve.exchange import DisconnectedError, Exchange, Receive, Scope, Send
from gnomon.serve.logs import list_frames, log, quote_sent
from gnomon.serve.metrics import CLIENT_GONE, Metrics
from gnomon.serve.models import ModelRegistry, ServedModel, load_encoder
from gnomon.serve.operations import ENDPOINTS
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.requests import Answer, ErrorKind, RequestError
from gnomon.serve.service import Call, ClientGoneError, Service
from gnomon.serve.tracing import Tracer
from gnomon.serve.visit import Endpoint, Probe, Visit
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.vectors import json_answer

State = Literal["loading", "ready", "draining", "stopped"]

LOADING_RETRY_SECONDS = 5.0
WATCH_SECONDS = 1.0
"""How often the engines are looked at."""

STUCK_LOOKS, PAUSE_FACTOR = 3, 3
"""The server ends when a step is stuck in so many looks in a row. A look that comes so many times too late does not
count: the whole process was paused.
"""

EXIT_STUCK = 70
"""Exit status after a step that is stuck (EX_SOFTWARE): whoever started the server starts it again."""

BADNESS: dict[HealthState, int] = {"ok": 0, "failed": 1, "closed": 2, "stuck": 3}
"""Which state counts where several engines are in different ones. A stuck one ends the server."""

TIMEOUT_HEADERS = ("x-request-timeout", "x-stainless-read-timeout")
"""Seconds that the client waits; the latter is sent by OpenAI's clients."""

MAX_TIMEOUT = 3600.0
"""Seconds that a client may wait at most."""

Loader = Callable[[ModelOptions], Any]


class App:
    """The server as an ASGI application.

    Args:
        options: what the operator chose.
        load: reads a model; another function puts a model in that this process made.
    """

    def __init__(self, options: ServeOptions, load: Loader = load_encoder) -> None:
        self.options, self._load = options, load
        self.state: State = "loading"
        self.was_ready = False
        self.began = time.monotonic()
        self.keys = ApiKeys(options.api_keys, options.api_key_file)
        self.service = Service(options)
        self.metrics = Metrics(self.service)
        self.tracer = Tracer(options)
        self.ended: asyncio.Future[int | BaseException] | None = None
        """Set once the server must end by itself: its exit status, or why the models could not be loaded."""
        self._retiring = set[ServedModel]()
        """Models that another one has replaced, while they end what they have begun."""
        self._tasks = set[asyncio.Task[Any]]()
        self._reload_lock = asyncio.Lock()
        self._router = Router(
            [Route(each.path, _Handler(self, each)) for each in ENDPOINTS], default=self._answer_unknown
        )
        self._inner: Any = self._router
        if options.cors_origins:
            self._inner = CORSMiddleware(
                self._router,
                allow_origins=options.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["*"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "http":
            scope["path"] = self._normalize_path(scope["path"])
            await self._inner(scope, receive, send)

    # ---- models

    async def start(self) -> None:
        """Begin to load the models, in a thread. It returns at once."""
        loop = asyncio.get_running_loop()
        self.service.loop, self.ended = loop, loop.create_future()
        self._spawn(self._load_all())

    async def stop(self) -> None:
        """Let go of the models; what still waits fails."""
        self.state = "stopped"
        for task in self._tasks:
            task.cancel()
        for model in {*self.service.models, *self._retiring}:
            await asyncio.to_thread(model.close)
        self.service.close()
        await asyncio.to_thread(self.tracer.close)

    async def reload(self, name: str | None = None, revision: str | None = None, *, changed_only: bool = False) -> None:
        """Read the keys again, and load models again, beside those that serve; then requests go to the new ones, and
        the old ones end what they have begun.

        Args:
            name: of one model; None for all.
            revision: another revision of it.
            changed_only: leave models as they are whose files are the same as when they were loaded.

        Raises:
            RequestError: an unknown name; a model that could not be loaded, or keys that could not be read: then all
                stays as it is. It is the client's mistake ("invalid") where a revision was named, which is not there or
                is not a model.
        """
        async with self._reload_lock:
            if self.state != "ready":
                raise RequestError(f"the server is {self.state}, and loads nothing again now.", "unavailable")
            try:
                self.keys.reload()
            except InputError as error:
                raise RequestError(f"the keys stay as they are: {error}", "internal") from error
            only = None if name is None else self.service.models.find_known(name)
            fresh = list[ServedModel]()
            old = list[ServedModel]()
            for model in self.service.models:
                options = model.options if revision is None else replace(model.options, revision=revision)
                try:
                    if only not in (None, model) or (changed_only and not await asyncio.to_thread(model.has_changed)):
                        fresh.append(model)
                        continue
                    fresh.append(await asyncio.to_thread(self._load_model, options))
                except Exception as error:
                    for each in fresh:
                        if each not in self.service.models.models:
                            await asyncio.to_thread(each.close)
                    is_choice = revision is not None and isinstance(error, (InputError, ModelError, SourceError))
                    kind: ErrorKind = "invalid" if is_choice else "internal"
                    message = f"{model.name} could not be loaded again, and goes on as it is: {error}"
                    raise RequestError(message, kind) from error
                old.append(model)
            self.service.models = ModelRegistry(fresh)
            log(logging.INFO, "models reloaded", models=[model.name for model in fresh])
            for model in old:
                self._spawn(self._retire(model))

    async def _load_all(self) -> None:
        assert self.ended is not None
        models = list[ServedModel]()
        try:
            if self.options.token_ids == "cl100k":
                self.service.decode_cl100k = await asyncio.to_thread(load_cl100k)
            for options in self.options.models:
                models.append(await asyncio.to_thread(self._load_model, options))
            self.service.models = ModelRegistry(models)
        except BaseException as error:
            for model in models:
                model.close()
            if not self.ended.done():
                self.ended.set_result(error)
            return
        if self.state != "loading":  # a signal came in the meantime
            return
        self.state, self.was_ready = "ready", True
        for model in models:
            log(logging.INFO, f"{model.name} is ready", **_describe(model))
        log(logging.INFO, "ready", seconds=round(time.monotonic() - self.began, 1))
        if self.options.exit_when_loaded:
            self.ended.set_result(0)
        self._spawn(self._watch_engines())

    def _load_model(self, options: ModelOptions) -> ServedModel:
        encoder = self._load(options)
        try:
            return ServedModel(
                encoder,
                options,
                self.options,
                notify=self.service.notify,
                cache=self.service.cache,
                on_step=self.metrics.count_step,
            )
        except BaseException:
            encoder.close()
            raise

    async def _retire(self, model: ServedModel) -> None:
        """Close a model once the requests that use it are answered."""
        self._retiring.add(model)
        while any(call.model is model for call in self.service.calls):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(model.close)
        self._retiring.discard(model)

    async def _watch_engines(self) -> None:
        """Notice an engine that is stuck: its requests fail, and the server ends."""
        assert self.ended is not None
        reported = Health()
        num_stuck = 0
        while True:
            before = time.monotonic()
            await asyncio.sleep(WATCH_SECONDS)
            was_paused = time.monotonic() - before > PAUSE_FACTOR * WATCH_SECONDS
            health = self.check_health()
            num_stuck = num_stuck + 1 if health.state == "stuck" and not was_paused else 0
            if health.state != reported.state:
                level = logging.INFO if health.state == "ok" else logging.ERROR
                log(level, f"the engine is {health.state}", reason=health.reason)
                reported = health
            if num_stuck == STUCK_LOOKS:
                for model in self.service.models:
                    model.batcher.fail_all(f"the engine is stuck: {health.reason}")
                await asyncio.sleep(WATCH_SECONDS)  # the answers go out
                if not self.ended.done():
                    self.ended.set_result(EXIT_STUCK)
                return

    def check_health(self) -> Health:
        """The worst state of the engines."""
        healths = [model.batcher.check_health() for model in self.service.models]
        return max(healths, key=lambda health: BADNESS[health.state], default=Health())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- requests

    async def answer(self, endpoint: Endpoint, visit: Visit) -> Answer:
        """The answer of an endpoint; an error in the shape of the dialect."""
        exchange = visit.exchange
        visit.render_error = endpoint.render_error
        try:
            operation = endpoint.operations.get(exchange.method)
            if operation is None:
                return self._refuse_method(endpoint, exchange)
            if exchange.method in endpoint.guarded_methods:
                visit.call.client = self.keys.check(exchange) or exchange.client
            if exchange.method in endpoint.model_methods:
                self._check_ready()
            return await operation(visit)
        except RequestError as error:
            return self._render_error(error, visit)
        except (ClientGoneError, DisconnectedError):
            raise
        except Exception as error:
            request_id = quote_sent(exchange.request_id)
            log(logging.ERROR, "a request failed", request_id=request_id, error=type(error).__name__)
            log(logging.DEBUG, "where it failed", request_id=request_id, frames=list_frames(error))
            message = f"the server failed ({type(error).__name__}). Request {exchange.request_id} is in its log."
            return self._render_error(RequestError(message, "internal"), visit)

    def make_call(self, exchange: Exchange) -> Call:
        timeout = self.options.request_timeout
        for name in TIMEOUT_HEADERS:
            try:
                value = float(exchange.header(name) or "nan")
            except ValueError:
                continue
            if value > 0:
                timeout = min(value, MAX_TIMEOUT)
                break
        return Call(
            timeout=timeout,
            reads_cache="no-store" not in (exchange.header("cache-control") or "").lower(),
            request_id=exchange.request_id,
        )

    def render_metrics(self) -> bytes:
        return self.metrics.render()

    def check_admin(self, exchange: Exchange) -> None:
        """
        Raises:
            RequestError: the request may not administer the server.
        """
        sent = (exchange.header("authorization") or "").removeprefix("Bearer ").encode()
        key = self.options.admin_key
        if key is not None and compare_digest(sent, key.encode()):
            return
        if self.options.uds is not None and key is None:
            return
        raise RequestError(
            "this needs the admin key: 'Authorization: Bearer KEY', with the KEY of --admin-key.", "forbidden"
        )

    def answer_probe(self, probe: Probe) -> Answer:
        """What an orchestrator asks. It needs no key, and does not wait for work.

        "startup" is 503 until the models were ready once; "ready" while they are loaded, while the server drains, and
        after an engine has failed; "health" and "live" are "ready" without draining; "live" without loading, too.
        """
        health = self.check_health()
        loading = self.state == "loading"
        down = {
            "startup": not self.was_ready,
            "ready": self.state != "ready" or health.state != "ok",
            "health": loading or health.state != "ok",
            "live": health.state == "stuck",
        }[probe]
        status = self.state if self.state != "ready" else health.state
        body: dict[str, Any] = {"unix": time.time(), "status": status}
        if not down:
            return json_answer(body)
        reason = health.reason if health.state != "ok" else f"the server is {self.state}"
        body |= {"error": reason, "error_type": "Unhealthy", "seconds": round(time.monotonic() - self.began, 1)}
        return json_answer(body, status=503, headers={"retry-after": str(int(LOADING_RETRY_SECONDS))})

    def _check_ready(self) -> None:
        """
        Raises:
            RequestError: there are no models yet, or no more. Whether an engine works is looked at for the model that a
                request needs, by `Service`.
        """
        if self.state in ("loading", "stopped"):
            raise RequestError(
                f"the server is {self.state}. Try again in some seconds.",
                "unavailable",
                retry_after=LOADING_RETRY_SECONDS,
            )

    def _render_error(self, error: RequestError, visit: Visit) -> Answer:
        visit.call.error_kind = error.kind
        self.metrics.count_rejection(error.kind)
        return visit.render_error(error)

    def _refuse_method(self, endpoint: Endpoint, exchange: Exchange) -> Answer:
        allowed = ", ".join(sorted({*endpoint.operations, "OPTIONS"}))
        if exchange.method == "OPTIONS":
            return Answer(b"", 204, headers={"allow": allowed})
        error = RequestError(
            f"{exchange.method} is not for {endpoint.path}, which has {allowed}.", "method_not_allowed"
        )
        answer = endpoint.render_error(error)
        return replace(answer, headers={**answer.headers, "allow": allowed})

    async def _answer_unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        error = RequestError(
            f"there is nothing at {exchange.path}. The routes are in the guide to serving.", "not_found"
        )
        answer = render_openai_error(error)
        await exchange.drop_rest()
        await exchange.send(answer)
        self.finish("other", exchange, self.make_call(exchange), answer)

    def finish(self, route: str, exchange: Exchange, call: Call, answer: Answer, *, quiet: bool = False) -> None:
        """Count a request that was answered, and log it; probes and lists are logged at the level debug."""
        self.metrics.count_request(
            route, exchange.method, answer.status, call, (exchange.num_body_bytes, len(answer.body))
        )
        self.tracer.record(route, exchange, call, answer.status)
        quiet = quiet or (not call.counts and answer.status < 400)
        line = f"{quote_sent(exchange.method)} {quote_sent(exchange.path)}"
        log(logging.DEBUG if quiet else logging.INFO, line, **_log_fields(call, answer, has_keys=bool(self.keys)))

    def _normalize_path(self, path: str) -> str:
        """Without the prefix, doubled slashes and a slash at the end."""
        while "//" in path:
            path = path.replace("//", "/")
        prefix = self.options.url_prefix
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            path = path[len(prefix) :]
        return path.rstrip("/") or "/"

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Handler:
    """Answers the requests of one endpoint."""

    def __init__(self, app: App, endpoint: Endpoint) -> None:
        self.app, self.endpoint = app, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, exchange = self.app, Exchange(scope, receive, send)
        call = app.make_call(exchange)
        app.service.open_call(call)
        try:
            answer = await app.answer(self.endpoint, Visit(app, exchange, call, scope["path_params"]))
            await exchange.drop_rest()
            close = answer.status == 413 or app.state == "draining"
            await exchange.send(answer, close=close)
        except (ClientGoneError, DisconnectedError):
            answer = Answer(b"", CLIENT_GONE)
        finally:
            app.service.close_call(call)
        app.finish(self.endpoint.path, exchange, call, answer, quiet=self.endpoint.is_probe)


def _describe(model: ServedModel) -> dict[str, Any]:
    info = model.info()
    return {
        "source": info.source,
        "engine": info.engine,
        "dimensions": ",".join(map(str, info.dimensions)),
        "prompts": ",".join(info.prompts) or "none",
        "tokens_per_second": info.stats["tokens_per_second"],
        "fingerprint": info.fingerprint[:12],
    }


def _log_fields(call: Call, answer: Answer, *, has_keys: bool) -> dict[str, Any]:
    """
    Args:
        has_keys: whether the client of a call is the name of its key.
    """
    fields: dict[str, Any] = {
        "status": answer.status,
        "total_ms": round(call.seconds * 1000, 2),
        "request_id": quote_sent(call.request_id),
    }
    if has_keys and call.client is not None:
        fields["key"] = call.client
    if call.counts:
        fields |= {
            "model": call.model.name if call.model else None,
            "inputs": call.num_inputs,
            "tokens": call.num_tokens,
            "truncated": call.num_truncated,
            "lane": call.lane,
        }
    if call.timings is not None:
        fields |= {
            "queue_ms": round(call.timings.queue * 1000, 2),
            "inference_ms": round(call.timings.inference * 1000, 2),
        }
    if call.error_kind is not None:
        fields["error"] = call.error_kind
    return fields
