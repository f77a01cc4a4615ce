"""`App`: the ASGI application. It routes requests, and knows whether it is ready.

The port is open before the models are loaded: until then, requests get 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from hmac import compare_digest
from typing import Any, Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router

from gnomon.errors import InputError
from gnomon.serve.auth import ApiKeys
from gnomon.serve.call import Call, ClientGoneError
from gnomon.serve.exchange import DisconnectedError, Exchange, Receive, Scope, Send
from gnomon.serve.loading import Load, ModelLoader, describe_model
from gnomon.serve.logs import list_frames, log, quote_sent
from gnomon.serve.metrics import CLIENT_GONE, Metrics
from gnomon.serve.models import load_encoder
from gnomon.serve.operations import ENDPOINTS
from gnomon.serve.options import ServeOptions
from gnomon.serve.requests import LOADING_RETRY_SECONDS, Answer, RequestError
from gnomon.serve.service import Service
from gnomon.serve.tracing import Tracer
from gnomon.serve.visit import Endpoint, Probe, Visit
from gnomon.serve.watch import check_health, watch_engines
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.vectors import json_answer

State = Literal["loading", "ready", "draining", "stopped"]

EXIT_STUCK = 70
"""Exit status after a step that is stuck (EX_SOFTWARE): whoever started the server starts it again."""

TIMEOUT_HEADERS = ("x-request-timeout", "x-stainless-read-timeout")
"""Seconds that the client waits; the latter is sent by OpenAI's clients."""

MAX_TIMEOUT = 3600.0
"""Seconds that a client may wait at most."""


class App:
    """The server as an ASGI application.

    Args:
        options: what the operator chose.
        load: reads a model; another function puts a model in that this process made.
    """

    def __init__(self, options: ServeOptions, load: Load = load_encoder) -> None:
        self.options = options
        self.state: State = "loading"
        self.was_ready = False
        self.began = time.monotonic()
        self.keys = ApiKeys(options.api_keys, options.api_key_file)
        self.service = Service(options)
        self.metrics = Metrics(self.service)
        self.tracer = Tracer(options)
        self.loader = ModelLoader(options, load, self.service, self.metrics.count_step)
        self.ended: asyncio.Future[int | BaseException] | None = None
        """Set once the server must end by itself: its exit status, or why the models could not be loaded."""
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
        """Let go of the models, and send the last traces; what still waits fails."""
        self.state = "stopped"
        for task in self._tasks:
            task.cancel()
        await self.loader.close()
        self.service.close()
        await self.tracer.close()

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
            loaded = await self.loader.reload(name, revision, changed_only=changed_only)
            unchanged = [model.name for model in self.service.models if model.name not in loaded]
            log(logging.INFO, "reloaded", keys=len(self.keys), loaded=loaded, unchanged=unchanged)

    async def _load_all(self) -> None:
        assert self.ended is not None
        try:
            await self.loader.load_all()
        except BaseException as error:
            if not self.ended.done():
                self.ended.set_result(error)
            return
        if self.state != "loading":  # a signal came in the meantime
            return
        self.state, self.was_ready = "ready", True
        for model in self.service.models:
            log(logging.INFO, f"{model.name} is ready", **describe_model(model))
        log(logging.INFO, "ready", seconds=round(time.monotonic() - self.began, 1))
        if self.options.exit_when_loaded:
            self.ended.set_result(0)
        self._spawn(self._end_when_stuck())

    async def _end_when_stuck(self) -> None:
        assert self.ended is not None
        await watch_engines(self.service)
        if not self.ended.done():
            self.ended.set_result(EXIT_STUCK)

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
        health = check_health(self.service.models)
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
        fields = _log_fields(call, answer, has_keys=bool(self.keys))
        client = quote_sent(exchange.client) or None
        log(logging.DEBUG if quiet else logging.INFO, line, **fields, client=client)

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
