"""`EncodePipeline`: from texts to pooled vectors or token states.

Texts are taken in blocks. While an engine runs one block, the next is tokenized. So the memory that is held beside
the texts and their vectors does not grow with the number of texts.

B: texts of a batch; D: dimensions of a pooled vector; T: tokens of one text; H: hidden size of the trunk.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gnomon.batching import build_batches
from gnomon.encode_options import OnTruncate
from gnomon.engines.protocol import Engine, Failure
from gnomon.errors import InputError, TruncationError, TruncationNotice
from gnomon.packed import Ids, Packed, Vectors, pack, split_per_text
from gnomon.progress import progress_bar
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.tokenizer import Tokenizer
from gnomon.warn import warn_caller

TEXTS_PER_BLOCK = 8192
"""Texts per block: enough to sort them into batches of nearly equal length."""


@dataclass(frozen=True)
class EncodeRequest:
    """One call, checked."""

    texts: Sequence[str]
    positions: Sequence[int]
    """The position of each text among the caller's; messages name it."""
    num_given: int
    """Number of texts that the caller gave; equal texts count each time."""
    prompt: str
    on_truncate: OnTruncate
    show_progress_bar: bool | None


@dataclass(frozen=True)
class _TextBlock:
    """Texts that are tokenized together and sorted into batches. A long text may be several entries."""

    ids: list[Ids]
    """Token ids of each entry: a whole text, or a window of a long one."""
    text_indices: list[int]
    """Index of the text of each entry."""
    new_tokens: list[int]
    """Tokens of each entry that no entry before it holds; empty where no text is read in windows."""
    num_texts: int

    @cached_property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))

    def progress_of(self, batch: Sequence[int]) -> float:
        """The share of a batch in this block's work, in texts."""
        if not self.num_tokens:
            return self.num_texts * len(batch) / len(self.ids)
        return self.num_texts * sum(len(self.ids[entry]) for entry in batch) / self.num_tokens


@dataclass(frozen=True)
class Encoded:
    """Vectors, with the token counts of their texts and which of them were truncated."""

    vectors: Vectors
    """As `Encoder.encode` returns them."""
    token_counts_B: Ids
    """Tokens of each whole text, before truncation; special tokens and the prompt included."""
    truncated: list[int]
    """Positions of the truncated texts, ascending; equal texts count each time."""


@dataclass(frozen=True)
class EncodePipeline:
    """Tokenizes texts and runs them with an engine."""

    spec: ModelSpec
    tokenizer: Tokenizer
    engine: Engine

    def iter_pooled(self, request: EncodeRequest, token_counts_B: Ids) -> Iterator[tuple[list[int], Vectors | Failure]]:
        """(texts, their pooled vectors), in the order in which they are done.

        The vector of a text that is read in windows is the mean over its windows.

        Args:
            token_counts_B: is filled with the tokens of each whole text.

        Raises:
            TruncationError: a text is too long and on_truncate is "error"; raised before anything is computed.
        """
        self.engine.check_open()
        prompt_tokens = 0 if self.spec.pooling.include_prompt else self.tokenizer.count_prompt_tokens(request.prompt)
        under_way: deque[tuple[_TextBlock, list[int], _PieceMeans]] = deque()

        def packs() -> Iterator[Packed]:
            for block in self._iter_blocks(request, token_counts_B):
                means = _PieceMeans(block)
                for batch in self._plan_batches(block, request):
                    under_way.append((block, batch, means))
                    yield pack([block.ids[entry] for entry in batch], skip_B=[prompt_tokens] * len(batch))

        with progress_bar(len(request.texts), "encoding", "texts", show=request.show_progress_bar) as advance:
            for result in self.engine.pool_batches(packs()):
                block, batch, means = under_way.popleft()
                yield from (
                    means.add_failure(batch, result) if isinstance(result, Failure) else means.add_pooled(batch, result)
                )
                advance(block.progress_of(batch))

    def iter_states(self, request: EncodeRequest, token_counts_B: Ids) -> Iterator[tuple[int, Vectors]]:
        """(text, its token states [T, H]), in the order in which they are done; arguments as in `iter_pooled`."""
        self.engine.check_open()
        with progress_bar(len(request.texts), "encoding", "texts", show=request.show_progress_bar) as advance:
            for block in self._iter_blocks(request, token_counts_B):
                for batch in self._plan_batches(block, request):
                    packed = pack([block.ids[entry] for entry in batch])
                    texts_TH = split_per_text(self.engine.states(packed), packed)
                    yield from zip((block.text_indices[entry] for entry in batch), texts_TH, strict=True)
                    advance(block.progress_of(batch))

    def _plan_batches(self, block: _TextBlock, request: EncodeRequest) -> list[list[int]]:
        expected = block.num_tokens * len(request.texts) // max(block.num_texts, 1)
        lengths = [len(ids_T) for ids_T in block.ids]
        return build_batches(lengths, self.engine.budget(expected), padded=self.engine.pads)

    def find_truncated(self, request: EncodeRequest, token_counts_B: Ids) -> list[int]:
        """Indices of the texts that are truncated."""
        limit = self.spec.tokenizer.max_seq_length
        if limit is None or request.on_truncate == "mean":
            return []
        return np.flatnonzero(token_counts_B > limit).tolist()

    def warn_of_truncation(self, request: EncodeRequest, token_counts_B: Ids) -> None:
        """Warn of the truncated texts of one call, once all texts are read."""
        truncated = self.find_truncated(request, token_counts_B)
        if truncated and request.on_truncate == "warn":
            description = self._describe_long_texts(request, token_counts_B)
            message = f"{description}: the rest of each was truncated. (on_truncate='mean' reads all.)"
            warn_caller(TruncationNotice(message, [request.positions[text] for text in truncated]))

    def _iter_blocks(self, request: EncodeRequest, token_counts_B: Ids) -> Iterator[_TextBlock]:
        """Blocks of texts. Each is tokenized while the engine runs the one before it."""
        starts = range(0, len(request.texts), TEXTS_PER_BLOCK)
        refuses = request.on_truncate == "error"
        if refuses and len(starts) > 1:  # a reading of its own, before all work: what is refused is refused early
            for start, whole in self._tokenize_ahead(request, starts):
                token_counts_B[start : start + len(whole)] = [*map(len, whole)]
            self._raise_if_truncated(request, token_counts_B)
        for start, whole in self._tokenize_ahead(request, starts):
            token_counts_B[start : start + len(whole)] = [*map(len, whole)]
            if refuses:
                self._raise_if_truncated(request, token_counts_B)
            yield self._make_block(request, start, whole)

    def _raise_if_truncated(self, request: EncodeRequest, token_counts_B: Ids) -> None:
        """
        Raises:
            TruncationError: a text is too long.
        """
        if self.find_truncated(request, token_counts_B):
            way = "Shorten them, or let on_truncate= be 'mean', 'warn' or 'silent'."
            raise TruncationError(f"{self._describe_long_texts(request, token_counts_B)}. {way}")

    def _describe_long_texts(self, request: EncodeRequest, token_counts_B: Ids) -> str:
        texts = "texts" if request.num_given == len(request.texts) else "different texts"
        longest = int(np.argmax(token_counts_B))
        return (
            f"{len(self.find_truncated(request, token_counts_B))} of {len(request.texts)} {texts} are longer than "
            f"{self.spec.tokenizer.max_seq_length} tokens; the longest, text {request.positions[longest]}, has "
            f"{token_counts_B[longest]:,}"
        )

    def _tokenize_ahead(self, request: EncodeRequest, starts: range) -> Iterator[tuple[int, list[Ids]]]:
        """(start, ids of whole texts) of each block; the next one is read in a thread."""
        if len(starts) < 2:
            yield from ((start, self._tokenize_block(request, start)) for start in starts)
            return
        with ThreadPoolExecutor(1, "gnomon-reading") as reader:
            following = reader.submit(self._tokenize_block, request, 0)
            for start in starts:
                whole = following.result()
                if start != starts[-1]:
                    following = reader.submit(self._tokenize_block, request, start + TEXTS_PER_BLOCK)
                yield start, whole

    def _tokenize_block(self, request: EncodeRequest, start: int) -> list[Ids]:
        """Ids of whole texts; each has a row in the embedding table."""
        texts = request.texts[start : start + TEXTS_PER_BLOCK]
        ids = self.tokenizer.encode([request.prompt + text for text in texts] if request.prompt else texts)
        rows = self.spec.trunk.vocab_size
        for index, ids_T in enumerate(ids):
            if not ids_T.size and not isinstance(self.spec.trunk, StaticSpec):
                raise InputError(
                    f"text {request.positions[start + index]} has no tokens, and this model's tokenizer adds none; "
                    "leave it out."
                )
            if ids_T.size and ids_T.max() >= rows:
                raise InputError(
                    f"text {request.positions[start + index]} has token {ids_T.max()}, and the model has vectors for "
                    f"{rows}; the tokenizer was given tokens that the model was not trained with."
                )
        return ids

    def _make_block(self, request: EncodeRequest, start: int, whole_ids: list[Ids]) -> _TextBlock:
        texts = list(range(start, start + len(whole_ids)))
        if request.on_truncate != "mean":
            ids = [self.tokenizer.truncate(ids_T) for ids_T in whole_ids]
            return _TextBlock(ids, texts, [], len(whole_ids))
        pieces = [self.tokenizer.split_into_windows(ids_T, request.prompt) for ids_T in whole_ids]
        return _TextBlock(
            ids=[ids_T for text in pieces for ids_T in text.ids],
            text_indices=[index for index, text in zip(texts, pieces, strict=True) for _ in text.ids],
            new_tokens=[new for text in pieces for new in text.new_token_counts],
            num_texts=len(whole_ids),
        )


class _PieceMeans:
    """The vectors of a block's texts, those in several pieces added up until the last piece is done."""

    def __init__(self, block: _TextBlock) -> None:
        self.block = block
        pieces = Counter(block.text_indices) if block.new_tokens else {}
        self.pieces_left = {text: count for text, count in pieces.items() if count > 1}
        self.sums: dict[int, NDArray[np.float64]] = {}
        self.token_totals: Counter[int] = Counter()

    def add_pooled(self, batch: Sequence[int], pooled_BD: Vectors) -> Iterator[tuple[list[int], Vectors]]:
        """(texts that are complete, their vectors)."""
        texts = [self.block.text_indices[entry] for entry in batch]
        whole = (
            [place for place, text in enumerate(texts) if text not in self.pieces_left]
            if self.pieces_left
            else range(len(texts))
        )
        if whole:
            yield [texts[place] for place in whole], pooled_BD[whole] if self.pieces_left else pooled_BD
        for entry, text, vector_D in zip(batch, texts, pooled_BD, strict=True) if self.pieces_left else ():
            if text in self.pieces_left and self._add_piece(text, self.block.new_tokens[entry], vector_D):
                yield [text], (self.sums.pop(text) / self.token_totals[text]).astype(np.float32)[None]

    def add_failure(self, batch: Sequence[int], failure: Failure) -> Iterator[tuple[list[int], Failure]]:
        """(texts that are lost, why)."""
        yield sorted({self.block.text_indices[entry] for entry in batch}), failure

    def _add_piece(self, text: int, new_tokens: int, vector_D: Vectors) -> bool:
        """Whether this was the text's last piece."""
        self.sums[text] = self.sums.get(text, np.zeros(len(vector_D))) + new_tokens * vector_D.astype(np.float64)
        self.token_totals[text] += new_tokens
        self.pieces_left[text] -= 1
        return not self.pieces_left[text]
