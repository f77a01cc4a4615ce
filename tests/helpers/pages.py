"""Markdown pages as the tests of documentation read them: links, the anchors of headings, and blocks of code."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Link:
    """A link or an image of a page, as it is written."""

    line: int
    target: str

    @property
    def is_external(self) -> bool:
        return re.match(r"[a-z]+:", self.target) is not None

    def resolve(self, page: Path) -> tuple[Path, str]:
        """The file that it leads to from this page, and the anchor in it."""
        path, _, anchor = unquote(self.target).partition("#")
        return (page.parent / path if path else page).resolve(), anchor


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" for an indented one), and the line where it begins."""

    line: int
    language: str
    text: str
    name: str | None
    """The file that the sentence before it names in brackets, as in "the table (`products.csv`):"."""


def parse(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def find_links(page: Path) -> list[Link]:
    found: list[Link] = []
    for token in parse(page):
        line = token.map[0] + 1 if token.map else 0
        for child in token.children or []:
            target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            if target is not None:
                found.append(Link(line, str(target)))
    return found


def find_blocks(page: Path) -> list[Block]:
    tokens = parse(page)
    blocks: list[Block] = []
    sentence = ""
    for token in tokens:
        if token.type == "inline":
            sentence = token.content
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            named = re.search(r"\(`([\w./-]+)`\):$", sentence)
            language = token.info.split()[0] if token.info else ""
            blocks.append(Block(token.map[0] + 1, language, token.content, named[1] if named else None))
            sentence = ""
    return blocks


def find_prose(page: Path) -> list[tuple[int, str]]:
    """(line, text) of everything that is not code: paragraphs, cells of tables, headings."""
    return [
        (token.map[0] + 1, "".join(_prose_of(child) for child in token.children or []))
        for token in with_lines(parse(page))
        if token.type == "inline" and token.map
    ]


def _prose_of(part: Token) -> str:
    """A text as it is, code as one word, a line break as a blank; marks of links and emphasis are nothing."""
    return {"text": part.content, "code_inline": "code", "softbreak": " ", "hardbreak": " "}.get(part.type, "")


def find_sentences(page: Path) -> list[tuple[int, str]]:
    """(line, text) of each sentence of the prose. A full stop within a word, as in 0.4 or all.py, ends none."""
    return [
        (line, sentence)
        for line, text in find_prose(page)
        for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(text.split()))
    ]


def with_lines(tokens: list[Token]) -> list[Token]:
    """Cells of a table have no line of their own: they get that of their row."""
    line: list[int] | None = None
    for token in tokens:
        line = token.map or line
        token.map = token.map or line
    return tokens


def find_headings(page: Path) -> list[str]:
    tokens = parse(page)
    return [
        "".join(child.content for child in text.children or [])
        for opening, text in pairwise(tokens)
        if opening.type == "heading_open"
    ]


def github_anchors(headings: list[str]) -> set[str]:
    """As GitHub makes them: letters, digits, hyphens and underscores stay, each blank becomes a hyphen."""
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return _number(slugs, "-")


def site_anchors(headings: list[str]) -> set[str]:
    """As Python-Markdown makes them, and so Zensical and MkDocs: ASCII, and several blanks become one hyphen."""
    slugs: list[str] = []
    for heading in headings:
        text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        slugs.append(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()))
    return _number(slugs, "_")


def _number(slugs: list[str], mark: str) -> set[str]:
    """Equal headings are numbered from the second on."""
    seen: Counter[str] = Counter()
    anchors: set[str] = set()
    for slug in slugs:
        anchors.add(f"{slug}{mark}{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors
