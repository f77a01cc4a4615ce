"""What a batch's loss is: a row of `STAGES` calls one of `gnomon.losses` with the vectors of all ranks.

A loss whose rows stand alone is computed some rows at a time: their sum, each weighed by its rows, is the loss of the
batch.

B: rows of this rank; Q: rows of all ranks; K: negatives of a row; N: negatives of all ranks, Q K, row by row; C:
documents, Q + N; D: width of a vector.
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
from gnomon.train.recipe.schema import LossName, LossSettings, MatryoshkaSettings

SCORES_PER_PART = 1 << 23
"""Scores that are in memory at once, about."""

MAX_SCALE = 100.0
"""The most that a learnt scale may be (CLIP)."""


Masks = dict[str, Any]
"""doc_mask_BC and query_mask_BQ of `info_nce`."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss is told of a batch beside the model's vectors."""

    first_row: int
    """Place of this rank's first row among those of all ranks."""
    num_rows: int
    """Rows of this rank."""
    token_hashes: tuple[Tensor, Tensor, Tensor]
    """[Q], [Q], [N] of the texts of all ranks: queries, positives, negatives (`Collated.hashes`)."""
    own_negatives_N: Tensor | None = None
    """[N] bool: which negatives are the query or a positive of their own row, of all ranks; None for none."""
    scores: Tensor | None = None
    """[Q] grades or [Q, 1 + K] a teacher's scores, of all ranks."""
    teacher_vectors: tuple[Tensor, Tensor, Tensor] | None = None
    """The vectors of a guide or teacher of the same texts, of all ranks."""
    step: int = 0

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether a query or a positive stands twice, or is a negative: a negative may well stand in several rows."""
        queries_Q, positives_Q, negatives_N = self.token_hashes
        pairs = torch.cat([queries_Q, positives_Q])
        if self.own_negatives_N is not None and self.own_negatives_N.any():
            return True
        return len(pairs.unique()) < len(pairs) or bool(torch.isin(negatives_N, pairs).any())

    @cached_property
    def matching_pairs(self) -> tuple[Tensor, Tensor]:
        """What belongs together, queries and documents: the rows', and rows with negatives that are their own."""
        queries_Q, positives_Q, negatives_N = self.token_hashes
        if self.own_negatives_N is None:
            return queries_Q, positives_Q
        own = self.own_negatives_N.nonzero()[:, 0]
        owners = own // (len(negatives_N) // len(queries_Q) or 1)
        return torch.cat([queries_Q, queries_Q[owners]]), torch.cat([positives_Q, negatives_N[own]])

    def build_masks(self, rows: slice) -> Masks:
        """What is no negative of some rows, of documents and of queries: what answers an equal query, and what is the
        row's query, or positive, itself.
        """
        if not self.has_duplicates:
            return {"doc_mask_BC": None, "query_mask_BQ": None}
        queries_Q, positives_Q, negatives_N = self.token_hashes
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
    """One call of a loss: some rows of this rank against what all ranks have."""

    inputs: LossInputs
    rows: slice
    """Among the rows of all ranks."""
    settings: LossSettings
    scale_kwargs: dict[str, Any]
    """{"scale": ...} or {"temperature": ...}, or neither."""

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
    way = "one_way" if negatives_ND is not None and settings.directions == "symmetric" else settings.directions
    directions: dict[str, Any] = {
        "one_way": {},
        "symmetric": {"directions": SYMMETRIC_DIRECTIONS, "partition_mode": "per_direction"},
        "gte": {"directions": GTE_DIRECTIONS, "owners_N": _owners(positives_QD, negatives_ND)},
    }[way]
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
    guides_QD, theirs_QD, others_ND = guide
    place: dict[str, Any] = {"start": call.rows.start, **call.similarity_kwargs}
    blocks = compute_guide_blocks(
        guides_QD[call.rows],
        theirs_QD,
        others_ND if negatives_ND is not None else None,
        start=call.rows.start,
        all_queries_QD=guides_QD,
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
        **place,
        **call.scale_kwargs,
        **call.mask_kwargs,
    )


def _kl_and_contrast(call: LossCall, queries_QD: Tensor, positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor:
    if call.settings.teacher:
        contrast = _info_nce(call, queries_QD, positives_QD, negatives_ND)
        return _distill_teacher_cosines(call, queries_QD, positives_QD, negatives_ND) + call.settings.alpha * contrast
    docs_QKD, mask_BC = _stack_documents(positives_QD, negatives_ND), call.mask_kwargs["doc_mask_BC"]
    if mask_BC is not None and negatives_ND is not None:
        # the loss counts negatives column by column, a batch holds them row by row
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
    """The scores are the teacher's cosines: of each query with all documents, and of each positive with all queries."""
    assert call.inputs.teacher_vectors is not None
    theirs_QD, right_QD, wrong_ND = call.inputs.teacher_vectors
    docs_CD = positives_QD if negatives_ND is None else torch.cat([positives_QD, negatives_ND])
    ways = (
        (queries_QD, docs_CD, theirs_QD, torch.cat([right_QD, wrong_ND])),
        (positives_QD, queries_QD, right_QD, theirs_QD),
    )
    losses = [
        distill_kl(
            ours_QD[call.rows],
            candidates_CD,
            similarity_matrix(taught_QD[call.rows], others_CD),
            teacher_temperature=call.settings.teacher_temperature or 1 / float(call.scale_kwargs["scale"]),
            **call.scale_kwargs,
            **call.similarity_kwargs,
        )
        for ours_QD, candidates_CD, taught_QD, others_CD in ways
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
    rows, each = call.rows, len(call.inputs.teacher_vectors[2]) // len(queries_QD)
    own = (rows, rows, slice(rows.start * each, rows.stop * each))
    given = (queries_QD, positives_QD, queries_QD[:0] if negatives_ND is None else negatives_ND)
    student, teacher = (
        torch.cat([side[part] for side, part in zip(sides, own, strict=True)])
        for sides in (given, call.inputs.teacher_vectors)
    )
    return cosine_distillation(student, teacher[:, : student.shape[1]])


LossFunction = Callable[..., Tensor]
"""(call, queries [Q, D], positives [Q, D], negatives [N, D] or None) -> the loss of the call's rows."""


@dataclass(frozen=True)
class LossEntry:
    """How a loss is called."""

    function: LossFunction
    default_scale: float | None
    """Its scale where none is given; None where it has none."""
    rows_independent: bool = True
    """Whether rows stand alone; otherwise every rank computes the loss of all rows."""


LOSS_FUNCTIONS: dict[LossName, LossEntry] = {
    "info_nce": LossEntry(_info_nce, 20.0),
    "gist": LossEntry(_gist, 100.0),
    "kl_and_contrast": LossEntry(_kl_and_contrast, 100.0),
    "distill_kl": LossEntry(_distill_kl, 1.0),
    "margin_mse": LossEntry(_margin_mse, None),
    "cosent": LossEntry(_cosent, 20.0, rows_independent=False),
    "cosine_regression": LossEntry(_cosine_regression, None),
    "cosine_distillation": LossEntry(_cosine_distillation, None),
}


class Loss(nn.Module):
    """A recipe's loss, with its scale where that is learnt."""

    def __init__(
        self, settings: LossSettings, matryoshka_settings: MatryoshkaSettings | None, spec: ModelSpec, *, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.matryoshka_settings, self.seed = settings, matryoshka_settings, seed
        self.objective = LOSS_FUNCTIONS[settings.name]
        self.dims = dims_with_modules(matryoshka_settings, spec)
        given = settings.scale or (1 / settings.temperature if settings.temperature else None)
        if self.objective.default_scale is None and (given or settings.learn_scale or settings.scale_warmup_steps):
            raise InputError(f"loss {settings.name!r} has no scale; leave scale, temperature and learn_scale out.")
        self.scale = given or self.objective.default_scale
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
        size = max(1, scores_per_part // documents) if self.objective.rows_independent else inputs.num_rows
        for start in range(inputs.first_row, inputs.first_row + inputs.num_rows, size):
            rows = slice(start, min(start + size, inputs.first_row + inputs.num_rows))
            call = LossCall(inputs, rows, self.settings, self._scale_kwargs(inputs.step))
            loss = self._call(call, queries, positives, negatives if documents > count else None)
            yield loss * ((rows.stop - rows.start) / inputs.num_rows)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Behind a step of the optimizer: a learnt scale stays between 1 and 100."""
        if self.log_scale is not None:
            self.log_scale.clamp_(0, math.log(MAX_SCALE))

    def log_values(self) -> dict[str, float]:
        """What the log says of it."""
        return {} if self.log_scale is None else {"scale": self.log_scale.exp().item()}

    def _call(self, call: LossCall, *vectors: MatryoshkaVectors | None) -> Tensor:
        stage: Callable[..., Tensor] = partial(self.objective.function, call)
        if self.matryoshka_settings is None:
            return stage(*vectors)
        return matryoshka(
            stage,
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
    """The widths of a Matryoshka loss where they have heads of their own; () where they are prefixes of one vector.

    Raises:
        InputError: a width that the model does not have; some widths with heads and some without.
    """
    if matryoshka_settings is None:
        return ()
    wide = {head.out_features for head in spec.dim_modules} | ({spec.full_dim} if spec.dim_modules else set())
    beyond = [dim for dim in matryoshka_settings.dims if dim > spec.full_dim and dim not in wide]
    if beyond:
        raise InputError(f"matryoshka.dims has {beyond[0]}; the model's vectors have {spec.full_dim} components.")
    if not wide:
        return ()
    without = [dim for dim in matryoshka_settings.dims if dim not in wide]
    if without:
        raise InputError(
            f"matryoshka.dims has {without[0]}, for which this model has no head; it has "
            f"{', '.join(map(str, sorted(wide)))}."
        )
    return matryoshka_settings.dims


def _select_side(vectors: Mapping[int, tuple[Tensor, ...]], side: int) -> MatryoshkaVectors:
    """One side of all widths; the tensor itself where there is one width, since others are its prefixes."""
    if len(vectors) == 1:
        return next(iter(vectors.values()))[side]
    return {dim: sides[side] for dim, sides in vectors.items()}


def _mask_answers(keys_B: Tensor, keys: Tensor, answers: Tensor, candidates_C: Tensor) -> Tensor:
    """`answers_mask` of some rows: only pairs with their keys count, which bounds its memory."""
    here = torch.isin(keys, keys_B)
    return known_pairs_mask(keys_B, keys[here], answers[here], candidates_C)


def _owners(positives_QD: Tensor, negatives_ND: Tensor | None) -> Tensor | None:
    """[N]: the row that each negative came with."""
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
    """Scores of the rows of a call; of all rows where they do not stand alone."""
    scores = call.inputs.scores
    assert scores is not None
    return scores[call.rows] if LOSS_FUNCTIONS[call.settings.name].rows_independent else scores
