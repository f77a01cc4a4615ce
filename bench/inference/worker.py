"""A process of its own for one system: commands as JSON lines on stdin, answers as JSON lines on stdout.

usage: python -m bench.inference.worker SYSTEM FOLDER THREADS DEVICE         answers commands until stdin ends
       python -m bench.inference.worker SYSTEM FOLDER THREADS DEVICE --cold  seconds of import, load, one vector
       python -m bench.inference.worker reference - THREADS DEVICE           the commands of reference.py
"""

import importlib
import json
import os
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import machine
from bench.inference.reference import Reference
from bench.inference.systems import SYSTEMS, Loaded, Setting
from bench.process import Answer, attempt

QUERY = "how do I sort a list?"


class Commands:
    """What a system is sent."""

    def __init__(self, loaded: Loaded, device: str) -> None:
        self.loaded, self.device = loaded, device

    def encode(self, texts: str, size: int, out: str | None = None, first: int | None = None) -> Answer:
        """Encode the texts of a file, timed; the vectors of the `first` ones are written to `out`."""
        import numpy as np

        listed = json.loads(Path(texts).read_text())
        machine.reset_peak(self.device)
        vectors, seconds = self._time(listed, size)
        if out:
            np.save(out, np.asarray(vectors[:first]))
        peaks = {"peak_mib": machine.peak_mib(), "device_mib": machine.device_peak_mib(self.device)}
        machine.release(self.device)
        return {"seconds": seconds, **peaks}

    def latency(self, texts: list[str], size: int) -> Answer:
        """Seconds of each text alone."""
        return {"seconds": [self._time([text], size)[1] for text in texts]}

    def computed(self, lengths: list[int], characters: list[int], size: int) -> Answer:
        """Tokens that are computed, padding included."""
        return {"tokens": int(self.loaded.padded(lengths, characters, size))}

    def _time(self, texts: list[str], size: int) -> tuple[Any, float]:
        machine.synchronize(self.device)
        start = time.perf_counter()
        vectors = self.loaded.encode(texts, size)
        machine.synchronize(self.device)
        return vectors, time.perf_counter() - start


def start_cold(name: str, setting: Setting) -> Answer:
    system = SYSTEMS[name]
    start = time.perf_counter()
    module, _, attribute = system.entry.partition(":")
    getattr(importlib.import_module(module), attribute)
    imported = time.perf_counter()
    loaded = system.load(setting)
    ready = time.perf_counter()
    loaded.encode([QUERY], 32)
    seconds = {"import": imported - start, "load": ready - imported, "first vector": time.perf_counter() - ready}
    return seconds | {"peak_mib": machine.peak_mib()}


def open_commands(name: str, setting: Setting) -> Commands | Reference:
    return Reference(setting) if name == "reference" else Commands(SYSTEMS[name].load(setting), setting.device)


def main() -> None:
    warnings.simplefilter("ignore")
    name, folder, threads, device, *rest = sys.argv[1:]
    setting = Setting(Path(folder), int(threads), device, SYSTEMS[name].dtype if name in SYSTEMS else "float64")
    with suppress(OSError):  # where memory runs out, it is a system that ends, not somebody else's process
        Path("/proc/self/oom_score_adj").write_text("500")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print on stdout goes to stderr
    if rest == ["--cold"]:
        print(attempt(lambda: start_cold(name, setting)), file=replies)
    else:
        opened: list[Any] = []
        print(attempt(lambda: opened.append(open_commands(name, setting)) or {}), file=replies)
        for line in sys.stdin if opened else ():
            command = json.loads(line)
            do = getattr(opened[0], command.pop("do"))
            print(attempt(lambda do=do, command=command: do(**command)), file=replies)
    replies.flush()
    os._exit(0)  # libraries whose threads do not end, or complain when they do


if __name__ == "__main__":
    main()
