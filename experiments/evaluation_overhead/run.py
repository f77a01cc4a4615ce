"""What `gnomon evaluate` costs beside mteb with vectors that are there already, plus the encoding alone.

    python -m experiments.evaluation_overhead.run MODEL [--data FOLDER] [--rounds 5]

Both sides alternate in one process over one loaded model: ours evaluates the set from nothing (an empty cache on disk,
manifest, intervals and all); the other encodes the texts, and then lets mteb evaluate the vectors. Writes results.json.
"""

import argparse
import json
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

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class Precomputed(MtebEncoder):
    """mteb's encoder over arrays: whatever it requests is there."""

    arrays: dict[str, np.ndarray]

    def encode(self, inputs: Any, *, prompt_type: Any = None, **options: Any) -> np.ndarray:
        for _ in inputs:  # mteb's own loader is mteb's cost
            pass
        return self.arrays[prompt_type.value]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("--data", type=Path, default=DATA / "retrieval_defs")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    logging.getLogger("mteb").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore")
    encoder = Encoder.load(options.model)
    _ = encoder.fingerprint  # once a model, not once a run
    rounds: list[tuple[float, float, float]] = []
    for number in range(options.rounds + 1):
        rounds.append((run_ours(encoder, options.data), *run_theirs(encoder, options.data)))
        print(f"round {number}: {rounds[-1]}", flush=True)
    ours, encoding, others = zip(*rounds[1:], strict=True)  # the first round warms both up
    theirs = [sum(pair) for pair in zip(encoding, others, strict=True)]
    results = {
        "data": options.data.name,
        "model": encoder.name,
        "gnomon_s": statistics.median(ours),
        "encoding_and_mteb_s": statistics.median(theirs),
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
        "median_of_ratios": statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
    }
    print(results)
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


def run_ours(encoder: Encoder, data: Path) -> float:
    folder = tempfile.mkdtemp()
    start = time.monotonic()
    evaluate(encoder, data=[data], output=folder)
    seconds = time.monotonic() - start
    shutil.rmtree(folder)
    return seconds


def run_theirs(encoder: Encoder, data: Path) -> tuple[float, float]:
    """(seconds of encoding alone, seconds of mteb with the vectors: reading the data, evaluating)"""
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
