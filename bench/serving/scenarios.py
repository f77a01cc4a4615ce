"""What is measured: each scenario returns what the JSON holds. Servers run on one core, the load on the other."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bench.figures import say, summarize_latencies, summary, turns
from bench.process import ROOT, variables
from bench.serving.client import Address
from bench.serving.load import Group, Plan
from bench.serving.process import pinned, running_alone
from bench.serving.samples import Sample, batches, mixed, short
from bench.serving.servers import NO_CACHE, Command, Peers, Server, ServerError, gnomon
from bench.texts import Texts

CLIENTS, SIZES = (1, 8, 64), (1, 32)
LONG_WAIT = ("--request-timeout", "900")
BULK_TEXTS = 2048

Result = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 20.0
    """Of each load that has a time."""
    warm_seconds: float = 2.0
    bulk_texts: int = 2048
    """Of mixed lengths, in each round."""
    short_texts: int = 4096
    queries: int = 400


QUICK = Sizes(rounds=1, seconds=2.0, warm_seconds=0.5, bulk_texts=256, short_texts=512, queries=50)


@dataclass(frozen=True)
class Bench:
    """What the scenarios share."""

    source: str
    texts: Texts
    encoder: Any
    """Counts tokens; it computes nothing while something is measured."""
    work: Path
    peers: Peers | None
    sizes: Sizes
    server_core: int
    load_core: int
    port: int = 7411
    options: Sequence[str] = field(default=(*NO_CACHE, "--drain-delay", "0"))

    @cached_property
    def mixed(self) -> Sample:
        return mixed(self.texts, self.sizes.bulk_texts, self.encoder)

    @cached_property
    def short(self) -> Sample:
        return short(self.texts, self.sizes.short_texts, self.encoder)

    @contextmanager
    def server(self, *options: str) -> Iterator[Server]:
        with self.start(gnomon(self.source, self.port, *self.options, *options)) as server:
            yield server

    def start(self, command: Command) -> Server:
        log = self.work / f"{re.sub(r'[^a-z]+', '-', command.name)}.log"
        return Server(command, log, core=self.server_core)

    def load(self, plan: Plan, address: Address) -> Result:
        """The load generator in a process of its own, on its core."""
        file = self.work / "plan.json"
        plan.write(file, address)
        words = pinned([sys.executable, "-m", "bench.serving.load", str(file)], self.load_core)
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, cwd=ROOT, env=variables(1))
        return json.loads(done.stdout)


class BareEncode:
    """`Encoder.encode` with one thread in a process of its own, on the servers' core."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "bench.serving.encode_worker", self.bench.source]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(pinned(words, self.bench.server_core), cwd=ROOT, env=variables(1), **pipes)
        self._read()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def run(self, sample: Sample, *, one_by_one: bool = False) -> Result:
        file = self.bench.work / "texts.json"
        file.write_text(json.dumps(list(sample.texts)))
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"texts": str(file), "one_by_one": one_by_one}) + "\n")
        self.process.stdin.flush()
        return rates(self._read(), sample)

    def _read(self) -> Result:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


def rates(answer: Result, sample: Sample) -> Result:
    """Of a call that encoded a whole sample."""
    return answer | {
        "texts_per_second": len(sample.texts) / answer["seconds"],
        "tokens_per_second": sample.num_tokens / answer["seconds"],
        "tokens_per_processor_second": sample.num_tokens / answer["processor_seconds"],
    }


def served_rates(answer: Result, group: str) -> Result:
    """Of a load of one group."""
    counts, used = answer["groups"][group], answer["server"]["processor_seconds"]
    return {
        "seconds": counts["seconds"],
        "processor_seconds": used,
        "texts_per_second": counts["per_second"]["texts"],
        "tokens_per_second": counts["per_second"]["tokens"],
        "tokens_per_processor_second": counts["tokens"] / used if used else None,
        "codes": counts["codes"],
        "errors": counts["errors"],
        "unanswered": answer["unanswered"],
        "milliseconds": counts["milliseconds"],
        "resident_mib": answer["server"]["after"]["resident_mib"],
        "generator": answer["generator"],
    }


def served_and_bare(bench: Bench) -> Result:
    """The same texts through the server and through `encode`, in turn: mixed lengths in batches, short texts singly."""
    with bench.server(*LONG_WAIT) as server, BareEncode(bench) as bare:
        return {
            "mixed lengths, 64 clients, batches of 32": compare(bench, server, bare, bench.mixed, 32),
            "short texts, 64 clients, one text per request": compare(bench, server, bare, bench.short, 1),
        }


def compare(bench: Bench, server: Server, bare: BareEncode, sample: Sample, size: int) -> Result:
    requests = batches(sample, size, server.command.embeddings_path)
    whole = sample.part(0, len(requests) * size)
    plan = Plan([Group("all", requests, clients=64, count=len(requests))], process=server.pid)
    work = {
        "encode": lambda: bare.run(whole),
        "served": lambda: served_rates(check_all_answered(bench.load(plan, server.address)), "all"),
    }
    work["served"]()  # warm
    runs: dict[str, list[Result]] = {name: [] for name in work}
    for name in turns(list(work), bench.sizes.rounds):
        with running_alone(server.pid if name == "served" else bare.process.pid, [server.pid, bare.process.pid]):
            runs[name].append(work[name]())
        say(f"  {sample.name}, {name}: {runs[name][-1]['texts_per_second']:.0f} texts per second")
    return {"texts": len(whole.texts), "tokens": whole.num_tokens, "runs": runs, "ratios": ratios(runs)}


def check_all_answered(answer: Result) -> Result:
    """
    Raises:
        ServerError: a request failed, so that rates would not be those of the whole work.
    """
    for name, counts in answer["groups"].items():
        if set(counts["codes"]) != {"200"} or counts["errors"] or answer["unanswered"]:
            raise ServerError(f"{name}: codes {counts['codes']}, errors {counts['errors']}; all must be answered 200.")
    return answer


def ratios(runs: dict[str, list[Result]]) -> Result:
    """served / encode, of each round's pair."""
    names = ("texts_per_second", "tokens_per_processor_second")
    pairs = list(zip(runs["served"], runs["encode"], strict=True))
    return {name: summary([served[name] / encode[name] for served, encode in pairs]) for name in names}


def one_query(bench: Bench) -> Result:
    """One client with one short text at a time, beside the bare call."""
    queries = bench.short.part(0, bench.sizes.queries)
    medians: dict[str, list[float]] = {"encode": [], "served": []}
    highest: dict[str, list[float]] = {"encode": [], "served": []}
    with bench.server() as server, BareEncode(bench) as bare:
        requests = batches(queries, 1, server.command.embeddings_path)
        plan = Plan([Group("one", requests, count=len(requests))], process=server.pid)
        for name in turns(list(medians), bench.sizes.rounds):
            with running_alone(server.pid if name == "served" else bare.process.pid, [server.pid, bare.process.pid]):
                if name == "served":
                    times = check_all_answered(bench.load(plan, server.address))["groups"]["one"]["milliseconds"]
                else:
                    times = summarize_latencies(bare.run(queries, one_by_one=True)["milliseconds"])
            medians[name].append(times["p50"])
            highest[name].append(times["p99"])
    more = [served - encode for served, encode in zip(medians["served"], medians["encode"], strict=True)]
    return {
        "queries": len(queries.texts),
        "p50": {name: summary(values) for name, values in medians.items()},
        "p99": {name: summary(values) for name, values in highest.items()},
        "served more, ms": summary(more),
    }


def beside_peers(bench: Bench) -> Result:
    """Mixed lengths at 1, 8 and 64 clients, single texts and batches of 32: ours and infinity's engines in turn."""
    commands = [gnomon(bench.source, bench.port, *bench.options, *LONG_WAIT)]
    commands += bench.peers.commands(bench.port + 1) if bench.peers else []
    cells: dict[str, Result] = {}
    with ExitStack() as stack:
        servers = {command.name: stack.enter_context(bench.start(command)) for command in commands}
        pids = [server.pid for server in servers.values()]
        for clients in CLIENTS:
            for size in SIZES:
                runs: dict[str, list[Result]] = {name: [] for name in servers}
                for name in turns(list(servers), bench.sizes.rounds):
                    with running_alone(servers[name].pid, pids):
                        runs[name].append(load_for_a_time(bench, servers[name], clients, size))
                cells[f"{clients} clients, {size} texts"] = runs
                say(f"  {clients} clients, {size} texts: {describe(runs)}")
    return cells


def load_for_a_time(bench: Bench, server: Server, clients: int, size: int) -> Result:
    requests = batches(bench.mixed, size, server.command.embeddings_path)
    sizes = bench.sizes
    plan = Plan([Group("all", requests, clients)], sizes.seconds, sizes.warm_seconds, server.pid)
    answer = bench.load(plan, server.address)
    return served_rates(answer, "all") | {
        "requests_per_second": answer["groups"]["all"]["per_second"]["requests"],
    }


def describe(runs: dict[str, list[Result]]) -> str:
    rows = {name: statistics.median(run["requests_per_second"] for run in values) for name, values in runs.items()}
    return ", ".join(f"{name} {value:.1f} requests/s" for name, value in rows.items())


def two_lanes(bench: Bench) -> Result:
    """Latency of queries without other work, and while four clients send requests of 2,048 texts."""
    bulk = mixed(bench.texts, 4 * BULK_TEXTS, bench.encoder) if bench.sizes is not QUICK else bench.mixed
    size = min(BULK_TEXTS, len(bulk.texts) // 4)
    sizes, rounds = bench.sizes, list[Result]()
    with bench.server(*LONG_WAIT) as server:
        path = server.command.embeddings_path
        query = Group("query", batches(bench.short, 1, path))
        for _ in range(sizes.rounds):
            idle = bench.load(Plan([query], sizes.seconds, sizes.warm_seconds, server.pid), server.address)
            before = step_seconds(server)
            groups = [query, Group("bulk", batches(bulk, size, path), clients=4)]
            busy = bench.load(Plan(groups, 3 * sizes.seconds, sizes.warm_seconds, server.pid), server.address)
            step = mean_step(before, step_seconds(server))
            rounds.append(lanes_row(idle, busy, step))
            say(f"  two lanes: {rounds[-1]}")
    return {"bulk texts per request": size, "rounds": rounds}


def lanes_row(idle: Result, busy: Result, step_ms: float | None) -> Result:
    limit = 3 * idle["groups"]["query"]["milliseconds"]["p99"] + (step_ms or 0.0)
    times = busy["groups"]["query"]["milliseconds"]
    return {
        "idle": idle["groups"]["query"]["milliseconds"],
        "busy": times,
        "step_ms": step_ms,
        "limit_ms": limit,
        "within": bool(times) and times["p99"] <= limit,
        "bulk": {name: busy["groups"]["bulk"][name] for name in ("codes", "errors", "per_second")},
    }


def step_seconds(server: Server) -> tuple[float, float]:
    """Sum and number of the engine's steps so far."""
    text = server.get("/metrics").text
    return metric(text, "gnomon_step_seconds_sum"), metric(text, "gnomon_step_seconds_count")


def mean_step(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """Milliseconds; None where there was no step."""
    count = after[1] - before[1]
    return 1e3 * (after[0] - before[0]) / count if count else None


def metric(text: str, name: str) -> float:
    """The sum over all labels of a metric; 0 where it is missing."""
    lines = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, lines))


SCENARIOS = {
    "served and bare": served_and_bare,
    "one query": one_query,
    "peers": beside_peers,
    "two lanes": two_lanes,
}
