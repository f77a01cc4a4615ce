"""Checks 25 to 29: clients that leave or dawdle, and engines that fail."""

import asyncio
import http.client
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.serving.checks import Context, check, expect, expect_close, try_all, vectors_of, wait_until
from bench.serving.client import Client
from bench.serving.faulty_server import DIE, END, HANG, POISON, RAISE, faulty
from bench.serving.hostile import Ending, count_endings, leave, read_slowly, run_all, send_headers_slowly
from bench.serving.load import Group, Plan, Prepared, prepare, run_load
from bench.serving.process import Usage, measure_usage, send_to_tree
from bench.serving.samples import batches, mixed, one_request, short
from bench.serving.scenarios import metric
from bench.serving.servers import NO_CACHE, Server

KILLED, SLOW = 500, 100
SLOW_SECONDS = 45.0
"""The server gives up whoever takes 30 seconds for a part of an answer, or for the headers of a request."""
REST_SECONDS = 72.0
HELD_MIB = 512 + 300
"""The server's bound for answers that are not read yet, and what else may grow."""
DEADLINE = 10.0
ABSURD_TOKENS, MOST_MIB = 10_000_000, 3000
FAILING = 12
"""Requests that meet a failing engine; their texts differ, so that each is a step of its own."""
LOOK_SECONDS = 1.0
"""How often the server looks at its engines."""


def during(server: Server, clients: list[Any], what: str) -> tuple[list[Ending], list[float], list[Usage]]:
    """Run hostile clients; meanwhile one query after the other.

    Returns:
        endings; p50 and p99 of the queries in milliseconds; the server's usage, again and again until the clients left.
    """
    group = Group("query", [prepare("/v1/embeddings", {"input": "beside", "model": "m"})])
    endings, usages = list[Ending](), list[Usage]()

    async def run() -> None:
        watching = asyncio.create_task(watch_usage(server, usages))
        endings.extend(await run_all(clients))
        watching.cancel()

    result = run_load(Plan([group], SLOW_SECONDS, 0.0, server.pid), server.address, run)
    counts = result["groups"]["query"]
    expect(set(counts["codes"]) == {"200"} and not counts["errors"], f"{what}: {counts['codes']} {counts['errors']}")
    return endings, [counts["milliseconds"]["p50"], counts["milliseconds"]["p99"]], usages


def use_after_rest(client: Client) -> str:
    """The status of a request on a connection that has rested, or how it failed."""
    time.sleep(REST_SECONDS)
    try:
        return str(client.get("/health").status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


async def watch_usage(server: Server, usages: list[Usage]) -> None:
    while True:
        usages.append(measure_usage(server.pid))
        await asyncio.sleep(0.5)


@check(25, "disconnects")
def disconnects(context: Context) -> str:
    """500 clients send 2,048 texts each and leave after 0.2 s: 10 at a time, so that their bodies are read, and all at
    once. Then the server refuses those whose answers it could not hold, with a 429 that nobody reads.
    """
    sample, lines = mixed(context.texts, 2048, context.encoder), list[str]()
    request, tokens = one_request(sample), KILLED * sample.num_tokens
    with context.new_server(*NO_CACHE) as server:
        server.embed(["warm"])
        for at_once in (10, KILLED):
            before, start = Left.of(server), measure_usage(server.pid)
            asyncio.run(leave_in_groups(server, request, at_once))
            begin = time.monotonic()
            answer = server.embed(["next"])
            seconds = time.monotonic() - begin
            found = wait_for_all(before, server)
            after = measure_usage(server.pid)
            figures = (
                f"{at_once} at a time: {found.cancelled:.0f} cancelled, {found.refused:.0f} refused, next query "
                f"{1e3 * seconds:.0f} ms, {found.tokens:,.0f} of {tokens:,} tokens computed, "
                f"{start.resident_mib:.0f} to {after.resident_mib:.0f} MiB, {after.descriptors} descriptors"
            )
            expect(answer.status == 200, f"{figures}; the next query: {answer.status}")
            expect(found.cancelled + found.refused == KILLED, f"{figures}; together they must be {KILLED}")
            expect(at_once == KILLED or found.cancelled == KILLED, f"{figures}; none need be refused")
            expect(seconds < 2, f"{figures}; the next query must be answered at once")
            expect(found.tokens < 0.1 * tokens, f"{figures}; work for those who left")
            expect(after.descriptors <= start.descriptors + 8, f"{figures}; descriptors stay open")
            lines.append(figures)
    return "; ".join(lines)


@dataclass(frozen=True)
class Left:
    """What the server has counted of those who left."""

    cancelled: float
    refused: float
    tokens: float
    """Of the engine's steps."""

    @classmethod
    def of(cls, server: Server) -> "Left":
        text = server.get("/metrics").text
        refused = metric("\n".join(line for line in text.splitlines() if 'code="429"' in line), "gnomon_requests_total")
        return cls(metric(text, "gnomon_cancelled_total"), refused, metric(text, "gnomon_step_tokens_sum"))

    def __sub__(self, other: "Left") -> "Left":
        return Left(self.cancelled - other.cancelled, self.refused - other.refused, self.tokens - other.tokens)


def wait_for_all(before: Left, server: Server, seconds: float = 20.0) -> Left:
    """What was counted since `before`, once all who left are, and nothing waits any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = Left.of(server) - before
        if found.cancelled + found.refused >= KILLED and not metric(server.get("/metrics").text, "gnomon_queue_tokens"):
            break
        time.sleep(0.2)
    return Left.of(server) - before


async def leave_in_groups(server: Server, request: Prepared, size: int) -> list[Ending]:
    endings = list[Ending]()
    for _ in range(KILLED // size):
        endings += await run_all([leave(server.address, request, after=0.2) for _ in range(size)])
    return endings


@check(26, "a poisonous text")
def poison(context: Context) -> str:
    """One text makes the engine yield NaN, another makes it raise, among strangers' requests."""
    lines = list[str]()
    for word in (POISON, RAISE):
        with faulty(context) as server:
            sample = short(context.texts, 200, context.encoder)
            group = Group("strangers", batches(sample, 4), clients=8, count=50)
            poisoned = prepare("/v1/embeddings", {"input": ["a", word, "b"], "model": "m"})
            bad = Group("poisoned", [poisoned], count=5, keep=True)
            result = run_load(Plan([group, bad]), server.address)
            strangers, answers = result["groups"]["strangers"], result["counts"]["poisoned"].answers
            expect(set(strangers["codes"]) == {"200"}, f"{word}: strangers {strangers['codes']}")
            expect(
                set(result["groups"]["poisoned"]["codes"]) == {"500"},
                f"{word}: {result['groups']['poisoned']['codes']}",
            )
            expect(all(b"[1]" in body for _, body in answers), f"{word}: no index in {answers[:1]}")
            expect_close(vectors_of(server.embed(["a"])), context.encode(["a"]), f"{word}: afterwards")
            expect(server.status("/ready") == 200, f"{word}: /ready is {server.status('/ready')}")
            lines.append(f"{word}: 5 requests got 500 with the index, {strangers['requests']} others 200")
    return "; ".join(lines)


@check(27, "out of memory")
def out_of_memory(context: Context) -> str:
    """An engine that has no memory for large batches, with a budget that is absurdly high; and such a budget alone."""
    sample = mixed(context.texts, 256, context.encoder)
    budget = ("--max-batch-tokens", str(ABSURD_TOKENS))
    with faulty(context, *budget, "--no-model-warmup", largest_batch=2000) as server:
        answer = server.embed(list(sample.texts))
        expect_close(vectors_of(answer), context.encode(sample.texts), "split")
        expect(server.status("/ready") == 200, f"/ready is {server.status('/ready')}")
    with context.new_server(*NO_CACHE, *budget, wait=False) as server:
        memory, ready = watch_start(server, seconds=60)
        figures = f"with a budget of {ABSURD_TOKENS:,} tokens it has {memory:.0f} MiB when it is ready"
        expect(
            ready, f"with a budget of {ABSURD_TOKENS:,} tokens it is not ready after 60 s, or takes {memory:.0f} MiB"
        )
        expect(server.embed(list(sample.texts)).status == 200, "the absurd budget alone")
    return f"batches that do not fit are split and served; {figures}"


def watch_start(server: Server, seconds: float) -> tuple[float, bool]:
    """The most memory in MiB until it is ready, and whether that is so in time. One that takes more than MOST_MIB is
    killed: this machine has other work.
    """
    memory, deadline = 0.0, time.monotonic() + seconds
    while time.monotonic() < deadline and server.process.poll() is None:
        memory = max(memory, measure_usage(server.pid).resident_mib)
        if memory > MOST_MIB:
            send_to_tree(server.pid, signal.SIGKILL)
            break
        if server.status("/ready") == 200:
            return memory, True
        time.sleep(0.02)
    return memory, False


@check(28, "slow clients")
def slow_clients(context: Context) -> str:
    """100 connections that read an answer of 25 MB byte by byte, then 100 that never end their headers: the server
    gives both up, and holds few answers meanwhile; others are answered. A connection that rests for 72 s stays open.
    """
    texts = short(context.texts, 2048, context.encoder)
    body = {"input": list(texts.texts), "model": "m", "encoding_format": "float", "dimensions": 1024}
    big = prepare("/v1/embeddings", body, texts=2048)
    with (
        context.new_server(source=str(context.stella)) as server,
        ThreadPoolExecutor(1) as thread,
        Client(server.address) as resting,
    ):
        resting.get("/health")
        rest = thread.submit(use_after_rest, resting)
        size = len(server.post("/v1/embeddings", body).body)  # from now on in the cache
        before = measure_usage(server.pid)
        readers = [read_slowly(server.address, big, seconds=SLOW_SECONDS) for _ in range(SLOW)]
        slow, first, usages = during(server, readers, "beside slow readers")
        headers = [send_headers_slowly(server.address, seconds=SLOW_SECONDS) for _ in range(SLOW)]
        unfinished, second, _ = during(server, headers, "beside unfinished headers")
        after = measure_usage(server.pid)
        expect(server.embed(["after"]).status == 200, "afterwards")
        rested = rest.result()
    statuses = Counter(each.status for each in slow)
    middle, still_open = max(each.resident_mib for each in usages), usages[-1].descriptors - before.descriptors
    headers_closed = count_endings(unfinished)
    figures = (
        f"answers of {size / 1e6:.1f} MB; readers' statuses {dict(statuses)}, {still_open} open after "
        f"{SLOW_SECONDS:g} s; headers {headers_closed}; others p50 and p99 {first[0]:.0f} and {first[1]:.0f} ms, "
        f"{second[0]:.0f} and {second[1]:.0f} ms; {before.resident_mib:.0f}, at most {middle:.0f}, "
        f"{after.resident_mib:.0f} MiB; {before.descriptors}, {after.descriptors} descriptors; a connection after "
        f"{REST_SECONDS:g} s of rest: {rested}"
    )
    # what a client has not read hides from it that the server has closed, so the server's descriptors are counted
    rules = {
        "a connection that rests must stay open for 75 s: load balancers keep theirs for 60 s": rested == "200",
        "a reader gets 200 or 429": set(statuses) <= {200, 429} and statuses[200] > 0,
        "the connections of those who read 25 MB too slowly must be closed": still_open <= 4,
        "the server must give up whoever does not end the headers": not headers_closed.get("time"),
        f"no more memory than {HELD_MIB} MiB": middle - before.resident_mib < HELD_MIB,
        "descriptors stay open": after.descriptors <= before.descriptors + 8,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    expect(not broken, f"{'; '.join(broken)}: {figures}")
    return figures


@check(29, "a dead and a stuck engine")
def dead_engine(context: Context) -> str:
    """An engine that fails for ever, a thread of it that ends, and a step that hangs: /ready says so, a restart or the
    end of the process follows, and no request outlasts its deadline.
    """
    return try_all(lambda word: watch_failure(context, word, FAILURES[word]), FAILURES)


FAILURES = {DIE: 5.0, HANG: 8.0, END: 5.0}
"""Seconds until /ready shows it. A step of some tokens is stuck after 5 s; the server looks once per second."""


def watch_failure(context: Context, word: str, limit: float) -> str:
    with faulty(context, "--request-timeout", str(int(DEADLINE))) as server:
        texts = [f"{word} {number}" for number in range(FAILING)]
        bodies = [prepare("/v1/embeddings", {"input": text, "model": "m"}) for text in texts]
        start, noticed = time.monotonic(), list[float | None]()

        async def watch() -> None:
            noticed.append(await asyncio.to_thread(notice_failure, server, start))

        counts = run_load(Plan([Group("all", bodies, clients=4, count=FAILING)]), server.address, watch)
        slowest = max((end - begin for begin, end in zip(*spans(counts), strict=True)), default=0.0)
        codes, errors = counts["groups"]["all"]["codes"], counts["groups"]["all"]["errors"]
        serves, ending = describe_end(server)
        figures = f"{word}: noticed after {noticed[0]} s, {codes} {errors or ''}, slowest {slowest:.1f} s, {ending}"
        expect(slowest < DEADLINE + 2, f"{figures}; a request outlasts its deadline of {DEADLINE:g} s")
        goes_on = word == END and serves and set(codes) == {"200"}  # another thread does the work
        expect(goes_on or noticed[0] is not None, f"{figures}; /ready never showed it")
        expect(goes_on or noticed[0] <= limit, f"{figures}; it must show within {limit:g} s")
        expect(serves or server.process.poll(), f"{figures}; it must serve again, or end with another status than 0")
        return figures


def spans(result: dict[str, Any]) -> tuple[list[float], list[float]]:
    return result["counts"]["all"].starts, result["counts"]["all"].ends


def notice_failure(server: Server, start: float) -> float | None:
    """Seconds until /ready is not 200, or the process has ended; None for neither within a time."""
    while (seconds := time.monotonic() - start) < DEADLINE + 5:
        if server.process.poll() is not None or server.status("/ready") != 200:
            return round(seconds, 1)
        time.sleep(0.05)
    return None


def describe_end(server: Server) -> tuple[bool, str]:
    """Whether it serves again, or how it has ended."""
    wait_until(lambda: server.process.poll() is not None or server.status("/ready") == 200, 60, "a restart or the end")
    time.sleep(2 * LOOK_SECONDS)  # a stuck engine ends the process a moment after it shows
    if server.process.poll() is not None:
        return False, f"it ended with {server.process.poll()}"
    try:
        answer = server.post("/v1/embeddings", {"input": ["again"], "model": "m"}, timeout=DEADLINE + 2)
    except OSError as error:
        return False, f"/ready is {server.status('/ready')}, and a request gets no answer ({type(error).__name__})"
    is_good = answer.status == 200
    return is_good, "it serves again" if is_good else f"/ready is 200, and a request gets {answer.status}"
