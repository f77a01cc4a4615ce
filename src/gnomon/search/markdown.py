"""Splits Markdown at its headings, and long sections at their paragraphs, into passages that a model reads whole."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_BYTES = 600
"""Default size of a passage with its title, in bytes of UTF-8.

Most models that run on a laptop read 256 tokens or more. English prose has over 4 bytes per token, code and tables
about 3, Chinese about 3. docs/guides/search.md has the measurement.
"""

LINE_END = re.compile(r"\r\n|\n|\r")
SENTENCE_END = re.compile(r"[.!?…](?=\s)|[。！？]")
FRONT_MATTER_KEY = re.compile(r"\s*(#|[\w.-]+\s*[:=]|\[)")
"""How the first line of front matter begins: a comment, a key or a table of TOML. After a thematic break comes text."""
FRONT_MATTER_TITLE = re.compile(r"title\s*[:=]\s*(['\"]?)(.+?)\1\s*", re.IGNORECASE)
FRONT_MATTER_ENDS = {"---": ("---", "..."), "+++": ("+++",)}
TITLE_SEPARATOR = " > "

Span = tuple[int, int]
"""Start and end of a part of the source, in characters."""


@dataclass(frozen=True)
class Passage:
    """A part of a Markdown file."""

    line: int
    """The line on which the text begins, from 1."""
    title: str
    """The headings above it: "Manual > Install"; "" without one."""
    text: str
    """As it stands in the file, with "\\n" as line end."""


@dataclass
class _Section:
    parents: str
    """The title of what is around it."""
    title: str
    heading: Span | None = None
    blocks: list[Span] = field(default_factory=list[Span])
    has_subsection: bool = False


def split_markdown(source: str, *, max_bytes: int = MAX_BYTES) -> list[Passage]:
    """Split the text of a Markdown file into passages, in its order.

    A section begins at each ATX or setext heading outside code, quotes and lists. Front matter (between `---` lines, or
    `+++`) is left out; its title is the first part of each title. A heading without text is in the titles of the
    sections below it; without such a section, it is a passage of its own.

    Args:
        max_bytes: size of a passage together with its title, in bytes of UTF-8. A longer section is split between its
            paragraphs, lists and other blocks; a longer block between its lines; a longer line between its sentences
            or words. Half of it is free for the text however long the title is.
    """
    lines = LINE_END.split(source.removeprefix("\ufeff"))
    document_title, num_lines = _read_front_matter(lines)
    lines[:num_lines] = [""] * num_lines
    text = "\n".join(lines)
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    passages: list[Passage] = []
    for section in _find_sections(text, starts, document_title):
        title, spans = section.title, list[Span]()
        if section.blocks:
            room = max(max_bytes - _size(title and f"{title}\n"), max_bytes // 2, 1)
            spans = _split_long(text, section.blocks, room)
        elif section.heading and not section.has_subsection:
            title, spans = section.parents, [section.heading]
        passages += [Passage(bisect_right(starts, start), title, text[start:end]) for start, end in spans]
    return passages


def _read_front_matter(lines: Sequence[str]) -> tuple[str, int]:
    """(title, number of lines) of the front matter; ("", 0) without one."""
    ends = FRONT_MATTER_ENDS.get(lines[0].rstrip())
    if not ends:
        return "", 0
    last = next((number for number, line in enumerate(lines) if number and line.rstrip() in ends), 0)
    content = [line for line in lines[1:last] if line.strip()]
    if not last or (content and not FRONT_MATTER_KEY.match(content[0])):
        return "", 0
    title = next((match[2] for line in content if (match := FRONT_MATTER_TITLE.fullmatch(line))), "")
    return title, last + 1


def _find_sections(text: str, starts: Sequence[int], document_title: str) -> Iterator[_Section]:
    """Yield the sections of a document, also those without text."""
    trail: list[tuple[int, str]] = [(0, document_title)] if document_title else []
    section = _Section("", document_title)
    tokens = _block_parser().parse(text)
    for index, token in enumerate(tokens):
        if token.level or token.nesting < 0 or not token.map or token.type == "hr":
            continue
        span = _trim(text, starts[token.map[0]], min(starts[token.map[1]], len(text)))
        if token.type != "heading_open":
            section.blocks += [span] if span[0] < span[1] else []  # a form feed is a paragraph of white space
            continue
        level, heading = int(token.tag[1:]), _plain_text(tokens[index + 1])
        section.has_subsection = bool(trail) and level > trail[-1][0]
        yield section
        trail = [(above, title) for above, title in trail if above < level]
        parents = _join_titles(trail)
        if heading != parents or parents != document_title:  # else it repeats the title of the front matter
            trail.append((level, heading))
        section = _Section(parents, _join_titles(trail), span)
    yield section


def _join_titles(trail: Sequence[tuple[int, str]]) -> str:
    return TITLE_SEPARATOR.join(title for _, title in trail if title)


def _plain_text(inline: Token) -> str:
    """The text of a heading without its markup."""
    children = _inline_parser().parseInline(inline.content)[0].children or []
    text = "".join(" " if "break" in child.type else child.content for child in children if child.type != "html_inline")
    return " ".join(text.split())


@cache
def _block_parser() -> MarkdownIt:
    """A parser of blocks alone, three times as fast. Definitions of links are text to it, so that no line is lost."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable("reference")
    parser.core.ruler.disable("inline")
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


# ---- long sections


def _split_long(text: str, blocks: Sequence[Span], limit: int) -> list[Span]:
    """Spans of at most `limit` bytes and of about one size, which begin and end between blocks where they can."""
    total = _size(text[blocks[0][0] : blocks[-1][1]])
    if total <= limit:
        return [(blocks[0][0], blocks[-1][1])]
    target = total / -(-total // limit)
    spans: list[Span] = []
    for start, end in _small_units(text, blocks, limit):
        first = spans[-1][0] if spans else 0
        before = _size(text[first : spans[-1][1]]) if spans else 0
        if spans and before < target and _size(text[first:end]) <= limit:
            spans[-1] = (first, end)
        else:
            spans.append((start, end))
    return spans


def _small_units(text: str, blocks: Sequence[Span], limit: int) -> Iterator[Span]:
    """Yield blocks that fit, the lines of longer ones, and the sentences or words of longer lines."""
    for start, end in blocks:
        if _size(text[start:end]) <= limit:
            yield start, end
            continue
        for line in re.finditer(r"[^\n]+", text[start:end]):
            line_start, line_end = _trim(text, start + line.start(), start + line.end())
            if line_start < line_end:
                yield from _split_line(text, line_start, line_end, limit)


def _split_line(text: str, start: int, end: int, limit: int) -> Iterator[Span]:
    while _size(text[start : min(end, start + limit + 1)]) > limit:
        most = start + _count_fitting(text[start : start + limit], limit)
        sentences = [match.end() for match in SENTENCE_END.finditer(text, start, most)]
        middle = (start + most) // 2
        if sentences and sentences[-1] > middle:
            stop = sentences[-1]
        else:
            space = text.rfind(" ", middle, most)
            stop = space if space > start else most
        yield start, stop
        start = end - len(text[stop:end].lstrip())
    if start < end:
        yield start, end


def _count_fitting(text: str, limit: int) -> int:
    """How many characters of a text fit into `limit` bytes; at least one."""
    used = 0
    for index, char in enumerate(text):
        used += _size(char)
        if used > limit:
            return max(index, 1)
    return len(text)


def _trim(text: str, start: int, end: int) -> Span:
    """A span without empty lines at its start and white space at its end. The indent of its first line stays."""
    part = text[start:end]
    stripped = part.lstrip()
    begin = start + len(part) - len(stripped)
    first_line = text.rfind("\n", start, begin) + 1
    return (max(first_line, start) if stripped else end), start + len(part.rstrip())


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
