"""Search in memory: exact nearest neighbours, packed signs, BM25, and the fusion of two rankings.

    from gnomon.search import top_k
    scores_QK, rows_QK = top_k(encoder.encode_query(queries), encoder.encode_document(documents), 10)

The best row comes first. Q: queries; K: results per query.
"""

from __future__ import annotations

from gnomon.search.binary import BinaryIndex
from gnomon.search.bm25 import Bm25, split_words
from gnomon.search.exact import top_k
from gnomon.search.fusion import cross_fit_alpha, fuse_mr_tydi, reciprocal_rank_fusion, tune_alpha
from gnomon.search.hybrid import fuse_runs

__all__ = [
    "BinaryIndex",
    "Bm25",
    "cross_fit_alpha",
    "fuse_mr_tydi",
    "fuse_runs",
    "reciprocal_rank_fusion",
    "split_words",
    "top_k",
    "tune_alpha",
]
