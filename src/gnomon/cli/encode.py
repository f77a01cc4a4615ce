"""gnomon encode: a file of texts to a file of vectors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gnomon.cli.shared import (
    encode_texts,
    load_encoder,
    note,
    note_empty,
    note_prompts,
    prompt_options,
    read_texts,
    require_stdout,
    run_options,
    source_options,
    text_options,
    truncate_option,
)

if TYPE_CHECKING:
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder


@click.command(epilog="OUTPUT.json, beside the vectors, names their model, prompt and precision.")
@click.argument("model")
@click.argument("input")
@click.argument("output")
@text_options
@click.option("--query", "as_query", is_flag=True, help="With the model's prompt for queries.")
@click.option("--document", "as_document", is_flag=True, help="With the model's prompt for documents.")
@click.option("--task", metavar="NAME", help="With --query: chooses among several prompts.")
@prompt_options
@click.option("--dim", type=int, metavar="N", help="Dimensions that the model has (gnomon inspect).")
@click.option("--truncate-dim", type=int, metavar="N", help="Truncate to any prefix.")
@click.option("--normalize", is_flag=True, help="Unit length, also where the model does not normalise.")
@truncate_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8", "uint8", "binary", "ubinary"]),
    default="float32",
    show_default=True,
)
@click.option("--ranges", metavar="FILE", help="Ranges of int8 and uint8, as written beside earlier vectors.")
@source_options
@run_options
def encode(
    model: str,
    input: str,
    output: str,
    form: str | None,
    field: tuple[str, ...],
    delimiter: str | None,
    as_query: bool,
    as_document: bool,
    task: str | None,
    prompt: str | None,
    prompt_name: str | None,
    dim: int | None,
    truncate_dim: int | None,
    normalize: bool,
    on_truncate: OnTruncate,
    precision: Any,
    ranges: str | None,
    skip_bad: bool,
    **load: Any,
) -> None:
    """Encode the texts of INPUT into OUTPUT.

    INPUT: .txt (one text per line), .jsonl, .csv, .tsv, also as .gz; .parquet; or - for stdin. OUTPUT: .npy; .jsonl or
    .parquet, which keep the rows of INPUT; or - for jsonl on stdout. A pipe or device is written to as it is.
    """
    if task is not None and not as_query:
        raise click.UsageError("--task needs --query.")
    if sum((as_query, as_document, prompt is not None, prompt_name is not None)) > 1:
        raise click.UsageError("--query, --document, --prompt and --prompt-name exclude each other.")
    if ranges and precision not in ("int8", "uint8"):
        raise click.UsageError(f"--ranges is of no use to {precision}; it belongs to int8 and uint8.")
    from gnomon import files, vector_files
    from gnomon.encode_options import EncodeOptions

    if output == "-":
        require_stdout()
    out_form = "jsonl" if output == "-" else vector_files.infer_output_format(output)
    if precision in ("int8", "uint8") and not ranges and (output == "-" or files.is_stream(output)):
        note(
            f"the ranges of {precision} are written beside a file, and {output} is not a file. "
            "Queries cannot be compared with these vectors."
        )
    texts = read_texts(input, form=form, field=field, skip_bad=skip_bad, delimiter=delimiter)
    note_empty(texts, "An empty text is encoded as it is; --skip-bad leaves it out.")
    if out_form == "parquet":
        _ = texts.table  # fails here, rather than after the work
    encoder = load_encoder(model, load)
    prompt, prompt_name = _choose_prompt(encoder, prompt, prompt_name, as_query, as_document, task)
    options = EncodeOptions(
        prompt=prompt,
        prompt_name=prompt_name,
        dim=dim,
        truncate_dim=truncate_dim,
        normalize_embeddings=normalize or None,
        on_truncate=on_truncate,
    )
    # wrong options fail in these lines, rather than after the work
    space = encoder.space(options)
    ranges_2D = vector_files.read_ranges(ranges) if ranges else None
    vector_files.check_precision(encoder.output_dim(options), precision, ranges_2D)
    encoded = encode_texts(encoder, texts.texts, options)
    values, ranges_2D = vector_files.convert_precision(encoded.vectors, precision, ranges_2D)
    if output == "-":
        vector_files.write_jsonl(sys.stdout.buffer, texts, values)
        return
    manifest = vector_files.describe_origin(encoder, space) | {
        "prompt": encoder.prompts[prompt_name] if prompt_name is not None else prompt or "",
        "precision": precision,
        "ranges": vector_files.ranges_path(output).name if ranges_2D is not None else None,
        "count": len(values),
        "cut": len(encoded.truncated),
        "skipped": texts.skipped,
    }
    vector_files.write_vectors(output, texts, values, ranges_2D, manifest)


def _choose_prompt(
    encoder: Encoder, prompt: str | None, prompt_name: str | None, as_query: bool, as_document: bool, task: str | None
) -> tuple[str | None, str | None]:
    """(prompt, prompt_name) as `EncodeOptions` takes them; one of the two is always set."""
    if prompt is not None or prompt_name is not None:
        return prompt, prompt_name
    spec = encoder.spec
    if as_query:
        prompt_name = spec.query_prompt_name(task)
    else:
        prompt_name = spec.document_prompt_name if as_document else spec.default_prompt_name
        if not as_document and prompt_name is None:
            note_prompts(encoder, "--query, --document and --prompt-name")
    return ("", None) if prompt_name is None else (None, prompt_name)
