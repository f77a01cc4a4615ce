"""Judges three real models on every set of the shared folder and writes docs/evaluation-results.md.

    python bench/evaluation.py MODELS [--output FOLDER] [--report-only]

MODELS is the folder that shared/models/build_models.py writes. It runs what `gnomon evaluate` runs; results that are
there are not run again, so that it may be stopped and started. Half an hour on two cores.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from gnomon import Encoder
from gnomon.evaluate import EvaluationOptions, Result, curve_points, evaluate, format_summary, read_results, summarize

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
DOCS = ROOT / "docs" / "evaluation-results.md"
REFERENCE = ROOT / "tests" / "evaluate" / "reference.json"
MODELS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", "multilingual-e5-small")
RETRIEVAL = ("retrieval_defs", "retrieval_faq", "retrieval_longdocs", "retrieval_help")
OTHER = (
    "sts_defs",
    "classification_supersense",
    "classification_intents",
    "clustering_topics",
    "bitext_wesnoth",
)
CURVES = ("retrieval_faq", "retrieval_longdocs", "sts_defs")
DIMS, LENGTHS = (16, 32, 64, 128, 256), (32, 64, 128, 512)
PRECISIONS = ("float16", "int8", "binary", "binary-rescored")
FUSED = {"dense": "dense", "bm25": "BM25", "hybrid": "hybrid", "rrf": "by ranks"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--output", type=Path, default=ROOT / ".evaluation")
    arguments.add_argument("--report-only", action="store_true")
    asked = arguments.parse_args()
    if not asked.report_only:
        for name in MODELS:
            run(Encoder.load(asked.models / name), asked.output)
    results = read_results(asked.output / "results")
    DOCS.write_text("\n".join(page(results)) + "\n", encoding="utf-8")
    print(f"wrote {DOCS}")


def run(encoder: Encoder, output: Path) -> None:
    def show(result: Result, reused: bool) -> None:
        print(format_summary(summarize(result, reused)), flush=True)

    methods = ["dense", "bm25", "hybrid", "rrf"]
    evaluate(encoder, data=[DATA / name for name in OTHER], output=output, on_result=show)
    evaluate(encoder, data=[DATA / name for name in RETRIEVAL], methods=methods, output=output, on_result=show)
    if encoder.name == MODELS[0]:
        points = curve_points(encoder, EvaluationOptions(), dims=DIMS, precisions=PRECISIONS, lengths=LENGTHS)
        evaluate(encoder, data=[DATA / name for name in CURVES], curve=points, output=output, on_result=show)


# ---- the page


def page(results: list[Result]) -> Iterator[str]:
    versions = results[0].manifest["versions"]
    yield "# Evaluation: figures"
    yield ""
    yield "Written by `python bench/evaluation.py MODELS`. The sets are those of the project's shared folder, the"
    yield f"protocol and metrics those of mteb {versions['mteb']}, 0 to 100; in brackets the 95 % interval (bootstrap)."
    yield from ["", "## Three models on every set", "", *models_table(results)]
    yield from ["", "## BM25, dense and their fusion", "", *fusion_table(results)]
    yield from ["", "## Long documents", "", *longdocs_table(results)]
    yield from ["", "## Less of a model", "", *curve_tables(results)]


def own(results: list[Result]) -> list[Result]:
    """Of models asked in their own way, without fusion."""
    return [each for each in results if each.manifest["model"]["method"] == "dense" and not each.manifest["variant"]]


def shown(result: Result | None) -> str:
    if result is None:
        return "–"
    span = result.interval
    return f"{100 * result.score:.2f}" + (f" ({100 * span.low:.1f} to {100 * span.high:.1f})" if span else "")


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def distances(results: list[Result]) -> dict[str, float]:
    """{kind: the largest difference of a subset's score to the reference}."""
    reference = json.loads(REFERENCE.read_text())["scores"]
    far: dict[str, float] = {}
    for each in own(results):
        wanted = reference[each.model][each.task.replace("-STS", "").replace("-PairClassification", "_pairs")]
        for subset in each.subsets:
            far[each.kind] = max(far.get(each.kind, 0.0), abs(subset.score - wanted[subset.name]))
    return far


def models_table(results: list[Result]) -> Iterator[str]:
    found = {(each.task, each.model): each for each in own(results)}
    tasks = sorted({task for task, _ in found}, key=lambda task: (found[task, MODELS[0]].kind, task))
    rows: list[list[str]] = []
    for task in tasks:
        first = found[task, MODELS[0]]
        rows.append([task, first.metric, str(len(first.subsets)), *(shown(found.get((task, name))) for name in MODELS)])
    yield from table(["set", "metric", "subsets", *MODELS], rows)
    yield ""
    version = json.loads(REFERENCE.read_text())["versions"]["sentence-transformers"]
    far = distances(results)
    judged = sum(len(each.subsets) for each in own(results))
    learned = max(far.pop("Classification"), far.pop("Clustering"))
    yield f"mteb gives sentence-transformers {version}, with the same prompts and lengths, the same scores: of {judged}"
    yield f"(every subset of every set) the largest difference is {learned:.1e} in classification and clustering and"
    yield f"{max(far.values()):.1e} elsewhere, on a scale of 1 (tests/evaluate/reference.json)."


def fusion_table(results: list[Result]) -> Iterator[str]:
    yield "nDCG@10. BM25 with k1 0.9, b 0.4, words of any script, no stop words. Hybrid: Mr. TyDi's formula, alpha"
    yield "chosen by cross-fitting (no query's own judgements choose its alpha), since these sets have one split. By"
    yield "ranks: reciprocal rank fusion, k 60. Bold: the best of a row."
    yield ""
    rows: list[list[str]] = []
    wins = {name: [0, 0] for name in MODELS}
    for model in MODELS:
        of = {
            (each.task, each.manifest["model"]["method"]): {subset.name: subset.score for subset in each.subsets}
            for each in results
            if each.kind == "Retrieval" and (each.model == model or each.fingerprint is None) and plain(each)
        }
        for task in RETRIEVAL:
            for subset in of[task, "dense"]:
                scores = {method: of[task, method][subset] for method in FUSED}
                best = max(scores.values())
                cells = [
                    f"{'**' if score == best else ''}{100 * score:.2f}{'**' if score == best else ''}"
                    for score in scores.values()
                ]
                rows.append([model, task if subset == "default" else subset, *cells])
                wins[model][0] += scores["hybrid"] > max(scores["dense"], scores["bm25"])
                wins[model][1] += 1
    yield from table(["model", "set", *FUSED.values()], rows)
    yield ""
    for model, (won, of_all) in wins.items():
        yield f"- {model}: the hybrid is above both on {won} of {of_all} sets."
    yield ""
    yield "Where query and document are of two languages, BM25 finds little but names: beside a model that knows"
    yield "both (multilingual-e5-small) it has nothing to add, and the hybrid is 0.1 to 2.1 points below the model."


def plain(result: Result) -> bool:
    """Not a point of a curve."""
    return not result.manifest["variant"] or result.manifest["model"]["method"] != "dense"


def longdocs_table(results: list[Result]) -> Iterator[str]:
    yield "`retrieval_longdocs` by sort of query: summaries of a page (s-) and headings deep in it (d-). nDCG@10."
    yield ""
    rows: list[list[str]] = []
    for each in results:
        if each.task != "retrieval_longdocs" or (each.manifest["settings"].get("precision", "float32") != "float32"):
            continue
        if "first" in each.manifest["variant"]:
            continue
        units = each.per_query["test", "default"]
        cells = []
        for sort in ("s-", "d-"):
            values = [value for name, value in zip(units.ids or (), units.values, strict=True) if name.startswith(sort)]
            cells.append(f"{100 * sum(values) / len(values):.2f}")
        length = each.manifest["settings"].get("max_seq_length")
        rows.append([each.label, str(length or "all"), *cells, shown(each)])
    yield from table(["model", "tokens read", "summary", "deep", "all"], rows)


def curve_tables(results: list[Result]) -> Iterator[str]:
    points = [each for each in results if each.model == MODELS[0] and each.manifest["model"]["method"] == "dense"]
    tasks = sorted({each.task for each in points if each.manifest["variant"]})
    labels: dict[str, list[Result]] = {}
    for each in points:
        if each.task in tasks:
            labels.setdefault(each.manifest["variant"] or "as it is", []).append(each)
    yield f"{MODELS[0]}, one setting changed at a time."
    yield ""
    rows: list[list[str]] = []
    for label, listed in sorted(labels.items(), key=lambda item: order(item[1][0])):
        of = {each.task: each for each in listed}
        size = listed[0].manifest["settings"]["bytes_per_vector"]
        rows.append([label, f"{size:,}", *(shown(of.get(task)) for task in tasks)])
    yield from table(["setting", "bytes a vector", *tasks], rows)


def order(result: Result) -> tuple[int, int, str]:
    settings = result.manifest["settings"]
    axis = (
        0
        if not result.manifest["variant"]
        else 1
        if settings["truncate_dim"]
        else 2
        if settings["precision"] != "float32"
        else 3
    )
    return axis, -settings["dim"] if axis == 1 else settings["max_seq_length"], settings["precision"]


if __name__ == "__main__":
    main()
