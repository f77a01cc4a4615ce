"""Reads the texts or the rows of a file. An error names the line that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from gnomon.errors import InputError
from gnomon.files import is_stream
from gnomon.messages import check_choice, join_words, shorten
from gnomon.text_files.cells import DEFAULT_DELIMITERS, parse_delimiter
from gnomon.text_files.collect import GROUP_LIMITS, GroupLimits, TextCollector, TextFile
from gnomon.text_files.delimited import parse_csv, parse_tsv
from gnomon.text_files.fields import as_field_names
from gnomon.text_files.json_lines import parse_jsonl, parse_with_source
from gnomon.text_files.lines import STDIN, open_lines
from gnomon.text_files.parquet import iter_columns, load_arrow
from gnomon.text_files.rows import BadLine, NumberedRows, Remarks, Row, encoding_fault
from gnomon.warn import warn_caller


def read_texts(
    path: str | Path,
    *,
    form: str | None = None,
    field: str | Sequence[str] | None = None,
    skip_bad: bool = False,
    delimiter: str | None = None,
) -> TextFile:
    """Read the texts of a .txt file (one per line), .jsonl, .csv or .tsv (with a header), or .parquet.

    All but .parquet may be packed by gzip. "-" is standard input. null counts as the empty text.

    Args:
        form: "txt", "jsonl", "csv" or "tsv", where the name does not show it. Standard input is "txt" by default.
        field: the field or column of the texts; "body.text" is the field "text" in the object "body". None means the
            only field, or the one called "text". Of several, a text is the values that are not empty, in this order,
            with one space between them.
        skip_bad: leave out lines that cannot be used and empty texts, with a Notice that counts them.
        delimiter: the character between the cells of a CSV or TSV, or "comma", "semicolon", "tab" or "bar". None means
            commas in a CSV, and tabs in a TSV.

    Raises:
        InputError: an unknown format or field; a line that cannot be used, by its number; a file without texts; a
            delimiter that is not one character, or for another format.
        ExtraError: a .parquet file, and pyarrow is not installed. OSError: the file cannot be opened.
    """
    stream = TextStream(path, form=form, field=field, skip_bad=skip_bad, delimiter=delimiter, limits=None)
    (texts,) = stream.read_groups(show_progress=True)
    return texts


class TextStream:
    """The texts of a file in groups, for a file that may be larger than memory. Nothing is read before that."""

    def __init__(
        self,
        path: str | Path,
        *,
        form: str | None = None,
        field: str | Sequence[str] | None = None,
        skip_bad: bool = False,
        delimiter: str | None = None,
        limits: GroupLimits | None = GROUP_LIMITS,
    ) -> None:
        """As `read_texts`.

        Args:
            limits: where a group ends; None for one group.
        """
        self.path = path
        self.name = "standard input" if str(path) == STDIN else str(path)
        self.form = form or infer_format(path)
        self.fields = as_field_names(field)
        self.skip_bad = skip_bad
        self.delimiter = None if delimiter is None else _check_delimiter(self.name, self.form, delimiter)
        self.limits = limits
        if self.form == "parquet":
            load_arrow()
            return
        check_choice(self.form, f"{self.name}: format", PARSERS)
        if self.form == "txt" and self.fields is not None:
            fields = join_words([*map(repr, self.fields)])
            raise InputError(
                f"{self.name} is plain text and has no field {fields}. Leave field out, or name the format."
            )

    @property
    def is_rereadable(self) -> bool:
        """Whether the texts can be read more than once."""
        return str(self.path) != STDIN and Path(self.path).is_file() and not is_stream(self.path)

    def read_groups(
        self, *, show_progress: bool = False, quiet: bool = False, in_thread: bool = False
    ) -> Generator[TextFile]:
        """Read the texts from the start, in groups whose boundaries depend on the file and the limits alone.

        `skipped` of a group counts the lines that were left out so far.

        Args:
            show_progress: show a bar for more than two seconds of work in a terminal.
            quiet: give no warnings: they were given when the file was read before.
            in_thread: as in `open_lines`.

        Raises:
            InputError, OSError: as `read_texts`, where the line is reached.
        """
        collector = TextCollector(self.name, self.form, self.fields, self.skip_bad, self.limits, quiet=quiet)
        if self.form == "parquet":
            yield from self._read_tables(collector)
        else:
            opened = open_lines(self.path, show_progress=show_progress, in_thread=in_thread)
            yield from self._read_lines(collector, opened, quiet)

    def _read_lines(
        self, collector: TextCollector, opened: AbstractContextManager[Iterator[str]], quiet: bool
    ) -> Iterator[TextFile]:
        remarks = Remarks()
        with opened as lines, _warn_at_end(remarks, self.name, quiet):
            if self.form == "jsonl":
                for line, row, source in parse_with_source(lines):
                    collector.add(line, row, source)
                    if collector.full_groups:
                        yield collector.full_groups.pop()
            else:
                parsed = PARSERS[self.form](lines, remarks, self.delimiter)
                for line, row in _name_in_errors(self.name, parsed):
                    collector.add(line, row)
                    if collector.full_groups:
                        yield collector.full_groups.pop()
        yield collector.finish(remarks.columns)

    def _read_tables(self, collector: TextCollector) -> Iterator[TextFile]:
        for texts, numbers, table in iter_columns(Path(self.path), collector.choose_columns, collector.bad_rows.add):
            for _ in collector.add_table(texts, numbers, table):
                yield collector.full_groups.pop()
        yield collector.finish()


def _check_delimiter(name: str, form: str, delimiter: str) -> str:
    if form not in DEFAULT_DELIMITERS:
        raise InputError(
            f"{name} is read as {form}, which has no delimiter, and delimiter is {shorten(delimiter)}. It belongs to "
            "CSV and TSV; leave it out, or name the format with form= (--format)."
        )
    return parse_delimiter(delimiter)


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of a .jsonl, .csv or .tsv file, which may be packed by gzip. CSV and TSV have a header.

    Raises:
        InputError: another format; a line that cannot be read, by its number. OSError: the file cannot be opened.
    """
    form = infer_format(path)
    if form not in ("jsonl", "csv", "tsv"):
        raise InputError(f"{path}: rows are read from .jsonl, .csv and .tsv, each also as .gz.")
    remarks = Remarks()
    with open_lines(path) as lines, _warn_at_end(remarks, str(path)):
        for line, row in _name_in_errors(str(path), PARSERS[form](lines, remarks, None)):
            if isinstance(row, BadLine):
                raise InputError(f"{path}, line {line}: {row.reason}. Correct it, or take it out.")
            yield line, row


def read_stdin_lines(*, skip_bad: bool = False) -> Iterator[str]:
    """Yield the lines of standard input as they come, without their line ends.

    Args:
        skip_bad: leave out a line that is not UTF-8, with a Notice.

    Raises:
        InputError: standard input is closed; a line that is not UTF-8, by its number.
    """
    remarks = Remarks()
    with open_lines(STDIN) as lines:
        for number, row in parse_txt(lines, remarks):
            if not (fault := encoding_fault(row["text"])):
                yield row["text"]
            elif skip_bad:
                warn_caller(f"standard input, line {number}: {fault}. It is left out.")
            else:
                raise InputError(
                    f"standard input, line {number}: {fault}. Write it in UTF-8, or leave such lines out with "
                    "skip_bad=True (--skip-bad)."
                )
    remarks.warn("standard input")


def infer_format(path: str | Path) -> str:
    """The format of a file, by its name.

    Raises:
        InputError: a folder, or a name with another ending.
    """
    if str(path) == STDIN:
        return "txt"
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder. Give a file of texts.")
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    form = suffixes[-1].removeprefix(".") if suffixes else ""
    if form in PARSERS or (form == "parquet" and str(path).lower().endswith(".parquet")):
        return form
    raise InputError(
        f"{path}: the name does not show the format. Names end in .txt, .jsonl, .csv, .tsv (each also .gz) or "
        ".parquet; for another name give form= (--format)."
    )


# ---- formats


def parse_txt(
    lines: Iterable[str], remarks: Remarks | None = None, delimiter: str | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield {"text": line} for every line, an empty one too. It has no delimiter."""
    returns = (remarks or Remarks()).carriage_returns
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\n").removesuffix("\r")
        if "\r" in text:
            returns.add(number)
        yield number, {"text": text}


PARSERS: dict[str, Callable[[Iterable[str], Remarks | None, str | None], NumberedRows]] = {
    "txt": parse_txt,
    "jsonl": parse_jsonl,
    "csv": parse_csv,
    "tsv": parse_tsv,
}
"""Format -> its parser. The first line of a CSV or TSV is its header."""


@contextmanager
def _warn_at_end(remarks: Remarks, name: str, quiet: bool = False) -> Generator[None]:
    """Give the remarks as warnings at the end, also before an error: a stray quote may be the cause of a bad line."""
    try:
        yield
    except InputError:
        if not quiet:
            remarks.warn(name)
        raise
    if not quiet:
        remarks.warn(name)


def _name_in_errors(name: str, parsed: NumberedRows) -> NumberedRows:
    """Put the name of the file before the parser's own errors, such as one about the header."""
    try:
        yield from parsed
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
