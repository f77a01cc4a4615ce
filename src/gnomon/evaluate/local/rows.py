"""Rows of fields: which kinds of task they can be, and how they become mteb's columns.

Errors name the file and the line. A kind of task is a row of `ROW_FORMATS`: the names of its fields, and the function
that reads them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from gnomon.errors import InputError
from gnomon.messages import count, list_some, shorten, shorten_json
from gnomon.text_files import Row, load_arrow, read_rows, text_fault
from gnomon.warn import warn_caller

Kind = Literal[
    "Retrieval",
    "Reranking",
    "STS",
    "PairClassification",
    "Classification",
    "Clustering",
    "BitextMining",
    "Summarization",
]
"""mteb's task types."""

TEXT_SUFFIXES = (".jsonl", ".tsv", ".csv")
"""How names of files of rows end; each may be followed by .gz."""
PARQUET_SUFFIX = ".parquet"

SPLIT_NAMES = {"training": "train", "development": "dev", "testing": "test"}
"""Other names of a split -> its name here. "val", "valid" and "validation" stay as they are."""


@dataclass(frozen=True)
class RetrievalData:
    """Documents, queries and relevance labels: the data for retrieval and reranking."""

    documents: Mapping[str, tuple[str, str]]
    """{id: (title, text)}"""
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]
    """{query: {document: relevance}}"""
    candidates: Mapping[str, Sequence[str]] | None = None
    """{query: documents to rank}, for reranking."""


Columns = Mapping[str, Sequence[Any]]
"""The rows of every other kind: {mteb's name of a field: its values}."""
TaskData = RetrievalData | Columns


# ---- files and lines


def list_entries(folder: Path) -> list[Path]:
    """The entries of a folder, by name, without hidden files and leftovers of systems (._x, .DS_Store, __MACOSX)."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))


def is_row_file(file: Path) -> bool:
    """Whether a file holds rows, by its name.

    Raises:
        InputError: it is a link to nothing.
    """
    name = file.name.lower()
    if not (name.removesuffix(".gz").endswith(TEXT_SUFFIXES) or name.endswith(PARQUET_SUFFIX)) or file.is_dir():
        return False
    if not file.exists():
        raise InputError(f"{file} is a link to nothing. Correct it, or take it out.")
    return True


def find_row_files(folder: Path) -> list[Path]:
    """Files of rows in a folder, by name.

    A .parquet file counts only if no other file has its name: it may hold the vectors of that file.
    """
    files = [file for file in list_entries(folder) if is_row_file(file)]
    others = {file_stem(file).lower() for file in files if not is_parquet(file)}
    return [file for file in files if not is_parquet(file) or file_stem(file).lower() not in others]


def is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(PARQUET_SUFFIX)


def file_stem(file: Path) -> str:
    """The name of a file without its format."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return name.rpartition(".")[0]


def normalize_split_name(name: str) -> str:
    """The usual name of a split: "train" for "training"."""
    return SPLIT_NAMES.get(name.lower(), name)


class Line(NamedTuple):
    """A row, with its file and line number."""

    file: Path
    number: int
    row: Row

    @property
    def position(self) -> str:
        return f"{'row' if is_parquet(self.file) else 'line'} {self.number}"

    def error(self, message: str) -> InputError:
        return InputError(f"{self.file}, {self.position}: {message}")

    def value(self, *names: str) -> Any:
        """The value of the field with the first of these names that the row has."""
        return self.row[self._field_name(names)]

    def text(self, *names: str) -> str:
        """The text of a field. null counts as the empty text; any other value is an error."""
        name = self._field_name(names)
        if self.row[name] is None:
            return ""
        if reason := text_fault(self.row, name):
            raise self.error(f"{reason}. Correct it, or take it out.")
        return self.row[name]

    def texts(self, *names: str) -> list[str]:
        """The texts in a list. A single text counts as a list of one."""
        name = self._field_name(names)
        value = self.row[name]
        texts = cast("list[object]", [value] if isinstance(value, str) else value)
        if not isinstance(value, str | list) or not texts:
            raise self.error(f"{name} is {shorten_json(value)}. It must be a list of at least one text (in .jsonl).")
        for text in texts:
            if reason := text_fault({name: text}, name):
                raise self.error(f"{reason}. Correct it, or take it out.")
        return cast("list[str]", texts)

    def identifier(self, *names: str) -> str:
        """An id: a text, or a whole number, which becomes the text of its digits."""
        value = self.value(*names)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(f"{names[0]} is {shorten_json(value)}. It must be a text or a whole number.")
        if isinstance(value, str):
            self.text(*names)
            if "\0" in value:  # trec_eval would read only to there: two ids become one, or it crashes
                raise self.error(
                    f"{names[0]} is {shorten(value)}. A NUL character cannot be part of an id. Take it out."
                )
        return str(value)

    def label(self) -> str:
        """A label: a text, a whole number, true or false.

        1, 1.0 and "1.0" are the same label; so are true and "True".
        """
        value = self.value(*LABEL_FIELDS)
        if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, str) and (whole := re.fullmatch(r"([+-]?\d+)\.0+", value)):  # as pandas writes 1 into .csv
            return whole[1]
        if not isinstance(value, str | int) or value == "":
            raise self.error(
                f"{LABEL_FIELDS[0]} is {shorten_json(value)}. It must be a text, a whole number, true or false."
            )
        return self.text(*LABEL_FIELDS) if isinstance(value, str) else str(value)

    def _field_name(self, names: Sequence[str]) -> str:
        name = next((name for name in names if name in self.row), None)
        if name is None:
            raise self.error(f"no field {names[0]!r}. Add it, or take the line out.")
        return name


def read_lines(file: Path) -> Iterator[Line]:
    """Yield the lines of a file of rows.

    Raises:
        InputError: a line that cannot be read. OSError: the file cannot be opened.
    """
    for number, row in _read_parquet_rows(file) if is_parquet(file) else read_rows(file):
        yield Line(file, number, row)


def _read_parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row)."""
    arrow = load_arrow()
    number = 1
    try:
        with file.open("rb") as raw, arrow.parquet.ParquetFile(raw) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable Parquet file ({error}). Fetch it or write it again.") from error


def parse_number(value: object) -> float | None:
    """A finite number, or None. A text of digits counts, since a table has only texts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # Python's own way to write thousands
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def warn_of_empty_texts(lines: Sequence[Line], fields: Sequence[Sequence[str]]) -> None:
    """Give a Notice if rows have an empty text: null, "", or white space alone.

    Args:
        fields: for each field, the names that it may have.
    """
    empty = [line for line in lines if any(_is_empty(line, names) for names in fields)]
    if empty:
        warn_caller(
            f"{empty[0].file} has an empty text in {len(empty):,} of {count(len(lines), 'row')}, first in "
            f"{empty[0].position}. Empty texts are encoded as they are."
        )


def _is_empty(line: Line, names: Sequence[str]) -> bool:
    value = next((line.row[name] for name in names if name in line.row), "no such field")
    return value is None or (isinstance(value, str) and not value.strip())


# ---- kinds


@dataclass(frozen=True)
class RowFormat:
    """The fields of the rows of a kind."""

    kind: Kind
    fields: tuple[tuple[str, ...], ...]
    """For each field, the names that it may have."""
    read: Callable[[Sequence[Line]], TaskData]
    """Reads the rows of one subset and split; at least one."""
    excluded_fields: tuple[str, ...] = ()
    """Rows with one of these fields are of another kind."""

    def matches(self, fields: set[str]) -> bool:
        named = all(any(name in fields for name in names) for names in self.fields)
        return named and not any(name in fields for name in self.excluded_fields)


SENTENCE1_FIELDS, SENTENCE2_FIELDS = ("sentence1", "text1"), ("sentence2", "text2")
SCORE_FIELDS = ("score",)
LABEL_FIELDS = ("label", "labels")
TEXT_FIELDS = ("text", "sentences")


def _read_scored_pairs(lines: Sequence[Line]) -> Columns:
    scores = [_parse_score(line, "score", line.value(*SCORE_FIELDS)) for line in lines]
    _check_values_differ(lines, "score", scores, "a correlation needs different scores")
    return {**_read_pairs(lines), "score": scores}


def _read_labelled_pairs(lines: Sequence[Line]) -> Columns:
    labels: list[int] = []
    for line in lines:
        label = line.label()
        number = {"true": 1, "false": 0}.get(label, parse_number(label))
        if number not in (0, 1):
            raise line.error(
                f"the label is {shorten_json(line.value(*LABEL_FIELDS))}. The label of a pair is 1 or true (alike), or "
                "0 or false. For other numbers, name the field score."
            )
        labels.append(int(number))
    _check_values_differ(lines, "label", labels, "pairs with both labels are needed")
    return {**_read_pairs(lines), "labels": labels}


def _read_pairs(lines: Sequence[Line]) -> Columns:
    return {
        "sentence1": [line.text(*SENTENCE1_FIELDS) for line in lines],
        "sentence2": [line.text(*SENTENCE2_FIELDS) for line in lines],
    }


def _read_translations(lines: Sequence[Line]) -> Columns:
    if len(lines) < 2:
        raise lines[0].error("it is the only pair. A translation must be found among others; add pairs.")
    return _read_pairs(lines)


def _read_classification(lines: Sequence[Line]) -> Columns:
    return {"text": [line.text(*TEXT_FIELDS) for line in lines], "label": [line.label() for line in lines]}


def _read_clustering(lines: Sequence[Line]) -> Columns:
    return {"sentences": [line.text(*TEXT_FIELDS) for line in lines], "labels": [line.label() for line in lines]}


def _read_summaries(lines: Sequence[Line]) -> Columns:
    machine = [line.texts("machine_summaries") for line in lines]
    relevance: list[list[float]] = []
    for line, texts in zip(lines, machine, strict=True):
        scores = line.value("relevance")
        if not isinstance(scores, list) or len(cast("list[object]", scores)) != len(texts):
            raise line.error(
                f"relevance is {shorten_json(scores)}. It must be a list of {len(texts)} numbers, one per machine "
                "summary."
            )
        relevance.append([_parse_score(line, "relevance", score) for score in cast("list[object]", scores)])
    if all(len(set(scores)) == 1 for scores in relevance):
        raise lines[0].error(
            "relevance is the same for all summaries of a text, here and in all other lines. A correlation needs "
            "different scores."
        )
    return {
        "text": [line.text("text") for line in lines],
        "human_summaries": [line.texts("human_summaries") for line in lines],
        "machine_summaries": machine,
        "relevance": relevance,
    }


def _read_reranking(lines: Sequence[Line]) -> RetrievalData:
    """Read rows as mteb does: positives first, and each query with its own documents."""
    documents: dict[str, tuple[str, str]] = {}
    relevant: dict[str, dict[str, int]] = {}
    for index, line in enumerate(lines):
        query = f"query{index}"
        positives = {f"apositive_{query}_{rank:05}": text for rank, text in enumerate(line.texts("positive"))}
        negatives = {f"negative_{query}_{rank:05}": text for rank, text in enumerate(line.texts("negative"))}
        documents |= {document: ("", text) for document, text in (positives | negatives).items()}
        relevant[query] = dict.fromkeys(positives, 1) | dict.fromkeys(negatives, 0)
    queries = {f"query{index}": line.text("query") for index, line in enumerate(lines)}
    candidates = {query: list(labels) for query, labels in relevant.items()}
    return RetrievalData(documents, queries, relevant, candidates)


ROW_FORMATS = (
    RowFormat("Reranking", (("query",), ("positive",), ("negative",)), _read_reranking),
    RowFormat(
        "Summarization", (("text",), ("human_summaries",), ("machine_summaries",), ("relevance",)), _read_summaries
    ),
    RowFormat("STS", (SENTENCE1_FIELDS, SENTENCE2_FIELDS, SCORE_FIELDS), _read_scored_pairs),
    RowFormat("PairClassification", (SENTENCE1_FIELDS, SENTENCE2_FIELDS, LABEL_FIELDS), _read_labelled_pairs),
    RowFormat(
        "BitextMining",
        (SENTENCE1_FIELDS, SENTENCE2_FIELDS),
        _read_translations,
        excluded_fields=(*SCORE_FIELDS, *LABEL_FIELDS),
    ),
    RowFormat("Classification", (TEXT_FIELDS, LABEL_FIELDS), _read_classification),
    RowFormat("Clustering", (TEXT_FIELDS, LABEL_FIELDS), _read_clustering),
)


def find_formats(fields: set[str]) -> list[RowFormat]:
    """The kinds that rows with these fields can be."""
    return [row_format for row_format in ROW_FORMATS if row_format.matches(fields)]


# ---- one subset


def read_subset(
    row_format: RowFormat, splits: Mapping[str, Sequence[Line]], split: str, *, allow_rare_labels: bool
) -> dict[str, TaskData]:
    """Read the splits that a kind needs, as {split: data}: the evaluated one and, for Classification, "train".

    Raises:
        InputError: a field that cannot be used; labels or scores that measure nothing.
    """
    warn_of_empty_texts(splits[split], [SENTENCE1_FIELDS, SENTENCE2_FIELDS, TEXT_FIELDS, ("query",)])
    if row_format.kind != "Classification":
        data = {split: row_format.read(splits[split])}
        if row_format.kind == "Clustering":
            _check_labels(splits[split], split, allow_rare_labels)
        return data
    data = {name: row_format.read(splits[name]) for name in ("train", split)}
    _check_labels(splits["train"], "train", allow_rare_labels)
    known = {line.label() for line in splits["train"]}
    for line in splits[split]:
        if (label := line.label()) not in known:
            raise line.error(
                f"label {label!r} is not in train, so a classifier cannot learn it. Add texts of it, or take this out."
            )
    return data


def _check_labels(lines: Sequence[Line], split: str, allow_rare: bool) -> None:
    """Raise if there is one label only, or a label of one text: it can be neither learned nor clustered."""
    labels = [line.label() for line in lines]
    counts = Counter(labels)
    _check_values_differ(lines, "label", labels, "two labels are needed")
    once = [label for label, number in counts.items() if number == 1]
    if once and not allow_rare:
        names = list_some(map(repr, once), 1)
        have_one = "has one text" if len(once) == 1 else "have one text each"
        raise lines[labels.index(once[0])].error(
            f"label {names} {have_one} in {split}. One text does not show a class. Leave such rows out, or "
            "evaluate them anyway with --allow-rare-labels."
        )


def _check_values_differ(lines: Sequence[Line], name: str, values: Sequence[object], why: str) -> None:
    if len(set(values)) < 2:
        raise lines[0].error(f"this and every other {name} is {shorten_json(values[0])}; {why}.")


# ---- the scale of scores


def _parse_score(line: Line, name: str, value: object) -> float:
    score = parse_number(value)
    if score is None:
        raise line.error(f"{name} is {shorten_json(value)}. It must be a finite number.")
    return score


def find_score_scale(
    row_format: RowFormat, lines: Sequence[Line], low: float | None, high: float | None
) -> tuple[float, float] | None:
    """The least and the highest score of pairs or summaries; None for a kind without scores.

    Args:
        low, high: the scale in task.json; None takes the least or highest score in the lines.

    Raises:
        InputError: a score outside the scale.
    """
    name = {"STS": SCORE_FIELDS[0], "Summarization": "relevance"}.get(row_format.kind)
    if name is None:
        return None
    scored_lines = [
        (line, _parse_score(line, name, value))
        for line in lines
        for value in (line.row[name] if isinstance(line.row[name], list) else [line.row[name]])
    ]
    scores = [score for _, score in scored_lines]
    low, high = min(scores) if low is None else low, max(scores) if high is None else high
    for line, score in scored_lines:
        if not low <= score <= high:
            raise line.error(
                f"{name} {score:g} is outside its scale, {low:g} to {high:g}. Correct it, or the scale in task.json "
                "(min_score, max_score)."
            )
    return low, high
