"""The plot of one file of results; needs matplotlib.

usage: python -m bench.inference.plot RESULTS.json OUT.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, PEERS, REDUCED = "#0072b2", "#999999", "////"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # colour-blind readers can tell them apart
MARKERS = "osD^"
MIX = "long-tail"

Results = dict[str, Any]


def draw(results: Results, out: Path) -> None:
    """Above, a panel of bars for each model; below, how time and memory grow."""
    bulk = {model: mixes[MIX] for model, mixes in results.get("bulk", {}).items() if MIX in mixes}
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    tallest = max((len(cell["runs"]) for cell in bulk.values()), default=4)
    figure = plt.figure(figsize=(15, 2.2 + 0.32 * tallest + 4.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.4 + 0.32 * tallest, 4.2))
    what = results["device"]
    above.suptitle(
        f"Tokens a second, long-tailed mix of real texts: {what['name']}, {what['threads']} threads\n"
        "blue: gnomon; grey: others (ST: sentence-transformers); hatched: less than float32; whiskers: slowest and "
        "fastest round"
    )
    for axes, (model, cell) in zip(panels(above, max(len(bulk), 1)), bulk.items(), strict=False):
        bars(axes, model, cell)
    growth = results.get("growth", {})
    drawn = (("texts", per_text), ("texts", memory), ("lengths", lengths))
    for axes, (found, draw_panel) in zip(panels(below, 3), drawn, strict=True):
        if found in growth and "skipped" not in growth[found]:
            draw_panel(axes, growth[found])
            axes.set_ylim(bottom=0)
        else:
            axes.set_axis_off()
    figure.savefig(out, dpi=110)


def panels(figure: Any, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def bars(axes: Axes, model: str, cell: Results) -> None:
    """One bar per system, fastest on top; whiskers from the slowest to the fastest round."""
    runs = sorted(cell["runs"].items(), key=lambda item: -item[1]["seconds"]["median"])
    rates = [cell["tokens"] / row["seconds"]["median"] for _, row in runs]
    lows = [rate - cell["tokens"] / row["seconds"]["highest"] for rate, (_, row) in zip(rates, runs, strict=True)]
    highs = [cell["tokens"] / row["seconds"]["lowest"] - rate for rate, (_, row) in zip(rates, runs, strict=True)]
    colours = [OURS if name.startswith("gnomon") else PEERS for name, _ in runs]
    names = [name.replace("sentence-transformers", "ST") for name, _ in runs]
    drawn = axes.barh(names, rates, xerr=[lows, highs], color=colours, edgecolor="white", ecolor="#333333", capsize=2)
    for bar, (_, row) in zip(drawn, runs, strict=True):
        bar.set_hatch("" if row["dtype"] == "float32" else REDUCED)
    axes.set_title(model)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.08)


def per_text(axes: Axes, found: Results) -> None:
    rows = found["seconds_per_text"]
    counts = [int(count) for count in rows]
    axes.plot(counts, [row["median"] * 1000 for row in rows.values()], color=LINES[0], marker=MARKERS[0])
    lows, highs = ([row[key] * 1000 for row in rows.values()] for key in ("lowest", "highest"))
    axes.fill_between(counts, lows, highs, color=LINES[0], alpha=0.2)
    axes.set(xscale="log", xlabel="texts in one call", title="Seconds per 1,000 short texts")


def memory(axes: Axes, found: Results) -> None:
    curve, most = found["memory"]["curve"], int(list(found["seconds_per_text"])[-1])
    axes.plot([100 * at / max(len(curve) - 1, 1) for at in range(len(curve))], curve, color=LINES[0])
    axes.set(xlabel="% of the time", title=f"Resident memory, {most:,} texts, MiB")


def lengths(axes: Axes, found: Results) -> None:
    rows = found["tokens_per_second"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name, colour, marker in zip(names, LINES, MARKERS, strict=False):
        at = [int(length) for length, row in rows.items() if name in row]
        axes.plot(at, [rows[str(length)][name]["median"] for length in at], color=colour, marker=marker, label=name)
    axes.set(xlabel="tokens of a text", title=f"Tokens a second, {found['model']}")
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(length) for length in rows], list(rows), fontsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, fontsize=9)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
