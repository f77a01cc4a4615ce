"""The architecture of gte-v1.5 and stella: `model_type` new. Rotary positions and a gated feed-forward layer."""

from typing import Any

from gnomon.checkpoint.families.bert import BERT_DEFAULTS, BERT_KEYS, EMBEDDING_NAMES
from gnomon.checkpoint.families.family import Config, ModelFamily, is_positive_number, map_linear, map_mlm_head
from gnomon.errors import ModelError, UnsupportedError
from gnomon.spec import RopeSpec


def _build_new_fields(config: Config) -> dict[str, Any]:
    if config["position_embedding_type"] == "absolute":
        return {"gated": True}
    return {"gated": True, "max_positions": 0, "rope": _read_rope(config)}


def _read_rope(config: Config) -> RopeSpec:
    """Read rope_theta and rope_scaling, which is null or {"type": "ntk", "factor": NUMBER}, as in gte-v1.5's code."""
    theta = config["rope_theta"]
    if not is_positive_number(theta):
        raise ModelError(f"config.json: rope_theta is {theta!r}; it must be a positive number.")
    scaling = config.get("rope_scaling")
    if not scaling:
        return RopeSpec(float(theta))
    values = {key: value for key, value in scaling.items() if value is not None} if isinstance(scaling, dict) else {}
    kind, unknown = values.get("type", values.get("rope_type")), values.keys() - {"type", "rope_type", "factor"}
    if kind != "ntk" or unknown or not is_positive_number(values.get("factor")):
        raise UnsupportedError(
            f"config.json: rope_scaling {scaling!r} is not implemented; "
            'it may be null or {"type": "ntk", "factor": NUMBER}.'
        )
    return RopeSpec(float(theta), float(scaling["factor"]))


GTE_NEW = ModelFamily(
    config_keys=BERT_KEYS,
    tensor_names={
        **EMBEDDING_NAMES,
        **map_linear("encoder.layer.{i}.attention.qkv_proj", "layers.{i}.query", "layers.{i}.key", "layers.{i}.value"),
        **map_linear("encoder.layer.{i}.attention.o_proj", "layers.{i}.out"),
        **map_linear("encoder.layer.{i}.attn_ln", "layers.{i}.attn_norm"),
        "encoder.layer.{i}.mlp.up_gate_proj.weight": ("layers.{i}.up.weight", "layers.{i}.gate.weight"),
        **map_linear("encoder.layer.{i}.mlp.down_proj", "layers.{i}.down"),
        **map_linear("encoder.layer.{i}.mlp_ln", "layers.{i}.mlp_norm"),
    },
    tensor_names_if_false={
        "pack_qkv": {
            **map_linear("encoder.layer.{i}.attention.q_proj", "layers.{i}.query"),
            **map_linear("encoder.layer.{i}.attention.k_proj", "layers.{i}.key"),
            **map_linear("encoder.layer.{i}.attention.v_proj", "layers.{i}.value"),
        }
    },
    prefixes=("new.", ""),
    defaults={
        **BERT_DEFAULTS,
        "vocab_size": 30528,
        "max_position_embeddings": 2048,
        "type_vocab_size": 1,
        "position_embedding_type": "rope",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_probs_dropout_prob": 0.0,
    },
    ignored=("pad_token_id",),
    allowed_values={
        "position_embedding_type": ("rope", "absolute"),
        "layer_norm_type": ("layer_norm",),
        "logn_attention_scale": (False,),
        "pack_qkv": (True, False),
    },
    extra_keys=("rope_theta", "rope_scaling"),
    build_extra_fields=_build_new_fields,
    mlm_names=map_mlm_head("lm_head.dense", "lm_head.norm", "lm_head.decoder"),
)
