"""Runs blocks of code of a guide as they are written, with only the address, the model or a folder replaced."""

import re
from pathlib import Path
from typing import Any

from pages import DOCS, Block, find_blocks

ADDRESS = "http://127.0.0.1:7997"
"""The address of the server in the guides."""


def find_block(page: str, start: str, language: str = "python") -> Block:
    """The one block of a guide that begins with a text."""
    blocks = [block for block in find_blocks(DOCS / "guides" / page) if block.language == language]
    (block,) = [block for block in blocks if block.text.startswith(start)]
    return block


def fill_block(block: Block, url: str, name: str) -> str:
    """A block's text for a server at `url`, whose model is called `name` where the guide has "e5"."""
    return re.sub(r"""\be5(?=[":])""", name, block.text.replace(ADDRESS, url))


def run_text(text: str, where: str) -> dict[str, Any]:
    """The names that a block of Python defines."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, where, "exec"), names)
    return names


def run_block(page: str, start: str, url: str, name: str) -> dict[str, Any]:
    return run_text(fill_block(find_block(page, start), url, name), page)


def list_starts(page: Path) -> list[tuple[str, str]]:
    """(language, first line) of every block of a guide."""
    return [(block.language, block.text.splitlines()[0]) for block in find_blocks(page)]
