"""A model of over 2 GB, more than a protobuf holds: its weights stay in the file, which is sparse here."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gnomon import Encoder
from gnomon.checkpoint.weights import write_safetensors
from gnomon.spec import TrunkSpec, trunk_shapes

HIDDEN, FEW, MANY = 512, 100, 1_200_000
CONFIG = {
    "model_type": "distilbert",
    "dim": HIDDEN,
    "hidden_dim": 64,
    "n_layers": 1,
    "n_heads": 8,
    "max_position_embeddings": 16,
}
THEIRS = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "attn_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
TABLE = "embeddings.word_embeddings.weight"


def small_model(folder: Path) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    trunk = TrunkSpec(
        vocab_size=FEW, hidden_size=HIDDEN, num_layers=1, num_heads=8, intermediate_size=64, max_positions=16
    )
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in trunk_shapes(trunk).items()}
    names = {"embed.tokens": TABLE, "embed.positions": "embeddings.position_embeddings.weight"}
    names |= {f"embed.norm.{kind}": f"embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")}
    for ours, theirs in THEIRS.items():
        names |= {f"layers.0.{ours}.{kind}": f"transformer.layer.0.{theirs}.{kind}" for kind in ("weight", "bias")}
    folder.mkdir()
    theirs = {names[ours]: array for ours, array in arrays.items()}
    write_safetensors(folder / "model.safetensors", theirs)
    write_rest(folder, FEW)
    return theirs


def write_rest(folder: Path, rows: int) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": rows}))
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(FEW)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_sparse(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The same tensors, the table with 1,200,000 rows: those behind the first 100 are a hole in the file."""
    table = arrays[TABLE]
    sizes = {name: array.nbytes for name, array in arrays.items()} | {TABLE: MANY * HIDDEN * 4}
    header, at = {}, 0
    for name, size in sizes.items():
        shape = [MANY, HIDDEN] if name == TABLE else list(arrays[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + at)
        for name, array in arrays.items():
            file.seek(start + header[name]["data_offsets"][0])
            file.write((table if name == TABLE else array).tobytes())


@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
def test_a_model_of_over_two_gigabytes_loads_and_gives_the_same_vectors(tmp_path: Path) -> None:
    arrays = small_model(tmp_path / "small")
    large = tmp_path / "large"
    large.mkdir()
    write_rest(large, MANY)
    write_sparse(large / "model.safetensors", arrays)
    assert (large / "model.safetensors").stat().st_size > 2**31
    texts = ["1 2 3", "99 98", "7 " * 12]
    found = Encoder.load(large)
    assert found.spec.trunk.vocab_size == MANY
    np.testing.assert_array_equal(found.encode(texts), Encoder.load(tmp_path / "small").encode(texts))
