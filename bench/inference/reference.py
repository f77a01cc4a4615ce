"""What the benchmark itself computes, in a process like a system's: lengths, the float64 reference, distances, and the
rate of a plain matrix product.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.inference.systems import Setting, limit_of, naive
from bench.process import Answer

PRODUCT = (4096, 768, 3072)
PRODUCT_SECONDS = 0.3
"""Time for which each library repeats the product in each round."""


class Reference:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.products = cache(partial(products, setting))
        self.vectors_ND: Any = None
        """In float64, of the last texts that were computed."""

    def device(self) -> Answer:
        return {"name": machine.device_name(self.setting.device)}

    def lengths(self, folder: str, texts: str) -> Answer:
        """Tokens of each text, truncated where the model truncates, special tokens included."""
        encodings = plain_tokenizer(folder).encode_batch(read_texts(texts))
        limit = limit_of(Path(folder))
        return {"lengths": [min(len(encoding.ids), limit) for encoding in encodings]}

    def compute_vectors(self, folder: str, texts: str, first: int) -> Answer:
        """Vectors of the `first` texts by transformers' own model in float64, one text at a time, on the CPU."""
        setting = replace(self.setting, folder=Path(folder), device="cpu", dtype="float64")
        self.vectors_ND = naive(setting).encode(read_texts(texts)[:first], 1)
        return {}

    def distance(self, vectors: str) -> Answer:
        """Largest |difference| / |vector| to the computed vectors, and the lowest cosine, over the texts."""
        import numpy as np

        wanted_ND, found_ND = self.vectors_ND, np.load(vectors).astype(np.float64)
        norms_N = np.linalg.norm(wanted_ND, axis=1)
        far_N = np.linalg.norm(found_ND - wanted_ND, axis=1) / norms_N
        cosines_N = (found_ND * wanted_ND).sum(1) / norms_N / np.linalg.norm(found_ND, axis=1)
        return {"distance": float(far_N.max()), "cosine": float(cosines_N.min()), "texts": len(wanted_ND)}

    def rates(self, dtype: str) -> Answer:
        """Operations a second of each library that has this dtype; the best of a few runs."""
        best: dict[str, float] = {}
        for library, run in self.products(dtype).items():
            end = time.perf_counter() + PRODUCT_SECONDS
            while library not in best or time.perf_counter() < end:
                rate = 2 * math.prod(PRODUCT) / seconds_of(run, self.setting.device)
                best[library] = max(best.get(library, 0.0), rate)
        return {"rates": best}


def read_texts(file: str) -> list[str]:
    return json.loads(Path(file).read_text())


def plain_tokenizer(folder: str) -> Any:
    """Without the truncation and padding that tokenizer.json may hold."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """A GPU is given many at once, since one is over before the next can be started."""
    times = 1 if device == "cpu" else 50
    machine.synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    machine.synchronize(device)
    return (time.perf_counter() - start) / times


def products(setting: Setting, dtype: str) -> dict[str, Callable[[], Any]]:
    """Library -> one product [4096, 768] x [768, 3072]."""
    import numpy as np
    import torch

    torch.set_num_threads(setting.threads)
    rows, inner, columns = PRODUCT
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape, dtype=np.float32) for shape in ((rows, inner), (inner, columns)))
    there, other = (torch.from_numpy(each).to(setting.device, getattr(torch, dtype)) for each in (a, b))
    found: dict[str, Callable[[], Any]] = {"torch": lambda: there @ other}
    if setting.device == "cpu" and dtype == "float32":
        session = ort_session(b, setting.threads)
        found |= {"numpy": lambda: a @ b, "ONNX Runtime": lambda: session.run(None, {"a": a})}
    return found


def ort_session(b: Any, threads: int) -> Any:
    """c = a @ b."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "ac"]
    weight = helper.make_tensor("b", TensorProto.FLOAT, b.shape, b.tobytes(), raw=True)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
