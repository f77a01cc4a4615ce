"""The tables of docs/training-speed.md: python -m bench.training.tables [RESULTS.json]"""

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
        for name, part in found.items():
            if name in ("speed", "cache"):
                both_trainers(name, part)
            if name == "memory":
                memory(part)
            if name == "defaults":
                defaults(part)


def title(name: str, part: Rows) -> str:
    machine = (
        f"{part['machine']}, {part['threads']} threads, {part['minutes']:.1f} minutes, load {part['load_before']:.1f}"
    )
    return f"### {name}: {part['model']}; {part['measured']}, {machine}"


def both_trainers(name: str, part: Rows) -> None:
    """Figures by trainer, and gnomon's over those of the fastest of the others: of medians (of rounds)."""
    steps, gpu = part["steps"] - part.get("warm", 0), "device_mib" in part
    rows = [
        (
            trainer,
            spread(summary([run["tokens_per_second"] for run in runs]), 0),
            spread(summary([run["seconds"] / steps for run in runs])),
            f"{runs[0]['padding']:.0%}",
            spread(summary([run["peak_mib"] for run in runs]), 0),
            *([spread(summary([run["device_mib"] for run in runs]), 0)] if gpu else []),
            f"{runs[0]['loss']:.3f}",
        )
        for trainer, runs in part["runs"].items()
    ]
    head = ["trainer", "tokens/s", "seconds a step", "padding", "peak MiB", *(["on the GPU, MiB"] * gpu), "loss"]
    print_table(head, rows, f"{title(name, part)}; batches of {part['batch']:,}")
    print("\nlengths:", ", ".join(f"{key} {value:g}" for key, value in part["lengths"].items()))
    for key in ("tokens_per_second", "peak_mib", "device_mib"):
        if key in part:
            print(f"{key} over {part['beside']}: {part[key]['of_medians']:.2f} ({part[key]['of_rounds']:.2f})")


def memory(part: Rows) -> None:
    first, keys = part["curve"][0], ["peak_mib", "vectors_mib"]
    keys += ["device_mib"] if first["device_mib"] is not None else []
    rows = [
        (
            f"{row['batch']:,}",
            f"{sum(row['tokens']):,}",
            f"{row['seconds']:.1f}",
            *(f"{value:,.1f}" for key in keys for value in (row[key], row[key] - first[key])),
        )
        for row in part["curve"]
    ]
    print_table(
        ("batch", "tokens", "seconds", *(f"{key}{more}" for key in keys for more in ("", ", more"))),
        rows,
        title("memory", part),
    )


def defaults(part: Rows) -> None:
    rows = [
        (
            f"{size['batch']:,}",
            trainer,
            f"{sum(runs[0]['tokens']) // size['steps']:,}",
            f"{statistics.median(run['seconds'] / size['steps'] for run in runs):.1f}",
            f"{statistics.median(run['peak_mib'] for run in runs):,.0f}",
        )
        for size in part["sizes"]
        for trainer, runs in size["runs"].items()
    ]
    print_table(("batch", "trainer", "tokens a step", "seconds a step", "peak MiB"), rows, title("defaults", part))


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results.json")
    print_all(json.loads(file.read_text()))
