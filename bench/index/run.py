"""How long a source of many rows takes to be indexed at a first start, and to be opened at a later one; and whether a
run that goes on at a late step has the batches that it would have had.

    python -m bench.index.run [--rows 10000000] [--shared FOLDER] [--place FOLDER]

It writes that many (query, positive) rows of short text into Parquet files, and runs every start in a process of its
own. All of it, two gigabytes for 10 million rows and their index, is in a temporary folder, deleted afterwards.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench import machine
from bench.texts import Texts
from gnomon.train.data import index_of
from gnomon.train.sampler import Sampler
from gnomon.train.settings import DataSource

SHARED = Path(__file__).resolve().parents[3] / "shared"
RUNS = 50_000
"""Different runs of words; a text is two of them."""
ROWS_PER_GROUP, FILES = 100_000, 8
BATCH, LATE, SOME = 64, 100_000, 100
"""Rows of a batch; the step that a run goes on from, and how many batches are compared."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--shared", type=Path, default=SHARED, help="the folder with data/")
    arguments.add_argument("--place", type=Path, help="parent of the temporary folder")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--before", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        print(json.dumps(start(options.child, options.before)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-index-", dir=options.place) as place:
        size = write_rows(Path(place), options.rows, Texts(options.shared / "data"))
        print(f"{options.rows:,} rows, {size / options.rows:.0f} bytes of text in each, {FILES} parquet files")
        orders: list[str] = []
        # the one goes on at once, the other has the batches before it too
        for name, before in (("first start", 0), ("later start", 0), ("uninterrupted", 1_000)):
            facts = run_alone(Path(place), before)
            orders.append(facts["order"])
            print(
                f"{name}: {facts['seconds']:.2f} s in index_of, {facts['process']:.1f} s of the whole process, "
                f"{facts['imported MiB']:.0f} MiB resident after imports, {facts['peak MiB']:.0f} MiB at most; "
                f"{facts['rows']:,} rows, {facts['distinct']}; batch {LATE:,} after {facts['batch']:.3f} s"
            )
        assert len({*orders}) == 1, orders
        print(f"batches {LATE:,} to {LATE + SOME - 1:,} are the same in all three: {orders[0][:16]}")


def write_rows(place: Path, rows: int, texts: Texts) -> int:
    """Parquet files; returns the bytes of all their texts."""
    runs, random, total = pa.array(texts.brief(RUNS)), np.random.default_rng(0), 0
    for number in range(FILES):
        count = rows * (number + 1) // FILES - rows * number // FILES
        schema = pa.schema({"query": pa.string(), "positive": pa.string()})
        with pq.ParquetWriter(place / f"rows-{number}.parquet", schema) as writer:
            for group in groups(count):
                columns = [join_runs(runs, random, group) for _ in schema]
                total += sum(pc.sum(pc.binary_length(column)).as_py() for column in columns)
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return total


def groups(rows: int) -> Iterator[int]:
    while rows:
        yield (group := min(rows, ROWS_PER_GROUP))
        rows -= group


def join_runs(runs: Any, random: np.random.Generator, count: int) -> Any:
    taken = [runs.take(pa.array(random.integers(len(runs), size=count))) for _ in range(2)]
    return pc.binary_join_element_wise(*taken, " ")


def run_alone(place: Path, before: int) -> dict[str, Any]:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "bench.index.run", "--child", str(place), "--before", str(before)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(answer) | {"process": time.perf_counter() - begin}


def start(place: Path, before: int) -> dict[str, Any]:
    """What a run does before a batch of a late step, and that batch.

    Args:
        before: how many of the batches before it are drawn first.
    """
    imported, begin = machine.resident_mib(), time.perf_counter()
    index = index_of(DataSource((str(place / "*.parquet"),)), place / "cache")
    seconds = time.perf_counter() - begin
    sampler = Sampler([index], [1.0], batch_size=BATCH, seed=42)
    for batch in range(LATE - before, LATE):
        sampler.batch_at(batch)
    begin, order = time.perf_counter(), hashlib.sha256()
    first = sampler.batch_at(LATE)
    assert all(index.texts("query", first.rows_B)) and all(index.texts("positive", first.rows_B))
    took = time.perf_counter() - begin
    for batch in range(LATE, LATE + SOME):
        order.update(sampler.batch_at(batch).rows_B.tobytes())
    peak = machine.peak_mib()
    return {
        "seconds": seconds,
        "imported MiB": imported,
        "peak MiB": peak,
        "rows": index.rows,
        "distinct": dict(index.distinct),
        "batch": took,
        "order": order.hexdigest(),
    }


if __name__ == "__main__":
    main()
