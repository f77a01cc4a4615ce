"""BM25 over the words of any language, with no model and no list of stop words.

N: documents; P: postings, one per word and document that contains it; V: distinct words; K: results per query.
"""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import ExtraError, InputError
from gnomon.inputs import as_texts
from gnomon.install import advise_install
from gnomon.search.exact import top_k_indices

# Script_Extensions, since Han and kana share ー and 〆; Script elsewhere, since Thai shares the letter ʼ with Latin
BIGRAM_LETTER = (
    r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{Nl}]]"
)
"""Matches one letter of the scripts that are read as bigrams."""

RUN_OR_WORD = (
    rf"(?V1)((?:{BIGRAM_LETTER}\p{{M}}*)+)"
    rf"|([[\p{{L}}\p{{N}}]--{BIGRAM_LETTER}][[\p{{L}}\p{{N}}\p{{M}}]--{BIGRAM_LETTER}]*)"
)
LETTER = r"\P{M}\p{M}*"

# invisible characters inside words: soft hyphen, joiners, marks of direction. U+200B is not one, it ends a word
IGNORABLE = r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200B]+"


def split_words(text: str) -> list[str]:
    """Split a text of any language into words for matching.

    Words are folded by Unicode's NFKC_Casefold (section 3.13): case and full-size forms do not count, accents do. A
    word consists of letters, marks and digits. An apostrophe ends a word, so that "l'eau" contains "eau".

    Scripts without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) and Hangul, whose words carry their particles, give
    overlapping pairs of letters, each letter with its marks. A letter that stands alone is a word. Lucene's CJKAnalyzer
    does the same for Han, kana and Hangul.

    Raises:
        ExtraError: the package regex is not installed.
    """
    return _split_words_and_letters(text, [])


def _split_words_and_letters(text: str, letters: list[str]) -> list[str]:
    """As `split_words`; also appends the letters of scripts that are read as bigrams to `letters`."""
    words: list[str] = []
    for run, word in _compile_pattern(RUN_OR_WORD).findall(_fold_case(text)):
        if word:
            words.append(word)
        else:
            run_letters: list[str] = _compile_pattern(LETTER).findall(run)
            letters += run_letters
            words += [first + second for first, second in pairwise(run_letters)] or run_letters
    return words


class Bm25:
    """An index of texts by their words, held in memory.

    The score of a document, as Lucene computes it (Kamphuis, de Vries, Boytsov and Lin, ECIR 2020, "Lucene
    (accurate)"): the sum, over the words of a query, of

        log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

    df is the number of documents, of N, that contain the word; tf is its count in this document. A word counts as often
    as the query contains it. Lengths are in words. Documents without words count in N and in the mean.

    A query that has only single letters, of the scripts that are read as bigrams, finds them inside longer runs too: df
    and tf then count the letter wherever it stands. (In longer queries such counts do harm: nDCG@10 on the Korean pages
    is .802 with them and .804 without.)

    Args:
        k1: how soon further counts of a word stop to matter. The default is Anserini's, which computed the BM25 scores
            that Mr. TyDi reports.
        b: how much the length of a document matters, from 0 to 1. The default is Anserini's, too.

    Raises:
        InputError: documents that are not texts, k1 below 0, b outside 0 to 1.
        ExtraError: the package bm25s or regex is not installed.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 0.9, b: float = 0.4) -> None:
        if not 0 <= k1 < math.inf:
            raise InputError(f"k1 is {k1}; it must be a finite number of at least 0.")
        if not 0 <= b <= 1:
            raise InputError(f"b is {b}; it must be from 0 to 1.")
        index = _import_package("bm25s").BM25(k1=k1, b=b, method="lucene", backend="numpy", csc_backend="numpy")
        columns: dict[str, int] = {}
        columns_of: list[list[int]] = []
        self._letter_postings: dict[str, _LetterPostings] = {}
        for row, text in enumerate(as_texts(documents)):
            letters: list[str] = []
            columns_of.append(
                [columns.setdefault(word, len(columns)) for word in _split_words_and_letters(text, letters)]
            )
            for letter, times in Counter(letters).items():
                self._letter_postings.setdefault(letter, _LetterPostings()).add(row, times)
        self._word_ids, self._num_documents = columns, len(columns_of)
        lengths_N = np.array([len(document_columns) for document_columns in columns_of], np.float64)
        # the part of the divisor that depends on the document; without words the mean is undefined and unused
        self._norms_N = k1 * (1 - b + b * lengths_N / lengths_N.mean()) if columns else lengths_N
        if columns:  # without any, bm25s would divide by a mean length of 0
            # not `index.index`, which writes to the log
            matrix = index.build_index_from_ids(list(columns.values()), columns_of, show_progress=False)
            self._starts_V: NDArray[np.int64] = matrix["indptr"]
            self._rows_P: NDArray[np.int32] = matrix["indices"]
            self._scores_P: NDArray[np.float32] = matrix["data"]

    def top_k(self, queries: Sequence[str], k: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Find the best documents for each query: scores [K] and rows [K].

        The best document comes first; equal scores are ordered by row. K is k, or less where fewer documents share a
        word with the query.

        Raises:
            InputError: queries that are not texts, k below 1.
        """
        if k < 1:
            raise InputError(f"k is {k}; it must be at least 1.")
        return [_top_k_above_zero(self._score_query(query), k) for query in as_texts(queries)]

    def _score_query(self, query: str) -> NDArray[np.float32]:
        scores_N = np.zeros(self._num_documents, np.float32)
        letters: list[str] = []
        words = _split_words_and_letters(query, letters)
        if words == letters:
            for letter, times in Counter(letters).items():
                if (postings := self._letter_postings.get(letter)) is not None:
                    rows_P, scores_P = postings.score_documents(self._norms_N)
                    scores_N[rows_P] += times * scores_P
            return scores_N
        for word, times in Counter(words).items():
            if (column := self._word_ids.get(word)) is not None:
                postings_of_word = slice(self._starts_V[column], self._starts_V[column + 1])
                # a word has one posting per document, so every row is in here once
                scores_N[self._rows_P[postings_of_word]] += times * self._scores_P[postings_of_word]
        return scores_N


class _LetterPostings:
    """How often each document contains one letter, alone and inside longer runs."""

    def __init__(self) -> None:
        self._rows, self._counts = array("i"), array("i")

    def add(self, row: int, count: int) -> None:
        self._rows.append(row)
        self._counts.append(count)

    def score_documents(self, norms_N: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows [P] of the documents that contain the letter, and its score in each."""
        rows_P, tf_P = np.array(self._rows, np.int32), np.array(self._counts, np.float64)
        idf = math.log(1 + (len(norms_N) - len(rows_P) + 0.5) / (len(rows_P) + 0.5))
        return rows_P, (idf * tf_P / (tf_P + norms_N[rows_P])).astype(np.float32)


def _top_k_above_zero(scores_N: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and rows of the k best documents among those with a score above 0."""
    rows = np.flatnonzero(scores_N)
    rows_K = rows[top_k_indices(scores_N[rows], k)]
    return scores_N[rows_K], rows_K


def _fold_case(text: str) -> str:
    # casefold undoes some compositions, so NFKC is applied again
    folded = unicodedata.normalize("NFKC", _compile_pattern(IGNORABLE).sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded)


@cache
def _compile_pattern(pattern: str) -> Any:
    # Python's own re has neither scripts nor marks: a vowel sign of Bengali would end the word
    return _import_package("regex").compile(pattern)


def _import_package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ExtraError(f"BM25 needs {name}, which is not installed. {advise_install('evaluate')}") from error
