"""Evaluation sets out of folders: found, read and checked before any text is encoded. No network, no mteb.

A set is told by what it holds (docs/evaluation.md): a folder in BEIR layout is retrieval (`judged`), and files of rows
are what their fields say (`rows`). Subsets are folders of BEIR layout in one folder, files, or values of "lang".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gnomon.errors import InputError
from gnomon.evaluate.judged import is_beir, read_judged
from gnomon.evaluate.rows import (
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
    scale_of,
    stem,
)
from gnomon.evaluate.settings import FILE, MAIN_SCORES, Settings, main_score, read_settings
from gnomon.inputs import did_you_mean

__all__ = ["MAIN_SCORES", "Columns", "Judged", "Kind", "LocalTask", "read_local"]

Part = TypeVar("Part")

DEFAULT = "default"
"""mteb's name of the subset of a task that has no others."""

SPLIT = re.compile(r"(?:(.+)[._-])?(train|dev|val|valid|validation|test)(?:[._-](.+))?", re.IGNORECASE)
"""A file's name that says a split: test, sts-test, test_de, en-de.test."""
SHARD = re.compile(r"[._-]?\d{5}-of-\d{5}$")

KNOWN = (
    "What is known: a folder with corpus.jsonl, queries.jsonl and qrels/; or .jsonl, .csv or .tsv files with the "
    "fields sentence1, sentence2 (and score, or label); text, label; query, positive, negative; or text, "
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

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split for splits in self.subsets.values() for split in splits))


@dataclass(frozen=True)
class _Asked:
    split: str
    subsets: tuple[str, ...]
    allow_rare_labels: bool


@dataclass(frozen=True)
class _Found:
    """Where a set lies, before it is read: files of rows, or folders in BEIR layout by subset."""

    name: str
    place: Path
    settings: Settings
    files: tuple[Path, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict[str, Path])


def read_local(
    place: str | Path, *, split: str = "test", subsets: Sequence[str] = (), allow_rare_labels: bool = False
) -> list[LocalTask]:
    """The evaluation sets of a folder, or of one file of rows.

    Args:
        split: what is judged; it must be there. Classification learns from "train".
        subsets: names of those to read; none for all.
        allow_rare_labels: let a label be learned, or a cluster judged, by a single text.

    Raises:
        InputError: nothing there that is an evaluation set; anything in it that cannot be judged, by file and line.
        OSError: a file or folder that cannot be opened.
    """
    path = Path(place)
    if not path.exists():
        raise InputError(f"there is no {place}; give a folder in BEIR layout, or of .jsonl, .csv or .tsv files.")
    passed: list[str] = []
    found = _find(path, passed) if path.is_dir() else [_alone(path)]
    if not found:
        others = f" Passed over: {'; '.join(passed[:3])}." if passed else ""
        raise InputError(f"{place} holds no evaluation set. {KNOWN}{others}")
    asked = _Asked(split, tuple(subsets), allow_rare_labels)
    tasks: list[LocalTask] = []
    for each in found:
        tasks.extend([_retrieval(each, asked)] if each.folders else _of_rows(each, asked))
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
    files = tuple(filter(is_rows, listed(folder)))
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
    return next((list(line.row) for line in lines_of(file)), [])


def _name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # noqa: PTH100  # resolve() would name the target of a link


def _part_of(file: Path) -> tuple[str, str]:
    """(subset, split) by a file's name: test.jsonl, en-de.jsonl, en-de.test.jsonl; "test" where it says none."""
    name = SHARD.sub("", stem(file))
    said = SPLIT.fullmatch(name)
    if said is None:
        return name, "test"
    front, split, back = said.groups()
    return "-".join(filter(None, (front, back))) or DEFAULT, split.lower()


# ---- retrieval


def _retrieval(found: _Found, asked: _Asked) -> LocalTask:
    chosen = _chosen(found.folders, asked.subsets, found.place)
    subsets = {subset: read_judged(folder, asked.split) for subset, folder in chosen.items()}
    ranked = [subset for subset, splits in subsets.items() if splits[asked.split].candidates is not None]
    kind = found.settings.kind or ("Reranking" if ranked else "Retrieval")
    if kind not in ("Retrieval", "Reranking"):
        raise InputError(f"{found.place / FILE}: kind is {kind!r}; a folder in BEIR layout is Retrieval or Reranking.")
    lacking = [subset for subset in subsets if subset not in ranked]
    if kind == "Reranking" and lacking:
        raise InputError(
            f"{chosen[lacking[0]]} has no top_ranked.jsonl; reranking needs the candidates of every query."
        )
    data: dict[str, dict[str, Data]] = {
        subset: {split: each if kind == "Reranking" else _without_candidates(each) for split, each in splits.items()}
        for subset, splits in subsets.items()
    }
    return _task(found, found.name, kind, data, None)


def _without_candidates(data: Judged) -> Judged:
    return Judged(data.documents, data.queries, data.relevant)


# ---- rows


def _of_rows(found: _Found, asked: _Asked) -> list[LocalTask]:
    lines = {file: list(lines_of(file)) for file in found.files}
    if empty := [file for file in lines if not lines[file]]:
        raise InputError(f"{empty[0]} is empty; take it out, or fill it.")
    grouped = _grouped(lines)
    forms = _forms(found, lines, learned=any("train" in splits for splits in grouped.values()))
    chosen = _chosen(grouped, asked.subsets, found.place)
    return [
        _row_task(found, found.name if len(forms) == 1 else f"{found.name}-{form.kind}", form, chosen, asked)
        for form in forms
    ]


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
            raise InputError(f"{file}: the fields {', '.join(fields)} are {needs}. {KNOWN}")
        kinds[file] = forms
        common = [form for form in common if form in forms]
    if not common:
        listed_kinds = "; ".join(f"{file.name} {' and '.join(form.kind for form in kinds[file])}" for file in kinds)
        raise InputError(
            f"{found.place} holds sets of several kinds: {listed_kinds}. Put each into a folder of its own, or give "
            "the files one by one."
        )
    return common


def _grouped(lines: Mapping[Path, Sequence[Line]]) -> dict[str, dict[str, list[Line]]]:
    """{subset: {split: lines}} by the files' names and the field "lang"."""
    parts = {file: _part_of(file) for file in lines}
    alone = len({subset for subset, _ in parts.values()}) == 1
    seen: dict[tuple[str, str, str], Path] = {}
    grouped: dict[str, dict[str, list[Line]]] = {}
    for file, (subset, split) in parts.items():
        shard = SHARD.search(stem(file))
        same = seen.setdefault((subset, split, shard.group() if shard else ""), file)
        if same != file:
            of = split if subset == DEFAULT else f"{split} of {subset}"
            raise InputError(f"{file.parent}: {same.name} and {file.name} are both {of}; take one out, or rename it.")
        for line in lines[file]:
            part = _subset(DEFAULT if alone else subset, line.row.get("lang"))
            grouped.setdefault(part, {}).setdefault(split, []).append(line)
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


def _chosen(subsets: Mapping[str, Part], wanted: Sequence[str], place: Path) -> dict[str, Part]:
    if lacking := [name for name in wanted if name not in subsets]:
        near = did_you_mean(lacking[0], subsets)
        raise InputError(f"{place} has no subset {lacking[0]!r}; it has {', '.join(subsets)}.{near}")
    return {name: subsets[name] for name in wanted or subsets}


def _task(
    found: _Found, name: str, kind: Kind, data: Mapping[str, Mapping[str, Data]], scale: tuple[float, float] | None
) -> LocalTask:
    metric = main_score(found.settings, kind, found.place)
    return LocalTask(name, kind, metric, found.place, data, found.settings.languages, scale, _revision(data))


def _revision(subsets: Mapping[str, Mapping[str, Data]]) -> str:
    """A hash of what was read, not of files: formats, compression and fields that nothing uses do not count."""
    digest = hashlib.sha256()
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
