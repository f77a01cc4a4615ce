"""Runs the application: in granian, or in uvicorn; both in this process, on one event loop of ours."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Never, Protocol

from gnomon import interrupts
from gnomon.errors import ExtraError, GnomonError, InputError, Notice
from gnomon.install import advise_install
from gnomon.serve.app import EXIT_STUCK, App
from gnomon.serve.logs import log, set_up_logs
from gnomon.serve.options import ServeOptions
from gnomon.serve.tls import Certificate

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections (60 seconds), so that the server is not the one that closes them.
granian has one limit for that and for the time in which a request's head must arrive.
"""

LAST_SECONDS = 2.0
"""How long answers may take to leave once all requests are done or have failed."""

POLL_SECONDS = 0.05

SIGNAL_SECONDS = 0.01
"""How long the start waits for a signal that came before the event loop took them."""


class HttpServer(Protocol):
    """granian or uvicorn, on our event loop."""

    async def serve(self) -> None:
        """Accept connections until `stop`, then until the requests under way are answered."""
        ...

    def stop(self) -> None:
        """Accept no more connections."""
        ...

    def take_certificate(self, certificate: Certificate) -> bool:
        """Serve new connections with the files as they are now. Returns False where it reads them at the start only."""
        ...


def run_server(options: ServeOptions, make_app: Callable[[ServeOptions], App] = App) -> int:
    """Serve until a signal, or until the server must end by itself; returns the exit status.

    The first SIGTERM or SIGINT drains: the requests under way are answered. A second one ends at once. SIGHUP reads the
    keys and the certificate again, and loads models again whose files have changed. The status is 130 after a SIGINT
    before the server was ready, and 0 after any other signal.

    Args:
        make_app: makes the application; tests put a model with a faulty engine in.

    Raises:
        GnomonError: options that cannot be used, or a model that cannot be loaded.
    """
    set_up_logs(options.log_format, options.log_level)
    limit_tokenizer_threads(options)
    warnings.showwarning = _log_warning
    sys.setswitchinterval(0.001)  # the event loop waits for no longer than this on a thread that computes in Python
    global has_served
    has_served = True
    return asyncio.run(_Runner(options, make_app).run())


def limit_tokenizer_threads(options: ServeOptions) -> None:
    """Let the tokenizers library have no more threads than the operator chose. It has a pool of its own (rayon), which
    the threads of ours hand their texts to; it reads the variable once, when it tokenises first. An operator who set
    the variable has chosen already.
    """
    if options.tokenizer_threads is not None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(options.tokenizer_threads))


UNREADY = "ended before it was ready"

has_served = False
"""Whether this process has run a server. Its HTTP server and engine have threads of their own, which are not ended one
by one: the command line then leaves without the interpreter's clean-up, in which such threads once ended it by SIGABRT.
"""


def leave(status: int, message: str = "ended without waiting for what still runs") -> Never:
    """End the process at once, whatever its threads do."""
    log(logging.WARNING, message, status=status)
    sys.stderr.flush()
    os._exit(status)


def _log_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning of gnomon as a line of the log; those for developers are not shown."""
    if issubclass(category, Notice):
        log(logging.WARNING, " ".join(str(message).split()))


class _Runner:
    """The application, its HTTP server, and the signals between them."""

    def __init__(self, options: ServeOptions, make_app: Callable[[ServeOptions], App]) -> None:
        self.options = options
        self.app = make_app(options)
        self._signals = 0
        self._stop = asyncio.Event()
        self._tasks = set[asyncio.Task[Any]]()

    async def run(self) -> int:
        if self.options.tls_cert is not None and self.options.tls_key is not None:
            self._certificate = Certificate(self.options.tls_cert, self.options.tls_key)
        if self.options.exit_when_loaded:
            return await self._load_only()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        check_address(self.options)
        server = self._server = open_server(self.app, self.options)
        stop = asyncio.create_task(self._stop.wait())
        if (await asyncio.wait({stop}, timeout=SIGNAL_SECONDS))[0] or interrupts.was_interrupted():
            stop.cancel()
            return self._end_unready()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        metrics = await _serve_metrics(self.app, self.options.metrics_port)
        await self.app.start()
        assert self.app.ended is not None
        serving = asyncio.create_task(server.serve())
        log(logging.INFO, f"listening on {describe_address(self.options)}; loading")
        await asyncio.wait({serving, stop, self.app.ended}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        ended = self.app.ended.result() if self.app.ended.done() else None
        if ended is None and not serving.done() and self.app.state != "loading":
            await self._drain(server)
        else:
            server.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), LAST_SECONDS)
        status = ended if isinstance(ended, int) else 0
        still_loads = self.app.state == "loading" and ended is None
        if status == EXIT_STUCK:
            await self.app.tracer.close()
        if still_loads and self._signals:
            leave(self._unready_status, UNREADY)  # a thread that loads would be waited for
        if self._signals > 1 or status == EXIT_STUCK:
            leave(status)
        await self.app.stop()
        if metrics is not None:
            metrics.close()
        if isinstance(ended, BaseException):
            raise ended
        if ended is None and serving.done() and serving.exception() is not None:
            raise serving.exception()  # pyright: ignore[reportGeneralTypeIssues]
        return ended or 0

    @property
    def _unready_status(self) -> int:
        return interrupts.EXIT_STATUS if self._interactive or interrupts.was_interrupted() else 0

    def _end_unready(self) -> int:
        log(logging.WARNING, UNREADY, status=self._unready_status)
        return self._unready_status

    async def _load_only(self) -> int:
        """Load and check the models; nothing listens."""
        await self.app.start()
        assert self.app.ended is not None
        ended = await self.app.ended
        await self.app.stop()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    async def _drain(self, server: HttpServer) -> None:
        """Take requests for a while, so that load balancers learn of it; then answer those that are under way."""
        self.app.state = "draining"
        hint = "; Ctrl-C again ends at once" if self._interactive else ""
        log(logging.INFO, f"draining{hint}", requests=len(self.app.service.calls))
        until = time.monotonic() + (0.0 if self._interactive else self.options.drain_delay)
        while time.monotonic() < until and self._signals < 2:
            await asyncio.sleep(POLL_SECONDS)
        server.stop()
        until = time.monotonic() + self.options.drain_timeout
        while self.app.service.calls and time.monotonic() < until and self._signals < 2:
            await asyncio.sleep(POLL_SECONDS)
        for model in self.app.service.models:
            model.batcher.fail_all("the server is shutting down")
        log(logging.INFO, "stopped", unanswered=len(self.app.service.calls))

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        self._interactive = number == signal.SIGINT
        if self._signals > 1:
            log(logging.WARNING, "ending at once")
        self._stop.set()

    def _on_hangup(self) -> None:
        async def reload() -> None:
            for read in (self._reload_certificate, partial(self.app.reload, changed_only=True)):
                try:
                    await read()
                except GnomonError as error:
                    log(logging.ERROR, f"not reloaded: {error}")

        task = asyncio.create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_certificate(self) -> None:
        """
        Raises:
            InputError: the files that are there now cannot be used; the server goes on with those that it has.
        """
        certificate = self._certificate
        if certificate is None or self._server is None:
            return
        certificate.check()
        if not certificate.take_change():
            return
        if self._server.take_certificate(certificate):
            log(logging.INFO, "certificate reloaded")
        else:
            log(logging.WARNING, "the certificate changed; it is read at the start only: restart the server")

    _certificate: Certificate | None = None
    _server: HttpServer | None = None
    _interactive = False
    """Whether Ctrl-C ends it: then no load balancer needs time."""


def describe_address(options: ServeOptions) -> str:
    if options.uds is not None:
        return f"unix socket {options.uds}"
    scheme = "https" if options.tls_cert else "http"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{options.port}{options.url_prefix}"


def check_address(options: ServeOptions) -> None:
    """Check that the server can listen where it should.

    Raises:
        InputError: the port is in use, the address is not of this machine, or the socket's folder cannot be written.
    """
    if options.uds is not None:
        _check_socket(options.uds)
        return
    try:
        families = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in families[:1]:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}. Choose another --port or "
            "--host, or end the program that listens there."
        ) from error


def _check_socket(path: Path) -> None:
    """
    Raises:
        InputError: another server listens there, or it is a file of another kind, or the folder cannot be written.
    """
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the folder of the unix socket {path} cannot be written. Choose another.")
    if not path.exists():
        return
    if not path.is_socket():
        raise InputError(f"{path} is there, and is not a socket. Choose another path.")
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            path.unlink()  # of a server that was killed
        else:
            raise InputError(f"another server listens on {path}. End it, or choose another path.")


def open_server(app: App, options: ServeOptions) -> HttpServer:
    """The HTTP server of the operator's choice.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        return _GranianServer(app, options) if options.server == "granian" else _UvicornServer(app, options)
    except ImportError as error:
        raise ExtraError(f"the server {options.server} is not installed. {advise_install('serve')}") from error


class _GranianServer:
    def __init__(self, app: App, options: ServeOptions) -> None:
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server

        self._server = Server(
            app,
            address=options.host,
            port=options.port,
            uds=options.uds,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            http1_settings=HTTP1Settings(header_read_timeout=1000 * KEEP_ALIVE_SECONDS, keep_alive=True),
            log_enabled=False,
            ssl_cert=options.tls_cert,
            ssl_key=options.tls_key,
            ssl_ca=options.tls_client_ca,
            ssl_client_verify=options.tls_client_ca is not None,
        )
        for name in ("_granian", "granian"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is in our own log

    async def serve(self) -> None:
        await self._server.serve()

    def stop(self) -> None:
        self._server.stop()

    def take_certificate(self, certificate: Certificate) -> bool:
        return False  # it reads the files when a worker starts; a new one would share the port with the old for a while


class _UvicornServer:
    def __init__(self, app: App, options: ServeOptions) -> None:
        import uvicorn

        config = uvicorn.Config(
            app,  # pyright: ignore[reportArgumentType]
            host=options.host,
            port=options.port,
            uds=str(options.uds) if options.uds else None,
            lifespan="off",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_certfile=str(options.tls_cert) if options.tls_cert else None,
            ssl_keyfile=str(options.tls_key) if options.tls_key else None,
            ssl_ca_certs=str(options.tls_client_ca) if options.tls_client_ca else None,
            ssl_cert_reqs=2 if options.tls_client_ca else 0,
        )
        self._server = uvicorn.Server(config)
        for name in ("uvicorn", "uvicorn.error"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is in our own log

    async def serve(self) -> None:
        await self._server._serve()  # pyright: ignore[reportPrivateUsage] `serve` would take the signals

    def stop(self) -> None:
        self._server.should_exit = True

    def take_certificate(self, certificate: Certificate) -> bool:
        context = self._server.config.ssl
        if context is None:  # it does not listen yet, and will read the files
            return True
        certificate.load_into(context)
        return True


async def _serve_metrics(app: App, port: int | None) -> asyncio.Server | None:
    """A second port that answers every request with the metrics."""
    if port is None:
        return None

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            body = app.metrics.render()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(body)}\r\n"
            writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, app.options.host, port)
