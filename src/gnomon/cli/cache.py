"""gnomon cache: the vectors that searches have cached."""

from __future__ import annotations

import click

from gnomon.cli.shared import PrintingCommand, json_option, open_corpus_cache, to_json
from gnomon.messages import count


@click.command(short_help="Show or clear the vectors that searches cached.", cls=PrintingCommand)
@click.option("--clear", is_flag=True, help="Remove all vectors from it.")
@json_option
def cache(clear: bool, as_json: bool) -> None:
    """Where the vectors of searched texts are cached, and how large that is.

    The folder is $GNOMON_CACHE_DIR, or the folder for caches of your system. It grows to $GNOMON_CACHE_SIZE at most,
    such as 500M or 4G (1G by default): what was used longest ago is dropped first.
    """
    from gnomon.search.fingerprint_memo import FILE_NAME

    with open_corpus_cache() as vectors:
        before = vectors.size()
        if clear:
            vectors.clear()
            vectors.path.with_name(FILE_NAME).unlink(missing_ok=True)
        size = vectors.size()
    if as_json:
        freed = before.num_bytes - size.num_bytes
        facts = {"path": str(vectors.path), "bytes": size.num_bytes, "max_bytes": vectors.max_bytes}
        click.echo(to_json(facts | {"texts": size.num_texts, "models": size.num_spaces, "freed_bytes": freed}))
        return
    if clear:
        click.echo(f"{vectors.path}: {count(before.num_texts, 'vector')} removed.")
        return
    megabytes, most = (f"{number / 1e6:,.1f} MB" for number in (size.num_bytes, vectors.max_bytes))
    click.echo(f"path   {vectors.path}")
    click.echo(f"size   {megabytes} of at most {most}")
    click.echo(f"holds  vectors of {count(size.num_texts, 'text')}, by {count(size.num_spaces, 'model')}")
