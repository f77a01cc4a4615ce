"""Converts the tensors of a checkpoint to our arrays, by the tables of its family, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.families.family import Config
from gnomon.checkpoint.families.table import get_family
from gnomon.checkpoint.weights import check_floating, match_arrays
from gnomon.errors import WeightsError
from gnomon.spec import TrunkSpec, trunk_shapes

_LEGACY_NORM = (".gamma", ".weight"), (".beta", ".bias")
_WRAPPERS = ("module.", "_orig_mod.", "auto_model.", "0.auto_model.", "0.model.", "model.")
"""Prefixes that DataParallel, torch.compile and sentence-transformers (saved as one state dict) put before names."""
_PEFT = "base_model.model."
_TASK_HEAD_PREFIXES = (
    "pooler.",
    "cls.",
    "lm_head.",
    "vocab_",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "mlm_head",
)
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def drop_later_layers(
    tensors: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config
) -> tuple[dict[str, NDArray[Any]], int]:
    """The tensors without those of layers after the trunk's last one, and how many were left out."""
    starts = {theirs.partition("{i}")[0] for theirs in _patterns(config) if "{i}" in theirs}

    def is_later(name: str) -> bool:
        numbers = [name.removeprefix(start).partition(".")[0] for start in starts if name.startswith(start)]
        return any(number.isdigit() and int(number) >= trunk.num_layers for number in numbers)

    bare = normalize_names(tensors, config)
    remaining = {name: array for name, array in bare.items() if not is_later(name)}
    return remaining, len(bare) - len(remaining)


def convert_trunk_weights(
    tensors: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config, where: Path
) -> dict[str, NDArray[Any]]:
    """The trunk's tensors under our array names, as views: nothing is copied.

    Raises:
        WeightsError: names every missing, extra and misshapen tensor.
    """
    if trunk.num_layers > len(tensors):
        raise WeightsError(
            f"{where}: the config says {trunk.num_layers} layers, but the weights hold only {len(tensors)} tensors."
        )
    blocks = _expand_names(trunk, config)
    bare = normalize_names(tensors, config)
    if wrapped := [name for name in bare if name.startswith(_PEFT)]:
        raise WeightsError(
            f"{where}: {len(wrapped)} names begin with {_PEFT}. This is a PEFT model whose adapter was not merged. "
            "Call merge_and_unload() on it, and save the result."
        )
    arrays = match_arrays(bare, _tensor_shapes(blocks, trunk), is_ignored=_is_ignorable, where=str(where))
    check_floating(arrays, where)
    return {
        name: part
        for theirs, ours in blocks.items()
        for name, part in zip(ours, np.split(arrays[theirs], len(ours)), strict=True)
    }


def unused_arrays(tensors: Mapping[str, NDArray[Any]], config: Config) -> dict[str, NDArray[Any]]:
    """The tensors of BERT's pooler: no vector needs it, but transformers reports it missing in a saved model."""
    return {name: array for name, array in normalize_names(tensors, config).items() if name.startswith("pooler.")}


def export_trunk_weights(
    arrays: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config
) -> dict[str, NDArray[Any]]:
    """Our trunk arrays under the checkpoint's names, without a prefix: the inverse of `convert_trunk_weights`."""
    return {
        theirs: arrays[ours[0]] if len(ours) == 1 else np.concatenate([arrays[name] for name in ours])
        for theirs, ours in _expand_names(trunk, config).items()
    }


def normalize_names(tensors: Mapping[str, NDArray[Any]], config: Config) -> dict[str, NDArray[Any]]:
    """Tensors under current names, without wrappers and without the family's prefix."""
    return _strip_prefix({_modernize_name(name): array for name, array in tensors.items()}, get_family(config).prefixes)


def _strip_prefix(tensors: dict[str, NDArray[Any]], prefixes: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Remove the first prefix that any name has; names without it (an MLM head beside `new.`) stay."""
    prefix = next((p for p in prefixes if p and any(name.startswith(p) for name in tensors)), "")
    return {name.removeprefix(prefix): array for name, array in tensors.items()}


def _modernize_name(name: str) -> str:
    """A tensor name without wrappers, with .weight and .bias in place of TensorFlow's .gamma and .beta."""
    while wrapper := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper)), ""):
        name = name.removeprefix(wrapper)
    for old, new in _LEGACY_NORM:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _patterns(config: Config) -> dict[str, tuple[str, ...]]:
    """Patterns of tensor names in this family, after the replacements that the config calls for."""
    family = get_family(config)
    patterns = dict(family.tensor_names)
    for key, names in family.tensor_names_if_false.items():
        if config.get(key) is False:
            replaced = {ours for theirs in names.values() for ours in theirs}
            patterns = {theirs: ours for theirs, ours in patterns.items() if not replaced & {*ours}} | dict(names)
    return patterns


def _expand_names(trunk: TrunkSpec, config: Config) -> dict[str, tuple[str, ...]]:
    """Tensor name -> the arrays of ours that the tensor holds, for every layer of this trunk."""
    shapes = trunk_shapes(trunk)
    blocks: dict[str, tuple[str, ...]] = {}
    for theirs, ours in _patterns(config).items():
        for index in range(trunk.num_layers) if "{i}" in theirs else (0,):
            filled = tuple(name.replace("{i}", str(index)) for name in ours)
            if filled[0] in shapes:
                blocks[theirs.replace("{i}", str(index))] = filled
    return blocks


def _tensor_shapes(blocks: Mapping[str, tuple[str, ...]], trunk: TrunkSpec) -> dict[str, tuple[int, ...]]:
    shapes = trunk_shapes(trunk)
    return {theirs: (sum(shapes[name][0] for name in ours), *shapes[ours[0]][1:]) for theirs, ours in blocks.items()}


def _is_ignorable(name: str) -> bool:
    """Whether a tensor belongs to a task head or is a buffer that we compute."""
    return name.startswith(_TASK_HEAD_PREFIXES) or name.endswith(_BUFFERS)
