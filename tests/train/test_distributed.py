"""Ranks: what they tell each other, and how the others end when one does."""

import os
import signal
from datetime import timedelta
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import Ended, in_processes, in_threads

from gnomon.errors import InputError, NumericError
from gnomon.train import distributed as module
from gnomon.train.distributed import Ranks, init_distributed

KINDS = (torch.float32, torch.float64, torch.int64)


def test_one_rank_talks_to_no_one() -> None:
    ranks = Ranks()
    rows = torch.ones(2, 3, requires_grad=True)
    found = ranks.all_gather(rows)
    assert torch.equal(found, rows)
    assert not found.requires_grad
    ranks.all_reduce([found])
    assert torch.equal(found, torch.ones(2, 3))
    assert ranks.sum_numbers(1.5, 2) == [1.5, 2]
    assert ranks.is_first
    with init_distributed("cpu") as one:
        assert one == ranks
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("device", ["cuda:99", "cuda:0,cuda:1", "nonsense"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=device), init_distributed(device):
        pass


def test_an_error_of_the_only_rank_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^Connection to nothing$"), init_distributed("cpu"):
        raise RuntimeError("Connection to nothing")


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(KINDS)), max_size=12), most=st.integers(1, 20))
def test_buckets_hold_all_in_order_each_of_one_dtype(sizes: list[tuple[int, torch.dtype]], most: int) -> None:
    tensors = [torch.full((size,), place, dtype=kind) for place, (size, kind) in enumerate(sizes)]
    before, module.BUCKET = module.BUCKET, most
    try:
        buckets = [*module._buckets(tensors)]
    finally:
        module.BUCKET = before
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.numel() for tensor in bucket) <= most


def numbers(rank: int) -> list[torch.Tensor]:
    """What a rank has: all dtypes, more than a bucket, nothing, a number alone, rows that are not contiguous."""
    some = [torch.arange(5.0) * (rank + 1), torch.tensor(rank + 2.0), torch.zeros(0, 3), torch.full((2, 2), rank)]
    return [*some, torch.arange(7, dtype=torch.float64) + rank, torch.arange(6.0).view(2, 3).T + rank]


def all_ways() -> dict[str, Any]:
    module.BUCKET = 6
    with init_distributed("cpu") as ranks:
        mine = numbers(ranks.rank)
        gathered = [ranks.all_gather(each.requires_grad_(each.is_floating_point())) for each in mine if each.ndim]
        summed = [each.detach().clone() for each in mine]
        ranks.all_reduce(summed)
        ranks.barrier()
        return {
            "ranks": (ranks.rank, ranks.world_size, ranks.is_first),
            "gathered": [each.tolist() for each in gathered],
            "learnt": any(each.requires_grad for each in gathered),
            "summed": [each.tolist() for each in summed],
            "total": ranks.sum_numbers(ranks.rank + 0.5, 1e15 + ranks.rank),
        }


@pytest.mark.slow
def test_two_ranks_have_the_rows_of_both_and_the_sums() -> None:
    zero, one = (ended.value for ended in in_processes(all_ways, world=2))
    assert (zero.pop("ranks"), one.pop("ranks")) == ((0, 2, True), (1, 2, False))
    assert zero == one
    a, b = numbers(0), numbers(1)
    assert zero["gathered"] == [torch.cat(pair).tolist() for pair in zip(a, b, strict=True) if pair[0].ndim]
    assert not zero["learnt"]
    assert zero["summed"] == [(x + y).tolist() for x, y in zip(a, b, strict=True)]
    assert zero["total"] == [2.0, 2e15 + 1]


@pytest.mark.slow
def test_threads_stand_in_for_processes() -> None:
    """What other tests lean on."""

    def ways(ranks: Ranks) -> Any:
        summed = numbers(ranks.rank)
        ranks.all_reduce(summed)
        gathered = [ranks.all_gather(each).tolist() for each in numbers(ranks.rank) if each.ndim]
        return gathered, [each.tolist() for each in summed], ranks.sum_numbers(ranks.rank + 0.5, 1e15 + ranks.rank)

    (real, _) = (ended.value for ended in in_processes(all_ways, world=2))
    for found in in_threads(ways):
        assert found == (real["gathered"], real["summed"], real["total"])


# ---- a rank that ends


def fail(which: int, how: str) -> None:
    """One rank ends in some way while the other waits for it."""
    with init_distributed("cpu") as ranks:
        ranks.barrier()
        if ranks.rank == which:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {
                "ours": NumericError("step 7: the loss is nan."),
                "own": ValueError("no such thing."),
                "torch's": RuntimeError("not enough memory: you tried to allocate 9 bytes."),
                "Ctrl-C": KeyboardInterrupt(),
            }[how]
        ranks.barrier()


WHY = {
    "ours": "NumericError: step 7: the loss is nan",
    "own": "ValueError: no such thing",
    "torch's": "RuntimeError: not enough memory: you tried to allocate 9 bytes",
    "Ctrl-C": "KeyboardInterrupt",
}


def message(which: int, how: str) -> str:
    return f"WorkerError: rank {which} stopped: {WHY[how]}. All ranks have ended. Fix the cause, then use resume=True."


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", WHY)
def test_the_others_end_with_the_reason_of_a_rank_that_fails(how: str, which: int) -> None:
    """Also where the one that fails holds the store that the reason lies in."""
    ended = in_processes(fail, which, how, world=2)
    assert ended[which].error.rstrip(".: ") == WHY[how]
    assert ended[1 - which].error == message(which, how)


@pytest.mark.slow
def test_all_others_end_with_the_reason() -> None:
    """Rank 0, which only heard of it, stays until rank 2 has heard too."""
    zero, one, two = in_processes(fail, 1, "ours", world=3)
    assert one.error.startswith("NumericError")
    assert zero.error == two.error == message(1, "ours")


@pytest.mark.parametrize(("rank", "reason"), [(0, True), (1, True), (0, False)])
def test_rank_0_stays_until_all_have_read_the_reason(rank: int, reason: bool) -> None:
    """It holds the store. Where there is no reason, there is nothing to stay for."""
    calls: list[Any] = []

    class Store:
        def check(self, keys: list[str]) -> bool:
            return reason

        def set(self, key: str, value: str) -> None:
            calls.append(key)

        def wait(self, keys: list[str], longest: timedelta) -> None:
            calls.append((keys, longest))

    module._leave(Store(), rank, 3)
    stays = [([f"{module.FAILURE_KEY}/{other}" for other in range(3)], module.LINGER_TIMEOUT)] if rank == 0 else []
    assert calls == ([f"{module.FAILURE_KEY}/{rank}", *stays] if reason else [])


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_the_others_end_where_a_rank_is_killed(which: int) -> None:
    ended = in_processes(fail, which, "killed", world=2)
    assert ended[which] == Ended(signal=signal.SIGKILL)
    other = ended[1 - which].error
    assert other.startswith(f"WorkerError: rank {1 - which} lost the connection to another rank"), other
    assert other.endswith("Use resume=True to go on from the last checkpoint.")
