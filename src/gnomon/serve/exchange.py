"""`Exchange`: one HTTP request and its answer, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from random import getrandbits
from typing import Any

from gnomon.serve.body_room import BodyRoom
from gnomon.serve.requests import Answer, RequestError
from gnomon.serve.wire.fields import decompress

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_REQUEST_ID = 128

REST_BYTES, REST_SECONDS = 64 << 20, 5.0
"""So much of a body is read, and dropped, where the answer is known before: a client that still sends it would find the
connection closed, and not see the answer.
"""

WATCH_AFTER_SECONDS = 0.05

PART_BYTES = 1 << 20
PART_SECONDS = 30.0
"""A client that takes longer to read so many bytes of an answer is given up."""


class DisconnectedError(Exception):
    """The client went away, or does not read its answer."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: BodyRoom | None = None) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case names."""
        self.request_id = _read_request_id(self.header("x-request-id"))
        self.num_body_bytes = 0
        self._room, self._num_held = room or BodyRoom(), 0
        self._has_body = True
        """Whether there is more of it to read."""
        self.started = False
        """Whether the answer has begun."""
        self._on_disconnect: Callable[[], None] = lambda: None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def client(self) -> str:
        """The address that the request comes from; "" on a unix socket."""
        client = self.scope.get("client")
        return client[0] if client else ""

    async def receive_body(self, limit: int, timeout: float) -> bytes:
        """The body, as it was sent.

        Args:
            limit: bytes of it.
            timeout: seconds in which it must arrive.

        Raises:
            RequestError: "too_large", where the rest is not read; "timeout"; "overloaded", where the bodies of others
                take all the room.
            DisconnectedError: the client went away.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._receive_body(limit)
        except TimeoutError:
            raise RequestError("the body did not arrive in time. Send it faster.", "timeout") from None

    @property
    def is_compressed(self) -> bool:
        return (self.header("content-encoding") or "identity") != "identity"

    def unpack_body(self, body: bytes, limit: int) -> bytes:
        """A body that was received, without its compression.

        Args:
            limit: bytes of the result.

        Raises:
            RequestError: as `decompress`.
        """
        return decompress(body, limit, self.header("content-encoding") or "identity")

    def release_body(self) -> None:
        """The request is answered: its body is not held any more."""
        self._room.release(self._num_held)
        self._num_held = 0

    async def _receive_body(self, limit: int) -> bytes:
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
            self._room.take(len(part), self._num_held)
            self._num_held += len(part)
            parts.append(part)
            if not message.get("more_body"):
                self._has_body = False
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def drop_rest(self) -> None:
        """Read what is left of the body, up to a limit."""
        if not self._has_body:
            return
        num_bytes = 0
        try:
            async with asyncio.timeout(REST_SECONDS):
                while self._has_body and num_bytes < REST_BYTES:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise DisconnectedError
                    num_bytes += len(message.get("body", b""))
                    self._has_body = bool(message.get("more_body"))
        except TimeoutError:
            return

    def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Call a function when the client goes away. The body must have been read. A request that is answered within
        `WATCH_AFTER_SECONDS` is not watched: starting to costs more than is saved.
        """
        self._on_disconnect = on_disconnect
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start_to_watch)

    def _start_to_watch(self) -> None:
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.started:
            self._on_disconnect()

    async def send(self, answer: Answer, *, close: bool = False) -> None:
        """Send the answer.

        Args:
            close: whether to ask the client to close the connection.

        Raises:
            DisconnectedError: the client does not read it.
        """
        self.started = True
        if self._watch_timer is not None:
            self._watch_timer.cancel()
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
        if close and self.scope.get("http_version", "1.1") in ("1.0", "1.1"):
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send_body(b"" if self.method == "HEAD" else answer.body)

    async def _send_body(self, body: bytes) -> None:
        """Send the body, a large one part by part: so a client that reads slowly holds up itself alone."""
        if len(body) <= PART_BYTES:
            await self._send({"type": "http.response.body", "body": body})
            return
        for start in range(0, len(body), PART_BYTES):
            stop = start + PART_BYTES
            try:
                async with asyncio.timeout(PART_SECONDS):
                    await self._send(
                        {"type": "http.response.body", "body": body[start:stop], "more_body": stop < len(body)}
                    )
            except TimeoutError:
                raise DisconnectedError from None


def _read_request_id(sent: str | None) -> str:
    """The client's own, where it is printable and short; else a new one."""
    if sent and len(sent) <= MAX_REQUEST_ID and sent.isascii() and sent.isprintable():
        return sent
    return make_id()


def make_id() -> str:
    """A new identifier: 32 hexadecimal digits."""
    return f"{getrandbits(128):032x}"


def _too_large(limit: int) -> RequestError:
    return RequestError(
        f"the body is larger than {limit:,} bytes, which is the limit here. Send fewer texts at once, or start the "
        "server with a larger --max-body.",
        "too_large",
    )
