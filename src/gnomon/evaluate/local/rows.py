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
from gnomon.notices import warn_caller
from gnomon.text_files import Row, load_arrow, read_rows, unfit

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

SUFFIXES = (".jsonl", ".tsv", ".csv")
"""Of files of rows, each also with .gz."""
PARQUET = ".parquet"

SPLIT_NAMES = {"training": "train", "development": "dev", "testing": "test"}
"""Other names of a split -> its name here. "val", "valid" and "validation" stay what they are."""

SHOWN = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Judged:
    """Documents, queries and which is relevant to which: the data of retrieval and reranking."""

    documents: Mapping[str, tuple[str, str]]
    """{id: (title, text)}"""
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]
    """{query: {document: grade}}"""
    candidates: Mapping[str, Sequence[str]] | None = None
    """{query: documents to put into order}, of reranking."""


Columns = Mapping[str, Sequence[Any]]
"""Rows of every other kind, by mteb's names of the fields."""
Data = Judged | Columns


# ---- files and lines


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; hidden files and what systems leave behind (._x, .DS_Store, __MACOSX) are not."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))


def is_rows(file: Path) -> bool:
    """Whether a file is one of rows, by its name.

    Raises:
        InputError: it is a link to nothing.
    """
    name = file.name.lower()
    if not (name.removesuffix(".gz").endswith(SUFFIXES) or name.endswith(PARQUET)) or file.is_dir():
        return False
    if not file.exists():
        raise InputError(f"{file} is a link to nothing; mend it, or take it out.")
    return True


def row_files(folder: Path) -> list[Path]:
    """Files of rows in a folder, by name; a .parquet only where no other has its name: it may hold their vectors."""
    files = [file for file in listed(folder) if is_rows(file)]
    others = {stem(file).lower() for file in files if not is_parquet(file)}
    return [file for file in files if not is_parquet(file) or stem(file).lower() not in others]


def is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(PARQUET)


def stem(file: Path) -> str:
    """A file's name without its format."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return name.rpartition(".")[0]


def split_name(name: str) -> str:
    """The name of a split, where it has several: "training" is "train"."""
    return SPLIT_NAMES.get(name.lower(), name)


class Line(NamedTuple):
    """A row and where it stands."""

    file: Path
    number: int
    row: Row

    @property
    def place(self) -> str:
        return f"{'row' if is_parquet(self.file) else 'line'} {self.number}"

    def wrong(self, what: str) -> InputError:
        return InputError(f"{self.file}, {self.place}: {what}")

    def value(self, *names: str) -> Any:
        """Of the field with the first of these names that the row has."""
        return self.row[self._name(names)]

    def text(self, *names: str) -> str:
        """Unicode text of a field; null counts as the empty text, and every other value is an error."""
        name = self._name(names)
        if self.row[name] is None:
            return ""
        if reason := unfit(self.row, name):
            raise self.wrong(f"{reason}. Mend it, or take it out.")
        return self.row[name]

    def texts(self, *names: str) -> list[str]:
        """Texts of a list; a single text counts as a list of one."""
        name = self._name(names)
        value = self.row[name]
        found = cast("list[object]", [value] if isinstance(value, str) else value)
        if not isinstance(value, str | list) or not found:
            raise self.wrong(f"{name} is {shown(value)}; it must be a list of texts with one at least (in .jsonl).")
        for each in found:
            if reason := unfit({name: each}, name):
                raise self.wrong(f"{reason}. Mend it, or take it out.")
        return cast("list[str]", found)

    def identifier(self, *names: str) -> str:
        """An id: a text, or a whole number, which counts as the text of its digits."""
        value = self.value(*names)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.wrong(f"{names[0]} is {shown(value)}; it must be a text or a whole number.")
        if isinstance(value, str):
            self.text(*names)
            if "\0" in value:  # trec_eval reads to there: two ids become one, or the process ends
                raise self.wrong(f"{names[0]} is {shown(value)}; a NUL character cannot be part of an id. Take it out.")
        return str(value)

    def label(self) -> str:
        """A label: a text, a whole number, true or false. 1, 1.0 and "1.0" are one label; so are true and "True"."""
        value = self.value(*LABEL)
        if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, str) and (whole := re.fullmatch(r"([+-]?\d+)\.0+", value)):  # as pandas writes 1 into .csv
            return whole[1]
        if not isinstance(value, str | int) or value == "":
            raise self.wrong(f"{LABEL[0]} is {shown(value)}; it must be a text, a whole number, true or false.")
        return self.text(*LABEL) if isinstance(value, str) else str(value)

    def _name(self, names: Sequence[str]) -> str:
        found = next((name for name in names if name in self.row), None)
        if found is None:
            raise self.wrong(f"no field {names[0]!r}. Mend it, or take it out.")
        return found


def lines_of(file: Path) -> Iterator[Line]:
    """
    Raises:
        InputError: a line that cannot be read. OSError: the file cannot be opened.
    """
    for place, row in _parquet_rows(file) if is_parquet(file) else read_rows(file):
        yield Line(file, place, row)


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row]]:
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


def shown(value: object) -> str:
    """A value as a message shows it."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def number(value: object) -> float | None:
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


def tell_of_empty(lines: Sequence[Line], fields: Sequence[Sequence[str]]) -> None:
    """A Notice of rows with an empty text: null, "", or white space alone.

    Args:
        fields: each: the names under which a field is known.
    """
    empty = [line for line in lines if any(_is_empty(line, names) for names in fields)]
    if empty:
        warn_caller(
            f"{empty[0].file} has rows with an empty text, {empty[0].place} the first; {len(empty):,} of "
            f"{len(lines):,} in all, and they are encoded as they are."
        )


def _is_empty(line: Line, names: Sequence[str]) -> bool:
    value = next((line.row[name] for name in names if name in line.row), "there is none")
    return value is None or (isinstance(value, str) and not value.strip())


# ---- kinds


@dataclass(frozen=True)
class Form:
    """What rows of a kind look like."""

    kind: Kind
    fields: tuple[tuple[str, ...], ...]
    """Each: the names under which a field is known."""
    read: Callable[[Sequence[Line]], Data]
    """Of the rows of one subset and split, which are one at least."""
    without: tuple[str, ...] = ()
    """Fields that rows of this kind do not have: with them they are of another."""

    def fits(self, fields: set[str]) -> bool:
        named = all(any(name in fields for name in names) for names in self.fields)
        return named and not any(name in fields for name in self.without)


ONE, TWO = ("sentence1", "text1"), ("sentence2", "text2")
SCORE = ("score",)
LABEL = ("label", "labels")
TEXT = ("text", "sentences")


def _graded_pairs(lines: Sequence[Line]) -> Columns:
    scores = [_grade(line, "score", line.value(*SCORE)) for line in lines]
    _not_alike(lines, "score", scores, "nothing correlates with that")
    return {**_pairs(lines), "score": scores}


def _labelled_pairs(lines: Sequence[Line]) -> Columns:
    labels: list[int] = []
    for line in lines:
        label = line.label()
        found = {"true": 1, "false": 0}.get(label, number(label))
        if found not in (0, 1):
            raise line.wrong(
                f"the label is {shown(line.value(*LABEL))}; that of a pair is 1 or true (alike), or 0 or false, and a "
                "grade is called score."
            )
        labels.append(int(found))
    _not_alike(lines, "label", labels, "pairs of both sorts are needed")
    return {**_pairs(lines), "labels": labels}


def _pairs(lines: Sequence[Line]) -> Columns:
    return {"sentence1": [line.text(*ONE) for line in lines], "sentence2": [line.text(*TWO) for line in lines]}


def _translations(lines: Sequence[Line]) -> Columns:
    if len(lines) < 2:
        raise lines[0].wrong("it is the only pair; a translation must be found among others.")
    return _pairs(lines)


def _classified(lines: Sequence[Line]) -> Columns:
    return {"text": [line.text(*TEXT) for line in lines], "label": [line.label() for line in lines]}


def _clustered(lines: Sequence[Line]) -> Columns:
    return {"sentences": [line.text(*TEXT) for line in lines], "labels": [line.label() for line in lines]}


def _summaries(lines: Sequence[Line]) -> Columns:
    machine = [line.texts("machine_summaries") for line in lines]
    relevance: list[list[float]] = []
    for line, texts in zip(lines, machine, strict=True):
        grades = line.value("relevance")
        if not isinstance(grades, list) or len(cast("list[object]", grades)) != len(texts):
            raise line.wrong(
                f"relevance is {shown(grades)}; it must be a list of {len(texts)} numbers, one a machine summary."
            )
        relevance.append([_grade(line, "relevance", grade) for grade in cast("list[object]", grades)])
    if all(len(set(grades)) == 1 for grades in relevance):
        raise lines[0].wrong("this text's summaries and all others' are graded alike; nothing correlates with that.")
    return {
        "text": [line.text("text") for line in lines],
        "human_summaries": [line.texts("human_summaries") for line in lines],
        "machine_summaries": machine,
        "relevance": relevance,
    }


def _candidates(lines: Sequence[Line]) -> Judged:
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
    return Judged(documents, queries, relevant, {query: list(grades) for query, grades in relevant.items()})


FORMS = (
    Form("Reranking", (("query",), ("positive",), ("negative",)), _candidates),
    Form("Summarization", (("text",), ("human_summaries",), ("machine_summaries",), ("relevance",)), _summaries),
    Form("STS", (ONE, TWO, SCORE), _graded_pairs),
    Form("PairClassification", (ONE, TWO, LABEL), _labelled_pairs),
    Form("BitextMining", (ONE, TWO), _translations, without=(*SCORE, *LABEL)),
    Form("Classification", (TEXT, LABEL), _classified),
    Form("Clustering", (TEXT, LABEL), _clustered),
)


def forms_of(fields: set[str]) -> list[Form]:
    return [form for form in FORMS if form.fits(fields)]


# ---- one subset


def read_subset(
    form: Form, splits: Mapping[str, Sequence[Line]], split: str, *, allow_rare_labels: bool
) -> dict[str, Data]:
    """{split: data} of what a kind needs: the split that is judged and, where something is learned, "train".

    Raises:
        InputError: a field that cannot be used, or labels that show nothing.
    """
    tell_of_empty(splits[split], [ONE, TWO, TEXT, ("query",)])
    if form.kind != "Classification":
        found = {split: form.read(splits[split])}
        if form.kind == "Clustering":
            _check_labels(splits[split], f"in {split}", allow_rare_labels)
        return found
    learned = splits["train"]
    found = {name: form.read(splits[name]) for name in ("train", split)}
    _check_labels(learned, "in train", allow_rare_labels)
    known = {line.label() for line in learned}
    for line in splits[split]:
        if (label := line.label()) not in known:
            raise line.wrong(
                f"label {label!r} is not in train, so it cannot be learned; add texts of it, or take this out."
            )
    return found


def _check_labels(lines: Sequence[Line], where: str, allow_rare: bool) -> None:
    """A label that is there once can neither be learned nor be clustered."""
    labels = [line.label() for line in lines]
    counts = Counter(labels)
    _not_alike(lines, "label", labels, "two are needed")
    once = [label for label, count in counts.items() if count == 1]
    if once and not allow_rare:
        more = f" (and {len(once) - 1} more)" if len(once) > 1 else ""
        raise lines[labels.index(once[0])].wrong(
            f"label {once[0]!r}{more} is seen once {where}; one text shows no class. Leave such rows out, or judge "
            "them all the same with --allow-rare-labels."
        )


def _not_alike(lines: Sequence[Line], name: str, values: Sequence[object], why: str) -> None:
    if len(set(values)) < 2:
        raise lines[0].wrong(f"this and every other {name} is {shown(values[0])}; {why}.")


# ---- the scale of grades


def _grade(line: Line, name: str, value: object) -> float:
    found = number(value)
    if found is None:
        raise line.wrong(f"{name} is {shown(value)}; it must be a finite number.")
    return found


def scale_of(form: Form, lines: Sequence[Line], low: float | None, high: float | None) -> tuple[float, float] | None:
    """Least and highest grade, as said or else as they are; None of a kind without grades.

    Raises:
        InputError: a grade outside the scale that was said.
    """
    name = {"STS": SCORE[0], "Summarization": "relevance"}.get(form.kind)
    if name is None:
        return None
    graded = [
        (line, _grade(line, name, value))
        for line in lines
        for value in (line.row[name] if isinstance(line.row[name], list) else [line.row[name]])
    ]
    grades = [grade for _, grade in graded]
    low, high = min(grades) if low is None else low, max(grades) if high is None else high
    for line, grade in graded:
        if not low <= grade <= high:
            raise line.wrong(
                f"{name} {grade:g} is outside its scale, {low:g} to {high:g}; mend it, or the scale in task.json "
                "(min_score, max_score)."
            )
    return low, high
