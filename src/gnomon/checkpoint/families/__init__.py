"""Hugging Face configs and tensor names, as tables: `model_type` -> our `TrunkSpec` and our array names.

To add an architecture, write one file beside `bert.py` that holds its `ModelFamily`, and add one row to `table.py`. A
new mechanism also needs a field in the spec and one module in each engine.

- `family`: what a table is made of
- `bert`, `roberta`, `distilbert`, `new`: the tables
- `config`: config.json -> TrunkSpec
- `tensors`, `mlm_head`: tensors -> arrays, and back
"""

from gnomon.checkpoint.families.config import ACTIVATIONS, check_config_keys, read_dropout, read_trunk, resolve_aliases
from gnomon.checkpoint.families.family import ModelFamily
from gnomon.checkpoint.families.mlm_head import add_mlm_head, build_mlm_spec, convert_mlm_weights
from gnomon.checkpoint.families.table import FAMILIES, get_family
from gnomon.checkpoint.families.tensors import (
    convert_trunk_weights,
    drop_later_layers,
    export_trunk_weights,
    unused_arrays,
)

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "ModelFamily",
    "add_mlm_head",
    "build_mlm_spec",
    "check_config_keys",
    "convert_mlm_weights",
    "convert_trunk_weights",
    "drop_later_layers",
    "export_trunk_weights",
    "get_family",
    "read_dropout",
    "read_trunk",
    "resolve_aliases",
    "unused_arrays",
]
