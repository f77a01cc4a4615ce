"""A process of its own for one contender: commands as JSON lines on stdin, answers as JSON lines on stdout.

usage: worker.py CONTENDER FOLDER THREADS DEVICE          answers commands until stdin ends
       worker.py CONTENDER FOLDER THREADS DEVICE --cold   import, load, one vector; prints how long each took
       worker.py toolbox - THREADS DEVICE                 the tools of toolbox.py
"""

import importlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import meters
from contenders import CONTENDERS, Loaded, Setting

Answer = dict[str, Any]
SAMPLE_SECONDS = 0.2
QUERY = "how do I sort a list?"


class Commands:
    """What a contender is asked to do."""

    def __init__(self, loaded: Loaded, device: str) -> None:
        self.loaded, self.device = loaded, device

    def encode(self, texts: str, size: int, out: str | None = None, first: int | None = None) -> Answer:
        """Encode the texts of a file, timed; the vectors of the `first` ones are written to `out`."""
        import numpy as np

        listed = json.loads(Path(texts).read_text())
        meters.reset_peak(self.device)
        meters.synchronize(self.device)
        start = time.perf_counter()
        vectors = self.loaded.encode(listed, size)
        meters.synchronize(self.device)
        seconds = time.perf_counter() - start
        if out:
            np.save(out, np.asarray(vectors[:first]))
        return {"seconds": seconds} | self._memory()

    def latency(self, texts: list[str], size: int) -> Answer:
        """Seconds of each text alone."""
        seconds = []
        for text in texts:
            start = time.perf_counter()
            self.loaded.encode([text], size)
            meters.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds} | self._memory()

    def sampled(self, texts: str, size: int) -> Answer:
        """As `encode`, with the process's memory read five times a second."""
        with sampling() as samples:
            answer = self.encode(texts, size)
        return answer | {"resident_mib": samples}

    def computed(self, lengths: list[int], characters: list[int], size: int) -> Answer:
        """Tokens that are computed, padding included."""
        return {"tokens": int(self.loaded.padded(lengths, characters, size))}

    def _memory(self) -> Answer:
        answer = {"peak_mib": meters.peak_mib(), "device_mib": meters.device_peak_mib(self.device)}
        meters.release(self.device)
        return answer


@contextmanager
def sampling() -> Iterator[list[float]]:
    samples = [meters.resident_mib()]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(meters.resident_mib())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        samples.append(meters.resident_mib())


def cold(name: str, setting: Setting) -> Answer:
    contender = CONTENDERS[name]
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    module, _, attribute = contender.entry.partition(":")
    getattr(importlib.import_module(module), attribute)
    mark()
    loaded = contender.load(setting)
    mark()
    loaded.encode([QUERY], 32)
    mark()
    taken = {name: marks[at + 1] - marks[at] for at, name in enumerate(("import", "load", "first vector"))}
    return taken | {"peak_mib": meters.peak_mib()}


def opened(name: str, setting: Setting) -> Any:
    if name == "toolbox":
        from toolbox import Toolbox

        return Toolbox(setting)
    return Commands(CONTENDERS[name].load(setting), setting.device)


def attempt(work: Callable[[], Answer]) -> Answer:
    """What went wrong is an answer too."""
    try:
        return work()
    except Exception as error:
        told = str(error).strip().splitlines() or [""]
        return {"failed": f"{type(error).__name__}: {told[0][:300]}"}


def serve(name: str, setting: Setting, replies: TextIO) -> None:
    holder: list[Any] = []

    def load() -> Answer:
        holder.append(opened(name, setting))
        return {"ready": name}

    print(json.dumps(attempt(load)), file=replies)
    for line in sys.stdin if holder else ():
        command = json.loads(line)
        do = getattr(holder[0], command.pop("do"))
        print(json.dumps(attempt(lambda do=do, command=command: do(**command))), file=replies)


def main() -> None:
    warnings.simplefilter("ignore")
    name, folder, threads, device, *rest = sys.argv[1:]
    dtype = CONTENDERS[name].dtype if name in CONTENDERS else "float64"
    setting = Setting(Path(folder), int(threads), device, dtype)
    with suppress(OSError):  # where memory runs out, it is a contender that ends, not somebody else's process
        Path("/proc/self/oom_score_adj").write_text("500")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print on stdout goes to stderr
    if rest == ["--cold"]:
        print(json.dumps(attempt(lambda: cold(name, setting))), file=replies)
    else:
        serve(name, setting, replies)
    replies.flush()
    os._exit(0)  # libraries whose threads do not end, or complain when they do


if __name__ == "__main__":
    main()
