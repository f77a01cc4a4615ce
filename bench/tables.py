"""Sections of the report: results of one device -> lines of Markdown. All that is said is read from the numbers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from contenders import DEFAULT
from counting import Shape, operations
from texts import MIXES

Rows = dict[str, Any]
SAME = 1e-4
"""Largest |difference| / |vector| to float64 up to which a float32 contender computes the same."""

SAME_DTYPE = {
    "float32": (DEFAULT,),
    "bfloat16": (f"{DEFAULT} bfloat16", f"{DEFAULT} bfloat16 tuned"),
    "float16": (f"{DEFAULT} float16 tuned",),
}
"""dtype -> sentence-transformers in this dtype, in order of preference."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def spread(values: Rows, digits: int = 2) -> str:
    return f"{values['median']:.{digits}f} ({values['lowest']:.{digits}f} to {values['highest']:.{digits}f})"


def median(row: Rows | None) -> float | None:
    return row["seconds"]["median"] if row else None


def times(reference: Rows | None, row: Rows | None) -> str:
    """How many times as fast as the reference."""
    return f"{reference['seconds']['median'] / row['seconds']['median']:.2f}" if reference and row else "-"


def product_rate(cell: Rows, dtype: str) -> float | None:
    """Operations a second of the best library's matrix product in a dtype, in the same rounds."""
    rates = cell["rates"].get(dtype)
    return max(rate["median"] for rate in rates.values()) if rates else None


def achieved(cell: Rows, row: Rows) -> float | None:
    """Share of that rate, operations of real tokens only."""
    rate = product_rate(cell, row["dtype"])
    return cell["operations"] / row["seconds"]["median"] / rate if rate else None


def something_else(row: Rows) -> bool:
    return row["dtype"] == "float32" and row.get("distance", 0.0) > SAME


def fastest(runs: Rows, wanted: Callable[[str, Rows], bool]) -> str | None:
    names = [name for name, row in runs.items() if wanted(name, row)]
    return min(names, key=lambda name: runs[name]["seconds"]["median"], default=None)


def same_dtype(runs: Rows, dtype: str) -> str | None:
    return next((name for name in SAME_DTYPE.get(dtype, ()) if name in runs), None)


# in short


def in_short(results: Rows) -> list[str]:
    """The fastest of ours beside the default and the best of all peers, for each model, mix and dtype."""
    peers = (f"times {DEFAULT}", f"times {DEFAULT} in this dtype", "times the best peer in this dtype")
    head = ("model, texts", "dtype", "fastest of ours", *peers, "of the matrix product")
    rows = [
        line
        for model, mixes in results.get("bulk", {}).items()
        for mix, cell in mixes.items()
        for line in short_rows(f"{model}, {mix}", cell)
    ]
    told = (
        f"Times {DEFAULT}: how many times as fast as it is as installed, in float32. Peers in float32 are those within "
        f"{SAME:.0e} of float64."
    )
    return ["### In short", "", *table(head, rows), told, ""] if rows else []


def short_rows(title: str, cell: Rows) -> Iterator[tuple[str, ...]]:
    runs = cell["runs"]
    for dtype in dict.fromkeys(row["dtype"] for row in runs.values()):
        ours = fastest(runs, lambda name, row, dtype=dtype: ours_in(name, row, dtype))
        peer = fastest(runs, lambda name, row, dtype=dtype: peer_in(name, row, dtype))
        if not ours:
            continue
        share = achieved(cell, runs[ours])
        beside = [times_named(runs, other, ours) for other in (same_dtype(runs, dtype), peer)]
        yield (title, dtype, ours, times(runs.get(DEFAULT), runs[ours]), *beside, f"{share:.0%}" if share else "-")


def times_named(runs: Rows, other: str | None, ours: str) -> str:
    return f"{times(runs[other], runs[ours])} ({other})" if other else "-"


def ours_in(name: str, row: Rows, dtype: str) -> bool:
    return name.startswith("gnomon") and row["dtype"] == dtype


def peer_in(name: str, row: Rows, dtype: str) -> bool:
    return not name.startswith("gnomon") and row["dtype"] == dtype and not something_else(row)


# bulk


def bulk(results: Rows) -> list[str]:
    lines = ["### Many texts", ""]
    for model, mixes in results.get("bulk", {}).items():
        for mix, cell in mixes.items():
            lines += bulk_of(f"{model}, {mix}", mix, cell, results["models"][model], cuda=on_cuda(results))
    return lines


def bulk_of(title: str, mix: str, cell: Rows, model: Rows, *, cuda: bool) -> list[str]:
    weights = "random weights" if model["random"] else "real weights"
    told = (
        f"{cell['texts']:,} texts ({MIXES[mix][1]}), {cell['tokens']:,} tokens, the longest {cell['longest']:,}; "
        f"{weights}, {model['layers']} layers, reads {model['limit']:,} tokens."
    )
    head = ["contender (texts of a batch)", "seconds", f"times {DEFAULT}"]
    head += [f"times {DEFAULT}, same dtype"] if cuda else []
    head += ["tokens/s", "texts/s", "GFLOP/s", "of the matrix product", "padding", "peak MiB"]
    head += ["device MiB"] if cuda else []
    head += ["distance", "lowest cosine"]
    rows = [bulk_row(name, row, cell, cuda=cuda) for name, row in cell["runs"].items()]
    return [f"#### {title}", "", told, "", *table(head, rows), *products(cell), *left_out(cell)]


def bulk_row(name: str, row: Rows, cell: Rows, *, cuda: bool) -> list[str]:
    seconds, runs = row["seconds"]["median"], cell["runs"]
    share = achieved(cell, row)
    size = f" ({row['size']})" if row["size"] else ""
    line = [f"{name}{size}", spread(row["seconds"]), times(runs.get(DEFAULT), row)]
    line += [times(runs.get(same_dtype(runs, row["dtype"]) or ""), row)] if cuda else []
    line += [f"{cell['tokens'] / seconds:,.0f}", f"{cell['texts'] / seconds:,.1f}"]
    line += [f"{cell['operations'] / seconds / 1e9:,.0f}", f"{share:.0%}" if share else "-"]
    line += [f"{row['waste']:.0%}", f"{row['peak_mib']:,.0f}"]
    line += [f"{row['device_mib']:,.0f}" if row["device_mib"] is not None else "-"] if cuda else []
    return [*line, distance(row), f"{row['cosine']:.6f}" if "cosine" in row else "-"]


def distance(row: Rows) -> str:
    if "distance" not in row:
        return "-"
    return f"{row['distance']:.1e}" + (" (computes something else)" if something_else(row) else "")


def products(cell: Rows) -> list[str]:
    said = []
    for dtype, rates in cell["rates"].items():
        each = ", ".join(f"{library} {rate['median'] / 1e9:,.0f}" for library, rate in rates.items())
        said.append(f"{dtype} {each}")
    return [f"Matrix product in the same rounds, GFLOP/s: {'; '.join(said)}.", ""] if said else []


def left_out(cell: Rows) -> list[str]:
    """Who did not take part, by reason."""
    names: dict[str, list[str]] = {}
    for name, reason in cell["skipped"].items():
        names.setdefault(reason, []).append(name)
    said = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in names.items())
    return [f"Not measured: {said}.", ""] if said else []


def on_cuda(results: Rows) -> bool:
    return results["device"]["kind"] != "cpu"


# one query


def latency(results: Rows) -> list[str]:
    lines = []
    for model, found in results.get("latency", {}).items():
        head = (model, "p50 ms", "p95 ms", "p99 ms", f"of {DEFAULT}' p50", "calls")
        rows = [latency_row(name, row, found.get(DEFAULT)) for name, row in found.items()]
        lines += table(head, rows)
    return ["### One query", "", "Headings and questions of 3 to 14 words, one a call.", "", *lines] if lines else []


def latency_row(name: str, row: Rows, reference: Rows | None) -> tuple[str, ...]:
    cuts = [f"{row[key] * 1e3:.2f}" for key in ("p50", "p95", "p99")]
    share = f"{row['p50'] / reference['p50']:.2f}" if reference else "-"
    return (name, *cuts, share, f"{row['calls']}")


# cold start


def cold(results: Rows) -> list[str]:
    if not results.get("cold"):
        return []
    head = ("contender", "whole process, s", "import", "load", "first vector", "processor seconds", "peak MiB")
    rows = [cold_row(name, row) for name, row in results["cold"].items()]
    told = "New processes that import, load the model and encode one query; files are in the system's cache."
    return ["### Cold start", "", told, "", *table(head, rows)]


def cold_row(name: str, row: Rows) -> tuple[str, ...]:
    parts = [f"{row[key]['median']:.2f}" for key in ("import", "load", "first vector", "processor seconds")]
    return (name, spread(row["seconds"]), *parts, f"{row['peak_mib']['median']:,.0f}")


# growth


def growth(results: Rows) -> list[str]:
    found = results.get("growth", {})
    texts, lengths = found.get("texts"), found.get("lengths")
    lines = texts_growth(texts) if texts and "skipped" not in texts else []
    lines += lengths_growth(lengths, results) if lengths else []
    lines += size_growth(results)
    return ["### How time and memory grow", "", *lines] if lines else []


def texts_growth(found: Rows) -> list[str]:
    rows = [(f"{int(count):,}", spread(scaled(row))) for count, row in found["seconds_per_text"].items()]
    most, before = (f"{int(count):,}" for count in list(found["seconds_per_text"])[:-3:-1])
    memory = found["memory"]
    what = (
        f"{found['contender']}, {found['model']}: more and more texts of {found['mean_tokens']:.1f} tokens on average, "
        "all different, one process, one call for each number."
    )
    seen = (
        f"Among {most} a text takes {found['deviation']:+.1%} beside {before}. Resident memory during the largest "
        f"call: {memory['before']:,.0f} MiB in front of it, at most {memory['tenth']:,.0f} in its first tenth, at most "
        f"{memory['highest']:,.0f} in all, {memory['end']:,.0f} at its end."
    )
    return [what, "", *table(("texts", "seconds per 1,000 texts"), rows), seen, ""]


def scaled(row: Rows, factor: float = 1000) -> Rows:
    return {key: value * factor for key, value in row.items()}


def lengths_growth(found: Rows, results: Rows) -> list[str]:
    names = list(dict.fromkeys(name for row in found["tokens_per_second"].values() for name in row))
    rows = [
        (f"{int(length):,}", *(f"{row[name]['median']:,.0f}" if name in row else "-" for name in names))
        for length, row in found["tokens_per_second"].items()
    ]
    layers = results["models"].get(found["model"], {}).get("layers")
    told = f"Tokens a second by length of text, {found['model']}" + (f" ({layers} layers)." if layers else ".")
    return [told, "", *table(("tokens of a text", *names), rows)]


def size_growth(results: Rows) -> list[str]:
    """Seconds of 1,000 tokens against the operations that they are, over the models of the long-tailed mix."""
    head = (
        "model",
        "weights MiB",
        "GFLOP per 1,000 tokens",
        "ours, s per 1,000 tokens",
        f"{DEFAULT}, s",
        "ours, GFLOP/s",
    )
    rows = [
        size_row(model, results["models"][model], mixes["long-tail"])
        for model, mixes in results.get("bulk", {}).items()
        if "long-tail" in mixes
    ]
    told = "Model size: the long-tailed mix, float32, the faster engine of ours."
    return [told, "", *table(head, [row for row in rows if row])] if any(rows) else []


def size_row(model: str, told: Rows, cell: Rows) -> tuple[str, ...] | None:
    runs, thousands = cell["runs"], cell["tokens"] / 1000
    ours = fastest(runs, lambda name, row: ours_in(name, row, "float32"))
    if not ours:
        return None
    seconds, reference = runs[ours]["seconds"]["median"], median(runs.get(DEFAULT))
    shape = Shape(told["hidden"], told["layers"], told["inner"], told["gated"])
    return (
        model,
        f"{told['weights_mib']:,.0f}",
        f"{operations(shape, [1] * 1000) / 1e9:,.0f}",
        f"{seconds / thousands:.3f} ({ours})",
        f"{reference / thousands:.3f}" if reference else "-",
        f"{cell['operations'] / seconds / 1e9:,.0f}",
    )


# sizes, versions


def sizes(results: Rows) -> list[str]:
    if not results.get("sizes"):
        return []
    rows = [(name, f"{size:,.0f}") for name, size in results["sizes"].items()]
    told = "Installed packages of each environment, with what they bring; gnomon's own source is not among them."
    return ["### Size", "", told, "", *table(("environment", "MB"), rows)]


def versions(results: Rows) -> list[str]:
    rows = [f"- {name}: {found}" for name, found in results["versions"].items()]
    return ["### Versions", "", f"Python {results['python']}.", "", *rows, ""]


def took(results: Rows) -> list[str]:
    rows = [
        (name, row["measured"], f"{row['seconds'] / 60:.1f}", str(row["rounds"]), f"{row['scale']:g}")
        for name, row in results["took"].items()
        if not name.startswith("models")
    ]
    told = "Of the usual texts: how many times as many as the program takes when it is not told otherwise."
    return [
        "### Parts of the run",
        "",
        told,
        "",
        *table(("part", "date", "minutes", "rounds", "of the usual texts"), rows),
    ]
