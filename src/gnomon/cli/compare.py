"""gnomon compare: whether two results differ by more than chance."""

from __future__ import annotations

import click

from gnomon.cli.shared import PrintingCommand, json_option, to_json
from gnomon.terminal import terminal_width


@click.command(short_help="Compare two results.", cls=PrintingCommand)
@click.argument("a")
@click.argument("b")
@json_option
def compare(a: str, b: str, as_json: bool) -> None:
    """Compare two results: what differs, and whether it is more than chance.

    A and B: files TASK.json that gnomon evaluate wrote, or folders of one model's.
    """
    from gnomon.evaluate import compare as comparing

    comparison = comparing.compare(a, b)
    click.echo(
        to_json(comparing.comparison_to_dict(comparison))
        if as_json
        else "\n".join(comparing.format_comparison(comparison, terminal_width()))
    )
