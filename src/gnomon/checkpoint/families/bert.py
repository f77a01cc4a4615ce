"""BERT: `model_type` bert. Other families share its config keys, its defaults and most of its tensor names."""

from gnomon.checkpoint.families.family import ModelFamily, TensorNames, map_linear, map_mlm_head

EMBEDDING_NAMES: TensorNames = {
    "embeddings.word_embeddings.weight": ("embed.tokens",),
    "embeddings.position_embeddings.weight": ("embed.positions",),
    "embeddings.token_type_embeddings.weight": ("embed.types",),
    **map_linear("embeddings.LayerNorm", "embed.norm"),
}

BERT_NAMES: TensorNames = {
    **EMBEDDING_NAMES,
    **map_linear("encoder.layer.{i}.attention.self.query", "layers.{i}.query"),
    **map_linear("encoder.layer.{i}.attention.self.key", "layers.{i}.key"),
    **map_linear("encoder.layer.{i}.attention.self.value", "layers.{i}.value"),
    **map_linear("encoder.layer.{i}.attention.output.dense", "layers.{i}.out"),
    **map_linear("encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.attn_norm"),
    **map_linear("encoder.layer.{i}.intermediate.dense", "layers.{i}.up"),
    **map_linear("encoder.layer.{i}.output.dense", "layers.{i}.down"),
    **map_linear("encoder.layer.{i}.output.LayerNorm", "layers.{i}.mlp_norm"),
}

BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_token_types": "type_vocab_size",
    "activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
}

BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

BERT = ModelFamily(
    config_keys=BERT_KEYS,
    tensor_names=BERT_NAMES,
    prefixes=("bert.", ""),
    defaults=BERT_DEFAULTS,
    ignored=("pad_token_id",),
    allowed_values={"position_embedding_type": ("absolute",)},
    mlm_names=map_mlm_head(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ),
)
