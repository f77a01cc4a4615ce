"""Real texts, in mixes of lengths that are met in practice. All texts of a mix differ."""

import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

MIXES: dict[str, Mapping[str, float]] = {
    "short": {"short": 1.0},
    "paragraphs": {"paragraphs": 1.0},
    "long-tail": {"short": 0.45, "sentences": 0.35, "paragraphs": 0.17, "section": 0.03},
    "long": {"document": 1.0},
    "uniform-512": {"page": 1.0},
}
"""Name -> shares of the kinds of text: queries and headings; sentences; paragraphs and answers; sections of 250 to 700
words; documents of 200 to 6,500 words; pages, which are all truncated at 512 tokens.
"""

DOCUMENT_WORDS = (6500, 200, 1700, 500, 4000, 300, 2600, 800)
"""Words of the texts of "long", in turn: a first few of them already span the range."""


class Texts:
    """The kinds of text, each shuffled once."""

    def __init__(self, data: Path) -> None:
        self.data = data
        if not data.is_dir():
            raise SystemExit(f"{data} is not there; name the folder that holds data/ with --shared.")

    def mix(self, name: str, count: int) -> list[str]:
        """`count` texts; any first part of them has nearly the mix's shares too."""
        shares = MIXES[name]
        sources = {kind: self.kind(kind) for kind in shares}
        most, found = max(shares, key=lambda kind: shares[kind]), dict[str, None]()
        for kind in blend(shares):
            text = next(sources[kind], None) or next(sources[most], None)
            if not text:
                raise SystemExit(f"there are no {count:,} different texts for the mix {name!r}; use a smaller --scale.")
            found[text] = None
            if len(found) == count:
                break
        return list(found)

    def kind(self, kind: str) -> Iterator[str]:
        sizes: dict[str, Callable[[int, random.Random], int]] = {
            "section": lambda turn, chance: chance.randint(250, 700),
            "document": lambda turn, chance: DOCUMENT_WORDS[turn % len(DOCUMENT_WORDS)],
            "page": lambda turn, chance: 700,
        }
        return self.parts(sizes[kind]) if kind in sizes else iter(getattr(self, kind))

    @cached_property
    def short(self) -> list[str]:
        lines = [self.lines(f"retrieval_{name}/queries.jsonl.gz") for name in ("faq", "defs", "longdocs")]
        lines += [self.lines(f"train_pairs/{name}.jsonl.gz", "anchor") for name in ("docs", "strings")]
        return shuffled(text for text in itertools.chain(*lines) if 3 <= len(text.split()) <= 14 and text.isascii())

    @cached_property
    def sentences(self) -> list[str]:
        definitions = self.lines("retrieval_defs/corpus.jsonl.gz")
        verses = self.lines("train_pairs/bible.jsonl.gz", "anchor")
        return shuffled(text for text in (*definitions, *verses) if 10 <= len(text.split()) <= 60)

    @cached_property
    def paragraphs(self) -> list[str]:
        names = ("retrieval_faq/corpus.jsonl.gz", "retrieval_help/mono_en/corpus.jsonl.gz")
        pages = itertools.chain(*map(self.lines, names), self.lines("train_pairs/docs.jsonl.gz", "positive"))
        return shuffled(text for text in pages if 60 <= len(text.split()) <= 220)

    @cached_property
    def documents(self) -> list[str]:
        return shuffled(self.lines("retrieval_longdocs/corpus.jsonl.gz"))

    def parts(self, words: Callable[[int, random.Random], int]) -> Iterator[str]:
        """Parts of documents, `words(turn, chance)` words each; ends after a thousand rounds of all documents."""
        chance, documents = random.Random(1), [document.split() for document in self.documents]
        for turn in range(1000 * len(documents)):
            size, document = words(turn, chance), documents[turn % len(documents)]
            if len(document) < size:
                document = max(documents, key=len)
            start = chance.randint(0, len(document) - size)
            yield " ".join(document[start : start + size])

    def brief(self, count: int) -> list[str]:
        """Different runs of 4 to 9 words: 8 to 20 tokens, mostly."""
        chance, found = random.Random(2), dict[str, None]()
        for document in (document.split() for document in self.documents):
            start = 0
            while start < len(document):
                size = chance.randint(4, 9)
                found[" ".join(document[start : start + size])] = None
                start += size
        if len(found) < count:
            raise SystemExit(f"{self.data} has {len(found):,} different runs of words; {count:,} are wanted.")
        return shuffled(found)[:count]

    def lines(self, name: str, key: str = "text") -> list[str]:
        with gzip.open(self.data / name, "rt", encoding="utf-8") as lines:
            return [json.loads(line)[key] for line in lines]


def shuffled(texts: Iterator[str] | list[str] | dict[str, None]) -> list[str]:
    different = list(dict.fromkeys(texts))
    random.Random(0).shuffle(different)
    return different


def blend(shares: Mapping[str, float]) -> Iterator[str]:
    """Kinds in an order in which each is, at any point, within one of its share; without end."""
    taken = dict.fromkeys(shares, 0)
    for turn in itertools.count(1):
        kind = max(shares, key=lambda kind: shares[kind] * turn - taken[kind])
        taken[kind] += 1
        yield kind
