"""gnomon similarity: how similar texts are."""

from __future__ import annotations

from typing import Any

import click

from gnomon.cli.shared import (
    TEXT,
    PrintingCommand,
    json_option,
    load_encoder,
    note_empty,
    note_prompts,
    prompt_options,
    read_texts,
    run_options,
    source_options,
    to_json,
)
from gnomon.errors import InputError
from gnomon.terminal import format_matrix, pad_line, terminal_width, truncate_line


@click.command(short_help="Score how similar texts are.", cls=PrintingCommand)
@click.argument("model")
@click.argument("texts", nargs=-1, type=TEXT, metavar="[TEXT TEXT...]")
@click.option("--a", "file_a", metavar="FILE", help="With --b: texts to compare line by line.")
@click.option("--b", "file_b", metavar="FILE")
@click.option("--a-field", multiple=True, metavar="NAME", help="Field of the text in --a. Repeatable.")
@click.option("--b-field", multiple=True, metavar="NAME", help="Field of the text in --b. Repeatable.")
@prompt_options
@json_option
@source_options
@run_options
def similarity(
    model: str,
    texts: tuple[str, ...],
    file_a: str | None,
    file_b: str | None,
    a_field: tuple[str, ...],
    b_field: tuple[str, ...],
    prompt: str | None,
    prompt_name: str | None,
    as_json: bool,
    **load: Any,
) -> None:
    """Score how similar texts are, by the model's own score function.

    Two texts give a number, more a matrix. --a and --b give a number for each pair of lines.
    """
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("--prompt and --prompt-name exclude each other.")
    if (file_a is None) != (file_b is None) or (file_a is None) == (not texts):
        raise click.UsageError("give two texts or more, or both --a FILE and --b FILE.")
    if file_a == "-" == file_b:
        raise click.UsageError("--a - and --b - both take standard input; let one be a file.")
    if file_a is not None and file_b is not None:
        files = read_texts(file_a, field=a_field), read_texts(file_b, field=b_field)
        for file in files:
            note_empty(file, "An empty text is compared as it is.")
        a, b = (file.texts for file in files)
        if len(a) != len(b):
            raise InputError(f"{file_a} has {len(a)} texts and {file_b} {len(b)}; pairs need as many in both.")
    elif len(texts) < 2:
        raise click.UsageError("one text has nothing to be compared with; give two or more.")
    else:
        a, b = list(texts), []
    encoder = load_encoder(model, load)
    if prompt is None and prompt_name is None and encoder.spec.default_prompt_name is None:
        note_prompts(encoder, "--prompt-name")
        prompt = ""
    vectors = encoder.encode([*a, *b], prompt=prompt, prompt_name=prompt_name)
    if b:
        pairs = zip(vectors[: len(a)], vectors[len(a) :], strict=True)
        _print_pairs(a, b, [float(encoder.similarity(left, right)[0, 0]) for left, right in pairs], as_json)
        return
    scores = encoder.similarity(vectors, vectors).tolist()
    if as_json:
        click.echo(to_json({"similarity": encoder.spec.similarity, "texts": a, "scores": scores}))
    elif len(a) == 2:
        click.echo(f"{scores[0][1]:.4f}")
    else:
        click.echo("\n".join(format_matrix(a, scores, terminal_width())))


def _print_pairs(a: list[str], b: list[str], scores: list[float], as_json: bool) -> None:
    for left, right, score in zip(a, b, scores, strict=True):
        if as_json:
            click.echo(to_json({"a": left, "b": right, "score": score}))
        else:
            half = (terminal_width() - 14) // 2
            click.echo(
                f"{score:9.4f}  {pad_line(truncate_line(left, half), half)} | {truncate_line(right, half)}".rstrip()
            )
