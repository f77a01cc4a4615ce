"""Finds the files of a corpus: those that are named, those in folders, and those that globs match."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from gnomon.errors import InputError
from gnomon.messages import count, list_some
from gnomon.text_files import STDIN, infer_format
from gnomon.text_files.rows import MAX_LISTED
from gnomon.warn import warn_caller

MARKDOWN = "md"
MARKDOWN_SUFFIXES = (".md", ".markdown")
NAMES_END_IN = "Names end in .md, .markdown, .txt, .jsonl, .csv, .tsv (each also .gz) or .parquet"
GLOB_CHARS = frozenset("*?[")


def find_files(paths: Iterable[str | Path], form: str | None = None) -> list[str]:
    """The files of paths, folders and globs, each once; a Notice counts files in folders that have another ending.

    Args:
        form: the format that the caller chose. A glob then matches files of any name.

    Raises:
        InputError: a glob or a folder without files of a known format. FileNotFoundError: a path that does not exist.
    """
    finder = _FileFinder(form)
    for path in paths:
        finder.add(str(path))
    finder.warn_of_others()
    return finder.files


class _FileFinder:
    """Collects the files of paths, folders and globs, each once."""

    def __init__(self, form: str | None) -> None:
        self.files: list[str] = []
        self.others: list[str] = []
        """Files in folders and globs whose names show no format."""
        self._form = form
        self._num_matches = 0
        """Files that were matched, those too that an earlier path has matched."""
        self._seen: set[str] = set()
        """Files and folders, without links."""

    def add(self, path: str) -> None:
        num_matches, num_others, is_glob = self._num_matches, len(self.others), False
        if path == STDIN or Path(path).is_file():
            self._add_file(path)
        elif Path(path).is_dir():
            self._add_folder(path)
        elif Path(path).exists():  # a pipe: <(command)
            self._add_file(path)
        elif is_glob := bool(GLOB_CHARS & set(path)):
            self._add_glob(path)
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if self._num_matches == num_matches:
            self._raise_without_files(path, self.others[num_others:], is_glob)

    def warn_of_others(self) -> None:
        if self.others:
            are = "is" if len(self.others) == 1 else "are"
            warn_caller(
                f"{count(len(self.others), 'file')} {are} left out, since no known format shows in the name: "
                f"{list_some(self.others, MAX_LISTED)}."
            )

    def _add_file(self, path: str) -> None:
        self._num_matches += 1
        real = path if path == STDIN else os.path.realpath(path)
        if real not in self._seen:
            self._seen.add(real)
            self.files.append(path)

    def _add_folder(self, folder: str) -> None:
        real = os.path.realpath(folder)
        if real in self._seen:  # it was named twice, or is a link to a folder around it
            self._num_matches += 1
            return
        self._seen.add(real)
        for path in sorted(os.path.join(folder, entry.name) for entry in Path(folder).iterdir()):  # noqa: PTH118
            if Path(path).name.startswith("."):
                continue
            if Path(path).is_dir():
                self._add_folder(path)
            elif infer_corpus_format(path) and not is_pipe(path):
                self._add_file(path)
            else:
                self.others.append(path)

    def _add_glob(self, pattern: str) -> None:
        for path in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207  # it leaves hidden files out
            if Path(path).is_dir():
                self._add_folder(path)
            elif (self._form or infer_corpus_format(path)) and not is_pipe(path):
                self._add_file(path)
            else:
                self.others.append(path)

    def _raise_without_files(self, path: str, others: Sequence[str], is_glob: bool) -> None:
        if is_glob and not others:
            raise InputError(f"the glob {path!r} matches no file. Look at the path; ** stands for folders in folders.")
        holds = f"{count(len(others), 'other file')}, such as {others[0]}" if others else "no file at all"
        raise InputError(
            f"{path} holds no file of a format that is read ({holds}). {NAMES_END_IN}. For other names give a glob and "
            f"form= (--format)."
        )


def is_pipe(path: str) -> bool:
    """Whether a path is a pipe or a device, which would be waited for."""
    return Path(path).exists() and not Path(path).is_file()


def infer_corpus_format(path: str) -> str | None:
    """The format of a file, by its name; None if the name does not show it."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(MARKDOWN_SUFFIXES):
        return MARKDOWN
    with suppress(InputError):
        return infer_format(path)
    return None
