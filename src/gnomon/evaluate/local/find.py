"""Finds the evaluation sets in a folder, reads them and checks them before any text is encoded. No network, no mteb.

What a set holds decides its kind (docs/reference/evaluation.md): a folder in BEIR layout is retrieval (`beir`), and the
fields of rows decide the kind of files of rows (`rows`). The subsets of a set are folders in BEIR layout in one folder,
files, or values of the field "lang".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from gnomon.messages import did_you_mean, list_some
from gnomon.warn import warn_caller

__all__ = ["MAIN_SCORES", "Columns", "Kind", "LocalTask", "RetrievalData", "read_local"]

DEFAULT_SUBSET = "default"
"""mteb's name for the only subset of a task."""

SPLIT_PATTERN = re.compile(
    r"(?:(.+)[._-])?(train|training|dev|development|val|valid|validation|test|testing)(?:[._-](.+))?", re.IGNORECASE
)
"""The name of a file that holds that of a split: test, sts-test, test_de, en-de.test."""
SHARD_PATTERN = re.compile(r"[._-]?\d{5}-of-\d{5}$")

KNOWN_LAYOUTS = (
    "These can be read: a folder with corpus.jsonl, queries.jsonl and qrels/; or .jsonl, .csv, .tsv or .parquet files "
    "with the fields sentence1, sentence2 (and score, or label); text, label; query, positive, negative; or text, "
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
    """The least and the highest score of pairs or summaries; None for other kinds."""
    revision: str
    """A hash of the data that is used, not of its files. A result belongs to this data only."""
    ignore_identical_ids: bool = False
    """Leave the document that has a query's own id out of its results."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split for splits in self.subsets.values() for split in splits))


class SubsetFilter:
    """Chooses the subsets that are evaluated, by their names, in several sets.

    A set without subsets is evaluated as a whole. A set that has other subsets only is left out. A Notice reports both.
    """

    def __init__(self, requested: Sequence[str]) -> None:
        """requested: names of subsets; empty for all."""
        self.requested = tuple(dict.fromkeys(requested))
        self._subsets_by_set: dict[str, list[str]] = {}
        """{set: names of its subsets}"""

    def select(self, name: str, subsets: Iterable[str]) -> list[str]:
        """The subsets of one set that are evaluated."""
        known = list(subsets)
        self._subsets_by_set.setdefault(name, []).extend(known)
        chosen = [subset for subset in self.requested if subset in known]
        return known if not self.requested or known == [DEFAULT_SUBSET] else chosen

    def check(self) -> None:
        """Check the requested names after all sets were read, and warn of sets that they do not fit.

        Raises:
            InputError: a requested name that no set has.
        """
        known = list(dict.fromkeys(subset for subsets in self._subsets_by_set.values() for subset in subsets))
        if unknown := [subset for subset in self.requested if subset not in known]:
            sets = list(self._subsets_by_set)
            has, it_has = ("has", "It has") if len(sets) == 1 else ("have", "They have")
            near = did_you_mean(unknown[0], known)
            raise InputError(f"{', '.join(sets)} {has} no subset {unknown[0]!r}. {it_has} {', '.join(known)}.{near}")
        requested = ", ".join(self.requested)
        for name, subsets in self._subsets_by_set.items() if self.requested else ():
            if subsets == [DEFAULT_SUBSET] != list(self.requested):
                warn_caller(
                    f"{name} has no subsets, so all of it is evaluated. --subsets ({requested}) applies to other sets."
                )
            elif not set(subsets) & set(self.requested):
                warn_caller(f"{name} is left out: it has {', '.join(subsets)}, but not {requested} (--subsets).")


@dataclass(frozen=True)
class _ReadOptions:
    split: str
    subsets: SubsetFilter
    allow_rare_labels: bool
    allow_missing_ids: bool


@dataclass(frozen=True)
class _FoundSet:
    """A set before it is read: its files of rows, or its folders in BEIR layout by subset."""

    name: str
    folder: Path
    settings: TaskSettings
    files: tuple[Path, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict[str, Path])


def read_local(
    path: str | Path,
    *,
    split: str = "test",
    subsets: Sequence[str] | SubsetFilter = (),
    allow_rare_labels: bool = False,
    allow_missing_ids: bool = False,
) -> list[LocalTask]:
    """Read the evaluation sets in a folder, or in one file of rows.

    Args:
        split: the split to evaluate. Classification also trains on "train".
        subsets: the names of the subsets to read; empty for all. Several calls may share a `SubsetFilter`; then the
            caller calls its `check` at the end.
        allow_rare_labels: allow classes and clusters of a single text.
        allow_missing_ids: let qrels name queries and documents that are not in the set (`beir.read_beir`).

    Raises:
        InputError: no evaluation set; anything in a set that cannot be evaluated, by file and line.
        OSError: a file or folder cannot be opened.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {str(path)!r}. Give a folder in BEIR layout, or of .jsonl, .csv or .tsv files.")
    skipped: list[str] = []
    found_sets = _find_sets(path, skipped) if path.is_dir() else [_find_single_file(path)]
    if not found_sets:
        others = f" Skipped: {list_some(skipped, 3, separator='; ')}." if skipped else ""
        raise InputError(f"{path} holds no evaluation set. {KNOWN_LAYOUTS}{others}")
    subset_filter = subsets if isinstance(subsets, SubsetFilter) else SubsetFilter(subsets)
    options = _ReadOptions(normalize_split_name(split), subset_filter, allow_rare_labels, allow_missing_ids)
    tasks: list[LocalTask] = []
    for found_set in found_sets:
        tasks.extend((_read_retrieval if found_set.folders else _read_row_tasks)(found_set, options))
    if subset_filter is not subsets:
        subset_filter.check()
    return tasks


# ---- finding


def _find_single_file(file: Path) -> _FoundSet:
    if not is_row_file(file):
        raise InputError(f"{file} is not a file of rows. {KNOWN_LAYOUTS}")
    subset, _ = _parse_file_name(file)
    name = _folder_name(file.parent) if subset == DEFAULT_SUBSET else subset
    return _FoundSet(name, file.parent, TaskSettings(), (file,))


def _find_sets(folder: Path, skipped: list[str], ancestors: tuple[Path, ...] = ()) -> list[_FoundSet]:
    """Find the sets in a folder and the folders in it.

    Args:
        skipped: receives the files that are not an evaluation set.
        ancestors: the folders around this one.
    """
    real = folder.resolve()
    if real in ancestors:  # a link back up
        return []
    settings = read_settings(folder)
    name = settings.name or _folder_name(folder)
    if is_beir(folder):
        return [_FoundSet(name, folder, settings, folders={DEFAULT_SUBSET: folder})]
    inner_folders = [entry for entry in list_entries(folder) if entry.is_dir()]
    inner_sets = [found_set for inner in inner_folders for found_set in _find_sets(inner, skipped, (*ancestors, real))]
    files = tuple(find_row_files(folder))
    if (ancestors or inner_sets) and not (settings.kind or any(map(_may_be_evaluated, files))):
        skipped.extend(f"{file} (fields {', '.join(_read_first_fields(file))})" for file in files)
        files = ()
    if files:
        return [_FoundSet(name, folder, settings, files), *inner_sets]
    subsets = {inner.name: inner for inner in inner_folders if is_beir(inner) and not (inner / TASK_FILE).exists()}
    if len(subsets) == len(inner_sets) > 1:
        return [_FoundSet(name, folder, settings, folders=subsets)]
    if settings != TaskSettings():
        raise InputError(
            f"{folder / TASK_FILE} describes one set, and {folder} holds {len(inner_sets)}. Put it beside the files of "
            "its set."
        )
    return inner_sets


def _may_be_evaluated(file: Path) -> bool:
    """Whether a file looks like an evaluation set, as training pairs and other tables do not. Empty files do."""
    fields = _read_first_fields(file)
    return not fields or bool(find_formats(set(fields)))


def _read_first_fields(file: Path) -> list[str]:
    try:
        return next((list(line.row) for line in read_lines(file)), [])
    except InputError:  # its split may not be requested; if it is, reading it reports the error
        return []


def _folder_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # noqa: PTH100  # resolve() would name the target of a link


def _parse_file_name(file: Path) -> tuple[str, str]:
    """(subset, split) by the name of a file: test.jsonl, en-de.jsonl, en-de.test.jsonl. The default split is "test"."""
    name = SHARD_PATTERN.sub("", file_stem(file))
    match = SPLIT_PATTERN.fullmatch(name)
    if match is None:
        return name, "test"
    before, split, after = match.groups()
    return "-".join(filter(None, (before, after))) or DEFAULT_SUBSET, normalize_split_name(split.lower())


# ---- retrieval


def _read_retrieval(found_set: _FoundSet, options: _ReadOptions) -> list[LocalTask]:
    chosen = {name: found_set.folders[name] for name in options.subsets.select(found_set.name, found_set.folders)}
    if not chosen:
        return []
    allow_missing_ids = options.allow_missing_ids or found_set.settings.allow_missing_ids
    subsets = {
        subset: read_beir(folder, options.split, allow_missing_ids=allow_missing_ids)
        for subset, folder in chosen.items()
    }
    ranked = [subset for subset, splits in subsets.items() if splits[options.split].candidates is not None]
    kind = found_set.settings.kind or ("Reranking" if ranked else "Retrieval")
    if kind not in ("Retrieval", "Reranking"):
        raise InputError(
            f"{found_set.folder / TASK_FILE}: kind is {kind!r}. A folder in BEIR layout is Retrieval or Reranking."
        )
    unranked = [subset for subset in subsets if subset not in ranked]
    if kind == "Reranking" and unranked:
        raise InputError(
            f"{chosen[unranked[0]]} has no top_ranked.jsonl. Reranking needs the candidates of every query; add it."
        )
    if found_set.settings.ignore_identical_ids is None:
        for subset, splits in subsets.items():
            _warn_of_identical_ids(chosen[subset], splits[options.split], found_set.folder)
    task_data: dict[str, dict[str, TaskData]] = {
        subset: {split: data if kind == "Reranking" else _drop_candidates(data) for split, data in splits.items()}
        for subset, splits in subsets.items()
    }
    return [_build_task(found_set, found_set.name, kind, task_data, None)]


def _warn_of_identical_ids(folder: Path, data: RetrievalData, task_folder: Path) -> None:
    """Give a Notice if queries have the ids of documents: where both are the same thing, a query finds itself first."""
    identical = [query for query in data.queries if query in data.documents]
    if not identical:
        return
    copies = sum(
        data.queries[query].strip() in (text.strip(), f"{title} {text}".strip())
        for query, (title, text) in ((query, data.documents[query]) for query in identical)
    )
    warn_caller(
        f"{folder}: {len(identical):,} of {len(data.queries):,} queries have the id of a document ({identical[0]!r}), "
        f"and {copies:,} have its text too. If a query and its document are the same thing, each query finds itself. "
        f'Then write {{"ignore_identical_ids": true}} in {task_folder / TASK_FILE}: it leaves that document out, as '
        "mteb does for such sets. false keeps it, as now."
    )


def _drop_candidates(data: RetrievalData) -> RetrievalData:
    return RetrievalData(data.documents, data.queries, data.relevance)


# ---- rows


def _read_row_tasks(found_set: _FoundSet, options: _ReadOptions) -> list[LocalTask]:
    for key in ("ignore_identical_ids", "allow_missing_ids"):
        if getattr(found_set.settings, key):
            raise InputError(
                f"{found_set.folder / TASK_FILE}: {key} is for folders in BEIR layout, and these are files of rows. "
                "Take it out."
            )
    files = _parse_file_names(found_set)
    lines = {file: _read_nonempty_lines(file) for file, part in files.items() if part.split == options.split}
    if not lines:
        splits = ", ".join(dict.fromkeys(part.split for part in files.values()))
        raise InputError(f"{found_set.folder} has no split {options.split!r}. It has {splits}. Name one with --split.")
    has_train = any(part.split == "train" for part in files.values())
    formats = _common_formats(found_set, lines, has_train=has_train)
    if has_train and any(row_format.kind == "Classification" for row_format in formats):
        lines |= {
            file: _read_nonempty_lines(file)
            for file, part in files.items()
            if part.split == "train" and file not in lines
        }
        _common_formats(found_set, lines, has_train=has_train)  # the files of train must have that kind, too
    grouped = _group_by_subset(files, lines, found_set, warn=not options.subsets.requested)
    chosen = {name: grouped[name] for name in options.subsets.select(found_set.name, grouped)}
    if not chosen:
        return []
    return [
        _build_row_task(
            found_set,
            found_set.name if len(formats) == 1 else f"{found_set.name}-{row_format.kind}",
            row_format,
            chosen,
            options,
        )
        for row_format in formats
    ]


def _read_nonempty_lines(file: Path) -> list[Line]:
    lines = list(read_lines(file))
    if not lines:
        raise InputError(f"{file} is empty. Take it out, or fill it.")
    return lines


class _FileNameParts(NamedTuple):
    """The parts of the name of a file of rows."""

    subset: str
    split: str
    shard: str


def _parse_file_names(found_set: _FoundSet) -> dict[Path, _FileNameParts]:
    """The parts of the names of a set's files.

    Raises:
        InputError: two files have one subset and split, and are not shards.
    """
    files: dict[Path, _FileNameParts] = {}
    seen: dict[_FileNameParts, Path] = {}
    for file in found_set.files:
        subset, split = _parse_file_name(file)
        shard = SHARD_PATTERN.search(file_stem(file))
        files[file] = part = _FileNameParts(subset, split, shard.group() if shard else "")
        if (same := seen.setdefault(part, file)) != file:
            name = split if subset == DEFAULT_SUBSET else f"{split} of {subset}"
            raise InputError(f"{file.parent}: {same.name} and {file.name} are both {name}. Take one out, or rename it.")
    return files


def _common_formats(found_set: _FoundSet, lines: Mapping[Path, Sequence[Line]], *, has_train: bool) -> list[RowFormat]:
    """The kinds that the rows of all files have: pairs with a score and a label have two.

    Raises:
        InputError: a file has no known kind, or the files have no kind in common.
    """
    formats = {file: _file_formats(file, rows, found_set.settings.kind, has_train) for file, rows in lines.items()}
    common = [row_format for row_format in ROW_FORMATS if all(row_format in of_file for of_file in formats.values())]
    if not common:
        kinds = "; ".join(
            f"{file.name} {' and '.join(row_format.kind for row_format in formats[file])}" for file in formats
        )
        raise InputError(
            f"{found_set.folder} holds sets of several kinds: {kinds}. Put each into its own folder, or give the files "
            "one by one."
        )
    return common


def _file_formats(file: Path, lines: Sequence[Line], kind: Kind | None, has_train: bool) -> list[RowFormat]:
    """The kinds that the rows of one file can be; `kind` is that of task.json.

    Texts with labels are for Classification if the set has a split "train", else for Clustering.
    """
    fields = {name: None for line in lines for name in line.row}
    formats = [row_format for row_format in find_formats(set(fields)) if kind in (None, row_format.kind)]
    if kind is None and {"Classification", "Clustering"} <= {row_format.kind for row_format in formats}:
        other = "Clustering" if has_train else "Classification"
        formats = [row_format for row_format in formats if row_format.kind != other]
    if not formats:
        fault = f"not those of {kind}, which {TASK_FILE} names" if kind else "not those of any kind"
        raise InputError(f"{file}: the fields {list_some(map(repr, fields))} are {fault}. {KNOWN_LAYOUTS}")
    return formats


def _group_by_subset(
    files: Mapping[Path, _FileNameParts], lines: Mapping[Path, Sequence[Line]], found_set: _FoundSet, *, warn: bool
) -> dict[str, dict[str, list[Line]]]:
    """Group lines as {subset: {split: lines}}, by the names of files and the field "lang".

    A file that was not read has an empty list of lines.
    """
    single = len({part.subset for part in files.values()}) == 1
    file_subsets = {file: DEFAULT_SUBSET if single else part.subset for file, part in files.items()}
    grouped: dict[str, dict[str, list[Line]]] = {}
    row_subsets: dict[str, dict[str, None]] = {}
    """{subset by the name of a file: subsets of its rows}"""
    for file, rows in lines.items():
        for line in rows:
            subset = _subset_name(file_subsets[file], line.row.get("lang"))
            grouped.setdefault(subset, {}).setdefault(files[file].split, []).append(line)
            row_subsets.setdefault(file_subsets[file], {})[subset] = None
    for file in files:
        for subset in row_subsets.get(file_subsets[file], (file_subsets[file],)) if file not in lines else ():
            grouped.setdefault(subset, {}).setdefault(files[file].split, [])
    if warn and any(len(subsets) > 1 for subsets in row_subsets.values()):
        names = list_some(sorted(grouped), 3)
        warn_caller(
            f"{found_set.folder}: the field lang splits this set into {len(grouped)} subsets ({names}), and its score "
            "is the mean of theirs. --subsets names those to evaluate. To have one set, rename the field."
        )
    return dict(sorted(grouped.items()))


def _subset_name(file_subset: str, lang: object) -> str:
    """The subset of a row, by the name of its file and its language, which may be in that name."""
    if not isinstance(lang, str) or not lang or lang in re.split("[._-]", file_subset) or lang == file_subset:
        return file_subset
    return lang if file_subset == DEFAULT_SUBSET else f"{file_subset}-{lang}"


def _build_row_task(
    found_set: _FoundSet,
    name: str,
    row_format: RowFormat,
    subsets: Mapping[str, Mapping[str, Sequence[Line]]],
    options: _ReadOptions,
) -> LocalTask:
    if row_format.kind == "Classification" and options.split == "train":
        raise InputError(
            f"{found_set.folder}: Classification trains on the split train. Name another one to evaluate with --split."
        )
    data: dict[str, dict[str, TaskData]] = {}
    for subset, splits in subsets.items():
        where = found_set.folder if subset == DEFAULT_SUBSET else f"{found_set.folder} ({subset})"
        has = ", ".join(splits)
        if options.split not in splits:
            more = "" if subset == DEFAULT_SUBSET else ", or the subsets that have it with --subsets"
            raise InputError(f"{where} has no split {options.split!r}. It has {has}. Name one with --split{more}.")
        if row_format.kind == "Classification" and "train" not in splits:
            raise InputError(f"{where} has no split 'train', on which Classification trains. It has {has}. Add it.")
        data[subset] = read_subset(row_format, splits, options.split, allow_rare_labels=options.allow_rare_labels)
    evaluated = [line for splits in subsets.values() for line in splits[options.split]]
    scale = find_score_scale(row_format, evaluated, found_set.settings.min_score, found_set.settings.max_score)
    return _build_task(found_set, name, row_format.kind, data, scale)


# ---- all


def _build_task(
    found_set: _FoundSet,
    name: str,
    kind: Kind,
    data: Mapping[str, Mapping[str, TaskData]],
    scale: tuple[float, float] | None,
) -> LocalTask:
    metric = choose_main_score(found_set.settings, kind, found_set.folder)
    ignore = bool(found_set.settings.ignore_identical_ids)
    revision = _hash_data(data, ignore_identical_ids=ignore)
    return LocalTask(name, kind, metric, found_set.folder, data, found_set.settings.languages, scale, revision, ignore)


def _hash_data(subsets: Mapping[str, Mapping[str, TaskData]], *, ignore_identical_ids: bool) -> str:
    """A hash of the data that was read. Formats, compression and unused fields do not change it."""
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
        yield from (("document", document) for document in sorted(data.documents.items()))
    yield from (("query", query) for query in sorted(data.queries.items()))
    yield from (("relevant", [query, sorted(labels.items())]) for query, labels in sorted(data.relevance.items()))
    yield from (("candidates", [query, sorted(ids)]) for query, ids in sorted((data.candidates or {}).items()))
