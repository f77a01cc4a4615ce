"""Raw values as rows of texts, each column in its role; what cannot be used is named by its line or row."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite
from typing import Any, TypeVar, cast

import numpy as np

from gnomon.errors import InputError
from gnomon.text_files import text_fault
from gnomon.train.data.dataset_writer import CheckedRows
from gnomon.train.data.sources import Block, SourcePart
from gnomon.train.recipe.schema import DataSource

T = TypeVar("T")

TASK_TYPE = "task_type"

_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|“[^”]*”|‘[^’]*’)"""
_NONE = r"(?:nan|NaN|None|null|<NA>)"
_UNCLOSED_TEXT = r"""(?:"[^"]*|'[^']*|“[^”]*|‘[^’]*)"""
LISTS = (
    r"""\[[\s\[]*(['"]).*\1[\s\]]*\]""",  # begins and ends with a quote
    rf"\[[\s\[]*(?:{_NONE}\s*,\s*)*{_TEXT}(?:[\s,\[\]]|{_TEXT}|{_NONE})*+{_UNCLOSED_TEXT}?",  # or has no other words; cut short
    rf"\(\s*{_TEXT}\s*,(?:[\s,]|{_TEXT}|{_NONE})*+\)",
)
"""What a list of texts looks like, as JSON, Python, pandas, numpy or a person writes it. A text that begins with a
bracket has words beside those in quotes.
"""
LIST = re.compile("|".join(LISTS), re.DOTALL)

SHOWN = 40
"""Characters of a value that a message shows."""


class ColumnMapping:
    """Checks the blocks of one source in their order: its rows have to be of one sort."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        names = [source.query, source.positive, *source.negatives, source.score, source.instruction]
        names.append(TASK_TYPE if source.task_types else None)
        self.columns = list(dict.fromkeys(name for name in names if name is not None))
        """Those that are read."""
        self.task_types: Counter[str] = Counter()
        """Of all rows, those that are left out too."""
        self._first_negative_count: int | None = None
        """How many the first row has."""
        self._has_labels: bool | None = None
        """Whether the first row has one grade, not a list of scores."""

    def map_block(self, file: int, part: SourcePart, block: Block) -> CheckedRows:
        """A row of texts for each row of the block; where that has several positives, one for each of these.

        Raises:
            InputError: a value that cannot be used in its role.
        """
        source, (lines, values) = self.source, self._select_task_types(block)
        at = _RowLocations(part, lines)
        queries = values[source.query]
        if part.all_strings:
            queries = at.map_rows(partial(_parse_cell, source.query), queries)
        paired = [isinstance(value, list) for value in queries]
        texts = {"query": self._encode_texts(at, source.query, queries, paired)}
        if source.instruction:
            texts["query"] = at.map_rows(self._prepend_instruction, values[source.instruction], texts["query"])
        texts["positive"], each = self._collect_positives(at, values[source.positive], paired, part.all_strings)
        found = None
        if source.negatives:
            known = [values[name] for name in source.negatives]
            found = at.map_rows(partial(self._encode_negatives, part.all_strings), paired, *known)
        counts = None if found is None else list(map(len, found))
        grades, scores = None, None
        if source.score:
            needed = counts or [0] * len(lines)
            scores = at.map_rows(partial(self._parse_scores, part.all_strings), values[source.score], each, needed)
            if self._has_labels:
                grades, scores = np.array(list(chain.from_iterable(scores)), np.float64), None
        read = len(lines)
        if sum(each) > read:
            owners = list(chain.from_iterable([row] * count for row, count in enumerate(each)))
            lines, texts["query"] = [lines[row] for row in owners], [texts["query"][row] for row in owners]
            found = None if found is None else [found[row] for row in owners]
            counts = None if counts is None else [counts[row] for row in owners]
        if found is not None:
            texts["negative"] = list(chain.from_iterable(found))
        lists = None if scores is None else [row for rows in scores for row in cast("list[list[float]]", rows)]
        return CheckedRows(file, lines, texts, counts, grades, lists, read)

    def _select_task_types(self, block: Block) -> Block:
        """The rows of the task types that were asked for."""
        if not self.source.task_types:
            return block
        found = list(map(str, block.values[TASK_TYPE]))
        self.task_types.update(found)
        kept = [row for row, name in enumerate(found) if name in self.source.task_types]
        values = {name: [column[row] for row in kept] for name, column in block.values.items()}
        return Block([block.line_numbers[row] for row in kept], values)

    # ---- texts

    def _collect_positives(
        self, at: _RowLocations, values: list[Any], with_instruction: list[bool], cells: bool
    ) -> tuple[list[bytes], list[int]]:
        """The texts, row after row, and how many each row has."""
        name = self.source.positive
        if cells:
            values = at.map_rows(partial(_parse_cell, name), values)
        if not any(isinstance(value, list) for value in values):
            return self._encode_texts(at, name, values, with_instruction), [1] * len(values)
        found = at.map_rows(partial(self._encode_positives, name), values, with_instruction)
        return list(chain.from_iterable(found)), list(map(len, found))

    def _encode_positives(self, name: str, value: object, with_instruction: bool) -> list[bytes]:
        """Those of a row: of a list of texts, or, where rows hold [instruction, text], of a list of such pairs."""
        held = cast("list[object]", value) if isinstance(value, list) else []
        several = held and (not with_instruction or all(isinstance(each, list) for each in held))
        return [self._encode_text(name, each, with_instruction) for each in (held if several else [value])]

    def _encode_texts(
        self, at: _RowLocations, name: str, values: list[Any], with_instruction: list[bool]
    ) -> list[bytes]:
        try:
            if all(map(str.strip, values)):
                return list(map(str.encode, values))
        except (TypeError, UnicodeEncodeError):  # a list, or no text
            pass
        return at.map_rows(partial(self._encode_text, name), values, with_instruction)

    def _encode_text(self, name: str, value: object, with_instruction: bool) -> bytes:
        """A text by itself or in a list; behind its instruction, where the row holds such pairs."""
        if not isinstance(value, list):
            return _encode_string(name, value)
        held = cast("list[object]", value)
        if len(held) != 1 + with_instruction:
            wanted = "[instruction, text]" if with_instruction else "one text"
            raise _UnusableRowError(f"column {name!r} is a list of {len(held)}, and must be {wanted}")
        text = _encode_string(name, held[-1])
        return (
            self._prepend_instruction(held[0], text)
            if with_instruction and self.source.instructions == "prepend"
            else text
        )

    def _prepend_instruction(self, instruction: object, text: bytes) -> bytes:
        if instruction is None or instruction == "":
            return text
        lead = _encode_string(self.source.instruction or "instruction", instruction)
        return lead + text if lead[-1:].isspace() else lead + b" " + text

    def _encode_negatives(self, cells: bool, with_instruction: bool, *values: object) -> list[bytes]:
        found: list[bytes] = []
        for name, value in zip(self.source.negatives, values, strict=True):
            if value is None or (cells and value == ""):
                continue
            value = _parse_cell(name, value) if cells else value
            held = cast("list[object]", value) if isinstance(value, list) else [value]
            alone = with_instruction and all(
                isinstance(each, str) for each in held
            )  # one [instruction, text], not a list of them
            found += [
                self._encode_text(name, each, with_instruction)
                for each in ([held] if alone and isinstance(value, list) else held)
            ]
        self._check_count(len(found))
        return found

    def _check_count(self, count: int) -> None:
        wanted = self.source.num_negatives
        self._first_negative_count = count if self._first_negative_count is None else self._first_negative_count
        if not count:
            raise _UnusableRowError(f"no negatives in {', '.join(map(repr, self.source.negatives))}")
        if wanted is None and count != self._first_negative_count:
            told = f"{count} negatives, and the first row has {self._first_negative_count}"
            raise _UnusableRowError(f"{told}; num_negatives, how many a step takes, lets rows differ")
        if wanted is not None and count < wanted:
            raise _UnusableRowError(f"{count} negatives, fewer than num_negatives, {wanted}")

    # ---- scores

    def _parse_scores(
        self, cells: bool, value: object, positives: int, negatives: int
    ) -> list[float] | list[list[float]]:
        """Of each positive of a row: its grade, or the list of its score and those of all negatives."""
        name = self.source.score
        if cells:
            try:
                value = json.loads(str(value))
            except ValueError:
                raise _UnusableRowError(f"column {name!r} is {_shorten(value)}, not a number") from None
        held = cast("list[object]", value) if isinstance(value, list) else None
        for each in [value] if held is None else held:
            if not _is_finite(each):
                raise _UnusableRowError(f"column {name!r} holds {_shorten(each)}, and must hold finite numbers")
        self._has_labels = held is None if self._has_labels is None else self._has_labels
        if self._has_labels != (held is None):
            first = "one grade" if self._has_labels else "a list of scores"
            raise _UnusableRowError(
                f"column {name!r} is {_shorten(value)}, and the first row has {first}; all rows need the same"
            )
        if held is None:
            return [cast(float, value)] * positives
        if len(held) != positives + negatives:
            whose = "the positive's" if positives == 1 else f"those of {positives} positives"
            told = f"{whose} and those of {negatives} negatives are needed"
            raise _UnusableRowError(f"column {name!r} is a list of {len(held)} scores, and {told}")
        scores = cast("list[float]", held)
        return [[score, *scores[positives:]] for score in scores[:positives]]


class _UnusableRowError(Exception):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class _RowLocations:
    """Rows of a part, to be named in messages."""

    part: SourcePart
    line_numbers: Sequence[int]

    def map_rows(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """`function` of each row's values."""
        found: list[T] = []
        for row, values in enumerate(zip(*columns, strict=True)):
            try:
                found.append(function(*values))
            except _UnusableRowError as error:
                place = f"{self.part.name}, {self.part.unit} {self.line_numbers[row]}"
                raise InputError(f"{place}: {error}. Mend it, or take it out.") from None
        return found


def _parse_cell(name: str, cell: Any) -> Any:
    """A cell of CSV, or the list of texts or of [instruction, text] that it holds: as JSON, or as Python writes one (so
    does pandas).
    """
    bare = cell.strip()
    if not bare.startswith(("[", "(")):
        return cell
    for read in (json.loads, _literal):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(bare)
            if found == [] or _has_text(found):
                return found
    if LIST.fullmatch(bare):
        raise _UnusableRowError(
            f"column {name!r} is {_shorten(cell)}, which looks like a list of texts and is not JSON; write it as JSON, "
            "or the rows as .jsonl"
        )
    return cell


def _has_text(value: object) -> bool:
    """Whether it is a list with a text, or with a list that has one."""
    held = cast("list[object]", value) if isinstance(value, list) else []
    return any(isinstance(each, str) or _has_text(each) for each in held)


def _literal(cell: str) -> list[object]:
    """What Python wrote so; "['a' 'b']", a list of one text for Python, is numpy's writing of two."""
    with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
        found = ast.literal_eval(cell)
    if repr(found) != cell:
        raise ValueError("not written by Python")
    return found


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
    told = "null" if value is None else repr(value)
    return told if len(told) <= SHOWN else told[:SHOWN] + "..."
