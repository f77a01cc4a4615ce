"""The tables as text, for --help-infinity, --help-tei and the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnomon.cli.serve_options.readers import Choice
from gnomon.cli.serve_options.rows import Row
from gnomon.terminal import wrap_text

INDENT = 4


def describe_row(row: Row) -> str:
    """What an option does here, in one or two sentences."""
    text = row.text if row.acts else f"No effect: {row.text}"
    refused = row.read.refused if isinstance(row.read, Choice) else {}
    return f"{text} Refused: {', '.join(refused)}." if refused else text


def format_rows(rows: Sequence[Row], columns: int) -> Iterator[str]:
    """Yield lines: option, variable and the peer's default; below it what it does here."""
    for row in rows:
        parts = [" / ".join(row.flags) if row.form == "switch" else ", ".join(row.flags), row.env or ""]
        head = "  ".join(part for part in parts if part)
        yield head + (f"  (there: {row.default})" if row.default else "")
        lines = wrap_text(describe_row(row), columns - INDENT, 99)
        yield from (" " * INDENT + line for line in lines)
