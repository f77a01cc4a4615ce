"""Texts and rows out of files: plain text, JSON lines, CSV, TSV, Parquet.

`lines` unpacks and decodes, `delimited` (with `cells`) and `json_lines` turn lines into rows, `parquet` reads tables,
`fields` takes the text out of a row, `collect` groups texts, `read` chooses. The rules are in
docs/reference/text-files.md.
"""

from gnomon.text_files.collect import GROUP_LIMITS, GroupLimits, TextFile, describe_empty
from gnomon.text_files.fields import text_fault
from gnomon.text_files.json_lines import dump_json, remove_member
from gnomon.text_files.lines import STDIN, require_stdin
from gnomon.text_files.parquet import load_arrow
from gnomon.text_files.read import PARSERS, TextStream, infer_format, read_rows, read_stdin_lines, read_texts
from gnomon.text_files.rows import BadLine, NumberedRows, Remarks, Row

__all__ = [
    "GROUP_LIMITS",
    "PARSERS",
    "STDIN",
    "BadLine",
    "GroupLimits",
    "NumberedRows",
    "Remarks",
    "Row",
    "TextFile",
    "TextStream",
    "describe_empty",
    "dump_json",
    "infer_format",
    "load_arrow",
    "read_rows",
    "read_stdin_lines",
    "read_texts",
    "remove_member",
    "require_stdin",
    "text_fault",
]
