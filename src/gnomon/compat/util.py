"""The helpers of sentence_transformers.util that scripts use, on gnomon's own exact search.

Q: queries; N: documents; B: texts; D: dimension; K: results.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import modules
from gnomon.compat.similarity import (
    SimilarityFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    pytorch_cos_sim,
)
from gnomon.compat.tensors import Tensor, device_of, to_array, to_tensor
from gnomon.errors import InputError, UnavailableError
from gnomon.progress import progress_bar
from gnomon.quantization import VectorPrecision, quantize
from gnomon.search.exact import ScoreName, top_k_indices
from gnomon.search.exact import top_k as find_top_k

__all__ = [
    "LoggingHandler",
    "SimilarityFunction",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "information_retrieval",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "semantic_search",
    "truncate_embeddings",
]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
ScoreFunction = Callable[[Any, Any], Any]

_logger = logging.getLogger(__name__)

FEW_EMBEDDINGS = 100
"""With fewer vectors, ranges taken from them are poor; sentence-transformers warns too."""

_SCORES: dict[Any, ScoreName] = {
    cos_sim: "cosine",
    dot_score: "dot",
    euclidean_sim: "euclidean",
    manhattan_sim: "manhattan",
}
"""Score function -> its name in gnomon.search, which computes it without making a matrix of all scores."""


class TextEncoder(Protocol):
    """A model of this package, or of sentence-transformers."""

    def encode(self, inputs: Any, **options: Any) -> Any: ...


class Hit(TypedDict):
    """One result of a search."""

    corpus_id: int
    score: float


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[Hit]]:
    """The `top_k` best documents of each query, best first; equal scores in the order of the corpus.

    Args:
        query_embeddings: vectors [Q, D], or one [D].
        corpus_embeddings: vectors [N, D].
        query_chunk_size: queries that a score function of your own gets at once. The four score functions of this
            module are computed in blocks of a fixed size.
        corpus_chunk_size: accepted, and changes nothing.
        score_function: scores [Q, N] of all pairs, higher is nearer.
    """
    queries_QD, corpus_ND = np.atleast_2d(to_array(query_embeddings)), to_array(corpus_embeddings)
    if len(corpus_ND) == 0:
        return [[] for _ in queries_QD]
    scores_QK, rows_QK = _find_nearest(queries_QD, corpus_ND, top_k, score_function, query_chunk_size)
    return [
        [Hit(corpus_id=row, score=score) for row, score in zip(rows_K, scores_K, strict=True)]
        for rows_K, scores_K in zip(rows_QK.tolist(), scores_QK.tolist(), strict=True)
    ]


information_retrieval = semantic_search


def _find_nearest(
    queries_QD: NDArray[Any], corpus_ND: NDArray[Any], k: int, score_function: ScoreFunction, queries_per_chunk: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Scores and rows [Q, K] of the nearest documents."""
    if name := _SCORES.get(score_function):
        return find_top_k(queries_QD, corpus_ND, k, score=name)
    scores: list[NDArray[Any]] = []
    rows: list[NDArray[np.int64]] = []
    for start in range(0, len(queries_QD), max(queries_per_chunk, 1)):
        chunk = to_tensor(queries_QD[start : start + queries_per_chunk])
        scores_QN = to_array(score_function(chunk, to_tensor(corpus_ND)), "the result of score_function")
        rows_QK = np.stack([top_k_indices(scores_N, k) for scores_N in scores_QN])
        rows.append(rows_QK)
        scores.append(np.take_along_axis(scores_QN, rows_QK, 1))
    return np.concatenate(scores), np.concatenate(rows)


def paraphrase_mining(
    model: TextEncoder,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The pairs of texts that are nearest to each other, as [score, first, second], best first.

    The parameters are those of sentence-transformers.
    """
    vectors_BD = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        vectors_BD, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """As `paraphrase_mining`, of vectors [B, D]: the best `max_pairs` among the `top_k` nearest of each text."""
    vectors_BD = to_array(embeddings)
    if len(vectors_BD) < 2:
        return []
    scores_BK, rows_BK = _find_nearest(vectors_BD, vectors_BD, top_k + 1, score_function, query_chunk_size)
    best: dict[tuple[int, int], float] = {}
    for row, (scores_K, rows_K) in enumerate(zip(scores_BK.tolist(), rows_BK.tolist(), strict=True)):
        others = [(other, score) for other, score in zip(rows_K, scores_K, strict=True) if other != row]
        for other, score in others[:top_k]:
            best.setdefault((min(row, other), max(row, other)), score)
    pairs = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:max_pairs]
    return [[score, first, second] for (first, second), score in pairs]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of texts whose cosine similarity to a central text is at least `threshold`, the largest first.

    Each group lists its centre first and then the others, the nearest first. A text is in one group at most.

    Args:
        embeddings: vectors [B, D].
        min_community_size: the fewest texts of a group.
        batch_size: rows of the similarity matrix that are computed at once.
    """
    vectors_BD = to_array(embeddings)
    if len(vectors_BD) < max(min_community_size, 1):
        return []
    vectors_BD = modules.normalize(np.atleast_2d(vectors_BD))
    groups: list[tuple[int, NDArray[np.int64]]] = []
    with progress_bar(len(vectors_BD), "finding communities", "texts", show=show_progress_bar) as advance:
        for start in range(0, len(vectors_BD), max(batch_size, 1)):
            scores_CB = vectors_BD[start : start + batch_size] @ vectors_BD.T
            for center, scores_B in enumerate(scores_CB, start):
                members = np.flatnonzero(scores_B >= np.float32(threshold))
                if len(members) >= min_community_size:
                    groups.append((center, members[np.argsort(-scores_B[members], kind="stable")]))
            advance(len(scores_CB))
    groups.sort(key=lambda group: -len(group[1]))
    return _separate_groups(groups, len(vectors_BD), min_community_size)


def _separate_groups(groups: list[tuple[int, NDArray[np.int64]]], count: int, min_size: int) -> list[list[int]]:
    """Groups without shared members: each takes those that no larger group has, if enough of them are left."""
    is_taken = np.zeros(count, bool)
    separate: list[list[int]] = []
    for center, members in groups:
        free = members[~is_taken[members]]
        if is_taken[center] or len(free) < min_size:
            continue
        group = [center, *free[free != center].tolist()]
        separate.append(group)
        is_taken[group] = True
    return sorted(separate, key=len, reverse=True)


def quantize_embeddings(
    embeddings: Any,
    precision: Precision,
    ranges: ArrayLike | None = None,
    calibration_embeddings: Any = None,
) -> NDArray[Any] | list[Any]:
    """Vectors [B, D] in fewer bytes: int8, uint8, or packed signs (binary, ubinary).

    Args:
        ranges: [2, D], lowest and highest value of each component, for int8 and uint8.
        calibration_embeddings: vectors whose ranges are used; by default those of `embeddings` themselves.

    Raises:
        InputError: an unknown precision, vectors that are quantized already, or int8 and uint8 of a single vector
            without ranges.
    """
    if precision not in get_args(Precision):
        raise InputError(f"Precision {precision!r} is not supported, must be one of {get_args(Precision)}")
    if isinstance(embeddings, list) and not embeddings:
        return []
    vectors_BD = to_array(embeddings)
    if str(vectors_BD.dtype) in ("int8", "uint8"):
        raise InputError(f"embeddings are {vectors_BD.dtype}, and quantized already. Give float vectors.")
    if precision == "float32":
        return vectors_BD.astype(np.float32)
    eight_bits = precision in ("int8", "uint8")
    if not eight_bits:
        return _quantize(vectors_BD, precision, None)
    if ranges is None and calibration_embeddings is not None:
        calibration_BD = to_array(calibration_embeddings, "calibration_embeddings")
        ranges = np.stack([calibration_BD.min(axis=0), calibration_BD.max(axis=0)])
    if ranges is None and 1 < len(np.atleast_2d(vectors_BD)) < FEW_EMBEDDINGS:
        _logger.warning(
            "The ranges of %s were taken from %d embeddings, which is few. Give ranges, or calibration_embeddings.",
            precision,
            len(vectors_BD),
        )
    return _quantize(vectors_BD, precision, ranges)


def _quantize(vectors_BD: NDArray[Any], precision: VectorPrecision, ranges: ArrayLike | None) -> NDArray[Any]:
    if len(vectors_BD) == 0:
        ranges = np.zeros((2, vectors_BD.shape[-1])) if precision in ("int8", "uint8") else None
    return quantize(vectors_BD, precision, ranges).values


def normalize_embeddings(embeddings: Any) -> Tensor:
    """Vectors scaled to unit length; a zero vector stays zero."""
    return to_tensor(modules.normalize(to_array(embeddings)), device_of(embeddings))


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """The first `truncate_dim` components of vectors; all of them for None."""
    return embeddings[..., :truncate_dim]


class LoggingHandler(logging.Handler):
    """A handler of logging whose lines do not break progress bars; old scripts set it up."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


_UNAVAILABLE = {
    "semantic_search_faiss": "Use faiss itself, or gnomon.search.BinaryIndex for packed signs.",
    "semantic_search_usearch": "Use usearch itself, or gnomon.search.BinaryIndex for packed signs.",
    "mine_hard_negatives": "gnomon.search.top_k finds the nearest documents of each query.",
    "http_get": "Use urllib.request.urlretrieve, or huggingface_hub.hf_hub_download.",
    "maxsim": "Only one vector per text is supported here. Keep the import from sentence_transformers.util.",
    "pairwise_angle_sim": "It is part of a loss that is not built here.",
}


def __getattr__(name: str) -> Any:
    if name in _UNAVAILABLE:
        raise UnavailableError(f"gnomon.compat.util has no {name}. {_UNAVAILABLE[name]}")
    raise AttributeError(f"module 'gnomon.compat.util' has no attribute {name!r}")
