"""Folders in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, and top_ranked.jsonl for reranking.

qrels may have a header (query-id, corpus-id, score), or none: three fields, or the four of trec_eval.
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
    format_value,
    normalize_split_name,
    parse_number,
    read_lines,
)
from gnomon.text_files import read_texts
from gnomon.warn import warn_caller

QUERY_FIELDS = ("query-id", "query_id", "qid")
DOCUMENT_FIELDS = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
RELEVANCE_FIELDS = ("score", "rel", "relevance")

LAYOUT_HINT = "BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv."

MAX_RELEVANCE = 1000
"""trec_eval, which mteb scores by, holds a table as long as the highest grade."""


def is_beir(folder: Path) -> bool:
    """Whether two of the three parts are there: what lacks is told when it is read."""
    return (
        sum([_qrels_folder(folder).is_dir(), *(bool(_find_files(folder, part)) for part in ("corpus", "queries"))]) > 1
    )


def read_beir(folder: Path, evaluated_split: str, *, allow_missing_ids: bool = False) -> dict[str, RetrievalData]:
    """{split: data}: the one that is evaluated first, then the others, which fusion may be tuned on.

    Another split that cannot be used is left out with a Notice.

    Args:
        allow_missing_ids: let qrels and candidates name queries and documents that are not in the set. Such relevant
            documents stay in the ideal ranking, as in mteb; such queries and candidates are left out. Both are counted
            in a Notice.

    Raises:
        InputError: a part or split that lacks, an empty split, a line that cannot be used, an id that is not there.
    """
    splits = _find_splits(folder)
    files = splits.get(evaluated_split)
    if files is None:
        has = ", ".join(splits) or "none; a split is a file like test.tsv"
        raise InputError(
            f"{_qrels_folder(folder)} has no split {evaluated_split!r}; it has {has}. --split names another."
        )
    file = _require_single(files)
    parts = _BeirFolder.read(folder, allow_missing_ids)
    relevant = _read_relevance(file, parts)
    if not any(_has_relevant(grades) for grades in relevant.values()):
        raise InputError(
            f"{file} is an empty split: it names no relevant document (score 1 or more), so nothing can be judged. "
            "Fill it, or name another (--split)."
        )
    _warn_of_nothing_relevant(file, relevant)
    parts.warn_of_empty(relevant)
    found = {evaluated_split: parts.build_data(relevant, evaluated_split)}
    for split, others in splits.items():
        if split != evaluated_split and (data := _read_other_split(parts, split, others)):
            found[split] = data
    return found


def _read_other_split(parts: _BeirFolder, split: str, files: Sequence[Path]) -> RetrievalData | None:
    """A split that is not evaluated; None where it shows nothing, or cannot be used, which a Notice says."""
    try:
        relevant = _read_relevance(_require_single(files), parts)
        useful = any(_has_relevant(grades) for grades in relevant.values())
        return parts.build_data(relevant, split) if useful else None
    except (InputError, OSError) as error:
        warn_caller(f"the split {split} is not evaluated and cannot be used to tune fusion. {error}")
        return None


@dataclass
class _BeirFolder:
    """Documents, queries and candidates of a folder; what its qrels name is looked up in them."""

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
        """A Notice of queries, and of documents, without any text."""
        queries = [query for query in relevant if not self.queries[query].strip()]
        documents = [key for key, (title, text) in self.documents.items() if not (text.strip() or title.strip())]
        for name, empty in ((self.queries_name, queries), (self.corpus_name, documents)):
            if empty:
                warn_caller(
                    f"{self.folder / name} has empty texts, that of {empty[0]!r} the first; {len(empty):,} in all, and "
                    "they are encoded as they are."
                )

    def build_data(self, relevant: Mapping[str, Mapping[str, int]], split: str) -> RetrievalData:
        candidates = None
        if self.candidates_file is not None:
            if lacking := [query for query in relevant if query not in self.candidates]:
                raise InputError(
                    f"{self.candidates_file} has no candidates for query {lacking[0]!r}, which {split} judges."
                )
            candidates = {query: self.candidates[query] for query in relevant}
        return RetrievalData(self.documents, {query: self.queries[query] for query in relevant}, relevant, candidates)


@dataclass
class _MissingIds:
    """Lines that name what is not in the set."""

    parts: _BeirFolder
    documents: list[str] = field(default_factory=list[str])
    queries: list[str] = field(default_factory=list[str])

    def is_missing_document(self, line: Line, document: str) -> bool:
        """Whether there is none of this id.

        Raises:
            InputError: there is none, and that may not be.
        """
        if document in self.parts.documents:
            return False
        if not self.parts.allow_missing_ids:
            raise line.error(_absent_message("document", document, self.parts.corpus_name))
        self.documents.append(document)
        return True

    def is_missing_query(self, line: Line, query: str) -> bool:
        if query in self.parts.queries:
            return False
        if not self.parts.allow_missing_ids:
            raise line.error(_absent_message("query", query, self.parts.queries_name))
        self.queries.append(query)
        return True


def _absent_message(what: str, key: str, where: str) -> str:
    return (
        f"there is no {what} {key!r} in {where}; add it there, take the line out, or let it pass (--allow-missing-ids)."
    )


# ---- parts


def _qrels_folder(folder: Path) -> Path:
    return folder / "qrels"


def _find_files(folder: Path, name: str) -> list[Path]:
    return [file for file in find_row_files(folder) if file_stem(file).lower() == name]


def _find_file(folder: Path, name: str) -> Path | None:
    """The file of a name, in whichever format."""
    found = _find_files(folder, name)
    return _require_single(found) if found else None


def _require_file(folder: Path, name: str) -> Path:
    found = _find_file(folder, name)
    if found is None:
        raise InputError(f"{folder} has no {name}.jsonl; {LAYOUT_HINT}")
    return found


def _find_splits(folder: Path) -> dict[str, list[Path]]:
    """{split: its files}, which must be one where the split is used."""
    place = _qrels_folder(folder)
    if not place.is_dir():
        raise InputError(f"{folder} has no folder qrels; {LAYOUT_HINT}")
    found: dict[str, list[Path]] = {}
    for file in find_row_files(place):
        found.setdefault(normalize_split_name(file_stem(file)), []).append(file)
    return found


def _require_single(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise InputError(f"{files[0].parent} has {files[0].name} and {files[1].name}; take one out.")
    return files[0]


# ---- documents and queries


def _read_by_id(file: Path) -> Iterator[tuple[str, Line]]:
    seen: dict[str, int] = {}
    for line in read_lines(file):
        key = line.identifier("_id", "id")
        if key in seen:
            raise line.error(f"_id {key!r} is that of line {seen[key]} too; every id must be another.")
        seen[key] = line.number
        yield key, line
    if not seen:
        raise InputError(f"{file} is empty; without its rows nothing can be judged. Fetch or write it again.")


def _read_title(line: Line) -> str:
    return "" if line.row.get("title") in (None, "") else line.text("title")


def _read_candidates(file: Path, parts: _BeirFolder) -> dict[str, list[str]]:
    """{query: documents} of rows {"query-id": ..., "corpus-ids": [...]}."""
    found: dict[str, list[str]] = {}
    missing = _MissingIds(parts)
    for line in read_lines(file):
        query, value = line.identifier(*QUERY_FIELDS), line.value("corpus-ids", "corpus_ids")
        if not isinstance(value, list) or not value:
            raise line.error(f"corpus-ids is {format_value(value)}; it must be a list of document ids (in .jsonl).")
        ids = [str(each) for each in cast("list[object]", value)]
        there = [each for each in ids if not missing.is_missing_document(line, each)]
        if not there:
            raise line.error(f"none of the candidates of query {query!r} is in {parts.corpus_name}; take it out.")
        if query in found:
            raise line.error(f"query {query!r} has candidates in a line before; put them into one.")
        found[query] = list(dict.fromkeys(there))
    if missing.documents:
        warn_caller(
            f"{file} names candidates that are not in {parts.corpus_name}, {missing.documents[0]!r} the first; "
            f"{len(missing.documents):,} in all, which are left out."
        )
    return found


# ---- qrels


def _read_relevance(file: Path, parts: _BeirFolder) -> dict[str, dict[str, int]]:
    """{query: {document: grade}}; grades below 0 count as 0: trec_eval crashes where a query has no others."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    written: dict[tuple[str, str], int] = {}  # for the message: as the file has them
    missing, negative = _MissingIds(parts), list[Line]()
    for line in _read_qrels(file):
        query, document = line.identifier(*QUERY_FIELDS), line.identifier(*DOCUMENT_FIELDS)
        value = line.value(*RELEVANCE_FIELDS)
        grade = parse_number(value)
        if grade is None or grade != int(grade) or grade > MAX_RELEVANCE:
            raise line.error(
                f"the score is {format_value(value)}; it must be a whole number, {MAX_RELEVANCE:,} at most."
            )
        if missing.is_missing_query(line, query):
            continue
        missing.is_missing_document(line, document)
        if grade < 0:
            negative.append(line)
        before = written.setdefault((query, document), int(grade))
        if (counted := max(int(grade), 0)) != max(before, 0):
            raise line.error(
                f"{query!r} and {document!r} had score {before} before, and now {int(grade)}; take one out."
            )
        found[query][document] = counted
    _warn_of_missing(file, missing)
    if negative:
        warn_caller(
            f"{file} has scores below 0, line {negative[0].number} the first, in {len(negative):,} of its lines; they "
            "count as 0."
        )
    return dict(found)


def _read_qrels(file: Path) -> Iterator[Line]:
    """Rows with one of the names of each field, whatever the file has or lacks for a header."""
    bare = file.name.lower().removesuffix(".gz").endswith(".tsv") and not _has_header(file)
    for place, line in enumerate(_read_table(file) if bare else read_lines(file)):
        if not place and not _has_qrels_fields(line.row):
            has = ", ".join(line.row)
            raise InputError(
                f"{file}: the fields are {has}; those of qrels are {QUERY_FIELDS[0]}, {DOCUMENT_FIELDS[0]}, {RELEVANCE_FIELDS[0]}."
            )
        yield line


def _has_header(file: Path) -> bool:
    """Whether a .tsv begins with the names of qrels, parted by tabs: then it is read as every other .tsv is."""
    try:
        first = next(read_lines(file), None)
    except InputError:  # `_table` says what is wrong
        return False
    return first is not None and _has_qrels_fields(first.row)


def _has_qrels_fields(fields: Mapping[str, object]) -> bool:
    return all(any(name in fields for name in names) for names in (QUERY_FIELDS, DOCUMENT_FIELDS, RELEVANCE_FIELDS))


def _read_table(file: Path) -> Iterator[Line]:
    """Lines of cells parted by tabs, or else by blanks, whose first is a header unless a number ends it."""
    try:
        lines = read_texts(file, form="txt").texts
    except InputError as error:
        raise InputError(f"{error} Every line of qrels is a query, a document and a score.") from error
    names: list[str] = []
    for place, text in enumerate(lines, 1):
        cells = text.split("\t") if "\t" in text else text.split()
        if not text.strip():
            continue
        if not names:
            names = _table_columns(cells)
            if names == cells:
                continue
        if len(cells) != len(names):
            raise Line(file, place, {}).error(f"{len(cells)} fields, and {len(names)} in the first line. Mend it.")
        yield Line(file, place, dict(zip(names, cells, strict=True)))


def _table_columns(first: list[str]) -> list[str]:
    """The fields of a table by its first line: its header, or those of BEIR or trec_eval."""
    if len(first) not in (3, 4) or parse_number(first[-1]) is None:
        return first
    return [QUERY_FIELDS[0], *(["iteration"] if len(first) == 4 else []), DOCUMENT_FIELDS[0], RELEVANCE_FIELDS[0]]


def _has_relevant(labels: Mapping[str, int]) -> bool:
    return any(grade > 0 for grade in labels.values())


def _warn_of_missing(file: Path, missing: _MissingIds) -> None:
    parts, documents, queries = missing.parts, missing.documents, missing.queries
    if documents:
        warn_caller(
            f"{file} names documents that are not in {parts.corpus_name}, {documents[0]!r} the first, in "
            f"{len(documents):,} of its lines. As in mteb, relevant ones count as documents that were not found."
        )
    if queries:
        warn_caller(
            f"{file} names queries that are not in {parts.queries_name}, {queries[0]!r} the first, in "
            f"{len(queries):,} of its lines, which are left out."
        )


def _warn_of_nothing_relevant(file: Path, relevant: Mapping[str, Mapping[str, int]]) -> None:
    nothing = [query for query, grades in relevant.items() if not _has_relevant(grades)]
    if nothing:
        warn_caller(
            f"{file}: no document is relevant (score 1 or more) to {len(nothing):,} of {len(relevant):,} queries, "
            f"{nothing[0]!r} the first; mteb counts each as 0."
        )
