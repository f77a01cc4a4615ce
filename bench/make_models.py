"""Writes one form of a model's folder; run in the environment that has what it needs.

usage: make_models.py sized SIZE_AS_JSON TOKENIZER_FOLDER TARGET
       make_models.py onnx|openvino|gte_config|gte_onnx SOURCE TARGET
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

VOCABULARY = 30528
THETA = 160000
NTK = 2.0
TOKENIZER_FILES = ("vocab.txt", "special_tokens_map.json")
MODULES = "sentence_transformers.models."


def sized(size: str, tokenizer: Path, target: Path) -> None:
    """The published layout, which every version of sentence-transformers opens, with random weights."""
    from safetensors.numpy import save_file

    wanted = json.loads(size)
    make = {"bert": random_bert, "new": random_new}[wanted["model_type"]]
    config, weights = make(wanted)
    target.mkdir(parents=True)
    write(target / "config.json", config)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    copy_tokenizer(tokenizer, target, wanted["limit"])
    write_modules(target, wanted)


def common(size: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": size["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": size["inner"],
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": size["limit"] if size["model_type"] == "new" else 512,
        "num_attention_heads": size["heads"],
        "num_hidden_layers": size["layers"],
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
    }


class Random:
    """Values of a normal distribution, the same each time."""

    def __init__(self) -> None:
        import numpy as np

        self.generator, self.float32 = np.random.default_rng(0), np.float32

    def __call__(self, *shape: int, std: float = 0.02, mean: float = 0.0) -> Any:
        return self.generator.standard_normal(shape, dtype=self.float32) * self.float32(std) + self.float32(mean)


def random_bert(size: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    hidden, inner, random = size["hidden"], size["inner"], Random()
    config = common(size) | {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "transformers_version": "4.39.1",
    }
    weights = {
        "embeddings.word_embeddings.weight": random(VOCABULARY, hidden, std=0.04),
        "embeddings.position_embeddings.weight": random(config["max_position_embeddings"], hidden, std=0.04),
        "embeddings.token_type_embeddings.weight": random(2, hidden, std=0.04),
        "pooler.dense.weight": random(hidden, hidden),
        "pooler.dense.bias": random(hidden),
    } | norm("embeddings.LayerNorm", hidden, random)
    rows = {"attention.self.query": (hidden, hidden), "attention.self.key": (hidden, hidden)}
    rows |= {"attention.self.value": (hidden, hidden), "attention.output.dense": (hidden, hidden)}
    rows |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    for layer in range(size["layers"]):
        name = f"encoder.layer.{layer}."
        for row, shape in rows.items():
            weights[f"{name}{row}.weight"] = random(*shape, std=0.04)
            weights[f"{name}{row}.bias"] = random(shape[0])
        weights |= norm(f"{name}attention.output.LayerNorm", hidden, random)
        weights |= norm(f"{name}output.LayerNorm", hidden, random)
    return config, weights


def random_new(size: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """gte-large-en-v1.5's architecture. Twice these weights' size would make float32 itself uncertain."""
    hidden, inner, random = size["hidden"], size["inner"], Random()
    config = common(size) | {
        "architectures": ["NewModel"],
        "layer_norm_type": "layer_norm",
        "model_type": "new",
        "pack_qkv": True,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": NTK, "type": "ntk"},
        "rope_theta": THETA,
        "transformers_version": "4.39.1",
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
    }
    weights = {
        "embeddings.word_embeddings.weight": random(VOCABULARY, hidden, std=0.05),
        "embeddings.token_type_embeddings.weight": random(2, hidden, std=0.05),
    } | norm("embeddings.LayerNorm", hidden, random)
    for layer in range(size["layers"]):
        name = f"encoder.layer.{layer}."
        weights |= {
            f"{name}attention.qkv_proj.weight": random(3 * hidden, hidden),
            f"{name}attention.qkv_proj.bias": random(3 * hidden),
            f"{name}attention.o_proj.weight": random(hidden, hidden),
            f"{name}attention.o_proj.bias": random(hidden),
            f"{name}mlp.up_gate_proj.weight": random(2 * inner, hidden),
            f"{name}mlp.down_proj.weight": random(hidden, inner),
            f"{name}mlp.down_proj.bias": random(hidden),
        }
        weights |= norm(f"{name}attn_ln", hidden, random) | norm(f"{name}mlp_ln", hidden, random)
    return config, weights


def norm(name: str, hidden: int, random: Random) -> dict[str, Any]:
    return {f"{name}.weight": random(hidden, mean=1.0), f"{name}.bias": random(hidden)}


def copy_tokenizer(source: Path, target: Path, limit: int) -> None:
    """Without the length and padding of the model that it comes from."""
    rows = json.loads((source / "tokenizer.json").read_text("utf-8")) | {"truncation": None, "padding": None}
    write(target / "tokenizer.json", rows)
    shutil.copy(source / "tokenizer_config.json", target)
    set_limit(target, limit)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, target)


def set_limit(folder: Path, limit: int) -> None:
    """For libraries that do not read sentence_bert_config.json; fastembed would take the smaller of two keys."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) | {"model_max_length": limit}
    write(path, {key: value for key, value in config.items() if key not in ("max_length", "name_or_path")})


def write_modules(target: Path, size: dict[str, Any]) -> None:
    rows = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": MODULES + name} for at, (path, name) in enumerate(rows)
    ]
    write(target / "modules.json", modules)
    write(target / "sentence_bert_config.json", {"max_seq_length": size["limit"], "do_lower_case": False})
    pooling = {
        "word_embedding_dimension": size["hidden"],
        "pooling_mode_cls_token": size["first"],
        "pooling_mode_mean_tokens": not size["first"],
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    for name in ("1_Pooling", "2_Normalize"):
        (target / name).mkdir()
    write(target / "1_Pooling" / "config.json", pooling)


def gte_config(source: Path, target: Path) -> None:
    """The same folder for transformers' own implementation, which reads the published names of the weights."""
    copy_published(source, target)
    os.link(source / "model.safetensors", target / "model.safetensors")
    config = json.loads((source / "config.json").read_text("utf-8"))
    left_out = ("layer_norm_type", "pack_qkv", "position_embedding_type", "rope_scaling", "rope_theta", "torch_dtype")
    left_out += ("transformers_version", "unpad_inputs", "use_memory_efficient_attention")
    kept = {key: value for key, value in config.items() if key not in left_out}
    # published: frequencies theta * s to the power of -2i/d, divided by s^(2/d); this is that, under another name
    head = config["hidden_size"] // config["num_attention_heads"]
    rope = {"rope_type": "linear", "rope_theta": config["rope_theta"] * NTK, "factor": NTK ** (2 / head)}
    changed = {"architectures": ["GteModel"], "model_type": "gte", "dtype": "float32", "rope_parameters": rope}
    write(target / "config.json", kept | changed)


def onnx(source: Path, target: Path) -> None:
    """The graph that sentence-transformers exports, beside the published files."""
    from sentence_transformers import SentenceTransformer

    options = {"provider": "CPUExecutionProvider", "export": True}
    model = SentenceTransformer(str(source), backend="onnx", device="cpu", model_kwargs=options)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        model.save_pretrained(place)
        copy_published(source, target)
        shutil.copytree(Path(place) / "onnx", target / "onnx")
    set_limit(target, json.loads((source / "sentence_bert_config.json").read_text())["max_seq_length"])


def openvino(source: Path, target: Path) -> None:
    from sentence_transformers import SentenceTransformer

    options = {"export": True}
    model = SentenceTransformer(
        str(source), backend="openvino", device="cpu", local_files_only=True, model_kwargs=options
    )
    model.save_pretrained(str(target))


def gte_onnx(source: Path, target: Path) -> None:
    """By torch's own exporter: optimum has no configuration for this architecture."""
    import torch
    from transformers import AutoModel

    names = ("input_ids", "attention_mask", "token_type_ids")
    model = AutoModel.from_pretrained(source).eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    ids = torch.ones(3, 17, dtype=torch.long)
    mask = ids.clone()
    mask[0, 9:] = 0
    copy_published(source, target)
    (target / "onnx").mkdir()
    with torch.no_grad():
        torch.onnx.export(
            States(),
            (ids, mask, torch.zeros_like(ids)),
            str(target / "onnx" / "model.onnx"),
            dynamo=False,
            opset_version=18,
            input_names=list(names),
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*names, "last_hidden_state")},
        )
    set_limit(target, json.loads((source / "sentence_bert_config.json").read_text())["max_seq_length"])


def copy_published(source: Path, target: Path) -> None:
    """All but the weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx", "openvino"))


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    what, *arguments = sys.argv[1:]
    if what == "sized":
        sized(arguments[0], Path(arguments[1]), Path(arguments[2]))
    else:
        {"gte_config": gte_config, "onnx": onnx, "openvino": openvino, "gte_onnx": gte_onnx}[what](
            *map(Path, arguments)
        )


if __name__ == "__main__":
    main()
