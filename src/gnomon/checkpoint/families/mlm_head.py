"""The masked-language-model head of a checkpoint: optional, for training, not used for vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.families.family import Config
from gnomon.checkpoint.families.table import get_family
from gnomon.checkpoint.families.tensors import normalize_names
from gnomon.checkpoint.weights import is_integral
from gnomon.spec import MlmSpec, TrunkSpec


def convert_mlm_weights(
    tensors: Mapping[str, NDArray[Any]], token_table: NDArray[Any], trunk: TrunkSpec, config: Config
) -> dict[str, NDArray[Any]]:
    """The arrays of the masked-language-model head under our names, as views of the tensors.

    The result is empty where the head is missing, incomplete, or of another size (the token table was resized without
    it). Vectors do not need the head, so this is not an error.

    The decoder's weight is left out where it is tied to the token table: the config ties them, and the file holds no
    copy or an equal copy. A copy that differs is loaded whatever the config says, as transformers 5 does.
    """
    bare, shapes = normalize_names(tensors, config), _mlm_shapes(trunk)
    mlm_names = get_family(config).mlm_names.items()
    present = {array: [name for name in names if name in bare] for array, names in mlm_names}
    tensor_names = {array: names[0] for array, names in present.items() if names}
    tied = config.get("tie_word_embeddings") is not False
    if shapes.keys() - tensor_names.keys() - ({"mlm.decoder.weight"} if tied else set()):
        return {}
    head = {name: bare[tensor_name] for name, tensor_name in tensor_names.items()}
    if any(array.shape != shapes[name] or is_integral(array) for name, array in head.items()):
        return {}
    if tied and "mlm.decoder.weight" in head and _probably_equal(head["mlm.decoder.weight"], token_table):
        del head["mlm.decoder.weight"]
    return head


def build_mlm_spec(arrays: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config) -> MlmSpec | None:
    """The spec of the head that `convert_mlm_weights` returned; None for an empty one."""
    if not arrays:
        return None
    tied = "mlm.decoder.weight" not in arrays
    return MlmSpec(get_family(config).mlm_activation or trunk.activation, tied, trunk.norm_eps)


def add_mlm_head(
    trunk_tensors: Mapping[str, NDArray[Any]], mlm_arrays: Mapping[str, NDArray[Any]], config: Config
) -> dict[str, NDArray[Any]]:
    """Tensors of a whole checkpoint: the trunk's and, if there is one, the head's.

    With a head, the trunk's names get their prefix, or transformers 4 refuses the file. The decoder's bias is written
    under each of its names, since transformers 4 and 5 compute with different ones.
    """
    family = get_family(config)
    head = {name: array for ours, array in mlm_arrays.items() for name in family.mlm_names[ours]}
    prefix = family.prefixes[0] if head else ""
    return {prefix + name: array for name, array in trunk_tensors.items()} | head


def _mlm_shapes(trunk: TrunkSpec) -> dict[str, tuple[int, ...]]:
    vocab_size, hidden = trunk.vocab_size, trunk.hidden_size
    return {
        "mlm.dense.weight": (hidden, hidden),
        "mlm.dense.bias": (hidden,),
        "mlm.norm.weight": (hidden,),
        "mlm.norm.bias": (hidden,),
        "mlm.decoder.weight": (vocab_size, hidden),
        "mlm.decoder.bias": (vocab_size,),
    }


def _probably_equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Whether two tables are equal in 64 rows between the first and the last.

    A table may be gigabytes, and training changes all of its rows. Nothing is read where both are one storage, as in
    every .bin file of a tied model.
    """
    if left.__array_interface__ == right.__array_interface__:
        return True
    rows = np.unique(np.linspace(0, len(left) - 1, 64).astype(np.int64))
    return left.shape == right.shape and np.array_equal(left[rows], right[rows])
