"""The kernels for texts of different lengths against the plain form of attention: values and gradients.

Shapes are [T, H, d], texts end to end; H: heads; d: head size.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu.part import Report
from gnomon.engines.torch import attention as forms
from gnomon.engines.torch.batch import Spans

SHAPES = {(12, 32): "MiniLM, e5-small", (12, 64): "GIST, distilbert", (16, 64): "stella, gte-large"}
"""(heads, head size) of the five models and MiniLM."""

BATCHES = {
    "ragged": [1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 300, 511, 512],
    "unsorted": [512, 3, 128, 1, 300, 17, 64, 2],
    "one long text beside short ones": [2048, 5, 5, 9],
    "one text": [77],
    "equal lengths": [64] * 12,
    "single tokens": [1] * 9,
}
LIMITS = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
"""Of norm of the difference over norm, against the plain form in float32 on the same rounded inputs: a few roundings
(2**-9 and 2**-12) add up. A gradient may be off by twice as much.
"""
Tensors = tuple[Tensor, ...]


def check(report: Report) -> None:
    device = torch.device(report.device)
    torch.manual_seed(0)
    for name, (form, reason) in kernels(report.device).items():
        if reason:
            report.skip(name, reason)
            continue
        for (heads, size), models in SHAPES.items():
            for dtype, limit in LIMITS.items():
                title = f"{name}, {heads} heads of {size}, {str(dtype).removeprefix('torch.')}"
                shape = (heads if not report.tiny else 2, size)
                worst = worst_of(form, shape, dtype, device, tiny=report.tiny)
                report.check(f"{title}, values", lambda worst=worst: worst()[0], limit, note=models)
                report.check(f"{title}, gradient", lambda worst=worst: worst()[1], 2 * limit, note=models)


def kernels(device: str) -> dict[str, tuple[forms.Attention, str]]:
    """Name -> the form, and why it cannot run here, if it cannot."""
    on_gpu = "" if device == "cuda" else "it runs on CUDA only"
    return {
        "torch's varlen": (forms.varlen, on_gpu or varlen_missing()),
        "flash-attn": (forms.flash, on_gpu or ("" if forms.has_flash_attn() else "flash-attn is not installed")),
        "grouped": (forms.grouped, ""),
        "bucketed": (forms.bucketed, "" if device == "cpu" else "it is used on a CPU only"),
    }


def varlen_missing() -> str:
    """Why torch's own kernel cannot be used, if it cannot. It came with torch 2.10."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"not in this torch ({torch.__version__})"
    function = getattr(importlib.import_module("torch.nn.attention.varlen"), "varlen_attn", None)
    if function is None:
        return f"not in this torch ({torch.__version__}): torch.nn.attention.varlen has no varlen_attn"
    wanted = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
    found = tuple(inspect.signature(function).parameters)
    if found[: len(wanted)] != wanted:
        return f"not the function that gnomon calls: torch {torch.__version__} has varlen_attn{found}"
    return "" if forms.has_varlen() else "this torch is built without FlashAttention"


def worst_of(
    form: forms.Attention, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, *, tiny: bool
) -> Callable[[], tuple[float, float]]:
    """(largest distance of the values, of the gradients) over all batches; computed once."""
    known: list[tuple[float, float]] = []

    def compute() -> tuple[float, float]:
        if not known:
            pairs = [distances(form, *batch) for batch in batches(shape, dtype, device, tiny=tiny)]
            known.append((max(value for value, _ in pairs), max(gradient for _, gradient in pairs)))
        return known[0]

    return compute


def batches(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device, *, tiny: bool
) -> Iterator[tuple[Tensors, Spans, Spans]]:
    """((q, k, v, gradient of the output), spans of q, spans of k) of each batch, and with one query for each text."""
    for lengths in BATCHES.values():
        lengths_B = np.array([min(length, 40) for length in lengths] if tiny else lengths)
        spans = Spans.from_lengths(lengths_B, device)
        for q_spans in (spans, spans.single_rows):
            rows = (sum(q_spans.lengths), sum(spans.lengths), sum(spans.lengths), sum(q_spans.lengths))
            drawn = tuple(torch.randn(count, *shape, device=device).to(dtype) for count in rows)
            yield drawn, q_spans, spans


def distances(form: forms.Attention, tensors: Tensors, q_spans: Spans, k_spans: Spans) -> tuple[float, float]:
    """Of the values, and of the gradients of q, k and v together."""
    wanted = values_and_gradients(forms.plain, tuple(each.float() for each in tensors), q_spans, k_spans)
    found = values_and_gradients(form, tensors, q_spans, k_spans)
    return relative(found[:1], wanted[:1]), relative(found[1:], wanted[1:])


def values_and_gradients(form: forms.Attention, tensors: Tensors, q_spans: Spans, k_spans: Spans) -> Tensors:
    *inputs, gradient = (each.clone() for each in tensors)
    for each in inputs:
        each.requires_grad_()
    values = form(inputs[0], inputs[1], inputs[2], q_spans, k_spans, 0.0)
    values.backward(gradient)
    gradients: list[Any] = [each.grad for each in inputs]
    return values.detach(), *gradients


def relative(found: Tensors, wanted: Tensors) -> float:
    off, whole = (torch.cat([each.double().flatten() for each in parts]) for parts in (found, wanted))
    return float((off - whole).norm() / whole.norm())
