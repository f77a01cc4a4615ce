"""`Visit`: a request at an endpoint; `Host`: what an endpoint may use of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from gnomon.serve.exchange import Exchange
from gnomon.serve.options import ServeOptions
from gnomon.serve.requests import Answer, RequestError
from gnomon.serve.service import Call, Service
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.fields import Fields, parse_body

Probe = Literal["startup", "ready", "health", "live"]

LARGE_BODY_BYTES = 1 << 20
"""Larger bodies are parsed in a thread."""

Result = TypeVar("Result")

NO_METHODS: frozenset[str] = frozenset()


class Host(Protocol):
    """What an endpoint may use of the server."""

    options: ServeOptions
    service: Service

    def answer_probe(self, probe: Probe) -> Answer: ...

    def check_admin(self, exchange: Exchange) -> None:
        """
        Raises:
            RequestError: the request may not administer the server.
        """
        ...

    def render_metrics(self) -> bytes: ...

    async def reload(self, name: str | None = None, revision: str | None = None) -> None:
        """
        Raises:
            RequestError: a model could not be loaded again.
        """
        ...


class Visit:
    """A request while an operation answers it."""

    def __init__(self, host: Host, exchange: Exchange, call: Call, parameters: Mapping[str, str]) -> None:
        self.host, self.exchange, self.call, self.parameters = host, exchange, call, parameters
        self.render_error: Callable[[RequestError], Answer] = render_openai_error
        """The shape of errors, once the dialect is known."""

    async def read_fields(self) -> Fields:
        """The body. The client's leaving is noticed from here on."""
        body = await self._receive_body()
        self.exchange.watch(self.call.disconnect)
        return await self.read_in_thread(lambda: parse_body(self._unpack_body(body)))

    async def read_body(self) -> bytes:
        """The body as bytes."""
        return self._unpack_body(await self._receive_body())

    async def read_in_thread(self, read: Callable[[], Result]) -> Result:
        """The result of a function that reads the body; a large one would hold the event loop up."""
        if self.exchange.num_body_bytes <= LARGE_BODY_BYTES and not self.exchange.is_compressed:
            return read()
        async with self.host.service.parsing:
            return await self.host.service.run_in_thread(read)

    async def _receive_body(self) -> bytes:
        options = self.host.options
        timeout = min(self.call.seconds_left, options.request_timeout)
        return await self.exchange.receive_body(options.max_body_bytes, timeout)

    def _unpack_body(self, body: bytes) -> bytes:
        return self.exchange.unpack_body(body, self.host.options.max_body_bytes)


Operation = Callable[[Visit], Awaitable[Answer]]


@dataclass(frozen=True)
class Endpoint:
    """What answers a path: an operation per method."""

    path: str
    operations: Mapping[str, Operation]
    render_error: Callable[[RequestError], Answer] = render_openai_error
    is_probe: bool = False
    guarded_methods: frozenset[str] = frozenset({"GET", "HEAD", "POST"})
    """The methods that need an API key, where there are any."""
    model_methods: frozenset[str] = frozenset({"GET", "HEAD", "POST"})
    """The methods that are refused while no model is ready."""
