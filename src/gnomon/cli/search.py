"""gnomon search: the texts of files and folders that answer a query."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from gnomon.cli.shared import (
    TEXT,
    MultiValueCommand,
    PrintingCommand,
    combine_options,
    json_option,
    load_encoder,
    multi_value_option,
    note,
    note_truncated,
    open_corpus_cache,
    run_options,
    source_options,
    to_json,
    truncate_option,
)
from gnomon.errors import InputError
from gnomon.terminal import format_hits, read_typed_lines, terminal_width, wrap_text

if TYPE_CHECKING:
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder
    from gnomon.packed import Vectors
    from gnomon.search import Corpus, Document, Hit


class SearchCommand(MultiValueCommand, PrintingCommand):
    """Its options take several values in a row, except --query: a word after a query is not another query."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            if spread and spread[-1] == "--query":
                spread[-1] = f"--query={arg}"  # also where the text begins with a dash
            else:
                spread.append(arg)
        if spread and spread[-1] == "--query":
            raise click.UsageError("--query has no text after it.", ctx)
        return super().parse_args(ctx, spread)


corpus_options = combine_options(
    multi_value_option(
        "--corpus",
        metavar="PATH",
        help="Texts to search: files (.md, .txt, .jsonl, .csv, .tsv, each also .gz; .parquet), folders, or globs in "
        'quotes ("notes/**/*.md").',
        required=True,
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(["md", "txt", "jsonl", "csv", "tsv"]),
        help="Of stdin (txt), or of files of other names.",
    ),
    multi_value_option(
        "--field",
        metavar="NAME",
        help='Fields or columns of the text; by default the only one, or "text". body.text: a field in a field. '
        "Several are joined by a space.",
    ),
    click.option(
        "--delimiter",
        type=TEXT,
        metavar="CHAR",
        help="Between the cells of CSV (comma) or TSV (tab): a character, or comma, semicolon, tab, bar.",
    ),
    click.option("--id-field", metavar="NAME", help='Field of the id; by default "_id" or "id".'),
    click.option(
        "--skip-bad",
        is_flag=True,
        help="Leave broken lines, empty texts and broken files out, and count them.",
    ),
)


@click.command(cls=SearchCommand)
@click.argument("model")
@corpus_options
@click.option(
    "--query",
    "queries",
    multiple=True,
    type=TEXT,
    metavar="TEXT",
    help="Repeatable. Otherwise from stdin, one per line.",
)
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Results per query.")
@multi_value_option("--show", metavar="NAME", help="Fields to print with each result: sku,price. --json has all.")
@click.option("--task", metavar="NAME", help="Chooses among several prompts for queries.")
@click.option("--no-cache", is_flag=True, help="Neither read nor write cached vectors; see gnomon cache.")
@truncate_option
@json_option
@source_options
@run_options
def search(
    model: str,
    corpus: tuple[str, ...],
    form: str | None,
    field: tuple[str, ...],
    delimiter: str | None,
    id_field: str | None,
    skip_bad: bool,
    queries: tuple[str, ...],
    k: int,
    show: tuple[str, ...],
    task: str | None,
    no_cache: bool,
    on_truncate: Any,
    as_json: bool,
    **load: Any,
) -> None:
    """Search files and folders: exact, in memory. Without --query, it prompts for queries in a terminal.

    Markdown is split at its headings. Vectors are cached: a text is encoded once by each model.
    """
    _check_queries(queries, corpus)
    from gnomon.search import find_hits, read_corpus

    texts = read_corpus(
        corpus, form=form, field=field or None, delimiter=delimiter, skip_bad=skip_bad, id_field=id_field
    )
    columns = texts.choose_columns(show)
    if empty := texts.describe_empty():
        note(f"{empty}. An empty text is left out of the search.")
    encoder = load_encoder(model, load)
    encoder.spec.query_prompt_name(task)  # a wrong task fails here, rather than after the work
    vectors_ND = _encode(encoder, texts, on_truncate, use_cache=not no_cache)
    in_terminal = not queries and sys.stdin.isatty()
    num_queries, empty_queries = 0, list[int]()
    for num_queries, query in enumerate(queries or _read_queries(in_terminal, skip_bad), 1):
        hits: list[Hit] = []
        if query.strip():
            hits = find_hits(encoder, texts, vectors_ND, query, k, task=task)
        elif in_terminal:
            continue
        else:
            empty_queries.append(num_queries)
        if as_json:
            click.echo(to_json({"query": query, "results": [_to_dict(hit) for hit in hits]}))
        else:
            _print_hits(query, hits, columns, with_query=not in_terminal)
        sys.stdout.flush()
    if empty_queries:
        are = "is" if len(empty_queries) == 1 else "are"
        those = f"{len(empty_queries):,} of {num_queries:,} queries {are} empty"
        note(f"{those}, query {empty_queries[0]} the first; an empty query has no results.")


def _check_queries(queries: Sequence[str], corpus: Sequence[str]) -> None:
    """
    Raises:
        InputError: an empty query, or a standard input that is closed. UsageError: nothing is left for queries.
    """
    for number, query in enumerate(queries, 1):
        if not query.strip():
            which = f"query {number} is" if len(queries) > 1 else "the query is"
            raise InputError(f"{which} empty. A query is a text of at least one word. Give one (--query).")
    if queries:
        return
    if "-" in corpus:
        raise click.UsageError("--corpus - takes standard input; give --query.")
    from gnomon.text_files import require_stdin

    require_stdin()


def _encode(encoder: Encoder, corpus: Corpus, on_truncate: OnTruncate, *, use_cache: bool) -> Vectors:
    from gnomon.search import encode_corpus
    from gnomon.search.fingerprint_memo import recall_fingerprint

    cache = open_corpus_cache() if use_cache else None
    if cache:
        recall_fingerprint(encoder, cache.path.parent)
    try:
        encoded = encode_corpus(encoder, corpus.texts, cache=cache, on_truncate=on_truncate)
    finally:
        if cache:
            cache.close()
    note_truncated(encoder, len(encoded.truncated), len(corpus), on_truncate)
    return encoded.vectors_ND


def _to_dict(hit: Hit) -> dict[str, Any]:
    """A result as JSON has it. All fields of its row are in "fields", where no name is taken."""
    document = hit.document
    named = {name: value for name in ("id", "title") if (value := getattr(document, name)) is not None}
    place = {"path": document.path, "line": document.line, "row": document.row}
    return place | {"score": hit.score} | named | {"text": document.text, "fields": document.fields}


def _print_hits(query: str, hits: Sequence[Hit], columns: Sequence[str], *, with_query: bool) -> None:
    if with_query:
        click.echo("\n".join(wrap_text(query, terminal_width(), 2)))
    lines = format_hits([_to_text(hit, columns) for hit in hits], terminal_width())
    click.echo("\n".join(lines) + "\n")


def _to_text(hit: Hit, columns: Sequence[str]) -> dict[str, Any]:
    """A result as `format_hits` takes it."""
    document = hit.document
    return {
        "score": hit.score,
        "place": document.place,
        "heading": ": ".join(filter(None, (document.id, document.title))),
        "columns": _format_columns(document, columns),
        "text": document.text,
    }


def _format_columns(document: Document, columns: Sequence[str]) -> str:
    """The chosen fields in one line, without one that is printed as the text or that this row does not have."""
    values = {name: document.fields.get(name) for name in columns}
    return " | ".join(
        f"{name}: {value if isinstance(value, str) else to_json(value)}"
        for name, value in values.items()
        if value not in (None, "", document.text)
    )


def _read_queries(in_terminal: bool, skip_bad: bool) -> Iterator[str]:
    if not in_terminal:
        from gnomon.text_files import read_stdin_lines

        return read_stdin_lines(skip_bad=skip_bad)
    note("type a query; end with Ctrl-D.")
    return read_typed_lines("query> ")
