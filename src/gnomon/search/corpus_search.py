"""Searches a corpus: encodes the texts whose vectors are not cached, and finds those that answer a query.

N: texts; U: different texts; D: dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from gnomon.encode_options import EncodeOptions, OnTruncate
from gnomon.encoder import Encoder
from gnomon.errors import TruncationError
from gnomon.messages import shorten
from gnomon.packed import Vectors
from gnomon.progress import progress_bar
from gnomon.search.cache import CachedVectors, CorpusCache
from gnomon.search.corpus import Corpus, Document
from gnomon.search.exact import top_k

BLOCK_CHARS = 1 << 15
"""Texts of about so many characters are encoded and cached at once. That is what Ctrl-C loses: on a CPU, seconds."""
MAX_BLOCK_CHARS = 1 << 22
BLOCK_SECONDS = 1.0
"""A block that took less is followed by one twice as large, so that a GPU gets full batches."""


@dataclass(frozen=True)
class CorpusVectors:
    """The vectors of a corpus."""

    vectors_ND: Vectors
    num_cached: int
    """Number of texts whose vectors came from the cache."""
    truncated: list[int]
    """Positions of the texts that are longer than the model reads."""


@dataclass(frozen=True)
class Hit:
    """A document that answers a query."""

    document: Document
    score: float


def encode_corpus(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    cache: CorpusCache | None = None,
    on_truncate: OnTruncate = "warn",
    show_progress_bar: bool | None = None,
) -> CorpusVectors:
    """Encode texts with the model's prompt for documents, except those whose vectors are cached.

    What is encoded is cached block by block, so that an interrupted run goes on where it ended.

    Args:
        cache: None encodes all texts.
        on_truncate: as in `Encoder.encode`, but "warn" gives no warning: `CorpusVectors.truncated` lists the texts.

    Raises:
        InputError: as `Encoder.encode`.
        TruncationError: as `Encoder.encode`.
        NumericError: as `Encoder.encode`.
    """
    options = _document_options(encoder, on_truncate)
    row_of: dict[str, int] = {}
    rows_N = np.array([row_of.setdefault(text, len(row_of)) for text in texts], np.int64)
    unique = list(row_of)
    space = describe_space(encoder, options) if cache else ""
    present_U, vectors_UD, truncated_U = _look_up(cache, space, unique, encoder.output_dim(options))
    if on_truncate == "error":
        _check_whole(encoder, unique, truncated_U)
    with progress_bar(len(unique), "encoding", "texts", show=show_progress_bar) as update:
        update(int(present_U.sum()))
        for rows in _iter_blocks(unique, np.flatnonzero(~present_U).tolist()):
            block = [unique[row] for row in rows]
            encoded = encoder.encode_with_counts(block, options, show_progress_bar=False)
            vectors_UD[rows], truncated_U[rows] = encoded.vectors, np.isin(np.arange(len(rows)), encoded.truncated)
            if cache:
                cache.add(space, block, encoded.vectors, encoded.truncated)
            if on_truncate == "error":
                _check_whole(encoder, unique, truncated_U)
            update(len(rows))
    vectors_ND = vectors_UD if len(unique) == len(texts) else vectors_UD[rows_N]
    return CorpusVectors(vectors_ND, int(present_U[rows_N].sum()), np.flatnonzero(truncated_U[rows_N]).tolist())


def find_hits(
    encoder: Encoder, corpus: Corpus, vectors_ND: Vectors, query: str, k: int = 5, *, task: str | None = None
) -> list[Hit]:
    """The k documents nearest to a query, the best first; equal scores are in the order of the corpus.

    Args:
        vectors_ND: those of `encode_corpus(encoder, corpus.texts)`.
        task: chooses among several prompts for queries, as in `Encoder.encode_query`.
    """
    query_1D = encoder.encode_query([query], task=task)
    scores_1K, indices_1K = top_k(query_1D, vectors_ND, k, score=encoder.spec.similarity)
    return [
        Hit(corpus.document(index), score)
        for index, score in zip(indices_1K[0].tolist(), scores_1K[0].tolist(), strict=True)
    ]


def describe_space(encoder: Encoder, options: EncodeOptions) -> str:
    """A short name for all that a vector depends on beside its text: model, length, prompt, engine and dtype."""
    description = {
        "space": asdict(encoder.space(options)),
        "max_seq_length": encoder.max_seq_length,  # a fingerprint does not change with it
        "prompt": options.prompt,
        "engine": encoder.engine.identity,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]


def _document_options(encoder: Encoder, on_truncate: OnTruncate) -> EncodeOptions:
    """Those of documents. Only "mean" changes vectors; the rest is done with what is known of each text."""
    name = encoder.spec.document_prompt_name
    return EncodeOptions(
        prompt=encoder.prompts[name] if name else "", on_truncate="mean" if on_truncate == "mean" else "silent"
    )


def _look_up(cache: CorpusCache | None, space: str, texts: Sequence[str], dim: int) -> CachedVectors:
    if cache:
        return cache.get(space, texts, dim)
    count = len(texts)
    return CachedVectors(np.zeros(count, np.bool_), np.zeros((count, dim), np.float32), np.zeros(count, np.bool_))


def _check_whole(encoder: Encoder, texts: Sequence[str], truncated_U: NDArray[np.bool_]) -> None:
    """
    Raises:
        TruncationError: a text is longer than the model reads.
    """
    if truncated_U.any():
        first = texts[int(np.argmax(truncated_U))]
        raise TruncationError(
            f"{int(truncated_U.sum())} of {len(texts)} different texts are longer than {encoder.max_seq_length} "
            f"tokens; the first is {shorten(first)}. Shorten them, or let on_truncate= be 'mean', 'warn' or 'silent'."
        )


def _iter_blocks(texts: Sequence[str], rows: Sequence[int]) -> Iterator[list[int]]:
    """Yield rows in blocks of about `BLOCK_CHARS` characters, and larger ones while the caller is fast."""
    limit, size, start = BLOCK_CHARS, 0, monotonic()
    block: list[int] = []
    for row in rows:
        block.append(row)
        size += len(texts[row])
        if size >= limit:
            yield block
            if monotonic() - start < BLOCK_SECONDS:
                limit = min(2 * limit, MAX_BLOCK_CHARS)
            block, size, start = [], 0, monotonic()
    if block:
        yield block
