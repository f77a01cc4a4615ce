"""`EncodePipeline`: from texts to pooled vectors or token states.

Texts are taken in blocks. While an engine runs one block, the next is tokenized. So the memory that is held beside
the texts and their vectors does not grow with the number of texts.

B: texts of a batch; D: dimensions of a pooled vector; T: tokens of one text; H: hidden size of the trunk.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from gnomon.batching import build_batches
from gnomon.encode_options import OnTruncate
from gnomon.engines.protocol import Engine, Failure
from gnomon.errors import InputError, TruncationError, TruncationNotice
from gnomon.packed import Ids, Packed, Vectors, pack, split_per_text
from gnomon.progress import progress_bar
from gnomon.read_ahead import read_ahead
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.tokenizer import Tokenizer
from gnomon.warn import warn_caller

TEXTS_PER_BLOCK = 8192
"""Texts per block: enough to sort them into batches of nearly equal length."""

TOKENS_PER_TEXT = 32
"""Tokens of a text, where only the number of texts is known."""

READER_NAME = "gnomon-reading_0"
"""The name of the thread that reads and tokenizes ahead."""


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
    num_given: int
    """Texts of the caller that it stands for: equal texts count each time."""
    request_number: int = 0
    """Which request of a stream it is."""

    @cached_property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))

    def progress_of(self, batch: Sequence[int]) -> float:
        """The share of a batch in this block's work, in texts."""
        if not self.num_tokens:
            return self.num_given * len(batch) / len(self.ids)
        return self.num_given * sum(len(self.ids[entry]) for entry in batch) / self.num_tokens


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
        blocks = self._iter_blocks(request, token_counts_B)
        plan = partial(self._plan_batches, num_texts=len(request.texts))
        with progress_bar(len(request.texts), "encoding", "texts", show=request.show_progress_bar) as advance:
            for _, texts, pooled_BD in self._pool_blocks(blocks, request.prompt, plan, advance):
                yield texts, pooled_BD

    def iter_pooled_stream(
        self,
        requests: Iterator[tuple[EncodeRequest, Ids]],
        *,
        prompt: str,
        num_texts: int | None,
        advance: Callable[[float], object] | None,
    ) -> Generator[tuple[int, list[int], Vectors | Failure]]:
        """(number of the request, texts, their pooled vectors), of a stream of requests that share a prompt.

        Each request is a block by itself, so its vectors do not depend on the other requests. While the engine runs
        one, the next is taken from `requests` and tokenized, in a thread. An error in one is raised after all vectors
        of those before it.

        Args:
            requests: each with its `token_counts_B`, as in `iter_pooled`.
            num_texts: texts of all requests, if that is known.
            advance: called with the number of texts that were done.
        """
        # by the number of texts, since the tokens of the first request would be others where work is resumed
        budget = self.engine.budget((num_texts or 0) * TOKENS_PER_TEXT)
        plan = partial(self._build_batches, token_budget=budget)
        errors: list[Exception] = []
        with closing(read_ahead(self._iter_request_blocks(requests), READER_NAME)) as blocks:
            pooled = self._pool_blocks(_collect_error(blocks, errors), prompt, plan, advance)
            for block, texts, pooled_BD in pooled:
                yield block.request_number, texts, pooled_BD
        if errors:
            raise errors[0]

    def _pool_blocks(
        self,
        blocks: Iterable[_TextBlock],
        prompt: str,
        plan: Callable[[_TextBlock], list[list[int]]],
        advance: Callable[[float], object] | None,
    ) -> Iterator[tuple[_TextBlock, list[int], Vectors | Failure]]:
        """(block, texts, their pooled vectors). The engine gets the batches of all blocks in one stream."""
        self.engine.check_open()
        prompt_tokens = 0 if self.spec.pooling.include_prompt else self.tokenizer.count_prompt_tokens(prompt)
        under_way: deque[tuple[_TextBlock, list[int], _PieceMeans]] = deque()

        def packs() -> Iterator[Packed]:
            for block in blocks:
                means = _PieceMeans(block)
                for batch in plan(block):
                    under_way.append((block, batch, means))
                    yield pack([block.ids[entry] for entry in batch], skip_B=[prompt_tokens] * len(batch))

        for result in self.engine.pool_batches(packs()):
            block, batch, means = under_way.popleft()
            failed = isinstance(result, Failure)
            for texts, pooled_BD in means.add_failure(batch, result) if failed else means.add_pooled(batch, result):
                yield block, texts, pooled_BD
            if advance:
                advance(block.progress_of(batch))

    def _iter_request_blocks(self, requests: Iterator[tuple[EncodeRequest, Ids]]) -> Iterator[_TextBlock]:
        """The block of each request of a stream."""
        for number, (request, token_counts_B) in enumerate(requests):
            whole = self._tokenize(request, request.texts, 0)
            token_counts_B[:] = [*map(len, whole)]
            if request.on_truncate == "error":
                self._raise_if_truncated(request, token_counts_B)
            yield replace(self._make_block(request, 0, whole), num_given=request.num_given, request_number=number)

    def iter_states(self, request: EncodeRequest, token_counts_B: Ids) -> Iterator[tuple[int, Vectors]]:
        """(text, its token states [T, H]), in the order in which they are done; arguments as in `iter_pooled`."""
        self.engine.check_open()
        with progress_bar(len(request.texts), "encoding", "texts", show=request.show_progress_bar) as advance:
            for block in self._iter_blocks(request, token_counts_B):
                for batch in self._plan_batches(block, len(request.texts)):
                    packed = pack([block.ids[entry] for entry in batch])
                    texts_TH = split_per_text(self.engine.states(packed), packed)
                    yield from zip((block.text_indices[entry] for entry in batch), texts_TH, strict=True)
                    advance(block.progress_of(batch))

    def _plan_batches(self, block: _TextBlock, num_texts: int) -> list[list[int]]:
        expected = block.num_tokens * num_texts // max(block.num_texts, 1)
        return self._build_batches(block, self.engine.budget(expected))

    def _build_batches(self, block: _TextBlock, token_budget: int) -> list[list[int]]:
        return build_batches([len(ids_T) for ids_T in block.ids], token_budget, self.engine.padding)

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
        tokenized = ((start, self._tokenize_block(request, start)) for start in starts)
        if len(starts) < 2:
            yield from tokenized
            return
        with closing(read_ahead(tokenized, READER_NAME)) as ahead:
            yield from ahead

    def _tokenize_block(self, request: EncodeRequest, start: int) -> list[Ids]:
        return self._tokenize(request, request.texts[start : start + TEXTS_PER_BLOCK], start)

    def _tokenize(self, request: EncodeRequest, texts: Sequence[str], start: int) -> list[Ids]:
        """Ids of whole texts; each has a row in the embedding table."""
        ids = self.tokenizer.encode([request.prompt + text for text in texts] if request.prompt else texts)
        for index, ids_T in enumerate(ids):
            check_ids(self.spec, ids_T, request.positions[start + index])
        return ids

    def _make_block(self, request: EncodeRequest, start: int, whole_ids: list[Ids]) -> _TextBlock:
        texts = list(range(start, start + len(whole_ids)))
        if request.on_truncate != "mean":
            ids = [self.tokenizer.truncate(ids_T) for ids_T in whole_ids]
            return _TextBlock(ids, texts, [], len(whole_ids), len(whole_ids))
        pieces = [self.tokenizer.split_into_windows(ids_T, request.prompt) for ids_T in whole_ids]
        return _TextBlock(
            ids=[ids_T for text in pieces for ids_T in text.ids],
            text_indices=[index for index, text in zip(texts, pieces, strict=True) for _ in text.ids],
            new_tokens=[new for text in pieces for new in text.new_token_counts],
            num_texts=len(whole_ids),
            num_given=len(whole_ids),
        )


def check_ids(spec: ModelSpec, ids_T: Ids, position: int) -> None:
    """Check that a model can read the token ids of a text.

    Raises:
        InputError: it has no ids, or one of them has no row in the embedding table.
    """
    if not ids_T.size and not isinstance(spec.trunk, StaticSpec):
        raise InputError(f"text {position} has no tokens, and this model's tokenizer adds none; leave it out.")
    if ids_T.size and ids_T.max() >= spec.trunk.vocab_size:
        raise InputError(
            f"text {position} has token {ids_T.max()}, and the model has vectors for {spec.trunk.vocab_size}; the "
            "tokenizer was given tokens that the model was not trained with."
        )


def _collect_error(blocks: Iterable[_TextBlock], errors: list[Exception]) -> Iterator[_TextBlock]:
    """The blocks up to an error, which is added to `errors`: what is under way then can still end."""
    try:
        yield from blocks
    except Exception as error:
        errors.append(error)


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
