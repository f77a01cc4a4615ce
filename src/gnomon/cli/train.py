"""gnomon train: fine-tune a model by a recipe."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click

from gnomon.cli.shared import note
from gnomon.terminal import format_table


@click.command(
    epilog="RECIPE is a .toml file, or one that ships: small (for your own pairs), multi-qa, gist, e5-stage2. "
    "KEY=VALUE sets any key of it, with dots where there are tables: gnomon train small model=my-model "
    "sources.path=pairs.jsonl output=tuned. Rows of a file have the columns query (or anchor, question, sentence1) and "
    "positive (or answer, sentence2); sources.query=NAME and sources.positive=NAME name others. On several GPUs: "
    "torchrun --nproc-per-node 2 -m gnomon train RECIPE ..."
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the output folder.")
@click.option(
    "--overwrite", is_flag=True, help="Replace a run that the output folder holds, once the new model is complete."
)
@click.option("--print", "show", is_flag=True, help="Print the recipe, every default filled in, and end.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes that ship, and end.")
@click.option("--check-gradients", is_flag=True, help="Check the gradients of every loss on this machine, and end.")
@click.pass_context
def train(
    ctx: click.Context,
    recipe: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    show: bool,
    list_recipes: bool,
    check_gradients: bool,
) -> None:
    """Train a model by a recipe, and print its folder.

    Ctrl-C and SIGTERM save the step before they end the run, with exit status 130 and 143. With --check-gradients the
    exit status is 0 where all gradients agree, and 1 where one does not.
    """
    if sum((resume, overwrite, show, list_recipes, check_gradients)) > 1:
        raise click.UsageError("--resume, --overwrite, --print, --list and --check-gradients exclude each other.")
    if check_gradients:
        if recipe:
            raise click.UsageError("--check-gradients takes no recipe: it checks every loss.")
        ctx.exit(0 if _report_gradients() else 1)
    from gnomon.train.recipe import toml as recipes

    if list_recipes:
        click.echo("\n".join(format_table([*recipes.describe_shipped_recipes().items()])))
        return
    if recipe is None or ("=" in recipe and not recipe.endswith(".toml")):
        known = ", ".join(recipes.shipped_recipes())
        raise click.UsageError(
            f"RECIPE is missing; it comes first: {ctx.command_path} RECIPE [KEY=VALUE]... These ship: {known} (--list)."
        )
    if show:
        click.echo(recipes.render_toml(recipe, overrides), nl=False)
        return
    checked = recipes.read(recipe, overrides)  # a wrong recipe fails here, before torch is imported
    from gnomon.train import train as run

    try:
        folder = run(checked, resume=resume, overwrite=overwrite)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM, SIGHUP
        from gnomon.train.output_folder import latest_checkpoint

        with suppress(OSError):  # the terminal is gone
            if there := latest_checkpoint(Path(checked.output).expanduser()):
                how = "--resume in place of --overwrite" if overwrite else "--resume"
                note(f"the last checkpoint is {there}; the same command with {how} goes on from it.")
        raise
    if os.environ.get("RANK", "0") == "0":  # each rank of torchrun comes here
        click.echo(folder)


def _report_gradients() -> bool:
    """Whether all gradients agree; prints one line for each."""
    from gnomon.train.gradient_check import check_gradients

    header = ("loss", "dims", "method", "relative difference", "")
    checks = [*check_gradients()]
    rows = [
        (row.loss, row.matryoshka_mode, row.method, f"{row.difference:.1e}", "ok" if row.passed else "DIFFERS")
        for row in checks
    ]
    click.echo("\n".join(format_table([header, *rows])))
    failed = sum(not row.passed for row in checks)
    click.echo(f"{len(checks) - failed} of {len(checks)} gradients agree.")
    return not failed
