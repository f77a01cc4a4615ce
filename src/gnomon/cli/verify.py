"""gnomon verify: the published example of a model's card."""

from __future__ import annotations

from typing import Any

import click

from gnomon.cli.shared import PrintingCommand, load_encoder, note, run_options, source_options
from gnomon.terminal import format_table


@click.command(cls=PrintingCommand)
@click.argument("model")
@source_options
@run_options
@click.pass_context
def verify(ctx: click.Context, model: str, **load: Any) -> None:
    """Run the published example of the model's card.

    The exit status is 0 where it comes out as published, and 1 where it does not.
    """
    from gnomon.verify import verify as run_example

    encoder = load_encoder(model, load)
    verification = run_example(encoder, load["card"])
    header = ("", "expected", "got", "")
    rows = [(row.name, row.expected, row.actual, "ok" if row.passed else "DIFFERS") for row in verification.checks]
    click.echo("\n".join(format_table([header, *rows])))
    click.echo(f"{verification.card}: {'passed' if verification.passed else 'NOT passed'} ({verification.note})")
    if not verification.is_recognised:
        note(
            f"{encoder.name} was not recognised as {verification.card}: --card named it. Other models may pass its "
            "example, too."
        )
    if not verification.passed:
        ctx.exit(1)
