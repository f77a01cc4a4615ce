"""Evaluation sets out of folders: found, read and checked before any text is encoded. No network, no mteb.

A set is told by what it holds (docs/evaluation.md): a folder in BEIR layout is retrieval (`judged`), and files of rows
are what their fields say (`rows`). Subsets are folders of BEIR layout in one folder, files, or values of "lang".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gnomon.errors import InputError
from gnomon.evaluate.local.beir import is_beir, read_judged
from gnomon.evaluate.local.rows import (
    FORMS,
    Columns,
    Data,
    Form,
    Judged,
    Kind,
    Line,
    forms_of,
    is_rows,
    lines_of,
    listed,
    read_subset,
    row_files,
    scale_of,
    split_name,
    stem,
)
from gnomon.evaluate.local.task_json import FILE, MAIN_SCORES, Settings, main_score, read_settings
from gnomon.inputs import did_you_mean
from gnomon.notices import warn_caller

__all__ = ["MAIN_SCORES", "Columns", "Judged", "Kind", "LocalTask", "read_local"]

DEFAULT = "default"
"""mteb's name of the subset of a task that has no others."""

SPLIT = re.compile(
    r"(?:(.+)[._-])?(train|training|dev|development|val|valid|validation|test|testing)(?:[._-](.+))?", re.IGNORECASE
)
"""A file's name that says a split: test, sts-test, test_de, en-de.test."""
SHARD = re.compile(r"[._-]?\d{5}-of-\d{5}$")

KNOWN = (
    "What is known: a folder with corpus.jsonl, queries.jsonl and qrels/; or .jsonl, .csv, .tsv or .parquet files with "
    "the fields sentence1, sentence2 (and score, or label); text, label; query, positive, negative; or text, "
    "human_summaries, machine_summaries, relevance."
)


@dataclass(frozen=True)
class LocalTask:
    """One evaluation set, read and checked."""

    name: str
    kind: Kind
    main_score: str
    folder: Path
    subsets: Mapping[str, Mapping[str, Data]]
    """{subset: {split: data}}"""
    languages: tuple[str, ...]
    scale: tuple[float, float] | None
    """Least and highest score of graded pairs and summaries."""
    revision: str
    """A hash of the data that is used, in whatever files: a result is of this data and no other."""
    ignore_identical_ids: bool = False
    """Leave the document with a query's own id out of its results."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split for splits in self.subsets.values() for split in splits))


class SubsetChoice:
    """Which subsets of several sets are evaluated: those of the wanted names, in every set that has one of them.

    A set without subsets is evaluated whole; of a set with others, nothing is. Both are told.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self.wanted = tuple(dict.fromkeys(wanted))
        self._known: dict[str, list[str]] = {}
        """{set: names of its subsets}"""

    def of(self, name: str, subsets: Iterable[str]) -> list[str]:
        """Those of one set that are evaluated."""
        there = list(subsets)
        self._known.setdefault(name, []).extend(there)
        chosen = [subset for subset in self.wanted if subset in there]
        return there if not self.wanted or there == [DEFAULT] else chosen

    def check(self) -> None:
        """
        Raises:
            InputError: a wanted name that no set has.
        """
        every = list(dict.fromkeys(subset for subsets in self._known.values() for subset in subsets))
        if lacking := [subset for subset in self.wanted if subset not in every]:
            sets = list(self._known)
            has, it = ("has", "it has") if len(sets) == 1 else ("have", "they have")
            near = did_you_mean(lacking[0], every)
            raise InputError(f"{', '.join(sets)} {has} no subset {lacking[0]!r}; {it} {', '.join(every)}.{near}")
        wanted = ", ".join(self.wanted)
        for name, subsets in self._known.items() if self.wanted else ():
            if subsets == [DEFAULT] != list(self.wanted):
                warn_caller(
                    f"{name} has no subsets, so all of it is evaluated; --subsets ({wanted}) is for the others."
                )
            elif not set(subsets) & set(self.wanted):
                warn_caller(f"{name} is left out: it has none of the subsets {wanted}, but {', '.join(subsets)}.")


@dataclass(frozen=True)
class _Asked:
    split: str
    subsets: SubsetChoice
    allow_rare_labels: bool
    allow_missing_ids: bool


@dataclass(frozen=True)
class _Found:
    """Where a set lies, before it is read: files of rows, or folders in BEIR layout by subset."""

    name: str
    place: Path
    settings: Settings
    files: tuple[Path, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict[str, Path])


def read_local(
    place: str | Path,
    *,
    split: str = "test",
    subsets: Sequence[str] | SubsetChoice = (),
    allow_rare_labels: bool = False,
    allow_missing_ids: bool = False,
) -> list[LocalTask]:
    """The evaluation sets of a folder, or of one file of rows.

    Args:
        split: what is judged; it must be there. Classification learns from "train".
        subsets: names of those to read; none for all. A `SubsetChoice` is shared by several calls, and is checked by
            who made it.
        allow_rare_labels: let a label be learned, or a cluster judged, by a single text.
        allow_missing_ids: let qrels name queries and documents that are not there (`judged.read_judged`).

    Raises:
        InputError: nothing there that is an evaluation set; anything in it that cannot be judged, by file and line.
        OSError: a file or folder that cannot be opened.
    """
    path = Path(place)
    if not path.exists():
        raise InputError(f"there is no {str(place)!r}; give a folder in BEIR layout, or of .jsonl, .csv or .tsv files.")
    passed: list[str] = []
    found = _find(path, passed) if path.is_dir() else [_alone(path)]
    if not found:
        others = f" Passed over: {'; '.join(passed[:3])}." if passed else ""
        raise InputError(f"{place} holds no evaluation set. {KNOWN}{others}")
    choice = subsets if isinstance(subsets, SubsetChoice) else SubsetChoice(subsets)
    asked = _Asked(split_name(split), choice, allow_rare_labels, allow_missing_ids)
    tasks: list[LocalTask] = []
    for each in found:
        tasks.extend(_retrieval(each, asked) if each.folders else _of_rows(each, asked))
    if choice is not subsets:
        choice.check()
    return tasks


# ---- finding


def _alone(file: Path) -> _Found:
    if not is_rows(file):
        raise InputError(f"{file} is no file of rows. {KNOWN}")
    subset, _ = _part_of(file)
    return _Found(_name(file.parent) if subset == DEFAULT else subset, file.parent, Settings(), (file,))


def _find(folder: Path, passed: list[str], above: tuple[Path, ...] = ()) -> list[_Found]:
    """The sets of a folder and the folders in it; what is none goes to `passed`."""
    real = folder.resolve()
    if real in above:  # a link back up
        return []
    settings = read_settings(folder)
    name = settings.name or _name(folder)
    if is_beir(folder):
        return [_Found(name, folder, settings, folders={DEFAULT: folder})]
    inner = [entry for entry in listed(folder) if entry.is_dir()]
    found = [each for one in inner for each in _find(one, passed, (*above, real))]
    files = tuple(row_files(folder))
    if (above or found) and not (settings.kind or any(map(_may_be_judged, files))):
        passed.extend(f"{file} (fields {', '.join(_first_fields(file))})" for file in files)
        files = ()
    if files:
        return [_Found(name, folder, settings, files), *found]
    subsets = {one.name: one for one in inner if is_beir(one) and not (one / FILE).exists()}
    if len(subsets) == len(found) > 1:
        return [_Found(name, folder, settings, folders=subsets)]
    if settings != Settings():
        raise InputError(f"{folder / FILE} is of one set, and {folder} holds {len(found)}; put it beside its files.")
    return found


def _may_be_judged(file: Path) -> bool:
    """Whether it looks like an evaluation set: training pairs and other tables are passed over, empty files are not."""
    fields = _first_fields(file)
    return not fields or bool(forms_of(set(fields)))


def _first_fields(file: Path) -> list[str]:
    try:
        return next((list(line.row) for line in lines_of(file)), [])
    except InputError:  # it may be of a split that nobody asked for; who reads it says what is wrong
        return []


def _name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # noqa: PTH100  # resolve() would name the target of a link


def _part_of(file: Path) -> tuple[str, str]:
    """(subset, split) by a file's name: test.jsonl, en-de.jsonl, en-de.test.jsonl; "test" where it says none."""
    name = SHARD.sub("", stem(file))
    said = SPLIT.fullmatch(name)
    if said is None:
        return name, "test"
    front, split, back = said.groups()
    return "-".join(filter(None, (front, back))) or DEFAULT, split_name(split.lower())


# ---- retrieval


def _retrieval(found: _Found, asked: _Asked) -> list[LocalTask]:
    chosen = {name: found.folders[name] for name in asked.subsets.of(found.name, found.folders)}
    if not chosen:
        return []
    allow_missing_ids = asked.allow_missing_ids or found.settings.allow_missing_ids
    subsets = {
        subset: read_judged(folder, asked.split, allow_missing_ids=allow_missing_ids)
        for subset, folder in chosen.items()
    }
    ranked = [subset for subset, splits in subsets.items() if splits[asked.split].candidates is not None]
    kind = found.settings.kind or ("Reranking" if ranked else "Retrieval")
    if kind not in ("Retrieval", "Reranking"):
        raise InputError(f"{found.place / FILE}: kind is {kind!r}; a folder in BEIR layout is Retrieval or Reranking.")
    lacking = [subset for subset in subsets if subset not in ranked]
    if kind == "Reranking" and lacking:
        raise InputError(
            f"{chosen[lacking[0]]} has no top_ranked.jsonl; reranking needs the candidates of every query."
        )
    if found.settings.ignore_identical_ids is None:
        for subset, splits in subsets.items():
            _tell_of_identical_ids(chosen[subset], splits[asked.split], found.place)
    data: dict[str, dict[str, Data]] = {
        subset: {split: each if kind == "Reranking" else _without_candidates(each) for split, each in splits.items()}
        for subset, splits in subsets.items()
    }
    return [_task(found, found.name, kind, data, None)]


def _tell_of_identical_ids(folder: Path, data: Judged, place: Path) -> None:
    """Queries that are documents themselves find themselves first."""
    identical = [query for query in data.queries if query in data.documents]
    if not identical:
        return
    copies = sum(
        data.queries[query].strip() in (text.strip(), f"{title} {text}".strip())
        for query, (title, text) in ((query, data.documents[query]) for query in identical)
    )
    warn_caller(
        f"{folder}: {len(identical):,} of {len(data.queries):,} queries have the id of a document ({identical[0]!r}), "
        f"and {copies:,} its text too. Where they are one thing, each query finds itself: "
        f'{{"ignore_identical_ids": true}} in {place / FILE} leaves that document out, as mteb does for such sets, and '
        "false keeps it, as now."
    )


def _without_candidates(data: Judged) -> Judged:
    return Judged(data.documents, data.queries, data.relevant)


# ---- rows


def _of_rows(found: _Found, asked: _Asked) -> list[LocalTask]:
    for key in ("ignore_identical_ids", "allow_missing_ids"):
        if getattr(found.settings, key):
            raise InputError(f"{found.place / FILE}: {key} is for folders in BEIR layout, and these are files of rows.")
    files = _files(found)
    lines = {file: _lines(file) for file, part in files.items() if part.split == asked.split}
    if not lines:
        has = ", ".join(dict.fromkeys(part.split for part in files.values()))
        raise InputError(f"{found.place} has no split {asked.split!r}; it has {has}. --split names another.")
    learned = any(part.split == "train" for part in files.values())
    forms = _forms(found, lines, learned=learned)
    if learned and any(form.kind == "Classification" for form in forms):
        of_train = {file: _lines(file) for file, part in files.items() if part.split == "train" and file not in lines}
        _forms(found, lines | of_train, learned=learned)  # both must be of that kind
        lines |= of_train
    grouped = _grouped(files, lines, found, tell=not asked.subsets.wanted)
    chosen = {name: grouped[name] for name in asked.subsets.of(found.name, grouped)}
    if not chosen:
        return []
    return [
        _row_task(found, found.name if len(forms) == 1 else f"{found.name}-{form.kind}", form, chosen, asked)
        for form in forms
    ]


def _lines(file: Path) -> list[Line]:
    lines = list(lines_of(file))
    if not lines:
        raise InputError(f"{file} is empty; take it out, or fill it.")
    return lines


class _Part(NamedTuple):
    """What a file's name says of its rows."""

    subset: str
    split: str
    shard: str


def _files(found: _Found) -> dict[Path, _Part]:
    """
    Raises:
        InputError: two files are of one subset and split, and are no shards.
    """
    files: dict[Path, _Part] = {}
    seen: dict[_Part, Path] = {}
    for file in found.files:
        subset, split = _part_of(file)
        shard = SHARD.search(stem(file))
        files[file] = part = _Part(subset, split, shard.group() if shard else "")
        if (same := seen.setdefault(part, file)) != file:
            of = split if subset == DEFAULT else f"{split} of {subset}"
            raise InputError(f"{file.parent}: {same.name} and {file.name} are both {of}; take one out, or rename it.")
    return files


def _forms(found: _Found, lines: Mapping[Path, Sequence[Line]], *, learned: bool) -> list[Form]:
    """Every kind that the rows are of: graded pairs with labels are of two. All files must agree on them."""
    wanted = found.settings.kind
    common: list[Form] = list(FORMS)
    kinds: dict[Path, list[Form]] = {}
    for file in lines:
        fields = {name: None for line in lines[file] for name in line.row}
        forms = [form for form in forms_of(set(fields)) if wanted in (None, form.kind)]
        if wanted is None and {"Classification", "Clustering"} <= {form.kind for form in forms}:
            forms = [form for form in forms if form.kind != ("Clustering" if learned else "Classification")]
        if not forms:
            needs = f"not those of {wanted}, which {FILE} says it is" if wanted else "of no kind"
            raise InputError(f"{file}: the fields {', '.join(map(repr, fields))} are {needs}. {KNOWN}")
        kinds[file] = forms
        common = [form for form in common if form in forms]
    if not common:
        listed_kinds = "; ".join(f"{file.name} {' and '.join(form.kind for form in kinds[file])}" for file in kinds)
        raise InputError(
            f"{found.place} holds sets of several kinds: {listed_kinds}. Put each into a folder of its own, or give "
            "the files one by one."
        )
    return common


def _grouped(
    files: Mapping[Path, _Part], lines: Mapping[Path, Sequence[Line]], found: _Found, *, tell: bool
) -> dict[str, dict[str, list[Line]]]:
    """{subset: {split: lines}} by the files' names and the field "lang"; no lines of files that were not read."""
    alone = len({part.subset for part in files.values()}) == 1
    grouped: dict[str, dict[str, list[Line]]] = {}
    subsets_of: dict[str, dict[str, None]] = {}
    """{subset by the names of files: subsets of its rows}"""
    for file, rows in lines.items():
        of_file = DEFAULT if alone else files[file].subset
        for line in rows:
            subset = _subset(of_file, line.row.get("lang"))
            grouped.setdefault(subset, {}).setdefault(files[file].split, []).append(line)
            subsets_of.setdefault(of_file, {})[subset] = None
    for file, part in files.items():
        of_file = DEFAULT if alone else part.subset
        for subset in subsets_of.get(of_file, (of_file,)) if file not in lines else ():
            grouped.setdefault(subset, {}).setdefault(part.split, [])
    if tell and any(len(subsets) > 1 for subsets in subsets_of.values()):
        some = ", ".join(islice(sorted(grouped), 3)) + (", ..." if len(grouped) > 3 else "")
        warn_caller(
            f"{found.place}: the field lang makes {len(grouped)} subsets of this set ({some}), and its score is the "
            "mean of theirs. --subsets names those to evaluate; under another name of the field the set is one."
        )
    return dict(sorted(grouped.items()))


def _subset(of_file: str, lang: object) -> str:
    """By a file's name and a row's language, which may be in that name."""
    if not isinstance(lang, str) or not lang or lang in re.split("[._-]", of_file) or lang == of_file:
        return of_file
    return lang if of_file == DEFAULT else f"{of_file}-{lang}"


def _row_task(
    found: _Found, name: str, form: Form, subsets: Mapping[str, Mapping[str, Sequence[Line]]], asked: _Asked
) -> LocalTask:
    if form.kind == "Classification" and asked.split == "train":
        raise InputError(f"{found.place}: Classification learns from train; name another split to be judged (--split).")
    data: dict[str, dict[str, Data]] = {}
    for subset, splits in subsets.items():
        where = found.place if subset == DEFAULT else f"{found.place} ({subset})"
        has = ", ".join(splits)
        if asked.split not in splits:
            more = "" if subset == DEFAULT else ", and --subsets the subsets that have it"
            raise InputError(f"{where} has no split {asked.split!r}; it has {has}. --split names another{more}.")
        if form.kind == "Classification" and "train" not in splits:
            raise InputError(f"{where} has no split 'train', which Classification learns from; it has {has}.")
        data[subset] = read_subset(form, splits, asked.split, allow_rare_labels=asked.allow_rare_labels)
    judged = [line for splits in subsets.values() for line in splits[asked.split]]
    scale = scale_of(form, judged, found.settings.min_score, found.settings.max_score)
    return _task(found, name, form.kind, data, scale)


# ---- all


def _task(
    found: _Found, name: str, kind: Kind, data: Mapping[str, Mapping[str, Data]], scale: tuple[float, float] | None
) -> LocalTask:
    metric = main_score(found.settings, kind, found.place)
    ignore = bool(found.settings.ignore_identical_ids)
    revision = _revision(data, ignore_identical_ids=ignore)
    return LocalTask(name, kind, metric, found.place, data, found.settings.languages, scale, revision, ignore)


def _revision(subsets: Mapping[str, Mapping[str, Data]], *, ignore_identical_ids: bool) -> str:
    """A hash of what was read, not of files: formats, compression and fields that nothing uses do not count."""
    digest = hashlib.sha256(b"ignore_identical_ids\n" if ignore_identical_ids else b"")
    for subset, splits in sorted(subsets.items()):
        documents: object = None
        for split, data in sorted(splits.items()):
            if isinstance(data, Judged):
                rows = _judged_rows(data, with_documents=data.documents is not documents)  # all splits share them
                documents = data.documents
            else:
                rows = ((name, value) for name, values in sorted(data.items()) for value in values)
            for row in rows:
                digest.update(json.dumps([subset, split, *row]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _judged_rows(data: Judged, *, with_documents: bool) -> Iterator[tuple[str, object]]:
    if with_documents:
        yield from (("document", each) for each in sorted(data.documents.items()))
    yield from (("query", each) for each in sorted(data.queries.items()))
    yield from (("relevant", [query, sorted(grades.items())]) for query, grades in sorted(data.relevant.items()))
    yield from (("candidates", [query, sorted(ids)]) for query, ids in sorted((data.candidates or {}).items()))
