"""Rows of `train_pairs/docs` in the forms in which people ask.

    mixed   headings as they are and as questions, and sentences -> their section, or some of it
    asked   a heading that is a question already -> its section
    topics  a sentence that is cut out, or a heading -> the text of ten sections of its page

The first is for training, the others for choosing recipes on a manual that is left out. A row of docs is
"page: section" -> text. Everything here is drawn from a seed, so that it can be made again.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

Row = Mapping[str, str]
Pair = tuple[str, str]

SEED = 11
SENTENCE = range(40, 300)
"""Characters of what is taken for a sentence."""
BEGINNING = 500
"""Characters of a text that are read, about what 128 tokens hold."""
PAGE = 2600
"""Characters of a page, about what 512 tokens hold."""
SECTIONS = 10
"""Sections of a page that are read together."""
FEWEST = 4
"""Sections that a page must have to count as long."""

OF_THE_PAGE = {
    ("description", "overview", "introduction", "background", "name", "general"): (
        "What is {page}?",
        "What does {page} do?",
        "What is {page} for?",
    ),
    ("usage", "how to use", "using"): ("How do I use {page}?", "How is {page} used?"),
    ("example", "examples"): ("Is there an example of {page}?", "What does {page} look like in practice?"),
    ("parameters", "options", "arguments", "module parameters"): (
        "Which options does {page} have?",
        "What can I set for {page}?",
    ),
}
"""Headings that say nothing without their page -> questions about it."""
DOING = (
    "How do I go about {section}?",
    "What should I know about {section}?",
    "Is there a way of {section}?",
    "What is the best way of {section}?",
)
ORDERED = ("How do I {section}?", "How can I {section}?", "How to {section}?", "What do I need in order to {section}?")
NAMED = (
    "What is {section}?",
    "What does {section} mean?",
    "How do I use {section}?",
    "How does {section} work?",
    "How can I find out about {section}?",
    "Why would I need {section}?",
    "What about {section} in {page}?",
    "When should I use {section}?",
    "What is meant by {section}?",
    "Where is {section} described?",
    "What is {section} good for?",
    "How does {section} behave in {page}?",
)
VERBS = frozenset(
    "add build change check configure convert create debug define disable enable find get handle include install load "
    "make manage read register remove run select send set specify start stop submit test use write".split()
)


def question(row: Row, draw: random.Random) -> str:
    """The form follows the heading: setting X, set X, X, and those of every page, such as "Usage"; a question stays."""
    page = page_of(row)
    section = re.sub(r"^[\d.]+\s+", "", section_of(row)).rstrip(":. ") or page
    if section.endswith("?"):
        return section
    if section != page:
        for headings, forms in OF_THE_PAGE.items():
            if section.lower() in headings:
                return draw.choice(forms).format(page=in_a_sentence(page))
    first = section.partition(" ")[0].lower()
    forms = DOING if first.endswith("ing") and len(first) > 5 else ORDERED if first in VERBS else NAMED
    return draw.choice(forms).format(section=in_a_sentence(section), page=page)


def mixed(rows: Sequence[Row]) -> Iterator[Pair]:
    """Of each section: its heading as a question and as it is, and its beginning; page and heading, and some sentences;
    up to four of its sentences, each and some of the others."""
    draw = random.Random(SEED)
    for row in rows:
        text = row["positive"]
        yield question(row, draw), text[:BEGINNING]
        yield section_of(row), text[:BEGINNING]
        parts = re.split(r"(?<=[.?!:])\s+", text)
        yield row["anchor"], some_of(parts, 3, draw)
        sentences = [place for place, part in enumerate(parts) if len(part) in SENTENCE]
        for place in draw.sample(sentences, min(4, len(sentences))):
            others = parts[:place] + parts[place + 1 :]
            if others:
                yield parts[place], some_of(others, draw.choice((1, 2, 3)), draw)


def some_of(parts: Sequence[str], number: int, draw: random.Random) -> str:
    """So many that stand together."""
    start = draw.randrange(max(1, len(parts) - 1))
    return " ".join(parts[start : start + number])[:BEGINNING]


def asked(rows: Sequence[Row]) -> Iterator[Pair]:
    return ((section_of(row), row["positive"]) for row in rows if row["anchor"].rstrip().endswith("?"))


def topics(rows: Sequence[Row]) -> Iterator[Pair]:
    draw = random.Random(SEED)
    by_page: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_page[page_of(row)].append(row)
    for sections in by_page.values():
        draw.shuffle(sections)
        for start in range(0, len(sections), SECTIONS):
            some = sections[start : start + SECTIONS]
            if len(some) < FEWEST:
                continue
            place = draw.randrange(len(some))
            texts = [row["positive"] for row in some]
            cut = sentences_of(texts[place])[:1]
            for sentence in cut:
                texts[place] = texts[place].replace(sentence, "")
            of_several_words = (each for each in (*cut, *map(section_of, some)) if len(each.split()) > 1)
            if query := next(of_several_words, None):
                yield query, " ".join(texts)[:PAGE]


FORMS: dict[str, Callable[[Sequence[Row]], Iterator[Pair]]] = {"mixed": mixed, "asked": asked, "topics": topics}


def page_of(row: Row) -> str:
    return row["anchor"].partition(": ")[0]


def section_of(row: Row) -> str:
    """The page's own heading where it has no sections."""
    return row["anchor"].partition(": ")[2] or row["anchor"]


def sentences_of(text: str) -> list[str]:
    return [each for each in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text) if len(each) in SENTENCE]


def in_a_sentence(heading: str) -> str:
    """Without its capital, where the word has no others."""
    return heading if not heading.partition(" ")[0][1:].islower() else heading[0].lower() + heading[1:]
