"""What a model computes, as frozen dataclasses that the engines read.

`checkpoint/` translates the names of Hugging Face, sentence-transformers and model2vec into these; the engines know no
others. `model_shapes` lists the arrays that go with a spec.

    trunk.py        the transformer, or the table of a static model
    model.py        the whole model: trunk, pooling, modules, tokenizer settings, prompts
    fingerprint.py  the hash by which equal models are known
"""

from gnomon.spec.fingerprint import FINGERPRINT_DIGITS, compute_fingerprint
from gnomon.spec.model import (
    DOCUMENT_PROMPT_NAMES,
    POOLING_MODES,
    SYMMETRIC,
    DenseSpec,
    ModelSpec,
    ModuleSpec,
    NormalizeSpec,
    PoolingMode,
    PoolingSpec,
    SimilarityName,
    TokenizerSpec,
    compute_output_dim,
    dense_modules,
    dense_shapes,
    model_shapes,
)
from gnomon.spec.trunk import Activation, MlmSpec, RopeSpec, StaticSpec, TrunkSpec, trunk_shapes

__all__ = [
    "DOCUMENT_PROMPT_NAMES",
    "FINGERPRINT_DIGITS",
    "POOLING_MODES",
    "SYMMETRIC",
    "Activation",
    "DenseSpec",
    "MlmSpec",
    "ModelSpec",
    "ModuleSpec",
    "NormalizeSpec",
    "PoolingMode",
    "PoolingSpec",
    "RopeSpec",
    "SimilarityName",
    "StaticSpec",
    "TokenizerSpec",
    "TrunkSpec",
    "compute_fingerprint",
    "compute_output_dim",
    "dense_modules",
    "dense_shapes",
    "model_shapes",
    "trunk_shapes",
]
