"""What `gnomon evaluate` costs beside mteb with vectors that are there already, plus the encoding alone.

    python bench/overhead.py MODEL [--data FOLDER] [--rounds 5]

Both sides alternate in one process over one loaded model: ours judges the set from nothing (an empty cache on disk,
manifest, intervals and all); the other encodes the texts, and then lets mteb judge the vectors.
"""

import argparse
import logging
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np

from gnomon import Encoder
from gnomon.evaluate import MtebEncoder, evaluate
from gnomon.evaluate.local.find import read_local
from gnomon.evaluate.mteb.tasks import build_local_task, load_task

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Precomputed(MtebEncoder):
    """mteb's encoder over arrays: whatever it is asked for is there."""

    arrays: dict[str, np.ndarray]

    def encode(self, inputs: Any, *, prompt_type: Any = None, **said: Any) -> np.ndarray:
        for _ in inputs:  # mteb's own loader is mteb's cost
            pass
        return self.arrays[prompt_type.value]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("--data", type=Path, default=DATA / "retrieval_defs")
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    logging.getLogger("mteb").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore")
    encoder = Encoder.load(asked.model)
    _ = encoder.fingerprint  # once a model, not once a run
    ours: list[float] = []
    theirs: list[tuple[float, float]] = []
    for number in range(asked.rounds + 1):
        pair = (run_ours(encoder, asked.data), run_theirs(encoder, asked.data))
        if number:  # the first round warms both up
            ours.append(pair[0])
            theirs.append(pair[1])
        print(
            f"round {number}: gnomon evaluate {pair[0]:.2f} s; encoding {pair[1][0]:.2f} s + mteb {pair[1][1]:.2f} s",
            flush=True,
        )
    ratio = statistics.median(ours) / statistics.median(sum(pair) for pair in theirs)
    paired = statistics.median(mine / sum(other) for mine, other in zip(ours, theirs, strict=True))
    print(
        f"{asked.data.name}, {encoder.name}: {ratio:.4f} times (medians), {paired:.4f} (median of the rounds' ratios)"
    )


def run_ours(encoder: Encoder, data: Path) -> float:
    folder = tempfile.mkdtemp()
    start = time.monotonic()
    evaluate(encoder, data=[data], output=folder)
    seconds = time.monotonic() - start
    shutil.rmtree(folder)
    return seconds


def run_theirs(encoder: Encoder, data: Path) -> tuple[float, float]:
    """(seconds of encoding alone, seconds of mteb with the vectors: reading the data, judging)"""
    texts = read_local(data)[0].subsets["default"]["test"]
    documents = [f"{title} {text}".strip() for title, text in texts.documents.values()]  # type: ignore[union-attr]
    queries = list(texts.queries.values())  # type: ignore[union-attr]
    start = time.monotonic()
    arrays = {"query": encoder.encode_query(queries), "document": encoder.encode_document(documents)}
    encoded = time.monotonic()
    task = build_local_task(read_local(data)[0], "test")
    load_task(task)
    model = Precomputed(encoder)
    model.arrays = arrays
    mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return encoded - start, time.monotonic() - encoded


if __name__ == "__main__":
    main()
