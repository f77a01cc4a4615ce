"""RoBERTa and XLM-RoBERTa: `model_type` roberta and xlm-roberta. BERT whose positions are counted from the pad id."""

from typing import Any

from gnomon.checkpoint.families.bert import BERT_DEFAULTS, BERT_KEYS, BERT_NAMES
from gnomon.checkpoint.families.family import Config, ModelFamily, map_mlm_head
from gnomon.errors import ModelError


def _build_roberta_fields(config: Config) -> dict[str, Any]:
    pad_id = config["pad_token_id"]
    if not isinstance(pad_id, int) or pad_id < 0:
        raise ModelError(
            f"config.json: pad_token_id is {pad_id!r}; positions are counted from it, so it must be a token id."
        )
    return {"position_offset": pad_id + 1, "pad_id": pad_id}


def _roberta_family(vocab_size: int) -> ModelFamily:
    return ModelFamily(
        config_keys=BERT_KEYS,
        tensor_names=BERT_NAMES,
        prefixes=("roberta.", ""),
        defaults={**BERT_DEFAULTS, "vocab_size": vocab_size, "pad_token_id": 1},
        allowed_values={"position_embedding_type": ("absolute",)},
        extra_keys=("pad_token_id",),
        build_extra_fields=_build_roberta_fields,
        mlm_names=map_mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
        mlm_activation="gelu",
    )


ROBERTA = _roberta_family(50265)
XLM_ROBERTA = _roberta_family(30522)
