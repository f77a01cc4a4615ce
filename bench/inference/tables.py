"""The tables of docs/records/benchmarks.md, from a file of results.

usage: python3 -m bench.inference.tables RESULTS.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import print_table, spread
from bench.flops import Shape, operations
from bench.inference.systems import DEFAULT

Rows = dict[str, Any]
SAME = 1e-4
"""Largest |difference| / |vector| to float64 up to which a float32 system computes the same."""

OWN = {"float32": DEFAULT, "bfloat16": f"{DEFAULT} bfloat16 tuned"}
"""dtype -> sentence-transformers in this dtype."""


def print_all(results: Rows) -> None:
    device = results["device"]
    print(f"{device['name']}, {device['threads']} threads, {results['date']}; Python {results['python']}")
    for table in (short, bulk, latency, cold, model_sizes):
        table(results)
    sizes = [(name, f"{size:,.0f}") for name, size in results.get("sizes", {}).items()]
    print_table(("environment", "MB"), sizes, "### Size of the installed packages")
    print_table(("environment", "versions"), list(results["versions"].items()))
    took = [
        (name, row["measured"], f"{row['seconds'] / 60:.1f}", row["rounds"], f"{row['scale']:g}")
        for name, row in results["took"].items()
        if not name.startswith("models")
    ]
    print_table(("part", "date", "minutes", "rounds", "of the usual texts"), took)


def cells_of(results: Rows) -> Iterator[tuple[str, str, Rows]]:
    for model, mixes in results.get("bulk", {}).items():
        yield from ((model, mix, cell) for mix, cell in mixes.items())


def short(results: Rows) -> None:
    """The fastest of ours beside the default and the best of all peers, for each model, mix and dtype."""
    peers = (f"times {DEFAULT}", f"times {DEFAULT} in this dtype", "times the best peer in this dtype")
    rows: list[tuple[str, ...]] = []
    for model, mix, cell in cells_of(results):
        runs = cell["runs"]
        for dtype in dict.fromkeys(row["dtype"] for row in runs.values()):
            if ours := fastest(runs, dtype, ours=True):
                others = (OWN.get(dtype), fastest(runs, dtype, ours=False))
                beside = [f"{times(runs[name], runs[ours])} ({name})" if name in runs else "-" for name in others]
                default, share = times(runs.get(DEFAULT), runs[ours]), of_product(cell, runs[ours])
                rows.append((f"{model}, {mix}", dtype, ours, default, *beside, share))
    print_table(("model, texts", "dtype", "fastest of ours", *peers, "of the matrix product"), rows, "### In short")


def fastest(runs: Rows, dtype: str, *, ours: bool) -> str | None:
    """Of gnomon's in a dtype, or of those peers that compute the same."""
    names = [name for name, row in runs.items() if row["dtype"] == dtype and name.startswith("gnomon") == ours]
    names = [name for name in names if ours or not differs(runs[name])]
    return min(names, key=lambda name: runs[name]["seconds"]["median"], default=None)


def differs(row: Rows) -> bool:
    """Whether a float32 system computes something else."""
    return row["dtype"] == "float32" and row.get("distance", 0.0) > SAME


def times(reference: Rows | None, row: Rows) -> str:
    """How many times as fast as the reference."""
    return f"{reference['seconds']['median'] / row['seconds']['median']:.2f}" if reference else "-"


def of_product(cell: Rows, row: Rows) -> str:
    """Share of the rate of the best library's matrix product in the same rounds; operations of real tokens only."""
    rates = [rate["median"] for rate in cell["rates"].get(row["dtype"], {}).values()]
    return f"{cell['operations'] / row['seconds']['median'] / max(rates):.0%}" if rates else "-"


def bulk(results: Rows) -> None:
    head = ("system (texts of a batch)", "seconds", f"times {DEFAULT}", "tokens/s", "texts/s", "GFLOP/s")
    head += ("of the matrix product", "padding", "peak MiB", "device MiB", "distance", "lowest cosine")
    for model, mix, cell in cells_of(results):
        facts = results["models"][model]
        title = f"#### {model}, {mix}: {cell['texts']:,} texts, {cell['tokens']:,} tokens, longest {cell['longest']:,}"
        title += f"; {'random' if facts['random'] else 'real'} weights, {facts['layers']} layers"
        print_table(head, [bulk_row(name, row, cell) for name, row in cell["runs"].items()], title)
        for dtype, by_library in cell["rates"].items():
            rates = ", ".join(f"{library} {rate['median'] / 1e9:,.0f}" for library, rate in by_library.items())
            print(f"\nmatrix product, {dtype}, GFLOP/s: {rates}", end="")
        print("".join(f"\nnot measured: {name}: {reason}" for name, reason in cell["skipped"].items()))


def bulk_row(name: str, row: Rows, cell: Rows) -> tuple[str, ...]:
    seconds, remark = row["seconds"]["median"], " (computes something else)" if differs(row) else ""
    return (
        f"{name} ({row['size']})" if row["size"] else name,
        spread(row["seconds"]),
        times(cell["runs"].get(DEFAULT), row),
        f"{cell['tokens'] / seconds:,.0f}",
        f"{cell['texts'] / seconds:,.1f}",
        f"{cell['operations'] / seconds / 1e9:,.0f}",
        of_product(cell, row),
        f"{row['waste']:.0%}",
        f"{row['peak_mib']:,.0f}",
        f"{row['device_mib']:,.0f}" if row["device_mib"] is not None else "-",
        f"{row['distance']:.1e}{remark}" if "distance" in row else "-",
        f"{row['cosine']:.6f}" if "cosine" in row else "-",
    )


def latency(results: Rows) -> None:
    quantiles = ("p50", "p95", "p99")
    for model, found in results.get("latency", {}).items():
        default = found.get(DEFAULT)
        head = (model, *(f"{name} ms" for name in quantiles), f"of {DEFAULT}' p50", "calls")
        rows = [
            (
                name,
                *(f"{row[key] * 1e3:.2f}" for key in quantiles),
                f"{row['p50'] / default['p50']:.2f}" if default else "-",
                row["calls"],
            )
            for name, row in found.items()
        ]
        print_table(head, rows, "### One query")


def cold(results: Rows) -> None:
    parts = ("import", "load", "first vector", "processor seconds")
    rows = [
        (
            name,
            spread(row["seconds"]),
            *(f"{row[part]['median']:.2f}" for part in parts),
            f"{row['peak_mib']['median']:,.0f}",
        )
        for name, row in results.get("cold", {}).items()
    ]
    print_table(("system", "whole process, s", *parts, "peak MiB"), rows, "### Cold start")


def model_sizes(results: Rows) -> None:
    rows: list[tuple[str, ...]] = []
    for model, mix, cell in cells_of(results):
        facts, runs, thousands = results["models"][model], cell["runs"], cell["tokens"] / 1000
        if mix == "long-tail" and (ours := fastest(runs, "float32", ours=True)):
            seconds, default = runs[ours]["seconds"]["median"], runs.get(DEFAULT)
            shape = Shape(facts["hidden"], facts["layers"], facts["inner"], facts["gated"])
            row = (
                model,
                f"{facts['weights_mib']:,.0f}",
                f"{operations(shape, [1] * 1000) / 1e9:,.0f}",
                f"{seconds / thousands:.3f} ({ours})",
                f"{default['seconds']['median'] / thousands:.3f}" if default else "-",
                f"{cell['operations'] / seconds / 1e9:,.0f}",
            )
            rows.append(row)
    head = ("model", "weights MiB", "GFLOP per 1,000 tokens", "ours, s", f"{DEFAULT}, s", "ours, GFLOP/s")
    print_table(head, rows, "Seconds per 1,000 tokens by model size, long-tail, float32")


if __name__ == "__main__":
    print_all(json.loads(Path(sys.argv[1]).read_text()))
