"""Distillation from a teacher's scores for query-document pairs, for example those of a cross-encoder.

B: queries of this rank; K: documents of each query that the teacher scored; D: dimension; P: queries of all ranks; C:
documents that all queries are scored with.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gnomon.errors import InputError
from gnomon.losses.contrastive import info_nce
from gnomon.losses.similarity import Factor, Similarity, pairwise_similarity, resolve_scale, similarity_matrix


def distill_kl(
    queries_BD: Tensor,
    docs_BKD: Tensor,
    teacher_BK: Tensor,
    *,
    scale: Factor | None = None,
    temperature: Factor | None = None,
    teacher_temperature: float = 1.0,
    similarity: Similarity = "dot",
) -> Tensor:
    """The mean over queries of KL(teacher || student), each a softmax over the query's K documents.

    Student: softmax(scale * s(q, d)), teacher: softmax(score / teacher_temperature). Lin et al. 2020 (2010.11386) and
    the code of SimLM (2207.02578). It is not multiplied by the square of a temperature (Hinton et al. 2015, 1503.02531,
    section 2): at 0.01 nothing would be left of it.

    Args:
        docs_BKD: the documents of each query; or [C, D], one list for all queries, with scores [B, C].
        scale: what similarities are multiplied by, 1 by default; a tensor is trained. `temperature` is 1 / scale.

    Raises:
        InputError: the scores have another shape; an option is out of range; the batch is empty.
    """
    factor = resolve_scale(scale, temperature, default=1.0)
    teacher_factor = resolve_scale(None, teacher_temperature, default=1.0)
    score = _score_all_docs if docs_BKD.ndim == 2 else _score_own_docs
    scores_BK = score(queries_BD, docs_BKD, teacher_BK, similarity) * factor
    target_BK = teacher_BK.detach().to(scores_BK.dtype) * teacher_factor
    return F.kl_div(scores_BK.log_softmax(1), target_BK.log_softmax(1), reduction="batchmean", log_target=True)


def kl_and_contrast(
    queries_BD: Tensor,
    docs_PKD: Tensor,
    teacher_BK: Tensor,
    *,
    alpha: float = 0.2,
    scale: Factor | None = None,
    temperature: Factor | None = None,
    teacher_temperature: float = 1.0,
    similarity: Similarity = "cosine",
    start: int = 0,
    doc_mask_BC: Tensor | None = None,
) -> Tensor:
    """`distill_kl` over each query's own documents, plus alpha times `info_nce` over those of all queries.

    E5, Wang et al. 2022 (2212.03533, fine-tuning with labelled data); alpha as in the code of SimLM (2207.02578).

    Args:
        docs_PKD: documents of the queries of all ranks; docs_PKD[:, 0] are the positives. Row b's are
            docs_PKD[start + b].
        scale: what similarities are multiplied by, 100 by default; a tensor is trained. `temperature` is 1 / scale.
        doc_mask_BC: as in `info_nce`; its columns are docs_PKD[:, 0], then docs_PKD[:, 1], and so on.

    Raises:
        InputError: as in `distill_kl` and `info_nce`.
    """
    factor = resolve_scale(scale, temperature, default=100.0)
    contrast = info_nce(
        queries_BD,
        docs_PKD[:, 0],
        docs_PKD[:, 1:].transpose(0, 1).flatten(0, 1),
        scale=factor,
        similarity=similarity,
        start=start,
        doc_mask_BC=doc_mask_BC,
    )
    own_BKD = docs_PKD[start : start + len(queries_BD)]
    distilled = distill_kl(
        queries_BD, own_BKD, teacher_BK, scale=factor, teacher_temperature=teacher_temperature, similarity=similarity
    )
    return distilled + alpha * contrast


def margin_mse(queries_BD: Tensor, docs_BKD: Tensor, teacher_BK: Tensor, *, similarity: Similarity = "dot") -> Tensor:
    """The mean of (student's margin - teacher's margin)^2, a margin being the score of a query's first document less
    that of another. Hofstätter et al. 2020 (2010.02666).

    Raises:
        InputError: the scores have another shape; a query has fewer than two documents; the batch is empty.
    """
    scores_BK = _score_own_docs(queries_BD, docs_BKD, teacher_BK, similarity)
    if scores_BK.shape[1] < 2:
        raise InputError("each query has one document. A margin is between two. Give hard negatives.")
    error_BK = scores_BK - teacher_BK.detach().to(scores_BK.dtype)
    return (error_BK[:, :1] - error_BK[:, 1:]).square().mean()


def _score_own_docs(queries_BD: Tensor, docs_BKD: Tensor, teacher_BK: Tensor, similarity: Similarity) -> Tensor:
    """[B, K]: the student's scores for each query's own documents."""
    _check_shapes(queries_BD, docs_BKD, teacher_BK, docs_BKD.shape[:2])
    return pairwise_similarity(queries_BD[:, None], docs_BKD, similarity)


def _score_all_docs(queries_BD: Tensor, docs_CD: Tensor, teacher_BC: Tensor, similarity: Similarity) -> Tensor:
    """[B, C]: the student's scores for all documents."""
    _check_shapes(queries_BD, docs_CD, teacher_BC, (len(queries_BD), len(docs_CD)))
    return similarity_matrix(queries_BD, docs_CD, similarity)


def _check_shapes(queries_BD: Tensor, docs: Tensor, teacher: Tensor, expected_shape: tuple[int, ...]) -> None:
    if teacher.shape != expected_shape or len(queries_BD) != expected_shape[0] or not len(queries_BD):
        raise InputError(
            f"the teacher's scores have the shape {list(teacher.shape)}, for {len(queries_BD)} queries and "
            f"documents of the shape {list(docs.shape)}. Give one score per document, and at least one query."
        )
