"""DistilBERT: `model_type` distilbert."""

from gnomon.checkpoint.families.bert import EMBEDDING_NAMES
from gnomon.checkpoint.families.family import ModelFamily, map_linear, map_mlm_head

DISTILBERT = ModelFamily(
    config_keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "activation": "activation",
    },
    tensor_names={
        **EMBEDDING_NAMES,
        **map_linear("transformer.layer.{i}.attention.q_lin", "layers.{i}.query"),
        **map_linear("transformer.layer.{i}.attention.k_lin", "layers.{i}.key"),
        **map_linear("transformer.layer.{i}.attention.v_lin", "layers.{i}.value"),
        **map_linear("transformer.layer.{i}.attention.out_lin", "layers.{i}.out"),
        **map_linear("transformer.layer.{i}.sa_layer_norm", "layers.{i}.attn_norm"),
        **map_linear("transformer.layer.{i}.ffn.lin1", "layers.{i}.up"),
        **map_linear("transformer.layer.{i}.ffn.lin2", "layers.{i}.down"),
        **map_linear("transformer.layer.{i}.output_layer_norm", "layers.{i}.mlp_norm"),
    },
    prefixes=("distilbert.", ""),
    defaults={
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
    },
    ignored=("pad_token_id",),
    key_aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    mlm_names=map_mlm_head("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    dropout=("dropout", "attention_dropout"),
)
