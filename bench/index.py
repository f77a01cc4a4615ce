"""How long a source of many rows takes to be indexed at a first start, and to be opened at a later one; and whether a
run that goes on at a late step has the batches that it would have had.

    python bench/index.py [--rows 10000000] [--shared FOLDER] [--place FOLDER]

It makes that many (query, positive) rows of short text in parquet files, and runs every start in a process of its
own. What it makes, two gigabytes for 10 million rows and their index, is in a temporary folder, deleted behind it.
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

import meters
from texts import Texts

SHARED = Path(__file__).resolve().parents[2] / "shared"
RUNS = 50_000
"""Different runs of words; a text is two of them."""
ROWS_PER_GROUP, FILES = 100_000, 8
BATCH, LATE, SOME = 64, 100_000, 100
"""Rows of a batch; the step that a run goes on from, and how many batches are compared."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--shared", type=Path, default=SHARED, help="the folder with data/")
    arguments.add_argument("--place", type=Path, help="where the temporary folder is made")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--before", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        print(json.dumps(start(options.child, options.before)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-index-", dir=options.place) as place:
        made = make(Path(place), options.rows, Texts(options.shared / "data"))
        print(f"{options.rows:,} rows, {made / options.rows:.0f} bytes of text in each, {FILES} parquet files")
        orders: list[str] = []
        # the one goes on at once, the other has the batches before it too
        for name, before in (("first start", 0), ("later start", 0), ("uninterrupted", 1_000)):
            told = alone(Path(place), before)
            orders.append(told["order"])
            print(
                f"{name}: {told['seconds']:.2f} s in index_of, {told['process']:.1f} s of the whole process, "
                f"{told['imported MiB']:.0f} MiB resident after imports, {told['peak MiB']:.0f} MiB at most; "
                f"{told['rows']:,} rows, {told['distinct']}; batch {LATE:,} after {told['batch']:.3f} s"
            )
        assert len({*orders}) == 1, orders
        print(f"batches {LATE:,} to {LATE + SOME - 1:,} are the same in all three: {orders[0][:16]}")


def make(place: Path, rows: int, texts: Texts) -> int:
    """Parquet files; returns the bytes of all their texts."""
    runs, random, total = pa.array(texts.brief(RUNS)), np.random.default_rng(0), 0
    for number in range(FILES):
        count = rows * (number + 1) // FILES - rows * number // FILES
        schema = pa.schema({"query": pa.string(), "positive": pa.string()})
        with pq.ParquetWriter(place / f"rows-{number}.parquet", schema) as writer:
            for group in groups(count):
                columns = [joined(runs, random, group) for _ in schema]
                total += sum(pc.sum(pc.binary_length(column)).as_py() for column in columns)
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return total


def groups(rows: int) -> Iterator[int]:
    while rows:
        yield (group := min(rows, ROWS_PER_GROUP))
        rows -= group


def joined(runs: Any, random: np.random.Generator, count: int) -> Any:
    taken = [runs.take(pa.array(random.integers(len(runs), size=count))) for _ in range(2)]
    return pc.binary_join_element_wise(*taken, " ")


def alone(place: Path, before: int) -> dict[str, Any]:
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--child", str(place), "--before", str(before)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(answer) | {"process": time.perf_counter() - begin}


def start(place: Path, before: int) -> dict[str, Any]:
    """What a run does before a batch of a late step, and that batch.

    Args:
        before: how many of the batches in front of it are made first.
    """
    from gnomon.train.data.build import open_dataset
    from gnomon.train.data.sampler import Sampler
    from gnomon.train.recipe.schema import DataSource

    imported, begin = meters.resident_mib(), time.perf_counter()
    index = open_dataset(DataSource((str(place / "*.parquet"),)), place / "cache")
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
    peak = meters.peak_mib()
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
