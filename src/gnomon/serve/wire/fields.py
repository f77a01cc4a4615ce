"""Reads the body of a request: gzip, JSON, and typed fields. Every fault of a body is a `RequestError`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from gnomon.messages import did_you_mean, join_words, list_some, shorten, shorten_json
from gnomon.serve.requests import RequestError

Value = TypeVar("Value")

MAX_TOKEN_ID = 2**31 - 1
STRICT = "strict"
"""The field of every body that makes unknown fields an error."""


MAX_CONTAINERS = 250_000
"""Arrays and objects of a body that consists of little else."""


def decompress(raw: bytes, limit: int, encoding: str = "gzip") -> bytes:
    """The body without its Content-Encoding: gzip, deflate or identity.

    Raises:
        RequestError: "too_large" where it expands to more than `limit` bytes; "malformed" where it is damaged.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return raw
    if name not in ("gzip", "x-gzip", "deflate"):
        message = f"Content-Encoding is {shorten(encoding)}. gzip, deflate and identity are read. Send one of them."
        raise RequestError(message, "invalid")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # + 32: gzip or zlib, by the first bytes
    try:
        expanded = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        message = f"the body is not valid {name} ({error}). Compress it again, or send it as it is."
        raise RequestError(message, "malformed") from None
    if len(expanded) > limit:
        message = f"the body expands to more than {limit:,} bytes, which is the limit. Send fewer texts per request."
        raise RequestError(message, "too_large")
    if not stream.eof or stream.unused_data:
        fault = "goes on after its end" if stream.eof else "ends too early"
        raise RequestError(f"the body's {name} data {fault}. It must be one stream. Send it whole.", "malformed")
    return expanded


def parse_body(raw: bytes, max_inputs: int | None = None) -> Fields:
    """The fields of a body that is a JSON object.

    Args:
        max_inputs: as in `Fields`.

    Raises:
        RequestError: "malformed", with the position, where it is not JSON; "invalid" where it is not an object.
    """
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    _check_containers(raw)
    if not raw.strip():
        raise RequestError("the body is empty. It must be a JSON object. Send one.", "malformed")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(_explain_broken_json(raw, error), "malformed") from None
    if not isinstance(value, dict):
        raise RequestError(f"the body is {describe(value)}. It must be a JSON object. Send one.", "invalid")
    return Fields(value, max_inputs=max_inputs)


def _check_containers(raw: bytes) -> None:
    """
    Raises:
        RequestError: "malformed": a body of arrays and objects alone. Each takes 50 to 200 bytes, and no other thread
            runs while they are made.
    """
    number = raw.count(b"[") + raw.count(b"{")
    if number > MAX_CONTAINERS and number > len(raw) // 10:
        raise RequestError(
            f"the body holds {number:,} brackets, more than any request needs. Send texts, or lists of ids.",
            "malformed",
        )


def _explain_broken_json(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as fault:
        return f"the body is not UTF-8 at byte {fault.start}. JSON is sent as UTF-8. Encode the body again."
    place = f"line {error.lineno}, column {error.colno} (character {error.pos})"
    if "surrogate" in error.msg:
        return (
            f"the body holds half a surrogate pair at {place}. That is not Unicode text. "
            "Decode the text's source again, or replace it."
        )
    return f"the body is not JSON: {error.msg} at {place}. Send a JSON object."


def describe(value: object) -> str:
    """A JSON value with its type, as messages name it: "5, a number"; "a list of 3"."""
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return f"{shorten(value[:100])}, a text"
    if value is None:
        return "null"
    return f"{shorten_json(value)}, {'a boolean' if isinstance(value, bool) else 'a number'}"


class Fields:
    """The fields of a JSON object. A reader marks its field as known; null is the same as absent.

    Args:
        values: the object.
        parent: the field that holds it, for messages; "" for the body.
        max_inputs: inputs that one request may have; more are refused before any of them is looked at.
    """

    def __init__(self, values: Mapping[str, Any], parent: str = "", max_inputs: int | None = None) -> None:
        self._values, self._parent, self._max_inputs = values, parent, max_inputs
        self._known = {STRICT}
        self._nested: list[Fields] = []

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._values.get(name) is not None

    def has_null(self, name: str) -> bool:
        return name in self._values and self._values[name] is None

    def ignore(self, *names: str) -> None:
        """Mark fields that the dialect has and that change nothing here."""
        self._known.update(names)

    def value(self, name: str) -> Any:
        """The field as JSON gives it; None where it is absent."""
        self._known.add(name)
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        return self._read(name, lambda value: isinstance(value, str), "a text")

    def flag(self, name: str) -> bool | None:
        return self._read(name, lambda value: isinstance(value, bool), "true or false")

    def whole_number(self, name: str, *, minimum: int) -> int | None:
        value = self._read(
            name, lambda value: is_whole_number(value) and value >= minimum, f"a whole number, at least {minimum}"
        )
        return None if value is None else int(value)

    def texts(self, name: str) -> list[str] | None:
        """A text or a list of texts, as a list."""
        value = self.value(name)
        if value is None or isinstance(value, str):
            return None if value is None else [value]
        if not isinstance(value, list):
            raise self.error(name, value, "a text or a list of texts")
        self.check_items(name, value, lambda item: isinstance(item, str), "a text")
        return value

    def check_number(self, name: str, inputs: Sequence[Any]) -> None:
        """
        Raises:
            RequestError: "too_many" inputs for one request.
        """
        if self._max_inputs is not None and len(inputs) > self._max_inputs:
            raise too_many(self.path(name), len(inputs), self._max_inputs)

    def check_items(self, name: str, items: list[Any], fits: Callable[[Any], bool], rule: str) -> None:
        """
        Raises:
            RequestError: "invalid", for the first item that does not fit.
        """
        for index, item in enumerate(items):
            if not fits(item):
                raise self.error(name, item, rule, index=index)

    def choice(self, name: str, choices: Mapping[str, Value]) -> Value | None:
        """What a word stands for; capitals do not count."""
        word = self.text(name)
        return None if word is None else self.look_up(name, word, choices)

    def look_up(self, name: str, word: str, choices: Mapping[str, Value]) -> Value:
        """
        Raises:
            RequestError: "invalid", with the choices and the nearest of them.
        """
        if (key := word.lower()) in choices:
            return choices[key]
        message = (
            f"{self.path(name)} is {shorten(word[:100])}. It must be one of {', '.join(choices)}."
            f"{did_you_mean(word[:100], choices)}"
        )
        raise RequestError(message, "invalid", param=self.path(name))

    def nested(self, name: str) -> Fields | None:
        """The fields of an object inside the object."""
        value = self._read(name, lambda value: isinstance(value, dict), "an object")
        if value is None:
            return None
        inner = Fields(value, self.path(name), self._max_inputs)
        self._nested.append(inner)
        return inner

    def merge(self, name: str) -> Fields:
        """The fields with those of an object inside it, as if they stood beside each other.

        Raises:
            RequestError: "invalid" where a field has values in both places that are not the same text, number or flag.
        """
        value = self._read(name, lambda value: isinstance(value, dict), "an object")
        inner: dict[str, Any] = value or {}
        outer = {key: item for key, item in self._values.items() if key != name}
        for key, item in inner.items():
            # lists and objects are not compared: they may be nested deeply
            if outer.get(key) is not None and (isinstance(item, list | dict) or outer[key] != item):
                message = f"{key} and {name}.{key} were sent. They mean the same. Send one of them."
                raise RequestError(message, "invalid", param=key)
        values = inner | {key: item for key, item in outer.items() if item is not None or key not in inner}
        merged = Fields(values, self._parent, self._max_inputs)
        merged._known, merged._nested = self._known, self._nested
        return merged

    def unknown(self) -> tuple[str, ...]:
        """Fields that no reader knows, to call when all others were read.

        Raises:
            RequestError: "invalid", with their names, where the body has `strict: true`.
        """
        strict = self.flag(STRICT)
        names = [self.path(name) for name in self._values if self.has(name) and name not in self._known]
        names += [name for inner in self._nested for name in inner.unknown()]
        if names and strict:
            message = f"unknown fields: {list_some(map(shorten, names))}. strict is true. Leave them out."
            raise RequestError(message, "invalid", param=names[0])
        return tuple(names)

    def path(self, name: str) -> str:
        return f"{self._parent}.{name}" if self._parent else name

    def missing(self, name: str, rule: str) -> RequestError:
        message = f"{self.path(name)} is missing. It must be {rule}. Send it."
        return RequestError(message, "invalid", param=self.path(name))

    def error(self, name: str, value: object, rule: str, *, index: int | None = None) -> RequestError:
        """The error for a value, or for an item of it, of the wrong type."""
        place = self.path(name) if index is None else f"{self.path(name)}[{index}]"
        message = f"{place} is {describe(value)}. It must be {rule}."
        return RequestError(message, "invalid", param=self.path(name), index=index)

    def _read(self, name: str, fits: Callable[[Any], bool], rule: str) -> Any:
        value = self.value(name)
        if value is not None and not fits(value):
            raise self.error(name, value, rule)
        return value


def too_many(field: str, number: int, limit: int) -> RequestError:
    message = f"{field} holds {number:,} texts. One request may have {limit:,}. Split it into several."
    return RequestError(message, "too_many", param=field)


def is_whole_number(value: object) -> bool:
    """Whether a JSON value is one: 256 and 256.0 are, true is not."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53)


def refuse_conflict(names: Iterable[str], rule: str) -> None:
    """
    Raises:
        RequestError: "invalid", where two or more fields are there that exclude each other by the rule.
    """
    present = list(names)
    if len(present) > 1:
        message = f"{join_words(present)} were sent. {rule} Send one of them."
        raise RequestError(message, "invalid", param=present[-1])
