"""The command line: one thin verb a module. Nothing imports it.

What is heavy is imported inside the verbs, so that --help is quick. Results go to stdout; notes, errors and progress to
stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gnomon.errors import GnomonError, InputError, Notice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
                click.echo(f"error: {_said(error)}", err=True)
                if isinstance(error, OSError):
                    _drop_stdout()
                status = FAILED
        ctx.exit(status)


def _said(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, GnomonError):
        text = str(error)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
        text = f"{error.filename}: {reason}" if error.filename else reason
    elif isinstance(error, UnicodeDecodeError):
        text = f"not UTF-8 text ({error})"
    elif isinstance(error, MemoryError):
        text = f"there is not enough memory for this {error}".rstrip()
    else:
        text = f"{type(error).__name__}: {error} (a fault of gnomon; gnomon --traceback VERB shows where)"
    return " ".join(text.split("\n"))


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
    lines = wrapped(text, _columns(), 99, indent=6) if sys.stderr.isatty() else [text]
    click.echo("\n".join(lines), err=True)


# ---- options


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


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
    click.option("--device", default="auto", metavar="NAME", help="auto or cpu."),
    click.option("--engine", default="auto", metavar="NAME", help="auto, onnx or openvino."),
    click.option("--dtype", default="auto", metavar="NAME", help="auto, float32 or int8."),
    _threads_option,
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_field_option = click.option(
    "--field", metavar="NAME", help='Field or column of the text; by default the only one, or "text".'
)
_skip_option = click.option("--skip-bad", is_flag=True, help="Leave broken lines out, and count them.")
_format_option = click.option(
    "--format", "form", type=click.Choice(["txt", "jsonl", "csv"]), help="Of stdin (txt), or of a file of another name."
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
@_format_option
@_field_option
@click.option("--query", "kind", flag_value="query", help="With the model's prompt for queries.")
@click.option("--document", "kind", flag_value="document", help="With the model's prompt for documents.")
@click.option("--task", metavar="NAME", help="With --query: chooses among several prompts.")
@click.option("--prompt", metavar="TEXT", help="Put in front of every text.")
@click.option("--prompt-name", metavar="NAME", help="A prompt of the model, by its name.")
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
@_skip_option
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
    precision: str,
    ranges: str | None,
    skip_bad: bool,
    **load: Any,
) -> None:
    """Encode the texts of INPUT into OUTPUT.

    INPUT: .txt (a text a line), .jsonl, .csv, also as .gz; .parquet; or - for stdin. OUTPUT: .npy; .jsonl or .parquet,
    which keep the rows of INPUT; or - for jsonl on stdout.
    """
    if task is not None and kind != "query":
        raise click.UsageError("--task needs --query.")
    if sum(option is not None for option in (prompt, prompt_name, task)) > 1:
        raise click.UsageError("--prompt, --prompt-name and --task exclude each other.")
    if ranges and precision not in ("int8", "uint8"):
        raise click.UsageError(f"--ranges is of no use to {precision}; it belongs to int8 and uint8.")
    from gnomon import textfiles

    out_form = "jsonl" if output == "-" else textfiles.output_form(output)
    texts = _texts(input, form=form, field=field, skip_bad=skip_bad)
    if out_form == "parquet":
        _ = texts.table  # fails here, rather than after the work
    encoder = _load(model, load)
    name = prompt_name if kind is None else prompt_name or _prompt_name(encoder, kind, task)
    name = None if prompt is not None else name or encoder.spec.default_prompt_name
    if kind is None and prompt is None and name is None:
        _note_prompts(encoder, "--query, --document and --prompt-name")
    how: dict[str, Any] = {"dim": dim, "truncate_dim": truncate_dim, "normalize_embeddings": normalize or None}
    how |= {"prompt_name": name} if name is not None else {"prompt": prompt or ""}
    width = encoder.encode([], **how).shape[1]  # wrong options fail here, and below, rather than after the work
    limits = _ranges(ranges)
    _quantized(_zeros(width), precision, limits)
    used = encoder.prompts[name] if name is not None else prompt or ""
    cut = _count_cut(encoder, texts.texts, used, on_truncate)
    # `_count_cut` has said it, in the words of the command line
    quietly: Any = "silent" if on_truncate == "warn" else on_truncate
    values, limits = _quantized(encoder.encode(texts.texts, on_truncate=quietly, **how), precision, limits)
    if output == "-":
        textfiles.write_jsonl(sys.stdout.buffer, texts, values)
        return
    manifest = _manifest(encoder, width, normalize, quietly) | {
        "prompt": used,
        "precision": precision,
        "ranges": textfiles.ranges_of(output).name if limits is not None else None,
        "count": len(values),
        "cut": cut,
        "skipped": texts.skipped,
    }
    textfiles.write_vectors(output, texts, values, limits, manifest)


def _manifest(encoder: Encoder, width: int, normalize: bool, on_truncate: Any) -> dict[str, Any]:
    """What the vectors are of: two files may be compared where `space` is equal."""
    from dataclasses import asdict

    import gnomon

    source = encoder.checkpoint.source
    return {
        "gnomon": gnomon.__version__,
        "model": encoder.name,
        "folder": str(source.folder),
        "revision": source.revision,
        "engine": encoder.engine.name,
        "space": asdict(encoder.space(dim=width, normalize_embeddings=normalize, on_truncate=on_truncate)),
    }


def _zeros(width: int) -> NDArray[np.float32]:
    import numpy as np

    return np.zeros((2, width), np.float32)


def _ranges(path: str | None) -> NDArray[Any] | None:
    if path is None:
        return None
    import numpy as np

    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a .npy file of ranges ({error}).") from error


def _quantized(
    vectors: NDArray[np.float32], precision: Any, limits: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    from gnomon.quantization import quantize

    return (vectors, None) if precision == "float32" else quantize(vectors, precision, limits)


def _count_cut(encoder: Encoder, texts: Sequence[str], prompt: str, on_truncate: str) -> int:
    """How many texts are cut; a note of it where that was asked for."""
    if encoder.max_seq_length is None or on_truncate not in ("warn", "silent"):
        return 0
    some = 1024  # the report holds every id and offset
    parts = (texts[start : start + some] for start in range(0, len(texts), some))
    count = sum(len(encoder.tokenize(part, prompt=prompt).truncated) for part in parts)
    if count and on_truncate == "warn":
        of = (
            f"{count} of {len(texts)} texts {'is' if count == 1 else 'are'} longer than {encoder.max_seq_length} tokens"
        )
        _note(f"{of}: the rest was cut off. --on-truncate mean reads all.")
    return count


def _note_prompts(encoder: Encoder, options: str) -> None:
    if encoder.prompts:
        _note(f"{encoder.name} has prompts ({', '.join(encoder.prompts)}) and none is added; see {options}.")


def _prompt_name(encoder: Encoder, kind: str, task: str | None) -> str | None:
    return encoder.query_prompt_name(task) if kind == "query" else _document_prompt_name(encoder.spec)


def _document_prompt_name(spec: ModelSpec) -> str | None:
    from gnomon.encoder import DOCUMENT_PROMPTS

    return next((name for name in DOCUMENT_PROMPTS if name in spec.prompts), None)


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
@click.option("--prompt", metavar="TEXT", help="Put in front of every text.")
@click.option("--prompt-name", metavar="NAME", help="A prompt of the model, by its name.")
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
        _show_matrix(a, scores)


def _show_pairs(a: list[str], b: list[str], scores: list[float], as_json: bool) -> None:
    for left, right, score in zip(a, b, scores, strict=True):
        if as_json:
            click.echo(_as_json({"a": left, "b": right, "score": score}))
        else:
            half = (_columns() - 14) // 2
            click.echo(f"{score:9.4f}  {padded(cut(left, half), half)} | {cut(right, half)}".rstrip())


def _show_matrix(texts: list[str], scores: list[list[float]]) -> None:
    """Rows and columns carry the numbers of the texts; columns that do not fit beside a label go below."""
    cell = 2 + max(len(f"{score:.3f}") for row in scores for score in row)
    number = len(str(len(texts)))
    label = max(20, _columns() - number - 2 - cell * len(texts))
    fitting = max(1, (_columns() - number - 2 - label) // cell)
    for start in range(0, len(texts), fitting):
        columns = range(start, min(start + fitting, len(texts)))
        if start:
            click.echo()
        click.echo(" " * (number + 2 + label) + "".join(f"{column + 1:>{cell}}" for column in columns))
        for index, (text, row) in enumerate(zip(texts, scores, strict=True), 1):
            cells = "".join(f"{row[column]:>{cell}.3f}" for column in columns)
            click.echo(f"{index:>{number}}  {padded(cut(text, label), label)}{cells}")


# ---- search


@main.command()
@click.argument("model")
@click.option("--corpus", required=True, metavar="FILE", help="Texts to search: .txt, .jsonl, .csv (or .gz), .parquet.")
@click.option("--query", "queries", multiple=True, metavar="TEXT", help="Repeatable. Else from stdin, one a line.")
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Results of a query.")
@click.option("--task", metavar="NAME", help="Chooses among several prompts for queries.")
@_truncate_option
@_format_option
@_field_option
@_skip_option
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
    encoder.query_prompt_name(task)  # a wrong task fails here, rather than after the work
    places = [place for place, text in enumerate(texts.texts) if text.strip()]
    if not places:
        raise InputError(f"{corpus} holds empty texts alone.")
    if empty := len(texts.texts) - len(places):
        _note(f"{empty} empty text{'s' if empty > 1 else ''} of {corpus} {'are' if empty > 1 else 'is'} left out.")
    documents = [texts.texts[place] for place in places]
    name = _document_prompt_name(encoder.spec) or encoder.spec.default_prompt_name
    _count_cut(encoder, documents, encoder.prompts[name] if name else "", on_truncate)
    quietly: Any = "silent" if on_truncate == "warn" else on_truncate
    corpus_ND = encoder.encode_document(documents, on_truncate=quietly)
    for query in filter(str.strip, queries or _asked()):
        query_1D = encoder.encode_query([query], task=task)
        scores_1K, rows_1K = top_k(query_1D, corpus_ND, k, score=encoder.spec.similarity)
        rows = [places[row] for row in rows_1K[0]]
        hits = [
            {"row": row, "score": float(score)} | _hit(texts, row)
            for row, score in zip(rows, scores_1K[0], strict=True)
        ]
        if as_json:
            click.echo(_as_json({"query": query, "results": hits}))
        else:
            if queries or not sys.stdin.isatty():
                click.echo("\n".join(wrapped(query, _columns(), 2)))
            _show_hits(hits)
        sys.stdout.flush()


def _asked() -> Iterator[str]:
    """Lines of stdin; of a terminal, with a prompt, until Ctrl-D."""
    if not sys.stdin.isatty():
        yield from (line.decode().rstrip("\r\n") for line in sys.stdin.buffer)
        return
    with suppress(ImportError):
        import_module("readline")  # input() then has a line to edit, and a history
    _note("type a query; end with Ctrl-D.")
    while True:
        try:
            yield input("query> ")
        except EOFError:
            click.echo()
            return


def _hit(texts: TextFile, row: int) -> dict[str, Any]:
    """id and title where the row has them, and the text."""
    found = texts.row(row)
    named = {"id": found.get("_id", found.get("id")), "title": found.get("title")}
    return {name: value for name, value in named.items() if value not in (None, "")} | {"text": texts.texts[row]}


def _show_hits(hits: Sequence[Mapping[str, Any]]) -> None:
    width = _columns()
    for rank, hit in enumerate(hits, 1):
        lead = f"{rank:3}  {hit['score']:6.3f}  "
        heading = ": ".join(str(hit[name]) for name in ("id", "title") if name in hit)
        lines = [cut(heading, width - len(lead))] if heading else []
        lines += wrapped(hit["text"], width - len(lead), 2)
        click.echo("\n".join((" " * len(lead) if at else lead) + line for at, line in enumerate(lines or [""])))
    click.echo()


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
    checkpoint = _read(model, **read)
    facts = _facts(checkpoint) | {"card_by": "--card" if read["card"] else _card_by(checkpoint)}
    if fidelity:
        from dataclasses import asdict

        from gnomon.fidelity import report

        found = report(checkpoint, threads=threads, cache_folder=Path(click.get_app_dir("gnomon")) / "fidelity")
        facts["fidelity"] = asdict(found)
    if as_json:
        click.echo(_as_json(facts))
        return
    width = _columns()
    for name, text in _described(facts):
        lead = f"{name + ':' if name else '':<16}"
        click.echo("\n".join(wrapped(lead + text, width, 99, indent=len(lead), raw=len(lead))))


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    from math import prod

    from gnomon.spec import StaticSpec, arrays_of, dense_heads, fingerprint
    from gnomon.tokenizer import Tokenizer

    spec, source, trunk = checkpoint.spec, checkpoint.source, checkpoint.spec.trunk
    arrays = {name: checkpoint.arrays[name] for name in arrays_of(spec)}
    static = isinstance(trunk, StaticSpec)
    tokenizer = Tokenizer(checkpoint.tokenizer, spec.tokenizer)
    card = checkpoint.card
    return {
        "model": source.name or source.folder.name,
        "folder": str(source.folder),
        "revision": source.revision,
        "architecture": "static table" if static else checkpoint.config.get("model_type", "encoder"),
        "trunk": {"rows": trunk.rows, "hidden": trunk.hidden}
        if static
        else {"layers": trunk.layers, "hidden": trunk.hidden, "heads": trunk.heads, "inner": trunk.inner},
        "parameters": sum(prod(array.shape) for array in arrays.values()),
        "file_dtype": sorted({array.dtype.name for array in arrays.values()}),
        "pooling": list(spec.pooling.modes),
        "pools_prompt": spec.pooling.include_prompt,
        "dense": [
            {"name": head.name, "in": head.in_features, "out": head.out_features, "activation": head.activation}
            for head in dense_heads(spec)
        ],
        "dim": spec.dim,
        "dims": list(spec.dims),
        "normalizes": spec.normalizes,
        "similarity": spec.similarity,
        "prompts": dict(spec.prompts),
        "query_prompt": _query_prompt_name(spec),
        "document_prompt": _document_prompt_name(spec),
        "default_prompt": spec.default_prompt_name,
        "query_tasks": {task: name for task, name in spec.query_prompt_names.items() if task},
        "max_seq_length": spec.tokenizer.max_seq_length,
        "positions": None if static else trunk.max_tokens,
        "tokenizer": {
            "kind": json.loads(tokenizer.canonical())["model"]["type"],
            "tokens": checkpoint.tokenizer.get_vocab_size(),
            "lower_case": spec.tokenizer.lower_case,
        },
        "license": checkpoint.license,
        "card": card.name if card else None,
        "assumed": list(checkpoint.notices),
        "fingerprint": fingerprint(spec, checkpoint.arrays, tokenizer.canonical()),
    }


def _card_by(checkpoint: Checkpoint) -> str | None:
    """What the card was recognised by: the ways and their order are those of `read_folder`."""
    from gnomon.checkpoint.cards import recognise

    source = checkpoint.source
    path = source.folder / "README.md"
    ways = {
        "its hub id": source.name,
        "_name_or_path in its config": checkpoint.config.get("_name_or_path"),
        "its folder's name": source.folder.name,
    }
    found = recognise(ways, path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None)
    return found[1] if found else None


def _query_prompt_name(spec: ModelSpec) -> str | None:
    """As `Encoder.query_prompt_name`, without an engine."""
    return "query" if "query" in spec.prompts else spec.query_prompt_names.get("")


def _described(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of each line; no name where the one above goes on."""
    at = f" at {facts['revision']}" if facts["revision"] else ""
    yield "model", f"{facts['model']}{at}"
    yield "folder", facts["folder"]
    yield "architecture", f"{facts['architecture']}, " + ", ".join(f"{n} {v:,}" for n, v in facts["trunk"].items())
    yield "parameters", f"{facts['parameters']:,} in {', '.join(facts['file_dtype'])}"
    yield "pooling", " + ".join(facts["pooling"]) + ("" if facts["pools_prompt"] else ", the prompt left out")
    for index, head in enumerate(facts["dense"]):
        yield "" if index else "heads", f"{head['name']}: {head['in']} to {head['out']}, {head['activation']}"
    others = [str(dim) for dim in facts["dims"] if dim != facts["dim"]]
    yield "dims", str(facts["dim"]) + (f"; also {', '.join(others)} (--dim)" if others else "")
    yield (
        "vectors",
        f"{'of unit length' if facts['normalizes'] else 'not normalised'}; compared by {facts['similarity']}",
    )
    if not facts["prompts"]:
        yield "prompts", "none"
    for index, (name, text) in enumerate(facts["prompts"].items()):
        uses = [use for use in ("query", "document", "default") if facts[f"{use}_prompt"] == name]
        uses += [f"task {task}" for task, used in facts["query_tasks"].items() if used == name]
        yield "" if index else "prompts", f"{name} = {text!r}" + (f" (used for: {', '.join(uses)})" if uses else "")
    limit = facts["max_seq_length"]
    most = f" (of {facts['positions']} positions)" if facts["positions"] else ""
    yield "reads", f"{limit:,} tokens of a text{most}" if limit else "texts of any length"
    tokenizer = facts["tokenizer"]
    lower = ", lower-cases" if tokenizer["lower_case"] else ""
    yield "tokenizer", f"{tokenizer['kind']}, {tokenizer['tokens']:,} tokens{lower}"
    yield "licence", facts["license"] or "not stated"
    yield "card", f"{facts['card']}, known by {facts['card_by']}" if facts["card"] else "not recognised"
    for index, text in enumerate(facts["assumed"]):
        yield "" if index else "assumed", text
    yield "fingerprint", facts["fingerprint"]
    if found := facts.get("fidelity"):
        when = ", measured before" if found["cached"] else ""
        yield (
            "fidelity",
            (
                f"{found['precision']} against float32: cosine {found['mean']:.5f} on average, {found['lowest']:.5f} "
                f"at worst, over {found['texts']} texts{when}"
            ),
        )


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
    table = [
        ("", "expected", "got", ""),
        *((row.what, row.expected, row.got, "ok" if row.ok else "DIFFERS") for row in found.rows),
    ]
    widths = [max(map(display_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())
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
    from gnomon.textfiles import said_if_full

    with said_if_full(Path(folder).absolute()):
        click.echo(save_folder(_read(model, **read), folder, dialect=dialect, overwrite=overwrite))


# ---- text on a terminal


def display_width(text: str) -> int:
    """Columns that a text takes: 2 for wide characters, 0 for combining ones."""
    return sum(map(_char_width, text))


def cut(text: str, width: int) -> str:
    """One line of at most `width` columns, with "…" where it was cut."""
    return (wrapped(text, width, 1) or [""])[0]


def padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def wrapped(text: str, width: int, lines: int, *, indent: int = 0, raw: int = 0) -> list[str]:
    """At most `lines` lines of at most `width` columns, cut with "…"; spaces are folded and control characters dropped.

    Args:
        indent: columns in front of every line but the first.
        raw: characters at the start that are kept as they are.
    """
    rest = text[:raw] + _printable(text[raw:])
    out: list[str] = []
    while rest and len(out) < lines:
        room = width - (indent if out else 0)
        end = _fitting(rest, room)
        if end < len(rest) and len(out) == lines - 1:
            line, rest = rest[: _fitting(rest, room - 1)].rstrip() + "…", ""
        elif end < len(rest):
            at = max(_break(rest, end), 1)
            line, rest = rest[:at].rstrip(), rest[at:].lstrip()
        else:
            line, rest = rest, ""
        out.append(" " * (indent if out else 0) + line)
    return out


def _printable(text: str) -> str:
    """Safe to print: a text may hold the escape sequences of a terminal. Joiners are parts of words."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable() or char in "\u200c\u200d")


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fitting(text: str, width: int) -> int:
    """How many characters fit."""
    used = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return index
    return len(text)


def _break(text: str, end: int) -> int:
    """Where to break a text of which `end` characters fit: behind a space, or at a wide character, else in the word."""
    for at in range(end, end // 2, -1):
        if text[at] == " " or _char_width(text[at]) == 2 or _char_width(text[at - 1]) == 2:
            return at
    return end


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _note(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=2)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
