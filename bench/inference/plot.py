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
MIX = "long-tail"

Results = dict[str, Any]


def draw(results: Results, out: Path) -> None:
    """A panel of bars for each model."""
    bulk = {model: mixes[MIX] for model, mixes in results.get("bulk", {}).items() if MIX in mixes}
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    tallest = max(len(cell["runs"]) for cell in bulk.values())
    figure, panels = plt.subplots(1, len(bulk), figsize=(15, 2 + 0.32 * tallest), layout="constrained", squeeze=False)
    what = results["device"]
    figure.suptitle(
        f"Tokens a second, long-tailed mix of real texts: {what['name']}, {what['threads']} threads\n"
        "blue: gnomon; grey: others (ST: sentence-transformers); hatched: less than float32; whiskers: slowest and "
        "fastest round"
    )
    for axes, (model, cell) in zip(panels[0], bulk.items(), strict=True):
        bars(axes, model, cell)
    figure.savefig(out, dpi=110)


def bars(axes: Axes, model: str, cell: Results) -> None:
    """One bar per system, fastest on top; whiskers from the slowest to the fastest round."""
    runs = dict(sorted(cell["runs"].items(), key=lambda item: -item[1]["seconds"]["median"]))
    rates = [{key: cell["tokens"] / seconds for key, seconds in row["seconds"].items()} for row in runs.values()]
    medians = [rate["median"] for rate in rates]
    whiskers = [
        [rate["median"] - rate["highest"] for rate in rates],
        [rate["lowest"] - rate["median"] for rate in rates],
    ]
    colours = [OURS if name.startswith("gnomon") else PEERS for name in runs]
    names = [name.replace("sentence-transformers", "ST") for name in runs]
    drawn = axes.barh(names, medians, xerr=whiskers, color=colours, edgecolor="white", ecolor="#333333", capsize=2)
    for bar, row in zip(drawn, runs.values(), strict=True):
        bar.set_hatch("" if row["dtype"] == "float32" else REDUCED)
    axes.set_title(model)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=4)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
