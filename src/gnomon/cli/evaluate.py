"""gnomon evaluate: a model on tasks of mteb and on your own data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from gnomon.cli.shared import (
    MultiValueCommand,
    first_given,
    json_option,
    load_encoder,
    multi_value_option,
    note,
    run_options,
    source_options,
    to_json,
)
from gnomon.errors import InputError
from gnomon.progress import format_duration, print_line, shows_lines


@click.command(
    cls=MultiValueCommand,
    epilog="MODEL comes first: gnomon evaluate MODEL --tasks NFCorpus STSBenchmark. The word bm25 in its place runs "
    "BM25 alone. Results are mteb's own JSON, each with a manifest beside it; see gnomon compare and gnomon report.",
)
@click.argument("model")
@multi_value_option("--tasks", metavar="NAME", help="Tasks or benchmarks of mteb; mteb-eng-56, mr-tydi or loco.")
@multi_value_option(
    "--data", metavar="FOLDER", help="Your own sets: BEIR folders; .jsonl, .tsv, .csv or .parquet rows."
)
@click.option("--output", default="evaluation", show_default=True, metavar="FOLDER", help="Where the results go.")
@multi_value_option(
    "--methods",
    metavar="NAME",
    help="For retrieval: dense, bm25, hybrid (both), rrf (by ranks); dense by default.",
    kind=click.Choice(["dense", "bm25", "hybrid", "rrf"]),
)
@click.option("--k1", type=float, default=0.9, show_default=True, help="For BM25.")
@click.option("--b", type=float, default=0.4, show_default=True, help="For BM25.")
@click.option(
    "--alpha", default="tuned", show_default=True, metavar="X", help="For hybrid: tuned, published or a number."
)
@click.option("--dim", type=int, metavar="N", help="Dimensions that the model has (gnomon inspect).")
@click.option("--truncate-dim", type=int, metavar="N", help="Truncate to any prefix.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8", "binary", "binary-rescored"]),
    default="float32",
    show_default=True,
    help="Precision of stored vectors.",
)
@click.option(
    "--on-truncate",
    type=click.Choice(["cut", "mean"]),
    default="cut",
    show_default=True,
    help="For texts longer than the model reads; mean: of overlapping windows.",
)
@click.option("--prompts", metavar="FILE", help="JSON of prompts by mteb's keys, in place of the model's.")
@multi_value_option("--curve-dims", metavar="N", help="Evaluate these dimensions too.", kind=int)
@multi_value_option(
    "--curve-precisions",
    metavar="NAME",
    help="Evaluate these precisions too.",
    kind=click.Choice(["float16", "int8", "binary", "binary-rescored"]),
)
@multi_value_option("--curve-lengths", metavar="N", help="Evaluate these lengths too.", kind=int)
@click.option("--metric", metavar="NAME", help="For retrieval, in place of each task's own: mrr_at_10, recall_at_100.")
@click.option("--split", default="test", show_default=True, metavar="NAME", help="For local data.")
@multi_value_option("--subsets", metavar="NAME", help="Languages or directions, where a set has them; all by default.")
@click.option("--allow-rare-labels", is_flag=True, help="Evaluate local data with labels that occur once.")
@click.option(
    "--allow-missing-ids", is_flag=True, help="Evaluate local data whose qrels name absent queries or documents."
)
@click.option("--cache", metavar="FOLDER", help="Where vectors are kept; OUTPUT/vectors by default.")
@click.option("--no-cache", is_flag=True, help="Keep no vectors on disk.")
@click.option("--overwrite", is_flag=True, help="Run again what is there.")
@json_option
@source_options
@run_options
@click.pass_context
def evaluate(
    ctx: click.Context,
    model: str,
    tasks: tuple[str, ...],
    data: tuple[str, ...],
    output: str,
    methods: tuple[Any, ...],
    k1: float,
    b: float,
    alpha: str,
    dim: int | None,
    truncate_dim: int | None,
    precision: Any,
    on_truncate: Any,
    prompts: str | None,
    curve_dims: tuple[int, ...],
    curve_precisions: tuple[Any, ...],
    curve_lengths: tuple[int, ...],
    metric: str | None,
    split: str,
    subsets: tuple[str, ...],
    allow_rare_labels: bool,
    allow_missing_ids: bool,
    cache: str | None,
    no_cache: bool,
    overwrite: bool,
    as_json: bool,
    max_seq_length: int | None,
    **load: Any,
) -> None:
    """Evaluate a model on tasks of mteb and on your own data.

    It follows mteb's protocol and metrics, with the model's own prompts. Results that exist are not computed again; a
    run that was stopped goes on where it was.
    """
    if cache and no_cache:
        raise click.UsageError("--cache and --no-cache exclude each other.")
    words_alone = model == "bm25" and not Path(model).exists()
    if words_alone and (idle := first_given(ctx, _MODEL_OPTIONS) or ("methods" if set(methods) - {"bm25"} else None)):
        raise click.UsageError(f"--{idle.replace('_', '-')} applies to a model, and bm25 is not a model.")
    if not words_alone and not set(methods) - {"dense"} and (idle := first_given(ctx, ("k1", "b", "alpha"))):
        raise click.UsageError(f"--{idle} applies to BM25 and its fusions only. Name them with --methods.")
    from gnomon import evaluate as evaluation

    encoder = None if words_alone else load_encoder(model, load)
    options = evaluation.EvaluationOptions(
        prompts=_read_prompts(prompts) if prompts else {},
        dim=dim,
        truncate_dim=truncate_dim,
        on_truncate=on_truncate,
        max_seq_length=max_seq_length,
        precision=precision,
    )
    points: dict[str, Any] = {"dims": curve_dims, "precisions": curve_precisions, "lengths": curve_lengths}

    def begin(task: str, number: int, total: int) -> None:
        if shows_lines(None):
            print_line(f"task {number:,} of {total:,}: {task}")

    def show(result: evaluation.Result, reused: bool) -> None:
        row = evaluation.summarize(result, reused)
        click.echo(to_json(row) if as_json else evaluation.format_summary(row))
        if sys.stdout:
            sys.stdout.flush()
        if shows_lines(None):
            effort = "was there" if reused else f"done in {format_duration(row['seconds'])}"
            print_line(f"{row['task']}: {effort} ({row['model']})")

    evaluation.evaluate(
        encoder,
        tasks=tasks,
        data=data,
        output=output,
        methods=("bm25",) if words_alone else methods or ("dense",),
        options=options,
        curve=evaluation.curve_points(encoder, options, **points) if encoder else (),
        bm25=evaluation.Bm25Settings(k1, b, _parse_alpha(alpha)),
        metric=metric,
        split=split,
        subsets=subsets,
        allow_rare_labels=allow_rare_labels,
        allow_missing_ids=allow_missing_ids,
        cache=cache or not no_cache,
        overwrite=overwrite,
        local_files_only=load["local_files_only"],
        on_task=begin,
        on_result=show,
    )
    note(f"the results are in {output}; gnomon report {output} makes a page of them.")


_MODEL_OPTIONS = (
    *("dim", "truncate_dim", "precision", "on_truncate", "prompts"),
    *("curve_dims", "curve_precisions", "curve_lengths"),
    *("revision", "card", "device", "engine", "dtype", "max_seq_length", "threads"),
)
"""Options of `evaluate` that are of no use without a model."""


def _parse_alpha(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _read_prompts(path: str) -> dict[str, str]:
    try:
        prompts = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(prompts, dict):
        raise InputError(f'{path} must hold an object of prompts, such as {{"query": "query: "}}.')
    return prompts
