"""Folders in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, and top_ranked.jsonl for reranking.

qrels may have a header (query-id, corpus-id, score), or none: three fields, or the four of trec_eval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from gnomon.errors import InputError
from gnomon.evaluate.rows import Judged, Line, is_rows, lines_of, listed, number, shown, stem
from gnomon.notices import warn_caller
from gnomon.textfiles import form_of, read_texts

QUERY = ("query-id", "query_id", "qid")
DOCUMENT = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
GRADE = ("score", "rel", "relevance")

LAYOUT = "BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv."

MAX_GRADE = 1000
"""trec_eval, which mteb scores by, holds a table as long as the highest grade."""


def is_beir(folder: Path) -> bool:
    """Whether two of the three parts are there: what lacks is told when it is read."""
    return sum([_qrels_folder(folder).is_dir(), *(bool(_parts(folder, part)) for part in ("corpus", "queries"))]) > 1


def read_judged(folder: Path, wanted: str) -> dict[str, Judged]:
    """{split: data}: the one that is judged first, then the others, which fusion may be tuned on.

    Raises:
        InputError: a part or split that lacks, an empty split, a line that cannot be used, an id that is not there.
    """
    documents_file, queries_file = _needed(folder, "corpus"), _needed(folder, "queries")
    splits = _splits(folder)
    if wanted not in splits:
        has = ", ".join(splits) or "none; a split is a file like test.tsv"
        raise InputError(f"{_qrels_folder(folder)} has no split {wanted!r}; it has {has}. --split names another.")
    documents = {key: (_title(line), line.text("text")) for key, line in _by_id(documents_file)}
    queries = {key: line.text("text") for key, line in _by_id(queries_file)}
    ranked_file = _part(folder, "top_ranked")
    ranked = _ranked(ranked_file, documents, documents_file.name) if ranked_file else None
    found: dict[str, Judged] = {}
    for split in (wanted, *(other for other in splits if other != wanted)):
        relevant = _relevant(splits[split], documents, queries, (documents_file.name, queries_file.name))
        if not any(_shows_something(grades) for grades in relevant.values()):
            if split == wanted:
                raise InputError(
                    f"{splits[split]} is an empty split: it names no relevant document (score 1 or more), so nothing "
                    "can be judged. Fill it, or name another (--split)."
                )
            continue
        if split == wanted:
            _tell_of_nothing_relevant(splits[split], relevant)
        candidates = None
        if ranked is not None:
            if lacking := [query for query in relevant if query not in ranked]:
                raise InputError(f"{ranked_file} has no candidates for query {lacking[0]!r}, which {split} judges.")
            candidates = {query: ranked[query] for query in relevant}
        found[split] = Judged(documents, {query: queries[query] for query in relevant}, relevant, candidates)
    return found


# ---- parts


def _qrels_folder(folder: Path) -> Path:
    return folder / "qrels"


def _parts(folder: Path, name: str) -> list[Path]:
    return [file for file in listed(folder) if stem(file).lower() == name and is_rows(file)]


def _part(folder: Path, name: str) -> Path | None:
    """The file of a name, in whichever format."""
    found = _parts(folder, name)
    if len(found) > 1:
        raise InputError(f"{folder} has {found[0].name} and {found[1].name}; take one out.")
    return found[0] if found else None


def _needed(folder: Path, name: str) -> Path:
    found = _part(folder, name)
    if found is None:
        raise InputError(f"{folder} has no {name}.jsonl; {LAYOUT}")
    return found


def _splits(folder: Path) -> dict[str, Path]:
    place = _qrels_folder(folder)
    if not place.is_dir():
        raise InputError(f"{folder} has no folder qrels; {LAYOUT}")
    found: dict[str, Path] = {}
    for file in filter(is_rows, listed(place)):
        if stem(file) in found:
            raise InputError(f"{place} has {found[stem(file)].name} and {file.name}; take one out.")
        found[stem(file)] = file
    return found


# ---- documents and queries


def _by_id(file: Path) -> Iterator[tuple[str, Line]]:
    seen: dict[str, int] = {}
    for line in lines_of(file):
        key = line.identifier("_id", "id")
        if key in seen:
            raise line.wrong(f"_id {key!r} is that of line {seen[key]} too; every id must be another.")
        seen[key] = line.number
        yield key, line
    if not seen:
        raise InputError(f"{file} is empty; without its rows nothing can be judged. Fetch or write it again.")


def _title(line: Line) -> str:
    return "" if line.row.get("title") is None else line.text("title")


def _ranked(file: Path, documents: Mapping[str, object], corpus: str) -> dict[str, list[str]]:
    """{query: documents} of rows {"query-id": ..., "corpus-ids": [...]}."""
    found: dict[str, list[str]] = {}
    for line in lines_of(file):
        query, value = line.identifier(*QUERY), line.value("corpus-ids", "corpus_ids")
        if not isinstance(value, list) or not value:
            raise line.wrong(f"corpus-ids is {shown(value)}; it must be a list of document ids (in .jsonl).")
        ids = [str(each) for each in cast("list[object]", value)]
        if lacking := [each for each in ids if each not in documents]:
            raise line.wrong(f"there is no document {lacking[0]!r} in {corpus}; add it there, or take it out.")
        if query in found:
            raise line.wrong(f"query {query!r} has candidates in a line before; put them into one.")
        found[query] = list(dict.fromkeys(ids))
    return found


# ---- qrels


def _relevant(
    file: Path, documents: Mapping[str, object], queries: Mapping[str, str], names: tuple[str, str]
) -> dict[str, dict[str, int]]:
    """{query: {document: grade}}"""
    corpus, asked = names
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in _qrels(file):
        query, document = line.identifier(*QUERY), line.identifier(*DOCUMENT)
        if query not in queries:
            raise line.wrong(f"there is no query {query!r} in {asked}; add it there, or take the line out.")
        if document not in documents:
            raise line.wrong(f"there is no document {document!r} in {corpus}; add it there, or take the line out.")
        value = line.value(*GRADE)
        said = number(value)
        if said is None or said != int(said) or abs(said) > MAX_GRADE:
            raise line.wrong(f"the score is {shown(value)}; it must be a whole number, {MAX_GRADE:,} at most.")
        if found[query].setdefault(document, int(said)) != said:
            before = found[query][document]
            raise line.wrong(
                f"{query!r} and {document!r} had score {before} before, and now {int(said)}; take one out."
            )
    return dict(found)


def _qrels(file: Path) -> Iterator[Line]:
    """Rows with one of the names of each field, whatever the file has or lacks for a header."""
    for place, line in enumerate(_table(file) if form_of(file) == "tsv" else lines_of(file)):
        if not place and not all(any(name in line.row for name in names) for names in (QUERY, DOCUMENT, GRADE)):
            has = ", ".join(line.row)
            raise InputError(f"{file}: the fields are {has}; those of qrels are {QUERY[0]}, {DOCUMENT[0]}, {GRADE[0]}.")
        yield line


def _table(file: Path) -> Iterator[Line]:
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
            names = _names(cells)
            if names == cells:
                continue
        if len(cells) != len(names):
            raise Line(file, place, {}).wrong(f"{len(cells)} fields, and {len(names)} in the first line. Mend it.")
        yield Line(file, place, dict(zip(names, cells, strict=True)))


def _names(first: list[str]) -> list[str]:
    """The fields of a table by its first line: its header, or those of BEIR or trec_eval."""
    if len(first) not in (3, 4) or number(first[-1]) is None:
        return first
    return [QUERY[0], *(["iteration"] if len(first) == 4 else []), DOCUMENT[0], GRADE[0]]


def _shows_something(grades: Mapping[str, int]) -> bool:
    return any(grade > 0 for grade in grades.values())


def _tell_of_nothing_relevant(file: Path, relevant: Mapping[str, Mapping[str, int]]) -> None:
    nothing = [query for query, grades in relevant.items() if not _shows_something(grades)]
    if nothing:
        warn_caller(
            f"{file}: no document is relevant (score 1 or more) to {len(nothing):,} of {len(relevant):,} queries, "
            f"{nothing[0]!r} the first; mteb counts each as 0."
        )
