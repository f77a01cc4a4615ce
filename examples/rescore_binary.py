"""Search with one bit per dimension, and rescore: a thirty-second of the memory, and nearly the same hits.

    python examples/rescore_binary.py
    python examples/rescore_binary.py --model MODEL --corpus texts.jsonl --query "why is it slow?"

The second pass needs the signs and the query alone, not the float vectors.
"""

import argparse
import json
from pathlib import Path

from gnomon import Encoder
from gnomon.search import BinaryIndex, top_k

CORPUS = Path(__file__).parents[1] / "demo" / "python-faq.jsonl"
QUERIES = ["Why are my lists all changing at the same time?", "where does the language get its name from?"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Search with one bit per dimension, and rescore.")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help='JSON lines with a field "text"')
    parser.add_argument("--query", action="append", help="may be repeated")
    options = parser.parse_args()

    texts = [json.loads(line)["text"] for line in options.corpus.read_text("utf-8").splitlines()]
    queries = options.query or QUERIES
    encoder = Encoder.load(options.model)
    vectors, query_vectors = encoder.encode_document(texts, on_truncate="silent"), encoder.encode_query(queries)

    index = BinaryIndex.from_vectors(vectors)
    print(f"{len(texts)} texts: {vectors.nbytes:,} bytes of float32, {index.bits_NB.nbytes:,} bytes of signs")

    _, exact = top_k(query_vectors, vectors, 10)
    _, rescored = index.top_k(query_vectors, 10)  # the nearest 40 by signs, ordered by the query's own numbers
    for number, query in enumerate(queries):
        shared = {*exact[number].tolist()} & {*rescored[number].tolist()}
        print(f"\n{query}\n  {len(shared)} of the 10 best are the same; the best: {texts[rescored[number, 0]][:60]}...")


if __name__ == "__main__":
    main()
