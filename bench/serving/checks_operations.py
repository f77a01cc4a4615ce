"""Checks 30 to 35: start, drain, reload, containers, metrics, secrets."""

import os
import re
import signal
import sys
import threading
import time
from typing import Any

from bench.process import ROOT
from bench.serving.checks import (
    API_KEY,
    SECRET_TEXT,
    Context,
    NotPossibleError,
    check,
    expect,
    run_make,
    run_tool,
    wait_until,
)
from bench.serving.client import Client
from bench.serving.load import Group, Plan, run_load
from bench.serving.samples import batches, mixed
from bench.serving.scenarios import metric
from bench.serving.servers import Server

DRAIN_SECONDS = 30


class Loader(threading.Thread):
    """A load that runs beside a check."""

    def __init__(self, server: Server, group: Group, seconds: float) -> None:
        super().__init__()
        self.server, self.plan, self.result = server, Plan([group], seconds), dict[str, Any]()

    def run(self) -> None:
        self.result = run_load(self.plan, self.server.address)


@check(30, "drain")
def drain(context: Context) -> str:
    """Under load, SIGTERM: /ready is 503 first, what was accepted is answered, and it exits with 0."""
    sample = mixed(context.texts, 512, context.encoder)
    with context.new_server("--drain-delay", "3") as server:
        load = Loader(server, Group("all", batches(sample, 8), clients=8), 20)
        load.start()
        wait_until(lambda: metric(server.get("/metrics").text, "te_embed_success") > 0, 20, "first answers")
        server.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        wait_until(lambda: server.status("/ready") == 503, 2, "/ready 503")
        accepted = server.embed(["during the delay"]).status
        health = server.status("/health")
        status = server.process.wait(DRAIN_SECONDS + 10)
        seconds = time.monotonic() - start
        load.join()
    counts = load.result["groups"]["all"]
    expect(accepted == 200, f"during the drain delay a request got {accepted}")
    expect(health == 200, f"/health while draining: {health}")
    expect(status == 0, f"exit status {status}")
    expect(seconds < DRAIN_SECONDS, f"it took {seconds:.1f} s")
    bad = {code: count for code, count in counts["codes"].items() if code not in ("200", "503")}
    expect(not bad, f"codes {counts['codes']}")
    # afterwards nobody listens: refused connections are no failed requests
    lost = {name: count for name, count in counts["errors"].items() if name != "ConnectionRefusedError"}
    expect(not lost, f"connections broke: {lost}")
    return f"codes {counts['codes']}, exit status 0 after {seconds:.1f} s"


@check(31, "start")
def start(context: Context) -> str:
    with context.new_server(wait=False) as server:
        begin, codes = time.monotonic(), list[int | None]()
        retry: str | None = None
        while not codes or codes[-1] != 200:
            expect(time.monotonic() - begin < 120, f"not ready: {server.log_end()}")
            try:
                answer = server.get("/ready")
                codes.append(answer.status)
                retry = answer.headers.get("retry-after", retry)
            except OSError:
                codes.append(None)
            time.sleep(0.02)
        seconds = time.monotonic() - begin
        startup = server.status("/startup")
    seen = list(dict.fromkeys(codes))
    expect(seen in ([None, 503, 200], [503, 200]), f"/ready answers {seen}")
    expect(retry, "503 has no Retry-After")
    expect(startup == 200, f"/startup is {startup}")
    return f"503 with Retry-After {retry}, ready after {seconds:.1f} s; {check_offline(context)}"


def check_offline(context: Context) -> str:
    words = [sys.executable, "-m", "gnomon", "serve", context.source, "--preload-only"]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HF_HUB_OFFLINE": "1"}
    done = run_tool(["strace", "-f", "-e", "trace=connect", *words], env=variables, timeout=180)
    expect(done.returncode == 0, f"--preload-only exits with {done.returncode}: {done.stdout[-200:]}")
    connections = [line for line in done.stdout.splitlines() if "sa_family=AF_INET" in line]
    expect(not connections, f"it connects: {connections[:1]}")
    return "no connection while it loads offline"


@check(32, "reload under load")
def reload(context: Context) -> str:
    """A copy of the folder whose weights differ takes the place of the first: no request fails."""
    folder = copy_model(context)
    sample = mixed(context.texts, 512, context.encoder)
    key = {"Authorization": f"Bearer {API_KEY}"}
    with context.new_server("--admin-key", API_KEY, source=str(folder)) as server:
        before = server.embed(["a"]).headers.get("x-gnomon-fingerprint")
        change_model(folder)
        load = Loader(server, Group("all", batches(sample, 4), clients=4), 15)
        load.start()
        answer = server.post("/admin/reload", {}, key)
        expect(answer.status in (200, 202), f"/admin/reload: {answer.status} {answer.text[:150]}")
        flips = [before]
        while load.is_alive():
            now = server.embed(["a"]).headers.get("x-gnomon-fingerprint")
            flips += [now] if now != flips[-1] else []
        load.join()
    counts = load.result["groups"]["all"]
    expect(set(counts["codes"]) == {"200"} and not counts["errors"], f"{counts['codes']} {counts['errors']}")
    expect(len(flips) == 2 and all(flips), f"the fingerprint is {flips}")
    return f"{counts['requests']} requests without an error, the fingerprint changed once"


def copy_model(context: Context) -> Any:
    import shutil

    target = context.work / "reloaded"
    shutil.rmtree(target, ignore_errors=True)
    context.encoder.save(target)
    return target


def change_model(folder: Any) -> None:
    """Another shortest sequence length is another space: its fingerprint differs."""
    import json

    file = folder / "sentence_bert_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"max_seq_length": values["max_seq_length"] - 8}))


@check(33, "container")
def container(context: Context) -> str:
    return run_make("image", "")


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
