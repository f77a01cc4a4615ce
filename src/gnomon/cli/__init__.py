"""The command line. The commands that read texts are here, the others in the modules beside; no module imports it.

Each command imports its heavy modules inside, so that --help is quick. Results go to stdout; notes, errors and progress
go to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gnomon import interrupts
from gnomon.cli import evaluation, models, training
from gnomon.cli.shared import (
    TEXT,
    json_option,
    note,
    prompt_options,
    require_stdout,
    run_options,
    source_options,
    text_options,
    to_json,
    truncate_option,
)
from gnomon.cli.shared import load_encoder as _load
from gnomon.errors import GnomonError, InputError, Notice
from gnomon.terminal import (
    format_error,
    format_hits,
    format_matrix,
    pad_line,
    prepare_streams,
    read_typed_lines,
    terminal_width,
    truncate_line,
    wrap_text,
)

if TYPE_CHECKING:
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder
    from gnomon.pipeline import Encoded
    from gnomon.text_files import TextFile

EXIT_FAILED = 2
"""Exit status of every error; 1 is a verification that did not pass."""
STDOUT_COMMANDS = {"similarity", "search", "inspect", "verify", "compare"}
"""Commands that write their results to stdout only."""
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
"""As shells report SIGINT and SIGPIPE."""


class CommandGroup(click.Group):
    """The group of commands. It turns warnings and errors into lines on stderr."""

    def main(self, *args: Any, **more: Any) -> Any:
        prepare_streams()
        try:
            return super().main(*args, **more)
        except OSError as error:  # --help or --version could not be written
            _echo_stderr(f"error: {format_error(error, {})}")
            _redirect_to_devnull(sys.stdout)
            sys.exit(EXIT_FAILED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        resolved = super().resolve_command(ctx, args)
        if resolved[0] in STDOUT_COMMANDS and not {"-h", "--help"} & set(args):
            require_stdout()  # rather than after the work
        return resolved

    def invoke(self, ctx: click.Context) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show_warning
            try:
                super().invoke(ctx)
                if sys.stdout:
                    sys.stdout.flush()  # here, where a failure can still be reported
                status = 0
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except KeyboardInterrupt:
                _echo_stderr("\ninterrupted")
                status = EXIT_INTERRUPTED
            except BrokenPipeError:
                _redirect_to_devnull(sys.stdout)
                status = EXIT_BROKEN_PIPE
            except Exception as error:  # the last handler: no traceback, unless --traceback
                if ctx.params.get("traceback"):
                    traceback.print_exc()
                interrupted = interrupts.was_interrupted() and not isinstance(error, GnomonError)
                _echo_stderr(
                    "\ninterrupted" if interrupted else f"error: {format_error(error, self._option_names(ctx))}"
                )
                if isinstance(error, OSError):
                    _redirect_to_devnull(sys.stdout)
                status = EXIT_INTERRUPTED if interrupted else EXIT_FAILED
        ctx.exit(status)

    def _option_names(self, ctx: click.Context) -> dict[str, str]:
        """Parameter of the library -> option of the command that runs. Both have the same name here."""
        verb = self.commands.get(ctx.invoked_subcommand or "")
        options = [param for param in verb.params if isinstance(param, click.Option)] if verb else []
        return {option.name: option.opts[0] for option in options if option.name}


def _echo_stderr(text: str) -> None:
    """Write a line to stderr. Where that fails, the work goes on and the exit status reports the error."""
    try:
        click.echo(text, err=True)
    except OSError:
        _redirect_to_devnull(sys.stderr)


def _redirect_to_devnull(stream: Any) -> None:
    """Let Python end without an error where a stream cannot be written: it flushes the stream once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):  # no file beneath: closed, or a test's
        return


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Write a warning of gnomon as one line, wrapped in a terminal. Warnings for developers are not shown."""
    if not issubclass(category, Notice) and category is not UserWarning:
        return
    text = f"note: {' '.join(str(message).split())}"
    lines = wrap_text(text, terminal_width(), 99, indent=6) if sys.stderr.isatty() else [text]
    _echo_stderr("\n".join(lines))


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="MODEL is a model's folder, a hub id (intfloat/multilingual-e5-small) or package:NAME, a model in an "
    "installed package.",
)
@click.version_option(package_name="gnomon", message="gnomon %(version)s")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
def main(traceback: bool) -> None:
    """Text embeddings: encode, search, evaluate, train."""


# ---- encode


@main.command(epilog="OUTPUT.json, beside the vectors, names their model, prompt and precision.")
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
    field: str | None,
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
    texts = _read_texts(input, form=form, field=field, skip_bad=skip_bad)
    _note_empty(texts, "An empty text is encoded as it is; --skip-bad leaves it out.")
    if out_form == "parquet":
        _ = texts.table  # fails here, rather than after the work
    encoder = _load(model, load)
    prompt, prompt_name = _choose_prompt(encoder, prompt, prompt_name, as_query, as_document, task)
    options = EncodeOptions(
        prompt=prompt,
        prompt_name=prompt_name,
        dim=dim,
        truncate_dim=truncate_dim,
        normalize_embeddings=normalize or None,
        on_truncate="silent" if on_truncate == "warn" else on_truncate,
    )
    # wrong options fail in these lines, rather than after the work
    space = encoder.space(options)
    ranges_2D = vector_files.read_ranges(ranges) if ranges else None
    vector_files.check_precision(encoder.output_dim(options), precision, ranges_2D)
    encoded = encoder.encode_with_counts(texts.texts, options)
    _note_truncated(encoder, encoded, on_truncate)
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
            _note_prompts(encoder, "--query, --document and --prompt-name")
    return ("", None) if prompt_name is None else (None, prompt_name)


def _note_truncated(encoder: Encoder, encoded: Encoded, on_truncate: OnTruncate) -> None:
    """Report truncation in the words of the command line; the library's own warning is switched off."""
    count = len(encoded.truncated)
    if count and on_truncate == "warn":
        verb = "is" if count == 1 else "are"
        those = f"{count} of {len(encoded.token_counts_B)} texts {verb} longer than {encoder.max_seq_length} tokens"
        note(f"{those}: the rest was truncated. --on-truncate mean reads all.")


def _note_prompts(encoder: Encoder, options: str) -> None:
    if encoder.prompts:
        note(f"{encoder.name} has prompts ({', '.join(encoder.prompts)}) and none is added; see {options}.")


def _read_texts(path: str, **how: Any) -> TextFile:
    from gnomon.text_files import STDIN, read_texts, require_stdin

    if path == STDIN and require_stdin().isatty():
        note("reading from the terminal; end with Ctrl-D.")
    return read_texts(path, **how)


def _note_empty(texts: TextFile, what: str) -> None:
    if description := texts.describe_empty():
        note(f"{description}. {what}")


# ---- similarity


@main.command()
@click.argument("model")
@click.argument("texts", nargs=-1, type=TEXT, metavar="[TEXT TEXT...]")
@click.option("--a", "file_a", metavar="FILE", help="With --b: texts to compare line by line.")
@click.option("--b", "file_b", metavar="FILE")
@click.option("--a-field", metavar="NAME", help="Field of the text in --a.")
@click.option("--b-field", metavar="NAME", help="Field of the text in --b.")
@prompt_options
@json_option
@source_options
@run_options
def similarity(
    model: str,
    texts: tuple[str, ...],
    file_a: str | None,
    file_b: str | None,
    a_field: str | None,
    b_field: str | None,
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
        files = _read_texts(file_a, field=a_field), _read_texts(file_b, field=b_field)
        for file in files:
            _note_empty(file, "An empty text is compared as it is.")
        a, b = (file.texts for file in files)
        if len(a) != len(b):
            raise InputError(f"{file_a} has {len(a)} texts and {file_b} {len(b)}; pairs need as many in both.")
    elif len(texts) < 2:
        raise click.UsageError("one text has nothing to be compared with; give two or more.")
    else:
        a, b = list(texts), []
    encoder = _load(model, load)
    if prompt is None and prompt_name is None and encoder.spec.default_prompt_name is None:
        _note_prompts(encoder, "--prompt-name")
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


# ---- search


@main.command()
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
    field: str | None,
    skip_bad: bool,
    as_json: bool,
    **load: Any,
) -> None:
    """Search a file: exact, in memory. Without --query, it prompts for queries in a terminal."""
    if corpus == "-" and not queries:
        raise click.UsageError("--corpus - takes standard input; give --query.")
    from gnomon.encode_options import EncodeOptions
    from gnomon.search.exact import top_k
    from gnomon.text_files import require_stdin

    if not queries:
        require_stdin()  # rather than after the work
    texts = _read_texts(corpus, form=form, field=field, skip_bad=skip_bad)
    encoder = _load(model, load)
    encoder.spec.query_prompt_name(task)  # a wrong task fails here, rather than after the work
    rows = [row for row, text in enumerate(texts.texts) if text.strip()]
    if not rows:
        raise InputError(f"{corpus} holds empty texts alone.")
    _note_empty(texts, "An empty text is left out of the search.")
    documents = [texts.texts[row] for row in rows]
    name = encoder.spec.document_prompt_name
    options = EncodeOptions(
        prompt=encoder.prompts[name] if name else "", on_truncate="silent" if on_truncate == "warn" else on_truncate
    )
    encoded = encoder.encode_with_counts(documents, options)
    _note_truncated(encoder, encoded, on_truncate)
    corpus_ND = encoded.vectors
    in_terminal = not queries and sys.stdin.isatty()
    count, empty = 0, list[int]()
    for count, query in enumerate(queries or _read_queries(in_terminal, skip_bad), 1):
        hits: list[dict[str, Any]] = []
        if query.strip():
            query_1D = encoder.encode_query([query], task=task)
            scores_1K, indices_1K = top_k(query_1D, corpus_ND, k, score=encoder.spec.similarity)
            hits = [
                {"row": rows[index], "score": score} | texts.id_and_title(rows[index]) | {"text": documents[index]}
                for index, score in zip(indices_1K[0], scores_1K[0].tolist(), strict=True)
            ]
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


def _read_queries(in_terminal: bool, skip_bad: bool) -> Iterator[str]:
    if not in_terminal:
        from gnomon.text_files import read_stdin_lines

        return read_stdin_lines(skip_bad=skip_bad)
    note("type a query; end with Ctrl-D.")
    return read_typed_lines("query> ")


# ---- the commands of the other modules

for _command in (*models.COMMANDS, *evaluation.COMMANDS, training.train):
    main.add_command(_command)
