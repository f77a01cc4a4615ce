"""gnomon save: a model as a folder of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gnomon.cli.shared import read_model, source_options


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
