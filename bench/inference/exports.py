"""Writes another form of a model's folder; run in the environment that has what it needs.

usage: python -m bench.inference.exports onnx|openvino|gte_config|gte_onnx SOURCE TARGET
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def gte_config(source: Path, target: Path) -> None:
    """The same folder for transformers' own implementation, which reads the published names of the weights."""
    copy_published(source, target)
    (target / "model.safetensors").hardlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text("utf-8"))
    left_out = ("layer_norm_type", "pack_qkv", "position_embedding_type", "rope_scaling", "rope_theta", "torch_dtype")
    left_out += ("transformers_version", "unpad_inputs", "use_memory_efficient_attention")
    own = {key: value for key, value in config.items() if key not in left_out}
    # published: frequencies theta * s to the power of -2i/d, divided by s^(2/d); this is that, under another name
    head, ntk = config["hidden_size"] // config["num_attention_heads"], config["rope_scaling"]["factor"]
    rope = {"rope_type": "linear", "rope_theta": config["rope_theta"] * ntk, "factor": ntk ** (2 / head)}
    changed = {"architectures": ["GteModel"], "model_type": "gte", "dtype": "float32", "rope_parameters": rope}
    (target / "config.json").write_text(json.dumps(own | changed, indent=1) + "\n", "utf-8")


def export(backend: str, **options: str) -> Callable[[Path, Path], None]:
    """The graph that sentence-transformers exports, beside the published files."""

    def write(source: Path, target: Path) -> None:
        from sentence_transformers import SentenceTransformer

        settings = {"backend": backend, "device": "cpu", "local_files_only": True}
        model = SentenceTransformer(str(source), model_kwargs={"export": True, **options}, **settings)
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            model.save_pretrained(place)
            copy_published(source, target)
            shutil.copytree(Path(place) / backend, target / backend)

    return write


def gte_onnx(source: Path, target: Path) -> None:
    """By torch's own exporter: optimum has no configuration for this architecture."""
    import torch
    from transformers import AutoModel

    names = ("input_ids", "attention_mask", "token_type_ids")
    model = AutoModel.from_pretrained(source).eval()

    class States(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return model(**dict(zip(names, inputs, strict=True))).last_hidden_state

    ids = torch.ones(3, 17, dtype=torch.long)
    mask = ids.clone()
    mask[0, 9:] = 0
    copy_published(source, target)
    (target / "onnx").mkdir()
    states = States()
    states.model = model
    with torch.no_grad():
        torch.onnx.export(
            states,
            (ids, mask, torch.zeros_like(ids)),
            str(target / "onnx" / "model.onnx"),
            dynamo=False,
            opset_version=18,
            input_names=list(names),
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*names, "last_hidden_state")},
        )


def copy_published(source: Path, target: Path) -> None:
    """All but the weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx", "openvino"))


onnx = export("onnx", provider="CPUExecutionProvider")
FORMS = {"gte_config": gte_config, "onnx": onnx, "openvino": export("openvino"), "gte_onnx": gte_onnx}

if __name__ == "__main__":
    FORMS[sys.argv[1]](*map(Path, sys.argv[2:]))
