"""A load generator: HTTP/1.1 over asyncio's protocols, with little processor time of its own.

usage: python -m bench.serving.load PLAN.json

The plan is `Plan.write`'s file; one line of JSON is printed, as `run_load` returns it.

Groups of clients run side by side. In a closed loop, each client sends its next request when the last was answered; in
an open loop, requests start at a fixed rate, whether or not earlier ones were answered, and their latency counts from
the moment at which they were due. Requests are prepared in advance, and answers are counted, not parsed.
"""

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench.figures import summarize_latencies
from bench.serving.client import Address
from bench.serving.process import Usage, measure_usage

GRACE = 90.0
"""Seconds after the end of the time in which requests that are under way may be answered."""
TOKENS_HEADER = b"\r\nx-gnomon-tokens:"


@dataclass(frozen=True)
class Prepared:
    """A request as it is sent, with what it holds."""

    data: bytes
    texts: int = 1
    tokens: int = 0


def prepare(
    path: str, body: object, *, texts: int = 1, tokens: int = 0, headers: dict[str, str] | None = None
) -> Prepared:
    """A POST of a JSON body, or of bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    lines = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return Prepared(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data, texts, tokens)


@dataclass(frozen=True)
class Group:
    """Clients that do the same."""

    name: str
    requests: Sequence[Prepared]
    """Sent in turn, and from the start again."""
    clients: int = 1
    count: int | None = None
    """Requests of all its clients together; None for as many as the time allows."""
    rate: float | None = None
    """Requests per second of all its clients together, in an open loop; None for a closed loop."""
    keep: bool = False
    """Keep the answers, in `Counts.answers`."""


@dataclass(frozen=True)
class Plan:
    """Groups that run side by side, and for how long."""

    groups: Sequence[Group]
    seconds: float | None = None
    """None: until every group has sent its `count`."""
    warm_seconds: float = 0.0
    """Before the time that is counted."""
    process: int | None = None
    """A server whose processor time and memory are measured over the time that is counted."""

    def write(self, file: Path, address: Address) -> None:
        groups = [
            vars(group)
            | {"requests": [[base64.b64encode(each.data).decode(), each.texts, each.tokens] for each in group.requests]}
            for group in self.groups
        ]
        where = {"host": address.host, "port": address.port, "uds": address.uds and str(address.uds)}
        file.write_text(json.dumps(vars(self) | {"groups": groups, "address": where}))

    @classmethod
    def read(cls, file: Path) -> tuple["Plan", Address]:
        values = json.loads(file.read_text())
        where = values.pop("address")
        where["uds"] = where["uds"] and Path(where["uds"])
        for group in values["groups"]:
            group["requests"] = [Prepared(base64.b64decode(data), *rest) for data, *rest in group["requests"]]
        return cls(**values | {"groups": [Group(**group) for group in values["groups"]]}), Address(**where)


@dataclass
class Counts:
    """What the requests of a group came to. Times are seconds of `time.monotonic`."""

    starts: list[float] = field(default_factory=list[float])
    ends: list[float] = field(default_factory=list[float])
    statuses: list[int] = field(default_factory=list[int])
    sent: list[Prepared] = field(default_factory=list[Prepared])
    num_bytes: list[int] = field(default_factory=list[int])
    header_tokens: list[int] = field(default_factory=list[int])
    """As the server's header states them; 0 without that header."""
    errors: Counter[str] = field(default_factory=Counter[str])
    broken: list[float] = field(default_factory=list[float])
    """When the requests began that got no answer: those of `errors`."""
    without_retry_after: int = 0
    """Answers with 429 or 503 that do not say when to try again."""
    answers: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """Numbers of requests, from 0, with what was answered; only for a group that keeps them."""

    def add(self, request: Prepared, start: float, answer: "Answer") -> None:
        self.starts.append(start)
        self.ends.append(answer.end)
        self.statuses.append(answer.status)
        self.sent.append(request)
        self.num_bytes.append(answer.num_bytes)
        self.header_tokens.append(answer.tokens)
        self.without_retry_after += answer.status in (429, 503) and not answer.has_retry_after

    def summarize(self, start: float, stop: float) -> dict[str, Any]:
        """Of the requests that were answered from `start` to `stop`: counts, milliseconds, and rates of successes."""
        inside = [at for at, end in enumerate(self.ends) if start <= end <= stop]
        good = [at for at in inside if 200 <= self.statuses[at] < 300]
        refused = [at for at in inside if not 200 <= self.statuses[at] < 300]
        seconds = stop - start
        totals = {
            "requests": len(good),
            "texts": sum(self.sent[at].texts for at in good),
            "tokens": sum(self.sent[at].tokens for at in good),
            "header_tokens": sum(self.header_tokens[at] for at in good),
            "bytes": sum(self.num_bytes[at] for at in good),
        }
        return {
            "seconds": seconds,
            "codes": dict(Counter(str(self.statuses[at]) for at in inside)),
            "errors": dict(self.errors),
            **totals,
            "milliseconds": summarize_latencies([1e3 * (self.ends[at] - self.starts[at]) for at in good]),
            "milliseconds_refused": summarize_latencies([1e3 * (self.ends[at] - self.starts[at]) for at in refused]),
            "per_second": {name: totals[name] / seconds for name in ("requests", "texts", "tokens")},
        }


@dataclass(frozen=True)
class Answer:
    status: int
    num_bytes: int
    tokens: int
    end: float
    body: bytes | None
    has_retry_after: bool = False


class Connection(asyncio.Protocol):
    """Sends one request at a time, and reads answers with a Content-Length."""

    def __init__(self, keep: bool) -> None:
        self.keep, self.head, self.parts = keep, bytearray(), list[bytes]()
        self.missing = self.status = self.tokens = self.num_bytes = 0
        self.in_body = self.closing = self.has_retry_after = False
        self.waiter: asyncio.Future[Answer] | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(exc or ConnectionResetError("closed by the server"))

    def send(self, data: bytes) -> asyncio.Future[Answer]:
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.waiter

    def data_received(self, data: bytes) -> None:
        if not self.in_body:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = bytes(self.head[end + 4 :])
            self._read_head(bytes(self.head[: end + 2]).lower())
            self.head.clear()
        self.missing -= len(data)
        if self.keep and data:
            self.parts.append(data)
        if self.missing <= 0:
            self._finish()

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        self.num_bytes = self.missing = int(header_value(head, b"\r\ncontent-length:") or 0)
        self.tokens = int(header_value(head, TOKENS_HEADER) or 0)
        if b"\r\ntransfer-encoding:" in head:
            raise ValueError("the answer has no Content-Length; this generator reads only those that have")
        self.has_retry_after = b"\r\nretry-after:" in head
        self.closing = b"\r\nconnection: close" in head
        self.in_body = True

    def _finish(self) -> None:
        self.in_body = False
        body = b"".join(self.parts) if self.keep else None
        self.parts.clear()
        if self.waiter and not self.waiter.done():
            end = time.monotonic()
            self.waiter.set_result(Answer(self.status, self.num_bytes, self.tokens, end, body, self.has_retry_after))


def header_value(head: bytes, name: bytes) -> bytes:
    """b"" where there is no such header; `name` begins with the end of the line before it, in lower case."""
    _, found, rest = head.partition(name)
    return rest[: rest.index(b"\r\n")].strip() if found else b""


async def connect(address: Address, keep: bool = False) -> Connection:
    loop, make = asyncio.get_running_loop(), lambda: Connection(keep)
    if address.uds:
        return (await loop.create_unix_connection(make, str(address.uds)))[1]
    return (await loop.create_connection(make, address.host, address.port))[1]


class _Sender:
    """The requests of one group, and when they are due."""

    def __init__(self, group: Group, address: Address, start: float) -> None:
        self.group, self.address, self.counts = group, address, Counts()
        numbered = enumerate(cycle(group.requests))
        self.queue: Iterator[tuple[int, Prepared]] = islice(numbered, group.count)
        self.start, self.stop = start, False

    async def run_client(self) -> None:
        connection: Connection | None = None
        for number, request in self.queue:
            if self.group.rate:
                due = self.start + number / self.group.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.stop:
                break
            begin = due if self.group.rate else time.monotonic()
            try:
                if connection and connection.closing:
                    connection.transport.close()
                    connection = None
                if not connection:
                    connection = await connect(self.address, self.group.keep)
                answer = await connection.send(request.data)
            except OSError as error:
                self.counts.errors[type(error).__name__] += 1
                self.counts.broken.append(begin)
                connection = None
                await asyncio.sleep(0.01)  # a server that is gone is not asked in a busy loop
                continue
            self.counts.add(request, begin, answer)
            if answer.body is not None:
                self.counts.answers.append((number, answer.body))
        if connection:
            connection.transport.close()
            await asyncio.sleep(0)  # the loop closes the socket in its next turn


async def send_plan(plan: Plan, address: Address, during: Callable[[], Any] | None = None) -> dict[str, Any]:
    """Run the groups; `during` returns an awaitable that runs beside them.

    Returns:
        per group what `Counts.summarize` gives, the server's and the generator's use of the processor, and under
        "counts" the `Counts` themselves.
    """
    begin = time.monotonic()
    senders = [_Sender(group, address, begin) for group in plan.groups]
    clients = [asyncio.ensure_future(each.run_client()) for each in senders for _ in range(each.group.clients)]
    beside = [asyncio.ensure_future(during())] if during else []
    await asyncio.sleep(plan.warm_seconds)
    start, before, own = time.monotonic(), usage_of(plan.process), time.process_time()
    await asyncio.wait(clients, timeout=plan.seconds)
    stop, after, own = time.monotonic(), usage_of(plan.process), time.process_time() - own
    for each in senders:
        each.stop = True
    unanswered = (await asyncio.wait(clients, timeout=GRACE))[1]
    for client in unanswered:
        client.cancel()
    for client in clients:
        with suppress(asyncio.CancelledError):
            await client
    await asyncio.gather(*beside)
    result: dict[str, Any] = {each.group.name: each.counts.summarize(start, stop) for each in senders}
    server = {"before": before.as_dict(), "after": after.as_dict()} if before and after else None
    if server and before and after:
        server["processor_seconds"] = after.processor_seconds - before.processor_seconds
    generator = {"processor_seconds": own, "share_of_a_core": own / (stop - start)}
    return {
        "groups": result,
        "unanswered": len(unanswered),
        "server": server,
        "generator": generator,
        "counts": {each.group.name: each.counts for each in senders},
    }


def usage_of(process: int | None) -> Usage | None:
    return measure_usage(process) if process else None


def run_load(plan: Plan, address: Address, during: Callable[[], Any] | None = None) -> dict[str, Any]:
    """`send_plan` in a loop of its own, with uvloop where it is installed."""
    try:
        from uvloop import new_event_loop as make_loop
    except ImportError:
        make_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(send_plan(plan, address, during))


def main() -> None:
    result = run_load(*Plan.read(Path(sys.argv[1])))
    print(json.dumps({key: value for key, value in result.items() if key != "counts"}))


if __name__ == "__main__":
    main()
