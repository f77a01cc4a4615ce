"""The architectures that gnomon reads: `model_type` of config.json -> its table. A new one is one file and one row."""

from gnomon.checkpoint.families.bert import BERT
from gnomon.checkpoint.families.distilbert import DISTILBERT
from gnomon.checkpoint.families.family import Config, ModelFamily
from gnomon.checkpoint.families.gte_new import GTE_NEW
from gnomon.checkpoint.families.roberta import ROBERTA, XLM_ROBERTA
from gnomon.errors import UnsupportedError

FAMILIES: dict[str, ModelFamily] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "distilbert": DISTILBERT,
    "new": GTE_NEW,
}


def get_family(config: Config) -> ModelFamily:
    """The table row for a config's `model_type`."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnsupportedError(
            f"config.json: model_type {kind!r} is not implemented; gnomon has {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind]
