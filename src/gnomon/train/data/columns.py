"""Maps the columns of a file to queries, positives, negatives and scores. Errors name the line or row."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import isfinite
from typing import Any, TypeVar, cast

import numpy as np

from gnomon.errors import InputError
from gnomon.messages import count, list_some, shorten
from gnomon.text_files import text_fault
from gnomon.train.data.dataset_writer import CheckedRows
from gnomon.train.data.sources import Block, SourcePart
from gnomon.train.recipe.schema import DataSource
from gnomon.warn import warn_caller

T = TypeVar("T")

TASK_TYPE = "task_type"

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": ("positive", "answer", "sentence2"),
}
"""Key of a source -> the columns that it may mean where the recipe has its default, in this order. "anchor",
"sentence1" and "sentence2" are sentence-transformers' names.
"""

_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|“[^”]*”|‘[^’]*’)"""
_NONE = r"(?:nan|NaN|None|null|<NA>)"
_UNCLOSED_TEXT = r"""(?:"[^"]*|'[^']*|“[^”]*|‘[^’]*)"""
LISTS = (
    r"""\[[\s\[]*(['"]).*\1[\s\]]*\]""",  # begins and ends with a quote
    # or has no other words, and may be truncated
    rf"\[[\s\[]*(?:{_NONE}\s*,\s*)*{_TEXT}(?:[\s,\[\]]|{_TEXT}|{_NONE})*+{_UNCLOSED_TEXT}?",
    rf"\(\s*{_TEXT}\s*,(?:[\s,]|{_TEXT}|{_NONE})*+\)",
)
"""Patterns of a list of texts as JSON, Python, pandas, numpy or a person writes it. An ordinary text that begins with a
bracket has words outside of quotes, too.
"""
LIST = re.compile("|".join(LISTS), re.DOTALL)

MAX_VALUE_LENGTH = 40
"""Characters of a value in a message."""


def resolve_columns(source: DataSource, names: Sequence[str]) -> DataSource:
    """The source with the columns that its files have, for the keys that have their defaults (`COLUMN_NAMES`).

    Args:
        names: the columns of its first file.
    """
    used = {source.query, source.positive, *source.negatives, source.score, source.instruction}
    columns: dict[str, str] = {}
    for key, known in COLUMN_NAMES.items():
        free = [name for name in known if name in names and (name == known[0] or name not in used)]
        if getattr(source, key) == known[0] and free:
            columns[key] = free[0]
    return replace(source, **columns)


UNUSED_COLUMNS = re.compile(r"(score|label|similarity|negatives?|neg)(_?\d+)?", re.IGNORECASE)
"""Columns that change what the rows of a file mean."""


def warn_of_unused_columns(source: DataSource, names: Sequence[str]) -> None:
    """Give a Notice of columns that look as if they mattered, and that no key names."""
    used = {source.query, source.positive, *source.negatives, source.score, source.instruction}
    unused = [name for name in names if UNUSED_COLUMNS.fullmatch(name) and name not in used]
    if unused:
        warn_caller(
            f"{source.name}: rows are read as {source.query!r} and {source.positive!r}. Not used: "
            f"{list_some(map(repr, unused))}. If it counts, name it with sources.negatives or sources.score."
        )


class ColumnMapping:
    """Maps the blocks of one source, in order, to rows of texts. All rows must be of one kind."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        names = [source.query, source.positive, *source.negatives, source.score, source.instruction]
        names.append(TASK_TYPE if source.task_types else None)
        self.columns = list(dict.fromkeys(name for name in names if name is not None))
        """The columns that are read."""
        self.task_types: Counter[str] = Counter()
        """How often each task type occurs, in rows that are left out, too."""
        self._first_negative_count: int | None = None
        """Negatives of the first row."""
        self._has_labels: bool | None = None
        """Whether the first row has one label, not a list of scores."""

    def map_block(self, file: int, part: SourcePart, block: Block) -> CheckedRows:
        """One row of texts for each row of the block, or several for a row with several positives.

        Raises:
            InputError: a value cannot be used in its column.
        """
        source, (lines, values) = self.source, self._select_task_types(block)
        locations = _RowLocations(part, lines)
        queries = values[source.query]
        if part.all_strings:
            queries = locations.map_rows(partial(_parse_cell, source.query), queries)
        paired = [isinstance(value, list) for value in queries]
        texts = {"query": self._encode_texts(locations, source.query, queries, paired)}
        if source.instruction:
            texts["query"] = locations.map_rows(self._prepend_instruction, values[source.instruction], texts["query"])
        texts["positive"], num_positives = self._collect_positives(
            locations, values[source.positive], paired, part.all_strings
        )
        negatives: list[list[bytes]] | None = None
        if source.negatives:
            columns = [values[name] for name in source.negatives]
            negatives = locations.map_rows(partial(self._encode_negatives, part.all_strings), paired, *columns)
        counts = None if negatives is None else list(map(len, negatives))
        labels, scores = None, None
        if source.score:
            needed = counts or [0] * len(lines)
            scores = locations.map_rows(
                partial(self._parse_scores, part.all_strings), values[source.score], num_positives, needed
            )
            if self._has_labels:
                labels, scores = np.array(list(chain.from_iterable(scores)), np.float64), None
        read = len(lines)
        if sum(num_positives) > read:
            owners = list(chain.from_iterable([row] * copies for row, copies in enumerate(num_positives)))
            lines, texts["query"] = [lines[row] for row in owners], [texts["query"][row] for row in owners]
            negatives = None if negatives is None else [negatives[row] for row in owners]
            counts = None if counts is None else [counts[row] for row in owners]
        if negatives is not None:
            texts["negative"] = list(chain.from_iterable(negatives))
        lists = None if scores is None else [row for rows in scores for row in cast("list[list[float]]", rows)]
        return CheckedRows(file, lines, texts, counts, labels, lists, read)

    def _select_task_types(self, block: Block) -> Block:
        """The rows whose task type the recipe wants."""
        if not self.source.task_types:
            return block
        task_types = list(map(str, block.values[TASK_TYPE]))
        self.task_types.update(task_types)
        rows = [row for row, name in enumerate(task_types) if name in self.source.task_types]
        values = {name: [column[row] for row in rows] for name, column in block.values.items()}
        return Block([block.line_numbers[row] for row in rows], values)

    # ---- texts

    def _collect_positives(
        self, locations: _RowLocations, values: list[Any], with_instruction: list[bool], cells: bool
    ) -> tuple[list[bytes], list[int]]:
        """The positives, row after row, and how many each row has."""
        name = self.source.positive
        if cells:
            values = locations.map_rows(partial(_parse_cell, name), values)
        if not any(isinstance(value, list) for value in values):
            return self._encode_texts(locations, name, values, with_instruction), [1] * len(values)
        positives = locations.map_rows(partial(self._encode_positives, name), values, with_instruction)
        return list(chain.from_iterable(positives)), list(map(len, positives))

    def _encode_positives(self, name: str, value: object, with_instruction: bool) -> list[bytes]:
        """The positives of a row: a list of texts or, with instructions, a list of pairs [instruction, text]."""
        items = cast("list[object]", value) if isinstance(value, list) else []
        several = items and (not with_instruction or all(isinstance(item, list) for item in items))
        return [self._encode_text(name, item, with_instruction) for item in (items if several else [value])]

    def _encode_texts(
        self, locations: _RowLocations, name: str, values: list[Any], with_instruction: list[bool]
    ) -> list[bytes]:
        try:
            if all(map(str.strip, values)):
                return list(map(str.encode, values))
        except (TypeError, UnicodeEncodeError):  # a list, or not a text
            pass
        return locations.map_rows(partial(self._encode_text, name), values, with_instruction)

    def _encode_text(self, name: str, value: object, with_instruction: bool) -> bytes:
        """One text, alone or in a list, or a pair [instruction, text]."""
        if not isinstance(value, list):
            return _encode_string(name, value)
        items = cast("list[object]", value)
        if len(items) != 1 + with_instruction:
            expected = "[instruction, text]" if with_instruction else "one text"
            raise _UnusableRowError(f"column {name!r} is a list of {len(items)}, and must be {expected}")
        text = _encode_string(name, items[-1])
        return (
            self._prepend_instruction(items[0], text)
            if with_instruction and self.source.instructions == "prepend"
            else text
        )

    def _prepend_instruction(self, instruction: object, text: bytes) -> bytes:
        if instruction is None or instruction == "":
            return text
        lead = _encode_string(self.source.instruction or "instruction", instruction)
        return lead + text if lead[-1:].isspace() else lead + b" " + text

    def _encode_negatives(self, cells: bool, with_instruction: bool, *values: object) -> list[bytes]:
        texts: list[bytes] = []
        for name, value in zip(self.source.negatives, values, strict=True):
            if value is None or (cells and value == ""):
                continue
            value = _parse_cell(name, value) if cells else value
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            # a list of strings is one pair [instruction, text], not several texts
            is_pair = with_instruction and isinstance(value, list) and all(isinstance(item, str) for item in items)
            texts += [self._encode_text(name, item, with_instruction) for item in ([items] if is_pair else items)]
        self._check_num_negatives(len(texts))
        return texts

    def _check_num_negatives(self, number: int) -> None:
        num_negatives = self.source.num_negatives
        self._first_negative_count = number if self._first_negative_count is None else self._first_negative_count
        if not number:
            raise _UnusableRowError(f"no negatives in {', '.join(map(repr, self.source.negatives))}")
        if num_negatives is None and number != self._first_negative_count:
            raise _UnusableRowError(
                f"{count(number, 'negative')}, and the first row has {self._first_negative_count}. With num_negatives, "
                "which is how many a step takes, rows may differ"
            )
        if num_negatives is not None and number < num_negatives:
            raise _UnusableRowError(f"{count(number, 'negative')}, fewer than num_negatives={num_negatives}")

    # ---- scores

    def _parse_scores(
        self, cells: bool, value: object, positives: int, negatives: int
    ) -> list[float] | list[list[float]]:
        """For each positive of a row: its label, or the list of its score and those of all negatives."""
        name = self.source.score
        if cells:
            try:
                value = json.loads(str(value))
            except ValueError:
                raise _UnusableRowError(f"column {name!r} is {_shorten(value)}, not a number") from None
        items = cast("list[object]", value) if isinstance(value, list) else None
        for item in [value] if items is None else items:
            if not _is_finite(item):
                raise _UnusableRowError(f"column {name!r} has {_shorten(item)}, and must have finite numbers")
        self._has_labels = items is None if self._has_labels is None else self._has_labels
        if self._has_labels != (items is None):
            first = "one label" if self._has_labels else "a list of scores"
            raise _UnusableRowError(
                f"column {name!r} is {_shorten(value)}, and the first row has {first}. All rows need the same"
            )
        if items is None:
            return [cast(float, value)] * positives
        if len(items) != positives + negatives:
            needed = f"{count(positives, 'positive')} and {count(negatives, 'negative')}"
            raise _UnusableRowError(
                f"column {name!r} is a list of {len(items)} scores, and must have those of {needed}"
            )
        scores = cast("list[float]", items)
        return [[score, *scores[positives:]] for score in scores[:positives]]


class _UnusableRowError(Exception):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class _RowLocations:
    """The rows of a part, with their line numbers for messages."""

    part: SourcePart
    line_numbers: Sequence[int]

    def map_rows(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """Apply a function to each row's values."""
        results: list[T] = []
        for row, values in enumerate(zip(*columns, strict=True)):
            try:
                results.append(function(*values))
            except _UnusableRowError as error:
                location = f"{self.part.name}, {self.part.unit} {self.line_numbers[row]}"
                raise InputError(f"{location}: {error}. Correct the row, or remove it.") from None
        return results


def _parse_cell(name: str, cell: Any) -> Any:
    """A cell of CSV, or the list that it contains: texts or pairs [instruction, text], as JSON or as Python and pandas
    write it.
    """
    bare = cell.strip()
    if not bare.startswith(("[", "(")):
        return cell
    for read in (json.loads, _parse_literal):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = read(bare)
            if value == [] or _has_text(value):
                return value
    if LIST.fullmatch(bare):
        raise _UnusableRowError(
            f"column {name!r} is {_shorten(cell)}, which looks like a list of texts and is not JSON. Write it as JSON, "
            "or the rows as .jsonl"
        )
    return cell


def _has_text(value: object) -> bool:
    """Whether it is a list with a text, or with a list that has one."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return any(isinstance(item, str) or _has_text(item) for item in items)


def _parse_literal(cell: str) -> list[object]:
    """A list that Python wrote. "['a' 'b']" is an error: one text for Python, but numpy writes two texts so."""
    with warnings.catch_warnings(action="ignore"):  # about unknown escapes
        value = ast.literal_eval(cell)
    if repr(value) != cell:
        raise ValueError("not written by Python")
    return value


def _encode_string(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise _UnusableRowError(f"column {name!r} is {_shorten(text)}, not a string")
    if not text.strip():
        raise _UnusableRowError(f"column {name!r} is {'white space alone' if text else 'empty'}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _UnusableRowError(text_fault({name: text}, name)) from None


def _is_finite(value: object) -> bool:
    try:
        return type(value) in (int, float) and isfinite(cast(float, value))
    except OverflowError:  # an int beyond the largest float
        return False


def _shorten(value: object) -> str:
    return "null" if value is None else shorten(value, MAX_VALUE_LENGTH)
