"""Losses: functions of vectors. None owns a model, and none gathers: whoever calls them does both.

`gnomon.losses` needs torch, and nothing of gnomon that works without torch imports it. The table of all losses, with
their formulae and where they differ from sentence-transformers: docs/losses.md.
"""

from __future__ import annotations

from gnomon.errors import ExtraError

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ExtraError('losses need the package torch, which is not installed: pip install "gnomon[torch]"') from error

from gnomon.losses.contrastive import GTE_DIRECTIONS, SYMMETRIC_DIRECTIONS, info_nce
from gnomon.losses.distillation import distill_kl, kl_and_contrast, margin_mse
from gnomon.losses.gist import SimilarityBlocks, gist, compute_guide_blocks
from gnomon.losses.graded import cosent, cosine_regression
from gnomon.losses.masks import known_pairs_mask, duplicates_mask, hash_texts
from gnomon.losses.matryoshka import vectors_at_dim, matryoshka
from gnomon.losses.similarity import anneal
from gnomon.losses.stella import (
    cosine_distillation,
    relative_similarity_distillation,
    similarity_distillation,
    stella,
    combine_teachers,
)

__all__ = [
    "GTE_DIRECTIONS",
    "SYMMETRIC_DIRECTIONS",
    "SimilarityBlocks",
    "anneal",
    "known_pairs_mask",
    "vectors_at_dim",
    "cosent",
    "cosine_distillation",
    "cosine_regression",
    "distill_kl",
    "duplicates_mask",
    "gist",
    "compute_guide_blocks",
    "info_nce",
    "kl_and_contrast",
    "margin_mse",
    "matryoshka",
    "relative_similarity_distillation",
    "similarity_distillation",
    "stella",
    "combine_teachers",
    "hash_texts",
]
