"""Reads the texts to be searched: files, folders and globs, with the place of each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gnomon.errors import InputError
from gnomon.messages import check_choice, count, did_you_mean, list_some
from gnomon.progress import progress_bar
from gnomon.search.corpus_files import MARKDOWN, NAMES_END_IN, find_files, infer_corpus_format
from gnomon.search.markdown import LINE_END, split_markdown
from gnomon.text_files import PARSERS, STDIN, TextFile, read_texts
from gnomon.text_files.lines import open_text
from gnomon.text_files.rows import MAX_LISTED, encoding_fault
from gnomon.warn import warn_caller

FORMATS = (MARKDOWN, *PARSERS)
"""What `form` may be. A Parquet file is known by its name."""
PLAIN_FORMATS = (MARKDOWN, "txt")
"""Formats whose texts have no fields."""
ID_FIELDS = ("_id", "id")


@dataclass(frozen=True)
class Document:
    """A text of a corpus and where it is."""

    path: str
    line: int
    """The line where it begins, from 1; in a Parquet file the row."""
    row: int
    """Its number among the texts of its file, from 0."""
    text: str
    title: str | None
    """Of Markdown the headings above it; else the field "title", if that is not the text."""
    id: str | None
    fields: dict[str, Any]
    """All fields of its row; empty in plain text and Markdown."""
    unit: str = "line"
    """What `line` counts: "line", or "row" in a Parquet file."""

    @property
    def place(self) -> str:
        """Where it is, as a terminal or an editor makes a link of it: "notes/door.md:12"."""
        return f"{self.path} row {self.line}" if self.unit == "row" else f"{self.path}:{self.line}"


@dataclass(frozen=True)
class _File:
    path: str
    form: str
    texts: TextFile
    titles: list[str] | None = None
    """The title of each text in Markdown."""


@dataclass
class Corpus:
    """The texts of some files. Empty texts are left out."""

    files: list[_File] = field(repr=False)
    texts: list[str] = field(default_factory=list[str], repr=False)
    """What is encoded: a text, or a title and a text."""
    id_field: str | None = None
    text_fields: tuple[str, ...] = ()
    places: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]], repr=False)
    """File and row of each text."""

    def __len__(self) -> int:
        return len(self.texts)

    def document(self, index: int) -> Document:
        """The document of a text, by its index in `texts`."""
        number, row = self.places[index]
        file = self.files[number]
        text, fields, title = file.texts.texts[row], dict[str, Any](), file.titles[row] if file.titles else None
        if file.form not in PLAIN_FORMATS:
            fields = file.texts.row(row)
            title = fields.get("title") if "title" not in self.text_fields else None
        names = (self.id_field,) if self.id_field else ID_FIELDS
        key = next((fields[name] for name in names if fields.get(name) not in (None, "")), None)
        return Document(
            path=file.path,
            line=file.texts.lines[row],
            row=row,
            text=text,
            title=None if title in (None, "", text) else str(title),
            id=None if key is None or key == text else str(key),
            fields=fields,
            unit=file.texts.unit,
        )

    def choose_columns(self, values: Sequence[str]) -> list[str]:
        """The names of fields in "sku,price" or "sku", "price"; a name may hold a comma itself.

        Raises:
            InputError: no row has a field of this name; offers the nearest.
        """
        columns: list[str] = []
        for value in values:
            names = [value] if value in self.field_names else [name.strip() for name in value.split(",")]
            for name in names:
                self.check_field(name)
            columns += names
        return columns

    def check_field(self, name: str) -> None:
        """
        Raises:
            InputError: no row has a field of this name.
        """
        if name not in self.field_names:
            known = f"It has {list_some(map(repr, self.field_names), 20)}" if self.field_names else "It has none"
            raise InputError(f"the corpus has no field {name!r}. {known}.{did_you_mean(name, self.field_names)}")

    @cached_property
    def field_names(self) -> dict[str, None]:
        """The names of all fields, in their order: of a table those of its first row, of JSON lines of all rows."""
        names: dict[str, None] = {}
        for file in self.files:
            num_rows = len(file.texts.texts) if file.form == "jsonl" else min(1, len(file.texts.texts))
            for row in range(num_rows if file.form not in PLAIN_FORMATS else 0):
                names |= dict.fromkeys(file.texts.row(row))
        return names

    def describe_empty(self) -> str | None:
        """How many texts are empty, and where; None if no text is."""
        having = [file for file in self.files if file.texts.empty_texts]
        if len(having) <= 1:
            return having[0].texts.describe_empty() if having else None
        number = sum(len(file.texts.empty_texts) for file in having)
        first = having[0]
        line = next(iter(first.texts.empty_texts.values()))
        total = sum(len(file.texts.texts) for file in self.files)
        return f"{number:,} of {count(total, 'text')} are empty (the first: {first.path}, {first.texts.unit} {line})"


def read_corpus(
    paths: str | Path | Sequence[str | Path],
    *,
    form: str | None = None,
    field: str | Sequence[str] | None = None,
    delimiter: str | None = None,
    skip_bad: bool = False,
    id_field: str | None = None,
) -> Corpus:
    """Read the texts of files, folders and globs ("notes/**/*.md"), in this order.

    A folder is walked, by name; hidden files and folders are left out. Files of known formats are read, and a Notice
    counts the others. Markdown is split into passages (`split_markdown`), and each is encoded after its title. Of other
    formats a text is a line or a row, as by `read_texts`.

    Args:
        form: the format of all files, whatever their names. In a folder, names must still have a known ending.
        field: as in `read_texts`, for the files that have fields.
        delimiter: as in `read_texts`, for the files that have cells.
        skip_bad: leave out lines and files that cannot be read, with a Notice that counts them.
        id_field: the field of a text's id; by default "_id" or "id".

    Raises:
        InputError: a glob that matches nothing, a folder without files that can be read, an unknown format or field; a
            file or line that cannot be read, by its name.
        OSError: a file cannot be opened.
        ExtraError: a .parquet file, and pyarrow is not installed.
    """
    if form is not None:
        check_choice(form, "format", FORMATS)
    files = find_files([paths] if isinstance(paths, str | Path) else paths, form)
    text_fields = (field,) if isinstance(field, str) else tuple(field or ())
    reader = _CorpusReader(form, text_fields, delimiter, skip_bad, is_alone=len(files) == 1)
    corpus = Corpus(reader.read_all(files), id_field=id_field, text_fields=text_fields)
    for number, file in enumerate(corpus.files):
        for row, text in enumerate(file.texts.texts):
            if text and not text.isspace():
                title = file.titles[row] if file.titles else ""
                corpus.texts.append(f"{title}\n{text}" if title else text)
                corpus.places.append((number, row))
    if not corpus.texts:
        names = list_some((file.path for file in corpus.files), MAX_LISTED) or "the corpus"
        raise InputError(f"{names} holds empty texts alone. Give files that hold text.")
    if id_field is not None:
        corpus.check_field(id_field)
    return corpus


# ---- texts


class _CorpusReader:
    """Reads files one after the other. One that cannot be read is an error, or is left out and counted."""

    def __init__(
        self, form: str | None, text_fields: tuple[str, ...], delimiter: str | None, skip_bad: bool, *, is_alone: bool
    ) -> None:
        self._form, self._skip_bad, self._is_alone = form, skip_bad, is_alone
        self._text_fields, self._delimiter = text_fields, delimiter

    def read_all(self, paths: Sequence[str]) -> list[_File]:
        forms = [self._form or infer_corpus_format(path) or _raise_unknown(path) for path in paths]
        self._check_options(forms)
        files: list[_File] = []
        empty: list[str] = []
        bad: list[str] = []
        with progress_bar(len(paths), "reading", "files") as update:
            for path, form in zip(paths, forms, strict=True):
                if not self._is_alone and path != STDIN and Path(path).is_file() and not Path(path).stat().st_size:
                    empty.append(path)
                else:
                    files += self._read_or_note(path, form, bad)
                update(1)
        if bad:
            warn_caller(f"{count(len(bad), 'file')} left out: {list_some(bad, MAX_LISTED, separator='; ')}.")
        empty += [file.path for file in files if not file.texts.texts]
        if empty and not self._is_alone:
            verb = "is" if len(empty) == 1 else "are"
            warn_caller(f"{count(len(empty), 'file')} {verb} empty: {list_some(empty, MAX_LISTED)}.")
        return files

    def _read_or_note(self, path: str, form: str, bad: list[str]) -> list[_File]:
        try:
            return [self._read(path, form)]
        except (InputError, OSError) as error:
            if self._skip_bad and not self._is_alone:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                bad.append(f"{path} ({reason})" if path not in reason else reason.rstrip("."))
                return []
            if self._is_alone or "skip_bad" in str(error):
                raise
            reason = f"{path}: {error.strerror or error}." if isinstance(error, OSError) else str(error)
            raise InputError(f"{reason} Or leave such files out with skip_bad=True (--skip-bad).") from error

    def _read(self, path: str, form: str) -> _File:
        if form == MARKDOWN:
            return _read_markdown(path, self._skip_bad)
        texts = read_texts(
            path,
            form=self._form,
            field=self._text_fields or None if form != "txt" or self._is_alone else None,
            delimiter=self._delimiter if form in ("csv", "tsv") or self._is_alone else None,
            skip_bad=self._skip_bad,
        )
        return _File(path, form, texts)

    def _check_options(self, forms: Sequence[str]) -> None:
        """
        Raises:
            InputError: an option that no file can use.
        """
        if self._text_fields and not set(forms) - set(PLAIN_FORMATS):
            raise InputError(
                f"the corpus is plain text and Markdown, and has no field {self._text_fields[0]!r}. "
                "Leave field= (--field) out."
            )
        if self._delimiter is not None and not {"csv", "tsv"} & set(forms):
            raise InputError(
                f"delimiter {self._delimiter!r} is for CSV and TSV, and the corpus has none. Leave delimiter= "
                "(--delimiter) out."
            )


def _raise_unknown(path: str) -> str:
    raise InputError(
        f"{path}: the name does not show the format. {NAMES_END_IN}; for another name give form= (--format)."
    )


def _read_markdown(path: str, skip_bad: bool) -> _File:
    name = "standard input" if path == STDIN else path
    with open_text(path) as file:
        source = file.read()
    if "\0" in source:
        raise InputError(f"{name} holds NUL characters, so it is not Markdown. Take it out.")
    if encoding_fault(source):
        source = _blank_bad_lines(source, name, skip_bad)
    passages = split_markdown(source)
    texts = TextFile(name, [each.text for each in passages], lines=[each.line for each in passages])
    return _File(path, MARKDOWN, texts, [each.title for each in passages])


def _blank_bad_lines(source: str, name: str, skip_bad: bool) -> str:
    """The source with empty lines in place of those that are not Unicode text."""
    lines = LINE_END.split(source)
    bad = [(number, fault) for number, line in enumerate(lines, 1) if (fault := encoding_fault(line))]
    number, fault = bad[0]
    if not skip_bad:
        raise InputError(
            f"{name}, line {number}: {fault}. Convert the file (iconv -f LATIN1 -t UTF-8, if it is Latin-1), or leave "
            "such lines out with skip_bad=True (--skip-bad)."
        )
    for each, _ in bad:
        lines[each - 1] = ""
    warn_caller(f"{name}: {count(len(bad), 'line')} left out (line {number}: {fault}).")
    return "\n".join(lines)
