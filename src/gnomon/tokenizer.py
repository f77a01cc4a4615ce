"""Turns texts into token ids, and reports each text's token count, offsets and where it was truncated.

T: tokens of a text. A tokenizer is never changed after it is built, so threads may share it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as RawTokenizer

from gnomon.errors import InputError, ModelError
from gnomon.packed import Ids
from gnomon.spec import TokenizerSpec


@dataclass(frozen=True)
class TokenReport:
    """What the model reads of each text."""

    ids: list[Ids]
    """ids_T that the model reads: special tokens included, truncated to max_seq_length."""
    offsets: list[NDArray[np.int64]]
    """[T, 2]: start and end of each token in prompt + text, in characters; 0, 0 for special tokens."""
    counts: list[int]
    """Number of tokens of the whole text, special tokens included."""
    truncated_at: list[int | None]
    """The character of prompt + text at which it was truncated; None for a whole text. Where the model truncates on
    the left, it reads from that character on.
    """

    @property
    def truncated(self) -> list[int]:
        """Positions of the truncated texts."""
        return [index for index, character in enumerate(self.truncated_at) if character is not None]


@dataclass(frozen=True)
class Windows:
    """A long text as overlapping windows."""

    ids: list[Ids]
    new_token_counts: list[int]
    """Per window, how many tokens of the text are in no earlier window. Special tokens and the prompt do not count."""


class Tokenizer:
    """A `tokenizers.Tokenizer` whose own truncation and padding are off, and the model's rules of length."""

    def __init__(self, raw: RawTokenizer, spec: TokenizerSpec) -> None:
        self.raw, self.spec = _add_lowercasing(raw) if spec.lower_case else raw, spec
        self.num_leading_special, self.num_trailing_special = self._count_special_tokens()
        num_special = self.num_leading_special + self.num_trailing_special
        if spec.max_seq_length is not None and spec.max_seq_length <= num_special:
            raise ModelError(
                f"max_seq_length {spec.max_seq_length} leaves no room for text beside the {num_special} special tokens."
            )

    @property
    def lower_cases(self) -> bool:
        """Whether capital letters become small ones, by the tokenizer's own rules or by the model's."""
        normalizer: Any = self.raw.normalizer
        return normalizer is not None and "A" not in normalizer.normalize_str("A")

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of whole texts, special tokens included."""
        return [np.array(encoding.ids, dtype=np.int64) for encoding in self._encode_batch(texts, offsets=False)]

    def truncate(self, ids_T: Ids, *, limit: int | None = None, side: Literal["left", "right"] | None = None) -> Ids:
        """The ids that the model reads: special tokens stay, the text between them is truncated.

        Args:
            limit: tokens to read where that is less than the model reads, special tokens included.
            side: the side that is left out; None for the model's own.
        """
        limit = self.limit_tokens(limit)
        if limit is None or len(ids_T) <= limit:
            return ids_T
        return np.delete(ids_T, self._truncated_span(len(ids_T), limit, side))

    def limit_tokens(self, limit: int | None) -> int | None:
        """The lower of `limit` and the model's own; None where neither is a limit."""
        own = self.spec.max_seq_length
        return own if limit is None else limit if own is None else min(limit, own)

    def tokenize(
        self, texts: Sequence[str], *, limit: int | None = None, side: Literal["left", "right"] | None = None
    ) -> TokenReport:
        """Ids, offsets and counts of texts, and where each was truncated; `limit` and `side` as in `truncate`."""
        limit, left = self.limit_tokens(limit), (side or self.spec.truncation_side) == "left"
        report = TokenReport([], [], [], [])
        for encoding in self._encode_batch(texts, offsets=True):
            ids_T, offsets_T2 = np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)
            count = len(ids_T)
            report.counts.append(count)
            if limit is not None and count > limit:
                removed = self._truncated_span(count, limit, side)
                report.truncated_at.append(int(offsets_T2[removed.stop if left else removed.start, 0]))
                ids_T, offsets_T2 = np.delete(ids_T, removed), np.delete(offsets_T2, removed, axis=0)
            else:
                report.truncated_at.append(None)
            report.ids.append(ids_T)
            report.offsets.append(offsets_T2)
        return report

    def count_prompt_tokens(self, prompt: str) -> int:
        """How many tokens before the text belong to the prompt, leading special tokens included; 0 without a prompt."""
        if not prompt:
            return 0
        count = len(self.encode([prompt])[0]) - self.num_trailing_special
        limit = self.spec.max_seq_length
        return count if limit is None else min(count, limit - self.num_trailing_special)

    def split_into_windows(self, ids_T: Ids, prompt: str) -> Windows:
        """Split a text into windows with max_seq_length tokens that overlap by an eighth.

        Each window holds the prompt and the special tokens too.

        Raises:
            InputError: the prompt leaves no room for windows.
        """
        limit = self.spec.max_seq_length
        if limit is None or len(ids_T) <= limit:
            return Windows([ids_T], [len(ids_T)])
        front = self._prompt_end(ids_T, prompt)
        back = len(ids_T) - self.num_trailing_special
        size, overlap = limit - front - self.num_trailing_special, limit // 8
        if size <= overlap:
            raise InputError(
                f"the prompt takes {front} of {limit} tokens. Windows that overlap by {overlap} do not fit beside it. "
                "Use a shorter prompt."
            )
        starts = range(front, max(back - overlap, front + 1), size - overlap)
        ends = [min(start + size, back) for start in starts]
        pieces = [
            np.concatenate([ids_T[:front], ids_T[start:end], ids_T[back:]])
            for start, end in zip(starts, ends, strict=True)
        ]
        new_token_counts = np.diff([front, *ends]).tolist()
        return Windows(pieces, new_token_counts)

    def canonical_json(self) -> str:
        """The tokenizer as JSON, for the fingerprint. Lower-casing twice is written as once."""
        settings = json.loads(self.raw.to_str())
        first, *rest = (settings["normalizer"] or {}).get("normalizers") or [None]
        if first == {"type": "Lowercase"} and any(map(_does_lowercase, rest)):
            settings["normalizer"] = rest[0] if len(rest) == 1 else settings["normalizer"] | {"normalizers": rest}
        if self.raw.encode_special_tokens:  # tokenizer.json does not hold it
            settings["split_special_tokens"] = True
        return json.dumps(settings, sort_keys=True, ensure_ascii=False)

    def _prompt_end(self, ids_T: Ids, prompt: str) -> int:
        """Where the prompt's tokens end in a text's ids. The prompt's last token may have merged with the text."""
        if not prompt:
            return self.num_leading_special
        prompt_T = self.encode([prompt])[0]
        prompt_T = prompt_T[: len(prompt_T) - self.num_trailing_special]
        same = prompt_T == ids_T[: len(prompt_T)]
        return len(prompt_T) if same.all() else int(np.argmin(same))

    def _truncated_span(self, count: int, limit: int, side: Literal["left", "right"] | None = None) -> slice:
        left = (side or self.spec.truncation_side) == "left"
        start = self.num_leading_special if left else limit - self.num_trailing_special
        return slice(start, start + count - limit)

    def _count_special_tokens(self) -> tuple[int, int]:
        """How many special tokens stand before a text and after it."""
        if not self.spec.special_tokens:
            return 0, 0
        empty = len(self._encode_batch([""], offsets=False)[0].ids)
        mask: list[int] = self._encode_batch(["a"], offsets=True)[0].special_tokens_mask
        front = mask.index(0) if 0 in mask else 0
        return front, empty - front

    def _encode_batch(self, texts: Sequence[str], *, offsets: bool) -> list[Encoding]:
        encode = self.raw.encode_batch if offsets else self.raw.encode_batch_fast
        try:
            return encode(list(texts), add_special_tokens=self.spec.special_tokens)
        except BaseException as error:
            # a damaged tokenizer.json makes the library's compiled code panic, which is not an Exception
            if type(error).__name__ != "PanicException":
                raise
            raise ModelError(
                f"the tokenizer failed on a text ({error}). Its files are damaged; download the model again."
            ) from None


def _add_lowercasing(raw: RawTokenizer) -> RawTokenizer:
    """The tokenizer with lower-casing before its own normalizer, as in sentence-transformers 6.2.

    A tokenizer whose normalizer lower-cases is returned as it is.
    """
    settings = json.loads(raw.to_str())
    own = settings["normalizer"]
    if _does_lowercase(own):
        return raw
    parts = [{"type": "Lowercase"}, *([own] if own else [])]
    lowercasing = RawTokenizer.from_str(
        json.dumps(settings | {"normalizer": {"type": "Sequence", "normalizers": parts}})
    )
    lowercasing.encode_special_tokens = raw.encode_special_tokens
    return lowercasing


def _does_lowercase(normalizer: dict[str, Any] | None) -> bool:
    if not normalizer:
        return False
    parts = normalizer.get("normalizers", [])
    return (
        normalizer["type"] == "Lowercase"
        or bool(normalizer.get("lowercase"))
        or any(_does_lowercase(part) for part in parts)
    )
