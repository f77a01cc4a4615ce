"""The load generator counts what a server really did: a small server of the test answers it in the same loop."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench.serving.client import Address
from bench.serving.load import Counts, Group, Plan, Prepared, prepare, send_plan

Respond = Callable[[int, bytes], bytes]


def answer(status: int, body: bytes, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


class Server:
    """Answers the n-th request with `respond(n, body)`, in pieces of `piece` bytes; no bytes close the connection."""

    def __init__(self, respond: Respond, piece: int = 1 << 20) -> None:
        self.respond, self.piece = respond, piece
        self.bodies, self.connections = list[bytes](), 0
        self.handlers = list[asyncio.Task[Any]]()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.handlers += filter(None, [asyncio.current_task()])
        while head := await self.read_head(reader):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            self.bodies.append(await reader.readexactly(length))
            data = self.respond(len(self.bodies) - 1, self.bodies[-1])
            if not data:
                break
            for start in range(0, len(data), self.piece):
                writer.write(data[start : start + self.piece])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    async def read_head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


def run(server: Server, plan: Plan, during: Callable[[], Awaitable[Any]] | None = None) -> dict[str, Any]:
    async def both() -> dict[str, Any]:
        async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
            address = Address(port=listening.sockets[0].getsockname()[1])
            result = await send_plan(plan, address, during)
            async with asyncio.timeout(10):  # a connection that the generator leaves open fails the test
                await asyncio.gather(*server.handlers)
            return result

    return asyncio.run(both())


def bodies(count: int, **sizes: int) -> list[Prepared]:
    return [prepare("/v1/embeddings", {"input": f"text {number}"}, **sizes) for number in range(count)]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("clients", [1, 5])
def test_every_request_is_sent_once_and_counted(piece: int, clients: int) -> None:
    server = Server(lambda number, body: answer(200, b"x" * 100, X_Gnomon_Tokens="6"), piece)
    result = run(server, Plan([Group("all", bodies(23, texts=2, tokens=5), clients, count=23)]))
    counted = result["groups"]["all"]
    assert sorted(json.loads(body)["input"] for body in server.bodies) == sorted(f"text {n}" for n in range(23))
    assert counted["codes"] == {"200": 23} and counted["errors"] == {} and result["unanswered"] == 0
    assert (counted["texts"], counted["tokens"], counted["header_tokens"]) == (46, 115, 138)
    assert counted["bytes"] == 2300 and counted["milliseconds"]["count"] == 23
    assert counted["per_second"]["texts"] == pytest.approx(46 / counted["seconds"])
    assert server.connections == clients


def test_requests_begin_again_where_there_are_fewer_than_wanted() -> None:
    server = Server(lambda number, body: answer(200, b""))
    run(server, Plan([Group("all", bodies(3), count=8)]))
    assert [json.loads(body)["input"] for body in server.bodies] == [f"text {n % 3}" for n in range(8)]


def test_refused_requests_are_no_part_of_the_rates() -> None:
    server = Server(lambda number, body: answer(429 if number % 4 == 0 else 200, b"{}"))
    counted = run(server, Plan([Group("all", bodies(20, texts=3), count=20)]))["groups"]["all"]
    assert counted["codes"] == {"200": 15, "429": 5} and counted["texts"] == 45
    assert counted["milliseconds"]["count"] == 15 and counted["milliseconds_refused"]["count"] == 5


def test_refusals_that_do_not_say_when_to_try_again_are_counted() -> None:
    headers: list[dict[str, str]] = [{"Retry_After": "1"}, {}, {"retry_after": "2"}, {}]
    server = Server(lambda number, body: answer((429, 503, 429, 200)[number % 4], b"{}", **headers[number % 4]))
    result = run(server, Plan([Group("all", bodies(8), count=8)]))
    assert result["groups"]["all"]["codes"] == {"429": 4, "503": 2, "200": 2}
    assert result["counts"]["all"].without_retry_after == 2


def test_a_closed_connection_is_an_error_and_the_next_request_opens_another() -> None:
    server = Server(lambda number, body: b"" if number in (2, 5) else answer(200, b"{}"))
    result = run(server, Plan([Group("all", bodies(9), count=9)]))
    counted, counts = result["groups"]["all"], result["counts"]["all"]
    assert counted["errors"] == {"ConnectionResetError": 2} and counted["codes"] == {"200": 7}
    # the third request and the sixth
    assert (
        counts.ends[1] <= counts.broken[0] <= counts.starts[2]
        and counts.ends[3] <= counts.broken[1] <= counts.starts[4]
    )
    assert server.connections == 3


def test_a_server_that_says_close_gets_a_new_connection() -> None:
    server = Server(lambda number, body: answer(200, b"{}", Connection="close"))
    counted = run(server, Plan([Group("all", bodies(4), count=4)]))["groups"]["all"]
    assert counted["codes"] == {"200": 4} and counted["errors"] == {} and server.connections == 4


def test_nobody_listens() -> None:
    plan = Plan([Group("all", bodies(3), count=3)])
    counted = asyncio.run(send_plan(plan, Address(port=9)))["groups"]["all"]
    assert counted["errors"] == {"ConnectionRefusedError": 3} and counted["requests"] == 0
    assert counted["milliseconds"] is None


def test_groups_run_side_by_side_and_answers_are_stored_with_their_numbers() -> None:
    server = Server(lambda number, body: answer(200, body[::-1]), piece=3)
    bulk, single = bodies(4, texts=8), [prepare("/embed", {"inputs": "one"})]
    result = run(server, Plan([Group("bulk", bulk, 2, count=4), Group("one", single, count=6, keep=True)]))
    assert result["groups"]["bulk"]["texts"] == 32 and result["groups"]["one"]["texts"] == 6
    assert sorted(result["counts"]["one"].answers) == [(n, b'{"inputs": "one"}'[::-1]) for n in range(6)]
    assert result["counts"]["bulk"].answers == []


def test_in_an_open_loop_latency_counts_from_when_a_request_was_due() -> None:
    """One client, a thousand requests due at once: each waits for all before it."""
    server = Server(lambda number, body: answer(200, b"{}"))
    result = run(server, Plan([Group("all", bodies(1), clients=1, count=50, rate=1e9)]))
    counts: Counts = result["counts"]["all"]
    assert max(counts.starts) - min(counts.starts) < 1e-6 and counts.ends == sorted(counts.ends)
    assert result["groups"]["all"]["milliseconds"]["highest"] == pytest.approx(
        1e3 * (counts.ends[-1] - counts.starts[-1])
    )


def test_a_time_ends_the_load_and_what_is_under_way_is_awaited() -> None:
    server = Server(lambda number, body: answer(200, b"{}"))
    result = run(server, Plan([Group("all", bodies(1), clients=2)], seconds=0.05))
    counts: Counts = result["counts"]["all"]
    assert len(counts.ends) == len(server.bodies) > 0 and result["unanswered"] == 0
    assert result["groups"]["all"]["requests"] <= len(counts.ends)


def test_quantiles_are_of_the_requests_that_ended_in_time() -> None:
    counts = Counts()
    for number in range(1, 201):
        counts.starts.append(0.0)
        counts.ends.append(number / 100)
        counts.statuses.append(200)
        counts.sent.append(Prepared(b"", texts=4, tokens=10))
        counts.num_bytes.append(1)
        counts.header_tokens.append(11)
    result = counts.summarize(0.0, 1.0)
    assert result["requests"] == 100 and result["per_second"] == {"requests": 100, "texts": 400, "tokens": 1000}
    assert result["milliseconds"] == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "highest": 1000, "count": 100})


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Plan([Group("a", bodies(2, texts=3, tokens=9), clients=4, rate=2.5, keep=True)], seconds=3, process=7)
    plan.write(tmp_path / "plan.json", Address(port=81))
    assert Plan.read(tmp_path / "plan.json") == (plan, Address(port=81))
    plan.write(tmp_path / "plan.json", Address(uds=tmp_path / "socket"))
    assert Plan.read(tmp_path / "plan.json")[1] == Address(uds=tmp_path / "socket")


def test_bodies_of_bytes_are_sent_as_they_are() -> None:
    data = prepare("/embed", b"{", headers={"Authorization": "Bearer k"}).data
    assert data.startswith(b"POST /embed HTTP/1.1\r\n") and data.endswith(b"\r\n\r\n{")
    assert b"Content-Length: 1\r\n" in data and b"Authorization: Bearer k\r\n" in data
