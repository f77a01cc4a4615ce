"""gnomon encode: a file of texts to a file of vectors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gnomon.cli.shared import (
    echo_stderr,
    load_encoder,
    note,
    note_prompts,
    note_truncated,
    open_texts,
    prompt_options,
    require_stdout,
    run_options,
    source_options,
    text_options,
    truncate_option,
)
from gnomon.errors import InputError
from gnomon.messages import count

if TYPE_CHECKING:
    from gnomon.encode_file import EncodeReport, TextSurvey
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder
    from gnomon.vector_output import VectorOutput


@click.command(
    epilog="OUTPUT.json, beside the vectors, names their model, prompt and precision. Where the work stops early, what "
    "is done is kept in OUTPUT.partial."
)
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
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT, or start anew where a part of it is kept.")
@click.option("--resume", is_flag=True, help="Go on where the same command was stopped.")
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
    overwrite: bool,
    resume: bool,
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
    if overwrite and resume:
        raise click.UsageError("--resume goes on with what is there, and --overwrite starts anew; give one of them.")
    if output == "-":
        require_stdout()
    from gnomon.encode_file import encode_file, survey_texts
    from gnomon.encode_options import EncodeOptions
    from gnomon.vector_files import read_ranges
    from gnomon.vector_output import open_output

    stream = open_texts(input, form=form, field=field, skip_bad=skip_bad, delimiter=delimiter)
    with open_output(output, overwrite=overwrite, resume=resume) as target, _note_kept(target):
        if precision in ("int8", "uint8") and not ranges and target.streams:
            note(
                f"the ranges of {precision} are written beside a file, and {output} is not a file. "
                "Queries cannot be compared with these vectors."
            )
        if resume and not target.num_kept:
            note(f"nothing of {output} is kept, so there is nothing to resume. The work starts from the beginning.")
        survey = survey_texts(stream, target.form)
        if survey:
            _note_empty(survey)
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
        report = encode_file(
            encoder,
            stream,
            target,
            options,
            precision=precision,
            ranges_2D=read_ranges(ranges) if ranges else None,
            survey=survey,
        )
    if not survey:
        _note_empty(report.survey)
    note_truncated(encoder, report.num_truncated, report.survey.num_texts, on_truncate)
    _print_summary(output, report)


def _note_empty(survey: TextSurvey) -> None:
    if description := survey.describe_empty():
        note(f"{description}. An empty text is encoded as it is; --skip-bad leaves it out.")


@contextmanager
def _note_kept(output: VectorOutput) -> Generator[None]:
    """Where the work stops early, say what is kept of it."""
    from gnomon.text_files import GROUP_LIMITS

    num_before = output.num_kept
    try:
        yield
    except BaseException as error:
        is_refusal = isinstance(error, InputError) and output.num_kept == num_before
        if output.num_kept and not is_refusal:
            note(
                f"{count(output.num_kept, 'text')} {'is' if output.num_kept == 1 else 'are'} encoded and kept in "
                f"{output.folder}. The same command with --resume goes on from there."
            )
        elif isinstance(error, KeyboardInterrupt) and not output.streams:
            note(
                f"nothing of {output.path} is kept yet. Texts are kept in groups of up to "
                f"{GROUP_LIMITS.max_texts:,}, and the first group was not complete."
            )
        raise


def _print_summary(output: str, report: EncodeReport) -> None:
    """One line on stderr: what was written, and how fast."""
    num_texts, num_old = report.survey.num_texts, report.survey.num_texts - report.num_new
    parts = [f"{count(num_texts, 'text')} of {report.dim} dimensions"]
    if num_old:
        parts.append(f"{num_old:,} of them before")
    if report.num_truncated:
        parts.append(f"{report.num_truncated:,} truncated")
    if report.survey.skipped:
        parts.append(f"{count(report.survey.skipped, report.survey.unit)} left out")
    rate = f"{report.num_new / max(report.seconds, 1e-9):,.0f} texts per second"
    place = "standard output" if output == "-" else output
    echo_stderr(f"{place}: {', '.join(parts)}; {report.seconds:,.1f} s, {rate}")


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
