"""Checks 30 to 35: start, drain, reload, containers, metrics, secrets."""

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.process import ROOT
from bench.serving.checks import (
    API_KEY,
    SECRET_TEXT,
    Context,
    NotPossibleError,
    check,
    expect,
    expect_close,
    run_make,
    run_tool,
    vectors_of,
    wait_until,
)
from bench.serving.client import Client
from bench.serving.load import Group, Plan, run_load
from bench.serving.process import tree_pids
from bench.serving.samples import batches, mixed
from bench.serving.scenarios import metric
from bench.serving.servers import Server
from gnomon import Encoder

DRAIN_SECONDS, DRAIN_DELAY = 30, 3
CLOSING_SECONDS = 0.2


class Loader(threading.Thread):
    """A load that runs beside a check."""

    def __init__(self, server: Server, group: Group, seconds: float) -> None:
        super().__init__()
        self.server, self.plan, self.result = server, Plan([group], seconds), dict[str, Any]()

    def run(self) -> None:
        self.result = run_load(self.plan, self.server.address)


@check(30, "drain")
def drain(context: Context) -> str:
    """Under load, SIGTERM: /ready is 503 first, every request that began before the port closed is answered 200, and it
    exits with 0. Requests that began later may be refused, or break.
    """
    sample = mixed(context.texts, 512, context.encoder)
    with context.new_server("--drain-delay", str(DRAIN_DELAY)) as server:
        load = Loader(server, Group("all", batches(sample, 8), clients=8), 20)
        load.start()
        wait_until(lambda: metric(server.get("/metrics").text, "te_embed_success") > 0, 20, "first answers")
        server.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        wait_until(lambda: server.status("/ready") == 503, 2, "/ready 503")
        accepted, health = server.embed(["during the delay"]).status, server.status("/health")
        wait_until(lambda: server.status("/health") is None, DRAIN_SECONDS, "a closed port")
        closed = time.monotonic()
        status = server.process.wait(DRAIN_SECONDS + 10)
        seconds = time.monotonic() - start
        load.join()
    counts = load.result["counts"]["all"]
    # the port closes a moment before a look sees it
    before = closed - CLOSING_SECONDS
    answers = list(zip(counts.starts, counts.statuses, strict=True))
    refused = Counter(code for begin, code in answers if begin < before and code != 200)
    broken = sum(begin < before for begin in counts.broken)
    late = Counter(str(code) for begin, code in answers if begin >= before)
    early = sum(begin < before for begin, _ in answers)
    figures = (
        f"{early} requests before the port closed, {dict(refused) or 'none'} refused and {broken} broken of these; "
        f"later {dict(late)} and {len(counts.broken) - broken} broken; exit status {status} after {seconds:.1f} s"
    )
    expect(accepted == 200, f"during the drain delay a request got {accepted}; {figures}")
    expect(health == 200, f"/health while draining: {health}; {figures}")
    expect(not refused and not broken, f"{figures}; what was accepted must be answered")
    expect(set(late) <= {"200", "503"}, figures)
    expect(status == 0, figures)
    expect(closed - start > DRAIN_DELAY - 0.5, f"{figures}; the port closed {closed - start:.1f} s after the signal")
    expect(seconds < DRAIN_SECONDS, f"{figures}; it may take {DRAIN_SECONDS} s")
    return figures


@check(31, "start")
def start(context: Context) -> str:
    """From the first second; then again offline under strace, with a request: it connects nowhere."""
    with context.new_server(wait=False) as server:
        begin, codes, startup = time.monotonic(), list[int | None](), list[int | None]()
        retry: str | None = None
        while not codes or codes[-1] != 200:
            expect(time.monotonic() - begin < 120, f"not ready: {server.log_end()}")
            try:
                answer = server.get("/ready")
                codes.append(answer.status)
                retry = answer.headers.get("retry-after", retry)
                early = server.embed(["early"]).status
                expect(early in (200, 503), f"a request while it loads got {early}")
            except OSError:
                codes.append(None)
            startup.append(server.status("/startup"))
            time.sleep(0.02)
        seconds = time.monotonic() - begin
    for name, found in (("/ready", codes), ("/startup", startup)):
        seen = list(dict.fromkeys(found))
        expect(seen in ([None, 503, 200], [503, 200]), f"{name} answers {seen}")
    expect(retry, "503 has no Retry-After")
    return f"503 with Retry-After {retry}, ready after {seconds:.1f} s; {check_offline(context)}"


def check_offline(context: Context) -> str:
    """The server under strace, with HF_HUB_OFFLINE=1: every address that it connects to."""
    if not shutil.which("strace"):
        raise NotPossibleError("strace is not installed")
    trace, server = context.work / "connect.trace", context.new_server()
    words = ("strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace), *server.command.words)
    server.command = replace(server.command, words=words, variables={**server.command.variables, "HF_HUB_OFFLINE": "1"})
    with server:
        expect(server.embed(["under strace"]).status == 200, "under strace")
        for pid in tree_pids(server.pid)[1:]:  # strace itself keeps signals from what it traces
            os.kill(pid, signal.SIGTERM)
        server.process.wait(DRAIN_SECONDS + 10)
    outside = [line for line in trace.read_text().splitlines() if "sa_family=AF_INET" in line and '"127.0.' not in line]
    expect(not outside, f"it connects: {outside[:2]}")
    return "no connection to the network while it loads and serves offline"


@check(32, "reload under load")
def reload(context: Context) -> str:
    """The source is a link; under load it comes to point to another model, and the server loads it, first by POST,
    then by SIGHUP: no request fails, each time the fingerprint changes once, and vectors are those of its model.
    """
    first, second = save_two_models(context)
    link = context.work / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(first)
    text, expected = " ".join(f"word{number}" for number in range(400)), dict[str, np.ndarray]()
    for folder in (first, second):
        with Encoder.load(str(folder)) as encoder:
            expected[encoder.fingerprint] = np.asarray(encoder.encode([text]))
    expect(len(expected) == 2, "the two models have one fingerprint")
    sample, lines = mixed(context.texts, 512, context.encoder), list[str]()
    with context.new_server("--admin-key", API_KEY, source=str(link)) as server:
        for way, target in (("POST", second), ("SIGHUP", first)):
            load = Loader(server, Group("all", batches(sample, 4), clients=4), 15)
            load.start()
            flips = [ask_fingerprint(server, text, expected)]
            point_to(link, target)
            telling = threading.Thread(target=tell, args=(server, way))
            telling.start()
            while load.is_alive():
                now = ask_fingerprint(server, text, expected)
                flips += [now] if now != flips[-1] else []
            telling.join()
            load.join()
            counts = load.result["groups"]["all"]
            expect(
                set(counts["codes"]) == {"200"} and not counts["errors"], f"{way}: {counts['codes']} {counts['errors']}"
            )
            expect(len(flips) == 2, f"{way}: the fingerprints are {flips}")
            lines.append(f"{way}: {counts['requests']} requests without an error, the fingerprint changed once")
        refused = server.post("/admin/reload", {}, {"Authorization": "Bearer wrong"}).status
        expect(refused in (401, 403), f"/admin/reload with a wrong key: {refused}")
    return "; ".join(lines)


def tell(server: Server, way: str) -> None:
    if way == "SIGHUP":
        server.process.send_signal(signal.SIGHUP)
    else:
        server.post("/admin/reload", {}, {"Authorization": f"Bearer {API_KEY}"})


def ask_fingerprint(server: Server, text: str, expected: dict[str, np.ndarray]) -> str:
    """The fingerprint of an answer, whose vector must be that of the model with this fingerprint."""
    answer = server.embed([text])
    fingerprint = answer.headers.get("x-gnomon-fingerprint", "")
    expect(fingerprint in expected, f"{answer.status}, fingerprint {fingerprint!r}")
    expect_close(vectors_of(answer), expected[fingerprint], "while it changes")
    return fingerprint


def point_to(link: Path, target: Path) -> None:
    """In one step: at no time is there no link."""
    fresh = link.with_suffix(".new")
    fresh.symlink_to(target)
    fresh.replace(link)


def save_two_models(context: Context) -> tuple[Path, Path]:
    """The model, and one with other word vectors, whose space is another."""
    from safetensors.numpy import load_file, save_file

    folders = context.work / "first", context.work / "second"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        context.encoder.save(folder)
    file = folders[1] / "model.safetensors"
    tensors = load_file(file)
    (name,) = [name for name in tensors if name.endswith("word_embeddings.weight")]
    save_file(tensors | {name: tensors[name][:, ::-1].copy()}, file, metadata={"format": "pt"})
    return folders


@check(33, "container")
def container(context: Context) -> str:
    """Built, then run read-only as another user with 1 GB and 2 cores; the tests print the image's size."""
    if "testimage:" not in (ROOT / "Makefile").read_text():
        raise NotPossibleError("this checkout has no make target for the image yet")
    built = run_tool(["make", "image"])
    if built.returncode and "works here" in built.stdout:
        raise NotPossibleError("no program that builds images works here: CONTAINERS may name one")
    if built.returncode and re.search(r"registry.*(no such host|refused|timeout|timed out)", built.stdout):
        raise NotPossibleError(
            "the registry of the base image cannot be reached: scripts/base_image.sh makes a base, and IMAGE_OPTIONS="
            "'--build-arg BASE=TAG' takes it"
        )
    expect(built.returncode == 0, f"make image: {built.stdout[-300:]}")
    size = [line for line in built.stdout.splitlines() if re.search(r"\d\s*MB", line)]
    return f"{run_make('testimage')}; {size[-1] if size else 'make image prints no size'}"


@check(34, "metrics")
def metrics(context: Context) -> str:
    """Valid, with TEI's names, and their sums are those of this client's own counts."""
    sample = mixed(context.texts, 128, context.encoder)
    with context.new_server("--cache", "0") as server:
        result = run_load(Plan([Group("all", batches(sample, 4), 4, count=32)]), server.address)
        server.embed([])
        text = server.get("/metrics").text
        with Client(server.address) as client:
            kind = client.get("/metrics").headers.get("content-type", "")
    counts = result["groups"]["all"]
    expect(kind.startswith("text/plain"), f"content type {kind!r}")
    done = run_tool(["promtool", "check", "metrics"], input=text)
    # promtool's style hints about TEI's names are exit status 3, and about nothing that is wrong
    wrong = [line for line in done.stdout.splitlines() if "error" in line.lower()]
    expect(done.returncode in (0, 3) and not wrong, f"promtool: {done.stdout[:300]}")
    missing = [name for name in TEI_NAMES if not re.search(rf"^{name}(_bucket)?[ {{]", text, re.MULTILINE)]
    expect(not missing, f"these of TEI's are missing: {missing}")
    tokens = metric(text, "gnomon_tokens_total")
    expect(tokens == counts["header_tokens"] == sample.num_tokens, f"{tokens} tokens, not {sample.num_tokens}")
    embedded = metric(text, "te_embed_success")
    expect(embedded == counts["texts"], f"te_embed_success {embedded}, not {counts['texts']}")
    failures = metric(text, "te_request_failure")
    expect(failures == 1, f"te_request_failure {failures}, not 1")
    return f"promtool accepts {len(text.splitlines())} lines; {tokens:.0f} tokens and {embedded:.0f} texts as counted"


TEI_NAMES = (
    "te_request_count",
    "te_request_success",
    "te_request_failure",
    "te_embed_count",
    "te_embed_success",
    "te_request_duration",
    "te_request_tokenization_duration",
    "te_request_queue_duration",
    "te_request_inference_duration",
    "te_request_input_length",
    "te_batch_next_size",
    "te_batch_next_tokens",
    "te_queue_size",
)
"""Of its Grafana dashboard."""


@check(35, "secrets")
def secrets(context: Context) -> str:
    """Neither a text nor a key is in any log of all the checks before, and of one server that logs everything."""
    with context.new_server("--api-key", API_KEY, "--log-format", "json", "--log-level", "debug") as server:
        for headers in ({"Authorization": f"Bearer {API_KEY}"}, {"Authorization": f"Bearer {API_KEY}x"}):
            server.post("/v1/embeddings", {"input": [SECRET_TEXT, ""]}, headers)
            server.post("/v1/embeddings", {"input": SECRET_TEXT}, headers)
            server.post("/v1/embeddings", f'{{"input": "{SECRET_TEXT}"', headers)
    logs = {file.name: file.read_text(errors="replace") for file in context.work.glob("*.log")}
    leaks = [(name, secret) for name, text in logs.items() for secret in (API_KEY, SECRET_TEXT) if secret in text]
    expect(not leaks, f"found: {leaks}")
    if not any(logs.values()):
        raise NotPossibleError("no server wrote a log")
    return f"nothing in {len(logs)} logs, {sum(map(len, logs.values())):,} characters"
