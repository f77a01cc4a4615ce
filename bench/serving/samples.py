"""Texts for the server's benchmarks, and requests made of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.serving.load import Prepared, prepare
from bench.texts import Texts


@dataclass(frozen=True)
class Sample:
    """Texts that all systems read whole, with their numbers of tokens, special tokens included."""

    name: str
    texts: Sequence[str]
    tokens: Sequence[int]

    def part(self, start: int, stop: int) -> "Sample":
        return Sample(self.name, self.texts[start:stop], self.tokens[start:stop])

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens)


def make_sample(name: str, texts: Sequence[str], encoder: Any) -> Sample:
    """Shorten what is longer than the model reads: servers truncate at different lengths, and would compute more."""
    report = encoder.tokenize(list(texts))
    short = [text[:at] if at is not None else text for text, at in zip(texts, report.truncated_at, strict=True)]
    report = encoder.tokenize(short)
    return Sample(name, short, [len(ids) for ids in report.ids])


def mixed(texts: Texts, count: int, encoder: Any) -> Sample:
    """Short texts, sentences, paragraphs and sections, as in bench/inference."""
    return make_sample("mixed lengths", texts.mix("long-tail", count), encoder)


def short(texts: Texts, count: int, encoder: Any) -> Sample:
    """Different texts of 8 to 20 tokens."""
    return make_sample("short texts", texts.brief(count), encoder)


def log_uniform(texts: Texts, count: int, encoder: Any, low: int = 8, high: int = 512) -> Sample:
    """Beginnings of parts of documents, whose numbers of tokens are log-uniform, special tokens included."""
    chance = random.Random(3)
    parts = texts.parts(lambda turn, _: high)
    found = list[str]()
    while len(found) < count:
        text = next(parts)
        offsets_T2 = encoder.tokenize(text).offsets[0]
        length = round(math.exp(chance.uniform(math.log(low), math.log(high))))
        if length < len(offsets_T2):
            text = text[: offsets_T2[length - 2, 1]]
        found.append(text)
    return make_sample("log-uniform lengths", found, encoder)


def batches(
    sample: Sample,
    size: int,
    path: str = "/v1/embeddings",
    model: str = "m",
    headers: dict[str, str] | None = None,
) -> list[Prepared]:
    """The texts as requests of `size` texts each; the rest that does not fill one is left out."""
    starts = range(0, len(sample.texts) - size + 1, size)
    return [one_request(sample.part(start, start + size), path, model, headers) for start in starts]


def one_request(
    sample: Sample, path: str = "/v1/embeddings", model: str = "m", headers: dict[str, str] | None = None
) -> Prepared:
    body = {"input": list(sample.texts), "model": model, "encoding_format": "base64"}
    return prepare(path, body, texts=len(sample.texts), tokens=sample.num_tokens, headers=headers)
