"""One call of `SentenceTransformer.encode`: checked inputs, and the vectors as sentence-transformers returns them.

B: texts; D: dimensions of a vector; T: tokens of a text; H: hidden size of the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gnomon.compat.tensors import Tensor, require_tensor, to_tensor
from gnomon.compat.tokenizer import CompatTokenizer, unpad
from gnomon.compat.util import quantize_embeddings, truncate_embeddings
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.errors import InputError
from gnomon.inputs import as_texts
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
    device: Any
    """The device of tensors; None for the CPU."""

    def encode(self, texts: list[str]) -> Vectors:
        """Vectors [B, D]. Truncated first, then normalised where that was requested."""
        if not texts:
            return np.zeros(0, np.float32)
        vectors_BD = self._encode_whole(texts)
        if self.truncate_dim is not None:
            vectors_BD = truncate_embeddings(vectors_BD, self.truncate_dim)
        return normalize(vectors_BD) if self.normalize else vectors_BD

    def convert(self, vectors_BD: Any, *, to_numpy: bool, to_one_tensor: bool) -> Any:
        """Vectors as the caller wants them: an array, one tensor, or a list of tensors.

        Those of a model that computes in float16 are float16; numpy has no bfloat16, so that only tensors have it.
        """
        if to_one_tensor:
            return self._cast(require_tensor(vectors_BD, "convert_to_tensor=True", self.device))
        if not to_numpy:
            return [self._cast(to_tensor(vector_D, self.device)) for vector_D in vectors_BD]
        is_half = self.encoder.dtype == "float16" and vectors_BD.dtype == np.float32
        return vectors_BD.astype(np.float16) if is_half else vectors_BD

    def encode_tokens(self, texts: list[str]) -> list[Tensor]:
        """States [T, H] of each text."""
        states = self.encoder.encode_tokens(texts, prompt=self.options.prompt, show_progress_bar=self.show_progress_bar)
        return [self._cast(to_tensor(states_TH, self.device)) for states_TH in states]

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
            features
            | shared
            | {"token_embeddings": states_TH, "sentence_embedding": self._cast(to_tensor(vector_D, self.device))}
            for features, states_TH, vector_D in zip(unpad(batch), self.encode_tokens(texts), vectors_BD, strict=True)
        ]

    def _cast(self, tensor: Tensor) -> Tensor:
        """A float tensor in the type that the model computes in."""
        if self.encoder.dtype not in ("float16", "bfloat16") or str(tensor.dtype) != "torch.float32":
            return tensor
        return tensor.half() if self.encoder.dtype == "float16" else tensor.bfloat16()

    def _encode_whole(self, texts: list[str]) -> Vectors:
        """Vectors in all dimensions of the model, whatever it truncates to by default."""
        options = replace(self.options, dim=self.encoder.spec.full_dim)
        return self.encoder.encode_with_counts(texts, options, show_progress_bar=self.show_progress_bar).vectors


def open_tokenizer(encoder: Encoder) -> CompatTokenizer:
    """The tokenizer of a model, as scripts call it."""
    trunk = encoder.spec.trunk
    return CompatTokenizer(encoder.tokenizer, not isinstance(trunk, StaticSpec) and trunk.num_token_types > 0)


def check_precision(precision: str) -> None:
    """Check the name of a precision.

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
        return as_texts(str(inputs))
    texts: Any = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    items: list[Any] = [*texts] if isinstance(texts, list | tuple) else []
    for position, text in enumerate(items):
        if isinstance(text, list | tuple):
            raise InputError(f"text {position} is {shorten(text)}. It is several texts; a model reads one at a time.")
        if isinstance(text, Mapping):
            raise InputError(f"text {position} is {shorten(text)}. This model reads texts alone.")
    return as_texts(texts)


def is_singular_input(inputs: Any) -> bool:
    """Whether `inputs` is one text, rather than several."""
    return isinstance(inputs, str) or (isinstance(inputs, np.ndarray) and inputs.ndim == 0)


def read_max_length(kwargs: dict[str, Any], method: str = "encode") -> int | None:
    """The max_length for texts in the further arguments of `encode` and `preprocess`.

    Raises:
        InputError: an argument that the model does not use.
    """
    kwargs.pop("task", None)
    groups = dict(kwargs.pop("processing_kwargs", None) or {})
    settings = dict(groups.pop("common", None) or {}) | dict(groups.pop("text", None) or {})
    limit = settings.pop("max_length", None)
    if settings.pop("truncation", True) is False:
        raise InputError("processing_kwargs sets truncation=False. Texts are truncated; set max_seq_length instead.")
    if settings or groups:
        raise InputError(
            f"processing_kwargs sets {[*settings, *groups]}. Only max_length, in text or common, is supported."
        )
    if kwargs:
        raise InputError(
            f"SentenceTransformer.{method}() has been called with additional keyword arguments that this model does "
            f"not use: {list(kwargs)}. As per SentenceTransformer.get_model_kwargs(), this model does not accept any "
            "additional keyword arguments."
        )
    return limit
