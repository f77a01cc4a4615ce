"""gnomon inspect: what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gnomon.cli.shared import PrintingCommand, json_option, read_model, source_options, threads_option, to_json
from gnomon.terminal import terminal_width


@click.command(cls=PrintingCommand)
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
