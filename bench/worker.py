"""One contender in a process of its own: commands as JSON lines on stdin, answers as JSON lines on stdout.

usage: worker.py CONTENDER MODEL_FOLDER THREADS
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str]], Any]


def gnomon(folder: str, threads: int, **options: str) -> Encode:
    from gnomon import Encoder

    return Encoder.load(folder, threads=threads, **options).encode


def sentence_transformers(folder: str, threads: int, **options: str) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(folder, device="cpu", **options)
    return lambda texts: model.encode(texts, show_progress_bar=False)


def product(folder: str, threads: int) -> Encode:
    """Not a model: the machine's own rate, operations a second of three libraries on one matrix product."""
    import onnxruntime as ort
    import torch
    from onnx import TensorProto, helper

    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    a = random.standard_normal((4096, 768), dtype=np.float32)
    b = random.standard_normal((768, 3072), dtype=np.float32)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "abc"]
    weight = helper.make_tensor("b", TensorProto.FLOAT, b.shape, b.tobytes(), raw=True)
    graph = helper.make_graph([node], "product", infos[:1], infos[2:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a_torch, b_torch = torch.from_numpy(a), torch.from_numpy(b)
    forms = {
        "numpy": lambda: a @ b,
        "torch": lambda: a_torch @ b_torch,
        "onnxruntime": lambda: session.run(None, {"a": a}),
    }

    def rate(texts: list[str]) -> dict[str, float]:
        best: dict[str, float] = {}
        for _ in range(5):
            for name, run in forms.items():
                start = time.perf_counter()
                run()
                best[name] = max(
                    best.get(name, 0.0), 2 * a.shape[0] * b.shape[0] * b.shape[1] / (time.perf_counter() - start)
                )
        return best

    return rate


CONTENDERS: dict[str, Callable[[str, int], Encode]] = {
    "gnomon": gnomon,
    "gnomon int8": lambda folder, threads: gnomon(folder, threads, dtype="int8"),
    "sentence-transformers": sentence_transformers,
    "sentence-transformers onnx": lambda folder, threads: sentence_transformers(folder, threads, backend="onnx"),
    "product": product,
}


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def answer(command: dict[str, Any], encode: Encode) -> dict[str, Any]:
    if command["do"] == "encode":
        texts = json.loads(Path(command["texts"]).read_text())
        start = time.perf_counter()
        vectors = encode(texts)
        seconds = time.perf_counter() - start
        np.save(command["out"], vectors)
        return {"seconds": seconds, "peak_mib": peak_mib()}
    if command["do"] == "latency":
        seconds = []
        for text in command["texts"]:
            start = time.perf_counter()
            encode([text])
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "peak_mib": peak_mib()}
    return {"rates": encode([])}


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    contender, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print on stdout goes to stderr
    encode = CONTENDERS[contender](folder, threads)
    print(json.dumps({"ready": contender}), file=replies)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), encode)), file=replies)


if __name__ == "__main__":
    main()
