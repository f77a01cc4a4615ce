"""Models with random weights in the sizes of published ones: no time depends on the values of weights.

    python -m bench.random_models NAME TOKENIZER_FOLDER TARGET

writes one as a sentence-transformers folder, with the tokenizer of another model.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from gnomon.checkpoint import families
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import Source, resolve_source
from gnomon.checkpoint.save import save_folder
from gnomon.spec import ModelSpec, NormalizeSpec, PoolingMode, PoolingSpec, TokenizerSpec, model_shapes

CONFIG = json.loads("""{
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "torch_dtype": "float32", "type_vocab_size": 2
}""")
NEW_CONFIG = json.loads("""{
    "architectures": ["NewModel"], "layer_norm_type": "layer_norm", "pack_qkv": true, "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"}, "rope_theta": 160000, "unpad_inputs": false,
    "use_memory_efficient_attention": false
}""")


@dataclass(frozen=True)
class RandomModel:
    """A trunk of BERT's form, or of gte-large-en-v1.5's (rotary positions, gated feed-forward)."""

    form: str
    """ "bert" or "new", the `model_type` of config.json."""
    hidden: int
    layers: int
    heads: int
    limit: int
    """Tokens of a text that are read."""
    pooling: PoolingMode = "mean"
    vocabulary: int = 30528
    scale: float = 0.04
    """Standard deviation of the weights."""

    @property
    def spec(self) -> ModelSpec:
        trunk = families.read_trunk(self.config)
        return ModelSpec(trunk, PoolingSpec((self.pooling,)), (NormalizeSpec(),), TokenizerSpec(self.limit))

    @property
    def config(self) -> dict[str, Any]:
        """config.json, which transformers 4 and 5 read too."""
        config = CONFIG | {
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "max_position_embeddings": max(self.limit, 512),
            "model_type": self.form,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
        }
        return config | NEW_CONFIG if self.form == "new" else config

    def arrays(self) -> dict[str, np.ndarray]:
        """The same values each time."""
        random = np.random.default_rng(0)
        shapes, scale = model_shapes(self.spec), np.float32(self.scale)
        drawn = {name: random.standard_normal(shape, dtype=np.float32) * scale for name, shape in shapes.items()}
        return {name: values + name.endswith("norm.weight") for name, values in drawn.items()}

    def save(self, tokenizer: Tokenizer, target: Path, extras: Mapping[str, str] | None = None) -> Path:
        """Write the model. `extras` are the texts of small tokenizer files, by name."""
        source, zeros = Source(target, target.name, None), np.zeros((self.hidden, self.hidden), np.float32)
        # plays no part, and without it transformers would report that it is missing
        pooler = {"pooler.dense.weight": zeros, "pooler.dense.bias": zeros[0]} if self.form == "bert" else {}
        own = Checkpoint(self.spec, self.arrays(), tokenizer, self.config, extras or {}, (), source, pooler)
        return save_folder(own, target)


RANDOM_MODELS = {
    "MiniLM-sized": RandomModel("bert", 384, 6, 12, 256),
    "bge-base-sized": RandomModel("bert", 768, 12, 12, 512),
    # with larger weights float32 itself would be uncertain
    "gte-large-sized": RandomModel("new", 1024, 24, 16, 8192, "cls", scale=0.02),
    # of the last layer, one that pools the first token needs little else: of two layers that would be too much to skip
    "gte-large-2-layers": RandomModel("new", 1024, 2, 16, 8192, scale=0.02),
}


def main() -> None:
    name, tokenizer, target = sys.argv[1:]
    model, base = RANDOM_MODELS[name], read_folder(resolve_source(tokenizer))
    base.tokenizer.no_truncation()
    base.tokenizer.no_padding()
    model.save(base.tokenizer, Path(target), base.tokenizer_side_files)


if __name__ == "__main__":
    main()
