"""The loss of a batch: an entry of `LOSS_FUNCTIONS` calls one of `gnomon.losses` with the vectors of all ranks.

Where the rows of a loss are independent, it is computed in parts of some rows. The loss of the batch is their sum,
weighted by the rows of each part.

B: rows of this rank; Q: rows of all ranks; K: negatives of a row; N: negatives of all ranks, Q K, row by row; C:
documents, Q + N; D: dimension of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.errors import InputError
from gnomon.losses import (
    GTE_DIRECTIONS,
    SYMMETRIC_DIRECTIONS,
    anneal,
    compute_guide_blocks,
    cosent,
    cosine_distillation,
    cosine_regression,
    distill_kl,
    duplicates_mask,
    gist,
    info_nce,
    kl_and_contrast,
    known_pairs_mask,
    margin_mse,
    matryoshka,
)
from gnomon.losses.matryoshka import MatryoshkaVectors
from gnomon.losses.similarity import similarity_matrix
from gnomon.spec import ModelSpec
from gnomon.train.recipe.schema import LEARNED_SCALES, LossName, LossSettings, MatryoshkaSettings

SCORES_PER_PART = 1 << 23
"""Scores that are in memory at once, approximately."""


Masks = dict[str, Any]
"""doc_mask_BC and query_mask_BQ of `info_nce`."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss gets of a batch beside the model's vectors."""

    first_row: int
    """The number of this rank's first row among those of all ranks."""
    num_rows: int
    """Rows of this rank."""
    text_hashes: tuple[Tensor, Tensor, Tensor]
    """[Q], [Q], [N]: hashes of queries, positives and negatives of all ranks (`CollatedBatch.text_hashes`)."""
    false_negatives_N: Tensor | None = None
    """[N] bool, of all ranks: which negatives are the query or a positive of their own row; None if no negative is."""
    scores: Tensor | None = None
    """[Q] labels of pairs or [Q, 1 + K] scores of a teacher, of all ranks."""
    teacher_vectors: tuple[Tensor, Tensor, Tensor] | None = None
    """The vectors of a guide or teacher for the same texts, of all ranks."""
    step: int = 0

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether a query or positive occurs twice, or is also a negative. A negative may occur in several rows."""
        queries_Q, positives_Q, negatives_N = self.text_hashes
        pairs = torch.cat([queries_Q, positives_Q])
        if self.false_negatives_N is not None and self.false_negatives_N.any():
            return True
        return len(pairs.unique()) < len(pairs) or bool(torch.isin(negatives_N, pairs).any())

    @cached_property
    def matching_pairs(self) -> tuple[Tensor, Tensor]:
        """Hashes of queries and of their documents: the positives, and negatives that are texts of their own row."""
        queries_Q, positives_Q, negatives_N = self.text_hashes
        if self.false_negatives_N is None:
            return queries_Q, positives_Q
        own = self.false_negatives_N.nonzero()[:, 0]
        owners = own // (len(negatives_N) // len(queries_Q) or 1)
        return torch.cat([queries_Q, queries_Q[owners]]), torch.cat([positives_Q, negatives_N[own]])

    def build_masks(self, rows: slice) -> Masks:
        """Masks of the documents and queries that must not be negatives of some rows.

        These are documents that answer an equal query, queries that an equal document answers, and copies of the row's
        own query or positive.
        """
        if not self.has_duplicates:
            return {"doc_mask_BC": None, "query_mask_BQ": None}
        queries_Q, positives_Q, negatives_N = self.text_hashes
        docs_C = torch.cat([positives_Q, negatives_N])
        keys, answers = self.matching_pairs
        return {
            "doc_mask_BC": _mask_answers(queries_Q[rows], keys, answers, docs_C)
            | duplicates_mask(queries_Q[rows], docs_C),
            "query_mask_BQ": _mask_answers(positives_Q[rows], answers, keys, queries_Q)
            | duplicates_mask(positives_Q[rows], queries_Q),
        }


@dataclass(frozen=True)
class LossCall:
    """One call of a loss: some rows of this rank against the texts of all ranks."""

    inputs: LossInputs
    rows: slice
    """The rows of this call, among those of all ranks."""
    settings: LossSettings
    scale_kwargs: dict[str, Any]
    """{"scale": ...}, or {} for a loss without a scale."""

    @property
    def similarity_kwargs(self) -> dict[str, Any]:
        return {"similarity": self.settings.similarity}

    @property
    def mask_kwargs(self) -> Masks:
        if not self.settings.mask_duplicates:
            return {"doc_mask_BC": None, "query_mask_BQ": None}
        return self.inputs.build_masks(self.rows)


def _info_nce(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    settings = call.settings
    has_triplets = negatives_ND is not None
    name = "one_way" if has_triplets and settings.directions == "symmetric" else settings.directions
    directions: dict[str, Any] = {
        "one_way": {},
        "symmetric": {"directions": SYMMETRIC_DIRECTIONS, "partition_mode": "per_direction"},
        "gte": {"directions": GTE_DIRECTIONS, "owners_N": _owners(positives_QD, negatives_ND)},
    }[name]
    return info_nce(
        queries_QD[call.rows],
        positives_QD,
        negatives_ND,
        start=call.rows.start,
        all_queries_QD=queries_QD,
        **call.scale_kwargs,
        **call.similarity_kwargs,
        **call.mask_kwargs,
        **directions,
    )


def _gist(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    settings, guide = call.settings, call.inputs.teacher_vectors
    assert guide is not None
    guide_queries_QD, guide_positives_QD, guide_negatives_ND = guide
    blocks = compute_guide_blocks(
        guide_queries_QD[call.rows],
        guide_positives_QD,
        guide_negatives_ND if negatives_ND is not None else None,
        start=call.rows.start,
        all_queries_QD=guide_queries_QD,
    )
    return gist(
        queries_QD[call.rows],
        positives_QD,
        negatives_ND,
        guide=blocks,
        margin=settings.margin,
        margin_strategy=settings.margin_strategy,
        contrast_anchors=settings.contrast_anchors,
        contrast_positives=settings.contrast_positives,
        all_queries_QD=queries_QD,
        start=call.rows.start,
        **call.similarity_kwargs,
        **call.scale_kwargs,
        **call.mask_kwargs,
    )


def _kl_and_contrast(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    if call.settings.teacher:
        contrast = _info_nce(call, queries_QD, positives_QD, negatives_ND)
        return _distill_teacher_cosines(call, queries_QD, positives_QD, negatives_ND) + call.settings.alpha * contrast
    docs_QKD, mask_BC = _stack_documents(positives_QD, negatives_ND), call.mask_kwargs["doc_mask_BC"]
    if mask_BC is not None and negatives_ND is not None:
        # the loss orders negatives by column, a batch by row
        count = len(positives_QD)
        columns = torch.arange(len(negatives_ND), device=mask_BC.device).view(count, -1).T.flatten()
        mask_BC = torch.cat([mask_BC[:, :count], mask_BC[:, count:][:, columns]], dim=1)
    return kl_and_contrast(
        queries_QD[call.rows],
        docs_QKD,
        _teacher_scores(call),
        alpha=call.settings.alpha,
        teacher_temperature=call.settings.teacher_temperature or 1.0,
        start=call.rows.start,
        doc_mask_BC=mask_BC,
        **call.scale_kwargs,
        **call.similarity_kwargs,
    )


def _distill_teacher_cosines(
    call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None
) -> Tensor:
    """Train on the teacher's cosines: of each query with all documents, and of each positive with all queries."""
    assert call.inputs.teacher_vectors is not None
    teacher_queries_QD, teacher_positives_QD, teacher_negatives_ND = call.inputs.teacher_vectors
    docs_CD = positives_QD if negatives_ND is None else torch.cat([positives_QD, negatives_ND])
    teacher_docs_CD = torch.cat([teacher_positives_QD, teacher_negatives_ND])
    directions = (
        (queries_QD, docs_CD, teacher_queries_QD, teacher_docs_CD),
        (positives_QD, queries_QD, teacher_positives_QD, teacher_queries_QD),
    )
    losses = [
        distill_kl(
            anchors_QD[call.rows],
            candidates_CD,
            similarity_matrix(teacher_anchors_QD[call.rows], teacher_candidates_CD),
            teacher_temperature=call.settings.teacher_temperature or 1 / float(call.scale_kwargs["scale"]),
            **call.scale_kwargs,
            **call.similarity_kwargs,
        )
        for anchors_QD, candidates_CD, teacher_anchors_QD, teacher_candidates_CD in directions
    ]
    return torch.stack(losses).mean()


def _distill_kl(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    if call.settings.teacher:
        return _distill_teacher_cosines(call, queries_QD, positives_QD, negatives_ND)
    docs_QKD = _stack_documents(positives_QD, negatives_ND)
    return distill_kl(
        queries_QD[call.rows],
        docs_QKD[call.rows],
        _teacher_scores(call),
        teacher_temperature=call.settings.teacher_temperature or 1.0,
        **call.scale_kwargs,
        **call.similarity_kwargs,
    )


def _margin_mse(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    docs_QKD = _stack_documents(positives_QD, negatives_ND)
    return margin_mse(queries_QD[call.rows], docs_QKD[call.rows], _teacher_scores(call), **call.similarity_kwargs)


def _cosent(call: LossCall, a_QD: Tensor, b_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    return cosent(a_QD, b_QD, _teacher_scores(call), **call.scale_kwargs, **call.similarity_kwargs)


def _cosine_regression(call: LossCall, a_QD: Tensor, b_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    return cosine_regression(a_QD[call.rows], b_QD[call.rows], _teacher_scores(call))


def _cosine_distillation(
    call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None
) -> Tensor:
    assert call.inputs.teacher_vectors is not None
    rows, per_row = call.rows, len(call.inputs.teacher_vectors[2]) // len(queries_QD)
    slices = (rows, rows, slice(rows.start * per_row, rows.stop * per_row))
    vectors = (queries_QD, positives_QD, queries_QD[:0] if negatives_ND is None else negatives_ND)
    student, teacher = (
        torch.cat([side[part] for side, part in zip(sides, slices, strict=True)])
        for sides in (vectors, call.inputs.teacher_vectors)
    )
    return cosine_distillation(student, teacher[:, : student.shape[1]])


LossFunction = Callable[..., Tensor]
"""(call, queries [Q, D], positives [Q, D], negatives [N, D] or None) -> the loss of the call's rows."""


@dataclass(frozen=True)
class LossEntry:
    """How a loss is called."""

    function: LossFunction
    default_scale: float | None
    """The scale if a recipe gives no other; None for a loss without a scale."""
    zero_gradient_hint: str
    """Why its gradient may be 0, after the name of the loss."""
    rows_independent: bool = True
    """Whether rows are independent. Otherwise every rank computes the loss of all rows."""


_DOCUMENTS = "learns from the other documents of a batch. Give larger batches, rows with other texts, or negatives"
_SCORES = "learns scores, and the model may have these already"
_PAIRS = "learns which pairs have the higher score. Give rows whose scores differ"
_VECTORS = "learns the teacher's vectors. The teacher may be the model itself"

LOSS_FUNCTIONS: dict[LossName, LossEntry] = {
    "info_nce": LossEntry(_info_nce, 20.0, _DOCUMENTS),
    "gist": LossEntry(_gist, 100.0, f"{_DOCUMENTS}. The guide may have left all of them out"),
    "kl_and_contrast": LossEntry(_kl_and_contrast, 100.0, _SCORES),
    "distill_kl": LossEntry(_distill_kl, 1.0, _SCORES),
    "margin_mse": LossEntry(_margin_mse, None, _SCORES),
    "cosent": LossEntry(_cosent, 20.0, _PAIRS, rows_independent=False),
    "cosine_regression": LossEntry(_cosine_regression, None, _SCORES),
    "cosine_distillation": LossEntry(_cosine_distillation, None, _VECTORS),
}
"""Recipe's `loss.name` -> how it is called."""


class BatchLoss(nn.Module):
    """The loss of a recipe, with its scale as a parameter if that is trained."""

    def __init__(
        self, settings: LossSettings, matryoshka_settings: MatryoshkaSettings | None, spec: ModelSpec, *, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.matryoshka_settings, self.seed = settings, matryoshka_settings, seed
        self.entry = LOSS_FUNCTIONS[settings.name]
        self.dims = dims_with_modules(matryoshka_settings, spec)
        scale = settings.chosen_scale
        if self.entry.default_scale is None and (scale or settings.learn_scale or settings.scale_warmup_steps):
            raise InputError(f"loss {settings.name!r} has no scale; leave scale, temperature and learn_scale out.")
        self.scale = scale or self.entry.default_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.scale or 1))) if settings.learn_scale else None

    def compute_parts(
        self,
        vectors: Mapping[int, tuple[Tensor, ...]],
        inputs: LossInputs,
        *,
        scores_per_part: int = SCORES_PER_PART,
    ) -> Iterator[Tensor]:
        """Tensors whose sum is the loss of this rank's rows, each computed when it is requested.

        Args:
            vectors: (queries, positives, negatives) of all ranks, by dimension.
            scores_per_part: scores that are in memory at once, approximately.
        """
        queries, positives, negatives = (_select_side(vectors, side) for side in range(3))
        count = len(next(iter(vectors.values()))[0])
        documents = count + len(next(iter(vectors.values()))[2])
        size = max(1, scores_per_part // documents) if self.entry.rows_independent else inputs.num_rows
        for start in range(inputs.first_row, inputs.first_row + inputs.num_rows, size):
            rows = slice(start, min(start + size, inputs.first_row + inputs.num_rows))
            call = LossCall(inputs, rows, self.settings, self._scale_kwargs(inputs.step))
            loss = self._call(call, queries, positives, negatives if documents > count else None)
            yield loss * ((rows.stop - rows.start) / inputs.num_rows)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep a trained scale within `LEARNED_SCALES`, after a step of the optimizer."""
        if self.log_scale is not None:
            self.log_scale.clamp_(math.log(LEARNED_SCALES[0]), math.log(LEARNED_SCALES[1]))

    def log_values(self) -> dict[str, float]:
        """What the log says about the loss, beside its value."""
        return {} if self.log_scale is None else {"scale": self.log_scale.exp().item()}

    def _call(self, call: LossCall, *vectors: MatryoshkaVectors | None) -> Tensor:
        function: Callable[..., Tensor] = partial(self.entry.function, call)
        if self.matryoshka_settings is None:
            return function(*vectors)
        return matryoshka(
            function,
            vectors,
            matryoshka_dims=self.matryoshka_settings.dims,
            matryoshka_weights=self.matryoshka_settings.weights,
            n_dims_per_step=self.matryoshka_settings.n_dims_per_step,
            seed=self.seed,
            step=call.inputs.step,
        )

    def _scale_kwargs(self, step: int) -> dict[str, Any]:
        if self.scale is None:
            return {}
        if self.log_scale is not None:
            return {"scale": self.log_scale.exp()}
        warmup = self.settings.scale_warmup_steps
        scale = max(min(1.0, self.scale), anneal(0, self.scale, step=step, steps=warmup)) if warmup else self.scale
        return {"scale": scale}


def dims_with_modules(matryoshka_settings: MatryoshkaSettings | None, spec: ModelSpec) -> tuple[int, ...]:
    """The dimensions of a Matryoshka loss that have a dense module each; () where they are prefixes of one vector.

    Raises:
        InputError: a dimension that the model does not have; some dimensions with a dense module and some without.
    """
    if matryoshka_settings is None:
        return ()
    with_module = {dense.out_features for dense in spec.dim_modules} | ({spec.full_dim} if spec.dim_modules else set())
    too_large = [dim for dim in matryoshka_settings.dims if dim > spec.full_dim and dim not in with_module]
    if too_large:
        raise InputError(f"matryoshka.dims has {too_large[0]}; the model's vectors have {spec.full_dim} components.")
    if not with_module:
        return ()
    without = [dim for dim in matryoshka_settings.dims if dim not in with_module]
    if without:
        raise InputError(
            f"matryoshka.dims has {without[0]}, for which this model has no dense module. It has modules for "
            f"{', '.join(map(str, sorted(with_module)))}."
        )
    return matryoshka_settings.dims


def _select_side(vectors: Mapping[int, tuple[Tensor, ...]], side: int) -> MatryoshkaVectors:
    """One side for all dimensions; one tensor if there is one dimension, since the others are its prefixes."""
    if len(vectors) == 1:
        return next(iter(vectors.values()))[side]
    return {dim: sides[side] for dim, sides in vectors.items()}


def _mask_answers(keys_B: Tensor, keys: Tensor, answers: Tensor, candidates_C: Tensor) -> Tensor:
    """`known_pairs_mask` of some rows. Only pairs with keys of these rows are used, which limits the memory."""
    here = torch.isin(keys, keys_B)
    return known_pairs_mask(keys_B, keys[here], answers[here], candidates_C)


def _owners(positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor | None:
    """[N]: the row of each negative."""
    if negatives_ND is None:
        return None
    count = len(positives_QD)
    return torch.arange(count, device=positives_QD.device).repeat_interleave(len(negatives_ND) // count)


def _stack_documents(positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    """[Q, 1 + K, D]: each row's positive, then its negatives."""
    if negatives_ND is None:
        return positives_QD[:, None]
    return torch.cat([positives_QD[:, None], negatives_ND.view(len(positives_QD), -1, negatives_ND.shape[1])], dim=1)


def _teacher_scores(call: LossCall) -> Tensor:
    """Scores of the rows of a call, or of all rows if rows are not independent."""
    scores = call.inputs.scores
    assert scores is not None
    return scores[call.rows] if LOSS_FUNCTIONS[call.settings.name].rows_independent else scores
