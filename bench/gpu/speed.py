"""Speed beside the roofline: what the device gives to a large matrix product and a large copy, and what gnomon gets."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import machine
from bench.flops import Peak, Shape, floor_seconds, operations
from bench.gpu import models
from bench.gpu.part import Report
from bench.gpu.training import draw_batch, open_run, recipe_of
from gnomon import Encoder
from gnomon.batching import build_batches
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.engines.torch.devices import supported_dtypes
from gnomon.packed import Ids, pack

DTYPES = {"float32": 4, "bfloat16": 2}
TOKENS = {"MiniLM": 1_000_000, "GIST": 600_000, "gte": 200_000}
"""Of a run in bfloat16; a quarter of it in float32."""
TINY_TOKENS = 600
BACKWARD = 2
"""Operations of the gradient, in forward passes."""


def measure(report: Report) -> None:
    peaks = {dtype: measure_peak(dtype, report.device) for dtype in DTYPES if dtype in supported_dtypes(report.device)}
    for dtype, peak in peaks.items():
        report.add(f"peak, {dtype}", "measured", tflops=peak.flops / 1e12, gigabytes_per_second=peak.bandwidth / 1e9)
    for name in models.ENCODED:
        for dtype, peak in peaks.items():
            measure_encoding(report, name, dtype, peak)
    for name in ("MiniLM", "GIST"):
        for dtype, peak in peaks.items():
            title = f"training step, {name}, {dtype}"
            report.measure(title, lambda name=name, dtype=dtype, peak=peak: measure_training(report, name, dtype, peak))


def measure_peak(dtype: str, device: str) -> Peak:
    """Of a square matrix product and of a copy, on random values."""
    kind: torch.dtype = getattr(torch, dtype)
    side, numbers = (8192, 1 << 30) if device == "cuda" else (512, 1 << 22)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    product = repeat(lambda: a @ b, device)
    source = torch.randn(numbers, device=device).to(kind)
    target = torch.empty_like(source)
    copy = repeat(lambda: target.copy_(source), device)
    return Peak(2 * side**3 / product, 2 * numbers * source.element_size() / copy)


def repeat(work: Callable[[], object], device: str, times: int = 10) -> float:
    """Median seconds of a call, after three to warm up."""
    took: list[float] = []
    for _ in range(3 + times):
        machine.synchronize(device)
        begin = time.perf_counter()
        work()
        machine.synchronize(device)
        took.append(time.perf_counter() - begin)
    return statistics.median(took[3:])


def measure_encoding(report: Report, name: str, dtype: str, peak: Peak) -> None:
    model, folder = models.write(name, report.models, tiny=report.tiny)
    encoder = Encoder.load(folder, device=report.device, engine="torch", dtype=dtype)
    budget = encoder.engine.budget(0 if report.tiny else 1 << 20)  # for so many tokens it is measured
    tokens = TINY_TOKENS if report.tiny else TOKENS[name] // (4 if dtype == "float32" else 1)
    for mix in models.MIXES:
        mean = models.draw_lengths(mix, 1000, model.limit).mean()
        lengths = np.sort(models.draw_lengths(mix, max(8, int(tokens / mean)), model.limit))
        ids = models.draw_ids(lengths, model.vocabulary)
        groups = build_batches(lengths.tolist(), budget, encoder.engine.padding)

        def facts(ids: list[Ids] = ids, groups: list[list[int]] = groups) -> dict[str, Any]:
            packed, lengths = [pack([ids[at] for at in group]) for group in groups], [len(each) for each in ids]
            machine.reset_peak(report.device)
            trunk = repeat(lambda: [*encoder.engine.pool_batches(packed)], report.device, times=3)
            found = rates(Shape.of(folder), lengths, trunk, peak, batch_count=len(packed), size=DTYPES[dtype])
            texts = [models.to_text(each) for each in ids[::4]]
            begin = time.perf_counter()
            encoder.encode(texts, show_progress_bar=False)
            rate = sum(lengths[::4]) / (time.perf_counter() - begin)
            memory = machine.device_peak_mib(report.device)
            return found | {"from_text_tokens_per_second": rate, "device_mib": memory, "engine": encoder.engine.name}

        report.measure(f"encoding, {name}, {dtype}, {mix}", facts)
    encoder.engine.close()
    gc.collect()


def rates(
    shape: Shape, lengths: list[int], seconds: float, peak: Peak, *, batch_count: int, size: int, passes: int = 1
) -> dict[str, Any]:
    """Args: passes: operations and traffic, in forward passes."""
    flops = passes * operations(shape, lengths)
    return {
        "texts": len(lengths),
        "tokens": sum(lengths),
        "batches": batch_count,
        "run_s": seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "tflops": flops / seconds / 1e12,
        "share_of_peak": flops / seconds / peak.flops,
        "share_of_roofline": passes * floor_seconds(shape, lengths, peak, batches=batch_count, size=size) / seconds,
    }


def measure_training(report: Report, name: str, dtype: str, peak: Peak) -> dict[str, Any]:
    """Whole steps: forward, loss, gradient, clipping, optimizer; dropout as BERT has it."""
    model, folder = models.write(name, report.models, tiny=report.tiny)
    batch = draw_batch(model.vocabulary, 16 if report.tiny else 512, query=14, document=40 if report.tiny else 128)
    recipe = recipe_of(batch, report.device, bf16=dtype == "bfloat16", dropout=0.1, chunk_tokens=None)
    run, settings = open_run(read_folder(resolve_source(folder)), recipe)
    lengths = [len(ids) for ids in batch.ids]
    machine.release(report.device)
    machine.reset_peak(report.device)
    with settings:
        seconds = repeat(lambda: run.take_step(batch, 0), report.device, times=5)
    passes = 1 + BACKWARD + (sum(lengths) > run.one_pass_tokens)  # GradCache computes a chunk twice
    facts = rates(Shape.of(folder), lengths, seconds, peak, batch_count=1, size=DTYPES[dtype], passes=passes)
    return facts | {"device_mib": machine.device_peak_mib(report.device)}
