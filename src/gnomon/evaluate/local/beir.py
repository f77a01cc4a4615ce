"""Reads folders in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, and top_ranked.jsonl for reranking.

A file of qrels (the relevance labels) may have a header: query-id, corpus-id, score. Without one, its lines have these
three fields, or the four of trec_eval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from gnomon.errors import InputError
from gnomon.evaluate.local.rows import (
    Line,
    RetrievalData,
    file_stem,
    find_row_files,
    normalize_split_name,
    parse_number,
    read_lines,
)
from gnomon.messages import count, shorten_json
from gnomon.text_files import read_texts
from gnomon.warn import warn_caller

QUERY_FIELDS = ("query-id", "query_id", "qid")
DOCUMENT_FIELDS = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
RELEVANCE_FIELDS = ("score", "rel", "relevance")

LAYOUT_HINT = "BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv."

MAX_RELEVANCE = 1000
"""trec_eval, which mteb uses, has a table as long as the highest relevance."""


def is_beir(folder: Path) -> bool:
    """Whether a folder has at least two of the three parts; `read_beir` reports a part that is missing."""
    parts = [_qrels_folder(folder).is_dir(), *(bool(_find_files(folder, name)) for name in ("corpus", "queries"))]
    return sum(parts) > 1


def read_beir(folder: Path, evaluated_split: str, *, allow_missing_ids: bool = False) -> dict[str, RetrievalData]:
    """Read a folder in BEIR layout as {split: data}: the evaluated split first, then those to tune fusion on.

    If another split cannot be used, it is left out with a Notice.

    Args:
        allow_missing_ids: let qrels and candidates name queries and documents that are not in the set. Such relevant
            documents stay in the ideal ranking, as in mteb; such queries and candidates are left out. A Notice counts
            them.

    Raises:
        InputError: a missing part or split, an empty split, a line that cannot be used, an unknown id.
    """
    splits = _find_splits(folder)
    files = splits.get(evaluated_split)
    if files is None:
        has = f"It has {', '.join(splits)}" if splits else "A split is a file such as test.tsv"
        raise InputError(f"{_qrels_folder(folder)} has no split {evaluated_split!r}. {has}. Name a split with --split.")
    file = _require_single(files)
    parts = _BeirFolder.read(folder, allow_missing_ids)
    relevant = _read_relevance(file, parts)
    if not any(map(_has_relevant, relevant.values())):
        raise InputError(
            f"{file} names no relevant document (score 1 or more), so nothing can be evaluated. Fill it, or name "
            "another split with --split."
        )
    _warn_of_nothing_relevant(file, relevant)
    parts.warn_of_empty(relevant)
    data_by_split = {evaluated_split: parts.build_data(relevant, evaluated_split)}
    for split, others in splits.items():
        if split != evaluated_split and (data := _read_other_split(parts, split, others)):
            data_by_split[split] = data
    return data_by_split


def _read_other_split(parts: _BeirFolder, split: str, files: Sequence[Path]) -> RetrievalData | None:
    """Read a split that is not evaluated; None without relevant documents, or (with a Notice) if it cannot be used."""
    try:
        relevant = _read_relevance(_require_single(files), parts)
        has_relevant = any(map(_has_relevant, relevant.values()))
        return parts.build_data(relevant, split) if has_relevant else None
    except (InputError, OSError) as error:
        warn_caller(f"the split {split} is not evaluated and cannot be used to tune fusion. {error}")
        return None


@dataclass
class _BeirFolder:
    """The documents, queries and candidates of a folder, in which the ids of its qrels are looked up."""

    folder: Path
    documents: Mapping[str, tuple[str, str]]
    queries: Mapping[str, str]
    corpus_name: str
    queries_name: str
    allow_missing_ids: bool
    candidates_file: Path | None = None
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @classmethod
    def read(cls, folder: Path, allow_missing_ids: bool) -> _BeirFolder:
        documents_file, queries_file = _require_file(folder, "corpus"), _require_file(folder, "queries")
        documents = {key: (_read_title(line), line.text("text")) for key, line in _read_by_id(documents_file)}
        queries = {key: line.text("text") for key, line in _read_by_id(queries_file)}
        parts = cls(folder, documents, queries, documents_file.name, queries_file.name, allow_missing_ids)
        if ranked_file := _find_file(folder, "top_ranked"):
            parts.candidates_file, parts.candidates = ranked_file, _read_candidates(ranked_file, parts)
        return parts

    def warn_of_empty(self, relevant: Iterable[str]) -> None:
        """Give a Notice if queries, or documents, have no text."""
        queries = [query for query in relevant if not self.queries[query].strip()]
        documents = [key for key, (title, text) in self.documents.items() if not (text.strip() or title.strip())]
        for name, empty in ((self.queries_name, queries), (self.corpus_name, documents)):
            if empty:
                warn_caller(
                    f"{self.folder / name} has {count(len(empty), 'empty text')}, first that of {empty[0]!r}. Empty "
                    "texts are encoded as they are."
                )

    def build_data(self, relevant: Mapping[str, Mapping[str, int]], split: str) -> RetrievalData:
        candidates = None
        if self.candidates_file is not None:
            if missing := [query for query in relevant if query not in self.candidates]:
                raise InputError(
                    f"{self.candidates_file} has no candidates for query {missing[0]!r} of the split {split}. Add them."
                )
            candidates = {query: self.candidates[query] for query in relevant}
        return RetrievalData(self.documents, {query: self.queries[query] for query in relevant}, relevant, candidates)


@dataclass
class _MissingIds:
    """Looks up ids, and collects those that are not in the set."""

    parts: _BeirFolder
    documents: list[str] = field(default_factory=list[str])
    queries: list[str] = field(default_factory=list[str])

    def is_missing_document(self, line: Line, document: str) -> bool:
        """Whether the set lacks a document.

        Raises:
            InputError: it does, and missing ids are not allowed.
        """
        if document in self.parts.documents:
            return False
        if not self.parts.allow_missing_ids:
            raise line.error(_absent_message("document", document, self.parts.corpus_name))
        self.documents.append(document)
        return True

    def is_missing_query(self, line: Line, query: str) -> bool:
        """Whether the set lacks a query; raises as `is_missing_document`."""
        if query in self.parts.queries:
            return False
        if not self.parts.allow_missing_ids:
            raise line.error(_absent_message("query", query, self.parts.queries_name))
        self.queries.append(query)
        return True


def _absent_message(kind: str, key: str, file_name: str) -> str:
    return f"{file_name} has no {kind} {key!r}. Add it there, take the line out, or allow it with --allow-missing-ids."


# ---- parts


def _qrels_folder(folder: Path) -> Path:
    return folder / "qrels"


def _find_files(folder: Path, name: str) -> list[Path]:
    return [file for file in find_row_files(folder) if file_stem(file).lower() == name]


def _find_file(folder: Path, name: str) -> Path | None:
    """The file with a name, in whichever format."""
    files = _find_files(folder, name)
    return _require_single(files) if files else None


def _require_file(folder: Path, name: str) -> Path:
    file = _find_file(folder, name)
    if file is None:
        raise InputError(f"{folder} has no {name}.jsonl. {LAYOUT_HINT}")
    return file


def _find_splits(folder: Path) -> dict[str, list[Path]]:
    """{split: its files}. A split that is used must have one file."""
    qrels = _qrels_folder(folder)
    if not qrels.is_dir():
        raise InputError(f"{folder} has no folder qrels. {LAYOUT_HINT}")
    splits: dict[str, list[Path]] = {}
    for file in find_row_files(qrels):
        splits.setdefault(normalize_split_name(file_stem(file)), []).append(file)
    return splits


def _require_single(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise InputError(f"{files[0].parent} has both {files[0].name} and {files[1].name}. Take one out.")
    return files[0]


# ---- documents and queries


def _read_by_id(file: Path) -> Iterator[tuple[str, Line]]:
    """Yield (id, line) of a file of documents or queries."""
    seen: dict[str, int] = {}
    for line in read_lines(file):
        key = line.identifier("_id", "id")
        if key in seen:
            raise line.error(f"_id {key!r} is in line {seen[key]} too. Every line needs its own id.")
        seen[key] = line.number
        yield key, line
    if not seen:
        raise InputError(f"{file} is empty, so nothing can be evaluated. Fetch it or write it again.")


def _read_title(line: Line) -> str:
    return "" if line.row.get("title") in (None, "") else line.text("title")


def _read_candidates(file: Path, parts: _BeirFolder) -> dict[str, list[str]]:
    """Read rows {"query-id": ..., "corpus-ids": [...]} as {query: documents}."""
    candidates: dict[str, list[str]] = {}
    missing = _MissingIds(parts)
    for line in read_lines(file):
        query, value = line.identifier(*QUERY_FIELDS), line.value("corpus-ids", "corpus_ids")
        if not isinstance(value, list) or not value:
            raise line.error(f"corpus-ids is {shorten_json(value)}. It must be a list of document ids (in .jsonl).")
        ids = [str(key) for key in cast("list[object]", value)]
        known = [key for key in ids if not missing.is_missing_document(line, key)]
        if not known:
            raise line.error(f"{parts.corpus_name} has no candidate of query {query!r}. Take the line out.")
        if query in candidates:
            raise line.error(f"query {query!r} has candidates in an earlier line. Put them into one line.")
        candidates[query] = list(dict.fromkeys(known))
    if missing.documents:
        warn_caller(
            f"{file} names {count(len(missing.documents), 'candidate')} that {parts.corpus_name} does not have, first "
            f"{missing.documents[0]!r}. They are left out."
        )
    return candidates


# ---- qrels


def _read_relevance(file: Path, parts: _BeirFolder) -> dict[str, dict[str, int]]:
    """Read qrels as {query: {document: relevance}}.

    A relevance below 0 counts as 0: trec_eval crashes if all labels of a query are negative.
    """
    relevance: defaultdict[str, dict[str, int]] = defaultdict(dict)
    original: dict[tuple[str, str], int] = {}  # with negative ones, for the message
    missing, negative = _MissingIds(parts), list[Line]()
    for line in _read_qrels(file):
        query, document = line.identifier(*QUERY_FIELDS), line.identifier(*DOCUMENT_FIELDS)
        score = _parse_relevance(line)
        if missing.is_missing_query(line, query):
            continue
        missing.is_missing_document(line, document)
        if score < 0:
            negative.append(line)
        earlier = original.setdefault((query, document), score)
        if max(score, 0) != max(earlier, 0):
            raise line.error(
                f"{query!r} and {document!r} have score {score} here, and {earlier} in an earlier line. Take one out."
            )
        relevance[query][document] = max(score, 0)
    _warn_of_missing(file, missing)
    if negative:
        warn_caller(
            f"{file} has scores below 0 in {count(len(negative), 'line')}, first in line {negative[0].number}. They "
            "count as 0."
        )
    return dict(relevance)


def _parse_relevance(line: Line) -> int:
    value = line.value(*RELEVANCE_FIELDS)
    score = parse_number(value)
    if score is None or score != int(score) or score > MAX_RELEVANCE:
        raise line.error(f"the score is {shorten_json(value)}. It must be a whole number, at most {MAX_RELEVANCE:,}.")
    return int(score)


def _read_qrels(file: Path) -> Iterator[Line]:
    """Yield the lines of qrels, with their fields named, whether the file has a header or not."""
    bare = file.name.lower().removesuffix(".gz").endswith(".tsv") and not _has_header(file)
    for index, line in enumerate(_read_table(file) if bare else read_lines(file)):
        if not index and not _has_qrels_fields(line.row):
            raise InputError(
                f"{file}: the fields are {', '.join(line.row)}. Those of qrels are {QUERY_FIELDS[0]}, "
                f"{DOCUMENT_FIELDS[0]} and {RELEVANCE_FIELDS[0]}; rename them."
            )
        yield line


def _has_header(file: Path) -> bool:
    """Whether a .tsv has a header with the names of qrels. Then it is read as every other .tsv."""
    try:
        first = next(read_lines(file), None)
    except InputError:  # `_read_table` reports what is wrong
        return False
    return first is not None and _has_qrels_fields(first.row)


def _has_qrels_fields(fields: Mapping[str, object]) -> bool:
    return all(any(name in fields for name in names) for names in (QUERY_FIELDS, DOCUMENT_FIELDS, RELEVANCE_FIELDS))


def _read_table(file: Path) -> Iterator[Line]:
    """Yield lines whose cells are separated by tabs, or else by blanks.

    The first line is a header unless it ends in a number.
    """
    try:
        lines = read_texts(file, form="txt").texts
    except InputError as error:
        raise InputError(f"{error} Every line of qrels is a query, a document and a score.") from error
    names: list[str] = []
    for number, text in enumerate(lines, 1):
        cells = text.split("\t") if "\t" in text else text.split()
        if not text.strip():
            continue
        if not names:
            names = _table_columns(cells)
            if names == cells:
                continue
        if len(cells) != len(names):
            raise Line(file, number, {}).error(
                f"{count(len(cells), 'field')}, and the first line has {len(names)}. Correct it."
            )
        yield Line(file, number, dict(zip(names, cells, strict=True)))


def _table_columns(first: list[str]) -> list[str]:
    """The names of the columns by the first line: its header, or the fields of BEIR or trec_eval."""
    if len(first) not in (3, 4) or parse_number(first[-1]) is None:
        return first
    return [QUERY_FIELDS[0], *(["iteration"] if len(first) == 4 else []), DOCUMENT_FIELDS[0], RELEVANCE_FIELDS[0]]


def _has_relevant(labels: Mapping[str, int]) -> bool:
    return any(label > 0 for label in labels.values())


def _warn_of_missing(file: Path, missing: _MissingIds) -> None:
    parts, documents, queries = missing.parts, missing.documents, missing.queries
    if documents:
        warn_caller(
            f"{file} names documents that {parts.corpus_name} does not have in {count(len(documents), 'line')}, first "
            f"{documents[0]!r}. As in mteb, relevant ones count as documents that were not found."
        )
    if queries:
        warn_caller(
            f"{file} names queries that {parts.queries_name} does not have in {count(len(queries), 'line')}, first "
            f"{queries[0]!r}. These lines are left out."
        )


def _warn_of_nothing_relevant(file: Path, relevant: Mapping[str, Mapping[str, int]]) -> None:
    unanswered = [query for query, labels in relevant.items() if not _has_relevant(labels)]
    if unanswered:
        warn_caller(
            f"{file}: no document is relevant (score 1 or more) to {len(unanswered):,} of {len(relevant):,} queries, "
            f"first {unanswered[0]!r}. mteb counts each of them as 0."
        )
