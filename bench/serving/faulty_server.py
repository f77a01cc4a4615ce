"""Our server with an engine that misbehaves on certain texts.

usage: python -m bench.serving.faulty_server SERVE-ARGUMENTS

As `gnomon serve`, with an engine that looks for these words in a text: POISON gives NaN; RAISE raises; DIE lets it fail
for ever, until it is opened anew; HANG never returns; END ends the thread that called it, after its step. The variable
FAULTY_LARGEST_BATCH is the number of tokens above which it has no memory.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.serving.servers import NO_CACHE, Server
from gnomon.engines.protocol import Engine
from gnomon.packed import Packed, Vectors, split_per_text

if TYPE_CHECKING:
    from bench.serving.checks import Context

POISON, RAISE, DIE, HANG, END = "poisontext", "raisetext", "dietext", "hangtext", "endtext"
LARGEST = "FAULTY_LARGEST_BATCH"
REOPEN_SECONDS = 2.0
"""How long opening an engine takes here, so that somebody who asks meanwhile sees that it is down."""


class FaultyEngine(Engine):
    """Another engine, but for texts with one of the words.

    Args:
        find_ids: the token ids of a word within a text.
        largest: tokens that it has memory for.
    """

    def __init__(self, inner: Engine, find_ids: Callable[[str], list[int]], largest: int | None = None) -> None:
        self.inner, self.largest, self.dead = inner, largest, False
        self.name, self.identity, self.device, self.dtype = inner.name, inner.identity, inner.device, inner.dtype
        self.padding = inner.padding
        self.words = {word: find_ids(word) for word in (POISON, RAISE, DIE, HANG, END)}

    def budget(self, total_tokens: int) -> int:
        return self.inner.budget(total_tokens)

    def pool(self, packed: Packed) -> Vectors:
        texts = [ids_T.tolist() for ids_T in split_per_text(packed.ids_T, packed)]
        rows = {word: [row for row, ids in enumerate(texts) if holds(ids, run)] for word, run in self.words.items()}
        self.dead = self.dead or bool(rows[DIE])
        if self.dead:
            raise RuntimeError("the device is lost")
        if rows[RAISE]:
            raise RuntimeError("a text that cannot be computed")
        if rows[HANG]:
            threading.Event().wait()
        if self.largest is not None and len(packed.ids_T) > self.largest:
            raise MemoryError("out of memory")
        vectors_BD = self.inner.pool(packed)
        if rows[POISON]:
            vectors_BD = vectors_BD.copy()
            vectors_BD[rows[POISON]] = np.nan
        if rows[END]:
            end_later(threading.get_ident())
        return vectors_BD

    def states(self, packed: Packed) -> Vectors:
        return self.inner.states(packed)

    def close(self) -> None:
        self.inner.close()
        super().close()


def holds(ids: list[int], run: list[int]) -> bool:
    return any(ids[start : start + len(run)] == run for start in range(len(ids) - len(run) + 1))


def end_later(ident: int, seconds: float = 0.5) -> None:
    """Let a thread end wherever it then is, as after a fault that nobody catches."""

    def end() -> None:
        time.sleep(seconds)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit))

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def faulty(context: "Context", *options: str, largest_batch: int | None = None) -> Iterator[Server]:
    """A running server of this kind."""
    server = context.new_server(*NO_CACHE, *options)
    words = [*server.command.words]
    words[words.index("gnomon") : words.index("serve") + 1] = ["bench.serving.faulty_server"]
    variables = dict(server.command.variables) | ({LARGEST: str(largest_batch)} if largest_batch else {})
    server.command = replace(server.command, words=tuple(words), variables=variables)
    with server:
        yield server


def load_faulty(options: Any) -> Any:
    """The encoder of a model, on a faulty engine."""
    from gnomon import Encoder
    from gnomon.serve.models import load_encoder

    encoder = load_encoder(options)
    largest = int(os.environ.get(LARGEST, 0)) or None
    engine = FaultyEngine(encoder.engine, lambda word: encoder.tokenize(word, prompt="").ids[0][1:-1].tolist(), largest)
    return Encoder(encoder.checkpoint, engine=engine)


def main() -> None:
    from gnomon import Encoder
    from gnomon.__main__ import main as run_command
    from gnomon.serve import run
    from gnomon.serve.app import App

    reopen, run_server = Encoder.reopen, run.run_server

    def reopen_slowly(encoder: Encoder) -> Encoder:
        time.sleep(REOPEN_SECONDS)
        return reopen(encoder)

    Encoder.reopen = reopen_slowly
    run.run_server = lambda options: run_server(options, lambda options: App(options, load=load_faulty))
    sys.argv = ["gnomon", "serve", *sys.argv[1:]]
    run_command()


if __name__ == "__main__":
    main()
