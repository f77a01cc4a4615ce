"""The command line: one thin verb a module. Nothing imports it.

What is heavy is imported inside the verbs, so that --help is quick. Results go to stdout; notes, errors and progress to
stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gnomon.errors import InputError, Notice
from gnomon.terminal import columns, cut, lines_of_stdin, matrix, padded, results, said, table, wrapped

if TYPE_CHECKING:
    from gnomon.checkpoint.folder import Checkpoint
    from gnomon.encoder import Encoder
    from gnomon.spec import ModelSpec
    from gnomon.textfiles import TextFile

FAILED = 2
"""Exit status of every error; 1 is a verification that did not pass."""
INTERRUPTED, BROKEN_PIPE = 130, 141
"""As shells report SIGINT and SIGPIPE."""


class Verbs(click.Group):
    """The group of verbs: turns notices and errors into lines on stderr."""

    def invoke(self, ctx: click.Context) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show_notice
            try:
                super().invoke(ctx)
                if sys.stdout:
                    sys.stdout.flush()  # here, where a failure can still be told
                status = 0
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except KeyboardInterrupt:
                click.echo("\ninterrupted", err=True)
                status = INTERRUPTED
            except BrokenPipeError:
                _drop_stdout()
                status = BROKEN_PIPE
            except Exception as error:  # the last door: no traceback unless asked for
                if ctx.params.get("traceback"):
                    traceback.print_exc()
                click.echo(f"error: {said(error, self._options_of(ctx))}", err=True)
                if isinstance(error, OSError):
                    _drop_stdout()
                status = FAILED
        ctx.exit(status)

    def _options_of(self, ctx: click.Context) -> dict[str, str]:
        """Parameter of the library -> option of the verb that ran: they are called alike here."""
        verb = self.commands.get(ctx.invoked_subcommand or "")
        options = [param for param in verb.params if isinstance(param, click.Option)] if verb else []
        return {option.name: option.opts[0] for option in options if option.name}


def _drop_stdout() -> None:
    """Lets Python end in silence where stdout cannot be written: it would flush it once more."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # no file beneath: closed, or a test's
        return


def _show_notice(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A notice as one line; wrapped in a terminal. What libraries say to developers is not shown."""
    if not issubclass(category, Notice) and category is not UserWarning:
        return
    text = f"note: {' '.join(str(message).split())}"
    lines = wrapped(text, columns(), 99, indent=6) if sys.stderr.isatty() else [text]
    click.echo("\n".join(lines), err=True)


# ---- options


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda verb: reduce(lambda inner, option: option(inner), reversed(options), verb)


_source_options = _options(
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
_threads_option = click.option("--threads", type=int, metavar="N", help="Threads; one a core by default.")
_run_options = _options(
    click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps, or cuda:0,cuda:1,..."),
    click.option("--engine", default="auto", metavar="NAME", help="auto, onnx, openvino or torch."),
    click.option("--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16, float16 or int8."),
    click.option("--max-seq-length", type=int, metavar="N", help="Tokens of a text that are read; the model's own."),
    _threads_option,
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_text_options = _options(
    click.option(
        "--format",
        "form",
        type=click.Choice(["txt", "jsonl", "csv", "tsv"]),
        help="Of stdin (txt), or of a file of another name.",
    ),
    click.option("--field", metavar="NAME", help='Field or column of the text; by default the only one, or "text".'),
    click.option("--skip-bad", is_flag=True, help="Leave broken lines out, and count them."),
)
_prompt_options = _options(
    click.option("--prompt", metavar="TEXT", help="Put in front of every text."),
    click.option("--prompt-name", metavar="NAME", help="A prompt of the model, by its name."),
)
_truncate_option = click.option(
    "--on-truncate",
    type=click.Choice(["warn", "error", "silent", "mean"]),
    default="warn",
    show_default=True,
    help="For texts longer than the model reads; mean: of overlapping windows.",
)


def _load(model: str, options: Mapping[str, Any]) -> Encoder:
    from gnomon.encoder import Encoder

    return Encoder.load(model, **options)


def _read(
    model: str, *, revision: str | None, local_files_only: bool, card: str | None, ignore_config_keys: tuple[str, ...]
) -> Checkpoint:
    """The folder, read; no engine is opened."""
    from gnomon.checkpoint.folder import read_folder
    from gnomon.checkpoint.hub import resolve

    source = resolve(model, revision=revision, local_files_only=local_files_only)
    return read_folder(source, card=card, ignore_config_keys=ignore_config_keys)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="MODEL is a model's folder, a hub id (intfloat/multilingual-e5-small) or package:NAME, a model in an "
    "installed package.",
)
@click.version_option(package_name="gnomon", message="gnomon %(version)s")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
def main(traceback: bool) -> None:
    """Text embeddings: encode, search, judge."""


# ---- encode


@main.command(epilog="OUTPUT.json beside the vectors says which model, prompt and precision they are of.")
@click.argument("model")
@click.argument("input")
@click.argument("output")
@_text_options
@click.option("--query", "kind", flag_value="query", help="With the model's prompt for queries.")
@click.option("--document", "kind", flag_value="document", help="With the model's prompt for documents.")
@click.option("--task", metavar="NAME", help="With --query: chooses among several prompts.")
@_prompt_options
@click.option("--dim", type=int, metavar="N", help="A width that the model has (gnomon inspect).")
@click.option("--truncate-dim", type=int, metavar="N", help="Cut to any prefix.")
@click.option("--normalize", is_flag=True, help="Unit length, also where the model does not normalise.")
@_truncate_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8", "uint8", "binary", "ubinary"]),
    default="float32",
    show_default=True,
)
@click.option("--ranges", metavar="FILE", help="Ranges of int8 and uint8, as written beside earlier vectors.")
@_source_options
@_run_options
def encode(
    model: str,
    input: str,
    output: str,
    form: str | None,
    field: str | None,
    kind: str | None,
    task: str | None,
    prompt: str | None,
    prompt_name: str | None,
    dim: int | None,
    truncate_dim: int | None,
    normalize: bool,
    on_truncate: str,
    precision: Any,
    ranges: str | None,
    skip_bad: bool,
    **load: Any,
) -> None:
    """Encode the texts of INPUT into OUTPUT.

    INPUT: .txt (a text a line), .jsonl, .csv, .tsv, also as .gz; .parquet; or - for stdin. OUTPUT: .npy; .jsonl or
    .parquet, which keep the rows of INPUT; or - for jsonl on stdout.
    """
    if task is not None and kind != "query":
        raise click.UsageError("--task needs --query.")
    if sum(option is not None for option in (prompt, prompt_name, task)) > 1:
        raise click.UsageError("--prompt, --prompt-name and --task exclude each other.")
    if ranges and precision not in ("int8", "uint8"):
        raise click.UsageError(f"--ranges is of no use to {precision}; it belongs to int8 and uint8.")
    from gnomon import vectorfiles

    out_form = "jsonl" if output == "-" else vectorfiles.output_form(output)
    texts = _texts(input, form=form, field=field, skip_bad=skip_bad)
    if out_form == "parquet":
        _ = texts.table  # fails here, rather than after the work
    encoder = _load(model, load)
    if prompt is None and prompt_name is None:
        prompt_name = _prompt_name(encoder.spec, kind, task)
        prompt = "" if prompt_name is None else None
        if kind is None and prompt_name is None:
            _note_prompts(encoder, "--query, --document and --prompt-name")
    asked: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name}
    how: dict[str, Any] = {"dim": dim, "truncate_dim": truncate_dim, "normalize_embeddings": normalize or None}
    # wrong options fail in these three lines, rather than after the work
    width = encoder.encode([], **asked, **how).shape[1]
    limits = vectorfiles.read_ranges(ranges) if ranges else None
    vectorfiles.check_precision(width, precision, limits)
    used = encoder.prompts[prompt_name] if prompt_name is not None else prompt or ""
    too_long = _count_too_long(encoder, texts.texts, used, on_truncate)
    # `_count_too_long` has said it, in the words of the command line
    how["on_truncate"] = "silent" if on_truncate == "warn" else on_truncate
    values, limits = vectorfiles.in_precision(encoder.encode(texts.texts, **asked, **how), precision, limits)
    if output == "-":
        vectorfiles.write_jsonl(sys.stdout.buffer, texts, values)
        return
    manifest = vectorfiles.origin(encoder, encoder.space(**how)) | {
        "prompt": used,
        "precision": precision,
        "ranges": vectorfiles.ranges_of(output).name if limits is not None else None,
        "count": len(values),
        "cut": too_long,
        "skipped": texts.skipped,
    }
    vectorfiles.write_vectors(output, texts, values, limits, manifest)


def _count_too_long(encoder: Encoder, texts: Sequence[str], prompt: str, on_truncate: str) -> int:
    """How many texts are cut; a note of it where that was asked for."""
    limit = encoder.max_seq_length
    if limit is None or on_truncate not in ("warn", "silent"):
        return 0
    some = 1024  # the report holds every id and offset
    parts = (texts[start : start + some] for start in range(0, len(texts), some))
    count = sum(len(encoder.tokenize(part, prompt=prompt).truncated) for part in parts)
    if count and on_truncate == "warn":
        those = f"{count} of {len(texts)} texts {'is' if count == 1 else 'are'} longer than {limit} tokens"
        _note(f"{those}: the rest was cut off. --on-truncate mean reads all.")
    return count


def _note_prompts(encoder: Encoder, options: str) -> None:
    if encoder.prompts:
        _note(f"{encoder.name} has prompts ({', '.join(encoder.prompts)}) and none is added; see {options}.")


def _prompt_name(spec: ModelSpec, kind: str | None, task: str | None) -> str | None:
    """The prompt's name, as `encode_query`, `encode_document` and `encode` choose it."""
    if kind == "query":
        return spec.query_prompt_name(task)
    return spec.document_prompt_name if kind == "document" else spec.default_prompt_name


def _texts(path: str, **how: Any) -> TextFile:
    from gnomon.textfiles import STDIN, read_texts

    if path == STDIN and sys.stdin.isatty():
        _note("reading from the terminal; end with Ctrl-D.")
    return read_texts(path, **how)


# ---- similarity


@main.command()
@click.argument("model")
@click.argument("texts", nargs=-1, metavar="[TEXT TEXT...]")
@click.option("--a", "file_a", metavar="FILE", help="With --b: texts to compare line by line.")
@click.option("--b", "file_b", metavar="FILE")
@click.option("--a-field", metavar="NAME", help="Field of the text in --a.")
@click.option("--b-field", metavar="NAME", help="Field of the text in --b.")
@_prompt_options
@_json_option
@_source_options
@_run_options
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
    """How alike texts are, by the model's own score.

    Two texts give a number, more a matrix. --a and --b give a number for each pair of lines.
    """
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("--prompt and --prompt-name exclude each other.")
    if (file_a is None) != (file_b is None) or (file_a is None) == (not texts):
        raise click.UsageError("give two texts or more, or both --a FILE and --b FILE.")
    if file_a is not None and file_b is not None:
        a, b = _texts(file_a, field=a_field).texts, _texts(file_b, field=b_field).texts
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
        _show_pairs(a, b, [float(encoder.similarity(left, right)[0, 0]) for left, right in pairs], as_json)
        return
    scores = encoder.similarity(vectors, vectors).tolist()
    if as_json:
        click.echo(_as_json({"similarity": encoder.spec.similarity, "texts": a, "scores": scores}))
    elif len(a) == 2:
        click.echo(f"{scores[0][1]:.4f}")
    else:
        click.echo("\n".join(matrix(a, scores, columns())))


def _show_pairs(a: list[str], b: list[str], scores: list[float], as_json: bool) -> None:
    for left, right, score in zip(a, b, scores, strict=True):
        if as_json:
            click.echo(_as_json({"a": left, "b": right, "score": score}))
        else:
            half = (columns() - 14) // 2
            click.echo(f"{score:9.4f}  {padded(cut(left, half), half)} | {cut(right, half)}".rstrip())


# ---- search


@main.command()
@click.argument("model")
@click.option("--corpus", required=True, metavar="FILE", help="Texts to search: .txt, .jsonl, .csv (or .gz), .parquet.")
@click.option("--query", "queries", multiple=True, metavar="TEXT", help="Repeatable. Else from stdin, one a line.")
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Results of a query.")
@click.option("--task", metavar="NAME", help="Chooses among several prompts for queries.")
@_truncate_option
@_text_options
@_json_option
@_source_options
@_run_options
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
    """Search a file: exact, in memory. Without --query, asks in a terminal."""
    if corpus == "-" and not queries:
        raise click.UsageError("--corpus - takes standard input; give --query.")
    from gnomon.search.exact import top_k

    texts = _texts(corpus, form=form, field=field, skip_bad=skip_bad)
    encoder = _load(model, load)
    encoder.spec.query_prompt_name(task)  # a wrong task fails here, rather than after the work
    places = [place for place, text in enumerate(texts.texts) if text.strip()]
    if not places:
        raise InputError(f"{corpus} holds empty texts alone.")
    if empty := len(texts.texts) - len(places):
        _note(f"{empty} empty text{'s' if empty > 1 else ''} of {corpus} {'are' if empty > 1 else 'is'} left out.")
    documents = [texts.texts[place] for place in places]
    name = encoder.spec.document_prompt_name
    _count_too_long(encoder, documents, encoder.prompts[name] if name else "", on_truncate)
    quietly: Any = "silent" if on_truncate == "warn" else on_truncate
    corpus_ND = encoder.encode_document(documents, on_truncate=quietly)
    for query in filter(str.strip, queries or _asked()):
        query_1D = encoder.encode_query([query], task=task)
        scores_1K, rows_1K = top_k(query_1D, corpus_ND, k, score=encoder.spec.similarity)
        found = zip((places[row] for row in rows_1K[0]), scores_1K[0].tolist(), strict=True)
        hits = [{"row": row, "score": score} | texts.labels(row) | {"text": texts.texts[row]} for row, score in found]
        if as_json:
            click.echo(_as_json({"query": query, "results": hits}))
        else:
            if queries or not sys.stdin.isatty():
                click.echo("\n".join(wrapped(query, columns(), 2)))
            click.echo("\n".join(results(hits, columns())) + "\n")
        sys.stdout.flush()


def _asked() -> Iterator[str]:
    if sys.stdin.isatty():
        _note("type a query; end with Ctrl-D.")
    return lines_of_stdin("query> ")


# ---- inspect, verify, save


@main.command()
@click.argument("model")
@click.option("--fidelity", is_flag=True, help="Measure how near --dtype int8 stays to float32 on this processor.")
@_threads_option
@_json_option
@_source_options
def inspect(model: str, fidelity: bool, threads: int | None, as_json: bool, **read: Any) -> None:
    """What a model is, and what was assumed of it."""
    if threads is not None and not fidelity:
        raise click.UsageError("--threads is of use with --fidelity only.")
    from gnomon import describe

    checkpoint, found = _read(model, **read), None
    if fidelity:
        from gnomon.fidelity import report

        found = report(checkpoint, threads=threads, cache_folder=Path(click.get_app_dir("gnomon")) / "fidelity")
    facts = describe.facts_of(checkpoint, found)
    click.echo(_as_json(facts) if as_json else "\n".join(describe.lines(facts, columns())))


@main.command()
@click.argument("model")
@_source_options
@_run_options
@click.pass_context
def verify(ctx: click.Context, model: str, **load: Any) -> None:
    """Run the published example of the model's card.

    The exit status is 0 where it comes out as published, and 1 where it does not.
    """
    from gnomon.verify import verify as run_example

    found = run_example(_load(model, load), load["card"])
    head = ("", "expected", "got", "")
    rows = [(row.what, row.expected, row.got, "ok" if row.ok else "DIFFERS") for row in found.rows]
    click.echo("\n".join(table([head, *rows])))
    click.echo(f"{found.card}: {'passed' if found.passed else 'NOT passed'} ({found.note})")
    if not found.passed:
        ctx.exit(1)


@main.command()
@click.argument("model")
@click.argument("folder")
@click.option("--dialect", default="classic", show_default=True, metavar="NAME", help="classic, 5.4 or 6.0.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that holds something.")
@_source_options
def save(model: str, folder: str, dialect: str, overwrite: bool, **read: Any) -> None:
    """Write a model as a folder that sentence-transformers opens."""
    from gnomon.checkpoint.save import save_folder
    from gnomon.vectorfiles import said_if_full

    with said_if_full(Path(folder).absolute()):
        click.echo(save_folder(_read(model, **read), folder, dialect=dialect, overwrite=overwrite))


# ---- evaluate, compare, report


class Listing(click.Command):
    """A verb whose options with `multiple` take several values in a row: --tasks A B C."""

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


def _several(name: str, *, metavar: str, help: str, kind: Any = str, **more: Any) -> Callable[[Any], Any]:
    return click.option(name, multiple=True, metavar=f"{metavar}...", help=help, type=kind, **more)


@main.command(
    cls=Listing,
    epilog="MODEL comes first: gnomon evaluate MODEL --tasks NFCorpus STSBenchmark. The word bm25 in its place runs "
    "BM25 alone. Results are mteb's own JSON, each with a manifest beside it; see gnomon compare and gnomon report.",
)
@click.argument("model")
@_several("--tasks", metavar="NAME", help="Tasks or benchmarks of mteb; mteb-eng-56, mr-tydi or loco.")
@_several("--data", metavar="FOLDER", help="Your own sets: BEIR folders; .jsonl, .tsv or .csv files of rows.")
@click.option("--output", default="evaluation", show_default=True, metavar="FOLDER", help="Where the results go.")
@_several(
    "--methods",
    metavar="NAME",
    help="Of retrieval: dense, bm25, hybrid (both), rrf (by ranks); dense by default.",
    kind=click.Choice(["dense", "bm25", "hybrid", "rrf"]),
)
@click.option("--k1", type=float, default=0.9, show_default=True, help="Of BM25.")
@click.option("--b", type=float, default=0.4, show_default=True, help="Of BM25.")
@click.option(
    "--alpha", default="tuned", show_default=True, metavar="X", help="Of hybrid: tuned, published or a number."
)
@click.option("--dim", type=int, metavar="N", help="A width that the model has (gnomon inspect).")
@click.option("--truncate-dim", type=int, metavar="N", help="Cut to any prefix.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8", "binary", "binary-rescored"]),
    default="float32",
    show_default=True,
    help="Of stored vectors.",
)
@click.option(
    "--on-truncate",
    type=click.Choice(["cut", "mean"]),
    default="cut",
    show_default=True,
    help="For texts longer than the model reads; mean: of overlapping windows.",
)
@click.option("--prompts", metavar="FILE", help="JSON of prompts by mteb's keys, in place of the model's.")
@_several("--curve-dims", metavar="N", help="Judge these widths too.", kind=int)
@_several(
    "--curve-precisions",
    metavar="NAME",
    help="Judge these precisions too.",
    kind=click.Choice(["float16", "int8", "binary", "binary-rescored"]),
)
@_several("--curve-lengths", metavar="N", help="Judge these lengths too.", kind=int)
@click.option("--metric", metavar="NAME", help="Of retrieval, in place of each task's own: mrr_at_10, recall_at_100.")
@click.option("--split", default="test", show_default=True, metavar="NAME", help="Of local data.")
@_several("--subsets", metavar="NAME", help="Languages or directions; all by default.")
@click.option("--allow-rare-labels", is_flag=True, help="Judge local data with labels that are seen once.")
@click.option("--cache", metavar="FOLDER", help="Where vectors are kept; OUTPUT/vectors by default.")
@click.option("--no-cache", is_flag=True, help="Keep no vectors on disk.")
@click.option("--overwrite", is_flag=True, help="Run again what is there.")
@_json_option
@_source_options
@_run_options
@click.pass_context
def evaluate(
    ctx: click.Context,
    model: str,
    tasks: tuple[str, ...],
    data: tuple[str, ...],
    output: str,
    methods: tuple[Any, ...],
    k1: float,
    b: float,
    alpha: str,
    dim: int | None,
    truncate_dim: int | None,
    precision: Any,
    on_truncate: Any,
    prompts: str | None,
    curve_dims: tuple[int, ...],
    curve_precisions: tuple[Any, ...],
    curve_lengths: tuple[int, ...],
    metric: str | None,
    split: str,
    subsets: tuple[str, ...],
    allow_rare_labels: bool,
    cache: str | None,
    no_cache: bool,
    overwrite: bool,
    as_json: bool,
    max_seq_length: int | None,
    **load: Any,
) -> None:
    """Judge a model on tasks of mteb and on your own data.

    By mteb's protocol and metrics, with the model's own prompts. What is there already is not run again; a run that
    was stopped goes on where it was.
    """
    if cache and no_cache:
        raise click.UsageError("--cache and --no-cache exclude each other.")
    words_alone = model == "bm25" and not Path(model).exists()
    if words_alone and (idle := _given(ctx, _OF_MODELS) or ("methods" if set(methods) - {"bm25"} else None)):
        raise click.UsageError(f"--{idle.replace('_', '-')} is of a model, and bm25 is none.")
    if not words_alone and not set(methods) - {"dense"} and (idle := _given(ctx, ("k1", "b", "alpha"))):
        raise click.UsageError(f"--{idle} is of BM25 and its fusions; name them with --methods.")
    from gnomon import evaluate as judge

    encoder = None if words_alone else _load(model, load)
    asking = judge.Asking(
        prompts=_read_prompts(prompts) if prompts else {},
        dim=dim,
        truncate_dim=truncate_dim,
        on_truncate=on_truncate,
        max_seq_length=max_seq_length,
        precision=precision,
    )
    points: dict[str, Any] = {"dims": curve_dims, "precisions": curve_precisions, "lengths": curve_lengths}

    def show(result: judge.Result, reused: bool) -> None:
        row = judge.summary(result, reused)
        click.echo(_as_json(row) if as_json else judge.line(row))
        if sys.stdout:
            sys.stdout.flush()

    judge.evaluate(
        encoder,
        tasks=tasks,
        data=data,
        output=output,
        methods=("bm25",) if words_alone else methods or ("dense",),
        asking=asking,
        curve=judge.variants(encoder, asking, **points) if encoder else (),
        bm25=judge.Bm25Settings(k1, b, _alpha(alpha)),
        metric=metric,
        split=split,
        subsets=subsets,
        allow_rare_labels=allow_rare_labels,
        cache=cache or not no_cache,
        overwrite=overwrite,
        local_files_only=load["local_files_only"],
        on_result=show,
    )
    _note(f"the results are in {output}; gnomon report {output} makes a page of them.")


_OF_MODELS = (
    *("dim", "truncate_dim", "precision", "on_truncate", "prompts"),
    *("curve_dims", "curve_precisions", "curve_lengths"),
    *("revision", "card", "device", "engine", "dtype", "max_seq_length", "threads"),
)
"""Options of `evaluate` that are of no use without a model."""


def _given(ctx: click.Context, names: Sequence[str]) -> str | None:
    """The first of these options that was typed."""
    return next((name for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE), None)


def _alpha(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _read_prompts(path: str) -> dict[str, str]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f'{path} must hold an object of prompts, such as {{"query": "query: "}}.')
    return found


@main.command()
@click.argument("a")
@click.argument("b")
@_json_option
def compare(a: str, b: str, as_json: bool) -> None:
    """What differs between two results, and whether it is more than chance.

    A and B: files TASK.json that gnomon evaluate wrote, or folders of one model's.
    """
    from gnomon.evaluate import compare as comparing

    found = comparing.compare(a, b)
    click.echo(_as_json(comparing.as_json(found)) if as_json else "\n".join(comparing.lines(found, columns())))


@main.command(cls=Listing)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--output", default="report.html", show_default=True, metavar="FILE", help="The page; - for stdout.")
@click.option("--markdown", metavar="FILE", help="A Markdown table in place of the page; - for stdout.")
@click.option("--title", default="Evaluation", show_default=True)
@click.pass_context
def report(ctx: click.Context, folders: tuple[str, ...], output: str, markdown: str | None, title: str) -> None:
    """Make one page of results: a table to sort, plots, and how each was run.

    It needs no network and holds all it shows.
    """
    if markdown and (idle := _given(ctx, ("output", "title"))):
        raise click.UsageError(f"--{idle} is of the page, and --markdown makes a table in its place.")
    from gnomon.evaluate import report as reporting
    from gnomon.evaluate.results import read_results
    from gnomon.vectorfiles import new_files

    results = [result for folder in folders for result in read_results(folder)]
    target = markdown or output
    text = reporting.markdown(results) if markdown else reporting.html(results, title=title)
    if target == "-":
        click.echo(text, nl=False)
        return
    with new_files(target) as files:
        files[0].write(text.encode())
    ways, models = {result.label for result in results}, {result.model for result in results}
    _note(f"{target} holds {len(results)} results: {len(models)} models, run in {len(ways)} ways.")


def _note(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=2)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
