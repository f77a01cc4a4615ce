"""Losses: functions of vectors. They own no model and gather nothing from other ranks: the caller does both.

`gnomon.losses` needs torch, and nothing of gnomon that works without torch imports it. The table of all losses, with
their formulae and where they differ from sentence-transformers: docs/reference/losses.md.
"""

from __future__ import annotations

from gnomon.errors import ExtraError
from gnomon.install import advise_install

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ExtraError(f"losses need the package torch, which is not installed. {advise_install('torch')}") from error

from gnomon.losses.contrastive import GTE_DIRECTIONS, SYMMETRIC_DIRECTIONS, info_nce
from gnomon.losses.distillation import distill_kl, kl_and_contrast, margin_mse
from gnomon.losses.gist import SimilarityBlocks, compute_guide_blocks, gist
from gnomon.losses.graded import cosent, cosine_regression
from gnomon.losses.masks import duplicates_mask, hash_texts, known_pairs_mask
from gnomon.losses.matryoshka import matryoshka, vectors_at_dim
from gnomon.losses.similarity import anneal
from gnomon.losses.stella import (
    combine_teachers,
    cosine_distillation,
    relative_similarity_distillation,
    similarity_distillation,
    stella,
)

__all__ = [
    "GTE_DIRECTIONS",
    "SYMMETRIC_DIRECTIONS",
    "SimilarityBlocks",
    "anneal",
    "combine_teachers",
    "compute_guide_blocks",
    "cosent",
    "cosine_distillation",
    "cosine_regression",
    "distill_kl",
    "duplicates_mask",
    "gist",
    "hash_texts",
    "info_nce",
    "kl_and_contrast",
    "known_pairs_mask",
    "margin_mse",
    "matryoshka",
    "relative_similarity_distillation",
    "similarity_distillation",
    "stella",
    "vectors_at_dim",
]
