"""One part of bench/gpu.sh in a process of its own: rows of results as JSON lines, each written as soon as it is known.

usage: python -m bench.gpu.part PART DEVICE MODELS ROWS_FILE
"""

import importlib.util
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Report:
    """Where a part writes its rows. Verdicts: passed, failed, skipped (it cannot run here), measured."""

    device: str
    models: Path
    file: Path
    _begin: float = field(default_factory=time.perf_counter)

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    def add(self, name: str, verdict: str, **facts: Any) -> None:
        now = time.perf_counter()
        row = {"name": name, "verdict": verdict, "seconds": round(now - self._begin, 3), **facts}
        self._begin = now
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def check(self, name: str, work: Callable[[], float], limit: float, **facts: Any) -> None:
        """Passed where the figure is at most the limit."""
        with self._going_on(name):
            figure = float(work())
            good = math.isfinite(figure) and figure <= limit
            self.add(name, "passed" if good else "failed", figure=figure, limit=float(limit), **facts)

    def measure(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Facts without a limit."""
        with self._going_on(name):
            self.add(name, "measured", **work())

    def skip(self, name: str, note: str) -> None:
        self.add(name, "skipped", note=note)

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        """An exception is a failure, and the part goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add(name, "failed", note=f"{type(error).__name__}: {str(error)[:300]}")


def write_models(report: Report) -> None:
    from bench.gpu import models

    for name in models.FULL:
        models.write(name, report.models, tiny=report.tiny)
        report.add(name, "measured", note="written, or there already")


def run_tests(report: Report) -> None:
    """The tests that need a GPU, in files named test_cuda*.py."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        note = (
            f"{' and '.join(missing)} not installed; the parts attention, engine and training are the built-in checks"
        )
        return report.skip("pytest", note)
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_cuda*.py"))]
    # warnings are errors only under the versions that the project pins
    options = ["-rs", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, file=sys.stderr)
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "no output")
    none_ran = done.returncode == 0 and "passed" not in last
    verdict = "skipped" if none_ran and report.tiny else "failed" if done.returncode or none_ran else "passed"
    return report.add("pytest", verdict, note=last, status=done.returncode)


def main() -> None:
    name, device, models, file = sys.argv[1:]
    report = Report(device, Path(models), Path(file))
    if name == "attention":
        from bench.gpu.attention import check
    elif name == "engine":
        from bench.gpu.engine import check
    elif name == "training":
        from bench.gpu.training import check
    elif name == "speed":
        from bench.gpu.speed import measure as check
    else:
        check = {"models": write_models, "tests": run_tests}[name]
    with suppress(BrokenPipeError):
        check(report)


if __name__ == "__main__":
    main()
