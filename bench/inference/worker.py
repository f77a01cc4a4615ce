"""A process of its own for one system: commands as JSON lines on stdin, answers as JSON lines on stdout.

usage: python -m bench.inference.worker SYSTEM FOLDER THREADS DEVICE         answers commands until stdin ends
       python -m bench.inference.worker SYSTEM FOLDER THREADS DEVICE --cold  seconds of import, load, one vector
       python -m bench.inference.worker reference - THREADS DEVICE           the commands of reference.py
"""

import importlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import machine
from bench.inference.systems import SYSTEMS, Loaded, Setting

Answer = dict[str, Any]
SAMPLE_SECONDS = 0.2
QUERY = "how do I sort a list?"


class Commands:
    """What a system is sent."""

    def __init__(self, loaded: Loaded, device: str) -> None:
        self.loaded, self.device = loaded, device

    def get_ready(self) -> Answer:
        return {}

    def encode(self, texts: str, size: int, out: str | None = None, first: int | None = None) -> Answer:
        """Encode the texts of a file, timed; the vectors of the `first` ones are written to `out`."""
        import numpy as np

        listed = json.loads(Path(texts).read_text())
        machine.reset_peak(self.device)
        vectors, seconds = self._time(listed, size)
        if out:
            np.save(out, np.asarray(vectors[:first]))
        answer = {"seconds": seconds, "peak_mib": machine.peak_mib()}
        answer["device_mib"] = machine.device_peak_mib(self.device)
        machine.release(self.device)
        return answer

    def latency(self, texts: list[str], size: int) -> Answer:
        """Seconds of each text alone."""
        return {"seconds": [self._time([text], size)[1] for text in texts]}

    def sampled(self, texts: str, size: int) -> Answer:
        """As `encode`, with the process's memory read five times a second."""
        samples, over = [machine.resident_mib()], threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_SECONDS):
                samples.append(machine.resident_mib())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        answer = self.encode(texts, size)
        over.set()
        thread.join()
        return answer | {"resident_mib": [*samples, machine.resident_mib()]}

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
    marks = [time.perf_counter()]
    module, _, attribute = system.entry.partition(":")
    getattr(importlib.import_module(module), attribute)
    marks.append(time.perf_counter())
    loaded = system.load(setting)
    marks.append(time.perf_counter())
    loaded.encode([QUERY], 32)
    marks.append(time.perf_counter())
    seconds = {name: marks[at + 1] - marks[at] for at, name in enumerate(("import", "load", "first vector"))}
    return seconds | {"peak_mib": machine.peak_mib()}


def attempt(work: Callable[[], Answer]) -> str:
    """The answer as JSON; what went wrong is an answer too."""
    try:
        return json.dumps(work())
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return json.dumps({"failed": f"{type(error).__name__}: {lines[0][:300]}"})


def open_commands(name: str, setting: Setting) -> Any:
    if name != "reference":
        return Commands(SYSTEMS[name].load(setting), setting.device)
    from bench.inference.reference import Reference

    return Reference(setting)


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
