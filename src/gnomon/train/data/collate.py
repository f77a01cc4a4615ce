"""Reads and tokenises the rows of a batch, and prepares batches in a thread before the step needs them.

B: rows of a batch on this rank; K: negatives per row; N: B times K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import InputError
from gnomon.packed import Ids
from gnomon.spec import ModelSpec, StaticSpec
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.dataset import Dataset, hash_bytes
from gnomon.train.data.sampler import SampledBatch, select_negatives, shard
from gnomon.train.recipe.schema import DataSource

TEXTS_AT_ONCE = 2048
"""Texts that are tokenised at once: the tokenizer needs 80 bytes and more per token."""


@dataclass(frozen=True)
class BatchRows:
    """The rows of a batch on one rank, as texts without prompts."""

    batch_number: int
    source: int
    source_name: str
    rows_B: NDArray[np.int64]
    queries: list[str]
    positives: list[str]
    negatives: list[str]
    """All negatives, row after row."""
    negatives_per_row: int
    query_hashes_B: NDArray[np.int64]
    positive_hashes_B: NDArray[np.int64]
    negative_hashes_N: NDArray[np.int64]
    entries_N: NDArray[np.int64]
    """The numbers of the negatives in the data set."""
    scores: NDArray[np.float64] | None
    """[B], one label per pair, or [B, 1 + K], scores of the positive and the negatives."""
    all_rows: NDArray[np.int64]
    """Rows of the whole batch, over all ranks."""
    replaced: int
    """How many rows of the whole batch replace others that had a text of the batch."""

    @property
    def total_rows(self) -> int:
        return len(self.all_rows)

    @property
    def digest(self) -> str:
        """16 hex characters: a hash of the batch's number, rows and texts."""
        digest = blake2b(f"{self.batch_number}\0{self.source_name}\0".encode(), digest_size=8)
        for numbers in (self.rows_B, self.query_hashes_B, self.positive_hashes_B, self.negative_hashes_N):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class CollatedBatch:
    """The rows of a batch on one rank, and their token ids."""

    rows: BatchRows
    ids: list[Ids]
    """Queries, then positives, then negatives. They begin with the prompt and are truncated to the model's limit."""
    prompt_tokens: tuple[int, int]
    """`Tokenizer.count_prompt_tokens` for the prompt of queries, and for that of documents."""
    num_truncated: int
    """How many texts were truncated."""
    text_hashes: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    """[B], [B], [N]: hashes of queries, positives and negatives after their prompts. Texts with the same tokens have
    equal hashes.
    """
    false_negatives_N: NDArray[np.bool_]
    """[N]: which negatives are, by these hashes, the query or a positive of their own row of the file."""

    @property
    def num_false_negatives(self) -> int:
        return int(self.false_negatives_N.sum())


class Collator:
    """Reads and tokenises the rows of batches.

    Args:
        spec: the model's spec. Its prompts are used where a source has none; pairs with labels get its prompt for
            symmetric tasks.
        seed: the sampler's seed, by which negatives are drawn.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        sources: Sequence[DataSource],
        spec: ModelSpec,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        self.datasets, self.sources, self.spec = [*datasets], [*sources], spec
        self.tokenizer, self.seed = tokenizer, seed
        self.prompts = [_prompts(source, dataset, spec) for source, dataset in zip(sources, datasets, strict=True)]
        self._prefixes = {text: self._prefix_bytes(text) for pair in self.prompts for text in pair}
        self.prompt_tokens = [
            (tokenizer.count_prompt_tokens(query), tokenizer.count_prompt_tokens(document))
            for query, document in self.prompts
        ]

    def read_rows(self, draw: SampledBatch, rank: int = 0, world_size: int = 1) -> BatchRows:
        """Read the texts of a rank's share of a batch."""
        dataset, rows_B = self.datasets[draw.source], shard(draw.rows_B, rank, world_size)
        total = len(draw.rows_B) // world_size * world_size
        number = self.sources[draw.source].num_negatives
        negatives_BK = select_negatives(dataset, rows_B, number, seed=self.seed, batch=draw.batch_number)
        negatives_N = negatives_BK.reshape(-1)
        return BatchRows(
            batch_number=draw.batch_number,
            source=draw.source,
            source_name=dataset.name,
            rows_B=rows_B,
            queries=dataset.texts("query", rows_B),
            positives=dataset.texts("positive", rows_B),
            negatives=dataset.texts("negative", negatives_N) if negatives_N.size else [],
            negatives_per_row=negatives_BK.shape[1],
            query_hashes_B=dataset.hashes("query")[rows_B],
            positive_hashes_B=dataset.hashes("positive")[rows_B],
            negative_hashes_N=dataset.hashes("negative")[negatives_N] if negatives_N.size else negatives_N,
            entries_N=negatives_N,
            scores=_scores(dataset, rows_B, negatives_BK),
            all_rows=draw.rows_B[:total],
            replaced=draw.replaced,
        )

    def collate(self, draw: SampledBatch, rank: int = 0, world_size: int = 1) -> CollatedBatch:
        """Read and tokenise the texts of a rank's share of a batch.

        Raises:
            InputError: the model cannot read a text; names its file and line.
        """
        rows = self.read_rows(draw, rank, world_size)
        query, document = self.prompts[draw.source]
        texts = [query + text for text in rows.queries]
        texts += [document + text for text in rows.positives]
        texts += [document + text for text in rows.negatives]
        ids: list[Ids] = []
        truncated = 0
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            whole = self.tokenizer.encode(texts[start : start + TEXTS_AT_ONCE])
            self._check(whole, rows, start)
            limited = [self.tokenizer.truncate(ids_T) for ids_T in whole]
            truncated += sum(len(ids_T) < len(all_T) for ids_T, all_T in zip(limited, whole, strict=True))
            ids += limited
        hashes = self._hash_batch(ids, rows, draw.source)
        own_N = match_false_negatives(*hashes) | self._match_other_positives(draw.source, rows.entries_N, hashes[2])
        return CollatedBatch(rows, ids, self.prompt_tokens[draw.source], truncated, hashes, own_N)

    def find_false_negatives(self, source: int, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these negatives are, by tokens, the query or a positive of their own row of the file."""
        dataset, (query, document) = self.datasets[source], self.prompts[source]
        own: list[NDArray[np.bool_]] = [np.zeros(0, np.bool_)]
        for start in range(0, len(entries), TEXTS_AT_ONCE):
            chunk = entries[start : start + TEXTS_AT_ONCE]
            rows = dataset.rows_of_negatives(chunk)
            sides = (query, dataset.texts("query", rows)), (document, dataset.texts("positive", rows))
            negatives = (document, dataset.texts("negative", chunk))
            queries, positives, others = (self._hash_texts(prompt, texts) for prompt, texts in (*sides, negatives))
            own.append(
                match_false_negatives(queries, positives, others) | self._match_other_positives(source, chunk, others)
            )
        return np.concatenate(own)

    def _match_other_positives(
        self, source: int, entries_N: NDArray[np.int64], hashes_N: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of these negatives are, by tokens, a positive of another row from the same row of the file. Only those
        that are equal as texts, which the data set knows, are compared.

        Args:
            hashes_N: the negatives' hashes by tokens.
        """
        dataset, (_, document) = self.datasets[source], self.prompts[source]
        own_N, known = np.zeros(len(entries_N), np.bool_), dataset.false_negative_entries
        if dataset.rows == dataset.lines or not len(known):
            return own_N
        alike = np.flatnonzero(known[np.searchsorted(known, entries_N).clip(max=len(known) - 1)] == entries_N)
        if len(alike):
            siblings = _find_sibling_rows(dataset, dataset.rows_of_negatives(entries_N[alike]))
            counts = [*map(len, siblings)]
            hashes = self._hash_texts(document, dataset.texts("positive", np.concatenate(siblings)))
            equal = hashes == hashes_N[alike].repeat(counts)
            own_N[alike] = np.logical_or.reduceat(equal, np.cumsum([0, *counts[:-1]]))
        return own_N

    def _hash_texts(self, prompt: str, texts: list[str]) -> NDArray[np.int64]:
        whole = self.tokenizer.encode([prompt + text for text in texts])
        return self._hash_ids([self.tokenizer.truncate(ids_T) for ids_T in whole], prompt)

    def _hash_batch(
        self, ids: list[Ids], rows: BatchRows, source: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        count, (query, document) = len(rows.queries), self.prompts[source]
        queries_B, documents_C = self._hash_ids(ids[:count], query), self._hash_ids(ids[count:], document)
        return queries_B, documents_C[:count], documents_C[count:]

    def _hash_ids(self, ids: list[Ids], prompt: str) -> NDArray[np.int64]:
        """Hash the tokens after the prompt, so that a query can equal a document. All tokens are hashed where the end
        of the prompt merged with the text.
        """
        prefix = self._prefixes[prompt]
        size = len(prefix)
        contents = (ids_T.tobytes() for ids_T in ids)
        return hash_bytes(raw[size:] if raw.startswith(prefix) else b"whole" + raw for raw in contents)

    def _prefix_bytes(self, prompt: str) -> bytes:
        """The ids before every text, as bytes: special tokens and the prompt."""
        ids_T = self.tokenizer.encode([prompt])[0]
        return ids_T[: max(self.tokenizer.count_prompt_tokens(prompt), self.tokenizer.num_leading_special)].tobytes()

    def _check(self, ids: list[Ids], rows: BatchRows, start: int) -> None:
        """Each text has tokens, and each token has a row in the embedding table."""
        vocab_size = self.spec.trunk.vocab_size
        min_tokens = 0 if isinstance(self.spec.trunk, StaticSpec) else 1
        if min(map(len, ids)) >= min_tokens and np.concatenate(ids).max(initial=0) < vocab_size:
            return
        for text, ids_T in enumerate(ids, start):
            if len(ids_T) < min_tokens:
                raise InputError(f"{self._locate(rows, text)}: the text has no tokens for this model. Remove the row.")
            if ids_T.max(initial=0) >= vocab_size:
                raise InputError(
                    f"{self._locate(rows, text)}: the text has token {ids_T.max()}, and the model has vectors for "
                    f"{vocab_size}. The tokenizer has tokens that the model does not know: use the model's own."
                )

    def _locate(self, rows: BatchRows, text: int) -> str:
        """The file and line of a text, by its number in `CollatedBatch.ids`."""
        count = len(rows.rows_B)
        row = text % count if text < 2 * count else (text - 2 * count) // rows.negatives_per_row
        return self.datasets[rows.source].location(int(rows.rows_B[row]))


def match_false_negatives(
    queries_B: NDArray[np.int64], positives_B: NDArray[np.int64], negatives_N: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """[N]: which negatives have the hash of their own row's query or positive. Each row has the same number of them."""
    count = len(negatives_N) // len(queries_B) if len(queries_B) else 0
    return (negatives_N == queries_B.repeat(count)) | (negatives_N == positives_B.repeat(count))


def _find_sibling_rows(dataset: Dataset, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each of these rows, the rows from the same row of the file, itself included. There is one for each positive,
    and they are neighbours.
    """
    siblings: list[range] = []
    for row in rows.tolist():
        if not (siblings and row in siblings[-1]):
            location, first, stop = dataset.location(row), row, row + 1
            while first and dataset.location(first - 1) == location:
                first -= 1
            while stop < dataset.rows and dataset.location(stop) == location:
                stop += 1
            siblings.append(range(first, stop))
        else:
            siblings.append(siblings[-1])
    return [np.array(rows) for rows in siblings]


def _prompts(source: DataSource, dataset: Dataset, spec: ModelSpec) -> tuple[str, str]:
    """The prompts of queries and of documents."""
    names = spec.query_prompt_name(), spec.document_prompt_name
    if dataset.score_kind == "labels":
        names = spec.symmetric_prompt_name, spec.symmetric_prompt_name
    own = [spec.prompt_text(name) for name in names]
    query, document = source.query_prompt, source.document_prompt
    return own[0] if query is None else query, own[1] if document is None else document


def _scores(dataset: Dataset, rows_B: NDArray[np.int64], negatives_BK: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The labels of the rows, or the scores of each positive and of the negatives that were drawn."""
    if dataset.labels is not None:
        return dataset.labels[rows_B]
    return dataset.score_lists(rows_B, negatives_BK) if dataset.score_kind == "lists" else None
