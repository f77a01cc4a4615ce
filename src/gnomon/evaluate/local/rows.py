"""Rows of fields: which tasks they can be, and mteb's columns of them. What cannot be judged is named by file and line.

A kind of task is a row of `FORMS`: the names of its fields, and the function that reads them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from gnomon.errors import InputError
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
"""Of files of rows, each also with .gz."""
PARQUET_SUFFIX = ".parquet"

SPLIT_NAMES = {"training": "train", "development": "dev", "testing": "test"}
"""Other names of a split -> its name here. "val", "valid" and "validation" stay what they are."""

MAX_SHOWN_CHARS = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class RetrievalData:
    """Documents, queries and which is relevant to which: the data of retrieval and reranking."""

    documents: Mapping[str, tuple[str, str]]
    """{id: (title, text)}"""
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]
    """{query: {document: grade}}"""
    candidates: Mapping[str, Sequence[str]] | None = None
    """{query: documents to put into order}, of reranking."""


Columns = Mapping[str, Sequence[Any]]
"""Rows of every other kind, by mteb's names of the fields."""
TaskData = RetrievalData | Columns


# ---- files and lines


def list_entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; hidden files and what systems leave behind (._x, .DS_Store, __MACOSX) are not."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))


def is_row_file(file: Path) -> bool:
    """Whether a file is one of rows, by its name.

    Raises:
        InputError: it is a link to nothing.
    """
    name = file.name.lower()
    if not (name.removesuffix(".gz").endswith(TEXT_SUFFIXES) or name.endswith(PARQUET_SUFFIX)) or file.is_dir():
        return False
    if not file.exists():
        raise InputError(f"{file} is a link to nothing; mend it, or take it out.")
    return True


def find_row_files(folder: Path) -> list[Path]:
    """Files of rows in a folder, by name; a .parquet only where no other has its name: it may hold their vectors."""
    files = [file for file in list_entries(folder) if is_row_file(file)]
    others = {file_stem(file).lower() for file in files if not is_parquet(file)}
    return [file for file in files if not is_parquet(file) or file_stem(file).lower() not in others]


def is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(PARQUET_SUFFIX)


def file_stem(file: Path) -> str:
    """A file's name without its format."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return name.rpartition(".")[0]


def normalize_split_name(name: str) -> str:
    """The name of a split, where it has several: "training" is "train"."""
    return SPLIT_NAMES.get(name.lower(), name)


class Line(NamedTuple):
    """A row and where it stands."""

    file: Path
    number: int
    row: Row

    @property
    def position(self) -> str:
        return f"{'row' if is_parquet(self.file) else 'line'} {self.number}"

    def error(self, what: str) -> InputError:
        return InputError(f"{self.file}, {self.position}: {what}")

    def value(self, *names: str) -> Any:
        """Of the field with the first of these names that the row has."""
        return self.row[self._field_name(names)]

    def text(self, *names: str) -> str:
        """Unicode text of a field; null counts as the empty text, and every other value is an error."""
        name = self._field_name(names)
        if self.row[name] is None:
            return ""
        if reason := text_fault(self.row, name):
            raise self.error(f"{reason}. Mend it, or take it out.")
        return self.row[name]

    def texts(self, *names: str) -> list[str]:
        """Texts of a list; a single text counts as a list of one."""
        name = self._field_name(names)
        value = self.row[name]
        found = cast("list[object]", [value] if isinstance(value, str) else value)
        if not isinstance(value, str | list) or not found:
            raise self.error(
                f"{name} is {format_value(value)}; it must be a list of texts with one at least (in .jsonl)."
            )
        for each in found:
            if reason := text_fault({name: each}, name):
                raise self.error(f"{reason}. Mend it, or take it out.")
        return cast("list[str]", found)

    def identifier(self, *names: str) -> str:
        """An id: a text, or a whole number, which counts as the text of its digits."""
        value = self.value(*names)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(f"{names[0]} is {format_value(value)}; it must be a text or a whole number.")
        if isinstance(value, str):
            self.text(*names)
            if "\0" in value:  # trec_eval reads to there: two ids become one, or the process ends
                raise self.error(
                    f"{names[0]} is {format_value(value)}; a NUL character cannot be part of an id. Take it out."
                )
        return str(value)

    def label(self) -> str:
        """A label: a text, a whole number, true or false. 1, 1.0 and "1.0" are one label; so are true and "True"."""
        value = self.value(*LABEL_FIELDS)
        if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, str) and (whole := re.fullmatch(r"([+-]?\d+)\.0+", value)):  # as pandas writes 1 into .csv
            return whole[1]
        if not isinstance(value, str | int) or value == "":
            raise self.error(
                f"{LABEL_FIELDS[0]} is {format_value(value)}; it must be a text, a whole number, true or false."
            )
        return self.text(*LABEL_FIELDS) if isinstance(value, str) else str(value)

    def _field_name(self, names: Sequence[str]) -> str:
        found = next((name for name in names if name in self.row), None)
        if found is None:
            raise self.error(f"no field {names[0]!r}. Mend it, or take it out.")
        return found


def read_lines(file: Path) -> Iterator[Line]:
    """
    Raises:
        InputError: a line that cannot be read. OSError: the file cannot be opened.
    """
    for place, row in _read_parquet_rows(file) if is_parquet(file) else read_rows(file):
        yield Line(file, place, row)


def _read_parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """(row number from 1, row)"""
    arrow = load_arrow()
    place = 1
    try:
        with file.open("rb") as raw, arrow.parquet.ParquetFile(raw) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    yield place, row
                    place += 1
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable Parquet file ({error}); fetch or write it again.") from error


def format_value(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def parse_number(value: object) -> float | None:
    """A finite number, or None; one in quotes counts, as a table has no others."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # Python's own way to write thousands
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def warn_of_empty_texts(lines: Sequence[Line], fields: Sequence[Sequence[str]]) -> None:
    """A Notice of rows with an empty text: null, "", or white space alone.

    Args:
        fields: each: the names under which a field is known.
    """
    empty = [line for line in lines if any(_is_empty(line, names) for names in fields)]
    if empty:
        warn_caller(
            f"{empty[0].file} has rows with an empty text, {empty[0].position} the first; {len(empty):,} of "
            f"{len(lines):,} in all, and they are encoded as they are."
        )


def _is_empty(line: Line, names: Sequence[str]) -> bool:
    value = next((line.row[name] for name in names if name in line.row), "there is none")
    return value is None or (isinstance(value, str) and not value.strip())


# ---- kinds


@dataclass(frozen=True)
class RowFormat:
    """What rows of a kind look like."""

    kind: Kind
    fields: tuple[tuple[str, ...], ...]
    """Each: the names under which a field is known."""
    read: Callable[[Sequence[Line]], TaskData]
    """Of the rows of one subset and split, which are one at least."""
    excluded_fields: tuple[str, ...] = ()
    """Fields that rows of this kind do not have: with them they are of another."""

    def matches(self, fields: set[str]) -> bool:
        named = all(any(name in fields for name in names) for names in self.fields)
        return named and not any(name in fields for name in self.excluded_fields)


SENTENCE1_FIELDS, SENTENCE2_FIELDS = ("sentence1", "text1"), ("sentence2", "text2")
SCORE_FIELDS = ("score",)
LABEL_FIELDS = ("label", "labels")
TEXT_FIELDS = ("text", "sentences")


def _read_scored_pairs(lines: Sequence[Line]) -> Columns:
    scores = [_parse_score(line, "score", line.value(*SCORE_FIELDS)) for line in lines]
    _check_values_differ(lines, "score", scores, "nothing correlates with that")
    return {**_read_pairs(lines), "score": scores}


def _read_labelled_pairs(lines: Sequence[Line]) -> Columns:
    labels: list[int] = []
    for line in lines:
        label = line.label()
        found = {"true": 1, "false": 0}.get(label, parse_number(label))
        if found not in (0, 1):
            raise line.error(
                f"the label is {format_value(line.value(*LABEL_FIELDS))}; that of a pair is 1 or true (alike), or 0 or false, and a "
                "grade is called score."
            )
        labels.append(int(found))
    _check_values_differ(lines, "label", labels, "pairs of both sorts are needed")
    return {**_read_pairs(lines), "labels": labels}


def _read_pairs(lines: Sequence[Line]) -> Columns:
    return {
        "sentence1": [line.text(*SENTENCE1_FIELDS) for line in lines],
        "sentence2": [line.text(*SENTENCE2_FIELDS) for line in lines],
    }


def _read_translations(lines: Sequence[Line]) -> Columns:
    if len(lines) < 2:
        raise lines[0].error("it is the only pair; a translation must be found among others.")
    return _read_pairs(lines)


def _read_classification(lines: Sequence[Line]) -> Columns:
    return {"text": [line.text(*TEXT_FIELDS) for line in lines], "label": [line.label() for line in lines]}


def _read_clustering(lines: Sequence[Line]) -> Columns:
    return {"sentences": [line.text(*TEXT_FIELDS) for line in lines], "labels": [line.label() for line in lines]}


def _read_summaries(lines: Sequence[Line]) -> Columns:
    machine = [line.texts("machine_summaries") for line in lines]
    relevance: list[list[float]] = []
    for line, texts in zip(lines, machine, strict=True):
        grades = line.value("relevance")
        if not isinstance(grades, list) or len(cast("list[object]", grades)) != len(texts):
            raise line.error(
                f"relevance is {format_value(grades)}; it must be a list of {len(texts)} numbers, one a machine summary."
            )
        relevance.append([_parse_score(line, "relevance", grade) for grade in cast("list[object]", grades)])
    if all(len(set(grades)) == 1 for grades in relevance):
        raise lines[0].error("this text's summaries and all others' are graded alike; nothing correlates with that.")
    return {
        "text": [line.text("text") for line in lines],
        "human_summaries": [line.texts("human_summaries") for line in lines],
        "machine_summaries": machine,
        "relevance": relevance,
    }


def _read_reranking(lines: Sequence[Line]) -> RetrievalData:
    """As mteb reads such rows: positives in front, each query with documents of its own."""
    documents: dict[str, tuple[str, str]] = {}
    relevant: dict[str, dict[str, int]] = {}
    for place, line in enumerate(lines):
        query = f"query{place}"
        good = {f"apositive_{query}_{rank:05}": text for rank, text in enumerate(line.texts("positive"))}
        bad = {f"negative_{query}_{rank:05}": text for rank, text in enumerate(line.texts("negative"))}
        documents |= {document: ("", text) for document, text in (good | bad).items()}
        relevant[query] = dict.fromkeys(good, 1) | dict.fromkeys(bad, 0)
    queries = {f"query{place}": line.text("query") for place, line in enumerate(lines)}
    return RetrievalData(documents, queries, relevant, {query: list(grades) for query, grades in relevant.items()})


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
    return [form for form in ROW_FORMATS if form.matches(fields)]


# ---- one subset


def read_subset(
    row_format: RowFormat, splits: Mapping[str, Sequence[Line]], split: str, *, allow_rare_labels: bool
) -> dict[str, TaskData]:
    """{split: data} of what a kind needs: the split that is judged and, where something is learned, "train".

    Raises:
        InputError: a field that cannot be used, or labels that show nothing.
    """
    warn_of_empty_texts(splits[split], [SENTENCE1_FIELDS, SENTENCE2_FIELDS, TEXT_FIELDS, ("query",)])
    if row_format.kind != "Classification":
        found = {split: row_format.read(splits[split])}
        if row_format.kind == "Clustering":
            _check_labels(splits[split], f"in {split}", allow_rare_labels)
        return found
    learned = splits["train"]
    found = {name: row_format.read(splits[name]) for name in ("train", split)}
    _check_labels(learned, "in train", allow_rare_labels)
    known = {line.label() for line in learned}
    for line in splits[split]:
        if (label := line.label()) not in known:
            raise line.error(
                f"label {label!r} is not in train, so it cannot be learned; add texts of it, or take this out."
            )
    return found


def _check_labels(lines: Sequence[Line], where: str, allow_rare: bool) -> None:
    """A label that is there once can neither be learned nor be clustered."""
    labels = [line.label() for line in lines]
    counts = Counter(labels)
    _check_values_differ(lines, "label", labels, "two are needed")
    once = [label for label, count in counts.items() if count == 1]
    if once and not allow_rare:
        more = f" (and {len(once) - 1} more)" if len(once) > 1 else ""
        raise lines[labels.index(once[0])].error(
            f"label {once[0]!r}{more} is seen once {where}; one text shows no class. Leave such rows out, or judge "
            "them all the same with --allow-rare-labels."
        )


def _check_values_differ(lines: Sequence[Line], name: str, values: Sequence[object], why: str) -> None:
    if len(set(values)) < 2:
        raise lines[0].error(f"this and every other {name} is {format_value(values[0])}; {why}.")


# ---- the scale of grades


def _parse_score(line: Line, name: str, value: object) -> float:
    found = parse_number(value)
    if found is None:
        raise line.error(f"{name} is {format_value(value)}; it must be a finite number.")
    return found


def find_score_scale(
    row_format: RowFormat, lines: Sequence[Line], low: float | None, high: float | None
) -> tuple[float, float] | None:
    """Least and highest grade, as said or else as they are; None of a kind without grades.

    Raises:
        InputError: a grade outside the scale that was said.
    """
    name = {"STS": SCORE_FIELDS[0], "Summarization": "relevance"}.get(row_format.kind)
    if name is None:
        return None
    graded = [
        (line, _parse_score(line, name, value))
        for line in lines
        for value in (line.row[name] if isinstance(line.row[name], list) else [line.row[name]])
    ]
    grades = [grade for _, grade in graded]
    low, high = min(grades) if low is None else low, max(grades) if high is None else high
    for line, grade in graded:
        if not low <= grade <= high:
            raise line.error(
                f"{name} {grade:g} is outside its scale, {low:g} to {high:g}; mend it, or the scale in task.json "
                "(min_score, max_score)."
            )
    return low, high
