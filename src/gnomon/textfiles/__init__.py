"""Texts and rows out of files: plain text, JSON lines, CSV, TSV, Parquet. The rules are in docs/text-files.md.

`lines` unpacks and decodes, `delimited` and `jsonlines` turn lines into rows, `parquet` reads tables, `read` chooses.
"""

from gnomon.textfiles.jsonlines import json_of, without_member
from gnomon.textfiles.lines import STDIN, require_stdin
from gnomon.textfiles.parquet import load_arrow
from gnomon.textfiles.read import PARSERS, TextFile, form_of, lines_of_stdin, read_rows, read_texts, unfit
from gnomon.textfiles.rows import Bad, Parsed, Remarks, Row

__all__ = [
    "PARSERS",
    "STDIN",
    "Bad",
    "Parsed",
    "Remarks",
    "Row",
    "TextFile",
    "form_of",
    "json_of",
    "lines_of_stdin",
    "load_arrow",
    "read_rows",
    "read_texts",
    "require_stdin",
    "unfit",
    "without_member",
]
