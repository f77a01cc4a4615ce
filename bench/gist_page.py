"""docs/gist-results.md, from the results of `gist.py`."""

from collections.abc import Iterator, Sequence
from typing import Any

from tables import table

Rows = dict[str, Any]

COUNTED = ("planted", "planted_masked", "others", "others_masked")


def page(found: Rows) -> Iterator[str]:
    yield "# GIST: what the guide masks, what that gives, and what it costs"
    yield ""
    yield "Written by `python bench/gist.py MODELS`."
    yield ""
    rules = ", ".join(found["query_rules"]), ", ".join(found["positive_rules"])
    yield (
        f"{found['rows']:,} rows of train_pairs/docs, of which {found['copies']:,} are copies, three of a row: the "
        f"query reworded ({rules[0]}), the document rearranged ({rules[1]}). {found['model']}, guide {found['guide']}, "
        f"{found['steps']} steps of {found['batch']} rows, temperature {found['temperature']:g}, learning rate "
        f"{found['learning_rate']:g}, seed {found['seed']}, the same for both losses; {found['device']}, "
        f"{found['cores']} cores, {found['minutes']:.1f} minutes."
    )
    yield ""
    for lines in (masked, scores, cost):
        yield from lines(found)


# ---- what is masked


def masked(found: Rows) -> Iterator[str]:
    blocks, *others = found["masked"].values()
    yield "## What is masked"
    yield ""
    yield (
        "Candidates of all batches of the run, a row beside itself left out. Planted: copies of one row. A candidate "
        "is masked where the guide finds it strictly nearer than the row's own pair, in each block by itself. Where "
        "two queries say the same, only one of their documents can be the nearer one: without a margin, at most about "
        "half of the copies are masked in the block of queries and documents."
    )
    yield ""
    rows = [masked_row(block["block"], block) for block in blocks]
    rows.append(masked_row("all", summed(blocks)))
    rows += [
        masked_row(f"all, with a margin of {margin}", summed(each))
        for margin, each in zip([*found["masked"]][1:], others, strict=True)
    ]
    yield from table(("block", "candidates", "masked", "planted", "of them masked", "others", "of them masked"), rows)
    yield "A copy beside its original, by rule: the share that is masked (of so many candidates)."
    yield ""
    by_rule = [(rule, *(part(*block["by_rule"][rule]) for block in blocks)) for rule in blocks[0]["by_rule"]]
    yield from table(("rule", *(block["block"] for block in blocks)), by_rule)


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


# ---- what it gives, what it costs


def scores(found: Rows) -> Iterator[str]:
    scores = found["scores"]
    yield "## What it gives"
    yield ""
    yield "Scores 0 to 100; in brackets the 95 % interval of the difference, paired by query."
    yield ""
    names = {"apart": f"MRR@10, {scores['queries_apart']:,} rows kept apart", "test": scores["test_name"]}
    rows = [score_row(name, scores[key], scores[f"{key}_difference"]) for key, name in names.items()]
    yield from table(("score", "before", "info_nce", "gist", "gist less info_nce"), rows)


def score_row(name: str, values: dict[str, float], difference: Sequence[float]) -> list[str]:
    middle, low, high = (100 * value for value in difference)
    cells = [f"{100 * values[of]:.1f}" for of in ("before", "info_nce", "gist")]
    return [name, *cells, f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"]


def cost(found: Rows) -> Iterator[str]:
    cost = found["cost"]
    steps, alone = cost["step"], cost["guide_alone"]
    yield "## What it costs"
    yield ""
    once = "each of them once" if cost["forwards"] == cost["texts"] else "not each of them once"
    texts, passed = sum(cost["texts"]), sum(cost["forwards"])
    yield f"{len(cost['texts'])} steps with {texts:,} texts; {passed:,} passed the guide, {once}."
    yield ""
    seconds = {
        "step without a guide (info_nce)": steps["info_nce"],
        "step with the guide (gist)": steps["gist"],
        "the difference": steps["gist"] - steps["info_nce"],
        "in the guide, of the step with it": cost["guide_in_step"],
        "the guide alone encodes the texts of a batch": alone,
    }
    rows = [(name, f"{value:.3f}", f"{value / alone:.2f}") for name, value in seconds.items()]
    yield from table(("", "seconds, median", "of the guide alone"), rows)
