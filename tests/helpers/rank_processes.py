"""Functions run as the ranks of a run: in processes of their own, as torchrun would start them, or as threads."""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnomon.train.distributed import Ranks

LONGEST = 300.0
"""Seconds after which a process that has not ended is taken for one that hangs."""


PRELOADED = ["gnomon.train.trainer", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "tomlkit", "pytest"]
"""What a run imports, here or on its way."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: with a value, with an error, or by a signal."""

    value: Any = None
    error: str = ""
    """Name and message of its exception."""
    trace: str = ""
    signal: int = 0


def in_processes(function: Callable[..., Any], *args: Any, world: int = 1) -> list[Ended]:
    """Run a function in `world` new processes that find each other as ranks. It must be importable and args picklable.

    They are forked from a server that has torch imported: ten of them start in the time of one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    held, started = _hold_free_port(), []
    for rank in range(world):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, rank, world, held.getsockname()[1], function, args))
        process.start()
        theirs.close()
        started.append((process, mine))
    try:
        return [_ended(process, pipe) for process, pipe in started]
    finally:
        held.close()
        for process, pipe in started:
            pipe.close()
            process.kill()
            process.join()
            process.close()


def in_process(function: Callable[..., Any], *args: Any) -> Ended:
    (ended,) = in_processes(function, *args)
    return ended


def execute(code: str, folder: Path) -> str:
    """What Python prints that works on a `folder`."""
    with redirect_stdout(StringIO()) as out:
        exec(code, {"folder": folder})
    return out.getvalue()


def _ended(process: Any, pipe: Connection) -> Ended:
    process_hangs = not pipe.poll(LONGEST)
    assert not process_hangs, f"a process still runs after {LONGEST} seconds"
    try:
        said = pipe.recv_bytes()
    except EOFError:
        process.join(LONGEST)
        return Ended(signal=-process.exitcode)
    process.join(LONGEST)
    assert process.exitcode is not None, "a process does not end"
    return pickle.loads(said)


def _run(pipe: Connection, rank: int, world: int, port: int, function: Callable[..., Any], args: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server's children ignore it
    torch.set_num_threads(1)
    if world > 1:
        where = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()}
    try:
        ended = Ended(function(*args))
    except BaseException as error:
        ended = Ended(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    pipe.send_bytes(pickle.dumps(ended))


def _hold_free_port() -> socket.socket:
    """A port for a process to listen on; as long as this socket is open, the system gives it to no test beside it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


# ---- threads


@dataclass
class _Table:
    """Where threads lay down what all of them need."""

    barrier: threading.Barrier
    laid: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is a thread of this process: the same sums and orders, without processes."""

    table: _Table | None = None

    def all_gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self._all(rows.detach().clone()))

    def all_reduce(self, tensors: Any) -> None:
        tensors = [*tensors]
        everyone = self._all([tensor.clone() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([each[place] for each in everyone]).sum(0))

    def sum_numbers(self, *numbers: float) -> list[float]:
        return [sum(each) for each in zip(*self._all(numbers), strict=True)]

    def _all(self, mine: Any) -> list[Any]:
        assert self.table is not None
        self.table.laid[self.rank] = mine
        self.table.barrier.wait(LONGEST)
        found = [self.table.laid[rank] for rank in range(self.world_size)]
        self.table.barrier.wait(LONGEST)
        return found


def in_threads(function: Callable[[Ranks], Any], world: int = 2) -> list[Any]:
    """What a function returns on each of `world` ranks. For what draws no random numbers: threads share torch's."""
    table = _Table(threading.Barrier(world))
    found: dict[int, Any] = {}
    errors: list[BaseException] = []

    def rank(number: int) -> None:
        try:
            found[number] = function(Thread(number, world, table=table))
        except BaseException as error:
            errors.append(error)
            table.barrier.abort()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    assert not errors, errors
    return [found[number] for number in range(world)]
