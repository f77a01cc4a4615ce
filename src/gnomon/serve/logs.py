"""Logs: one line per request, as text or JSON. They hold no text of a request, and no key.

What a client chose (a path, a method, an id) is written percent-encoded and short: it can make no line, and no field.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

import orjson

from gnomon.serve.options import LogFormat

LOGGER = logging.getLogger("gnomon.serve")

LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


MAX_SENT = 200
"""Characters of a value that a client sent."""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return orjson.dumps(fields, default=str).decode()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        fields = "".join(f" {name}={_write_value(value)}" for name, value in getattr(record, "fields", {}).items())
        line = f"{stamp} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return line if line.isprintable() else _escape(line)


def set_up_logs(form: LogFormat, level: str) -> None:
    """Write the server's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(LEVELS.get(level, logging.INFO))


def log(level: int, message: str, **fields: Any) -> None:
    """Write a line with fields beside the message; those that are None are left out."""
    if LOGGER.isEnabledFor(level):
        present = {name: value for name, value in fields.items() if value is not None}
        LOGGER.log(level, message, extra={"fields": present})


def quote_sent(text: str) -> str:
    """A text that a client sent, for a line: without spaces and what is not printable, and short. "%0A" for a line
    break, as in a URL.
    """
    quoted = text[:MAX_SENT]
    if not quoted.isprintable() or " " in quoted or "%" in quoted:
        quoted = "".join(
            each if each.isprintable() and each not in " %" else quote(each, errors="surrogatepass") for each in quoted
        )
    return quoted if len(text) <= MAX_SENT >= len(quoted) else f"{quoted[: MAX_SENT - 3]}..."


def list_frames(error: BaseException) -> list[str]:
    """Where an exception was raised, and those that it follows: types and frames. Messages are left out, since they may
    quote a text of a request.
    """
    lines = list[str]()
    link: BaseException | None = error
    while link is not None:
        lines.append(type(link).__name__)
        lines += [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(link.__traceback__)]
        link = link.__cause__ or link.__context__
    return lines


def _write_value(value: object) -> str:
    """A value in a line of text: lists with commas, and quotes where a space, a quote or nothing would be unclear."""
    text = ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def _escape(line: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
