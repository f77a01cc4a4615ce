"""Clients that misbehave: they read slowly, leave in the middle, or never end their headers."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.serving.client import Address
from bench.serving.load import Prepared

SMALL_BUFFER = 4096
"""Bytes that a slow client's socket takes in advance; the system doubles it."""

STATUS_END = len(b"HTTP/1.1 200")


@dataclass(frozen=True)
class Ending:
    """How a connection ended."""

    how: str
    """ "closed" by the server, "answered" before the request was complete, "left" by the client, "refused" by the
    system or with another status than 200, or "time": it was still open.
    """
    num_bytes: int
    seconds: float
    status: int | None = None
    """Of the answer, where its first line was read."""


async def open_streams(
    address: Address, buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """With a small `buffer`, the system takes few bytes that the client has not read."""
    import socket

    limit = 2 * buffer if buffer else 1 << 16
    family = socket.AF_UNIX if address.uds else socket.AF_INET
    sock = socket.socket(family)
    sock.setblocking(False)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    target = str(address.uds) if address.uds else (address.host, address.port)
    await asyncio.get_running_loop().sock_connect(sock, target)
    return await asyncio.open_connection(sock=sock, limit=limit)


async def read_slowly(address: Address, request: Prepared, *, seconds: float, bytes_per_second: float = 1.0) -> Ending:
    """Send a request, and read its answer byte by byte, for so long; leave where its status is not 200."""
    start, head, count = time.monotonic(), b"", 0
    try:
        reader, writer = await open_streams(address, SMALL_BUFFER)
    except OSError:
        return Ending("refused", 0, time.monotonic() - start)
    how = "time"
    with suppress(OSError):
        writer.write(request.data)
        while time.monotonic() - start < seconds:
            try:
                data = await asyncio.wait_for(reader.read(1), max(0.0, seconds - (time.monotonic() - start)))
            except TimeoutError:
                break
            except OSError:
                data = b""
            if not data:
                how = "closed"
                break
            count += 1
            head += data if count <= STATUS_END else b""
            if len(head) == STATUS_END and count == STATUS_END and head[9:] != b"200":
                how = "refused"
                break
            await asyncio.sleep(min(1 / bytes_per_second, max(0.0, seconds - (time.monotonic() - start))))
    await close(writer)
    status = int(head[9:STATUS_END]) if len(head) == STATUS_END else None
    return Ending(how, count, time.monotonic() - start, status)


async def leave(address: Address, request: Prepared, *, after: float) -> Ending:
    """Send a request, and close the connection after so many seconds, whether or not it was answered."""
    start = time.monotonic()
    try:
        reader, writer = await open_streams(address)
    except OSError:
        return Ending("refused", 0, time.monotonic() - start)
    how, count = "left", 0
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(after):
            writer.write(request.data)
            while data := await reader.read(1 << 16):
                count += len(data)
            how = "closed"
    writer.transport.abort()
    return Ending(how, count, time.monotonic() - start)


async def send_headers_slowly(address: Address, *, seconds: float, interval: float = 1.0) -> Ending:
    """One header line per interval, without end, until the server closes or the time is over."""
    start, sent = time.monotonic(), 0
    try:
        reader, writer = await open_streams(address)
    except OSError:
        return Ending("refused", 0, time.monotonic() - start)
    how = "time"
    try:
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: bench\r\n")
        while time.monotonic() - start < seconds:
            with suppress(TimeoutError):
                data = await asyncio.wait_for(reader.read(1 << 16), interval)
                how = "closed" if not data else "answered"
                break
            sent += 1
            writer.write(f"X-Line-{sent}: 1\r\n".encode())
            await writer.drain()
    except OSError:
        how = "closed"
    await close(writer)
    return Ending(how, sent, time.monotonic() - start)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def run_all(clients: Sequence[Awaitable[Ending]]) -> list[Ending]:
    return list(await asyncio.gather(*clients))


def count_endings(endings: Sequence[Ending]) -> dict[str, int]:
    return dict(Counter(each.how for each in endings))
