"""Writes a model's folder for infinity's engine optimum; run in infinity's environment.

usage: python -m bench.serving.peer_model SOURCE TARGET

The graph lies in the folder itself, and infinity is started in it with `--model-id .`: optimum 2 looks for the bare
name of a file, and infinity gives it a path. The graph is optimised here, by the function and with the level that
infinity wants of optimum 1: optimum 2 no longer has infinity's call, and infinity would go on without it.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from bench.inference.exports import onnx


def write_folder(source: Path, target: Path) -> None:
    """Replaces `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        folder = Path(place) / "model"
        onnx(source, folder)
        optimize(folder / "onnx" / "model.onnx", folder)
        shutil.rmtree(folder / "onnx")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


def optimize(graph: Path, folder: Path) -> None:
    """Write `folder`/model.onnx: attention, normalisation and GELU as single operations."""
    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((folder / "config.json").read_text("utf-8"))
    sizes = {"num_heads": config["num_attention_heads"], "hidden_size": config["hidden_size"]}
    optimize_model(str(graph), model_type="bert", opt_level=99, **sizes).save_model_to_file(str(folder / "model.onnx"))


if __name__ == "__main__":
    write_folder(*map(Path, sys.argv[1:]))
