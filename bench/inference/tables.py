"""The tables of docs/benchmarks.md, from a file of results.

usage: python3 -m bench.inference.tables RESULTS.json
"""

import json
import sys
from collections.abc import Callable, Iterator
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
    for table in (short, bulk, latency, cold, growth, sizes):
        table(results)
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
    rows = [row for model, mix, cell in cells_of(results) for row in short_rows(f"{model}, {mix}", cell)]
    print_table(("model, texts", "dtype", "fastest of ours", *peers, "of the matrix product"), rows, "### In short")


def short_rows(title: str, cell: Rows) -> Iterator[tuple[str, ...]]:
    runs = cell["runs"]
    for dtype in dict.fromkeys(row["dtype"] for row in runs.values()):
        ours = fastest(runs, lambda name, row, dtype=dtype: name.startswith("gnomon") and row["dtype"] == dtype)
        peer = fastest(runs, lambda name, row, dtype=dtype: is_peer(name, row, dtype))
        if ours:
            others = (OWN.get(dtype), peer)
            beside = [f"{times(runs[name], runs[ours])} ({name})" if name in runs else "-" for name in others]
            yield title, dtype, ours, times(runs.get(DEFAULT), runs[ours]), *beside, of_product(cell, runs[ours])


def fastest(runs: Rows, wanted: Callable[[str, Rows], bool]) -> str | None:
    names = [name for name, row in runs.items() if wanted(name, row)]
    return min(names, key=lambda name: runs[name]["seconds"]["median"], default=None)


def is_peer(name: str, row: Rows, dtype: str) -> bool:
    return not name.startswith("gnomon") and row["dtype"] == dtype and not differs(row)


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
    cuda = results["device"]["kind"] != "cpu"
    head = ["system (texts of a batch)", "seconds", f"times {DEFAULT}", *([f"times {DEFAULT}, same dtype"] * cuda)]
    head += ["tokens/s", "texts/s", "GFLOP/s", "of the matrix product", "padding", "peak MiB", *(["device MiB"] * cuda)]
    head += ["distance", "lowest cosine"]
    for model, mix, cell in cells_of(results):
        facts = results["models"][model]
        title = f"#### {model}, {mix}: {cell['texts']:,} texts, {cell['tokens']:,} tokens, longest {cell['longest']:,}"
        title += f"; {'random' if facts['random'] else 'real'} weights, {facts['layers']} layers"
        print_table(head, [bulk_row(name, row, cell, cuda=cuda) for name, row in cell["runs"].items()], title)
        for dtype, by_library in cell["rates"].items():
            rates = ", ".join(f"{library} {rate['median'] / 1e9:,.0f}" for library, rate in by_library.items())
            print(f"\nmatrix product, {dtype}, GFLOP/s: {rates}", end="")
        print("".join(f"\nnot measured: {name}: {reason}" for name, reason in cell["skipped"].items()))


def bulk_row(name: str, row: Rows, cell: Rows, *, cuda: bool) -> list[str]:
    seconds, runs = row["seconds"]["median"], cell["runs"]
    line = [f"{name} ({row['size']})" if row["size"] else name, spread(row["seconds"]), times(runs.get(DEFAULT), row)]
    line += [times(runs.get(OWN.get(row["dtype"])), row)] if cuda else []
    line += [f"{cell['tokens'] / seconds:,.0f}", f"{cell['texts'] / seconds:,.1f}"]
    line += [f"{cell['operations'] / seconds / 1e9:,.0f}", of_product(cell, row)]
    line += [f"{row['waste']:.0%}", f"{row['peak_mib']:,.0f}"]
    line += [f"{row['device_mib']:,.0f}" if row["device_mib"] is not None else "-"] if cuda else []
    if "distance" not in row:
        return [*line, "-", "-"]
    far = f"{row['distance']:.1e}" + (" (computes something else)" if differs(row) else "")
    return [*line, far, f"{row['cosine']:.6f}"]


def latency(results: Rows) -> None:
    for model, found in results.get("latency", {}).items():
        reference = found.get(DEFAULT)
        rows = [
            (
                name,
                *(f"{row[key] * 1e3:.2f}" for key in ("p50", "p95", "p99")),
                f"{row['p50'] / reference['p50']:.2f}" if reference else "-",
                row["calls"],
            )
            for name, row in found.items()
        ]
        head = (model, "p50 ms", "p95 ms", "p99 ms", f"of {DEFAULT}' p50", "calls")
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


def growth(results: Rows) -> None:
    found = results.get("growth", {})
    texts, lengths = found.get("texts", {"skipped": ""}), found.get("lengths")
    if "skipped" not in texts:
        scaled = {
            count: {key: 1000 * value for key, value in row.items()} for count, row in texts["seconds_per_text"].items()
        }
        title = f"### Growth: {texts['contender']}, {texts['model']}, {texts['mean_tokens']:.1f} tokens a text"
        rows = [(f"{int(count):,}", spread(row)) for count, row in scaled.items()]
        print_table(("texts", "seconds per 1,000 texts"), rows, title)
        memory = ", ".join(f"{key} {texts['memory'][key]:,.0f}" for key in ("before", "tenth", "highest", "end"))
        print(f"\nlargest number beside the one before it {texts['deviation']:+.1%}; resident MiB: {memory}")
    if lengths:
        by_length = lengths["tokens_per_second"]
        names = list(dict.fromkeys(name for row in by_length.values() for name in row))
        rows = [
            (length, *(f"{row[name]['median']:,.0f}" if name in row else "-" for name in names))
            for length, row in by_length.items()
        ]
        print_table(("tokens of a text", *names), rows, f"Tokens a second, {lengths['model']}")
    sized = [(model, cell) for model, mix, cell in cells_of(results) if mix == "long-tail"]
    head = ("model", "weights MiB", "GFLOP per 1,000 tokens", "ours, s", f"{DEFAULT}, s", "ours, GFLOP/s")
    rows = [size_row(model, results["models"][model], cell) for model, cell in sized]
    print_table(head, [row for row in rows if row], "Seconds per 1,000 tokens by model size, long-tail, float32")


def size_row(model: str, facts: Rows, cell: Rows) -> tuple[str, ...]:
    runs, thousands = cell["runs"], cell["tokens"] / 1000
    ours = fastest(runs, lambda name, row: name.startswith("gnomon") and row["dtype"] == "float32")
    if not ours:
        return ()
    seconds, reference = runs[ours]["seconds"]["median"], runs.get(DEFAULT)
    shape = Shape(facts["hidden"], facts["layers"], facts["inner"], facts["gated"])
    return (
        model,
        f"{facts['weights_mib']:,.0f}",
        f"{operations(shape, [1] * 1000) / 1e9:,.0f}",
        f"{seconds / thousands:.3f} ({ours})",
        f"{reference['seconds']['median'] / thousands:.3f}" if reference else "-",
        f"{cell['operations'] / seconds / 1e9:,.0f}",
    )


def sizes(results: Rows) -> None:
    rows = [(name, f"{size:,.0f}") for name, size in results.get("sizes", {}).items()]
    print_table(("environment", "MB"), rows, "### Size of the installed packages")


if __name__ == "__main__":
    print_all(json.loads(Path(sys.argv[1]).read_text()))
