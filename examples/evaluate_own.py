"""Evaluate a model on your own search data, beside BM25.

    python examples/evaluate_own.py
    python examples/evaluate_own.py --model MODEL --data FOLDER --output evaluation

FOLDER has BEIR's layout: corpus.jsonl and queries.jsonl (_id, text, title), and qrels/test.tsv (query-id, corpus-id,
score).
Needs pip install '.[evaluate]'.
"""

import argparse
from pathlib import Path

from gnomon import Encoder
from gnomon.evaluate import evaluate

DATA = Path(__file__).parent / "data" / "search-set"


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a model on own search data, beside BM25.")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=Path("evaluation"))
    options = parser.parse_args()

    results = evaluate(
        Encoder.load(options.model), data=[options.data], output=options.output, methods=["dense", "bm25", "rrf"]
    )
    for result in results:
        interval = f"  (95 %: {result.interval.low:.3f} to {result.interval.high:.3f})" if result.interval else ""
        print(f"{result.score:.3f}  {result.label}{interval}")
    print(f"\nThe results are in {options.output}. A page of them: gnomon report {options.output}")


if __name__ == "__main__":
    main()
