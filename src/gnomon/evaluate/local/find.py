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
from gnomon.evaluate.local.beir import is_beir, read_beir
from gnomon.evaluate.local.rows import (
    ROW_FORMATS,
    Columns,
    Kind,
    Line,
    RetrievalData,
    RowFormat,
    TaskData,
    file_stem,
    find_formats,
    find_row_files,
    find_score_scale,
    is_row_file,
    list_entries,
    normalize_split_name,
    read_lines,
    read_subset,
)
from gnomon.evaluate.local.task_json import MAIN_SCORES, TASK_FILE, TaskSettings, choose_main_score, read_settings
from gnomon.messages import did_you_mean
from gnomon.warn import warn_caller

__all__ = ["MAIN_SCORES", "Columns", "Kind", "LocalTask", "RetrievalData", "read_local"]

DEFAULT_SUBSET = "default"
"""mteb's name of the subset of a task that has no others."""

SPLIT_PATTERN = re.compile(
    r"(?:(.+)[._-])?(train|training|dev|development|val|valid|validation|test|testing)(?:[._-](.+))?", re.IGNORECASE
)
"""A file's name that says a split: test, sts-test, test_de, en-de.test."""
SHARD_PATTERN = re.compile(r"[._-]?\d{5}-of-\d{5}$")

KNOWN_LAYOUTS = (
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
    subsets: Mapping[str, Mapping[str, TaskData]]
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


class SubsetFilter:
    """Which subsets of several sets are evaluated: those of the wanted names, in every set that has one of them.

    A set without subsets is evaluated whole; of a set with others, nothing is. Both are told.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self.requested = tuple(dict.fromkeys(wanted))
        self._subsets_by_set: dict[str, list[str]] = {}
        """{set: names of its subsets}"""

    def select(self, name: str, subsets: Iterable[str]) -> list[str]:
        """Those of one set that are evaluated."""
        there = list(subsets)
        self._subsets_by_set.setdefault(name, []).extend(there)
        chosen = [subset for subset in self.requested if subset in there]
        return there if not self.requested or there == [DEFAULT_SUBSET] else chosen

    def check(self) -> None:
        """
        Raises:
            InputError: a wanted name that no set has.
        """
        every = list(dict.fromkeys(subset for subsets in self._subsets_by_set.values() for subset in subsets))
        if lacking := [subset for subset in self.requested if subset not in every]:
            sets = list(self._subsets_by_set)
            has, it = ("has", "it has") if len(sets) == 1 else ("have", "they have")
            near = did_you_mean(lacking[0], every)
            raise InputError(f"{', '.join(sets)} {has} no subset {lacking[0]!r}; {it} {', '.join(every)}.{near}")
        wanted = ", ".join(self.requested)
        for name, subsets in self._subsets_by_set.items() if self.requested else ():
            if subsets == [DEFAULT_SUBSET] != list(self.requested):
                warn_caller(
                    f"{name} has no subsets, so all of it is evaluated; --subsets ({wanted}) is for the others."
                )
            elif not set(subsets) & set(self.requested):
                warn_caller(f"{name} is left out: it has none of the subsets {wanted}, but {', '.join(subsets)}.")


@dataclass(frozen=True)
class _ReadOptions:
    split: str
    subsets: SubsetFilter
    allow_rare_labels: bool
    allow_missing_ids: bool


@dataclass(frozen=True)
class _FoundSet:
    """Where a set lies, before it is read: files of rows, or folders in BEIR layout by subset."""

    name: str
    folder: Path
    settings: TaskSettings
    files: tuple[Path, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict[str, Path])


def read_local(
    place: str | Path,
    *,
    split: str = "test",
    subsets: Sequence[str] | SubsetFilter = (),
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
    found = _find_sets(path, passed) if path.is_dir() else [_find_single_file(path)]
    if not found:
        others = f" Passed over: {'; '.join(passed[:3])}." if passed else ""
        raise InputError(f"{place} holds no evaluation set. {KNOWN_LAYOUTS}{others}")
    choice = subsets if isinstance(subsets, SubsetFilter) else SubsetFilter(subsets)
    asked = _ReadOptions(normalize_split_name(split), choice, allow_rare_labels, allow_missing_ids)
    tasks: list[LocalTask] = []
    for each in found:
        tasks.extend(_read_retrieval(each, asked) if each.folders else _read_row_tasks(each, asked))
    if choice is not subsets:
        choice.check()
    return tasks


# ---- finding


def _find_single_file(file: Path) -> _FoundSet:
    if not is_row_file(file):
        raise InputError(f"{file} is no file of rows. {KNOWN_LAYOUTS}")
    subset, _ = _parse_file_name(file)
    return _FoundSet(
        _folder_name(file.parent) if subset == DEFAULT_SUBSET else subset, file.parent, TaskSettings(), (file,)
    )


def _find_sets(folder: Path, skipped: list[str], ancestors: tuple[Path, ...] = ()) -> list[_FoundSet]:
    """The sets of a folder and the folders in it; what is none goes to `passed`."""
    real = folder.resolve()
    if real in ancestors:  # a link back up
        return []
    settings = read_settings(folder)
    name = settings.name or _folder_name(folder)
    if is_beir(folder):
        return [_FoundSet(name, folder, settings, folders={DEFAULT_SUBSET: folder})]
    inner = [entry for entry in list_entries(folder) if entry.is_dir()]
    found = [each for one in inner for each in _find_sets(one, skipped, (*ancestors, real))]
    files = tuple(find_row_files(folder))
    if (ancestors or found) and not (settings.kind or any(map(_may_be_evaluated, files))):
        skipped.extend(f"{file} (fields {', '.join(_read_first_fields(file))})" for file in files)
        files = ()
    if files:
        return [_FoundSet(name, folder, settings, files), *found]
    subsets = {one.name: one for one in inner if is_beir(one) and not (one / TASK_FILE).exists()}
    if len(subsets) == len(found) > 1:
        return [_FoundSet(name, folder, settings, folders=subsets)]
    if settings != TaskSettings():
        raise InputError(
            f"{folder / TASK_FILE} is of one set, and {folder} holds {len(found)}; put it beside its files."
        )
    return found


def _may_be_evaluated(file: Path) -> bool:
    """Whether it looks like an evaluation set: training pairs and other tables are passed over, empty files are not."""
    fields = _read_first_fields(file)
    return not fields or bool(find_formats(set(fields)))


def _read_first_fields(file: Path) -> list[str]:
    try:
        return next((list(line.row) for line in read_lines(file)), [])
    except InputError:  # it may be of a split that nobody asked for; who reads it says what is wrong
        return []


def _folder_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # noqa: PTH100  # resolve() would name the target of a link


def _parse_file_name(file: Path) -> tuple[str, str]:
    """(subset, split) by a file's name: test.jsonl, en-de.jsonl, en-de.test.jsonl; "test" where it says none."""
    name = SHARD_PATTERN.sub("", file_stem(file))
    said = SPLIT_PATTERN.fullmatch(name)
    if said is None:
        return name, "test"
    front, split, back = said.groups()
    return "-".join(filter(None, (front, back))) or DEFAULT_SUBSET, normalize_split_name(split.lower())


# ---- retrieval


def _read_retrieval(found: _FoundSet, options: _ReadOptions) -> list[LocalTask]:
    chosen = {name: found.folders[name] for name in options.subsets.select(found.name, found.folders)}
    if not chosen:
        return []
    allow_missing_ids = options.allow_missing_ids or found.settings.allow_missing_ids
    subsets = {
        subset: read_beir(folder, options.split, allow_missing_ids=allow_missing_ids)
        for subset, folder in chosen.items()
    }
    ranked = [subset for subset, splits in subsets.items() if splits[options.split].candidates is not None]
    kind = found.settings.kind or ("Reranking" if ranked else "Retrieval")
    if kind not in ("Retrieval", "Reranking"):
        raise InputError(
            f"{found.folder / TASK_FILE}: kind is {kind!r}; a folder in BEIR layout is Retrieval or Reranking."
        )
    lacking = [subset for subset in subsets if subset not in ranked]
    if kind == "Reranking" and lacking:
        raise InputError(
            f"{chosen[lacking[0]]} has no top_ranked.jsonl; reranking needs the candidates of every query."
        )
    if found.settings.ignore_identical_ids is None:
        for subset, splits in subsets.items():
            _warn_of_identical_ids(chosen[subset], splits[options.split], found.folder)
    data: dict[str, dict[str, TaskData]] = {
        subset: {split: each if kind == "Reranking" else _drop_candidates(each) for split, each in splits.items()}
        for subset, splits in subsets.items()
    }
    return [_build_task(found, found.name, kind, data, None)]


def _warn_of_identical_ids(folder: Path, data: RetrievalData, task_folder: Path) -> None:
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
        f'{{"ignore_identical_ids": true}} in {task_folder / TASK_FILE} leaves that document out, as mteb does for such sets, and '
        "false keeps it, as now."
    )


def _drop_candidates(data: RetrievalData) -> RetrievalData:
    return RetrievalData(data.documents, data.queries, data.relevance)


# ---- rows


def _read_row_tasks(found: _FoundSet, options: _ReadOptions) -> list[LocalTask]:
    for key in ("ignore_identical_ids", "allow_missing_ids"):
        if getattr(found.settings, key):
            raise InputError(
                f"{found.folder / TASK_FILE}: {key} is for folders in BEIR layout, and these are files of rows."
            )
    files = _parse_file_names(found)
    lines = {file: _read_nonempty_lines(file) for file, part in files.items() if part.split == options.split}
    if not lines:
        has = ", ".join(dict.fromkeys(part.split for part in files.values()))
        raise InputError(f"{found.folder} has no split {options.split!r}; it has {has}. --split names another.")
    learned = any(part.split == "train" for part in files.values())
    forms = _common_formats(found, lines, has_train=learned)
    if learned and any(form.kind == "Classification" for form in forms):
        of_train = {
            file: _read_nonempty_lines(file)
            for file, part in files.items()
            if part.split == "train" and file not in lines
        }
        _common_formats(found, lines | of_train, has_train=learned)  # both must be of that kind
        lines |= of_train
    grouped = _group_by_subset(files, lines, found, warn=not options.subsets.requested)
    chosen = {name: grouped[name] for name in options.subsets.select(found.name, grouped)}
    if not chosen:
        return []
    return [
        _build_row_task(found, found.name if len(forms) == 1 else f"{found.name}-{form.kind}", form, chosen, options)
        for form in forms
    ]


def _read_nonempty_lines(file: Path) -> list[Line]:
    lines = list(read_lines(file))
    if not lines:
        raise InputError(f"{file} is empty; take it out, or fill it.")
    return lines


class _FileNameParts(NamedTuple):
    """What a file's name says of its rows."""

    subset: str
    split: str
    shard: str


def _parse_file_names(found: _FoundSet) -> dict[Path, _FileNameParts]:
    """
    Raises:
        InputError: two files are of one subset and split, and are no shards.
    """
    files: dict[Path, _FileNameParts] = {}
    seen: dict[_FileNameParts, Path] = {}
    for file in found.files:
        subset, split = _parse_file_name(file)
        shard = SHARD_PATTERN.search(file_stem(file))
        files[file] = part = _FileNameParts(subset, split, shard.group() if shard else "")
        if (same := seen.setdefault(part, file)) != file:
            of = split if subset == DEFAULT_SUBSET else f"{split} of {subset}"
            raise InputError(f"{file.parent}: {same.name} and {file.name} are both {of}; take one out, or rename it.")
    return files


def _common_formats(found: _FoundSet, lines: Mapping[Path, Sequence[Line]], *, has_train: bool) -> list[RowFormat]:
    """Every kind that the rows are of: graded pairs with labels are of two. All files must agree on them."""
    wanted = found.settings.kind
    common: list[RowFormat] = list(ROW_FORMATS)
    kinds: dict[Path, list[RowFormat]] = {}
    for file in lines:
        fields = {name: None for line in lines[file] for name in line.row}
        forms = [form for form in find_formats(set(fields)) if wanted in (None, form.kind)]
        if wanted is None and {"Classification", "Clustering"} <= {form.kind for form in forms}:
            forms = [form for form in forms if form.kind != ("Clustering" if has_train else "Classification")]
        if not forms:
            needs = f"not those of {wanted}, which {TASK_FILE} says it is" if wanted else "of no kind"
            raise InputError(f"{file}: the fields {', '.join(map(repr, fields))} are {needs}. {KNOWN_LAYOUTS}")
        kinds[file] = forms
        common = [form for form in common if form in forms]
    if not common:
        listed_kinds = "; ".join(f"{file.name} {' and '.join(form.kind for form in kinds[file])}" for file in kinds)
        raise InputError(
            f"{found.folder} holds sets of several kinds: {listed_kinds}. Put each into a folder of its own, or give "
            "the files one by one."
        )
    return common


def _group_by_subset(
    files: Mapping[Path, _FileNameParts], lines: Mapping[Path, Sequence[Line]], found: _FoundSet, *, warn: bool
) -> dict[str, dict[str, list[Line]]]:
    """{subset: {split: lines}} by the files' names and the field "lang"; no lines of files that were not read."""
    alone = len({part.subset for part in files.values()}) == 1
    grouped: dict[str, dict[str, list[Line]]] = {}
    subsets_of: dict[str, dict[str, None]] = {}
    """{subset by the names of files: subsets of its rows}"""
    for file, rows in lines.items():
        of_file = DEFAULT_SUBSET if alone else files[file].subset
        for line in rows:
            subset = _subset_name(of_file, line.row.get("lang"))
            grouped.setdefault(subset, {}).setdefault(files[file].split, []).append(line)
            subsets_of.setdefault(of_file, {})[subset] = None
    for file, part in files.items():
        of_file = DEFAULT_SUBSET if alone else part.subset
        for subset in subsets_of.get(of_file, (of_file,)) if file not in lines else ():
            grouped.setdefault(subset, {}).setdefault(part.split, [])
    if warn and any(len(subsets) > 1 for subsets in subsets_of.values()):
        some = ", ".join(islice(sorted(grouped), 3)) + (", ..." if len(grouped) > 3 else "")
        warn_caller(
            f"{found.folder}: the field lang makes {len(grouped)} subsets of this set ({some}), and its score is the "
            "mean of theirs. --subsets names those to evaluate; under another name of the field the set is one."
        )
    return dict(sorted(grouped.items()))


def _subset_name(file_subset: str, lang: object) -> str:
    """By a file's name and a row's language, which may be in that name."""
    if not isinstance(lang, str) or not lang or lang in re.split("[._-]", file_subset) or lang == file_subset:
        return file_subset
    return lang if file_subset == DEFAULT_SUBSET else f"{file_subset}-{lang}"


def _build_row_task(
    found: _FoundSet,
    name: str,
    row_format: RowFormat,
    subsets: Mapping[str, Mapping[str, Sequence[Line]]],
    options: _ReadOptions,
) -> LocalTask:
    if row_format.kind == "Classification" and options.split == "train":
        raise InputError(
            f"{found.folder}: Classification learns from train; name another split to be judged (--split)."
        )
    data: dict[str, dict[str, TaskData]] = {}
    for subset, splits in subsets.items():
        where = found.folder if subset == DEFAULT_SUBSET else f"{found.folder} ({subset})"
        has = ", ".join(splits)
        if options.split not in splits:
            more = "" if subset == DEFAULT_SUBSET else ", and --subsets the subsets that have it"
            raise InputError(f"{where} has no split {options.split!r}; it has {has}. --split names another{more}.")
        if row_format.kind == "Classification" and "train" not in splits:
            raise InputError(f"{where} has no split 'train', which Classification learns from; it has {has}.")
        data[subset] = read_subset(row_format, splits, options.split, allow_rare_labels=options.allow_rare_labels)
    judged = [line for splits in subsets.values() for line in splits[options.split]]
    scale = find_score_scale(row_format, judged, found.settings.min_score, found.settings.max_score)
    return _build_task(found, name, row_format.kind, data, scale)


# ---- all


def _build_task(
    found: _FoundSet,
    name: str,
    kind: Kind,
    data: Mapping[str, Mapping[str, TaskData]],
    scale: tuple[float, float] | None,
) -> LocalTask:
    metric = choose_main_score(found.settings, kind, found.folder)
    ignore = bool(found.settings.ignore_identical_ids)
    revision = _hash_data(data, ignore_identical_ids=ignore)
    return LocalTask(name, kind, metric, found.folder, data, found.settings.languages, scale, revision, ignore)


def _hash_data(subsets: Mapping[str, Mapping[str, TaskData]], *, ignore_identical_ids: bool) -> str:
    """A hash of what was read, not of files: formats, compression and fields that nothing uses do not count."""
    digest = hashlib.sha256(b"ignore_identical_ids\n" if ignore_identical_ids else b"")
    for subset, splits in sorted(subsets.items()):
        documents: object = None
        for split, data in sorted(splits.items()):
            if isinstance(data, RetrievalData):
                rows = _retrieval_rows(data, with_documents=data.documents is not documents)  # all splits share them
                documents = data.documents
            else:
                rows = ((name, value) for name, values in sorted(data.items()) for value in values)
            for row in rows:
                digest.update(json.dumps([subset, split, *row]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _retrieval_rows(data: RetrievalData, *, with_documents: bool) -> Iterator[tuple[str, object]]:
    if with_documents:
        yield from (("document", each) for each in sorted(data.documents.items()))
    yield from (("query", each) for each in sorted(data.queries.items()))
    yield from (("relevant", [query, sorted(grades.items())]) for query, grades in sorted(data.relevance.items()))
    yield from (("candidates", [query, sorted(ids)]) for query, ids in sorted((data.candidates or {}).items()))
