"""python tests/make_candidates.py OUT_DIR [--engine onnx|openvino|torch] [--plain]: gnomon's answer to every key of the
golden models.

Writes NAME.npz for each folder of shared/golden, through the public Encoder alone; check_golden.py there judges them.
Runs where torch is not installed, but for its own engine. --plain takes that engine's reference of attention.
"""

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gnomon import Encoder
from gnomon.errors import Notice

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
Arrays = dict[str, np.ndarray]


def answers(folder: Path, engine: str) -> Arrays:
    """Every key of a folder's expected.npz but those that end in _f64 or _unpad."""
    encoder = Encoder.load(folder, engine=engine)
    asked = json.loads((folder / "texts.json").read_text("utf-8"))
    texts, rows = asked["texts"], asked["hidden_state_indices"]
    found = _vectors(encoder, texts, rows, "") | _ids(encoder, texts, "", "")
    if (folder / "config.no_ntk.json").is_file():
        with _changed(folder) as copy:
            shutil.copyfile(copy / "config.no_ntk.json", copy / "config.json")
            found |= _vectors(Encoder.load(copy, engine=engine), texts, rows, "_no_ntk")
    for name, prompt in {"none": "", **asked.get("prompts", {})}.items():
        if prompt:
            assert encoder.prompts[name] == prompt
            found |= _ids(encoder, texts, prompt, f"_{name}")
        if len(encoder.dims) > 1:
            by_dim = encoder.encode_dims(texts, prompt=prompt, on_truncate="silent")
            found |= {f"dense_{dim}_{name}": vectors_BD for dim, vectors_BD in by_dim.items()}
    if len(encoder.dims) > 1:
        with _changed(folder) as copy:
            modules = json.loads((copy / "modules.json").read_text("utf-8"))
            (copy / "modules.json").write_text(json.dumps(modules[:2]), "utf-8")
            found["pooled"] = Encoder.load(copy, engine=engine).encode(texts, prompt="", on_truncate="silent")
    return found


def _vectors(encoder: Encoder, texts: list[str], rows: list[int], infix: str) -> Arrays:
    states = encoder.encode_tokens([texts[row] for row in rows], prompt="", on_truncate="silent")
    return {
        f"embeddings{infix}": encoder.encode(texts, prompt="", on_truncate="silent"),
        f"embeddings{infix}_normalized": encoder.encode(
            texts, prompt="", normalize_embeddings=True, on_truncate="silent"
        ),
        **{f"last_hidden_state{infix}_{row}": states_TD for row, states_TD in zip(rows, states, strict=True)},
    }


def _ids(encoder: Encoder, texts: list[str], prompt: str, suffix: str) -> Arrays:
    ids = encoder.tokenize(texts, prompt=prompt).ids
    offsets = np.cumsum([0, *map(len, ids)])
    return {f"input_ids_flat{suffix}": np.concatenate(ids), f"input_ids_offsets{suffix}": offsets}


@contextmanager
def _changed(folder: Path) -> Iterator[Path]:
    """A copy of a model's folder, under its name, that may be changed."""
    with tempfile.TemporaryDirectory() as parent:
        yield shutil.copytree(folder, Path(parent) / folder.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="write gnomon's answers to the golden models")
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", choices=("onnx", "openvino", "torch"), default="onnx")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--golden", type=Path, default=GOLDEN)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.plain:
        from gnomon.engines.torch import attention

        attention.choose_attention = lambda *_, **__: attention.plain
    warnings.simplefilter("ignore", Notice)
    for expected in sorted(args.golden.glob("*/expected.npz")):
        np.savez(args.out / f"{expected.parent.name}.npz", **answers(expected.parent, args.engine))


if __name__ == "__main__":
    main()
