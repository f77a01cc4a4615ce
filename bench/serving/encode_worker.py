"""The bare library in a process of its own, pinned by whoever starts it.

usage: python -m bench.serving.encode_worker SOURCE

Reads one task per line, {"texts": file, "one_by_one": bool}, and prints one line of JSON for each: seconds, processor
seconds, and for texts one by one the milliseconds of each call. The first line says that the model is loaded.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from gnomon import Encoder


def encode_all(encoder: Encoder, texts: list[str]) -> dict[str, Any]:
    start, processor = time.perf_counter(), time.process_time()
    encoder.encode(texts, show_progress_bar=False)
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}


def encode_each(encoder: Encoder, texts: list[str]) -> dict[str, Any]:
    begin, processor, milliseconds = time.perf_counter(), time.process_time(), list[float]()
    for text in texts:
        start = time.perf_counter()
        encoder.encode(text, show_progress_bar=False)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    seconds = time.perf_counter() - begin
    used = time.process_time() - processor
    return {"seconds": seconds, "processor_seconds": used, "milliseconds": milliseconds}


def main() -> None:
    with Encoder.load(sys.argv[1], threads=1) as encoder:
        encoder.encode(["warm", "a text that is a little longer than the other one"] * 8, show_progress_bar=False)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            task = json.loads(line)
            texts = json.loads(Path(task["texts"]).read_text())
            work = encode_each if task["one_by_one"] else encode_all
            print(json.dumps(work(encoder, texts)), flush=True)


if __name__ == "__main__":
    main()
