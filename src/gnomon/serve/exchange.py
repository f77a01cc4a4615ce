"""`Exchange`: one HTTP request and its answer, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

from gnomon.serve.requests import Answer, RequestError
from gnomon.serve.wire.fields import decompress

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_REQUEST_ID = 128


class DisconnectedError(Exception):
    """The client went away before its request was read."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case names."""
        self.request_id = _read_request_id(self.header("x-request-id"))
        self.num_body_bytes = 0
        self.started = False
        """Whether the answer has begun."""
        self._watcher: asyncio.Task[None] | None = None

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def client(self) -> str:
        """The address that the request comes from; "" on a unix socket."""
        client = self.scope.get("client")
        return client[0] if client else ""

    async def read_body(self, limit: int) -> bytes:
        """The body, unpacked.

        Raises:
            RequestError: "too_large"; the rest is not read.
            DisconnectedError: the client went away.
        """
        declared = self.header("content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts = list[bytes]()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            part = message.get("body", b"")
            self.num_body_bytes += len(part)
            if self.num_body_bytes > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body"):
                break
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = self.header("content-encoding")
        return decompress(body, limit, encoding) if encoding and encoding != "identity" else body

    def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Call a function when the client goes away. The body must have been read."""

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self.started:
                on_disconnect()

        self._watcher = asyncio.create_task(watch())

    async def send(self, answer: Answer, *, close: bool = False) -> None:
        """Send the answer.

        Args:
            close: whether to ask the client to close the connection.
        """
        self.started = True
        if self._watcher is not None:
            self._watcher.cancel()
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-request-id", self.request_id.encode()),
        ]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
        if (trace := self.headers.get(b"traceparent")) is not None:
            headers.append((b"traceparent", trace))
        if close:
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if self.method == "HEAD" else answer.body
        await self._send({"type": "http.response.body", "body": body})


def _read_request_id(sent: str | None) -> str:
    """The client's own, where it is printable and short; else a new one."""
    if sent and len(sent) <= MAX_REQUEST_ID and sent.isascii() and sent.isprintable():
        return sent
    return uuid4().hex


def _too_large(limit: int) -> RequestError:
    return RequestError(
        f"the body is larger than {limit:,} bytes, which is the limit here. Send fewer texts at once, or start the "
        "server with a larger --max-body.",
        "too_large",
    )
