"""The ranks of a run, which are its processes, and the messages between them.

torchrun starts them and sets RANK, WORLD_SIZE and LOCAL_RANK. Without these there is one rank.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from gnomon.engines.torch.devices import check_device
from gnomon.errors import InputError, WorkerError

TIMEOUT = timedelta(minutes=60)
"""How long a rank waits for the others: at the first start, rank 0 may index data."""

LINGER_TIMEOUT = timedelta(seconds=60)
"""How long rank 0 waits for the others to read why the run ends."""

FAILURE_KEY = "gnomon/why"
"""Key in the store under which the first rank that fails writes the reason."""

BUCKET = 1 << 24
"""Numbers that are sent in one piece."""


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in the order of the ranks, without a gradient. Every rank has equally many."""
        if self.world_size == 1:
            return rows.detach()
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.detach().contiguous())
        return torch.cat(parts)

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in place. They are sent in buckets."""
        if self.world_size == 1:
            return
        for bucket in _buckets([*tensors]):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def sum_numbers(self, *numbers: float) -> list[float]:
        """The sums of numbers over the ranks."""
        if self.world_size == 1:
            return [*numbers]
        summed = torch.tensor(numbers, dtype=torch.float64 if self.device.type != "mps" else None, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum_numbers(0.0)


@contextmanager
def init_distributed(device: str = "auto") -> Generator[Ranks]:
    """The ranks of this run, with this rank's device. When a rank fails, the others end with its reason.

    Raises:
        InputError: a device that does not exist. WorkerError: another rank failed; the message says which, and why.
    """
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    where = _select_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Ranks(device=where)
        return
    try:
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    except ValueError as error:
        raise InputError(
            f"WORLD_SIZE is {world}, and {error}. torchrun sets what ranks need: torchrun --nproc-per-node {world} ..."
        ) from error
    dist.init_process_group(
        "nccl" if where.type == "cuda" else "gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT
    )
    try:
        yield Ranks(rank, world, where)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        reported = _report_failure(error, rank, store)
        _leave(store, rank, world)
        if reported is error:
            raise
        raise reported from error
    finally:
        _close()


def _report_failure(error: BaseException, rank: int, store: Store) -> BaseException:
    """Send an error to the other ranks and return it; or return theirs, if they closed a connection because of it."""
    lost = _is_connection_error(error)
    with suppress(RuntimeError):  # the rank that held the store is gone
        if not lost:
            store.set(FAILURE_KEY, f"rank {rank} stopped: {type(error).__name__}: {error}".rstrip(".: "))
        elif store.check([FAILURE_KEY]):
            reason = store.get(FAILURE_KEY).decode()
            return WorkerError(f"{reason}. All ranks have ended. Fix the cause, then use resume=True.")
    if not lost:
        return error
    return WorkerError(
        f"rank {rank} lost the connection to another rank, which ended without a word (killed, or out of memory?): "
        f"{error}. Use resume=True to go on from the last checkpoint."
    )


def _is_connection_error(error: BaseException) -> bool:
    """Whether an error is one of a lost connection. Those of gloo can be recognised by their text only."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "/gloo/" in str(error))


def _leave(store: Store, rank: int, world: int) -> None:
    """Close the connections, so that the others see the failure. The store with the reason is in rank 0, which waits
    until they have read it.
    """
    _close()
    with suppress(RuntimeError):
        if store.check([FAILURE_KEY]):
            store.set(f"{FAILURE_KEY}/{rank}", "read")
            if rank == 0:
                store.wait([f"{FAILURE_KEY}/{other}" for other in range(world)], LINGER_TIMEOUT)


def _close() -> None:
    with suppress(RuntimeError):  # peers are gone
        if dist.is_initialized():
            dist.destroy_process_group()


def _select_device(device: str, local: int) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise InputError(
            f"device {device!r} is not auto, cpu, cuda, cuda:N or mps. Several GPUs are ranks of torchrun."
        )
    check_device(device)
    selected = torch.device(device)
    if selected.type == "cuda":
        selected = torch.device("cuda", local if device == "cuda" else selected.index)
        torch.cuda.set_device(selected)
    return selected


def _buckets(tensors: list[Tensor]) -> Generator[list[Tensor]]:
    """Tensors of one dtype together, up to BUCKET numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = bucket and (sum(each.numel() for each in bucket) + tensor.numel() > BUCKET)
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
