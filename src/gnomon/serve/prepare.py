"""From the inputs of a request to token sequences that wait for the engine.

B: texts; T: tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from gnomon.encoder import Encoder
from gnomon.errors import InputError
from gnomon.packed import Ids
from gnomon.pipeline import check_ids
from gnomon.serve.requests import RequestError, Truncate

TEXTS_PER_SLICE = 64
"""Texts that one thread tokenizes before it looks for other work."""

KEY_BYTES = 16
"""Bytes of a text's key: two different texts share one with a probability of 2^-64 after 2^32 texts."""


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A text as the engine reads it."""

    sequences: tuple[Ids, ...]
    """ids_T of the text; of each of its windows where it is longer than the model reads, and read in windows."""
    new_token_counts: tuple[int, ...]
    """The weight of each window in the mean: its tokens that no earlier window holds."""
    skip: int
    """First tokens that pooling leaves out."""
    num_full_tokens: int
    """Tokens of the whole text."""
    truncated: bool
    key: bytes
    """Equal for texts that give the engine the same work."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the engine reads."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Preparation:
    """How the inputs of one request are prepared."""

    encoder: Encoder
    prompt: str
    truncate: Truncate
    max_tokens: int | None
    skip: int
    salt: bytes = b""
    """Part of each key, since texts of other models share the cache."""

    @classmethod
    def from_request(
        cls, encoder: Encoder, prompt: str, truncate: Truncate, max_tokens: int | None, salt: bytes = b""
    ) -> Preparation:
        """
        Raises:
            RequestError: `max_tokens` leaves no room for text, or is given for windows.
        """
        tokenizer = encoder.tokenizer
        if max_tokens is not None:
            num_special = tokenizer.num_leading_special + tokenizer.num_trailing_special
            if truncate == "mean":
                raise RequestError(
                    "a number of tokens truncates a text, and 'mean' reads all of it. Give one of them.", "invalid"
                )
            if max_tokens <= num_special:
                raise RequestError(
                    f"{max_tokens} tokens leave no room for text beside the {num_special} special tokens. Give more.",
                    "invalid",
                )
        skip = 0 if encoder.spec.pooling.include_prompt else tokenizer.count_prompt_tokens(prompt)
        return cls(encoder, prompt, truncate, max_tokens, skip, salt)

    def prepare_texts(self, texts: Sequence[str], first_position: int = 0) -> list[PreparedText]:
        """Tokenize texts.

        Args:
            first_position: the position of the first text in the request, for messages.

        Raises:
            RequestError: a text without tokens, or one that is too long and may not be truncated.
        """
        whole = self.encoder.tokenizer.encode([self.prompt + text for text in texts] if self.prompt else texts)
        return self.prepare_ids(whole, first_position)

    def prepare_ids(self, whole: Sequence[Ids], first_position: int = 0) -> list[PreparedText]:
        """As `prepare_texts`, from the token ids of whole texts."""
        return [self._prepare(ids_T, first_position + index) for index, ids_T in enumerate(whole)]

    def complete_ids(self, ids: Sequence[int], position: int) -> Ids:
        """The ids of one text that a client tokenized; special tokens are added where they are missing.

        Raises:
            RequestError: an id that the model does not have.
        """
        ids_T, rows = np.asarray(ids, np.int64), self.encoder.spec.trunk.vocab_size
        if ids_T.size and not 0 <= ids_T.min() <= ids_T.max() < rows:
            wrong = int(ids_T[(ids_T < 0) | (ids_T >= rows)][0])
            raise RequestError(
                f"input[{position}] has token id {wrong}, and this model has ids from 0 to {rows - 1}. Send text.",
                "invalid",
                param="input",
                index=position,
            )
        tokenizer = self.encoder.tokenizer
        empty_T = tokenizer.encode([""])[0] if tokenizer.spec.special_tokens else np.zeros(0, np.int64)
        before, after = np.split(empty_T, [tokenizer.num_leading_special])
        has_before = len(before) > 0 and np.array_equal(ids_T[: len(before)], before)
        return ids_T if has_before else np.concatenate([before, ids_T, after])

    def _prepare(self, ids_T: Ids, position: int) -> PreparedText:
        try:
            check_ids(self.encoder.spec, ids_T, position)
        except InputError as error:
            raise RequestError(str(error), "empty", param="input", index=position) from error
        limit = self.encoder.tokenizer.limit_tokens(self.max_tokens)
        is_long = limit is not None and len(ids_T) > limit
        if is_long and self.truncate == "error":
            raise RequestError(
                f"input[{position}] has {len(ids_T):,} tokens, and {limit:,} are read. Shorten it, or let the server "
                "truncate it.",
                "too_long",
                param="input",
                index=position,
            )
        if is_long and self.truncate == "mean":
            try:
                windows = self.encoder.tokenizer.split_into_windows(ids_T, self.prompt)
            except InputError as error:
                raise RequestError(str(error), "invalid", param="prompt") from error
            return self._make(windows.ids, windows.new_token_counts, len(ids_T), self.skip, truncated=False)
        side = self.truncate if self.truncate in ("left", "right") else None
        read_T = self.encoder.tokenizer.truncate(ids_T, limit=limit, side=side)
        skip = self._count_skipped(len(ids_T) - len(read_T), side)
        if self.skip and is_long and skip + self.encoder.tokenizer.num_trailing_special >= len(read_T):
            raise RequestError(
                f"the prompt takes all of the {len(read_T)} tokens that are read of input[{position}]. Let more be "
                "read, or use a shorter prompt.",
                "invalid",
                param="prompt",
                index=position,
            )
        return self._make([read_T], [1], len(ids_T), skip, truncated=is_long)

    def _count_skipped(self, num_removed: int, side: str | None) -> int:
        """The first tokens that pooling leaves out of a text that was truncated, perhaps in its prompt.

        Where the model itself truncates on the left, all of them, as `Encoder.encode` does.
        """
        tokenizer = self.encoder.tokenizer
        if not self.skip or side in (None, "right", tokenizer.spec.truncation_side):
            return self.skip
        return tokenizer.num_leading_special + max(0, self.skip - tokenizer.num_leading_special - num_removed)

    def _make(
        self,
        sequences: Sequence[Ids],
        new_token_counts: Sequence[int],
        num_full_tokens: int,
        skip: int,
        *,
        truncated: bool,
    ) -> PreparedText:
        digest = blake2b(skip.to_bytes(4, "little"), digest_size=KEY_BYTES, key=self.salt)
        for ids_T in sequences:
            digest.update(len(ids_T).to_bytes(4, "little"))
            digest.update(ids_T.tobytes())
        return PreparedText(
            tuple(sequences), tuple(new_token_counts), skip, num_full_tokens, truncated, digest.digest()
        )
