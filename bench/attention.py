"""Forms of attention that learn on a CPU, with their gradients: torch's own kernel beside spelled out, by length.

    python bench/attention.py [--tokens 4096] [--rounds 5]

Both sides alternate in one process, over the same texts of one length, 12 heads, on as many threads as torch takes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from gnomon.engines.torch import attention
from gnomon.engines.torch.batch import Spans

LENGTHS = (16, 64, 128, 256, 512, 1024, 2048)
HEADS = 12
FORMS: dict[str, attention.Attention] = {
    "torch's own": attention.grouped,
    "spelled out": partial(attention._by_run, spelled_out=max(LENGTHS)),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--tokens", type=int, default=4096)
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.tokens} tokens a batch\n")
    print("| dtype | head | length | torch's own, ms | spelled out, ms | spelled out over torch's own |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for size in (32, 64):
            for length in LENGTHS:
                own, spelled = measured(dtype, size, length, texts=max(1, given.tokens // length), rounds=given.rounds)
                name = str(dtype).removeprefix("torch.")
                print(f"| {name} | {size} | {length} | {own:.0f} | {spelled:.0f} | {spelled / own:.2f} |", flush=True)


def measured(dtype: torch.dtype, size: int, length: int, *, texts: int, rounds: int) -> list[float]:
    """Milliseconds of each form, forward and backward: medians over rounds in which they take turns."""
    spans = Spans.of(np.full(texts, length), torch.device("cpu"))
    q, k, v = (torch.randn(texts * length, HEADS, size, dtype=dtype, requires_grad=True) for _ in range(3))

    def run(form: attention.Attention) -> None:
        form(q, k, v, spans, spans, 0.0).sum().backward()

    took = [[_milliseconds(partial(run, form)) for form in FORMS.values()] for _ in range(rounds + 1)]
    return [statistics.median(each) for each in zip(*took[1:], strict=True)]


def _milliseconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
