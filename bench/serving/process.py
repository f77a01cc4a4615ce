"""Processor time, memory and descriptors of a process and its children, from /proc."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import PAGE

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a tree of processes has used until now, or holds now."""

    processor_seconds: float
    """Since its start, children that have ended included."""
    resident_mib: float
    """Sum over the processes: memory that they share counts in each."""
    descriptors: int
    threads: int
    processes: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def tree_pids(pid: int) -> list[int]:
    """The process, its children, and theirs. A process that has ended is not among them."""
    pids, waiting = list[int](), [pid]
    while waiting:
        current = waiting.pop()
        with suppress(OSError):
            tasks = list(Path(f"/proc/{current}/task").iterdir())
            pids.append(current)
            for task in tasks:
                with suppress(OSError):
                    waiting += map(int, (task / "children").read_text().split())
    return pids


def measure_usage(pid: int) -> Usage:
    """Of the tree that begins with a process."""
    seconds = resident = 0.0
    descriptors = threads = processes = 0
    for each in tree_pids(pid):
        with suppress(OSError):
            # the name, in brackets, may hold spaces
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / TICKS
            threads += int(fields[17])
            resident += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE / 2**20
            descriptors += len(os.listdir(f"/proc/{each}/fd"))  # noqa: PTH208 - thousands of them, only counted
            processes += 1
    return Usage(seconds, resident, descriptors, threads, processes)


def pinned(command: list[str], core: int | None) -> list[str]:
    """A command that starts the given one on one core; None for all cores."""
    return command if core is None else ["taskset", "--cpu-list", str(core), *command]


def send_to_tree(pid: int, number: signal.Signals) -> None:
    for each in tree_pids(pid):
        with suppress(ProcessLookupError):
            os.kill(each, number)


@contextmanager
def running_alone(pid: int, others: list[int]) -> Iterator[None]:
    """Stop the other trees meanwhile: some servers look for work many times per second."""
    for other in others:
        if other != pid:
            send_to_tree(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            send_to_tree(other, signal.SIGCONT)
