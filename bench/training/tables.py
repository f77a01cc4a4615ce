"""The tables of docs/records/training-speed.md: python -m bench.training.tables [RESULTS.json]"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.figures import print_table, spread, summary

Rows = dict[str, Any]


def print_all(results: Rows) -> None:
    for found in results.values():
        print(f"{found['device']['name']}, {found['device']['cores']} cores, {found['versions']}")
        for name, print_part in TABLES.items():
            if part := found.get(name):
                machine = f"{part['machine']}, {part['threads']} threads, {part['minutes']:.1f} minutes"
                title = f"### {name}: {part['model']}; {part['measured']}, {machine}, load {part['load_before']:.1f}"
                print_part(part["sizes"], title)


def both_trainers(sizes: list[Rows], title: str) -> None:
    """Figures by trainer, and gnomon's over those of the fastest of the others: of medians (of rounds)."""
    for size in sizes:
        steps = size["steps"] - size["warm"]
        rows = [
            (
                trainer,
                over_rounds(runs, "tokens_per_second"),
                spread(summary([run["seconds"] / steps for run in runs])),
                f"{runs[0]['padding']:.0%}",
                over_rounds(runs, "peak_mib"),
                over_rounds(runs, "device_mib"),
                f"{runs[0]['loss']:.3f}",
            )
            for trainer, runs in size["runs"].items()
        ]
        head = ("trainer", "tokens/s", "seconds a step", "padding", "peak MiB", "on the GPU, MiB", "loss")
        print_table(head, rows, f"{title}; batches of {size['batch']:,}")
        print("\nlengths:", ", ".join(f"{key} {value:g}" for key, value in size["lengths"].items()))
        beside, ratios = compare(size["runs"])
        for key, (of_medians, of_rounds) in ratios.items():
            print(f"{key} over {beside}: {of_medians:.2f} ({of_rounds:.2f})")


def over_rounds(runs: list[Rows], key: str) -> str:
    return "-" if runs[0][key] is None else spread(summary([run[key] for run in runs]), 0)


def compare(runs: dict[str, list[Rows]]) -> tuple[str, dict[str, tuple[float, float]]]:
    """The fastest of the others; gnomon's figures over its, as ratio of medians and as median of the rounds' ratios."""
    medians = {name: statistics.median(row["tokens_per_second"] for row in rows) for name, rows in runs.items()}
    beside = max((name for name in runs if name != "gnomon"), key=lambda name: medians[name])
    ratios: dict[str, tuple[float, float]] = {}
    for key in ("tokens_per_second", "peak_mib", "device_mib"):
        ours, theirs = ([row[key] for row in runs[name]] for name in ("gnomon", beside))
        if None not in ours:
            of_rounds = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
            ratios[key] = statistics.median(ours) / statistics.median(theirs), of_rounds
    return beside, ratios


def memory(sizes: list[Rows], title: str) -> None:
    found = [size["runs"]["gnomon"][0] | {"batch": size["batch"], "vectors_mib": size["vectors_mib"]} for size in sizes]
    keys = [key for key in ("peak_mib", "vectors_mib", "device_mib") if found[0][key] is not None]
    rows: list[list[str]] = []
    for row in found:
        growth = [f"{value:,.1f}" for key in keys for value in (row[key], row[key] - found[0][key])]
        rows.append([f"{row['batch']:,}", f"{sum(row['tokens']):,}", f"{row['seconds']:.1f}", *growth])
    head = ("batch", "tokens", "seconds", *(f"{key}{more}" for key in keys for more in ("", ", more")))
    print_table(head, rows, title)


def defaults(sizes: list[Rows], title: str) -> None:
    rows = [
        (
            f"{size['batch']:,}",
            trainer,
            f"{sum(runs[0]['tokens']) // size['steps']:,}",
            f"{statistics.median(run['seconds'] / size['steps'] for run in runs):.1f}",
            f"{statistics.median(run['peak_mib'] for run in runs):,.0f}",
        )
        for size in sizes
        for trainer, runs in size["runs"].items()
    ]
    print_table(("batch", "trainer", "tokens a step", "seconds a step", "peak MiB"), rows, title)


TABLES = {"speed": both_trainers, "cache": both_trainers, "memory": memory, "defaults": defaults}

if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results.json")
    print_all(json.loads(file.read_text()))
