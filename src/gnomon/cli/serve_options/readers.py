"""Text of an option or environment variable -> value.

Each reader takes the text and the name of the option, for messages, and raises InputError. None stands for the default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gnomon.cli.shared import parse_size
from gnomon.errors import InputError
from gnomon.messages import check_choice, shorten

TRUE, FALSE = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")
MAX_PORT = 65535
WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
DENSE_FOLDER = re.compile(r"[0-9]+_Dense_([0-9]{1,6})/?")
DEVICE_IDS = re.compile(r"[0-9]{1,4}(\s*,\s*[0-9]{1,4})*")
PREFIX = re.compile(r"(/[\w.~-]+)*")


def read_text(text: str, label: str) -> str:
    return text


def read_optional(text: str, label: str) -> str | None:
    """A text; "" is the default, as in infinity."""
    return text.strip() or None


def read_names(text: str, label: str) -> tuple[str, ...] | None:
    """ "a,b": several names of one model."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) or None


def read_path(text: str, label: str) -> Path | None:
    return Path(text).expanduser() if text else None


def read_file(text: str, label: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"{label} is {shorten(text)}, which is not a file. Correct the path.")
    return path


def read_key(text: str, label: str) -> str:
    """An API key; it is in no message."""
    from gnomon.serve.key_file import is_key

    if not text:
        raise InputError(f"{label} is empty. A key must have a character. Leave the option out to serve without a key.")
    if not is_key(text):
        raise InputError(
            f"{label} has a space, a control character or one outside ASCII. A header cannot carry it. "
            "Remove it; often it is a line break at the end."
        )
    return text


def read_port(text: str, label: str) -> int:
    if not WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_PORT:
        raise InputError(f"{label} is {shorten(text)}. A port is a whole number from 1 to {MAX_PORT}. Correct it.")
    return int(text)


def read_prefix(text: str, label: str) -> str:
    if text == "/":
        return ""
    if not PREFIX.fullmatch(text):
        raise InputError(
            f'{label} is {shorten(text)}. A prefix begins with "/" and does not end with one, such as /embeddings. '
            "Correct it."
        )
    return text


def read_url(text: str, label: str) -> str | None:
    """The URL of a server, such as http://otel:4318; "" is the default."""
    if not text.strip():
        return None
    try:
        url = urlsplit(text.strip())
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is not a number
        is_url = False
    if not is_url:
        raise InputError(f"{label} is {shorten(text)}. It must be a URL, such as http://localhost:4318. Correct it.")
    return text.strip()


def read_device_ids(text: str, label: str) -> tuple[int, ...] | None:
    if not text.strip():
        return None
    if not DEVICE_IDS.fullmatch(text.strip()):
        raise InputError(f"{label} is {shorten(text)}. It must be numbers of GPUs, such as 0 or 0,1. Correct it.")
    return tuple(int(number) for number in text.split(","))


def read_dense_path(text: str, label: str) -> int:
    """ "2_Dense_256" -> 256, as stella's folders are named."""
    match = DENSE_FOLDER.fullmatch(text)
    if not match:
        raise InputError(
            f"{label} is {shorten(text)}. Only a folder that ends in its dimensions, such as 2_Dense_256, says which "
            "head it is. Give --dim N; gnomon inspect MODEL lists the dimensions."
        )
    return int(match[1])


def read_log_level(text: str, label: str) -> str:
    """A level; of TEI's list of filters ("info,hyper=warn"), the one without a module."""
    plain = [part.strip().lower() for part in text.split(",") if "=" not in part]
    level = plain[0] if plain else text.lower()
    level = {"warn": "warning"}.get(level, level)
    check_choice(level, label, ("critical", "error", "warning", "info", "debug", "trace"))
    return level


def parse_switch(text: str, label: str) -> bool:
    if text.strip().lower() not in TRUE + FALSE:
        raise InputError(f"{label} is {shorten(text)}. It must be true or false. Correct it.")
    return text.strip().lower() in TRUE


@dataclass(frozen=True)
class Switch:
    """True or false, as the values that they stand for."""

    on: Any = True
    off: Any = False

    def __call__(self, text: str, label: str) -> Any:
        return self.on if parse_switch(text, label) else self.off


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `minimum`."""

    minimum: int = 1
    maximum: int = 10**18

    def __call__(self, text: str, label: str) -> int:
        if not WHOLE_NUMBER.fullmatch(text.strip()) or not self.minimum <= int(text) <= self.maximum:
            limit = f"from {self.minimum} to {self.maximum}" if self.maximum < 10**18 else f"of at least {self.minimum}"
            raise InputError(f"{label} is {shorten(text)}. It must be a whole number {limit}. Correct it.")
        return int(text)


@dataclass(frozen=True)
class Size:
    """Bytes, such as 32M."""

    minimum: int = 0

    def __call__(self, text: str, label: str) -> int:
        size = parse_size(text.strip())
        if size is None or size < self.minimum:
            limit = f" of at least {self.minimum}" if self.minimum else ""
            raise InputError(
                f"{label} is {shorten(text)}. It must be a number of bytes{limit}, such as 32M. Correct it."
            )
        return size


@dataclass(frozen=True)
class Seconds:
    """A number of seconds."""

    above_zero: bool = False

    def __call__(self, text: str, label: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (self.above_zero and not number):
            limit = "above 0" if self.above_zero else "of at least 0"
            raise InputError(f"{label} is {shorten(text)}. It must be a number of seconds {limit}. Correct it.")
        return number


@dataclass(frozen=True)
class Choice:
    """One of several words, in any case of letters.

    Args:
        values: word -> value.
        refused: word of a peer that is not here -> why, and what to do instead.
        others: whether other words are taken as they are, since the library checks them.
    """

    values: Mapping[str, str | None]
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    others: bool = False

    def __call__(self, text: str, label: str) -> str | None:
        word = text.strip().lower()
        if word in self.refused:
            raise InputError(f"{label} {word} is not here: {self.refused[word]}")
        if word not in self.values and self.others:
            return text.strip() or None
        check_choice(word, label, self.values)
        return self.values[word]


def same(*words: str) -> dict[str, str | None]:
    """Words that stand for themselves."""
    return {word: word for word in words}
