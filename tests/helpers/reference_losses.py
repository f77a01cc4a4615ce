"""The losses once more, from their formulae: loops over plain float64 numbers, and nothing shared with gnomon.

Vectors are numpy arrays or lists of rows; masks are [row][candidate].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

Row = Sequence[float]
Rows = Sequence[Row]
Mask = Sequence[Sequence[bool]] | None


def dot(a: Row, b: Row) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cosine(a: Row, b: Row) -> float:
    return dot(a, b) / (max(math.sqrt(dot(a, a)), 1e-12) * max(math.sqrt(dot(b, b)), 1e-12))


SIMILARITIES: dict[str, Callable[[Row, Row], float]] = {"cosine": cosine, "dot": dot}


def log_sum_exp(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def masked(mask: Mask, row: int, candidate: int) -> bool:
    return mask is not None and bool(mask[row][candidate])


def info_nce(
    queries: Rows,
    positives: Rows,
    negatives: Rows = (),
    *,
    scale: float = 20.0,
    directions: Sequence[str] = ("query_to_doc",),
    joint: bool = True,
    similarity: str = "cosine",
    targets: Sequence[int] | None = None,
    all_queries: Rows | None = None,
    start: int = 0,
    owners: Sequence[int] | None = None,
    doc_mask: Mask = None,
    query_mask: Mask = None,
) -> float:
    s = SIMILARITIES[similarity]
    docs = [*positives, *negatives]
    came_with = [*range(len(positives)), *(owners or [n % len(positives) for n in range(len(negatives))])]
    losses: list[float] = []
    for b, query in enumerate(queries):
        target = targets[b] if targets is not None else start + b
        others, mine = (queries, b) if all_queries is None else (all_queries, start + b)
        doc = positives[target]
        terms: dict[str, list[float]] = {name: [] for name in directions}
        for c, candidate in enumerate(docs):
            if "query_to_doc" in terms and (c == target or not masked(doc_mask, b, c)):
                terms["query_to_doc"].append(scale * s(query, candidate))
            if "doc_to_doc" in terms and came_with[c] != target and not masked(doc_mask, b, c):
                terms["doc_to_doc"].append(scale * s(doc, candidate))
        for q, candidate in enumerate(others):
            if "query_to_query" in terms and q != mine and not masked(query_mask, b, q):
                terms["query_to_query"].append(scale * s(query, candidate))
            if "doc_to_query" in terms and (q == mine or not masked(query_mask, b, q)):
                terms["doc_to_query"].append(scale * s(doc, candidate))
        if joint:
            log_z = log_sum_exp([term for block in terms.values() for term in block])
        else:
            log_z = mean([log_sum_exp(block) for block in terms.values()])
        losses.append(log_z - scale * s(query, doc))
    return mean(losses)


def gist(
    model: tuple[Rows, Rows, Rows],
    guide: tuple[Rows, Rows, Rows],
    *,
    temperature: float = 0.01,
    margin: float = 0.0,
    relative: bool = False,
    anchors: bool = True,
    positives_too: bool = True,
    start: int = 0,
    doc_mask: Mask = None,
    query_mask: Mask = None,
) -> float:
    """Queries, positives and negatives of both; the queries are those of the rows. Ties of the guide are kept."""
    queries, positives, negatives = model
    g_queries, g_positives, g_negatives = guide
    losses: list[float] = []
    for b, query in enumerate(queries):
        own = start + b
        sigma = cosine(g_queries[b], g_positives[own])
        limit = sigma - (abs(sigma) * margin if relative else margin)
        z = [cosine(query, positives[own]) / temperature]
        for c, doc in enumerate(positives):
            if c != own and cosine(g_queries[b], g_positives[c]) <= limit and not masked(doc_mask, b, c):
                z.append(cosine(query, doc) / temperature)
            near = cosine(g_positives[own], g_positives[c]) > limit or masked(doc_mask, b, c)
            if positives_too and c != own and not near:
                z.append(cosine(positives[own], doc) / temperature)
        for n, doc in enumerate(negatives):
            if cosine(g_queries[b], g_negatives[n]) <= limit and not masked(doc_mask, b, len(positives) + n):
                z.append(cosine(query, doc) / temperature)
        for q, other in enumerate(queries):
            near = cosine(g_queries[b], g_queries[q]) > limit or masked(query_mask, b, q)
            if anchors and q != b and not near:
                z.append(cosine(query, other) / temperature)
        losses.append(log_sum_exp(z) - z[0])
    return mean(losses)


def distill_kl(scores: Rows, teacher: Rows, *, scale: float = 1.0, teacher_temperature: float = 1.0) -> float:
    losses: list[float] = []
    for ours, theirs in zip(scores, teacher, strict=True):
        a = [scale * score for score in ours]
        t = [score / teacher_temperature for score in theirs]
        log_a, log_t = log_sum_exp(a), log_sum_exp(t)
        losses.append(math.fsum(math.exp(y - log_t) * ((y - log_t) - (x - log_a)) for x, y in zip(a, t, strict=True)))
    return mean(losses)


def margin_mse(scores: Rows, teacher: Rows) -> float:
    return mean(
        [
            ((ours[0] - ours[k]) - (theirs[0] - theirs[k])) ** 2
            for ours, theirs in zip(scores, teacher, strict=True)
            for k in range(1, len(ours))
        ]
    )


def scores_of(queries: Rows, docs: Sequence[Rows], similarity: str) -> list[list[float]]:
    return [[SIMILARITIES[similarity](q, d) for d in of_query] for q, of_query in zip(queries, docs, strict=True)]


def cosent(a: Rows, b: Rows, labels: Sequence[float], *, scale: float = 20.0, similarity: str = "cosine") -> float:
    s = [SIMILARITIES[similarity](x, y) for x, y in zip(a, b, strict=True)]
    pairs = range(len(s))
    return log_sum_exp([0.0, *(scale * (s[j] - s[i]) for i in pairs for j in pairs if labels[i] > labels[j])])


def cosine_regression(a: Rows, b: Rows, labels: Sequence[float]) -> float:
    return mean([(cosine(x, y) - label) ** 2 for x, y, label in zip(a, b, labels, strict=True)])


def cosine_distillation(student: Rows, teacher: Rows) -> float:
    return mean([1 - cosine(s, t) for s, t in zip(student, teacher, strict=True)])


def similarity_distillation(student: Rows, teacher: Rows) -> float:
    texts = range(len(student))
    return mean([(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2 for i in texts for j in texts])


def ranking_hinge(student: Row, teacher: Row, margin: float) -> float:
    """Over all ordered pairs of values, by the definition."""
    places = range(len(student))
    return math.fsum(
        max(0.0, float(student[q]) - float(student[p]) + margin)
        for p in places
        for q in places
        if teacher[p] > teacher[q]
    )


def relative_similarity_distillation(student: Rows, teacher: Rows, *, margin: float = 0.015) -> float:
    pairs = list(combinations(range(len(student)), 2))
    ours = [cosine(student[i], student[j]) for i, j in pairs]
    theirs = [cosine(teacher[i], teacher[j]) for i, j in pairs]
    return ranking_hinge(ours, theirs, margin) / max(math.comb(len(pairs), 2), 1)


def prefixes(rows: Any, dim: int) -> Any:
    """Rows cut to a width and normalised."""
    cut = np.asarray(rows, np.float64)[..., :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)
