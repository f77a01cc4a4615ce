"""Texts and rows out of files: plain text, JSON lines, CSV, TSV, Parquet. The rules are in docs/text-files.md.

`lines` unpacks and decodes, `delimited` and `jsonlines` turn lines into rows, `parquet` reads tables, `read` chooses.
"""

from gnomon.text_files.json_lines import json_of, without_member
from gnomon.text_files.lines import STDIN, require_stdin
from gnomon.text_files.parquet import load_arrow
from gnomon.text_files.read import PARSERS, TextFile, form_of, lines_of_stdin, read_rows, read_texts, unfit
from gnomon.text_files.rows import Bad, Parsed, Remarks, Row

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
