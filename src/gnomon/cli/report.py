"""gnomon report: one page of results."""

from __future__ import annotations

import sys

import click

from gnomon.cli.shared import MultiValueCommand, first_given, note, require_stdout


@click.command(short_help="Make one page of results, with plots.", cls=MultiValueCommand)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--output", default="report.html", show_default=True, metavar="FILE", help="The page; - for stdout.")
@click.option("--markdown", metavar="FILE", help="A Markdown table in place of the page; - for stdout.")
@click.option("--title", default="Evaluation", show_default=True)
@click.pass_context
def report(ctx: click.Context, folders: tuple[str, ...], output: str, markdown: str | None, title: str) -> None:
    """Make one page of results: a table to sort, plots, and how each was run.

    It needs no network and holds all it shows.
    """
    if markdown and (idle := first_given(ctx, ("output", "title"))):
        raise click.UsageError(f"--{idle} applies to the page, and --markdown makes a table in its place.")
    from gnomon.evaluate import report as reporting
    from gnomon.evaluate.results import read_results
    from gnomon.files import atomic_files

    target = markdown or output
    if target == "-":
        require_stdout()
    results = [result for folder in folders for result in read_results(folder)]
    text = reporting.render_markdown(results) if markdown else reporting.render_html(results, title=title)
    if target == "-":
        sys.stdout.buffer.write(text.encode())  # UTF-8, as the page says, whatever the console shows
        return
    with atomic_files(target) as files:
        files[0].write(text.encode())
    ways, models = {result.label for result in results}, {result.model for result in results}
    note(f"{target} holds {len(results)} results: {len(models)} models, run in {len(ways)} ways.")
