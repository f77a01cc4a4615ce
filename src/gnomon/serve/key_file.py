"""The file of API keys: one reader for the start of the command and for the server that runs."""

from __future__ import annotations

import re
from pathlib import Path

from gnomon.errors import InputError

COMMENT = re.compile(r"(?:^|\s)#.*")
"""A "#" inside a key belongs to the key."""


def read_key_file(file: Path) -> list[str]:
    """The keys of a file: one per line. "#" begins a comment, at the start of a line or after a space.

    Raises:
        InputError: the file cannot be read or holds no key, or a line holds something that no header carries. The
            message has the number of the line, and never a key.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise InputError(
            f"--api-key-file {file} cannot be read: {reason}. It must be text with one key per line. Correct it."
        ) from error
    keys = list[str]()
    for number, line in enumerate(lines, 1):
        key = COMMENT.sub("", line, count=1).strip()
        if not is_key(key):
            raise InputError(
                f"--api-key-file {file} has no key in line {number}: there is a space, a control character or one "
                'outside ASCII in it, which a header cannot carry. Write one key per line, and "#" before a comment.'
            )
        if key:
            keys.append(key)
    if not keys:
        raise InputError(f"--api-key-file {file} has no key. Write one key per line, or leave the option out.")
    return keys


def is_key(text: str) -> bool:
    """Whether a header can carry a text as a key: printable ASCII without a space."""
    return text.isascii() and text.isprintable() and " " not in text
