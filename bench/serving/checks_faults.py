"""Checks 25 to 29: clients that leave or dawdle, and engines that fail."""

import asyncio
import json
import time
from typing import Any

from bench.serving.checks import Context, check, expect, expect_close, vectors_of, wait_until
from bench.serving.faulty_server import KILL, POISON, RAISE, STUCK, faulty
from bench.serving.hostile import Ending, count_endings, leave, read_slowly, run_all, send_headers_slowly
from bench.serving.load import Group, Plan, prepare, run_load
from bench.serving.process import measure_usage
from bench.serving.samples import batches, mixed, one_request, short
from bench.serving.scenarios import metric
from bench.serving.servers import NO_CACHE, Server

KILLED, SLOW = 500, 100
SLOW_SECONDS = 20.0
DEADLINE = 10.0


def during(server: Server, clients: list[Any], query: str) -> tuple[list[Ending], list[float]]:
    """Run hostile clients; meanwhile one query after the other. Endings, and milliseconds of the queries."""
    group = Group("query", [prepare("/v1/embeddings", {"input": query, "model": "m"})])
    endings = list[Ending]()

    async def run() -> None:
        endings.extend(await run_all(clients))

    result = run_load(Plan([group], SLOW_SECONDS, 0.0, server.pid), server.address, run)
    counts = result["groups"]["query"]
    expect(set(counts["codes"]) == {"200"} and not counts["errors"], f"others: {counts['codes']} {counts['errors']}")
    return endings, [counts["milliseconds"]["p50"], counts["milliseconds"]["p99"]]


@check(25, "disconnects")
def disconnects(context: Context) -> str:
    """500 clients send 2,048 texts each and leave after 0.2 s, 25 at a time."""
    sample = mixed(context.texts, 2048, context.encoder)
    request = one_request(sample)
    with context.new_server(*NO_CACHE) as server:
        server.embed(["warm"])
        before, tokens = measure_usage(server.pid), metric(server.get("/metrics").text, "gnomon_tokens_total")

        async def leave_all() -> list[Ending]:
            endings = list[Ending]()
            for _ in range(KILLED // 25):
                endings += await run_all([leave(server.address, request, after=0.2) for _ in range(25)])
            return endings

        endings = count_endings(asyncio.run(leave_all()))
        start = time.monotonic()
        answer = server.embed(["next"])
        seconds = time.monotonic() - start
        wait_until(lambda: metric(server.get("/metrics").text, "gnomon_queue_tokens") == 0, 30, "an empty queue")
        text = server.get("/metrics").text
        cancelled, after = metric(text, "gnomon_cancelled_total"), measure_usage(server.pid)
        computed = metric(text, "gnomon_tokens_total") - tokens
    figures = (
        f"{endings}, {cancelled:.0f} cancelled, next query {1e3 * seconds:.0f} ms, {computed:,.0f} of "
        f"{KILLED * sample.num_tokens:,} tokens computed, {before.resident_mib:.0f} to {after.resident_mib:.0f} MiB"
    )
    expect(answer.status == 200, f"the next query: {answer.status}")
    expect(cancelled == KILLED - endings.get("refused", 0), figures)
    expect(seconds < 2, f"{figures}; the next query must be answered at once")
    expect(computed < 0.1 * KILLED * sample.num_tokens, f"{figures}; work for those who left")
    expect(after.resident_mib < before.resident_mib + 300, f"{figures}; memory grows")
    return figures


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
    """A budget of tokens that is absurdly high, and an engine that has no memory for large batches."""
    sample = mixed(context.texts, 256, context.encoder)
    with faulty(context, "--max-batch-tokens", "100000000", largest_batch=2000) as server:
        answer = server.embed(list(sample.texts))
        expect_close(vectors_of(answer), context.encode(sample.texts), "split")
        expect(server.status("/ready") == 200, f"/ready is {server.status('/ready')}")
    return "batches that do not fit are split and served"


@check(28, "slow clients")
def slow_clients(context: Context) -> str:
    """100 connections that read an answer of megabytes byte by byte, then 100 that never end their headers."""
    texts = short(context.texts, 2048, context.encoder)
    body = {"input": list(texts.texts), "model": "m", "encoding_format": "float"}
    big = prepare("/v1/embeddings", body, texts=2048)
    with context.new_server() as server:
        size = len(server.post("/v1/embeddings", body).body)  # from now on in the cache
        before = measure_usage(server.pid)
        readers = [read_slowly(server.address, big, seconds=SLOW_SECONDS) for _ in range(SLOW)]
        slow, first = during(server, readers, "beside slow readers")
        middle = measure_usage(server.pid)
        headers = [send_headers_slowly(server.address, seconds=SLOW_SECONDS) for _ in range(SLOW)]
        unfinished, second = during(server, headers, "beside unfinished headers")
        after = measure_usage(server.pid)
        expect(server.embed(["after"]).status == 200, "afterwards")
    held = middle.resident_mib - before.resident_mib
    figures = (
        f"answers of {size / 1e6:.1f} MB; readers {count_endings(slow)}, headers {count_endings(unfinished)}; "
        f"others p50 and p99 {first[0]:.0f} and {first[1]:.0f} ms, {second[0]:.0f} and {second[1]:.0f} ms; "
        f"{before.resident_mib:.0f}, {middle.resident_mib:.0f}, {after.resident_mib:.0f} MiB; "
        f"{before.descriptors}, {after.descriptors} descriptors"
    )
    expect(held < 2 * SLOW * size / 2**20 + 200, f"{figures}; more memory than two copies of each answer")
    expect(after.descriptors <= before.descriptors + 8, f"{figures}; descriptors stay open")
    return figures


@check(29, "a dead and a stuck engine")
def dead_engine(context: Context) -> str:
    """The thread of the engine ends, or hangs in a step: /ready says so, and no request outlasts its deadline."""
    lines = list[str]()
    for word in (KILL, STUCK):
        with faulty(context, "--request-timeout", str(int(DEADLINE))) as server:
            start = time.monotonic()
            group = Group("all", [prepare("/v1/embeddings", {"input": word, "model": "m"})], clients=4, count=4)
            result: dict[str, Any] = {}

            async def watch(server: Server = server, start: float = start, result: dict[str, Any] = result) -> None:
                result["noticed"] = await asyncio.to_thread(notice_failure, server, start)

            counts = run_load(Plan([group]), server.address, watch)["groups"]["all"]
            limit = 5.0 if word == KILL else 5.0 + DEADLINE
            expect(result["noticed"] <= limit, f"{word}: noticed after {result['noticed']:.1f} s")
            slowest = max(counts["milliseconds_refused"]["highest"], 0) / 1e3 if counts["milliseconds_refused"] else 0.0
            expect(slowest < DEADLINE + 2, f"{word}: a request took {slowest:.1f} s")
            expect(not counts["codes"].get("200"), f"{word}: {json.dumps(counts['codes'])}")
            lines.append(f"{word}: noticed after {result['noticed']:.1f} s, {counts['codes']}, {describe_end(server)}")
    return "; ".join(lines)


def notice_failure(server: Server, start: float) -> float:
    """Seconds until /ready is not 200, or the process has ended."""
    wait_until(lambda: server.process.poll() is not None or server.status("/ready") != 200, 60, "/ready 503")
    return time.monotonic() - start


def describe_end(server: Server) -> str:
    """Whether it serves again, or has ended with a status other than 0."""
    wait_until(lambda: server.process.poll() is not None or server.status("/ready") == 200, 60, "a restart or the end")
    status = server.process.poll()
    expect(status != 0, "it ended with status 0")
    if status is not None:
        return f"it ended with {status}"
    expect(server.embed(["again"]).status == 200, "after the restart")
    return "it serves again"
