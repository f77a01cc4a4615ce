"""What several commands share: options, and how a model is opened."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from gnomon.errors import InputError, Notice
from gnomon.messages import count
from gnomon.terminal import supports_unicode
from gnomon.text_files.json_lines import dump_json
from gnomon.text_files.rows import encoding_fault

if TYPE_CHECKING:
    from gnomon.checkpoint.folder import Checkpoint
    from gnomon.encode_options import OnTruncate
    from gnomon.encoder import Encoder
    from gnomon.search import CorpusCache
    from gnomon.text_files import TextFile, TextStream

EXIT_FAILED = 2
"""Exit status of every error; 1 is a verification that did not pass."""


class _TextParam(click.ParamType[str]):
    """A text. Where the locale lacks its characters (LC_ALL=C), its bytes are taken as UTF-8."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return value if encoding_fault(value) is None else os.fsencode(value).decode()
        except UnicodeError:
            return self.fail(f"{value!r} is not UTF-8 text.", param, ctx)


TEXT = _TextParam()


def combine_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: reduce(lambda inner, option: option(inner), reversed(options), command)


source_options = combine_options(
    click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id."),
    click.option("--card", metavar="NAME", help="The published model that this is or was tuned from."),
    click.option(
        "--ignore-config-key",
        "ignore_config_keys",
        multiple=True,
        metavar="KEY",
        help="A key of config.json that gnomon does not know and that changes no vector. Repeatable.",
    ),
    click.option("--local-files-only", is_flag=True, help="Make no request; use the cache."),
)
threads_option = click.option("--threads", type=int, metavar="N", help="Threads; one per core by default.")
run_options = combine_options(
    click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps, or cuda:0,cuda:1,..."),
    click.option("--engine", default="auto", metavar="NAME", help="auto, onnx, openvino or torch."),
    click.option("--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16, float16 or int8."),
    click.option("--max-seq-length", type=int, metavar="N", help="Tokens of a text that are read; the model's own."),
    threads_option,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
text_options = combine_options(
    click.option(
        "--format",
        "form",
        type=click.Choice(["txt", "jsonl", "csv", "tsv"]),
        help="Of stdin (txt), or of a file of another name.",
    ),
    click.option(
        "--field",
        multiple=True,
        metavar="NAME",
        help='Field or column of the text; by default the only one, or "text". body.text: a field in a field. '
        "Repeatable: several are joined by a space.",
    ),
    click.option(
        "--delimiter",
        type=TEXT,
        metavar="CHAR",
        help="Between the cells of CSV (comma) or TSV (tab): a character, or comma, semicolon, tab, bar.",
    ),
    click.option("--skip-bad", is_flag=True, help="Leave broken lines and empty texts out, and count them."),
)
prompt_options = combine_options(
    click.option("--prompt", type=TEXT, metavar="TEXT", help="Put before every text."),
    click.option("--prompt-name", metavar="NAME", help="A prompt of the model, by its name."),
)
truncate_option = click.option(
    "--on-truncate",
    type=click.Choice(["warn", "error", "silent", "mean"]),
    default="warn",
    show_default=True,
    help="For texts longer than the model reads; mean: of overlapping windows.",
)


def load_encoder(model: str, options: Mapping[str, Any]) -> Encoder:
    from gnomon.encoder import Encoder

    return Encoder.load(model, **options)


def read_model(
    model: str, *, revision: str | None, local_files_only: bool, card: str | None, ignore_config_keys: tuple[str, ...]
) -> Checkpoint:
    """The folder, read; no engine is opened."""
    from gnomon.checkpoint.folder import read_folder
    from gnomon.checkpoint.hub import resolve_source

    source = resolve_source(model, revision=revision, local_files_only=local_files_only)
    return read_folder(source, card=card, ignore_config_keys=ignore_config_keys)


class PrintingCommand(click.Command):
    """A command that writes its results to stdout only. Without a stdout it fails before the work."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args):
            require_stdout()
        return super().parse_args(ctx, args)


class MultiValueCommand(click.Command):
    """A command whose options with `multiple` take several values in a row: --tasks A B C."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {
            name
            for param in self.params
            if isinstance(param, click.Option) and param.multiple
            for name in param.opts
            if name.startswith("--")
        }
        spread: list[str] = []
        option: str | None = None
        for arg in args:
            if arg.startswith("-") and arg != "-":
                option = arg if arg in several else None
                if option is None:
                    spread.append(arg)
            elif option:
                spread += [option, arg]
            else:
                spread.append(arg)
        try:
            return super().parse_args(ctx, spread)
        except click.MissingParameter as error:
            if not isinstance(error.param, click.Argument):
                raise
            name = error.param.make_metavar(ctx)
            raise click.UsageError(f"{name} is missing; it comes first: {ctx.command_path} {name} ...", ctx) from error


def multi_value_option(name: str, *, metavar: str, help: str, kind: Any = str, **more: Any) -> Callable[[Any], Any]:
    return click.option(name, multiple=True, metavar=f"{metavar}...", help=help, type=kind, **more)


def first_given(ctx: click.Context, names: Sequence[str]) -> str | None:
    """The first of these options that was typed."""
    return next((name for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE), None)


def note(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=2)


def echo_stderr(text: str) -> None:
    """Write a line to stderr. Where that fails, the work goes on and the exit status reports the error."""
    try:
        click.echo(text, err=True)
    except OSError:
        redirect_to_devnull(sys.stderr)


def redirect_to_devnull(stream: Any) -> None:
    """Let Python end without an error where a stream cannot be written: it flushes the stream once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):  # no file beneath: closed, or a test's
        return


def to_json(value: Any) -> str:
    """Valid JSON, in ASCII alone where standard output does not take every character."""
    return dump_json(value, ascii_only=not supports_unicode(sys.stdout))


def require_stdout() -> None:
    """Raise InputError where standard output is closed."""
    if cast(Any, sys.stdout) is None or sys.stdout.closed:
        raise InputError("standard output is closed, and the results go there; let it be a file, or /dev/null.")


# ---- the cache of searched texts


FOLDER_VARIABLE, SIZE_VARIABLE = "GNOMON_CACHE_DIR", "GNOMON_CACHE_SIZE"
SIZE_PATTERN = re.compile(r"(\d+)\s*([KMGT]?)(i?B)?", re.IGNORECASE)


def open_corpus_cache() -> CorpusCache:
    """The cache, in the folder and of the size that the environment names.

    Raises:
        InputError: $GNOMON_CACHE_SIZE is not a size.
    """
    from gnomon.search import CorpusCache

    folder, size = os.environ.get(FOLDER_VARIABLE), os.environ.get(SIZE_VARIABLE, "").strip()
    max_bytes = parse_size(size) if size else None
    if size and max_bytes is None:
        raise InputError(
            f"{SIZE_VARIABLE} is {size!r}. It must be a number of bytes, such as 500M or 2G. Correct or unset it."
        )
    return CorpusCache(Path(folder) if folder else None, max_bytes=max_bytes)


def parse_size(text: str) -> int | None:
    """Bytes of a size such as "500M" or "2GiB"; None if it is not one."""
    match = SIZE_PATTERN.fullmatch(text)
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " ")) if match else None


# ---- texts that a command reads


def read_texts(path: str, *, field: Sequence[str] = (), **how: Any) -> TextFile:
    """As the library's; no field is the default one."""
    from gnomon import text_files

    if path == text_files.STDIN and text_files.require_stdin().isatty():
        note("reading from the terminal; end with Ctrl-D.")
    return text_files.read_texts(path, field=field or None, **how)


def open_texts(path: str, *, field: Sequence[str] = (), **how: Any) -> TextStream:
    """The texts of a file in groups; no field is the default one."""
    from gnomon import text_files

    stream = text_files.TextStream(path, field=field or None, **how)
    if path == text_files.STDIN and text_files.require_stdin().isatty():
        note("reading from the terminal; end with Ctrl-D.")
    return stream


def note_empty(texts: TextFile, what: str) -> None:
    if description := texts.describe_empty():
        note(f"{description}. {what}")


def note_truncated(encoder: Encoder, num_truncated: int, num_texts: int, on_truncate: OnTruncate) -> None:
    """Report truncation in the words of the command line, in place of the library's own warning."""
    if on_truncate == "warn" and num_truncated:
        verb = "is" if num_truncated == 1 else "are"
        those = f"{num_truncated:,} of {count(num_texts, 'text')} {verb} longer than {encoder.max_seq_length} tokens"
        note(f"{those}: the rest was truncated. --on-truncate mean reads all.")


def note_prompts(encoder: Encoder, options: str) -> None:
    if encoder.prompts:
        note(f"{encoder.name} has prompts ({', '.join(encoder.prompts)}) and none is added; see {options}.")
