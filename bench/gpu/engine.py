"""Encoding on the device against the plain form on the CPU in float64, and what only a GPU does: copies beside the
computation, batches that do not fit in memory.
"""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench.gpu import models
from bench.gpu.part import Report
from gnomon import Encoder
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.engines.torch.attention import plain
from gnomon.engines.torch.devices import supported_dtypes
from gnomon.engines.torch.engine import TorchEngine
from gnomon.packed import Ids, pack

LIMITS = {"float32": 1e-5, "bfloat16": 6e-2, "float16": 1e-2}
"""Norm of the difference over norm of the vector."""
IN_A_BATCH = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 5e-3}
"""The same text alone and in a batch: other kernels may be chosen, which round elsewhere."""


def check(report: Report) -> None:
    report.check("the torch engine imports neither onnx nor onnxruntime", imports_onnx, 0.0)
    for name in models.ENCODED:
        model, folder = models.write(name, report.models, tiny=report.tiny)
        ids = draw_mixed(model.vocabulary, 64 if report.tiny else 256)
        wanted = reference(folder, ids)
        for dtype in supported_dtypes(report.device):
            encoder = Encoder.load(folder, device=report.device, engine="torch", dtype=dtype)
            check_dtype(report, f"{name}, {dtype}", encoder, ids, wanted, dtype)
            if dtype == "float32":
                check_memory(report, name, encoder, ids)
            encoder.engine.close()
            del encoder
            gc.collect()


def check_dtype(report: Report, title: str, encoder: Encoder, ids: list[Ids], wanted: np.ndarray, dtype: str) -> None:
    texts = [models.to_text(each) for each in ids]
    note = encoder.engine.name
    report.check(f"{title}, against float64", lambda: far(encoder.encode(texts), wanted), LIMITS[dtype], note=note)
    report.check(f"{title}, alone or in a batch", lambda: alone(encoder, texts), IN_A_BATCH[dtype])
    report.check(f"{title}, batches in flight", lambda: in_flight(encoder.engine, ids), IN_A_BATCH[dtype])
    report.check(f"{title}, four threads", lambda: in_threads(encoder, texts), IN_A_BATCH[dtype])


def check_memory(report: Report, name: str, encoder: Encoder, ids: list[Ids]) -> None:
    title = f"{name}, a batch that does not fit is cut in two"
    if report.device != "cuda":
        report.skip(title, "memory is limited on CUDA only")
        return
    engine = encoder.engine
    assert isinstance(engine, TorchEngine)
    report.check(title, lambda: short_of_memory(engine, ids * 32), LIMITS["float32"])


def imports_onnx() -> float:
    return float(sum(name in sys.modules for name in ("onnx", "onnxruntime")))


def draw_mixed(vocabulary: int, longest: int) -> list[Ids]:
    """Texts of all lengths up to the longest, unsorted, some of equal length."""
    lengths = np.array([3, longest, 17, 8, 8, 64, 5, longest // 2, 33, 3, 12, 40])
    return models.draw_ids(lengths, vocabulary)


def reference(folder: Path, ids: list[Ids]) -> np.ndarray:
    """Pooled and normalised vectors by the plain form of attention, one text at a time."""
    checkpoint = read_folder(resolve_source(folder))
    spec = checkpoint.spec
    assert not hasattr(spec.trunk, "model2vec")
    engine = TorchEngine(spec.trunk, spec.pooling, checkpoint.arrays, dtype="float64", attention=plain)  # type: ignore[arg-type]
    vectors = np.concatenate([engine.pool(pack([each])) for each in ids]).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def far(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest distance of a vector, over its norm."""
    norms = np.linalg.norm(wanted, axis=1)
    return float((np.linalg.norm(found.astype(np.float64) - wanted, axis=1) / norms).max())


def alone(encoder: Encoder, texts: list[str]) -> float:
    return far(np.concatenate([encoder.encode([text]) for text in texts]), encoder.encode(texts))


def in_flight(engine: object, ids: list[Ids]) -> float:
    """Many batches, of which the next is copied while one is computed, against each waited for."""
    assert isinstance(engine, TorchEngine)
    batches = [pack([ids[(start + step) % len(ids)] for step in range(5)]) for start in range(24)]
    together = np.concatenate([*engine.pool_batches(batches)])
    return far(together, np.concatenate([engine.pool(batch) for batch in batches]))


def in_threads(encoder: Encoder, texts: list[str]) -> float:
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(encoder.encode, [texts] * 8)]
    return max(far(each, encoder.encode(texts)) for each in found)


def short_of_memory(engine: TorchEngine, ids: list[Ids]) -> float:
    """A batch with room for three quarters of what it needs; infinite if memory sufficed after all."""
    device, batch = engine.torch_device, pack(ids)
    wanted = engine.pool(batch)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    engine.pool(batch)
    needed = torch.cuda.max_memory_reserved(device) - before
    torch.cuda.empty_cache()
    failures = torch.cuda.memory_stats(device)["num_ooms"]
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.75 * needed) / total, device)
    try:
        found = engine.pool(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    split = torch.cuda.memory_stats(device)["num_ooms"] > failures
    return far(found, wanted) if split else float("inf")
