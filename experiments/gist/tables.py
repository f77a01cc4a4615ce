"""The tables of docs/records/gist-results.md: python -m experiments.gist.tables"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import print_table

Rows = dict[str, Any]

COUNTED = ("planted", "planted_masked", "others", "others_masked")


def print_all(results: Rows) -> None:
    masked(results)
    scores(results["scores"])
    cost(results["cost"])


def masked(results: Rows) -> None:
    blocks, *others = results["masked"].values()
    rows = [masked_row(block["block"], block) for block in blocks]
    rows.append(masked_row("all", summed(blocks)))
    margins = [*results["masked"]][1:]
    rows += [masked_row(f"all, margin {margin}", summed(each)) for margin, each in zip(margins, others, strict=True)]
    head = ("block", "candidates", "masked", "planted", "of them masked", "others", "of them masked")
    print_table(head, rows, "## What is masked")
    by_rule = [(rule, *(part(*block["by_rule"][rule]) for block in blocks)) for rule in blocks[0]["by_rule"]]
    print_table(("rule", *(block["block"] for block in blocks)), by_rule, "A copy beside its original, by rule")


def summed(blocks: Sequence[Rows]) -> Rows:
    return {name: sum(block[name] for block in blocks) for name in COUNTED}


def masked_row(name: str, counts: Rows) -> list[str]:
    planted, planted_masked, others, others_masked = (counts[key] for key in COUNTED)
    whole = share(planted_masked + others_masked, planted + others)
    halves = [f"{planted:,}", share(planted_masked, planted), f"{others:,}", share(others_masked, others)]
    return [name, f"{planted + others:,}", whole, *halves]


def share(some: int, every: int) -> str:
    return f"{some / every:.2%}" if every else "–"


def part(every: int, some: int) -> str:
    return f"{some / every:.0%} of {every:,}" if every else "–"


def scores(found: Rows) -> None:
    names = {"apart": f"MRR@10, {found['queries_apart']:,} held-out rows", "test": found["test_name"]}
    rows: list[list[str]] = []
    for key, name in names.items():
        middle, low, high = (100 * value for value in found[f"{key}_difference"])
        values = [f"{100 * found[key][model]:.1f}" for model in ("before", "info_nce", "gist")]
        rows.append([name, *values, f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"])
    print_table(("score", "before", "info_nce", "gist", "gist less info_nce"), rows, "## What it gives")


def cost(found: Rows) -> None:
    steps, alone = found["step"], found["guide_alone"]
    seconds = {
        "step without a guide (info_nce)": steps["info_nce"],
        "step with the guide (gist)": steps["gist"],
        "the difference": steps["gist"] - steps["info_nce"],
        "in the guide, of the step with it": found["guide_in_step"],
        "the guide alone encodes the texts of a batch": alone,
    }
    rows = [(name, f"{value:.3f}", f"{value / alone:.2f}") for name, value in seconds.items()]
    print_table(("", "seconds, median", "of the guide alone"), rows, "## What it costs")


if __name__ == "__main__":
    print_all(json.loads(Path(__file__).with_name("results.json").read_text()))
