"""sentence-transformers' class and helpers on gnomon's engines: an existing script runs after one import is changed.

    from gnomon.compat import SentenceTransformer, util  # was: from sentence_transformers import ...

Arguments, defaults and results are those of sentence-transformers 6.2. What cannot be honoured is an error that says
what to do. Where sentence-transformers returns a tensor, so does this package if torch is installed; without torch it
returns a numpy array. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gnomon.errors import UnavailableError

if TYPE_CHECKING:
    from gnomon.compat import util
    from gnomon.compat.sentence_transformers import SentenceTransformer
    from gnomon.compat.similarity import SimilarityFunction
    from gnomon.compat.util import LoggingHandler, quantize_embeddings

__all__ = ["LoggingHandler", "SentenceTransformer", "SimilarityFunction", "quantize_embeddings", "util"]

_HOMES = {
    "LoggingHandler": "gnomon.compat.util",
    "SentenceTransformer": "gnomon.compat.sentence_transformers",
    "SimilarityFunction": "gnomon.compat.similarity",
    "quantize_embeddings": "gnomon.compat.util",
}

_TRAINING = "It trains models with torch. `gnomon train` and gnomon.train do that here: see the guide on training."
_OTHER_MODEL = "Only dense text embeddings are built so far. Keep the import from sentence_transformers for it."
_UNAVAILABLE = {
    **dict.fromkeys(("CrossEncoder", "SparseEncoder", "MultiVectorEncoder"), _OTHER_MODEL),
    **dict.fromkeys(
        (
            "InputExample",
            "SentenceTransformerTrainer",
            "SentenceTransformerTrainingArguments",
            "SentenceTransformerModelCardData",
            "SentencesDataset",
            "ParallelSentencesDataset",
            "losses",
            "datasets",
            "trainer",
            "training_args",
        ),
        _TRAINING,
    ),
    **dict.fromkeys(
        ("models", "modules"), "It holds torch modules. Build the model with sentence-transformers and save it."
    ),
    "evaluation": "Import its evaluators from sentence_transformers; they accept this class. Or use `gnomon evaluate`.",
    "mine_hard_negatives": "It is not built here. gnomon.search.top_k finds the nearest documents of each query.",
}
"""Name that sentence_transformers exports and this package does not -> what to do."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _UNAVAILABLE:
        raise UnavailableError(f"gnomon.compat has no {name}. {_UNAVAILABLE[name]}")
    if name == "util":
        return import_module("gnomon.compat.util")
    if name not in _HOMES:
        raise AttributeError(f"module 'gnomon.compat' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
