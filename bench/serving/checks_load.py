"""Checks 18 to 24: behaviour under load. Server and generator share the cores of this machine, unpinned."""

import asyncio
import base64
import json
import subprocess
import time
from typing import Any

import numpy as np

from bench.process import ROOT
from bench.serving.checks import CheckError, Context, NotPossibleError, check, expect, expect_close, try_all
from bench.serving.load import Group, Plan, prepare, run_load
from bench.serving.process import measure_usage
from bench.serving.samples import Sample, batches, log_uniform, make_sample, mixed, short
from bench.serving.scenarios import mean_step, metric, step_seconds
from bench.serving.servers import NO_CACHE, Server

ENOUGH = 0.95
"""Of `encode` in bulk."""
QUERIES = 500
LONG_WAIT = ("--request-timeout", "900")


def load(server: Server, *groups: Group, seconds: float | None = None, warm: float = 0.0) -> dict[str, Any]:
    return run_load(Plan(groups, seconds, warm, server.pid), server.address)


def all_good(counts: dict[str, Any], what: str) -> dict[str, Any]:
    expect(set(counts["codes"]) <= {"200"} and not counts["errors"], f"{what}: {counts['codes']} {counts['errors']}")
    expect(counts["requests"], f"{what}: no answer")
    return counts


@check(18, "idle latency")
def idle_latency(context: Context) -> str:
    """Texts differ, so that nothing comes from the cache; the bare call has as many threads as the server."""
    server, encoder = context.server(*NO_CACHE), context.encoder
    sample = short(context.texts, QUERIES, encoder)
    bare = list[float]()
    for text in sample.texts:
        start = time.perf_counter()
        encoder.encode(text)
        bare.append(1e3 * (time.perf_counter() - start))
    counts = all_good(load(server, Group("one", batches(sample, 1), count=QUERIES))["groups"]["one"], "queries")
    times, median = counts["milliseconds"], float(np.median(bare))
    figures = f"p50 {times['p50']:.2f} ms, bare {median:.2f} ms, p99 {times['p99']:.2f} ms"
    expect(times["p50"] <= 1.15 * median + 1, f"{figures}; p50 may be 1.15 times the bare call and 1 ms more")
    expect(times["p99"] < 2 * times["p50"], f"{figures}; p99 must be below twice the p50")
    return figures


@check(19, "saturation")
def saturation(context: Context) -> str:
    """Connections from 1 to 256, with three kinds of requests, beside `encode` of the same texts. The model reads 512
    tokens, on both sides.
    """
    server = context.server(*NO_CACHE, *LONG_WAIT, "--max-seq-length", "512")
    encoder = context.encoder.with_max_seq_length(512)
    texts200 = make_sample("200", [" ".join(text.split()[:150]) for text in context.texts.mix("long", 512)], encoder)
    kinds: dict[str, tuple[Sample, int]] = {
        "1 text of 20 tokens": (short(context.texts, 2048, encoder), 1),
        "32 texts of 200 tokens": (texts200, 32),
        "log-uniform lengths": (log_uniform(context.texts, 512, encoder), 8),
    }
    lines, faults = list[str](), list[str]()
    for name, (sample, size) in kinds.items():
        start = time.perf_counter()
        encoder.encode(list(sample.texts), show_progress_bar=False)
        bare = sample.num_tokens / (time.perf_counter() - start)
        rates = saturate(server, sample, size)
        best = max(rates.values())
        shares = {clients: round(rate / bare, 2) for clients, rate in rates.items()}
        lines.append(f"{name}, {min(sample.tokens)} to {max(sample.tokens)}: of encode {shares}")
        if best < ENOUGH * bare:
            faults.append(f"{name}: less than {ENOUGH} of encode")
        if any(clients > 8 and rate < 0.9 * best for clients, rate in rates.items()):
            faults.append(f"{name}: the rate falls with more connections")
    expect(not faults, "; ".join([*faults, *lines]))
    return "; ".join(lines)


def saturate(server: Server, sample: Sample, size: int) -> dict[int, float]:
    """Tokens per second at each number of connections."""
    rates = dict[int, float]()
    for clients in (1, 4, 16, 64, 256):
        requests = batches(sample, size)
        result = load(server, Group("all", requests, min(clients, len(requests)), count=len(requests)))
        rates[clients] = all_good(result["groups"]["all"], f"{clients} clients")["per_second"]["tokens"]
    return rates


@check(20, "two lanes")
def two_lanes(context: Context) -> str:
    server = context.server(*NO_CACHE, *LONG_WAIT)
    queries = Group("query", batches(short(context.texts, 4096, context.encoder), 1))
    bulk = Group("bulk", batches(mixed(context.texts, 8192, context.encoder), 2048), clients=4)
    idle = all_good(load(server, queries, seconds=15, warm=1)["groups"]["query"], "idle")["milliseconds"]
    alone = load(server, Group("bulk", bulk.requests, 4, count=4))["groups"]["bulk"]["per_second"]["tokens"]
    before = step_seconds(server)
    busy = load(server, queries, Group("bulk", bulk.requests, 4, count=4), seconds=None)
    step = mean_step(before, step_seconds(server))
    if step is None:
        raise NotPossibleError("the server's metrics have no gnomon_step_seconds")
    times = all_good(busy["groups"]["query"], "queries")["milliseconds"]
    both = all_good(busy["groups"]["bulk"], "bulk")["per_second"]["tokens"]
    limit = 3 * idle["p99"] + step
    figures = (
        f"p99 {times['p99']:.1f} ms, idle {idle['p99']:.1f} ms, step {step:.1f} ms; bulk {both / alone:.2f} of alone"
    )
    expect(times["p99"] < limit, f"{figures}; p99 must be below {limit:.1f} ms")
    expect(both >= 0.85 * alone, f"{figures}; bulk may lose 15 %")
    return figures


@check(21, "fairness")
def fairness(context: Context) -> str:
    """One user with 64 connections and one with a single one; a fair share is half of the work."""
    server = context.server(*NO_CACHE, *LONG_WAIT)
    sample = mixed(context.texts, 2048, context.encoder)
    groups = [
        Group("many", with_user(sample, 32, "many"), clients=64),
        Group("single", with_user(sample, 32, "single"), clients=1),
    ]
    result = load(server, *groups, seconds=40, warm=2)["groups"]
    rates = {name: result[name]["per_second"]["tokens"] for name in ("many", "single")}
    share = rates["single"] / (0.5 * sum(rates.values()))
    expect(share >= 0.25, f"the single client gets {share:.2f} of a fair share: {rates}")
    return f"the single client gets {share:.2f} of a fair share"


def with_user(sample: Sample, size: int, user: str) -> list[Any]:
    parts = [sample.part(start, start + size) for start in range(0, len(sample.texts) - size + 1, size)]
    body = {"model": "m", "encoding_format": "base64", "user": user}
    return [
        prepare("/v1/embeddings", body | {"input": list(part.texts)}, texts=size, tokens=part.num_tokens)
        for part in parts
    ]


@check(22, "overload")
def overload(context: Context) -> str:
    """An open loop at 3 and at 10 times the capacity, each for half of the minutes; the queue is as by default, and
    there are more connections than it takes. A client that waits as long as Retry-After says gets its answer.
    """
    with context.new_server(*NO_CACHE) as server:
        sample = mixed(context.texts, 1024, context.encoder)
        requests = batches(sample, 16)
        alone = load(server, Group("all", requests, 16, count=len(requests)))["groups"]["all"]
        capacity = all_good(alone, "capacity")["per_second"]
        impatient = batches(sample, 16, headers={"X-Request-Timeout": f"{PATIENCE:g}"})
        return try_all(lambda times: overload_at(context, server, impatient, times, capacity), (3, 10))


PATIENCE = 12.0
"""Seconds that a request of the overload may take: the server refuses what it cannot do in that time."""
CONNECTIONS = 4000


def overload_at(context: Context, server: Server, requests: Any, times: int, capacity: dict[str, float]) -> str:
    seconds = 30 * context.minutes
    rate, before = times * capacity["requests"], measure_usage(server.pid)
    # those that are refused need a connection for a moment, and those that wait for as long as they may
    clients = min(CONNECTIONS, round(2 * PATIENCE * capacity["requests"] + 256))
    group, retried = Group("all", requests, clients=clients, rate=rate), list[str]()

    async def retry() -> None:
        await asyncio.sleep(min(20.0, seconds / 2))
        retried.append(await asyncio.to_thread(retry_until_answered, server))

    result = run_load(Plan([group], seconds, min(20.0, seconds / 3), server.pid), server.address, retry)
    counts, refused_rightly = result["groups"]["all"], not result["counts"]["all"].without_retry_after
    after = measure_usage(server.pid)
    refused, goodput = counts["codes"].get("429", 0), counts["per_second"]["tokens"] / capacity["tokens"]
    p99 = counts["milliseconds"]["p99"]
    figures = (
        f"{times} times the capacity of {capacity['requests']:.0f} requests/s for {seconds:.0f} s: {counts['codes']}, "
        f"goodput {goodput:.2f}, p99 of those served {p99 / 1e3:.1f} s, {before.resident_mib:.0f} to "
        f"{after.resident_mib:.0f} MiB; {retried[0]}"
    )
    expect(set(counts["codes"]) <= {"200", "429"} and not counts["errors"], f"{figures} {counts['errors']}")
    expect(refused, f"{figures}: nothing is refused")
    expect(refused_rightly, f"{figures}: a 429 has no Retry-After")
    expect(p99 <= 1e3 * (PATIENCE + 1), f"{figures}: those served may take {PATIENCE:g} s")
    expect(goodput >= 0.9, f"{figures}: at least 0.9 of the capacity must be served")
    expect(after.resident_mib <= 1.1 * before.resident_mib + 64, f"{figures}: memory grows")
    return figures


RETRYING = """
import sys, time
from openai import OpenAI
start = time.monotonic()
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=200, timeout=60)
answer = client.embeddings.with_raw_response.create(model="m", input=["a text of a client that is patient"] * 16)
print(f"{len(answer.parse().data)} {answer.retries_taken} {time.monotonic() - start:.1f}")
"""


def retry_until_answered(server: Server) -> str:
    """Send a batch as a client that tries again: openai's where its environment is there, else one of our own."""
    python = ROOT / ".venv-clients" / "bin" / "python"
    if python.exists():
        done = subprocess.run([python, "-c", RETRYING, server.address.url], capture_output=True, text=True, timeout=300)
        expect(done.returncode == 0, f"a retrying openai client: {done.stderr.strip()[-300:]}")
        number, retries, seconds = done.stdout.split()
        expect(number == "16", f"a retrying openai client got {number} of 16 vectors")
        return f"a retrying openai client got its answer after {retries} retries, {seconds} s"
    start = time.monotonic()
    for attempt in range(200):
        answer = server.embed(["a text of a client that is patient"] * 16)
        if answer.status == 200:
            return f"a retrying client got its answer after {attempt} retries, {time.monotonic() - start:.1f} s"
        wait = answer.headers.get("retry-after-ms")
        expect(answer.status == 429 and wait, f"a retrying client got {answer.status}, retry-after-ms {wait}")
        time.sleep(float(wait or 0) / 1e3)
    raise CheckError(f"a retrying client has no answer after 200 retries, {time.monotonic() - start:.1f} s")


@check(23, "repeated queries")
def repeated_queries(context: Context) -> str:
    """10,000 requests over 500 texts, the n-th as often as 1/n: whatever repeats comes from the cache."""
    sample = short(context.texts, 500, context.encoder)
    order = np.random.default_rng(0).choice(500, size=10_000, p=(1 / np.arange(1, 501)) / (1 / np.arange(1, 501)).sum())
    requests = batches(sample, 1)
    with context.new_server() as server:
        group = Group("all", [requests[at] for at in order], 8, count=len(order), keep=True)
        result = load(server, group)
        all_good(result["groups"]["all"], "queries")
        text = server.get("/metrics").text
        hits, merged = metric(text, "gnomon_cache_hits_total"), metric(text, "gnomon_merged_total")
    predicted = len(order) - len(set(order.tolist()))
    expect(hits + merged == predicted, f"{hits:.0f} hits and {merged:.0f} merged, predicted {predicted}")
    expected_BD = context.encode(sample.texts)
    bodies = [
        (order[number], json.loads(body)["data"][0]["embedding"]) for number, body in result["counts"]["all"].answers
    ]
    rows_BD = np.stack([np.frombuffer(base64.b64decode(packed), "<f4") for _, packed in bodies])
    far = expect_close(rows_BD, expected_BD[[at for at, _ in bodies]], "vectors from the cache")
    return f"{hits:.0f} hits, {merged:.0f} merged, as predicted; distance {far:.1e}"


@check(24, "soak")
def soak(context: Context) -> str:
    """Mixed work for the minutes: memory, descriptors and the rate at their end beside those after a tenth."""
    seconds = 60 * context.minutes
    sample = mixed(context.texts, 2048, context.encoder)
    singles = batches(short(context.texts, 2048, context.encoder), 1)
    with context.new_server("--cache", "8M") as server:
        groups = [Group("batches", batches(sample, 32), clients=4), Group("singles", singles, clients=4)]
        first = load(server, *groups, seconds=seconds / 10)
        early, rate = measure_usage(server.pid), first["groups"]["batches"]["per_second"]["tokens"]
        last = load(server, *groups, seconds=seconds * 0.9)
        late = measure_usage(server.pid)
        for name in ("batches", "singles"):
            all_good(last["groups"][name], name)
    drift = late.resident_mib / early.resident_mib - 1
    change = last["groups"]["batches"]["per_second"]["tokens"] / rate
    figures = (
        f"{context.minutes:g} minutes: {early.resident_mib:.0f} to {late.resident_mib:.0f} MiB ({100 * drift:+.1f} %), "
        f"{early.descriptors} to {late.descriptors} descriptors, rate {change:.2f} of the beginning"
    )
    expect(drift < 0.02, f"{figures}; memory may grow by 2 %")
    expect(late.descriptors <= early.descriptors + 4, f"{figures}; descriptors leak")
    expect(change > 0.9, f"{figures}; it slows down")
    return figures
