"""gnomon search: the texts of a file that answer a query."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gnomon.cli.shared import (
    TEXT,
    PrintingCommand,
    encode_texts,
    json_option,
    load_encoder,
    note,
    note_empty,
    read_texts,
    run_options,
    source_options,
    text_options,
    to_json,
    truncate_option,
)
from gnomon.errors import InputError
from gnomon.terminal import format_hits, read_typed_lines, terminal_width, wrap_text

if TYPE_CHECKING:
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder
    from gnomon.packed import Vectors


@click.command(cls=PrintingCommand)
@click.argument("model")
@click.option(
    "--corpus", required=True, metavar="FILE", help="Texts to search: .txt, .jsonl, .csv, .tsv (or .gz), .parquet."
)
@click.option(
    "--query",
    "queries",
    multiple=True,
    type=TEXT,
    metavar="TEXT",
    help="Repeatable. Otherwise from stdin, one per line.",
)
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Results per query.")
@click.option("--task", metavar="NAME", help="Chooses among several prompts for queries.")
@truncate_option
@text_options
@json_option
@source_options
@run_options
def search(
    model: str,
    corpus: str,
    queries: tuple[str, ...],
    k: int,
    task: str | None,
    on_truncate: Any,
    form: str | None,
    field: tuple[str, ...],
    delimiter: str | None,
    skip_bad: bool,
    as_json: bool,
    **load: Any,
) -> None:
    """Search a file: exact, in memory. Without --query, it prompts for queries in a terminal."""
    if corpus == "-" and not queries:
        raise click.UsageError("--corpus - takes standard input; give --query.")
    from gnomon.search.exact import top_k
    from gnomon.text_files import require_stdin

    if not queries:
        require_stdin()  # rather than after the work
    texts = read_texts(corpus, form=form, field=field, skip_bad=skip_bad, delimiter=delimiter)
    encoder = load_encoder(model, load)
    encoder.spec.query_prompt_name(task)  # a wrong task fails here, rather than after the work
    rows = [row for row, text in enumerate(texts.texts) if text.strip()]
    if not rows:
        raise InputError(f"{corpus} holds empty texts alone.")
    note_empty(texts, "An empty text is left out of the search.")
    documents = [texts.texts[row] for row in rows]
    corpus_ND = _encode_documents(encoder, documents, on_truncate)

    def find_hits(query: str) -> list[dict[str, Any]]:
        query_1D = encoder.encode_query([query], task=task)
        scores_1K, indices_1K = top_k(query_1D, corpus_ND, k, score=encoder.spec.similarity)
        return [
            {"row": rows[index], "score": score} | texts.id_and_title(rows[index]) | {"text": documents[index]}
            for index, score in zip(indices_1K[0], scores_1K[0].tolist(), strict=True)
        ]

    in_terminal = not queries and sys.stdin.isatty()
    count, empty = 0, list[int]()
    for count, query in enumerate(queries or _read_queries(in_terminal, skip_bad), 1):
        hits: list[dict[str, Any]] = []
        if query.strip():
            hits = find_hits(query)
        elif in_terminal:
            continue
        else:
            empty.append(count)
        if as_json:
            click.echo(to_json({"query": query, "results": hits}))
        else:
            if not in_terminal:
                click.echo("\n".join(wrap_text(query, terminal_width(), 2)))
            click.echo("\n".join(format_hits(hits, terminal_width())) + "\n")
        sys.stdout.flush()
    if empty:
        those = f"{len(empty):,} of {count:,} queries {'is' if len(empty) == 1 else 'are'} empty"
        note(f"{those}, query {empty[0]} the first; an empty query has no results.")


def _encode_documents(encoder: Encoder, documents: list[str], on_truncate: OnTruncate) -> Vectors:
    """The documents' vectors [N, D], with the model's prompt for documents."""
    from gnomon.encode_options import EncodeOptions

    name = encoder.spec.document_prompt_name
    options = EncodeOptions(prompt=encoder.prompts[name] if name else "", on_truncate=on_truncate)
    return encode_texts(encoder, documents, options).vectors


def _read_queries(in_terminal: bool, skip_bad: bool) -> Iterator[str]:
    if not in_terminal:
        from gnomon.text_files import read_stdin_lines

        return read_stdin_lines(skip_bad=skip_bad)
    note("type a query; end with Ctrl-D.")
    return read_typed_lines("query> ")
