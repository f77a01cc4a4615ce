"""What the stages of one run share."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan import Plan
from processes import Bench, Worker
from texts import Texts

Result = dict[str, Any]


@dataclass(frozen=True)
class Measuring:
    """What a whole run shares."""

    bench: Bench
    plan: Plan
    texts: Texts
    names: list[str]
    toolbox: Worker
    place: Path
    """A folder for files of texts and vectors, deleted behind the run."""

    def file(self, texts: Sequence[str], name: str = "texts") -> str:
        path = self.place / f"{name}.json"
        path.write_text(json.dumps(list(texts)))
        return str(path)


@contextmanager
def measuring(bench: Bench, plan: Plan, texts: Texts, names: list[str]) -> Iterator[Measuring]:
    toolbox = Worker(bench, "toolbox", "-")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            yield Measuring(bench, plan, texts, names, toolbox, Path(place))
    finally:
        toolbox.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
