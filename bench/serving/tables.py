"""The tables of docs/records/serving.md.

usage: python -m bench.serving.tables serving.json
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.figures import print_table, spread, summary

Result = dict[str, Any]


def print_tables(results: Result) -> None:
    for name, table in TABLES.items():
        if name in results:
            table(results[name])


def bare_table(result: Result) -> None:
    rows = []
    for load, cell in result.items():
        for name, runs in cell["runs"].items():
            rates = [spread(summary([run[key] for run in runs]), 0) for key in RATES]
            rows.append(
                [load, name, *rates, *([spread(cell["ratios"][key]) for key in RATIOS] if name == "served" else "--")]
            )
    head = [
        "load",
        "",
        "texts/s",
        "tokens per processor second",
        "of encode, texts/s",
        "of encode, per processor second",
    ]
    print_table(head, rows, "Served, and by the bare call: medians (lowest to highest)")


RATES = ("texts_per_second", "tokens_per_processor_second")
RATIOS = RATES


def query_table(result: Result) -> None:
    rows = [[name, spread(result["p50"][name]), spread(result["p99"][name])] for name in result["p50"]]
    print_table(["", "p50, ms", "p99, ms"], rows, f"One query at a time, {result['queries']} of them")
    print(f"\nThe server takes {spread(result['served more, ms'])} ms more at the median.")


def peers_table(result: Result) -> None:
    rows = []
    for cell, runs in result.items():
        ours = runs["gnomon"]
        for name, values in runs.items():
            times = [latency(values, share) for share in ("p50", "p99")]
            rate = spread(summary([run["requests_per_second"] for run in values]), 1)
            failures = sum(sum(run["errors"].values()) + failed(run["codes"]) for run in values)
            ratio = rate_of(ours) / rate_of(values) if rate_of(values) else 0.0
            mib = max(run["resident_mib"] for run in values)
            rows.append(
                [
                    cell,
                    name,
                    rate,
                    *times,
                    failures,
                    f"{mib:.0f}",
                    "-" if values is ours or not ratio else f"{ratio:.2f}",
                ]
            )
    head = ["load", "server", "requests/s", "p50, ms", "p99, ms", "failures", "MiB", "ours / its requests/s"]
    print_table(head, rows, "Mixed lengths")


def latency(runs: list[Result], share: str) -> str:
    """A dash where a run had no answer in its time."""
    if not all(run["milliseconds"] for run in runs):
        return "-"
    return spread(summary([run["milliseconds"][share] for run in runs]), 1)


def failed(codes: dict[str, int]) -> int:
    return sum(count for code, count in codes.items() if not code.startswith("2"))


def rate_of(runs: list[Result]) -> float:
    return statistics.median(run["requests_per_second"] for run in runs)


def lanes_table(result: Result) -> None:
    rows = [
        [
            number,
            f"{row['idle']['p50']:.1f}",
            f"{row['idle']['p99']:.1f}",
            f"{row['busy']['p50']:.1f}" if row["busy"] else "-",
            f"{row['busy']['p99']:.1f}" if row["busy"] else "-",
            f"{row['step_ms']:.1f}" if row["step_ms"] else "-",
            f"{row['limit_ms']:.1f}",
            "yes" if row["within"] else "no",
            f"{row['bulk']['per_second']['texts']:.0f}",
        ]
        for number, row in enumerate(result["rounds"], 1)
    ]
    head = ["round", "idle p50, ms", "idle p99, ms", "busy p50, ms", "busy p99, ms", "step, ms", "limit, ms", "within"]
    title = f"Queries beside 4 clients with requests of {result['bulk texts per request']:,} texts"
    print_table([*head, "bulk texts/s"], rows, title)


TABLES = {"served and bare": bare_table, "one query": query_table, "peers": peers_table, "two lanes": lanes_table}

if __name__ == "__main__":
    print_tables(json.loads(Path(sys.argv[1]).read_text()))
