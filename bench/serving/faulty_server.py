"""Our server with an engine that misbehaves on certain texts.

usage: python -m bench.serving.faulty_server SERVE-ARGUMENTS

As `gnomon serve`, with an engine that watches for these words in a text: POISON gives NaN, RAISE raises, KILL ends the
thread, STUCK hangs. The variable FAULTY_LARGEST_BATCH is the number of tokens above which it has no memory. How the
engine is wrapped waits for the server: `main` says so until then.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.serving.servers import NO_CACHE, Server

if TYPE_CHECKING:
    from bench.serving.checks import Context

POISON, RAISE, KILL, STUCK = "poisontext", "raisetext", "killtext", "stucktext"
LARGEST = "FAULTY_LARGEST_BATCH"


@contextmanager
def faulty(context: "Context", *options: str, largest_batch: int | None = None) -> Iterator[Server]:
    """A running server of this kind.

    Raises:
        NotPossibleError: its engine cannot be wrapped yet.
    """
    from bench.serving.checks import NotPossibleError

    if not can_wrap():
        raise NotPossibleError("the server has no place yet in which its engine can be replaced")
    server = context.new_server(*NO_CACHE, *options)
    words = [*server.command.words]
    words[words.index("gnomon") : words.index("serve") + 1] = ["bench.serving.faulty_server"]
    variables = dict(server.command.variables) | ({LARGEST: str(largest_batch)} if largest_batch else {})
    server.command = replace(server.command, words=tuple(words), variables=variables)
    with server:
        yield server


def can_wrap() -> bool:
    return False


def main() -> None:
    raise SystemExit(f"{sys.argv[0]}: the engine cannot be wrapped yet. {LARGEST}={os.environ.get(LARGEST, '')}")


if __name__ == "__main__":
    main()
