"""Verbs over models: inspect, verify, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gnomon.cli.shared import (
    json_option,
    load_encoder,
    read_model,
    run_options,
    source_options,
    threads_option,
    to_json,
)
from gnomon.terminal import format_table, terminal_width


@click.command()
@click.argument("model")
@click.option("--fidelity", is_flag=True, help="Measure how near --dtype int8 stays to float32 on this processor.")
@threads_option
@json_option
@source_options
def inspect(model: str, fidelity: bool, threads: int | None, as_json: bool, **read: Any) -> None:
    """What a model is, and what was assumed of it."""
    if threads is not None and not fidelity:
        raise click.UsageError("--threads is of use with --fidelity only.")
    from gnomon import describe

    checkpoint, fidelity_result = read_model(model, **read), None
    if fidelity:
        from gnomon.fidelity import measure_fidelity

        fidelity_result = measure_fidelity(
            checkpoint, threads=threads, cache_folder=Path(click.get_app_dir("gnomon")) / "fidelity"
        )
    facts = describe.collect_facts(checkpoint, fidelity_result)
    click.echo(to_json(facts) if as_json else "\n".join(describe.format_facts(facts, terminal_width())))


@click.command()
@click.argument("model")
@source_options
@run_options
@click.pass_context
def verify(ctx: click.Context, model: str, **load: Any) -> None:
    """Run the published example of the model's card.

    The exit status is 0 where it comes out as published, and 1 where it does not.
    """
    from gnomon.verify import verify as run_example

    verification = run_example(load_encoder(model, load), load["card"])
    head = ("", "expected", "got", "")
    rows = [(row.name, row.expected, row.actual, "ok" if row.passed else "DIFFERS") for row in verification.checks]
    click.echo("\n".join(format_table([head, *rows])))
    click.echo(f"{verification.card}: {'passed' if verification.passed else 'NOT passed'} ({verification.note})")
    if not verification.passed:
        ctx.exit(1)


@click.command()
@click.argument("model")
@click.argument("folder")
@click.option("--dialect", default="classic", show_default=True, metavar="NAME", help="classic, 5.4 or 6.0.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that holds something.")
@source_options
def save(model: str, folder: str, dialect: str, overwrite: bool, **read: Any) -> None:
    """Write a model as a folder that sentence-transformers opens."""
    from gnomon.checkpoint.save import save_folder
    from gnomon.files import explain_disk_full

    with explain_disk_full(Path(folder).absolute()):
        click.echo(save_folder(read_model(model, **read), folder, dialect=dialect, overwrite=overwrite))


COMMANDS: tuple[click.Command, ...] = (inspect, verify, save)
