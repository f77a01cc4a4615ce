"""How long a source of many rows takes to be indexed at a first start, and to be opened at a later one; and whether a
run that goes on at a late step has the batches that it would have had.

    python -m bench.index.run [--rows 10000000] [--shared FOLDER]

It writes that many (query, positive) rows of short text into Parquet files, and runs every start in a process of its
own. All of it, two gigabytes for 10 million rows and their index, is in a temporary folder (TMPDIR names its parent),
deleted afterwards.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench import machine
from bench.figures import print_table
from bench.process import ROOT, Answer, run_process
from bench.texts import Texts
from gnomon.train.data.build import open_dataset
from gnomon.train.data.sampler import Sampler
from gnomon.train.recipe.schema import DataSource

RUNS = 50_000
"""Different runs of words; a text is two of them."""
ROWS_PER_FILE = 1_000_000
BATCH, LATE, SOME = 64, 100_000, 100
"""Rows of a batch; the step that a run goes on from, and how many batches are compared."""
STARTS = {"first start": 0, "later start": 0, "uninterrupted": 1_000}
"""Batches before the late step that are drawn first."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the folder with data/")
    arguments.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.start:
        print(json.dumps(start(Path(options.start[0]), int(options.start[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-index-") as place:
        write_rows(Path(place), options.rows, Texts(options.shared / "data"))
        command = [sys.executable, "-m", "bench.index.run", "--start", place]
        answers = [run_process([*command, str(before)], machine.cores()) for before in STARTS.values()]
    columns = ("seconds to open", "MiB after imports", "peak MiB", "rows", "seconds of the late batch")
    rows = [(name, *(f"{answer[key]:,.2f}" for key in columns)) for name, answer in zip(STARTS, answers, strict=True)]
    print_table(("", *columns), rows)
    assert len({answer["order"] for answer in answers}) == 1, "the batches differ"
    print(f"batches {LATE:,} to {LATE + SOME - 1:,} are the same in all: {answers[0]['order'][:16]}")


def write_rows(place: Path, rows: int, texts: Texts) -> None:
    """Parquet files of rows whose texts are two runs of words each."""
    runs, random = pa.array(texts.brief(RUNS)), np.random.default_rng(0)
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        drawn = random.integers(len(runs), size=(4, min(ROWS_PER_FILE, rows - first)))
        words = [runs.take(pa.array(each)) for each in drawn]
        query, positive = (pc.binary_join_element_wise(*words[at : at + 2], " ") for at in (0, 2))
        table = pa.table({"query": query, "positive": positive})
        pq.write_table(table, place / f"rows-{number}.parquet", row_group_size=100_000)


def start(place: Path, before: int) -> Answer:
    """What a run does before a batch of a late step, and that batch.

    Args:
        before: how many of the batches before it are drawn first.
    """
    imported, begin = machine.resident_mib(), time.perf_counter()
    index = open_dataset(DataSource((str(place / "*.parquet"),)), place / "cache")
    answer = {"seconds to open": time.perf_counter() - begin, "MiB after imports": imported, "rows": index.rows}
    sampler = Sampler([index], [1.0], batch_size=BATCH, seed=42)
    for batch in range(LATE - before, LATE):
        sampler.batch_at(batch)
    begin = time.perf_counter()
    first = sampler.batch_at(LATE)
    assert all(index.texts("query", first.rows_B)) and all(index.texts("positive", first.rows_B))
    answer |= {"seconds of the late batch": time.perf_counter() - begin, "peak MiB": machine.peak_mib()}
    order = b"".join(sampler.batch_at(batch).rows_B.tobytes() for batch in range(LATE, LATE + SOME))
    return answer | {"order": hashlib.sha256(order).hexdigest()}


if __name__ == "__main__":
    main()
