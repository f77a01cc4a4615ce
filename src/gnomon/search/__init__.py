"""Search in memory: exact nearest neighbours, packed signs, BM25, and the fusion of two rankings.

    from gnomon.search import top_k
    scores_QK, rows_QK = top_k(encoder.encode_query(queries), encoder.encode_document(documents), 10)

The best row comes first. Q: queries; K: results per query. Files and folders, as `gnomon search` reads them:

    from gnomon.search import CorpusCache, encode_corpus, find_hits, read_corpus
    corpus = read_corpus("notes")
    vectors_ND = encode_corpus(encoder, corpus.texts, cache=CorpusCache()).vectors_ND
    hits = find_hits(encoder, corpus, vectors_ND, "how do I get in?")
"""

from __future__ import annotations

from gnomon.search.binary import BinaryIndex
from gnomon.search.bm25 import Bm25, split_words
from gnomon.search.cache import CorpusCache
from gnomon.search.corpus import Corpus, Document, read_corpus
from gnomon.search.corpus_search import CorpusVectors, Hit, encode_corpus, find_hits
from gnomon.search.exact import top_k
from gnomon.search.fusion import cross_fit_alpha, fuse_mr_tydi, reciprocal_rank_fusion, tune_alpha
from gnomon.search.hybrid import fuse_runs
from gnomon.search.markdown import Passage, split_markdown

__all__ = [
    "BinaryIndex",
    "Bm25",
    "Corpus",
    "CorpusCache",
    "CorpusVectors",
    "Document",
    "Hit",
    "Passage",
    "cross_fit_alpha",
    "encode_corpus",
    "find_hits",
    "fuse_mr_tydi",
    "fuse_runs",
    "read_corpus",
    "reciprocal_rank_fusion",
    "split_markdown",
    "split_words",
    "top_k",
    "tune_alpha",
]
