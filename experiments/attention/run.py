"""Attention in training on a CPU, forward and backward: `grouped` beside `bucketed`, by length, dtype and dropout.

    python -m experiments.attention.run [--rounds 7]

Both take turns in one process, over texts of one length, 8,192 tokens of them, or 256 texts of lengths that are drawn
anew each round, as in training; 12 heads of 32, on as many threads as torch takes. Medians over the rounds. Writes
results.json.
"""

import argparse
import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.figures import print_table
from gnomon.engines.torch import attention
from gnomon.engines.torch.batch import Spans

LENGTHS = (16, 64, 128, 256)
TOKENS, HEADS, SIZE = 8192, 12, 32
FORMS: tuple[attention.Attention, ...] = (attention.grouped, attention.bucketed)
COLUMNS = ("dtype", "dropout", "tokens of a text", "grouped, ms", "bucketed, ms", "bucketed over grouped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows: list[list[object]] = []
    for dtype, dropout, length in itertools.product((torch.bfloat16, torch.float32), (0.0, 0.1), (*LENGTHS, None)):
        grouped, bucketed = measure(dtype, dropout, length, rounds)
        name = str(dtype).removeprefix("torch.")
        rows.append([name, dropout, length or "mixed", round(grouped), round(bucketed), round(bucketed / grouped, 2)])
    print_table(COLUMNS, rows, f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    results = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


def measure(dtype: torch.dtype, dropout: float, length: int | None, rounds: int) -> list[float]:
    """Milliseconds of each form."""
    drawn = np.random.default_rng(0)
    took: list[list[float]] = []
    for _ in range(rounds + 1):
        lengths = np.full(TOKENS // length, length) if length else draw_lengths(drawn)
        spans = Spans.from_lengths(lengths, torch.device("cpu"))
        q, k, v = (torch.randn(lengths.sum(), HEADS, SIZE, dtype=dtype, requires_grad=True) for _ in range(3))
        took.append([milliseconds(partial(form, q, k, v, spans, spans, dropout)) for form in FORMS])
    return [statistics.median(each) for each in zip(*took[1:], strict=True)]


def draw_lengths(random: np.random.Generator) -> np.ndarray:
    """Half queries of 13 tokens, half sections of 55, in the median; in order of length, as batches are."""
    lengths = np.exp(np.concatenate([random.normal(2.6, 0.6, 128), random.normal(4.0, 0.7, 128)]))
    return np.sort(lengths.astype(np.int64).clip(3, 256))


def milliseconds(form: partial[torch.Tensor]) -> float:
    began = time.perf_counter()
    form().sum().backward()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
