"""One call of `SentenceTransformer.encode`: checked inputs, and the vectors as sentence-transformers returns them.

B: texts; D: dimensions of a vector; T: tokens of a text; H: hidden size of the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gnomon.compat.tensors import to_tensor
from gnomon.compat.tokenizer import CompatTokenizer, unpad
from gnomon.compat.util import quantize_embeddings, truncate_embeddings
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.errors import InputError
from gnomon.messages import shorten
from gnomon.modules import normalize
from gnomon.packed import Vectors
from gnomon.spec import StaticSpec


@dataclass(frozen=True)
class OutputBuilder:
    """Encodes the texts of one call, with its settings."""

    encoder: Encoder
    options: EncodeOptions
    truncate_dim: int | None
    normalize: bool
    show_progress_bar: bool | None

    def encode(self, texts: list[str]) -> Vectors:
        """Vectors [B, D]. Truncated first, then normalised where that was requested."""
        if not texts:
            return np.zeros(0, np.float32)
        vectors_BD = self._encode_whole(texts)
        if self.truncate_dim is not None:
            vectors_BD = truncate_embeddings(vectors_BD, self.truncate_dim)
        return normalize(vectors_BD) if self.normalize else vectors_BD

    def encode_tokens(self, texts: list[str]) -> list[Vectors]:
        return self.encoder.encode_tokens(texts, prompt=self.options.prompt, show_progress_bar=self.show_progress_bar)

    def encode_features(self, texts: list[str]) -> list[dict[str, Any]]:
        """For each text its ids, mask, states and vector, without the padding that stands in them there.

        The vector is not normalised, as there.
        """
        vectors_BD = self._encode_whole(texts)[:, : self.truncate_dim] if texts else np.zeros((0, 0), np.float32)
        prompt = self.options.prompt or ""
        batch = open_tokenizer(self.encoder).features([prompt + text for text in texts])
        prompt_length = self.encoder.tokenizer.count_prompt_tokens(prompt)
        shared: dict[str, Any] = {"modality": "text"} | ({"prompt_length": prompt_length} if prompt_length else {})
        return [
            features | shared | {"token_embeddings": to_tensor(states_TH), "sentence_embedding": to_tensor(vector_D)}
            for features, states_TH, vector_D in zip(unpad(batch), self.encode_tokens(texts), vectors_BD, strict=True)
        ]

    def _encode_whole(self, texts: list[str]) -> Vectors:
        """Vectors in all dimensions of the model, whatever it truncates to by default."""
        options = replace(self.options, dim=self.encoder.spec.full_dim)
        return self.encoder.encode_with_counts(texts, options, show_progress_bar=self.show_progress_bar).vectors


def open_tokenizer(encoder: Encoder) -> CompatTokenizer:
    """The tokenizer of a model, as scripts call it."""
    trunk = encoder.spec.trunk
    return CompatTokenizer(encoder.tokenizer, not isinstance(trunk, StaticSpec) and trunk.num_token_types > 0)


def check_precision(precision: str) -> None:
    """
    Raises:
        InputError: not a precision of sentence-transformers.
    """
    quantize_embeddings(np.zeros((0, 8), np.float32), precision)  # pyright: ignore[reportArgumentType]


def as_list(inputs: Any) -> list[str]:
    """The texts as a list.

    Raises:
        InputError: pairs of texts, or what is not text.
    """
    if is_singular_input(inputs):
        return [str(inputs)]
    if isinstance(inputs, Mapping | bytes) or not hasattr(inputs, "__iter__"):
        raise InputError(f"inputs is {shorten(inputs)}. This model reads texts alone: give a str or a list of str.")
    texts = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
    for position, text in enumerate(texts):
        if isinstance(text, list | tuple):
            raise InputError(
                f"input {position} is {shorten(text)}. A model of texts reads one text at a time, not pairs."
            )
        if not isinstance(text, str):
            raise InputError(f"input {position} is {shorten(text)}. This model reads texts alone.")
    return texts


def is_singular_input(inputs: Any) -> bool:
    """Whether `inputs` is one text, rather than several."""
    return isinstance(inputs, str) or (isinstance(inputs, np.ndarray) and inputs.ndim == 0)


def read_max_length(kwargs: dict[str, Any]) -> int | None:
    """The max_length for texts in the further arguments of `encode`.

    Raises:
        InputError: an argument that the model does not use.
    """
    kwargs.pop("task", None)
    settings = dict((kwargs.pop("processing_kwargs", None) or {}).get("text") or {})
    limit = settings.pop("max_length", None)
    settings.pop("truncation", None)
    if settings:
        raise InputError(f"processing_kwargs sets {list(settings)} for texts. Only max_length is supported.")
    if kwargs:
        raise InputError(
            "SentenceTransformer.encode() has been called with additional keyword arguments that this model does not "
            f"use: {list(kwargs)}. As per SentenceTransformer.get_model_kwargs(), this model does not accept any "
            "additional keyword arguments."
        )
    return limit
