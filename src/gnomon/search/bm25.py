"""BM25 over the words of any language, with no model and no list of stop words.

N: documents; P: postings, one per word and document that holds it; V: distinct words; K: results of a query.
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
from gnomon.search.exact import top_k_indices

# Script_Extensions, since Han and kana share ー and 〆; Script elsewhere, since Thai shares the letter ʼ with Latin
BIGRAM_LETTER = (
    r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{Nl}]]"
)
"""A letter of the scripts that are read as bigrams."""

RUN_OR_WORD = rf"(?V1)((?:{BIGRAM_LETTER}\p{{M}}*)+)|([[\p{{L}}\p{{N}}]--{BIGRAM_LETTER}][[\p{{L}}\p{{N}}\p{{M}}]--{BIGRAM_LETTER}]*)"
LETTER = r"\P{M}\p{M}*"

# what holds words together or shows them otherwise: soft hyphen, joiners, marks of direction; but U+200B ends a word
IGNORABLE = r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200B]+"


def split_words(text: str) -> list[str]:
    """The words of a text in any language, in their order, for matching: folded, of letters, marks and digits.

    Folded is Unicode's NFKC_Casefold (section 3.13): case and width do not count, accents do. An apostrophe ends a
    word, so that "l'eau" holds "eau". Han, kana, Thai, Lao, Khmer and Myanmar, which are written without spaces, and
    Hangul, whose words carry their particles, give overlapping pairs of letters, each with its marks; a letter that
    stands alone is a word. That is what Lucene's CJKAnalyzer does for Han, kana and Hangul.

    Raises:
        ExtraError: the package regex is not installed.
    """
    return _split_words_and_letters(text, [])


def _split_words_and_letters(text: str, letters: list[str]) -> list[str]:
    """`words`; the letters of the scripts that are read as bigrams go to `letters`."""
    found: list[str] = []
    for run, word in _compile_pattern(RUN_OR_WORD).findall(_fold_case(text)):
        if word:
            found.append(word)
        else:
            of_run: list[str] = _compile_pattern(LETTER).findall(run)
            letters += of_run
            found += [first + second for first, second in pairwise(of_run)] or of_run
    return found


class Bm25:
    """An index of texts by their words, in memory.

    The score of a document, as Lucene computes it (Kamphuis, de Vries, Boytsov and Lin, ECIR 2020, "Lucene
    (accurate)"): the sum, over the words of a query, of

        log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

    with df the documents that hold the word, of N, and tf its count in this one. A word counts as often as the query
    holds it. Lengths are in words; documents without words count in N and in the mean.

    A query of nothing but single letters, of the scripts that are read as bigrams, finds them inside longer runs too:
    df and tf then count the letter wherever it stands. (Counted so in longer queries, they cost more than they find:
    nDCG@10 on the Korean pages .802, and .804 without.)

    Args:
        k1, b: 0.9 and 0.4 are the defaults of Anserini, and with it of the BM25 that Mr. TyDi reports.

    Raises:
        InputError: documents that are not texts, a k1 below 0, a b outside 0 to 1.
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
        lengths_N = np.array([len(each) for each in columns_of], np.float64)
        # the part of the divisor that is the document's own; without words there is no mean, and nothing is scored
        self._norms_N = k1 * (1 - b + b * lengths_N / lengths_N.mean()) if columns else lengths_N
        if columns:  # without any, bm25s would divide by a mean length of 0
            # not `index`, which writes to the log
            found = index.build_index_from_ids(list(columns.values()), columns_of, show_progress=False)
            self._starts_V: NDArray[np.int64] = found["indptr"]
            self._rows_P: NDArray[np.int32] = found["indices"]
            self._scores_P: NDArray[np.float32] = found["data"]

    def top_k(self, queries: Sequence[str], k: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """For each query the scores [K] and rows [K] of its best documents, best first, equal scores by row.

        K is k, or less where fewer documents hold a word of the query: 0 where none does.

        Raises:
            InputError: queries that are not texts, a k below 1.
        """
        if k < 1:
            raise InputError(f"k is {k}; it must be at least 1.")
        return [_top_k_above_zero(self._score_query(query), k) for query in as_texts(queries)]

    def _score_query(self, query: str) -> NDArray[np.float32]:
        scores_N = np.zeros(self._num_documents, np.float32)
        letters: list[str] = []
        found = _split_words_and_letters(query, letters)
        if found == letters:
            for letter, times in Counter(letters).items():
                if (postings := self._letter_postings.get(letter)) is not None:
                    rows_P, scores_P = postings.score_documents(self._norms_N)
                    scores_N[rows_P] += times * scores_P
            return scores_N
        for word, times in Counter(found).items():
            if (column := self._word_ids.get(word)) is not None:
                some = slice(self._starts_V[column], self._starts_V[column + 1])
                # a word has one posting a document, so that no row is in here twice
                scores_N[self._rows_P[some]] += times * self._scores_P[some]
        return scores_N


class _LetterPostings:
    """How often each document holds one letter, inside longer runs and alone."""

    def __init__(self) -> None:
        self._rows, self._counts = array("i"), array("i")

    def add(self, row: int, count: int) -> None:
        self._rows.append(row)
        self._counts.append(count)

    def score_documents(self, norms_N: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows [P], and the letter's score in each."""
        rows_P, tf_P = np.array(self._rows, np.int32), np.array(self._counts, np.float64)
        idf = math.log(1 + (len(norms_N) - len(rows_P) + 0.5) / (len(rows_P) + 0.5))
        return rows_P, (idf * tf_P / (tf_P + norms_N[rows_P])).astype(np.float32)


def _top_k_above_zero(scores_N: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of the scores above 0."""
    rows = np.flatnonzero(scores_N)
    rows_K = rows[top_k_indices(scores_N[rows], k)]
    return scores_N[rows_K], rows_K


def _fold_case(text: str) -> str:
    # casefold undoes some compositions, so that NFKC comes again
    folded = unicodedata.normalize("NFKC", _compile_pattern(IGNORABLE).sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded)


@cache
def _compile_pattern(pattern: str) -> Any:
    # Python's own re knows neither scripts nor marks: a vowel sign of Bengali would end the word
    return _import_package("regex").compile(pattern)


def _import_package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ExtraError(f"BM25 needs {name}, which is in an extra: pip install 'gnomon[evaluate]'") from error
