"""Evaluates three real models on every set of the shared folder.

    python -m experiments.evaluation.run MODELS [--output FOLDER] [--tables-only]

MODELS is the folder that shared/models/build_models.py writes. It runs what `gnomon evaluate` runs; results that are
there are not run again, so that it may be stopped and started. Half an hour on two cores. Prints the tables of
docs/records/evaluation-results.md and writes them to results.json.
"""

import argparse
import json
from pathlib import Path

from bench.figures import print_table
from gnomon import Encoder
from gnomon.evaluate import EvaluationOptions, Result, curve_points, evaluate, format_summary, read_results, summarize

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
REFERENCE = ROOT / "tests" / "evaluate" / "reference.json"
MODELS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", "multilingual-e5-small")
RETRIEVAL = ("retrieval_defs", "retrieval_faq", "retrieval_longdocs", "retrieval_help")
OTHER = ("sts_defs", "classification_supersense", "classification_intents", "clustering_topics", "bitext_wesnoth")
CURVES = ("retrieval_faq", "retrieval_longdocs", "sts_defs")
DIMS, LENGTHS = (16, 32, 64, 128, 256), (32, 64, 128, 512)
PRECISIONS = ("float16", "int8", "binary", "binary-rescored")
FUSED = {"dense": "dense", "bm25": "BM25", "hybrid": "hybrid", "rrf": "by ranks"}

Table = dict[str, list[list[str]]]
"""Rows of text; the first is the head."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--output", type=Path, default=ROOT / ".evaluation")
    arguments.add_argument("--tables-only", action="store_true")
    options = arguments.parse_args()
    for name in () if options.tables_only else MODELS:
        run(Encoder.load(options.models / name), options.output)
    results = read_results(options.output / "results")
    tables: Table = {
        "Three models on every set": models_table(results),
        "Largest difference to mteb with sentence-transformers, scale of 1": distances_table(results),
        "BM25, dense and their fusion, nDCG@10": fusion_table(results),
        "Long documents, nDCG@10": longdocs_table(results),
        f"Less of a model: {MODELS[0]}": curve_table(results),
    }
    for title, (head, *rows) in tables.items():
        print_table(head, rows, f"## {title}")
    Path(__file__).with_name("results.json").write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")


def run(encoder: Encoder, output: Path) -> None:
    def show(result: Result, reused: bool) -> None:
        print(format_summary(summarize(result, reused)), flush=True)

    evaluate(encoder, data=[DATA / name for name in OTHER], output=output, on_result=show)
    evaluate(encoder, data=[DATA / name for name in RETRIEVAL], methods=[*FUSED], output=output, on_result=show)
    if encoder.name == MODELS[0]:
        points = curve_points(encoder, EvaluationOptions(), dims=DIMS, precisions=PRECISIONS, lengths=LENGTHS)
        evaluate(encoder, data=[DATA / name for name in CURVES], curve=points, output=output, on_result=show)


# ---- tables


def method_of(result: Result) -> str:
    return result.manifest["model"]["method"]


def plain(results: list[Result]) -> list[Result]:
    """Of models run with their own settings, without fusion."""
    return [each for each in results if method_of(each) == "dense" and not each.manifest["variant"]]


def score_of(result: Result | None) -> str:
    if result is None:
        return "–"
    span = result.interval
    return f"{100 * result.score:.2f}" + (f" ({100 * span.low:.1f} to {100 * span.high:.1f})" if span else "")


def models_table(results: list[Result]) -> list[list[str]]:
    found = {(each.task, each.model): each for each in plain(results)}
    tasks = sorted({task for task, _ in found}, key=lambda task: (found[task, MODELS[0]].kind, task))
    rows = [["set", "metric", "subsets", *MODELS]]
    for task in tasks:
        first = found[task, MODELS[0]]
        scores = [score_of(found.get((task, name))) for name in MODELS]
        rows.append([task, first.metric, str(len(first.subsets)), *scores])
    return rows


def distances_table(results: list[Result]) -> list[list[str]]:
    """Of every subset's score to the reference that mteb and sentence-transformers gave."""
    reference = json.loads(REFERENCE.read_text())["scores"]
    far: dict[str, float] = {}
    for each in plain(results):
        wanted = reference[each.model][each.task.replace("-STS", "").replace("-PairClassification", "_pairs")]
        for subset in each.subsets:
            far[each.kind] = max(far.get(each.kind, 0.0), abs(subset.score - wanted[subset.name]))
    return [["kind of task", "difference"], *([kind, f"{value:.1e}"] for kind, value in far.items())]


def fusion_table(results: list[Result]) -> list[list[str]]:
    """Bold: the best of a row."""
    rows = [["model", "set", *FUSED.values()]]
    for model in MODELS:
        of = {
            (each.task, method_of(each)): {subset.name: subset.score for subset in each.subsets}
            for each in results
            if each.kind == "Retrieval" and (each.model == model or each.fingerprint is None)
            if not each.manifest["variant"] or method_of(each) != "dense"  # no point of a curve
        }
        for task in RETRIEVAL:
            for subset in of[task, "dense"]:
                scores = [of[task, method][subset] for method in FUSED]
                marks = ["**" if score == max(scores) else "" for score in scores]
                cells = [f"{mark}{100 * score:.2f}{mark}" for mark, score in zip(marks, scores, strict=True)]
                rows.append([model, task if subset == "default" else subset, *cells])
    return rows


def longdocs_table(results: list[Result]) -> list[list[str]]:
    """By kind of query: summaries of a page (s-) and headings deep in it (d-)."""
    rows = [["model", "tokens read", "summary", "deep", "all"]]
    for each in results:
        settings = each.manifest["settings"]
        if each.task != "retrieval_longdocs" or settings.get("precision", "float32") != "float32":
            continue
        if "first" in each.manifest["variant"]:
            continue
        units = each.units["test", "default"]
        pairs = [*zip(units.ids or (), units.values, strict=True)]
        kinds = [[value for name, value in pairs if name.startswith(kind)] for kind in ("s-", "d-")]
        means = [f"{100 * sum(values) / len(values):.2f}" for values in kinds]
        rows.append([each.label, str(settings.get("max_seq_length") or "all"), *means, score_of(each)])
    return rows


def curve_table(results: list[Result]) -> list[list[str]]:
    """One setting changed at a time."""
    points = [each for each in results if each.model == MODELS[0] and method_of(each) == "dense"]
    tasks = sorted({each.task for each in points if each.manifest["variant"]})
    settings: dict[str, list[Result]] = {}
    for each in points:
        if each.task in tasks:
            settings.setdefault(each.manifest["variant"] or "as it is", []).append(each)
    rows = [["setting", "bytes a vector", *tasks]]
    for label, listed in sorted(settings.items(), key=lambda item: place_of(item[1][0])):
        of = {each.task: each for each in listed}
        size = listed[0].manifest["settings"]["bytes_per_vector"]
        rows.append([label, f"{size:,}", *(score_of(of.get(task)) for task in tasks)])
    return rows


def place_of(result: Result) -> tuple[int, int, str]:
    """The model as it is, then by dimension, by precision, by length."""
    settings = result.manifest["settings"]
    if not result.manifest["variant"]:
        return 0, 0, ""
    if settings["truncate_dim"]:
        return 1, -settings["dim"], ""
    return (2 if settings["precision"] != "float32" else 3), settings["max_seq_length"], settings["precision"]


if __name__ == "__main__":
    main()
