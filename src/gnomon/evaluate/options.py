"""`EvaluationOptions`: how a model encodes the texts of an evaluation, where that is not the model's own choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.messages import check_choice

Precision = Literal["float32", "float16", "int8", "binary", "binary-rescored"]
BITS_PER_COMPONENT = {"float32": 32, "float16": 16, "int8": 8, "binary": 1, "binary-rescored": 1}

OnTruncate = Literal["cut", "mean"]
"""Long texts are truncated, or read whole in windows. An evaluation counts truncated texts and does not warn."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What differs from the model's own choice when it encodes the texts of an evaluation.

    Raises:
        InputError: an unknown precision or on_truncate.
    """

    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Prompts by mteb's keys; they replace the model's own."""
    dim: int | None = None
    truncate_dim: int | None = None
    on_truncate: OnTruncate = "cut"
    """What happens to texts longer than the model reads."""
    max_seq_length: int | None = None
    precision: Precision = "float32"
    """The precision of documents, and of the texts of symmetric tasks. Queries stay in float32, except for "binary":
    then they are signs too. "binary-rescored" searches signs and orders the first results by the query's own numbers
    (`gnomon.search.BinaryIndex`).
    """

    def __post_init__(self) -> None:
        check_choice(self.precision, "precision", get_args(Precision))
        check_choice(self.on_truncate, "on_truncate", get_args(OnTruncate))

    def encode_options(self, prompt: str = "") -> EncodeOptions:
        """As an encoder takes them, with the prompt of one side of a task."""
        return EncodeOptions(
            prompt=prompt,
            dim=self.dim,
            truncate_dim=self.truncate_dim,
            on_truncate="mean" if self.on_truncate == "mean" else "silent",
        )

    @property
    def variant(self) -> str:
        """What differs from the model's own choice, in a few words; "" for nothing."""
        parts = [
            f"dim {self.dim}" if self.dim else "",
            f"first {self.truncate_dim}" if self.truncate_dim else "",
            f"{self.max_seq_length} tokens" if self.max_seq_length else "",
            self.precision if self.precision != "float32" else "",
            "long texts in windows" if self.on_truncate == "mean" else "",
            f"prompts {_short_digest(self.prompts)}" if self.prompts else "",
        ]
        return ", ".join(filter(None, parts))


def curve_points(
    encoder: Encoder,
    options: EvaluationOptions,
    *,
    dims: Sequence[int] = (),
    precisions: Sequence[Precision] = (),
    lengths: Sequence[int] = (),
) -> list[EvaluationOptions]:
    """The points of a model's curves, without `options` itself: one setting differs at a time.

    Args:
        dims: dimensions; one that the model declares (`Encoder.dims`) is its own, any other is a prefix.
        lengths: numbers of tokens.
    """
    own_dim = encoder.output_dim(options.encode_options())
    other_dims = [dim for dim in dims if dim != own_dim]
    declared = [dim for dim in other_dims if dim in encoder.dims]
    points = [
        *(replace(options, dim=dim, truncate_dim=None) for dim in declared),
        *(replace(options, truncate_dim=dim) for dim in other_dims if dim not in declared),
        *(replace(options, precision=precision) for precision in precisions),
        *(replace(options, max_seq_length=length) for length in lengths if length != encoder.max_seq_length),
    ]
    return [point for index, point in enumerate(points) if point not in [options, *points[:index]]]


def _short_digest(prompts: Mapping[str, str]) -> str:
    """Six digits that differ between different prompts, for a path."""
    return hashlib.sha256(json.dumps(dict(prompts), sort_keys=True).encode()).hexdigest()[:6]
