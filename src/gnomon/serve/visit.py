"""`Visit`: a request at an endpoint; `Host`: what an endpoint may use of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

from gnomon.serve.call import Call
from gnomon.serve.exchange import Exchange
from gnomon.serve.options import ServeOptions
from gnomon.serve.requests import Answer, RequestError
from gnomon.serve.service import Service
from gnomon.serve.wire.errors import render_openai_error
from gnomon.serve.wire.fields import Fields, decompress, parse_body

Probe = Literal["startup", "ready", "health", "live"]

INLINE_BODY_BYTES = 256 << 10
"""Larger bodies are parsed in a thread."""

Parsed = TypeVar("Parsed")

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

    async def parse(self, read: Callable[[Fields], Parsed], *, empty: bytes = b"") -> Parsed:
        """What a reader makes of the body. The client's leaving is noticed from here on.

        Args:
            read: runs in a thread where the body is large, or may become large when it is unpacked.
            empty: what stands for an empty body.

        Raises:
            RequestError: the body is too large, comes too late, or is not what the reader reads.
        """
        options, service = self.host.options, self.host.service
        body = await self._read_body()
        self.exchange.watch(self.call.disconnect)
        encoding = self.exchange.header("content-encoding") or "identity"

        def parse() -> tuple[Parsed, int]:
            raw = decompress(body, options.max_body_bytes, encoding)
            return read(parse_body(raw or empty, options.max_inputs)), len(raw)

        if len(body) <= INLINE_BODY_BYTES and encoding == "identity":
            return parse()[0]
        async with service.parsing:
            self.call.check_alive()
            parsed, num_bytes = await service.run_in_thread(parse)
        service.memory.reserve_body(self.call, num_bytes)
        return parsed

    async def _read_body(self) -> bytes:
        """The body's bytes. A client that waits for long may not take longer to send them than others."""
        options, call = self.host.options, self.call
        timeout = min(call.seconds_left, options.request_timeout)
        reserve = partial(self.host.service.memory.reserve_body, call)
        return await self.exchange.read_body(options.max_body_bytes, timeout, reserve)


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
