"""What every architecture's table is made of: `ModelFamily`, and helpers for its tensor names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.spec import Activation

Config = Mapping[str, Any]
"""A config.json of Hugging Face."""

TensorNames = Mapping[str, tuple[str, ...]]
"""A checkpoint's tensor name -> our array names; "{i}" stands for the layer's number. A tensor with several of our
arrays holds them one below the other, in blocks with equally many rows.
"""


@dataclass(frozen=True)
class ModelFamily:
    """How checkpoints of one `model_type` are read and written."""

    config_keys: Mapping[str, str]
    """Field of TrunkSpec -> config key."""
    tensor_names: TensorNames
    prefixes: tuple[str, ...]
    """What tensor names may begin with. The first prefix is written where a masked-language-model head is."""
    defaults: Mapping[str, Any]
    """Values of config keys that are absent."""
    ignored: tuple[str, ...] = ()
    """Config keys that do not matter in this family."""
    allowed_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    """Config keys that must hold one of these values."""
    extra_keys: tuple[str, ...] = ()
    """Config keys that `build_extra_fields` reads."""
    build_extra_fields: Callable[[Config], dict[str, Any]] = lambda config: {}
    """Config, with defaults -> further fields of TrunkSpec."""
    tensor_names_if_false: Mapping[str, TensorNames] = field(default_factory=dict[str, TensorNames])
    """Config key -> tensor names that replace others where that key is false."""
    mlm_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Our array of the masked-language-model head -> its tensor names. The first one present is read; all are written.
    """
    mlm_activation: Activation | None = None
    """Activation of that head; None for the trunk's own."""
    key_aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other name of a config key -> the name that this family uses."""
    dropout: tuple[str, str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    """Config keys of the dropout probabilities: for hidden states and for attention."""


def map_linear(tensor: str, *arrays: str) -> dict[str, tuple[str, ...]]:
    """Names of the weight and the bias of one linear layer or norm."""
    return {f"{tensor}.{kind}": tuple(f"{name}.{kind}" for name in arrays) for kind in ("weight", "bias")}


def map_mlm_head(dense: str, norm: str, decoder: str, *biases: str) -> dict[str, tuple[str, ...]]:
    """Our arrays of a masked-language-model head -> its tensor names.

    `biases` are further names of the decoder's bias, after the one that transformers 5 uses.
    """
    names = {**map_linear("mlm.dense", dense), **map_linear("mlm.norm", norm), **map_linear("mlm.decoder", decoder)}
    return {**names, "mlm.decoder.bias": (f"{decoder}.bias", *biases)}


def is_positive_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
