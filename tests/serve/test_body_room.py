"""Bodies together are bounded, and large ones are read in threads."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gnomon.serve.body_room import BodyRoom
from gnomon.serve.exchange import Exchange
from gnomon.serve.requests import RequestError
from gnomon.serve.visit import Visit


def exchange(room: BodyRoom, parts: list[bytes], **headers: str) -> Exchange:
    messages: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Exchange({"method": "POST", "path": "/", "headers": raw}, receive, send, room)


def receive(one: Exchange, limit: int = 1000) -> bytes:
    return asyncio.run(one.receive_body(limit, 10))


def test_bodies_share_the_room_until_they_are_released() -> None:
    room = BodyRoom(100)
    first, second = exchange(room, [b"a" * 50, b"b" * 30]), exchange(room, [b"c" * 15, b"d" * 15])
    assert receive(first) == b"a" * 50 + b"b" * 30
    assert room.num_bytes == 80
    with pytest.raises(RequestError, match="100") as caught:
        receive(second)
    assert (caught.value.kind, caught.value.retry_after) == ("overloaded", 1.0)
    assert room.num_bytes == 95
    second.release_body()
    first.release_body()
    first.release_body()
    assert room.num_bytes == 0
    assert receive(exchange(room, [b"e" * 40])) == b"e" * 40


def test_a_body_alone_has_room() -> None:
    room = BodyRoom(100)
    only = exchange(room, [b"a" * 90, b"b" * 90])
    assert len(receive(only)) == room.num_bytes == 180
    only.release_body()
    assert room.num_bytes == 0


def test_a_compressed_body_is_unpacked_by_itself() -> None:
    packed = gzip.compress(b"x" * 5000)
    one = exchange(BodyRoom(), [packed], content_encoding="gzip")
    assert one.is_compressed
    assert one.unpack_body(receive(one), 5000) == b"x" * 5000
    with pytest.raises(RequestError) as caught:
        one.unpack_body(packed, 4999)
    assert caught.value.kind == "too_large"
    assert not exchange(BodyRoom(), [b""], content_encoding="identity").is_compressed


@pytest.mark.parametrize(
    ("size", "headers", "in_thread"), [(10, {}, False), (1 << 21, {}, True), (10, {"content_encoding": "gzip"}, True)]
)
def test_large_and_compressed_bodies_are_read_in_a_thread(size: int, headers: dict[str, str], in_thread: bool) -> None:
    async def read() -> threading.Thread:
        async def run_in_thread(function: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(None, function)

        host: Any = SimpleNamespace(service=SimpleNamespace(parsing=asyncio.Semaphore(1), run_in_thread=run_in_thread))
        one = exchange(BodyRoom(), [b"a" * size], **headers)
        await one.receive_body(1 << 22, 10)
        call: Any = None
        return await Visit(host, one, call, {}).read_in_thread(threading.current_thread)

    assert (asyncio.run(read()) is not threading.current_thread()) is in_thread
