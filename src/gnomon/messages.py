"""The parts that messages are made of: shortened values, lists of names, counts, and the nearest known name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from gnomon.errors import InputError


def shorten(value: object, limit: int = 60) -> str:
    """A value as Python writes it, at most `limit` characters, with "..." where it was longer."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def list_some(items: Iterable[object], limit: int = 8) -> str:
    """The first items by name and the number of the others: "a, b, c and 4 more"."""
    names = [str(item) for item in items]
    first = ", ".join(names[:limit])
    return first if len(names) <= limit else f"{first} and {len(names) - limit:,} more"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Words as in a sentence: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def closest_names(name: object, known: Iterable[str], limit: int = 1) -> list[str]:
    """Known names that were perhaps meant, the nearest first; capitals do not count."""
    by_lower = {each.lower(): each for each in known}
    return [by_lower[match] for match in get_close_matches(str(name).lower(), by_lower, limit)]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message that offers the nearest known name; "" where none is near."""
    near = closest_names(name, known)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_choice(value: object, parameter: str, choices: Iterable[str]) -> None:
    """
    Raises:
        InputError: `value` is not one of the choices; lists them, with the nearest.
    """
    known = list(choices)
    if value not in known:
        raise InputError(f"{parameter} {value!r} is not one of {', '.join(known)}.{did_you_mean(value, known)}")
