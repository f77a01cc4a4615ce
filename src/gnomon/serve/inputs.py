"""`Texts` and `TokenIds`: the inputs of a request, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnomon.serve.cl100k import Decode
from gnomon.serve.prepare import Preparation, PreparedText
from gnomon.serve.requests import Inputs, RequestError
from gnomon.tokenizer import TokenReport

CHARACTERS_PER_TOKEN = 4
"""An estimate, for requests that are refused before they are tokenized."""


@dataclass(frozen=True)
class Texts:
    """Inputs that the server tokenizes."""

    texts: Sequence[str]

    @property
    def num_characters(self) -> int:
        return sum(map(len, self.texts))

    def measure(self, prompt: str) -> list[int]:
        """What it takes to prepare each of them: its characters."""
        return [len(prompt) + len(text) for text in self.texts]

    def estimate_tokens(self, prompt: str, limit: int | None) -> int:
        """About how many tokens the model will read, `limit` of each at most."""
        return _sum_up([size // CHARACTERS_PER_TOKEN for size in self.measure(prompt)], limit)

    def prepare(self, preparation: Preparation, part: slice) -> list[PreparedText]:
        return preparation.prepare_texts(self.texts[part], part.start)

    def describe(self, preparation: Preparation) -> TokenReport | None:
        """What the model reads of each."""
        side = preparation.truncate if preparation.truncate in ("left", "right") else None
        texts = [preparation.prompt + text for text in self.texts]
        report = preparation.encoder.tokenizer.tokenize(texts, limit=preparation.max_tokens, side=side)
        whole = preparation.truncate == "mean"
        return replace(report, truncated_at=[None] * len(texts)) if whole else report


@dataclass(frozen=True)
class TokenIds:
    """Inputs that the client tokenized. A prompt is not put before them."""

    ids: Sequence[Any]
    """Lists of whole numbers, as the client sent them; arrays, once they are complete."""

    num_characters = 0

    @property
    def num_ids(self) -> int:
        return sum(map(len, self.ids))

    def measure(self, prompt: str) -> list[int]:
        """What it takes to prepare each of them: its tokens."""
        return [len(ids) for ids in self.ids]

    def estimate_tokens(self, prompt: str, limit: int | None) -> int:
        return _sum_up(self.measure(prompt), limit)

    def complete(self, preparation: Preparation) -> TokenIds:
        """The same as ids of the model, with its special tokens.

        Raises:
            RequestError: an id that the model does not have.
        """
        return TokenIds([preparation.complete_ids(ids, index) for index, ids in enumerate(self.ids)])

    def decode(self, decode_cl100k: Decode) -> Texts:
        """The texts of ids of OpenAI's vocabulary.

        Raises:
            RequestError: an id that is not in it.
        """
        texts = list[str]()
        for index, ids in enumerate(self.ids):
            try:
                texts.append(decode_cl100k(ids))
            except Exception as error:
                message = f"input[{index}] holds an id that is not in cl100k. Send text."
                raise RequestError(message, "token_ids", param="input", index=index) from error
        return Texts(texts)

    def prepare(self, preparation: Preparation, part: slice) -> list[PreparedText]:
        return preparation.prepare_ids(self.ids[part], part.start)

    def describe(self, preparation: Preparation) -> TokenReport | None:
        """None: they have no characters."""
        return None


def sort_inputs(inputs: Inputs) -> Texts | TokenIds:
    """Inputs by their kind; an empty list counts as texts."""
    if inputs and not isinstance(inputs[0], str):
        return TokenIds(inputs)
    return Texts(inputs)  # pyright: ignore[reportArgumentType] all are texts where one is


def _sum_up(counts: list[int], limit: int | None) -> int:
    return sum(counts) if limit is None else sum(min(count, limit) for count in counts)
