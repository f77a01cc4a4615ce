"""Embed a column of a table, read the vectors back, and list rows that say nearly the same.

    python examples/embed_table.py
    python examples/embed_table.py --table products.csv --field title --output products.npy --threshold 0.8

Vectors that are there already are used again.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from gnomon import Encoder, read_vectors

TABLE = Path(__file__).parent / "data" / "products.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed a column of a table and list near duplicates.")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--field", default="title", help="the column of the text")
    parser.add_argument("--output", type=Path, default=Path("products.npy"))
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--threshold", type=float, default=0.75, help="cosine from which two rows are near duplicates")
    options = parser.parse_args()

    # one vector per row; OUTPUT.json, beside it, names the model. Vectors that are there are used again
    if not options.output.exists():
        command = ["encode", options.model, str(options.table), str(options.output), "--field", options.field]
        subprocess.run([sys.executable, "-m", "gnomon", *command], check=True)

    # read_vectors refuses vectors of another model
    stored = read_vectors(options.output, Encoder.load(options.model).space())
    with options.table.open(encoding="utf-8", newline="") as file:
        texts = [row[options.field] for row in csv.DictReader(file)]
    print(f"{len(texts)} rows, vectors of {stored.vectors_BD.shape[1]} dimensions in {options.output}")

    # the model's vectors have unit length, so their products are cosines; each pair once
    cosines = np.triu(stored.vectors_BD @ stored.vectors_BD.T, k=1)
    for a, b in np.argwhere(cosines >= options.threshold):
        print(f"{cosines[a, b]:.3f}  {texts[a]}  =  {texts[b]}")


if __name__ == "__main__":
    main()
